//! A node as sequences of operations: sessions and issuer together, over a disk and an agent that
//! do as they like, with crashes. Whatever happens, the promises about money hold (M1, M3, M6, M8).

use crate::{
    seeds::{CAMPAIGN, mac_key, sign_key},
    tape::Tape,
};
use std::{collections::BTreeMap, sync::Arc};
use yao_engine::{
    Anchor, ConnectionId, GateView, Timestamp,
    grant::Right,
    issuer::{self, History, Input, Issuer, Output, Recovered, RecoveredSection},
    shard::{Effect, Settings, ShardEngine, Surroundings},
    wave_clock::WaveClock,
};
use yao_protocol::{
    Epoch, Fen, PacketIndex, ShakeId, ShardId, SponsorId, SponsorSet, UserId, WallTime, WaveIndex,
    client::{Hello, NoWinReason, ServerMessage, Shake},
    frame::split_frame,
    journal::Event,
    limits::CLIENT_PAYLOAD_BYTES_MAX,
    seed_file::{Section, SeedRecord, Segment},
    tally::TALLY_BYTES,
    ticket::{Ticket, TicketBody},
    token::Identity,
};

const T0: WallTime = WallTime(1_000_000_000_000);
const ANCHOR: Anchor = Anchor { at: Timestamp::from_ns(0), wall: WallTime(T0.0 - 2_000_000) };
const WAVE: WaveIndex = WaveIndex(0);
const FIRST: u32 = 5;
const PACKETS: u32 = 200;
const SECONDS: u64 = 5;
const SPONSORS: u32 = 4;
const USERS: u8 = 12;
const WINS_PER_USER: u8 = 3;
const GRACE_US: u64 = 3_000_000;
/// Operations of one input at most.
const OPERATIONS_MAX: usize = 600;

/// Some lives by hand: draws while a wave runs; the same with crashes, verdicts and a slow disk.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let users = (0..USERS).flat_map(|user| [0, user]);
    let shakes = |wait: u8| (0..USERS).flat_map(move |user| [1, user, 3, wait]);
    let calm: Vec<u8> = users.clone().chain([3, 220]).chain(shakes(8)).chain(shakes(10)).collect();
    let agent = [5, 1].into_iter().chain(shakes(9)).chain([4, 0, 4, 1, 4, 2, 4, 3]);
    let crash = [6, 0].into_iter().chain(shakes(5)).chain([7, 0, 6, 1]).chain(users);
    let again = (0..USERS).flat_map(|user| [2, user, 3, 30]);
    let wild = calm.iter().copied().chain(agent).chain(crash).chain(again).chain(shakes(30));
    vec![calm.clone(), wild.collect(), [calm, vec![9, 1, 1, 3, 9, 0, 8, 2, 10, 0, 1, 4]].concat()]
}

/// What a phone remembers.
#[derive(Default)]
struct Phone {
    connection: Option<ConnectionId>,
    latest: u64,
    tally: Option<[u8; TALLY_BYTES]>,
}

struct World {
    engine: ShardEngine,
    accepted: u32,
    issuer: Issuer,
    section: Section,
    records: Vec<SeedRecord>,
    now: Timestamp,
    gate: GateView,
    phones: BTreeMap<u64, Phone>,
    vets: Vec<u64>,
    /// Raises that wait for the disk.
    raises: Vec<(u32, u32)>,
    disk: bool,
    /// H as the disk has it.
    high: u32,
    fenced: bool,
    journal: Vec<Event>,
    /// Every ticket that ever left, by position.
    issued: BTreeMap<u32, TicketBody>,
    draws: u64,
}

pub(crate) fn run(bytes: &[u8]) {
    live(bytes).end();
}

fn live(bytes: &[u8]) -> World {
    let mut tape = Tape::new(bytes);
    let mut world = World::new();
    for _ in 0..OPERATIONS_MAX {
        let Some(operation) = tape.next() else { break };
        world.act(operation, tape.byte());
    }
    world
}

fn plan() -> (Section, Vec<SeedRecord>) {
    let record = |index: u32| SeedRecord {
        offset_us: u64::from(index) * SECONDS * 1_000_000 / u64::from(PACKETS),
        amount: Fen(u64::from(index) + 1),
        sponsor: SponsorId::new(u8::try_from(index % SPONSORS).expect("few")).expect("few"),
    };
    let records: Vec<SeedRecord> = (0..PACKETS).map(record).collect();
    let section = Section {
        wave: WAVE,
        first: PacketIndex(FIRST),
        count: PACKETS,
        sum: records.iter().map(|record| record.amount).sum(),
        segments: vec![Segment { duration_us: SECONDS * 1_000_000, packets: PACKETS }],
    };
    (section, records)
}

