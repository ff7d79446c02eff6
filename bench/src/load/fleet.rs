//! Many connections on one thread: which are open, and when each sends.
//!
//! The closed loop sends the next shake when the last was answered. The open loop sends at moments
//! fixed before, whatever the server does, and counts latency from those moments, so that a server
//! (or a generator) that falls behind cannot hide it.

mod traffic;

use super::{
    Counts, Latency, Target, TicketLog, now_ns,
    peer::{Books, Habits, Opens, Peer, Phase},
    schedule::{Pace, Schedule},
    wires::{Signal, Wires},
};
use anyhow::{Context, Result, bail};
use hdrhistogram::Histogram;
use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    io::ErrorKind,
    mem,
    time::Duration,
};
use yao_client::random::Random;

/// Most connections that are being opened at one time.
const CONNECTING_MAX: usize = 512;
/// How long the whole fleet may take to be welcomed without one more welcome.
const WELCOME_NS_MAX: u64 = 20_000_000_000;
/// Between two rounds over all connections for heartbeats and opens that were refused, ns.
const ROUND_NS: u64 = 500_000_000;
/// Shakes of the open loop between two looks at what has arrived.
const SENDS_MAX: usize = 256;
/// A lost connection comes back after up to this long, ms.
const RECONNECT_MS_MAX: u64 = 500;
/// Latencies are kept to three digits up to a minute, ns.
const LATENCY_NS_MAX: u64 = 60_000_000_000;

/// How a fleet behaves.
pub(crate) struct Plan {
    pub(crate) target: Target,
    pub(crate) opens: Opens,
    /// A user who can win no more makes way for the next one.
    pub(crate) relogin: bool,
    /// A connection that is lost comes back as the same user.
    pub(crate) reconnect: bool,
    /// Never sleep: the generator has a core of its own.
    pub(crate) spin: bool,
    pub(crate) log: Option<TicketLog>,
    /// Seed of shake ids and phases.
    pub(crate) seed: u64,
}

/// What a timer wakes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Wake {
    Shake,
    Connect,
}

/// The connections.
pub(crate) struct Fleet {
    wires: Wires,
    signals: Vec<(usize, Signal)>,
    peers: Vec<Peer>,
    target: Target,
    habits: Habits,
    relogin: bool,
    reconnect: bool,
    spin: bool,
    books: Books,
    to_connect: VecDeque<usize>,
    connecting: usize,
    open: usize,
    timers: BinaryHeap<Reverse<(u64, usize, Wake)>>,
    closed_loop: bool,
    /// Kept tickets that are opened at a rate.
    opening: Option<Opening>,
    round_ns: u64,
    /// What one connection just said.
    inbox: Vec<u8>,
    out: Vec<u8>,
}

/// Kept tickets that are opened at a rate.
struct Opening {
    per_second: u64,
    since: u64,
    /// How many were asked for.
    asked: u64,
    /// The connection whose turn is next.
    next: usize,
}

impl Opening {
    /// When the next may be asked for, ns.
    const fn due(&self) -> u64 {
        self.since + (self.asked as u128 * 1_000_000_000 / self.per_second as u128) as u64
    }
}

