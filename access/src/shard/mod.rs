//! One shard thread: a mio poller, its own listeners and connections, and one receive buffer.
//!
//! Bytes go into the engine and come out of it; this file decides nothing about sessions. A panic
//! here closes this thread's connections and the thread starts again (see `server`).

mod accept;
mod proxy;
mod sockets;
#[cfg(test)]
mod tests;

pub use accept::{Listener, listen};

use self::sockets::{Received, Sockets};
use crate::{
    config::Network,
    gather::Gather,
    inbox::Inbox,
    messages::ToShard,
    sessions::{SessionContext, Sessions},
    tls::TlsSettings,
};
use mio::{Events, Poll, Token, event::Event};
use std::{fs::File, io, time::Duration};
use yao_engine::{
    Timestamp,
    admission::Origin,
    shard::{Settings, Surroundings},
};

/// Wakes the thread for its inbox.
pub const WAKE: Token = Token(usize::MAX);
/// Tokens of listeners, counted down from here.
const LISTENER_FIRST: usize = usize::MAX - 1;
/// Listeners one thread may have.
const LISTENERS_MAX: usize = 64;
/// Events taken from the kernel at once. Chosen as in the baselines, so that both batch alike.
const EVENTS_MAX: usize = 512;
/// The receive buffer, bytes. A read that fills less has emptied the socket.
const RECEIVE_BYTES: usize = 64 * 1024;
/// Full buffers read from one socket before the others have their turn.
const READS_MAX: u32 = 8;
/// How long events gather while they come thick. Who connects may meet it three times, and half a
/// millisecond keeps that below what connecting takes by itself, in a flood of newcomers, too.
const GATHERING: Duration = Duration::from_micros(500);
/// Counters are handed to the control thread this often.
const FLUSH: Duration = Duration::from_secs(1);

/// What outlives a panic of the thread: its poller, its listeners and its inbox.
#[derive(Debug)]
pub struct Ports {
    poll: Poll,
    listeners: Vec<Listener>,
    inbox: Inbox<ToShard>,
    tls: TlsSettings,
    /// Whose connections begin with a PROXY header.
    proxy_from: Vec<Network>,
    /// Held in reserve: given back when descriptors run out, so that a newcomer can be taken and
    /// told, instead of being left hanging in the kernel's queue.
    spare: Option<File>,
}

impl Ports {
    /// Registers `listeners` with `poll`, which already carries the inbox's waker.
    ///
    /// # Errors
    /// When a listener cannot be registered.
    pub fn new(
        poll: Poll,
        inbox: Inbox<ToShard>,
        mut listeners: Vec<Listener>,
        tls: TlsSettings,
        proxy_from: Vec<Network>,
    ) -> io::Result<Self> {
        assert!(listeners.len() <= LISTENERS_MAX, "tokens for {LISTENERS_MAX} listeners");
        for (index, listener) in listeners.iter_mut().enumerate() {
            let token = Token(LISTENER_FIRST - index);
            poll.registry().register(&mut listener.socket, token, mio::Interest::READABLE)?;
        }
        Ok(Self { poll, listeners, inbox, tls, proxy_from, spare: accept::spare() })
    }
}

/// A running shard thread's state. Dropping it closes its connections.
pub struct Shard<'a> {
    ports: &'a mut Ports,
    sessions: Sessions<'a, Sockets>,
    /// The listeners have more to accept, or failed: try again at this time.
    accept_at: Timestamp,
    flush_at: Timestamp,
}

impl<'a> Shard<'a> {
    /// A shard thread without connections.
    ///
    /// # Errors
    /// When the poller cannot be shared with the sockets.
    pub fn new(
        context: &'a SessionContext,
        settings: Settings,
        ports: &'a mut Ports,
    ) -> io::Result<Self> {
        let now = context.node.clock.now();
        let sockets = Sockets::new(ports.poll.registry().try_clone()?, ports.tls.clone());
        Ok(Self {
            sessions: Sessions::new(context, settings, sockets),
            // Whatever waited while nobody listened gave its edge to nobody.
            accept_at: now,
            flush_at: now,
            ports,
        })
    }

    /// Runs until told to stop; whatever ends it, others have its numbers then.
    ///
    /// # Errors
    /// When the poller itself fails: the thread cannot go on.
    pub fn run(&mut self) -> io::Result<()> {
        let ended = self.serve();
        self.flush(0);
        ended
    }

