//! Recovery on real files: cut at every byte, flipped bits, lost segments, failed writes.

use super::*;
use crate::disk::RealDisk;
use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::MetadataExt,
};
use yao_protocol::{
    CampaignId, Epoch, Incarnation, ShardId, limits::LOG_PAYLOAD_BYTES_MAX,
    log::RECORD_OVERHEAD_BYTES,
};

const KIND: LogKind =
    LogKind { prefix: "test", suffix: "yaotest", magic: *b"YAOTEST\0", payload_bytes_min: 0 };
const PAYLOAD: [u8; 40] = [7; 40];
const RECORD_BYTES: u64 = (RECORD_OVERHEAD_BYTES + PAYLOAD.len()) as u64;

fn real() -> Arc<dyn Disk> {
    Arc::new(RealDisk)
}

fn template() -> SegmentHeader {
    SegmentHeader {
        campaign: CampaignId(2015),
        shard: ShardId(17),
        epoch: Epoch(1),
        incarnation: Incarnation([3; 16]),
        first_sequence: 0,
    }
}

type Opened = Result<(SegmentLog, Recovered, Vec<u64>), SegmentError>;

fn open(directory: &Path) -> Opened {
    open_settled(directory, None)
}

fn open_settled(directory: &Path, settled: Option<u64>) -> Opened {
    let mut sequences = Vec::new();
    let about = (template(), settled);
    let (log, recovered) = SegmentLog::open(&real(), &[directory], KIND, about, |_, record| {
        assert_eq!(record.payload, PAYLOAD);
        sequences.push(record.sequence);
        Ok(())
    })?;
    Ok((log, recovered, sequences))
}

/// A log in which each commit holds the given number of records.
fn written(directory: &Path, commits: &[u64], segment_bytes_max: u64) -> SegmentLog {
    let (log, ..) = open(directory).expect("open");
    let mut log = log.with_segment_bytes_max(segment_bytes_max);
    for count in commits {
        for _ in 0..*count {
            log.append(1, &PAYLOAD);
        }
        log.commit().expect("commit");
    }
    log
}

fn only_segment(directory: &Path) -> PathBuf {
    let files = recovery::list(&RealDisk, directory, KIND).expect("list");
    assert_eq!(files.len(), 1);
    files[0].1.clone()
}

#[test]
fn records_survive_restarts_and_rotation_in_order() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut expected = 0;
    let segment_bytes_max = SEGMENT_HEADER_BYTES as u64 + 4 * RECORD_BYTES;
    for _ in 0..3 {
        let log = written(directory.path(), &[3, 1, 5, 1], segment_bytes_max);
        expected += 10;
        assert_eq!((log.committed(), log.next_sequence()), (expected, expected + 1));
        let (_, recovered, sequences) = open(directory.path()).expect("open");
        assert_eq!(sequences, (1..=expected).collect::<Vec<_>>());
        assert_eq!((recovered.torn_bytes, recovered.damage), (0, vec![]));
    }
    let names: Vec<u64> = recovery::list(&RealDisk, directory.path(), KIND)
        .expect("list")
        .iter()
        .map(|file| file.0)
        .collect();
    assert_eq!(
        names,
        [1, 5, 10, 11, 15, 20, 21, 25, 30],
        "a commit that does not fit begins a segment; one that fits none is longer than it"
    );
}

#[test]
fn a_tail_cut_at_any_byte_of_the_last_record_is_trimmed_and_the_log_goes_on() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    written(directory.path(), &[2, 1], u64::MAX);
    let path = only_segment(directory.path());
    let whole = fs::read(&path).expect("read");
    let before_last = whole.len() - usize::try_from(RECORD_BYTES).expect("small");
    for cut in before_last..whole.len() {
        for file in fs::read_dir(directory.path()).expect("read") {
            fs::remove_file(file.expect("entry").path()).expect("remove");
        }
        fs::write(&path, &whole[..cut]).expect("write");
        let (mut log, recovered, sequences) = open(directory.path()).expect("open");
        assert_eq!((sequences, recovered.next_sequence), (vec![1, 2], 3), "cut at {cut}");
        assert!(recovered.torn_bytes <= (cut - before_last) as u64);
        assert_eq!(recovered.torn_bytes > 0, cut > before_last, "cut at {cut}");
        assert_eq!(recovered.damage, []);
        assert_eq!(log.append(1, &PAYLOAD), 3);
        log.commit().expect("commit");
        let (_, recovered, sequences) = open(directory.path()).expect("open");
        assert_eq!((sequences, recovered.torn_bytes), (vec![1, 2, 3], 0), "cut at {cut}");
    }
}

