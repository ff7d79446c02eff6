//! What a start finds in the segments of a log: every valid record, a torn tail, damage.
//!
//! A torn tail is a write that a crash interrupted, with nothing valid behind it and a part that
//! was never written, or that failed before the log went on in another directory, which has all
//! that can be read behind it: nothing in it was ever acknowledged, or it is there as well. It is
//! cut off. Everything else that is no record is damage: the segment is copied aside, its valid
//! records stay, and somebody must look. Never removes the only copy of a record.

use super::{LogKind, Segment, SegmentError, io_error, ranges::Ranges};
use crate::{
    disk::{Access, Disk, DiskFile},
    slot_file::directory_of,
};
use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};
use yao_protocol::{
    WireError,
    log::{Record, SEGMENT_HEADER_BYTES, Scan, ScanEnd, SegmentHeader, written_length},
};

/// What the name of a damaged segment's copy ends with.
const ASIDE: &str = ".corrupt";
/// What it ends with until it is whole.
const ASIDE_DRAFT: &str = ".corrupt.draft";

/// What recovery found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// Valid records.
    pub records: u64,
    /// Sequence that the next record gets: above everything that was ever acknowledged.
    pub next_sequence: u64,
    /// Bytes of a torn tail that were cut off; 0 for a clean end.
    pub torn_bytes: u64,
    /// Damage, oldest first. Money may be missing: say so loudly.
    pub damage: Vec<Damage>,
}

/// One place of a log where records are missing or bytes are bad.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Damage {
    /// Bytes of a segment are no record although records follow them or they were committed.
    BadBytes {
        /// The segment; its copy has `.corrupt` added to the name.
        path: PathBuf,
        /// Where the bad bytes begin.
        offset: u64,
        /// What is wrong there; `None` when the file ends although more was committed.
        error: Option<WireError>,
        /// The first sequence that cannot be read.
        sequence: u64,
        /// Valid records behind the bad bytes.
        salvaged: u64,
    },
    /// Sequences between two segments, or behind the last one, that were acknowledged and are not
    /// in any file.
    Missing {
        /// First missing sequence; an empty copy of a segment that would begin there tells of it.
        first: u64,
        /// Last missing sequence.
        last: u64,
    },
}

impl Damage {
    /// The first sequence that cannot be read.
    const fn sequence(&self) -> u64 {
        match self {
            Self::BadBytes { sequence, .. } => *sequence,
            Self::Missing { first, .. } => *first,
        }
    }
}

/// A segment's file, and where it stands among the others.
struct Found {
    first_sequence: u64,
    path: PathBuf,
    last: bool,
    /// First sequence of the segment behind it.
    next: Option<u64>,
    /// The same, when that lies in another directory: the log went
    /// on there, with everything that it had not synced here.
    left_at: Option<u64>,
}

