//! What carries the frames of many connections on one thread: plain TCP, TLS 1.3 over TCP, or QUIC.
//! It connects, secures, sends and receives bytes; it knows nothing of frames and users.

mod quic;
mod stream;
mod streams;
#[cfg(test)]
mod tests;

use super::Target;
use anyhow::{Result, bail};
use quic::Quic;
use std::{io, time::Duration};
use streams::Streams;
use yao_protocol::endpoint::Transports;

/// What happened to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    /// It is connected, and secured if it is to be: bytes may be sent.
    Open,
    /// Bytes may have arrived.
    Bytes,
    /// It is over. Its place still has to be closed.
    Lost,
}

/// What came of receiving.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Received {
    /// Everything there is, for now.
    All,
    /// Everything there will ever be.
    Ended,
}

/// The connections, each at a place with a number.
pub(crate) enum Wires {
    /// TCP, plain or with TLS.
    Streams(Streams),
    /// QUIC.
    Quic(Box<Quic>),
}

impl Wires {
    /// No connection yet.
    ///
    /// # Errors
    /// The kernel gives no epoll, or the endpoint names two transports.
    pub(crate) fn new(target: &Target) -> Result<Self> {
        match target.endpoint.transports {
            Transports::Tcp | Transports::Tls => Ok(Self::Streams(Streams::new(target)?)),
            Transports::Quic => Ok(Self::Quic(Box::new(Quic::new(target)?))),
            Transports::TlsQuic => {
                bail!("--addr {}: a load takes one way in, tls or quic", target.endpoint)
            }
        }
    }

    /// Begins to connect at `place`; `number` chooses the source address,
    /// except over QUIC, where all share one socket.
    pub(crate) fn connect(&mut self, place: usize, number: usize) -> io::Result<()> {
        match self {
            Self::Streams(streams) => streams.connect(place, number),
            Self::Quic(quic) => quic.connect(place),
        }
    }

    /// Waits until something happens, at most `wait`, and appends it to `signals`.
    pub(crate) fn poll(
        &mut self,
        wait: Duration,
        signals: &mut Vec<(usize, Signal)>,
    ) -> io::Result<()> {
        match self {
            Self::Streams(streams) => streams.poll(wait, signals),
            Self::Quic(quic) => quic.poll(wait, signals),
        }
    }

    /// Sends `bytes` after what waits already; `false` when the connection is over.
    pub(crate) fn send(&mut self, place: usize, bytes: &[u8]) -> bool {
        match self {
            Self::Streams(streams) => streams.send(place, bytes),
            Self::Quic(quic) => quic.send(place, bytes),
        }
    }

    /// Appends what has arrived to `into`.
    pub(crate) fn receive(&mut self, place: usize, into: &mut Vec<u8>) -> Received {
        match self {
            Self::Streams(streams) => streams.receive(place, into),
            Self::Quic(quic) => quic.receive(place, into),
        }
    }

    /// Ends the connection without ado; `false` when there is none.
    pub(crate) fn close(&mut self, place: usize) -> bool {
        match self {
            Self::Streams(streams) => streams.close(place),
            Self::Quic(quic) => quic.close(place),
        }
    }

    /// Whether the handshake at `place` resumed an earlier session. Plain TCP never does; quinn
    /// does not say.
    pub(crate) fn was_resumed(&self, place: usize) -> bool {
        match self {
            Self::Streams(streams) => streams.was_resumed(place),
            Self::Quic(_) => false,
        }
    }

    /// Whether a connection is at this place, in whatever state.
    pub(crate) fn is_there(&self, place: usize) -> bool {
        match self {
            Self::Streams(streams) => streams.is_there(place),
            Self::Quic(quic) => quic.is_there(place),
        }
    }
}
