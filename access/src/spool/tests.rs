//! The thread on real files, with a settlement that is a function and clients that are a list.
#![expect(clippy::disallowed_methods, reason = "a test has patience, not time")]

mod two_disks;

use super::{segments::SpoolSegments, *};
use crate::{
    disk::RealDisk,
    inbox,
    inbox::Inbox,
    messages::ToShard,
    segments::{LogKind, recovery},
};
use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::FileExt,
    sync::mpsc::{Receiver, channel},
    time::Instant,
};
use yao_engine::{ConnectionId, spool::RECORD_BYTES};
use yao_protocol::{
    CampaignId, Epoch, Fen, Incarnation, KeyId, PacketId, PacketIndex, ShakeId, ShardId, SponsorId,
    UserId, WallTime, WaveIndex,
    keys::{KeyOwner, KeySet, PublicKeyFile, SignKey},
    receipt::{RECEIPT_BYTES, Receipt},
    settlement::{Batch, OpenResult},
    spool::{Open, WATERMARK_MAGIC},
    ticket::{Ticket, TicketBody},
    token::Bearer,
};

const CAMPAIGN: CampaignId = CampaignId(2015);
const SHARD: ShardId = ShardId(17);
const SETTLEMENT_SEED: [u8; 32] = [4; 32];
const TICKET_SEED: [u8; 32] = Node::TEST_TICKET_SEED;
/// More than any of these tests needs; reached only when something is lost.
const PATIENCE: Duration = Duration::from_secs(20);

fn key_set() -> KeySet {
    let mut keys = KeySet::default();
    let epoch = Epoch(1);
    for (owner, seed) in [
        (KeyOwner::Ticket { campaign: CAMPAIGN, shard: SHARD, epoch }, TICKET_SEED),
        (KeyOwner::Settlement { key_id: KeyId(1) }, SETTLEMENT_SEED),
    ] {
        let key = SignKey::from_seed(&seed).public().to_bytes();
        keys.add(&PublicKeyFile { owner, key }).expect("one key each");
    }
    keys
}

fn real() -> Arc<dyn Disk> {
    Arc::new(RealDisk)
}

fn node(incarnation: u8) -> Arc<Node> {
    Node::for_tests(incarnation, key_set())
}

fn ticket(index: u32, user: u64) -> Box<Ticket> {
    let body = TicketBody {
        campaign: CAMPAIGN,
        packet: PacketId::new(0, SHARD, PacketIndex(index)),
        user: UserId(user),
        amount: Fen(100),
        shake: ShakeId(1),
        issued_at: WallTime(1),
        expires_at: WallTime(u64::MAX),
        shard: SHARD,
        epoch: Epoch(1),
        sponsor: SponsorId::new(0).expect("below 64"),
        wave: WaveIndex(0),
    };
    Box::new(Ticket { body, signature: [0; 64] })
}

/// A spool thread, its clients and the far side of its agent.
struct Rig {
    node: Arc<Node>,
    handle: Option<SpoolHandle>,
    poll: mio::Poll,
    replies: Inbox<ToShard>,
    delivered: Receiver<(u32, Vec<u8>)>,
    throttled: Receiver<u8>,
}

impl Rig {
    fn start(directory: &Path, incarnation: u8) -> Self {
        Self::start_with(directory, incarnation, &SpoolConfig::default())
    }

    fn start_with(directory: &Path, incarnation: u8, config: &SpoolConfig) -> Self {
        let poll = mio::Poll::new().expect("a poller");
        let waker = mio::Waker::new(poll.registry(), mio::Token(0)).expect("a waker");
        let (outlet, replies) = inbox::inbox(100_000, waker);
        let (deliver, delivered) = channel();
        let (throttle, throttled) = channel();
        let ways = Ways {
            vet_ms_max: 20,
            vet: Box::new(|_| false),
            deliver: Box::new(move |request_id, batch| deliver.send((request_id, batch)).is_ok()),
            agent: Box::new(|| None),
            throttle: Box::new(move |percent| throttle.send(percent).is_ok()),
        };
        let node = node(incarnation);
        let shards = Shards::new(vec![outlet]);
        let place = (&real(), directory);
        let handle = start(Arc::clone(&node), shards, config, u32::MAX, place, ways);
        let handle = Some(handle.expect("start"));
        Self { node, handle, poll, replies, delivered, throttled }
    }

