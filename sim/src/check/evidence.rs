//! Reading a node's disk from outside: cursors, journal, spool, as they stand or as a power cut
//! would leave them.

use crate::{
    disk::SimDisk,
    node::{FALLBACK, STATE},
};
use std::path::{Path, PathBuf};
use yao_protocol::{
    PacketId, UserId, WallTime,
    cursor::{Cursor, MAGIC},
    journal::Event,
    log::{Record, SEGMENT_HEADER_BYTES, Scan},
    slots::SlotPair,
    spool::Open,
};

/// Where a node keeps the cursor of a wave.
pub(crate) fn cursor_path(wave: u16) -> PathBuf {
    Path::new(STATE).join("cursor").join(format!("wave-{wave:03}.yaocursor"))
}

/// H as it is on the medium if not one unsynced byte gets there: nothing below it is issued again.
pub(super) fn durable_high(disk: &SimDisk, wave: u16) -> Option<u32> {
    let pair = disk.look_durable(&cursor_path(wave), |bytes| SlotPair::decode(MAGIC, bytes));
    let pair = pair?.ok()?;
    let cursor = Cursor::decode(&pair.newest.payload).ok()?;
    Some(if pair.both_valid { cursor.high } else { cursor.next_high_max })
}

/// Segments of a log, oldest first; those of the spool in both of its directories.
pub(crate) fn segments(disk: &SimDisk, log: &str, suffix: &str) -> Vec<(u64, PathBuf)> {
    let mut found = Vec::new();
    let mut files = disk.files(&Path::new(STATE).join(log));
    files.extend(disk.files(Path::new(FALLBACK)));
    for path in files {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let digits = name.strip_prefix(log).and_then(|rest| rest.strip_prefix('-'));
        let digits = digits.and_then(|rest| rest.strip_suffix(suffix));
        if let Some(first) = digits.and_then(|digits| digits.parse().ok()) {
            found.push((first, path));
        }
    }
    found.sort_unstable();
    found
}

/// Every record of a segment, those behind bad bytes, too.
pub(crate) fn records(bytes: &[u8], first: u64, mut visit: impl FnMut(&Record<'_>)) {
    let body = bytes.get(SEGMENT_HEADER_BYTES..).unwrap_or_default();
    let mut scan = Scan::new(body, first);
    scan.by_ref().for_each(|record| visit(&record));
    scan.salvage().iter().for_each(visit);
}

/// The journal as a process would read it.
pub(super) fn journal(disk: &SimDisk) -> Vec<Event> {
    let mut events = Vec::new();
    for (first, path) in segments(disk, "journal", ".yaojournal") {
        disk.look_cached(&path, |bytes| {
            records(bytes, first, |record| {
                events.extend(Event::decode(record.kind, record.payload).ok());
            });
        });
    }
    events
}

/// Opens whose records are on the medium.
pub(super) fn durable_opens(disk: &SimDisk) -> Vec<(PacketId, UserId, WallTime)> {
    let mut opens = Vec::new();
    for (first, path) in segments(disk, "spool", ".yaospool") {
        disk.look_durable(&path, |bytes| {
            records(bytes, first, |record| {
                if let Ok(open) = Open::decode(record.payload) {
                    let body = &open.ticket.body;
                    opens.push((body.packet, body.user, open.accepted_at));
                }
            });
        });
    }
    opens
}
