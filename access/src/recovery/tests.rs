//! Starts in fleet mode on a real directory: what they write there, and what they then ask for.

use super::*;
use crate::state_dir::tests::seed_header;
use std::{fs, sync::Arc};
use tempfile::TempDir;
use yao_engine::{
    Timestamp,
    issuer::{Input, Issuer, Output, Settings},
    wave_clock::WaveClock,
};
use yao_protocol::{
    CampaignId, Epoch, Fen, Incarnation, KeyId, PacketId, PacketIndex, ShakeId, ShardId, SponsorId,
    UserId, WallTime,
    cursor::{Cursor, GrantRecord},
    grant::{GrantAnswer, GrantRequest, Verdict},
    keys::{KeyOwner, KeySet, PublicKeyFile},
    settlement::digest,
    slots::SlotPair,
    ticket::TicketBody,
};

const CAMPAIGN: CampaignId = CampaignId(2015);
const SHARD: ShardId = ShardId(17);
const WAVE: WaveIndex = WaveIndex(0);
const NOBODY: Incarnation = Incarnation([0; 16]);
const FLEET: Owning = Owning {
    ownership: Ownership::Fleet,
    witness: None,
    after_reboot: config::AfterReboot::Resume,
};
/// Held by the first life; the cursor stands at 10.
const GRANT: GrantRecord = GrantRecord {
    id: 7,
    lo: 10,
    hi: 45,
    holder: life(1),
    not_after: WallTime(1),
    until_ns: u64::MAX,
    lifetime_us: 60_000_000,
};

const fn life(number: u8) -> Incarnation {
    Incarnation([number; 16])
}

/// A state directory, and the shard that it is of.
struct Rig {
    folder: TempDir,
    state: StateDir,
    header: SeedHeader,
}

impl Rig {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let header = seed_header(CAMPAIGN, SHARD, 50);
        let state = StateDir::new(&folder.path().join("state"));
        state.init(&header, &folder.path().join("keys")).expect("an empty directory");
        Self { folder, state, header }
    }

    /// One whose first life has issued under [`GRANT`], and ended.
    fn granted() -> Self {
        let rig = Self::new();
        let mut first = rig.start(1);
        let cursor = first.cursors.get_mut(&WAVE).expect("one wave");
        for slot in cursor.writer.keep(GRANT) {
            cursor.file.write(&slot.encode()).expect("written");
        }
        rig
    }

    fn start(&self, number: u8) -> Recovered {
        self.start_by(number, &FLEET).expect("a start")
    }

    fn start_by(&self, number: u8, owning: &Owning) -> Result<Recovered, FileError> {
        let node = Node::for_tests(number, KeySet::default());
        recover(&node, &self.state, &self.header, owning)
    }

    /// The same cursor and journal in files of their own.
    fn copied(self) -> Self {
        let copy = self.folder.path().join("copy");
        for name in ["cursor", "journal"] {
            fs::create_dir_all(copy.join(name)).expect("a directory");
            for file in fs::read_dir(self.state.root().join(name)).expect("a directory") {
                let file = file.expect("a file");
                fs::copy(file.path(), copy.join(name).join(file.file_name())).expect("copied");
            }
        }
        Self { state: StateDir::new(&copy), ..self }
    }

    /// What the newest slot says.
    fn cursor(&self) -> Cursor {
        let bytes = fs::read(self.state.cursor(WAVE)).expect("a cursor");
        let pair = SlotPair::decode(MAGIC, &bytes).expect("a slot");
        Cursor::decode(&pair.newest.payload).expect("a cursor")
    }
}

/// The issuer of a start, its wave armed.
struct Asking {
    node: Arc<Node>,
    issuer: Issuer,
    now: Timestamp,
    request: Vec<u8>,
}

impl Asking {
    fn new(recovered: &Recovered) -> Self {
        let node = Node::for_tests(0, KeySet::default());
        let settings = Settings {
            campaign: CAMPAIGN,
            shard: SHARD,
            generation: 0,
            epoch: Epoch(1),
            anchor: node.clock.anchor(),
            wins_per_user: 3,
            ticket_lifetime_us: 60_000_000,
            vet_ms_max: 100,
        };
        let mut issuer = Issuer::new(settings, Arc::clone(&node.ticket_key), &recovered.issuer);
        let clock = WaveClock::new(node.clock.wall().plus_us(3_600_000_000), 1);
        let now = node.clock.now();
        issuer.handle(now, Input::ArmWave { wave: WAVE, clock, grace_us: 0 });
        Self { node, issuer, now, request: Vec::new() }
    }

    /// The next request for a grant, behind the pause between two of them.
    fn ask(&mut self) -> GrantRequest {
        self.now = self.now.plus_ms(100);
        loop {
            match self.issuer.poll(self.now) {
                Output::AskGrant { request, .. } => {
                    self.request = request;
                    break;
                }
                Output::SleepUntil { .. } => panic!("it asks for nothing"),
                _ => {}
            }
        }
        let owner = KeyOwner::Ticket { campaign: CAMPAIGN, shard: SHARD, epoch: Epoch(1) };
        let mut keys = KeySet::default();
        let key = self.node.ticket_key.public().to_bytes();
        keys.add(&PublicKeyFile { owner, key }).expect("one key");
        GrantRequest::decode(&self.request, &keys).expect("signed by the shard's key")
    }

