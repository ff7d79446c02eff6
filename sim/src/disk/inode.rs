//! One file: what processes read, what the medium holds, and the ranges in which they may differ.

use super::SECTOR_BYTES;
use crate::random::Random;
use std::ops::Range;

/// A file without its name.
#[derive(Clone, Debug)]
pub(super) struct Inode {
    pub(super) born_ns: u64,
    pub(super) modified_ns: u64,
    /// The page cache.
    pub(super) cached: Vec<u8>,
    /// The medium.
    pub(super) durable: Vec<u8>,
    /// Written and not synced, in the order of the writes.
    dirty: Vec<Range<usize>>,
    /// The length was changed by a cut that is not synced.
    cut: bool,
}

impl Inode {
    pub(super) const fn new(now_ns: u64) -> Self {
        Self {
            born_ns: now_ns,
            modified_ns: now_ns,
            cached: Vec::new(),
            durable: Vec::new(),
            dirty: Vec::new(),
            cut: false,
        }
    }

    pub(super) fn write(&mut self, start: usize, bytes: &[u8], now_ns: u64) {
        if bytes.is_empty() {
            return;
        }
        let end = start + bytes.len();
        if self.cached.len() < end {
            self.cached.resize(end, 0);
        }
        self.cached[start..end].copy_from_slice(bytes);
        self.dirty.push(start..end);
        self.modified_ns = now_ns;
    }

    pub(super) fn set_length(&mut self, length: usize, now_ns: u64) {
        self.cut |= length < self.cached.len();
        self.cached.resize(length, 0);
        for range in &mut self.dirty {
            range.end = range.end.min(length);
            range.start = range.start.min(range.end);
        }
        self.modified_ns = now_ns;
    }

    /// Everything written is on the medium.
    pub(super) fn sync(&mut self) {
        if std::mem::take(&mut self.cut) {
            self.durable.truncate(self.cached.len());
        }
        for range in std::mem::take(&mut self.dirty) {
            self.store(range);
        }
    }

    fn store(&mut self, range: Range<usize>) {
        if self.durable.len() < range.end {
            self.durable.resize(range.end, 0);
        }
        self.durable[range.clone()].copy_from_slice(&self.cached[range]);
    }

    /// A sync failed: all pages count as clean, and the content of none, or of any but some,
    /// reaches the medium.
    pub(super) fn fail_sync(&mut self, random: &mut Random) {
        let dirty = std::mem::take(&mut self.dirty);
        if random.chance(500) {
            for sector in dirty.into_iter().flat_map(sectors) {
                if random.chance(700) {
                    self.store(sector);
                }
            }
        }
        self.cut = false;
    }

    /// Clean pages are read anew from the medium.
    pub(super) fn drop_clean(&mut self) {
        if self.dirty.is_empty() && !self.cut {
            self.cached.clone_from(&self.durable);
        }
    }

    /// Of what was not synced, nothing survives, or everything, or the first part of it, or any
    /// sectors of it.
    pub(super) fn power_cut(&mut self, random: &mut Random) {
        let way = random.below(4);
        if way == 1 {
            self.sync();
        } else if way > 1 {
            if self.cut && random.chance(500) {
                self.durable.truncate(self.cached.len());
            }
            let dirty = std::mem::take(&mut self.dirty);
            let sectors: Vec<Range<usize>> = dirty.into_iter().flat_map(sectors).collect();
            let first = random.index(sectors.len() + 1);
            for (place, sector) in sectors.into_iter().enumerate() {
                let survives = if way == 2 { place < first } else { random.chance(500) };
                if survives {
                    self.store(sector);
                }
            }
        }
        self.dirty.clear();
        self.cut = false;
        self.cached.clone_from(&self.durable);
    }

    pub(super) fn rot(&mut self, offset: usize, bit: u8) {
        for content in [&mut self.cached, &mut self.durable] {
            if let Some(byte) = content.get_mut(offset) {
                *byte ^= 1 << (bit % 8);
            }
        }
    }
}

/// The range, cut where sectors end.
fn sectors(range: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let mut at = range.start;
    std::iter::from_fn(move || {
        let end = (at / SECTOR_BYTES + 1) * SECTOR_BYTES;
        let sector = at..end.min(range.end);
        at = sector.end;
        (!sector.is_empty()).then_some(sector)
    })
}
