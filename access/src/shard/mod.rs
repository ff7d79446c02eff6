//! One shard thread: a mio poller, its own listeners and connections, and one receive buffer.
//!
//! Bytes go into the engine and come out of it; this file decides nothing about sessions. A panic
//! here closes this thread's connections and the thread starts again (see `server`).

mod accept;
mod effects;
mod sockets;

pub use accept::listen;
pub use sockets::SocketCounters;

use self::sockets::Sockets;
use crate::{
    gate::Gate,
    inbox::Inbox,
    messages::{OpenReply, ToCrypto, ToIssuer, ToShard},
    node::{Node, Shards},
    registry::Registry,
    telemetry::ShardCounters,
};
use arc_swap::{ArcSwap, Cache};
use mio::{Events, Poll, Token, net::TcpListener};
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
        mpsc::SyncSender,
    },
    time::Duration,
};
use yao_engine::{
    Timestamp,
    shard::{Settings, ShardEngine, Surroundings},
};
use yao_protocol::{client::NoWinReason, policy::Policy};

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
/// Counters are handed to the control thread this often.
const FLUSH: Duration = Duration::from_secs(1);
/// The answers to one batch of frames rarely exceed this; a larger buffer is given back.
const SEND_BYTES_KEPT: usize = 256 * 1024;

/// What a shard thread shares with the rest of the process.
#[derive(Debug)]
pub struct ShardContext {
    /// Who we are.
    pub node: Arc<Node>,
    /// The issuer's word.
    pub gate: Arc<Gate>,
    /// Users and their connections.
    pub registry: Arc<Registry>,
    /// All shard threads, for replaced connections.
    pub shards: Shards,
    /// The issuer's queue.
    pub issuer: SyncSender<ToIssuer>,
    /// The crypto threads' queues.
    pub crypto: Vec<SyncSender<ToCrypto>>,
    /// What the agent says.
    pub policy: Arc<ArcSwap<Policy>>,
    /// Least time between two shakes, ms, unless the policy says otherwise; a reload changes it.
    pub shake_interval_ms: Arc<AtomicU32>,
    /// Where this thread's numbers are read by others.
    pub counters: Arc<ShardCounters>,
    /// Set when the node no longer takes new connections.
    pub refusing: Arc<AtomicBool>,
}

/// What outlives a panic of the thread: its poller, its listeners and its inbox.
#[derive(Debug)]
pub struct Ports {
    poll: Poll,
    listeners: Vec<TcpListener>,
    inbox: Inbox<ToShard>,
}

impl Ports {
    /// Registers `listeners` with `poll`, which already carries the inbox's waker.
    ///
    /// # Errors
    /// When a listener cannot be registered.
    pub fn new(
        poll: Poll,
        inbox: Inbox<ToShard>,
        mut listeners: Vec<TcpListener>,
    ) -> io::Result<Self> {
        assert!(listeners.len() <= LISTENERS_MAX, "tokens for {LISTENERS_MAX} listeners");
        for (index, listener) in listeners.iter_mut().enumerate() {
            let token = Token(LISTENER_FIRST - index);
            poll.registry().register(listener, token, mio::Interest::READABLE)?;
        }
        Ok(Self { poll, listeners, inbox })
    }
}

/// A running shard thread's state. Dropping it closes its connections.
pub struct Shard<'a> {
    context: &'a ShardContext,
    ports: &'a mut Ports,
    engine: ShardEngine,
    sockets: Sockets,
    policy: Cache<Arc<ArcSwap<Policy>>, Arc<Policy>>,
    /// Answers to the connection being handled.
    out: Vec<u8>,
    /// The listeners have more to accept, or failed: try again at this time.
    accept_at: Timestamp,
    flush_at: Timestamp,
}

impl<'a> Shard<'a> {
    /// A shard thread without connections.
    #[must_use]
    pub fn new(context: &'a ShardContext, settings: Settings, ports: &'a mut Ports) -> Self {
        let now = context.node.clock.now();
        Self {
            engine: ShardEngine::new(settings, now),
            sockets: Sockets::default(),
            policy: Cache::new(Arc::clone(&context.policy)),
            out: Vec::new(),
            // Whatever waited while nobody listened gave its edge to nobody.
            accept_at: now,
            flush_at: now,
            context,
            ports,
        }
    }