    fn serve(&mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS_MAX);
        let mut buffer = vec![0; RECEIVE_BYTES];
        // An earlier life may have taken the wake-up and panicked before it looked.
        if !self.read_inbox() {
            return Ok(());
        }
        let mut gather = Gather::new(GATHERING, self.now());
        loop {
            let done = self.now();
            if self.accept_at > done {
                std::thread::sleep(gather.pause(done));
            }
            let before = self.now();
            let deadline =
                self.sessions.engine.deadline(before).min(self.accept_at).min(self.flush_at);
            match self.ports.poll.poll(&mut events, Some(deadline.since(before))) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            let now = self.now();
            gather.note_woken(now);
            let mut surroundings = self.sessions.surroundings(now);
            let mut woken = false;
            for event in &events {
                match event.token() {
                    WAKE => woken = true,
                    Token(number) if number > LISTENER_FIRST - LISTENERS_MAX => {
                        self.accept_at = now
                    }
                    Token(number) => {
                        self.on_socket(now, &mut surroundings, number, event, &mut buffer)
                    }
                }
            }
            if woken && !self.read_inbox() {
                return Ok(());
            }
            self.on_time(now, &surroundings);
        }
    }

    fn now(&self) -> Timestamp {
        self.sessions.context.node.clock.now()
    }

    fn on_time(&mut self, now: Timestamp, surroundings: &Surroundings) {
        if now >= self.accept_at {
            // Who comes has come since the thread was woken: his deadlines begin now.
            self.accept(self.now());
        }
        self.sessions.on_time(now, surroundings);
        if now >= self.flush_at {
            self.flush(now.ns_since(self.flush_at));
            self.flush_at = now.plus(FLUSH);
            self.sessions.shrink();
            self.sessions.carrier.shrink();
        }
    }

    fn flush(&self, late_ns: u64) {
        let Sessions { context, engine, carrier, .. } = &self.sessions;
        context.counters.flush(engine, &carrier.counters, late_ns);
    }

    /// Reads every message of the inbox; `false` when the thread shall end.
    fn read_inbox(&mut self) -> bool {
        let now = self.now();
        while let Some(message) = self.ports.inbox.next() {
            if !self.sessions.on_message(now, message) {
                return false;
            }
        }
        true
    }

    /// What a socket's readiness means.
    fn on_socket(
        &mut self,
        now: Timestamp,
        surroundings: &mut Surroundings,
        number: usize,
        event: &Event,
        buffer: &mut [u8],
    ) {
        let Ok(slot) = u32::try_from(number) else { return };
        if event.is_writable() && !self.sessions.carrier.flush(slot) {
            self.sessions.drop_connection(slot);
            return;
        }
        // A peer that closed its side may still have bytes in the buffer: read to the end.
        let to_the_end = event.is_read_closed() || event.is_error();
        if event.is_readable() || to_the_end {
            self.read_socket(now, surroundings, slot, to_the_end, buffer);
        }
    }

    fn read_socket(
        &mut self,
        now: Timestamp,
        surroundings: &mut Surroundings,
        slot: u32,
        to_the_end: bool,
        buffer: &mut [u8],
    ) {
        // A peer that sends faster than it is read must not keep the thread from all others.
        for round in 1.. {
            if round > READS_MAX && !to_the_end {
                if !self.sessions.carrier.rearm(slot) {
                    self.sessions.drop_connection(slot);
                }
                return;
            }
            let open = self.sessions.engine.is_open(slot);
            let received = self.sessions.carrier.receive(slot, buffer, open);
            let Some(count) = self.take(now, surroundings, slot, received, buffer) else { return };
            if count < buffer.len() && !to_the_end {
                return;
            }
        }
    }

    /// What became of a read; returns how many bytes it brought, or `None` when that was all.
    fn take(
        &mut self,
        now: Timestamp,
        surroundings: &mut Surroundings,
        slot: u32,
        received: Received,
        buffer: &mut [u8],
    ) -> Option<usize> {
        let (count, more) = match received {
            // Part of a header.
            Received::Bytes(range) if range.is_empty() => (range.end, true),
            Received::Bytes(range) => {
                let count = range.end;
                (count, self.sessions.received(now, surroundings, slot, &buffer[range]))
            }
            Received::Sealed(count) => (count, self.read_sealed(now, surroundings, slot)),
            Received::Named(count) => (count, self.on_named(now, surroundings, slot, buffer)),
            Received::Empty => return None,
            Received::Closed => {
                self.sessions.carrier.deafen(slot);
                self.sessions.drop_connection(slot);
                return None;
            }
        };
        more.then_some(count)
    }

    /// A balancer said whose connection it is; what follows in `buffer` is the client's. Returns
    /// whether to read on.
    fn on_named(
        &mut self,
        now: Timestamp,
        surroundings: &mut Surroundings,
        slot: u32,
        buffer: &mut [u8],
    ) -> bool {
        let Sessions { engine, carrier, .. } = &mut self.sessions;
        let named = carrier.take_named();
        if !engine.handle_origin(now, slot, Origin::of(named.source)) {
            self.sessions.drop_connection(slot);
            return false;
        }
        if !named.tls {
            engine.handle_secured(now, slot);
        }
        if named.rest.is_empty() {
            return true;
        }
        let received = if named.tls {
            carrier.open_records(slot, &mut buffer[named.rest], false)
        } else {
            Received::Bytes(named.rest)
        };
        self.take(now, surroundings, slot, received, buffer).is_some()
    }

    /// TLS records came; their plaintext lies in the carrier. Returns whether to read on.
    fn read_sealed(&mut self, now: Timestamp, surroundings: &mut Surroundings, slot: u32) -> bool {
        let opened = self.sessions.carrier.take_opened();
        if opened.secured {
            self.sessions.engine.handle_secured(now, slot);
        }
        let mut more = true;
        if !opened.plain.is_empty() {
            more = self.sessions.received(now, surroundings, slot, &opened.plain);
        }
        if more && !opened.ended {
            // A record that is cut has the deadline of a frame that is cut.
            self.sessions.engine.handle_cut(now, slot, opened.cut);
        }
        let sent = self.sessions.carrier.put_back(slot, opened.plain);
        if opened.ended {
            // Whoever says that nothing follows closes next (RFC 8446 6.1 wants no answer).
            self.sessions.carrier.deafen(slot);
        }
        if opened.ended || !sent {
            self.sessions.drop_connection(slot);
        }
        more && sent && !opened.ended
    }
}
