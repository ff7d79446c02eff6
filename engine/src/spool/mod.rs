//! Accepted opens on their way to disk and to settlement (M7).
//!
//! An open passes four gates: it is new and not expired ([`index`]), the policy lets it through,
//! its record is synced ([`intake`]: only then is it acknowledged), and settlement has signed an
//! answer to its batch ([`delivery`]: only that moves the watermark). How much of all that there
//! may be is for [`fullness`]. The shell performs each [`Output`] and reports by an [`Input`];
//! when it can write nowhere any more, the machine is fenced for good (M3).
//!
//! Never here: files, sockets, signatures, clocks. The shell checks signatures before it reports.

mod answered;
mod answers;
mod counters;
mod delivery;
mod fullness;
mod index;
mod intake;
mod missing;
mod pacer;
pub mod retention;
#[cfg(test)]
mod tests;

pub use counters::Counters;
pub use fullness::Level;
pub use index::{Entry, Index};
pub use intake::Vetted;

use self::{delivery::Delivery, fullness::Fullness, intake::Intake, pacer::Pacer};
use crate::{Anchor, ConnectionId, Timestamp, vetting::VetDesk};
use std::{collections::VecDeque, sync::Arc};
use yao_protocol::{
    CampaignId, Epoch, Incarnation, ShardId, WallTime,
    agent::Question,
    client::Refusal,
    log::RECORD_OVERHEAD_BYTES,
    receipt::Receipt,
    settlement::{Answer, Batch, OpenResult},
    spool::{OPEN_BYTES, Open, Watermark},
    ticket::Ticket,
    token::Bearer,
};

/// Bytes of one open in a segment.
pub const RECORD_BYTES: u64 = (RECORD_OVERHEAD_BYTES + OPEN_BYTES) as u64;

/// What does not change while the process lives.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// The campaign that is served.
    pub campaign: CampaignId,
    /// The node's shard; signs the batches.
    pub shard: ShardId,
    /// The epoch of its key.
    pub epoch: Epoch,
    /// This life of the process.
    pub incarnation: Incarnation,
    /// How accept times are told.
    pub anchor: Anchor,
    /// Opens are collected this long before one sync serves them all, microseconds.
    pub commit_us_max: u64,
    /// Or until this many bytes are waiting.
    pub commit_bytes_max: usize,
    /// Bytes of unsettled records at most: what is full is measured by it ([`Level`]).
    pub bytes_max: u64,
    /// Batches without an answer at once; at least 1.
    pub batches_in_flight_max: usize,
    /// The newest records, which are delivered first; at least 1.
    pub live_records_max: usize,
    /// Older records that are kept in memory for delivery; the others are read again from disk.
    pub tail_records_max: usize,
    /// Of these at most so many are delivered in a second; [`u32::MAX`] does not limit them.
    pub backlog_per_second: u32,
}

