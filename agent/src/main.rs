//! `yao-agent`: started by the access process, one generation after the other.

use anyhow::Context;
use clap::Parser;
use std::{io::IsTerminal, path::PathBuf, process::ExitCode};
use tracing_subscriber::EnvFilter;
use yao_agent::{
    config,
    policy_watch::PolicyWatch,
    server::{self, Start},
};
use yao_protocol::{agent::PROOF_VARIABLE, hex};

/// The agent of a Yao node. The access process starts it and hands it its proof by environment.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Unix socket of the access process.
    #[arg(long)]
    socket: PathBuf,
    /// Which generation this is.
    #[arg(long)]
    generation: u32,
    /// Configuration file, TOML.
    #[arg(long)]
    config: PathBuf,
}

/// EX_CONFIG of sysexits.h.
const EXIT_CONFIG: u8 = 78;
const EXIT_USAGE: u8 = 2;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    log_to_standard_error();
    let Some(proof) = std::env::var(PROOF_VARIABLE).ok().and_then(|text| hex::decode_array(&text))
    else {
        tracing::error!("{PROOF_VARIABLE} must hold 32 hex digits; the access process sets it");
        return ExitCode::from(EXIT_USAGE);
    };
    let read = config::load(&arguments.config).map_err(anyhow::Error::from).and_then(|config| {
        let policy = PolicyWatch::open(&config.policy.file)?;
        Ok((config, policy))
    });
    let (config, policy) = match read {
        Ok(read) => read,
        Err(error) => {
            tracing::error!("{error:#}");
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    let start = Start { socket: arguments.socket, generation: arguments.generation, proof };
    let ended = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the event loop")
        .and_then(|runtime| runtime.block_on(server::run(&start, &config, policy)));
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(generation = start.generation, "{error:#}");
            ExitCode::FAILURE
        }
    }
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