    fn send(&self, message: ToSpool) {
        let handle = self.handle.as_ref().expect("running");
        handle.sender.send(message).expect("the thread lives");
    }

    fn open(&self, request_id: u32, ticket: Box<Ticket>) {
        let connection = ConnectionId { thread: 0, slot: 1, number: 0 };
        self.send(ToSpool::Open { connection, request_id, bearer: Bearer::default(), ticket });
    }

    /// Waits for `count` answers.
    fn replies(&mut self, count: usize) -> BTreeMap<u32, OpenReply> {
        let mut found = BTreeMap::new();
        let give_up = Instant::now() + PATIENCE;
        while found.len() < count {
            while let Some(message) = self.replies.next() {
                if let ToShard::OpenDecided { request_id, reply, .. } = message {
                    assert!(found.insert(request_id, reply).is_none(), "one answer each");
                }
            }
            assert!(Instant::now() < give_up, "only {} of {count} answers", found.len());
            if found.len() < count {
                let mut events = mio::Events::with_capacity(1);
                self.poll.poll(&mut events, Some(Duration::from_millis(100))).expect("poll");
            }
        }
        found
    }

    fn receipt(&mut self, request_id: u32, ticket: Box<Ticket>) -> [u8; RECEIPT_BYTES] {
        self.open(request_id, ticket);
        match self.replies(1).remove(&request_id) {
            Some(OpenReply::Receipt(receipt)) => *receipt,
            other => panic!("no receipt: {other:?}"),
        }
    }

    fn batch(&self) -> (u32, Vec<u8>, Batch) {
        let (request_id, bytes) = self.delivered.recv_timeout(PATIENCE).expect("a batch");
        let batch = Batch::decode(&bytes, &key_set()).expect("authentic");
        (request_id, bytes, batch)
    }

    fn answer(&self, seed: [u8; 32], result: OpenResult) -> Vec<u64> {
        let (request_id, bytes, batch) = self.batch();
        let results = vec![result; batch.records.len()];
        let answer = Answer::to_batch(&batch, &bytes, WallTime(5), KeyId(1), results);
        let answer = answer.encode(&SignKey::from_seed(&seed));
        self.send(ToSpool::Delivered { request_id, answer });
        batch.records.iter().map(|(sequence, _)| *sequence).collect()
    }

    /// Ends the thread; returns what it counted.
    fn stop(&mut self) -> Arc<SpoolCounters> {
        let handle = self.handle.take().expect("running");
        let counters = Arc::clone(&handle.counters);
        handle.stop();
        counters
    }
}

fn header() -> SegmentHeader {
    SegmentHeader {
        campaign: CAMPAIGN,
        shard: SHARD,
        epoch: Epoch(1),
        incarnation: Incarnation([1; 16]),
        first_sequence: 0,
    }
}

fn watermark_on_disk(directory: &Path) -> u64 {
    let (_, pair) = crate::slot_file::SlotFile::open(
        &RealDisk,
        &directory.join("watermark.yaomark"),
        WATERMARK_MAGIC,
    )
    .expect("a watermark");
    Watermark::decode(&pair.newest.payload).expect("a watermark").settled
}

/// What the segments hold, read by themselves.
fn spooled(directory: &Path) -> BTreeMap<u64, Open> {
    let mut opens = BTreeMap::new();
    for (first, path) in recovery::list(&RealDisk, directory, LogKind::SPOOL).expect("list") {
        let bytes = fs::read(path).expect("read");
        for record in yao_protocol::log::Scan::new(&bytes[64..], first) {
            opens.insert(record.sequence, Open::decode(record.payload).expect("an open"));
        }
    }
    opens
}

