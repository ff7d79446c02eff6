//! The connections of a QUIC thread: quinn-proto's state by handle, who of them has which session,
//! their timers, and packets on their way out. Knows no frame and no rule.

mod packets;
mod timers;

use self::{
    packets::{CLOSED_MS_MAX, LINGER_MS_MAX},
    timers::Timers,
};
use super::{settings, socket::QuicPorts};
use crate::{
    clock::Clock,
    prefetch::prefetch,
    sessions::{Carrier, CarrierCounters},
    tls::TlsSettings,
};
use bytes::{Bytes, BytesMut};
use mio::net::UdpSocket;
use quinn_proto::{
    Connection, ConnectionEvent, ConnectionHandle, DatagramEvent, Dir, Endpoint, Event, Incoming,
    StreamEvent, StreamId, Transmit, VarInt, WriteError,
};
use quinn_udp::{RecvMeta, UdpSocketState};
use std::{sync::Arc, time::Instant};
use yao_engine::{ConnectionId, Timestamp};

/// No slot, no handle.
const NONE: u32 = u32::MAX;
/// In the place of a handle: the connection is gone, its session not yet.
const ORPHAN: u32 = u32::MAX - 1;
/// Bytes a peer may leave unread beyond quinn's own window before it is cut.
const UNSENT_BYTES_MAX: usize = 64 * 1024;
/// Packets that are told apart before the first of them is worked on.
const AHEAD: usize = 16;
/// Application code of the CONNECTION_CLOSE that ends a session.
const CLOSE_CODE: VarInt = VarInt::from_u32(0);

/// What happened to a connection, for its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The handshake is done.
    Secured(u32),
    /// The client sent bytes.
    Received(u32),
    /// It is over.
    Ended(u32),
}

struct Carried {
    quic: Connection,
    /// The session's slot; `NONE` once the session is over.
    slot: u32,
    stream: Option<StreamId>,
    /// What quinn would not take yet.
    unsent: Vec<u8>,
    touched: bool,
    securing: bool,
    /// The peer says nothing more: its stream is finished.
    finished: bool,
    /// The peer is gone, or will not hear our stream.
    ended: bool,
    /// CONNECTION_CLOSE is to be sent, or was.
    closed: bool,
    /// This connection's entries among the timers: a near one and a far one.
    near: Timestamp,
    far: Timestamp,
    /// The session is over: its last words are waited for until then, or its end once closed.
    linger: Timestamp,
}

/// See the module.
pub(super) struct Connections {
    endpoint: Endpoint,
    carried: Vec<Option<Box<Carried>>>,
    /// How many of them there are.
    live: usize,
    /// Handles by the engine's slot.
    handles: Vec<u32>,
    touched: Vec<u32>,
    /// Packets that were told apart, and wait for their connections to come into the cache.
    arrived: Vec<(u32, ConnectionEvent)>,
    /// Slots whose connection is gone.
    orphans: Vec<u32>,
    timers: Timers,
    socket: Arc<UdpSocket>,
    state: Arc<UdpSocketState>,
    clock: Clock,
    now: Timestamp,
    instant: Instant,
    out: Vec<u8>,
    /// A packet that the socket would not take; nothing is sent before it.
    held: Option<(Transmit, Vec<u8>)>,
    settings: Option<Arc<quinn_proto::ServerConfig>>,
    pub(super) counters: CarrierCounters,
}

impl Connections {
    pub(super) fn new(ports: &QuicPorts, clock: Clock) -> Self {
        let config = Arc::new(settings::endpoint_config(&ports.reset_key, ports.place));
        let settings = ports.tls.quic();
        let endpoint = Endpoint::new(config, settings.clone(), true, None);
        let now = clock.now();
        Self {
            endpoint,
            carried: Vec::new(),
            live: 0,
            handles: Vec::new(),
            touched: Vec::new(),
            arrived: Vec::with_capacity(AHEAD),
            orphans: Vec::new(),
            timers: Timers::default(),
            socket: Arc::clone(&ports.socket),
            state: Arc::clone(&ports.state),
            clock,
            now,
            instant: clock.instant(now),
            out: Vec::new(),
            held: None,
            settings,
            counters: CarrierCounters::default(),
        }
    }

