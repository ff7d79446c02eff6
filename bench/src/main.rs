//! `netbench`: load, comparison and audit of Yao.
#![forbid(unsafe_code)]

mod audit;
mod certificates;
mod compare;
mod conform;
mod crowd;
mod handshake;
mod identity;
mod idle;
mod load;
mod malformed;
mod opens;
mod shake;
mod slowloris;
mod token;
mod windows;

use anyhow::Result;
use clap::{Parser, Subcommand};
use std::{path::PathBuf, process::ExitCode};

/// Load, comparison and audit of Yao.
#[derive(Parser)]
#[command(name = "netbench", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Shake(shake::ShakeArgs),
    Opens(opens::OpensArgs),
    Idle(idle::IdleArgs),
    Audit(audit::AuditArgs),
    Malformed(malformed::MalformedArgs),
    Slowloris(slowloris::SlowlorisArgs),
    Compare(compare::CompareArgs),
    Handshake(handshake::HandshakeArgs),
    #[command(hide = true)]
    Worker(compare::WorkerArgs),
    Crowd(crowd::CrowdArgs),
    Certificates(certificates::CertificatesArgs),
    Conform(Box<conform::ConformArgs>),
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// Make a session key pair for load: `session.key.pem` and `session.jwks.json`
    Keys {
        /// Folder that gets both files
        #[arg(long)]
        out: PathBuf,
    },
}

fn main() -> ExitCode {
    let result: Result<()> = match Arguments::parse().command {
        Command::Shake(args) => shake::run(&args),
        Command::Opens(args) => opens::run(&args),
        Command::Idle(args) => idle::run(&args),
        Command::Audit(args) => audit::run(&args),
        Command::Malformed(args) => malformed::run(&args),
        Command::Slowloris(args) => slowloris::run(&args),
        Command::Compare(args) => compare::run(&args),
        Command::Handshake(args) => handshake::run(&args),
        Command::Worker(args) => compare::run_worker(&args),
        Command::Crowd(args) => crowd::run(args),
        Command::Certificates(args) => certificates::run(&args),
        Command::Conform(args) => conform::run(&args),
        Command::Token(command) => token::run(&command),
        Command::Keys { out } => identity::create_keys(&out),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Standard error may be closed; the exit code says it all the same.
            #[expect(clippy::print_stderr, reason = "a command tells its error there")]
            {
                eprintln!("error: {error:#}");
            }
            ExitCode::FAILURE
        }
    }
}