#[test]
fn m7_an_open_is_on_disk_when_its_receipt_arrives_and_survives_restarts() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("spool");
    let mut rig = Rig::start(&path, 1);
    let first = rig.receipt(7, ticket(1, 50));
    let receipt = Receipt::decode(&first, &rig.node.mac_key).expect("proved");
    let open = spooled(&path)[&1];
    assert_eq!((open.accepted_at, open.ticket), (receipt.accepted_at, *ticket(1, 50)));
    rig.open(8, ticket(1, 51));
    assert!(matches!(rig.replies(1)[&8], OpenReply::Refused(_)), "another user's");
    rig.stop();
    // A new life, with other bytes of incarnation and clock: the same receipt.
    let mut rig = Rig::start(&path, 2);
    assert_eq!(rig.receipt(9, ticket(1, 50)), first);
    rig.receipt(10, ticket(2, 50));
    rig.send(ToSpool::AgentAvailable(true));
    // Who opens now goes first; what an earlier life left is backlog.
    assert_eq!(rig.answer(SETTLEMENT_SEED, OpenResult::Applied), [2]);
    assert_eq!(rig.answer(SETTLEMENT_SEED, OpenResult::Applied), [1]);
    let counters = rig.stop();
    assert_eq!(counters.applied.load(Ordering::Relaxed), 2);
    assert_eq!(watermark_on_disk(&path), 2);
    let mut rig = Rig::start(&path, 3);
    rig.send(ToSpool::AgentAvailable(true));
    rig.receipt(11, ticket(3, 50));
    assert_eq!(rig.answer(SETTLEMENT_SEED, OpenResult::Applied), [3], "nothing is sent twice");
    rig.stop();
}

#[test]
fn m7_a_forged_answer_moves_no_watermark() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut rig = Rig::start(directory.path(), 1);
    rig.receipt(1, ticket(1, 50));
    rig.send(ToSpool::AgentAvailable(true));
    rig.answer([99; 32], OpenResult::Applied);
    let (request_id, ..) = rig.batch();
    rig.send(ToSpool::Delivered { request_id, answer: b"YAOA and nonsense".to_vec() });
    rig.answer(SETTLEMENT_SEED, OpenResult::Conflict);
    let counters = rig.stop();
    assert_eq!(counters.forged_answers.load(Ordering::Relaxed), 2);
    assert_eq!(counters.settled.load(Ordering::Relaxed), 1, "only the signed one counts");
    assert_eq!(watermark_on_disk(directory.path()), 1);
    let letters = fs::read_to_string(directory.path().join("dead-letter.jsonl")).expect("a letter");
    let letter: serde_json::Value = serde_json::from_str(letters.trim()).expect("one line of JSON");
    assert_eq!((&letter["sequence"], &letter["result"]), (&1.into(), &"conflict".into()));
}

#[test]
fn m3_a_spool_that_cannot_write_refuses_and_stays_up() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("spool");
    let mut rig = Rig::start(&path, 1);
    fs::remove_dir_all(&path).expect("take the directory away");
    rig.open(1, ticket(1, 50));
    assert!(matches!(rig.replies(1)[&1], OpenReply::Refused(_)));
    // The directory is back, but what an earlier write left behind is unknown: still no.
    fs::create_dir(&path).expect("bring it back");
    rig.open(2, ticket(1, 50));
    rig.open(3, ticket(2, 50));
    assert!(rig.replies(2).values().all(|reply| matches!(reply, OpenReply::Refused(_))));
    let counters = rig.stop();
    assert!(counters.is_fenced());
    assert_eq!(counters.acknowledged.load(Ordering::Relaxed), 0);
    assert_eq!(spooled(&path).len(), 0);
}

#[test]
fn a_disk_without_room_refuses_opens_and_stops_the_issuer() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let known = Rig::start(directory.path(), 1).receipt(1, ticket(1, 50));
    // No file system has as much room as this configuration asks for.
    let config = SpoolConfig { bytes_max: u64::MAX, ..SpoolConfig::default() };
    let mut rig = Rig::start_with(directory.path(), 2, &config);
    assert_eq!(rig.throttled.recv_timeout(PATIENCE), Ok(0));
    rig.open(2, ticket(2, 50));
    assert!(matches!(
        rig.replies(1)[&2],
        OpenReply::Refused(refusal) if refusal.delay_ms == 15_000
    ));
    assert_eq!(rig.receipt(3, ticket(1, 50)), known, "what it has it has");
    let counters = rig.stop();
    assert!(counters.is_full() && counters.warnings()[0].contains("100.0 % full"));
}

