//! One access node: the machine (disk, clock), and the process on it while one runs. Every thread
//! of the process is the production code, run turn by turn.

use crate::{
    carrier::SimCarrier,
    disk::SimDisk,
    link::AgentLink,
    plan::{EPOCH, Event, ShardPlan, identity},
};
use arc_swap::ArcSwap;
use std::{
    cell::{Cell, OnceCell},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
};
use yao_access::{
    clock::Clock,
    config::{Owning, SpoolConfig},
    crypto::{self, CryptoContext, Waiting},
    disk::Disk,
    gate::Gate,
    inbox::{self, Inbox},
    issuer_thread::{Desk, IssuerContext},
    messages::{ToCrypto, ToIssuer, ToShard, ToSpool},
    money_disk::{MoneyDisk, ToMoneyDisk},
    node::{Node, Shards},
    quic::ResetSecret,
    recovery,
    registry::Registry,
    seed_shard::SeedShard,
    sessions::{Orders, SessionContext, Sessions},
    spool::{self, Runner, SpoolCounters},
    state_dir::StateDir,
    telemetry::DiskCounters,
};
use yao_engine::{
    Anchor, Timestamp,
    admission::AdmissionLimits,
    shard::{Hint, Reconnect, Settings},
};
use yao_protocol::{Incarnation, WallTime, policy::Policy, schedule::Schedule};

/// Where a node keeps its state.
pub const STATE: &str = "/state";
/// Where the state has its spool.
pub const SPOOL: &str = "/state/spool";
/// Where its spool has a fallback, which stands for a directory on another disk: what is wrong with
/// the state's alone does not touch it.
pub const FALLBACK: &str = "/fallback";
/// Where its seed file lies.
pub const SEED: &str = "/seed/shard.yaoseed";
/// Messages that wait for a thread. Few, so that full queues happen.
const QUEUE: usize = 512;
/// Opens of the backlog that are delivered in a second: the least that a node does.
const BACKLOG_PER_SECOND: u32 = 100;
/// Turns that a thread takes at most while the process ends in order.
const LAST_TURNS_MAX: u32 = 10_000;

/// The threads of a process that take turns. Sessions, crypto and link also stand for QUIC and
/// control, which hold no money.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Thread {
    /// The shard thread.
    Sessions,
    /// The crypto thread.
    Crypto,
    /// The issuer.
    Issuer,
    /// Cursors and journal.
    MoneyDisk,
    /// Opens.
    Spool,
    /// The link to the agent.
    Link,
}

impl Thread {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Sessions, Self::Crypto, Self::Issuer, Self::MoneyDisk, Self::Spool, Self::Link];
}

/// What threads borrow for their life. A process that ended leaves its own behind until the world
/// ends.
#[derive(Default)]
pub struct Arena {
    sessions: Vec<OnceCell<SessionContext>>,
    issuers: Vec<OnceCell<IssuerContext>>,
    used: Cell<usize>,
}

impl Arena {
    /// Room for so many processes.
    #[must_use]
    pub fn new(processes: usize) -> Self {
        Self {
            sessions: (0..processes).map(|_| OnceCell::new()).collect(),
            issuers: (0..processes).map(|_| OnceCell::new()).collect(),
            used: Cell::new(0),
        }
    }

    /// Whether another process finds room.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.used.get() < self.sessions.len()
    }

    fn keep(
        &self,
        sessions: SessionContext,
        issuer: IssuerContext,
    ) -> (&SessionContext, &IssuerContext) {
        let place = self.used.get();
        self.used.set(place + 1);
        (self.sessions[place].get_or_init(|| sessions), self.issuers[place].get_or_init(|| issuer))
    }
}

/// How a process is started.
#[derive(Clone, Copy, Debug)]
pub struct Start<'a> {
    /// The event.
    pub event: &'static Event,
    /// The node's shard of it.
    pub shard: &'static ShardPlan,
    /// Its machine's clock, ns.
    pub clock: &'static AtomicU64,
    /// Its machine's disk.
    pub disk: &'a SimDisk,
    /// Which process of this machine it is.
    pub life: u32,
    /// Which machine it is.
    pub machine: u8,
    /// Which boot of the machine.
    pub boot: u8,
    /// By what right it issues.
    pub owning: &'a Owning,
    /// What its wall clock says.
    pub wall: WallTime,
    /// Bytes of unsettled opens that the spool takes.
    pub spool_bytes_max: u64,
    /// How long opens are collected for one commit, us.
    pub spool_commit_us_max: u64,
    /// Whether the spool has a fallback.
    pub fallback: bool,
    /// Least time between two shakes, ms.
    pub shake_interval_ms: u32,
}

