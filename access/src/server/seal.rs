//! `yao-access seal`: the end of a shard. Looks whether everything that this node accepted is
//! settled, makes the state directory refuse every later start, and only then signs how far packets
//! may have left (M1, M10; docs/reclaim.md 2).
//!
//! A crash at any line leaves a directory that can be sealed again: before the mark nothing has
//! happened, behind it nothing else can. The seal is kept in the directory, so that there is one.

use super::check_files;
use crate::{
    clock::Clock,
    config::{Config, Ownership},
    files::{self, FileError, content},
    recovery,
    segments::{LogKind, SegmentLog},
    slot_file::{SlotFile, SlotMark},
    spool,
    state_dir::{EPOCH_LOCAL, StateDir, create_synced, lock_cursor},
    witness::Witness,
};
use anyhow::{Context, Result, bail};
use std::{collections::BTreeMap, fs, io, path::Path};
use yao_engine::{cursor, grant, issuer::History};
use yao_protocol::{
    Incarnation, WallTime, WaveIndex,
    cursor::MAGIC,
    journal::Event,
    keys::{KeyOwner, KeySet, PublicKeyFile, SignKey},
    log::{Record, SegmentHeader},
    seal::{Seal, SealedWave},
    seed_file::{Section, SeedHeader},
};

/// Seals the configured shard and writes the seal to `out`. Run again it writes the same one.
///
/// # Errors
/// A node that runs, files that are damaged, opens that settlement has not answered.
pub fn seal(config: &Config, out: &Path) -> Result<String> {
    let checked = check_files(config)?;
    let header = checked.seed.header();
    let state = StateDir::new(&config.node.state);
    if config.shard.ownership == Ownership::Fleet {
        bail!(
            "shard.ownership is \"fleet\": others may have held this shard, too, so no seal of \
             one directory says what of it never left; its packets come back when settlement's \
             claim window ends (docs/reclaim.md 3)"
        );
    }
    let _lock = state.lock(header.campaign, header.shard)?;
    let key = files::private_key(&state.ticket_key(EPOCH_LOCAL))?;
    let key = SignKey::from_seed(&key.seed);
    let fallback = config.spool.fallback.as_deref();
    let witness = config.shard.witness.as_deref();
    let bytes = seal_state(&state, header, &key, (witness, fallback), Clock::start().wall())?;
    match fs::read(out) {
        Ok(found) if found == bytes => {}
        Ok(_) => bail!("{} holds something else; choose another --out", out.display()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            create_synced(out, &bytes, 0o644)?;
        }
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", out.display())),
    }
    Ok(format!(
        "sealed shard {} of campaign {}: this state never issues or accepts again; give {} to \
         yao-seedgen reclaim",
        header.shard,
        header.campaign,
        out.display()
    ))
}

/// The seal of the shard in `state`, whose lock is held; made at `now` unless there is one.
fn seal_state(
    state: &StateDir,
    header: &SeedHeader,
    key: &SignKey,
    (witness, fallback): (Option<&Path>, Option<&Path>),
    now: WallTime,
) -> Result<Vec<u8>> {
    let path = state.seal();
    match fs::read(&path) {
        Ok(bytes) => return check_kept(&path, header, key, bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
    let highs: BTreeMap<WaveIndex, u32> = header
        .sections
        .iter()
        .map(|section| Ok((section.wave, read_high(state, header, section, witness)?)))
        .collect::<Result<_, FileError>>()?;
    let incarnation = read_journal(state, header, &highs, now)?;
    let settled = read_spool(state, header, fallback)?;
    // Before anything is signed: whatever this process or the next one does, no packet leaves.
    state.mark_sealed()?;
    let wave = |section: &Section| SealedWave {
        wave: section.wave,
        count: section.count,
        high: highs[&section.wave],
    };
    let seal = Seal {
        campaign: header.campaign,
        shard: header.shard,
        generation: header.generation,
        epoch: EPOCH_LOCAL,
        incarnation,
        settled,
        sealed_at: now,
        merkle_root: header.merkle_root,
        waves: header.sections.iter().map(wave).collect(),
    };
    let bytes = seal.encode(key);
    keep(&path, &bytes)?;
    Ok(bytes)
}

/// Writes the seal so that it is there as a whole or not at all.
fn keep(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let draft = path.with_extension("draft");
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(content(&draft, format!("cannot remove it: {error}")));
        }
        _ => {}
    }
    create_synced(&draft, bytes, 0o644)?;
    let name = || {
        fs::rename(&draft, path)?;
        fs::File::open(crate::slot_file::directory_of(path))?.sync_all()
    };
    name().map_err(|error| content(path, format!("cannot create it: {error}")))
}

