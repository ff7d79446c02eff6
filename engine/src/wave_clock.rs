//! Time in a wave: from wall time to the offset since T0 and back, and the release curve.
//!
//! Everything is an exact integer, so that "never early" holds to the microsecond.

use yao_protocol::{WallTime, seed_file::Section};

/// A stretch of wall time in which the wave stood still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Halt {
    /// From when.
    pub from: WallTime,
    /// Until when; [`WallTime`]'s maximum while nobody knows.
    pub until: WallTime,
}

/// Maps wall time to the offset in a wave. A halt shifts every later moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaveClock {
    t0: WallTime,
    factor: u32,
    /// In order, not overlapping, none before T0.
    halts: Vec<Halt>,
}

impl WaveClock {
    /// A wave that starts at `t0` and runs `factor` (at least 1) times as fast as the clock.
    #[must_use]
    pub fn new(t0: WallTime, factor: u32) -> Self {
        assert!(factor >= 1, "the schedule refuses a factor of 0");
        Self { t0, factor, halts: Vec::new() }
    }

    /// The same wave with these halts, in order and not overlapping; parts before T0 do not count.
    #[must_use]
    pub fn with_halts(mut self, halts: Vec<Halt>) -> Self {
        let mut end = self.t0;
        for halt in &halts {
            assert!(halt.from >= end && halt.until >= halt.from, "halts are in order");
            end = halt.until;
        }
        self.halts = halts;
        self
    }

    /// T0.
    #[must_use]
    pub const fn t0(&self) -> WallTime {
        self.t0
    }

    /// How much faster than the clock wave time runs.
    #[must_use]
    pub const fn factor(&self) -> u32 {
        self.factor
    }

    /// Microseconds of wave time at `now`; `None` before T0.
    #[must_use]
    pub fn offset_us(&self, now: WallTime) -> Option<u64> {
        let mut running = now.0.checked_sub(self.t0.0)?;
        for halt in &self.halts {
            let stood = now.min(halt.until).us_since(halt.from);
            running -= stood.min(running);
        }
        Some(running.saturating_mul(u64::from(self.factor)))
    }

    /// The first wall time whose offset is at least `offset_us`.
    #[must_use]
    pub fn due(&self, offset_us: u64) -> WallTime {
        let mut due = self.t0.plus_us(offset_us.div_ceil(u64::from(self.factor)));
        for halt in &self.halts {
            if due > halt.from {
                due = due.plus_us(halt.until.us_since(halt.from));
            }
        }
        due
    }
}

/// The release curve of a section: how many packets have their moment by an offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Curve {
    /// Start offset, duration and packets of each segment.
    segments: Vec<(u64, u64, u32)>,
    end_us: u64,
}

/// One packet in the fixed-point numbers of [`Curve`] and of the issue credit.
pub const PACKET: u64 = 1_000_000;

impl Curve {
    /// The curve that a seed file's section states.
    #[must_use]
    pub fn new(section: &Section) -> Self {
        let mut end_us = 0;
        let segments = section
            .segments
            .iter()
            .map(|segment| {
                let start = end_us;
                end_us += segment.duration_us;
                (start, segment.duration_us, segment.packets)
            })
            .collect();
        Self { segments, end_us }
    }

    /// How long the wave lasts, microseconds of wave time.
    #[must_use]
    pub const fn end_us(&self) -> u64 {
        self.end_us
    }

    /// Packets that the plan has released at `offset_us`, in millionths. Rises; exact at the ends
    /// of segments.
    #[must_use]
    pub fn released(&self, offset_us: u64) -> u64 {
        self.segments
            .iter()
            .map(|(start, duration, packets)| {
                let into = offset_us.saturating_sub(*start).min(*duration);
                let part = u128::from(into) * u128::from(*packets) * u128::from(PACKET)
                    / u128::from(*duration);
                u64::try_from(part).expect("at most 2^32 packets in millionths")
            })
            .sum()
    }

    /// The steepest rate, millionths of a packet per second of wave time.
    #[must_use]
    pub fn rate_max(&self) -> u64 {
        self.segments.iter().map(segment_rate).max().unwrap_or(0)
    }

    /// The rate at `offset_us`, millionths of a packet per second of wave time; behind the end that
    /// of the last segment.
    #[must_use]
    pub fn rate(&self, offset_us: u64) -> u64 {
        let current = self.segments.iter().rev().find(|(start, _, _)| *start <= offset_us);
        current.map_or(0, segment_rate)
    }
}

fn segment_rate((_, duration, packets): &(u64, u64, u32)) -> u64 {
    let rate = u128::from(*packets) * u128::from(PACKET) * 1_000_000 / u128::from(*duration);
    u64::try_from(rate).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use yao_protocol::{Fen, PacketIndex, WaveIndex, seed_file::Segment};

    fn clock(factor: u32, halts: &[(u64, u64)]) -> WaveClock {
        let halt =
            |(from, until): &(u64, u64)| Halt { from: WallTime(*from), until: WallTime(*until) };
        WaveClock::new(WallTime(1_000), factor).with_halts(halts.iter().map(halt).collect())
    }

    #[test]
    fn offsets_by_hand() {
        let check = |clock: &WaveClock, now, expected| {
            assert_eq!(clock.offset_us(WallTime(now)), expected, "at {now}");
        };
        let plain = clock(1, &[]);
        check(&plain, 999, None);
        check(&plain, 1_000, Some(0));
        check(&plain, 1_007, Some(7));
        let halted = clock(10, &[(1_100, 1_300), (1_400, 1_500)]);
        check(&halted, 1_100, Some(1_000));
        check(&halted, 1_250, Some(1_000));
        check(&halted, 1_301, Some(1_010));
        check(&halted, 1_600, Some(3_000));
        assert_eq!(halted.due(1_000), WallTime(1_100));
        assert_eq!(halted.due(1_001), WallTime(1_301));
    }

    proptest! {
        #[test]
        fn due_is_the_first_microsecond_and_never_early(
            factor in 1_u32..1_000,
            offset in 0_u64..10_000_000,
            gaps in prop::collection::vec((0_u64..5_000, 0_u64..5_000), 0..4),
        ) {
            let mut end = 1_000;
            let halts: Vec<(u64, u64)> = gaps
                .iter()
                .map(|(gap, length)| {
                    let from = end + gap;
                    end = from + length;
                    (from, end)
                })
                .collect();
            let clock = clock(factor, &halts);
            let due = clock.due(offset);
            prop_assert!(clock.offset_us(due).expect("after T0") >= offset);
            if due > clock.t0() {
                let before = clock.offset_us(WallTime(due.0 - 1)).expect("not before T0");
                prop_assert!(before < offset);
            }
        }

        #[test]
        fn the_curve_rises_and_is_exact_at_the_end(
            parts in prop::collection::vec((1_u64..10_000_000, 0_u32..10_000), 1..6),
            offsets in prop::collection::vec(0_u64..60_000_000, 2),
        ) {
            let segments: Vec<Segment> = parts
                .iter()
                .map(|&(duration_us, packets)| Segment { duration_us, packets })
                .collect();
            let count = segments.iter().map(|segment| segment.packets).sum();
            let section = Section {
                wave: WaveIndex(0), first: PacketIndex(0), count, sum: Fen(0), segments,
            };
            let curve = Curve::new(&section);
            prop_assert_eq!(curve.released(curve.end_us()), u64::from(count) * PACKET);
            let (low, high) = (offsets[0].min(offsets[1]), offsets[0].max(offsets[1]));
            prop_assert!(curve.released(low) <= curve.released(high));
        }
    }
}
