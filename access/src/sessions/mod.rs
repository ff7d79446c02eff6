//! The sessions of one thread: the engine, what it may ask of the rest of the process, and whatever
//! carries its bytes. TCP and TLS sockets (`shard`) and QUIC connections (`quic`) differ only in
//! their [`Carrier`]; everything a session means is the engine's.

mod effects;

use crate::{
    gate::Gate,
    messages::{OpenReply, ToCrypto, ToIssuer, ToShard},
    node::{Node, Shards},
    registry::Registry,
    telemetry::ShardCounters,
    token_keys::TokenKeys,
};
use arc_swap::{ArcSwap, Cache};
use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    mpsc::SyncSender,
};
use yao_engine::{
    Timestamp,
    admission::AdmissionLimits,
    pace::Pace,
    shard::{Hint, Reconnect, Settings, ShardEngine, Surroundings},
};
use yao_protocol::{client::NoWinReason, policy::Policy};

/// The answers to one batch of frames rarely exceed this; a larger buffer is given back.
const SEND_BYTES_KEPT: usize = 256 * 1024;

/// What a thread of sessions shares with the rest of the process.
#[derive(Clone, Debug)]
pub struct SessionContext {
    /// Who we are.
    pub node: Arc<Node>,
    /// The issuer's word.
    pub gate: Arc<Gate>,
    /// Users and their connections.
    pub registry: Arc<Registry>,
    /// All threads of sessions, for replaced connections.
    pub shards: Shards,
    /// The issuer's queue.
    pub issuer: SyncSender<ToIssuer>,
    /// The crypto threads' queues.
    pub crypto: Vec<SyncSender<ToCrypto>>,
    /// Keys of session tokens: which are worth checking. A reload changes them.
    pub tokens: Arc<ArcSwap<TokenKeys>>,
    /// What the agent says.
    pub policy: Arc<ArcSwap<Policy>>,
    /// What the control thread wants of all threads.
    pub orders: Arc<Orders>,
    /// How reconnect tickets are made and checked; a reload changes it.
    pub reconnect: Arc<ArcSwap<Option<Reconnect>>>,
    /// Where clients go that this node does not want; a reload changes it.
    pub hint: Arc<ArcSwap<Hint>>,
    /// Budgets of this thread's connections that are not open.
    pub admission: AdmissionLimits,
    /// Where this thread's numbers are read by others.
    pub counters: Arc<ShardCounters>,
}

/// What the control thread wants of the threads of sessions while they run. They look for
/// themselves: neither a full inbox nor a panic makes them forget.
#[derive(Debug, Default)]
pub struct Orders {
    /// Least time between two shakes, ms, unless the policy says otherwise; a reload changes it.
    pub shake_interval_ms: AtomicU32,
    /// Whether newcomers are turned away; an operator says so and takes it back.
    pub refuse_new: AtomicBool,
    /// How fast clients are asked to leave, of all threads together; none while the node does not
    /// drain. A drain never ends but with the process.
    pace: Mutex<Option<Pace>>,
    /// Whether there is one: every batch of events looks here.
    draining: AtomicBool,
    /// Sessions that threads which broke took along during a drain.
    cut: AtomicU64,
    /// Set before the threads are told to stop: one that panics then is not started again.
    pub stopping: AtomicBool,
}

impl Orders {
    /// Serve, with this least time between two shakes, ms.
    #[must_use]
    pub fn new(shake_interval_ms: u32) -> Self {
        Self { shake_interval_ms: shake_interval_ms.into(), ..Self::default() }
    }

