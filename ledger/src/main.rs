//! `yao-ledger`: the command line around the library.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "the ready line and the result of init are the output")]

use clap::{Parser, Subcommand};
use std::{net::SocketAddr, path::PathBuf, process::ExitCode};
use tracing_subscriber::EnvFilter;
use yao_ledger::{
    LedgerError,
    grants::GrantPolicy,
    init,
    reclaim::VoidPolicy,
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
    /// Serve POST /v1/opens, /v1/grants, /v1/seals and /v1/voids, and the audit.
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
        /// The campaign's manifest; once more for each generation that was reclaimed.
        #[arg(long, required = true)]
        manifest: Vec<PathBuf>,
        /// Packets beyond H that a node is granted at once, 1 to 65536.
        #[arg(long, default_value_t = 65_536)]
        grant_packets: u32,
        /// How long a grant holds, ms: how long a node goes on without settlement, and how long
        /// another machine waits before it takes over.
        #[arg(long, default_value_t = 900_000)]
        grant_ms: u64,
        /// By how much clocks may run apart in that time, ms.
        #[arg(long, default_value_t = 2_000)]
        grant_margin_ms: u32,
        /// By how many seconds a node's clock may differ from this machine's.
        #[arg(long, default_value_t = 60, value_name = "SECONDS")]
        clock_skew: u32,
        /// How many seconds longer packets of nodes without a seal stay in doubt: a week.
        #[arg(long, default_value_t = 604_800, value_name = "SECONDS")]
        claim_window: u32,
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
        Command::Serve {
            listen,
            database,
            signing_key,
            keys,
            manifest: manifests,
            grant_packets,
            grant_ms,
            grant_margin_ms,
            clock_skew,
            claim_window,
        } => {
            let grants = GrantPolicy::new(grant_packets, grant_ms, grant_margin_ms)
                .map_err(|message| LedgerError::config("the command line", message))?;
            let voids = VoidPolicy {
                clock_skew_us: u64::from(clock_skew) * 1_000_000,
                claim_window_us: u64::from(claim_window) * 1_000_000,
            };
            let options = Options { listen, database, signing_key, keys, manifests, grants, voids };
            serve(&options, |address| {
                println!("ready {}", serde_json::json!({ "http": address.to_string() }));
            })
        }
    }
}
