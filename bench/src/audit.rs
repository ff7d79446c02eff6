//! `netbench audit`: whether one node's event balances, to the fen.
//!
//! Reads what everybody left behind - the seeds, the node's cursor, journal and spool, the ledger's
//! rows, and every ticket and receipt that clients saw - and judges it by DESIGN.md's money rules.
//! It decodes bytes with `protocol` and shares nothing else with the programs that it judges.

mod books;
mod claims;
mod evidence;
mod fallback;
mod generations;
mod judge;
mod ledger;
mod lineage;
mod logs;
mod payments;
mod plan;
#[cfg(test)]
mod tests;

use anyhow::{Result, bail};
use ledger::Ledger;
use serde::Serialize;
use std::{
    io::{self, Write},
    path::PathBuf,
};
use yao_protocol::Fen;

/// Problems that are told one by one; further ones are counted.
const PROBLEMS_SHOWN_MAX: usize = 100;

/// Whether one node's event balances, to the fen
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct AuditArgs {
    /// Signed manifest of the campaign
    #[arg(long)]
    manifest: PathBuf,
    /// Folder of seed files and their keys: those of the node's shard, and of every other one of
    /// which packets were reclaimed
    #[arg(long)]
    seeds: PathBuf,
    /// Folder of public keys
    #[arg(long)]
    keys: PathBuf,
    /// The node's state directory
    #[arg(long)]
    state: PathBuf,
    /// The fallback of the node's spool, if it has one
    #[arg(long)]
    spool_fallback: Option<PathBuf>,
    /// The schedule that the node played
    #[arg(long)]
    schedule: PathBuf,
    /// Folder of a reclaimed generation: seeds, keys, parents, manifest; once for each, in order
    #[arg(long)]
    reclaimed: Vec<PathBuf>,
    /// State directory of the node that played it; once for each --reclaimed that was played, in
    /// order
    #[arg(long, requires = "reclaimed")]
    reclaimed_state: Vec<PathBuf>,
    /// The schedule that this node played; as often as --reclaimed-state
    #[arg(long, requires = "reclaimed_state")]
    reclaimed_schedule: Vec<PathBuf>,
    /// The fallback of such a node's spool; which node's, the directory says
    #[arg(long, requires = "reclaimed_state")]
    reclaimed_spool_fallback: Vec<PathBuf>,
    /// So many opens are known that came after their packet had been taken back, and were made good
    #[arg(long, default_value_t = 0)]
    allow_late_opens: u64,
    /// The ledger, "http://host:port"
    #[arg(long)]
    ledger: String,
    /// Ticket log of a load; may be given more than once
    #[arg(long)]
    tickets: Vec<PathBuf>,
    /// The node's disk failed on purpose: that it fenced itself is counted and no fault
    #[arg(long)]
    allow_fences: bool,
    /// Write the ledger's rows here, one line of JSON each
    #[arg(long)]
    ledger_dump: Option<PathBuf>,
    /// Print the verdict as one line of JSON
    #[arg(long)]
    json: bool,
}

/// Packets and their sum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Heap {
    packets: u64,
    sum: Fen,
}

impl Heap {
    fn add(&mut self, amount: Fen) {
        self.packets += 1;
        self.sum = self.sum.checked_add(amount).expect("a shard's sum fits its type");
    }

    fn plus(self, other: Self) -> Self {
        let sum = self.sum.checked_add(other.sum).expect("a shard's sum fits its type");
        Self { packets: self.packets + other.packets, sum }
    }
}