#[test]
fn a_letter_that_was_left_half_way_is_cut_off_and_comes_again() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("dead-letter.jsonl");
    let letter = |index| yao_engine::spool::DeadLetter {
        sequence: u64::from(index),
        open: Open { accepted_at: WallTime(1), ticket: *ticket(index, 7) },
        result: OpenResult::Invalid,
        settled_at: WallTime(2),
    };
    let open = || dead_letters::DeadLetterFile::open(&real(), directory.path()).expect("open");
    open();
    assert!(!path.exists(), "made with the first letter");
    open().append(&letter(1)).expect("append");
    let first = fs::read(&path).expect("read");
    open().append(&letter(2)).expect("append");
    let both = fs::read(&path).expect("read");
    for cut in first.len()..both.len() {
        fs::write(&path, &both[..cut]).expect("write");
        open();
        assert_eq!(fs::read(&path).expect("read"), first, "cut at {cut}");
    }
    // Nothing is written behind a letter that failed: half of it may be there.
    let mut failed = open();
    fs::remove_file(&path).expect("ours");
    fs::create_dir(&path).expect("in its way");
    failed.append(&letter(1)).expect_err("a directory takes no letter");
    fs::remove_dir(&path).expect("out of its way");
    failed.append(&letter(2)).expect_err("not before the next start");
    assert!(!path.exists());
    // A block of it never reached the disk.
    let mut torn = both.clone();
    torn[first.len()..first.len() + 100].fill(0);
    fs::write(&path, torn).expect("write");
    open().append(&letter(2)).expect("append");
    assert_eq!(fs::read(&path).expect("read"), both);
    // All of the file, and whole letters, which stay.
    fs::write(&path, &both[..5]).expect("write");
    open();
    assert_eq!(fs::read(&path).expect("read"), b"");
    fs::write(&path, &both).expect("write");
    open();
    assert_eq!(fs::read(&path).expect("read"), both);
}

#[test]
fn a_lost_or_damaged_watermark_delivers_everything_again() {
    for damage in [true, false] {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut rig = Rig::start(directory.path(), 1);
        rig.receipt(1, ticket(1, 50));
        rig.send(ToSpool::AgentAvailable(true));
        rig.answer(SETTLEMENT_SEED, OpenResult::Applied);
        rig.stop();
        let mark = directory.path().join("watermark.yaomark");
        if damage {
            fs::write(&mark, [7; 8_192]).expect("overwrite");
        } else {
            fs::remove_file(&mark).expect("remove");
        }
        let mut rig = Rig::start(directory.path(), 2);
        rig.send(ToSpool::AgentAvailable(true));
        assert_eq!(rig.answer(SETTLEMENT_SEED, OpenResult::Same), [1]);
        rig.stop();
        assert_eq!(watermark_on_disk(directory.path()), 1);
        assert_eq!(mark.with_file_name("watermark.yaomark.corrupt").exists(), damage);
    }
}

#[test]
fn twenty_thousand_opens_share_their_syncs() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut rig = Rig::start(directory.path(), 1);
    rig.send(ToSpool::AgentAvailable(true));
    let tickets: Vec<_> = (0..20_000).map(|n| ticket(n, u64::from(n))).collect();
    let started = Instant::now();
    for (n, ticket) in (0..).zip(tickets) {
        rig.open(n, ticket);
    }
    let replies = rig.replies(20_000);
    let rate = 20_000.0 / started.elapsed().as_secs_f64();
    assert!(replies.values().all(|reply| matches!(reply, OpenReply::Receipt(_))));
    let mut settled = 0;
    while settled < 20_000 {
        settled += rig.answer(SETTLEMENT_SEED, OpenResult::Applied).len();
    }
    let counters = rig.stop();
    let syncs = counters.syncs.load(Ordering::Relaxed);
    eprintln!("{rate:.0} acknowledged opens a second, {syncs} syncs");
    assert!(syncs <= 2_000, "{syncs} syncs for 20,000 opens: no group commit");
    assert_eq!(watermark_on_disk(directory.path()), 20_000);
}

