//! A spool whose own disk fails: what was acknowledged stays, what was not is written elsewhere,
//! and a start puts both together. The disks are directories; what breaks is the file under the
//! writer.

use super::{Rig, SETTLEMENT_SEED, header, real, ticket, watermark_on_disk};
use crate::{
    config::SpoolConfig,
    disk::RealDisk,
    messages::{OpenReply, ToSpool},
    segments::{Damage, LogKind, recovery},
    spool::store::{Store, WATERMARK_NAME},
};
use proptest::prelude::*;
use std::{
    fs,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};
use tempfile::TempDir;
use yao_engine::spool::{Index, RECORD_BYTES};
use yao_protocol::{
    WallTime,
    log::{Record, Scan},
    settlement::OpenResult,
    spool::{KIND_OPEN, Open, Watermark},
};

/// Records in a small segment.
const SEGMENT_RECORDS: u64 = 7;

/// The directories of a spool: its own, and the fallback, which must be there.
struct Disks {
    folder: TempDir,
    own: PathBuf,
    other: PathBuf,
}

impl Disks {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let [own, other] = ["own", "other"].map(|name| folder.path().join(name));
        fs::create_dir(&other).expect("create");
        Self { folder, own, other }
    }

    fn directories(&self) -> [&Path; 2] {
        [&self.own, &self.other]
    }

    fn open(&self) -> (Store, Index, crate::segments::Recovered) {
        let opened = Store::open(&real(), &self.directories(), header());
        let (store, index, found) = opened.expect("open");
        let bytes = 64 + SEGMENT_RECORDS * RECORD_BYTES;
        (store.with_segment_bytes_max(bytes), index, found)
    }
}

/// The open that every life of every test means by this sequence and life.
fn open(sequence: u64, life: u64) -> Open {
    let index = u32::try_from(sequence).expect("small");
    Open { accepted_at: WallTime(sequence * 1_000 + life), ticket: *ticket(index, 7) }
}

fn watermark(settled: u64) -> Watermark {
    let answer_digest = [settled as u8; 32];
    Watermark { campaign: header().campaign, shard: header().shard, settled, answer_digest }
}

fn read_all(store: &mut Store, through: u64) -> Vec<(u64, Open)> {
    let (mut after, mut found) = (0, Vec::new());
    while after < through {
        let (records, reached) = store.read(after, through, 5).expect("read");
        assert!(reached > after, "each read goes on");
        found.extend(records);
        after = reached;
    }
    found
}

#[test]
fn m3_a_broken_disk_is_left_for_the_fallback_and_never_synced_again() {
    let disks = Disks::new();
    let (mut store, ..) = disks.open();
    for sequence in 1..=3 {
        store.append(sequence, &open(sequence, 1));
        assert_eq!(store.commit().expect("commit"), sequence);
    }
    store.save(&watermark(1)).expect("save");
    assert!(!store.is_on_fallback());
    store.break_disk();
    let before = fs::read(newest(&disks.own)).expect("read");
    for sequence in 4..=5 {
        store.append(sequence, &open(sequence, 1));
    }
    // The sync failed; what it was for is on the other disk when the commit says so.
    assert_eq!(store.commit().expect("commit"), 5);
    assert!(store.is_on_fallback());
    assert_eq!(
        fs::read(newest(&disks.own)).expect("read"),
        before,
        "nothing more is written there"
    );
    let names: Vec<u64> = recovery::list(&RealDisk, &disks.other, LogKind::SPOOL)
        .expect("list")
        .iter()
        .map(|file| file.0)
        .collect();
    assert_eq!(names, [4]);
    store.save(&watermark(2)).expect("save");
    assert_eq!((watermark_on_disk(&disks.own), watermark_on_disk(&disks.other)), (1, 2));
    let opens: Vec<(u64, Open)> = (1..=5).map(|sequence| (sequence, open(sequence, 1))).collect();
    assert_eq!(read_all(&mut store, 5), opens, "read from both");
    drop(store);
    // A start puts both together, and begins with the spool's own directory again.
    let (mut store, index, found) = disks.open();
    assert_eq!((found.next_sequence, found.records, found.damage), (6, 5, vec![]));
    assert_eq!((store.settled(), index.len(), store.is_on_fallback()), (2, 5, false));
    assert_eq!(read_all(&mut store, 5), opens);
    store.append(6, &open(6, 2));
    store.commit().expect("commit");
    assert_eq!(newest(&disks.own), disks.own.join(LogKind::SPOOL.file_name(6)));
    // With both gone nothing is acknowledged any more.
    store.break_disk();
    store.append(7, &open(7, 2));
    assert_eq!(store.commit().expect("in the fallback"), 7);
    store.break_disk();
    store.append(8, &open(8, 2));
    assert!(store.commit().is_err(), "nowhere else to write");
    assert!(store.commit().is_err(), "and never again");
}

