//! The spool's records on disk: recovery into the index, group commit, and reading back what no
//! longer fits in memory.
//!
//! Never decides what is delivered or removed; never interprets a watermark.

use crate::{
    disk::{Access, Disk},
    segments::{LogKind, Recovered, Segment, SegmentError, SegmentLog, recovery::copy_aside_in},
};
use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};
use thiserror::Error;
use yao_engine::spool::{Index, RECORD_BYTES, retention};
use yao_protocol::{
    WireError,
    log::{Record, SEGMENT_HEADER_BYTES, Scan, SegmentHeader},
    spool::{KIND_OPEN, Open},
};

/// Why records could not be read back.
#[derive(Debug, Error)]
pub(super) enum ReadError {
    /// The operating system refuses.
    #[error("cannot read spooled opens from {path}: {error}", path = path.display())]
    Io {
        /// The segment.
        path: PathBuf,
        /// The answer of the operating system.
        error: io::Error,
    },
    /// Opens are missing from a segment, and no copy of it can be kept.
    #[error("cannot keep a copy of a damaged spool segment: {0}")]
    Aside(#[from] SegmentError),
}

/// What is kept of a segment that went bad.
#[derive(Debug)]
struct Kept {
    copy: PathBuf,
    /// Sequence behind the last record that the copy may hold.
    next_sequence: u64,
}

/// The spool's segments.
#[derive(Debug)]
pub(super) struct SpoolSegments {
    disk: Arc<dyn Disk>,
    log: SegmentLog,
    /// The damaged segment that was read last, as it was then, and its records.
    salvaged: Option<(Segment, Vec<(u64, Open)>)>,
    /// Segments that a start found good and of which records are missing since. Each has a copy.
    rotten: BTreeMap<PathBuf, Kept>,
}

impl SpoolSegments {
    /// Opens the segments in `directories` and enters every record in the index. Up to `settled`
    /// some may have been removed; `None` when nobody knows how far.
    ///
    /// # Errors
    /// Those of [`SegmentLog::open`].
    pub(super) fn open(
        disk: &Arc<dyn Disk>,
        directories: &[&Path],
        header: SegmentHeader,
        settled: Option<u64>,
    ) -> Result<(Self, Index, Recovered), SegmentError> {
        let mut index = Index::default();
        let enter = |_: &SegmentHeader, record: Record<'_>| {
            index.insert(record.sequence, &decode(&record)?);
            Ok(())
        };
        let about = (header, settled);
        let (log, recovered) = SegmentLog::open(disk, directories, LogKind::SPOOL, about, enter)?;
        let disk = Arc::clone(disk);
        Ok((Self { disk, log, salvaged: None, rotten: BTreeMap::new() }, index, recovered))
    }

    /// Closes segments at `bytes`; tests need many of them.
    #[cfg(test)]
    #[must_use]
    pub(super) fn with_segment_bytes_max(self, bytes: u64) -> Self {
        Self { log: self.log.with_segment_bytes_max(bytes), ..self }
    }

    /// Begins behind `sequence` at least: the watermark may know more than the segments.
    pub(super) fn skip_to(&mut self, sequence: u64) {
        self.log.skip_to(sequence);
    }

    /// The oldest sequence that there may be.
    #[must_use]
    pub(super) fn first_sequence(&self) -> Option<u64> {
        self.log.segments().first().map(|segment| segment.first_sequence)
    }

    /// Bytes that a new segment takes at once.
    #[must_use]
    pub(super) fn allocate_bytes(&self) -> u64 {
        self.log.allocate_bytes()
    }

    /// Segments that were good at the start and of which records are missing since.
    #[must_use]
    pub(super) fn rotten(&self) -> usize {
        self.rotten.len()
    }

    /// Bytes of all segments.
    #[must_use]
    pub(super) fn bytes(&self) -> u64 {
        self.log.segments().iter().map(|segment| segment.bytes).sum()
    }

    /// Adds a record in memory. The machine and the log count alike.
    pub(super) fn append(&mut self, sequence: u64, open: &Open) {
        let appended = self.log.append(KIND_OPEN, &open.encode());
        assert_eq!(appended, sequence, "the machine and the log count records alike");
    }

