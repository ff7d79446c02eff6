//! A money disk that gives EIO, is full, or stalls five seconds at each sync: shakes go on as fast,
//! the shard is fenced where it must be, the process stays up, and an operator reads why.
//!
//! Two nodes play the same event, one on a sick disk. Windows of a second take turns: the well one,
//! the sick one, the well one again, which tells what it differs from itself. Relay does not exist
//! yet; what is true of shakes here will have to be true of it.

use super::{
    crash::{
        play::{End, Play},
        stage::Stage,
    },
    crash_points::{self, Ready},
    rehearsal::Rehearsal,
};
use crate::{event::Way, shell};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::{
    fs::{self, File},
    io::Write,
    thread,
    time::{Duration, Instant},
};

/// The p99 of shakes at the sick node, at most so many times that at the well one.
const RATIO_MAX: f64 = 1.1;
/// Connections of a window, and shakes a second over all of them: of these fewer than one in a
/// hundred wins, so that the p99 is that of ordinary shakes at both nodes.
const CONNECTIONS: u64 = 200;
const RATE: &str = "6000";
/// A sync of the stalling disk takes so long, ms.
const STALL_MS: u64 = 5_000;
/// A stall that has ended lets packets leave again within this time: the one that is under way, a
/// second for whatever waited behind it, and one to spare.
const HEALED_MAX: Duration = Duration::from_millis(2 * STALL_MS + 2_000);
/// How often the node is asked.
const LOOK: Duration = Duration::from_millis(20);
/// Users of the windows; phones of these events there are none.
const FIRST_USER: u64 = 1_000_000;
/// What fills a disk, bytes at a time.
const FILLER: usize = 64 << 10;

/// What is wrong with the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sickness {
    /// Every call fails.
    Eio,
    /// There is no room.
    Full,
    /// Every sync takes five seconds.
    Stall,
}

impl Sickness {
    const ALL: [Self; 3] = [Self::Eio, Self::Full, Self::Stall];

    const fn word(self) -> &'static str {
        match self {
            Self::Eio => "eio",
            Self::Full => "full",
            Self::Stall => "stall",
        }
    }

    /// Makes the disk of `stage` sick, from the next call on.
    fn befall(self, stage: &Stage) -> Result<()> {
        match self {
            Self::Eio => stage.faults.order(Some("eio 0 * * 1+")),
            Self::Stall => stage.faults.order(Some(&format!("stall {STALL_MS} sync * 1+"))),
            Self::Full if stage.disk.loses_power() => fill(stage),
            // An ordinary folder lies on a disk of somebody's.
            Self::Full => stage.faults.order(Some("enospc 0 * * 1+")),
        }
    }

    /// Heals it.
    fn leave(self, stage: &Stage) -> Result<()> {
        stage.faults.order(None)?;
        if self == Self::Full && stage.disk.loses_power() {
            fs::remove_file(stage.disk.root().join("filler"))?;
        }
        Ok(())
    }
}

/// Fills the disk to its last byte.
fn fill(stage: &Stage) -> Result<()> {
    let mut file = File::create(stage.disk.root().join("filler"))?;
    let mut size = FILLER;
    while size > 0 {
        match file.write(&vec![0; size]) {
            Ok(0) => bail!("the disk takes nothing and says nothing"),
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::StorageFull => size /= 2,
            Err(error) => return Err(error).context("filling the disk"),
        }
    }
    // Room that is only promised is no room: now it is taken.
    match file.sync_all() {
        Err(error) if error.kind() != std::io::ErrorKind::StorageFull => {
            Err(error).context("filling the disk")
        }
        _ => Ok(()),
    }
}

pub(super) fn run(rounds: u64, only: Option<&str>, release: bool) -> Result<()> {
    let kit = match crash_points::kit(release, "sick-disk")? {
        Ready::Here(kit) => kit,
        Ready::Elsewhere(result) => return result,
    };
    let mut well = Stage::new(&kit, "sick-disk", 0)?;
    let mut sick = Stage::new(&kit, "sick-disk", 1)?;
    let mut rehearsal = Rehearsal::new("sick-disk");
    for sickness in Sickness::ALL {
        if only.is_none_or(|only| sickness.word().contains(only)) {
            one(&mut well, &mut sick, sickness, rounds, &mut rehearsal)
                .with_context(|| sickness.word())?;
        }
    }
    rehearsal.judge()?;
    well.remove()?;
    sick.remove()
}

/// The p99 of each kind of window, us, in order.
#[derive(Default)]
struct Windows {
    well: Vec<u64>,
    sick: Vec<u64>,
    again: Vec<u64>,
    /// Answers that were no answers to shakes.
    errors: u64,
    users: u64,
}

impl Windows {
    fn p99_us(&mut self, play: &Play<'_>) -> Result<u64> {
        let event = &play.stage.event;
        let first = FIRST_USER + self.users;
        self.users += CONNECTIONS;
        let mut shake = event.program("netbench");
        shake.arg("shake").args(event.load_options_from(Way::Tcp, first));
        shake.args(["--connections", &CONNECTIONS.to_string(), "--rate", RATE, "--seconds", "1"]);
        let text = shell::output(shake.arg("--json"))?;
        let line = text.lines().last().context("netbench printed nothing")?;
        let report: Value = serde_json::from_str(line)?;
        self.errors += report["errors"].as_u64().context("no errors")?;
        report["latency_us"]["p99"].as_u64().context("no p99")
    }
}

