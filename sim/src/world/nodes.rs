//! The nodes: their machines, the lives of their processes, and whose turn it is.

use super::{
    Checked, Event, Fault, HEALED, MS, PROCESSES_MAX, SECOND, World, queue::Place, turns::Turns,
};
use crate::{
    agent::{Agent, Character},
    canary::Canary,
    carrier::Carried,
    check::{Death, JOURNALED_NS, Seen, Violation, cursor_path, segments},
    disk::{Killed, SimDisk},
    node::{FALLBACK, Process, SEED, STATE, Start, Thread},
    plan::{Event as Show, WAVES},
    random::Random,
};
use std::{
    any::Any,
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};
use yao_access::{disk::Disk, state_dir::StateDir};
use yao_engine::Timestamp;
use yao_protocol::{UserId, WallTime, log::SEGMENT_HEADER_BYTES, schedule::Schedule};

/// What a machine's clock says when it has booted, ns.
const BOOT: u64 = SECOND;
/// A spool with less room than this may throttle the issuer.
const SMALL_SPOOL: u64 = 1 << 20;
/// So long after the last trouble, and after its start, a node gives like any other, ns.
const OVER_IT: u64 = 3 * SECOND;
/// The canary's clock is ahead by so much, us.
const EARLY_US: u64 = 200_000;
/// A node that refuses to start so often on a ruined disk is given up.
const REFUSALS_MAX: u32 = 4;

/// A machine, with the process that runs on it.
pub(super) struct Host<'a> {
    pub(super) index: usize,
    /// Its shard's place in the plan: a twin has the same.
    pub(super) shard: usize,
    pub(super) disk: SimDisk,
    pub(super) process: Option<Process<'a>>,
    /// Which process of this machine runs, or ran last.
    pub(super) life: u32,
    /// How far its wall clock is ahead, us.
    pub(super) skew_us: i64,
    /// The process is stopped until then, ns.
    pub(super) paused_until: u64,
    /// One of its threads gets no processor until then, ns.
    pub(super) slow: Option<(Thread, u64)>,
    /// The disk takes long until then, ns.
    pub(super) slow_disk_until: u64,
    /// The machine has no power.
    pub(super) dark: bool,
    /// A kill in the middle of an operation is a power cut.
    pub(super) dies_dark: bool,
    /// Its disk lost or changed what it held: it may refuse to start.
    pub(super) ruined: bool,
    /// A bit of its files turned over, which no start may get over.
    pub(super) rotten: bool,
    /// It was given up.
    pub(super) lost: bool,
    /// How its last process ended.
    pub(super) death: Death,
    /// It was told to drain, and will be restarted.
    pub(super) drains: bool,
    /// Something went wrong on it, at any time; and until when that may hold up wins, ns.
    pub(super) troubled: bool,
    pub(super) troubled_until: u64,
    pub(super) agents: BTreeMap<u32, Agent>,
    /// What the next agent turns out to be.
    pub(super) next_character: Character,
    clock: &'static AtomicU64,
    boot: u8,
    pub(super) booted_at: u64,
    /// When its process began.
    began_at: u64,
    refusals: u32,
    turns: Turns,
    /// When each thread wants a turn by itself, ns.
    timers: [u64; 6],
}

impl Host<'_> {
    pub(super) fn new(
        (index, shard): (usize, usize),
        clock: &'static AtomicU64,
        show: &'static Show,
        canary: Canary,
        random: Random,
    ) -> Self {
        assert!(shard < show.shards.len(), "a shard for each node");
        Self {
            index,
            shard,
            disk: SimDisk::new(random, canary),
            process: None,
            life: 0,
            skew_us: 0,
            paused_until: 0,
            slow: None,
            slow_disk_until: 0,
            dark: false,
            dies_dark: false,
            ruined: false,
            rotten: false,
            lost: false,
            death: Death::Unknown,
            drains: false,
            troubled: false,
            troubled_until: 0,
            agents: BTreeMap::new(),
            next_character: Character::Honest,
            clock,
            boot: 0,
            booted_at: 0,
            began_at: 0,
            refusals: 0,
            turns: Turns::NONE,
            timers: [u64::MAX; 6],
        }
    }

    /// What an operator does once: seed file and `init`.
    pub(super) fn initialise(&mut self, show: &'static Show) {
        self.disk.put(Path::new(SEED), &show.shards[self.shard].file);
        self.disk.create_directories(Path::new(FALLBACK)).expect("always");
        self.create_cursors(show);
    }

    fn create_cursors(&self, show: &'static Show) {
        let cursors = Path::new(STATE).join("cursor");
        self.disk.create_directories(&cursors).expect("always");
        let state = StateDir::on(Arc::new(self.disk.clone()), Path::new(STATE));
        state.create_cursors(&show.shards[self.shard].header).expect("nothing is there yet");
    }

    /// Sets the machine's clock.
    pub(super) fn tell_time(&self, now: u64) {
        self.clock.store(now - self.booted_at + BOOT, Ordering::Relaxed);
        self.disk.set_time(now);
    }

    /// The true time of a timestamp of this machine.
    const fn true_time(&self, at: Timestamp) -> u64 {
        at.as_ns().saturating_sub(BOOT).saturating_add(self.booted_at)
    }
}

fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic").to_owned()
}

impl<'a> World<'a> {
    /// Does something in a node's process. It may be killed in the middle: then `None`.
    pub(super) fn within<R>(
        &mut self,
        node: usize,
        act: impl FnOnce(&mut Process<'a>) -> R,
    ) -> Result<Option<R>, Violation> {
        let host = &mut self.hosts[node];
        host.tell_time(self.now);
        let Some(process) = host.process.as_mut() else { return Ok(None) };
        match catch_unwind(AssertUnwindSafe(|| act(process))) {
            Ok(done) => Ok(Some(done)),
            Err(panic) if panic.is::<Killed>() => {
                let dark = std::mem::take(&mut self.hosts[node].dies_dark);
                self.kill(node, dark);
                Ok(None)
            }
            Err(panic) => Err(Violation { rule: "panic", what: words(&*panic) }),
        }
    }

    pub(super) fn start(&mut self, node: usize) -> Checked {
        let host = &mut self.hosts[node];
        if host.process.is_some() || host.lost {
            return Ok(());
        }
        assert!((self.starts as usize) < PROCESSES_MAX, "few processes");
        self.starts += 1;
        if std::mem::take(&mut host.dark) {
            host.boot += 1;
            host.booted_at = self.now;
        }
        host.life += 1;
        host.tell_time(self.now);
        host.agents.clear();
        host.timers = [0; 6];
        let death = std::mem::replace(&mut host.death, Death::Unknown);
        self.checks.starts(node, &host.disk, death)?;
        let wall =
            WallTime((crate::plan::START.0 + self.now / 1_000).saturating_add_signed(host.skew_us));
        let owning = self.plot.owning();
        let start = Start {
            event: self.show,
            shard: &self.show.shards[host.shard],
            clock: host.clock,
            disk: &host.disk,
            life: host.life,
            machine: u8::try_from(host.index + 1).expect("few machines"),
            boot: host.boot,
            owning: &owning,
            wall,
            spool_bytes_max: self.plot.spool_bytes_max,
            spool_commit_us_max: self.plot.spool_commit_us_max,
            fallback: self.plot.fallback,
            shake_interval_ms: self.plot.shake_interval_ms,
        };
        let arena = self.arena;
        match catch_unwind(AssertUnwindSafe(|| Process::start(&start, arena))) {
            Ok(Ok(process)) => self.started(node, process),
            Ok(Err(why)) => self.refused(node, why),
            Err(panic) if panic.is::<Killed>() => {
                let dark = std::mem::take(&mut self.hosts[node].dies_dark);
                self.kill(node, dark);
                Ok(())
            }
            Err(panic) => Err(Violation { rule: "panic", what: words(&*panic) }),
        }
    }

    fn started(&mut self, node: usize, mut process: Process<'a>) -> Checked {
        let host = &mut self.hosts[node];
        (host.refusals, host.began_at) = (0, self.now);
        self.checks.began(node, self.now, process.wall());
        let schedule = self.schedule_for(node);
        process.schedule(&schedule);
        self.tell_checks(node);
        self.hosts[node].process = Some(process);
        let life = u64::from(self.hosts[node].life);
        self.trace.say(self.now, "node up", &[("node", node as u64), ("life", life)]);
        self.after_node(node)
    }

    /// The schedule as a node that starts is told it.
    fn schedule_for(&self, node: usize) -> Arc<Schedule> {
        let mut schedule = Arc::clone(&self.schedule);
        match self.plot.canary {
            Canary::EarlyStart => {
                for entry in &mut Arc::make_mut(&mut schedule).waves {
                    entry.t0 = entry.t0.map(|t0| WallTime(t0.0 - EARLY_US));
                }
            }
            Canary::NeverAgain if self.hosts[node].life > 1 => {
                let waves = &mut Arc::make_mut(&mut schedule).waves;
                waves.last_mut().expect("there are some").t0 = None;
            }
            _ => {}
        }
        schedule
    }

    pub(super) fn tell_checks(&mut self, node: usize) {
        let in_time = self.plot.tells_t0_in_time();
        for wave in 0..WAVES {
            let entry = self.schedule.wave(yao_protocol::WaveIndex(wave));
            if let Some(t0) = entry.and_then(|entry| entry.t0) {
                self.checks.told(node, wave, t0, in_time);
            }
        }
    }

    /// A start that was refused. Only a disk that was ruined, or still fails, excuses it.
    fn refused(&mut self, node: usize, why: String) -> Checked {
        self.trace.tell(self.now, "node refuses", node as u64, &why);
        let host = &mut self.hosts[node];
        host.refusals += 1;
        if !host.ruined {
            return Err(Violation { rule: "liveness", what: format!("node {node}: {why}") });
        }
        // An operator copies the seed file again: it is the one thing that can be had again.
        host.disk.put(Path::new(SEED), &self.show.shards[host.shard].file);
        if self.healed && host.refusals >= REFUSALS_MAX {
            host.lost = true;
            self.trace.say(self.now, "node lost", &[("node", node as u64)]);
            return Ok(());
        }
        self.after(2 * SECOND, Event::Start(node));
        Ok(())
    }

    /// The process ends at once, wherever it is; it is started again later.
    pub(super) fn kill(&mut self, node: usize, dark: bool) {
        let host = &mut self.hosts[node];
        let process = host.process.take();
        if process.is_none() && !dark {
            return;
        }
        let life = host.life;
        // Who stood still wrote nothing meanwhile.
        let stood = host.paused_until.saturating_add(JOURNALED_NS) > self.now;
        let unknown = host.ruined || dark || stood;
        host.death = if unknown { Death::Unknown } else { Death::Kill(self.now) };
        host.drains = false;
        host.turns = Turns::NONE;
        host.paused_until = 0;
        host.agents.clear();
        host.disk.set_troubles(|troubles| troubles.kill_at = None);
        let what = if dark { "power cut" } else { "killed" };
        self.trace.say(self.now, what, &[("node", node as u64), ("life", u64::from(life))]);
        if let Some(process) = process {
            self.checks.life_ends(node, self.now, process.wall());
        }
        if dark {
            host.dark = true;
            host.disk.power_cut();
            self.checks.power_was_cut(node);
            if self.plot.canary == Canary::StartsAtZero {
                self.forget_cursors(node);
            }
        } else if self.plot.canary == Canary::ForgetsJournal {
            self.forget_journal(node);
        }
        self.drop_links(node, life, !dark);
        let random = &mut self.node_random;
        let wait = if dark {
            random.between(SECOND, 4 * SECOND)
        } else {
            random.between(50 * MS, 2 * SECOND)
        };
        self.after(wait, Event::Start(node));
    }

    /// The canary: cursor files are made anew.
    fn forget_cursors(&mut self, node: usize) {
        let host = &self.hosts[node];
        // It is people who do this, when the disk is well.
        host.disk.set_troubles(|troubles| *troubles = crate::disk::Troubles::default());
        for wave in 0..WAVES {
            host.disk.remove(&cursor_path(wave)).expect("it is there");
        }
        host.create_cursors(self.show);
    }

    /// The canary: the newest segment of the journal ends before its first record.
    fn forget_journal(&self, node: usize) {
        let disk = &self.hosts[node].disk;
        if let Some((_, path)) = segments(disk, "journal", ".yaojournal").pop() {
            let bytes = disk.cached(&path).unwrap_or_default();
            disk.put(&path, &bytes[..bytes.len().min(SEGMENT_HEADER_BYTES)]);
        }
    }

    pub(super) fn drop_links(&mut self, node: usize, life: u32, tell: bool) {
        for link in 0..self.links.len() {
            let known = self.links[link];
            if known.at_node && (known.node, known.life) == (node, life) {
                self.node_closed(link, tell);
            }
        }
    }

    /// The process ends in order, and is started again.
    pub(super) fn restart_in_order(&mut self, node: usize) -> Checked {
        let host = &mut self.hosts[node];
        host.tell_time(self.now);
        let life = host.life;
        host.drains = false;
        let Some(process) = host.process.take() else { return Ok(()) };
        self.checks.life_ends(node, self.now, process.wall());
        let ended = catch_unwind(AssertUnwindSafe(|| process.stop()));
        match ended {
            Ok(()) if !self.hosts[node].ruined => self.hosts[node].death = Death::Order,
            Ok(()) => {}
            Err(panic) if panic.is::<Killed>() => {}
            Err(panic) => return Err(Violation { rule: "panic", what: words(&*panic) }),
        }
        self.hosts[node].turns = Turns::NONE;
        self.hosts[node].agents.clear();
        self.trace.say(self.now, "stopped node", &[("node", node as u64)]);
        self.drop_links(node, life, true);
        self.after(300 * MS, Event::Start(node));
        Ok(())
    }

    /// The thread whose turn is next, of all nodes.
    pub(super) fn next_turn(&self) -> Option<(Place, usize, Thread)> {
        let hosts = self.hosts.iter().enumerate();
        let turns = hosts.filter_map(|(node, host)| {
            host.turns.next().map(|(place, thread)| (place, node, thread))
        });
        turns.min_by_key(|(place, ..)| *place)
    }

    pub(super) fn turn(&mut self, node: usize, thread: Thread) -> Checked {
        let now = self.now;
        let host = &mut self.hosts[node];
        let place = thread as usize;
        if host.paused_until > now {
            let later = host.paused_until + place as u64;
            host.turns.give(thread, self.queue.place(later));
            return Ok(());
        }
        host.turns.take(thread);
        let Some(next) = self.within(node, |process| process.turn(thread))? else { return Ok(()) };
        let host = &mut self.hosts[node];
        let next = next.map_or(u64::MAX, |at| host.true_time(at));
        host.timers[place] = next;
        self.after_node(node)
    }

    /// Passes on what a process did, and sees whose turn is next.
    pub(super) fn after_node(&mut self, node: usize) -> Checked {
        let host = &mut self.hosts[node];
        let Some(process) = host.process.as_mut() else { return Ok(()) };
        let (done, acts) = (process.sessions.carrier.take_done(), process.link.take_acts());
        let wall = process.wall();
        for carried in done {
            match carried {
                Carried::Bytes(link, bytes) => {
                    let served = self.served(node, link);
                    let disk = &self.hosts[node].disk;
                    let user = self.phones[self.links[link].phone].user;
                    self.checks
                        .sent(Seen { now: self.now, node, disk, wall, user, served }, &bytes)?;
                    self.transmit(link, false, &bytes);
                }
                Carried::Closed(link) => self.node_closed(link, true),
            }
        }
        for act in acts {
            self.link_acts(node, act);
        }
        self.give_turns(node);
        Ok(())
    }

    /// Whose link it is, if he is honest and nothing should hold up his win: his node had no
    /// trouble so far, or is over it, and has room for opens, nobody is banned, and what is granted
    /// in time reaches it.
    fn served(&self, node: usize, link: usize) -> Option<UserId> {
        let settlement = [Fault::LedgerDown, Fault::LedgerBusy, Fault::LedgerLossy];
        let granted = self.plot.grants.is_none()
            || !settlement.into_iter().any(|fault| self.faults.has(fault));
        let host = &self.hosts[node];
        let calm = (!host.troubled || self.is_over_it(host))
            && granted
            && !self.faults.has(Fault::Policy)
            && self.plot.spool_bytes_max > SMALL_SPOOL;
        let phone = &self.phones[self.links[link].phone];
        (calm && phone.cheat.is_none()).then_some(phone.user)
    }

    /// Whether nothing of what went wrong on a node is left: it ended some time ago, the process
    /// has run since, and the shard is its own. A grant that was lost may be waited for.
    fn is_over_it(&self, host: &Host<'_>) -> bool {
        let others = self.hosts.iter().filter(|other| other.shard == host.shard).count() > 1;
        let put_back = self.faults.has(Fault::Restore);
        let mut since = host.began_at.max(host.paused_until).max(host.troubled_until);
        if self.plot.grants.is_some() {
            let hangs = self.faults.has(Fault::AgentHang);
            since = since.max(if hangs { u64::MAX } else { HEALED });
        }
        let past = self.now >= since.saturating_add(OVER_IT);
        past && !(others || put_back || host.rotten || host.drains)
    }

    pub(super) fn give_turns(&mut self, node: usize) {
        for thread in Thread::ALL {
            let place = thread as usize;
            let delay = self.delay(node, thread);
            let now = self.now;
            let host = &mut self.hosts[node];
            let Some(process) = host.process.as_mut() else { return };
            let wanted = process.is_wanted(thread);
            if thread == Thread::Sessions {
                let at = process.sessions.engine.deadline(process.now());
                host.timers[place] = host.true_time(at);
            }
            let at = if wanted { now } else { host.timers[place].max(now) };
            if at == u64::MAX {
                continue;
            }
            let at = at.saturating_add(delay);
            if at < host.turns.at(thread) {
                host.turns.give(thread, self.queue.place(at));
            }
        }
    }

    /// From the moment a thread has something to do until it does it.
    fn delay(&mut self, node: usize, thread: Thread) -> u64 {
        let (now, random) = (self.now, &mut self.node_random);
        let mut delay = random.between(10_000, 80_000);
        let host = &self.hosts[node];
        if matches!(thread, Thread::MoneyDisk | Thread::Spool) {
            delay += random.between(60_000, 400_000);
            if host.slow_disk_until > now {
                delay += random.between(5 * MS, 900 * MS);
            }
        }
        if host.slow.is_some_and(|(slow, until)| slow == thread && until > now) {
            delay += random.between(MS, 300 * MS);
        }
        delay
    }
}
