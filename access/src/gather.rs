//! Events are gathered while they come thick. A thread that is woken for each packet pays a change
//! of context and two system calls for it; one that lets a period pass first finds ten of them at
//! ten thousand a second, and pays once. When events come rarely nobody waits: the pause begins
//! with the second of two wake-ups that lie close together. Figures: docs/decisions/0023.

use std::time::Duration;
use yao_engine::Timestamp;

/// Wake-ups that lie less than so many periods apart come thick: those that the pause itself has
/// drawn apart count as close.
const CLOSE_PERIODS: u32 = 2;

/// When a thread was last woken, and whether it may be at once again.
#[derive(Debug)]
pub(crate) struct Gather {
    /// From one wake-up to the next at least, while they come thick.
    period: Duration,
    woken_at: Timestamp,
    thick: bool,
}

impl Gather {
    pub(crate) const fn new(period: Duration, now: Timestamp) -> Self {
        Self { period, woken_at: now, thick: false }
    }

    /// The poller has returned.
    pub(crate) fn note_woken(&mut self, now: Timestamp) {
        self.thick = now.since(self.woken_at) < self.period * CLOSE_PERIODS;
        self.woken_at = now;
    }

    /// How long to let events gather, for a thread that has done all it knew of. Deadlines are part
    /// of what gathers: thousands of connections have one each, and each bears a period.
    pub(crate) fn pause(&self, now: Timestamp) -> Duration {
        if !self.thick {
            return Duration::ZERO;
        }
        self.period.saturating_sub(now.since(self.woken_at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_millis(1);

    fn us(us: u64) -> Timestamp {
        Timestamp::from_ns(1_000_000_000 + us * 1_000)
    }

    #[test]
    fn rare_events_never_wait() {
        let mut gather = Gather::new(PERIOD, us(0));
        for at in (1..50).map(|turn| turn * 2_000) {
            gather.note_woken(us(at));
            assert_eq!(gather.pause(us(at + 20)), Duration::ZERO);
        }
    }

    #[test]
    fn thick_events_wake_once_a_period() {
        // One event each 100 us; each is handled in 10 us.
        let mut gather = Gather::new(PERIOD, us(0));
        let (mut now, mut wakes) = (5_000, 0);
        while now < 105_000 {
            gather.note_woken(us(now));
            wakes += 1;
            now += 10;
            let pause = gather.pause(us(now));
            now += u64::try_from(pause.as_micros()).expect("short");
            now = now.next_multiple_of(100).max(now);
        }
        assert!((95..=102).contains(&wakes), "{wakes} wake-ups in 100 periods");
    }

    #[test]
    fn whoever_works_longer_than_a_period_never_waits() {
        let mut gather = Gather::new(PERIOD, us(0));
        gather.note_woken(us(1_500));
        assert_eq!(gather.pause(us(2_500)), Duration::ZERO);
        assert_eq!(gather.pause(us(1_700)), Duration::from_micros(800));
    }
}
