//! The client's side of TLS 1.3: whom it believes, and what it offers. Nodes are believed by the CA
//! that `--ca` names; the echo servers of the baselines make a certificate for themselves at each
//! start, and theirs is not checked: what a server costs is measured there. Attackers believe
//! anybody.

use anyhow::{Context, Result};
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
    version::TLS13,
};
use std::{path::Path, sync::Arc};
use yao_protocol::endpoint::ALPN;

/// The protocol name of the baselines' QUIC echo; their TLS echo asks for none.
const ECHO_ALPN: &[u8] = b"shake";

/// Settings for a node whose certificate is signed by the CA in the PEM file `ca`.
///
/// # Errors
/// The file cannot be read or holds no certificate.
pub(super) fn believing(ca: &Path) -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    let certificates = CertificateDer::pem_file_iter(ca)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .with_context(|| format!("--ca {}: cannot read certificates as PEM", ca.display()))?;
    for certificate in certificates {
        roots.add(certificate).with_context(|| format!("--ca {}: no CA", ca.display()))?;
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(&[&TLS13])
        .context("TLS 1.3 is not built in")?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(config)
}

/// Settings for an echo server of the baselines.
///
/// # Errors
/// TLS 1.3 is not built in.
pub(super) fn echo(quic: bool) -> Result<ClientConfig> {
    let mut config = anybody()?;
    if quic {
        config.alpn_protocols = vec![ECHO_ALPN.to_vec()];
    }
    Ok(config)
}

/// Settings for whoever answers.
///
/// # Errors
/// TLS 1.3 is not built in.
pub(crate) fn anybody() -> Result<ClientConfig> {
    let provider = Arc::new(provider());
    let believer = Arc::new(Believer { provider: Arc::clone(&provider) });
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .context("TLS 1.3 is not built in")?;
    let believing = builder.dangerous().with_custom_certificate_verifier(believer);
    Ok(believing.with_no_client_auth())
}

/// The same settings for a client that never returns: each handshake is a full one.
pub(super) fn forgetful(mut config: ClientConfig) -> ClientConfig {
    config.resumption = Resumption::disabled();
    config
}

/// The library's suites in its order; the groups are those of the baselines' own generator,
/// whatever other crates of this build switch on.
fn provider() -> CryptoProvider {
    let kx_groups = vec![aws_lc_rs::kx_group::X25519, aws_lc_rs::kx_group::SECP256R1];
    CryptoProvider { kx_groups, ..aws_lc_rs::default_provider() }
}

/// Believes any certificate.
#[derive(Debug)]
struct Believer {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Believer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
