//! The way to the server: bytes out, bytes in, and when it closed. What they mean is not known
//! here.

mod liar;
mod quic;
mod relay;
mod tls;

use super::{case::Below, facts::Way, transport::Rule};
use anyhow::{Context, Result, bail, ensure};
use std::{
    io::{self, ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream, ToSocketAddrs},
    path::Path,
    time::{Duration, Instant},
};
use yao_protocol::endpoint::{Endpoint, Transports};

/// A server that takes longer to accept, or to take bytes, is down.
const PATIENCE: Duration = Duration::from_secs(20);
/// A refusal comes at once, not with a deadline.
const REFUSED_MAX: Duration = Duration::from_secs(2);

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

    /// Does something below the frames.
    ///
    /// # Errors
    /// This transport has no such thing.
    fn below(&mut self, below: &Below) -> Result<()>;

    /// After [`Received::Closed`]: whether the server has said, or says by `until`, what this
    /// transport has for an end (wire.md 1.5).
    ///
    /// # Errors
    /// It did not.
    fn farewell(&mut self, until: Instant) -> Result<()>;
}

/// Where the server is, and how it is reached.
pub(super) struct Server {
    address: SocketAddr,
    dial: Dial,
}

enum Dial {
    Tcp,
    Tls(Box<tls::Dialer>),
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
        let dial = match endpoint.transports {
            Transports::Tcp => Dial::Tcp,
            Transports::Tls => Dial::Tls(Box::new(tls::Dialer::new(ca, address, endpoint.host)?)),
            Transports::Quic => {
                let tls = tls::config(ca)?;
                Dial::Quic(Box::new(quic::Connector::new(tls, address, endpoint.host)?))
            }
            Transports::TlsQuic => bail!("--addr names two ways; test tls:// and quic:// in turn"),
        };
        Ok(Self { address, dial })
    }

    /// How it is reached.
    pub(super) const fn way(&self) -> Way {
        match self.dial {
            Dial::Tcp => Way::Tcp,
            Dial::Tls(_) => Way::Tls,
            Dial::Quic(_) => Way::Quic,
        }
    }

    /// Holds the transport against `rule`.
    ///
    /// # Errors
    /// It is not kept, or this transport has no such rule.
    pub(super) fn check(&self, rule: &Rule) -> Result<()> {
        match (&self.dial, rule) {
            (Dial::Tls(dialer), rule) => dialer.check(rule),
            (Dial::Quic(connector), rule) => connector.check(rule),
            (Dial::Tcp, Rule::Refused) => {
                let mut socket = connect(self.address)?;
                socket.set_read_timeout(Some(PATIENCE))?;
                let since = Instant::now();
                let mut bytes = Vec::new();
                // A reset is an end, too.
                let end = socket.read_to_end(&mut bytes).map(|_| ());
                ensure!(since.elapsed() < REFUSED_MAX, "let in, and in the end {end:?}");
                ensure!(bytes.is_empty(), "the server says {bytes:?}");
                Ok(())
            }
            (Dial::Tcp, _) => bail!("plain TCP has no such rule"),
        }
    }

    /// A new connection; over TLS its handshake is done with the first bytes.
    ///
    /// # Errors
    /// The server does not accept.
    pub(super) fn connect(&self) -> Result<Box<dyn Wire>> {
        Ok(match &self.dial {
            Dial::Tcp => Box::new(Plain(connect(self.address)?)),
            Dial::Tls(dialer) => Box::new(dialer.connect()?),
            Dial::Quic(connector) => Box::new(connector.connect(PATIENCE)?),
        })
    }
}

/// A TCP connection.
fn connect(address: SocketAddr) -> Result<TcpStream> {
    let socket = TcpStream::connect_timeout(&address, PATIENCE)
        .with_context(|| format!("cannot connect to {address}"))?;
    socket.set_nodelay(true)?;
    socket.set_write_timeout(Some(PATIENCE))?;
    Ok(socket)
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

    fn below(&mut self, below: &Below) -> Result<()> {
        match below {
            Below::End => Ok(self.0.shutdown(Shutdown::Write)?),
            _ => bail!("plain TCP cannot do this: {below:?}"),
        }
    }

    /// TCP has one way to end only, and it is over.
    fn farewell(&mut self, _until: Instant) -> Result<()> {
        Ok(())
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
