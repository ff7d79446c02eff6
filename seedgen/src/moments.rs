//! Winning moments: how many fall into each second is public and exact, when within the second is
//! secret. Never decides a count.

use crate::derive::Random;
use std::num::NonZeroU32;

/// Microseconds in a second: moments are drawn to the microsecond.
pub const SECOND_US: NonZeroU32 = NonZeroU32::new(1_000_000).expect("not 0");

/// Draws `count` moments in the second that starts at `start_us` into `moments` (emptied first),
/// in rising order. Two packets may share a moment.
pub fn draw_second(random: &mut Random, start_us: u64, count: u32, moments: &mut Vec<u64>) {
    moments.clear();
    moments.extend((0..count).map(|_| start_us + u64::from(random.below(SECOND_US))));
    moments.sort_unstable();
}