#[test]
fn m3_what_goes_bad_on_a_disk_that_was_given_up_is_kept_on_the_other() {
    let disks = Disks::new();
    let (mut store, ..) = disks.open();
    for sequence in 1..=3 {
        store.append(sequence, &open(sequence, 1));
        store.commit().expect("commit");
    }
    store.break_disk();
    store.append(4, &open(4, 1));
    assert_eq!(store.commit().expect("commit"), 4);
    let path = newest(&disks.own);
    let mut bytes = fs::read(&path).expect("read");
    let second = usize::try_from(64 + RECORD_BYTES).expect("small");
    bytes[second + 60] ^= 1;
    fs::write(&path, bytes).expect("write");
    let read: Vec<u64> = read_all(&mut store, 4).iter().map(|(sequence, _)| *sequence).collect();
    assert_eq!(read, [1, 3, 4]);
    let traces = |directory: &Path| {
        recovery::set_aside(&RealDisk, directory, LogKind::SPOOL).expect("list").len()
    };
    assert_eq!((traces(&disks.own), traces(&disks.other)), (0, 1), "nothing is written there");
}

#[test]
fn a_record_in_both_directories_is_one() {
    let disks = Disks::new();
    let (mut store, ..) = disks.open();
    store.append(1, &open(1, 1));
    store.commit().expect("commit");
    // All of the commit that fails reaches the disk, and some of another one.
    tear(&disks.own, 2, 3, 1, 2 * usize::try_from(RECORD_BYTES).expect("small") + 50, 0);
    store.break_disk();
    (2..=4).for_each(|sequence| store.append(sequence, &open(sequence, 1)));
    assert_eq!(store.commit().expect("in the fallback"), 4);
    drop(store);
    let (mut store, index, found) = disks.open();
    assert_eq!((found.records, index.len(), found.next_sequence), (4, 4, 5));
    assert!((1..=50).contains(&found.torn_bytes), "the start of a third");
    assert_eq!(found.damage, vec![]);
    let read: Vec<u64> = read_all(&mut store, 4).iter().map(|(sequence, _)| *sequence).collect();
    assert_eq!(read, [1, 2, 3, 4]);
    // Settled, they go together: a start must not take the end of one for a gap.
    store.append(5, &open(5, 2));
    store.commit().expect("commit");
    store.save(&watermark(4)).expect("save");
    assert_eq!(store.remove_settled(4, 0).expect("remove"), Some(4));
    let (mut store, _, found) = disks.open();
    assert_eq!((found.records, found.damage), (1, vec![]));
    assert_eq!(read_all(&mut store, 5).len(), 1);
}

#[test]
fn m3_a_watermark_that_cannot_be_written_moves_everything() {
    let disks = Disks::new();
    let (mut store, ..) = disks.open();
    store.append(1, &open(1, 1));
    store.commit().expect("commit");
    // A record waits in memory while the watermark fails.
    store.append(2, &open(2, 1));
    store.break_watermark();
    store.save(&watermark(1)).expect("in the fallback");
    assert_eq!((watermark_on_disk(&disks.own), watermark_on_disk(&disks.other)), (0, 1));
    assert_eq!(store.commit().expect("commit"), 2);
    assert_eq!(newest(&disks.other), disks.other.join(LogKind::SPOOL.file_name(2)));
    let (store, _, found) = disks.open();
    assert_eq!((store.settled(), found.records, found.damage), (1, 2, vec![]));
}