/// A running process.
pub struct Process<'a> {
    node: Arc<Node>,
    /// The sessions, and what carries them.
    pub sessions: Sessions<'a, SimCarrier>,
    settings: Settings,
    inbox: Inbox<ToShard>,
    desk: Desk<'a>,
    money_disk: MoneyDisk,
    spool: Runner,
    crypto: CryptoContext,
    crypto_waiting: Vec<Waiting>,
    /// The link to the agent.
    pub link: AgentLink,
    /// What the control thread would set.
    pub orders: Arc<Orders>,
    /// What the spool found and did.
    pub spool_counters: Arc<SpoolCounters>,
    /// What the money disk did.
    pub disk_counters: Arc<DiskCounters>,
    issuer: SyncSender<ToIssuer>,
    issuer_queue: Receiver<ToIssuer>,
    crypto_queue: Receiver<ToCrypto>,
    disk_queue: Receiver<ToMoneyDisk>,
    spool_queue: Receiver<ToSpool>,
    /// The issuer has not heard yet that clients leave.
    leaving: bool,
    /// Messages that were looked at and not taken yet.
    next: Next,
}

#[derive(Default)]
struct Next {
    shard: Option<ToShard>,
    crypto: Option<ToCrypto>,
    issuer: Option<ToIssuer>,
    disk: Option<ToMoneyDisk>,
    spool: Option<ToSpool>,
}

fn session_settings(node: &Node) -> Settings {
    Settings {
        connections_max: 1_024,
        heartbeat_ms_max: 60_000,
        ..Settings::new(node.campaign, node.mac_key.clone())
    }
}

fn reconnect(event: &Event) -> Arc<ArcSwap<Option<Reconnect>>> {
    let reconnect = Reconnect { keys: event.reconnect.clone(), lifetime_seconds: 600 };
    Arc::new(ArcSwap::from_pointee(Some(reconnect)))
}

fn hint() -> Arc<ArcSwap<Hint>> {
    let hint = Hint {
        return_ms_min: 500,
        return_ms_jitter: 1_500,
        overload_ms_min: 500,
        overload_ms_jitter: 1_500,
        endpoints: Vec::new(),
    };
    Arc::new(ArcSwap::from_pointee(hint))
}

/// Knows the users of whom the journal tells a win.
fn registry(recovered: &recovery::Recovered) -> Arc<Registry> {
    let registry = Arc::<Registry>::default();
    recovered.issuer.issued.iter().for_each(|body| registry.drawn(body.user));
    registry
}

fn recover_spool(
    start: &Start<'_>,
    (node, shards): (&Arc<Node>, &Shards),
    state: &StateDir,
    link: &AgentLink,
    counters: &Arc<SpoolCounters>,
) -> Result<Runner, String> {
    let commit_us_max = start.spool_commit_us_max;
    let bytes_max = start.spool_bytes_max;
    let config = SpoolConfig { bytes_max, commit_us_max, ..SpoolConfig::default() };
    let settings = spool::settings(node, &config, BACKLOG_PER_SECOND);
    let directory = state.spool();
    let fallback = start.fallback.then_some(Path::new(FALLBACK));
    let directories: Vec<&Path> = [directory.as_path()].into_iter().chain(fallback).collect();
    let places = (state.disk(), directories.as_slice());
    let (node, shards) = (Arc::clone(node), shards.clone());
    let spool = Runner::recover(node, shards, settings, places, link.ways(), counters);
    spool.map_err(|error| error.to_string())
}

fn issuer_context(
    (node, shards): (&Arc<Node>, &Shards),
    gate: Arc<Gate>,
    (disk, counters): (SyncSender<ToMoneyDisk>, &Arc<DiskCounters>),
    link: &AgentLink,
) -> IssuerContext {
    IssuerContext {
        node: Arc::clone(node),
        shards: shards.clone(),
        gate,
        disk,
        disk_counters: Arc::clone(counters),
        vet: link.vet_out(),
        vet_ms_max: crate::link::VET_MS_MAX,
        ask_grant: link.grant_out(),
        status: Arc::default(),
    }
}

fn crypto_context(node: &Arc<Node>, shards: Shards, spool: SyncSender<ToSpool>) -> CryptoContext {
    CryptoContext {
        node: Arc::clone(node),
        tokens: Arc::clone(&identity().tokens),
        shards,
        spool,
        counters: Arc::default(),
    }
}

