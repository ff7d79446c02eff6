//! How fast clients are asked to leave: so many a second of the whole node, wherever its sessions
//! are. One for all threads; each takes of it what it can use. Never here: who is asked.

use crate::time::Timestamp;

/// Ns in a second: asking one client costs so many credits, a ns gives `per_second`.
const SECOND_NS: u64 = 1_000_000_000;
/// What nobody took is kept for this long, ns: several of the steps in which threads ask, so that
/// a late one loses nothing, and little enough that a rate stays a rate and not a burst.
const KEPT_NS: u64 = 100 * 1_000_000;

/// See the module. In any span of time at most rate x (span + [`KEPT_NS`]) clients are asked, or
/// one more than the rate; since the beginning at most rate x time.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    per_second: u32,
    /// Clients that may be asked, x [`SECOND_NS`].
    credit: u64,
    credit_at: Timestamp,
}

impl Pace {
    /// From now on `per_second` clients a second, at least one.
    #[must_use]
    pub fn new(now: Timestamp, per_second: u32) -> Self {
        Self { per_second: per_second.max(1), credit: 0, credit_at: now }
    }

    /// Clients a second.
    #[must_use]
    pub const fn per_second(&self) -> u32 {
        self.per_second
    }

    /// Another rate from now on, at least one a second. What was earned by the old one is kept as
    /// far as the new one allows.
    pub fn per_second_set(&mut self, now: Timestamp, per_second: u32) {
        self.earn(now);
        self.per_second = per_second.max(1);
        self.credit = self.credit.min(self.credit_max());
    }

    /// How many clients may be asked now, at most `wanted`. They count as asked unless they are
    /// given back.
    pub fn take(&mut self, now: Timestamp, wanted: u32) -> u32 {
        self.earn(now);
        let allowed = u32::try_from(self.credit / SECOND_NS).unwrap_or(u32::MAX).min(wanted);
        self.credit -= u64::from(allowed) * SECOND_NS;
        allowed
    }

    /// So many of those that were taken found nobody to ask.
    pub fn give_back(&mut self, unused: u32) {
        self.credit = (self.credit + u64::from(unused) * SECOND_NS).min(self.credit_max());
    }

    fn credit_max(&self) -> u64 {
        (u64::from(self.per_second) * KEPT_NS).max(SECOND_NS)
    }

    /// Threads look at their clocks and then wait for one another: one may come with an earlier
    /// `now` than the last.
    fn earn(&mut self, now: Timestamp) {
        let earned = now.ns_since(self.credit_at).saturating_mul(u64::from(self.per_second));
        self.credit = self.credit.saturating_add(earned).min(self.credit_max());
        self.credit_at = self.credit_at.max(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_ns(5_000_000_000 + ms * 1_000_000)
    }

    /// Threads that look every 20 ms, each at moments of its own, and want everything. Returns how
    /// many clients they may ask within `ms`.
    fn asked(pace: &mut Pace, threads: u64, ms: u64) -> u64 {
        let looks = (0..ms).flat_map(|ms| (0..threads).map(move |thread| (ms, thread)));
        let due = looks.filter(|(ms, thread)| ms % 20 == thread * 7 % 20);
        due.map(|(ms, _)| u64::from(pace.take(at(ms), u32::MAX))).sum()
    }

    #[test]
    fn the_rate_is_the_nodes_however_many_threads_ask() {
        for threads in [1, 2, 5, 64] {
            for per_second in [1, 3, 50, 1_000, 100_000] {
                let mut pace = Pace::new(at(0), per_second);
                let asked = asked(&mut pace, threads, 10_000);
                let due = u64::from(per_second) * 10;
                let step = u64::from(per_second).div_ceil(50) + 1;
                assert!(
                    (due - step..=due).contains(&asked),
                    "{asked} of {due} with {threads} threads"
                );
            }
        }
    }

    #[test]
    fn a_pause_is_not_made_up_by_a_burst() {
        let mut pace = Pace::new(at(0), 1_000);
        assert_eq!(pace.take(at(60_000), u32::MAX), 100);
        assert_eq!(pace.take(at(60_001), u32::MAX), 1);
        assert_eq!(pace.take(at(59_000), u32::MAX), 0, "a clock that was read earlier");
        assert_eq!(pace.take(at(60_002), u32::MAX), 1);
        let mut slow = Pace::new(at(0), 2);
        assert_eq!(slow.take(at(499), 1), 0, "the first is due when its time is over");
        assert_eq!(slow.take(at(60_000), u32::MAX), 1);
    }

    #[test]
    fn what_found_nobody_is_anothers() {
        let mut pace = Pace::new(at(0), 100);
        assert_eq!(pace.take(at(100), 32), 10);
        pace.give_back(7);
        assert_eq!(pace.take(at(100), 5), 5);
        assert_eq!(pace.take(at(100), 5), 2);
        pace.give_back(u32::MAX);
        assert_eq!(pace.take(at(100), u32::MAX), 10, "never more than is kept");
    }

    #[test]
    fn another_rate_holds_from_when_it_was_said() {
        let mut pace = Pace::new(at(0), 1_000);
        pace.per_second_set(at(50), 10);
        assert_eq!(pace.per_second(), 10);
        assert_eq!(pace.take(at(50), u32::MAX), 1, "of fifty, what the new rate keeps");
        assert_eq!(pace.take(at(149), u32::MAX), 0);
        assert_eq!(pace.take(at(150), u32::MAX), 1);
        pace.per_second_set(at(150), 0);
        assert_eq!(pace.take(at(1_150), u32::MAX), 1, "a rate of none would never end");
    }
}
