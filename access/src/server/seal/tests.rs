//! Seals of a state directory as tests make it, and what keeps one from being made.

use super::*;
use crate::{
    disk::{DiskFile, RealDisk, Stamp},
    state_dir::{StateLock, tests::seed_header},
};
use std::{
    ffi::OsString,
    sync::{Arc, Mutex},
};
use tempfile::TempDir;
use yao_protocol::{
    CampaignId, Epoch, Fen, PacketId, PacketIndex, ShakeId, ShardId, SponsorId, UserId,
    cursor::GrantRecord,
    spool::{KIND_OPEN, Open, Watermark},
    ticket::TicketBody,
};

const NOW: WallTime = WallTime(1_000);

/// A shard with its state; a campaign of its own per test, as the lock's name is the host's.
struct Rig {
    folder: TempDir,
    state: StateDir,
    header: SeedHeader,
    key: SignKey,
}

impl Rig {
    fn new(offset: u64) -> Self {
        // Those of state_dir's tests have the bit not set.
        let campaign = CampaignId(u64::from(std::process::id()) << 8 | 0x80 | offset);
        let header = seed_header(campaign, ShardId(3), 50);
        let folder = tempfile::tempdir().expect("a folder");
        let state = StateDir::new(&folder.path().join("state"));
        state.init(&header, &folder.path().join("keys")).expect("an empty directory");
        let file = files::private_key(&state.ticket_key(EPOCH_LOCAL)).expect("made by init");
        let key = SignKey::from_seed(&file.seed);
        Self { folder, state, header, key }
    }

    fn lock(&self) -> StateLock {
        self.state.lock(self.header.campaign, self.header.shard).expect("nobody has it")
    }

    fn seal(&self, now: WallTime) -> Result<Vec<u8>> {
        let _lock = self.lock();
        seal_state(&self.state, &self.header, &self.key, (None, None), now)
    }

    fn said(&self, bytes: &[u8]) -> Seal {
        let (campaign, shard) = (self.header.campaign, self.header.shard);
        let owner = KeyOwner::Ticket { campaign, shard, epoch: Epoch(1) };
        let mut keys = KeySet::default();
        let key = self.key.public().to_bytes();
        keys.add(&PublicKeyFile { owner, key }).expect("a key");
        Seal::decode(bytes, &keys).expect("signed by the ticket key")
    }

    /// Raises H as a node does.
    fn reserve(&self, high: u32) {
        let path = self.state.cursor(WaveIndex(0));
        let (mut file, pair) =
            SlotFile::open(&**self.state.disk(), &path, MAGIC).expect("a cursor");
        let mut cursor =
            yao_protocol::cursor::Cursor::decode(&pair.newest.payload).expect("a cursor");
        cursor.next_high_max = high;
        file.write(&cursor.encode()).expect("written");
        cursor.high = high;
        file.write(&cursor.encode()).expect("written");
    }

    /// Puts an open into the spool, as a node that is then killed.
    fn accept(&self) {
        let directory = self.state.spool();
        let (mut log, _) = SegmentLog::open(
            self.state.disk(),
            &[&directory],
            LogKind::SPOOL,
            (template(&self.header), None),
            |_, _| Ok(()),
        )
        .expect("a spool");
        let body = TicketBody {
            campaign: self.header.campaign,
            packet: PacketId::new(0, self.header.shard, PacketIndex(1)),
            user: UserId(7),
            amount: Fen(1),
            shake: ShakeId(1),
            issued_at: WallTime(1),
            expires_at: WallTime(2),
            shard: self.header.shard,
            epoch: Epoch(1),
            sponsor: SponsorId::new(0).expect("below 64"),
            wave: WaveIndex(0),
        };
        let open = Open { accepted_at: WallTime(1), ticket: body.sign(&self.key) };
        log.append(KIND_OPEN, &open.encode());
        log.commit().expect("on disk");
    }

    /// Settlement's answer to the first records is on disk.
    fn settle(&self, settled: u64) {
        let path = self.state.spool().join("watermark.yaomark");
        let magic = yao_protocol::spool::WATERMARK_MAGIC;
        let (mut file, _) =
            SlotFile::open(&**self.state.disk(), &path, magic).expect("a watermark");
        let (campaign, shard) = (self.header.campaign, self.header.shard);
        let mark = Watermark { campaign, shard, settled, answer_digest: [0; 32] };
        file.write(&mark.encode()).expect("written");
    }