/// What the files said at start.
#[derive(Debug, Default)]
pub struct Recovered {
    /// Every open in the segments.
    pub index: Index,
    /// Sequence of the next record; above everything ever acknowledged.
    pub next_sequence: u64,
    /// The watermark on disk; 0 when there is none, which delivers everything again.
    pub settled: u64,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Input {
    /// A ticket whose signature is good, presented by its own user.
    Open {
        /// Who asks.
        connection: ConnectionId,
        /// His request.
        request_id: u32,
        /// His device and risk class.
        bearer: Bearer,
        /// The ticket.
        ticket: Ticket,
    },
    /// The agent's verdict on an open.
    Verdict {
        /// Which call.
        call: u64,
        /// Yes or no.
        allowed: bool,
    },
    /// A [`Output::Vet`] found no agent or no room: the open goes on as if allowed.
    VetUnsent {
        /// Which call.
        call: u64,
    },
    /// The file system has this much room for the spool.
    Space {
        /// Bytes.
        bytes: u64,
    },
    /// Everything up to this record is on disk.
    Synced {
        /// Its sequence.
        sequence: u64,
    },
    /// A write or a sync failed, and there is nowhere else to write.
    DiskFailed,
    /// The answer to [`Output::Read`].
    Read {
        /// The records found, sequences rising.
        records: Vec<(u64, Open)>,
        /// Every readable record up to this sequence is among them.
        through: u64,
    },
    /// Segments could not be read.
    ReadFailed,
    /// The answer to [`Output::Sign`]: the signed batch.
    Signed {
        /// Which batch.
        request_id: u32,
        /// Its bytes.
        bytes: Arc<[u8]>,
    },
    /// A [`Output::Deliver`] found no agent or no room.
    NotTaken {
        /// Which batch.
        request_id: u32,
    },
    /// Settlement's answer, its signature checked.
    Delivered {
        /// Under which id the batch was handed out.
        request_id: u32,
        /// The answer.
        answer: Answer,
        /// Digest of the answer's bytes, for the watermark.
        answer_digest: [u8; 32],
    },
    /// The agent brought bytes that settlement did not sign.
    Forged {
        /// Under which id the batch was handed out.
        request_id: u32,
    },
    /// A batch did not reach settlement.
    Undelivered {
        /// Under which id it was handed out.
        request_id: u32,
        /// Not again before, ms.
        retry_after_ms: u32,
    },
    /// Whether an agent serves.
    AgentAvailable(bool),
    /// The watermark is on disk.
    WatermarkSaved {
        /// As in [`Output::SaveWatermark`].
        settled: u64,
    },
    /// Segments up to this record were removed: their packets need not be remembered.
    Removed {
        /// The last sequence removed.
        through: u64,
    },
    /// Commit what is there without waiting for more: the process is about to end.
    Flush,
}

/// What the shell must do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Tell the client.
    Reply {
        /// Whom.
        connection: ConnectionId,
        /// Which request of his.
        request_id: u32,
        /// What.
        reply: Reply,
    },
    /// Ask the agent; when there is none, or no room, report [`Input::VetUnsent`].
    Vet(Question),
    /// Append these records, in memory or to the file.
    Write(Vec<(u64, Open)>),
    /// Write and sync everything appended; report [`Input::Synced`] or [`Input::DiskFailed`].
    Sync {
        /// The last record appended.
        sequence: u64,
    },
    /// Read records from the segments, oldest first; report [`Input::Read`].
    Read {
        /// Only later sequences.
        after: u64,
        /// None later than this.
        through: u64,
        /// At most this many.
        count_max: usize,
    },
    /// Encode and sign a batch; report [`Input::Signed`].
    Sign {
        /// Its id.
        request_id: u32,
        /// What it holds.
        batch: Batch,
    },
    /// Hand a batch to the agent; when there is none, or no room, report [`Input::NotTaken`].
    Deliver {
        /// Its id.
        request_id: u32,
        /// Its bytes.
        bytes: Arc<[u8]>,
    },
    /// Replace the watermark on disk; report [`Input::WatermarkSaved`] or [`Input::DiskFailed`].
    SaveWatermark(Watermark),
    /// Settlement will never pay this open and somebody must look.
    DeadLetter(DeadLetter),
    /// An answer was not settlement's, or not to the batch it came for. Log it.
    AnswerRefused {
        /// Under which id it came.
        request_id: u32,
        /// What is wrong with it.
        why: Mismatch,
    },
    /// Nothing to do until then, unless an input comes.
    SleepUntil {
        /// [`Timestamp::NEVER`] when only an input can change anything.
        at: Timestamp,
        /// What is due then.
        reason: Reason,
    },
}

/// The answer to an open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// It is on disk. The shell proves it under the campaign's MAC key.
    Receipt(Receipt),
    /// It was refused.
    Refused(Refusal),
}

/// An open that settlement refused although this node accepted it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// Its sequence in the spool.
    pub sequence: u64,
    /// The open.
    pub open: Open,
    /// [`OpenResult::Conflict`], [`OpenResult::Invalid`] or [`OpenResult::Reclaimed`].
    pub result: OpenResult,
    /// When settlement said so.
    pub settled_at: WallTime,
}

/// What is wrong with an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mismatch {
    /// Its signature is not settlement's, or it is no answer at all.
    Forged,
    /// It names another node, process life or range of records.
    OtherBatch,
    /// It answers other bytes than those that were sent.
    Digest,
    /// It does not hold one result for each record.
    Count,
}

/// What a sleep waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// An input.
    Input,
    /// The time of a group commit.
    Commit,
    /// The deadline of a vet.
    Vet,
    /// A batch is to be sent again, or its answer is overdue, or the backlog may go on.
    Delivery,
}

/// The machine.
#[derive(Debug)]
pub struct Spool {
    settings: Settings,
    intake: Intake,
    delivery: Delivery,
    fullness: Fullness,
    counters: Counters,
    /// Outputs that an input caused at once.
    ready: VecDeque<Output>,
}

impl Spool {
    /// A machine that continues from what the files said; `desk` holds the opens being vetted.
    ///
    /// # Panics
    /// When the settings allow no batch under way, or keep no record in memory.
    #[must_use]
    pub fn new(settings: Settings, desk: VetDesk<Vetted>, recovered: Recovered) -> Self {
        assert!(settings.batches_in_flight_max >= 1, "without a batch nothing is ever settled");
        let in_memory = settings.tail_records_max.min(settings.live_records_max);
        assert!(in_memory >= 1, "delivery needs records in memory");
        // A watermark beyond the records: their segments were lost or removed.
        let next_sequence = recovered.next_sequence.max(recovered.settled + 1).max(1);
        let pacer = Pacer::new(settings.backlog_per_second, settings.incarnation);
        let mut spool = Self {
            intake: Intake::new(desk, recovered.index, next_sequence),
            delivery: Delivery::new(recovered.settled, next_sequence - 1, pacer),
            fullness: Fullness::default(),
            settings,
            counters: Counters::default(),
            ready: VecDeque::new(),
        };
        spool.renew_fullness();
        spool
    }