#[test]
fn m7_a_failed_commit_that_reached_the_disk_with_a_hole_hides_nothing() {
    let disks = Disks::new();
    let (store, ..) = disks.open();
    let mut store = store.with_segment_bytes_max(1 << 20);
    (1..=3).for_each(|sequence| store.append(sequence, &open(sequence, 1)));
    store.commit().expect("commit");
    // One page of the commit cannot be written, those behind it can.
    let bytes = usize::try_from(37 * RECORD_BYTES).expect("small");
    tear(&disks.own, 4, 37, 1, bytes, 0b111);
    store.break_disk();
    (4..=40).for_each(|sequence| store.append(sequence, &open(sequence, 1)));
    assert_eq!(store.commit().expect("in the fallback"), 40);
    drop(store);
    let opens: Vec<(u64, Open)> = (1..=40).map(|sequence| (sequence, open(sequence, 1))).collect();
    for _ in 0..2 {
        let (mut store, index, found) = disks.open();
        assert_eq!((found.records, index.len(), found.next_sequence), (40, 40, 41));
        assert_eq!(found.damage, vec![], "all of it is in the fallback");
        assert_eq!(read_all(&mut store, 40), opens);
    }
    // What rots later, in one of two files that hold it, is read in the other.
    let (mut store, ..) = disks.open();
    let path = newest(&disks.other);
    flip(&path, 64 + RECORD_BYTES * 2 + 30);
    assert_eq!(read_all(&mut store, 40).len(), 39, "nowhere else");
    drop(store);
    let (mut store, _, found) = disks.open();
    assert_eq!((found.records, found.damage.len()), (39, 1));
    assert_eq!(read_all(&mut store, 40).len(), 39);
}

#[test]
fn m7_a_record_that_stands_in_both_is_read_where_it_can_be() {
    let disks = Disks::new();
    let (mut store, ..) = disks.open();
    store.append(1, &open(1, 1));
    store.commit().expect("commit");
    tear(&disks.own, 2, 3, 1, 3 * usize::try_from(RECORD_BYTES).expect("small"), 0);
    store.break_disk();
    (2..=4).for_each(|sequence| store.append(sequence, &open(sequence, 1)));
    store.commit().expect("in the fallback");
    drop(store);
    let (mut store, ..) = disks.open();
    store.append(5, &open(5, 2));
    store.commit().expect("commit");
    // The third is lost in the one, the second in the other.
    let own = disks.own.join(LogKind::SPOOL.file_name(1));
    flip(&own, 64 + 2 * RECORD_BYTES + 30);
    flip(&disks.other.join(LogKind::SPOOL.file_name(2)), 64 + 30);
    let all: Vec<u64> = (1..=5).collect();
    let read = |store: &mut Store| {
        read_all(store, 5).iter().map(|(sequence, _)| *sequence).collect::<Vec<_>>()
    };
    assert_eq!(read(&mut store), all);
    drop(store);
    let (mut store, index, found) = disks.open();
    assert_eq!((read(&mut store), index.len(), found.records), (all, 5, 5));
    assert_eq!(found.damage.len(), 1, "somebody must look: {:?}", found.damage);
}

#[test]
fn m7_of_two_damaged_segments_each_gives_what_the_other_lacks() {
    let disks = Disks::new();
    let (store, ..) = disks.open();
    let mut store = store.with_segment_bytes_max(1 << 20);
    store.append(1, &open(1, 1));
    store.commit().expect("commit");
    tear(&disks.own, 2, 3, 1, 3 * usize::try_from(RECORD_BYTES).expect("small"), 0);
    store.break_disk();
    (2..=4).for_each(|sequence| store.append(sequence, &open(sequence, 1)));
    store.commit().expect("in the fallback");
    drop(store);
    let (mut store, ..) = disks.open();
    store.append(5, &open(5, 2));
    store.commit().expect("commit");
    drop(store);
    // The third is lost in the one, the fourth in the other: neither is whole.
    flip(&disks.own.join(LogKind::SPOOL.file_name(1)), 64 + 2 * RECORD_BYTES + 30);
    flip(&disks.other.join(LogKind::SPOOL.file_name(2)), 64 + 2 * RECORD_BYTES + 30);
    let (mut store, index, found) = disks.open();
    assert_eq!((index.len(), found.records, found.damage.len()), (5, 5, 2));
    for count_max in [1, 2, 100] {
        let (mut after, mut read) = (0, Vec::new());
        while after < 5 {
            let (records, reached) = store.read(after, 5, count_max).expect("read");
            assert!(reached > after, "each read goes on");
            read.extend(records.iter().map(|(sequence, _)| *sequence));
            after = reached;
        }
        assert_eq!(read, [1, 2, 3, 4, 5], "{count_max} at a time");
    }
}

