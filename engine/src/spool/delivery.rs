//! From disk to settlement: batches, answers, and the watermark.
//!
//! The one rule (M7): the watermark moves in [`Delivery::advance`], over the answered batches at
//! the head of the queue, and a batch is answered only by [`Spool::handle_delivered`] with an
//! answer that matches it in every field. Batches may be delivered twice; settlement knows packets.

use super::{Counters, DeadLetter, Mismatch, Output, Settings, Spool};
use crate::Timestamp;
use std::{collections::VecDeque, sync::Arc};
use yao_protocol::{
    WallTime,
    limits::BATCH_RECORDS_MAX,
    settlement::{Answer, Batch, OpenResult, digest},
    spool::{Open, Watermark},
};

/// An answer that takes longer is given up and the batch sent again: the agent gives settlement
/// 5 s, and twice that is a lost message.
const ANSWER_MS_MAX: u64 = 10_000;
/// First wait before a batch is sent again; doubled with each failure. No jitter: one node's
/// batches are few, and the agent spreads nodes.
const RETRY_MS_MIN: u64 = 100;
/// Longest wait before a batch is sent again.
const RETRY_MS_MAX: u64 = 10_000;
/// A settlement that asks for more patience than this is asked again anyway.
const RETRY_AFTER_MS_MAX: u64 = 60_000;
/// Batches behind an unanswered head. They are small once answered; a head that is never answered
/// must not stop the others soon, nor let the queue grow for ever.
const BATCHES_MAX: usize = 4_096;
/// Records read from disk at once: about 1 MiB.
const READ_RECORDS_MAX: usize = 6_144;

/// Where a batch is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// Being signed.
    Signing,
    /// To be handed out from then on.
    Waiting { until: Timestamp },
    /// Handed out; overdue from then on.
    Sent { until: Timestamp },
    /// Settlement has answered.
    Answered { answer_digest: [u8; 32] },
}

#[derive(Debug)]
struct Outgoing {
    request_id: u32,
    first_sequence: u64,
    last_sequence: u64,
    /// Empty once answered.
    records: Vec<(u64, Open)>,
    /// Empty until signed and once answered.
    bytes: Arc<[u8]>,
    /// BLAKE3 of the bytes.
    digest: [u8; 32],
    /// Times it came back without an answer.
    failures: u32,
    state: State,
}

#[derive(Debug)]
pub(super) struct Delivery {
    settled: u64,
    settled_on_disk: u64,
    /// Digest of the answer that moved `settled` last.
    answer_digest: [u8; 32],
    saving: bool,
    /// Highest sequence on disk: nothing later is delivered.
    synced: u64,
    /// Records for the next batches, sequences rising.
    tail: VecDeque<(u64, Open)>,
    /// Every record above the last batch and up to here is in `tail`; later ones are on disk only.
    tail_end: u64,
    reading: bool,
    read_retry_at: Timestamp,
    /// Oldest first; each begins behind the one before it.
    batches: VecDeque<Outgoing>,
    /// Of these: without an answer.
    unanswered: usize,
    next_request_id: u32,
    agent_available: bool,
}

impl Delivery {
    pub(super) fn new(settled: u64, synced: u64) -> Self {
        Self {
            settled,
            settled_on_disk: settled,
            answer_digest: [0; 32],
            saving: false,
            synced,
            tail: VecDeque::new(),
            tail_end: settled,
            reading: false,
            read_retry_at: Timestamp::default(),
            batches: VecDeque::new(),
            unanswered: 0,
            next_request_id: 1,
            agent_available: false,
        }
    }

    pub(super) const fn settled(&self) -> u64 {
        self.settled
    }

    pub(super) const fn settled_on_disk(&self) -> u64 {
        self.settled_on_disk
    }

    pub(super) fn oldest_unsettled(&self) -> Option<WallTime> {
        let batched = self.batches.iter().find_map(|batch| batch.records.first());
        batched.or_else(|| self.tail.front()).map(|(_, open)| open.accepted_at)
    }

    /// Keeps a record for delivery when it follows what is kept; else it is read again later.
    pub(super) fn handle_accepted(&mut self, sequence: u64, open: &Open, settings: &Settings) {
        if sequence == self.tail_end + 1 && self.tail.len() < settings.tail_records_max {
            self.tail.push_back((sequence, *open));
            self.tail_end = sequence;
        }
    }

    pub(super) const fn handle_synced(&mut self, sequence: u64) {
        self.synced = sequence;
    }

    pub(super) fn handle_agent_available(&mut self, now: Timestamp, available: bool) {
        self.agent_available = available;
        // What the agent that left was asked, the next one is asked again.
        for batch in &mut self.batches {
            if matches!(batch.state, State::Sent { .. }) {
                batch.state = State::Waiting { until: now };
            }
        }
    }

