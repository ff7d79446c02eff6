//! Every persistence call of a node's scripted life, and one trial for each that can go wrong
//! there: killed, killed in the middle of it, power cut, power cut with half of it on disk, EIO,
//! ENOSPC, a short write, a stall.
//!
//! The script has three processes: `init`; a first life, which is killed in the middle of raising
//! a cursor for the second time; and a second one, which recovers from that and from torn logs.
//! Which calls there are is counted, not listed. See docs/decisions/0020-faults-by-preloading.md.

mod trial;
mod witness;

use self::trial::{Blow, Life, Point};
use super::{
    crash::{
        disk,
        faults::{Call, Faults},
        play::{Counted, Play},
        stage::{Kit, Stage},
    },
    namespace,
    rehearsal::Rehearsal,
};
use crate::{event, shell};
use anyhow::{Context, Result, bail};
use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Instant,
};

/// Trials side by side: they wait more than they work.
const STAGES: u64 = 6;
/// So often a trial is made whose skips cannot be judged.
const TRIES: u32 = 4;
/// Problems that are told one by one.
const TOLD_MAX: usize = 10;

/// What can be chosen.
pub(super) struct Choice<'a> {
    /// Only trials whose name contains this.
    pub(super) only: Option<&'a str>,
    /// Only this part of them: "2/3".
    pub(super) part: Option<&'a str>,
    /// Only a few points of each kind.
    pub(super) few: bool,
    pub(super) release: bool,
}

/// One trial that was made.
struct Tried {
    label: String,
    blow: Blow,
    counted: Counted,
    reached: bool,
}

pub(super) fn run(choice: &Choice<'_>) -> Result<()> {
    let kit = match kit(choice.release, "crash-points")? {
        Ready::Here(kit) => kit,
        Ready::Elsewhere(result) => return result,
    };
    let start = Instant::now();
    let mut stages = (0..STAGES)
        .map(|number| Stage::new(&kit, "crash-points", number))
        .collect::<Result<Vec<_>>>()?;
    let points = points(&mut stages[0])?;
    let mut rehearsal = Rehearsal::new("crash-points");
    for life in Life::ALL {
        let calls = points.iter().filter(|point| point.life == life).count();
        rehearsal.tell(&format!("calls_{life}"), calls);
    }
    if !choice.few && choice.only.is_none() {
        witness::check(&mut stages[0], &mut rehearsal)?;
    }
    let jobs = chosen(&points, &kit, choice)?;
    let tried = side_by_side(&mut stages, &jobs, start)?;
    judge(&mut rehearsal, &tried, start);
    rehearsal.judge()?;
    stages.into_iter().try_for_each(Stage::remove)
}

/// Whether the soak goes on in this process.
pub(super) enum Ready {
    Here(Kit),
    /// It ran to its end in a namespace.
    Elsewhere(Result<()>),
}

/// Builds everything, enters a namespace where disks can be mounted, and says plainly when power
/// cuts must be skipped.
pub(super) fn kit(release: bool, name: &str) -> Result<Ready> {
    let mountable = disk::why_not_mounted();
    if mountable.is_none() && !namespace::is_inside() {
        return Ok(Ready::Elsewhere(namespace::enter(&["--mount", "--propagation", "private"])));
    }
    let binaries = event::build(release)?;
    let library = Faults::build(release)?;
    let folder = shell::target().join(format!("{name}-canary-{}", std::process::id()));
    let why_not = mountable.or_else(|| disk::why_no_power_cuts(&folder, &library));
    if let Some(why_not) = &why_not {
        println!("power cuts are SKIPPED: {why_not}");
    }
    Ok(Ready::Here(Kit { binaries, library, loses_power: why_not.is_none() }))
}

/// Plays the script once without a fault of ours, and says which calls were made.
fn points(stage: &mut Stage) -> Result<Vec<Point>> {
    let mut points = Vec::new();
    let mut add = |life: Life, stage: &Stage| -> Result<()> {
        let log = stage.faults.log()?;
        let calls = log.calls.into_iter();
        points.extend(calls.map(|call| Point { life, call }));
        Ok(())
    };
    let mut play = Play::begin(stage, 1)?;
    if let Err(said) = play.init(None)? {
        bail!("init: {said}");
    }
    add(Life::Init, play.stage)?;
    play.first_life()?;
    add(Life::First, play.stage)?;
    play.go_on(trial::AFTERWARDS)?;
    let counted = play.finish()?;
    if !counted.problems.is_empty() {
        bail!("the script without a fault: {}", counted.problems.join("; "));
    }
    add(Life::Second, stage)?;
    Ok(points)
}