fn new_issuer(recovered: &Recovered) -> Issuer {
    let settings = issuer::Settings {
        campaign: CAMPAIGN,
        shard: ShardId(17),
        generation: 0,
        epoch: Epoch(1),
        anchor: ANCHOR,
        wins_per_user: WINS_PER_USER,
        ticket_lifetime_us: 3_600_000_000,
        vet_ms_max: 20,
    };
    Issuer::new(settings, Arc::new(sign_key()), recovered)
}

fn new_engine(now: Timestamp) -> ShardEngine {
    let settings = Settings {
        connections_max: u32::from(USERS) * 2,
        wins_per_user: WINS_PER_USER,
        heartbeat_ms_max: 3_600_000,
        ..Settings::new(CAMPAIGN, mac_key())
    };
    ShardEngine::new(settings, now)
}

impl World {
    fn new() -> Self {
        let (section, records) = plan();
        let now = Timestamp::from_ns(0);
        let past = RecoveredSection {
            section: section.clone(),
            high: 0,
            closed: false,
            right: Right::Local,
        };
        let recovered = Recovered { sections: vec![past], issued: Vec::new() };
        let mut world = Self {
            engine: new_engine(now),
            accepted: 0,
            issuer: new_issuer(&recovered),
            section,
            records,
            now,
            gate: GateView::default(),
            phones: BTreeMap::new(),
            vets: Vec::new(),
            raises: Vec::new(),
            disk: true,
            high: 0,
            fenced: false,
            journal: Vec::new(),
            issued: BTreeMap::new(),
            draws: 0,
        };
        world.arm();
        world
    }

    fn arm(&mut self) {
        let clock = WaveClock::new(T0, 1);
        self.input(Input::ArmWave { wave: WAVE, clock, grace_us: GRACE_US });
    }

    fn act(&mut self, operation: u8, which: u8) {
        let user = u64::from(which % USERS);
        match operation % 11 {
            0 => self.connect(user),
            1 => self.shake(user, false),
            2 => self.shake(user, true),
            3 => self.wait(u64::from(which) * 10_000),
            4 => {
                if !self.vets.is_empty() {
                    let call = self.vets.remove(usize::from(which) % self.vets.len());
                    self.input(Input::Verdict { call, allowed: which < 200 });
                }
            }
            5 => self.input(Input::AgentAvailable(which % 2 == 1)),
            6 => {
                self.disk = which % 2 == 1;
                if self.disk {
                    self.sync();
                }
            }
            7 => self.crash(),
            8 => self.disconnect(user),
            9 => self.input(Input::JournalHold(which % 2 == 1)),
            // Rare, for nothing is issued afterwards until the next crash.
            _ if which > 250 => {
                self.fenced = true;
                self.input(Input::Fenced { reason: "the disk failed".to_owned() });
            }
            _ => self.wait(1_000),
        }
    }

    fn surroundings(&self) -> Surroundings {
        let wall = ANCHOR.wall(self.now);
        Surroundings { gate: self.gate, wall, shake_interval_ms: 0, cue: 0, tier: 0 }
    }

    fn connect(&mut self, user: u64) {
        self.disconnect(user);
        self.accepted += 1;
        let accepted = self.engine.handle_accepted(self.now, true, self.accepted);
        let id = accepted.expect("two for each user");
        let phone = self.phones.entry(user).or_default();
        phone.connection = Some(id);
        let tally = phone.tally;
        let (mut hello, mut out) = (Vec::new(), Vec::new());
        Hello {
            version_min: 1,
            version_max: 1,
            software: 1,
            campaign: CAMPAIGN,
            tally: tally.as_ref(),
            token: b"good",
        }
        .put(&mut hello, 1);
        let surroundings = self.surroundings();
        self.engine.handle_received(self.now, &surroundings, id.slot, &hello, &mut out);
        let expires_at = WallTime(u64::MAX);
        // Two users to a device, and one user without.
        let identity = Identity { user: UserId(user), device: user / 2, risk: 0, expires_at };
        self.engine.handle_token(&surroundings, id, Some(identity), &mut out);
        self.hear(id, &out);
        self.perform();
    }