/// The verdict and its figures.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Verdict {
    /// "balanced" or "UNBALANCED".
    verdict: &'static str,
    /// Packets of the shard's plan.
    planned: u64,
    /// Packets that left in a ticket, the opened ones too.
    issued: u64,
    /// Packets whose open was acknowledged, and not refused by the ledger.
    opened: u64,
    /// Packets that the ledger applied.
    settled: u64,
    /// Packets that a restart or a long wait passed over.
    skipped: u64,
    /// Of these: those that nobody eligible took within a minute.
    waited: u64,
    /// Packets that nobody won.
    unissued: u64,
    /// Packets that were taken back, whatever else became of them.
    reclaimed: u64,
    planned_fen: u64,
    issued_fen: u64,
    opened_fen: u64,
    settled_fen: u64,
    skipped_fen: u64,
    unissued_fen: u64,
    reclaimed_fen: u64,
    /// Opens that came after their packet had been taken back, of all generations: somebody holds a
    /// receipt and was not paid.
    late_opens: u64,
    /// Packets that left twice.
    duplicates: u64,
    /// Acknowledged opens that nobody has.
    lost: u64,
    /// Users with more than the campaign allows.
    limit_violations: u64,
    /// Packets issued before their moment.
    early_releases: u64,
    /// From winning moment to issue.
    release_lag_ms_p99: f64,
    /// Packets that the ledger refused because their user had enough.
    over_limit: u64,
    /// Distinct tickets that clients saw.
    tickets_seen: u64,
    /// Distinct receipts that clients saw.
    receipts_seen: u64,
    /// Process lives of the node.
    lives: u64,
    /// Times that the node fenced itself and could still say so.
    fences: u64,
    /// Faults found, those that are not listed too.
    problem_count: u64,
    /// What is wrong, one line each; the first hundred.
    problems: Vec<String>,
    /// Reclaimed generations whose nodes were judged, too.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    generations: Vec<Self>,
}

/// Gathers the evidence and judges it.
///
/// # Errors
/// Evidence that cannot be read at all, or a verdict that is not "balanced".
pub(crate) fn run(args: &AuditArgs) -> Result<()> {
    let ledger = Ledger::read(&args.ledger)?;
    if let Some(path) = &args.ledger_dump {
        ledger.dump(path)?;
    }
    let verdict = generations::judge_all(args, &ledger)?;
    print(&verdict, args.json)?;
    match verdict.problems.first() {
        None => Ok(()),
        Some(first) => bail!("{} problems; the first: {first}", verdict.problem_count),
    }
}

fn print(verdict: &Verdict, json: bool) -> Result<()> {
    let mut out = io::stdout();
    if json {
        writeln!(out, "{}", serde_json::to_string(verdict)?)?;
        return Ok(());
    }
    let rows = [
        ("planned", verdict.planned, Some(verdict.planned_fen)),
        ("issued", verdict.issued, Some(verdict.issued_fen)),
        ("opened", verdict.opened, Some(verdict.opened_fen)),
        ("settled", verdict.settled, Some(verdict.settled_fen)),
        ("skipped", verdict.skipped, Some(verdict.skipped_fen)),
        ("unissued", verdict.unissued, Some(verdict.unissued_fen)),
        ("reclaimed", verdict.reclaimed, Some(verdict.reclaimed_fen)),
        ("late opens", verdict.late_opens, None),
        ("over limit", verdict.over_limit, None),
        ("duplicates", verdict.duplicates, None),
        ("lost", verdict.lost, None),
        ("limit violations", verdict.limit_violations, None),
        ("early releases", verdict.early_releases, None),
    ];
    writeln!(out, "{:<18}{:>12}{:>18}", verdict.verdict, "packets", "minor units")?;
    for (name, packets, sum) in rows {
        let sum = sum.map_or_else(String::new, |sum| sum.to_string());
        writeln!(out, "{name:<18}{packets:>12}{sum:>18}")?;
    }
    writeln!(out, "release lag, p99   {:>10.1} ms", verdict.release_lag_ms_p99)?;
    for problem in &verdict.problems {
        writeln!(out, "! {problem}")?;
    }
    let hidden = verdict.problem_count - verdict.problems.len() as u64;
    if hidden > 0 {
        writeln!(out, "! and {hidden} more")?;
    }
    Ok(())
}