    /// The time of everything that follows.
    pub(super) fn now_set(&mut self, now: Timestamp) {
        self.now = now;
        self.instant = self.clock.instant(now);
    }

    /// When [`Connections::fire_timers`] wants to be called next.
    pub(super) fn deadline(&self) -> Timestamp {
        self.timers.next()
    }

    /// New certificates serve new connections.
    pub(super) fn refresh(&mut self, tls: &TlsSettings) {
        let settings = tls.quic();
        let same = match (&self.settings, &settings) {
            (Some(old), Some(new)) => Arc::ptr_eq(old, new),
            (None, None) => true,
            _ => false,
        };
        if !same {
            self.endpoint.set_server_config(settings.clone());
            self.settings = settings;
        }
    }

    /// A datagram came. Returns the newcomer if it is one that may come in.
    pub(super) fn on_datagram(&mut self, meta: RecvMeta, datagram: &[u8]) -> Option<Incoming> {
        self.counters.bytes_in += datagram.len() as u64;
        let ecn = meta.ecn.and_then(|ecn| quinn_proto::EcnCodepoint::from_bits(ecn as u8));
        let bytes = BytesMut::from(datagram);
        self.out.clear();
        let event =
            self.endpoint.handle(self.instant, meta.addr, meta.dst_ip, ecn, bytes, &mut self.out);
        match event? {
            DatagramEvent::ConnectionEvent(handle, event) => {
                let handle = number(handle);
                if let Some(carried) = self.at(handle) {
                    prefetch(&*carried);
                    self.arrived.push((handle, event));
                }
                if self.arrived.len() >= AHEAD {
                    self.take_arrived();
                }
                None
            }
            DatagramEvent::Response(transmit) => {
                self.answer(&transmit);
                None
            }
            DatagramEvent::NewConnection(incoming) => Some(incoming),
        }
    }

    /// Hands packets to their connections, which have come into the cache meanwhile.
    pub(super) fn take_arrived(&mut self) {
        let mut arrived = std::mem::take(&mut self.arrived);
        for (handle, event) in arrived.drain(..) {
            if let Some(carried) = self.at(handle) {
                carried.quic.handle_event(event);
                self.touch(handle);
            }
        }
        self.arrived = arrived;
    }

    /// Has a newcomer prove that it hears us, which costs us nothing; one that cannot be asked is
    /// refused.
    pub(super) fn retry(&mut self, incoming: Incoming) {
        if !incoming.may_retry() {
            return self.refuse(incoming);
        }
        self.out.clear();
        if let Ok(transmit) = self.endpoint.retry(incoming, &mut self.out) {
            self.answer(&transmit);
        }
    }

    /// Tells a newcomer to go elsewhere.
    pub(super) fn refuse(&mut self, incoming: Incoming) {
        self.out.clear();
        let transmit = self.endpoint.refuse(incoming, &mut self.out);
        self.answer(&transmit);
    }

    /// Begins the handshake of a newcomer; `false` when it failed at once.
    pub(super) fn accept(&mut self, incoming: Incoming, connection: ConnectionId) -> bool {
        self.out.clear();
        match self.endpoint.accept(incoming, self.instant, &mut self.out, None) {
            Ok((handle, quic)) => {
                let handle = number(handle);
                let carried = Carried {
                    quic,
                    slot: connection.slot,
                    stream: None,
                    unsent: Vec::new(),
                    touched: false,
                    securing: true,
                    finished: false,
                    ended: false,
                    closed: false,
                    near: Timestamp::NEVER,
                    far: Timestamp::NEVER,
                    linger: Timestamp::NEVER,
                };
                *place(&mut self.carried, handle as usize, || None) = Some(Box::new(carried));
                *place(&mut self.handles, connection.slot as usize, || NONE) = handle;
                self.live += 1;
                self.touch(handle);
                true
            }
            Err(error) => {
                self.counters.tls_errors += 1;
                if let Some(transmit) = error.response {
                    self.answer(&transmit);
                }
                false
            }
        }
    }

