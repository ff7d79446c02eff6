//! One simulated world: everything that is in it, and the scheduler that owns time. Events happen
//! one at a time, in the order of their times; whatever chance there is comes from the seed.

mod agents;
mod copies;
mod nemesis;
mod network;
mod nodes;
mod phones;
mod plan;
mod queue;
mod turns;

use self::{copies::Backup, network::Link, nodes::Host, queue::Queue};
use crate::{
    agent::Errand,
    canary::Canary,
    check::{Checked, Checks, Totals, Violation},
    faults::{Fault, Faults},
    node::Arena,
    phone::Phone,
    plan::{Event as Show, START, event},
    random::Random,
    settlement::Settlement,
    trace::Trace,
};
use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::AtomicU64},
};
use yao_agent::delivery::Outcome;
use yao_protocol::{
    UserId, WallTime, agent::Role, keys::remember_signatures, policy::Policy, schedule::Schedule,
};

pub use plan::Plot;

/// Nanoseconds of a millisecond.
const MS: u64 = 1_000_000;
/// Nanoseconds of a second.
const SECOND: u64 = 1_000 * MS;
/// A world lasts at least so long, ns.
const SECONDS_MIN: u64 = 60 * SECOND;
/// Faults end then, ns.
const HEALED: u64 = 42 * SECOND;
/// By then everything must have settled, ns: the longest waits (a client's 30 s, a connection's
/// 60 s of silence) twice.
const SECONDS_MAX: u64 = HEALED + 200 * SECOND;
/// Processes that a world starts at most.
const PROCESSES_MAX: usize = 64;

/// Something that will happen.
#[derive(Debug)]
enum Event {
    /// A node's process is started.
    Start(usize),
    /// The network brings bytes to a node or to a phone; no bytes: the end of the connection.
    Deliver { link: usize, to_node: bool, bytes: Vec<u8> },
    /// A node that stood still reads what a connection brought meanwhile.
    Resume(usize),
    /// A connection reaches a node.
    Arrive(usize),
    /// A connection is made, or not.
    Connected { link: usize, made: bool },
    /// A phone dials; the number tells whether it still wants to.
    Dial { phone: usize, wish: u64 },
    /// A phone's session is woken.
    Wake(usize, u64),
    /// A user shakes.
    Shake(usize),
    /// Bytes for an agent.
    ToAgent(Who, Role, Vec<u8>),
    /// What an agent says, in order.
    FromAgent(Who, Role, Said),
    /// An agent's process is up.
    AgentUp(Who),
    /// An agent's process is gone.
    AgentGone(Who),
    /// A POST reaches settlement, whose answer may get lost.
    Post { who: Who, errand: (Errand, u32), body: Arc<[u8]>, lost: bool },
    /// What came of a POST reaches the agent.
    Outcome(Who, (Errand, u32), Outcome),
    /// A second has passed.
    Second,
    /// Something goes wrong.
    Trouble(nemesis::Trouble),
    /// Nothing goes wrong any more.
    Heal,
}

/// One agent: of which node, of which of its lives, and the how-manieth there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Who {
    node: usize,
    life: u32,
    generation: u32,
}

/// What an agent says.
#[derive(Debug)]
enum Said {
    Greet(yao_protocol::agent::Greet),
    Bytes(Vec<u8>),
}

/// How a run went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// Which faults were on.
    pub faults: Faults,
    /// What broke, if anything did.
    pub violation: Option<Violation>,
    /// Simulated time, s.
    pub seconds: u64,
    /// Events.
    pub events: u64,
    /// Over the whole trace.
    pub digest: u64,
    /// What was counted.
    pub totals: Totals,
    /// Phones.
    pub phones: u64,
    /// Processes of nodes that were started.
    pub starts: u64,
    /// Nodes that could not be started again: their disk was ruined.
    pub lost_nodes: u64,
}

/// See the module.
struct World<'a> {
    plot: Plot,
    faults: Faults,
    show: &'static Show,
    arena: &'a Arena,
    now: u64,
    queue: Queue<Event>,
    network_random: Random,
    node_random: Random,
    people_random: Random,
    nemesis_random: Random,
    hosts: Vec<Host<'a>>,
    /// One for each host, and for a twin.
    clocks: Vec<&'static AtomicU64>,
    /// State that may be put back, by host.
    backups: BTreeMap<usize, Backup>,
    links: Vec<Link>,
    /// Bytes in the socket buffers of nodes that stand still, by link.
    held: BTreeMap<usize, Vec<Vec<u8>>>,
    phones: Vec<Phone>,
    wishes: Vec<u64>,
    settlement: Settlement,
    schedule: Arc<Schedule>,
    policy: Policy,
    checks: Checks,
    trace: Trace,
    /// Phones of a region cannot reach a node until then, ns.
    partitions: BTreeMap<(usize, usize), u64>,
    healed: bool,
    starts: u64,
    violation: Option<Violation>,
}

