//! How long to wait after failures in a row: doubled each time, and spread, so that the nodes of a
//! fleet do not come back together. Pure.

/// First wait after a failure, ms; doubled with each failure in a row.
pub const BACKOFF_MS_MIN: u32 = 50;
/// Longest wait that we ask for by ourselves, ms.
const BACKOFF_MS_MAX: u32 = 5_000;

/// Failures in a row, and what to wait for them.
#[derive(Clone, Debug)]
pub struct Backoff {
    failures_in_a_row: u32,
    random: u64,
}

impl Backoff {
    /// No failure yet; `seed` makes these waits differ from those of others.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self { failures_in_a_row: 0, random: seed }
    }

    /// Something succeeded.
    pub const fn reset(&mut self) {
        self.failures_in_a_row = 0;
    }

    /// The wait after one more failure: between half of the doubled time and all of it.
    pub fn next_ms(&mut self) -> u32 {
        let doubled = BACKOFF_MS_MIN.saturating_mul(1 << self.failures_in_a_row.min(16));
        self.failures_in_a_row = self.failures_in_a_row.saturating_add(1);
        let whole = doubled.min(BACKOFF_MS_MAX);
        let half = whole / 2;
        half + u32::try_from(self.next_random() % u64::from(half + 1)).expect("at most half")
    }

    /// SplitMix64: spreading waits needs no better one.
    const fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