    pub(super) fn handle_read(&mut self, records: Vec<(u64, Open)>, through: u64) {
        if !std::mem::take(&mut self.reading) {
            return;
        }
        for (sequence, open) in records {
            assert!(sequence > self.tail_end && sequence <= through, "records are read in order");
            self.tail.push_back((sequence, open));
            self.tail_end = sequence;
        }
        // What is not among the records is damaged: it is left behind, not waited for.
        self.tail_end = self.tail_end.max(through);
    }

    pub(super) const fn handle_read_failed(&mut self, now: Timestamp) {
        self.reading = false;
        self.read_retry_at = now.plus_ms(RETRY_MS_MAX);
    }

    pub(super) fn handle_signed(&mut self, now: Timestamp, request_id: u32, bytes: Arc<[u8]>) {
        if let Some(batch) = self.unanswered_batch(request_id)
            && batch.state == State::Signing
        {
            batch.digest = digest(&bytes);
            batch.bytes = bytes;
            batch.state = State::Waiting { until: now };
        }
    }

    /// The batch came back without an answer: again after a pause.
    pub(super) fn retry(&mut self, now: Timestamp, request_id: u32, retry_after_ms: u32) {
        if let Some(batch) = self.unanswered_batch(request_id)
            && matches!(batch.state, State::Sent { .. })
        {
            let doubled = RETRY_MS_MIN.saturating_mul(1 << batch.failures.min(16));
            let asked = u64::from(retry_after_ms).min(RETRY_AFTER_MS_MAX);
            batch.failures += 1;
            let wait_ms = doubled.min(RETRY_MS_MAX).max(asked);
            batch.state = State::Waiting { until: now.plus_ms(wait_ms) };
        }
    }

    pub(super) fn handle_watermark_saved(&mut self, settled: u64) {
        assert!(self.saving && settled > self.settled_on_disk && settled <= self.settled);
        self.saving = false;
        self.settled_on_disk = settled;
    }

    pub(super) fn poll(
        &mut self,
        now: Timestamp,
        settings: &Settings,
        counters: &mut Counters,
        fenced: bool,
    ) -> Option<Output> {
        if self.settled > self.settled_on_disk && !self.saving && !fenced {
            self.saving = true;
            return Some(Output::SaveWatermark(Watermark {
                campaign: settings.campaign,
                shard: settings.shard,
                settled: self.settled,
                answer_digest: self.answer_digest,
            }));
        }
        self.give_up_overdue(now, counters);
        if !self.agent_available {
            return None;
        }
        self.poll_deliver(now)
            .or_else(|| self.poll_batch(settings))
            .or_else(|| self.poll_read(now, settings))
    }

    /// When something is due without an input.
    pub(super) fn deadline(&self) -> Timestamp {
        if !self.agent_available {
            return Timestamp::NEVER;
        }
        let batches = self.batches.iter().map(|batch| match batch.state {
            State::Waiting { until } | State::Sent { until } => until,
            State::Signing | State::Answered { .. } => Timestamp::NEVER,
        });
        let read = if self.must_read() { self.read_retry_at } else { Timestamp::NEVER };
        batches.min().unwrap_or(Timestamp::NEVER).min(read)
    }

    fn give_up_overdue(&mut self, now: Timestamp, counters: &mut Counters) {
        let overdue: Vec<u32> = self
            .batches
            .iter()
            .filter(|batch| matches!(batch.state, State::Sent { until } if until <= now))
            .map(|batch| batch.request_id)
            .collect();
        for request_id in overdue {
            counters.overdue += 1;
            self.retry(now, request_id, 0);
        }
    }

    fn poll_deliver(&mut self, now: Timestamp) -> Option<Output> {
        let due =
            |batch: &&mut Outgoing| matches!(batch.state, State::Waiting { until } if until <= now);
        let batch = self.batches.iter_mut().find(due)?;
        batch.state = State::Sent { until: now.plus_ms(ANSWER_MS_MAX) };
        Some(Output::Deliver { request_id: batch.request_id, bytes: Arc::clone(&batch.bytes) })
    }

