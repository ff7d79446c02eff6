//! Whether a fault harms others: windows of one second take turns, without the fault, with it,
//! and without it again. The claim is about the median of each kind's p99; the third kind is the
//! control, which says how much the first differs from itself.

use crate::load::Latency;
use serde::Serialize;
use std::{
    io::{self, Write},
    time::Duration,
};

/// Whatever the ratio: by so much the p99 may rise, us.
const SLACK_US: u64 = 5_000;
/// One window.
pub(crate) const WINDOW: Duration = Duration::from_secs(1);
/// Windows of a round, in order.
pub(crate) const KINDS: usize = 3;
/// The kind of window in which the fault happens.
pub(crate) const WITH: usize = 1;

/// What the windows showed so far, by kind.
#[derive(Debug, Default)]
pub(crate) struct Windows {
    p99_us: [Vec<u64>; KINDS],
}

impl Windows {
    /// Takes in a window of round `round`, counted from 0, and tells it.
    pub(crate) fn push(&mut self, round: usize, kind: usize, latency: Latency) -> io::Result<()> {
        self.p99_us[kind].push(latency.p99);
        let name = if kind == WITH { "with" } else { "without" };
        writeln!(
            io::stderr(),
            "round {:>2} {name:>8}: p50 {} us, p99 {} us, max {} us",
            round + 1,
            latency.p50,
            latency.p99,
            latency.max
        )
    }

    /// What they come to.
    pub(crate) fn claim(self) -> Claim {
        let [without, with, control] = self.p99_us.map(median);
        Claim::new(without, with, control)
    }
}

/// Medians of the p99 of others, us, and their ratios to the first.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Claim {
    p99_us_without: u64,
    p99_us_with: u64,
    p99_us_control: u64,
    ratio_with: f64,
    ratio_control: f64,
}

impl Claim {
    /// From the three medians, us.
    pub(crate) fn new(without: u64, with: u64, control: u64) -> Self {
        let ratio = |p99: u64| p99 as f64 / without.max(1) as f64;
        Self {
            p99_us_without: without,
            p99_us_with: with,
            p99_us_control: control,
            ratio_with: ratio(with),
            ratio_control: ratio(control),
        }
    }

    /// What is wrong with it, if the fault harms others: more than `ratio_max`, and more than 5 ms.
    pub(crate) fn problem(&self, ratio_max: f64) -> Option<String> {
        let Self { p99_us_without, p99_us_with, .. } = *self;
        let within = self.ratio_with <= ratio_max || p99_us_with <= p99_us_without + SLACK_US;
        (!within).then(|| format!("p99 rose from {p99_us_without} us to {p99_us_with} us"))
    }
}

impl std::fmt::Display for Claim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "p99 {} us without, {} us with ({:.2} x), control {} us ({:.2} x)",
            self.p99_us_without,
            self.p99_us_with,
            self.ratio_with,
            self.p99_us_control,
            self.ratio_control
        )
    }
}

fn median(mut values: Vec<u64>) -> u64 {
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_are_harmed_beyond_twice_and_beyond_five_milliseconds() {
        let check = |without, with, harmed: bool| {
            let problem = Claim::new(without, with, without).problem(2.0);
            assert_eq!(problem.is_some(), harmed, "{without} to {with}: {problem:?}");
        };
        check(10_000, 20_000, false);
        check(10_000, 20_001, true);
        check(1_000, 6_000, false);
        check(1_000, 6_001, true);
        check(10_000, 5_000, false);
    }

    #[test]
    fn each_kind_has_its_own_median() {
        let mut windows = Windows::default();
        for (round, p99) in [(0, 900), (1, 100), (2, 300)] {
            for kind in 0..KINDS {
                let p99 = p99 + kind as u64;
                let latency = Latency { p50: 0, p99, p999: p99, max: p99 };
                windows.push(round, kind, latency).expect("told");
            }
        }
        let claim = windows.claim();
        assert_eq!(
            (claim.p99_us_without, claim.p99_us_with, claim.p99_us_control),
            (300, 301, 302)
        );
    }
}
