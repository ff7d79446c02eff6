//! One trial: the script up to one persistence call, a blow there, and what must hold then.

use crate::soak::crash::{
    faults::Call,
    kit::Kit,
    play::{End, Play},
    stage::Stage,
    stages::Made,
};
use anyhow::Result;
use std::{
    fmt, thread,
    time::{Duration, Instant},
};

/// Receipts that come after the last fault: it goes on.
pub(super) const AFTERWARDS: usize = 2;
/// A failed call fences the shard or the spool, and `/readyz` says so, within this time.
const FENCED_MAX: Duration = Duration::from_secs(1);
/// A phone is answered within this time, fenced or not.
const ANSWERED_MAX: Duration = Duration::from_secs(2);
/// How often the node is asked.
const LOOK: Duration = Duration::from_millis(5);
/// A call stalls for so long, ms.
const STALL_MS: u64 = 2_000;
/// Before the power is cut other threads go on for so long, ms: whoever relies on a call that has
/// not returned hands a ticket or a receipt to a phone meanwhile.
const LINGER_MS: u64 = 120;
/// The same where H is raised: the 31 packets that are left below it last 1.2 s, at 1.2 times 21 a
/// second, and only then it shows whether those above it wait for the disk. Nor may so much time
/// pass without one that packets wait for somebody (`play.rs`).
const RAISE_LINGER_MS: u64 = 1_600;
/// What was on its way to a phone when a stall began has arrived after this time, us.
const ARRIVED_US: u64 = 100_000;

/// A process of the script, or the end of its last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Life {
    Init,
    First,
    Second,
    /// The end of the second, which it was told to come to.
    End,
}

impl Life {
    pub(super) const ALL: [Self; 4] = [Self::Init, Self::First, Self::Second, Self::End];
}

impl fmt::Display for Life {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Init => "init",
            Self::First => "first",
            Self::Second => "second",
            Self::End => "end",
        })
    }
}

/// A call of the script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Point {
    pub(super) life: Life,
    pub(super) call: Call,
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.life, self.call)
    }
}

/// What happens at a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Blow {
    Kill,
    TornKill,
    Cut,
    TornCut,
    Eio,
    Enospc,
    Short,
    Stall,
}

impl Blow {
    pub(super) const ALL: [Self; 8] = [
        Self::Kill,
        Self::TornKill,
        Self::Cut,
        Self::TornCut,
        Self::Eio,
        Self::Enospc,
        Self::Short,
        Self::Stall,
    ];

    /// Its word in the names of trials.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::TornKill => "torn-kill",
            Self::Cut => "cut",
            Self::TornCut => "torn-cut",
            Self::Eio => "eio",
            Self::Enospc => "enospc",
            Self::Short => "short",
            Self::Stall => "stall",
        }
    }

    /// Whether it can happen to this call, on such a disk.
    pub(super) fn is_possible(self, call: &Call, kit: &Kit) -> bool {
        let torn = matches!(self, Self::TornKill | Self::TornCut | Self::Short);
        let cut = matches!(self, Self::Cut | Self::TornCut);
        (!torn || call.can_be_torn()) && (!cut || kit.loses_power)
    }

    /// The order that brings it about. A process ends before its disk loses the power.
    fn order(self, point: &Point) -> String {
        let Point { life, call } = point;
        let (strike, wait_ms) = match self {
            Self::Stall => ("stall", STALL_MS),
            // There is nobody yet to whom anything could be handed.
            Self::Cut if *life == Life::Init => ("kill", 0),
            Self::Cut if call.raises() => ("kill", RAISE_LINGER_MS),
            Self::Cut => ("kill", LINGER_MS),
            Self::TornCut => ("torn-synced-kill", 0),
            other => (other.word(), 0),
        };
        format!("{strike} {wait_ms} {call}")
    }
}

