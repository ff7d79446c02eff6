//! `yao-sim`: runs seeds and says what broke. docs/simulator.md has every option and the legend of
//! the trace.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "a command answers on standard output")]

use clap::Parser;
use rustix::time::{ClockId, clock_gettime};
use std::{process::ExitCode, thread, time::Instant};
use yao_sim::{
    canary::Canary,
    faults::Fault,
    search::{Found, run_seed, search},
    world::Report,
};

/// Violations after which a search ends.
const VIOLATIONS_MAX: usize = 5;
/// Seeds between two lines of a long search: a minute or so.
const SEEDS_PER_LINE: u64 = 1_000;

/// Runs the whole system in simulated worlds
#[derive(Parser)]
#[command(name = "cargo xtask sim")]
struct Arguments {
    /// Run this one seed and print its trace, one line per event
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
    /// With --seed: what the programs log themselves, at this level and above, between the lines
    #[arg(long, requires = "seed", value_name = "LEVEL")]
    log: Option<tracing::Level>,
    /// Run so many seeds and print a table
    #[arg(long, default_value_t = 500)]
    seeds: u64,
    /// Instead of so many seeds: go on until the processors have worked so many hours
    #[arg(long, conflicts_with = "seeds")]
    cpu_hours: Option<f64>,
    /// The first of them
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Plant a bug that must be found
    #[arg(long, value_enum, default_value_t)]
    canary: Canary,
    /// Threads; by default one for each core
    #[arg(long)]
    threads: Option<usize>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let violated = match arguments.seed {
        Some(seed) => one(seed, arguments.canary, arguments.log),
        None => many(&arguments),
    };
    // A canary is there to be found.
    let wanted = arguments.canary != Canary::None;
    if violated == wanted { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn one(seed: u64, canary: Canary, log: Option<tracing::Level>) -> bool {
    if let Some(level) = log {
        // No time of day: the lines of the trace around them say when it was.
        tracing_subscriber::fmt().with_max_level(level).without_time().with_ansi(false).init();
    }
    let report = run_seed(seed, canary, true);
    println!("faults: {}", report.faults.names().join(", "));
    println!("{} s, {} events, digest {:016x}", report.seconds, report.events, report.digest);
    println!("{:?}", report.totals);
    match &report.violation {
        Some(violation) => println!("VIOLATED {violation}"),
        None => println!("nothing was violated"),
    }
    report.violation.is_some()
}

fn many(arguments: &Arguments) -> bool {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let threads = arguments.threads.unwrap_or(cores);
    let begun = Instant::now();
    let found = match arguments.cpu_hours {
        Some(hours) => soak(arguments, threads, hours),
        None => {
            let seeds = arguments.from..arguments.from + arguments.seeds;
            search(seeds, arguments.canary, threads, VIOLATIONS_MAX)
        }
    };
    print(&found);
    let seconds = begun.elapsed().as_secs_f64();
    println!(
        "{} seeds, {} simulated seconds, in {seconds:.1} s on {threads} threads: {} violated",
        found.seeds,
        found.seconds,
        found.violations.len()
    );
    found.violations.iter().for_each(tell);
    !found.violations.is_empty()
}

/// How a seed failed, and how to see it again.
fn tell(report: &Report) {
    let violation = report.violation.as_ref().map(ToString::to_string).unwrap_or_default();
    println!("seed {}: {violation}", report.seed);
    println!("  faults: {}", report.faults.names().join(", "));
    println!("  again: cargo xtask sim --seed {}", report.seed);
}

/// Goes on until the process has used so many hours of processor time, or has found enough.
fn soak(arguments: &Arguments, threads: usize, hours: f64) -> Found {
    let mut all = Found::default();
    loop {
        let from = arguments.from + all.seeds;
        let wanted = VIOLATIONS_MAX - all.violations.len();
        let found = search(from..from + SEEDS_PER_LINE, arguments.canary, threads, wanted);
        found.violations.iter().for_each(tell);
        all.add(found);
        let used = cpu_hours();
        let (next, violated) = (arguments.from + all.seeds, all.violations.len());
        println!("{used:.2} CPU hours: seeds {} to {next}, {violated} violated", arguments.from);
        if used >= hours || violated >= VIOLATIONS_MAX {
            return all;
        }
    }
}

/// What the process has used, all threads together.
fn cpu_hours() -> f64 {
    let used = clock_gettime(ClockId::ProcessCPUTime);
    used.tv_sec as f64 / 3_600.0
}

fn print(found: &Found) {
    println!("{:<16} worlds", "fault");
    for (count, (_, name)) in found.drawn.iter().zip(Fault::ALL) {
        println!("{name:<16} {count:>6}");
    }
    let sums = &found.sums;
    let rows = [
        ("phones", sums.phones),
        ("packets issued", sums.issued),
        ("opens acknowledged", sums.acknowledged),
        ("packets paid", sums.paid),
        ("times counted", sums.counts),
        ("processes started", sums.starts),
        ("nodes lost", sums.lost_nodes),
    ];
    for (name, value) in rows {
        println!("{name:<18} {value:>10}");
    }
}
