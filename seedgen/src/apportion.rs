//! Whole numbers shared out exactly, and counted without walking them. Pure arithmetic: knows no
//! packets, no money.

use crate::campaign::SHARE_WHOLE;
use std::ops::Range;

/// `total` shared by largest remainder; ties go to the earlier share. The parts sum to `total`.
///
/// `shares` are in hundredths of a percent and add up to the whole.
#[must_use]
pub fn largest_remainder(total: u64, shares: &[u32]) -> Vec<u64> {
    let whole = u128::from(SHARE_WHOLE);
    assert_eq!(shares.iter().sum::<u32>(), SHARE_WHOLE, "checked with the campaign");
    let exact = |share: &u32| u128::from(total) * u128::from(*share);
    let floor = |share| u64::try_from(exact(share) / whole).expect("no part exceeds the total");
    let mut parts: Vec<u64> = shares.iter().map(floor).collect();
    let mut order: Vec<usize> = (0..shares.len()).collect();
    order.sort_by_key(|position| std::cmp::Reverse(exact(&shares[*position]) % whole));
    let left = total - parts.iter().sum::<u64>();
    for position in order.into_iter().take(usize::try_from(left).expect("fewer than the shares")) {
        parts[position] += 1;
    }
    assert_eq!(parts.iter().sum::<u64>(), total, "a sharing loses nothing");
    parts
}

/// `total * part / whole`, rounded down, for `part <= whole`.
#[must_use]
pub fn proportion(total: u64, part: u64, whole: u64) -> u64 {
    assert!(part <= whole && whole > 0, "a part of something");
    u64::try_from(u128::from(total) * u128::from(part) / u128::from(whole))
        .expect("a part never exceeds its total")
}

/// How many numbers below `limit` leave `remainder` when divided by `modulus`.
#[must_use]
pub fn congruent_below(limit: u64, modulus: u32, remainder: u32) -> u64 {
    assert!(remainder < modulus, "a remainder is below its modulus");
    (limit + u64::from(modulus - 1 - remainder)) / u64::from(modulus)
}

/// A fixed, public permutation of 0..size that spreads every run of neighbours evenly:
/// `image(v) = v * stride mod size`, with the stride near size / golden ratio and coprime to it.
///
/// It is not secret and hides nothing; it only makes each shard's mix close to the whole's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scatter {
    size: u64,
    stride: u64,
}

impl Scatter {
    /// The scatter of 0..size. `size` is at least 1.
    #[must_use]
    pub fn new(size: u64) -> Self {
        assert!(size > 0, "nothing to scatter");
        let golden = proportion(size, 618_033_988_749, 1_000_000_000_000);
        // size - 1 is coprime to size, so the search ends below it; size 1 takes stride 0.
        let stride = (golden..).find(|stride| coprime(*stride, size)).expect("ends below size");
        Self { size, stride }
    }

    /// How many of `positions` have their image in `bucket`. Takes logarithmic time.
    #[must_use]
    pub fn count(&self, positions: Range<u64>, bucket: Range<u64>) -> u64 {
        assert!(positions.end <= self.size && bucket.end <= self.size, "inside the permutation");
        let below = |end: u64, limit: u64| self.count_below(end, limit);
        below(positions.end, bucket.end) + below(positions.start, bucket.start)
            - below(positions.start, bucket.end)
            - below(positions.end, bucket.start)
    }

    /// How many v < `end` have image(v) < `limit`. Each v contributes
    /// floor((v*stride + size) / size) - floor((v*stride + size - limit) / size).
    fn count_below(&self, end: u64, limit: u64) -> u64 {
        let (size, stride) = (u128::from(self.size), u128::from(self.stride));
        let count = floor_sum(u128::from(end), size, stride, size)
            - floor_sum(u128::from(end), size, stride, size - u128::from(limit));
        u64::try_from(count).expect("no more than `end`")
    }
}

/// The sum over i < count of floor((factor * i + offset) / modulus), by Euclid's algorithm. With
/// all arguments below 2^49 nothing overflows.
fn floor_sum(mut count: u128, mut modulus: u128, mut factor: u128, mut offset: u128) -> u128 {
    if count == 0 {
        return 0;
    }
    let mut sum = 0;
    loop {
        sum += count * (count - 1) / 2 * (factor / modulus) + count * (offset / modulus);
        factor %= modulus;
        offset %= modulus;
        let top = factor * count + offset;
        if top < modulus {
            return sum;
        }
        // Mirror the triangle of lattice points: rows become columns.
        (count, offset) = (top / modulus, top % modulus);
        (modulus, factor) = (factor, modulus);
    }
}

fn coprime(left: u64, right: u64) -> bool {
    let (mut greater, mut lesser) = (left, right);
    while lesser != 0 {
        (greater, lesser) = (lesser, greater % lesser);
    }
    greater == 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn remainders_go_to_the_largest_and_then_to_the_first() {
        let check = |total, shares: &[u32], expected: &[u64]| {
            assert_eq!(largest_remainder(total, shares), expected, "{total} {shares:?}");
        };
        check(10, &[3_333, 3_333, 3_334], &[3, 3, 4]);
        check(1, &[5_000, 5_000], &[1, 0]);
        check(7, &[1_250, 8_750], &[1, 6]);
        check(0, &[10_000], &[0]);
        check(u64::MAX, &[5_000, 5_000], &[u64::MAX / 2 + 1, u64::MAX / 2]);
    }

    proptest! {
        #[test]
        fn a_scatter_is_counted_as_it_is_walked(
            size in 1_u64..600,
            from in 0_u64..600, to in 0_u64..600,
            low in 0_u64..600, high in 0_u64..600,
        ) {
            let scatter = Scatter::new(size);
            let fit = |a: u64, b: u64| a.min(b).min(size)..a.max(b).min(size);
            let (positions, bucket) = (fit(from, to), fit(low, high));
            let images = positions.clone().map(|position| position * scatter.stride % size);
            let walked = images.filter(|image| bucket.contains(image)).count();
            prop_assert_eq!(scatter.count(positions, bucket), walked as u64);
        }

        #[test]
        fn a_scatter_is_a_permutation(size in 1_u64..2_000) {
            let scatter = Scatter::new(size);
            let images: std::collections::BTreeSet<u64> =
                (0..size).map(|v| v * scatter.stride % size).collect();
            prop_assert_eq!(images.len() as u64, size);
        }

        #[test]
        fn congruent_numbers_are_counted_as_they_are_walked(
            limit in 0_u64..500, modulus in 1_u32..50,
        ) {
            for remainder in 0..modulus {
                let walked = (0..limit).filter(|n| n % u64::from(modulus) == u64::from(remainder));
                prop_assert_eq!(congruent_below(limit, modulus, remainder), walked.count() as u64);
            }
        }
    }

    #[test]
    fn the_largest_scatter_does_not_overflow() {
        let size = (1 << 48) - 1;
        let scatter = Scatter::new(size);
        assert_eq!(scatter.count(0..size, 0..size), size);
        assert_eq!(scatter.count(0..size, 0..size / 3), size / 3);
    }
}
