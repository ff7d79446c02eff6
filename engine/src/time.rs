//! Time as the engine sees it: a number handed in. Never reads a clock.

use std::time::Duration;
use yao_protocol::WallTime;

/// Nanoseconds on a clock that never steps and counts suspend (CLOCK_BOOTTIME in production).
/// Serves every interval and deadline.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(u64);

impl Timestamp {
    /// Later than every deadline.
    pub const NEVER: Self = Self(u64::MAX);

    /// The instant `ns` nanoseconds after the clock's origin.
    #[must_use]
    pub const fn from_ns(ns: u64) -> Self {
        Self(ns)
    }

    /// Nanoseconds since the clock's origin.
    #[must_use]
    pub const fn as_ns(self) -> u64 {
        self.0
    }

    /// This much later, at most [`Self::NEVER`].
    #[must_use]
    pub const fn plus(self, duration: Duration) -> Self {
        self.plus_ns(duration_ns(duration))
    }

    /// This many nanoseconds later, at most [`Self::NEVER`].
    #[must_use]
    pub const fn plus_ns(self, ns: u64) -> Self {
        Self(self.0.saturating_add(ns))
    }

    /// This many milliseconds later, at most [`Self::NEVER`].
    #[must_use]
    pub const fn plus_ms(self, ms: u64) -> Self {
        self.plus_ns(ms.saturating_mul(1_000_000))
    }

    /// The time since `earlier`; zero when `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.ns_since(earlier))
    }

    /// Nanoseconds since `earlier`; zero when `earlier` is later.
    #[must_use]
    pub const fn ns_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

const fn duration_ns(duration: Duration) -> u64 {
    let ns = duration.as_nanos();
    if ns > u64::MAX as u128 { u64::MAX } else { ns as u64 }
}

/// One instant on both clocks: how a [`Timestamp`] is told as [`WallTime`] without asking a clock.
///
/// A process keeps one anchor for its life, so that a step of the wall clock moves neither T0 nor
/// the order of issue times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Anchor {
    /// The instant on the interval clock.
    pub at: Timestamp,
    /// The same instant in wall time.
    pub wall: WallTime,
}

impl Anchor {
    /// The wall time of `now`, rounded down to a microsecond.
    #[must_use]
    pub const fn wall(&self, now: Timestamp) -> WallTime {
        if now.0 >= self.at.0 {
            WallTime(self.wall.0.saturating_add((now.0 - self.at.0) / 1_000))
        } else {
            WallTime(self.wall.0.saturating_sub((self.at.0 - now.0).div_ceil(1_000)))
        }
    }

    /// The first instant whose [`Self::wall`] is at least `wall`; the clock's origin when that lies
    /// before it.
    #[must_use]
    pub const fn timestamp(&self, wall: WallTime) -> Timestamp {
        if wall.0 >= self.wall.0 {
            self.at.plus_ns((wall.0 - self.wall.0).saturating_mul(1_000))
        } else {
            Timestamp(self.at.0.saturating_sub((self.wall.0 - wall.0).saturating_mul(1_000)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_anchor_maps_both_ways() {
        let anchor = Anchor { at: Timestamp(5_000_000), wall: WallTime(1_000_000) };
        for ns in [0, 1, 999, 1_000, 4_999_999, 5_000_000, 5_000_999, 7_654_321] {
            let wall = anchor.wall(Timestamp(ns));
            let back = anchor.timestamp(wall);
            assert_eq!(anchor.wall(back), wall);
            assert!(back <= Timestamp(ns), "the first instant with that wall time, {ns}");
        }
    }
}
