//! `netbench`: temporary front until the whole tool is there.
mod crowd;
mod identity;
use clap::{Parser, Subcommand};
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}
#[derive(Subcommand)]
enum Command {
    Crowd(crowd::CrowdArgs),
    Keys {
        #[arg(long)]
        out: std::path::PathBuf,
    },
}
fn main() -> anyhow::Result<()> {
    match Arguments::parse().command {
        Command::Crowd(args) => crowd::run(args),
        Command::Keys { out } => identity::create_keys(&out).map(|_| ()),
    }
}
