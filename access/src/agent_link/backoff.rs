//! How long to wait before an agent is started again. Pure.

use std::time::Duration;

/// First wait, ms; doubled with each failure.
const WAIT_MS_MIN: u64 = 100;
/// Longest wait, ms.
const WAIT_MS_MAX: u64 = 10_000;
/// An agent that served this long was healthy: its end begins a new series.
const HEALTHY: Duration = Duration::from_secs(30);

/// Failures in a row.
#[derive(Debug, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The wait after one more end of an agent, which had served for `served`.
    pub fn next_ms(&mut self, served: Duration) -> u64 {
        if served >= HEALTHY {
            self.failures = 0;
        }
        let wait_ms = (WAIT_MS_MIN << self.failures.min(16)).min(WAIT_MS_MAX);
        self.failures = self.failures.saturating_add(1);
        wait_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_to_ten_seconds_and_health_forgives() {
        let mut backoff = Backoff::default();
        let short = Duration::from_secs(29);
        let waits: Vec<u64> = (0..9).map(|_| backoff.next_ms(short)).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1_600, 3_200, 6_400, 10_000, 10_000]);
        assert_eq!(backoff.next_ms(HEALTHY), 100);
        assert_eq!(backoff.next_ms(Duration::ZERO), 200);
    }
}
