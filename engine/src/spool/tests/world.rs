//! Everything around the spool, modelled: a disk that forgets what was not synced, a settlement
//! that pays each packet once, and an account of every promise made to a client.

use super::super::*;
use crate::vetting::VetDesk;
use std::collections::{BTreeMap, BTreeSet};
use yao_protocol::{
    Fen, KeyId, PacketId, PacketIndex, ShakeId, SponsorId, UserId, WaveIndex, agent::Standing,
    keys::SignKey, settlement::digest, ticket::TicketBody,
};

pub(super) const SHARD: ShardId = ShardId(17);
pub(super) const CAMPAIGN: CampaignId = CampaignId(2015);
/// On which everybody opens.
const BEARER: Bearer = Bearer { device: 5, risk: 2 };
const START: WallTime = WallTime(1_424_275_200_000_000);
/// From issue to expiry of the tickets here.
pub(super) const LIFETIME_US: u64 = 60_000_000;

pub(super) fn settings() -> Settings {
    Settings {
        campaign: CAMPAIGN,
        shard: SHARD,
        epoch: Epoch(1),
        incarnation: Incarnation([1; 16]),
        anchor: Anchor { at: Timestamp::from_ns(0), wall: START },
        commit_us_max: 2_000,
        commit_bytes_max: 64 * 1024,
        bytes_max: u64::MAX,
        batches_in_flight_max: 4,
        live_records_max: 100,
        tail_records_max: 10_000,
        backlog_per_second: u32::MAX,
    }
}

/// The ticket of `user` for the packet with this index. Its signature is the shell's business.
pub(super) fn opened(index: u64, user: u64) -> Ticket {
    let index = PacketIndex(u32::try_from(index).expect("small"));
    let body = TicketBody {
        campaign: CAMPAIGN,
        packet: PacketId::new(0, SHARD, index),
        user: UserId(user),
        amount: Fen(100),
        shake: ShakeId(1),
        issued_at: START,
        expires_at: START.plus_us(LIFETIME_US),
        shard: SHARD,
        epoch: Epoch(1),
        sponsor: SponsorId::new(0).expect("below 64"),
        wave: WaveIndex(0),
    };
    Ticket { body, signature: [0; 64] }
}

/// What a power cut leaves: `durable`, and whatever of `appended` the kernel had written by itself.
#[derive(Debug, Default)]
pub(super) struct Disk {
    pub(super) appended: Vec<(u64, Open)>,
    pub(super) durable: Vec<(u64, Open)>,
    pub(super) watermark: u64,
    /// Behind bad bytes at the log's end, each of which may have been in a record.
    pub(super) next_sequence_min: u64,
    /// Of the answer that moved the watermark last.
    pub(super) answer_digest: [u8; 32],
}

/// A batch that the agent holds.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) request_id: u32,
    pub(super) bytes: Arc<[u8]>,
    batch: Batch,
}

impl Held {
    pub(super) fn sequences(&self) -> Vec<u64> {
        self.batch.records.iter().map(|(sequence, _)| *sequence).collect()
    }
}

/// An open of a client: its connection, which the model never uses twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Asked(u32);

#[derive(Debug)]
pub(super) struct World {
    pub(super) spool: Spool,
    pub(super) now: Timestamp,
    pub(super) disk: Disk,
    settings: Settings,
    key: SignKey,
    syncing: Option<u64>,
    vets: Vec<u64>,
    pub(super) batches: Vec<Held>,
    signed: BTreeMap<u32, Batch>,
    pub(super) refused_answers: Vec<Mismatch>,
    pub(super) dead_letters: Vec<DeadLetter>,
    pub(super) reads: u64,
    /// Segments cannot be read just now.
    pub(super) unreadable: bool,
    next_connection: u32,
    asked: BTreeMap<Asked, Ticket>,
    replies: BTreeMap<Asked, Reply>,
    /// Every receipt ever given: what must never be taken back.
    pub(super) promised: BTreeMap<PacketId, Receipt>,
    /// Packets that settlement paid, to whom.
    pub(super) paid: BTreeMap<PacketId, UserId>,
    /// Sequences under which settlement answered, in any life of the node.
    answered: BTreeSet<u64>,
    /// Set while a sync may be skipped by a power cut: the next one never happens.
    pub(super) fenced_syncs: u64,
}

