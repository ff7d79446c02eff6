//! `netbench malformed`: broken frames before and after HELLO, and whether anybody else notices.
//!
//! Ordinary connections shake all the time: first under a flood, which says what breaks, then in
//! windows with the attack and without it (`windows.rs`), which say who waits.

mod attack;
mod mutate;

use crate::{
    load::{Fleet, Meter, Opens, Pace, Plan, Target, TargetArgs, now_ns},
    windows::{self, Claim, WINDOW, Windows},
};
use anyhow::{Context, Result, bail};
use attack::{Attack, Outcomes};
use mutate::Mutator;
use serde::Serialize;
use std::{
    io::{self, Write},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

/// The p99 of others may rise so much (`windows.rs`).
const RATIO_MAX: f64 = 1.5;
/// Memory that the server may keep after the attack, bytes.
const GROWTH_BYTES_MAX: u64 = 16 << 20;
/// Users of the attack begin here, far from the others.
const ATTACK_USERS: u64 = 1 << 40;
/// Rounds of windows at most, should the attack be slower than planned.
const ROUNDS_MAX: usize = 600;
/// A flood that takes longer is not getting through, windows.
const FLOOD_WINDOWS_MAX: u64 = 1_800;
/// What a flood would like to send in a window: more than goes.
const FLOOD_PER_WINDOW: u64 = 100_000;

/// Broken frames before and after HELLO, and whether anybody else notices
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct MalformedArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// Process whose memory is read
    #[arg(long)]
    server_pid: u32,
    /// Broken frames of the windows, half of them after HELLO
    #[arg(long, default_value_t = 100_000)]
    frames: u64,
    /// Broken frames sent before, as fast as they go: latency is not judged then
    #[arg(long, default_value_t = 0)]
    flood: u64,
    /// Rounds of three one-second windows: without, with, without
    #[arg(long, default_value_t = 20)]
    rounds: usize,
    /// Ordinary connections
    #[arg(long, default_value_t = 200)]
    connections: usize,
    /// Shakes a second of all ordinary connections together
    #[arg(long, default_value_t = 2_000.0)]
    rate: f64,
    /// Folder of golden vectors whose bytes are mutated too
    #[arg(long)]
    vectors: Option<PathBuf>,
    /// Seed of the mutations
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print the result as one line of JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    verdict: &'static str,
    rounds: usize,
    /// The flood's seconds.
    flood_windows: u64,
    /// Of flood and windows.
    outcomes: Outcomes,
    /// Latency of the others.
    #[serde(flatten)]
    claim: Claim,
    /// Ordinary shakes that got no good answer.
    errors: u64,
    private_dirty_before: u64,
    private_dirty_after: u64,
    problems: Vec<String>,
}

/// Runs the attack to its end.
///
/// # Errors
/// The node harmed somebody, grew, or ended.
pub(crate) fn run(args: &MalformedArgs) -> Result<()> {
    let meter = Meter::new(args.server_pid)?;
    let mut fleet = Fleet::new(Plan {
        target: Target::node(&args.target)?,
        opens: Opens::Never,
        relogin: false,
        reconnect: false,
        spin: false,
        log: None,
        seed: args.seed,
    })?;
    fleet.connect(args.connections)?;
    let pace = Pace::Open { per_second: args.rate };
    fleet.run(pace, WINDOW)?;
    let mut attack_target = args.target.clone();
    attack_target.first_user = ATTACK_USERS;
    let mutator = Mutator::new(args.seed, args.target.campaign, args.vectors.as_deref())?;
    let rounds = u64::try_from(args.rounds)?.max(1);
    let per_window = args.frames.div_ceil(rounds);
    let mut attack = Attack::new(Target::node(&attack_target)?, mutator)?;
    let before = meter.private_dirty_bytes()?;
    let (mut errors, mut flood_windows) = (0, 0);
    while attack.outcomes().frames < args.flood {
        if flood_windows == FLOOD_WINDOWS_MAX {
            let sent = attack.outcomes().frames;
            bail!("only {sent} of {} broken frames went in {FLOOD_WINDOWS_MAX} s", args.flood);
        }
        fleet.take();
        attack = with_attack(attack, FLOOD_PER_WINDOW, || fleet.run(pace, WINDOW))?;
        errors += fleet.take().0.troubles();
        flood_windows += 1;
    }
    let flooded = attack.outcomes().frames;
    let mut windows = Windows::default();
    let mut round = 0;
    while round < args.rounds || attack.outcomes().frames - flooded < args.frames {
        if round == ROUNDS_MAX {
            let sent = attack.outcomes().frames - flooded;
            bail!("only {sent} of {} broken frames were sent in {ROUNDS_MAX} s", args.frames);
        }
        for kind in 0..windows::KINDS {
            fleet.take();
            if kind == windows::WITH {
                attack = with_attack(attack, per_window, || fleet.run(pace, WINDOW))?;
            } else {
                fleet.run(pace, WINDOW)?;
            }
            let (counts, latency, _) = fleet.take();
            errors += counts.troubles();
            windows.push(round, kind, latency)?;
        }
        round += 1;
    }
    let after = meter.private_dirty_bytes().context("the server ended")?;
    let mut report = Report {
        verdict: "unharmed",
        rounds: round,
        flood_windows,
        outcomes: attack.outcomes().clone(),
        claim: windows.claim(),
        errors,
        private_dirty_before: before,
        private_dirty_after: after,
        problems: Vec::new(),
    };
    judge(&mut report);
    print(&report, args.json)
}

/// Runs `ordinary` while another thread attacks.
fn with_attack(
    mut attack: Attack,
    frames: u64,
    ordinary: impl FnOnce() -> Result<()>,
) -> Result<Attack> {
    let stop = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&stop);
    let until = now_ns() + u64::try_from(WINDOW.as_nanos())?;
    let attacker = thread::spawn(move || {
        attack.run(frames, until, || seen.load(Ordering::Relaxed)).map(|()| attack)
    });
    let result = ordinary();
    stop.store(true, Ordering::Relaxed);
    let attack = attacker.join().map_err(|_| anyhow::anyhow!("the attacker panicked"))??;
    result.map(|()| attack)
}

fn judge(report: &mut Report) {
    let errors = report.errors;
    report.problems.extend(report.claim.problem(RATIO_MAX));
    if errors > 0 {
        report.problems.push(format!("{errors} ordinary shakes got no good answer"));
    }
    let grown = report.private_dirty_after.saturating_sub(report.private_dirty_before);
    if grown > GROWTH_BYTES_MAX {
        report.problems.push(format!("the server kept {grown} bytes"));
    }
    if report.outcomes.before_hello == 0 || report.outcomes.after_hello == 0 {
        report.problems.push("one half of the attack never happened".to_owned());
    }
    if !report.problems.is_empty() {
        report.verdict = "HARMED";
    }
}

fn print(report: &Report, json: bool) -> Result<()> {
    let mut out = io::stdout();
    if json {
        writeln!(out, "{}", serde_json::to_string(report)?)?;
    } else {
        writeln!(
            out,
            "{}: {} broken frames in {} rounds; {}; private memory {} KiB before, {} KiB after",
            report.verdict,
            report.outcomes.frames,
            report.rounds,
            report.claim,
            report.private_dirty_before / 1_024,
            report.private_dirty_after / 1_024
        )?;
    }
    if !report.problems.is_empty() {
        bail!("{}", report.problems.join("; "));
    }
    Ok(())
}
