//! The spool's files, in its own directory and, once that has failed, in the fallback's: segments,
//! watermark, dead letters.
//!
//! The first error of any of them gives its directory up until the process ends: nothing there is
//! written or synced again (M3). What was not on disk is written anew in the other directory, and
//! only its sync there counts. Never decides what is acknowledged, delivered or removed.

use super::{
    SpoolError,
    dead_letters::DeadLetterFile,
    segments::{ReadError, SpoolSegments},
    watermark::WatermarkFile,
};
use crate::{
    disk::Disk,
    segments::{LogKind, Recovered, SegmentError, recovery::list},
    slot_file::create_directory,
};
use std::{path::Path, sync::Arc};
use yao_engine::spool::{DeadLetter, Index};
use yao_protocol::{
    log::SegmentHeader,
    spool::{Open, Watermark},
};

/// The name of a watermark's file.
pub(super) const WATERMARK_NAME: &str = "watermark.yaomark";

/// What one directory holds besides segments.
#[derive(Debug)]
struct Place {
    watermark: WatermarkFile,
    letters: DeadLetterFile,
}

/// The spool on disk.
#[derive(Debug)]
pub(super) struct Store {
    disk: Arc<dyn Disk>,
    places: Vec<Place>,
    /// Where is written; those before it have failed.
    current: usize,
    /// What the watermark says, in whichever place.
    latest: Watermark,
    segments: SpoolSegments,
}

impl Store {
    /// Opens what is in `directories`, the spool's own first, and enters every record in the index.
    ///
    /// # Errors
    /// Files of another node, and those of the operating system: a start reads and mends all of
    /// them.
    pub(super) fn open(
        disk: &Arc<dyn Disk>,
        directories: &[&Path],
        header: SegmentHeader,
    ) -> Result<(Self, Index, Recovered), SpoolError> {
        let own = directories[0];
        create_directory(&**disk, own).map_err(|error| SegmentError::Io {
            doing: "create",
            path: own.to_owned(),
            error,
        })?;
        let mut marks = Vec::new();
        for directory in directories {
            let (campaign, shard) = (header.campaign, header.shard);
            let mark = directory.join(WATERMARK_NAME);
            marks.push(WatermarkFile::open(&**disk, &mark, campaign, shard)?);
        }
        let own_mark = marks[0].as_ref().map(|(_, watermark)| watermark.settled);
        // Each of them was true when it was written, and no sequence is ever used again.
        let found = marks.iter().flatten().map(|(_, watermark)| *watermark);
        let found = found.max_by_key(|watermark| watermark.settled);
        let mut latest = found.unwrap_or(Watermark {
            campaign: header.campaign,
            shard: header.shard,
            settled: 0,
            answer_digest: [0; 32],
        });
        // Only the spool's own knows what was removed there. That of a fallback knows it as of the
        // moment when the spool went there, and nobody else does when the spool's disk is lost.
        let segments_of_own = list(&**disk, own, LogKind::SPOOL)?;
        let known = own_mark.is_some() || segments_of_own.is_empty();
        let settled = known.then_some(latest.settled);
        let (segments, index, recovered) = SpoolSegments::open(disk, directories, header, settled)?;
        // Only what is settled is ever removed.
        let removed = segments.first_sequence().map_or(0, |first| first - 1);
        if !known && latest.settled < removed {
            latest = Watermark { settled: removed, answer_digest: [0; 32], ..latest };
        }
        let mut places = Vec::new();
        for (directory, mark) in directories.iter().zip(marks) {
            // Made only now, with what it must say: a start that is interrupted leaves none that
            // says less.
            let watermark = match mark {
                Some((file, _)) => file,
                None => WatermarkFile::create(&**disk, &directory.join(WATERMARK_NAME), &latest)?,
            };
            let letters = DeadLetterFile::open(disk, directory).map_err(|error| {
                SpoolError::DeadLetters { path: directory.join("dead-letter.jsonl"), error }
            })?;
            places.push(Place { watermark, letters });
        }
        if own_mark.is_some_and(|settled| settled < latest.settled) {
            // The other may be given up and taken away: what it knows must not go with it.
            places[0].watermark.save(&latest)?;
        }
        let disk = Arc::clone(disk);
        let mut store = Self { disk, places, current: 0, latest, segments };
        store.segments.skip_to(latest.settled + 1);
        Ok((store, index, recovered))
    }

    /// The highest watermark that is on disk.
    #[must_use]
    pub(super) const fn settled(&self) -> u64 {
        self.latest.settled
    }

    /// Whether the spool's own directory has failed.
    #[must_use]
    pub(super) const fn is_on_fallback(&self) -> bool {
        self.current > 0
    }