/// The trials of this run.
fn chosen(points: &[Point], kit: &Kit, choice: &Choice<'_>) -> Result<Vec<(Point, Blow)>> {
    let part = choice.part.map(part).transpose()?;
    let mut jobs = Vec::new();
    for point in points {
        for blow in Blow::ALL.into_iter().filter(|blow| blow.is_possible(&point.call, kit)) {
            jobs.push((point.clone(), blow));
        }
    }
    if choice.few {
        jobs = few(jobs);
    }
    if let Some(only) = choice.only {
        jobs.retain(|(point, blow)| label(point, *blow).contains(only));
    }
    if let Some((this, all)) = part {
        let mut number = 0;
        jobs.retain(|_| {
            number += 1;
            number % all == this % all
        });
    }
    if jobs.is_empty() {
        bail!("no trial is called so");
    }
    Ok(jobs)
}

fn label(point: &Point, blow: Blow) -> String {
    format!("{point} {}", blow.word())
}

/// "2/3" as 2 and 3.
fn part(text: &str) -> Result<(usize, usize)> {
    let numbers = text
        .split_once('/')
        .and_then(|(this, all)| Some((this.parse::<usize>().ok()?, all.parse::<usize>().ok()?)));
    match numbers {
        Some((this, all)) if (1..=all).contains(&this) => Ok((this, all)),
        _ => bail!("--part {text}: say 1/3, 2/3 or 3/3"),
    }
}

/// Of each kind of call in each life the second, or the only one, with each blow.
fn few(jobs: Vec<(Point, Blow)>) -> Vec<(Point, Blow)> {
    let mut last: BTreeMap<(Life, String, String), u64> = BTreeMap::new();
    let key = |point: &Point| (point.life, point.call.operation.clone(), point.call.name.clone());
    for (point, _) in &jobs {
        let number = last.entry(key(point)).or_default();
        *number = point.call.number.max(*number);
    }
    let is_chosen = |point: &Point| point.call.number == last[&key(point)].min(2);
    // What holds money, and what is written of it while the node serves. A second life takes a
    // first one, so the hardest blow has to do.
    let serves = |point: &Point, blow: Blow| match point.life {
        Life::Init => false,
        Life::First => !matches!(blow, Blow::Stall | Blow::Enospc),
        Life::Second => blow == Blow::Cut || blow == Blow::TornKill,
    };
    let money = |call: &Call| {
        call.name.contains(".yao")
            && !call.name.ends_with(".draft")
            && ["write", "sync"].contains(&call.operation.as_str())
    };
    jobs.into_iter()
        .filter(|(point, blow)| is_chosen(point) && serves(point, *blow) && money(&point.call))
        .collect()
}