/// Scans all segments in `directories`, trims a torn tail, copies damaged ones aside. Up to
/// `settled` segments may have been removed; `None` when nobody knows how far.
pub(super) fn recover(
    disk: &dyn Disk,
    directories: &[&Path],
    kind: LogKind,
    (template, settled): (&SegmentHeader, Option<u64>),
    mut visit: impl FnMut(&SegmentHeader, Record<'_>) -> Result<(), WireError>,
) -> Result<(Vec<Segment>, Recovered), SegmentError> {
    let files = find(disk, directories, kind)?;
    let mut recovery = Recovery {
        disk,
        kind,
        template,
        settled: settled.unwrap_or(0),
        expected: settled.map(|settled| settled + 1),
        committed: 0,
        seen: Ranges::default(),
        seen_twice: Ranges::default(),
        doubts: Vec::new(),
        segments: Vec::with_capacity(files.len()),
        found: Recovered { records: 0, next_sequence: 1, torn_bytes: 0, damage: Vec::new() },
    };
    let mut bytes = Vec::new();
    for segment in &files {
        bytes.clear();
        let path = &segment.path;
        let file = disk.open(path, Access::Read).map_err(io_error("open", path))?;
        if segment.last || segment.left_at.is_some() {
            settle_pages(path, &*file)?;
        }
        file.read_to_end(&mut bytes).map_err(io_error("read", path))?;
        recovery.segment(segment, &bytes, &mut visit)?;
    }
    recovery.judge_doubts()?;
    if recovery.committed >= recovery.found.next_sequence {
        let (first, last) = (recovery.found.next_sequence, recovery.committed);
        recovery.missing(first, last);
        recovery.found.next_sequence = last + 1;
    }
    recovery.found.damage.sort_by_key(Damage::sequence);
    for damage in &recovery.found.damage {
        if let Damage::Missing { first, .. } = damage {
            // There is nothing to keep. It tells of the gap when what lies around is settled and
            // removed, so that nobody sees a gap any more.
            copy_aside(disk, &directories[0].join(kind.file_name(*first)), &[])?;
        }
    }
    Ok((recovery.segments, recovery.found))
}

/// The segments of all directories in the order in which they were written.
fn find(disk: &dyn Disk, directories: &[&Path], kind: LogKind) -> Result<Vec<Found>, SegmentError> {
    let mut all = Vec::new();
    for (place, directory) in directories.iter().enumerate() {
        let files = list(disk, directory, kind)?;
        all.extend(files.into_iter().map(|(first, path)| (first, place, path)));
    }
    all.sort_unstable();
    let next: Vec<Option<(u64, usize)>> =
        all.iter().skip(1).map(|(first, place, _)| Some((*first, *place))).chain([None]).collect();
    let found = all.into_iter().zip(next).map(|((first_sequence, place, path), next)| Found {
        first_sequence,
        path,
        last: next.is_none(),
        next: next.map(|(first, _)| first),
        left_at: next.filter(|(_, other)| *other != place).map(|(first, _)| first),
    });
    Ok(found.collect())
}

struct Recovery<'a> {
    disk: &'a dyn Disk,
    kind: LogKind,
    template: &'a SegmentHeader,
    /// What is missing up to here was removed, and is no damage.
    settled: u64,
    /// The sequence with which the next segment should begin, at most. `None` before the first one
    /// when nobody knows how much was removed from the front.
    expected: Option<u64>,
    /// The highest sequence that any record says was on disk.
    committed: u64,
    /// Sequences that were read, and those that were read again in another directory.
    seen: Ranges,
    seen_twice: Ranges,
    doubts: Vec<Doubt>,
    segments: Vec<Segment>,
    found: Recovered,
}

/// Bad bytes in a segment that was left for another directory: what they are shows when that one
/// is read, too.
struct Doubt {
    /// Index of the segment, which ends before the bad bytes so far.
    segment: usize,
    error: WireError,
    /// Valid records behind the bad bytes.
    salvaged: Vec<u64>,
    /// Bytes of header and records, bad ones too.
    bytes: u64,
}

