//! How long the next attempt is waited for, by two clocks of which neither will do alone. Pure:
//! both times come in.
//!
//! The client's own clock ([`Timestamp`]) stands still while the device is suspended: by it alone a
//! wait ends late by the whole sleep. The device's clock ([`WallTime`]) goes on, but it can be set.
//!
//! * A time of the day that was agreed (the plan of an event) is the device's clock's affair alone:
//!   it comes sooner or later as that clock is set.
//! * A wait of so many milliseconds, the server's or our own, is over when the first of both clocks
//!   says so. Set back, the device's clock changes nothing. Set forward, it cannot be told from a
//!   suspended device, and is believed: who slept through the server's hour must not wait for
//!   another one, and clocks are set one by one, while what the server guards against is many
//!   clients together.
//! * For the same reason nobody comes at once who finds the time gone when he looks: many look when
//!   the show tells them to. They come within the range of a first failure, at random.
//! * A small difference is a clock that is being slewed, and does not count: but for a jump, what
//!   the server asks for is obeyed to the millisecond.

use crate::{
    limits::{CLOCK_JUMP_MS_MIN, LOOK_MS_MAX},
    time::Timestamp,
};
use yao_protocol::WallTime;

/// See the module. The end by the client's own clock is kept elsewhere, where it can be hurried.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wait {
    /// The end by the device's clock; `None` once a jump of it has ended the wait.
    wall_at: Option<WallTime>,
    /// Whether that was agreed, so that the client's own clock only follows.
    agreed: bool,
}

impl Wait {
    /// Until this time of the day.
    pub(crate) const fn until(wall_at: WallTime) -> Self {
        Self { wall_at: Some(wall_at), agreed: true }
    }

    /// From now, which is `wall` by the device's clock, until `at`.
    pub(crate) const fn between(now: Timestamp, wall: WallTime, at: Timestamp) -> Self {
        let wait_us = at.ms_since(now).saturating_mul(1_000);
        Self { wall_at: Some(wall.plus_us(wait_us)), agreed: false }
    }

    /// Looks at both clocks, and moves `at`, the end by the client's own. Gives when to look again;
    /// `None` when the wait is over. `spread_ms` is drawn for who finds that he overslept.
    pub(crate) fn look(
        &mut self,
        now: Timestamp,
        wall: WallTime,
        at: &mut Timestamp,
        spread_ms: u64,
    ) -> Option<Timestamp> {
        if let Some(wall_at) = self.wall_at {
            let left_ms = wall_at.us_since(wall).div_ceil(1_000);
            let end = now.plus_ms(left_ms);
            let jumped = at.ms_since(end) >= CLOCK_JUMP_MS_MIN;
            if jumped && left_ms == 0 {
                *at = now.plus_ms(spread_ms).min(*at);
                self.wall_at = None;
            } else if jumped || self.agreed {
                *at = end;
            }
        }
        (now < *at).then(|| now.plus_ms(LOOK_MS_MAX).min(*at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MINUTE: u64 = 60_000;
    const HOUR: u64 = 60 * MINUTE;
    /// What the device's clock says when a test starts, ms.
    const WALL: u64 = 1_000 * HOUR;

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_ms(ms)
    }

    fn wall(ms: u64) -> WallTime {
        WallTime(ms * 1_000)
    }

    /// A wait of an hour looks, after `own_ms` by its own clock, at a device's clock that has moved
    /// by `wall_ms` meanwhile. Gives how much is left of it.
    fn left_ms(mut wait: Wait, own_ms: u64, wall_ms: i64) -> u64 {
        let mut end = at(HOUR);
        let wall_ms = WALL.checked_add_signed(wall_ms).expect("after 1970");
        let look_at = wait.look(at(own_ms), wall(wall_ms), &mut end, 700);
        let left_ms = end.ms_since(at(own_ms));
        let look_ms = look_at.map_or(0, |look_at| look_at.ms_since(at(own_ms)));
        assert_eq!(look_ms, left_ms.min(LOOK_MS_MAX), "it looks again soon");
        left_ms
    }

    fn asked() -> Wait {
        Wait::between(at(0), wall(WALL), at(HOUR))
    }

    fn agreed() -> Wait {
        Wait::until(wall(WALL + HOUR))
    }

    #[test]
    fn time_goes_on_while_the_device_is_suspended() {
        for wait in [asked(), agreed()] {
            assert_eq!(left_ms(wait, 5 * MINUTE, 5 * MINUTE as i64), 55 * MINUTE);
            assert_eq!(left_ms(wait, 5 * MINUTE, 30 * MINUTE as i64), 30 * MINUTE);
            assert_eq!(left_ms(wait, HOUR, HOUR as i64), 0);
        }
    }

    #[test]
    fn who_slept_too_long_comes_soon_but_not_at_once_and_that_is_final() {
        for mut wait in [asked(), agreed()] {
            let mut end = at(HOUR);
            let late = wall(WALL + 3 * HOUR);
            assert_eq!(wait.look(at(MINUTE), late, &mut end, 700), Some(at(MINUTE + 700)));
            assert_eq!(wait.look(at(MINUTE + 1), late, &mut end, 900), Some(at(MINUTE + 700)));
            let early = wall(WALL - HOUR);
            assert_eq!(wait.look(at(MINUTE + 2), early, &mut end, 0), Some(at(MINUTE + 700)));
            assert_eq!(wait.look(at(MINUTE + 700), early, &mut end, 900), None);
        }
    }

    #[test]
    fn a_clock_that_is_set_moves_the_plan_of_an_event() {
        let hour = HOUR as i64;
        assert_eq!(left_ms(agreed(), MINUTE, -hour), 2 * HOUR, "set back: held back");
        assert_eq!(left_ms(agreed(), MINUTE, hour / 2), HOUR / 2);
        assert_eq!(left_ms(agreed(), HOUR, hour - 3), 3, "to the millisecond");
        assert_eq!(left_ms(agreed(), HOUR - 3, hour), 0, "to the millisecond");
    }

    #[test]
    fn a_clock_that_is_set_back_or_slewed_does_not_change_what_the_server_asked_for() {
        let hour = HOUR as i64;
        assert_eq!(left_ms(asked(), MINUTE, -hour), 59 * MINUTE);
        assert_eq!(left_ms(asked(), HOUR, -hour), 0, "never longer than it said");
        let slewed = CLOCK_JUMP_MS_MIN - 1;
        assert_eq!(left_ms(asked(), HOUR - slewed, hour), slewed, "nor shorter");
    }

    proptest! {
        #[test]
        fn whatever_the_device_says_a_wait_is_over_in_time(
            wait_ms in 0..HOUR, steps in prop::collection::vec((1..MINUTE, any::<u64>()), 0..200),
        ) {
            let end_at = at(wait_ms);
            let mut end = end_at;
            let mut wait = Wait::between(at(0), wall(WALL), end);
            let mut now = at(0);
            for (step_ms, wall_us) in steps {
                let Some(look_at) = wait.look(now, WallTime(wall_us), &mut end, 700) else { break };
                prop_assert!(look_at > now && look_at <= now.plus_ms(LOOK_MS_MAX));
                prop_assert!(look_at <= end && end <= end_at);
                now = now.plus_ms(step_ms).min(look_at);
            }
            prop_assert_eq!(wait.look(end_at, WallTime(0), &mut end, 700), None);
        }
    }
}
