//! Many connections on one thread: sockets, buffers, and when each sends.
//!
//! The closed loop sends the next shake when the last was answered. The open loop sends at moments
//! fixed before, whatever the server does, and counts latency from those moments, so that a server
//! (or a generator) that falls behind cannot hide it.

use super::{
    Counts, Latency, Target, TicketLog, now_ns,
    peer::{Books, ECHO_BYTES, Habits, Opens, Peer, Phase, Wish},
    schedule::{Pace, Schedule},
};
use anyhow::{Context, Result, bail};
use hdrhistogram::Histogram;
use mio::{Events, Interest, Poll, Token, net::TcpStream};
use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    io::{ErrorKind, Read, Write},
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

/// A socket and the bytes on their way.
#[derive(Default)]
struct Link {
    socket: Option<TcpStream>,
    connected: bool,
    /// Received bytes of a frame that is not whole yet.
    partial: Vec<u8>,
    /// Bytes that the kernel did not take yet.
    unsent: Vec<u8>,
}

/// What a timer wakes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Wake {
    Shake,
    Connect,
}

/// The connections.
pub(crate) struct Fleet {
    poll: Poll,
    peers: Vec<Peer>,
    links: Vec<Link>,
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
    round_ns: u64,
    buffer: Box<[u8]>,
    out: Vec<u8>,
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
            poll: Poll::new()?,
            peers: Vec::new(),
            links: Vec::new(),
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
            round_ns: 0,
            buffer: vec![0; 1 << 16].into_boxed_slice(),
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
            self.links.push(Link::default());
        }
        let mut events = Events::with_capacity(1_024);
        let (mut best, mut since) = (self.open, now_ns());
        while self.open < count {
            self.step(&mut events, Some(Duration::from_millis(10)))?;
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
        let mut events = Events::with_capacity(1_024);
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
            while let Some((index, at)) = schedule.due(now) {
                self.shake_open(index, at)?;
            }
            if now - asked_ns > 50_000_000 {
                asked_ns = now;
                if !going_on(self) {
                    break;
                }
            }
            let next = schedule.next().unwrap_or(end).min(end);
            let wait = if self.spin { 0 } else { next.saturating_sub(now) };
            // The kernel's timeout is in whole ms: below one, look again at once.
            let wait = if wait < 1_000_000 { 0 } else { wait.min(20_000_000) };
            self.step(&mut events, Some(Duration::from_nanos(wait)))?;
        }
        self.closed_loop = false;
        // A later run begins its own chains of shakes.
        self.timers.retain(|Reverse((_, _, wake))| *wake == Wake::Connect);
        self.flush_log()
    }

    /// Lets answers that are under way arrive, for at most `duration`.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub(crate) fn settle(&mut self, duration: Duration) -> Result<()> {
        self.run_while(Pace::Silent, duration, |fleet| fleet.peers.iter().any(|p| !p.is_idle()))
    }

    /// From now on tickets are opened as they come, those that were kept at once.
    ///
    /// # Errors
    /// A socket fails in a way that no peer can cause.
    pub(crate) fn open_kept(&mut self) -> Result<()> {
        self.habits.opens = Opens::AtOnce;
        for index in 0..self.peers.len() {
            self.open_held(index)?;
        }
        Ok(())
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

    /// Waits for events once and handles all of them, timers and rounds too.
    fn step(&mut self, events: &mut Events, wait: Option<Duration>) -> Result<()> {
        self.connect_more()?;
        self.poll.poll(events, wait).or_else(|error| match error.kind() {
            ErrorKind::Interrupted => Ok(()),
            _ => Err(error),
        })?;
        for event in events.iter() {
            let index = event.token().0;
            if event.is_writable() {
                self.on_writable(index)?;
            }
            if event.is_readable() || event.is_read_closed() || event.is_error() {
                self.on_readable(index)?;
            }
        }
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
            if self.habits.opens == Opens::AtOnce && self.peers[index].held() > 0 {
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
            let mut socket = match self.target.connect(index) {
                Ok(socket) => socket,
                // No port or no descriptor is our fault; the rest is the server's.
                Err(error) if is_ours(error.kind()) => {
                    return Err(error).context("cannot connect; see `ulimit -n`");
                }
                Err(_) => {
                    self.connect_later(index, 0);
                    continue;
                }
            };
            let interest = Interest::READABLE | Interest::WRITABLE;
            self.poll.registry().register(&mut socket, Token(index), interest)?;
            self.links[index] = Link { socket: Some(socket), ..Link::default() };
            self.connecting += 1;
        }
        Ok(())
    }

    fn connect_later(&mut self, index: usize, delay_ms: u32) {
        let delay = u64::from(delay_ms) + self.books.random.up_to(RECONNECT_MS_MAX);
        self.timers.push(Reverse((now_ns() + delay * 1_000_000, index, Wake::Connect)));
    }

    fn on_writable(&mut self, index: usize) -> Result<()> {
        let link = &mut self.links[index];
        let Some(socket) = &link.socket else { return Ok(()) };
        if link.connected {
            return if link.unsent.is_empty() { Ok(()) } else { self.send(index, Vec::new()) };
        }
        if socket.take_error()?.is_some() || socket.peer_addr().is_err() {
            return self.down(index, 0);
        }
        link.connected = true;
        let mut out = mem::take(&mut self.out);
        if self.target.has_sessions() {
            let token = self.target.token(self.peers[index].user);
            self.peers[index].put_hello(self.habits.campaign, &token, &mut out);
        } else {
            self.peers[index].phase = Phase::Open;
            self.welcomed(index, 0)?;
        }
        self.send(index, out)
    }

    fn welcomed(&mut self, index: usize, interval_ms: u32) -> Result<()> {
        self.connecting -= 1;
        self.open += 1;
        if self.closed_loop && self.peers[index].owes_nothing() {
            self.shake_after(index, interval_ms)?;
        }
        Ok(())
    }

    fn shake_after(&mut self, index: usize, interval_ms: u32) -> Result<()> {
        let now = now_ns();
        if interval_ms == 0 {
            return self.shake(index, now);
        }
        let at = now + u64::from(interval_ms) * 1_000_000;
        self.peers[index].shake_at_ns = at;
        self.timers.push(Reverse((at, index, Wake::Shake)));
        Ok(())
    }

    fn shake_open(&mut self, index: usize, at: u64) -> Result<()> {
        if self.peers[index].phase == Phase::Open {
            return self.shake(index, at);
        }
        self.books.counts.unsent += 1;
        Ok(())
    }

    fn shake(&mut self, index: usize, scheduled_ns: u64) -> Result<()> {
        let peer = &mut self.peers[index];
        if peer.phase != Phase::Open {
            return Ok(());
        }
        let mut out = mem::take(&mut self.out);
        if self.target.has_sessions() {
            peer.put_shake(self.habits, scheduled_ns, &mut self.books.random, &mut out);
        } else {
            peer.put_echo(scheduled_ns, &mut out);
        }
        self.send(index, out)
    }

    /// Sends `out` after what waits already, and takes the buffer back.
    fn send(&mut self, index: usize, mut out: Vec<u8>) -> Result<()> {
        let link = &mut self.links[index];
        let Some(socket) = &mut link.socket else {
            out.clear();
            self.out = out;
            return Ok(());
        };
        let mut failed = false;
        if link.unsent.is_empty() {
            let taken = write_some(socket, &out, &mut failed);
            link.unsent.extend_from_slice(&out[taken..]);
        } else {
            link.unsent.extend_from_slice(&out);
            let taken = write_some(socket, &link.unsent, &mut failed);
            link.unsent.drain(..taken);
        }
        if !out.is_empty() {
            self.peers[index].sent_ns = now_ns();
        }
        out.clear();
        self.out = out;
        if failed { self.down(index, 0) } else { Ok(()) }
    }

    fn on_readable(&mut self, index: usize) -> Result<()> {
        let mut buffer = mem::take(&mut self.buffer);
        let result = self.read_all(index, &mut buffer);
        self.buffer = buffer;
        result
    }

    fn read_all(&mut self, index: usize, buffer: &mut [u8]) -> Result<()> {
        loop {
            let link = &mut self.links[index];
            let Some(socket) = &mut link.socket else { return Ok(()) };
            let have = link.partial.len();
            buffer[..have].copy_from_slice(&link.partial);
            link.partial.clear();
            let read = match socket.read(&mut buffer[have..]) {
                Ok(0) => return self.down(index, 0),
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    link.partial.extend_from_slice(&buffer[..have]);
                    return Ok(());
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {
                    link.partial.extend_from_slice(&buffer[..have]);
                    continue;
                }
                Err(_) => return self.down(index, 0),
            };
            let bytes = &buffer[..have + read];
            let used = self.read_frames(index, bytes)?;
            let link = &mut self.links[index];
            if link.socket.is_none() {
                return Ok(());
            }
            link.partial.extend_from_slice(&bytes[used..]);
            if have + read < buffer.len() {
                return Ok(());
            }
        }
    }

    fn read_frames(&mut self, index: usize, bytes: &[u8]) -> Result<usize> {
        let now = now_ns();
        let (mut wish, mut out) = (Wish::default(), mem::take(&mut self.out));
        let peer = &mut self.peers[index];
        let used = if self.target.has_sessions() {
            peer.read(bytes, now, self.habits, &mut self.books, &mut wish, &mut out)?
        } else {
            peer.read_echo(bytes, now, &mut self.books, &mut wish)
        };
        self.send(index, out)?;
        if wish.leave {
            self.down(index, wish.delay_ms)?;
            return Ok(used);
        }
        if wish.welcomed {
            self.welcomed(index, wish.interval_ms)?;
        }
        let peer = &self.peers[index];
        if self.relogin && peer.sated && peer.is_idle() && peer.phase == Phase::Open {
            self.hand_over(index);
        } else if wish.answered && self.closed_loop {
            self.shake_after(index, wish.interval_ms)?;
        }
        Ok(used)
    }

    /// This user has won enough: the connection is used for the next one.
    fn hand_over(&mut self, index: usize) {
        self.links[index].socket = None;
        self.open -= 1;
        self.peers[index] = Peer::new(self.target.next_user());
        self.to_connect.push_back(index);
    }

    /// The connection is gone.
    fn down(&mut self, index: usize, delay_ms: u32) -> Result<()> {
        if self.links[index].socket.take().is_none() {
            return Ok(());
        }
        self.books.counts.closed += 1;
        if self.peers[index].phase == Phase::Open {
            self.open -= 1;
        } else {
            self.connecting -= 1;
        }
        self.peers[index].on_down();
        if self.reconnect {
            self.connect_later(index, delay_ms);
        } else if !self.target.has_sessions() {
            bail!("the echo server closed a connection");
        }
        Ok(())
    }
}

/// Errors of `connect` that come from this machine, not from the server.
const fn is_ours(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::AddrInUse | ErrorKind::AddrNotAvailable | ErrorKind::Other)
}

fn write_some(socket: &mut TcpStream, bytes: &[u8], failed: &mut bool) -> usize {
    let mut taken = 0;
    while taken < bytes.len() {
        match socket.write(&bytes[taken..]) {
            Ok(written) => taken += written,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(_) => {
                *failed = true;
                break;
            }
        }
    }
    taken
}

/// What an echo run moves each way, bytes; equal to SHAKE and NO_WIN.
const _: () = assert!(
    ECHO_BYTES == yao_protocol::limits::FRAME_HEADER_BYTES + yao_protocol::client::SHAKE_BYTES
);