impl Recovery<'_> {
    fn segment(
        &mut self,
        file: &Found,
        bytes: &[u8],
        visit: &mut impl FnMut(&SegmentHeader, Record<'_>) -> Result<(), WireError>,
    ) -> Result<(), SegmentError> {
        let Found { first_sequence, ref path, .. } = *file;
        let header = SegmentHeader::decode(self.kind.magic, bytes)
            .ok()
            .filter(|header| header.first_sequence == first_sequence);
        let body = bytes.get(SEGMENT_HEADER_BYTES..).unwrap_or_default();
        if body.is_empty() || (header.is_none() && written_length(body) == 0) {
            // The header is synced before the first record is written: no record was ever here.
            return remove(self.disk, path);
        }
        // A damaged header takes none of its records with it: the name holds what they need.
        let readable = header.unwrap_or(SegmentHeader { first_sequence, ..*self.template });
        self.check_owner(path, &readable)?;
        if let Some(expected) = self.expected.filter(|expected| first_sequence > *expected) {
            self.missing(expected, first_sequence - 1);
        }
        let mut scan = Scan::new(body, first_sequence);
        for record in scan.by_ref() {
            self.record(path, &readable, record, visit)?;
        }
        let salvaged = match scan.end() {
            Some(ScanEnd::TornTail { .. }) => scan.salvage(),
            _ => Vec::new(),
        };
        for record in &salvaged {
            self.record(path, &readable, *record, visit)?;
        }
        let salvaged: Vec<u64> = salvaged.iter().map(|record| record.sequence).collect();
        let next_sequence = salvaged.last().map_or(scan.next_sequence(), |last| last + 1);
        let mut segment = Segment {
            path: path.clone(),
            first_sequence,
            next_sequence,
            bytes: (SEGMENT_HEADER_BYTES + written_length(body).max(scan.valid_bytes())) as u64,
            damaged: header.is_none(),
        };
        if header.is_none() && scan.end() == Some(ScanEnd::Clean) {
            self.found.damage.push(Damage::BadBytes {
                path: path.clone(),
                offset: 0,
                error: SegmentHeader::decode(self.kind.magic, bytes).err(),
                sequence: first_sequence,
                salvaged: scan.next_sequence() - first_sequence,
            });
        }
        self.found.next_sequence = self.found.next_sequence.max(next_sequence);
        self.expected = Some(self.found.next_sequence);
        self.judge_end(&mut segment, &scan, salvaged, file);
        if segment.damaged {
            copy_aside(self.disk, path, bytes)?;
        } else if segment.bytes < bytes.len() as u64 && !self.doubts_last() {
            truncate(self.disk, path, segment.bytes)?;
        }
        self.keep(segment)
    }

    /// Keeps a segment, or removes one without a record.
    fn keep(&mut self, segment: Segment) -> Result<(), SegmentError> {
        if segment.next_sequence == segment.first_sequence && !self.doubts_last() {
            // A torn first record was trimmed, or no record can be read and the copy keeps the
            // bytes: nothing is left, and the name is needed again.
            return remove(self.disk, &segment.path);
        }
        self.segments.push(segment);
        Ok(())
    }

    /// Whether the segment that is next to be kept is doubtful.
    fn doubts_last(&self) -> bool {
        self.doubts.last().is_some_and(|doubt| doubt.segment == self.segments.len())
    }

    /// Leaves a torn tail out of the segment; anything else behind the valid records is damage, or
    /// a doubt.
    fn judge_end(
        &mut self,
        segment: &mut Segment,
        scan: &Scan<'_>,
        salvaged: Vec<u64>,
        file: &Found,
    ) {
        let Some(ScanEnd::TornTail { error }) = scan.end() else { return };
        let valid_bytes = SEGMENT_HEADER_BYTES as u64 + scan.valid_bytes() as u64;
        // Only the last segment can end in an interrupted write, and only behind everything that a
        // record says was committed. Or one whose writing failed, where the log went on elsewhere.
        let interrupted = file.last && scan.next_sequence() > self.committed;
        let left = file.left_at.is_some_and(|left_at| left_at <= scan.next_sequence());
        // Perhaps the last record, acknowledged and changed since.
        let changed = salvaged.is_empty() && scan.was_whole(SEGMENT_HEADER_BYTES);
        if !segment.damaged && left {
            let (bytes, place) = (segment.bytes, self.segments.len());
            (segment.bytes, segment.next_sequence) = (valid_bytes, scan.next_sequence());
            self.doubts.push(Doubt { segment: place, error, salvaged, bytes });
        } else if !segment.damaged && interrupted && salvaged.is_empty() && !changed {
            self.found.torn_bytes += segment.bytes - valid_bytes;
            segment.bytes = valid_bytes;
        } else {
            segment.damaged = true;
            self.bad_bytes(segment, (valid_bytes, scan.next_sequence()), error, &salvaged);
            if changed {
                self.count_changed(segment, scan, file);
            }
        }
    }

    /// The sequence of a changed record may have been delivered, and those of others in the same
    /// sector: none is used again. The last segment counts them as its own, so that it stays and
    /// the next start knows, too; before another one they end where that begins.
    fn count_changed(&mut self, segment: &mut Segment, scan: &Scan<'_>, file: &Found) {
        let bad = scan.bad_records_max(self.kind.payload_bytes_min);
        let behind = scan.next_sequence().saturating_add(bad);
        let behind = file.next.map_or(behind, |next| behind.min(next.max(scan.next_sequence())));
        if file.last {
            segment.next_sequence = behind;
        }
        self.found.next_sequence = self.found.next_sequence.max(behind);
        self.expected = Some(self.found.next_sequence);
    }

    /// Now that everything is read: a segment that was left ends in a torn tail when all that can
    /// be read behind its bad bytes, and what should stand in their place, was read elsewhere, or
    /// when nothing at all comes behind. The page that its disk could not write may lie before
    /// others that it could.
    fn judge_doubts(&mut self) -> Result<(), SegmentError> {
        while let Some(Doubt { segment: place, error, salvaged, bytes }) = self.doubts.pop() {
            let mut segment = self.segments.remove(place);
            let (first_bad, offset) = (segment.next_sequence, segment.bytes);
            let last = first_bad == self.found.next_sequence && first_bad > self.committed;
            let replaced = self.seen.contains(first_bad) || last;
            if replaced && salvaged.iter().all(|sequence| self.seen_twice.contains(*sequence)) {
                self.found.torn_bytes += bytes - offset;
                truncate(self.disk, &segment.path, offset)?;
            } else {
                segment.damaged = true;
                segment.bytes = bytes;
                segment.next_sequence = salvaged.last().map_or(first_bad, |last| last + 1);
                self.bad_bytes(&segment, (offset, first_bad), error, &salvaged);
                let file = self.disk.open(&segment.path, Access::Read);
                let mut content = Vec::new();
                file.and_then(|file| file.read_to_end(&mut content))
                    .map_err(io_error("read", &segment.path))?;
                copy_aside(self.disk, &segment.path, &content)?;
            }
            if segment.next_sequence == segment.first_sequence {
                remove(self.disk, &segment.path)?;
            } else {
                self.segments.insert(place, segment);
            }
        }
        Ok(())
    }

    fn bad_bytes(
        &mut self,
        segment: &Segment,
        (offset, sequence): (u64, u64),
        error: WireError,
        salvaged: &[u64],
    ) {
        self.found.damage.push(Damage::BadBytes {
            path: segment.path.clone(),
            offset,
            error: Some(error),
            sequence,
            salvaged: salvaged.len() as u64,
        });
    }

    /// No file has these sequences. Those that are settled were removed.
    fn missing(&mut self, first: u64, last: u64) {
        let first = first.max(self.settled + 1);
        if first <= last {
            self.found.damage.push(Damage::Missing { first, last });
        }
    }

    fn record(
        &mut self,
        path: &Path,
        header: &SegmentHeader,
        record: Record<'_>,
        visit: &mut impl FnMut(&SegmentHeader, Record<'_>) -> Result<(), WireError>,
    ) -> Result<(), SegmentError> {
        self.committed = self.committed.max(record.committed);
        if !self.seen.insert(record.sequence) {
            // Written in both directories, in this one when the other had failed.
            self.seen_twice.insert(record.sequence);
            return Ok(());
        }
        self.found.records += 1;
        visit(header, record).map_err(|error| SegmentError::Content {
            path: path.to_owned(),
            sequence: record.sequence,
            error,
        })
    }

    fn check_owner(&self, path: &Path, header: &SegmentHeader) -> Result<(), SegmentError> {
        let ours = (self.template.campaign, self.template.shard);
        if (header.campaign, header.shard) == ours {
            return Ok(());
        }
        Err(SegmentError::Foreign {
            path: path.to_owned(),
            found_campaign: header.campaign.0,
            found_shard: header.shard.0,
            campaign: ours.0.0,
            shard: ours.1.0,
        })
    }
}

/// The segments in `directory` by first sequence.
///
/// # Errors
/// Those of reading the directory.
pub fn list(
    disk: &dyn Disk,
    directory: &Path,
    kind: LogKind,
) -> Result<Vec<(u64, PathBuf)>, SegmentError> {
    let mut files = Vec::new();
    for name in disk.names(directory).map_err(io_error("read", directory))? {
        if let Some(first) = name.to_str().and_then(|name| kind.first_sequence(name)) {
            files.push((first, directory.join(name)));
        }
    }
    files.sort_unstable();
    Ok(files)
}

/// The copies of damaged segments that lie in `directory`, and the empty ones of missing segments,
/// in any order: recovery put them there, in this run or an earlier one, and nobody has taken them
/// away. None where there is no directory.
///
/// # Errors
/// Those of reading the directory.
pub fn set_aside(
    disk: &dyn Disk,
    directory: &Path,
    kind: LogKind,
) -> Result<Vec<PathBuf>, SegmentError> {
    if !disk.is_directory(directory) {
        return Ok(Vec::new());
    }
    let names = disk.names(directory).map_err(io_error("read", directory))?;
    let is_copy = |name: &OsString| {
        let parts = name.to_str().and_then(|name| name.split_once(ASIDE));
        parts.is_some_and(|(segment, number)| {
            let number = number.strip_prefix('.').unwrap_or(number);
            let whole = number.bytes().all(|byte| byte.is_ascii_digit());
            whole && kind.first_sequence(segment).is_some()
        })
    };
    Ok(names.iter().filter(|name| is_copy(name)).map(|name| directory.join(name)).collect())
}

/// Makes what we are about to read and believe be what the disk holds.
///
/// A killed process leaves pages that were written and not synced; whoever trusts them before they
/// are on disk acknowledges what a power cut takes away. After a failed sync the kernel keeps
/// pages that it believes clean: they are dropped, so that the disk itself is read.
fn settle_pages(path: &Path, file: &dyn DiskFile) -> Result<(), SegmentError> {
    file.sync_all().map_err(io_error("sync", path))?;
    file.drop_cached().map_err(io_error("drop the cached pages of", path))
}

fn truncate(disk: &dyn Disk, path: &Path, bytes: u64) -> Result<(), SegmentError> {
    let file = disk.open(path, Access::Write).map_err(io_error("open", path))?;
    file.set_length(bytes).map_err(io_error("truncate", path))?;
    file.sync_all().map_err(io_error("sync", path))
}

fn remove(disk: &dyn Disk, path: &Path) -> Result<(), SegmentError> {
    disk.remove(path).map_err(io_error("remove", path))?;
    let directory = directory_of(path);
    disk.sync_directory(directory).map_err(io_error("sync", directory))
}

/// Keeps the damaged bytes for people, once: whole and on disk under its name, or not at all. What
/// they were copied from may be removed when this returns. Where the copy is: beside the segment.
///
/// # Errors
/// Those of the operating system; there may be a draft then.
fn copy_aside(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> Result<PathBuf, SegmentError> {
    copy_aside_in(disk, directory_of(path), path, bytes)
}

/// As [`copy_aside`], in another directory: that of the segment may be given up (M3).
///
/// # Errors
/// Those of the operating system; there may be a draft then.
pub(crate) fn copy_aside_in(
    disk: &dyn Disk,
    directory: &Path,
    path: &Path,
    bytes: &[u8],
) -> Result<PathBuf, SegmentError> {
    // Not the room that was never written.
    let bytes = &bytes[..written_length(bytes)];
    let named = |ending: &str| {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(ending);
        directory.join(name)
    };
    // Another of that name may have been damaged before, or the copy of an older program was
    // interrupted: what is there stays, unless it only tells that the segment was missing.
    let mut copy = named(ASIDE);
    for number in 1.. {
        if !disk.exists(&copy) {
            break;
        }
        let mut kept = Vec::new();
        let file = disk.open(&copy, Access::Read).map_err(io_error("open", &copy))?;
        file.read_to_end(&mut kept).map_err(io_error("read", &copy))?;
        if bytes.is_empty() || kept[..written_length(&kept)] == *bytes {
            // Whoever made it may have been killed before its name was on disk.
            disk.sync_directory(directory).map_err(io_error("sync", directory))?;
            return Ok(copy);
        }
        if kept.is_empty() {
            break;
        }
        copy = named(&format!("{ASIDE}.{number}"));
    }
    let draft = named(ASIDE_DRAFT);
    if disk.exists(&draft) {
        disk.remove(&draft).map_err(io_error("remove", &draft))?;
    }
    let file = disk.open(&draft, Access::Create).map_err(io_error("create", &draft))?;
    file.write_all_at(bytes, 0).map_err(io_error("write", &draft))?;
    file.sync_all().map_err(io_error("sync", &draft))?;
    disk.rename(&draft, &copy).map_err(io_error("rename", &draft))?;
    disk.sync_directory(directory).map_err(io_error("sync", directory))?;
    Ok(copy)
}
