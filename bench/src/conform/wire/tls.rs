//! TLS over TCP: connections, and the rules that no frame can show, each on a socket of its own.

mod early;

use super::{PATIENCE, REFUSED_MAX, Received, Wire, connect, receive, timed_out};
use crate::conform::{
    case::Below,
    transport::{Older, Opening, Rule},
};
use anyhow::{Context, Result, bail, ensure};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, SignatureScheme, StreamOwned,
    client::ResolvesClientCert,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
    sign::CertifiedKey,
    version::TLS13,
};
use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    ops::RangeInclusive,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};
use yao_protocol::endpoint::ALPN;

/// The content type of alerts.
const ALERT: u8 = 21;
/// A fatal alert "protocol_version" as a whole record (RFC 8446 6).
const PROTOCOL_VERSION: [u8; 7] = [ALERT, 3, 3, 0, 2, 2, 70];
/// supported_versions with TLS 1.3 alone, as a ClientHello has it (RFC 8446 4.2.1).
const TLS13_ONLY: [u8; 7] = [0, 43, 0, 3, 2, 3, 4];
/// The keys that wire.md 1.4 allows, as a certificate names them: object identifiers in DER.
const KEYS: [&[u8]; 2] =
    [&[6, 3, 0x2b, 0x65, 0x70], &[6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7]];

type Stream = StreamOwned<ClientConnection, TcpStream>;