/// Makes the trial.
pub(super) fn make(stage: &mut Stage, point: &Point, blow: Blow) -> Result<Made> {
    let mut play = Play::begin(stage, 1)?;
    let order = blow.order(point);
    if point.life == Life::Init {
        let reached = strike_init(&mut play, &order, blow)?;
        play.go_on(AFTERWARDS)?;
        return Ok(Made { counted: play.finish()?, reached });
    }
    if let Err(said) = play.init(None)? {
        anyhow::bail!("init: {said}");
    }
    if matches!(point.life, Life::Second | Life::End) {
        play.first_life()?;
    }
    if point.life == Life::End {
        let reached = strike_end(&mut play, &order, blow)?;
        play.go_on(AFTERWARDS)?;
        return Ok(Made { counted: play.finish()?, reached });
    }
    let end = play.live(Some(&order), |play| Ok(blow_is_over(blow) && play.struck()?))?;
    let reached = play.struck()?;
    if reached {
        strike_life(&mut play, end, &point.call, blow)?;
        play.go_on(AFTERWARDS)?;
    }
    if reached && matches!(blow, Blow::Short | Blow::Stall) {
        check_unharmed(&mut play, &point.call, blow)?;
    }
    Ok(Made { counted: play.finish()?, reached })
}

/// Whether the node lives on after the blow, so that nobody waits for its end.
const fn blow_is_over(blow: Blow) -> bool {
    matches!(blow, Blow::Eio | Blow::Enospc | Blow::Short | Blow::Stall)
}

/// What follows a blow in a node's life; afterwards it may be started, or still runs.
fn strike_life(play: &mut Play<'_>, end: End, call: &Call, blow: Blow) -> Result<()> {
    match blow {
        Blow::Kill | Blow::TornKill => {
            play.crashes += 1;
            // What the kill left in memory was read and believed: it must be on disk by then.
            if play.stage.disk.loses_power() {
                play.go_on(1)?;
                play.cut_power()?;
                play.crashes += 1;
            }
        }
        Blow::Cut | Blow::TornCut => {
            play.crashes += 1;
            play.cut_power()?;
        }
        Blow::Eio | Blow::Enospc => {
            fail(play, end, call)?;
            // What a failed sync did not bring to disk the kernel forgets.
            if play.stage.disk.loses_power() {
                play.cut_power()?;
            } else {
                play.kill()?;
            }
        }
        Blow::Short | Blow::Stall => {
            if end != End::Reached {
                play.problem(format!("the node does not live with it: {end:?}"));
            }
        }
    }
    Ok(())
}

/// The blow strikes while the node ends, as it was told to: it ends all the same.
fn strike_end(play: &mut Play<'_>, order: &str, blow: Blow) -> Result<bool> {
    let wanted = play.receipts() + AFTERWARDS;
    let end = play.live(Some(order), |play| Ok(play.receipts() >= wanted))?;
    if end != End::Reached {
        play.problem(format!("the node did not come to its end: {end:?}"));
        return Ok(false);
    }
    let end = play.end_in_order()?;
    if end != End::Died {
        play.problem(format!("the node does not end when it is told to: {end:?}"));
    }
    // In order or not, in the middle of a wave the next start passes over what is left below H.
    play.crashes += 1;
    if matches!(blow, Blow::Cut | Blow::TornCut) {
        play.cut_power()?;
    }
    play.struck()
}

/// A call failed: the node refuses to start, with a reason, or it fences, says why, and serves on.
fn fail(play: &mut Play<'_>, end: End, call: &Call) -> Result<()> {
    match end {
        End::NotStarted(said) => {
            if !said.contains("error: ") {
                play.problem(format!("it did not say why it does not start: {said}"));
            }
            return Ok(());
        }
        End::Died | End::Waited => {
            play.problem(format!("the node did not serve on: {end:?}"));
            return Ok(());
        }
        End::Reached => play.crashes += 1,
    }
    let log = play.stage.faults.log()?;
    let (_, before) = log.strike.unwrap_or_default();
    // The failed call is the first behind the strike, unless another thread's lies between.
    let failed = log.calls.iter().skip(before).position(|later| later == call);
    let failed = before + failed.unwrap_or_default();
    let harmless = only_tidies(call, log.calls.get(..failed).unwrap_or_default());
    if let Some(word) = fence_of(call).filter(|_| !harmless) {
        let start = Instant::now();
        let mut told = play.stage.event.readiness()?.1;
        while !told.contains(word) && start.elapsed() < FENCED_MAX {
            thread::sleep(LOOK);
            told = play.stage.event.readiness()?.1;
        }
        if !told.contains(word) {
            play.problem(format!("/readyz says no `{word}` after {FENCED_MAX:?}: {}", told.trim()));
        }
    }
    let wanted = play.answers() + 3;
    let start = Instant::now();
    while play.answers() < wanted && start.elapsed() < ANSWERED_MAX {
        thread::sleep(LOOK);
    }
    if play.answers() < wanted {
        play.problem(format!("nobody was answered for {ANSWERED_MAX:?}"));
    }
    if !play.stage.event.access_runs()? {
        play.problem("the node ended".to_owned());
    }
    let log = play.stage.faults.log()?;
    let again = log.calls.iter().skip(failed + 1).find(|later| call.is_tried_again_by(later));
    if let Some(again) = again.filter(|_| !harmless) {
        play.problem(format!("it was tried again: {again} (M3)"));
    }
    Ok(())
}

