//! A node around the issuer: a disk that holds cursor and journal, an agent, clients. Time is a
//! number, and the disk answers when the test lets it.

use super::super::{History, Input, Issuer, Output, RecoveredSection, Settings};
use crate::{
    Anchor, ConnectionId, GateView, grant::Right, shard::CandidateShake, time::Timestamp,
    wave_clock::WaveClock,
};
use std::sync::Arc;
use yao_protocol::{
    CampaignId, Epoch, Fen, PacketIndex, ShakeId, ShardId, SponsorId, SponsorSet, UserId, WallTime,
    WaveIndex,
    agent::{Standing, Vet},
    cursor::GrantRecord,
    journal::Event,
    keys::SignKey,
    seed_file::{Section, SeedRecord, Segment},
    tally::Tally,
    ticket::Ticket,
    token::Bearer,
};

pub(super) const T0: WallTime = WallTime(1_000_000_000_000);
pub(super) const WAVE: WaveIndex = WaveIndex(0);
pub(super) const ANCHOR: Anchor =
    Anchor { at: Timestamp::from_ns(0), wall: WallTime(T0.0 - 20_000_000) };

/// A ticket that left the node, and to whom.
#[derive(Clone, Debug)]
pub(super) struct Win {
    pub(super) request_id: u32,
    pub(super) ticket: Ticket,
    pub(super) tally: Tally,
}

pub(super) struct World {
    pub(super) issuer: Issuer,
    pub(super) section: Section,
    pub(super) records: Vec<SeedRecord>,
    pub(super) now: Timestamp,
    /// H as the disk has it.
    pub(super) high: u32,
    /// Raises of the cursor that wait for the disk.
    pub(super) raises: Vec<(u32, u32)>,
    /// Whether raises reach the disk at once.
    pub(super) disk: bool,
    pub(super) journal: Vec<Event>,
    pub(super) wins: Vec<Win>,
    pub(super) lost: Vec<ShakeId>,
    pub(super) vets: Vec<Vet>,
    /// How the user of each vet stood.
    pub(super) standings: Vec<Standing>,
    pub(super) gate: GateView,
    /// Requests for grants, and grants that wait for the disk.
    pub(super) asked: Vec<Vec<u8>>,
    pub(super) keeping: Vec<GrantRecord>,
    pub(super) given_up: u32,
    pub(super) factor: u32,
    /// Packets that a crash may skip: B, and those that were overlooked at the last raise.
    pub(super) at_stake: u32,
    next_request: u32,
}

/// `count` packets over `seconds`, evenly, one sponsor after the other.
pub(super) fn plan(count: u32, seconds: u64, sponsors: u8) -> Vec<SeedRecord> {
    let record = |index: u32| SeedRecord {
        offset_us: u64::from(index) * seconds * 1_000_000 / u64::from(count),
        amount: Fen(u64::from(index) + 1),
        sponsor: SponsorId::new(u8::try_from(index % u32::from(sponsors)).expect("few sponsors"))
            .expect("few sponsors"),
    };
    (0..count).map(record).collect()
}

impl World {
    pub(super) fn new(records: Vec<SeedRecord>, seconds: u64) -> Self {
        Self::with_right(records, seconds, Right::Local)
    }

    pub(super) fn with_right(records: Vec<SeedRecord>, seconds: u64, right: Right) -> Self {
        let count = u32::try_from(records.len()).expect("a small wave");
        let section = Section {
            wave: WAVE,
            first: PacketIndex(5),
            count,
            sum: records.iter().map(|record| record.amount).sum(),
            segments: vec![Segment { duration_us: seconds * 1_000_000, packets: count }],
        };
        let past = RecoveredSection { section: section.clone(), high: 0, closed: false, right };
        let recovered = super::super::Recovered { sections: vec![past], issued: Vec::new() };
        Self {
            issuer: Issuer::new(settings(), key(), &recovered),
            section,
            records,
            now: Timestamp::from_ns(0),
            high: 0,
            raises: Vec::new(),
            disk: true,
            journal: Vec::new(),
            wins: Vec::new(),
            lost: Vec::new(),
            vets: Vec::new(),
            standings: Vec::new(),
            gate: GateView::default(),
            asked: Vec::new(),
            keeping: Vec::new(),
            given_up: 0,
            factor: 1,
            at_stake: 0,
            next_request: 1,
        }
    }

    /// The same, armed and brought to `us` microseconds after T0.
    pub(super) fn running(records: Vec<SeedRecord>, seconds: u64, us: u64) -> Self {
        let mut world = Self::new(records, seconds);
        world.arm();
        world.run_to(us);
        world
    }

    pub(super) fn arm(&mut self) {
        let clock = WaveClock::new(T0, self.factor);
        self.input(Input::ArmWave { wave: WAVE, clock, grace_us: 3_000_000 });
    }

    pub(super) fn input(&mut self, input: Input) {
        self.issuer.handle(self.now, input);
        self.drain();
    }

    /// Lets time pass until `us` after T0, waking when the issuer asks to be woken.
    pub(super) fn run_to(&mut self, us: u64) {
        self.wake_to(us);
        self.now = ANCHOR.timestamp(T0.plus_us(us)).max(self.now);
        self.drain();
    }

