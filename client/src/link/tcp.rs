//! A TCP connection to a node. Moves bytes; knows no message. Everything that waits can be
//! cancelled at any await without losing a byte.

use super::incoming::Incoming;
use crate::{
    error::LinkError,
    limits::{CONNECT_MS_MAX, IDLE_BYTES_MAX, READ_BYTES},
};
use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};
use tokio::{
    io::Interest,
    net::{TcpSocket, TcpStream, lookup_host},
    time::timeout,
};
use yao_protocol::{WireError, frame::Frame};

/// One TCP connection.
#[derive(Debug)]
pub struct TcpLink {
    stream: TcpStream,
    incoming: Incoming,
    outgoing: Vec<u8>,
}

impl TcpLink {
    /// Connects to `endpoint` ("host:port"); tries each of its addresses in turn. With `local`,
    /// from that address, to nodes of its family.
    ///
    /// # Errors
    /// No address, or the last error of those tried; the whole takes at most 10 s.
    pub async fn connect(endpoint: &str, local: Option<IpAddr>) -> Result<Self, LinkError> {
        let limit = Duration::from_millis(CONNECT_MS_MAX);
        let stream = timeout(limit, connect_stream(endpoint, local))
            .await
            .map_err(|_| LinkError::Timeout(CONNECT_MS_MAX))??;
        Ok(Self { stream, incoming: Incoming::default(), outgoing: Vec::new() })
    }

    /// Queues whole frames; [`TcpLink::progress`] sends them.
    ///
    /// # Errors
    /// [`LinkError::Backlog`] when the peer does not read.
    pub fn queue(&mut self, bytes: &[u8]) -> Result<(), LinkError> {
        super::queue(&mut self.outgoing, bytes)
    }

    /// Sends what can be sent without waiting.
    ///
    /// # Errors
    /// The connection broke.
    pub fn flush(&mut self) -> Result<(), LinkError> {
        while !self.outgoing.is_empty() {
            match self.stream.try_write(&self.outgoing) {
                Ok(count) => drop(self.outgoing.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        self.outgoing.shrink_to(IDLE_BYTES_MAX);
        Ok(())
    }

    /// Waits until something can be sent or received, and does it. Take every frame with
    /// [`TcpLink::next_frame`] after it.
    ///
    /// # Errors
    /// The connection broke, or the peer closed it.
    pub async fn progress(&mut self) -> Result<(), LinkError> {
        let interest = if self.outgoing.is_empty() {
            Interest::READABLE
        } else {
            Interest::READABLE | Interest::WRITABLE
        };
        let ready = self.stream.ready(interest).await?;
        if ready.is_writable() {
            self.flush()?;
        }
        if ready.is_readable() {
            self.receive()?;
        }
        Ok(())
    }

    /// After an error: takes in more of what came before it. False when that was all. Waits only
    /// until the runtime knows, which on a connection that broke is at once. Take every frame with
    /// [`TcpLink::next_frame`] before and after it.
    pub async fn salvage(&mut self) -> bool {
        let room = self.incoming.room();
        while self.stream.ready(Interest::READABLE).await.is_ok() {
            let received = self.receive();
            if self.incoming.room() < room {
                return true;
            }
            if received.is_err() {
                return false;
            }
        }
        false
    }

    /// Sends everything and says that no more comes.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn finish(&mut self) -> Result<(), LinkError> {
        self.flush()?;
        while !self.outgoing.is_empty() {
            self.stream.writable().await?;
            self.flush()?;
        }
        Ok(tokio::io::AsyncWriteExt::shutdown(&mut self.stream).await?)
    }

    /// The next whole frame that was received.
    ///
    /// # Errors
    /// The bytes are no frame; the server is at fault.
    pub fn next_frame(&mut self) -> Result<Option<Frame<'_>>, WireError> {
        self.incoming.next_frame()
    }

    /// One read. The buffer lives on the stack of this call: an idle link owns none.
    fn receive(&mut self) -> Result<(), LinkError> {
        let mut bytes = [0; READ_BYTES];
        let room = self.incoming.room().min(READ_BYTES);
        assert!(room > 0, "every whole frame is taken before the next read");
        match self.stream.try_read(&mut bytes[..room]) {
            Ok(0) => Err(LinkError::Closed),
            Ok(count) => {
                self.incoming.push(&bytes[..count]);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Tries each address of `endpoint` ("host:port") in turn, without a limit of time.
pub(super) async fn connect_stream(
    endpoint: &str,
    local: Option<IpAddr>,
) -> Result<TcpStream, LinkError> {
    let mut last = LinkError::Address;
    for address in lookup_host(endpoint).await? {
        match connect_address(address, local).await {
            Ok(stream) => {
                // A shake is one small frame: waiting to fill a segment would only delay it.
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn connect_address(
    address: SocketAddr,
    local: Option<IpAddr>,
) -> Result<TcpStream, LinkError> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    if let Some(local) = local {
        if local.is_ipv4() != address.is_ipv4() {
            return Err(LinkError::Address);
        }
        socket.bind(SocketAddr::new(local, 0))?;
    }
    Ok(socket.connect(address).await?)
}
