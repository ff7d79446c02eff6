//! `yao-sim`: runs seeds and says what broke. docs/simulator.md has every option and the legend of
//! the trace.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "a command answers on standard output")]

use clap::Parser;
use std::{process::ExitCode, thread, time::Instant};
use yao_sim::{
    canary::Canary,
    faults::Fault,
    search::{Found, run_seed, search},
};

/// Violations after which a search ends.
const VIOLATIONS_MAX: usize = 5;

/// Runs the whole system in simulated worlds
#[derive(Parser)]
#[command(name = "cargo xtask sim")]
struct Arguments {
    /// Run this one seed and print its trace, one line per event
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
    /// Run so many seeds and print a table
    #[arg(long, default_value_t = 500)]
    seeds: u64,
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
        Some(seed) => one(seed, arguments.canary),
        None => many(&arguments),
    };
    // A canary is there to be found.
    let wanted = arguments.canary != Canary::None;
    if violated == wanted { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn one(seed: u64, canary: Canary) -> bool {
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
    let seeds = arguments.from..arguments.from + arguments.seeds;
    let found = search(seeds, arguments.canary, threads, VIOLATIONS_MAX);
    print(&found);
    let seconds = begun.elapsed().as_secs_f64();
    println!(
        "{} seeds, {} simulated seconds, in {seconds:.1} s on {threads} threads: {} violated",
        found.seeds,
        found.seconds,
        found.violations.len()
    );
    for report in &found.violations {
        let violation = report.violation.as_ref().map(ToString::to_string).unwrap_or_default();
        println!("seed {}: {violation}", report.seed);
        println!("  faults: {}", report.faults.names().join(", "));
        println!("  again: cargo xtask sim --seed {}", report.seed);
    }
    !found.violations.is_empty()
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
