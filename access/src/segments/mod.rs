//! A log on disk in segments, as the journal and the spool are: appended records, group commit,
//! and [`recovery`] after a crash.
//!
//! Owns the files of one log, in one directory or, when another stands in for it, in several. Never
//! interprets payloads, never retries a failed sync (M3), never removes a segment unasked.

mod ranges;
pub mod recovery;

use crate::{
    disk::{Access, Disk, DiskFile},
    slot_file::{create_directory, directory_of},
};
use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};
use thiserror::Error;
use yao_protocol::{
    WireError,
    limits::LOG_SEGMENT_BYTES,
    log::{Record, SEGMENT_HEADER_BYTES, SegmentHeader},
};

pub use recovery::{Damage, Recovered};

/// What a log is called and how its segments begin.
#[derive(Clone, Copy, Debug)]
pub struct LogKind {
    /// First part of the file names.
    pub prefix: &'static str,
    /// Their extension.
    pub suffix: &'static str,
    /// First bytes of each segment.
    pub magic: [u8; 8],
    /// No record's payload is shorter, bytes.
    pub payload_bytes_min: usize,
}

impl LogKind {
    /// The journal of the issuer.
    pub const JOURNAL: Self = Self {
        prefix: "journal",
        suffix: "yaojournal",
        magic: yao_protocol::journal::MAGIC,
        payload_bytes_min: 0,
    };
    /// The spool of accepted opens.
    pub const SPOOL: Self = Self {
        prefix: "spool",
        suffix: "yaospool",
        magic: yao_protocol::spool::MAGIC,
        payload_bytes_min: yao_protocol::spool::OPEN_BYTES,
    };

    /// The name of the segment that starts with `first_sequence`.
    #[must_use]
    pub fn file_name(&self, first_sequence: u64) -> String {
        format!("{}-{first_sequence:020}.{}", self.prefix, self.suffix)
    }

    /// The first sequence in a segment's name; `None` for other files.
    #[must_use]
    pub fn first_sequence(&self, name: &str) -> Option<u64> {
        let digits = name.strip_prefix(self.prefix)?.strip_prefix('-')?;
        let digits = digits.strip_suffix(self.suffix)?.strip_suffix('.')?;
        if digits.len() == 20 { digits.parse().ok() } else { None }
    }
}

/// Why a log cannot be used.
#[derive(Debug, Error)]
pub enum SegmentError {
    /// The operating system refused.
    #[error("cannot {doing} {path}: {error}", path = path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On which file.
        path: PathBuf,
        /// The answer.
        error: io::Error,
    },
    /// A segment of another campaign or shard lies in the directory.
    #[error(
        "{path} belongs to campaign {found_campaign} shard {found_shard}, this node serves \
         campaign {campaign} shard {shard}; point node.state and spool.fallback at this node's own \
         directories",
        path = path.display()
    )]
    Foreign {
        /// The segment.
        path: PathBuf,
        /// What its header says.
        found_campaign: u64,
        /// What its header says.
        found_shard: u32,
        /// What the node serves.
        campaign: u64,
        /// What the node serves.
        shard: u32,
    },
    /// A whole record, checksum and all, holds what no version of this program writes.
    #[error("{path} record {sequence}: {error}", path = path.display())]
    Content {
        /// The segment.
        path: PathBuf,
        /// The record.
        sequence: u64,
        /// What is wrong with its payload.
        error: WireError,
    },
    /// An earlier write or sync failed: what is on disk is unknown until the next start.
    #[error("{path} is fenced since an earlier write failed; restart to read what is there",
        path = .0.display())]
    Fenced(PathBuf),
}

/// One segment on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where it is.
    pub path: PathBuf,
    /// Sequence of its first record.
    pub first_sequence: u64,
    /// Sequence after its last record; equals `first_sequence` while it is empty.
    pub next_sequence: u64,
    /// Bytes of header and records.
    pub bytes: u64,
    /// Whether recovery found bad bytes in it: its records do not follow one another gaplessly.
    pub damaged: bool,
}

/// The writing end of a log.
#[derive(Debug)]
pub struct SegmentLog {
    disk: Arc<dyn Disk>,
    /// Where segments may lie; new ones are made in `directories[place]`.
    directories: Vec<PathBuf>,
    place: usize,
    kind: LogKind,
    /// Header of the next segment but for its first sequence.
    template: SegmentHeader,
    /// Oldest first; `file`, when there is one, is the last of them.
    segments: Vec<Segment>,
    /// The segment that this process writes; none before its first record.
    file: Option<Box<dyn DiskFile>>,
    /// Encoded records above `committed`: those that are not known to be on disk.
    pending: Vec<u8>,
    /// Of these: bytes that `file` was given.
    written_bytes: usize,
    /// Sequence of the next record appended.
    next_sequence: u64,
    /// Highest sequence known to be on disk.
    committed: u64,
    /// Segments do not grow beyond this, unless one commit alone does.
    segment_bytes_max: u64,
    /// What a new segment takes from the file system at once; 0 = it grows with each commit.
    allocate_bytes: u64,
    /// Set by the first failed write or sync; only another directory ends it.
    fenced: bool,
}

