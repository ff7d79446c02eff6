//! When a person shakes next. Knows no clock.

use std::time::Duration;
use yao_client::random::Random;

/// People shake a few times, look at the screen, and shake again.
pub(super) struct Rhythm {
    shake_every_ms: u64,
    left_in_burst: u64,
}

impl Rhythm {
    /// A rhythm somewhere in a burst, so that a crowd does not start in step.
    pub(super) fn new(shake_every_ms: u64, random: &mut Random) -> Self {
        Self { shake_every_ms, left_in_burst: random.up_to(5) }
    }

    /// The time to the next shake; `shake_every_ms` in the mean. A burst of n shakes has gaps of
    /// half that, give or take a half, and ends in a pause that makes up for them.
    pub(super) fn pause(&mut self, random: &mut Random) -> Duration {
        let half_ms = self.shake_every_ms.div_ceil(2);
        let mut pause_ms = random.between(half_ms / 2, half_ms + half_ms / 2);
        if self.left_in_burst == 0 {
            self.left_in_burst = random.between(2, 7);
            pause_ms += (self.left_in_burst + 1) * half_ms;
        } else {
            self.left_in_burst -= 1;
        }
        Duration::from_millis(pause_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rhythm_keeps_its_mean_and_is_uneven() {
        for mean_ms in [100, 1_000, 5_000] {
            let mut random = Random::new(mean_ms);
            let mut rhythm = Rhythm::new(mean_ms, &mut random);
            let pauses: Vec<u128> =
                (0..20_000).map(|_| rhythm.pause(&mut random).as_millis()).collect();
            let mean = pauses.iter().sum::<u128>() / 20_000;
            let wanted = u128::from(mean_ms);
            assert!((wanted * 95 / 100..=wanted * 105 / 100).contains(&mean), "{mean} ms");
            assert!(pauses.iter().any(|pause| *pause > wanted * 2), "people look at the screen");
            assert!(pauses.iter().any(|pause| *pause < wanted / 2), "and shake fast");
        }
    }
}