/// Whether the call removes a spool segment of which all is settled, or makes its removal last.
/// A segment that stays, or comes back, costs room: it is removed when the watermark moves again.
fn only_tidies(call: &Call, before: &[Call]) -> bool {
    let segment = |call: &Call| call.name.starts_with("spool/spool-");
    let named = |call: &&Call| segment(call) && ["create", "remove"].contains(&&*call.operation);
    let directory_of_removed = || {
        let last = before.iter().rev().find(named);
        call.name == "spool" && last.is_some_and(|last| last.operation == "remove")
    };
    segment(call) && call.operation == "remove" || directory_of_removed()
}

/// What `/readyz` says when this call failed; nothing for what holds no money.
fn fence_of(call: &Call) -> Option<&'static str> {
    match call.name.split('/').next() {
        Some("cursor" | "journal") => Some("fenced: "),
        Some("spool") => Some("spool: "),
        _ => None,
    }
}

/// After a short write or a stall nothing is fenced, and nobody had a receipt during the stall of
/// what it waits for.
fn check_unharmed(play: &mut Play<'_>, call: &Call, blow: Blow) -> Result<()> {
    let (code, told) = play.stage.event.readiness()?;
    if code != 200 {
        play.problem(format!("/readyz: {}", told.trim()));
    }
    let Some((strike_us, _)) = play.stage.faults.log()?.strike else { return Ok(()) };
    if blow == Blow::Stall && call.name.starts_with("spool/spool-") {
        let end_us = strike_us + STALL_MS * 1_000;
        let early = play.receipts_between(strike_us + ARRIVED_US, end_us);
        if early > 0 {
            play.problem(format!("{early} receipts while the disk had not answered (M7)"));
        }
    }
    Ok(())
}

/// The blow strikes `init`; afterwards the shard is initialised, whatever that took.
fn strike_init(play: &mut Play<'_>, order: &str, blow: Blow) -> Result<bool> {
    let outcome = play.init(Some(order))?;
    let reached = play.struck()?;
    match (&outcome, blow) {
        _ if !reached => {}
        (Err(_), Blow::Kill | Blow::TornKill) => {}
        (Err(_), Blow::Cut | Blow::TornCut) => play.cut_power()?,
        (Err(said), Blow::Eio | Blow::Enospc) => {
            if !said.contains("error: ") {
                play.problem(format!("init did not say what is wrong: {said}"));
            }
            if play.stage.disk.loses_power() {
                play.cut_power()?;
            }
        }
        (Ok(()), Blow::Short | Blow::Stall) => {}
        (outcome, _) => play.problem(format!("init came to {outcome:?}")),
    }
    if outcome.is_err() {
        init_again(play)?;
    }
    Ok(reached)
}

/// What an operator does whose `init` was interrupted: it again; else a start, which says whether
/// it was complete; else the state is removed, which was never used, and it again.
fn init_again(play: &mut Play<'_>) -> Result<()> {
    let Err(refused) = play.init(None)? else { return Ok(()) };
    match play.start(None)? {
        None => return Ok(()),
        Some(said) if said.contains("error: ") => {}
        Some(said) => play.problem(format!("it did not say why it does not start: {said}")),
    }
    play.stage.event.forget_state()?;
    if let Err(said) = play.init(None)? {
        play.problem(format!("init refused ({refused}), and on an empty directory, too: {said}"));
    }
    Ok(())
}