impl SegmentLog {
    /// Opens the log in `directories`, creating the first if need be, and hands every valid record
    /// to `visit`, oldest first. Appending continues behind them, in a segment of its own in the
    /// first directory. What is missing up to `settled` was removed; `None` when nobody knows how
    /// much was.
    ///
    /// # Errors
    /// Those of the operating system, a foreign segment, and a payload that `visit` refuses.
    pub fn open(
        disk: &Arc<dyn Disk>,
        directories: &[&Path],
        kind: LogKind,
        (template, settled): (SegmentHeader, Option<u64>),
        visit: impl FnMut(&SegmentHeader, Record<'_>) -> Result<(), WireError>,
    ) -> Result<(Self, Recovered), SegmentError> {
        create_directory(&**disk, directories[0]).map_err(io_error("create", directories[0]))?;
        let (segments, recovered) =
            recovery::recover(&**disk, directories, kind, (&template, settled), visit)?;
        let log = Self {
            disk: Arc::clone(disk),
            directories: directories.iter().map(|directory| directory.to_path_buf()).collect(),
            place: 0,
            kind,
            template,
            segments,
            file: None,
            pending: Vec::new(),
            written_bytes: 0,
            next_sequence: recovered.next_sequence,
            committed: recovered.next_sequence - 1,
            segment_bytes_max: LOG_SEGMENT_BYTES,
            allocate_bytes: LOG_SEGMENT_BYTES,
            fenced: false,
        };
        Ok((log, recovered))
    }

    /// Closes segments at `bytes` rather than at [`LOG_SEGMENT_BYTES`]; tests need many of them, or
    /// one without end (`u64::MAX`), which grows with each commit.
    #[must_use]
    pub const fn with_segment_bytes_max(mut self, bytes: u64) -> Self {
        self.segment_bytes_max = bytes;
        self.allocate_bytes = if bytes == u64::MAX { 0 } else { bytes };
        self
    }

    /// Adds a record in memory and returns its sequence; [`Self::commit`] brings it to disk.
    pub fn append(&mut self, kind: u8, payload: &[u8]) -> u64 {
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        Record { kind, sequence, committed: self.committed, payload }.put(&mut self.pending);
        sequence
    }

    /// Bytes appended and not known to be on disk.
    #[must_use]
    pub fn pending_bytes(&self) -> usize {
        self.pending.len()
    }

    /// Sequence of the next record.
    #[must_use]
    pub const fn next_sequence(&self) -> u64 {
        self.next_sequence
    }

    /// Highest sequence known to be on disk; 0 before the first.
    #[must_use]
    pub const fn committed(&self) -> u64 {
        self.committed
    }

    /// Whether an earlier write or sync failed and no other directory has taken over since.
    #[must_use]
    pub const fn is_fenced(&self) -> bool {
        self.fenced
    }

    /// All segments, oldest first.
    #[must_use]
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Leaves a gap so that the next record has at least `sequence`. Only between commits.
    pub fn skip_to(&mut self, sequence: u64) {
        assert!(self.pending.is_empty(), "a gap lies between commits");
        if sequence > self.next_sequence {
            self.next_sequence = sequence;
            self.committed = sequence - 1;
            // The records of one segment follow one another: the next one opens another.
            self.file = None;
        }
    }

    /// Writes what was appended and syncs it; returns the highest sequence that is now on disk.
    ///
    /// # Errors
    /// The first error fences the log (M3): a failed sync may have dropped the pages, and the next
    /// one would report success without them. [`Self::move_on`] is the only way on.
    pub fn commit(&mut self) -> Result<u64, SegmentError> {
        self.write()?;
        self.sync()
    }

    /// Writes what was appended, without waiting for the disk.
    ///
    /// # Errors
    /// As [`Self::commit`].
    pub fn write(&mut self) -> Result<(), SegmentError> {
        self.check_fence()?;
        if self.pending.len() == self.written_bytes {
            return Ok(());
        }
        let result = self.write_pending();
        self.fenced = result.is_err();
        result
    }

    /// Waits until everything written is on disk; returns the highest sequence that is.
    ///
    /// # Errors
    /// As [`Self::commit`].
    pub fn sync(&mut self) -> Result<u64, SegmentError> {
        self.check_fence()?;
        let (Some(file), Some(segment)) = (&self.file, self.segments.last()) else {
            return Ok(self.committed);
        };
        if let Err(error) = file.sync_data() {
            self.fenced = true;
            return Err(io_error("sync", &segment.path)(error));
        }
        self.committed = segment.next_sequence - 1;
        self.pending.drain(..std::mem::take(&mut self.written_bytes));
        Ok(self.committed)
    }

    /// Leaves the directory that failed for the next one: what is not on disk is written there
    /// anew, in a segment of its own. The old file is never written or synced again (M3), and what
    /// it holds above [`Self::committed`] was promised to nobody. `false` when no other is left.
    pub fn move_on(&mut self) -> bool {
        if self.place + 1 == self.directories.len() {
            return false;
        }
        self.place += 1;
        self.fenced = false;
        if self.file.take().is_some()
            && let Some(left) = self.segments.last_mut()
        {
            left.next_sequence = self.committed + 1;
            left.bytes -= self.written_bytes as u64;
            if left.next_sequence == left.first_sequence {
                self.segments.pop();
            }
        }
        self.written_bytes = 0;
        true
    }

    fn write_pending(&mut self) -> Result<(), SegmentError> {
        let bytes = (self.pending.len() - self.written_bytes) as u64;
        let fits = |last: &Segment| {
            let empty = last.next_sequence == last.first_sequence;
            empty || last.bytes.saturating_add(bytes) <= self.segment_bytes_max
        };
        if self.file.is_none() || !self.segments.last().is_some_and(fits) {
            self.start_segment()?;
        }
        let file = self.file.as_ref().expect("started above");
        let segment = self.segments.last_mut().expect("started above");
        file.write_all_at(&self.pending[self.written_bytes..], segment.bytes)
            .map_err(io_error("write", &segment.path))?;
        segment.bytes += bytes;
        segment.next_sequence = self.next_sequence;
        self.written_bytes = self.pending.len();
        Ok(())
    }

    /// Opens a new segment for what is not written. The old one may hold records that are not
    /// synced yet: they are synced here, because `sync` only knows the newest file.
    fn start_segment(&mut self) -> Result<(), SegmentError> {
        let first_sequence = self.sync()? + 1;
        let directory = &self.directories[self.place];
        let path = directory.join(self.kind.file_name(first_sequence));
        let file = self.disk.open(&path, Access::Create).map_err(io_error("create", &path))?;
        let header = SegmentHeader { first_sequence, ..self.template };
        if let Err(error) = self.prepare(&*file, &path, &header) {
            // It holds no record: name and room are free again, if the disk still lets us.
            self.disk.remove(&path).ok();
            return Err(error);
        }
        self.segments.push(Segment {
            path,
            first_sequence,
            next_sequence: first_sequence,
            bytes: SEGMENT_HEADER_BYTES as u64,
            damaged: false,
        });
        self.file = Some(file);
        Ok(())
    }

    /// Gives a new segment its room, header and name on disk. All of them are there before the
    /// first record is, so that a segment without a whole header never holds one, and so that a
    /// full disk is known before anything is written.
    fn prepare(
        &self,
        file: &dyn DiskFile,
        path: &Path,
        header: &SegmentHeader,
    ) -> Result<(), SegmentError> {
        file.allocate(self.allocate_bytes).map_err(io_error("allocate room for", path))?;
        file.write_all_at(&header.encode(self.kind.magic), 0).map_err(io_error("write", path))?;
        file.sync_all().map_err(io_error("sync", path))?;
        let directory = directory_of(path);
        self.disk.sync_directory(directory).map_err(io_error("sync", directory))
    }

    /// Gives back the room behind the last record, when nothing more will be written. A start does
    /// the same, so nothing depends on it.
    pub fn trim(&self) {
        if let (Some(file), Some(segment), false) = (&self.file, self.segments.last(), self.fenced)
        {
            file.set_length(segment.bytes).ok();
        }
    }

    /// Room that the segment being written has taken and not used, bytes.
    #[must_use]
    pub fn room_bytes(&self) -> u64 {
        let used = self.segments.last().filter(|_| self.file.is_some()).map(|last| last.bytes);
        used.map_or(0, |used| self.allocate_bytes.saturating_sub(used))
    }

    /// Where new segments are made.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directories[self.place]
    }

