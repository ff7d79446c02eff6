//! Two generations. Of the first one shard was played, as in [`World`], and another one's node is
//! dead; what nobody opened in either is carried on by one shard of the second.

use super::{
    pair,
    reclaimed::void,
    world::{
        CAMPAIGN, Sealed, State, World, campaign_key, cursor, manifest, packet, record, start,
    },
};
use crate::audit::{AuditArgs, Verdict, generations::judge_all, ledger::Late};
use anyhow::Result;
use std::{fs, path::Path};
use yao_protocol::{
    Fen, PacketId, PacketIndex, ShardId, WaveIndex,
    cursor::Cursor,
    manifest::{Manifest, ParentsEntry, Reclaimed},
    parents::Parents,
    schedule::{Schedule, WaveSchedule},
    seed_file::SeedRecord,
    spool::Open,
};

/// The shard of a node that is dead, in generation 0, and its packets.
const DEAD: ShardId = ShardId(1);
const DEAD_PACKETS: u32 = 4;
/// The shard of generation 1, and its wave.
const LATER: ShardId = ShardId(4);
const LATER_WAVE: WaveIndex = WaveIndex(1);

const fn dead(index: u32) -> PacketId {
    PacketId::new(0, DEAD, PacketIndex(index))
}

/// Dearer than those of the played shard: one is never taken for the other.
fn dead_record(index: u32) -> SeedRecord {
    SeedRecord { amount: Fen(500 + u64::from(index)), ..record(index) }
}

fn dead_shard() -> Sealed {
    let records: Vec<SeedRecord> = (0..DEAD_PACKETS).map(dead_record).collect();
    Sealed::new(0, DEAD, WaveIndex(0), &records)
}

/// What is about to be written, and said by the ledger.
struct Later {
    world: World,
    /// Each with its parent.
    children: Vec<(PacketId, SeedRecord)>,
    root_digest: [u8; 32],
    /// Opens that the node of generation 1 accepted, when it was played.
    opens: Option<Vec<Open>>,
    /// Done to the files when they are written, and to what the audit is told.
    after: fn(&Path, &mut AuditArgs),
}

impl Later {
    /// Two generations whose books balance. Packet 4 of the world was refused and stays.
    fn new() -> Self {
        let mut world = World::new();
        world.plan = |manifest| manifest.shards.insert(0, dead_shard().entry());
        let played = [3, 5, 6, 7].map(|index| (packet(index), record(index)));
        let children = (0..DEAD_PACKETS).map(|index| (dead(index), dead_record(index)));
        let children: Vec<_> = children.chain(played).collect();
        world.ledger.voids = children.iter().map(|(parent, _)| void(parent.0)).collect();
        Self { world, children, root_digest: [5; 32], opens: None, after: |_, _| () }
    }

    /// The node of generation 1 took the ticket of packet 2, not that of generation 0.
    fn roaming() -> Self {
        let mut later = Self::new();
        later.opens = Some(vec![later.world.opens.remove(2)]);
        later.world.watermark = 3;
        later
    }

    /// Writes everything, and judges it as the command does.
    fn judge(&self) -> Result<Verdict> {
        let root = self.world.root();
        let mut args = self.world.prepare();
        dead_shard().write(&root.join("seeds"));
        let records: Vec<SeedRecord> = self.children.iter().map(|(_, record)| *record).collect();
        let sealed = Sealed::new(1, LATER, LATER_WAVE, &records);
        self.write_generation(&sealed, &records);
        args.reclaimed = vec![root.join("seeds-1")];
        if let Some(opens) = &self.opens {
            self.write_node(&sealed, opens);
            args.reclaimed_state = vec![root.join("state-1")];
            args.reclaimed_schedule = vec![root.join("schedule-1.toml")];
        }
        (self.after)(root, &mut args);
        judge_all(&args, &self.world.ledger)
    }

    fn write_generation(&self, sealed: &Sealed, records: &[SeedRecord]) {
        let folder = self.world.root().join("seeds-1");
        fs::create_dir(&folder).expect("a temporary directory");
        sealed.write(&folder);
        let packets = self.children.iter().map(|(parent, _)| *parent).collect();
        let parents = Parents { campaign: CAMPAIGN, shard: LATER, generation: 1, packets }.encode();
        let file = "shard-00004.yaoparents".to_owned();
        fs::write(folder.join(&file), &parents).expect("a temporary directory");
        let hash = *blake3::hash(&parents).as_bytes();
        let reclaimed = Reclaimed {
            generation: 1,
            first_shard: LATER.0,
            root_digest: self.root_digest,
            parents: vec![ParentsEntry { shard: LATER, file, hash }],
        };
        let manifest = Manifest {
            packets: u64::from(sealed.header.record_count),
            budget: sealed.header.sum,
            shard_count: 1,
            reclaimed: Some(reclaimed),
            ..manifest(sealed, records)
        };
        fs::write(folder.join("manifest.yaomanifest"), manifest.encode(&campaign_key()))
            .expect("a temporary directory");
    }

