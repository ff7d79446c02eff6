//! How long a network lets a connection rest, learned by trying. Pure; one per network, carried
//! from connection to connection.
//!
//! Networks forget silent connections after a while that they tell nobody. Each heartbeat that was
//! answered after a rest lets the next rest be longer; one that was not makes it shorter, and
//! from then on only many answers lengthen it.

use crate::limits::{HEARTBEAT_MS_FIRST, HEARTBEAT_PROOFS};

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rhythm {
    /// The rest to aim at, ms, before anybody's bounds.
    rest_ms: u64,
    /// Whether a connection died of resting here.
    cautious: bool,
    /// Rests of nearly `rest_ms` that were borne since it last changed.
    proof_count: u32,
}

impl Default for Rhythm {
    fn default() -> Self {
        Self { rest_ms: HEARTBEAT_MS_FIRST, cautious: false, proof_count: 0 }
    }
}

impl Rhythm {
    /// The rest to aim at, ms.
    #[must_use]
    pub const fn rest_ms(self) -> u64 {
        self.rest_ms
    }

    /// The connection was alive after resting for `rested_ms`; `most_ms` is the longest rest that
    /// the server takes.
    pub fn handle_borne(&mut self, rested_ms: u64, most_ms: u64) {
        // A short rest proves nothing about a longer one.
        if rested_ms < self.rest_ms / 2 {
            return;
        }
        self.proof_count += 1;
        if !self.cautious || self.proof_count >= HEARTBEAT_PROOFS {
            self.proof_count = 0;
            let longer_ms = self.rest_ms + self.rest_ms / if self.cautious { 8 } else { 4 };
            self.rest_ms = longer_ms.min(most_ms.max(self.rest_ms));
        }
    }

    /// The connection was dead after resting for `rested_ms`; `least_ms` is the shortest rest that
    /// the server wants.
    pub fn handle_died(&mut self, rested_ms: u64, least_ms: u64) {
        self.rest_ms = (rested_ms.min(self.rest_ms) / 2).max(least_ms);
        self.cautious = true;
        self.proof_count = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Rests as the rhythm says on a network that forgets after `forgets_ms`; gives how many
    /// connections died, and the last rest.
    fn live(rhythm: &mut Rhythm, heartbeats: u32, forgets_ms: u64, least_ms: u64) -> (u32, u64) {
        let mut deaths = 0;
        for _ in 0..heartbeats {
            let rested_ms = rhythm.rest_ms().clamp(least_ms, 200_000);
            if rested_ms < forgets_ms {
                rhythm.handle_borne(rested_ms, 200_000);
            } else {
                rhythm.handle_died(rested_ms, least_ms);
                deaths += 1;
            }
        }
        (deaths, rhythm.rest_ms())
    }

    #[test]
    fn a_patient_network_is_soon_left_in_peace() {
        let mut rhythm = Rhythm::default();
        assert_eq!(live(&mut rhythm, 12, u64::MAX, 1_000), (0, 200_000));
    }

    #[test]
    fn an_impatient_network_costs_few_connections() {
        let mut rhythm = Rhythm::default();
        let (deaths, rest_ms) = live(&mut rhythm, 200, 31_000, 1_000);
        assert!(deaths <= 4, "{deaths} of 200");
        assert!((15_000..31_000).contains(&rest_ms), "{rest_ms}");
    }

    #[test]
    fn what_is_short_for_another_reason_proves_nothing() {
        let mut rhythm = Rhythm::default();
        for _ in 0..100 {
            rhythm.handle_borne(HEARTBEAT_MS_FIRST / 2 - 1, 200_000);
        }
        assert_eq!(rhythm, Rhythm::default());
    }

    proptest! {
        #[test]
        fn rests_stay_inside_what_servers_state(
            steps in prop::collection::vec((any::<bool>(), 0_u64..400_000), 0..200),
        ) {
            let mut rhythm = Rhythm::default();
            for (borne, rested_ms) in steps {
                if borne {
                    rhythm.handle_borne(rested_ms, 200_000);
                } else {
                    rhythm.handle_died(rested_ms, 10_000);
                }
                prop_assert!((10_000..=200_000).contains(&rhythm.rest_ms()));
            }
        }
    }
}