    fn at(&mut self, handle: u32) -> Option<&mut Carried> {
        self.carried.get_mut(handle as usize)?.as_deref_mut()
    }

    fn of_slot(&self, slot: u32) -> Option<u32> {
        self.handles.get(slot as usize).copied().filter(|&handle| handle != NONE)
    }

    fn touch(&mut self, handle: u32) {
        if let Some(carried) = self.at(handle)
            && !carried.touched
        {
            carried.touched = true;
            self.touched.push(handle);
        }
    }

    /// A connection that something happened to. None while the socket takes nothing.
    pub(super) fn next_touched(&mut self) -> Option<u32> {
        if self.held.is_some() {
            return None;
        }
        let handle = self.touched.pop()?;
        if let Some(carried) = self.at(handle) {
            carried.touched = false;
        }
        Some(handle)
    }

    /// A session whose connection is gone: it must end.
    pub(super) fn next_orphan(&mut self) -> Option<u32> {
        self.orphans.pop()
    }

    /// The next thing that happened to connection `handle`; its bytes are in `plain`.
    pub(super) fn step(&mut self, handle: u32, plain: &mut Vec<u8>) -> Option<Step> {
        loop {
            self.pass_endpoint_events(handle);
            let carried = self.carried.get_mut(handle as usize)?.as_deref_mut()?;
            let slot = carried.slot;
            if (carried.ended || carried.finished) && slot != NONE {
                return Some(Step::Ended(slot));
            }
            match carried.quic.poll()? {
                Event::Connected if carried.securing => {
                    carried.securing = false;
                    self.counters.tls_handshakes += 1;
                    if slot != NONE {
                        return Some(Step::Secured(slot));
                    }
                }
                Event::Stream(StreamEvent::Opened { dir: Dir::Bi }) => {
                    if let Some(id) = carried.quic.streams().accept(Dir::Bi) {
                        carried.stream = Some(id);
                        if carried.read(id, plain) && slot != NONE {
                            return Some(Step::Received(slot));
                        }
                    }
                }
                Event::Stream(StreamEvent::Readable { id })
                    if carried.stream == Some(id) && carried.read(id, plain) && slot != NONE =>
                {
                    return Some(Step::Received(slot));
                }
                Event::Stream(StreamEvent::Writable { id }) if carried.stream == Some(id) => {
                    carried.write_unsent(id);
                }
                // The last words were heard, or will not be.
                Event::Stream(StreamEvent::Finished { .. }) => {
                    carried.close(self.now, self.instant)
                }
                Event::Stream(StreamEvent::Stopped { .. }) => {
                    carried.ended = true;
                    if slot == NONE {
                        carried.close(self.now, self.instant);
                    }
                }
                Event::ConnectionLost { reason } => {
                    tracing::debug!(event = "quic_connection_lost", %reason);
                    self.counters.tls_errors += u64::from(std::mem::take(&mut carried.securing));
                    carried.ended = true;
                    if slot == NONE {
                        carried.close(self.now, self.instant);
                    }
                }
                _ => {}
            }
        }
    }

    fn pass_endpoint_events(&mut self, handle: u32) {
        let mut drained = false;
        if let Some(Some(carried)) = self.carried.get_mut(handle as usize) {
            while let Some(event) = carried.quic.poll_endpoint_events() {
                drained |= event.is_drained();
                let handle = ConnectionHandle(handle as usize);
                if let Some(event) = self.endpoint.handle_event(handle, event) {
                    carried.quic.handle_event(event);
                }
            }
        }
        if drained && let Some(carried) = self.carried[handle as usize].take() {
            self.live -= 1;
            // The handle may be another connection's with the next datagram.
            if carried.slot != NONE {
                self.handles[carried.slot as usize] = ORPHAN;
                self.orphans.push(carried.slot);
            }
        }
    }
}

