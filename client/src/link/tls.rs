//! TLS 1.3 over TCP. Dropping a future that waits for it loses no byte: what is in flight lies in
//! the TLS connection, not in the future.

use super::{
    incoming::Incoming,
    lookup::{deadline, lookup},
    tcp::connect_stream,
    trust::Trust,
};
use crate::{
    error::LinkError,
    limits::{CONNECT_MS_MAX, IDLE_BYTES_MAX, READ_BYTES},
};
use rustls::ClientConnection;
use std::{
    io::{self, Read, Write},
    net::IpAddr,
};
use tokio::{io::Interest, net::TcpStream, time::timeout_at};
use yao_protocol::{
    WireError,
    endpoint::{ALPN, Endpoint},
    frame::Frame,
};

/// One TLS connection, its handshake complete.
#[derive(Debug)]
pub struct TlsLink {
    stream: TcpStream,
    tls: ClientConnection,
    incoming: Incoming,
    /// Frames that the TLS connection has not taken yet.
    outgoing: Vec<u8>,
    /// Whether the TLS connection may hold plaintext for which `incoming` had no room.
    plaintext_waits: bool,
}

impl TlsLink {
    /// Connects to `endpoint`, whose addresses it races, and shakes hands. With `local`, from that
    /// address, to nodes of its family.
    ///
    /// # Errors
    /// No address, or the last error of those tried, or a server that is not trusted; the whole
    /// takes at most 10 s.
    pub async fn connect(
        endpoint: &Endpoint,
        local: Option<IpAddr>,
        trust: &Trust,
    ) -> Result<Self, LinkError> {
        let name = trust.server_name(endpoint).ok_or(LinkError::Address)?;
        let tls = ClientConnection::new(trust.tls(), name).map_err(|error| tls_error(&error))?;
        let deadline = deadline();
        let addresses = lookup(&endpoint.address(), local, deadline).await?;
        let connecting = async {
            let stream = connect_stream(addresses, local).await?;
            let (incoming, outgoing) = (Incoming::default(), Vec::new());
            let mut link = Self { stream, tls, incoming, outgoing, plaintext_waits: false };
            link.shake_hands().await?;
            Ok(link)
        };
        timeout_at(deadline, connecting).await.map_err(|_| LinkError::Timeout(CONNECT_MS_MAX))?
    }

    /// Queues whole frames; [`TlsLink::progress`] sends them.
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
        loop {
            // One piece at a time, so that what the peer does not read stays countable.
            if !self.tls.wants_write() && !self.outgoing.is_empty() {
                let count = self.tls.writer().write(&self.outgoing)?;
                self.outgoing.drain(..count);
                self.outgoing.shrink_to(IDLE_BYTES_MAX);
            }
            if !self.tls.wants_write() {
                return Ok(());
            }
            match self.tls.write_tls(&mut Socket(&self.stream)) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Waits until something can be sent or received, and does it. Take every frame with
    /// [`TlsLink::next_frame`] after it.
    ///
    /// # Errors
    /// The connection broke, or the peer closed it.
    pub async fn progress(&mut self) -> Result<(), LinkError> {
        if self.plaintext_waits {
            return self.take_plaintext();
        }
        self.flush()?;
        let ready = self.stream.ready(self.interest()).await?;
        if ready.is_readable() {
            self.receive()?;
            self.take_plaintext()?;
        }
        self.flush()
    }

    /// After an error: takes in more of what came before it. False when that was all. Waits only
    /// until the runtime knows, which on a connection that broke is at once. Take every frame with
    /// [`TlsLink::next_frame`] before and after it.
    pub async fn salvage(&mut self) -> bool {
        let room = self.incoming.room();
        loop {
            // At the end of the socket, plaintext of its last bytes may still wait.
            let taken = self.take_plaintext();
            if self.incoming.room() < room {
                return true;
            }
            if taken.is_err() || self.stream.ready(Interest::READABLE).await.is_err() {
                return false;
            }
            let received = self.receive();
            if !matches!(received, Ok(true)) {
                drop(self.take_plaintext());
                return self.incoming.room() < room;
            }
        }
    }

    /// Sends everything and says that no more comes.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn finish(&mut self) -> Result<(), LinkError> {
        self.drain().await?;
        self.tls.send_close_notify();
        self.drain().await?;
        Ok(tokio::io::AsyncWriteExt::shutdown(&mut self.stream).await?)
    }

    /// The next whole frame that was received.
    ///
    /// # Errors
    /// The bytes are no frame; the server is at fault.
    pub fn next_frame(&mut self) -> Result<Option<Frame<'_>>, WireError> {
        self.incoming.next_frame()
    }

    /// Whether the server took up an earlier session.
    #[must_use]
    pub fn is_resumed(&self) -> bool {
        self.tls.handshake_kind() == Some(rustls::HandshakeKind::Resumed)
    }

    async fn shake_hands(&mut self) -> Result<(), LinkError> {
        while self.tls.is_handshaking() {
            self.flush()?;
            let ready = self.stream.ready(self.interest()).await?;
            if ready.is_readable() && !self.receive()? {
                return Err(LinkError::Closed);
            }
        }
        if self.tls.alpn_protocol() != Some(ALPN) {
            return Err(LinkError::Tls("the server does not speak yao/1".to_owned()));
        }
        // The client's last message lets the server answer.
        self.flush()?;
        // What the server sent behind its own last message.
        self.take_plaintext()
    }

    fn interest(&self) -> Interest {
        if self.tls.wants_write() || !self.outgoing.is_empty() {
            Interest::READABLE | Interest::WRITABLE
        } else {
            Interest::READABLE
        }
    }

    async fn drain(&mut self) -> Result<(), LinkError> {
        self.flush()?;
        while self.tls.wants_write() || !self.outgoing.is_empty() {
            self.stream.writable().await?;
            self.flush()?;
        }
        Ok(())
    }

    /// One read from the socket, decrypted. False at its end.
    fn receive(&mut self) -> Result<bool, LinkError> {
        let count = match self.tls.read_tls(&mut Socket(&self.stream)) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
            Err(error) => return Err(error.into()),
        };
        if let Err(error) = self.tls.process_new_packets() {
            // The alert says why; that it cannot be sent changes nothing.
            drop(self.flush());
            return Err(tls_error(&error));
        }
        Ok(count > 0)
    }

    /// Moves plaintext to `incoming` as far as there is room.
    fn take_plaintext(&mut self) -> Result<(), LinkError> {
        let mut bytes = [0; READ_BYTES];
        loop {
            let room = self.incoming.room().min(READ_BYTES);
            self.plaintext_waits = room == 0;
            if room == 0 {
                return Ok(());
            }
            match self.tls.reader().read(&mut bytes[..room]) {
                Ok(0) => return Err(LinkError::Closed),
                Ok(count) => self.incoming.push(&bytes[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                // An end without close_notify: frames have lengths, so nothing is cut unnoticed.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return Err(LinkError::Closed);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// The socket as the TLS connection wants it; never waits.
struct Socket<'a>(&'a TcpStream);

impl Read for Socket<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(bytes)
    }
}

impl Write for Socket<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn tls_error(error: &rustls::Error) -> LinkError {
    LinkError::Tls(error.to_string())
}
