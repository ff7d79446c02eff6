//! QUIC, driven directly: one socket, one connection, one stream, no task of its own. Dropping a
//! future that waits for it loses no byte, and dropping the link tells the server.

use super::{
    incoming::Incoming,
    lookup::{deadline, lookup},
    trust::Trust,
};
use crate::{
    error::LinkError,
    limits::{IDLE_BYTES_MAX, QUIC_SILENCE_MS_MAX, READ_BYTES},
};
use bytes::{Bytes, BytesMut};
use quinn_proto::{
    Connection, ConnectionError, ConnectionHandle, DatagramEvent, Dir, Endpoint as Demultiplexer,
    EndpointConfig, Event, ReadError, StreamEvent, StreamId, VarInt, WriteError,
};
use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    io::Interest,
    net::UdpSocket,
    time::{sleep_until, timeout},
};
use yao_protocol::{WireError, endpoint::Endpoint, frame::Frame};

/// Datagrams taken in one go before others get their turn.
const DATAGRAMS_PER_READ_MAX: usize = 16;

/// One QUIC connection, its handshake complete and its stream open.
#[derive(Debug)]
pub struct QuicLink {
    socket: UdpSocket,
    remote: SocketAddr,
    demultiplexer: Demultiplexer,
    handle: ConnectionHandle,
    connection: Connection,
    /// The stream of the session, once the handshake is complete.
    stream: Option<StreamId>,
    incoming: Incoming,
    outgoing: Vec<u8>,
    /// A datagram for which the socket had no room.
    blocked: Option<Vec<u8>>,
    /// Whether the stream may hold bytes for which `incoming` had no room.
    stream_waits: bool,
    /// The first packet that must be acknowledged since the server was last heard.
    unheard_since: Option<Instant>,
    /// Whether the server has all that was sent on the finished stream.
    finished: bool,
    /// Why the connection ended; told when what came before it was read.
    ended: Option<LinkError>,
}

impl QuicLink {
    /// Connects to `endpoint` and shakes hands; tries each of its addresses in turn. With `local`,
    /// from that address, to nodes of its family.
    ///
    /// # Errors
    /// No address, or the last error of those tried, or a server that is not trusted; the whole
    /// takes at most 10 s.
    pub async fn connect(
        endpoint: &Endpoint,
        local: Option<IpAddr>,
        trust: &Trust,
    ) -> Result<Self, LinkError> {
        let name = trust.server_name(endpoint).ok_or(LinkError::Address)?.to_str().into_owned();
        let deadline = deadline();
        let remotes = lookup(&endpoint.address(), local, deadline).await?;
        // An address that does not answer says nothing, so each has its share of the time.
        let left = deadline.saturating_duration_since(tokio::time::Instant::now());
        let limit = left / u32::try_from(remotes.len().max(1)).expect("few addresses");
        let mut last = LinkError::Address;
        for remote in remotes {
            let connecting = async {
                let mut link = Self::start(remote, local, trust, &name)?;
                while link.stream.is_none() {
                    link.progress().await?;
                }
                Ok(link)
            };
            match timeout(limit, connecting).await {
                Ok(Ok(link)) => return Ok(link),
                Ok(Err(error)) => last = last.or(error),
                Err(_) => last = LinkError::Timeout(limit.as_millis() as u64),
            }
        }
        Err(last)
    }

    fn start(
        remote: SocketAddr,
        local: Option<IpAddr>,
        trust: &Trust,
        name: &str,
    ) -> Result<Self, LinkError> {
        let socket = bind(remote, local)?;
        let config = Arc::new(EndpointConfig::default());
        let mut demultiplexer = Demultiplexer::new(config, None, false, None);
        let (handle, connection) = demultiplexer
            .connect(now(), trust.quic(), remote, name)
            .map_err(|error| LinkError::Quic(error.to_string()))?;
        Ok(Self {
            socket,
            remote,
            demultiplexer,
            handle,
            connection,
            stream: None,
            incoming: Incoming::default(),
            outgoing: Vec::new(),
            blocked: None,
            stream_waits: false,
            unheard_since: None,
            finished: false,
            ended: None,
        })
    }

