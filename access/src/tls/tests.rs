//! TLS sessions against rustls' own client, in memory: every cut, every end, every refusal.

mod hostile;
mod limits;
mod openssl;
mod suites;

use super::{ALPN, TlsSettings, session::Fed, session::TlsError, session::TlsSession};
use crate::config::{CertificateConfig, TlsConfig};
use rcgen::{
    CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519,
    SignatureAlgorithm,
};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, HandshakeKind, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    unbuffered::ConnectionState,
};
use std::{
    fs,
    io::{Read, Write},
    path::Path,
    sync::{Arc, OnceLock},
};

/// Certificates on disk, made once: Ed25519, then P-256.
struct Certificates {
    _folder: tempfile::TempDir,
    config: TlsConfig,
    chains: [CertificateDer<'static>; 2],
}

fn certificates() -> &'static Certificates {
    static MADE: OnceLock<Certificates> = OnceLock::new();
    MADE.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let (first, ed25519) = certificate(folder.path(), "a", &PKCS_ED25519);
        let (second, p256) = certificate(folder.path(), "b", &PKCS_ECDSA_P256_SHA256);
        let config = TlsConfig { certificates: vec![first, second] };
        Certificates { _folder: folder, config, chains: [ed25519, p256] }
    })
}

fn certificate(
    folder: &Path,
    name: &str,
    kind: &'static SignatureAlgorithm,
) -> (CertificateConfig, CertificateDer<'static>) {
    let key = KeyPair::generate_for(kind).expect("a key");
    let parameters = CertificateParams::new(vec!["localhost".to_owned()]);
    let signed = parameters.expect("a good name").self_signed(&key).expect("signed");
    let path = |end: &str| folder.join(format!("{name}{end}"));
    fs::write(path(".pem"), signed.pem()).expect("written");
    fs::write(path(".key"), key.serialize_pem()).expect("written");
    (CertificateConfig { chain: path(".pem"), key: path(".key") }, signed.der().clone())
}

fn settings() -> TlsSettings {
    let settings = TlsSettings::default();
    settings.put_in_force(settings.prepare(&certificates().config).expect("good certificates"));
    settings
}

/// Believes any certificate, but checks its signature, and understands only these schemes.
#[derive(Debug)]
struct Understands(Vec<SignatureScheme>, CryptoProvider);

impl ServerCertVerifier for Understands {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is never spoken".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.1.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.clone()
    }
}

fn client_config(schemes: &[SignatureScheme], alpn: &[&[u8]]) -> ClientConfig {
    client_config_with(aws_lc_rs::default_provider(), schemes, alpn)
}

fn client_config_with(
    provider: CryptoProvider,
    schemes: &[SignatureScheme],
    alpn: &[&[u8]],
) -> ClientConfig {
    let verifier = Understands(schemes.to_vec(), provider.clone());
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config.enable_early_data = true;
    config.enable_secret_extraction = true;
    config
}

const ALL: &[SignatureScheme] = &[SignatureScheme::ED25519, SignatureScheme::ECDSA_NISTP256_SHA256];

fn client(config: &Arc<ClientConfig>) -> ClientConnection {
    let name = ServerName::try_from("localhost").expect("a good name");
    ClientConnection::new(Arc::clone(config), name).expect("a client")
}

/// A client and the session that serves it.
struct Pair {
    client: ClientConnection,
    server: TlsSession,
    /// What the server read, and what it wants to send.
    plain: Vec<u8>,
    out: Vec<u8>,
    /// What became of the last bytes, and whether any completed the handshake or ended it.
    last: Fed,
    secured: u32,
    ended: bool,
}

impl Pair {
    fn new(settings: &TlsSettings, config: &Arc<ClientConfig>) -> Self {
        let stream = settings.stream().expect("certificates are in force");
        Self {
            client: client(config),
            server: TlsSession::new(stream).expect("a session"),
            plain: Vec::new(),
            out: Vec::new(),
            last: Fed::default(),
            secured: 0,
            ended: false,
        }
    }

    fn open(settings: &TlsSettings) -> Self {
        let mut pair = Self::new(settings, &Arc::new(client_config(ALL, &[ALPN])));
        pair.exchange(usize::MAX).expect("a good handshake");
        assert!(pair.server.is_secured() && !pair.client.is_handshaking());
        pair
    }