    fn segment(&self) -> PathBuf {
        self.state.spool().join(LogKind::SPOOL.file_name(1))
    }
}

#[test]
fn m10_a_sealed_shard_never_starts_again_and_has_one_seal() {
    let rig = Rig::new(1);
    rig.reserve(20);
    rig.state.refuse_sealed().expect("not yet");
    let first = rig.seal(NOW).expect("nothing is unsettled");
    let seal = rig.said(&first);
    assert_eq!((seal.settled, seal.sealed_at), (0, NOW));
    let wave = SealedWave { wave: WaveIndex(0), count: 50, high: 20 };
    assert_eq!((seal.waves.as_slice(), seal.merkle_root), (&[wave][..], [2; 32]));
    let refused = rig.state.refuse_sealed().expect_err("sealed");
    assert!(refused.to_string().contains("never issues or accepts again"), "{refused}");
    assert_eq!(rig.seal(WallTime(9_999)).expect("again"), first);
    let again = rig.state.init(&rig.header, &rig.folder.path().join("keys"));
    assert!(again.is_err(), "init makes no new start of it");
}

#[test]
fn m10_opens_that_wait_for_settlement_keep_a_shard_from_being_sealed() {
    let rig = Rig::new(2);
    rig.accept();
    let error = rig.seal(NOW).expect_err("one open waits");
    assert!(error.to_string().contains("1 opens wait for settlement"), "{error}");
    rig.state.refuse_sealed().expect("the node can start and deliver it");
    rig.settle(1);
    assert_eq!(rig.said(&rig.seal(NOW).expect("settled")).settled, 1);
}

#[test]
fn m4_a_shard_that_others_may_have_held_is_not_sealed() {
    let rig = Rig::new(6);
    let path = rig.state.cursor(WaveIndex(0));
    let (mut file, pair) = SlotFile::open(&**rig.state.disk(), &path, MAGIC).expect("a cursor");
    let mut cursor = yao_protocol::cursor::Cursor::decode(&pair.newest.payload).expect("a cursor");
    let (holder, not_after) = (Incarnation([4; 16]), WallTime(9));
    let (lo, hi, until_ns, lifetime_us) = (0, 5, 9, 9);
    cursor.grant = Some(GrantRecord { id: 1, lo, hi, holder, not_after, until_ns, lifetime_us });
    file.write(&cursor.encode()).expect("written");
    drop(file);
    let error = rig.seal(NOW).expect_err("settlement knows who else issued");
    assert!(error.to_string().contains("under grants of settlement"), "{error}");
    rig.state.refuse_sealed().expect("nothing was marked");
}

#[test]
fn m4_a_state_that_was_put_back_is_not_sealed() {
    let memory = Path::new("/dev/shm");
    if !memory.is_dir() {
        return;
    }
    let witnesses = tempfile::tempdir_in(memory).expect("a directory in memory");
    let rig = Rig::new(7);
    let path = rig.state.cursor(WaveIndex(0));
    let (file, pair) = SlotFile::open(&**rig.state.disk(), &path, MAGIC).expect("a cursor");
    let identity = file.identity().expect("a file");
    drop(file);
    let named = (rig.header.campaign, rig.header.shard, WaveIndex(0));
    let remember = |mark| {
        let witness = Witness::open(witnesses.path(), named, identity);
        witness.expect("in memory").write(mark);
    };
    remember(SlotMark::new(pair.newest.sequence + 1, b"what was written after it"));
    let _lock = rig.lock();
    let seal = |witness| seal_state(&rig.state, &rig.header, &rig.key, (Some(witness), None), NOW);
    let error = seal(witnesses.path()).expect_err("packets may have left since");
    assert!(error.to_string().contains("was put back"), "{error}");
    rig.state.refuse_sealed().expect("nothing was marked");
    remember(SlotMark::new(pair.newest.sequence, &pair.newest.payload));
    seal(witnesses.path()).expect("the newest state");
}

