//! Power cuts at random, one after the other in the same event: several phones play, the machine
//! loses its power at whichever persistence call chance says, comes back, and goes on. The twin of
//! the soak `kills`: the page cache survives a killed process, but no power cut.

use super::{
    Random,
    crash::{
        kit::{Kit, Ready},
        play::{End, Play},
        stage::Stage,
        stages::{Made, Stages},
    },
    record::Share,
    rehearsal::Rehearsal,
};
use anyhow::{Result, bail};

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

pub(super) fn run(cuts: u64, seed: u64, share: Share, release: bool) -> Result<()> {
    let kit = match Kit::prepare(release, "power-cuts")? {
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
    let events: Vec<(String, u64)> = (0..cuts.div_ceil(CUTS_EACH))
        .map(|number| {
            let first = number * CUTS_EACH;
            (format!("seed {seed} cut {first} of {cuts}"), first)
        })
        .collect();
    let mut stages = Stages::new(&kit, "power-cuts", STAGES.min(events.len() as u64))?;
    let make = |stage: &mut Stage, first: &u64| {
        // An event can be played again by its own seed.
        let mut random = Random(seed.wrapping_mul(1_000_003).wrapping_add(*first));
        event(stage, CUTS_EACH.min(cuts - first), &mut random)
    };
    let outcome = stages.make(&kit, share, &events, make)?;
    let mut rehearsal = Rehearsal::new("power-cuts");
    let of_made: u64 = events
        .iter()
        .filter(|(name, _)| outcome.made.contains_key(name))
        .map(|(_, first)| CUTS_EACH.min(cuts - first))
        .sum();
    rehearsal.exactly("power_cuts", outcome.sum(|counted| counted.crashes), of_made);
    rehearsal.tell("power_cuts_left", cuts - of_made);
    outcome.judge(&mut rehearsal);
    rehearsal.judge()?;
    stages.remove()
}

/// One event with so many cuts.
fn event(stage: &mut Stage, cuts: u64, random: &mut Random) -> Result<Made> {
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
    Ok(Made { counted: play.finish()?, reached: true })
}
