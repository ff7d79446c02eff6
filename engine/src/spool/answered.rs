//! What settlement has answered above the watermark: ranges of sequences, each with the digest of
//! the answer that its last record had.
//!
//! Ranges that touch become one, so that their number is that of the gaps between them. Never says
//! how far the watermark may move: what lies in the gaps is for [`delivery`](super::delivery).

use std::collections::BTreeMap;

/// One range, by its first sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) first: u64,
    pub(super) last: u64,
    /// BLAKE3 of the answer to the batch that ends here.
    pub(super) answer_digest: [u8; 32],
}

/// Ranges that neither overlap nor touch.
#[derive(Debug, Default)]
pub(super) struct Answered(BTreeMap<u64, Range>);

impl Answered {
    /// Enters a range.
    ///
    /// # Panics
    /// When some of it was answered before: a batch has one answer.
    pub(super) fn insert(&mut self, mut range: Range) {
        if let Some((_, before)) = self.0.range(..=range.last).next_back() {
            assert!(before.last < range.first, "nothing is answered twice");
            if before.last + 1 == range.first {
                range.first = before.first;
            }
        }
        if let Some(behind) = self.0.remove(&(range.last + 1)) {
            range.last = behind.last;
            range.answer_digest = behind.answer_digest;
        }
        self.0.insert(range.first, range);
    }

    pub(super) fn first(&self) -> Option<&Range> {
        self.0.first_key_value().map(|(_, range)| range)
    }

    pub(super) fn remove_first(&mut self) {
        self.0.pop_first();
    }

    /// The last sequence of the range that begins with `first`.
    pub(super) fn end_of(&self, first: u64) -> Option<u64> {
        self.0.get(&first).map(|range| range.last)
    }

    /// Where the next range behind `sequence` begins.
    pub(super) fn next_after(&self, sequence: u64) -> Option<u64> {
        self.0.range(sequence + 1..).next().map(|(first, _)| *first)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_touch_become_one_with_the_digest_of_its_end() {
        let mut answered = Answered::default();
        let range = |first, last| Range { first, last, answer_digest: [last as u8; 32] };
        for (first, last) in [(21, 30), (1, 10), (50, 60)] {
            answered.insert(range(first, last));
        }
        assert_eq!((answered.len(), answered.next_after(10)), (3, Some(21)));
        answered.insert(range(11, 20));
        assert_eq!((answered.len(), answered.first()), (2, Some(&range(1, 30))));
        answered.insert(range(31, 40));
        assert_eq!((answered.first(), answered.end_of(50)), (Some(&range(1, 40)), Some(60)));
        answered.remove_first();
        assert_eq!((answered.first(), answered.end_of(1)), (Some(&range(50, 60)), None));
    }

    #[test]
    #[should_panic(expected = "nothing is answered twice")]
    fn m7_no_record_is_answered_twice() {
        let mut answered = Answered::default();
        answered.insert(Range { first: 5, last: 9, answer_digest: [0; 32] });
        answered.insert(Range { first: 9, last: 12, answer_digest: [0; 32] });
    }
}
