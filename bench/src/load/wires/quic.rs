//! Many QUIC connections on one UDP socket: quinn-proto driven directly, each connection with one
//! bidirectional stream. What a client costs matters little here, but 50,000 of them must fit.

mod settings;

use super::{Received, Signal};
use crate::load::Target;
use anyhow::{Context, Result};
use bytes::{Bytes, BytesMut};
use mio::{Events, Interest, Poll, Token, net::UdpSocket};
use quinn_proto::{
    ClientConfig, Connection, ConnectionHandle, DatagramEvent, Dir, Endpoint, Event, StreamEvent,
    StreamId, Transmit, VarInt,
};
use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    io::{self, ErrorKind},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

/// The one source of events.
const SOCKET: Token = Token(0);
/// No place: nobody asks for the connection any more, it only says good-bye.
const NOWHERE: usize = usize::MAX;
/// Datagrams read before those who got some have their turn.
const READS_MAX: usize = 2_048;
/// Largest datagram.
const DATAGRAM_BYTES: usize = 65_535;

struct Link {
    quic: Connection,
    place: usize,
    stream: Option<StreamId>,
    /// What quinn would not take yet.
    unsent: Vec<u8>,
    touched: bool,
    readable: bool,
    /// Nothing follows from the server.
    ended: bool,
    /// The entry among the timers that counts.
    timer: Option<Instant>,
}

/// See the module.
pub(crate) struct Quic {
    poll: Poll,
    events: Events,
    socket: UdpSocket,
    endpoint: Endpoint,
    config: ClientConfig,
    name: String,
    address: SocketAddr,
    /// By quinn's handle.
    links: Vec<Option<Box<Link>>>,
    /// Handles by place.
    places: Vec<Option<usize>>,
    touched: Vec<usize>,
    timers: BinaryHeap<Reverse<(Instant, usize)>>,
    /// Packets that the socket would not take; nothing is sent before them.
    held: Option<(Transmit, Vec<u8>)>,
    out: Vec<u8>,
    buffer: Box<[u8]>,
    /// The socket may hold more than was read.
    read_again: bool,
}

impl Quic {
    pub(super) fn new(target: &Target) -> Result<Self> {
        let (tls, _) = target.tls.as_ref().context("QUIC has its own TLS settings")?;
        let poll = Poll::new()?;
        let mut socket = settings::socket(target.address)?;
        let interest = Interest::READABLE | Interest::WRITABLE;
        poll.registry().register(&mut socket, SOCKET, interest)?;
        Ok(Self {
            poll,
            events: Events::with_capacity(8),
            socket,
            endpoint: Endpoint::new(Arc::default(), None, false, None),
            config: settings::client(tls)?,
            name: target.server_name(),
            address: target.address,
            links: Vec::new(),
            places: Vec::new(),
            touched: Vec::new(),
            timers: BinaryHeap::new(),
            held: None,
            out: Vec::new(),
            buffer: vec![0; DATAGRAM_BYTES].into_boxed_slice(),
            read_again: false,
        })
    }

    pub(super) fn connect(&mut self, place: usize) -> io::Result<()> {
        let connected =
            self.endpoint.connect(Instant::now(), self.config.clone(), self.address, &self.name);
        let (handle, quic) = connected.map_err(io::Error::other)?;
        let link = Link {
            quic,
            place,
            stream: None,
            unsent: Vec::new(),
            touched: false,
            readable: false,
            ended: false,
            timer: None,
        };
        if self.links.len() <= handle.0 {
            self.links.resize_with(handle.0 + 1, || None);
        }
        self.links[handle.0] = Some(Box::new(link));
        if self.places.len() <= place {
            self.places.resize(place + 1, None);
        }
        self.places[place] = Some(handle.0);
        self.touch(handle.0);
        Ok(())
    }