fn small_segments(directory: &Path, records: u64) -> SpoolSegments {
    let header = header();
    let (segments, ..) = SpoolSegments::open(&real(), &[directory], header, None).expect("open");
    let mut segments = segments.with_segment_bytes_max(64 + 10 * RECORD_BYTES);
    for sequence in 1..=records {
        let index = u32::try_from(sequence).expect("small");
        let open = Open { accepted_at: WallTime(sequence), ticket: *ticket(index, 7) };
        segments.append(sequence, &open);
        segments.commit().expect("commit");
    }
    segments
}

fn read_all(segments: &mut SpoolSegments, count_max: usize, through: u64) -> Vec<u64> {
    let (mut after, mut found) = (0, Vec::new());
    while after < through {
        let (records, reached) = segments.read(after, through, count_max).expect("read");
        assert!(records.len() <= count_max && reached > after, "each read goes on");
        assert!(records.iter().all(|(sequence, open)| open.accepted_at.0 == *sequence));
        found.extend(records.iter().map(|(sequence, _)| *sequence));
        after = reached;
    }
    found
}

#[test]
fn records_are_read_back_across_segments_gaps_and_damage() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut segments = small_segments(directory.path(), 35);
    for count_max in [1, 3, 10, 100] {
        assert_eq!(read_all(&mut segments, count_max, 35), (1..=35).collect::<Vec<_>>());
        assert_eq!(read_all(&mut segments, count_max, 12), (1..=12).collect::<Vec<_>>());
    }
    // A record goes bad while we run; then a segment is lost, and the rest read at a new start.
    let files = recovery::list(&RealDisk, directory.path(), LogKind::SPOOL);
    let files = files.expect("list");
    let mut bytes = fs::read(&files[1].1).expect("read");
    bytes[64 + 3 * 172 + 60] ^= 1;
    fs::write(&files[1].1, bytes).expect("write");
    let bad = files[1].0 + 3;
    let expected: Vec<u64> = (1..=35).filter(|sequence| *sequence != bad).collect();
    assert_eq!(read_all(&mut segments, 4, 35), expected);
    drop(segments);
    fs::remove_file(&files[2].1).expect("remove");
    let mut segments = small_segments(directory.path(), 0);
    let expected: Vec<u64> =
        expected.into_iter().filter(|n| *n < files[2].0 || *n >= files[3].0).collect();
    assert_eq!(read_all(&mut segments, 4, 35), expected);
}

#[test]
fn m7_damage_in_the_segment_being_written_hides_nothing_that_comes_later() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut segments = small_segments(directory.path(), 5);
    let damage = |sequence: u64| {
        let path = directory.path().join(LogKind::SPOOL.file_name(1));
        let file = fs::OpenOptions::new().read(true).write(true).open(path).expect("open");
        let (offset, mut byte) = (64 + (sequence - 1) * RECORD_BYTES + 60, [0]);
        file.read_exact_at(&mut byte, offset).expect("read");
        file.write_all_at(&[byte[0] ^ 1], offset).expect("write");
    };
    damage(3);
    assert_eq!(read_all(&mut segments, 100, 5), [1, 2, 4, 5]);
    assert_eq!(segments.rotten(), 1);
    for sequence in 6..=9 {
        let open = Open { accepted_at: WallTime(sequence), ticket: *ticket(9, 7) };
        segments.append(sequence, &open);
        segments.commit().expect("commit");
    }
    assert_eq!(read_all(&mut segments, 100, 9), [1, 2, 4, 5, 6, 7, 8, 9]);
    // Once more: what was read of it before is not what it holds now.
    damage(8);
    segments.append(10, &Open { accepted_at: WallTime(10), ticket: *ticket(10, 7) });
    segments.commit().expect("commit");
    assert_eq!(read_all(&mut segments, 3, 10), [1, 2, 4, 5, 6, 7, 9, 10]);
    assert_eq!(segments.rotten(), 1, "one segment");
    // What the first copy cannot hold is in another one; and in a third when they are taken away.
    let traces = || recovery::set_aside(&RealDisk, directory.path(), LogKind::SPOOL).expect("list");
    assert_eq!(traces().len(), 2);
    traces().iter().for_each(|path| fs::remove_file(path).expect("remove"));
    assert_eq!(read_all(&mut segments, 3, 10).len(), 8);
    assert_eq!(traces().len(), 1);
}

