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
    disk::{Access, Disk},
    files::{self, FileError, content},
    recovery,
    segments::{LogKind, SegmentLog, recovery::set_aside},
    slot_file::{SlotFile, SlotMark, directory_of},
    spool,
    state_dir::{EPOCH_LOCAL, StateDir, create_synced, lock_cursor},
    witness::Witness,
};
use anyhow::{Context, Result, bail};
use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};
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
    hand_out(&**state.disk(), out, &bytes)?;
    Ok(format!(
        "sealed shard {} of campaign {}: this state never issues or accepts again; give {} to \
         yao-seedgen reclaim",
        header.shard,
        header.campaign,
        out.display()
    ))
}

/// The copy of the seal that people carry. One that an earlier run left stays.
fn hand_out(disk: &dyn Disk, out: &Path, bytes: &[u8]) -> Result<()> {
    match fs::read(out) {
        Ok(found) if found == bytes => Ok(to_disk(disk, out)?),
        Ok(_) => bail!("{} holds something else; choose another --out", out.display()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(keep(disk, out, bytes)?),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", out.display())),
    }
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
        Ok(bytes) => {
            check_kept(&path, header, key, &bytes)?;
            // An earlier run may have ended before it was on disk: a power cut would take it away
            // from under the copies, and the next run would make another one.
            to_disk(&**state.disk(), &path)?;
            return Ok(bytes);
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
    refuse_set_aside(state, fallback)?;
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
    keep(&**state.disk(), &path, &bytes)?;
    Ok(bytes)
}

/// Writes a seal so that it is there as a whole or not at all.
fn keep(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let draft = draft(path);
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(content(&draft, format!("cannot remove it: {error}")));
        }
        _ => {}
    }
    create_synced(&draft, bytes, 0o644)?;
    let name = || {
        disk.rename(&draft, path)?;
        disk.sync_directory(directory_of(path))
    };
    name().map_err(|error| content(path, format!("cannot create it: {error}")))
}

/// The name under which a seal is written before it gets its own.
fn draft(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".draft");
    path.with_file_name(name)
}

/// Brings a file that an earlier run left, and its name, to disk.
fn to_disk(disk: &dyn Disk, path: &Path) -> Result<(), FileError> {
    let sync = || {
        disk.open(path, Access::Read)?.sync_all()?;
        disk.sync_directory(directory_of(path))
    };
    sync().map_err(|error| content(path, format!("cannot sync it: {error}")))
}

/// Whether the seal that an earlier run kept is ours.
fn check_kept(path: &Path, header: &SeedHeader, key: &SignKey, bytes: &[u8]) -> Result<()> {
    let (campaign, shard, epoch) = (header.campaign, header.shard, EPOCH_LOCAL);
    let owner = KeyOwner::Ticket { campaign, shard, epoch };
    let mut keys = KeySet::default();
    keys.add(&PublicKeyFile { owner, key: key.public().to_bytes() })?;
    let seal = Seal::decode(bytes, &keys).with_context(|| path.display().to_string())?;
    if (seal.generation, seal.merkle_root) != (header.generation, header.merkle_root) {
        bail!("{} is of another seed file", path.display());
    }
    Ok(())
}

/// Fails while a copy lies there of a segment that some run could not read, or missed: when nothing
/// of it was left, or it was settled since and removed, no later run finds any damage.
fn refuse_set_aside(state: &StateDir, fallback: Option<&Path>) -> Result<()> {
    let (journal, spool) = (state.journal(), state.spool());
    let own = [(journal.as_path(), LogKind::JOURNAL), (spool.as_path(), LogKind::SPOOL)];
    for (directory, kind) in own.into_iter().chain(fallback.map(|path| (path, LogKind::SPOOL))) {
        if let Some(copy) = set_aside(&**state.disk(), directory, kind)?.first() {
            bail!(
                "{} was put aside for a segment that was damaged or missing: opens may be lost \
                 for which people hold receipts. Leave the shard unsealed; or, when each open \
                 in it is accounted for, move the copy out of the directory and seal again",
                copy.display()
            );
        }
    }
    for directory in [Some(spool.as_path()), fallback].into_iter().flatten() {
        let given_up = directory.join(spool::PAIR_ASIDE);
        if given_up.exists() {
            bail!(
                "{} says that one of the spool's two directories was given up with what it held: \
                 opens may be lost for which people hold receipts. Leave the shard unsealed; or, \
                 when each open in it is accounted for, move the file out of the directory and \
                 seal again",
                given_up.display()
            );
        }
    }
    Ok(())
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
    // No segment of it is ever removed.
    let about = (template, Some(0));
    let opened = SegmentLog::open(state.disk(), &[&directory], LogKind::JOURNAL, about, read);
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
mod tests;
