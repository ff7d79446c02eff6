//! TLS for QUIC connections that outlives its handshake as two secrets. quinn's own session keeps
//! the whole of rustls' connection, some 4 KiB, for what never comes any more: a server that sends
//! no tickets has nothing to say or to hear after the client's Finished, but key updates, and those
//! need the traffic secrets only. No cryptography here: it hands rustls' to quinn.

use super::parameters;
use quinn_proto::{
    ConnectionId, Side, TransportError, TransportErrorCode,
    crypto::{
        self, ExportKeyingMaterialError, HeaderKey, KeyPair, Keys, PacketKey, UnsupportedVersion,
        rustls::{NoInitialCipherSuite, QuicServerConfig},
    },
    transport_parameters::TransportParameters,
};
use rustls::quic::{KeyChange, Secrets, ServerConnection, Version};
use std::{any::Any, io::Cursor, sync::Arc};

/// The one QUIC version that the endpoint speaks: RFC 9000.
pub(super) const VERSION: u32 = 1;
/// TLS alert "unexpected message".
const UNEXPECTED_MESSAGE: u8 = 10;

/// Makes [`Lean`] sessions.
pub(super) struct LeanConfig {
    tls: Arc<rustls::ServerConfig>,
    /// Knows initial keys and retry tags.
    library: Arc<QuicServerConfig>,
}

impl LeanConfig {
    pub(super) fn new(tls: rustls::ServerConfig) -> Result<Self, NoInitialCipherSuite> {
        assert!(tls.send_tls13_tickets == 0, "a session that is gone cannot send tickets");
        let tls = Arc::new(tls);
        let library = Arc::new(QuicServerConfig::try_from(Arc::clone(&tls))?);
        Ok(Self { tls, library })
    }
}

impl crypto::ServerConfig for LeanConfig {
    fn initial_keys(&self, version: u32, id: &ConnectionId) -> Result<Keys, UnsupportedVersion> {
        self.library.initial_keys(version, id)
    }

    fn retry_tag(&self, version: u32, original_id: &ConnectionId, packet: &[u8]) -> [u8; 16] {
        self.library.retry_tag(version, original_id, packet)
    }

    fn start_session(
        self: Arc<Self>,
        version: u32,
        parameters: &TransportParameters,
    ) -> Box<dyn crypto::Session> {
        assert!(version == VERSION, "the endpoint refuses every other version");
        let mut bytes = Vec::new();
        parameters.write(&mut bytes);
        let tls = ServerConnection::new(Arc::clone(&self.tls), Version::V1, bytes);
        let tls = tls.expect("TLS 1.3 is configured, and the parameters are ours");
        Box::new(Lean {
            config: self,
            tls: Some(Box::new(tls)),
            next: None,
            handshake_data_known: false,
        })
    }
}

/// One connection's TLS.
struct Lean {
    config: Arc<LeanConfig>,
    /// Until the handshake is done.
    tls: Option<Box<ServerConnection>>,
    /// For key updates.
    next: Option<Secrets>,
    handshake_data_known: bool,
}

impl crypto::Session for Lean {
    fn initial_keys(&self, id: &ConnectionId, _: Side) -> Keys {
        crypto::ServerConfig::initial_keys(&*self.config, VERSION, id)
            .expect("the version was accepted before")
    }

    fn handshake_data(&self) -> Option<Box<dyn Any>> {
        None
    }

    fn peer_identity(&self) -> Option<Box<dyn Any>> {
        None
    }

    fn early_crypto(&self) -> Option<(Box<dyn HeaderKey>, Box<dyn PacketKey>)> {
        // A replayed HELLO would throw the true client out: nothing is read before the handshake.
        None
    }

    fn early_data_accepted(&self) -> Option<bool> {
        None
    }

    fn is_handshaking(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.is_handshaking())
    }

    fn read_handshake(&mut self, bytes: &[u8]) -> Result<bool, TransportError> {
        let Some(tls) = self.tls.as_mut() else {
            let code = TransportErrorCode::crypto(UNEXPECTED_MESSAGE);
            return Err(broken(code, "nothing may follow the handshake".to_owned()));
        };
        tls.read_hs(bytes).map_err(|error| {
            let alert = tls.alert().map(|alert| TransportErrorCode::crypto(alert.into()));
            let code = alert.unwrap_or(TransportErrorCode::PROTOCOL_VIOLATION);
            broken(code, error.to_string())
        })?;
        let known = tls.alpn_protocol().is_some() || !tls.is_handshaking();
        Ok(known && !std::mem::replace(&mut self.handshake_data_known, known))
    }

    fn transport_parameters(&self) -> Result<Option<TransportParameters>, TransportError> {
        let bytes = self.tls.as_ref().and_then(|tls| tls.quic_transport_parameters());
        let Some(bytes) = bytes else { return Ok(None) };
        let bytes = parameters::with_few_ids(bytes);
        let parameters = TransportParameters::read(Side::Server, &mut Cursor::new(bytes));
        parameters.map(Some).map_err(Into::into)
    }

    fn write_handshake(&mut self, out: &mut Vec<u8>) -> Option<Keys> {
        let tls = self.tls.as_mut()?;
        let keys = match tls.write_hs(out) {
            Some(KeyChange::Handshake { keys }) => keys,
            Some(KeyChange::OneRtt { keys, next }) => {
                self.next = Some(next);
                keys
            }
            None => {
                // Everything was said, and the client's Finished was heard.
                if !tls.is_handshaking() && self.next.is_some() {
                    self.tls = None;
                }
                return None;
            }
        };
        Some(Keys {
            header: KeyPair {
                local: Box::new(keys.local.header),
                remote: Box::new(keys.remote.header),
            },
            packet: KeyPair {
                local: Box::new(keys.local.packet),
                remote: Box::new(keys.remote.packet),
            },
        })
    }

    fn next_1rtt_keys(&mut self) -> Option<KeyPair<Box<dyn PacketKey>>> {
        let keys = self.next.as_mut()?.next_packet_keys();
        Some(KeyPair { local: Box::new(keys.local), remote: Box::new(keys.remote) })
    }

    fn is_valid_retry(&self, _: &ConnectionId, _: &[u8], _: &[u8]) -> bool {
        // Only a client receives one.
        false
    }

    fn export_keying_material(
        &self,
        _: &mut [u8],
        _: &[u8],
        _: &[u8],
    ) -> Result<(), ExportKeyingMaterialError> {
        // Nobody here binds anything to the channel.
        Err(ExportKeyingMaterialError)
    }
}

fn broken(code: TransportErrorCode, reason: String) -> TransportError {
    TransportError { code, frame: None, reason }
}