    /// Makes a batch of the synced records at the front of the tail.
    fn poll_batch(&mut self, settings: &Settings) -> Option<Output> {
        if self.unanswered >= settings.batches_in_flight_max || self.batches.len() >= BATCHES_MAX {
            return None;
        }
        let synced = self.synced;
        let count = self
            .tail
            .iter()
            .take(BATCH_RECORDS_MAX)
            .take_while(|(sequence, _)| *sequence <= synced)
            .count();
        if count == 0 {
            return None;
        }
        let records: Vec<(u64, Open)> = self.tail.drain(..count).collect();
        let request_id = self.next_request_id;
        self.next_request_id = self.next_request_id.checked_add(1).unwrap_or(1);
        self.unanswered += 1;
        self.batches.push_back(Outgoing {
            request_id,
            first_sequence: records[0].0,
            last_sequence: records[count - 1].0,
            records: records.clone(),
            bytes: Arc::default(),
            digest: [0; 32],
            failures: 0,
            state: State::Signing,
        });
        let batch = Batch {
            campaign: settings.campaign,
            shard: settings.shard,
            epoch: settings.epoch,
            incarnation: settings.incarnation,
            records,
        };
        Some(Output::Sign { request_id, batch })
    }

    /// Whether synced records are on disk only and there is room for them in memory.
    fn must_read(&self) -> bool {
        !self.reading && self.tail_end < self.synced && self.tail.len() < BATCH_RECORDS_MAX
    }

    fn poll_read(&mut self, now: Timestamp, settings: &Settings) -> Option<Output> {
        if !self.must_read() || now < self.read_retry_at {
            return None;
        }
        self.reading = true;
        let count_max = READ_RECORDS_MAX.min(settings.tail_records_max);
        Some(Output::Read { after: self.tail_end, through: self.synced, count_max })
    }

    fn unanswered_batch(&mut self, request_id: u32) -> Option<&mut Outgoing> {
        self.batches.iter_mut().find(|batch| {
            batch.request_id == request_id && !matches!(batch.state, State::Answered { .. })
        })
    }

    /// Moves the watermark over the answered batches at the head.
    fn advance(&mut self) {
        while let Some(head) = self.batches.front()
            && let State::Answered { answer_digest } = head.state
        {
            assert!(head.first_sequence > self.settled, "batches follow one another");
            assert!(head.last_sequence <= self.synced, "only synced records are delivered");
            self.settled = head.last_sequence;
            self.answer_digest = answer_digest;
            self.batches.pop_front();
        }
    }
}

impl Spool {
    pub(super) fn handle_delivered(
        &mut self,
        now: Timestamp,
        request_id: u32,
        answer: &Answer,
        answer_digest: [u8; 32],
    ) {
        let settings = &self.settings;
        // An answer that came twice, or after its batch was given up and answered: nothing to do.
        let Some(batch) = self.delivery.unanswered_batch(request_id) else { return };
        if let Err(why) = check_answer(settings, batch, answer) {
            self.refuse_answer(now, request_id, why);
            return;
        }
        let records = std::mem::take(&mut batch.records);
        batch.bytes = Arc::default();
        batch.state = State::Answered { answer_digest };
        self.delivery.unanswered -= 1;
        for ((sequence, open), result) in records.into_iter().zip(&answer.results) {
            self.count_result(*result);
            if matches!(result, OpenResult::Conflict | OpenResult::Invalid) {
                self.ready.push_back(Output::DeadLetter(DeadLetter {
                    sequence,
                    open,
                    result: *result,
                    settled_at: answer.settled_at,
                }));
            }
        }
        self.delivery.advance();
    }

    pub(super) fn refuse_answer(&mut self, now: Timestamp, request_id: u32, why: Mismatch) {
        self.counters.forged_answers += 1;
        self.ready.push_back(Output::AnswerRefused { request_id, why });
        self.delivery.retry(now, request_id, 0);
    }

    const fn count_result(&mut self, result: OpenResult) {
        let counters = &mut self.counters;
        counters.settled += 1;
        let counter = match result {
            OpenResult::Applied => &mut counters.applied,
            OpenResult::Same => &mut counters.same,
            OpenResult::Conflict => &mut counters.conflict,
            OpenResult::OverLimit => &mut counters.over_limit,
            OpenResult::Expired => &mut counters.expired,
            OpenResult::Invalid => &mut counters.invalid,
        };
        *counter += 1;
    }
}

/// Whether `answer`, whose signature is settlement's, answers exactly this batch.
fn check_answer(settings: &Settings, batch: &Outgoing, answer: &Answer) -> Result<(), Mismatch> {
    let ours = (settings.campaign, settings.shard, settings.epoch, settings.incarnation);
    let theirs = (answer.campaign, answer.shard, answer.epoch, answer.incarnation);
    let range = (batch.first_sequence, batch.last_sequence);
    if theirs != ours || (answer.first_sequence, answer.last_sequence) != range {
        return Err(Mismatch::OtherBatch);
    }
    if batch.state == State::Signing || answer.batch_digest != batch.digest {
        return Err(Mismatch::Digest);
    }
    if answer.results.len() != batch.records.len() {
        return Err(Mismatch::Count);
    }
    Ok(())
}