    pub(super) fn poll(
        &mut self,
        wait: Duration,
        signals: &mut Vec<(usize, Signal)>,
    ) -> io::Result<()> {
        self.serve_touched(signals);
        let until_timer = self
            .timers
            .peek()
            .map_or(wait, |Reverse((at, _))| at.saturating_duration_since(Instant::now()));
        let idle = signals.is_empty() && !self.read_again;
        let wait = if idle { wait.min(until_timer) } else { Duration::ZERO };
        self.poll.poll(&mut self.events, Some(wait)).or_else(|error| match error.kind() {
            ErrorKind::Interrupted => Ok(()),
            _ => Err(error),
        })?;
        if self.events.iter().any(mio::event::Event::is_writable)
            && let Some((transmit, packet)) = self.held.take()
        {
            self.send_packet(transmit, packet);
        }
        self.read_socket()?;
        self.fire_timers();
        self.serve_touched(signals);
        Ok(())
    }

    fn read_socket(&mut self) -> io::Result<()> {
        self.read_again = false;
        for _ in 0..READS_MAX {
            let (read, from) = match self.socket.recv_from(&mut self.buffer) {
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                // Somebody's ICMP error; the connections' own timers say who is gone.
                Err(error) if is_passing(error.kind()) => continue,
                Err(error) => return Err(error),
            };
            let now = Instant::now();
            let datagram = BytesMut::from(&self.buffer[..read]);
            self.out.clear();
            match self.endpoint.handle(now, from, None, None, datagram, &mut self.out) {
                Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                    if let Some(link) = link(&mut self.links, handle.0) {
                        link.quic.handle_event(event);
                        self.touch(handle.0);
                    }
                }
                Some(DatagramEvent::Response(transmit)) => {
                    let packet = self.out[..transmit.size].to_vec();
                    self.send_packet(transmit, packet);
                }
                // A client takes no connections.
                Some(DatagramEvent::NewConnection(_)) | None => {}
            }
        }
        self.read_again = true;
        Ok(())
    }

    fn touch(&mut self, handle: usize) {
        if let Some(link) = link(&mut self.links, handle)
            && !link.touched
        {
            link.touched = true;
            self.touched.push(handle);
        }
    }

    /// Tells what happened to the touched connections, and sends what they have to say.
    fn serve_touched(&mut self, signals: &mut Vec<(usize, Signal)>) {
        while self.held.is_none() {
            let Some(handle) = self.touched.pop() else { return };
            let Some(link) = link(&mut self.links, handle) else { continue };
            link.touched = false;
            link.read_events(signals);
            self.transmit(handle);
        }
    }

    fn transmit(&mut self, handle: usize) {
        let now = Instant::now();
        while self.held.is_none() {
            let Some(link) = link(&mut self.links, handle) else { return };
            self.out.clear();
            // One datagram at a time: phones do not send in bulk.
            let Some(transmit) = link.quic.poll_transmit(now, 1, &mut self.out) else { break };
            let packet = std::mem::take(&mut self.out);
            self.out = self.send_packet(transmit, packet);
        }
        if self.held.is_some() {
            self.touch(handle);
        }
        self.pass_endpoint_events(handle);
        let Some(link) = link(&mut self.links, handle) else { return };
        let Some(at) = link.quic.poll_timeout() else { return };
        // A deadline that moves away is found when the earlier entry comes up.
        if link.timer.is_none_or(|timer| at < timer) {
            link.timer = Some(at);
            self.timers.push(Reverse((at, handle)));
        }
    }

    fn pass_endpoint_events(&mut self, handle: usize) {
        let Some(link) = link(&mut self.links, handle) else { return };
        let mut drained = false;
        while let Some(event) = link.quic.poll_endpoint_events() {
            drained |= event.is_drained();
            if let Some(event) = self.endpoint.handle_event(ConnectionHandle(handle), event) {
                link.quic.handle_event(event);
            }
        }
        if drained {
            if let Some(place) = self.places.get_mut(link.place).filter(|at| **at == Some(handle)) {
                *place = None;
            }
            self.links[handle] = None;
        }
    }

    fn fire_timers(&mut self) {
        let now = Instant::now();
        while let Some(Reverse((at, handle))) = self.timers.peek().copied() {
            if at > now {
                return;
            }
            self.timers.pop();
            let Some(link) = link(&mut self.links, handle) else { continue };
            if link.timer != Some(at) {
                continue;
            }
            link.timer = None;
            link.quic.handle_timeout(now);
            self.touch(handle);
        }
    }

    /// Sends one packet, or keeps it while the socket is full; returns the buffer.
    fn send_packet(&mut self, transmit: Transmit, packet: Vec<u8>) -> Vec<u8> {
        match self.socket.send_to(&packet[..transmit.size], transmit.destination) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.held = Some((transmit, packet));
                Vec::new()
            }
            // Anything else is a lost packet, and QUIC sends it again.
            Ok(_) | Err(_) => packet,
        }
    }

    fn at(&mut self, place: usize) -> Option<(usize, &mut Link)> {
        let handle = self.places.get(place).copied().flatten()?;
        link(&mut self.links, handle).map(|link| (handle, link))
    }

    pub(super) fn send(&mut self, place: usize, bytes: &[u8]) -> bool {
        let Some((handle, link)) = self.at(place) else { return false };
        link.unsent.extend_from_slice(bytes);
        let sent = link.write();
        // At once: the closed loop's latency is the server's, not ours.
        self.transmit(handle);
        sent
    }

    pub(super) fn receive(&mut self, place: usize, into: &mut Vec<u8>) -> Received {
        let Some((handle, link)) = self.at(place) else { return Received::Ended };
        let received = link.read(into);
        // Credit for the server, if it needs any.
        self.touch(handle);
        received
    }

    pub(super) fn close(&mut self, place: usize) -> bool {
        let Some((handle, link)) = self.at(place) else { return false };
        link.place = NOWHERE;
        link.quic.close(Instant::now(), VarInt::from_u32(0), Bytes::new());
        self.places[place] = None;
        self.transmit(handle);
        true
    }

    pub(super) fn is_there(&self, place: usize) -> bool {
        self.places.get(place).is_some_and(Option::is_some)
    }
}