    /// Feeds `bytes` to the server, `cut` at a time.
    fn feed(&mut self, bytes: &[u8], cut: usize) -> Result<(), TlsError> {
        for piece in bytes.chunks(cut.min(64 * 1024)) {
            let mut piece = piece.to_vec();
            let open = self.server.is_secured();
            self.last = self.server.feed(&mut piece, &mut self.plain, &mut self.out, open)?;
            self.secured += u32::from(self.last.secured);
            self.ended |= self.last.ended;
        }
        Ok(())
    }

    /// What the client has to send.
    fn client_bytes(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.client.wants_write() {
            self.client.write_tls(&mut bytes).expect("a vector takes all");
        }
        bytes
    }

    /// The client reads what the server has sent.
    fn client_reads(&mut self) -> Result<Vec<u8>, rustls::Error> {
        let bytes = std::mem::take(&mut self.out);
        let mut rest = &bytes[..];
        let mut read = Vec::new();
        while !rest.is_empty() {
            self.client.read_tls(&mut rest).expect("a slice gives all");
            self.client.process_new_packets()?;
            let mut piece = [0; 20_000];
            while let Ok(count @ 1..) = self.client.reader().read(&mut piece) {
                read.extend_from_slice(&piece[..count]);
            }
        }
        Ok(read)
    }

    /// Lets both talk until neither has more to say; returns what the client was told.
    fn exchange(&mut self, cut: usize) -> Result<Vec<u8>, TlsError> {
        let mut read = Vec::new();
        loop {
            let bytes = self.client_bytes();
            if bytes.is_empty() && self.out.is_empty() {
                return Ok(read);
            }
            self.feed(&bytes, cut)?;
            read.extend(self.client_reads().expect("the server is no liar"));
        }
    }

    /// Both say something, and it arrives.
    fn echo(&mut self, text: &[u8], cut: usize) {
        self.client.writer().write_all(text).expect("the client takes it");
        self.plain.clear();
        self.exchange(cut).expect("taken");
        assert_eq!(self.plain, text);
        let plain = self.plain.clone();
        self.server.seal(&plain, &mut self.out).expect("sealed");
        assert_eq!(self.exchange(cut).expect("taken"), text);
        assert!(!self.last.cut && !self.ended);
    }
}

#[test]
fn a_session_opens_and_echoes_however_it_is_cut() {
    let settings = settings();
    let config = Arc::new(client_config(ALL, &[b"other", ALPN]));
    let long: Vec<u8> = (0..50_000_u32).map(|number| (number % 251) as u8).collect();
    for cut in (1..=400).chain([511, 1_024, 4_000, 17_000, 65_536]) {
        let mut pair = Pair::new(&settings, &config);
        pair.exchange(cut).expect("a good handshake");
        assert_eq!(pair.secured, 1, "told once, cut at {cut}");
        pair.echo(b"shake", cut);
        pair.echo(&[7; 1_000], cut);
        if cut % 100 == 0 {
            pair.echo(&long, cut);
        }
    }
}

/// Nothing may be taken for the client's word before his Finished.
#[test]
fn a_session_is_secured_by_the_clients_last_byte_and_not_before() {
    let settings = settings();
    let mut pair = Pair::new(&settings, &Arc::new(client_config(ALL, &[ALPN])));
    let hello = pair.client_bytes();
    pair.feed(&hello[..hello.len() - 1], 7).expect("taken");
    assert!(pair.out.is_empty() && pair.last.cut);
    pair.feed(&hello[hello.len() - 1..], 1).expect("taken");
    assert!(!pair.out.is_empty() && !pair.last.cut);
    assert!(pair.server.seal(b"too early", &mut Vec::new()).is_err());
    pair.client_reads().expect("the server's flight");
    let finished = pair.client_bytes();
    pair.feed(&finished[..finished.len() - 1], 7).expect("taken");
    assert!(!pair.server.is_secured());
    pair.feed(&finished[finished.len() - 1..], 1).expect("taken");
    assert!(pair.server.is_secured() && pair.secured == 1);
}

#[test]
fn keys_are_updated_from_either_side_and_again() {
    let mut pair = Pair::open(&settings());
    for round in 0..3 {
        pair.client.refresh_traffic_keys().expect("the client asks for new keys");
        pair.echo(b"after the client's update", 1 + round);
        let state = pair.server.connection.process_tls_records(&mut []).state;
        let Ok(ConnectionState::WriteTraffic(traffic)) = state else {
            panic!("the session is open")
        };
        traffic.refresh_traffic_keys().expect("the server asks for new keys");
        pair.echo(b"after the server's update", 1 + round);
    }
}