#[test]
fn a_torn_first_record_leaves_no_empty_segment_behind() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    written(directory.path(), &[1], u64::MAX);
    let path = only_segment(directory.path());
    for bytes in 0..SEGMENT_HEADER_BYTES as u64 + RECORD_BYTES {
        OpenOptions::new().write(true).open(&path).expect("open").set_len(bytes).expect("cut");
        let (mut log, recovered, sequences) = open(directory.path()).expect("open");
        assert_eq!((sequences, recovered.next_sequence, log.segments().len()), (vec![], 1, 0));
        log.append(1, &PAYLOAD);
        log.commit().expect("the name is free again");
    }
}

#[test]
fn a_new_segment_has_its_room_before_its_first_record_or_is_not_there() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let log = written(directory.path(), &[1], 1 << 20);
    let path = only_segment(directory.path());
    let metadata = fs::metadata(&path).expect("stat");
    assert_eq!(metadata.len(), 1 << 20);
    assert!(metadata.blocks() * 512 >= 1 << 20, "taken, and not only promised");
    assert_eq!(log.room_bytes(), (1 << 20) - SEGMENT_HEADER_BYTES as u64 - RECORD_BYTES);
    log.trim();
    assert_eq!(fs::metadata(&path).expect("stat").len(), log.segments()[0].bytes);
    // No file system has so much room: known before a byte is written, and nothing is left behind.
    let (log, ..) = open(directory.path()).expect("open");
    let mut log = log.with_segment_bytes_max(1 << 62);
    log.append(1, &PAYLOAD);
    let refused = log.commit();
    assert!(matches!(refused, Err(SegmentError::Io { doing: "allocate room for", .. })));
    assert_eq!(only_segment(directory.path()), path);
}

#[test]
fn room_that_was_never_written_is_no_damage_and_is_given_back() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let allocated = 1 << 20;
    let log = written(directory.path(), &[1, 2], allocated);
    let path = only_segment(directory.path());
    let (whole, records_end) = (fs::read(&path).expect("read"), log.segments()[0].bytes);
    let check = |bytes: &[u8], expected: &[u64], torn: bool| {
        fs::write(&path, bytes).expect("write");
        let (log, recovered, sequences) = open(directory.path()).expect("open");
        assert_eq!((sequences.as_slice(), recovered.damage), (expected, vec![]));
        assert_eq!(recovered.torn_bytes > 0, torn);
        let segments: Vec<u64> = log.segments().iter().map(|segment| segment.bytes).collect();
        let left = fs::metadata(&path).map_or(vec![], |metadata| vec![metadata.len()]);
        assert_eq!(segments, left, "what is counted is what is there");
    };
    let end = usize::try_from(records_end).expect("small");
    let third = end - usize::try_from(RECORD_BYTES).expect("small");
    for torn_at in third..end {
        let mut bytes = whole.clone();
        bytes[torn_at..].fill(0);
        check(&bytes, &[1, 2], bytes[third..].iter().any(|byte| *byte != 0));
    }
    check(&whole, &[1, 2, 3], false);
    // Killed before the first record, or before the header.
    let mut bytes = whole.clone();
    bytes[SEGMENT_HEADER_BYTES..].fill(0);
    check(&bytes, &[], false);
    bytes.fill(0);
    check(&bytes, &[], false);
    // Blocks of one commit may reach the disk in any order: what can be read is kept, and told.
    let mut bytes = whole;
    bytes[third - usize::try_from(RECORD_BYTES).expect("small")..third].fill(0);
    fs::write(&path, bytes).expect("write");
    let (_, recovered, sequences) = open(directory.path()).expect("open");
    assert_eq!((sequences, recovered.damage.len()), (vec![1, 3], 1));
}

