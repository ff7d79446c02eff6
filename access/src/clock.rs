//! The only file that reads the operating system's clocks.

use rustix::time::{ClockId, clock_gettime};
use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};
use yao_engine::{Anchor, Timestamp};
use yao_protocol::WallTime;

/// The node's clock: CLOCK_BOOTTIME for intervals, anchored once to wall time at start.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    anchor: Anchor,
    /// The standard library's clock at the anchor, for libraries that know no other.
    instant: Instant,
    source: Source,
}

/// Where a clock's intervals come from.
#[derive(Clone, Copy, Debug)]
enum Source {
    /// CLOCK_BOOTTIME.
    System,
    /// Nanoseconds that somebody else owns: a simulator.
    Given(&'static AtomicU64),
}

impl Clock {
    /// Reads both clocks and ties them together for the life of the process.
    #[must_use]
    pub fn start() -> Self {
        // The wall clock is read between two readings of the interval clock; the earlier one makes
        // the anchor's wall time late rather than early by the time between, never early.
        let at = boot_now();
        let wall = wall_now();
        #[expect(clippy::disallowed_methods, reason = "read once; every other is derived from it")]
        let instant = Instant::now();
        Self { anchor: Anchor { at, wall }, instant, source: Source::System }
    }

    /// A clock that tells what somebody else sets, nanoseconds, and took it for `anchor` at start.
    #[must_use]
    pub fn given(anchor: Anchor, now_ns: &'static AtomicU64) -> Self {
        #[expect(clippy::disallowed_methods, reason = "for libraries that know no other clock")]
        let instant = Instant::now();
        Self { anchor, instant, source: Source::Given(now_ns) }
    }

    /// Now, for intervals and deadlines.
    #[must_use]
    #[inline]
    pub fn now(&self) -> Timestamp {
        match self.source {
            Source::System => boot_now(),
            Source::Given(now_ns) => Timestamp::from_ns(now_ns.load(Ordering::Relaxed)),
        }
    }

    /// Now as wall time, by the anchor: a step of the system's clock does not show here.
    #[must_use]
    pub fn wall(&self) -> WallTime {
        self.anchor.wall(self.now())
    }

    /// How the two clocks are tied.
    #[must_use]
    pub const fn anchor(&self) -> Anchor {
        self.anchor
    }

    /// `at` in the form that quinn wants.
    #[must_use]
    pub fn instant(&self, at: Timestamp) -> Instant {
        self.instant + Duration::from_nanos(at.ns_since(self.anchor.at))
    }

    /// The reverse of [`Clock::instant`].
    #[must_use]
    pub fn timestamp(&self, instant: Instant) -> Timestamp {
        self.anchor.at.plus(instant.saturating_duration_since(self.instant))
    }

    /// How far the system's wall clock has moved away from the anchor since start, microseconds;
    /// positive when the system's clock is ahead.
    #[must_use]
    pub fn wall_step_us(&self) -> i64 {
        let ours = self.wall().0;
        let system = wall_now().0;
        i64::try_from(i128::from(system) - i128::from(ours)).unwrap_or(i64::MAX)
    }
}

fn boot_now() -> Timestamp {
    let time = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).expect("the boot clock starts at zero");
    let nanoseconds = u64::try_from(time.tv_nsec).expect("nanoseconds are below 10^9");
    Timestamp::from_ns(seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds))
}

fn wall_now() -> WallTime {
    let time = clock_gettime(ClockId::Realtime);
    // A clock set before 1970 reads as 1970: no T0 lies there.
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let microseconds = u64::try_from(time.tv_nsec / 1_000).unwrap_or(0);
    WallTime(seconds.saturating_mul(1_000_000).saturating_add(microseconds))
}
