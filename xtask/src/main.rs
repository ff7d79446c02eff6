//! `cargo xtask`: the repository's own commands. Reads like the list it is.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "a command answers on standard output")]

mod bad_agent;
mod ci;
mod conform;
mod demo;
mod event;
mod http;
mod layers;
mod miri;
mod mutants;
mod ports;
mod process;
mod programs;
mod shell;
mod sim;
mod soak;
mod table;
mod tidy;

use anyhow::Result;
use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// The repository's own commands.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a whole small event: seeds, ledger, node, agent, 5,000 clients, audit.
    Demo(demo::DemoArguments),
    /// Hold our own node against every rule of docs/wire.md.
    Conform,
    /// Run every test.
    Test,
    /// Everything that continuous integration checks.
    Ci,
    /// Run the whole system in simulated worlds (docs/simulator.md).
    Sim(sim::SimArguments),
    /// Long runs with optimised programs, each judged by the audit.
    Soak(soak::SoakArguments),
    /// Prove who imports whom.
    Layers,
    /// Run what Miri can run under its checks; needs a nightly compiler.
    Miri,
    /// Make one money rule wrong at a time, and prove that a test fails.
    Mutants(mutants::MutantsArguments),
    /// Check the repository's own rules.
    Tidy,
    /// POST to a server of ours; for commands of commands.
    #[command(hide = true)]
    Post {
        /// Its HTTP port.
        address: String,
        /// Path and query.
        path: String,
    },
    /// An agent that misbehaves; started by a node in the soak `agent-torture`.
    #[command(hide = true)]
    BadAgent(bad_agent::Arguments),
}

fn main() -> ExitCode {
    let result: Result<()> = match Arguments::parse().command {
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Conform => conform::run(),
        Command::Test => ci::test(),
        Command::Ci => ci::run(),
        Command::Sim(arguments) => sim::run(&arguments),
        Command::Soak(arguments) => soak::run(&arguments),
        Command::Layers => layers::run(),
        Command::Miri => miri::run(),
        Command::Mutants(arguments) => mutants::run(&arguments),
        Command::Tidy => tidy::run(),
        Command::BadAgent(arguments) => bad_agent::run(&arguments),
        Command::Post { address, path } => http::accepted(&address, &path),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
