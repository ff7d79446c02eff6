//! From disk to settlement: two lanes, batches, answers, and the watermark.
//!
//! The *live* lane holds the newest records, whose users look at their phones now: it goes first,
//! as fast as settlement answers. The *backlog* is everything older, in order and at a bounded pace
//! ([`pacer`](super::pacer)); it is read from disk where memory does not hold it.
//!
//! The one rule (M7): the watermark moves in [`Delivery::advance`], over answered batches with
//! nothing unanswered below them; what is an answer is for [`answers`](super::answers). Batches may
//! be delivered twice; settlement knows packets.

use super::{
    Counters, Output, Settings,
    answered::{Answered, Range},
    missing::Missing,
    pacer::Pacer,
};
use crate::Timestamp;
use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};
use yao_protocol::{
    WallTime,
    limits::BATCH_RECORDS_MAX,
    settlement::{Batch, digest},
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
/// Answered ranges above the watermark, 56 bytes each. While there are more the live lane rests and
/// the backlog, which closes the gaps between them, has every batch to itself.
const RANGES_MAX: usize = 4_096;
/// Records read from disk at once: about 1 MiB.
const READ_RECORDS_MAX: usize = 6_144;

/// Which records a batch was made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lane {
    Live,
    Backlog,
}

/// Where a batch is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Being signed.
    Signing,
    /// To be handed out from then on.
    Waiting { until: Timestamp },
    /// Handed out; overdue from then on.
    Sent { until: Timestamp },
}

/// A batch without an answer.
#[derive(Debug)]
pub(super) struct Outgoing {
    request_id: u32,
    lane: Lane,
    pub(super) first_sequence: u64,
    pub(super) last_sequence: u64,
    pub(super) records: Vec<(u64, Open)>,
    /// Empty until signed.
    bytes: Arc<[u8]>,
    /// BLAKE3 of the bytes.
    pub(super) digest: [u8; 32],
    /// Times it came back without an answer.
    failures: u32,
    pub(super) state: State,
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
    /// The newest records that are in no batch; sequences without gaps, all above `frontier`.
    live: VecDeque<(u64, Open)>,
    /// Records for the next batches of the backlog, sequences rising.
    tail: VecDeque<(u64, Open)>,
    /// Every record up to here is settled, in a batch or in `tail`, was answered, or cannot be
    /// read. Behind it some may be in batches or answered; the others are in `live` or on disk.
    frontier: u64,
    reading: bool,
    read_retry_at: Timestamp,
    /// By first sequence; they do not overlap.
    batches: BTreeMap<u64, Outgoing>,
    answered: Answered,
    missing: Missing,
    pacer: Pacer,
    next_request_id: u32,
    agent_available: bool,
}

impl Delivery {
    pub(super) fn new(settled: u64, synced: u64, pacer: Pacer) -> Self {
        Self {
            settled,
            settled_on_disk: settled,
            answer_digest: [0; 32],
            saving: false,
            synced,
            live: VecDeque::new(),
            tail: VecDeque::new(),
            frontier: settled,
            reading: false,
            read_retry_at: Timestamp::default(),
            batches: BTreeMap::new(),
            answered: Answered::default(),
            missing: Missing::default(),
            pacer,
            next_request_id: 1,
            agent_available: false,
        }
    }

    pub(super) const fn settled(&self) -> u64 {
        self.settled
    }

    /// How many of the records up to `last` wait for settlement's answer: not those that nobody
    /// can read.
    pub(super) const fn unsettled(&self, last: u64) -> u64 {
        last - self.settled - self.missing.count()
    }

    pub(super) const fn settled_on_disk(&self) -> u64 {
        self.settled_on_disk
    }

    pub(super) fn oldest_unsettled(&self) -> Option<WallTime> {
        let batched = self.batches.values().next().and_then(|batch| batch.records.first());
        let waiting = [batched, self.tail.front(), self.live.front()];
        let oldest = waiting.into_iter().flatten().min_by_key(|(sequence, _)| *sequence);
        oldest.map(|(_, open)| open.accepted_at)
    }

    /// Keeps a new record for delivery; when memory is full of them, older ones are read again
    /// later.
    pub(super) fn handle_accepted(&mut self, sequence: u64, open: &Open, settings: &Settings) {
        if self.live.len() >= settings.live_records_max {
            self.spill(settings);
        }
        let follows = self.live.back().is_none_or(|(last, _)| last + 1 == sequence);
        assert!(follows && sequence > self.frontier, "records are accepted in order");
        self.live.push_back((sequence, *open));
    }

