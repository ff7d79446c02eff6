//! Every persistence call of a node's scripted life, and one trial for each that can go wrong
//! there: killed, killed in the middle of it, power cut, power cut with half of it on disk, EIO,
//! ENOSPC, a short write, a stall.
//!
//! The script has three processes: `init`; a first life, which is killed in the middle of raising
//! a cursor for the second time; and a second one, which recovers from that and from torn logs, and
//! ends in order.
//! Which calls there are is counted, not listed. See docs/decisions/0020-faults-by-preloading.md.

mod trial;
mod witness;

use self::trial::{Blow, Life, Point};
use super::{
    crash::{
        faults::Call,
        kit::{Kit, Ready},
        play::Play,
        stage::Stage,
        stages::{Made, Outcome, Stages},
    },
    record::Share,
    rehearsal::Rehearsal,
};
use anyhow::{Result, bail};
use std::collections::BTreeMap;

/// Trials side by side: they wait more than they work.
const STAGES: u64 = 6;
/// So often a trial is made whose skips cannot be judged.
const TRIES: u32 = 4;
/// The write of a cursor that begins the second raise of the first life.
const SECOND_RAISE: u64 = 3;
/// Syncs with which a start writes both slots of a cursor anew.
const SLOTS: usize = 2;

/// What can be chosen.
pub(super) struct Choice<'a> {
    /// Only trials whose name contains this.
    pub(super) only: Option<&'a str>,
    /// Only this part of them: "2/3".
    pub(super) part: Option<&'a str>,
    /// Only a few points of each kind.
    pub(super) few: bool,
    pub(super) share: Share,
    pub(super) release: bool,
}

pub(super) fn run(choice: &Choice<'_>) -> Result<()> {
    let kit = match Kit::prepare(choice.release, "crash-points")? {
        Ready::Here(kit) => kit,
        Ready::Elsewhere(result) => return result,
    };
    let mut stages = Stages::new(&kit, "crash-points", STAGES)?;
    let points = points(stages.first())?;
    let mut rehearsal = Rehearsal::new("crash-points");
    for life in Life::ALL {
        let calls = points.iter().filter(|point| point.life == life).count();
        rehearsal.tell(&format!("calls_{life}"), calls);
    }
    if !choice.few && choice.only.is_none() {
        witness::check(stages.first(), &mut rehearsal)?;
    }
    let trials: Vec<_> = chosen(&points, &kit, choice)?
        .into_iter()
        .map(|(point, blow)| (label(&point, blow), (point, blow)))
        .collect();
    let make = |stage: &mut Stage, (point, blow): &(Point, Blow)| judged(stage, point, *blow);
    let outcome = stages.make(&kit, choice.share, &trials, make)?;
    tell_blows(&mut rehearsal, &trials, &outcome);
    outcome.judge(&mut rehearsal);
    rehearsal.judge()?;
    stages.remove()
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
    let served = play.stage.faults.log()?.calls.len();
    let counted = play.finish()?;
    if !counted.problems.is_empty() {
        bail!("the script without a fault: {}", counted.problems.join("; "));
    }
    // What the logs do not need any more is given back when nothing more will be written.
    for (place, call) in stage.faults.log()?.calls.into_iter().enumerate() {
        let ends = place >= served && call.operation == "resize";
        points.push(Point { life: if ends { Life::End } else { Life::Second }, call });
    }
    check_mended(&points)?;
    Ok(points)
}

/// The first life left one slot torn. H was taken as high as that slot may have said, and both say
/// so before anything is issued: else the next crash may find neither (M2).
fn check_mended(points: &[Point]) -> Result<()> {
    let second = points.iter().filter(|point| point.life == Life::Second).map(|point| &point.call);
    let journaled = |call: &&Call| call.operation == "write" && call.name.starts_with("journal/");
    let before = second.take_while(|call| !journaled(call));
    let synced =
        before.filter(|call| call.operation == "sync" && call.name.starts_with("cursor/")).count();
    if synced < SLOTS {
        bail!(
            "a start with a torn slot writes {synced} slots before the journal, not {SLOTS} (M2)"
        );
    }
    Ok(())
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
        Life::Init | Life::End => false,
        Life::First => !matches!(blow, Blow::Stall | Blow::Enospc),
        Life::Second => blow == Blow::Cut || blow == Blow::TornKill,
    };
    let money = |call: &Call| {
        call.name.contains(".yao")
            && !call.name.ends_with(".draft")
            && ["write", "sync"].contains(&call.operation.as_str())
    };
    // A raise while packets below H are being won.
    let raise = |point: &Point, blow: Blow| {
        (point.life, blow, point.call.number) == (Life::First, Blow::Cut, SECOND_RAISE)
            && point.call.raises()
            && point.call.operation == "write"
    };
    let is_one = |point: &Point, blow: Blow| {
        raise(point, blow) || (is_chosen(point) && serves(point, blow) && money(&point.call))
    };
    jobs.into_iter().filter(|(point, blow)| is_one(point, *blow)).collect()
}