impl World {
    pub(super) fn new(settings: Settings) -> Self {
        Self {
            spool: Spool::new(settings, desk(), Recovered::default()),
            now: Timestamp::from_ns(0),
            disk: Disk::default(),
            settings,
            key: SignKey::from_seed(&[9; 32]),
            syncing: None,
            vets: Vec::new(),
            batches: Vec::new(),
            signed: BTreeMap::new(),
            refused_answers: Vec::new(),
            dead_letters: Vec::new(),
            reads: 0,
            unreadable: false,
            next_connection: 0,
            asked: BTreeMap::new(),
            replies: BTreeMap::new(),
            promised: BTreeMap::new(),
            paid: BTreeMap::new(),
            answered: BTreeSet::new(),
            fenced_syncs: 0,
        }
    }

    pub(super) fn wall(&self) -> WallTime {
        self.settings.anchor.wall(self.now)
    }

    pub(super) fn input(&mut self, input: Input) {
        self.spool.handle(self.now, input);
        self.drain();
    }

    pub(super) fn advance(&mut self, ns: u64) {
        self.now = self.now.plus_ns(ns);
        self.drain();
    }

    pub(super) fn open(&mut self, ticket: Ticket) -> Asked {
        let asked = Asked(self.next_connection);
        self.next_connection += 1;
        self.asked.insert(asked, ticket);
        let connection = ConnectionId { thread: 0, slot: asked.0, number: 0 };
        self.input(Input::Open { connection, request_id: asked.0, bearer: BEARER, ticket });
        asked
    }

    /// An open that the agent, if it is asked, allows at once.
    pub(super) fn open_allowed(&mut self, ticket: Ticket) -> Asked {
        let asked = self.open(ticket);
        for call in self.vets() {
            self.input(Input::Verdict { call, allowed: true });
        }
        asked
    }

    pub(super) fn reply(&self, asked: Asked) -> Option<Reply> {
        self.replies.get(&asked).copied()
    }

    pub(super) fn agent_up(&mut self) {
        self.input(Input::AgentAvailable(true));
    }