/// The seal that an earlier run kept, if it is ours.
fn check_kept(path: &Path, header: &SeedHeader, key: &SignKey, bytes: Vec<u8>) -> Result<Vec<u8>> {
    let (campaign, shard, epoch) = (header.campaign, header.shard, EPOCH_LOCAL);
    let owner = KeyOwner::Ticket { campaign, shard, epoch };
    let mut keys = KeySet::default();
    keys.add(&PublicKeyFile { owner, key: key.public().to_bytes() })?;
    let seal = Seal::decode(&bytes, &keys).with_context(|| path.display().to_string())?;
    if (seal.generation, seal.merkle_root) != (header.generation, header.merkle_root) {
        bail!("{} is of another seed file", path.display());
    }
    Ok(bytes)
}

/// How far packets of a section may have left: as a start in local mode would take it (M2), so not
/// from a cursor that was put back, copied, or ever under a grant.
fn read_high(
    state: &StateDir,
    header: &SeedHeader,
    section: &Section,
    witness: Option<&Path>,
) -> Result<u32, FileError> {
    let path = state.cursor(section.wave);
    let about = |error: &dyn ToString| content(&path, error.to_string());
    let _held = lock_cursor(&**state.disk(), &path)?;
    let (file, pair) =
        SlotFile::open(&**state.disk(), &path, MAGIC).map_err(|error| about(&error))?;
    let identity = file.identity().map_err(|error| about(&error))?;
    let expected = recovery::expected(header, section, identity);
    let found = cursor::recover(&pair, &expected).map_err(|error| about(&error))?;
    if let Some(folder) = witness {
        let mark = SlotMark::new(pair.newest.sequence, &pair.newest.payload);
        let named = (header.campaign, header.shard, section.wave);
        if Witness::open(folder, named, identity)?.of(mark, pair.both_valid)
            == grant::Witness::RolledBack
        {
            return Err(about(&recovery::PUT_BACK));
        }
    }
    Ok(found.high)
}

fn template(header: &SeedHeader) -> SegmentHeader {
    SegmentHeader {
        campaign: header.campaign,
        shard: header.shard,
        epoch: EPOCH_LOCAL,
        incarnation: Incarnation([0; 16]),
        first_sequence: 0,
    }
}

/// The last life that the journal knows; it must be whole and nothing in it above H.
fn read_journal(
    state: &StateDir,
    header: &SeedHeader,
    highs: &BTreeMap<WaveIndex, u32>,
    now: WallTime,
) -> Result<Incarnation> {
    let directory = state.journal();
    let mut history = History::new(&header.sections);
    let mut last = Incarnation([0; 16]);
    let read = |_: &SegmentHeader, record: Record<'_>| {
        let event = Event::decode(record.kind, record.payload)?;
        if let Event::Start { incarnation, .. } = event {
            last = incarnation;
        }
        history.read(&event);
        Ok(())
    };
    let template = template(header);
    let opened = SegmentLog::open(state.disk(), &[&directory], LogKind::JOURNAL, template, read);
    let (_, found) = opened.map_err(|error| content(&directory, error))?;
    if !found.damage.is_empty() {
        bail!("{}: {DAMAGED}", directory.display());
    }
    let (recovered, _) = history.recover(|wave| highs[&wave], now);
    if let Some(packet) = recovered.issued_above_high() {
        bail!(
            "{} says that packet {packet} was issued, which the cursor does not cover: the cursor \
             is older than the journal; restore the whole state directory as it was",
            directory.display()
        );
    }
    Ok(last)
}

