//! The node's journal and spool, record by record. What a crash may leave at their end is no fault;
//! everything else that is no record is told. Never writes: unlike a start, it trims nothing.

use super::evidence::files;
use anyhow::{Context, Result};
use std::{fs, path::Path};
use yao_protocol::{
    CampaignId, ShardId,
    journal::{self, Event},
    log::{Record, SEGMENT_HEADER_BYTES, Scan, ScanEnd, SegmentHeader},
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
    let first = read_log(folder, kind, owner, problems, |record| {
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

pub(super) fn read_spool(
    folder: &Path,
    owner: Owner,
    problems: &mut Vec<String>,
) -> Result<Spooled> {
    let mut opens = Vec::new();
    let kind = ("spool-", ".yaospool", spool::MAGIC);
    let first = read_log(folder, kind, owner, problems, |record| {
        opens.push((record.sequence, Open::decode(record.payload)?));
        Ok(())
    })?;
    Ok((first, opens))
}

/// Every record of a log; the first sequence that is there.
///
/// Bytes that are no record are a problem, unless they are the tail of the last segment that a
/// killed writer left and nothing valid follows.
fn read_log(
    folder: &Path,
    (prefix, suffix, magic): (&str, &str, [u8; 8]),
    owner: Owner,
    problems: &mut Vec<String>,
    mut visit: impl FnMut(Record<'_>) -> Result<()>,
) -> Result<Option<u64>> {
    let paths = files(folder, prefix, suffix)?;
    let (mut expected, mut committed) = (None, 0);
    let mut first = None;
    for (number, path) in paths.iter().enumerate() {
        let shown = path.display();
        let bytes = fs::read(path).with_context(|| format!("cannot read {shown}"))?;
        if bytes.len() <= SEGMENT_HEADER_BYTES {
            continue;
        }
        let named = first_sequence(path, prefix, suffix)?;
        check_header(path, &bytes, magic, named, owner, problems);
        if expected.is_some_and(|expected| expected != named) {
            problems.push(format!("{shown}: records before it are missing"));
        }
        let mut scan = Scan::new(&bytes[SEGMENT_HEADER_BYTES..], named);
        for record in scan.by_ref() {
            first.get_or_insert(record.sequence);
            committed = committed.max(record.committed);
            let sequence = record.sequence;
            visit(record).with_context(|| format!("{shown}, record {sequence}"))?;
        }
        if let Some(ScanEnd::TornTail { error }) = scan.end() {
            let last = number + 1 == paths.len();
            if !last || !scan.salvage().is_empty() || scan.next_sequence() <= committed {
                problems.push(format!("{shown}, record {}: {error}", scan.next_sequence()));
            }
        }
        expected = Some(scan.next_sequence());
    }
    if expected.is_some_and(|next| next <= committed) {
        problems.push(format!("{}: committed records are missing at its end", folder.display()));
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
