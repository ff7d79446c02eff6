//! The node's journal and spool, record by record. What a crash may leave at their end is no fault;
//! everything else that is no record is told. Never writes: unlike a start, it trims nothing.

use super::evidence::files;
use anyhow::{Context, Result};
use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};
use yao_protocol::{
    CampaignId, ShardId,
    journal::{self, Event},
    log::{Record, SEGMENT_HEADER_BYTES, Scan, ScanEnd, SegmentHeader, written_length},
    spool::{self, Open},
};

type Owner = (CampaignId, ShardId);

pub(super) fn read_journal(
    folder: &Path,
    owner: Owner,
    problems: &mut Vec<String>,
) -> Result<Vec<Event>> {
    let mut events = Vec::new();
    let kind = ("journal-", ".yaojournal", journal::MAGIC);
    let first = read_log(&[folder], kind, owner, problems, |record| {
        events.push(Event::decode(record.kind, record.payload)?);
        Ok(())
    })?;
    // No segment of it is ever removed, and a start is on disk before anything is reserved.
    match first {
        Some(1) => {}
        Some(first) => {
            problems.push(format!("{} begins only at record {first}", folder.display()));
        }
        None => problems.push(format!("{} holds no record", folder.display())),
    }
    Ok(events)
}

/// The sequence at which the spool begins, and its opens with theirs.
pub(super) type Spooled = (Option<u64>, Vec<(u64, Open)>);

/// `folders` are the spool's own and its fallback's, if it has one.
pub(super) fn read_spool(
    folders: &[&Path],
    owner: Owner,
    problems: &mut Vec<String>,
) -> Result<Spooled> {
    let mut opens = Vec::new();
    let kind = ("spool-", ".yaospool", spool::MAGIC);
    let first = read_log(folders, kind, owner, problems, |record| {
        opens.push((record.sequence, Open::decode(record.payload)?));
        Ok(())
    })?;
    Ok((first, opens))
}

/// One segment of a log.
struct Segment {
    /// The sequence in its name.
    named: u64,
    /// Index of its folder.
    folder: usize,
    path: PathBuf,
}

/// The segments of all folders in the order in which they were written.
fn segments(folders: &[&Path], prefix: &str, suffix: &str) -> Result<Vec<Segment>> {
    let mut found = Vec::new();
    for (folder, path) in folders.iter().enumerate() {
        for path in files(path, prefix, suffix)? {
            let named = first_sequence(&path, prefix, suffix)?;
            found.push(Segment { named, folder, path });
        }
    }
    found.sort_by_key(|segment| (segment.named, segment.folder));
    Ok(found)
}

/// Every record of a log; the first sequence that is there.
///
/// Bytes that are no record are a problem, unless they are the tail of the last segment that a
/// killed writer left and nothing valid follows, or that of a segment whose disk failed, where the
/// log goes on in another folder: there the same records may stand in both, and of those that were
/// to be written here any may be.
fn read_log(
    folders: &[&Path],
    (prefix, suffix, magic): (&str, &str, [u8; 8]),
    owner: Owner,
    problems: &mut Vec<String>,
    mut visit: impl FnMut(Record<'_>) -> Result<()>,
) -> Result<Option<u64>> {
    let segments = segments(folders, prefix, suffix)?;
    let (mut expected, mut committed) = (None, 0);
    let mut first = None;
    // Payloads by sequence, for records that stand in two folders.
    let mut seen: HashMap<u64, Vec<u8>> = HashMap::new();
    let mut doubts = Vec::new();
    for (number, Segment { named, folder, path }) in segments.iter().enumerate() {
        let shown = path.display();
        let bytes = fs::read(path).with_context(|| format!("cannot read {shown}"))?;
        let body = bytes.get(SEGMENT_HEADER_BYTES..).unwrap_or_default();
        if written_length(body) == 0 {
            continue;
        }
        check_header(path, &bytes, magic, *named, owner, problems);
        let before = number.checked_sub(1).map(|before| segments[before].folder);
        let moved = before.is_some_and(|before| before != *folder);
        match expected {
            Some(expected) if *named > expected || (*named < expected && !moved) => {
                problems.push(format!("{shown}: records before it are missing"));
            }
            _ => {}
        }
        let mut scan = Scan::new(body, *named);
        for record in scan.by_ref() {
            let sequence = record.sequence;
            first.get_or_insert(sequence);
            committed = committed.max(record.committed);
            if expected.is_none_or(|expected| sequence >= expected) {
                seen.insert(sequence, record.payload.to_vec());
                visit(record).with_context(|| format!("{shown}, record {sequence}"))?;
            } else if seen.get(&sequence).is_none_or(|payload| payload != record.payload) {
                problems.push(format!("{shown}, record {sequence} is another one elsewhere"));
            }
        }
        if let Some(ScanEnd::TornTail { error }) = scan.end() {
            let next = segments.get(number + 1);
            let left =
                |next: &Segment| next.folder != *folder && next.named <= scan.next_sequence();
            let interrupted = next.is_none() && scan.next_sequence() > committed;
            let behind: Vec<u64> = scan.salvage().iter().map(|record| record.sequence).collect();
            let says = format!("{shown}, record {}: {error}", scan.next_sequence());
            if next.is_some_and(left) {
                doubts.push((scan.next_sequence(), behind, says));
            } else if !interrupted || !behind.is_empty() {
                problems.push(says);
            }
        }
        expected = expected.max(Some(scan.next_sequence()));
    }
    for (bad, behind, says) in doubts {
        let replaced = seen.contains_key(&bad) || expected == Some(bad);
        if !replaced || !behind.iter().all(|sequence| seen.contains_key(sequence)) {
            problems.push(says);
        }
    }
    if expected.is_some_and(|next| next <= committed) {
        problems
            .push(format!("{}: committed records are missing at its end", folders[0].display()));
    }
    Ok(first)
}

/// The sequence in a segment's name: what counts when its header is damaged.
fn first_sequence(path: &Path, prefix: &str, suffix: &str) -> Result<u64> {
    let name = path.file_name().and_then(|name| name.to_str());
    let digits = name.and_then(|name| name.strip_prefix(prefix)?.strip_suffix(suffix));
    let first = digits.and_then(|digits| digits.parse().ok());
    first.with_context(|| format!("{}: its name holds no sequence", path.display()))
}

fn check_header(
    path: &Path,
    bytes: &[u8],
    magic: [u8; 8],
    named: u64,
    owner: Owner,
    problems: &mut Vec<String>,
) {
    let shown = path.display();
    match SegmentHeader::decode(magic, bytes) {
        Err(error) => problems.push(format!("{shown}: {error}")),
        Ok(header) if (header.campaign, header.shard) != owner => {
            problems.push(format!("{shown} belongs to another campaign or shard"));
        }
        Ok(header) if header.first_sequence != named => {
            let first = header.first_sequence;
            problems.push(format!("{shown} says that it begins at record {first}"));
        }
        Ok(_) => {}
    }
}