    /// Bytes that a new segment takes from the file system at once.
    #[must_use]
    pub const fn allocate_bytes(&self) -> u64 {
        self.allocate_bytes
    }

    /// Removes the `count` oldest segments, never the one being written. Stops at the first that
    /// cannot be removed: without those behind it a start would miss records between it and them.
    ///
    /// # Errors
    /// That of the operating system; the log stays usable.
    pub fn remove_oldest(&mut self, count: usize) -> Result<(), SegmentError> {
        let closed = self.segments.len() - usize::from(self.file.is_some());
        for _ in 0..count.min(closed) {
            let path = &self.segments[0].path;
            match self.disk.remove(path) {
                // Its name was gone, and may come back: the directory was not synced.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                removed => removed.map_err(io_error("remove", path))?,
            }
            let directory = directory_of(path);
            self.disk.sync_directory(directory).map_err(io_error("sync", directory))?;
            self.segments.remove(0);
        }
        Ok(())
    }

    /// Breaks the disk under the segment being written: it takes every byte and syncs nothing.
    #[cfg(test)]
    pub(crate) fn break_disk(&mut self) {
        if let Some(file) = &mut self.file {
            *file = crate::disk::broken();
        }
    }

    fn check_fence(&self) -> Result<(), SegmentError> {
        if self.fenced { Err(SegmentError::Fenced(self.directory().to_owned())) } else { Ok(()) }
    }
}

/// Names the operation and the file in an error of the operating system.
fn io_error<'a>(
    doing: &'static str,
    path: &'a Path,
) -> impl FnOnce(io::Error) -> SegmentError + 'a {
    move |error| SegmentError::Io { doing, path: path.to_owned(), error }
}

#[cfg(test)]
mod tests;