    /// The same, but the issuer is polled at the moments it named and at no other.
    pub(super) fn wake_to(&mut self, us: u64) {
        let end = ANCHOR.timestamp(T0.plus_us(us));
        loop {
            let at = self.drain();
            if at > end {
                break;
            }
            self.now = at.max(self.now);
        }
    }

    /// Does what the issuer asks; when it wants to wake.
    pub(super) fn drain(&mut self) -> Timestamp {
        loop {
            match self.issuer.poll(self.now) {
                Output::SleepUntil { at, .. } => return at,
                Output::Gate(gate) => self.gate = gate,
                Output::Vet(question) => {
                    self.vets.push(question.vet);
                    self.standings.push(question.standing);
                }
                Output::Journal(event) => self.journal.push(event),
                Output::Reserve { wave, first, high } => {
                    assert_eq!(wave, WAVE);
                    let books = &self.issuer.waves[0];
                    self.at_stake = books.block() + books.overlooked();
                    self.raises.push((first, high));
                    if self.disk {
                        self.sync();
                    }
                }
                Output::Won { request_id, ticket, tally, .. } => {
                    self.wins.push(Win { request_id, ticket: *ticket, tally });
                }
                Output::Lost { shake, .. } => self.lost.push(shake),
                Output::AskGrant { wave, request } => {
                    assert_eq!(wave, WAVE);
                    self.asked.push(request);
                }
                Output::GiveUp { wave } => {
                    assert_eq!(wave, WAVE);
                    self.given_up += 1;
                }
                Output::KeepGrant { wave, grant } => {
                    assert_eq!(wave, WAVE);
                    self.keeping.push(grant);
                }
            }
        }
    }

    /// The disk has written every raise.
    pub(super) fn sync(&mut self) {
        for (first, high) in std::mem::take(&mut self.raises) {
            self.high = high;
            let records = self.records[first as usize..high as usize].to_vec();
            self.issuer.handle(self.now, Input::Reserved { wave: WAVE, first, high, records });
        }
    }

    pub(super) fn candidate(&mut self, user: u64, shake: u64) -> CandidateShake {
        let request_id = self.next_request;
        self.next_request += 1;
        CandidateShake {
            connection: ConnectionId { thread: 0, slot: 1, number: 1 },
            request_id,
            shake: ShakeId(shake),
            user: UserId(user),
            wins: 0,
            sponsors: SponsorSet::EMPTY,
            bearer: Bearer::default(),
        }
    }

    /// A new draw of `user`; his ticket if it left at once.
    pub(super) fn shake(&mut self, user: u64, shake: u64) -> Option<Win> {
        let candidate = self.candidate(user, shake);
        self.draw(Input::Candidate(candidate), candidate.request_id)
    }

    /// The same draw sent again.
    pub(super) fn resend(&mut self, user: u64, shake: u64) -> Option<Win> {
        let candidate = self.candidate(user, shake);
        self.draw(Input::Resend(candidate), candidate.request_id)
    }

    pub(super) fn draw(&mut self, input: Input, request_id: u32) -> Option<Win> {
        self.input(input);
        self.wins.last().filter(|win| win.request_id == request_id).cloned()
    }

    /// kill -9 and a new start: disk and journal stay, all else is gone. The last `unsynced` events
    /// never reached the journal.
    pub(super) fn crash(&mut self, unsynced: usize) {
        let before = self.skipped();
        let synced = self.journal.len().saturating_sub(unsynced);
        let lost = u32::try_from(self.journal.split_off(synced).len()).expect("few");
        self.raises.clear();
        let mut history = History::new(std::slice::from_ref(&self.section));
        self.journal.iter().for_each(|event| history.read(event));
        let (recovered, skips) = history.recover(|_| self.high, ANCHOR.wall(self.now));
        self.journal.extend(skips);
        let (skipped, most) = (self.skipped() - before, self.at_stake + lost);
        assert!(skipped <= most, "M1: a crash skipped {skipped}, {most} were at stake");
        self.issuer = Issuer::new(settings(), key(), &recovered);
        self.gate = GateView::default();
        self.vets.clear();
        self.standings.clear();
        self.arm();
    }

    /// Positions that left in tickets.
    pub(super) fn positions(&self) -> Vec<u32> {
        let position = |win: &Win| win.ticket.body.packet.index().0 - self.section.first.0;
        self.wins.iter().map(position).collect()
    }

    /// Packets that the journal skips.
    pub(super) fn skipped(&self) -> u32 {
        let count = |event: &Event| match event {
            Event::Skip { count, .. } => *count,
            _ => 0,
        };
        self.journal.iter().map(count).sum()
    }

    /// Packets and sum that the journal's closes leave.
    pub(super) fn closed(&self) -> Vec<(u32, Fen)> {
        let close = |event: &Event| match event {
            Event::Close { unissued, sum, .. } => Some((*unissued, *sum)),
            _ => None,
        };
        self.journal.iter().filter_map(close).collect()
    }
}

pub(super) fn key() -> Arc<SignKey> {
    Arc::new(SignKey::from_seed(&[3; 32]))
}

pub(super) const fn settings() -> Settings {
    Settings {
        campaign: CampaignId(7),
        shard: ShardId(17),
        generation: 0,
        epoch: Epoch(1),
        anchor: ANCHOR,
        wins_per_user: 3,
        ticket_lifetime_us: 60_000_000,
        vet_ms_max: 20,
    }
}
