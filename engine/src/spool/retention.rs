//! Which segments may be removed: the oldest settled ones, and only when the spool is too large,
//! for its bound or for its file system.

/// What matters of one segment, oldest first in a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Sequence of its last record.
    pub last_sequence: u64,
    /// Its size.
    pub bytes: u64,
}

/// Bytes that all segments together may have: `bytes_max`, or fewer when the file system has not
/// the room that the spool would still need before it raised an alarm: then settled segments go
/// before anybody is refused.
#[must_use]
pub fn keep_bytes(segments_bytes: u64, space_bytes: u64, bytes_max: u64) -> u64 {
    let wanted = bytes_max / 10 * 3;
    bytes_max.min(segments_bytes.saturating_sub(wanted.saturating_sub(space_bytes)))
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
    fn a_file_system_that_fills_up_takes_settled_segments_too() {
        assert_eq!(keep_bytes(500, u64::MAX, 1_000), 500);
        assert_eq!(keep_bytes(500, 300, 1_000), 500, "room enough: all may stay");
        assert_eq!(keep_bytes(500, 200, 1_000), 400);
        assert_eq!(keep_bytes(500, 0, 1_000), 200);
        assert_eq!(keep_bytes(100, 0, 1_000), 0);
        assert_eq!(keep_bytes(5_000, 300, 1_000), 1_000, "our own bound all the same");
    }

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