#[test]
fn either_side_may_say_that_nothing_follows() {
    let settings = settings();
    let mut pair = Pair::open(&settings);
    pair.client.writer().write_all(b"bye").expect("taken");
    pair.client.send_close_notify();
    let mut bytes = pair.client_bytes();
    bytes.extend([0x55; 20_000]);
    pair.feed(&bytes, usize::MAX).expect("what follows the end means nothing");
    assert!(pair.ended && pair.plain == b"bye");
    // The other direction is still open.
    pair.server.seal(b"farewell", &mut pair.out).expect("sealed");
    pair.server.close(&mut pair.out).expect("closed");
    assert_eq!(pair.client_reads().expect("whole"), b"farewell");
    let mut pair = Pair::open(&settings);
    pair.server.close(&mut pair.out).expect("closed");
    pair.client_reads().expect("a good end");
    let end = pair.client.reader().read(&mut [0; 8]).expect("an end, not a broken stream");
    assert_eq!(end, 0);
}

#[test]
fn a_client_gets_the_first_certificate_that_it_understands() {
    let settings = settings();
    let [ed25519, p256] = &certificates().chains;
    let check = |schemes: &[SignatureScheme], expected: Option<&CertificateDer<'static>>| {
        let mut pair = Pair::new(&settings, &Arc::new(client_config(schemes, &[ALPN])));
        let result = pair.exchange(usize::MAX);
        let shown = pair.client.peer_certificates().and_then(<[_]>::first);
        assert_eq!(shown, expected, "{schemes:?}");
        assert_eq!(result.is_ok(), expected.is_some());
    };
    check(ALL, Some(ed25519));
    check(&[SignatureScheme::ECDSA_NISTP256_SHA256, SignatureScheme::ED25519], Some(ed25519));
    check(&[SignatureScheme::ED25519], Some(ed25519));
    check(&[SignatureScheme::ECDSA_NISTP256_SHA256], Some(p256));
    check(&[SignatureScheme::RSA_PSS_SHA256], None);
}

#[test]
fn a_key_of_another_kind_is_refused_with_one_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let (pair, _) = certificate(folder.path(), "p384", &PKCS_ECDSA_P384_SHA384);
    let good = certificates().config.certificates.clone();
    let config = TlsConfig { certificates: good.into_iter().chain([pair]).collect() };
    let error = TlsSettings::default().prepare(&config).expect_err("refused").to_string();
    assert!(error.contains("p384.pem") && error.contains("Ed25519 or P-256"), "{error}");
    assert!(!error.contains('\n'), "{error}");
}

#[test]
fn a_client_resumes_also_after_a_reload_and_sends_nothing_early() {
    let settings = settings();
    let config = Arc::new(client_config(ALL, &[ALPN]));
    let connect = || {
        let mut pair = Pair::new(&settings, &config);
        assert!(pair.client.early_data().is_none(), "no early data was ever allowed");
        pair.exchange(usize::MAX).expect("a good handshake");
        pair.echo(b"shake", usize::MAX);
        pair.client.handshake_kind().expect("the handshake is done")
    };
    assert_eq!(connect(), HandshakeKind::Full);
    assert_eq!(connect(), HandshakeKind::Resumed);
    settings.put_in_force(settings.prepare(&certificates().config).expect("good certificates"));
    assert_eq!(connect(), HandshakeKind::Resumed, "a reload keeps the tickets' keys");
}

/// The keys of tickets are written nowhere: after a restart, and at another node, a client that
/// offers one shakes hands in full, without noticing.
#[test]
fn a_ticket_of_another_life_is_no_use_and_no_harm() {
    let config = Arc::new(client_config(ALL, &[ALPN]));
    let connect = |settings: &TlsSettings| {
        let mut pair = Pair::new(settings, &config);
        pair.exchange(usize::MAX).expect("a good handshake");
        pair.echo(b"shake", usize::MAX);
        pair.client.handshake_kind().expect("the handshake is done")
    };
    let (first, second) = (settings(), settings());
    assert_eq!(connect(&first), HandshakeKind::Full);
    assert_eq!(connect(&second), HandshakeKind::Full, "it offered the ticket of the first");
    // What it holds now is the second's.
    assert_eq!(connect(&first), HandshakeKind::Full);
    assert_eq!(connect(&first), HandshakeKind::Resumed);
}