    /// Queues whole frames; [`QuicLink::progress`] sends them.
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
        self.drive(now())
    }

    /// Waits until something can be sent or received, and does it. Take every frame with
    /// [`QuicLink::next_frame`] after it.
    ///
    /// # Errors
    /// The connection broke, or the peer closed it, or the network swallows every packet.
    pub async fn progress(&mut self) -> Result<(), LinkError> {
        if self.stream_waits {
            return self.take_stream();
        }
        self.drive(now())?;
        if let Some(error) = &self.ended {
            return Err(error.clone());
        }
        let mut interest = Interest::READABLE | Interest::ERROR;
        if self.blocked.is_some() {
            interest |= Interest::WRITABLE;
        }
        let silent_at = self.silent_at();
        let wake_at = self.connection.poll_timeout().into_iter().chain(silent_at).min();
        tokio::select! {
            ready = self.socket.ready(interest) => drop(ready?),
            () = sleep_or_forever(wake_at) => {}
        }
        let now = now();
        // Also when a timer came first: what has arrived in a device that was busy counts.
        self.receive(now)?;
        self.connection.handle_timeout(now);
        self.drive(now)?;
        match self.silent_at() {
            Some(at) if now >= at => Err(LinkError::Silent(QUIC_SILENCE_MS_MAX)),
            _ => Ok(()),
        }
    }

    /// After an error: takes in more of what came before it. False when that was all. May wait for
    /// as long as the connection lives: the rest can be under way. Take every frame with
    /// [`QuicLink::next_frame`] before and after it.
    pub async fn salvage(&mut self) -> bool {
        let room = self.incoming.room();
        loop {
            let now = now();
            let received = self.receive(now);
            let taken = self.take_stream();
            if self.incoming.room() < room {
                return true;
            }
            // What arrived is acknowledged, so that the server sends on.
            let transmitted = self.transmit(now);
            let ended = self.connection.is_closed();
            if ended || received.and(taken).and(transmitted).is_err() {
                return false;
            }
            if self.socket.readable().await.is_err() {
                return false;
            }
        }
    }

    /// Sends everything and says that no more comes.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn finish(&mut self) -> Result<(), LinkError> {
        let mut said = false;
        while !self.finished && self.ended.is_none() {
            if self.outgoing.is_empty() && !said {
                let stream = self.stream.expect("a link has its stream");
                said = true;
                if self.connection.send_stream(stream).finish().is_err() {
                    // The server stopped listening: there is nobody to tell.
                    break;
                }
            }
            // What the server still says is not wanted any more.
            while self.incoming.next_frame().is_ok_and(|frame| frame.is_some()) {}
            self.progress().await?;
        }
        Ok(())
    }

    /// The next whole frame that was received.
    ///
    /// # Errors
    /// The bytes are no frame; the server is at fault.
    pub fn next_frame(&mut self) -> Result<Option<Frame<'_>>, WireError> {
        self.incoming.next_frame()
    }

    /// The device moved to another network: goes on from a new socket, with `local` at that
    /// address, and tells the server by a packet from there. The session does not notice.
    ///
    /// # Errors
    /// No socket could be made; the link goes on with the one it has.
    pub fn rebind(&mut self, local: Option<IpAddr>) -> Result<(), LinkError> {
        self.socket = bind(self.remote, local)?;
        self.blocked = None;
        // What the old network swallowed is no fault of the new one.
        self.unheard_since = None;
        self.connection.local_address_changed();
        self.drive(now())
    }

    /// Whether nothing has come for so long that an acknowledgement is late.
    #[must_use]
    pub fn is_unheard(&self) -> bool {
        let late = Duration::from_millis(QUIC_SILENCE_MS_MAX / 2);
        self.unheard_since.is_some_and(|since| now() >= since + late)
    }

    /// When the silence of the network becomes its failure. Not before the handshake is complete,
    /// which has a limit of its own and competes with TLS anyway.
    fn silent_at(&self) -> Option<Instant> {
        let since = self.unheard_since.filter(|_| self.stream.is_some());
        since.map(|since| since + Duration::from_millis(QUIC_SILENCE_MS_MAX))
    }

    /// Works until the connection wants nothing more than time or datagrams.
    fn drive(&mut self, now: Instant) -> Result<(), LinkError> {
        loop {
            self.write_stream()?;
            self.transmit(now)?;
            while let Some(event) = self.connection.poll_endpoint_events() {
                if let Some(event) = self.demultiplexer.handle_event(self.handle, event) {
                    self.connection.handle_event(event);
                }
            }
            let Some(event) = self.connection.poll() else { return Ok(()) };
            self.handle_event(event)?;
        }
    }

    fn handle_event(&mut self, event: Event) -> Result<(), LinkError> {
        match event {
            Event::Connected => {
                self.stream = self.connection.streams().open(Dir::Bi);
                if self.stream.is_none() {
                    return Err(LinkError::Quic("the server allows no stream".to_owned()));
                }
                Ok(())
            }
            Event::ConnectionLost { reason } => {
                let read = self.take_stream();
                self.ended = Some(match reason {
                    ConnectionError::ApplicationClosed(_) => LinkError::Closed,
                    reason => LinkError::Quic(reason.to_string()),
                });
                // Before the stream is open there is nothing that could have been read.
                if self.stream.is_some() { read } else { Err(self.ended.clone().expect("set")) }
            }
            Event::Stream(StreamEvent::Readable { .. }) => self.take_stream(),
            Event::Stream(StreamEvent::Finished { .. }) => {
                self.finished = true;
                Ok(())
            }
            Event::Stream(StreamEvent::Stopped { .. }) => Err(LinkError::Closed),
            // More room to write is taken by the next turn of the loop.
            Event::Stream(_)
            | Event::HandshakeDataReady
            | Event::DatagramReceived
            | Event::DatagramsUnblocked => Ok(()),
        }
    }

    fn write_stream(&mut self) -> Result<(), LinkError> {
        let Some(stream) = self.stream.filter(|_| self.ended.is_none()) else { return Ok(()) };
        while !self.outgoing.is_empty() {
            match self.connection.send_stream(stream).write(&self.outgoing) {
                Ok(count) => drop(self.outgoing.drain(..count)),
                Err(WriteError::Blocked) => return Ok(()),
                Err(WriteError::Stopped(_) | WriteError::ClosedStream) => {
                    return Err(LinkError::Closed);
                }
            }
        }
        self.outgoing.shrink_to(IDLE_BYTES_MAX);
        Ok(())
    }

    fn transmit(&mut self, now: Instant) -> Result<(), LinkError> {
        loop {
            let datagram = match self.blocked.take() {
                Some(datagram) => datagram,
                None => {
                    let mut datagram = Vec::new();
                    let asking = self.asking_count();
                    if self.connection.poll_transmit(now, 1, &mut datagram).is_none() {
                        return Ok(());
                    }
                    if self.asking_count() > asking {
                        self.unheard_since.get_or_insert(now);
                    }
                    datagram
                }
            };
            match self.socket.try_send(&datagram) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.blocked = Some(datagram);
                    return Ok(());
                }
                // Nobody listens at this port: the host itself says so.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    return Err(error.into());
                }
                // A network that is away for a moment is a lost packet; silence tells the rest.
                Err(_) => {}
            }
        }
    }

    /// Frames sent so far that the server must acknowledge.
    fn asking_count(&self) -> u64 {
        let sent = self.connection.stats().frame_tx;
        sent.stream + sent.ping + sent.crypto
    }

    /// What the network said about packets sent before, such as that nobody listens there.
    fn network_error(&self) -> Option<io::Error> {
        let take = || match self.socket.take_error()? {
            Some(error) => Ok(error),
            // Told once: from now on the socket is not ready for this any more.
            None => Err(io::ErrorKind::WouldBlock.into()),
        };
        self.socket.try_io(Interest::ERROR, take).ok()
    }

    fn receive(&mut self, now: Instant) -> Result<(), LinkError> {
        if let Some(error) = self.network_error()
            && error.kind() == io::ErrorKind::ConnectionRefused
        {
            return Err(error.into());
        }
        let mut bytes = [0; READ_BYTES];
        for _ in 0..DATAGRAMS_PER_READ_MAX {
            let count = match self.socket.try_recv(&mut bytes) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    return Err(error.into());
                }
                Err(_) => return Ok(()),
            };
            let mut answer = Vec::new();
            let datagram = BytesMut::from(&bytes[..count]);
            let event =
                self.demultiplexer.handle(now, self.remote, None, None, datagram, &mut answer);
            if let Some(DatagramEvent::ConnectionEvent(_, event)) = event {
                self.unheard_since = None;
                self.connection.handle_event(event);
            }
        }
        Ok(())
    }

    /// Moves what the stream holds to `incoming` as far as there is room.
    fn take_stream(&mut self) -> Result<(), LinkError> {
        let Some(stream) = self.stream else { return Ok(()) };
        let mut stream = self.connection.recv_stream(stream);
        let mut chunks = stream.read(true).map_err(|_| LinkError::Closed)?;
        let result = loop {
            let room = self.incoming.room();
            self.stream_waits = room == 0;
            if room == 0 {
                break Ok(());
            }
            match chunks.next(room) {
                Ok(Some(chunk)) => self.incoming.push(&chunk.bytes),
                Ok(None) | Err(ReadError::Reset(_)) => break Err(LinkError::Closed),
                Err(ReadError::Blocked) => break Ok(()),
            }
        };
        // Leaving it here tells the connection what was read; the next turn of `drive` sends that
        // the server has more room.
        drop(chunks);
        result
    }
}

impl Drop for QuicLink {
    /// One packet, so that the server need not wait for its idle timeout.
    fn drop(&mut self) {
        if !self.connection.is_closed() {
            let now = now();
            self.connection.close(now, VarInt::from_u32(0), Bytes::new());
            // It is a courtesy: what cannot be sent at once is not sent.
            drop(self.transmit(now));
        }
    }
}

/// A socket from which only `remote` is heard.
fn bind(remote: SocketAddr, local: Option<IpAddr>) -> Result<UdpSocket, LinkError> {
    let any = match remote {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let socket = std::net::UdpSocket::bind(SocketAddr::new(local.unwrap_or(any), 0))?;
    socket.connect(remote)?;
    socket.set_nonblocking(true)?;
    Ok(UdpSocket::from_std(socket)?)
}

/// QUIC's own timers run on the same clock as tokio's.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

async fn sleep_or_forever(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