#[test]
fn m7_bad_bytes_at_the_end_were_no_more_records_than_fit_into_them() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    drop(small_segments(directory.path(), 5));
    let path = directory.path().join(LogKind::SPOOL.file_name(1));
    let bad = usize::try_from(64 + 2 * RECORD_BYTES).expect("small");
    let mut bytes = fs::read(&path).expect("read");
    bytes[bad..].fill(0xa5);
    // Before the end of the fifth, which may have been the fifth's own zeros.
    bytes.truncate(bad + usize::try_from(3 * RECORD_BYTES).expect("small") - 1);
    fs::write(&path, bytes).expect("write");
    for _ in 0..2 {
        let (_, _, found) =
            SpoolSegments::open(&real(), &[directory.path()], header(), None).expect("open");
        assert_eq!((found.records, found.next_sequence, found.damage.len()), (2, 6, 1));
    }
}

#[test]
fn m10_what_goes_bad_while_the_node_runs_is_kept_before_it_is_passed_over() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut segments = small_segments(directory.path(), 35);
    let set_aside =
        || recovery::set_aside(&RealDisk, directory.path(), LogKind::SPOOL).expect("list");
    let files = recovery::list(&RealDisk, directory.path(), LogKind::SPOOL).expect("list");
    let (first, path) = &files[1];
    let mut bytes = fs::read(path).expect("read");
    bytes[64 + 3 * 172 + 60] ^= 1;
    fs::write(path, &bytes).expect("write");
    assert_eq!(segments.read(0, first + 2, 100).expect("read").1, first - 1);
    assert_eq!(segments.read(first - 1, first + 2, 100).expect("read").0.len(), 3);
    assert_eq!((segments.rotten(), set_aside()), (0, vec![]), "nobody has missed anything");
    // Where the copy's draft must be made stands what cannot be removed as a file.
    let draft = path.with_extension("yaospool.corrupt.draft");
    fs::create_dir(&draft).expect("create");
    let error = segments.read(first + 2, 35, 100).expect_err("no copy, no passing over");
    assert!(error.to_string().contains("cannot keep a copy"), "{error}");
    fs::remove_dir(&draft).expect("remove");
    let (records, _) = segments.read(first + 2, 35, 100).expect("read");
    assert_eq!(records[0].0, first + 4);
    assert_eq!((segments.rotten(), set_aside().len()), (1, 1));
    assert_eq!(fs::read(&set_aside()[0]).expect("read"), bytes, "as it was");
    // The segment goes, its copy stays.
    segments.remove_settled(35, 0).expect("remove");
    assert!(!path.exists() && set_aside().len() == 1);
}

#[test]
fn only_settled_segments_are_removed_and_only_beyond_the_bound() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut segments = small_segments(directory.path(), 35);
    let second = recovery::list(&RealDisk, directory.path(), LogKind::SPOOL).expect("list")[1].0;
    assert_eq!(segments.remove_settled(35, u64::MAX).expect("remove"), None);
    assert_eq!(segments.remove_settled(second - 2, 0).expect("remove"), None);
    assert_eq!(segments.remove_settled(second - 1, 0).expect("remove"), Some(second - 1));
    let left = read_all(&mut segments, 100, 35);
    assert_eq!(left, (second..=35).collect::<Vec<_>>());
    let newest = segments.remove_settled(35, 0).expect("remove").expect("some") + 1;
    assert_eq!(read_all(&mut segments, 100, 35), (newest..=35).collect::<Vec<_>>());
    assert!(newest <= 35, "the newest segment stays");
}

#[test]
fn a_watermark_beyond_lost_segments_is_never_issued_again() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut rig = Rig::start(directory.path(), 1);
    rig.receipt(1, ticket(1, 50));
    rig.send(ToSpool::AgentAvailable(true));
    rig.answer(SETTLEMENT_SEED, OpenResult::Applied);
    rig.stop();
    for (_, path) in recovery::list(&RealDisk, directory.path(), LogKind::SPOOL).expect("list") {
        fs::remove_file(path).expect("remove");
    }
    let mut rig = Rig::start(directory.path(), 2);
    rig.send(ToSpool::AgentAvailable(true));
    rig.receipt(2, ticket(2, 50));
    assert_eq!(rig.answer(SETTLEMENT_SEED, OpenResult::Applied), [2], "behind the watermark");
    rig.stop();
}