    /// Makes the older half of the live lane backlog: in memory where it follows what is there.
    fn spill(&mut self, settings: &Settings) {
        self.follow();
        for (sequence, open) in self.live.drain(..self.live.len().div_ceil(2)) {
            let next = !self.reading && sequence == self.frontier + 1;
            if next && self.tail.len() < settings.tail_records_max {
                self.tail.push_back((sequence, open));
                self.frontier = sequence;
            }
        }
    }

    pub(super) const fn handle_synced(&mut self, sequence: u64) {
        self.synced = sequence;
    }

    pub(super) fn handle_agent_available(&mut self, now: Timestamp, available: bool) {
        self.agent_available = available;
        // What the agent that left was asked, the next one is asked again.
        for batch in self.batches.values_mut() {
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
            assert!(sequence > self.frontier && sequence <= through, "records are read in order");
            self.missing.add(self.frontier + 1, sequence - 1);
            self.tail.push_back((sequence, open));
            self.frontier = sequence;
        }
        // What is not among the records is damaged: it is left behind, not waited for.
        self.missing.add(self.frontier + 1, through);
        self.frontier = self.frontier.max(through);
        self.advance();
    }

    pub(super) const fn handle_read_failed(&mut self, now: Timestamp) {
        self.reading = false;
        self.read_retry_at = now.plus_ms(RETRY_MS_MAX);
    }

    pub(super) fn handle_signed(&mut self, now: Timestamp, request_id: u32, bytes: Arc<[u8]>) {
        if let Some(batch) = self.batch(request_id)
            && batch.state == State::Signing
        {
            batch.digest = digest(&bytes);
            batch.bytes = bytes;
            batch.state = State::Waiting { until: now };
        }
    }

    /// The batch came back without an answer: again after a pause.
    pub(super) fn retry(&mut self, now: Timestamp, request_id: u32, retry_after_ms: u32) {
        if let Some(batch) = self.batch(request_id)
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
            .or_else(|| self.poll_live(settings, counters))
            .or_else(|| self.poll_backlog(now, settings, counters))
            .or_else(|| self.poll_read(now, settings))
    }

    /// When something is due without an input.
    pub(super) fn deadline(&self, settings: &Settings) -> Timestamp {
        if !self.agent_available {
            return Timestamp::NEVER;
        }
        let batches = self.batches.values().map(|batch| match batch.state {
            State::Waiting { until } | State::Sent { until } => until,
            State::Signing => Timestamp::NEVER,
        });
        let read = if self.unread().is_some() { self.read_retry_at } else { Timestamp::NEVER };
        let waits = self.may_send(Lane::Backlog, settings) && self.backlog_count() > 0;
        let backlog = if waits { self.pacer.due_at() } else { Timestamp::NEVER };
        batches.min().unwrap_or(Timestamp::NEVER).min(read).min(backlog)
    }

    fn give_up_overdue(&mut self, now: Timestamp, counters: &mut Counters) {
        let overdue: Vec<u32> = self
            .batches
            .values()
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
        let batch = self.batches.values_mut().find(due)?;
        batch.state = State::Sent { until: now.plus_ms(ANSWER_MS_MAX) };
        Some(Output::Deliver { request_id: batch.request_id, bytes: Arc::clone(&batch.bytes) })
    }

    /// Whether there is room for a batch of this lane. The backlog leaves one place to the live
    /// lane, so that nobody waits behind answers about yesterday.
    fn may_send(&self, lane: Lane, settings: &Settings) -> bool {
        let all = settings.batches_in_flight_max;
        let older = self.batches.values().filter(|batch| batch.lane == Lane::Backlog).count();
        self.batches.len() < all && (lane == Lane::Live || older < (all - 1).max(1))
    }

    /// A batch of the synced records at the front of the live lane.
    fn poll_live(&mut self, settings: &Settings, counters: &mut Counters) -> Option<Output> {
        if !self.may_send(Lane::Live, settings) || self.answered.len() >= RANGES_MAX {
            return None;
        }
        let count = sendable(&self.live, self.synced, u64::MAX);
        let records: Vec<(u64, Open)> = self.live.drain(..count).collect();
        counters.batched_live += count as u64;
        let output = self.send(Lane::Live, records, settings)?;
        self.follow();
        Some(output)
    }

    /// A batch of the backlog, when its time has come.
    fn poll_backlog(
        &mut self,
        now: Timestamp,
        settings: &Settings,
        counters: &mut Counters,
    ) -> Option<Output> {
        if now < self.pacer.due_at() || !self.may_send(Lane::Backlog, settings) {
            return None;
        }
        let count = self.backlog_count();
        let records: Vec<(u64, Open)> = self.tail.drain(..count).collect();
        counters.batched_backlog += count as u64;
        let output = self.send(Lane::Backlog, records, settings)?;
        self.pacer.spend(now, count);
        Some(output)
    }

