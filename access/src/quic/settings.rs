//! Every bound of a QUIC connection. quinn's defaults allow some 250 MB of buffers a connection; a
//! session needs one stream, one frame in each direction, and patience.

use super::crypto::{LeanConfig, VERSION};
use crate::config::HEARTBEAT_MS_MAX;
use aws_lc_rs::hkdf;
use quinn_proto::{
    EndpointConfig, IdleTimeout, ServerConfig, TransportConfig, VarInt, congestion::NewRenoConfig,
    crypto::rustls::NoInitialCipherSuite,
};
use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};
use yao_protocol::limits::{CLIENT_PAYLOAD_BYTES_MAX, FRAME_HEADER_BYTES};

/// What a client may send ahead, bytes: the longest frame and then some.
const RECEIVE_BYTES: u32 = 24 * 1024;
/// What we send ahead of the client's acknowledgement, bytes.
const SEND_BYTES: u64 = 24 * 1024;
/// What a handshake may have out of order, bytes. A client's whole flight is smaller.
const CRYPTO_BYTES: usize = 4 * 1024;
/// Handshakes that wait to be accepted. They never wait here: each is decided when it comes.
const INCOMING_MAX: usize = 64;
/// Bytes kept for one of those, and for all.
const INCOMING_BYTES: u64 = 4 * 1024;
/// A connection without a packet for so long is gone, and sooner where the client's own figure is
/// lower. The engine's heartbeat ends a silent session before either: the configuration takes none
/// above [`HEARTBEAT_MS_MAX`].
const IDLE_MS: u32 = 3_700_000;
/// An address must prove itself again within this time.
const RETRY_LIFETIME: Duration = Duration::from_secs(10);

const _: () = assert!(HEARTBEAT_MS_MAX < IDLE_MS);
const _: () = assert!(RECEIVE_BYTES as usize >= CLIENT_PAYLOAD_BYTES_MAX + FRAME_HEADER_BYTES);

/// What connections are made with.
pub(crate) fn server_config(
    tls: rustls::ServerConfig,
) -> Result<ServerConfig, NoInitialCipherSuite> {
    let crypto = LeanConfig::new(tls)?;
    let mut transport = TransportConfig::default();
    let idle = IdleTimeout::from(VarInt::from_u32(IDLE_MS));
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(RECEIVE_BYTES))
        .receive_window(VarInt::from_u32(RECEIVE_BYTES))
        .send_window(SEND_BYTES)
        .send_fairness(false)
        .crypto_buffer_size(CRYPTO_BYTES)
        .datagram_receive_buffer_size(None)
        .datagram_send_buffer_size(0)
        .mtu_discovery_config(None)
        .max_idle_timeout(Some(idle))
        .keep_alive_interval(None)
        .allow_spin(false)
        .congestion_controller_factory(Arc::new(NewRenoConfig::default()));
    let token_key = hkdf::Salt::new(hkdf::HKDF_SHA256, &[]).extract(retry_secret());
    let mut config = ServerConfig::new(Arc::new(crypto), Arc::new(token_key));
    config
        .transport_config(Arc::new(transport))
        .migration(true)
        .retry_token_lifetime(RETRY_LIFETIME)
        .max_incoming(INCOMING_MAX)
        .incoming_buffer_size(INCOMING_BYTES)
        .incoming_buffer_size_total(INCOMING_BYTES * INCOMING_MAX as u64);
    Ok(config)
}

/// Proves addresses (Retry). One for the life of the process: a reload in between must not turn
/// away who was asked to prove himself before it.
fn retry_secret() -> &'static [u8; 64] {
    static SECRET: OnceLock<[u8; 64]> = OnceLock::new();
    SECRET.get_or_init(|| {
        let mut secret = [0; 64];
        getrandom::fill(&mut secret).expect("the system gives randomness, as it did at the start");
        secret
    })
}

/// What the endpoint itself is made with.
pub(super) fn endpoint_config(reset_key: &[u8; 64], place: (u8, u8)) -> EndpointConfig {
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, reset_key);
    let mut config = EndpointConfig::new(Arc::new(key));
    config
        .supported_versions(vec![VERSION])
        .cid_generator(move || Box::new(super::identifiers::Identifiers::new(place)))
        // After a restart every old client asks once, all in the same second. A reset is smaller
        // than what it answers, so nothing is amplified and no two hosts can keep it going.
        .min_reset_interval(Duration::ZERO);
    config
}