#[test]
fn m10_a_directory_that_was_given_up_with_its_opens_is_not_sealed() {
    let rig = Rig::new(3);
    rig.accept();
    assert!(rig.seal(NOW).is_err());
    rig.settle(1);
    let given_up = rig.state.spool().join(spool::PAIR_ASIDE);
    fs::write(&given_up, "{}").expect("written");
    let error = rig.seal(NOW).expect_err("nobody knows what lay there");
    assert!(error.to_string().contains(&given_up.display().to_string()), "{error}");
    rig.state.refuse_sealed().expect("nothing was marked");
    fs::rename(&given_up, rig.folder.path().join("for the auditors")).expect("moved away");
    assert_eq!(rig.said(&rig.seal(NOW).expect("accounted for")).settled, 1);
}

#[test]
fn m10_what_is_damaged_is_not_sealed_however_often_it_is_tried() {
    let rig = Rig::new(3);
    rig.accept();
    rig.accept();
    assert!(rig.seal(NOW).is_err());
    rig.settle(2);
    let mut bytes = fs::read(rig.segment()).expect("a segment");
    bytes[70] ^= 1;
    fs::write(rig.segment(), bytes).expect("changed");
    let error = rig.seal(NOW).expect_err("an accepted open cannot be read");
    assert!(error.to_string().contains("it is damaged"), "{error}");
    // Nothing of the segment could be read: it is gone, and what is left has no damage.
    assert!(!rig.segment().exists());
    let aside = rig.segment().with_extension("yaospool.corrupt");
    for _ in 0..2 {
        let error = rig.seal(NOW).expect_err("the open is still missing");
        assert!(error.to_string().contains("was put aside"), "{error}");
        assert!(error.to_string().contains(&aside.display().to_string()), "{error}");
    }
    rig.state.refuse_sealed().expect("nothing was marked");
    fs::rename(&aside, rig.folder.path().join("for the auditors")).expect("moved away");
    assert_eq!(rig.said(&rig.seal(NOW).expect("accounted for")).settled, 2);
}

#[test]
fn m10_opens_that_are_missing_are_not_forgotten_when_those_around_them_are_removed() {
    let rig = Rig::new(11);
    (0..3).for_each(|_| rig.accept());
    assert!(rig.seal(NOW).is_err());
    rig.settle(1);
    let segment = |first| rig.state.spool().join(LogKind::SPOOL.file_name(first));
    fs::remove_file(segment(2)).expect("lost");
    let error = rig.seal(NOW).expect_err("an accepted open is in no file");
    assert!(error.to_string().contains("it is damaged"), "{error}");
    // As a node does that runs out of room: the watermark has passed it.
    rig.settle(3);
    fs::remove_file(segment(1)).expect("removed");
    let error = rig.seal(NOW).expect_err("the open is still missing");
    assert!(error.to_string().contains("was put aside"), "{error}");
    rig.state.refuse_sealed().expect("nothing was marked");
    fs::remove_file(segment(2).with_extension("yaospool.corrupt")).expect("accounted for");
    assert_eq!(rig.said(&rig.seal(NOW).expect("nothing is damaged")).settled, 3);
}

#[test]
fn m10_a_damaged_segment_anywhere_keeps_a_shard_from_being_sealed() {
    let rig = Rig::new(4);
    let fallback = rig.folder.path().join("fallback");
    fs::create_dir(&fallback).expect("a directory");
    let seal = || {
        let _lock = rig.lock();
        seal_state(&rig.state, &rig.header, &rig.key, (None, Some(&fallback)), NOW)
    };
    for (directory, kind) in [
        (rig.state.journal(), LogKind::JOURNAL),
        (rig.state.spool(), LogKind::SPOOL),
        (fallback.clone(), LogKind::SPOOL),
    ] {
        fs::create_dir_all(&directory).expect("a directory");
        let copy = directory.join(kind.file_name(9) + ".corrupt");
        fs::write(&copy, b"what a start could not read").expect("written");
        let error = seal().expect_err("opens may be missing");
        assert!(error.to_string().contains("was put aside"), "{error}");
        fs::remove_file(copy).expect("accounted for");
    }
    // A watermark that was damaged costs a second delivery and no open.
    let mark = rig.state.spool().join("watermark.yaomark.corrupt");
    fs::write(mark, b"bad slots").expect("written");
    seal().expect("no segment was damaged");
}