impl<'a> Process<'a> {
    /// Starts as `yao-access run` does: verify, recover, wire up.
    ///
    /// # Errors
    /// Why it does not start: one line for the operator.
    pub fn start(start: &Start<'_>, arena: &'a Arena) -> Result<Self, String> {
        let Start { event, shard, .. } = *start;
        let now = Timestamp::from_ns(start.clock.load(Ordering::Relaxed));
        let anchor = Anchor { at: now, wall: start.wall };
        let mut incarnation = [start.machine; 16];
        incarnation[..4].copy_from_slice(&start.life.to_le_bytes());
        let node = Arc::new(Node {
            name: format!("node-{}", start.machine),
            campaign: event.campaign,
            shard: shard.shard,
            epoch: EPOCH,
            incarnation: Incarnation(incarnation),
            boot_id: [start.machine, start.boot].repeat(8).try_into().expect("16"),
            ticket_key: Arc::clone(&shard.ticket_key),
            resets: ResetSecret::derive(&[start.shard.shard.0.to_le_bytes()[0]; 32]),
            mac_key: event.mac_key.clone(),
            keys: ArcSwap::from_pointee(event.keys.clone()),
            manifest: event.manifest.clone(),
            clock: Clock::given(anchor, start.clock),
        });
        let disk: Arc<dyn Disk> = Arc::new(start.disk.clone());
        let campaign_key = event.keys.campaign(event.campaign).expect("planned");
        let key = shard.key.clone();
        let seed = SeedShard::open(&disk, Path::new(SEED), key, &campaign_key, &event.manifest);
        let seed = seed.map_err(|error| error.to_string())?;
        let state = StateDir::on(Arc::clone(&disk), Path::new(STATE));
        let recovered = recovery::recover(&node, &state, seed.header(), start.owning);
        let recovered = recovered.map_err(|error| error.to_string())?;
        Self::wire(start, arena, node, seed, &state, recovered)
    }

    /// Ties the threads together as `access/src/server/mod.rs` does.
    fn wire(
        start: &Start<'_>,
        arena: &'a Arena,
        node: Arc<Node>,
        seed: SeedShard,
        state: &StateDir,
        recovered: recovery::Recovered,
    ) -> Result<Self, String> {
        let (outlet, inbox) = inbox::unwoken(QUEUE);
        let shards = Shards::new(vec![outlet]);
        let (issuer, issuer_queue) = sync_channel(QUEUE);
        let (disk_sender, disk_queue) = sync_channel(QUEUE);
        let (crypto, crypto_queue) = sync_channel(QUEUE);
        let (spool_sender, spool_queue) = sync_channel(QUEUE);
        let policy = Arc::<ArcSwap<Policy>>::default();
        let link = AgentLink::new(issuer.clone(), spool_sender.clone(), Arc::clone(&policy));
        let spool_counters = Arc::default();
        let spool = recover_spool(start, (&node, &shards), state, &link, &spool_counters)?;
        let (gate, disk_counters) = (Arc::new(Gate::default()), Arc::<DiskCounters>::default());
        let registry = registry(&recovered);
        let orders = Arc::new(Orders::new(start.shake_interval_ms));
        let sessions = SessionContext {
            node: Arc::clone(&node),
            gate: Arc::clone(&gate),
            registry,
            shards: shards.clone(),
            issuer: issuer.clone(),
            crypto: vec![crypto],
            tokens: Arc::clone(&identity().tokens),
            policy,
            orders: Arc::clone(&orders),
            reconnect: reconnect(start.event),
            hint: hint(),
            admission: AdmissionLimits::NONE,
            counters: Arc::default(),
        };
        let to_disk = (disk_sender, &disk_counters);
        let issuing = issuer_context((&node, &shards), gate, to_disk, &link);
        let (sessions, issuing) = arena.keep(sessions, issuing);
        Ok(Self {
            sessions: Sessions::new(sessions, session_settings(&node), SimCarrier::default()),
            settings: session_settings(&node),
            inbox,
            desk: Desk::new(issuing, &start.shard.header, &recovered.issuer),
            money_disk: MoneyDisk::new(
                Arc::clone(&node),
                seed,
                (recovered.journal, recovered.cursors),
                issuer.clone(),
                Arc::clone(&disk_counters),
            ),
            spool,
            crypto: crypto_context(&node, shards, spool_sender),
            crypto_waiting: Vec::new(),
            link,
            orders,
            spool_counters,
            disk_counters,
            issuer,
            issuer_queue,
            crypto_queue,
            disk_queue,
            spool_queue,
            leaving: false,
            next: Next::default(),
            node,
        })
    }

    /// Asks clients to leave, so many a second.
    pub fn drain(&mut self, per_second: u32) {
        self.orders.drain(self.now(), per_second);
        self.next.shard = self.next.shard.take().or(Some(ToShard::Drain));
        self.leaving = true;
    }

    /// Tells the issuer the schedule.
    pub fn schedule(&mut self, schedule: &Arc<Schedule>) {
        // A queue without room drops it; the world tells it again at the next start.
        self.issuer.try_send(ToIssuer::Schedule(Arc::clone(schedule))).ok();
    }

