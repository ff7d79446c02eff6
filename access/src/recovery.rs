//! What a start finds in the state directory: each wave's cursor, and the journal's issues. Decides
//! nothing about cursors itself; `engine::cursor` says what their bytes mean (M1, M2).

use crate::{
    config::{self, Ownership, Owning},
    files::{FileError, content},
    money_disk::OpenCursor,
    node::Node,
    segments::{LogKind, SegmentLog},
    slot_file::{self, SlotFile, SlotMark},
    state_dir::{EPOCH_LOCAL, StateDir, lock_cursor},
    witness::Witness,
};
use std::{collections::BTreeMap, iter, path::Path};
use yao_engine::{
    cursor::{self, CursorWriter},
    grant::{self, AfterReboot, Asker, Fleet, Opening, Right},
    issuer::{self, History},
};
use yao_protocol::{
    WaveIndex,
    cursor::MAGIC,
    grant::{Claim, NodeName},
    hex,
    journal::Event,
    log::{Record, SegmentHeader},
    seed_file::{Section, SeedHeader},
};

/// What was found.
#[derive(Debug)]
pub struct Recovered {
    /// The journal, open behind its last record.
    pub journal: SegmentLog,
    /// Cursors by wave.
    pub cursors: BTreeMap<WaveIndex, OpenCursor>,
    /// What the issuer begins with.
    pub issuer: issuer::Recovered,
}

/// The kernel's boot id.
///
/// # Errors
/// When /proc is not there.
pub fn boot_id() -> Result<[u8; 16], FileError> {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    let text = std::fs::read_to_string(path).map_err(|error| content(path, error))?;
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    hex::decode_array(&digits).ok_or_else(|| content(path, "is no boot id"))
}

/// Opens cursors and journal.
///
/// # Errors
/// A cursor that is missing, foreign or doubly torn, in local mode also one that was copied or put
/// back; a journal that is of another shard.
pub fn recover(
    node: &Node,
    state: &StateDir,
    header: &SeedHeader,
    owning: &Owning,
) -> Result<Recovered, FileError> {
    let mut cursors = BTreeMap::new();
    let mut highs = BTreeMap::new();
    let mut rights = BTreeMap::new();
    for section in &header.sections {
        let (cursor, right) = open_cursor(node, state, header, section, owning)?;
        let high = cursor.writer.high();
        tracing::info!(event = "cursor", wave = section.wave.0, high, count = section.count);
        highs.insert(section.wave, high);
        cursors.insert(section.wave, cursor);
        rights.insert(section.wave, right);
    }
    let (journal, mut issuer) = open_journal(node, state, header, &mut highs, &mut rights)?;
    for past in &mut issuer.sections {
        let wave = past.section.wave;
        past.right = rights.remove(&wave).expect("every section has a cursor");
        cursors.get_mut(&wave).expect("and a file").writer.assume(highs[&wave]);
    }
    Ok(Recovered { journal, cursors, issuer })
}

/// Opens the cursor of one section, for this process alone, and says by what right its packets may
/// be issued.
fn open_cursor(
    node: &Node,
    state: &StateDir,
    header: &SeedHeader,
    section: &Section,
    owning: &Owning,
) -> Result<(OpenCursor, Right), FileError> {
    let path = state.cursor(section.wave);
    let about = |error: &dyn ToString| content(&path, error.to_string());
    let lock = lock_cursor(&**state.disk(), &path)?;
    let (file, pair) =
        SlotFile::open(&**state.disk(), &path, MAGIC).map_err(|error| about(&error))?;
    let identity = file.identity().map_err(|error| about(&error))?;
    if slot_file::identity(&*lock).map_err(|error| about(&error))? != identity {
        return Err(about(&"was replaced while it was opened; find out who did that"));
    }
    let expected = expected(header, section, identity);
    let named = (header.campaign, header.shard, section.wave);
    let witness = owning.witness.as_deref().map(|folder| Witness::open(folder, named, identity));
    let witness = witness.transpose()?;
    let mark = SlotMark::new(pair.newest.sequence, &pair.newest.payload);
    let says = witness
        .as_ref()
        .map_or(grant::Witness::Absent, |witness| witness.of(mark, pair.both_valid));
    let (recovered, opening) = match owning.ownership {
        Ownership::Local => {
            let recovered = cursor::recover(&pair, &expected).map_err(|error| about(&error))?;
            if says == grant::Witness::RolledBack {
                return Err(about(&PUT_BACK));
            }
            (recovered, None)
        }
        Ownership::Fleet => {
            let found = cursor::find(&pair, &expected).map_err(|error| about(&error))?;
            let after_reboot = match owning.after_reboot {
                config::AfterReboot::Resume => AfterReboot::Resume,
                config::AfterReboot::Burn => AfterReboot::Burn,
            };
            let opening = Opening::new(&found, node.boot_id, says, after_reboot);
            (found.recovered, Some(opening))
        }
    };
    let writer = CursorWriter::new(&expected, recovered.high, node.incarnation, node.boot_id);
    let writer = match opening {
        None => writer,
        Some(opening) => writer.under(opening.last),
    };
    let mut cursor = OpenCursor { file, lock, writer, witness };
    if recovered.must_rewrite_both {
        // One slot is lost: H was taken as high as the lost one may have been, and both slots must
        // say so before anything is issued.
        let (wave, high) = (section.wave.0, recovered.high);
        tracing::warn!(event = "cursor_slot_lost", wave, high);
    }
    let Some(opening) = opening else {
        match recovered.must_rewrite_both {
            true => cursor.restate()?,
            false => cursor.attest(mark),
        }
        return Ok((cursor, Right::Local));
    };
    let (claim, because) = (opening.claim, opening.because);
    tracing::info!(event = "grant_claim", wave = section.wave.0, claim = claim.name(), because);
    // A successor must find who asked last, even if the answer is never written down. But what a
    // disk says that is not believed stays as it is until a grant stands above it.
    if claim != Claim::Burn {
        cursor.restate()?;
    }
    Ok((cursor, Right::Fleet(Box::new(fleet(node, header, section, &opening)))))
}