/// Flips every byte of the middle record, one at a time.
#[test]
fn bad_bytes_with_records_behind_are_damage_and_the_rest_is_kept() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    written(directory.path(), &[1, 1, 2], u64::MAX);
    let path = only_segment(directory.path());
    let whole = fs::read(&path).expect("read");
    let second = SEGMENT_HEADER_BYTES + usize::try_from(RECORD_BYTES).expect("small");
    for at in second..second + usize::try_from(RECORD_BYTES).expect("small") {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        fs::write(&path, &bytes).expect("write");
        let (_, recovered, sequences) = open(directory.path()).expect("open");
        assert_eq!((sequences, recovered.next_sequence), (vec![1, 3, 4], 5), "byte {at}");
        let [Damage::BadBytes { offset, sequence: 2, salvaged: 2, error: Some(_), .. }] =
            &recovered.damage[..]
        else {
            panic!("byte {at}: {:?}", recovered.damage);
        };
        assert_eq!((*offset, recovered.torn_bytes), (second as u64, 0));
        assert_eq!(fs::read(&path).expect("read"), bytes, "the segment itself is left alone");
    }
    let aside = path.with_file_name("test-00000000000000000001.yaotest.corrupt");
    assert_eq!(fs::read(aside).expect("the first damage is kept").len(), whole.len());
}

#[test]
fn a_bad_end_that_was_committed_is_damage_not_a_torn_tail() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    // The fourth record says that the third was on disk; it stands in the next segment.
    written(directory.path(), &[3, 1], SEGMENT_HEADER_BYTES as u64 + 3 * RECORD_BYTES);
    let files = recovery::list(&RealDisk, directory.path(), KIND).expect("list");
    let (first, second) = (&files[0].1, &files[1].1);
    let mut bytes = fs::read(first).expect("read");
    let end = bytes.len() - 1;
    bytes[end] ^= 1;
    fs::write(first, &bytes).expect("write");
    let (_, recovered, sequences) = open(directory.path()).expect("open");
    assert_eq!(sequences, [1, 2, 4]);
    assert!(matches!(recovered.damage[0], Damage::BadBytes { sequence: 3, salvaged: 0, .. }));
    // Without the later segment nothing contradicts that a write was interrupted which did not
    // reach its end.
    fs::remove_file(second).expect("remove");
    bytes[end - 2..].fill(0);
    fs::write(first, &bytes).expect("write");
    let (_, recovered, sequences) = open(directory.path()).expect("open");
    assert_eq!((sequences, recovered.damage), (vec![1, 2], vec![]));
    assert_eq!(recovered.torn_bytes, RECORD_BYTES - 3);
}

/// Flips every byte of the last record behind its length, one at a time: nobody says that it was
/// committed, but no write that was cut off ends so.
#[test]
fn m7_a_last_record_that_changed_is_damage_and_its_sequence_is_not_used_again() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    written(directory.path(), &[1, 1], 1 << 20);
    let path = only_segment(directory.path());
    let whole = fs::read(&path).expect("read");
    let record = usize::try_from(RECORD_BYTES).expect("small");
    let second = SEGMENT_HEADER_BYTES + record;
    for at in second + 4..second + record {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        fs::write(&path, &bytes).expect("write");
        let (mut log, recovered, sequences) = open(directory.path()).expect("open");
        assert_eq!((sequences, recovered.next_sequence), (vec![1], 3), "byte {at}");
        let damage = &recovered.damage[..];
        assert!(matches!(damage, [Damage::BadBytes { sequence: 2, .. }]), "byte {at}: {damage:?}");
        assert_eq!(log.append(1, &PAYLOAD), 3);
        log.commit().expect("commit");
        drop(log);
        let (_, recovered, sequences) = open(directory.path()).expect("open");
        assert_eq!((sequences, recovered.damage.len()), (vec![1, 3], 1), "byte {at}");
        for (_, file) in recovery::list(&RealDisk, directory.path(), KIND).expect("list") {
            fs::remove_file(file).expect("remove");
        }
    }
    // The only record of its segment: the next start must not use its sequence either, whether or
    // not this one writes anything.
    written(directory.path(), &[1], 1 << 20);
    let mut bytes = fs::read(&path).expect("read");
    bytes[SEGMENT_HEADER_BYTES + 30] ^= 0x10;
    fs::write(&path, &bytes).expect("write");
    for _ in 0..2 {
        let (log, recovered, sequences) = open(directory.path()).expect("open");
        assert_eq!((sequences, log.next_sequence()), (vec![], 2));
        assert_eq!(recovered.damage.len(), 1);
    }
    fs::remove_file(&path).expect("remove");
    // A sector in which several records ended and began, the first with its length.
    written(directory.path(), &[1; 4], 1 << 20);
    let mut bytes = fs::read(&path).expect("read");
    bytes[SEGMENT_HEADER_BYTES + record..].fill(0xa5);
    fs::write(&path, &bytes).expect("write");
    let (log, _, sequences) = open(directory.path()).expect("open");
    assert_eq!(sequences, [1]);
    assert!(log.next_sequence() >= 5, "{}", log.next_sequence());
    drop(log);
    fs::remove_file(&path).expect("remove");
    // Of the seventh, which lies in two sectors, the first one was never written.
    written(directory.path(), &[1; 7], 1 << 20);
    let mut bytes = fs::read(&path).expect("read");
    let begin = SEGMENT_HEADER_BYTES + record * 6;
    assert!(begin < 512 && 512 < begin + record);
    bytes[begin..512].fill(0);
    fs::write(&path, &bytes).expect("write");
    let (_, recovered, _) = open(directory.path()).expect("open");
    assert_eq!((recovered.damage, recovered.next_sequence), (vec![], 7));
}