/// Makes all trials, several at a time.
fn side_by_side(
    stages: &mut [Stage],
    jobs: &[(Point, Blow)],
    start: Instant,
) -> Result<Vec<Tried>> {
    let next = AtomicUsize::new(0);
    let tried = Mutex::new(Vec::with_capacity(jobs.len()));
    let work = |stage: &mut Stage| -> Result<()> {
        while let Some((point, blow)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
            let label = label(point, *blow);
            let (reached, counted) = judged(stage, point, *blow).with_context(|| label.clone())?;
            if !counted.problems.is_empty() {
                let kept = stage.keep(&label)?;
                println!("\n{label}: {} (see {})", counted.problems.join("; "), kept.display());
            }
            let mut tried = tried.lock().unwrap_or_else(PoisonError::into_inner);
            tried.push(Tried { label, blow: *blow, counted, reached });
            print!(
                "\r{:>4} s: {} of {} trials   ",
                start.elapsed().as_secs(),
                tried.len(),
                jobs.len()
            );
        }
        Ok(())
    };
    thread::scope(|scope| {
        let workers: Vec<_> = stages.iter_mut().map(|stage| scope.spawn(|| work(stage))).collect();
        workers.into_iter().try_for_each(|worker| {
            worker.join().map_err(|_| anyhow::anyhow!("a trial panicked"))?
        })
    })?;
    println!();
    Ok(tried.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// A trial in which packets had to wait, as on a machine that does other work, is made again: what
/// it skips says nothing. A stall makes them wait by itself.
fn judged(stage: &mut Stage, point: &Point, blow: Blow) -> Result<(bool, Counted)> {
    let mut tried = trial::make(stage, point, blow)?;
    for _ in 1..TRIES {
        if tried.1.skips_judged || blow == Blow::Stall {
            break;
        }
        tried = trial::make(stage, point, blow)?;
    }
    Ok(tried)
}

fn judge(rehearsal: &mut Rehearsal, tried: &[Tried], start: Instant) {
    for blow in Blow::ALL {
        let of_it = tried.iter().filter(|one| one.blow == blow && one.reached).count();
        rehearsal.tell(&format!("trials_{}", blow.word()), of_it);
    }
    let sum = |number: fn(&Counted) -> u64| tried.iter().map(|one| number(&one.counted)).sum();
    rehearsal.tell("receipts", sum(|counted| counted.receipts));
    rehearsal.tell("crashes", sum(|counted| counted.crashes));
    rehearsal.tell("skipped", sum(|counted| counted.skipped));
    let unjudged = tried.iter().filter(|one| !one.counted.skips_judged).count();
    rehearsal.tell("trials_whose_skips_are_not_judged", unjudged);
    rehearsal.exactly("duplicates", sum(|counted| counted.duplicates), 0);
    rehearsal.exactly("lost", sum(|counted| counted.lost), 0);
    let bad = tried.iter().filter(|one| !one.counted.problems.is_empty());
    for one in bad.clone().take(TOLD_MAX) {
        println!("! {}: {}", one.label, one.counted.problems.join("; "));
    }
    rehearsal.exactly("trials_with_problems", bad.count() as u64, 0);
    let unreached = tried.iter().filter(|one| !one.reached);
    for one in unreached.clone().take(TOLD_MAX) {
        println!("! {} was not reached", one.label);
    }
    rehearsal.exactly("unreached", unreached.count() as u64, 0);
    rehearsal.tell("seconds", start.elapsed().as_secs());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(life: Life, operation: &str, number: u64) -> Point {
        let (operation, name) = (operation.to_owned(), "a.yaocursor".to_owned());
        Point { life, call: Call { operation, name, number } }
    }

    #[test]
    fn parts_make_a_whole() {
        let kit = Kit { binaries: "".into(), library: "".into(), loses_power: false };
        let points: Vec<Point> = (1..=7).map(|n| point(Life::First, "sync", n)).collect();
        let jobs = |part| {
            let choice = Choice { only: None, part, few: false, release: false };
            let jobs = chosen(&points, &kit, &choice).expect("there are some");
            jobs.iter().map(|(point, blow)| label(point, *blow)).collect::<Vec<_>>()
        };
        let mut parts: Vec<String> =
            ["1/3", "2/3", "3/3"].into_iter().flat_map(|p| jobs(Some(p))).collect();
        let mut whole = jobs(None);
        parts.sort_unstable();
        whole.sort_unstable();
        assert_eq!(parts, whole);
        assert!(whole.contains(&"first sync a.yaocursor 7 stall".to_owned()));
        assert!(!whole.iter().any(|label| label.ends_with("cut") || label.ends_with("short")));
        for bad in ["", "3", "0/3", "4/3", "a/b"] {
            part(bad).expect_err(bad);
        }
    }

    #[test]
    fn a_few_are_one_of_each_kind() {
        let kit = Kit { binaries: "".into(), library: "".into(), loses_power: true };
        let mut points: Vec<Point> = (1..=3).map(|n| point(Life::First, "write", n)).collect();
        points.extend([point(Life::First, "sync", 1), point(Life::Init, "sync", 1)]);
        points.push(point(Life::Second, "create", 1));
        let choice = Choice { only: Some("cut"), part: None, few: true, release: false };
        let jobs = chosen(&points, &kit, &choice).expect("there are some");
        let labels: Vec<String> = jobs.iter().map(|(p, blow)| label(p, *blow)).collect();
        let expected = [
            "first write a.yaocursor 2 cut",
            "first write a.yaocursor 2 torn-cut",
            "first sync a.yaocursor 1 cut",
        ];
        assert_eq!(labels, expected);
    }
}
