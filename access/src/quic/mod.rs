//! One QUIC thread: a UDP socket, a quinn-proto endpoint with its connections, and the same
//! sessions as everywhere. Each connection carries one bidirectional stream, opened by the client,
//! with the frames of wire.md on it.
//!
//! quinn-proto is driven directly, without tokio: a connection costs what quinn-proto keeps for it
//! and nothing more. A panic here ends this thread's connections only; the socket, the reset key
//! and the inbox outlive it, so that the next life tells old clients at once to come again.

mod connections;
mod crypto;
mod identifiers;
mod parameters;
mod resets;
mod settings;
mod socket;
mod steering;
#[cfg(test)]
mod tests;

pub use resets::ResetSecret;
pub(crate) use settings::server_config;
pub use socket::QuicPorts;

use self::connections::{Connections, Step};
use crate::{
    gather::Gather,
    sessions::{SessionContext, Sessions},
};
use mio::{Events, Token, event::Event};
use std::{io, time::Duration};
use yao_engine::{
    Timestamp,
    admission::{Decision, Origin},
    shard::{Settings, Surroundings},
};

/// The UDP socket's token; the inbox has `shard::WAKE`.
const SOCKET: Token = Token(0);
/// Only two sources: the socket and the inbox.
const EVENTS_MAX: usize = 8;
/// Datagrams taken from the socket before their connections are served: so few that what was
/// fetched for the first is in the cache (2 MB hold some 200 connections) for the answer.
const DATAGRAMS_MAX: u32 = 64;
/// Handshakes begun before those who are here have their turn.
const NEWCOMERS_MAX: u32 = 32;
/// How long events gather while they come thick. A phone's answer comes later by so much at most: a
/// hundredth of its way there and back.
const GATHERING: Duration = Duration::from_millis(1);
/// Counters are handed to the control thread, and new certificates looked for, this often.
const FLUSH: Duration = Duration::from_secs(1);

/// A running QUIC thread's state. Dropping it ends its connections.
pub struct QuicThread<'a> {
    ports: &'a mut QuicPorts,
    sessions: Sessions<'a, Connections>,
    plain: Vec<u8>,
    /// The socket may hold more than was read.
    read_again: bool,
    flush_at: Timestamp,
}

impl<'a> QuicThread<'a> {
    /// A thread without connections.
    ///
    /// # Errors
    /// When the endpoint cannot be set up.
    pub fn new(
        context: &'a SessionContext,
        settings: Settings,
        ports: &'a mut QuicPorts,
    ) -> io::Result<Self> {
        let clock = context.node.clock;
        let connections = Connections::new(ports, clock);
        // An earlier life may have taken an event and panicked before it looked.
        ports.note_readable();
        Ok(Self {
            sessions: Sessions::new(context, settings, connections),
            plain: Vec::new(),
            read_again: true,
            flush_at: clock.now(),
            ports,
        })
    }

    /// Runs until told to stop; whatever ends it, others have its numbers then.
    ///
    /// # Errors
    /// When the poller or the socket itself fails: the thread cannot go on.
    pub fn run(&mut self) -> io::Result<()> {
        let ended = self.serve();
        self.flush(0);
        ended
    }

