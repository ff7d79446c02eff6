//! The pace of the backlog: an outage that ends must not be the beginning of another.
//!
//! After a batch the next one waits for as long as its records take at the configured rate, and at
//! random for up to a quarter longer, so that nodes that were cut off together do not come back in
//! step. Rest earns no credit: there is no burst. Never paces whoever opens now.

use crate::Timestamp;
use yao_protocol::Incarnation;

#[derive(Debug)]
pub(super) struct Pacer {
    ns_per_record: u64,
    due_at: Timestamp,
    /// State of the generator of waits. They need be different on each node, not unpredictable.
    random: u64,
}

impl Pacer {
    /// `records_per_second` at most; [`u32::MAX`] does not pace.
    pub(super) fn new(records_per_second: u32, incarnation: Incarnation) -> Self {
        let seed =
            incarnation.0.iter().fold(0_u64, |seed, byte| seed.rotate_left(5) ^ u64::from(*byte));
        let ns_per_record = match records_per_second {
            u32::MAX => 0,
            rate => 1_000_000_000_u64.div_ceil(u64::from(rate.max(1))),
        };
        Self { ns_per_record, due_at: Timestamp::default(), random: seed | 1 }
    }

    /// When the next batch may leave.
    pub(super) const fn due_at(&self) -> Timestamp {
        self.due_at
    }

    /// A batch of so many records leaves now.
    pub(super) fn spend(&mut self, now: Timestamp, records: usize) {
        let least = self.ns_per_record.saturating_mul(records as u64);
        let quarter = least / 4;
        let wait = least + quarter.saturating_mul(self.draw() % 1_024) / 1_024;
        self.due_at = now.plus_ns(wait);
    }

    /// xorshift64: different for each node and each batch, and that is all it must be.
    const fn draw(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_waits_as_long_as_the_one_before_it_takes_and_a_quarter_more_at_most() {
        let mut pacer = Pacer::new(1_000, Incarnation([7; 16]));
        let mut waits = Vec::new();
        let mut now = Timestamp::from_ns(5);
        assert!(pacer.due_at() <= now, "the first one leaves at once");
        for _ in 0..200 {
            pacer.spend(now, 256);
            waits.push(pacer.due_at().ns_since(now) / 1_000_000);
            now = pacer.due_at();
        }
        assert!(waits.iter().all(|ms| (256..=320).contains(ms)), "{waits:?}");
        assert!(waits.iter().any(|ms| *ms < 265) && waits.iter().any(|ms| *ms > 311), "spread");
        // Rest earns nothing.
        now = now.plus_ms(3_600_000);
        pacer.spend(now, 256);
        assert!(pacer.due_at() >= now.plus_ms(256));
    }

    #[test]
    fn no_two_nodes_keep_step() {
        let waits = |incarnation: u8| {
            let mut pacer = Pacer::new(1_000, Incarnation([incarnation; 16]));
            let wait = |_| {
                pacer.spend(Timestamp::default(), 256);
                pacer.due_at()
            };
            (0..8).map(wait).collect::<Vec<_>>()
        };
        assert_ne!(waits(1), waits(2));
        assert_eq!(waits(1), waits(1), "and a node can be played again");
    }
}
