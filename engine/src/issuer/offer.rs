//! How long what is queued has been on offer: what nobody could win was not overlooked.

use super::limits::CREDIT_NS;
use crate::time::Timestamp;

/// One step counts as at most so much of an offer, ns: while the process stood still nobody was
/// served.
const STEP_MAX_NS: u64 = CREDIT_NS / 2;

/// Time on offer, ns, in which whoever is here could win. A hold shorter than a second only stops
/// the count: a slow disk holds everything up every few hundred milliseconds, and a count that
/// began anew each time would never let H rise over what nobody here may take.
#[derive(Debug, Default)]
pub(super) struct Offer {
    stepped_at: Option<Timestamp>,
    offered_ns: u64,
    held_ns: u64,
}

impl Offer {
    /// The time since the last step went by; `open` says whether anybody could win in it.
    pub(super) fn step(&mut self, now: Timestamp, open: bool) {
        let passed = self.stepped_at.replace(now).map_or(0, |before| now.ns_since(before));
        if open {
            self.held_ns = 0;
            self.offered_ns += passed.min(STEP_MAX_NS).min(CREDIT_NS - self.offered_ns);
            return;
        }
        self.held_ns = self.held_ns.saturating_add(passed);
        if self.held_ns >= CREDIT_NS {
            self.offered_ns = 0;
        }
    }

    /// Whether it was on offer for the second in which a whole credit is earned.
    pub(super) const fn is_whole(&self) -> bool {
        self.offered_ns == CREDIT_NS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn m1_nothing_was_on_offer_before_the_first_step() {
        let mut offer = Offer::default();
        offer.step(Timestamp::from_ns(500 * CREDIT_NS), true);
        assert!(!offer.is_whole(), "a process that has just begun has offered nothing");
        for step in 1..=100 {
            assert!(!offer.is_whole(), "after {} ms", (step - 1) * 10);
            offer.step(Timestamp::from_ns(500 * CREDIT_NS + step * 10 * MS), true);
        }
        assert!(offer.is_whole());
    }

    #[test]
    fn a_slow_disk_stops_the_count_and_does_not_begin_it_anew() {
        let mut offer = Offer::default();
        let mut at = 0;
        // Held up for 300 ms, free for 100: what nobody takes is overlooked in the end.
        for _ in 0..10 {
            at += 300 * MS;
            offer.step(Timestamp::from_ns(at), false);
            at += 50 * MS;
            offer.step(Timestamp::from_ns(at), true);
            at += 50 * MS;
            offer.step(Timestamp::from_ns(at), true);
        }
        assert!(offer.is_whole());
        // One long hold: everybody who is here needs a second of his own.
        for _ in 0..4 {
            at += 300 * MS;
            offer.step(Timestamp::from_ns(at), false);
        }
        offer.step(Timestamp::from_ns(at + 999 * MS), true);
        assert!(!offer.is_whole());
    }

    #[test]
    fn m1_a_process_that_stood_still_offered_nothing_meanwhile() {
        let mut offer = Offer::default();
        offer.step(Timestamp::from_ns(0), true);
        offer.step(Timestamp::from_ns(30 * CREDIT_NS), true);
        assert!(!offer.is_whole());
    }
}