#[test]
fn m7_what_went_with_a_directory_is_missed() {
    let disks = Disks::new();
    let (mut store, ..) = disks.open();
    (1..=6).for_each(|sequence| store.append(sequence, &open(sequence, 1)));
    store.commit().expect("commit");
    store.save(&watermark(4)).expect("save");
    store.break_disk();
    (7..=8).for_each(|sequence| store.append(sequence, &open(sequence, 1)));
    store.commit().expect("in the fallback");
    assert_eq!(watermark_on_disk(&disks.other), 4, "known there as well from then on");
    drop(store);
    fs::remove_dir_all(&disks.own).expect("the disk is gone for good");
    let (store, _, found) = disks.open();
    assert_eq!(found.damage, vec![Damage::Missing { first: 5, last: 6 }]);
    assert_eq!((store.settled(), found.next_sequence), (4, 9));
    drop(store);
    // Nothing tells any more how far it was settled: what is not there is missed.
    fs::remove_dir_all(&disks.own).expect("again");
    fs::remove_file(disks.other.join(WATERMARK_NAME)).expect("remove");
    let (store, _, found) = disks.open();
    assert_eq!(found.damage, vec![Damage::Missing { first: 1, last: 6 }]);
    assert_eq!(store.settled(), 0);
}

#[test]
fn m7_what_the_fallback_knows_is_brought_home() {
    let disks = Disks::new();
    let (mut store, ..) = disks.open();
    store.append(1, &open(1, 1));
    store.commit().expect("commit");
    store.break_disk();
    store.append(2, &open(2, 1));
    store.commit().expect("in the fallback");
    store.save(&watermark(2)).expect("save");
    assert_eq!((watermark_on_disk(&disks.own), watermark_on_disk(&disks.other)), (0, 2));
    drop(store);
    drop(disks.open());
    assert_eq!(watermark_on_disk(&disks.own), 2);
    // The fallback is given up: no sequence is used again, and nothing is missed.
    let only = || Store::open(&real(), &[&disks.own], header()).expect("open");
    let (mut store, ..) = only();
    store.append(3, &open(3, 2));
    store.commit().expect("commit");
    drop(store);
    let (store, _, found) = only();
    assert_eq!((store.settled(), found.damage, found.next_sequence), (2, vec![], 4));
}

#[test]
fn a_watermark_that_was_lost_raises_no_alarm() {
    let disks = Disks::new();
    let only = || Store::open(&real(), &[&disks.own], header()).expect("open");
    let (store, ..) = only();
    let mut store = store.with_segment_bytes_max(64 + RECORD_BYTES);
    for sequence in 1..=5 {
        store.append(sequence, &open(sequence, 1));
        store.commit().expect("commit");
    }
    store.save(&watermark(3)).expect("save");
    assert_eq!(store.remove_settled(3, 3 * (64 + RECORD_BYTES)).expect("remove"), Some(2));
    drop(store);
    fs::remove_file(disks.own.join(WATERMARK_NAME)).expect("remove");
    for _ in 0..2 {
        let (store, _, found) = only();
        assert_eq!((store.settled(), found.damage), (2, vec![]), "what is gone was settled");
    }
}

#[test]
fn less_room_than_a_segment_takes_is_none() {
    let disks = Disks::new();
    let (mut store, ..) = disks.open();
    assert!(store.space_bytes().expect("known") > 1 << 20);
    // No file system has so much.
    store = store.with_segment_bytes_max(1 << 62);
    assert_eq!(store.space_bytes(), Some(0));
}

