//! Windows of the same load, one after the other, and how their p99 compare: on a machine whose
//! speed changes from one moment to the next only neighbours can be compared.

use crate::{
    event::{Event, Way},
    shell,
};
use anyhow::{Context, Result};
use serde_json::Value;
use std::process::{self, Command, Stdio};

/// How far before others what is compared goes, as `renice` counts.
const FIRST: &str = "-15";

/// From now on this process, and what it starts, goes before whatever else runs on this machine: a
/// compiler beside it would else be what is measured. Only root may; whether it does.
pub(super) fn go_first() -> bool {
    let mut renice = Command::new("renice");
    renice.args(["-n", FIRST, "-p", &process::id().to_string()]);
    renice.stdout(Stdio::null()).stderr(Stdio::null());
    renice.status().is_ok_and(|status| status.success())
}

/// A load of plain connections, at moments that are fixed before.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    /// Each a user of its own.
    pub(super) connections: u64,
    /// Shakes a second over all of them.
    pub(super) rate: u64,
    /// How long it is measured, s.
    pub(super) seconds: u64,
    /// How long it runs before, s.
    pub(super) warm: u64,
    /// File that gets every ticket and receipt seen; with it, what is won is opened.
    pub(super) tickets: Option<&'static str>,
}

/// What one window saw.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    /// From the planned moment of a shake to its answer, us.
    pub(super) p99_us: u64,
    /// Answers that were no answers to shakes, lost connections, refused opens.
    pub(super) errors: u64,
}

impl Load {
    /// Measures one window at the node of `event`, of users from `first_user` on.
    pub(super) fn measure(self, event: &Event, first_user: u64) -> Result<Window> {
        let mut shake = event.program("netbench");
        shake.arg("shake").args(event.load_options_from(Way::Tcp, first_user));
        for (option, value) in [
            ("--connections", self.connections),
            ("--rate", self.rate),
            ("--seconds", self.seconds),
            ("--warm", self.warm),
        ] {
            shake.args([option, &value.to_string()]);
        }
        if let Some(log) = self.tickets {
            shake.args(["--open", "--tickets", log]);
        }
        let text = shell::output(shake.arg("--json"))?;
        let line = text.lines().last().context("netbench printed nothing")?;
        let report: Value = serde_json::from_str(line)?;
        let errors = report["errors"].as_u64().context("no errors")?;
        if errors > 0 {
            println!("! a window with errors: {}", report["counts"]);
        }
        Ok(Window { p99_us: report["latency_us"]["p99"].as_u64().context("no p99")?, errors })
    }
}

/// How many times longer one kind of windows took than another.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ratio {
    /// The median of the ratios of neighbours.
    pub(super) median: f64,
    /// Nineteen times of twenty the true median lies from here ...
    pub(super) low: f64,
    /// ... to here.
    pub(super) high: f64,
}

impl Ratio {
    /// Of `these` to `those`, pair by pair, measured one after the other.
    pub(super) fn of(these: &[u64], those: &[u64]) -> Self {
        let pairs = these.iter().zip(those);
        let mut ratios: Vec<f64> = pairs.map(|(a, b)| *a as f64 / (*b).max(1) as f64).collect();
        ratios.sort_unstable_by(f64::total_cmp);
        let at = |place: usize| ratios.get(place).copied().unwrap_or(f64::NAN);
        let count = ratios.len();
        // How many of them fall below the true median is a matter of coins: their number has a
        // deviation of half the root of `count`, of which 1.96 to each side are taken.
        let within = (count * 3_842).div_ceil(1_000).isqrt();
        let outside = (count.saturating_sub(within) / 2).saturating_sub(1);
        Self {
            median: middle(&ratios),
            low: at(outside),
            high: at(count.saturating_sub(outside + 1)),
        }
    }

    /// "0.97 to 1.08".
    pub(super) fn range(self) -> String {
        format!("{:.2} to {:.2}", self.low, self.high)
    }
}

/// What lay between windows before and windows after: their geometric means.
pub(super) fn between(before: &[u64], after: &[u64]) -> Vec<u64> {
    let mean = |(before, after): (&u64, &u64)| before.saturating_mul(*after).isqrt();
    before.iter().zip(after).map(mean).collect()
}

/// The middle one, or what lies between the two middle ones; 0 of none.
pub(super) fn median(mut values: Vec<u64>) -> u64 {
    values.sort_unstable();
    let at = |place: usize| values.get(place).copied().unwrap_or(0);
    u64::midpoint(at(values.len().saturating_sub(1) / 2), at(values.len() / 2))
}

/// The middle one of `sorted`, or what lies between the two middle ones; NaN of none.
fn middle(sorted: &[f64]) -> f64 {
    let at = |place: usize| sorted.get(place).copied().unwrap_or(f64::NAN);
    f64::midpoint(at(sorted.len().saturating_sub(1) / 2), at(sorted.len() / 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_that_of_pairs() {
        let ratio = |these: &[u64], those: &[u64]| Ratio::of(these, those).median;
        // The machine became ten times slower in the middle: pairs do not care.
        assert!((ratio(&[110, 1_000, 900], &[100, 1_000, 1_000]) - 1.0).abs() < 1e-9);
        assert!((ratio(&[120, 1_200, 900], &[100, 1_000, 1_000]) - 1.2).abs() < 1e-9);
        assert!(ratio(&[], &[]).is_nan(), "nothing measured proves nothing");
        assert!((ratio(&[100, 140], &[100, 100]) - 1.2).abs() < 1e-9, "of an even number");
        assert_eq!(median(vec![3, 1, 2]), 2);
        assert_eq!(median(vec![9, 1, 3, 1]), 2);
        assert_eq!(median(Vec::new()), 0);
        assert_eq!(between(&[100, 9], &[400, 1]), [200, 3]);
    }

    #[test]
    fn a_few_pairs_leave_much_open() {
        let these: Vec<u64> = (1..=16).map(|n| n * 100).collect();
        let ratio = Ratio::of(&these, &[100; 16]);
        // The fourth and the thirteenth of sixteen, as tables of the sign test have it.
        assert_eq!(ratio.range(), "4.00 to 13.00");
        assert_eq!(Ratio::of(&these[..3], &[100; 3]).range(), "1.00 to 3.00");
    }
}