    /// Whether a message waits for this thread.
    pub fn is_wanted(&mut self, thread: Thread) -> bool {
        let next = &mut self.next;
        match thread {
            Thread::Sessions => {
                next.shard = next.shard.take().or_else(|| self.inbox.next());
                next.shard.is_some()
            }
            Thread::Crypto => {
                next.crypto = next.crypto.take().or_else(|| self.crypto_queue.try_recv().ok());
                next.crypto.is_some()
            }
            Thread::Issuer => {
                next.issuer = next.issuer.take().or_else(|| self.issuer_queue.try_recv().ok());
                next.issuer.is_some() || self.leaving
            }
            Thread::MoneyDisk => {
                next.disk = next.disk.take().or_else(|| self.disk_queue.try_recv().ok());
                next.disk.is_some()
            }
            Thread::Spool => {
                next.spool = next.spool.take().or_else(|| self.spool_queue.try_recv().ok());
                next.spool.is_some()
            }
            Thread::Link => self.link.is_wanted(),
        }
    }

    /// What its machine's clock says.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.node.clock.now()
    }

    /// What its own clock says.
    #[must_use]
    pub fn wall(&self) -> WallTime {
        self.node.clock.wall()
    }

    /// One turn of a thread; when it wants the next one without a message. `None` when it ended.
    pub fn turn(&mut self, thread: Thread) -> Option<Timestamp> {
        self.is_wanted(thread);
        let now = self.now();
        match thread {
            Thread::Sessions => {
                let mut message = self.next.shard.take();
                while let Some(some) = message {
                    if !self.sessions.on_message(now, some) {
                        return None;
                    }
                    message = self.inbox.next();
                }
                self.pass_time(now);
                Some(self.sessions.engine.deadline(now))
            }
            Thread::Crypto => {
                if let Some(message) = self.next.crypto.take() {
                    let waiting = &mut self.crypto_waiting;
                    crypto::turn(&self.crypto, message, &self.crypto_queue, waiting);
                }
                Some(Timestamp::NEVER)
            }
            Thread::Issuer => {
                if self.leaving {
                    self.leaving = self.issuer.try_send(ToIssuer::Leaving).is_err();
                }
                self.desk.turn(self.next.issuer.take(), &self.issuer_queue)
            }
            Thread::MoneyDisk => self.money_disk.turn(self.next.disk.take()),
            Thread::Spool => self.spool.turn(self.next.spool.take(), &self.spool_queue),
            Thread::Link => Some(self.link.turn(now)),
        }
    }

    fn pass_time(&mut self, now: Timestamp) {
        if self.sessions.engine.deadline(now) <= now {
            let surroundings = self.sessions.surroundings(now);
            self.sessions.on_time(now, &surroundings);
        }
    }

    /// A client connects over `link`; its slot, unless the node has no room.
    pub fn accept(&mut self, link: usize) -> Option<u32> {
        let now = self.now();
        let number = self.sessions.context.registry.next_number();
        let connection = self.sessions.engine.handle_accepted(now, true, number)?;
        self.sessions.engine.handle_entered(now, connection.slot, None);
        self.sessions.carrier.insert(connection.slot, link);
        Some(connection.slot)
    }

    /// Bytes arrived in `slot`.
    pub fn receive(&mut self, slot: u32, bytes: &[u8]) {
        let now = self.now();
        let mut surroundings = self.sessions.surroundings(now);
        self.sessions.received(now, &mut surroundings, slot, bytes);
    }

    /// The thread of sessions panics and begins anew, as `access/src/server/threads.rs` restarts
    /// it; the links that this closes.
    pub fn restart_sessions(&mut self) -> Vec<usize> {
        let closed = self.sessions.carrier.links();
        let context = self.sessions.context;
        context.registry.forget_thread(self.settings.thread);
        self.sessions = Sessions::new(context, self.settings.clone(), SimCarrier::default());
        closed
    }

    /// Ends every thread in the order in which the access process does.
    pub fn stop(mut self) {
        self.finish(Thread::Spool, |process| process.next.spool = Some(ToSpool::Stop));
        self.finish(Thread::Issuer, |process| process.next.issuer = Some(ToIssuer::Stop));
        self.finish(Thread::MoneyDisk, |process| process.next.disk = Some(ToMoneyDisk::Stop));
    }

    /// Lets a thread take what waits for it, and then the message that `stop` puts there.
    fn finish(&mut self, thread: Thread, stop: fn(&mut Self)) {
        for _ in 0..LAST_TURNS_MAX {
            if !self.is_wanted(thread) {
                stop(self);
            }
            if self.turn(thread).is_none() {
                return;
            }
        }
        panic!("{thread:?} does not end");
    }

    /// The issuer's books.
    #[must_use]
    pub const fn books(&self) -> &yao_engine::issuer::Issuer {
        self.desk.issuer()
    }

    /// The spool's books.
    #[must_use]
    pub const fn spool(&self) -> &yao_engine::spool::Spool {
        self.spool.spool()
    }
}
