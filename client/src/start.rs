//! When the clients of an event come, and to which nodes, so that load spreads before there is any
//! server to say so. Pure: time and user come in.

use yao_protocol::{WallTime, endpoint::Endpoint};

/// The first connection of an event, staggered by region and user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StartPlan {
    /// When region 0 starts to come.
    pub start_at: WallTime,
    /// Over how long the users of a region are spread, ms; the next region follows then.
    pub interval_ms: u32,
    /// The user's region, counted from 0 in the order in which they come.
    pub region: u16,
}

impl StartPlan {
    /// T1, when this user comes: `start_at + region * interval + hash(user) % interval`.
    #[must_use]
    pub fn come_at(&self, user: u64) -> WallTime {
        let interval_ms = u64::from(self.interval_ms);
        let share_ms = mix(user).checked_rem(interval_ms).unwrap_or(0);
        let wait_ms = u64::from(self.region) * interval_ms + share_ms;
        WallTime(self.start_at.0.saturating_add(wait_ms.saturating_mul(1_000)))
    }

    /// How long from `now` until T1, ms, rounded up; `None` when it has passed.
    #[must_use]
    pub fn wait_ms(&self, now: WallTime, user: u64) -> Option<u64> {
        let wait_us = self.come_at(user).0.checked_sub(now.0)?;
        (wait_us > 0).then(|| wait_us.div_ceil(1_000))
    }
}

/// Sorts `endpoints` into the order in which `user` tries them: each user has an order of his own,
/// each endpoint is first for as many users as another, and the users of one that fails spread over
/// all others (rendezvous hashing).
pub fn sort_endpoints(endpoints: &mut [Endpoint], user: u64) {
    endpoints.sort_by_cached_key(|endpoint| {
        let text = endpoint.to_string();
        let hash = text.bytes().fold(mix(user), |hash, byte| mix(hash ^ u64::from(byte)));
        (hash, text)
    });
}

/// The output function of SplitMix64: a bijection that spreads neighbours.
const fn mix(value: u64) -> u64 {
    let mut bits = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    const START: WallTime = WallTime(1_000_000_000);

    fn plan(interval_ms: u32, region: u16) -> StartPlan {
        StartPlan { start_at: START, interval_ms, region }
    }

    #[test]
    fn a_region_comes_after_the_one_before_it_and_evenly() {
        let plan = plan(60_000, 3);
        let mut slices = [0_u32; 10];
        for user in 0..10_000 {
            let after_ms = (plan.come_at(user).0 - START.0) / 1_000 - 3 * 60_000;
            slices[usize::try_from(after_ms / 6_000).expect("small")] += 1;
        }
        assert!(slices.iter().all(|count| (850..1_150).contains(count)), "{slices:?}");
    }

    #[test]
    fn what_is_past_is_not_waited_for() {
        let check = |plan: StartPlan, now: u64, wait_ms: Option<u64>| {
            assert_eq!(plan.wait_ms(WallTime(now), 5), wait_ms, "{plan:?} at {now}");
        };
        check(plan(0, 9), START.0, None);
        check(plan(0, 9), START.0 - 1, Some(1));
        check(plan(0, 9), START.0 - 5_000, Some(5));
        let come_at = plan(1_000, 1).come_at(5).0;
        check(plan(1_000, 1), come_at, None);
        check(plan(1_000, 1), come_at + 1, None);
        check(plan(1_000, 1), come_at - 1_000_000, Some(1_000));
        let far = StartPlan { start_at: WallTime(u64::MAX), ..plan(u32::MAX, u16::MAX) };
        check(far, u64::MAX, None);
    }

    #[test]
    fn users_spread_over_endpoints_and_again_when_one_fails() {
        let names: Vec<Endpoint> =
            (0..5).map(|n| format!("tls+quic://node-{n}:443").parse().expect("good")).collect();
        let mut firsts: BTreeMap<(String, String), u32> = BTreeMap::new();
        for user in 0..20_000 {
            let mut order = names.clone();
            sort_endpoints(&mut order, user);
            let mut again = names.iter().rev().cloned().collect::<Vec<_>>();
            sort_endpoints(&mut again, user);
            assert_eq!(order, again, "the order of the list does not matter");
            *firsts.entry((order[0].to_string(), order[1].to_string())).or_default() += 1;
        }
        assert_eq!(firsts.len(), 20, "every pair of first and second");
        assert!(firsts.values().all(|count| (850..1_150).contains(count)), "{firsts:?}");
    }
}