#[test]
fn m2_without_a_cursor_nothing_is_sealed() {
    let rig = Rig::new(8);
    fs::remove_file(rig.state.cursor(WaveIndex(0))).expect("a cursor");
    assert!(rig.seal(NOW).is_err(), "without a cursor nobody knows what left");
    rig.state.refuse_sealed().expect("nothing was marked");
}

#[test]
fn a_crash_between_mark_and_seal_is_made_good() {
    let rig = Rig::new(5);
    rig.state.mark_sealed().expect("marked");
    fs::write(draft(&rig.state.seal()), b"half").expect("a draft");
    rig.state.refuse_sealed().expect_err("the mark is enough");
    let first = rig.seal(NOW).expect("made good");
    assert_eq!(rig.seal(WallTime(2_000)).expect("again"), first);
    fs::write(rig.state.seal(), b"YAOSEAL").expect("spoilt");
    assert!(rig.seal(NOW).is_err(), "a seal that is none is never replaced");
}

/// A power cut may take the name of a seal whose run was killed before it synced the directory:
/// a copy that was given away by then would differ from the seal that the next run makes.
#[test]
fn m10_a_seal_that_is_found_is_on_disk_before_it_is_given_away() {
    let rig = Rig::new(9);
    let first = rig.seal(NOW).expect("nothing is unsettled");
    let synced = Arc::new(Mutex::new(Vec::new()));
    let disk = Arc::new(Watched { synced: Arc::clone(&synced) });
    let state = StateDir::on(disk, rig.state.root());
    let again = seal_state(&state, &rig.header, &rig.key, (None, None), WallTime(2_000));
    assert_eq!(again.expect("the same"), first);
    assert_eq!(*synced.lock().expect("one thread"), [rig.state.root()]);
}

#[test]
fn a_crash_while_the_copy_is_written_is_made_good() {
    let rig = Rig::new(10);
    let out = rig.folder.path().join("shard-00003.yaoseal");
    let bytes = rig.seal(NOW).expect("nothing is unsettled");
    let check = |left: &[&str]| {
        hand_out(&RealDisk, &out, &bytes).expect("written, or there");
        assert_eq!(fs::read(&out).expect("a copy"), bytes);
        let names = RealDisk.names(rig.folder.path()).expect("readable");
        let is_ours = |name: &OsString| name != "state" && name != "keys";
        let mut names: Vec<OsString> = names.into_iter().filter(is_ours).collect();
        names.sort_unstable();
        assert_eq!(names, left);
    };
    // Killed in the middle of the first line that writes: half a copy has never its name.
    fs::write(draft(&out), &bytes[..20]).expect("half a draft");
    assert!(!out.exists());
    check(&["shard-00003.yaoseal"]);
    check(&["shard-00003.yaoseal"]);
    fs::write(&out, b"").expect("somebody else's");
    let error = hand_out(&RealDisk, &out, &bytes).expect_err("it is left as it is");
    assert!(error.to_string().contains("holds something else"), "{error}");
}

/// The real disk, which notes the directories that are synced.
#[derive(Debug)]
struct Watched {
    synced: Arc<Mutex<Vec<PathBuf>>>,
}

impl Disk for Watched {
    fn open(&self, path: &Path, access: Access) -> io::Result<Box<dyn DiskFile>> {
        RealDisk.open(path, access)
    }

    fn hold(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        RealDisk.hold(path)
    }

    fn stamp(&self, path: &Path) -> io::Result<Stamp> {
        RealDisk.stamp(path)
    }

    fn exists(&self, path: &Path) -> bool {
        RealDisk.exists(path)
    }

    fn is_directory(&self, path: &Path) -> bool {
        RealDisk.is_directory(path)
    }

    fn names(&self, directory: &Path) -> io::Result<Vec<OsString>> {
        RealDisk.names(directory)
    }

    fn create_directories(&self, directory: &Path) -> io::Result<()> {
        RealDisk.create_directories(directory)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk.link(from, to)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove(path)
    }

    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        self.synced.lock().expect("one thread").push(directory.to_owned());
        RealDisk.sync_directory(directory)
    }

    fn free_bytes(&self, directory: &Path) -> io::Result<u64> {
        RealDisk.free_bytes(directory)
    }
}