    /// Adds a record in memory.
    pub(super) fn append(&mut self, sequence: u64, open: &Open) {
        self.segments.append(sequence, open);
    }

    /// Writes and syncs what was appended; returns the highest sequence on disk.
    ///
    /// # Errors
    /// When the last directory fails.
    pub(super) fn commit(&mut self) -> Result<u64, SpoolError> {
        loop {
            match self.segments.commit() {
                Ok(sequence) => return Ok(sequence),
                Err(error) => self.give_up(error.into())?,
            }
        }
    }

    /// Brings `watermark` to disk.
    ///
    /// # Errors
    /// When the last directory fails.
    pub(super) fn save(&mut self, watermark: &Watermark) -> Result<(), SpoolError> {
        loop {
            match self.places[self.current].watermark.save(watermark) {
                Ok(()) => {
                    self.latest = *watermark;
                    return Ok(());
                }
                Err(error) => self.give_up(error.into())?,
            }
        }
    }

    /// Brings a dead letter to disk.
    ///
    /// # Errors
    /// When the last directory fails.
    pub(super) fn keep(&mut self, letter: &DeadLetter) -> Result<(), SpoolError> {
        loop {
            let letters = &mut self.places[self.current].letters;
            match letters.append(letter) {
                Ok(()) => return Ok(()),
                Err(error) => {
                    let path = letters.path().to_owned();
                    self.give_up(SpoolError::DeadLetters { path, error })?;
                }
            }
        }
    }

    /// Reads records back: as [`SpoolSegments::read`], whatever became of their directory.
    ///
    /// # Errors
    /// [`ReadError`] when the operating system refuses.
    pub(super) fn read(
        &mut self,
        after: u64,
        through: u64,
        count_max: usize,
    ) -> Result<(Vec<(u64, Open)>, u64), ReadError> {
        self.segments.read(after, through, count_max)
    }

    /// Removes settled segments, oldest first, as far as bounds ask for it; returns the last
    /// sequence removed, if any. None while the fallback serves: the oldest lie in the directory
    /// that has failed, where nothing is touched, and without those behind them a start would miss
    /// what lay between.
    ///
    /// # Errors
    /// Those of the operating system; the spool stays usable.
    pub(super) fn remove_settled(
        &mut self,
        settled_on_disk: u64,
        bytes_max: u64,
    ) -> Result<Option<u64>, SegmentError> {
        if self.is_on_fallback() {
            return Ok(None);
        }
        self.segments.remove_settled(settled_on_disk, bytes_max)
    }

    /// Segments that went bad since the start.
    #[must_use]
    pub(super) fn rotten(&self) -> usize {
        self.segments.rotten()
    }

    /// Bytes of all segments.
    #[must_use]
    pub(super) fn bytes(&self) -> u64 {
        self.segments.bytes()
    }

    /// Bytes that can still be written where the spool writes: what the file system would give us,
    /// and what the segment being written has taken of it before. `None` when it does not say.
    #[must_use]
    pub(super) fn space_bytes(&self) -> Option<u64> {
        let free = self.disk.free_bytes(self.segments.directory()).ok()?;
        // With less than the next segment takes at once there is none: it would fail, and the
        // directory with it.
        let free = if free < self.segments.allocate_bytes() { 0 } else { free };
        Some(free.saturating_add(self.segments.room_bytes()))
    }

    /// At the end: gives back room that nothing more will be written to.
    pub(super) fn trim(&self) {
        self.segments.trim();
    }

    /// Goes on in the next directory, or hands the error back when there is none.
    fn give_up(&mut self, mut error: SpoolError) -> Result<(), SpoolError> {
        while self.segments.move_on() {
            self.current += 1;
            tracing::error!(
                event = "spool_disk_failed",
                %error,
                fallback = %self.segments.directory().display(),
                "the spool's own directory is given up until the next start; opens are stored in \
                 the fallback: mend that disk, then restart"
            );
            // Should the other disk never come back, this tells which records went with it.
            match self.places[self.current].watermark.save(&self.latest) {
                Ok(()) => return Ok(()),
                Err(another) => error = another.into(),
            }
        }
        Err(error)
    }

    /// Breaks the disk under the segment being written: it takes every byte and syncs nothing.
    #[cfg(test)]
    pub(super) fn break_disk(&mut self) {
        self.segments.break_disk();
    }

    /// Breaks the disk under the watermark.
    #[cfg(test)]
    pub(super) fn break_watermark(&mut self) {
        self.places[self.current].watermark.break_disk();
    }

    /// Closes segments at `bytes`; tests need many of them.
    #[cfg(test)]
    #[must_use]
    pub(super) fn with_segment_bytes_max(self, bytes: u64) -> Self {
        Self { segments: self.segments.with_segment_bytes_max(bytes), ..self }
    }
}
