//! A money disk that gives EIO, has no room, or stalls five seconds at each sync: shakes go on as
//! fast, the shard is fenced where it must be, the process stays up, and an operator reads why.
//!
//! Two nodes play the same event, one on a sick disk. Windows of a second take turns: the well one,
//! the sick one, the well one again, which tells what it differs from itself. Relay does not exist
//! yet; what is true of shakes here will have to be true of it.

use super::{
    crash::{
        kit::{Kit, Ready},
        play::{End, Play},
        stage::Stage,
    },
    rehearsal::Rehearsal,
    windows::{Load, Ratio, between, go_first, median},
};
use anyhow::{Context, Result, bail, ensure};
use std::{
    fs::{self, File},
    io::Write,
    thread,
    time::{Duration, Instant},
};

/// The p99 of shakes at the sick node, at most so many times that at the well one.
const RATIO_MAX: f64 = 1.1;
/// A window. Of these shakes fewer than one in a hundred wins, so that the p99 is that of ordinary
/// ones at both nodes. A connection shakes every 100 ms: a win that is still being decided then
/// would be answered "pending", which counts as an error.
const LOAD: Load = Load { connections: 600, rate: 6_000, seconds: 1, warm: 0, tickets: None };
/// A sync of the stalling disk takes so long, ms.
const STALL_MS: u64 = 5_000;
/// A stall that has ended lets packets leave again within this time: the one that is under way, a
/// second for whatever waited behind it, and one to spare.
const HEALED_MAX: Duration = Duration::from_millis(2 * STALL_MS + 2_000);
/// A disk that has become full is told of within this time: it is looked at once a second.
const TOLD_MAX: Duration = Duration::from_secs(3);
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
    /// Every call says that there is no room: what has no room of its own beforehand.
    Enospc,
    /// There is no room. Segments and cursors have theirs beforehand: nothing fails yet.
    Full,
    /// Every sync takes five seconds.
    Stall,
}

impl Sickness {
    const ALL: [Self; 4] = [Self::Eio, Self::Enospc, Self::Full, Self::Stall];

    const fn word(self) -> &'static str {
        match self {
            Self::Eio => "eio",
            Self::Enospc => "enospc",
            Self::Full => "full",
            Self::Stall => "stall",
        }
    }

    /// Makes the disk of `stage` sick, from the next call on.
    fn befall(self, stage: &Stage) -> Result<()> {
        match self {
            Self::Eio => stage.faults.order(Some("eio 0 * * 1+")),
            Self::Enospc => stage.faults.order(Some("enospc 0 * * 1+")),
            Self::Stall => stage.faults.order(Some(&format!("stall {STALL_MS} sync * 1+"))),
            Self::Full => fill(stage),
        }
    }

    /// Whether it can befall that disk: an ordinary folder lies on one of somebody's.
    fn is_possible(self, stage: &Stage) -> bool {
        self != Self::Full || stage.disk.loses_power()
    }

    /// Whether a call fails, so that the shard is fenced until a restart.
    const fn fences(self) -> bool {
        matches!(self, Self::Eio | Self::Enospc)
    }

    /// Heals it.
    fn leave(self, stage: &Stage) -> Result<()> {
        stage.faults.order(None)?;
        if self == Self::Full {
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
    let kit = match Kit::prepare(release, "sick-disk")? {
        Ready::Here(kit) => kit,
        Ready::Elsewhere(result) => return result,
    };
    let mut well = Stage::new(&kit, "sick-disk", 0)?;
    let mut sick = Stage::new(&kit, "sick-disk", 1)?;
    let mut rehearsal = Rehearsal::new("sick-disk");
    rehearsal.tell("goes_before_others", go_first());
    for sickness in Sickness::ALL {
        let word = sickness.word();
        if !sickness.is_possible(&sick) {
            println!("`{word}` is SKIPPED: it needs a disk of its own");
        } else if only.is_none_or(|only| word.contains(only)) {
            one(&mut well, &mut sick, sickness, rounds, &mut rehearsal).with_context(|| word)?;
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
        let first = FIRST_USER + self.users;
        self.users += LOAD.connections;
        let window = LOAD.measure(&play.stage.event, first)?;
        self.errors += window.errors;
        Ok(window.p99_us)
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
    // What this machine makes of the same node twice.
    let control = Ratio::of(&windows.again, &windows.well);
    rehearsal.tell(&key("ratio_well_to_well"), control.median);
    rehearsal.tell(&key("ratio_well_to_well_95"), control.range());
    let ratio = Ratio::of(&windows.sick, &between(&windows.well, &windows.again));
    rehearsal.tell(&key("ratio_95"), ratio.range());
    rehearsal.at_most(&key("ratio"), ratio.median, RATIO_MAX);
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
        Sickness::Enospc => "No space left",
        Sickness::Full => return check_full(sick),
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

/// A full disk is told of before anything fails for it: nothing is issued that could not be opened.
fn check_full(sick: &mut Play<'_>) -> Result<()> {
    let start = Instant::now();
    loop {
        let status = sick.stage.event.status()?;
        let (level, warnings) = (&status["spool"]["level"], status["warnings"].to_string());
        if !status["fenced"].is_null() {
            sick.problem(format!("nothing has failed, but it is fenced: {}", status["fenced"]));
            return Ok(());
        }
        if warnings.contains("the disk has no room") {
            return Ok(());
        }
        if start.elapsed() > TOLD_MAX {
            sick.problem(format!("level {level}, and no warning but {warnings}"));
            return Ok(());
        }
        thread::sleep(LOOK);
    }
}

/// A fenced node goes on after a restart, another one by itself.
fn heal(sick: &mut Play<'_>, sickness: Sickness, windows: &mut Windows) -> Result<()> {
    if sickness.fences() {
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