fn one(
    well: &mut Stage,
    sick: &mut Stage,
    sickness: Sickness,
    rounds: u64,
    rehearsal: &mut Rehearsal,
) -> Result<()> {
    let well = served(well)?;
    let mut sick = served(sick)?;
    let mut windows = Windows::default();
    // Both have issued something, and everything is in memory that will be.
    for play in [&well, &sick] {
        windows.p99_us(play)?;
    }
    sickness.befall(sick.stage)?;
    windows.p99_us(&sick)?;
    check_told(&mut sick, sickness)?;
    for _ in 0..rounds {
        let p99 = windows.p99_us(&well)?;
        windows.well.push(p99);
        let p99 = windows.p99_us(&sick)?;
        windows.sick.push(p99);
        let p99 = windows.p99_us(&well)?;
        windows.again.push(p99);
    }
    let key = |what: &str| format!("{}_{what}", sickness.word());
    rehearsal.tell(&key("p99_us_well"), median(windows.well.clone()));
    rehearsal.tell(&key("p99_us_sick"), median(windows.sick.clone()));
    rehearsal.tell(&key("ratio_control"), ratio(&windows.again, &windows.well));
    let ratio = ratio(&windows.sick, &windows.well);
    rehearsal.at_most(&key("ratio"), ratio, RATIO_MAX);
    rehearsal.exactly(&key("errors"), windows.errors, 0);
    if !sick.stage.event.access_runs()? {
        sick.problem("the node ended".to_owned());
    }
    sickness.leave(sick.stage)?;
    heal(&mut sick, sickness, &mut windows)?;
    for (name, play) in [("well", well), ("sick", sick)] {
        let counted = play.finish()?;
        for problem in &counted.problems {
            println!("! {} {name}: {problem}", sickness.word());
        }
        rehearsal.exactly(&key(&format!("{name}_problems")), counted.problems.len() as u64, 0);
    }
    Ok(())
}

/// A node whose wave has just begun.
fn served(stage: &mut Stage) -> Result<Play<'_>> {
    let mut play = Play::begin_now(stage)?;
    if let Err(said) = play.init(None)? {
        bail!("init: {said}");
    }
    let end = play.live(None, |_| Ok(true))?;
    ensure!(end == End::Reached, "the node came to {end:?}");
    play.stage.event.await_agent()?;
    Ok(play)
}

/// A failing disk has fenced the shard, and everything says so; a slow one has not.
fn check_told(sick: &mut Play<'_>, sickness: Sickness) -> Result<()> {
    let (code, told) = sick.stage.event.readiness()?;
    let status = sick.stage.event.status()?;
    let reason = status["fenced"].as_str().unwrap_or_default().to_owned();
    let word = match sickness {
        Sickness::Eio => "Input/output error",
        Sickness::Full => "No space left",
        Sickness::Stall => {
            if code != 200 {
                sick.problem(format!("a slow disk is no failed one, but /readyz says {told}"));
            }
            return Ok(());
        }
    };
    let unready = status["unready"].to_string();
    let all = [("/readyz", &told), ("/status fenced", &reason), ("/status unready", &unready)];
    for (place, text) in all {
        if !text.contains(word) {
            sick.problem(format!("{place} does not say `{word}`: {text}"));
        }
    }
    if sick.stage.event.metric("fenced")? != 1 {
        sick.problem("the metric `fenced` is not 1".to_owned());
    }
    Ok(())
}

/// A fenced node goes on after a restart, a slow one by itself.
fn heal(sick: &mut Play<'_>, sickness: Sickness, windows: &mut Windows) -> Result<()> {
    if sickness != Sickness::Stall {
        sick.kill()?;
        sick.crashes += 1;
        let end = sick.live(None, |_| Ok(true))?;
        ensure!(end == End::Reached, "after a restart the node came to {end:?}");
    }
    let issued = |play: &Play<'_>| -> Result<u64> {
        let status = play.stage.event.status()?;
        status["waves"][0]["wave_issued_total"].as_u64().context("a wave counts its packets")
    };
    let start = Instant::now();
    let before = issued(sick)?;
    while issued(sick)? == before {
        if start.elapsed() > HEALED_MAX {
            sick.problem(format!("no packet left within {HEALED_MAX:?} after the disk was well"));
            return Ok(());
        }
        windows.p99_us(sick)?;
        thread::sleep(LOOK);
    }
    Ok(())
}

/// The median of the ratios of pairs that were measured one after the other.
fn ratio(these: &[u64], those: &[u64]) -> f64 {
    let pairs = these.iter().zip(those);
    let mut ratios: Vec<f64> = pairs.map(|(a, b)| *a as f64 / (*b).max(1) as f64).collect();
    ratios.sort_unstable_by(f64::total_cmp);
    ratios.get(ratios.len() / 2).copied().unwrap_or(f64::NAN)
}

fn median(mut values: Vec<u64>) -> u64 {
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_that_of_pairs() {
        // The machine became ten times slower in the middle: pairs do not care.
        assert!((ratio(&[110, 1_000, 900], &[100, 1_000, 1_000]) - 1.0).abs() < 1e-9);
        assert!((ratio(&[120, 1_200, 900], &[100, 1_000, 1_000]) - 1.2).abs() < 1e-9);
        assert!(ratio(&[], &[]).is_nan(), "nothing measured proves nothing");
        assert_eq!(median(vec![3, 1, 2]), 2);
    }
}