#[test]
fn a_lost_segment_and_a_lost_header_are_damage() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    written(directory.path(), &[2, 2, 2, 2], RECORD_BYTES);
    let files = recovery::list(&RealDisk, directory.path(), KIND).expect("list");
    // The oldest may be gone: it was settled and removed.
    fs::remove_file(&files[0].1).expect("remove");
    let (_, recovered, sequences) = open(directory.path()).expect("open");
    assert_eq!((sequences, recovered.damage), (vec![3, 4, 5, 6, 7, 8], vec![]));
    fs::remove_file(&files[2].1).expect("remove");
    let mut bytes = fs::read(&files[3].1).expect("read");
    bytes[3] ^= 1;
    fs::write(&files[3].1, bytes).expect("write");
    let (log, recovered, sequences) = open(directory.path()).expect("open");
    assert_eq!((sequences, log.next_sequence()), (vec![3, 4, 7, 8], 9));
    assert_eq!(recovered.damage[0], Damage::Missing { first: 5, last: 6 });
    assert!(matches!(recovered.damage[1], Damage::BadBytes { offset: 0, salvaged: 2, .. }));
    assert_eq!(recovered.damage.len(), 2);
    // Both leave a trace for as long as nobody takes it away, the gap an empty one.
    let traces = || {
        let mut found = recovery::set_aside(&RealDisk, directory.path(), KIND).expect("readable");
        found.sort_unstable();
        found.iter().map(|path| fs::metadata(path).expect("there").len() > 0).collect::<Vec<_>>()
    };
    assert_eq!(traces(), [false, true]);
    for path in [&files[1].1, &files[3].1] {
        fs::remove_file(path).expect("settled and removed");
    }
    let (_, recovered, _) = open(directory.path()).expect("open");
    assert_eq!((recovered.damage, traces()), (vec![], vec![false, true]));
}

#[test]
fn a_lost_head_is_damage_unless_it_was_settled() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    written(directory.path(), &[2, 2, 2], RECORD_BYTES);
    let files = recovery::list(&RealDisk, directory.path(), KIND).expect("list");
    fs::remove_file(&files[0].1).expect("remove");
    for settled in [Some(2), Some(4), Some(9), None] {
        let (_, recovered, sequences) = open_settled(directory.path(), settled).expect("open");
        assert_eq!((sequences, recovered.damage), (vec![3, 4, 5, 6], vec![]), "{settled:?}");
    }
    let (_, recovered, _) = open_settled(directory.path(), Some(1)).expect("open");
    assert_eq!(recovered.damage, [Damage::Missing { first: 2, last: 2 }]);
    let aside = recovery::set_aside(&RealDisk, directory.path(), KIND).expect("readable");
    assert!(aside[0].ends_with("test-00000000000000000002.yaotest.corrupt"), "{aside:?}");
    // In the middle, too, what is settled was removed: its disk may have gone while others lived.
    fs::remove_file(&files[1].1).expect("remove");
    fs::write(&files[0].1, "").expect("nothing in it");
    let (_, recovered, _) = open_settled(directory.path(), Some(4)).expect("open");
    assert_eq!(recovered.damage, []);
    let (_, recovered, _) = open_settled(directory.path(), Some(3)).expect("open");
    assert_eq!(recovered.damage, [Damage::Missing { first: 4, last: 4 }]);
}