    fn serve(&mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS_MAX);
        if !self.read_inbox() {
            return Ok(());
        }
        let mut gather = Gather::new(GATHERING, self.now());
        loop {
            self.ports.watch_writable(self.sessions.carrier.is_held())?;
            if !self.read_again {
                std::thread::sleep(gather.pause(self.now()));
            }
            let before = self.now();
            match self.ports.poll.poll(&mut events, Some(self.rest(before))) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            let now = self.now();
            gather.note_woken(now);
            self.sessions.carrier.now_set(now);
            let mut woken = false;
            for event in &events {
                woken |= event.token() != SOCKET;
                if event.token() == SOCKET {
                    self.on_socket(event);
                }
            }
            let mut surroundings = self.sessions.surroundings(now);
            if self.read_again {
                // Whoever comes after a reload was answered gets the new certificate.
                self.sessions.carrier.refresh(&self.ports.tls);
                self.read_socket(now)?;
            }
            if woken && !self.read_inbox() {
                self.farewell();
                return Ok(());
            }
            self.sessions.carrier.fire_timers();
            self.sessions.on_time(now, &surroundings);
            self.serve_touched(now, &mut surroundings);
            if now >= self.flush_at {
                self.flush(now.ns_since(self.flush_at));
                self.flush_at = now.plus(FLUSH);
                self.sessions.shrink();
                // An error ends a batch, too, and hides what lies behind it: somebody must look.
                self.ports.note_readable();
                self.read_again = true;
            }
        }
    }

    fn on_socket(&mut self, event: &Event) {
        if event.is_readable() {
            self.ports.note_readable();
            self.read_again = true;
        }
        if event.is_writable() {
            self.sessions.carrier.unblock();
        }
    }

    fn now(&self) -> Timestamp {
        self.sessions.context.node.clock.now()
    }

    /// How long nothing has to be done.
    fn rest(&self, now: Timestamp) -> Duration {
        if self.read_again {
            return Duration::ZERO;
        }
        let deadline = self.sessions.engine.deadline(now).min(self.flush_at);
        deadline.min(self.sessions.carrier.deadline()).since(now)
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

    fn read_socket(&mut self, now: Timestamp) -> io::Result<()> {
        self.read_again = self.read_some(now)?;
        self.sessions.carrier.take_arrived();
        Ok(())
    }

    /// Whether there may be more to read.
    fn read_some(&mut self, now: Timestamp) -> io::Result<bool> {
        let mut newcomers = 0;
        for _ in 0..DATAGRAMS_MAX {
            // Those who are here come first: a handshake takes as long as ten of their packets. One
            // read may bring two thousand datagrams: what is left of it waits for the next turn.
            if newcomers >= NEWCOMERS_MAX {
                break;
            }
            let Some((meta, datagram)) = self.ports.next_datagram()? else { return Ok(false) };
            newcomers += u32::from(on_datagram(&mut self.sessions, now, meta, datagram));
        }
        Ok(true)
    }

    /// Works on every connection that something happened to, until nothing more does.
    fn serve_touched(&mut self, now: Timestamp, surroundings: &mut Surroundings) {
        while let Some(handle) = self.sessions.carrier.next_touched() {
            while let Some(step) = self.sessions.carrier.step(handle, &mut self.plain) {
                self.on_step(now, surroundings, step);
            }
            self.sessions.carrier.transmit(handle);
            while let Some(slot) = self.sessions.carrier.next_orphan() {
                self.sessions.drop_connection(slot);
            }
        }
    }

    fn on_step(&mut self, now: Timestamp, surroundings: &mut Surroundings, step: Step) {
        match step {
            Step::Secured(slot) => self.sessions.engine.handle_secured(now, slot),
            Step::Received(slot) => {
                let plain = std::mem::take(&mut self.plain);
                self.sessions.received(now, surroundings, slot, &plain);
                self.plain = plain;
            }
            Step::Ended(slot) => self.sessions.drop_connection(slot),
        }
    }

    /// The thread ends: peers are told, as far as one packet each does it.
    fn farewell(&mut self) {
        self.sessions.carrier.close_all();
    }
}

/// Hands a datagram to its connection; a newcomer gets a slot, or no. Returns whether a handshake
/// was begun.
fn on_datagram(
    sessions: &mut Sessions<'_, Connections>,
    now: Timestamp,
    meta: quinn_udp::RecvMeta,
    datagram: &[u8],
) -> bool {
    let Some(incoming) = sessions.carrier.on_datagram(meta, datagram) else { return false };
    let origin = Some(Origin::of(incoming.remote_address().ip()));
    let proven = incoming.remote_address_validated();
    match sessions.engine.handle_newcomer(now, origin, proven) {
        Decision::Admit => {}
        Decision::Prove => {
            sessions.carrier.retry(incoming);
            return false;
        }
        Decision::Refuse(_) => {
            sessions.carrier.refuse(incoming);
            return false;
        }
    }
    let number = sessions.context.registry.next_number();
    let Some(connection) = sessions.engine.handle_accepted(now, false, number) else {
        sessions.carrier.refuse(incoming);
        return false;
    };
    // Whoever writes another's address must not use up what that address may have.
    sessions.engine.handle_entered(now, connection.slot, origin.filter(|_| proven));
    if !sessions.carrier.accept(incoming, connection) {
        sessions.engine.handle_closed(connection.slot);
    }
    true
}
