//! A log on disk in segments, as the journal and the spool are: appended records, group commit,
//! and [`recovery`] after a crash.
//!
//! Owns the files of one log. Never interprets payloads, never retries a failed sync (M3), never
//! removes a segment unasked.

pub mod recovery;

use crate::{
    disk::{Access, Disk, DiskFile},
    slot_file::create_directory,
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
}

impl LogKind {
    /// The journal of the issuer.
    pub const JOURNAL: Self =
        Self { prefix: "journal", suffix: "yaojournal", magic: yao_protocol::journal::MAGIC };
    /// The spool of accepted opens.
    pub const SPOOL: Self =
        Self { prefix: "spool", suffix: "yaospool", magic: yao_protocol::spool::MAGIC };

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
         campaign {campaign} shard {shard}; point node.state at this node's own directory",
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
    directory: PathBuf,
    kind: LogKind,
    /// Header of the next segment but for its first sequence.
    template: SegmentHeader,
    /// Oldest first; `file`, when there is one, is the last of them.
    segments: Vec<Segment>,
    /// The segment that this process writes; none before its first record.
    file: Option<Box<dyn DiskFile>>,
    /// Encoded records that are not yet written.
    pending: Vec<u8>,
    /// Sequence of the first pending record; meaningless while there is none.
    pending_first: u64,
    /// Sequence of the next record appended.
    next_sequence: u64,
    /// Highest sequence known to be on disk.
    committed: u64,
    /// Segments longer than this are closed at the next commit.
    segment_bytes_max: u64,
    /// Set by the first failed write or sync, for ever.
    fenced: bool,
}

impl SegmentLog {
    /// Opens the log in `directory`, creating that if need be, and hands every valid record to
    /// `visit`, oldest first. Appending continues behind them, in a segment of its own.
    ///
    /// # Errors
    /// Those of the operating system, a foreign segment, and a payload that `visit` refuses.
    pub fn open(
        disk: &Arc<dyn Disk>,
        directory: &Path,
        kind: LogKind,
        template: SegmentHeader,
        visit: impl FnMut(&SegmentHeader, Record<'_>) -> Result<(), WireError>,
    ) -> Result<(Self, Recovered), SegmentError> {
        create_directory(&**disk, directory).map_err(|error| SegmentError::Io {
            doing: "create",
            path: directory.to_owned(),
            error,
        })?;
        let (segments, recovered) = recovery::recover(&**disk, directory, kind, &template, visit)?;
        let log = Self {
            disk: Arc::clone(disk),
            directory: directory.to_owned(),
            kind,
            template,
            segments,
            file: None,
            pending: Vec::new(),
            pending_first: recovered.next_sequence,
            next_sequence: recovered.next_sequence,
            committed: recovered.next_sequence - 1,
            segment_bytes_max: LOG_SEGMENT_BYTES,
            fenced: false,
        };
        Ok((log, recovered))
    }

    /// Closes segments at `bytes` rather than at [`LOG_SEGMENT_BYTES`]; tests need many of them.
    #[must_use]
    pub const fn with_segment_bytes_max(mut self, bytes: u64) -> Self {
        self.segment_bytes_max = bytes;
        self
    }

    /// Adds a record in memory and returns its sequence; [`Self::commit`] brings it to disk.
    pub fn append(&mut self, kind: u8, payload: &[u8]) -> u64 {
        let sequence = self.next_sequence;
        if self.pending.is_empty() {
            self.pending_first = sequence;
        }
        self.next_sequence += 1;
        Record { kind, sequence, committed: self.committed, payload }.put(&mut self.pending);
        sequence
    }

    /// Bytes appended and not yet committed.
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

    /// Whether an earlier write or sync failed.
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
    /// The first error fences the log for the life of the process (M3): a failed sync may have
    /// dropped the pages, and the next one would report success without them.
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
        if self.pending.is_empty() {
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
        Ok(self.committed)
    }

    fn write_pending(&mut self) -> Result<(), SegmentError> {
        let full = self.segments.last().is_some_and(|last| last.bytes >= self.segment_bytes_max);
        if self.file.is_none() || full {
            self.start_segment()?;
        }
        let file = self.file.as_ref().expect("started above");
        let segment = self.segments.last_mut().expect("started above");
        file.write_all_at(&self.pending, segment.bytes)
            .map_err(io_error("write", &segment.path))?;
        segment.bytes += self.pending.len() as u64;
        segment.next_sequence = self.next_sequence;
        self.pending.clear();
        Ok(())
    }

    /// Opens a new segment for the pending records. The old one may hold records that are not
    /// synced yet: they are synced here, because `sync` only knows the newest file.
    fn start_segment(&mut self) -> Result<(), SegmentError> {
        if let (Some(file), Some(segment)) = (&self.file, self.segments.last()) {
            file.sync_data().map_err(io_error("sync", &segment.path))?;
        }
        let first_sequence = self.pending_first;
        let path = self.directory.join(self.kind.file_name(first_sequence));
        let file = self.disk.open(&path, Access::Create).map_err(io_error("create", &path))?;
        let header = SegmentHeader { first_sequence, ..self.template };
        file.write_all_at(&header.encode(self.kind.magic), 0).map_err(io_error("write", &path))?;
        // Header and name are on disk before the first record is, so that a segment without a
        // whole header never holds one.
        file.sync_all().map_err(io_error("sync", &path))?;
        self.sync_directory()?;
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

    /// Removes the `count` oldest segments, never the one being written.
    ///
    /// # Errors
    /// Those of the operating system; the log stays usable.
    pub fn remove_oldest(&mut self, count: usize) -> Result<(), SegmentError> {
        let closed = self.segments.len() - usize::from(self.file.is_some());
        for segment in self.segments.drain(..count.min(closed)) {
            self.disk.remove(&segment.path).map_err(io_error("remove", &segment.path))?;
        }
        self.sync_directory()
    }

    fn sync_directory(&self) -> Result<(), SegmentError> {
        self.disk.sync_directory(&self.directory).map_err(io_error("sync", &self.directory))
    }

    fn check_fence(&self) -> Result<(), SegmentError> {
        if self.fenced { Err(SegmentError::Fenced(self.directory.clone())) } else { Ok(()) }
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