#[test]
fn a_copy_of_damage_is_whole_before_the_segment_goes() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    written(directory.path(), &[1, 1], RECORD_BYTES);
    let files = recovery::list(&RealDisk, directory.path(), KIND).expect("list");
    let path = &files[0].1;
    let mut bytes = fs::read(path).expect("read");
    bytes[SEGMENT_HEADER_BYTES + 9] ^= 1;
    fs::write(path, &bytes).expect("write");
    // An earlier start was interrupted, and one before it missed the segment altogether.
    let aside = path.with_file_name("test-00000000000000000001.yaotest.corrupt");
    fs::write(&aside, "").expect("write");
    fs::write(aside.with_extension("corrupt.draft"), &bytes[..70]).expect("write");
    let (_, _, sequences) = open(directory.path()).expect("open");
    assert_eq!((sequences, path.exists()), (vec![2], false));
    assert!(fs::read(&aside).expect("read").starts_with(&bytes[..bytes.len() - 4]));
    assert!(!aside.with_extension("corrupt.draft").exists());
    // One of the same name is damaged in another way: both are kept, each once.
    bytes[SEGMENT_HEADER_BYTES + 10] ^= 1;
    for _ in 0..2 {
        fs::write(path, &bytes).expect("write");
        open(directory.path()).expect("open");
    }
    let aside = recovery::set_aside(&RealDisk, directory.path(), KIND).expect("readable");
    assert_eq!(aside.len(), 2, "{aside:?}");
}

#[test]
fn what_cannot_be_removed_keeps_all_behind_it() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut log = written(directory.path(), &[1, 1, 1, 1], RECORD_BYTES);
    let paths: Vec<PathBuf> = log.segments().iter().map(|segment| segment.path.clone()).collect();
    // A directory cannot be removed as a file can. One that is gone already is no obstacle.
    fs::remove_file(&paths[0]).expect("remove");
    fs::remove_file(&paths[1]).expect("remove");
    fs::create_dir(&paths[1]).expect("create");
    assert!(log.remove_oldest(3).is_err());
    assert_eq!(
        log.segments().iter().map(|one| &one.path).collect::<Vec<_>>(),
        paths[1..].iter().collect::<Vec<_>>()
    );
    assert!(paths[2].exists());
    fs::remove_dir(&paths[1]).expect("remove");
    log.remove_oldest(3).expect("remove");
    assert_eq!(log.segments().len(), 1);
}

#[test]
fn a_segment_of_another_shard_is_refused() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    written(directory.path(), &[1], u64::MAX);
    let other = SegmentHeader { shard: ShardId(18), ..template() };
    let about = (other, None);
    let error = SegmentLog::open(&real(), &[directory.path()], KIND, about, |_, _| Ok(()))
        .expect_err("foreign");
    assert!(error.to_string().contains("this node serves campaign 2015 shard 18"), "{error}");
}

#[test]
fn m3_a_failed_write_fences_the_log_for_good() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut log = written(directory.path(), &[1], u64::MAX);
    let read_only = File::open(only_segment(directory.path())).expect("open");
    let writable = log.file.replace(Box::new(read_only));
    log.append(1, &PAYLOAD);
    assert!(matches!(log.commit(), Err(SegmentError::Io { doing: "write", .. })));
    log.file = writable;
    assert!(matches!(log.commit(), Err(SegmentError::Fenced(_))));
    assert!(matches!(log.sync(), Err(SegmentError::Fenced(_))));
    assert_eq!(log.committed(), 1);
}

#[test]
fn m3_a_failed_sync_fences_the_log_for_good() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut log = written(directory.path(), &[1], u64::MAX);
    // This device takes every byte and syncs nothing.
    let null = OpenOptions::new().write(true).open("/dev/null").expect("open");
    let working = log.file.replace(Box::new(null));
    log.append(1, &PAYLOAD);
    assert!(matches!(log.commit(), Err(SegmentError::Io { doing: "sync", .. })));
    log.file = working;
    assert!(matches!(log.sync(), Err(SegmentError::Fenced(_))), "never a second sync");
    log.append(1, &PAYLOAD);
    assert!(matches!(log.commit(), Err(SegmentError::Fenced(_))));
    assert_eq!(log.committed(), 1);
}

#[test]
fn oldest_segments_go_and_a_gap_is_left_on_request() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut log = written(directory.path(), &[1, 1, 1], RECORD_BYTES);
    log.remove_oldest(9).expect("remove");
    assert_eq!(log.segments().len(), 1, "the segment being written stays");
    log.skip_to(100);
    log.append(1, &[7; 40]);
    log.commit().expect("commit");
    let (_, _, sequences) = open(directory.path()).expect("open");
    assert_eq!(sequences, [3, 100]);
    assert!(PAYLOAD.len() < LOG_PAYLOAD_BYTES_MAX);
}
