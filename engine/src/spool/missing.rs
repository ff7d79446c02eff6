//! Records between the watermark and the frontier that cannot be read: nobody will ever settle
//! them, so they must not take room for ever.

use std::collections::VecDeque;

/// Ranges remembered at most, 16 bytes each. Each is a place of damage; of any more the records
/// count as unsettled until the watermark passes them.
const RANGES_MAX: usize = 4_096;

/// Ranges of sequences, rising.
#[derive(Debug, Default)]
pub(super) struct Missing {
    /// First and last of each.
    ranges: VecDeque<(u64, u64)>,
    count: u64,
}

impl Missing {
    /// How many records are missing above the watermark.
    pub(super) const fn count(&self) -> u64 {
        self.count
    }

    /// From `first` to `last`, if that is anything, nothing can be read. Behind all that came
    /// before.
    pub(super) fn add(&mut self, first: u64, last: u64) {
        if first > last || self.ranges.len() >= RANGES_MAX {
            return;
        }
        assert!(self.ranges.back().is_none_or(|(_, before)| *before < first), "ranges rise");
        self.ranges.push_back((first, last));
        self.count += last - first + 1;
    }

    /// The watermark has come to `settled`.
    pub(super) fn pass(&mut self, settled: u64) {
        while let Some((first, last)) = self.ranges.pop_front() {
            if first > settled {
                self.ranges.push_front((first, last));
                return;
            }
            self.count -= settled.min(last) - first + 1;
            if last > settled {
                self.ranges.push_front((settled + 1, last));
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_watermark_passed_is_no_longer_counted() {
        let mut missing = Missing::default();
        missing.add(5, 4);
        assert_eq!(missing.count(), 0);
        missing.add(5, 5);
        missing.add(7, 9);
        let counts: Vec<u64> = [4, 5, 6, 8, 8, 100]
            .into_iter()
            .map(|settled| {
                missing.pass(settled);
                missing.count()
            })
            .collect();
        assert_eq!(counts, [4, 3, 3, 1, 1, 0]);
    }

    #[test]
    fn no_damage_takes_much_memory() {
        let mut missing = Missing::default();
        (0..10_000).for_each(|n| missing.add(2 * n + 1, 2 * n + 1));
        assert_eq!(missing.count(), RANGES_MAX as u64);
        missing.pass(u64::MAX);
        assert_eq!(missing.count(), 0);
    }
}