/// Runs one seed to its end. `clocks` is one clock for each node, of the calling thread alone.
#[must_use]
pub fn run(plot: &Plot, clocks: &[&'static AtomicU64], loud: bool) -> Report {
    // Each ticket is signed once here and checked by three parties, all of them this thread.
    remember_signatures(crate::signer::sign);
    let arena = Arena::new(PROCESSES_MAX);
    let mut world = World::new(plot.clone(), &arena, clocks, loud);
    world.set_out();
    world.live();
    world.report()
}

impl<'a> World<'a> {
    fn new(plot: Plot, arena: &'a Arena, clocks: &[&'static AtomicU64], loud: bool) -> Self {
        let random = Random::new(plot.seed);
        let faults = plot.faults;
        let show = event(faults.has(Fault::ShortTickets));
        let grants = plot.grants.map(|(policy, _)| policy).unwrap_or_default();
        let settlement = Settlement::new(show, grants, plot.canary);
        let hosts = (0..plot.nodes)
            .map(|node| {
                let random = random.fork(node as u64);
                Host::new((node, node), clocks[node], show, plot.canary, random)
            })
            .collect();
        Self {
            faults,
            show,
            arena,
            now: 0,
            queue: Queue::default(),
            network_random: random.fork(101),
            node_random: random.fork(102),
            people_random: random.fork(103),
            nemesis_random: random.fork(104),
            hosts,
            clocks: clocks.to_vec(),
            backups: BTreeMap::new(),
            links: Vec::new(),
            held: BTreeMap::new(),
            phones: Vec::new(),
            wishes: Vec::new(),
            settlement,
            schedule: Arc::new(plot.schedule(show)),
            policy: Policy::default(),
            checks: Checks::new(show, plot.nodes, !faults.hold_up()),
            trace: Trace::new(loud),
            partitions: BTreeMap::new(),
            healed: false,
            starts: 0,
            violation: None,
            plot,
        }
    }

    fn at(&mut self, at: u64, event: Event) {
        self.queue.push(at.max(self.now), event);
    }

    fn after(&mut self, wait: u64, event: Event) {
        self.at(self.now + wait, event);
    }

    fn now_ms(&self) -> u64 {
        self.now / MS
    }

    /// The true time.
    const fn wall(&self) -> WallTime {
        WallTime(START.0 + self.now / 1_000)
    }

    fn set_out(&mut self) {
        for node in 0..self.plot.nodes {
            self.hosts[node].initialise(self.show);
            self.at(node as u64 * MS, Event::Start(node));
        }
        self.people_come();
        if self.faults.has(Fault::Policy) {
            self.draw_policy();
        }
        self.plan_troubles();
        self.at(HEALED, Event::Heal);
        self.at(SECOND, Event::Second);
    }

    fn live(&mut self) {
        while let Some(done) = self.step() {
            if let Err(violation) = done {
                self.trace.tell(self.now, "VIOLATION", 0, &violation.to_string());
                self.violation = Some(violation);
                return;
            }
            if self.now >= SECONDS_MIN && self.is_over() {
                self.violation = self.judge_end().err();
                return;
            }
            if self.now >= SECONDS_MAX {
                self.violation = Some(self.not_over());
                return;
            }
        }
    }

    /// Lets happen what is due next: a turn of a thread, or another event.
    fn step(&mut self) -> Option<Checked> {
        let planned = self.queue.next();
        match self.next_turn() {
            Some((place, node, thread)) if planned.is_none_or(|planned| place < planned) => {
                self.now = place.0;
                Some(self.turn(node, thread))
            }
            _ => {
                let (at, event) = self.queue.pop()?;
                self.now = at;
                Some(self.happen(event))
            }
        }
    }

    fn happen(&mut self, event: Event) -> Checked {
        match event {
            Event::Start(node) => self.start(node),
            Event::Deliver { link, to_node, bytes } => self.deliver(link, to_node, &bytes),
            Event::Resume(link) => self.resume(link),
            Event::Arrive(link) => self.arrive(link),
            Event::Connected { link, made } => self.connected(link, made),
            Event::Dial { phone, wish } => self.dial(phone, wish),
            Event::Wake(phone, at) => self.wake(phone, at),
            Event::Shake(phone) => self.shake(phone),
            Event::ToAgent(who, role, bytes) => self.tell_agent(who, role, bytes),
            Event::FromAgent(who, role, said) => self.hear_agent(who, role, said),
            Event::AgentUp(who) => self.agent_up(who),
            Event::AgentGone(who) => self.agent_gone(who),
            Event::Post { who, errand, body, lost } => self.post(who, errand, &body, lost),
            Event::Outcome(who, errand, outcome) => self.outcome(who, errand, outcome),
            Event::Second => self.second(),
            Event::Trouble(trouble) => self.trouble(trouble),
            Event::Heal => self.heal(),
        }
    }

    /// Everything that is counted once a second is counted now.
    fn second(&mut self) -> Checked {
        self.after(SECOND, Event::Second);
        for host in &self.hosts {
            let books = host.process.as_ref().map(|process| process.books());
            self.checks.money(host.index, &host.disk, books)?;
        }
        // What was not written to needs no second look.
        if !self.settlement.take_changed() {
            return Ok(());
        }
        let (rows, totals) = (self.settlement.rows(), self.settlement.totals());
        self.checks.ledger(rows, &totals)
    }

    /// Which nodes are lost for good.
    fn lost(&self) -> Vec<bool> {
        self.hosts.iter().map(|host| host.lost).collect()
    }

    /// Whether nothing is left to happen that anybody waits for.
    fn is_over(&mut self) -> bool {
        self.now.is_multiple_of(SECOND) && self.healed && self.unfinished().is_none()
    }

    /// What somebody still waits for.
    fn unfinished(&self) -> Option<String> {
        for host in self.hosts.iter().filter(|host| !host.lost) {
            let Some(process) = &host.process else {
                return Some(format!("node {} is down", host.index));
            };
            let spool = process.spool();
            // What cannot be read any more nobody settles: behind all that can it stays for people.
            let unreadable = host.rotten && spool.oldest_unsettled().is_none();
            if spool.settled_on_disk() + 1 != spool.next_sequence() && !unreadable {
                let (settled, next) = (spool.settled_on_disk(), spool.next_sequence());
                return Some(format!("node {}: settled {settled}, next {next}", host.index));
            }
            if !self.checks.is_closed(host.index, &host.disk) {
                return Some(format!("node {}: a wave is open", host.index));
            }
        }
        let all_lost = self.hosts.iter().all(|host| host.lost);
        for phone in self.phones.iter().filter(|phone| phone.cheat.is_none()) {
            if !all_lost && !phone.is_settled() {
                return Some(format!("user {} waits: {}", phone.user, phone.waits_for()));
            }
        }
        let open = self.checks.unsettled(&self.lost());
        if open > 0 {
            return Some(format!("{open} acknowledged opens are not settled"));
        }
        self.undelivered()
    }

    /// M6: what the journal of the only node issued to an honest user has reached him, however
    /// often his connection broke on the way. With several nodes he may be at another one for good.
    fn undelivered(&self) -> Option<String> {
        let [host] = &self.hosts[..] else { return None };
        if host.lost {
            return None;
        }
        let wall = self.wall();
        let honest: BTreeMap<UserId, &Phone> = self
            .phones
            .iter()
            .filter(|phone| phone.cheat.is_none())
            .map(|phone| (phone.user, phone))
            .collect();
        for body in self.checks.issued_by(host.index, &host.disk) {
            let Some(phone) = honest.get(&body.user) else { continue };
            let holdings = phone.wallet().holdings();
            let holds = holdings.iter().any(|held| held.ticket.body.packet == body.packet);
            if !holds && wall < body.expires_at {
                return Some(format!("user {} never got packet {}", body.user, body.packet));
            }
        }
        None
    }

    fn not_over(&self) -> Violation {
        let what = self.unfinished().unwrap_or_else(|| "it is over, but not seen".to_owned());
        Violation { rule: "liveness", what }
    }

    fn judge_end(&mut self) -> Checked {
        let (rows, totals) = (self.settlement.rows(), self.settlement.totals());
        self.checks.ledger(rows, &totals)?;
        self.checks.all_settled(&self.lost())?;
        for host in self.hosts.iter().filter(|host| !host.lost) {
            self.checks.all_journaled(host.index, &host.disk)?;
        }
        for phone in self.phones.iter().filter(|phone| phone.cheat.is_none()) {
            crate::check::must("liveness", !phone.stopped, || {
                format!("the honest user {} was told never to come back", phone.user)
            })?;
        }
        Ok(())
    }

    fn report(self) -> Report {
        Report {
            seed: self.plot.seed,
            faults: self.faults,
            violation: self.violation,
            seconds: self.now / SECOND,
            events: self.trace.events(),
            digest: self.trace.digest(),
            totals: self.checks.totals,
            phones: self.phones.len() as u64,
            starts: self.starts,
            lost_nodes: self.hosts.iter().filter(|host| host.lost).count() as u64,
        }
    }
}

impl Plot {
    /// The world of this seed, with the faults that it draws.
    #[must_use]
    pub fn of_seed(seed: u64, canary: Canary) -> Self {
        let mut random = Random::new(seed).fork(100);
        let faults = Faults::draw(&mut random);
        Self::with_faults(seed, faults, canary)
    }
}