#[test]
fn m7_opens_go_on_when_the_spools_own_directory_is_gone() {
    let disks = Disks::new();
    let Disks { folder, own, other } = &disks;
    let config = SpoolConfig { fallback: Some(other.clone()), ..SpoolConfig::default() };
    let mut rig = Rig::start_with(own, 1, &config);
    let first = rig.receipt(1, ticket(1, 50));
    rig.stop();
    let mut rig = Rig::start_with(own, 2, &config);
    let moved = folder.path().join("moved");
    fs::rename(own, &moved).expect("take it away");
    let second = rig.receipt(2, ticket(2, 50));
    rig.send(ToSpool::AgentAvailable(true));
    // What lies in the directory that is gone cannot be read, and does not keep up the others.
    let newest = rig.answer(SETTLEMENT_SEED, OpenResult::Conflict);
    assert_eq!(newest, [2]);
    let counters = rig.stop();
    assert!(counters.is_on_fallback() && !counters.is_fenced());
    assert!(counters.warnings()[0].contains("fallback"));
    assert_eq!(watermark_on_disk(other), 0, "the first one has no answer");
    let letters = fs::read_to_string(other.join("dead-letter.jsonl")).expect("a letter");
    assert_eq!(letters.lines().count(), 1);
    // The disk is back: both are known, and both are delivered.
    fs::rename(&moved, own).expect("bring it back");
    let mut rig = Rig::start_with(own, 3, &config);
    assert_eq!(rig.receipt(3, ticket(1, 50)), first);
    assert_eq!(rig.receipt(4, ticket(2, 50)), second);
    rig.send(ToSpool::AgentAvailable(true));
    let mut delivered = rig.answer(SETTLEMENT_SEED, OpenResult::Applied);
    while delivered.len() < 2 {
        delivered.extend(rig.answer(SETTLEMENT_SEED, OpenResult::Applied));
    }
    assert_eq!(delivered, [1, 2]);
    rig.open(5, ticket(3, 50));
    assert!(matches!(rig.replies(1)[&5], OpenReply::Receipt(_)));
    rig.stop();
    assert_eq!(watermark_on_disk(own), 2);
}

fn newest(directory: &Path) -> PathBuf {
    recovery::list(&RealDisk, directory, LogKind::SPOOL).expect("list").pop().expect("a segment").1
}

/// What happens to a spool with two disks.
#[derive(Clone, Debug)]
enum Step {
    /// Opens arrive and are committed together.
    Commit { records: u64 },
    /// The disk that is written breaks; of the next commit this many bytes reach it all the same,
    /// but for these sectors.
    Break { torn_bytes: usize, holes: u8 },
    /// Settlement answers everything.
    Settle,
    /// The process is killed while it writes this many bytes of so many records, and started again.
    Restart { records: u64, torn_bytes: usize },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1..6_u64).prop_map(|records| Step::Commit { records }),
        2 => (0..900_usize, 0..8_u8)
            .prop_map(|(torn_bytes, holes)| Step::Break { torn_bytes, holes }),
        1 => Just(Step::Settle),
        2 => (0..5_u64, 0..900_usize)
            .prop_map(|(records, torn_bytes)| Step::Restart { records, torn_bytes }),
    ]
}

/// Flips a bit.
fn flip(path: &Path, offset: u64) {
    let file = fs::OpenOptions::new().read(true).write(true).open(path).expect("open");
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).expect("read");
    file.write_all_at(&[byte[0] ^ 4], offset).expect("write");
}

