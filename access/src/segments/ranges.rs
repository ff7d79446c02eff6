//! Sequences as the ranges they form: those of a log without gaps are one.

use std::ops::Range;

/// Rising ranges that neither touch nor overlap.
#[derive(Debug, Default)]
pub(super) struct Ranges(Vec<Range<u64>>);

impl Ranges {
    /// Whether `sequence` is among them.
    pub(super) fn contains(&self, sequence: u64) -> bool {
        let at = self.0.partition_point(|range| range.end <= sequence);
        self.0.get(at).is_some_and(|range| range.start <= sequence)
    }

    /// Adds `sequence`; `false` when it was there.
    pub(super) fn insert(&mut self, sequence: u64) -> bool {
        // The first that ends at it or behind it: it holds it, or may touch it.
        let at = self.0.partition_point(|range| range.end < sequence);
        match self.0.get_mut(at) {
            Some(range) if range.contains(&sequence) => return false,
            Some(range) if range.end == sequence => {
                range.end += 1;
                let end = range.end;
                if let Some(next) = self.0.get(at + 1).filter(|next| next.start == end) {
                    self.0[at].end = next.end;
                    self.0.remove(at + 1);
                }
            }
            Some(range) if range.start == sequence + 1 => range.start = sequence,
            _ => self.0.insert(at, sequence..sequence + 1),
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn they_hold_what_a_set_holds(sequences in prop::collection::vec(1..40_u64, 0..60)) {
            let (mut ranges, mut set) = (Ranges::default(), BTreeSet::new());
            for sequence in sequences {
                prop_assert_eq!(ranges.insert(sequence), set.insert(sequence));
                prop_assert!(ranges.0.windows(2).all(|pair| pair[0].end < pair[1].start));
            }
            for sequence in 0..42 {
                prop_assert_eq!(ranges.contains(sequence), set.contains(&sequence));
            }
        }
    }
}