    /// Everybody is to be asked to leave, so many a second; said again, at another rate.
    pub fn drain(&self, now: Timestamp, per_second: u32) {
        self.with_pace(|pace| match pace {
            Some(pace) => pace.per_second_set(now, per_second),
            None => *pace = Some(Pace::new(now, per_second)),
        });
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Whether the node drains.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// A thread broke and took `count` sessions along. In a drain these have not left by
    /// themselves.
    pub fn cut_off(&self, count: u64) {
        if self.is_draining() {
            self.cut.fetch_add(count, Ordering::Relaxed);
        }
    }

    /// Sessions that threads which broke took along during the drain.
    #[must_use]
    pub fn cut(&self) -> u64 {
        self.cut.load(Ordering::Relaxed)
    }

    /// Clients asked to leave a second; none while the node does not drain.
    #[must_use]
    pub fn per_second(&self) -> Option<u32> {
        self.with_pace(|pace| pace.map(|pace| pace.per_second()))
    }

    /// Has `ask` ask as many clients as may be asked now, at most `count_max`; it returns how many
    /// it did.
    pub(crate) fn ask_to_leave(
        &self,
        now: Timestamp,
        count_max: u32,
        ask: impl FnOnce(u32) -> u32,
    ) {
        let count =
            self.with_pace(|pace| pace.as_mut().map_or(0, |pace| pace.take(now, count_max)));
        let unused = count.saturating_sub(ask(count));
        if unused > 0 {
            self.with_pace(|pace| {
                if let Some(pace) = pace {
                    pace.give_back(unused);
                }
            });
        }
    }

    /// Held for some ns, by each thread once in 20 ms, while the node drains.
    fn with_pace<T>(&self, act: impl FnOnce(&mut Option<Pace>) -> T) -> T {
        // A pace is whole after every operation.
        act(&mut self.pace.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What is counted about sockets and QUIC connections.
#[derive(Clone, Copy, Debug, Default)]
pub struct CarrierCounters {
    /// Connections that could not be accepted for want of descriptors or memory.
    pub accept_errors: u64,
    /// Connections whose PROXY header was missing or wrong.
    pub proxy_errors: u64,
    /// Connections cut because they did not read their answers.
    pub slow_readers: u64,
    /// Bytes received.
    pub bytes_in: u64,
    /// Bytes sent.
    pub bytes_out: u64,
    /// Handshakes of TLS or QUIC completed.
    pub tls_handshakes: u64,
    /// Connections that broke TLS or QUIC.
    pub tls_errors: u64,
}

/// What carries the bytes of a thread's sessions. Slots are the engine's.
pub trait Carrier {
    /// Whether something is in `slot`.
    fn is_live(&mut self, slot: u32) -> bool;

    /// Sends `bytes`, or keeps what cannot be sent yet. `false` when the connection is broken or
    /// its peer has left too much unread: the caller then closes it.
    fn send(&mut self, slot: u32, bytes: &[u8]) -> bool;

    /// Closes what is in `slot`; what was sent before is still on its way.
    fn remove(&mut self, slot: u32);
}

/// A thread's engine with its carrier. Dropping it closes its connections.
pub struct Sessions<'a, C> {
    /// The rest of the process.
    pub context: &'a SessionContext,
    /// What a session means.
    pub engine: ShardEngine,
    /// What carries their bytes.
    pub carrier: C,
    policy: Cache<Arc<ArcSwap<Policy>>, Arc<Policy>>,
    reconnect: Cache<Arc<ArcSwap<Option<Reconnect>>>, Arc<Option<Reconnect>>>,
    /// What the engine was told of it.
    reconnect_known: Arc<Option<Reconnect>>,
    hint: Cache<Arc<ArcSwap<Hint>>, Arc<Hint>>,
    /// What the engine was told of it.
    hint_known: Arc<Hint>,
    /// Answers to the connection being handled.
    out: Vec<u8>,
}

impl<'a, C: Carrier> Sessions<'a, C> {
    /// No sessions yet.
    pub fn new(context: &'a SessionContext, settings: Settings, carrier: C) -> Self {
        let mut reconnect = Cache::new(Arc::clone(&context.reconnect));
        let mut hint = Cache::new(Arc::clone(&context.hint));
        let settings = Settings {
            reconnect: (**reconnect.load()).clone(),
            hint: (**hint.load()).clone(),
            ..settings
        };
        let mut engine = ShardEngine::new(settings, context.node.clock.now());
        engine.handle_admission(context.admission);
        Self {
            engine,
            policy: Cache::new(Arc::clone(&context.policy)),
            reconnect_known: Arc::clone(reconnect.load()),
            reconnect,
            hint_known: Arc::clone(hint.load()),
            hint,
            out: Vec::new(),
            carrier,
            context,
        }
    }

    /// What the engine must know at this moment; read once per batch of events.
    pub fn surroundings(&mut self, now: Timestamp) -> Surroundings {
        self.obey(now);
        let policy = self.policy.load();
        Surroundings {
            gate: self.context.gate.view(),
            wall: self.context.node.clock.anchor().wall(now),
            shake_interval_ms: policy
                .shake_interval_ms
                .unwrap_or_else(|| self.context.orders.shake_interval_ms.load(Ordering::Relaxed)),
            cue: policy.cue,
            tier: 0,
        }
    }

    /// Tells the engine what changed of what it is told.
    fn obey(&mut self, now: Timestamp) {
        let reconnect = self.reconnect.load();
        if !Arc::ptr_eq(reconnect, &self.reconnect_known) {
            self.engine.handle_reconnect_keys((**reconnect).clone());
            self.reconnect_known = Arc::clone(reconnect);
        }
        let hint = self.hint.load();
        if !Arc::ptr_eq(hint, &self.hint_known) {
            self.engine.handle_hint((**hint).clone());
            self.hint_known = Arc::clone(hint);
        }
        let orders = &self.context.orders;
        self.engine.handle_refuse_new(orders.refuse_new.load(Ordering::Relaxed));
        if orders.is_draining() {
            self.engine.handle_drain(now);
            // Everything that opened before is in the registry.
            self.context.counters.closed_to_new_set();
        }
    }

    /// Bytes of the session in `slot` arrived. Answers them; returns whether more should be read.
    pub fn received(
        &mut self,
        now: Timestamp,
        surroundings: &mut Surroundings,
        slot: u32,
        bytes: &[u8],
    ) -> bool {
        // The gate may have changed since the batch of events began: each read sees it anew.
        surroundings.gate = self.context.gate.view();
        let mut out = std::mem::take(&mut self.out);
        out.clear();
        let more = self.engine.handle_received(now, surroundings, slot, bytes, &mut out);
        let sent = self.carrier.send(slot, &out);
        self.out = out;
        self.do_effects(surroundings);
        if !sent {
            self.drop_connection(slot);
        }
        more && sent
    }

    /// Fires the engine's timers.
    pub fn on_time(&mut self, now: Timestamp, surroundings: &Surroundings) {
        self.engine.handle_time(now);
        self.do_effects(surroundings);
    }

    /// Gives back what a burst made large. Called about once a second.
    pub fn shrink(&mut self) {
        if self.out.capacity() > SEND_BYTES_KEPT {
            self.out = Vec::new();
        }
    }

    /// Does what another thread says; `false` when this thread shall end.
    pub fn on_message(&mut self, now: Timestamp, message: ToShard) -> bool {
        let surroundings = self.surroundings(now);
        let mut out = std::mem::take(&mut self.out);
        out.clear();
        let connection = match message {
            ToShard::TokenChecked { connection, identity } => {
                self.engine.handle_token(&surroundings, connection, identity, &mut out);
                Some(connection)
            }
            ToShard::Won { connection, request_id, win } => {
                self.engine.handle_won(connection, request_id, &win.0, &win.1, &mut out);
                Some(connection)
            }
            ToShard::Lost { connection, request_id, shake } => {
                let reason = NoWinReason::NoneDue;
                self.engine.handle_lost(
                    &surroundings,
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
            // The surroundings have told the engine.
            ToShard::Drain => None,
            ToShard::Panic => panic!("fail point: an operator asked for this panic"),
            ToShard::Stop => return false,
        };
        if let Some(connection) = connection {
            self.send(connection, &out);
        }
        self.out = out;
        self.do_effects(&surroundings);
        true
    }
}
