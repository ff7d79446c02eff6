//! `yao-seedgen`: plans, generates, verifies and shows seed shards. A thin shell: arguments, files,
//! threads and tables; every rule is in the library.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong arguments, 75 settlement says when to come again, 78 a
//! campaign file with a mistake.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "tables and results are this program's output")]

mod files;
mod generate;
mod plan;
mod reclaim;
mod secret;
mod seeds;
mod show;
mod verify;
mod workers;

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use yao_protocol::ShardId;
use yao_seedgen::{Campaign, CampaignError, CampaignKeys, Plan};

/// Plans, generates and verifies Yao seed shards.
#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Shows what a campaign comes to; needs no secret and writes nothing.
    Plan {
        /// The campaign file (TOML).
        #[arg(long)]
        campaign: PathBuf,
    },
    /// Draws, seals and signs the shards.
    Generate(WorkArguments),
    /// Checks generated shards against the campaign, by a way of its own.
    Verify(verify::VerifyArguments),
    /// Takes packets that nobody opened back, and makes shards of the next generation of them.
    Reclaim(reclaim::ReclaimArguments),
    /// Shows the header of a seed file and, with its key, the first records.
    Show(show::ShowArguments),
}

/// What `generate` works on, and `verify` at first.
#[derive(Args)]
struct WorkArguments {
    /// The campaign file (TOML).
    #[arg(long)]
    campaign: PathBuf,
    /// The secret, 32 bytes with mode 0600 [default: beside the campaign, ending in .secret].
    #[arg(long)]
    secret: Option<PathBuf>,
    /// Directory of the shards, their keys, the manifest and the key set.
    #[arg(long)]
    out: PathBuf,
    /// Only this shard.
    #[arg(long)]
    shard: Option<u32>,
    /// How many threads [default: one per core].
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
}

impl WorkArguments {
    fn secret_path(&self) -> PathBuf {
        self.secret.clone().unwrap_or_else(|| self.campaign.with_extension("secret"))
    }

    /// The shards to work on, in order.
    fn shards(&self, plan: &Plan) -> Result<Vec<ShardId>> {
        let count = plan.campaign().shards;
        match self.shard {
            None => Ok(plan.shards().collect()),
            Some(shard) if shard < count => Ok(vec![ShardId(shard)]),
            Some(shard) => {
                bail!("--shard {shard} is not in this campaign; its shards are 0 to {}", count - 1)
            }
        }
    }

    fn threads(&self) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        self.threads.map_or_else(cores, usize::from)
    }
}

fn main() -> ExitCode {
    match run(&Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("yao-seedgen: {error:#}");
            let cause = error.root_cause();
            let temporary = if cause.is::<reclaim::ComeAgain>() { 75 } else { 1 };
            ExitCode::from(if cause.is::<CampaignError>() { 78 } else { temporary })
        }
    }
}

fn run(command: &Command) -> Result<()> {
    match command {
        Command::Plan { campaign } => {
            plan::run(&read_plan(campaign)?);
            Ok(())
        }
        Command::Generate(arguments) => generate::run(arguments),
        Command::Verify(arguments) => verify::run(arguments),
        Command::Reclaim(arguments) => reclaim::run(arguments),
        Command::Show(arguments) => show::run(arguments),
    }
}

fn read_plan(path: &Path) -> Result<Plan> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read the campaign {}", path.display()))?;
    let plan = Campaign::parse(&text).and_then(Plan::new);
    plan.with_context(|| path.display().to_string())
}

fn keys_of(plan: &Plan, secret: yao_seedgen::Secret) -> CampaignKeys {
    CampaignKeys::new(secret, plan.campaign().id, *plan.digest())
}