/// What a client is made with that trusts `ca`.
pub(super) fn config(ca: Option<&Path>) -> Result<ClientConfig> {
    let ca = ca.context("--ca is missing: the certificate that vouches for the server's")?;
    let mut roots = RootCertStore::empty();
    for certificate in
        CertificateDer::pem_file_iter(ca).with_context(|| ca.display().to_string())?
    {
        roots.add(certificate.with_context(|| ca.display().to_string())?)?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(config)
}

/// Whether the key of a server's certificate is one of wire.md 1.4.
pub(super) fn check_certificate(chain: &[CertificateDer<'_>]) -> Result<()> {
    let own = chain.first().context("the server shows no certificate")?;
    let has = |key: &[u8]| own.windows(key.len()).any(|window| window == key);
    ensure!(KEYS.into_iter().any(has), "its key is neither Ed25519 nor P-256");
    Ok(())
}

/// Notices when it is asked for a certificate. It has none.
#[derive(Debug, Default)]
pub(super) struct Asked(AtomicBool);

impl Asked {
    /// A client of `config` that notices.
    pub(super) fn listen(config: &ClientConfig) -> (ClientConfig, Arc<Self>) {
        let asked = Arc::<Self>::default();
        let mut config = config.clone();
        config.client_auth_cert_resolver = Arc::clone(&asked) as Arc<dyn ResolvesClientCert>;
        (config, asked)
    }

    pub(super) fn check(&self) -> Result<()> {
        ensure!(!self.0.load(Ordering::SeqCst), "the server asks for a certificate");
        Ok(())
    }
}

impl ResolvesClientCert for Asked {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.store(true, Ordering::SeqCst);
        None
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Makes connections to one server.
pub(super) struct Dialer {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    address: SocketAddr,
}

impl Dialer {
    pub(super) fn new(ca: Option<&Path>, address: SocketAddr, host: String) -> Result<Self> {
        let mut config = config(ca)?;
        // Each connection is a stranger's, but where a rule says otherwise.
        config.resumption = rustls::client::Resumption::disabled();
        Ok(Self { config: Arc::new(config), name: ServerName::try_from(host)?, address })
    }

    pub(super) fn connect(&self) -> Result<Tls> {
        let stream = self.handshake(Arc::clone(&self.config))?;
        if stream.conn.alpn_protocol() != Some(ALPN) {
            bail!("the server did not choose the protocol yao/1 (ALPN)");
        }
        Ok(Tls { stream, rest: Vec::new(), is_ended: false })
    }

    fn session(&self, config: Arc<ClientConfig>) -> Result<ClientConnection> {
        Ok(ClientConnection::new(config, self.name.clone())?)
    }

    /// A connection whose handshake is done, on this side.
    fn handshake(&self, config: Arc<ClientConfig>) -> Result<Stream> {
        let mut session = self.session(config)?;
        let mut socket = connect(self.address)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        while session.is_handshaking() {
            session.complete_io(&mut socket).context("the TLS handshake failed")?;
        }
        Ok(StreamOwned::new(session, socket))
    }

    /// The bytes with which a client begins.
    fn hello(&self) -> Result<Vec<u8>> {
        let mut hello = Vec::new();
        self.session(Arc::clone(&self.config))?.write_tls(&mut hello)?;
        Ok(hello)
    }

    pub(super) fn check(&self, rule: &Rule) -> Result<()> {
        match rule {
            Rule::Handshake(window, opening) => self.unfinished(window, *opening),
            Rule::NoHandshake(bytes) => {
                let (said, _) = self.say(bytes)?;
                // An alert of TLS may come.
                ensure!(said.is_empty() || said[0] == ALERT, "the server answers {said:?}");
                Ok(())
            }
            Rule::Version(older) => self.older(*older),
            Rule::Protocols(protocols) => self.protocols(protocols),
            Rule::Certificate => {
                let stream = self.handshake(Arc::clone(&self.config))?;
                check_certificate(stream.conn.peer_certificates().unwrap_or_default())
            }
            Rule::NoClientCertificate => {
                let (config, asked) = Asked::listen(&self.config);
                self.handshake(Arc::new(config))?;
                asked.check()
            }
            Rule::NoEarlyData(hello) => early::not_allowed(self, hello),
            Rule::EarlyData(hello) => early::not_taken(self, hello),
            Rule::Resumed { hello, early } => early::resumed(self, hello, early),
            Rule::Refused => {
                let hello = self.hello()?;
                let (said, after) = self.say(&hello)?;
                ensure!(said.is_empty(), "the server answers {said:?}");
                ensure!(after < REFUSED_MAX, "not refused, but closed after {after:?}");
                Ok(())
            }
            _ => bail!("TLS has one stream and no datagrams"),
        }
    }

    /// Sends these bytes on a bare socket; what the server says until it closes, and when it does.
    fn say(&self, bytes: &[u8]) -> Result<(Vec<u8>, Duration)> {
        let since = Instant::now();
        let mut socket = connect(self.address)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        // A server that has closed already is one of the answers.
        socket.write_all(bytes).ok();
        let mut said = Vec::new();
        let end = socket.read_to_end(&mut said).map(|_| ());
        let after = since.elapsed();
        ensure!(after < PATIENCE, "still open: {end:?}");
        Ok((said, after))
    }

    /// A handshake that is not done.
    fn unfinished(&self, window: &RangeInclusive<u64>, opening: Opening) -> Result<()> {
        let hello = self.hello()?;
        let bytes = match opening {
            Opening::Nothing => &[],
            Opening::Half => &hello[..hello.len() / 2],
            Opening::Silent => &hello[..],
        };
        let (said, after) = self.say(bytes)?;
        let answered = opening == Opening::Silent;
        ensure!(said.is_empty() != answered, "the server says {said:?}");
        let ms = u64::try_from(after.as_millis())?;
        ensure!(window.contains(&ms), "closed after {ms} ms, not in {window:?}");
        Ok(())
    }

    fn older(&self, older: Older) -> Result<()> {
        let mut hello = self.hello()?;
        let at = hello.windows(TLS13_ONLY.len()).position(|window| window == TLS13_ONLY);
        let at = at.context("this client's own versions are not where they were")?;
        match older {
            // 3.3 in place of 3.4.
            Older::Tls12 => hello[at + 6] = 3,
            // An extension of no meaning in its place.
            Older::Unnamed => hello[at..at + 2].copy_from_slice(&[0x5a, 0x5a]),
            Older::Quic => bail!("no version of TLS"),
        }
        let (said, after) = self.say(&hello)?;
        ensure!(said == PROTOCOL_VERSION, "the server says {said:?}");
        ensure!(after < REFUSED_MAX, "closed after {after:?} only");
        Ok(())
    }

    fn protocols(&self, protocols: &[&[u8]]) -> Result<()> {
        let since = Instant::now();
        let mut config = (*self.config).clone();
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        let alerted = |error: &io::Error| {
            let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
            let alert = rustls::AlertDescription::NoApplicationProtocol;
            inner == Some(&rustls::Error::AlertReceived(alert))
        };
        match self.handshake(Arc::new(config)) {
            Err(error) => {
                let io = error.downcast_ref::<io::Error>();
                ensure!(io.is_some_and(alerted), "not refused for its protocols, but {error:#}");
            }
            // Without any the client is done a message before the server is, which refuses then.
            Ok(mut stream) => {
                ensure!(protocols.is_empty(), "the handshake was done");
                let mut bytes = [0; 64];
                let read = stream.read(&mut bytes);
                ensure!(!matches!(read, Ok(1..)), "the server says {bytes:?}");
            }
        }
        let after = since.elapsed();
        ensure!(after < REFUSED_MAX, "refused after {after:?} only");
        Ok(())
    }
}

/// A connection.
pub(super) struct Tls {
    stream: Stream,
    /// What the last record that was cut lacks.
    rest: Vec<u8>,
    /// close_notify came.
    is_ended: bool,
}

impl Tls {
    /// What rustls has to say, as it travels.
    fn sealed(&mut self) -> Result<Vec<u8>> {
        let mut sealed = Vec::new();
        while self.stream.conn.wants_write() {
            self.stream.conn.write_tls(&mut sealed)?;
        }
        Ok(sealed)
    }

    /// Bytes as they are. A server that has closed is noticed when it is read from.
    fn raw(&mut self, bytes: &[u8]) {
        self.stream.sock.write_all(bytes).ok();
    }
}

impl Wire for Tls {
    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).and_then(|()| self.stream.flush()).map_err(timed_out)
    }

    fn receive(&mut self, bytes: &mut [u8], until: Instant) -> Received {
        let mut is_ended = false;
        let received = receive(until, |patience| {
            self.stream.sock.set_read_timeout(Some(patience))?;
            let read = self.stream.read(bytes);
            is_ended = matches!(read, Ok(0));
            read
        });
        self.is_ended |= is_ended;
        received
    }

    fn below(&mut self, below: &Below) -> Result<()> {
        match below {
            Below::End => {
                self.stream.conn.send_close_notify();
                let sealed = self.sealed()?;
                self.raw(&sealed);
            }
            Below::Rekey => {
                self.stream.conn.refresh_traffic_keys()?;
                let sealed = self.sealed()?;
                self.raw(&sealed);
            }
            Below::Record(bytes, first) => {
                self.stream.conn.writer().write_all(bytes)?;
                let mut sealed = self.sealed()?;
                self.rest = sealed.split_off(*first);
                self.raw(&sealed);
            }
            Below::Rest(piece, pause_ms) => {
                for part in std::mem::take(&mut self.rest).chunks(*piece) {
                    // The pause is what is tested: a slow sender.
                    thread::sleep(Duration::from_millis(*pause_ms));
                    self.raw(part);
                }
            }
            Below::Raw(bytes) => self.raw(bytes),
            Below::Abandon { .. } | Below::Move => bail!("TLS cannot do this: {below:?}"),
        }
        Ok(())
    }

    fn farewell(&mut self, _until: Instant) -> Result<()> {
        ensure!(self.is_ended, "the connection was cut, without close_notify");
        Ok(())
    }
}