    pub(super) fn vets(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.vets)
    }

    pub(super) const fn sync_is_due(&self) -> bool {
        self.syncing.is_some()
    }

    /// The sync that is under way succeeds.
    pub(super) fn sync(&mut self) {
        let sequence = self.syncing.take().expect("a sync is under way");
        self.disk.durable.append(&mut self.disk.appended);
        self.input(Input::Synced { sequence });
    }

    /// The sync that is under way fails; the kernel dropped the pages.
    pub(super) fn fail_sync(&mut self) {
        self.syncing.take().expect("a sync is under way");
        self.disk.appended.clear();
        self.input(Input::DiskFailed);
    }

    /// Power is cut, of the unsynced records the first `kept` survive, and the node starts again.
    pub(super) fn crash(&mut self, kept: usize) {
        let kept = kept.min(self.disk.appended.len());
        self.disk.durable.extend(self.disk.appended.drain(..).take(kept));
        let mut index = Index::default();
        for (sequence, open) in &self.disk.durable {
            index.insert(*sequence, open);
        }
        let last = self.disk.durable.last().map_or(0, |(sequence, _)| *sequence);
        let next_sequence = self.disk.next_sequence_min.max(last + 1);
        let settled = self.disk.watermark;
        self.settings.incarnation.0[15] = self.settings.incarnation.0[15].wrapping_add(1);
        let recovered = Recovered { index, next_sequence, settled };
        self.spool = Spool::new(self.settings, desk(), recovered);
        self.syncing = None;
        self.vets.clear();
        self.batches.clear();
        self.signed.clear();
        // Connections are gone: nobody waits for an answer any more.
        self.asked.clear();
    }

    /// Accepts opens of `packets` and brings them to disk, a hundred at a time.
    pub(super) fn accept(&mut self, packets: std::ops::Range<u64>) {
        for packet in packets.clone() {
            self.open_allowed(opened(packet, packet));
            if packet % 100 == 99 || packet + 1 == packets.end {
                self.advance(5_000_000);
                self.sync();
            }
        }
    }

    pub(super) fn take_batch(&mut self) -> Held {
        self.batches.remove(0)
    }

    /// Settlement takes a batch: pays what it has not paid. Its answer may still get lost.
    pub(super) fn settle(&mut self, held: &Held) -> Answer {
        let mut results = Vec::new();
        for (sequence, open) in &held.batch.records {
            let body = &open.ticket.body;
            self.answered.insert(*sequence);
            results.push(match self.paid.insert(body.packet, body.user) {
                None => OpenResult::Applied,
                Some(user) if user == body.user => OpenResult::Same,
                Some(_) => panic!("{} was accepted for two users", body.packet),
            });
        }
        Answer::to_batch(&held.batch, &held.bytes, self.wall(), KeyId(1), results)
    }

    pub(super) fn deliver_answer(&mut self, request_id: u32, answer: Answer) {
        let answer_digest = [answer.last_sequence as u8; 32];
        self.input(Input::Delivered { request_id, answer, answer_digest });
    }

    pub(super) fn answer(&mut self, held: &Held) {
        let answer = self.settle(held);
        self.deliver_answer(held.request_id, answer);
    }

    /// Opens that were asked in this life and have no answer.
    pub(super) fn unanswered(&self) -> usize {
        self.asked.keys().filter(|asked| !self.replies.contains_key(asked)).count()
    }

    fn drain(&mut self) {
        loop {
            match self.spool.poll(self.now) {
                Output::SleepUntil { at, .. } => {
                    assert!(at > self.now, "a sleep ends in the future");
                    return;
                }
                output => self.perform(output),
            }
        }
    }

    fn perform(&mut self, output: Output) {
        match output {
            Output::Reply { request_id, reply, .. } => self.replied(Asked(request_id), reply),
            Output::Vet(question) => {
                assert_eq!(question.standing, Standing { bearer: BEARER, ..Standing::default() });
                self.vets.push(question.vet.call);
            }
            Output::Write(records) => self.disk.appended.extend(records),
            Output::Sync { sequence } => {
                assert_eq!(self.disk.appended.last().map(|record| record.0), Some(sequence));
                assert_eq!(self.syncing.replace(sequence), None, "one sync at a time");
                self.fenced_syncs += u64::from(self.spool.is_fenced());
            }
            Output::Read { after, through, count_max } => {
                self.reads += 1;
                if self.unreadable {
                    self.spool.handle(self.now, Input::ReadFailed);
                    return;
                }
                let wanted = self
                    .disk
                    .durable
                    .iter()
                    .filter(|record| record.0 > after && record.0 <= through);
                let records: Vec<_> = wanted.take(count_max).copied().collect();
                let full = records.len() == count_max;
                let through = records.last().filter(|_| full).map_or(through, |record| record.0);
                self.spool.handle(self.now, Input::Read { records, through });
            }
            Output::Sign { request_id, batch } => {
                let bytes: Arc<[u8]> = batch.encode(&self.key).into();
                self.signed.insert(request_id, batch);
                self.spool.handle(self.now, Input::Signed { request_id, bytes });
            }
            Output::Deliver { request_id, bytes } => {
                let batch = self.signed[&request_id].clone();
                let durable =
                    |sequence| self.disk.durable.iter().any(|record| record.0 == sequence);
                assert!(
                    batch.records.iter().all(|record| durable(record.0)),
                    "only what is on disk"
                );
                assert_eq!(digest(&bytes), digest(&batch.encode(&self.key)));
                self.batches.push(Held { request_id, bytes, batch });
            }
            Output::SaveWatermark(watermark) => self.save(&watermark),
            Output::DeadLetter(letter) => self.dead_letters.push(letter),
            Output::AnswerRefused { why, .. } => self.refused_answers.push(why),
            Output::SleepUntil { .. } => unreachable!("drained above"),
        }
    }

    fn replied(&mut self, asked: Asked, reply: Reply) {
        let ticket = self.asked[&asked];
        assert!(self.replies.insert(asked, reply).is_none(), "an open is answered once");
        let Reply::Receipt(receipt) = reply else { return };
        assert_eq!((receipt.packet, receipt.user), (ticket.body.packet, ticket.body.user));
        let on_disk = self.disk.durable.iter().any(|(_, open)| {
            open.ticket.body.packet == receipt.packet
                && open.ticket.body.user == receipt.user
                && open.accepted_at == receipt.accepted_at
        });
        assert!(on_disk, "M7: {receipt:?} was given before its record was on disk");
        let first = *self.promised.entry(receipt.packet).or_insert(receipt);
        assert_eq!(receipt, first, "one packet, one receipt");
    }

    fn save(&mut self, watermark: &Watermark) {
        assert!(watermark.settled > self.disk.watermark, "the watermark only rises");
        for (sequence, _) in &self.disk.durable {
            let settled = *sequence > watermark.settled || self.answered.contains(sequence);
            assert!(settled, "M7: the watermark passed {sequence}, which has no answer");
        }
        self.disk.watermark = watermark.settled;
        self.disk.answer_digest = watermark.answer_digest;
        self.spool.handle(self.now, Input::WatermarkSaved { settled: watermark.settled });
    }
}

fn desk() -> VetDesk<Vetted> {
    VetDesk::new(20, 1 << 63)
}