/// Puts the first `torn_bytes` of a commit of these records behind the last record of the newest
/// segment in `directory`, as a write that was interrupted may have; but for the sectors of 512 B
/// that have a bit in `holes`, the first that begins in it being the lowest.
fn tear(directory: &Path, first: u64, records: u64, life: u64, torn_bytes: usize, holes: u8) {
    let mut bytes = Vec::new();
    for sequence in first..first + records {
        let payload = open(sequence, life).encode();
        let (kind, committed) = (KIND_OPEN, first - 1);
        Record { kind, sequence, committed, payload: &payload }.put(&mut bytes);
    }
    bytes.truncate(torn_bytes);
    let Some((first, path)) =
        recovery::list(&RealDisk, directory, LogKind::SPOOL).expect("list").pop()
    else {
        return;
    };
    let whole = fs::read(&path).expect("read");
    let mut scan = Scan::new(&whole[64..], first);
    scan.by_ref().for_each(drop);
    let file = fs::OpenOptions::new().write(true).open(&path).expect("open");
    let at = 64 + scan.valid_bytes();
    let sector = at.next_multiple_of(512) - at;
    for (hole, bytes) in bytes.iter_mut().skip(sector).enumerate() {
        if holes >> (hole / 512).min(7) & 1 == 1 {
            *bytes = 0;
        }
    }
    file.write_all_at(&bytes, at as u64).expect("write");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn m7_no_acknowledged_open_is_lost_between_two_disks(
        steps in prop::collection::vec(step(), 1..40),
    ) {
        let disks = Disks::new();
        let (mut store, ..) = disks.open();
        let (mut acknowledged, mut settled) = (Vec::new(), 0);
        let (mut next, mut life, mut written, mut broken) = (1, 1, false, None);
        // A commit that is nowhere whole may leave records behind a hole: that is told.
        let (mut holed, mut alarmed) = (false, false);
        for step in steps {
            match step {
                Step::Commit { records } => {
                    let current = disks.directories()[usize::from(store.is_on_fallback())];
                    if let Some((torn_bytes, holes)) = broken.take() {
                        tear(current, next, records, life, torn_bytes, holes);
                        holed |= holes > 0;
                    }
                    for sequence in next..next + records {
                        store.append(sequence, &open(sequence, life));
                    }
                    if store.commit().is_ok() {
                        acknowledged.extend((next..next + records).map(|n| (n, open(n, life))));
                        next += records;
                        (written, holed) = (true, false);
                    } else {
                        // Both disks are gone: the node is fenced, and somebody restarts it.
                        (life, written) = (life + 1, false);
                        alarmed |= std::mem::take(&mut holed);
                        let expected = (acknowledged.as_slice(), settled, alarmed);
                        (store, next) = restart(store, &disks, expected);
                    }
                }
                Step::Break { torn_bytes, holes } if written => {
                    broken = Some((torn_bytes, holes));
                    store.break_disk();
                }
                Step::Break { .. } => {}
                Step::Settle if next > settled + 1 => {
                    settled = next - 1;
                    store.save(&watermark(settled)).expect("watermarks hold here");
                    let bytes_max = 3 * SEGMENT_RECORDS * RECORD_BYTES;
                    store.remove_settled(settled, bytes_max).expect("remove");
                }
                Step::Settle => {}
                Step::Restart { records, torn_bytes } => {
                    let current = disks.directories()[usize::from(store.is_on_fallback())];
                    if written {
                        tear(current, next, records, life, torn_bytes, 0);
                    }
                    (life, written, broken) = (life + 1, false, None);
                    let expected = (acknowledged.as_slice(), settled, alarmed);
                    (store, next) = restart(store, &disks, expected);
                }
            }
        }
        restart(store, &disks, (&acknowledged, settled, alarmed));
    }
}

/// A start: everything acknowledged and not settled is there, as it was, and nothing is alarming
/// but what was already.
fn restart(
    store: Store,
    disks: &Disks,
    (acknowledged, settled, alarmed): (&[(u64, Open)], u64, bool),
) -> (Store, u64) {
    drop(store);
    let (mut store, index, found) = disks.open();
    assert!(alarmed || found.damage.is_empty(), "a false alarm: {:?}", found.damage);
    assert_eq!(store.settled(), settled);
    let last = acknowledged.last().map_or(0, |(sequence, _)| *sequence);
    assert!(found.next_sequence > last, "no sequence is used twice");
    let read = read_all(&mut store, found.next_sequence - 1);
    assert!(read.is_sorted_by_key(|(sequence, _)| *sequence));
    for (sequence, open) in acknowledged.iter().filter(|(sequence, _)| *sequence > settled) {
        let copies: Vec<_> = read.iter().filter(|record| record.0 == *sequence).collect();
        assert_eq!(copies, [&(*sequence, *open)], "once, as it was acknowledged");
        let entry = index.find(open.ticket.body.packet).expect("known");
        assert_eq!((entry.sequence, entry.accepted_at), (*sequence, open.accepted_at));
    }
    (store, found.next_sequence)
}