    /// A node of generation 1 that issued nothing.
    fn write_node(&self, sealed: &Sealed, opens: &[Open]) {
        let cursor = Cursor {
            shard: LATER,
            generation: 1,
            wave: LATER_WAVE,
            merkle_root: sealed.header.merkle_root,
            ..cursor(0, 0)
        };
        let watermark = opens.len() as u64;
        let events = [start(1)];
        State { cursor: &cursor, events: &events, opens, opens_from: 1, watermark }
            .write(&self.world.root().join("state-1"));
        let wave = WaveSchedule { index: LATER_WAVE, t0: None, factor: 1, grace_seconds: 10 };
        let schedule = Schedule { version: 1, campaign: CAMPAIGN, waves: vec![wave] };
        fs::write(self.world.root().join("schedule-1.toml"), schedule.encode())
            .expect("a temporary directory");
    }
}

/// Judged, and found with exactly these problems.
fn check(change: impl FnOnce(&mut Later), expected: &[&str]) {
    let mut later = Later::new();
    change(&mut later);
    told(&later, expected);
}

fn told(later: &Later, expected: &[&str]) {
    let verdict = later.judge().expect("readable");
    let problems = &verdict.problems;
    assert_eq!(problems.len(), expected.len(), "{problems:?} / {expected:?}");
    for (problem, part) in problems.iter().zip(expected) {
        assert!(problem.contains(part), "{problem} / {part}");
    }
    let good = expected.is_empty();
    assert_eq!(verdict.verdict, if good { "balanced" } else { "UNBALANCED" });
}

#[test]
fn two_generations_balance_though_one_node_is_dead() {
    let verdict = Later::new().judge().expect("readable");
    assert_eq!(verdict.problems, Vec::<String>::new());
    let classes = (verdict.issued, verdict.opened, verdict.reclaimed, verdict.reclaimed_fen);
    assert_eq!((verdict.verdict, classes), ("balanced", (4, 3, 4, 421)));
    assert!(verdict.generations.is_empty(), "nobody has played the other one");
}

#[test]
fn m8_value_that_grew_is_told_whichever_node_is_audited() {
    let grown = "packet 1/4/0 holds 100000 of sponsor 0; its parent 0/1/0 held 500 of sponsor 0";
    check(|later| later.children[0].1.amount = Fen(100_000), &[grown]);
    let other = "packet 1/4/5 holds 105 of sponsor 2; its parent 0/3/5 held 105 of sponsor 1";
    check(|later| later.children[5].1.sponsor = record(2).sponsor, &[other]);
    check(
        |later| {
            later.after = |root, _| {
                fs::remove_file(root.join("seeds/shard-00001.yaokey")).expect("written");
            };
        },
        &["nobody can tell what 4 parents in shard 1 of generation 0 held"],
    );
    check(
        |later| later.children[0].0 = dead(DEAD_PACKETS),
        &[
            "packet 1/4/0 has a parent, 0/1/4, that is not void",
            "nobody can tell what 1 parents in shard 1 of generation 0 held",
            "packet 0/1/0 was voided for generation 1 and is 0 times in it",
        ],
    );
}

#[test]
fn m8_a_generation_is_shown_once_and_of_this_plan() {
    check(|later| later.root_digest[0] ^= 1, &["generation 1 grew from another plan"]);
    check(
        |later| later.after = |_, args| args.reclaimed.clear(),
        &["8 packets were voided for a generation that no --reclaimed shows"],
    );
    let refused = |after: fn(&Path, &mut AuditArgs), says: &str| {
        let error = Later { after, ..Later::new() }.judge().expect_err(says);
        assert!(error.to_string().contains(says), "{error:#}");
    };
    refused(|_, args| args.reclaimed.extend_from_within(..), "is a second folder of generation 1");
    refused(|_, args| args.reclaimed[0] = args.seeds.clone(), "holds no reclaimed generation");
}

