//! The only reading of the clocks: when something is settled or granted.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use yao_protocol::WallTime;

/// Wall time of one life of the process: read once, then carried by a clock that never steps, so
/// that a step of the system's clock neither ends a grant early nor prolongs one.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    started: Instant,
    wall: Duration,
}

impl Clock {
    /// Ties the two clocks together.
    #[must_use]
    pub fn start() -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { started: Instant::now(), wall }
    }

    /// Now.
    #[must_use]
    pub fn wall(&self) -> WallTime {
        let now = self.wall + self.started.elapsed();
        WallTime(u64::try_from(now.as_micros()).unwrap_or(u64::MAX))
    }
}
