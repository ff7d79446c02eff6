//! The spool thread: performs what [`yao_engine::spool`] decides on files, clients and the agent.
//!
//! Owns the spool's directory. Makes no decision about money. A panic here ends the process: a
//! restart is safe, limping is not.

mod counters;
mod dead_letters;
mod segments;
#[cfg(test)]
mod tests;
mod watermark;

pub use counters::SpoolCounters;

use self::{dead_letters::DeadLetterFile, segments::SpoolSegments, watermark::WatermarkFile};
use crate::{
    disk::Disk,
    messages::{OpenReply, ToSpool},
    node::{Node, Shards},
    segments::{Damage, SegmentError},
    slot_file::SlotFileError,
};
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
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
    spool::{Input, Mismatch, Output, Recovered, Reply, Settings, Spool},
    vetting::VetDesk,
};
use yao_protocol::{
    agent::Vet,
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
/// Records kept in memory for delivery: 32 MiB of them.
const TAIL_RECORDS_MAX: usize = 32 * 1024 * 1024 / size_of::<(u64, yao_protocol::spool::Open)>();
/// Calls about opens are numbered from here, those about wins from below: unique in both.
pub const VET_CALL_FIRST: u64 = 1 << 63;
/// Longest sleep, so that the numbers in `/status` are never older than this.
const SLEEP_MAX: Duration = Duration::from_secs(1);

/// The way to the agent. `false` means: no agent, or no room, now.
pub struct AgentOut {
    /// Asks about an open.
    pub vet: Box<dyn Fn(Vet) -> bool + Send>,
    /// How long its verdict is waited for, ms.
    pub vet_ms_max: u32,
    /// Hands over a signed batch under a request id.
    pub deliver: Box<dyn Fn(u32, Vec<u8>) -> bool + Send>,
}

impl std::fmt::Debug for AgentOut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AgentOut")
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
    /// No thread could be started.
    #[error("spool: cannot start its thread: {0}")]
    Thread(std::io::Error),
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

/// Recovers the spool in `directory` and starts its thread.
///
/// # Errors
/// [`SpoolError`]: files of another node, or an operating system that refuses.
pub fn start(
    node: Arc<Node>,
    shards: Shards,
    config: &SpoolConfig,
    (disk, directory): (&Arc<dyn Disk>, &Path),
    agent: AgentOut,
) -> Result<SpoolHandle, SpoolError> {
    let counters = Arc::<SpoolCounters>::default();
    let runner = Runner::recover(node, shards, config, (disk, directory), agent, &counters)?;
    let (sender, queue) = sync_channel(QUEUE_MESSAGES);
    let thread = thread::Builder::new()
        .name("yao-spool".to_owned())
        .spawn(move || {
            if catch_unwind(AssertUnwindSafe(|| runner.run(&queue))).is_err() {
                tracing::error!("the spool thread panicked: the process ends, a restart is safe");
                std::process::abort();
            }
        })
        .map_err(SpoolError::Thread)?;
    Ok(SpoolHandle { sender, counters, thread })
}

/// What the thread owns.
pub struct Runner {
    node: Arc<Node>,
    shards: Shards,
    agent: AgentOut,
    spool: Spool,
    segments: SpoolSegments,
    watermark: WatermarkFile,
    dead_letters: DeadLetterFile,
    counters: Arc<SpoolCounters>,
    bytes_max: u64,
    stopping: bool,
}

impl Runner {
    /// Recovers the spool in `directory`.
    ///
    /// # Errors
    /// As [`start`].
    pub fn recover(
        node: Arc<Node>,
        shards: Shards,
        config: &SpoolConfig,
        (disk, directory): (&Arc<dyn Disk>, &Path),
        agent: AgentOut,
        counters: &Arc<SpoolCounters>,
    ) -> Result<Self, SpoolError> {
        let header = SegmentHeader {
            campaign: node.campaign,
            shard: node.shard,
            epoch: node.epoch,
            incarnation: node.incarnation,
            first_sequence: 0,
        };
        let (mut segments, index, found) = SpoolSegments::open(disk, directory, header)?;
        let mark = directory.join("watermark.yaomark");
        let watermark = WatermarkFile::open(&**disk, &mark, node.campaign, node.shard)?;
        for damage in &found.damage {
            log_damage(damage);
        }
        counters.damage.store(found.damage.len() as u64, Ordering::Relaxed);
        counters.torn_bytes.store(found.torn_bytes, Ordering::Relaxed);
        let settled = watermark.settled();
        tracing::info!(
            records = found.records,
            next_sequence = found.next_sequence,
            settled,
            torn_bytes = found.torn_bytes,
            "spool recovered"
        );
        segments.skip_to(settled + 1);
        let settings = Settings {
            campaign: node.campaign,
            shard: node.shard,
            epoch: node.epoch,
            incarnation: node.incarnation,
            anchor: node.clock.anchor(),
            commit_us_max: config.commit_us_max,
            commit_bytes_max: config.commit_bytes_max,
            bytes_max: config.bytes_max,
            batches_in_flight_max: config.batches_in_flight_max.max(1),
            tail_records_max: TAIL_RECORDS_MAX,
        };
        let recovered = Recovered { index, next_sequence: found.next_sequence, settled };
        let desk = VetDesk::new(u64::from(agent.vet_ms_max), VET_CALL_FIRST);
        let spool = Spool::new(settings, desk, recovered);
        counters.publish(&spool, segments.bytes(), node.clock.wall());
        Ok(Self {
            node,
            shards,
            agent,
            spool,
            segments,
            watermark,
            dead_letters: DeadLetterFile::new(disk, directory),
            counters: Arc::clone(counters),
            bytes_max: config.bytes_max,
            stopping: false,
        })
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
        let at = self.perform_all();
        self.counters.publish(&self.spool, self.segments.bytes(), self.node.clock.wall());
        let ended = self.stopping && self.spool.is_flushed();
        (!ended).then_some(at)
    }

    /// The engine's books, for those who watch it.
    #[must_use]
    pub const fn spool(&self) -> &Spool {
        &self.spool
    }

    fn receive(&mut self, message: ToSpool) {
        let now = self.node.clock.now();
        let input = match message {
            ToSpool::Open { connection, request_id, ticket } => {
                Input::Open { connection, request_id, ticket: *ticket }
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
            ToSpool::AgentAvailable(available) => Input::AgentAvailable(available),
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
            Output::Vet(vet) => {
                (!(self.agent.vet)(vet)).then_some(Input::VetUnsent { call: vet.call })
            }
            Output::Write(records) => {
                for (sequence, open) in &records {
                    self.segments.append(*sequence, open);
                }
                None
            }
            Output::Sync { sequence } => Some(self.sync(sequence)),
            Output::Read { after, through, count_max } => {
                Some(match self.segments.read(after, through, count_max) {
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
                let taken = (self.agent.deliver)(request_id, bytes.to_vec());
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
                if let Err(error) = self.dead_letters.append(&letter) {
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
        match self.segments.commit() {
            Ok(on_disk) => {
                assert_eq!(on_disk, sequence, "what was appended is what was synced");
                Input::Synced { sequence }
            }
            Err(error) => fence(&error),
        }
    }

    fn save(&mut self, watermark: &Watermark) -> Input {
        if let Err(error) = self.watermark.save(watermark) {
            return fence(&error);
        }
        let settled = watermark.settled;
        match self.segments.remove_settled(settled, self.bytes_max) {
            Ok(Some(through)) => {
                tracing::info!(through, "settled spool segments removed");
                self.spool.handle(self.node.clock.now(), Input::Removed { through });
            }
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, "a settled spool segment stays"),
        }
        Input::WatermarkSaved { settled }
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
