//! `yao-ledger`: the command line around the library.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "the ready line and the result of init are the output")]

use clap::{Parser, Subcommand};
use std::{net::SocketAddr, path::PathBuf, process::ExitCode};
use tracing_subscriber::EnvFilter;
use yao_ledger::{
    LedgerError, init,
    serve::{Options, serve},
};
use yao_protocol::KeyId;

/// Settles opened packets, exactly once each.
#[derive(Parser)]
#[command(name = "yao-ledger", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make the settlement key and publish its public half.
    Init {
        /// Where the private key goes, mode 0600.
        #[arg(long)]
        signing_key: PathBuf,
        /// Its name; a new key gets a new one.
        #[arg(long, default_value_t = 1)]
        key_id: u32,
        /// The directory of public keys.
        #[arg(long)]
        keys: PathBuf,
    },
    /// Serve POST /v1/opens and the audit.
    Serve {
        /// Address; port 0 takes a free one.
        #[arg(long)]
        listen: SocketAddr,
        /// The SQLite file, created when it is not there.
        #[arg(long)]
        database: PathBuf,
        /// The private key of `init`.
        #[arg(long)]
        signing_key: PathBuf,
        /// The directory of public keys.
        #[arg(long)]
        keys: PathBuf,
        /// The campaign's manifest.
        #[arg(long)]
        manifest: PathBuf,
    },
}

fn main() -> ExitCode {
    let filter = EnvFilter::try_from_env("YAO_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("yao-ledger: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

fn run(command: Command) -> Result<(), LedgerError> {
    match command {
        Command::Init { signing_key, key_id, keys } => {
            let public = init::init(&signing_key, KeyId(key_id), &keys)?;
            println!("{}", public.display());
            Ok(())
        }
        Command::Serve { listen, database, signing_key, keys, manifest } => {
            let options = Options { listen, database, signing_key, keys, manifest };
            serve(&options, |address| {
                println!("ready {}", serde_json::json!({ "http": address.to_string() }));
            })
        }
    }
}
