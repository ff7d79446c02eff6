//! Amounts: how a lot's money falls into its packets, to the minor unit. Never decides a sum.

use crate::{
    derive::Random,
    plan::{Lot, Prizes},
};
use std::num::NonZeroU32;
use yao_protocol::SponsorId;

/// One packet before it has a moment: whose it is and what it holds, minor units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prize {
    /// What it holds, minor units; at least 1.
    pub amount: u32,
    /// Who pays.
    pub sponsor: SponsorId,
}

/// Appends the prizes of `lot`, in no useful order, to `prizes`.
pub fn draw_lot(random: &mut Random, lot: &Lot, prizes: &mut Vec<Prize>) {
    let start = prizes.len();
    let sponsor = lot.sponsor;
    match &lot.prizes {
        Prizes::Listed(rows) => {
            for row in rows {
                let amount = u32::try_from(row.amount.0).expect("the campaign bounds amounts");
                let count = usize::try_from(row.packets).expect("no more than a shard has");
                prizes.extend(std::iter::repeat_n(Prize { amount, sponsor }, count));
            }
        }
        Prizes::Drawn(sum) => {
            if let Some(packets) = NonZeroU32::new(lot.packets) {
                let limit = draw_limit(sum.0, packets);
                let draws =
                    (0..lot.packets).map(|_| Prize { amount: 1 + random.below(limit), sponsor });
                prizes.extend(draws);
                settle(&mut prizes[start..], sum.0, limit);
            }
        }
    }
    let drawn = &prizes[start..];
    assert_eq!(drawn.len() as u64, u64::from(lot.packets), "a lot keeps its count");
    assert_eq!(sum_of(drawn), lot.prizes.sum().0, "a lot keeps its sum");
}

/// The largest amount below twice the mean: a < 2 * sum / packets, in whole numbers. At least 1,
/// because the plan gives every packet at least one minor unit.
fn draw_limit(sum: u64, packets: NonZeroU32) -> NonZeroU32 {
    assert!(sum >= u64::from(packets.get()), "every packet holds at least one minor unit");
    let limit = (u128::from(sum) * 2 - 1) / u128::from(packets.get());
    u32::try_from(limit).ok().and_then(NonZeroU32::new).expect("the plan bounds every draw")
}

/// Spreads what the draws miss of `sum` (or have too much) evenly, keeping each in 1..=`limit`.
///
/// Every round hands each packet that has room the same share, rounded up; only packets that hit
/// their bound leave something for the next round.
fn settle(prizes: &mut [Prize], sum: u64, limit: NonZeroU32) {
    let drawn = sum_of(prizes);
    let (missing, bound) = if drawn <= sum { (sum - drawn, limit.get()) } else { (drawn - sum, 1) };
    let mut rest = missing;
    while rest > 0 {
        let open = prizes.iter().filter(|prize| prize.amount != bound).count() as u64;
        assert!(open > 0, "the bounds leave room for every sum the plan allows");
        let share = rest.div_ceil(open);
        for prize in prizes.iter_mut() {
            let room = prize.amount.abs_diff(bound);
            let step = u32::try_from(share.min(rest)).unwrap_or(u32::MAX).min(room);
            prize.amount = if drawn <= sum { prize.amount + step } else { prize.amount - step };
            rest -= u64::from(step);
        }
    }
}

fn sum_of(prizes: &[Prize]) -> u64 {
    prizes.iter().map(|prize| u64::from(prize.amount)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::derive::{CampaignKeys, Draw, Secret};
    use proptest::prelude::*;
    use yao_protocol::{CampaignId, Fen, ShardId, WaveIndex};

    fn random(secret: u8) -> Random {
        CampaignKeys::new(Secret::new([secret; 32]), CampaignId(1), [0; 32]).random(
            Draw::Amounts,
            ShardId(0),
            WaveIndex(0),
        )
    }

    fn drawn(secret: u8, packets: u32, sum: u64) -> Vec<Prize> {
        let lot = Lot { sponsor: SponsorId::default(), packets, prizes: Prizes::Drawn(Fen(sum)) };
        let mut prizes = Vec::new();
        draw_lot(&mut random(secret), &lot, &mut prizes);
        prizes
    }

    proptest! {
        #[test]
        fn a_drawn_lot_keeps_sum_and_bounds(
            secret: u8, packets in 1_u32..300, extra in 0_u64..100_000,
        ) {
            let sum = u64::from(packets) + extra;
            for prize in drawn(secret, packets, sum) {
                prop_assert!(prize.amount >= 1);
                prop_assert!(u64::from(prize.amount) * u64::from(packets) < 2 * sum);
            }
        }

        #[test]
        fn any_draws_are_settled(
            amounts in prop::collection::vec(1_u32..=20, 1..40), part in 0.0_f64..=1.0,
        ) {
            let limit = NonZeroU32::new(20).expect("not 0");
            let mut prizes: Vec<Prize> = amounts
                .iter()
                .map(|amount| Prize { amount: *amount, sponsor: SponsorId::default() })
                .collect();
            let (least, most) = (prizes.len() as u64, prizes.len() as u64 * 20);
            let sum = least + ((most - least) as f64 * part) as u64;
            settle(&mut prizes, sum, limit);
            prop_assert_eq!(sum_of(&prizes), sum);
            prop_assert!(prizes.iter().all(|prize| (1..=20).contains(&prize.amount)));
        }
    }

    #[test]
    fn draws_fill_the_whole_range_evenly() {
        let prizes = drawn(7, 100_000, 41_700_000);
        let below = |limit: u32| prizes.iter().filter(|prize| prize.amount < limit).count();
        // Uniform in 1..=833: quarters of 25,000 each, within five standard deviations (685).
        for (limit, expected) in [(209, 25_000_usize), (417, 50_000), (625, 75_000)] {
            assert!(below(limit).abs_diff(expected) < 900, "{limit}: {}", below(limit));
        }
        assert!(prizes.iter().any(|prize| prize.amount > 825));
        assert!(prizes.iter().any(|prize| prize.amount < 10));
    }

    #[test]
    fn the_smallest_lots_are_forced() {
        let amounts = |packets, sum| {
            drawn(1, packets, sum).iter().map(|prize| prize.amount).collect::<Vec<_>>()
        };
        assert_eq!(amounts(1, 977), [977]);
        assert_eq!(amounts(3, 3), [1, 1, 1]);
        assert!(amounts(0, 0).is_empty());
    }
}