#[test]
fn m7_an_open_that_came_too_late_is_a_problem_until_somebody_has_looked() {
    let check = |late: u64, allowed: fn(&Path, &mut AuditArgs), expected: &[&str]| {
        let mut later = Later::new();
        later.world.ledger.late_opens = late;
        later.after = allowed;
        told(&later, expected);
    };
    let none: fn(&Path, &mut AuditArgs) = |_, _| ();
    let one: fn(&Path, &mut AuditArgs) = |_, args| args.allow_late_opens = 1;
    let problem = "opens came after their packets had been taken back, and were not paid";
    check(1, none, &[problem]);
    check(1, one, &[]);
    check(2, one, &[problem]);
    // The node had acknowledged it: its spool and a client's receipt say so.
    let spooled = |after| {
        let mut later = Later::new();
        later.world.ledger.rows.remove(1);
        later.world.total();
        later.world.ledger.voids.push(void(packet(1).0));
        later.children.push((packet(1), record(1)));
        later.world.ledger.late = vec![Late { packet: packet(1).0, user: 2 }];
        later.world.ledger.late_opens = 1;
        Later { after, ..later }
    };
    told(&spooled(one), &[]);
    told(&spooled(none), &["packet 0/3/1 was acknowledged, and reclaimed", problem]);
}

#[test]
fn what_the_ledger_never_expects_balances_nowhere() {
    let mut later = Later::new();
    later.world.ledger.conflicts = 2;
    let verdict = later.judge().expect("readable");
    assert_eq!((verdict.duplicates, verdict.verdict), (2, "UNBALANCED"));
    let [problem] = verdict.problems.as_slice() else { panic!("{:?}", verdict.problems) };
    assert!(problem.contains("2 times a second user presented a valid ticket"), "{problem}");
    let mut later = Later::new();
    later.world.ledger.ungranted_opens = 1;
    told(&later, &["1 opens were of packets that had been granted to nobody"]);
}

#[test]
fn a_later_node_takes_an_earlier_ticket_and_delivers_it() {
    let later = Later::roaming();
    let verdict = later.judge().expect("readable");
    assert_eq!(verdict.problems, Vec::<String>::new());
    let opened = |verdict: &Verdict| (verdict.opened, verdict.settled, verdict.lost);
    assert_eq!(opened(&verdict), (3, 3, 0));
    assert_eq!(opened(&verdict.generations[0]), (0, 0, 0));
    // Both took it: the second one hears SAME.
    let mut both = Later::roaming();
    both.world.opens.insert(2, World::new().opens[2]);
    both.world.watermark = 4;
    told(&both, &[]);
    let mut lost = Later::roaming();
    lost.world.ledger.rows.remove(2);
    lost.world.total();
    told(&lost, &["packet 0/3/2 is below the watermark and not in the ledger"]);
    let mut late = Later::roaming();
    late.opens.as_mut().expect("one")[0].accepted_at.0 += 1;
    let told_otherwise = ["the receipt of packet 0/3/2 tells", "packet 0/3/2 accepted at another"];
    told(&late, &told_otherwise);
}

#[test]
fn what_lies_in_a_later_nodes_fallback_is_seen() {
    let check = |after: fn(&Path, &mut AuditArgs), expected: &[&str]| {
        told(&Later { after, ..Later::roaming() }, expected);
    };
    check(
        |root, args| {
            move_all(root);
            args.reclaimed_spool_fallback = vec![root.join("fallback-1")];
        },
        &[],
    );
    let hidden = [
        "packet 0/3/2 has a receipt and no spooled open",
        "state-1/spool has a fallback, in /mnt/fallback once",
    ];
    check(|root, _| move_all(root), &hidden);
    let after: fn(&Path, &mut AuditArgs) = |root, args| {
        move_all(root);
        pair(&root.join("fallback-1"), 9);
        args.reclaimed_spool_fallback = vec![root.join("fallback-1")];
    };
    let error = Later { after, ..Later::roaming() }.judge().expect_err("another spool's");
    assert!(error.to_string().contains("is the fallback of no --reclaimed-state"), "{error:#}");
}

/// The later node's spool is in its fallback, as after a disk that failed at once.
fn move_all(root: &Path) {
    let (own, fallback) = (root.join("state-1/spool"), root.join("fallback-1"));
    fs::rename(&own, &fallback).expect("written");
    fs::create_dir(&own).expect("a temporary directory");
    pair(&own, 1);
    pair(&fallback, 1);
}