    fn disconnect(&mut self, user: u64) {
        let phone = self.phones.entry(user).or_default();
        if let Some(id) = phone.connection.take() {
            self.engine.handle_closed(id.slot).expect("it was open");
        }
    }

    fn shake(&mut self, user: u64, resend: bool) {
        let Some(phone) = self.phones.get_mut(&user) else { return };
        let Some(id) = phone.connection else { return };
        if !resend {
            self.draws += 1;
            phone.latest = self.draws;
        }
        let shake = ShakeId(phone.latest);
        let (mut bytes, mut out) = (Vec::new(), Vec::new());
        Shake { shake, campaign: CAMPAIGN, merged_count: 1, resend }.put(&mut bytes, 2);
        let surroundings = self.surroundings();
        self.engine.handle_received(self.now, &surroundings, id.slot, &bytes, &mut out);
        self.hear(id, &out);
        self.perform();
    }

    /// Does what the sessions ask, as the shell does.
    fn perform(&mut self) {
        while let Some(effect) = self.engine.poll_effect() {
            match effect {
                Effect::Candidate(candidate) if self.gate.count == 0 => {
                    let (id, request) = (candidate.connection, candidate.request_id);
                    self.lost(id, request, candidate.shake, NoWinReason::NoneDue);
                }
                Effect::Candidate(candidate) => {
                    self.gate.count -= 1;
                    self.input(Input::Candidate(candidate));
                }
                Effect::Resend(candidate) => self.input(Input::Resend(candidate)),
                Effect::Opened { connection, user, wins, sponsors, bearer } => {
                    self.input(Input::Welcomed { connection, user, wins, sponsors, bearer });
                }
                Effect::CheckToken { .. } => {}
                other => panic!("no session here asks for {other:?}"),
            }
        }
    }

    fn lost(&mut self, id: ConnectionId, request: u32, shake: ShakeId, reason: NoWinReason) {
        let (surroundings, mut out) = (self.surroundings(), Vec::new());
        self.engine.handle_lost(&surroundings, id, request, shake, reason, &mut out);
        self.hear(id, &out);
    }

    fn input(&mut self, input: Input) {
        self.issuer.handle(self.now, input);
        self.drain();
    }

    /// Does what the issuer asks; when it wants to wake.
    fn drain(&mut self) -> Timestamp {
        loop {
            match self.issuer.poll(self.now) {
                Output::SleepUntil { at, .. } => return at,
                Output::Gate(gate) => self.gate = gate,
                Output::Vet(question) => self.vets.push(question.vet.call),
                Output::Journal(event) => self.journal.push(event),
                Output::Reserve { first, high, .. } => {
                    self.raises.push((first, high));
                    if self.disk {
                        self.sync();
                    }
                }
                Output::Won { connection, request_id, ticket, tally } => {
                    self.judge(&ticket);
                    let (ticket, tally) = (ticket.encode(), tally.encode(&mac_key()));
                    let mut out = Vec::new();
                    self.engine.handle_won(connection, request_id, &ticket, &tally, &mut out);
                    self.hear(connection, &out);
                }
                Output::AskGrant { .. } | Output::KeepGrant { .. } | Output::GiveUp { .. } => {
                    unreachable!("local mode asks nobody")
                }
                Output::Lost { connection, request_id, shake } => {
                    self.lost(connection, request_id, shake, NoWinReason::NoneDue);
                }
            }
        }
    }

    fn sync(&mut self) {
        for (first, high) in std::mem::take(&mut self.raises) {
            self.high = high;
            let records = self.records[first as usize..high as usize].to_vec();
            self.issuer.handle(self.now, Input::Reserved { wave: WAVE, first, high, records });
        }
        self.drain();
    }

    /// Lets time pass, waking when the issuer asks to be woken.
    fn wait(&mut self, us: u64) {
        let end = self.now.plus_ns(us * 1_000);
        loop {
            let at = self.drain();
            if at > end {
                break;
            }
            self.now = at.max(self.now.plus_ns(1_000)).min(end);
            if self.now == end {
                break;
            }
        }
        self.now = end;
        self.drain();
    }

