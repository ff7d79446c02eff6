//! Which segments may be removed: the oldest settled ones, and only when the spool is too large.

/// What matters of one segment, oldest first in a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Sequence of its last record.
    pub last_sequence: u64,
    /// Its size.
    pub bytes: u64,
}

/// How many of the oldest segments to remove so that at most `bytes_max` remain. A segment with a
/// record above `settled_on_disk`, the watermark that a restart would find, never goes.
#[must_use]
pub fn removable_count(segments: &[Extent], settled_on_disk: u64, bytes_max: u64) -> usize {
    let mut bytes: u64 = segments.iter().map(|segment| segment.bytes).sum();
    let mut count = 0;
    for segment in segments {
        if bytes <= bytes_max || segment.last_sequence > settled_on_disk {
            break;
        }
        bytes -= segment.bytes;
        count += 1;
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_settled_segments_go_and_only_when_there_are_too_many_bytes() {
        let segments: Vec<Extent> =
            (1..=4).map(|n| Extent { last_sequence: n * 10, bytes: 100 }).collect();
        let check = |settled, bytes_max, expected| {
            assert_eq!(
                removable_count(&segments, settled, bytes_max),
                expected,
                "settled {settled}, at most {bytes_max} bytes"
            );
        };
        check(40, 400, 0);
        check(40, 399, 1);
        check(40, 0, 4);
        check(20, 0, 2);
        check(19, 0, 1);
        check(9, 0, 0);
    }
}
