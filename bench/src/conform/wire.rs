//! The way to the server: bytes out, bytes in, and when it closed. What they mean is not known
//! here.

mod quic;
mod tls;

use super::transport::Rule;
use anyhow::{Context, Result, bail};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
    version::TLS13,
};
use std::{
    io::{self, ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream, ToSocketAddrs},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};
use yao_protocol::endpoint::{ALPN, Endpoint, Transports};

/// A server that takes longer to accept, or to take bytes, is down.
const PATIENCE: Duration = Duration::from_secs(20);

/// What came by the end of a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Received {
    /// So many bytes.
    Bytes(usize),
    /// The server closed, in whatever way.
    Closed,
    /// Nothing.
    Nothing,
}

/// One connection, over whatever transport.
pub(super) trait Wire: Send {
    /// Sends all of `bytes`, in as few packets as the transport makes of them. A server that takes
    /// none for long is `TimedOut`; every other error means that it closed.
    fn send(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Waits for bytes until `until`.
    fn receive(&mut self, bytes: &mut [u8], until: Instant) -> Received;
}

/// Where the server is, and how it is reached.
pub(super) struct Server {
    address: SocketAddr,
    way: Way,
}

enum Way {
    Tcp,
    Tls(Arc<ClientConfig>, ServerName<'static>),
    Quic(Box<quic::Connector>),
}

impl Server {
    /// The server at `endpoint`, whose certificate `ca` (a PEM file) vouches for.
    ///
    /// # Errors
    /// A text that is no endpoint, a name that is unknown, a CA that is missing or unreadable.
    pub(super) fn new(endpoint: &str, ca: Option<&Path>) -> Result<Self> {
        let endpoint: Endpoint = endpoint.parse().context("--addr")?;
        let address = endpoint.address();
        let mut addresses =
            address.to_socket_addrs().with_context(|| format!("--addr: {address} is unknown"))?;
        let address = addresses.next().context("--addr has no address")?;
        let way = match endpoint.transports {
            Transports::Tcp => Way::Tcp,
            Transports::Tls => {
                Way::Tls(Arc::new(tls_config(ca)?), ServerName::try_from(endpoint.host)?)
            }
            Transports::Quic => {
                Way::Quic(Box::new(quic::Connector::new(tls_config(ca)?, address, endpoint.host)?))
            }
            Transports::TlsQuic => bail!("--addr names two ways; test tls:// and quic:// in turn"),
        };
        Ok(Self { address, way })
    }

    /// Whether it is reached over QUIC.
    pub(super) const fn is_quic(&self) -> bool {
        matches!(self.way, Way::Quic(_))
    }

    /// Whether frames travel without any encryption.
    pub(super) const fn is_plain(&self) -> bool {
        matches!(self.way, Way::Tcp)
    }

    /// Holds the transport against `rule`.
    ///
    /// # Errors
    /// It is not kept, or this transport has no such rule.
    pub(super) fn check(&self, rule: &Rule) -> Result<()> {
        match &self.way {
            Way::Tcp => bail!("plain TCP has no rules of its own"),
            Way::Tls(config, name) => tls::check(self.address, config, name, rule),
            Way::Quic(connector) => connector.check(rule),
        }
    }

    /// A new connection; over TLS its handshake is done with the first bytes.
    ///
    /// # Errors
    /// The server does not accept.
    pub(super) fn connect(&self) -> Result<Box<dyn Wire>> {
        if let Way::Quic(connector) = &self.way {
            return Ok(Box::new(connector.connect(PATIENCE)?));
        }
        let socket = TcpStream::connect_timeout(&self.address, PATIENCE)
            .with_context(|| format!("cannot connect to {}", self.address))?;
        socket.set_nodelay(true)?;
        socket.set_write_timeout(Some(PATIENCE))?;
        let Way::Tls(config, name) = &self.way else { return Ok(Box::new(Plain(socket))) };
        let mut session = ClientConnection::new(Arc::clone(config), name.clone())?;
        let mut socket = socket;
        socket.set_read_timeout(Some(PATIENCE))?;
        while session.is_handshaking() {
            session.complete_io(&mut socket).context("the TLS handshake failed")?;
        }
        if session.alpn_protocol() != Some(ALPN) {
            bail!("the server did not choose the protocol yao/1 (ALPN)");
        }
        Ok(Box::new(Tls(StreamOwned::new(session, socket))))
    }
}

fn tls_config(ca: Option<&Path>) -> Result<ClientConfig> {
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

struct Plain(TcpStream);

impl Wire for Plain {
    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes).map_err(timed_out)
    }

    fn receive(&mut self, bytes: &mut [u8], until: Instant) -> Received {
        receive(until, |patience| {
            self.0.set_read_timeout(Some(patience))?;
            self.0.read(bytes)
        })
    }
}

struct Tls(StreamOwned<ClientConnection, TcpStream>);

impl Wire for Tls {
    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes).and_then(|()| self.0.flush()).map_err(timed_out)
    }

    fn receive(&mut self, bytes: &mut [u8], until: Instant) -> Received {
        receive(until, |patience| {
            self.0.sock.set_read_timeout(Some(patience))?;
            self.0.read(bytes)
        })
    }
}

/// A socket whose time is over says that it would block.
fn timed_out(error: io::Error) -> io::Error {
    if error.kind() == ErrorKind::WouldBlock { ErrorKind::TimedOut.into() } else { error }
}

/// Reads until something comes, the server closes, or `until` has passed.
fn receive(until: Instant, mut read: impl FnMut(Duration) -> io::Result<usize>) -> Received {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        // Zero would mean for ever; a last look costs a millisecond.
        match read(left.max(Duration::from_millis(1))) {
            Ok(0) => return Received::Closed,
            Ok(count) => return Received::Bytes(count),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                if left.is_zero() {
                    return Received::Nothing;
                }
            }
            Err(_) => return Received::Closed,
        }
    }
}
