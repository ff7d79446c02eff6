//! The network: [`tcp`], [`tls`] and [`quic`], all alike for whoever drives them. Every link
//! carries the same frames and gives whole ones, however the bytes were cut on their way. None
//! starts a task: what a link does happens in the calls below.

pub mod dial;
mod incoming;
mod lookup;
pub mod quic;
pub mod tcp;
pub mod tls;
pub mod trust;

use crate::{error::LinkError, limits::OUTGOING_BYTES_MAX};
use quic::QuicLink;
use std::{fmt, net::IpAddr};
use tcp::TcpLink;
use tls::TlsLink;
use trust::Trust;
use yao_protocol::{WireError, endpoint::Endpoint, frame::Frame};

/// How a connection is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// Plain TCP.
    Tcp,
    /// TLS 1.3 over TCP.
    Tls,
    /// QUIC.
    Quic,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Quic => "quic",
        })
    }
}

/// One connection. The methods mean the same for each kind; [`TcpLink`] describes them.
#[derive(Debug)]
pub enum Link {
    /// Plain TCP.
    Tcp(TcpLink),
    /// TLS 1.3 over TCP.
    Tls(Box<TlsLink>),
    /// QUIC.
    Quic(Box<QuicLink>),
}

/// Adds frames to what waits to be sent; refuses more than a peer that reads would leave.
fn queue(outgoing: &mut Vec<u8>, bytes: &[u8]) -> Result<(), LinkError> {
    let waiting_bytes = outgoing.len() + bytes.len();
    if waiting_bytes > OUTGOING_BYTES_MAX {
        return Err(LinkError::Backlog(waiting_bytes));
    }
    outgoing.extend_from_slice(bytes);
    Ok(())
}

/// The same call on whichever link it is.
macro_rules! each {
    ($link:expr, $inner:ident => $call:expr) => {
        match $link {
            Link::Tcp($inner) => $call,
            Link::Tls($inner) => $call,
            Link::Quic($inner) => $call,
        }
    };
}

impl Link {
    /// Connects to `endpoint` by `transport`. With `local`, from that address.
    ///
    /// # Errors
    /// No address, no trust, or the last error of the addresses tried.
    pub async fn connect(
        transport: Transport,
        endpoint: &Endpoint,
        local: Option<IpAddr>,
        trust: Option<&Trust>,
    ) -> Result<Self, LinkError> {
        let trust = trust.ok_or(LinkError::NoTrust);
        match transport {
            Transport::Tcp => TcpLink::connect(&endpoint.address(), local).await.map(Self::Tcp),
            Transport::Tls => {
                let link = TlsLink::connect(endpoint, local, trust?).await?;
                Ok(Self::Tls(Box::new(link)))
            }
            Transport::Quic => {
                let link = QuicLink::connect(endpoint, local, trust?).await?;
                Ok(Self::Quic(Box::new(link)))
            }
        }
    }

    /// Which kind it is.
    #[must_use]
    pub const fn transport(&self) -> Transport {
        match self {
            Self::Tcp(_) => Transport::Tcp,
            Self::Tls(_) => Transport::Tls,
            Self::Quic(_) => Transport::Quic,
        }
    }

    /// Queues whole frames.
    ///
    /// # Errors
    /// [`LinkError::Backlog`] when the peer does not read.
    pub fn queue(&mut self, bytes: &[u8]) -> Result<(), LinkError> {
        each!(self, link => link.queue(bytes))
    }

    /// Sends what can be sent without waiting.
    ///
    /// # Errors
    /// The connection broke.
    pub fn flush(&mut self) -> Result<(), LinkError> {
        each!(self, link => link.flush())
    }

    /// Waits until something can be sent or received, and does it. Dropping the future loses
    /// nothing. Take every frame with [`Link::next_frame`] after it.
    ///
    /// # Errors
    /// The connection broke, or the peer closed it.
    pub async fn progress(&mut self) -> Result<(), LinkError> {
        each!(self, link => link.progress().await)
    }

    /// After an error: takes in more of what came before it. False when that was all. May wait
    /// where the network has not told yet; give it little time. Take every frame with
    /// [`Link::next_frame`] before and after it.
    pub async fn salvage(&mut self) -> bool {
        each!(self, link => link.salvage().await)
    }

    /// Sends everything and says that no more comes.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn finish(&mut self) -> Result<(), LinkError> {
        each!(self, link => link.finish().await)
    }

    /// The next whole frame that was received.
    ///
    /// # Errors
    /// The bytes are no frame; the server is at fault.
    pub fn next_frame(&mut self) -> Result<Option<Frame<'_>>, WireError> {
        each!(self, link => link.next_frame())
    }

    /// Whether the network itself is silent, not only whoever should answer. Only QUIC can tell.
    #[must_use]
    pub fn is_unheard(&self) -> bool {
        match self {
            Self::Tcp(_) | Self::Tls(_) => false,
            Self::Quic(link) => link.is_unheard(),
        }
    }

    /// The device moved to another network: a QUIC connection goes on there, with `local` from that
    /// address; others cannot.
    pub fn rebind(&mut self, local: Option<IpAddr>) {
        match self {
            Self::Tcp(_) | Self::Tls(_) => {}
            // Without a socket on the new network it stays on the old one, and fails by itself.
            Self::Quic(link) => drop(link.rebind(local)),
        }
    }
}