    /// Another grant than the one that was named is in force.
    fn held_by(&mut self, id: u64, holder: Incarnation) {
        let answer = GrantAnswer {
            verdict: Verdict::Held,
            campaign: CAMPAIGN,
            shard: SHARD,
            generation: 0,
            epoch: Epoch(1),
            wave: WAVE,
            key_id: KeyId(1),
            id,
            lo: 10,
            hi: 45,
            seen: 10,
            margin_ms: 500,
            decided_at: WallTime(50_000_000),
            not_after: WallTime(60_000_000),
            holder,
            node: NodeName::new("node"),
            request_digest: digest(&self.request),
        };
        self.issuer.handle(self.now, Input::GrantAnswer(Box::new(answer)));
    }
}

fn issue(position: u32) -> Event {
    Event::Issue(TicketBody {
        campaign: CAMPAIGN,
        packet: PacketId::new(0, SHARD, PacketIndex(position)),
        user: UserId(7),
        amount: Fen(1),
        shake: ShakeId(1),
        issued_at: WallTime(1),
        expires_at: WallTime(2),
        shard: SHARD,
        epoch: Epoch(1),
        sponsor: SponsorId::new(0).expect("below 64"),
        wave: WAVE,
    })
}

#[test]
fn m4_a_start_is_in_the_cursor_before_it_asks() {
    let rig = Rig::new();
    let mut asking = Asking::new(&rig.start(1));
    let cursor = rig.cursor();
    assert_eq!((cursor.incarnation, cursor.asked, cursor.grant), (life(1), true, None));
    let request = asking.ask();
    assert_eq!((request.claim, request.previous), (Claim::First, NOBODY));
    // It was granted, and the first life did not live to write that down.
    let local = Owning { ownership: Ownership::Local, ..FLEET };
    let error = rig.start_by(2, &local).expect_err("settlement decides");
    assert!(error.to_string().contains("was asked for the section"), "{error}");
    let mut asking = Asking::new(&rig.start(2));
    assert_eq!(asking.ask().claim, Claim::First);
    asking.held_by(1, life(1));
    let request = asking.ask();
    assert_eq!((request.claim, request.previous), (Claim::Resume, life(1)));
}

#[test]
fn m4_lives_that_wrote_nothing_down_are_known_from_the_journal() {
    let rig = Rig::granted();
    // Two more: each may have asked, been granted, and died before it wrote that down.
    drop(rig.start(2));
    drop(rig.start(3));
    let mut asking = Asking::new(&rig.start(4));
    let request = asking.ask();
    assert_eq!((request.claim, request.previous, request.known), (Claim::Resume, life(1), 7));
    asking.held_by(8, life(2));
    let request = asking.ask();
    assert_eq!((request.claim, request.previous, request.known), (Claim::Resume, life(2), 8));
}

#[test]
fn m4_a_right_that_was_given_up_is_succeeded_by_nobody() {
    let rig = Rig::granted();
    let mut loser = rig.start(2);
    let cursor = loser.cursors.get_mut(&WAVE).expect("one wave");
    cursor.writer.give_up();
    cursor.restate().expect("written");
    drop(loser);
    let given_up = rig.cursor();
    for number in [3, 4] {
        let recovered = rig.start(number);
        let right = &recovered.issuer.sections[0].right;
        assert!(right.fleet().is_some_and(|fleet| fleet.burns() && fleet.grant().is_none()));
        let request = Asking::new(&recovered).ask();
        assert_eq!((request.claim, request.previous, request.known), (Claim::Burn, NOBODY, 7));
        assert_eq!(rig.cursor(), given_up, "it stays as it is until a grant stands above it");
    }
}

#[test]
fn m4_a_copy_of_a_running_node_begins_above_all_that_its_journal_accounts_for() {
    let rig = Rig::granted();
    let mut second = rig.start(2);
    let (kind, payload) = issue(30).encode();
    second.journal.append(kind, &payload);
    second.journal.commit().expect("on disk");
    drop(second);
    // The cursor was copied before H was raised to cover it, the journal after. Where the files
    // are the very same ones, that cannot be.
    let error = rig.start_by(3, &FLEET).expect_err("nobody has copied anything");
    assert!(error.to_string().contains("the cursor is older than the journal"), "{error}");
    let copy = rig.copied();
    let before = copy.cursor();
    let request = Asking::new(&copy.start(4)).ask();
    assert_eq!((request.claim, request.previous), (Claim::Burn, NOBODY));
    assert_eq!((request.known, request.high), (7, 31));
    assert_eq!(copy.cursor(), before, "nothing is written before it is granted");
}
