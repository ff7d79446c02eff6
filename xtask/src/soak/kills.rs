//! Node, agent and ledger, each killed again and again under load, in events that follow each
//! other: nothing is issued or paid twice, and no acknowledged open is lost.

use super::{
    LEAD_SECONDS, RUSH, Random, arm, end, ready,
    record::{Record, Share},
    rehearsal::Rehearsal,
};
use crate::{
    event::{self, Event, Plan},
    process::Process,
};
use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use std::{
    fs,
    process::Stdio,
    time::{Duration, Instant},
};

/// Packets of a second; the block of M1 lasts so many seconds of release.
const PER_SECOND: u64 = 100;
const BLOCK_SECONDS: u64 = 3;

/// What came of one event.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Made {
    kills: u64,
    /// Of them: of the node.
    crashes: u64,
    opened: u64,
    settled: u64,
    /// Packets that restarts passed over. What waited a minute for somebody eligible was skipped by
    /// no crash.
    skipped: u64,
    duplicates: u64,
    lost: u64,
    /// Threads of any process that panicked.
    panics: u64,
    balanced: bool,
}

/// `rounds` events, in each of which every process is killed `each` times.
pub(super) fn run(seed: u64, each: u32, rounds: u64, share: Share) -> Result<()> {
    let start = Instant::now();
    let binaries = event::build(true)?;
    let mut record = Record::<Made>::open("kills", &binaries, share)?;
    let names: Vec<(String, u64)> = (0..rounds)
        .map(|round| (format!("seed {} of {each} kills each", seed + round), seed + round))
        .collect();
    let mut now = 0;
    for (name, seed) in &names {
        if record.made(name).is_none() && !record.is_over() {
            println!("{name}");
            record.add(name.clone(), one(*seed, each).with_context(|| name.clone())?)?;
            now += 1;
        }
    }
    let made: Vec<&Made> = names.iter().filter_map(|(name, _)| record.made(name)).collect();
    let sum = |number: fn(&Made) -> u64| made.iter().map(|made| number(made)).sum::<u64>();
    let mut rehearsal = Rehearsal::new("kills");
    rehearsal.tell("planned", rounds);
    rehearsal.tell("made_before", made.len() as u64 - now);
    rehearsal.tell("made_now", now);
    rehearsal.tell("left", rounds - made.len() as u64);
    rehearsal.exactly("kills", sum(|one| one.kills), made.len() as u64 * u64::from(each) * 3);
    // Each event plans 36,000 packets, and most are opened.
    let least = made.len() as u64 * 1_000;
    rehearsal.at_least("opens_acknowledged", sum(|one| one.opened), least.max(1));
    rehearsal.exactly("opens_settled", sum(|one| one.settled), sum(|one| one.opened));
    let most = PER_SECOND * BLOCK_SECONDS * sum(|one| one.crashes);
    rehearsal.at_most("skipped", sum(|one| one.skipped) as f64, most as f64);
    rehearsal.exactly("duplicates", sum(|one| one.duplicates), 0);
    rehearsal.exactly("lost", sum(|one| one.lost), 0);
    rehearsal.exactly("panics", sum(|one| one.panics), 0);
    let unbalanced = made.iter().filter(|one| !one.balanced).count();
    rehearsal.exactly("unbalanced", unbalanced as u64, 0);
    rehearsal.tell("seconds", start.elapsed().as_secs());
    rehearsal.judge()
}

/// One event.
fn one(seed: u64, each: u32) -> Result<Made> {
    let plan =
        Plan { campaign_file: "campaigns/siege.toml", campaign: 92, grace_seconds: 20, ..RUSH };
    let mut event = ready("kills", plan)?;
    arm(&event)?;
    let mut loads = start_loads(&event)?;
    std::thread::sleep(Duration::from_secs(LEAD_SECONDS + 1));
    let mut random = Random(seed);
    let mut plan = victims(each, &mut random);
    let mut kills = 0;
    let start = Instant::now();
    while let Some(victim) = plan.pop() {
        // The moments must be random, so this is no wait for anything.
        std::thread::sleep(Duration::from_millis(300 + random.below(2_700)));
        strike(&mut event, victim)?;
        kills += 1;
        print!("\r{:>4} s: {} kills to go   ", start.elapsed().as_secs(), plan.len());
    }
    println!();
    for load in loads.drain(..) {
        load.finish()?;
    }
    event.await_settled()?;
    let audit = end(&mut event, &["shake.log", "crowd.log"])?;
    let number = |key: &str| audit[key].as_u64().with_context(|| format!("no {key}"));
    let balanced = audit["verdict"] == "balanced";
    let panics = panics(&event)?;
    if balanced {
        event.remove()?;
    } else {
        println!("its files are kept in {}", event.directory().display());
    }
    Ok(Made {
        kills,
        crashes: u64::from(each),
        opened: number("opened")?,
        settled: number("settled")?,
        skipped: number("skipped")? - number("waited")?,
        duplicates: number("duplicates")?,
        lost: number("lost")?,
        panics,
        balanced,
    })
}

/// What the logs tell of threads that panicked.
fn panics(event: &Event) -> Result<u64> {
    let mut panics = 0;
    for log in ["access.log", "ledger.log"] {
        let text = fs::read_to_string(event.path(log)).with_context(|| log.to_owned())?;
        panics += text.matches("panicked").count() as u64;
    }
    Ok(panics)
}

/// People with the SDK, and raw connections of users who come and go.
fn start_loads(event: &Event) -> Result<Vec<Process>> {
    let mut shake = event.program("netbench");
    shake.arg("shake").args(event.load_options()).args([
        "--connections",
        "1500",
        "--closed",
        "--relogin",
        "--open",
        "--reconnect",
        "--seconds",
        "400",
        "--tickets",
        "shake.log",
        "--progress",
    ]);
    shake.stdout(Stdio::null());
    let mut crowd = event.program("netbench");
    let options = event.load_options();
    // The last option is the first user: these are other people.
    crowd.arg("crowd").args(&options[..options.len() - 1]).arg("10000000").args([
        "--clients",
        "1000",
        "--seconds",
        "400",
        "--shake-every-ms",
        "500",
        "--tickets",
        "crowd.log",
    ]);
    crowd.stdout(Stdio::null());
    Ok(vec![
        Process::start("shake", &mut shake, &event.path("shake.err"))?,
        Process::start("crowd", &mut crowd, &event.path("crowd.err"))?,
    ])
}

fn strike(event: &mut Event, victim: Victim) -> Result<()> {
    match victim {
        Victim::Access => {
            ensure!(event.strike_access()?, "the node had ended by itself: see access.log");
            event.start_access()
        }
        Victim::Ledger => {
            ensure!(event.strike_ledger()?, "the ledger had ended by itself: see ledger.log");
            event.start_ledger()
        }
        Victim::Agent => {
            // It may be between two lives: then the next one is struck.
            event.await_agent()?;
            event.kill_agent().map(|_| ())
        }
    }
}

/// Each victim so often, in random order.
fn victims(each: u32, random: &mut Random) -> Vec<Victim> {
    let mut plan: Vec<Victim> =
        (0..each).flat_map(|_| [Victim::Access, Victim::Agent, Victim::Ledger]).collect();
    for last in (1..plan.len()).rev() {
        let other = usize::try_from(random.below(last as u64 + 1)).expect("below a usize");
        plan.swap(last, other);
    }
    plan
}

/// Which process is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Access,
    Agent,
    Ledger,
}