impl Fleet {
    /// A fleet without connections.
    ///
    /// # Errors
    /// The kernel gives no epoll.
    pub(crate) fn new(plan: Plan) -> Result<Self> {
        let histogram = || Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3);
        let books = Books {
            counts: Counts::default(),
            shakes: histogram()?,
            opens: histogram()?,
            log: plan.log,
            random: Random::new(plan.seed),
        };
        Ok(Self {
            wires: Wires::new(&plan.target)?,
            signals: Vec::new(),
            peers: Vec::new(),
            habits: Habits { campaign: plan.target.campaign, opens: plan.opens },
            target: plan.target,
            relogin: plan.relogin,
            reconnect: plan.reconnect,
            spin: plan.spin,
            books,
            to_connect: VecDeque::new(),
            connecting: 0,
            open: 0,
            timers: BinaryHeap::new(),
            closed_loop: false,
            opening: None,
            round_ns: 0,
            inbox: Vec::with_capacity(1 << 16),
            out: Vec::with_capacity(1 << 12),
        })
    }

    /// Adds connections until there are `count`, and waits until each is welcomed.
    ///
    /// # Errors
    /// No connection was welcomed for 20 s.
    pub(crate) fn connect(&mut self, count: usize) -> Result<()> {
        while self.peers.len() < count {
            let user = self.target.next_user();
            self.to_connect.push_back(self.peers.len());
            self.peers.push(Peer::new(user));
        }
        let (mut best, mut since) = (self.open, now_ns());
        while self.open < count {
            self.step(Duration::from_millis(10))?;
            if self.open > best {
                (best, since) = (self.open, now_ns());
            }
            if now_ns() - since > WELCOME_NS_MAX {
                bail!(
                    "only {} of {count} connections were welcomed; {:?}",
                    self.open,
                    self.books.counts
                );
            }
        }
        Ok(())
    }

    /// Plays for `duration`; then stops sending and leaves the connections open.
    ///
    /// # Errors
    /// The ticket log cannot be written, or a server sends what cannot be told.
    pub(crate) fn run(&mut self, pace: Pace, duration: Duration) -> Result<()> {
        self.run_while(pace, duration, |_| true)
    }

    /// Like [`Self::run`], but ends as soon as `going_on`, asked a few times a second, says no.
    pub(crate) fn run_while(
        &mut self,
        pace: Pace,
        duration: Duration,
        mut going_on: impl FnMut(&Self) -> bool,
    ) -> Result<()> {
        let start = now_ns();
        let end = start + u64::try_from(duration.as_nanos())?;
        let mut schedule = Schedule::new(pace, self.peers.len(), start, &mut self.books.random);
        self.closed_loop = pace == Pace::Closed;
        if self.closed_loop {
            for index in 0..self.peers.len() {
                if self.peers[index].owes_nothing() {
                    self.shake(index, now_ns())?;
                }
            }
        }
        let mut asked_ns = start;
        loop {
            let now = now_ns();
            if now >= end {
                break;
            }
            // Answers are read before more is asked, however late we are.
            for _ in 0..SENDS_MAX {
                let Some((index, at)) = schedule.due(now) else { break };
                self.shake_open(index, at)?;
            }
            let opening = self.open_due(now)?;
            if now - asked_ns > 50_000_000 {
                asked_ns = now;
                if !going_on(self) {
                    break;
                }
            }
            let next = schedule.next().unwrap_or(end).min(opening).min(end);
            let wait = if self.spin { 0 } else { next.saturating_sub(now) };
            // The kernel's timeout is in whole ms: below one, look again at once.
            let wait = if wait < 1_000_000 { 0 } else { wait.min(20_000_000) };
            self.step(Duration::from_nanos(wait))?;
        }
        self.closed_loop = false;
        // A later run begins its own chains of shakes.
        self.timers.retain(|Reverse((_, _, wake))| *wake == Wake::Connect);
        self.flush_log()
    }

    /// Lets answers that are under way arrive, for at most `duration`; returns how many users still
    /// wait for one.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub(crate) fn settle(&mut self, duration: Duration) -> Result<usize> {
        self.run_while(Pace::Silent, duration, |fleet| fleet.peers.iter().any(|p| !p.is_idle()))?;
        Ok(self.peers.iter().filter(|peer| !peer.owes_nothing()).count())
    }

    /// From now on tickets are opened as they come; those that were kept, `per_second` of them a
    /// second, or all at once when that is 0.
    ///
    /// # Errors
    /// A socket fails in a way that no peer can cause.
    pub(crate) fn open_kept(&mut self, per_second: u32) -> Result<()> {
        self.habits.opens = Opens::AtOnce;
        let per_second = if per_second == 0 { u64::MAX } else { u64::from(per_second) };
        self.opening = Some(Opening { per_second, since: now_ns(), asked: 0, next: 0 });
        self.open_due(now_ns()).map(drop)
    }

    /// Opens what is due of the kept tickets, a connection's together; returns when to look again.
    fn open_due(&mut self, now: u64) -> Result<u64> {
        while let Some(opening) = &mut self.opening {
            let index = opening.next;
            let at = opening.due();
            if index == self.peers.len() {
                self.opening = None;
            } else if at > now {
                return Ok(at);
            } else {
                opening.next += 1;
                opening.asked += self.peers[index].held() as u64;
                self.open_held(index)?;
            }
        }
        Ok(u64::MAX)
    }

    /// Counts and latencies since the last call, and begins anew.
    pub(crate) fn take(&mut self) -> (Counts, Latency, Latency) {
        let counts = mem::take(&mut self.books.counts);
        let latencies = (Latency::of(&self.books.shakes), Latency::of(&self.books.opens));
        self.books.shakes.reset();
        self.books.opens.reset();
        (counts, latencies.0, latencies.1)
    }

    /// Counts since [`Self::take`].
    pub(crate) const fn counts(&self) -> &Counts {
        &self.books.counts
    }

    /// Connections that are welcomed now.
    pub(crate) const fn open_count(&self) -> usize {
        self.open
    }

    /// Tickets that wait for a receipt.
    pub(crate) fn held(&self) -> usize {
        self.peers.iter().map(Peer::held).sum()
    }

    /// Users that have won all they can.
    pub(crate) fn sated(&self) -> usize {
        self.peers.iter().filter(|peer| peer.sated).count()
    }

    /// The user id after the last one used.
    pub(crate) const fn users_until(&self) -> u64 {
        self.target.users_until()
    }

    fn flush_log(&mut self) -> Result<()> {
        self.books.log.as_mut().map_or(Ok(()), TicketLog::flush)
    }

    /// Waits for signals once and handles all of them, timers and rounds too.
    fn step(&mut self, wait: Duration) -> Result<()> {
        self.connect_more()?;
        let mut signals = mem::take(&mut self.signals);
        self.wires.poll(wait, &mut signals)?;
        for (index, signal) in signals.drain(..) {
            match signal {
                Signal::Open => self.on_open(index)?,
                Signal::Bytes => self.on_bytes(index)?,
                Signal::Lost => self.down(index, 0)?,
            }
        }
        self.signals = signals;
        let now = now_ns();
        while let Some(Reverse((at, index, wake))) = self.timers.peek().copied() {
            if at > now {
                break;
            }
            self.timers.pop();
            match wake {
                // A user who has left meanwhile has taken his turn with him.
                Wake::Shake if self.closed_loop && self.peers[index].shake_at_ns == at => {
                    self.shake(index, at)?;
                }
                Wake::Shake => {}
                Wake::Connect => self.to_connect.push_back(index),
            }
        }
        if now - self.round_ns > ROUND_NS {
            self.round_ns = now;
            self.round(now)?;
        }
        Ok(())
    }

    /// Heartbeats, opens that were refused for a while, and lines for the log.
    fn round(&mut self, now: u64) -> Result<()> {
        // Whose kept tickets are not due yet has nothing to ask again.
        let asked = self.opening.as_ref().map_or(self.peers.len(), |opening| opening.next);
        for index in 0..self.peers.len() {
            let peer = &mut self.peers[index];
            if peer.phase != Phase::Open || !self.target.has_sessions() {
                continue;
            }
            let quiet_ms = now.saturating_sub(peer.sent_ns) / 1_000_000;
            if quiet_ms > u64::from(peer.heartbeat_ms_max) / 3 {
                let mut out = mem::take(&mut self.out);
                peer.put_ping(&mut out);
                self.send(index, out)?;
            }
            let opens = self.habits.opens == Opens::AtOnce && index < asked;
            if opens && self.peers[index].held() > 0 {
                self.open_held(index)?;
            }
        }
        self.flush_log()
    }

    fn open_held(&mut self, index: usize) -> Result<()> {
        if self.peers[index].phase != Phase::Open {
            return Ok(());
        }
        let mut out = mem::take(&mut self.out);
        self.peers[index].put_opens(now_ns(), &mut out);
        self.send(index, out)
    }

    fn connect_more(&mut self) -> Result<()> {
        while self.connecting < CONNECTING_MAX {
            let Some(index) = self.to_connect.pop_front() else { break };
            match self.wires.connect(index, index) {
                Ok(()) => {}
                // No port or no descriptor is our fault; the rest is the server's.
                Err(error) if is_ours(error.kind()) => {
                    return Err(error).context("cannot connect; see `ulimit -n`");
                }
                Err(_) => {
                    self.connect_later(index, 0);
                    continue;
                }
            }
            self.peers[index].partial.clear();
            self.connecting += 1;
        }
        Ok(())
    }

    fn connect_later(&mut self, index: usize, delay_ms: u32) {
        let delay = u64::from(delay_ms) + self.books.random.up_to(RECONNECT_MS_MAX);
        self.timers.push(Reverse((now_ns() + delay * 1_000_000, index, Wake::Connect)));
    }
}

/// Errors of `connect` that come from this machine, not from the server.
const fn is_ours(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::AddrInUse | ErrorKind::AddrNotAvailable | ErrorKind::Other)
}
