//! The torments: which agents are started, what is done to them, and what shows that it was done.

use crate::{bad_agent::Manner, soak::rehearsal::Rehearsal};
use std::time::Duration;

/// Swaps of a whole run.
const SWAPS: u64 = 100;
/// The same for a look.
const SWAPS_FEW: u64 = 10;

/// What an agent suffers, or does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Torment {
    /// Every 200 ms all agents of the node are killed, newcomers, too; another one is asked for at
    /// once, past the node's own patience.
    Killed,
    /// Each is stopped (SIGSTOP) as soon as it is seen.
    Stopped,
    /// See [`Manner::Garbage`]: none survives its first answer, and another one is asked for.
    Garbage,
    /// See [`Manner::Lies`].
    Lies,
    /// See [`Manner::Late`].
    Late,
    /// See [`Manner::Older`]: each is refused, and the one that serves goes on.
    Older,
    /// See [`Manner::Plain`].
    Plain,
    /// See [`Manner::Newer`].
    Newer,
    /// A hundred good ones follow each other.
    Swapped,
}

/// What was done in a window, or in all, and what the node said to it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Done {
    pub(super) kills: u64,
    pub(super) stops: u64,
    /// Newcomers that were asked for and served.
    pub(super) swaps: u64,
    /// Newcomers that were asked for and refused.
    pub(super) refusals: u64,
    /// Of these: because of their version.
    pub(super) versions_refused: u64,
    /// Agents that served and were given up.
    pub(super) lost: u64,
    /// Of these: because they had been silent for too long.
    pub(super) silent: u64,
    /// Answers that settlement did not give to their batch.
    pub(super) forged: u64,
    /// Questions about wins without a verdict in time, and those that nobody was asked.
    pub(super) unanswered: u64,
}

impl Done {
    pub(super) const fn add(&mut self, other: &Self) {
        self.kills += other.kills;
        self.stops += other.stops;
        self.swaps += other.swaps;
        self.refusals += other.refusals;
        self.versions_refused += other.versions_refused;
        self.lost += other.lost;
        self.silent += other.silent;
        self.forged += other.forged;
        self.unanswered += other.unanswered;
    }
}

/// How successors are asked for in a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Swaps {
    /// So many that serve; `None` for as many as come to be while the window lasts.
    pub(super) count: Option<u64>,
    /// From one to the next.
    pub(super) every: Duration,
}

impl Torment {
    pub(super) const ALL: [Self; 9] = [
        Self::Killed,
        Self::Stopped,
        Self::Garbage,
        Self::Lies,
        Self::Late,
        Self::Older,
        Self::Plain,
        Self::Newer,
        Self::Swapped,
    ];

    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Killed => "killed",
            Self::Stopped => "stopped",
            Self::Garbage => "garbage",
            Self::Lies => "lies",
            Self::Late => "late",
            Self::Older => "older",
            Self::Plain => "plain",
            Self::Newer => "newer",
            Self::Swapped => "swapped",
        }
    }

    /// Windows, each of [`Self::seconds`]: a minute of kills.
    pub(super) const fn rounds(self) -> u64 {
        match self {
            Self::Killed => 12,
            Self::Stopped => 3,
            _ => 6,
        }
    }

    /// Length of a window, s. A stopped agent is given up after ten.
    pub(super) const fn seconds(self) -> u64 {
        match self {
            Self::Stopped => 14,
            _ => 5,
        }
    }

    /// How the agents behave that are started in a window.
    pub(super) const fn manner(self) -> Manner {
        match self {
            Self::Killed | Self::Stopped | Self::Swapped => Manner::Honest,
            Self::Garbage => Manner::Garbage,
            Self::Lies => Manner::Lies,
            Self::Late => Manner::Late,
            Self::Older => Manner::Older,
            Self::Plain => Manner::Plain,
            Self::Newer => Manner::Newer,
        }
    }

    /// Whether one of that manner serves before its window begins, and all through it.
    pub(super) const fn serves(self) -> bool {
        matches!(self, Self::Lies | Self::Late | Self::Plain | Self::Newer)
    }

    /// How successors are asked for in window `round` of `rounds`, which lasts `length`.
    pub(super) fn swaps(self, round: u64, rounds: u64, length: Duration, few: bool) -> Swaps {
        let all = swaps_in_all(few);
        let count = match self {
            Self::Killed | Self::Garbage | Self::Older => None,
            // The first windows have one more where they do not all come to the same.
            Self::Swapped => Some(all / rounds + u64::from(round < all % rounds)),
            _ => Some(0),
        };
        let every = match self {
            // A swap itself takes some time, too.
            Self::Swapped => length.div_f64(2.0 * count.unwrap_or(0).max(1) as f64),
            Self::Older => Duration::from_millis(200),
            Self::Garbage => Duration::from_millis(100),
            _ => Duration::from_millis(20),
        };
        Swaps { count, every }
    }

    /// Holds against each other what was to be done and what was.
    pub(super) fn judge(self, done: &Done, windows: u64, few: bool, rehearsal: &mut Rehearsal) {
        let key = |what: &str| format!("{}_{what}", self.word());
        let seconds = windows * if few { 1 } else { self.seconds() };
        rehearsal.tell(&key("wins_without_verdict"), done.unanswered);
        match self {
            // Five a second but for the moments in which there is none.
            Self::Killed => rehearsal.at_least(&key("kills"), done.kills, seconds * 3),
            Self::Stopped => {
                rehearsal.at_least(&key("stops"), done.stops, windows);
                if !few {
                    rehearsal.at_least(&key("given_up_for_silence"), done.silent, windows);
                }
            }
            Self::Garbage => rehearsal.at_least(&key("given_up"), done.lost, windows),
            Self::Lies => rehearsal.at_least(&key("forged_answers"), done.forged, 1),
            Self::Late => {
                rehearsal.at_least(&key("late_verdicts"), done.unanswered, windows);
            }
            Self::Older => {
                rehearsal.at_least(&key("refused"), done.versions_refused, windows);
                rehearsal.exactly(&key("given_up"), done.lost, 0);
            }
            Self::Plain | Self::Newer => rehearsal.exactly(&key("given_up"), done.lost, 0),
            Self::Swapped => {
                rehearsal.exactly(&key("swaps"), done.swaps, swaps_in_all(few));
                rehearsal.exactly(&key("given_up"), done.lost, 0);
            }
        }
    }
}

/// Swaps of a run, or of a look.
const fn swaps_in_all(few: bool) -> u64 {
    if few { SWAPS_FEW } else { SWAPS }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_windows_share_all_swaps() {
        for rounds in [1, 6, 7] {
            let length = Duration::from_secs(5);
            let swaps = |round| Torment::Swapped.swaps(round, rounds, length, false).count;
            assert_eq!((0..rounds).filter_map(swaps).sum::<u64>(), SWAPS);
        }
    }
}