/// A trial in which packets had to wait, as on a machine that does other work, is made again: what
/// it skips says nothing. A stall makes them wait by itself.
fn judged(stage: &mut Stage, point: &Point, blow: Blow) -> Result<Made> {
    let mut made = trial::make(stage, point, blow)?;
    for _ in 1..TRIES {
        if made.counted.skips_judged || blow == Blow::Stall {
            break;
        }
        made = trial::make(stage, point, blow)?;
    }
    Ok(made)
}

/// How many trials of each kind came to pass.
fn tell_blows(rehearsal: &mut Rehearsal, trials: &[(String, (Point, Blow))], outcome: &Outcome) {
    let reached = |name: &String| outcome.made.get(name).is_some_and(|made| made.reached);
    for blow in Blow::ALL {
        let of_it = trials.iter().filter(|(name, (_, its))| *its == blow && reached(name));
        rehearsal.tell(&format!("trials_{}", blow.word()), of_it.count());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Choice<'static> = Choice {
        only: None,
        part: None,
        few: false,
        share: Share { resume: false, minutes: None },
        release: false,
    };

    fn point(life: Life, operation: &str, number: u64) -> Point {
        let (operation, name) = (operation.to_owned(), "a.yaocursor".to_owned());
        Point { life, call: Call { operation, name, number } }
    }

    #[test]
    fn parts_make_a_whole() {
        let kit = Kit { binaries: "".into(), library: "".into(), loses_power: false };
        let points: Vec<Point> = (1..=7).map(|n| point(Life::First, "sync", n)).collect();
        let jobs = |part| {
            let choice = Choice { part, ..ALL };
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
        let choice = Choice { only: Some("cut"), few: true, ..ALL };
        let jobs = chosen(&points, &kit, &choice).expect("there are some");
        let labels: Vec<String> = jobs.iter().map(|(p, blow)| label(p, *blow)).collect();
        let expected = [
            "first write a.yaocursor 2 cut",
            "first write a.yaocursor 2 torn-cut",
            "first sync a.yaocursor 1 cut",
        ];
        assert_eq!(labels, expected);
    }

    #[test]
    fn the_raise_that_the_first_life_ends_in_is_one_of_the_few() {
        let kit = Kit { binaries: "".into(), library: "".into(), loses_power: true };
        let cursor = |number| {
            let (operation, name) = ("write".to_owned(), "cursor/wave-000.yaocursor".to_owned());
            Point { life: Life::First, call: Call { operation, name, number } }
        };
        let points: Vec<Point> = (1..=3).map(cursor).collect();
        let jobs = chosen(&points, &kit, &Choice { few: true, ..ALL }).expect("there are some");
        let cuts: Vec<u64> = jobs
            .iter()
            .filter(|(_, blow)| *blow == Blow::Cut)
            .map(|(p, _)| p.call.number)
            .collect();
        assert_eq!(cuts, [2, SECOND_RAISE]);
        assert_eq!(jobs.iter().filter(|(point, _)| point.call.number == SECOND_RAISE).count(), 1);
    }

    #[test]
    fn a_start_that_leaves_a_torn_slot_is_found() {
        let second = |operation: &str, name: &str, number| {
            let (operation, name) = (operation.to_owned(), name.to_owned());
            Point { life: Life::Second, call: Call { operation, name, number } }
        };
        let journal = second("write", "journal/journal-#.yaojournal", 1);
        let slot = |number| second("sync", "cursor/wave-000.yaocursor", number);
        check_mended(&[slot(1), slot(2), journal.clone()]).expect("both slots");
        let error = check_mended(&[slot(1), journal, slot(2)]).expect_err("one slot");
        assert!(error.to_string().contains("writes 1 slots"), "{error}");
    }
}