    /// Writes and syncs what was appended; returns the highest sequence on disk.
    ///
    /// # Errors
    /// Those of [`SegmentLog::commit`]; the first one fences the log.
    pub(super) fn commit(&mut self) -> Result<u64, SegmentError> {
        self.log.commit()
    }

    /// Goes on in the next directory, with what is not on disk: as [`SegmentLog::move_on`].
    pub(super) fn move_on(&mut self) -> bool {
        self.log.move_on()
    }

    /// Where new segments are made.
    #[must_use]
    pub(super) fn directory(&self) -> &Path {
        self.log.directory()
    }

    /// Room that the segment being written has taken and not used, bytes.
    #[must_use]
    pub(super) fn room_bytes(&self) -> u64 {
        self.log.room_bytes()
    }

    /// Breaks the disk under the segment being written.
    #[cfg(test)]
    pub(super) fn break_disk(&mut self) {
        self.log.break_disk();
    }

    /// Gives back room that nothing more will be written to.
    pub(super) fn trim(&self) {
        self.log.trim();
    }

    /// Removes settled segments, oldest first, while there are more than `bytes_max` bytes.
    /// Returns the last sequence removed, if any.
    ///
    /// # Errors
    /// Those of the operating system.
    pub(super) fn remove_settled(
        &mut self,
        settled_on_disk: u64,
        bytes_max: u64,
    ) -> Result<Option<u64>, SegmentError> {
        if self.bytes() <= bytes_max {
            return Ok(None);
        }
        let mut extents: Vec<retention::Extent> = self.log.segments().iter().map(extent).collect();
        if let Some(newest) = extents.last_mut() {
            // It is being written, or will be read by nobody else: it stays.
            newest.last_sequence = u64::MAX;
        }
        let mut count = retention::removable_count(&extents, settled_on_disk, bytes_max);
        // A part of them may stand on the other disk as well. It goes too: its end would look like
        // a gap to the next start.
        while let Some(last) = count.checked_sub(1)
            && extents[count].last_sequence <= extents[last].last_sequence
        {
            count += 1;
        }
        let Some(last) = count.checked_sub(1).map(|last| extents[last].last_sequence) else {
            return Ok(None);
        };
        self.log.remove_oldest(count)?;
        Ok(Some(last))
    }

    /// At most `count_max` records with sequences in (`after`, `through`], oldest first, and the
    /// sequence up to which every readable record is among them.
    ///
    /// A sequence that stands in two directories is read where it can be: what is damaged in one
    /// may be whole in the other.
    ///
    /// # Errors
    /// [`ReadError`] when the operating system refuses. Bad bytes are no error: the records around
    /// them are returned, and the machine learns that nothing else comes. Before it does, a copy
    /// of the segment is kept: the watermark will pass what is missing, the segment will go, and
    /// what was read badly now may be read well at the next start.
    pub(super) fn read(
        &mut self,
        after: u64,
        through: u64,
        count_max: usize,
    ) -> Result<(Vec<(u64, Open)>, u64), ReadError> {
        // A gap before the oldest that is left holds nothing.
        let left = |segment: &&Segment| segment.next_sequence > after + 1;
        let segments: Vec<Segment> = self.log.segments().iter().filter(left).cloned().collect();
        let oldest = segments.iter().map(|segment| segment.first_sequence).min();
        let Some(first) = oldest.map(|oldest| oldest.max(after + 1)).filter(|at| *at <= through)
        else {
            return Ok((Vec::new(), through));
        };
        let end = through.min(first.saturating_add(count_max as u64 - 1));
        for segment in &segments {
            if segment.damaged || segment.first_sequence > first {
                continue;
            }
            let end = end.min(segment.next_sequence - 1);
            if let Some(records) = read_clean(&*self.disk, segment, first, end)? {
                return Ok((records, end));
            }
        }
        // No good segment holds the first: what the bad ones hold, up to where another begins,
        // which may hold what these do not.
        let (bad, behind): (Vec<Segment>, Vec<Segment>) =
            segments.into_iter().partition(|segment| segment.first_sequence <= first);
        let last = bad.iter().map(|segment| segment.next_sequence - 1).max().unwrap_or(first);
        let next = behind.iter().map(|segment| segment.first_sequence).min().unwrap_or(u64::MAX);
        let end = end.min(last).min(next - 1);
        let mut records = BTreeMap::new();
        for segment in &bad {
            let salvaged = self.salvage(segment)?.iter().copied();
            records.extend(salvaged.filter(|(sequence, _)| (first..=end).contains(sequence)));
        }
        let missing = (first..=end).rev().find(|sequence| !records.contains_key(sequence));
        if let Some(missing) = missing {
            for segment in bad.iter().filter(|segment| !segment.damaged) {
                self.keep_aside(segment, missing)?;
            }
        }
        Ok((records.into_iter().collect(), end))
    }

