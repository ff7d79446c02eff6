//! How full the spool is, and what follows from it: an alarm, slower issuing, refused opens
//! (spool-file.md 5).
//!
//! Room is the lesser of what `bytes_max` and the file system leave. A level is left again only
//! when a twentieth of `bytes_max` more is free than where it began: nothing flaps.
//!
//! Never refuses anything itself: see [`intake`](super::intake).

use super::RECORD_BYTES;

/// What fullness calls for; each level calls for what those before it do, too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// There is room.
    #[default]
    Normal,
    /// From 70 %: somebody should look why settlement does not answer, or what fills the disk.
    Alarm,
    /// From 85 %: half as many packets are issued, for what cannot be opened should not be given.
    Slow,
    /// From 95 %: nothing is issued, and new opens are refused.
    Full,
}

/// How much must be free again, per mille, before a level is left.
const HYSTERESIS_PERMILLE: u64 = 50;

impl Level {
    const ALL: [Self; 4] = [Self::Normal, Self::Alarm, Self::Slow, Self::Full];

    /// Where it begins, per mille of `bytes_max`.
    const fn begins_at(self) -> u64 {
        match self {
            Self::Normal => 0,
            Self::Alarm => 700,
            Self::Slow => 850,
            Self::Full => 950,
        }
    }

    /// The highest level that has begun at `permille`.
    fn at(permille: u64) -> Self {
        let begun = |level: &Self| level.begins_at() <= permille;
        Self::ALL.into_iter().rfind(begun).expect("the first one begins at 0")
    }

    /// What the issuer may give out, in hundredths of what it otherwise would.
    #[must_use]
    pub const fn issue_percent(self) -> u8 {
        match self {
            Self::Normal | Self::Alarm => 100,
            Self::Slow => 50,
            Self::Full => 0,
        }
    }

    /// One word for logs and `/status`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Alarm => "alarm",
            Self::Slow => "slow",
            Self::Full => "full",
        }
    }
}

/// What the file system had for us when it was last looked at.
#[derive(Clone, Copy, Debug)]
struct Space {
    bytes: u64,
    /// Sequence of the next record at that time: later ones have used some of it.
    next_sequence: u64,
}

#[derive(Debug, Default)]
pub(super) struct Fullness {
    level: Level,
    permille: u64,
    space: Option<Space>,
}

impl Fullness {
    pub(super) const fn level(&self) -> Level {
        self.level
    }

    pub(super) const fn permille(&self) -> u64 {
        self.permille
    }

    pub(super) const fn handle_space(&mut self, bytes: u64, next_sequence: u64) {
        self.space = Some(Space { bytes, next_sequence });
    }

    /// Judges anew: `unsettled` records wait for settlement.
    pub(super) fn renew(&mut self, bytes_max: u64, unsettled: u64, next_sequence: u64) {
        let bound = bytes_max.saturating_sub(unsettled.saturating_mul(RECORD_BYTES));
        let space = self.space.map_or(u64::MAX, |space| {
            let used = next_sequence.saturating_sub(space.next_sequence);
            space.bytes.saturating_sub(used.saturating_mul(RECORD_BYTES))
        });
        let room = u128::from(bound.min(space)) * 1_000 / u128::from(bytes_max.max(1));
        self.permille = 1_000 - u64::try_from(room.min(1_000)).expect("at most 1,000");
        let begun = Level::at(self.permille);
        let held = Level::at(self.permille + HYSTERESIS_PERMILLE);
        self.level = self.level.clamp(begun, held);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES_MAX: u64 = 1_000 * RECORD_BYTES;

    /// The level after each of these fillings, in thousandths, one after the other.
    fn levels(fillings: &[u64]) -> Vec<Level> {
        let mut fullness = Fullness::default();
        let level = |filling: &u64| {
            fullness.renew(BYTES_MAX, *filling, *filling + 1);
            assert_eq!(fullness.permille(), *filling);
            fullness.level()
        };
        fillings.iter().map(level).collect()
    }

    #[test]
    fn each_level_begins_at_its_threshold_and_ends_a_twentieth_below_it() {
        use Level::{Alarm, Full, Normal, Slow};
        let rising = [0, 699, 700, 849, 850, 949, 950, 1_000];
        assert_eq!(levels(&rising), [Normal, Normal, Alarm, Alarm, Slow, Slow, Full, Full]);
        let falling = [1_000, 901, 900, 899, 801, 799, 651, 649];
        assert_eq!(levels(&falling), [Full, Full, Full, Slow, Slow, Alarm, Alarm, Normal]);
        assert_eq!(levels(&[950, 949, 950, 949, 901, 950]), [Full; 6], "nothing flaps");
        assert_eq!(levels(&[1_000, 0, 940]), [Full, Normal, Slow]);
    }

    #[test]
    fn the_file_system_counts_as_much_as_our_own_bound() {
        let mut fullness = Fullness::default();
        fullness.renew(BYTES_MAX, 100, 501);
        assert_eq!(fullness.permille(), 100);
        // A tenth of `bytes_max` is all that the disk has, whatever we would allow ourselves.
        fullness.handle_space(BYTES_MAX / 10, 501);
        fullness.renew(BYTES_MAX, 100, 501);
        assert_eq!((fullness.permille(), fullness.level()), (900, Level::Slow));
        // And what was written since is gone from it.
        fullness.renew(BYTES_MAX, 150, 551);
        assert_eq!((fullness.permille(), fullness.level()), (950, Level::Full));
        fullness.renew(BYTES_MAX, 150, 5_551);
        assert_eq!(fullness.permille(), 1_000);
        // Somebody has made room: our own bound is what counts again.
        fullness.handle_space(u64::MAX, 5_551);
        fullness.renew(BYTES_MAX, 150, 5_551);
        assert_eq!((fullness.permille(), fullness.level()), (150, Level::Normal));
    }

    #[test]
    fn no_setting_divides_by_zero_or_wraps() {
        let mut fullness = Fullness::default();
        fullness.renew(0, 0, 1);
        assert_eq!((fullness.permille(), fullness.level()), (1_000, Level::Full));
        fullness.handle_space(0, u64::MAX);
        fullness.renew(u64::MAX, u64::MAX, 1);
        assert_eq!(fullness.permille(), 1_000);
        let mut fullness = Fullness::default();
        fullness.renew(u64::MAX, 1, 2);
        assert_eq!(fullness.permille(), 1);
    }
}
