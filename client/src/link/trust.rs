//! Whom the client trusts, and what it offers in a handshake: one configuration for TLS and one for
//! QUIC. Owns the sessions that can be resumed; keeps no socket.
//!
//! TLS 1.3 only, ALPN `yao/1`, no early data: what a client sends before the handshake is complete
//! can be played back by others, and HELLO changes the server's state.

use crate::{error::Error, limits};
use quinn_proto::{
    ClientConfig as QuicConfig, IdleTimeout, TransportConfig, VarInt,
    crypto::rustls::QuicClientConfig,
};
use rustls::{
    ClientConfig, RootCertStore,
    client::Resumption,
    crypto::{CryptoProvider, aws_lc_rs},
};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};
use std::{fmt, sync::Arc, time::Duration};
use yao_protocol::endpoint::{ALPN, Endpoint};

/// Trust in certificate authorities. Clones share it and the sessions that can be resumed, so many
/// clients in one process need one of these.
#[derive(Clone)]
pub struct Trust {
    tls: Arc<ClientConfig>,
    quic: QuicConfig,
    server_name: Option<ServerName<'static>>,
}

impl Trust {
    /// Trust in the authorities whose certificates `pem` holds, one or more.
    ///
    /// # Errors
    /// Text that holds no certificate, or one that cannot be an authority.
    pub fn from_pem(pem: &[u8]) -> Result<Self, Error> {
        let roots: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
        Self::new(roots.map_err(|_| Error::Config("the roots are not PEM certificates"))?)
    }

    /// Trust in the authorities whose certificates these are, each in DER.
    ///
    /// # Errors
    /// No certificate, or one that cannot be an authority.
    pub fn from_der(roots: impl IntoIterator<Item = Vec<u8>>) -> Result<Self, Error> {
        Self::new(roots.into_iter().map(CertificateDer::from).collect())
    }

    /// Expects certificates for `name` whatever the host of the endpoint is, for endpoints that
    /// are addresses.
    ///
    /// # Errors
    /// A text that is neither a name nor an address.
    pub fn with_server_name(mut self, name: &str) -> Result<Self, Error> {
        let name = ServerName::try_from(name.to_owned());
        self.server_name = Some(name.map_err(|_| Error::Config("the server name is no name"))?);
        Ok(self)
    }

    fn new(certificates: Vec<CertificateDer<'static>>) -> Result<Self, Error> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates {
            let added = roots.add(certificate);
            added.map_err(|_| Error::Config("a root is no certificate of an authority"))?;
        }
        if roots.is_empty() {
            return Err(Error::Config("the roots hold no certificate"));
        }
        let mut tls = ClientConfig::builder_with_provider(Arc::new(provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("the provider has suites of TLS 1.3")
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![ALPN.to_vec()];
        tls.enable_early_data = false;
        // A ticket of one transport means nothing to the other.
        tls.resumption = resumption();
        let mut over_quic = tls.clone();
        over_quic.resumption = resumption();
        let over_quic = QuicClientConfig::try_from(over_quic)
            .expect("the provider has the suite of QUIC's first packets");
        let mut quic = QuicConfig::new(Arc::new(over_quic));
        quic.transport_config(Arc::new(transport()));
        Ok(Self { tls: Arc::new(tls), quic, server_name: None })
    }

    /// The name that the certificate of `endpoint` must have; `None` when the host can have none.
    pub(super) fn server_name(&self, endpoint: &Endpoint) -> Option<ServerName<'static>> {
        let own = || ServerName::try_from(endpoint.host.clone()).ok();
        self.server_name.clone().or_else(own)
    }

    pub(super) fn tls(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.tls)
    }

    pub(super) fn quic(&self) -> QuicConfig {
        self.quic.clone()
    }
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trust").field("server_name", &self.server_name).finish_non_exhaustive()
    }
}

fn resumption() -> Resumption {
    Resumption::in_memory_sessions(limits::RESUMED_SERVERS_MAX)
}

/// AES-128 first and X25519 first: servers follow the client's order, and other choices cost them
/// half as much again.
fn provider() -> CryptoProvider {
    use aws_lc_rs::{cipher_suite, kx_group};
    CryptoProvider {
        cipher_suites: vec![
            cipher_suite::TLS13_AES_128_GCM_SHA256,
            cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
            cipher_suite::TLS13_AES_256_GCM_SHA384,
        ],
        kx_groups: vec![kx_group::X25519, kx_group::SECP256R1],
        ..aws_lc_rs::default_provider()
    }
}

/// One stream with small windows; nothing that the server could fill or that sends by itself.
fn transport() -> TransportConfig {
    let window = VarInt::from_u32(limits::QUIC_WINDOW_BYTES);
    let idle_ms = VarInt::from_u32(limits::QUIC_IDLE_MS_MAX);
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(window)
        .receive_window(window)
        .send_window(limits::OUTGOING_BYTES_MAX as u64)
        .datagram_receive_buffer_size(None)
        .max_idle_timeout(Some(IdleTimeout::from(idle_ms)))
        // Heartbeats are the session's, within the bounds that the server states.
        .keep_alive_interval(None)
        .initial_rtt(Duration::from_millis(limits::QUIC_RTT_MS_FIRST))
        .crypto_buffer_size(limits::INCOMING_BYTES_MAX)
        .enable_segmentation_offload(false)
        // The socket cannot forbid fragmentation, so a larger size would prove nothing.
        .mtu_discovery_config(None);
    transport
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_authorities_are_trusted() {
        let certified = rcgen::generate_simple_self_signed(vec!["node".to_owned()]);
        let certificate = certified.expect("a certificate").cert;
        let pem = certificate.pem();
        let check = |result: Result<Trust, Error>, good: bool| {
            assert_eq!(result.is_ok(), good, "{result:?}");
        };
        check(Trust::from_pem(pem.as_bytes()), true);
        check(Trust::from_pem(format!("{pem}{pem}").as_bytes()), true);
        check(Trust::from_pem(b""), false);
        check(Trust::from_pem(b"-----BEGIN CERTIFICATE-----\n?\n-----END CERTIFICATE-----"), false);
        check(Trust::from_der([certificate.der().to_vec()]), true);
        check(Trust::from_der([vec![1, 2, 3]]), false);
        check(Trust::from_der([]), false);
        let trust = Trust::from_pem(pem.as_bytes()).expect("checked above");
        check(trust.clone().with_server_name("node"), true);
        check(trust.clone().with_server_name("::1"), true);
        check(trust.with_server_name("no name"), false);
    }
}