    /// Runs until told to stop.
    ///
    /// # Errors
    /// When the poller itself fails: the thread cannot go on.
    pub fn run(&mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS_MAX);
        let mut buffer = vec![0; RECEIVE_BYTES];
        // An earlier life may have taken the wake-up and panicked before it looked.
        if !self.read_inbox(self.context.node.clock.now()) {
            return Ok(());
        }
        loop {
            let before = self.context.node.clock.now();
            let deadline = self.engine.deadline(before).min(self.accept_at).min(self.flush_at);
            match self.ports.poll.poll(&mut events, Some(deadline.since(before))) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            let now = self.context.node.clock.now();
            let surroundings = self.surroundings(now);
            let mut woken = false;
            for event in &events {
                match event.token() {
                    WAKE => woken = true,
                    Token(number) if number > LISTENER_FIRST - LISTENERS_MAX => {
                        self.accept_at = now
                    }
                    Token(number) => self.on_socket(now, &surroundings, number, event, &mut buffer),
                }
            }
            if woken && !self.read_inbox(now) {
                return Ok(());
            }
            self.on_time(now, &surroundings);
        }
    }

    fn surroundings(&mut self, now: Timestamp) -> Surroundings {
        let policy = self.policy.load();
        Surroundings {
            gate: self.context.gate.view(),
            wall: self.context.node.clock.anchor().wall(now),
            shake_interval_ms: policy
                .shake_interval_ms
                .unwrap_or_else(|| self.context.shake_interval_ms.load(Ordering::Relaxed)),
            cue: policy.cue,
            tier: 0,
        }
    }

    fn on_time(&mut self, now: Timestamp, surroundings: &Surroundings) {
        if now >= self.accept_at {
            self.accept(now);
        }
        self.engine.handle_time(now);
        self.do_effects(surroundings);
        if now >= self.flush_at {
            let late_ns = now.ns_since(self.flush_at);
            self.flush_at = now.plus(FLUSH);
            self.context.counters.flush(&self.engine, &self.sockets.counters, late_ns);
            if self.out.capacity() > SEND_BYTES_KEPT {
                self.out = Vec::new();
            }
        }
    }

    /// Reads every message of the inbox; `false` when the thread shall end.
    fn read_inbox(&mut self, now: Timestamp) -> bool {
        while let Some(message) = self.ports.inbox.next() {
            let surroundings = self.surroundings(now);
            if !self.on_message(now, &surroundings, message) {
                return false;
            }
        }
        true
    }

    fn on_message(
        &mut self,
        now: Timestamp,
        surroundings: &Surroundings,
        message: ToShard,
    ) -> bool {
        let mut out = std::mem::take(&mut self.out);
        out.clear();
        let connection = match message {
            ToShard::TokenChecked { connection, identity } => {
                self.engine.handle_token(surroundings, connection, identity, &mut out);
                Some(connection)
            }
            ToShard::Won { connection, request_id, win } => {
                self.engine.handle_won(connection, request_id, &win.0, &win.1, &mut out);
                Some(connection)
            }
            ToShard::Lost { connection, request_id, shake } => {
                let reason = NoWinReason::NoneDue;
                self.engine.handle_lost(
                    surroundings,
                    connection,
                    request_id,
                    shake,
                    reason,
                    &mut out,
                );
                Some(connection)
            }
            ToShard::OpenDecided { connection, request_id, reply } => {
                let reply = match &reply {
                    OpenReply::Receipt(receipt) => Ok(&**receipt),
                    OpenReply::Refused(refusal) => Err(*refusal),
                };
                self.engine.handle_open_decided(connection, request_id, reply, &mut out);
                Some(connection)
            }
            ToShard::Replaced { connection } => {
                self.engine.handle_replaced(connection, &mut out);
                Some(connection)
            }
            ToShard::Drain { per_second } => {
                self.engine.handle_drain(now, per_second);
                None
            }
            ToShard::Stop => return false,
        };
        if let Some(connection) = connection {
            self.send(connection, &out);
        }
        self.out = out;
        self.do_effects(surroundings);
        true
    }

    /// Whether new connections are still taken.
    fn is_refusing(&self) -> bool {
        self.context.refusing.load(Ordering::Relaxed)
    }
}
