//! TLS 1.3 for TCP and for QUIC: certificates, suites, and what a reload replaces. The handshake is
//! rustls', keys and ciphers are aws-lc's and the `hkdf` crate's; no cryptography of our own.

mod compact;
mod cpu;
mod padding;
mod schedule;
mod session;
#[cfg(test)]
mod tests;

pub(crate) use cpu::Cpu;
pub(crate) use session::{Fed, TlsSession};

use crate::config::{CertificateConfig, TlsConfig};
use arc_swap::ArcSwapOption;
use rustls::{
    ServerConfig, SignatureScheme, SupportedCipherSuite,
    crypto::{CryptoProvider, aws_lc_rs as provider},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, NoServerSessionStorage, ProducesTickets, ResolvesServerCert},
    sign::CertifiedKey,
};
use std::{path::Path, sync::Arc};

/// The protocol name that a client must offer (wire.md 1.4).
pub const ALPN: &[u8] = b"yao/1";
/// Resumption tickets sent after each full handshake. One connection, one return.
const TICKETS: usize = 1;

/// What a key must sign with: all that clients need to understand (wire.md 1.4).
const SCHEMES: &[SignatureScheme] =
    &[SignatureScheme::ED25519, SignatureScheme::ECDSA_NISTP256_SHA256];

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file cannot be read or is no PEM.
    #[error("cannot read {path}: {message}; {hint}")]
    File {
        /// Which.
        path: String,
        /// What the reader said.
        message: String,
        /// What should be there.
        hint: &'static str,
    },
    /// Key and chain do not belong together, or the key is of a kind that we do not serve.
    #[error(
        "{path}: {message}; `tls.certificates` takes a chain and its own key, Ed25519 or P-256"
    )]
    Pair {
        /// The chain's file.
        path: String,
        /// What is wrong.
        message: String,
    },
    /// rustls refuses the whole.
    #[error("TLS cannot be set up: {0}")]
    Setup(rustls::Error),
}

/// The TLS settings in force. A reload replaces them; connections made before keep theirs.
#[derive(Clone, Debug, Default)]
pub struct TlsSettings {
    current: Arc<ArcSwapOption<Prepared>>,
}

/// Certificates that were read and found good, as TCP and as QUIC want them.
#[derive(Debug)]
pub struct Prepared {
    stream: Arc<ServerConfig>,
    quic: Arc<quinn_proto::ServerConfig>,
}

impl TlsSettings {
    /// Reads and checks what `config` names, without putting it in force.
    ///
    /// # Errors
    /// See [`CertificateError`].
    pub fn prepare(&self, config: &TlsConfig) -> Result<Arc<Prepared>, CertificateError> {
        let cpu = Cpu::here();
        self.prepare_with(config, crypto_provider(cpu), quic_provider(cpu))
    }

    /// [`TlsSettings::prepare`] with these suites and groups.
    pub(crate) fn prepare_with(
        &self,
        config: &TlsConfig,
        stream: CryptoProvider,
        quic: CryptoProvider,
    ) -> Result<Arc<Prepared>, CertificateError> {
        let mut stream = server_config(config, stream)?;
        stream.ticketer = self.ticketer()?;
        stream.send_tls13_tickets = TICKETS;
        // Tickets would spare the signature only, and cost memory in each connection.
        let mut quic = server_config(config, quic)?;
        quic.send_tls13_tickets = 0;
        let quic = crate::quic::server_config(quic)
            .map_err(|error| CertificateError::Setup(rustls::Error::General(error.to_string())))?;
        Ok(Arc::new(Prepared { stream: Arc::new(stream), quic: Arc::new(quic) }))
    }

    /// New connections get `settings` from now on.
    pub fn put_in_force(&self, prepared: Arc<Prepared>) {
        self.current.store(Some(prepared));
    }

    /// A reload keeps the keys of resumption tickets: clients that return are not to pay for it. A
    /// restart does not (docs/decisions/0012): they are written nowhere.
    fn ticketer(&self) -> Result<Arc<dyn ProducesTickets>, CertificateError> {
        match self.current.load().as_ref() {
            Some(current) => Ok(Arc::clone(&current.stream.ticketer)),
            None => provider::Ticketer::new().map_err(CertificateError::Setup),
        }
    }