impl Link {
    fn read_events(&mut self, signals: &mut Vec<(usize, Signal)>) {
        let mut lost = false;
        while let Some(event) = self.quic.poll() {
            match event {
                Event::Connected => {
                    self.stream = self.quic.streams().open(Dir::Bi);
                    if self.stream.is_some() && self.place != NOWHERE {
                        signals.push((self.place, Signal::Open));
                    } else {
                        lost = true;
                    }
                }
                Event::Stream(StreamEvent::Readable { .. }) => self.readable = true,
                Event::Stream(StreamEvent::Writable { .. }) => lost |= !self.write(),
                Event::Stream(StreamEvent::Stopped { .. }) | Event::ConnectionLost { .. } => {
                    self.ended = true;
                    lost = true;
                }
                _ => {}
            }
        }
        if self.place == NOWHERE {
            return;
        }
        // What the server said before it left is read first.
        if self.readable {
            signals.push((self.place, Signal::Bytes));
        } else if lost {
            signals.push((self.place, Signal::Lost));
        }
    }

    fn read(&mut self, into: &mut Vec<u8>) -> Received {
        self.readable = false;
        let Some(id) = self.stream else { return Received::All };
        let mut stream = self.quic.recv_stream(id);
        let Ok(mut chunks) = stream.read(true) else { return Received::Ended };
        let blocked = loop {
            match chunks.next(usize::MAX) {
                Ok(Some(chunk)) => into.extend_from_slice(&chunk.bytes),
                Err(quinn_proto::ReadError::Blocked) => break true,
                Ok(None) | Err(_) => break false,
            }
        };
        let _more = chunks.finalize();
        if blocked && !self.ended { Received::All } else { Received::Ended }
    }

    /// Hands what is kept to quinn; `false` when the stream is gone.
    fn write(&mut self) -> bool {
        let Some(id) = self.stream else { return false };
        let mut sent = 0;
        while sent < self.unsent.len() {
            match self.quic.send_stream(id).write(&self.unsent[sent..]) {
                Ok(count) => sent += count,
                Err(quinn_proto::WriteError::Blocked) => break,
                Err(_) => return false,
            }
        }
        self.unsent.drain(..sent);
        if self.unsent.is_empty() {
            self.unsent = Vec::new();
        }
        true
    }
}

fn link(links: &mut [Option<Box<Link>>], handle: usize) -> Option<&mut Link> {
    links.get_mut(handle)?.as_deref_mut()
}

const fn is_passing(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::ConnectionReset | ErrorKind::ConnectionRefused | ErrorKind::Interrupted
    )
}
