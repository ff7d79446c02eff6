//! Power cuts at random, one after the other in the same event: several phones play, the machine
//! loses its power at whichever persistence call chance says, comes back, and goes on. The twin of
//! the soak `kills`: the page cache survives a killed process, but no power cut.

use super::{
    Random,
    crash::{
        play::{Counted, End, Play},
        stage::Stage,
    },
    crash_points::{self, Ready},
    rehearsal::Rehearsal,
};
use anyhow::{Result, bail};
use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Instant,
};

/// Cuts of one event: each passes over a block of its 21.
const CUTS_EACH: u64 = 12;
/// Events side by side.
const STAGES: u64 = 4;
/// Phones of an event that play at the same time.
const PHONES: usize = 6;
/// A start makes some twenty calls, and then every win some six: cuts fall into both.
const CALLS_MAX: u64 = 120;
/// Other threads go on for at most so long before the cut, ms.
const LINGER_MS_MAX: u64 = 60;
/// Receipts that come after the last cut.
const AFTERWARDS: usize = 3;

pub(super) fn run(cuts: u64, seed: u64, release: bool) -> Result<()> {
    let kit = match crash_points::kit(release, "power-cuts")? {
        Ready::Here(kit) => kit,
        Ready::Elsewhere(result) => return result,
    };
    if !kit.loses_power {
        // It was said why.
        return Ok(());
    }
    if cuts == 0 {
        println!("the power of a disk can be cut here");
        return Ok(());
    }
    let start = Instant::now();
    let mut stages = (0..STAGES.min(cuts.div_ceil(CUTS_EACH)))
        .map(|number| Stage::new(&kit, "power-cuts", number))
        .collect::<Result<Vec<_>>>()?;
    let made = AtomicU64::new(0);
    let counted = Mutex::new(Vec::new());
    let work = |stage: &mut Stage| -> Result<()> {
        loop {
            let first = made.fetch_add(CUTS_EACH, Ordering::Relaxed);
            if first >= cuts {
                return Ok(());
            }
            // An event can be played again by its own seed.
            let mut random = Random(seed.wrapping_mul(1_000_003).wrapping_add(first));
            let own = event(stage, CUTS_EACH.min(cuts - first), &mut random)?;
            if !own.problems.is_empty() {
                let kept = stage.keep(&format!("power-cuts-{seed}-{first}"))?;
                println!(
                    "\nfrom cut {first} on: {} (see {})",
                    own.problems.join("; "),
                    kept.display()
                );
            }
            let mut counted = counted.lock().unwrap_or_else(PoisonError::into_inner);
            counted.push(own);
            let done: u64 = counted.iter().map(|one| one.crashes).sum();
            print!("\r{:>4} s: {done} of {cuts} power cuts   ", start.elapsed().as_secs());
        }
    };
    thread::scope(|scope| {
        let workers: Vec<_> = stages.iter_mut().map(|stage| scope.spawn(|| work(stage))).collect();
        workers.into_iter().try_for_each(|worker| {
            worker.join().map_err(|_| anyhow::anyhow!("an event panicked"))?
        })
    })?;
    println!();
    let counted = counted.into_inner().unwrap_or_else(PoisonError::into_inner);
    judge(&counted, cuts, start)?;
    stages.into_iter().try_for_each(Stage::remove)
}

fn judge(counted: &[Counted], cuts: u64, start: Instant) -> Result<()> {
    let sum = |number: fn(&Counted) -> u64| counted.iter().map(number).sum();
    let mut rehearsal = Rehearsal::new("power-cuts");
    rehearsal.exactly("power_cuts", sum(|one| one.crashes), cuts);
    rehearsal.tell("receipts", sum(|one| one.receipts));
    rehearsal.tell("skipped", sum(|one| one.skipped));
    let unjudged = counted.iter().filter(|one| !one.skips_judged).count();
    rehearsal.tell("events_whose_skips_are_not_judged", unjudged);
    rehearsal.exactly("duplicates", sum(|one| one.duplicates), 0);
    rehearsal.exactly("lost", sum(|one| one.lost), 0);
    let bad = counted.iter().filter(|one| !one.problems.is_empty());
    rehearsal.exactly("events_with_problems", bad.count() as u64, 0);
    rehearsal.tell("seconds", start.elapsed().as_secs());
    rehearsal.judge()
}

/// One event with so many cuts.
fn event(stage: &mut Stage, cuts: u64, random: &mut Random) -> Result<Counted> {
    let mut play = Play::begin(stage, PHONES)?;
    if let Err(said) = play.init(None)? {
        bail!("init: {said}");
    }
    for _ in 0..cuts {
        let torn = random.below(3) == 0;
        let (word, linger_ms) =
            if torn { ("torn-synced-kill", 0) } else { ("kill", random.below(LINGER_MS_MAX)) };
        let order = format!("{word} {linger_ms} * * {}", 1 + random.below(CALLS_MAX));
        match play.live(Some(&order), |_| Ok(false))? {
            End::Died | End::NotStarted(_) if play.struck()? => {}
            end => {
                play.problem(format!("`{order}` came to {end:?}"));
                break;
            }
        }
        play.crashes += 1;
        play.cut_power()?;
    }
    if play.problems.is_empty() {
        play.go_on(AFTERWARDS)?;
    }
    play.finish()
}