/// What the cursor of a section must say to be ours.
pub(crate) fn expected(
    header: &SeedHeader,
    section: &Section,
    identity: slot_file::FileIdentity,
) -> cursor::Expected {
    cursor::Expected {
        campaign: header.campaign,
        shard: header.shard,
        generation: header.generation,
        wave: section.wave,
        epoch: EPOCH_LOCAL,
        merkle_root: header.merkle_root,
        count: section.count,
        inode: identity.inode,
        born_ns: identity.born_ns,
    }
}

/// What an operator is told in local mode.
pub(crate) const PUT_BACK: &str = "the state directory was put back to an older state since this \
                                   machine was booted (shard.witness remembers a newer cursor): \
                                   packets may have been issued since, so it must not go on; \
                                   restore the newest state of the directory, or give this shard \
                                   up";

fn fleet(node: &Node, header: &SeedHeader, section: &Section, opening: &Opening) -> Fleet {
    let asker = Asker {
        campaign: header.campaign,
        shard: header.shard,
        generation: header.generation,
        epoch: node.epoch,
        wave: section.wave,
        first: section.first.0,
        count: section.count,
        incarnation: node.incarnation,
        merkle_root: header.merkle_root,
        node: NodeName::new(&node.name),
    };
    Fleet::new(node.clock.now(), asker, opening)
}

/// The journal with this start and what it skips on disk, and what the issuer learns from it.
/// Raises the H of a section that burns to what the journal accounts for: a backup that was taken
/// while the node ran has cursors that are older than its journal, and begins above that anyway.
fn open_journal(
    node: &Node,
    state: &StateDir,
    header: &SeedHeader,
    highs: &mut BTreeMap<WaveIndex, u32>,
    rights: &mut BTreeMap<WaveIndex, Right>,
) -> Result<(SegmentLog, issuer::Recovered), FileError> {
    let directory = state.journal();
    let template = SegmentHeader {
        campaign: node.campaign,
        shard: node.shard,
        epoch: node.epoch,
        incarnation: node.incarnation,
        first_sequence: 0,
    };
    let mut history = History::new(&header.sections);
    let read = |_: &SegmentHeader, record: Record<'_>| {
        history.read(&Event::decode(record.kind, record.payload)?);
        Ok(())
    };
    // No segment of it is ever removed.
    let about = (template, Some(0));
    let opened = SegmentLog::open(state.disk(), &[&directory], LogKind::JOURNAL, about, read);
    let (mut journal, recovered) = opened.map_err(|error| content(&directory, error))?;
    if recovered.torn_bytes > 0 {
        tracing::warn!(event = "journal_torn_tail", bytes = recovered.torn_bytes);
    }
    for damage in &recovered.damage {
        tracing::error!(event = "journal_damaged", ?damage, "the segment was copied aside");
    }
    let (incarnation, boot_id) = (node.incarnation, node.boot_id);
    let at = node.clock.wall();
    for (wave, right) in rights.iter_mut() {
        let Some(fleet) = right.fleet_mut() else { continue };
        fleet.follow(history.lives());
        if fleet.burns() {
            let high = highs.get_mut(wave).expect("every section has a cursor");
            *high = history.accounted_to(*wave).max(*high);
        }
    }
    let (recovered, skips) = history.recover(|wave| highs[&wave], at);
    if let Some(packet) = recovered.issued_above_high() {
        let message = format!(
            "says that packet {packet} was issued, which the cursor does not cover: the cursor is \
             older than the journal; restore the whole state directory as it was, or give this \
             shard up"
        );
        return Err(content(&directory, message));
    }
    let start = Event::Start { incarnation, boot_id, at };
    // A predecessor's grant that goes on, so that each life tells by what right it issues.
    let inherited = rights.iter().filter_map(|(wave, right)| {
        let grant = right.fleet()?.grant()?;
        Some(grant.event(*wave, at))
    });
    for event in iter::once(start).chain(skips).chain(inherited) {
        let (kind, payload) = event.encode();
        journal.append(kind, &payload);
    }
    journal.commit().map_err(|error| content(&directory, error))?;
    Ok((journal, recovered))
}

#[cfg(test)]
mod tests;