impl Carried {
    /// Reads what the client sent into `plain`; `true` when there is something.
    fn read(&mut self, id: StreamId, plain: &mut Vec<u8>) -> bool {
        plain.clear();
        let mut stream = self.quic.recv_stream(id);
        let Ok(mut chunks) = stream.read(true) else { return false };
        loop {
            match chunks.next(usize::MAX) {
                Ok(Some(chunk)) => plain.extend_from_slice(&chunk.bytes),
                Err(quinn_proto::ReadError::Blocked) => break,
                Ok(None) => {
                    self.finished = true;
                    break;
                }
                // The peer gave its stream up, and with it the session.
                Err(_) => {
                    self.ended = true;
                    break;
                }
            }
        }
        // More credit for the client travels with the next packet; one is sent in any case.
        let _more = chunks.finalize();
        !plain.is_empty()
    }

    /// Says CONNECTION_CLOSE, once.
    fn close(&mut self, now: Timestamp, instant: Instant) {
        if std::mem::replace(&mut self.closed, true) {
            return;
        }
        self.linger = now.plus_ms(CLOSED_MS_MAX);
        self.quic.close(instant, CLOSE_CODE, Bytes::new());
    }

    /// Hands what is kept to quinn; `false` when the stream is gone.
    fn write_unsent(&mut self, id: StreamId) -> bool {
        let mut sent = 0;
        while sent < self.unsent.len() {
            match self.quic.send_stream(id).write(&self.unsent[sent..]) {
                Ok(count) => sent += count,
                Err(WriteError::Blocked) => break,
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

impl Carrier for Connections {
    fn is_live(&mut self, slot: u32) -> bool {
        self.of_slot(slot).is_some()
    }

    fn send(&mut self, slot: u32, bytes: &[u8]) -> bool {
        if bytes.is_empty() {
            return true;
        }
        let Some(handle) = self.of_slot(slot) else { return true };
        self.touch(handle);
        let Some(carried) = self.at(handle) else { return true };
        let Some(id) = carried.stream else { return true };
        let mut rest = bytes;
        while carried.unsent.is_empty() && !rest.is_empty() {
            match carried.quic.send_stream(id).write(rest) {
                Ok(count) => rest = &rest[count..],
                Err(WriteError::Blocked) => break,
                Err(_) => return false,
            }
        }
        if carried.unsent.len() + rest.len() > UNSENT_BYTES_MAX {
            self.counters.slow_readers += 1;
            return false;
        }
        carried.unsent.extend_from_slice(rest);
        true
    }

    fn remove(&mut self, slot: u32) {
        let Some(handle) = self.of_slot(slot) else { return };
        self.handles[slot as usize] = NONE;
        if handle == ORPHAN {
            return;
        }
        let (now, instant) = (self.now, self.instant);
        if let Some(carried) = self.at(handle) {
            carried.slot = NONE;
            carried.unsent = Vec::new();
            // What the session said last must be heard before the close, which drops everything.
            let stream = carried.stream.filter(|_| !carried.ended);
            match stream.map(|id| carried.quic.send_stream(id).finish()) {
                Some(Ok(())) => carried.linger = now.plus_ms(LINGER_MS_MAX),
                Some(Err(_)) | None => carried.close(now, instant),
            }
        }
        self.touch(handle);
        self.transmit(handle);
    }
}

fn number(handle: ConnectionHandle) -> u32 {
    u32::try_from(handle.0).expect("connections: the engine's slots, and a second's farewells")
}

/// Place `index`, after as many empty ones as it takes.
fn place<T>(places: &mut Vec<T>, index: usize, empty: impl Fn() -> T) -> &mut T {
    while places.len() <= index {
        places.push(empty());
    }
    &mut places[index]
}