    /// kill -9 and a new start: disk and journal stay, all else is gone.
    fn crash(&mut self) {
        // The disk may have written a raise that was never reported.
        if let Some((_, high)) = self.raises.last() {
            self.high = *high;
        }
        self.raises.clear();
        let mut history = History::new(std::slice::from_ref(&self.section));
        self.journal.iter().for_each(|event| history.read(event));
        let (recovered, skips) = history.recover(|_| self.high, ANCHOR.wall(self.now));
        assert!(recovered.issued_above_high().is_none(), "M1: issued above H");
        self.journal.extend(skips);
        self.issuer = new_issuer(&recovered);
        self.engine = new_engine(self.now);
        self.phones.values_mut().for_each(|phone| phone.connection = None);
        self.gate = GateView::default();
        self.vets.clear();
        self.fenced = false;
        self.arm();
    }

    /// A ticket leaves: for the first time, or the same once more.
    fn judge(&mut self, ticket: &Ticket) {
        let body = ticket.body;
        let position = body.packet.index().0 - FIRST;
        assert!(position < self.high, "M1: {position} is not below {}", self.high);
        let record = self.records[position as usize];
        assert_eq!((body.amount, body.sponsor), (record.amount, record.sponsor));
        assert!(body.issued_at.0 >= T0.0 + record.offset_us, "early");
        match self.issued.get(&position) {
            Some(first) => assert_eq!(*first, body, "a packet left in two tickets"),
            None => {
                assert!(!self.fenced, "M3: issued after the disk failed");
                self.issued.insert(position, body);
            }
        }
        let mut sponsors = SponsorSet::EMPTY;
        let own = self.issued.values().filter(|issued| issued.user == body.user);
        for issued in own.clone() {
            assert!(!sponsors.contains(issued.sponsor), "two packets of one sponsor");
            sponsors = sponsors.with(issued.sponsor);
        }
        assert!(own.count() <= usize::from(WINS_PER_USER), "more than the campaign allows");
    }

    /// A phone reads what came and keeps its tally.
    fn hear(&mut self, id: ConnectionId, mut out: &[u8]) {
        let phone = self.phones.values_mut().find(|phone| phone.connection == Some(id));
        assert!(phone.is_some() || out.is_empty(), "an answer to a connection that is gone");
        let Some(phone) = phone else { return };
        while !out.is_empty() {
            let split = split_frame(out, CLIENT_PAYLOAD_BYTES_MAX).expect("short");
            let (frame, rest) = split.expect("whole");
            let message = ServerMessage::decode(frame).expect("a message of the server");
            if let ServerMessage::Win { tally, .. } = message {
                phone.tally = Some(*tally);
            }
            out = rest;
        }
    }

    /// The wave ends, and every packet is in exactly one class (M8).
    fn end(&mut self) {
        if !self.fenced {
            self.disk = true;
            self.sync();
            self.input(Input::JournalHold(false));
        }
        let close = ANCHOR.timestamp(T0.plus_us(SECONDS * 1_000_000 + 2 * GRACE_US));
        self.wait(close.ns_since(self.now) / 1_000);
        let mut classes = vec![0_u8; PACKETS as usize];
        let mut left = None;
        for event in &self.journal {
            match event {
                Event::Issue(body) => classes[(body.packet.index().0 - FIRST) as usize] += 1,
                Event::Skip { first, count, .. } => {
                    let first = (first.0 - FIRST) as usize;
                    classes[first..][..*count as usize].iter_mut().for_each(|class| *class += 1);
                }
                Event::Close { unissued, .. } => left = Some(*unissued),
                _ => {}
            }
        }
        assert!(classes.iter().all(|class| *class <= 1), "M8: a packet is in two classes");
        let open = classes.iter().filter(|class| **class == 0).count();
        assert!(left.is_none_or(|left| left as usize == open), "M8: the close tells {left:?}");
        assert!(self.fenced || left.is_some(), "the wave never closed");
        for (position, body) in &self.issued {
            let journaled = self.journal.contains(&Event::Issue(*body));
            assert!(journaled, "M8: the ticket of {position} is not in the journal");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lives_by_hand_see_what_is_judged() {
        let worlds: Vec<World> = seeds().iter().map(|seed| live(seed)).collect();
        let skips = |event: &&Event| matches!(event, Event::Skip { .. });
        for world in &worlds {
            assert!(world.issued.len() >= 12, "only {} packets", world.issued.len());
            assert!(world.phones.values().any(|phone| phone.tally.is_some()), "nobody heard a win");
        }
        assert!(worlds[1].journal.iter().filter(skips).count() > 0, "the crash skipped nothing");
    }
}
