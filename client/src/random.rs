//! A small seeded generator (SplitMix64) for shake ids and jitter. Never for keys: it can be
//! predicted. The seed comes from outside, so that a run can be repeated.

/// The generator.
///
/// Invariant: its outputs do not repeat within 2^64 draws (the output function is a bijection of a
/// counter), so one client never uses a shake id twice in a life.
#[derive(Clone, Debug)]
pub struct Random {
    state: u64,
}

impl Random {
    /// A generator that repeats itself for the same seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// The next 64 bits.
    pub const fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.state;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// A number in `0..=most`, uniform up to 2^-64.
    pub const fn up_to(&mut self, most: u64) -> u64 {
        let product = self.next_u64() as u128 * (most as u128 + 1);
        (product >> 64) as u64
    }

    /// A number in `least..=most`; `least` when the range is empty.
    pub const fn between(&mut self, least: u64, most: u64) -> u64 {
        least + self.up_to(most.saturating_sub(least))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_repeats_itself_and_reaches_both_ends() {
        let draw = |seed| {
            let mut random = Random::new(seed);
            (0..64).map(|_| random.up_to(3)).collect::<Vec<_>>()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
        assert!((0..=3).all(|value| draw(7).contains(&value)));
        let mut random = Random::new(1);
        assert_eq!(random.between(9, 4), 9);
        assert_eq!(random.up_to(0), 0);
    }
}