const DAMAGED: &str = "it is damaged, so nobody can vouch for what is in it; leave the shard \
                       unsealed: its packets come back when settlement's claim window ends";

/// The last record of the spool, all of which must be settled.
fn read_spool(state: &StateDir, header: &SeedHeader, fallback: Option<&Path>) -> Result<u64> {
    let directory = state.spool();
    let rest = spool::rest(state.disk(), &directory, fallback, template(header))?;
    if rest.damage > 0 {
        bail!("{}: {DAMAGED}", directory.display());
    }
    if rest.settled < rest.last {
        bail!(
            "{}: {} opens wait for settlement; start the node with agent and ledger until \
             /status says spool watermark + 1 = next_sequence, stop it, and seal again",
            directory.display(),
            rest.last - rest.settled
        );
    }
    Ok(rest.settled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state_dir::StateLock;
    use std::path::PathBuf;
    use tempfile::TempDir;
    use yao_protocol::{
        CampaignId, Epoch, Fen, PacketId, PacketIndex, ShakeId, ShardId, SponsorId, UserId,
        cursor::GrantRecord,
        seed_file::Segment,
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
            let section = Section {
                wave: WaveIndex(0),
                first: PacketIndex(0),
                count: 50,
                sum: Fen(50),
                segments: vec![Segment { duration_us: 1, packets: 50 }],
            };
            let header = SeedHeader {
                campaign: CampaignId(u64::from(std::process::id()) << 8 | offset),
                shard: ShardId(3),
                generation: 0,
                sponsor_count: 1,
                chunk_records: 10,
                record_count: 50,
                sum: Fen(50),
                plan_digest: [1; 32],
                merkle_root: [2; 32],
                key_check: [3; 32],
                body_digest: [4; 32],
                sections: vec![section],
            };
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
                template(&self.header),
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
        let mut cursor =
            yao_protocol::cursor::Cursor::decode(&pair.newest.payload).expect("a cursor");
        let (holder, not_after) = (Incarnation([4; 16]), WallTime(9));
        let (lo, hi, until_ns, lifetime_us) = (0, 5, 9, 9);
        cursor.grant =
            Some(GrantRecord { id: 1, lo, hi, holder, not_after, until_ns, lifetime_us });
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
        let seal =
            |witness| seal_state(&rig.state, &rig.header, &rig.key, (Some(witness), None), NOW);
        let error = seal(witnesses.path()).expect_err("packets may have left since");
        assert!(error.to_string().contains("was put back"), "{error}");
        rig.state.refuse_sealed().expect("nothing was marked");
        remember(SlotMark::new(pair.newest.sequence, &pair.newest.payload));
        seal(witnesses.path()).expect("the newest state");
    }

    #[test]
    fn what_is_damaged_is_not_sealed() {
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
        let rig = Rig::new(4);
        fs::remove_file(rig.state.cursor(WaveIndex(0))).expect("a cursor");
        assert!(rig.seal(NOW).is_err(), "without a cursor nobody knows what left");
        rig.state.refuse_sealed().expect("nothing was marked");
    }

    #[test]
    fn a_crash_between_mark_and_seal_is_made_good() {
        let rig = Rig::new(5);
        rig.state.mark_sealed().expect("marked");
        fs::write(rig.state.seal().with_extension("draft"), b"half").expect("a draft");
        rig.state.refuse_sealed().expect_err("the mark is enough");
        let first = rig.seal(NOW).expect("made good");
        assert_eq!(rig.seal(WallTime(2_000)).expect("again"), first);
        fs::write(rig.state.seal(), b"YAOSEAL").expect("spoilt");
        assert!(rig.seal(NOW).is_err(), "a seal that is none is never replaced");
    }
}