    /// Keeps a copy of a segment of which records up to `missing` are missing: one that has what
    /// stood there, and another when the segment grew since, or when somebody took it away. Where
    /// the spool writes now: the segment's own disk may be given up (M3).
    fn keep_aside(&mut self, segment: &Segment, missing: u64) -> Result<(), ReadError> {
        let kept = self.rotten.get(&segment.path);
        if kept.is_some_and(|kept| missing < kept.next_sequence && self.disk.exists(&kept.copy)) {
            return Ok(());
        }
        let bytes = read_whole(&*self.disk, &segment.path)?;
        let copy = copy_aside_in(&*self.disk, self.log.directory(), &segment.path, &bytes)?;
        tracing::error!(
            segment = %segment.path.display(),
            copy = %copy.display(),
            missing,
            "this spool segment went bad since the start: a copy is kept, readable opens are \
             delivered, acknowledged ones may be missing"
        );
        let next_sequence = segment.next_sequence;
        self.rotten.insert(segment.path.clone(), Kept { copy, next_sequence });
        Ok(())
    }

    /// The readable records of a damaged segment. The one that is being written grows meanwhile.
    fn salvage(&mut self, segment: &Segment) -> Result<&[(u64, Open)], ReadError> {
        if self.salvaged.as_ref().is_none_or(|(read, _)| read != segment) {
            let bytes = read_whole(&*self.disk, &segment.path)?;
            let body = bytes.get(SEGMENT_HEADER_BYTES..).unwrap_or_default();
            let mut scan = Scan::new(body, segment.first_sequence);
            let mut records: Vec<Record<'_>> = scan.by_ref().collect();
            records.extend(scan.salvage());
            let opens = records
                .iter()
                .filter_map(|record| decode(record).ok().map(|open| (record.sequence, open)));
            self.salvaged = Some((segment.clone(), opens.collect()));
        }
        Ok(self.salvaged.as_ref().map_or(&[], |(_, records)| records.as_slice()))
    }
}

fn read_whole(disk: &dyn Disk, path: &Path) -> Result<Vec<u8>, ReadError> {
    let mut bytes = Vec::new();
    disk.open(path, Access::Read)
        .and_then(|file| file.read_to_end(&mut bytes))
        .map_err(read_error(path))?;
    Ok(bytes)
}

/// The records `first..=end` of a segment in which all records have the same size and follow one
/// another; `None` when they do not.
fn read_clean(
    disk: &dyn Disk,
    segment: &Segment,
    first: u64,
    end: u64,
) -> Result<Option<Vec<(u64, Open)>>, ReadError> {
    let file = disk.open(&segment.path, Access::Read).map_err(read_error(&segment.path))?;
    let length = usize::try_from((end - first + 1) * RECORD_BYTES).expect("bounded by count_max");
    let offset = SEGMENT_HEADER_BYTES as u64 + (first - segment.first_sequence) * RECORD_BYTES;
    let mut bytes = vec![0; length];
    match file.read_exact_at(&mut bytes, offset) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read.map_err(read_error(&segment.path))?,
    }
    let records: Result<Vec<_>, WireError> = Scan::new(&bytes, first)
        .map(|record| decode(&record).map(|open| (record.sequence, open)))
        .collect();
    Ok(records.ok().filter(|records| records.len() as u64 == end - first + 1))
}

fn decode(record: &Record<'_>) -> Result<Open, WireError> {
    if record.kind == KIND_OPEN {
        Open::decode(record.payload)
    } else {
        Err(WireError::Kind { kind: record.kind })
    }
}

const fn extent(segment: &Segment) -> retention::Extent {
    retention::Extent { last_sequence: segment.next_sequence - 1, bytes: segment.bytes }
}

fn read_error(path: &Path) -> impl FnOnce(io::Error) -> ReadError + '_ {
    move |error| ReadError::Io { path: path.to_owned(), error }
}
