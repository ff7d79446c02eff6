//! What a start finds in the state directory: each wave's cursor, and the journal's issues. Decides
//! nothing about cursors itself; `engine::cursor` says what their bytes mean (M1, M2).

use crate::{
    files::{FileError, content},
    money_disk::OpenCursor,
    node::Node,
    segments::{LogKind, SegmentLog},
    slot_file::SlotFile,
    state_dir::{EPOCH_LOCAL, StateDir},
};
use std::{collections::BTreeMap, iter, path::Path};
use yao_engine::{
    cursor::{self, CursorWriter},
    issuer::{self, History},
};
use yao_protocol::{
    WaveIndex,
    cursor::MAGIC,
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
/// A cursor that is missing, foreign, copied or doubly torn; a journal that is of another shard.
pub fn recover(node: &Node, state: &StateDir, header: &SeedHeader) -> Result<Recovered, FileError> {
    let mut cursors = BTreeMap::new();
    let mut highs = BTreeMap::new();
    for section in &header.sections {
        let (cursor, high) = open_cursor(node, state, header, section)?;
        tracing::info!(event = "cursor", wave = section.wave.0, high, count = section.count);
        highs.insert(section.wave, high);
        cursors.insert(section.wave, cursor);
    }
    let (journal, issuer) = open_journal(node, state, header, &highs)?;
    Ok(Recovered { journal, cursors, issuer })
}

fn open_cursor(
    node: &Node,
    state: &StateDir,
    header: &SeedHeader,
    section: &Section,
) -> Result<(OpenCursor, u32), FileError> {
    let path = state.cursor(section.wave);
    let about = |error: &dyn ToString| content(&path, error.to_string());
    let (mut file, pair) =
        SlotFile::open(&**state.disk(), &path, MAGIC).map_err(|error| about(&error))?;
    let identity = file.identity().map_err(|error| about(&error))?;
    let expected = cursor::Expected {
        campaign: header.campaign,
        shard: header.shard,
        generation: header.generation,
        wave: section.wave,
        epoch: EPOCH_LOCAL,
        merkle_root: header.merkle_root,
        count: section.count,
        inode: identity.inode,
        born_ns: identity.born_ns,
    };
    let recovered = cursor::recover(&pair, &expected).map_err(|error| about(&error))?;
    let mut writer = CursorWriter::new(&expected, recovered.high, node.incarnation, node.boot_id);
    if recovered.must_rewrite_both {
        // One slot is lost: H was taken as high as the lost one may have been, and both slots must
        // say so before anything is issued.
        tracing::warn!(event = "cursor_slot_lost", wave = section.wave.0, high = recovered.high);
        for slot in writer.raise(recovered.high) {
            file.write(&slot.encode()).map_err(|error| about(&error))?;
        }
    }
    Ok((OpenCursor { file, writer }, recovered.high))
}

/// The journal with this start and what it skips on disk, and what the issuer learns from it.
fn open_journal(
    node: &Node,
    state: &StateDir,
    header: &SeedHeader,
    highs: &BTreeMap<WaveIndex, u32>,
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
    let opened = SegmentLog::open(state.disk(), &[&directory], LogKind::JOURNAL, template, read);
    let (mut journal, recovered) = opened.map_err(|error| content(&directory, error))?;
    if recovered.torn_bytes > 0 {
        tracing::warn!(event = "journal_torn_tail", bytes = recovered.torn_bytes);
    }
    for damage in &recovered.damage {
        tracing::error!(event = "journal_damaged", ?damage, "the segment was copied aside");
    }
    let (incarnation, boot_id) = (node.incarnation, node.boot_id);
    let at = node.clock.wall();
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
    for event in iter::once(start).chain(skips) {
        let (kind, payload) = event.encode();
        journal.append(kind, &payload);
    }
    journal.commit().map_err(|error| content(&directory, error))?;
    Ok((journal, recovered))
}