    /// One thing that happened. Drain [`Self::poll`] afterwards, or after a burst of inputs.
    pub fn handle(&mut self, now: Timestamp, input: Input) {
        match input {
            Input::Open { connection, request_id, bearer, ticket } => {
                self.handle_open(now, connection, request_id, bearer, &ticket);
            }
            Input::Verdict { call, allowed } => self.handle_verdict(now, call, allowed),
            Input::VetUnsent { call } => self.handle_vet_unsent(now, call),
            Input::Synced { sequence } => self.handle_synced(sequence),
            Input::DiskFailed => self.handle_disk_failed(),
            Input::Flush => self.intake.flush(),
            Input::Space { bytes } => {
                self.fullness.handle_space(bytes, self.intake.next_sequence());
            }
            Input::Removed { through } => self.intake.forget(through),
            Input::AgentAvailable(available) => {
                self.intake.handle_agent_available(available);
                self.delivery.handle_agent_available(now, available);
            }
            Input::Read { records, through } => self.delivery.handle_read(records, through),
            Input::ReadFailed => {
                self.counters.read_failures += 1;
                self.delivery.handle_read_failed(now);
            }
            Input::Signed { request_id, bytes } => {
                self.delivery.handle_signed(now, request_id, bytes);
            }
            Input::NotTaken { request_id } => self.delivery.retry(now, request_id, 0),
            Input::Undelivered { request_id, retry_after_ms } => {
                self.counters.undelivered += 1;
                self.delivery.retry(now, request_id, retry_after_ms);
            }
            Input::Forged { request_id } => {
                self.refuse_answer(now, request_id, Mismatch::Forged);
            }
            Input::Delivered { request_id, answer, answer_digest } => {
                self.handle_delivered(now, request_id, &answer, answer_digest);
            }
            Input::WatermarkSaved { settled } => self.delivery.handle_watermark_saved(settled),
        }
        self.renew_fullness();
    }

    /// What to do next; call until it answers [`Output::SleepUntil`].
    pub fn poll(&mut self, now: Timestamp) -> Output {
        self.expire_vets(now);
        if let Some(output) = self.ready.pop_front() {
            return output;
        }
        if let Some(output) = self.intake.poll(now, &self.settings) {
            return output;
        }
        // What settlement answered counts on a fenced node too, but only in memory.
        let fenced = self.intake.is_fenced();
        if let Some(output) = self.delivery.poll(now, &self.settings, &mut self.counters, fenced) {
            return output;
        }
        let commit = (self.intake.commit_at(&self.settings), Reason::Commit);
        let vet = (self.intake.vet_deadline(), Reason::Vet);
        let delivery = (self.delivery.deadline(&self.settings), Reason::Delivery);
        let first = [commit, vet, delivery].into_iter().min_by_key(|(at, _)| *at);
        match first {
            Some((at, reason)) if at < Timestamp::NEVER => Output::SleepUntil { at, reason },
            _ => Output::SleepUntil { at: Timestamp::NEVER, reason: Reason::Input },
        }
    }

    /// Counts since start.
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Whether a write or sync failed: no open is acknowledged until the next start (M3).
    #[must_use]
    pub const fn is_fenced(&self) -> bool {
        self.intake.is_fenced()
    }

    /// What the spool's fullness calls for.
    #[must_use]
    pub const fn level(&self) -> Level {
        self.fullness.level()
    }

    /// How full the spool is, per mille of `bytes_max`.
    #[must_use]
    pub const fn fill_permille(&self) -> u64 {
        self.fullness.permille()
    }

    /// Every record up to this sequence has settlement's answer.
    #[must_use]
    pub const fn settled(&self) -> u64 {
        self.delivery.settled()
    }

    /// The watermark that is on disk: what a start continues from, and what may be removed.
    #[must_use]
    pub const fn settled_on_disk(&self) -> u64 {
        self.delivery.settled_on_disk()
    }

    /// Sequence of the next record.
    #[must_use]
    pub const fn next_sequence(&self) -> u64 {
        self.intake.next_sequence()
    }

    /// Whether nothing accepted is still on its way to the disk.
    #[must_use]
    pub fn is_flushed(&self) -> bool {
        self.ready.is_empty() && self.intake.is_flushed()
    }

    /// When the oldest open that settlement has not answered was accepted, as far as it is in
    /// memory: `None` when all are answered, or the oldest waits on disk behind a missing agent.
    #[must_use]
    pub fn oldest_unsettled(&self) -> Option<WallTime> {
        self.delivery.oldest_unsettled()
    }
}
