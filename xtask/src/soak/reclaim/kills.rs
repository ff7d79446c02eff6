//! Kills while something is under way: `yao-access seal`, the tool, the ledger. A kill counts only
//! when it came before its victim's end; one that came too late is made again, when the work was
//! taken away.

use super::{
    between::{Between, Stop},
    count, reclaim, reclaim_by,
};
use crate::{event::Event, process::Process};
use anyhow::{Result, bail, ensure};
use std::{
    fs,
    path::Path,
    process::{Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

/// How often a kill that came too late is made again.
const ATTEMPTS: u32 = 40;
/// How often it is looked whether something has begun. The shortest work takes some syncs.
const LOOK: Duration = Duration::from_micros(50);
/// Tickets live 4 s, and the claim window lasts 2 s.
const PATIENCE: Duration = Duration::from_secs(40);
/// How often a run that was told to come again is run again.
pub(super) const PAUSE: Duration = Duration::from_millis(250);
/// Exit code of `yao-seedgen reclaim` when settlement says "later".
pub(super) const COME_AGAIN: i32 = 75;

/// Starts `command` and kills it as soon as `begun`; whether that came before its end.
fn hits(event: &Event, command: &mut Command, begun: impl Fn() -> bool) -> Result<bool> {
    let log = event.path("killed.log");
    let mut victim = Process::start("victim", command.stdout(Stdio::null()), &log)?;
    while !begun() {
        if !victim.is_running()? {
            return Ok(false);
        }
        std::thread::sleep(LOOK);
    }
    victim.strike()
}

/// Kills a run of `make`, once it has `begun` and before it is `done`. `clear` takes away what an
/// earlier run left of this work.
fn kill(
    event: &Event,
    make: impl Fn() -> Command,
    (begun, done): (impl Fn() -> bool, impl Fn() -> bool),
    clear: impl Fn() -> Result<()>,
) -> Result<()> {
    for _ in 0..ATTEMPTS {
        clear()?;
        ensure!(!begun() && !done(), "the work to be interrupted was done before");
        if hits(event, &mut make(), &begun)? && !done() {
            return Ok(());
        }
    }
    bail!("{ATTEMPTS} kills came too late, each")
}

fn remove(paths: &[&Path]) -> Result<()> {
    for path in paths.iter().filter(|path| path.exists()) {
        fs::remove_file(path)?;
    }
    Ok(())
}

/// `yao-access seal`, killed between mark and seal, or soon behind, and between seal and copy;
/// returns the kills. What it has given to nobody may be taken away for another try.
pub(super) fn seal(event: &mut Event, out: &str) -> Result<u64> {
    let [mark, seal, draft] =
        ["sealed", "seal.yaoseal", "seal.yaoseal.draft"].map(|name| event.path("state").join(name));
    let (copy, copy_draft) = (event.path(out), event.path(&format!("{out}.draft")));
    let make = || sealing(event, out);
    let all = [mark.as_path(), &seal, &draft, &copy, &copy_draft];
    kill(event, make, (|| mark.exists(), || copy.exists()), || remove(&all))?;
    let stages = (|| seal.exists(), || copy.exists());
    kill(event, make, stages, || remove(&all[1..]))?;
    let Err(refused) = event.start_access() else { bail!("a sealed shard was started") };
    ensure!(format!("{refused:#}").contains("was sealed"), "{refused:#}");
    Ok(2)
}

/// `yao-access seal` of the node that is configured now.
pub(super) fn sealing(event: &Event, out: &str) -> Command {
    let mut command = event.program("yao-access");
    command.args(["seal", "--config", "yao.toml", "--out", out]);
    command
}

/// The tool, killed while it writes its requests; returns the kills.
pub(super) fn asking(event: &Event, out: &str) -> Result<u64> {
    let folder = event.path(out);
    let requests = || count(&folder.join("requests"), ".yaovoid");
    let clear = || -> Result<()> {
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        Ok(())
    };
    let stages = (|| requests() >= 3, || requests() >= REQUESTS);
    kill(event, || reclaim(event, out), stages, clear)?;
    ensure!(folder.join("plan.yaoplan").exists(), "requests were written before their plan");
    Ok(1)
}

/// One for each shard of generation 0.
const REQUESTS: usize = super::SHARDS as usize;

/// The tool, killed while it packs; returns the kills.
pub(super) fn packing(event: &Event, out: &str) -> Result<u64> {
    let folder = event.path(out);
    let done = || folder.join("manifest.yaomanifest").exists();
    let clear = || -> Result<()> {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name.starts_with("shard-") || name.starts_with("manifest") {
                fs::remove_file(&path)?;
            }
        }
        Ok(())
    };
    for shards in [1, 5] {
        let begun = || count(&folder, ".yaoseed") >= shards;
        kill(event, || reclaim(event, out), (begun, done), clear)?;
    }
    Ok(2)
}

/// How a run of the tool got on.
enum Run {
    /// It waits for an answer, which has been stopped.
    Stopped(Process, Between),
    Ended(ExitStatus),
}

fn run(event: &Event, out: &str, stop: Stop, number: u32) -> Result<Run> {
    let between = Between::start(event.ledger_address(), stop, number)?;
    let mut command = reclaim_by(event, out, &between.url());
    let log = event.path("killed.log");
    let mut tool = Process::start("reclaim", command.stdout(Stdio::null()), &log)?;
    loop {
        if between.is_stopped_within(Duration::from_millis(2)) {
            return Ok(Run::Stopped(tool, between));
        }
        if !tool.is_running()? {
            return Ok(Run::Ended(tool.wait()?));
        }
    }
}

/// Runs the tool again and again, until it is stopped before it hears of grant `number` of a run.
fn patiently(event: &Event, out: &str, number: u32) -> Result<(Process, Between)> {
    let start = Instant::now();
    loop {
        match run(event, out, Stop::Granted, number)? {
            Run::Stopped(tool, between) => return Ok((tool, between)),
            Run::Ended(status) if status.code() == Some(COME_AGAIN) => {}
            Run::Ended(status) => bail!("yao-seedgen reclaim ended with {status}"),
        }
        ensure!(start.elapsed() < PATIENCE, "nothing could be taken back for {PATIENCE:?}");
        // The time that it was told is a whole second.
        std::thread::sleep(PAUSE);
    }
}

/// From the moment on at which packets may be taken back: the tool is killed before it hears of
/// what was granted, the ledger in the middle of a request. Returns the kills of both.
pub(super) fn granting(event: &mut Event, out: &str) -> Result<(u64, u64)> {
    let answers = event.path(out).join("answers");
    let heard = || count(&answers, ".yaovoided");
    let (tool, _between) = patiently(event, out, 1)?;
    ensure!(tool.strike()? && heard() == 0, "the tool ended while it waited");

    // The same again, which was granted before, and then one that was not.
    let Run::Stopped(tool, between) = run(event, out, Stop::Asked, 2)? else {
        bail!("the tool asked for less than two requests")
    };
    event.kill_ledger()?;
    between.go_on()?;
    let status = tool.wait()?;
    ensure!(status.code() == Some(1), "the tool ended with {status} when the ledger was killed");
    ensure!(heard() == 1, "{} answers; one was given", heard());
    event.start_ledger()?;

    // A ledger that was away hears everybody out once more before it takes anything back.
    let (tool, _between) = patiently(event, out, 3)?;
    ensure!(tool.strike()? && heard() >= 3, "the tool ended while it waited");
    Ok((2, 1))
}
