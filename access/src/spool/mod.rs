//! The spool thread: performs what [`yao_engine::spool`] decides on files, clients and the agent.
//!
//! Owns the spool's directory and its fallback. Makes no decision about money. A panic here ends
//! the process: a restart is safe, limping is not.

mod counters;
mod dead_letters;
mod pair;
mod segments;
mod store;
#[cfg(test)]
mod tests;
mod watermark;

pub use counters::SpoolCounters;
pub(crate) use pair::ASIDE as PAIR_ASIDE;
pub use pair::PairError;

use self::store::Store;
use crate::{
    disk::Disk,
    messages::{OpenReply, ToSpool},
    node::{Node, Shards},
    segments::{Damage, SegmentError},
    slot_file::SlotFileError,
};
use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::Ordering,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread::{self, JoinHandle},
    time::Duration,
};
use thiserror::Error;
use yao_engine::{
    Timestamp,
    spool::{Input, Level, Mismatch, Output, Recovered, Reply, Settings, Spool, retention},
    vetting::VetDesk,
};
use yao_protocol::{
    agent::Question,
    log::SegmentHeader,
    settlement::{Answer, digest},
    spool::Watermark,
};

use crate::config::SpoolConfig;

/// Messages that wait for the thread. At 10,000 opens a second this is more than a second of a
/// disk that does not answer; crypto threads then refuse.
const QUEUE_MESSAGES: usize = 16_384;
/// Messages taken before the machine is polled: one group commit serves them all.
const BURST_MESSAGES: usize = 4_096;
/// The newest records, which are delivered first and at no bounded rate: half a second's worth at
/// 10,000 a second, 0.7 MiB.
const LIVE_RECORDS_MAX: usize = 4_096;
/// Older records kept in memory for delivery: 32 MiB of them.
const TAIL_RECORDS_MAX: usize = 32 * 1024 * 1024 / size_of::<(u64, yao_protocol::spool::Open)>();
/// Calls about opens are numbered from here, those about wins from below: unique in both.
pub const VET_CALL_FIRST: u64 = 1 << 63;
/// Longest sleep, so that the numbers in `/status` are never older than this.
const SLEEP_MAX: Duration = Duration::from_secs(1);
/// The file system is asked for its room, and the link for its agent, this often.
const LOOK_MS: u64 = 1_000;

/// The ways to agent and issuer. `false` means: nobody there, or no room, now.
pub struct Ways {
    /// Asks the agent about an open.
    pub vet: Box<dyn Fn(Question) -> bool + Send>,
    /// How long its verdict is waited for, ms.
    pub vet_ms_max: u32,
    /// Hands the agent a signed batch under a request id.
    pub deliver: Box<dyn Fn(u32, Vec<u8>) -> bool + Send>,
    /// Whether an agent serves; `None` where only messages tell. Looked at once a second: a message
    /// that says so finds a full queue when the disk stalls, and is lost.
    pub agent: Box<dyn Fn() -> Option<bool> + Send>,
    /// Tells the issuer how many hundredths of what is due may be issued.
    pub throttle: Box<dyn Fn(u8) -> bool + Send>,
}

impl std::fmt::Debug for Ways {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ways")
    }
}