    /// The settings in force for TLS over TCP; `None` when the node has no certificates.
    pub(crate) fn stream(&self) -> Option<Arc<ServerConfig>> {
        self.current.load().as_ref().map(|current| Arc::clone(&current.stream))
    }

    /// The settings in force for QUIC; `None` when the node has no certificates.
    pub(crate) fn quic(&self) -> Option<Arc<quinn_proto::ServerConfig>> {
        self.current.load().as_ref().map(|current| Arc::clone(&current.quic))
    }
}

fn server_config(
    config: &TlsConfig,
    provider: CryptoProvider,
) -> Result<ServerConfig, CertificateError> {
    let provider = Arc::new(provider);
    let keys: Result<Vec<_>, _> =
        config.certificates.iter().map(|pair| certified_key(pair, &provider)).collect();
    let mut settings = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(CertificateError::Setup)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Resolver { keys: keys? }));
    settings.alpn_protocols = vec![ALPN.to_vec()];
    settings.session_storage = Arc::new(NoServerSessionStorage {});
    // A replayed HELLO would throw the true client out: nothing is taken before the handshake ends.
    settings.max_early_data_size = 0;
    settings.ignore_client_order = true;
    Ok(settings)
}

/// Suites and groups in our order. Measured (docs/decisions/0011): AES-128 with SHA-256 spares
/// 35 us a handshake against AES-256 with SHA-384; without AES in the CPU ChaCha20 is faster.
pub(crate) fn crypto_provider(cpu: Cpu) -> CryptoProvider {
    let aes = schedule::quickest(provider::cipher_suite::TLS13_AES_128_GCM_SHA256, cpu);
    let chacha = schedule::quickest(provider::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256, cpu);
    let last = provider::cipher_suite::TLS13_AES_256_GCM_SHA384;
    let cipher_suites = if cpu.has_aes { vec![aes, chacha, last] } else { vec![chacha, aes, last] };
    let kx_groups = vec![provider::kx_group::X25519, provider::kx_group::SECP256R1];
    CryptoProvider { cipher_suites, kx_groups, ..provider::default_provider() }
}

/// The same with packet keys that take little memory.
pub(crate) fn quic_provider(cpu: Cpu) -> CryptoProvider {
    let mut provider = crypto_provider(cpu);
    for suite in &mut provider.cipher_suites {
        let tls13 = suite.tls13().expect("we offer suites of TLS 1.3 only");
        *suite = SupportedCipherSuite::Tls13(compact::compacted(tls13, cpu));
    }
    provider
}

fn certified_key(
    pair: &CertificateConfig,
    provider: &CryptoProvider,
) -> Result<Arc<CertifiedKey>, CertificateError> {
    let chain: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(&pair.chain).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let chain = chain.map_err(|error| {
        unreadable(&pair.chain, &error.to_string(), "it must hold the chain as PEM, own first")
    })?;
    if chain.is_empty() {
        let hint = "it must hold the chain as PEM, own first";
        return Err(unreadable(&pair.chain, "it holds no certificate", hint));
    }
    let key = PrivateKeyDer::from_pem_file(&pair.key).map_err(|error| {
        unreadable(&pair.key, &error.to_string(), "it must hold the private key as PEM (PKCS#8)")
    })?;
    let refuse = |message: String| CertificateError::Pair {
        path: pair.chain.display().to_string(),
        message,
    };
    let certified = CertifiedKey::from_der(chain, key, provider);
    let certified = certified.map_err(|error| refuse(error.to_string()))?;
    // The provider would sign with others, too, which clients need not understand.
    if certified.key.choose_scheme(SCHEMES).is_none() {
        return Err(refuse("its key is of another kind".to_owned()));
    }
    Ok(Arc::new(certified))
}

fn unreadable(path: &Path, message: &str, hint: &'static str) -> CertificateError {
    let path = path.display().to_string();
    CertificateError::File { path, message: message.to_owned(), hint }
}

/// Picks the first certificate whose signature the client understands: Ed25519 is the cheapest to
/// make and stands first, P-256 is for those who know no better.
#[derive(Debug)]
struct Resolver {
    keys: Vec<Arc<CertifiedKey>>,
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, client: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let understood =
            |key: &&Arc<CertifiedKey>| key.key.choose_scheme(client.signature_schemes()).is_some();
        self.keys.iter().find(understood).cloned()
    }
}