    /// Records of the next batch of the backlog: none from behind a range that is taken already, so
    /// that no two batches overlap.
    fn backlog_count(&self) -> usize {
        let Some((first, _)) = self.tail.front() else { return 0 };
        sendable(&self.tail, self.synced, self.taken_after(*first))
    }

    fn send(
        &mut self,
        lane: Lane,
        records: Vec<(u64, Open)>,
        settings: &Settings,
    ) -> Option<Output> {
        let (first_sequence, last_sequence) = (records.first()?.0, records.last()?.0);
        let request_id = self.next_request_id;
        self.next_request_id = self.next_request_id.checked_add(1).unwrap_or(1);
        let outgoing = Outgoing {
            request_id,
            lane,
            first_sequence,
            last_sequence,
            records: records.clone(),
            bytes: Arc::default(),
            digest: [0; 32],
            failures: 0,
            state: State::Signing,
        };
        assert!(first_sequence > self.settled, "what is settled is not sent again");
        assert!(self.batches.insert(first_sequence, outgoing).is_none(), "in one batch at a time");
        let batch = Batch {
            campaign: settings.campaign,
            shard: settings.shard,
            epoch: settings.epoch,
            incarnation: settings.incarnation,
            records,
        };
        Some(Output::Sign { request_id, batch })
    }

    /// Where the next batch or answered range behind `sequence` begins.
    fn taken_after(&self, sequence: u64) -> u64 {
        let batch = self.batches.range(sequence + 1..).next().map(|(first, _)| *first);
        let answered = self.answered.next_after(sequence);
        batch.into_iter().chain(answered).min().unwrap_or(u64::MAX)
    }

    /// Moves the frontier over batches and answered ranges that follow it.
    fn follow(&mut self) {
        loop {
            let next = self.frontier + 1;
            let batch = self.batches.get(&next).map(|batch| batch.last_sequence);
            match batch.or_else(|| self.answered.end_of(next)) {
                Some(last) => self.frontier = last,
                None => return,
            }
        }
    }

    /// The last of the synced records behind the frontier that are on disk only, when there are
    /// any and memory has room for them.
    fn unread(&self) -> Option<u64> {
        if self.reading || self.tail.len() >= BATCH_RECORDS_MAX {
            return None;
        }
        let live = self.live.front().map_or(u64::MAX, |(first, _)| *first);
        let through = self.synced.min(self.taken_after(self.frontier) - 1).min(live - 1);
        (through > self.frontier).then_some(through)
    }

    fn poll_read(&mut self, now: Timestamp, settings: &Settings) -> Option<Output> {
        let through = self.unread()?;
        if now < self.read_retry_at {
            return None;
        }
        self.reading = true;
        let count_max = READ_RECORDS_MAX.min(settings.tail_records_max);
        Some(Output::Read { after: self.frontier, through, count_max })
    }

    /// The batch with this id, unless it was answered.
    pub(super) fn batch(&mut self, request_id: u32) -> Option<&mut Outgoing> {
        self.batches.values_mut().find(|batch| batch.request_id == request_id)
    }

    /// The batch that begins with `first` was answered.
    pub(super) fn take(&mut self, first: u64, answer_digest: [u8; 32]) -> Outgoing {
        let batch = self.batches.remove(&first).expect("it was looked at just now");
        self.answered.insert(Range { first, last: batch.last_sequence, answer_digest });
        batch
    }

    /// Moves the watermark over the lowest answered ranges, while nothing below them waits: in a
    /// batch, for one, or unread on disk.
    pub(super) fn advance(&mut self) {
        self.follow();
        while let Some(range) = self.answered.first() {
            let batched = self.batches.keys().next().is_some_and(|first| *first < range.first);
            let waiting = self.tail.front().is_some_and(|(first, _)| *first < range.first);
            if batched || waiting || range.last > self.frontier {
                return;
            }
            assert!(range.first > self.settled, "ranges follow one another");
            assert!(range.last <= self.synced, "only synced records are delivered");
            self.settled = range.last;
            self.missing.pass(self.settled);
            self.answer_digest = range.answer_digest;
            self.answered.remove_first();
        }
    }
}

/// How many records at the front of `lane` make a batch: on disk, and below `end`.
fn sendable(lane: &VecDeque<(u64, Open)>, synced: u64, end: u64) -> usize {
    lane.iter()
        .take(BATCH_RECORDS_MAX)
        .take_while(|(sequence, _)| *sequence <= synced)
        .take_while(|(sequence, _)| *sequence < end)
        .count()
}