/// Why the spool cannot start.
#[derive(Debug, Error)]
pub enum SpoolError {
    /// The segments cannot be used.
    #[error("spool: {0}")]
    Segments(#[from] SegmentError),
    /// The watermark cannot be used.
    #[error("spool: {0}")]
    Watermark(#[from] SlotFileError),
    /// The file of dead letters cannot be used.
    #[error("spool: cannot use {path}: {error}", path = path.display())]
    DeadLetters {
        /// The file.
        path: PathBuf,
        /// The answer of the operating system.
        error: io::Error,
    },
    /// Spool and fallback do not belong together.
    #[error("spool: {0}")]
    Pair(#[from] PairError),
    /// No thread could be started.
    #[error("spool: cannot start its thread: {0}")]
    Thread(io::Error),
}

/// The running thread.
#[derive(Debug)]
pub struct SpoolHandle {
    /// The way to the thread. Full means: the disk is slower than the opens, refuse.
    pub sender: SyncSender<ToSpool>,
    /// Its numbers.
    pub counters: Arc<SpoolCounters>,
    /// The thread.
    pub thread: JoinHandle<()>,
}

impl SpoolHandle {
    /// Commits and acknowledges what has arrived, then ends the thread.
    pub fn stop(self) {
        // A thread that has ended has no queue; it cannot have panicked, that aborts.
        self.sender.send(ToSpool::Stop).ok();
        self.thread.join().ok();
    }
}

/// Recovers the spool in `directory` and in the configured fallback, and starts its thread.
/// `backlog_per_second` holds where the configuration says nothing.
///
/// # Errors
/// [`SpoolError`]: files of another node, or an operating system that refuses.
pub fn start(
    node: Arc<Node>,
    shards: Shards,
    config: &SpoolConfig,
    backlog_per_second: u32,
    (disk, directory): (&Arc<dyn Disk>, &Path),
    ways: Ways,
) -> Result<SpoolHandle, SpoolError> {
    let counters = Arc::<SpoolCounters>::default();
    let settings = settings(&node, config, backlog_per_second);
    let fallback = config.fallback.as_deref();
    let lock = pair::pair(directory, fallback, node.campaign, node.shard)?;
    if lock.as_ref().is_some_and(|lock| lock.same_device) {
        tracing::warn!(
            "spool.fallback lies on the spool's own file system: what takes one takes both"
        );
    }
    let directories: Vec<&Path> = [directory].into_iter().chain(fallback).collect();
    let places = (disk, directories.as_slice());
    let runner = Runner::recover(node, shards, settings, places, ways, &counters)?;
    let (sender, queue) = sync_channel(QUEUE_MESSAGES);
    let thread = thread::Builder::new()
        .name("yao-spool".to_owned())
        .spawn(move || {
            let _fallback = lock;
            if catch_unwind(AssertUnwindSafe(|| runner.run(&queue))).is_err() {
                tracing::error!("the spool thread panicked: the process ends, a restart is safe");
                std::process::abort();
            }
        })
        .map_err(SpoolError::Thread)?;
    Ok(SpoolHandle { sender, counters, thread })
}

/// What a stopped node's spool holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rest {
    /// The last record; 0 when there never was one.
    pub last: u64,
    /// Settlement has answered every record up to here.
    pub settled: u64,
    /// Places of damage.
    pub damage: usize,
}

/// Looks into the spool of a stopped node, mending what a start would mend. Writes no record.
///
/// # Errors
/// As [`start`].
pub fn rest(
    disk: &Arc<dyn Disk>,
    directory: &Path,
    fallback: Option<&Path>,
    header: SegmentHeader,
) -> Result<Rest, SpoolError> {
    let _fallback = pair::pair(directory, fallback, header.campaign, header.shard)?;
    let directories: Vec<&Path> = [directory].into_iter().chain(fallback).collect();
    let (store, _, found) = Store::open(disk, &directories, header)?;
    let (last, damage) = (found.next_sequence - 1, found.damage.len());
    Ok(Rest { last, settled: store.settled(), damage })
}

/// How the machine is set up in `node`'s process; `backlog_per_second` holds where the
/// configuration says nothing.
#[must_use]
pub fn settings(node: &Node, config: &SpoolConfig, backlog_per_second: u32) -> Settings {
    Settings {
        campaign: node.campaign,
        shard: node.shard,
        epoch: node.epoch,
        incarnation: node.incarnation,
        anchor: node.clock.anchor(),
        commit_us_max: config.commit_us_max,
        commit_bytes_max: config.commit_bytes_max,
        bytes_max: config.bytes_max,
        batches_in_flight_max: config.batches_in_flight_max.max(1),
        live_records_max: LIVE_RECORDS_MAX,
        tail_records_max: TAIL_RECORDS_MAX,
        backlog_per_second: match config.backlog_per_second {
            0 => backlog_per_second,
            rate => rate,
        },
    }
}

/// What the thread owns.
pub struct Runner {
    node: Arc<Node>,
    shards: Shards,
    ways: Ways,
    spool: Spool,
    store: Store,
    counters: Arc<SpoolCounters>,
    /// Places of damage that the start found.
    damage_at_start: usize,
    bytes_max: u64,
    /// What the log last said of the spool's fullness.
    level: Level,
    /// What the issuer last took.
    issue_percent: u8,
    /// Whether an agent serves, as the machine last heard.
    agent: bool,
    /// When to look at the file system's room and the agent next.
    look_at: Timestamp,
    stopping: bool,
}

impl Runner {
    /// Recovers the spool in `directories`, its own first.
    ///
    /// # Errors
    /// As [`start`].
    pub fn recover(
        node: Arc<Node>,
        shards: Shards,
        settings: Settings,
        (disk, directories): (&Arc<dyn Disk>, &[&Path]),
        ways: Ways,
        counters: &Arc<SpoolCounters>,
    ) -> Result<Self, SpoolError> {
        let header = SegmentHeader {
            campaign: node.campaign,
            shard: node.shard,
            epoch: node.epoch,
            incarnation: node.incarnation,
            first_sequence: 0,
        };
        let (store, index, found) = Store::open(disk, directories, header)?;
        for damage in &found.damage {
            log_damage(damage);
        }
        counters.torn_bytes.store(found.torn_bytes, Ordering::Relaxed);
        let settled = store.settled();
        tracing::info!(
            records = found.records,
            next_sequence = found.next_sequence,
            settled,
            torn_bytes = found.torn_bytes,
            backlog_per_second = settings.backlog_per_second,
            "spool recovered"
        );
        let recovered = Recovered { index, next_sequence: found.next_sequence, settled };
        let desk = VetDesk::new(u64::from(ways.vet_ms_max), VET_CALL_FIRST);
        let runner = Self {
            spool: Spool::new(settings, desk, recovered),
            look_at: node.clock.now(),
            node,
            shards,
            ways,
            store,
            counters: Arc::clone(counters),
            damage_at_start: found.damage.len(),
            bytes_max: settings.bytes_max,
            level: Level::Normal,
            issue_percent: 100,
            agent: false,
            stopping: false,
        };
        runner.publish();
        Ok(runner)
    }

    fn run(mut self, queue: &Receiver<ToSpool>) {
        let mut message = None;
        while let Some(at) = self.turn(message, queue) {
            let sleep = at.since(self.node.clock.now()).min(SLEEP_MAX);
            message = match queue.recv_timeout(sleep) {
                Ok(message) => Some(message),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => Some(ToSpool::Stop),
            };
        }
    }

    /// One turn of the thread: `first`, what waits behind it, and everything that follows from
    /// them. When to turn next, unless a message comes; `None` when the thread shall end.
    pub fn turn(&mut self, first: Option<ToSpool>, queue: &Receiver<ToSpool>) -> Option<Timestamp> {
        if let Some(message) = first {
            self.receive(message);
            for message in queue.try_iter().take(BURST_MESSAGES) {
                self.receive(message);
            }
        }
        self.look_around();
        let at = self.perform_all();
        self.renew_level();
        self.publish();
        if self.stopping && self.spool.is_flushed() {
            self.store.trim();
            return None;
        }
        Some(at.min(self.look_at))
    }

    /// The engine's books, for those who watch it.
    #[must_use]
    pub const fn spool(&self) -> &Spool {
        &self.spool
    }

    fn publish(&self) {
        let store = &self.store;
        let wall = self.node.clock.wall();
        self.counters.publish(&self.spool, store.bytes(), store.is_on_fallback(), wall);
        let damage = self.damage_at_start + store.rotten();
        self.counters.damage.store(damage as u64, Ordering::Relaxed);
    }

    /// Once a second: whether an agent serves, how much room the file system has, and whether
    /// settled segments must make some.
    fn look_around(&mut self) {
        let now = self.node.clock.now();
        if now < self.look_at {
            return;
        }
        self.look_at = now.plus_ms(LOOK_MS);
        if let Some(available) = (self.ways.agent)().filter(|available| *available != self.agent) {
            self.agent = available;
            self.spool.handle(now, Input::AgentAvailable(available));
        }
        if let Some(bytes) = self.store.space_bytes() {
            self.counters.space_bytes.store(bytes, Ordering::Relaxed);
            self.spool.handle(now, Input::Space { bytes });
            self.remove_settled(self.spool.settled_on_disk(), bytes);
        }
    }

    /// Says how full the spool is, to people once and to the issuer until it has room to listen.
    fn renew_level(&mut self) {
        let level = self.spool.level();
        if level != self.level {
            let filled_permille = self.spool.fill_permille();
            let (before, now) = (self.level.name(), level.name());
            if level > self.level {
                tracing::error!(event = "spool_filling", before, now, filled_permille);
            } else {
                tracing::info!(event = "spool_emptying", before, now, filled_permille);
            }
            self.level = level;
        }
        let percent = level.issue_percent();
        if percent != self.issue_percent && (self.ways.throttle)(percent) {
            self.issue_percent = percent;
        }
    }

    fn receive(&mut self, message: ToSpool) {
        let now = self.node.clock.now();
        let input = match message {
            ToSpool::Open { connection, request_id, bearer, ticket } => {
                Input::Open { connection, request_id, bearer, ticket: *ticket }
            }
            ToSpool::Verdict { call, allowed } => Input::Verdict { call, allowed },
            ToSpool::Delivered { request_id, answer } => {
                match Answer::decode(&answer, &self.node.keys.load()) {
                    Ok(decoded) => Input::Delivered {
                        request_id,
                        answer: decoded,
                        answer_digest: digest(&answer),
                    },
                    Err(_) => Input::Forged { request_id },
                }
            }
            ToSpool::Undelivered { request_id, retry_after_ms } => {
                Input::Undelivered { request_id, retry_after_ms }
            }
            ToSpool::AgentAvailable(available) => {
                self.agent = available;
                Input::AgentAvailable(available)
            }
            ToSpool::Stop => {
                self.stopping = true;
                Input::Flush
            }
        };
        self.spool.handle(now, input);
    }

    /// Performs everything that is due; returns when the machine next wants to be polled.
    fn perform_all(&mut self) -> Timestamp {
        loop {
            match self.spool.poll(self.node.clock.now()) {
                Output::SleepUntil { at, .. } => return at,
                output => {
                    if let Some(input) = self.perform(output) {
                        self.spool.handle(self.node.clock.now(), input);
                    }
                }
            }
        }
    }

    fn perform(&mut self, output: Output) -> Option<Input> {
        match output {
            Output::Reply { connection, request_id, reply } => {
                let reply = match reply {
                    Reply::Receipt(receipt) => {
                        OpenReply::Receipt(Box::new(receipt.encode(&self.node.mac_key)))
                    }
                    Reply::Refused(refusal) => OpenReply::Refused(refusal),
                };
                self.shards.open_decided(connection, request_id, reply);
                None
            }
            Output::Vet(question) => {
                let call = question.vet.call;
                (!(self.ways.vet)(question)).then_some(Input::VetUnsent { call })
            }
            Output::Write(records) => {
                for (sequence, open) in &records {
                    self.store.append(*sequence, open);
                }
                None
            }
            Output::Sync { sequence } => Some(self.sync(sequence)),
            Output::Read { after, through, count_max } => {
                Some(match self.store.read(after, through, count_max) {
                    Ok((records, through)) => Input::Read { records, through },
                    Err(error) => {
                        tracing::error!(%error, "spooled opens wait");
                        Input::ReadFailed
                    }
                })
            }
            Output::Sign { request_id, batch } => {
                let bytes = batch.encode(&self.node.ticket_key).into();
                Some(Input::Signed { request_id, bytes })
            }
            Output::Deliver { request_id, bytes } => {
                let taken = (self.ways.deliver)(request_id, bytes.to_vec());
                (!taken).then_some(Input::NotTaken { request_id })
            }
            Output::SaveWatermark(watermark) => Some(self.save(&watermark)),
            Output::DeadLetter(letter) => {
                tracing::error!(
                    sequence = letter.sequence,
                    packet = %letter.open.ticket.body.packet,
                    result = ?letter.result,
                    "settlement refuses an accepted open for good: see dead-letter.jsonl"
                );
                if let Err(error) = self.store.keep(&letter) {
                    self.counters.dead_letter_failures.fetch_add(1, Ordering::Relaxed);
                    tracing::error!(%error, "the dead letter could not be written");
                    // The watermark must not pass it: after a restart the batch is delivered and
                    // the letter written again.
                    return Some(fence(&error));
                }
                None
            }
            Output::AnswerRefused { request_id, why } => {
                self.log_refused_answer(request_id, why);
                None
            }
            Output::SleepUntil { .. } => unreachable!("the caller sleeps"),
        }
    }

    fn sync(&mut self, sequence: u64) -> Input {
        match self.store.commit() {
            Ok(on_disk) => {
                assert_eq!(on_disk, sequence, "what was appended is what was synced");
                Input::Synced { sequence }
            }
            Err(error) => fence(&error),
        }
    }

    fn save(&mut self, watermark: &Watermark) -> Input {
        if let Err(error) = self.store.save(watermark) {
            return fence(&error);
        }
        let settled = watermark.settled;
        // The file system's room is made at the next look: as it was at the last one it would be
        // made again and again.
        self.remove_settled(settled, u64::MAX);
        Input::WatermarkSaved { settled }
    }

    /// Removes settled segments beyond `spool.bytes_max`, and what the file system lacks.
    fn remove_settled(&mut self, settled_on_disk: u64, space_bytes: u64) {
        let keep = retention::keep_bytes(self.store.bytes(), space_bytes, self.bytes_max);
        match self.store.remove_settled(settled_on_disk, keep) {
            Ok(Some(through)) => {
                tracing::info!(through, "settled spool segments removed");
                self.spool.handle(self.node.clock.now(), Input::Removed { through });
            }
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, "a settled spool segment stays"),
        }
    }

    /// Once is enough: whoever forges answers would fill the disk with our complaints.
    fn log_refused_answer(&self, request_id: u32, why: Mismatch) {
        if self.spool.counters().forged_answers == 1 {
            tracing::error!(
                request_id,
                ?why,
                "an answer that settlement did not give to this batch was ignored; the agent or \
                 what lies behind it is broken or hostile (further ones are only counted)"
            );
        }
    }
}

fn fence(error: &dyn std::error::Error) -> Input {
    tracing::error!(
        %error,
        "the spool is fenced: opens are refused until a restart; shakes, and delivery of what is \
         on disk, go on"
    );
    Input::DiskFailed
}

fn log_damage(damage: &Damage) {
    match damage {
        Damage::BadBytes { path, offset, error, sequence, salvaged } => tracing::error!(
            path = %path.display(), offset, ?error, sequence, salvaged,
            "a spool segment is damaged: a copy is kept as *.corrupt, readable opens are \
             delivered, \
             acknowledged ones may be missing"
        ),
        Damage::Missing { first, last } => tracing::error!(
            first,
            last,
            "acknowledged opens are missing from the spool; clients that still hold their tickets \
             can open again"
        ),
    }
}
