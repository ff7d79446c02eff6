//! `yao-access`: runs a node, or checks and prepares one. Reads like the sequence it is.
#![expect(clippy::print_stdout, reason = "the commands answer on standard output")]

use clap::{Parser, Subcommand};
use std::{
    io::IsTerminal,
    path::{Path, PathBuf},
    process::ExitCode,
};
use tracing_subscriber::EnvFilter;
use yao_access::{
    commands::{ask, doctor},
    config::{Config, load},
    control::Ended,
    server,
};

/// The Yao access node.
#[derive(Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// Configuration file, TOML. Without a command: run the node.
    #[arg(long)]
    config: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Command {
    /// Make the state of a shard, once: cursors at zero and the ticket key.
    Init {
        /// Configuration file, TOML.
        #[arg(long)]
        config: PathBuf,
    },
    /// Read everything a start would read, and change nothing.
    CheckConfig {
        /// Configuration file, TOML.
        #[arg(long)]
        config: PathBuf,
    },
    /// Ask the running node to drain and end, as SIGTERM does.
    Drain {
        /// Configuration file, TOML: says where the node's admin port is.
        #[arg(long)]
        config: PathBuf,
        /// Clients asked to leave each second, of the whole node, instead of drain.per_second.
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        rate: Option<u32>,
        /// Seconds after which the rest is cut, instead of drain.deadline_seconds.
        #[arg(long, value_name = "SECONDS")]
        deadline: Option<u32>,
    },
    /// Have the running node turn newcomers away: they are told other endpoints and when to come
    /// back. Who has a session keeps it.
    RefuseNew {
        /// Configuration file, TOML: says where the node's admin port is.
        #[arg(long)]
        config: PathBuf,
    },
    /// Have the running node take newcomers again.
    TakeNew {
        /// Configuration file, TOML: says where the node's admin port is.
        #[arg(long)]
        config: PathBuf,
    },
    /// End a stopped node's shard for good and sign what is left of it: afterwards this state never
    /// issues or accepts again, and what was not opened can be reclaimed.
    Seal {
        /// Configuration file, TOML.
        #[arg(long)]
        config: PathBuf,
        /// Where the seal goes, for `yao-seedgen reclaim`.
        #[arg(long)]
        out: PathBuf,
    },
    /// Look at limits, sysctls, ports, clock and disk: what binds first, and how many connections
    /// that allows.
    Doctor {
        /// Configuration file, TOML.
        #[arg(long)]
        config: PathBuf,
    },
}

// Exit codes; docs/operations.md, "How a node ended", lists them. 0 is success, and of a node that
// every client left by itself; 1 any failure; 2 wrong arguments.
/// Every client is gone, but some did not leave when asked and were cut off.
const EXIT_OVERSTAYED: u8 = 3;
/// The drain ended at its deadline, or by a second signal, and cut off who was left.
const EXIT_REMAINING: u8 = 4;
/// EX_CONFIG of sysexits.h.
const EXIT_CONFIG: u8 = 78;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    log_to_standard_error();
    let (path, act): (PathBuf, Box<Act>) = match (arguments.command, arguments.config) {
        (Some(Command::Init { config }), _) => {
            (config, Box::new(|config, _| server::init(&config).map(Outcome::Said)))
        }
        (Some(Command::CheckConfig { config }), _) => {
            (config, Box::new(|config, _| server::check(&config).map(Outcome::Said)))
        }
        (Some(Command::Drain { config, rate, deadline }), _) => {
            let act = move |config, _: &Path| ask::drain(&config, rate, deadline);
            (config, Box::new(move |config, path| act(config, path).map(Outcome::Said)))
        }
        (Some(Command::RefuseNew { config }), _) => {
            (config, Box::new(|config, _| ask::refuse_new(&config, true).map(Outcome::Said)))
        }
        (Some(Command::TakeNew { config }), _) => {
            (config, Box::new(|config, _| ask::refuse_new(&config, false).map(Outcome::Said)))
        }
        (Some(Command::Seal { config, out }), _) => {
            (config, Box::new(move |config, _| server::seal(&config, &out).map(Outcome::Said)))
        }
        (Some(Command::Doctor { config }), _) => {
            (config, Box::new(|config, _| Ok(Outcome::Said(doctor::examine(&config)))))
        }
        (None, Some(config)) => {
            (config, Box::new(|config, path| server::run(config, path).map(Outcome::Ran)))
        }
        (None, None) => {
            eprintln!("error: name the configuration with --config FILE (see --help)");
            return ExitCode::from(2);
        }
    };
    let config = match load::load(&path, std::env::vars()) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    match act(config, &path) {
        Ok(Outcome::Said(text)) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Ok(Outcome::Ran(ended)) if ended.all_left() => ExitCode::SUCCESS,
        Ok(Outcome::Ran(ended)) => {
            eprintln!("error: {ended}");
            ExitCode::from(if ended.remaining > 0 { EXIT_REMAINING } else { EXIT_OVERSTAYED })
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// A command, given the configuration and where it stood.
type Act = dyn FnOnce(Config, &Path) -> anyhow::Result<Outcome>;

/// What a command came to.
enum Outcome {
    /// It has something to say.
    Said(String),
    /// The node ran, and this is how it ended.
    Ran(Ended),
}

/// JSON lines for machines, plain lines for people; `RUST_LOG` chooses the level.
fn log_to_standard_error() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if std::io::stderr().is_terminal() {
        builder.init();
    } else {
        builder.json().init();
    }
}
