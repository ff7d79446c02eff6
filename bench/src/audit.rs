//! `netbench audit`: whether one node's event balances, to the fen.
//!
//! Reads what everybody left behind - the seeds, the node's cursor, journal and spool, the ledger's
//! rows, and every ticket and receipt that clients saw - and judges it by DESIGN.md's money rules.
//! It decodes bytes with `protocol` and shares nothing else with the programs that it judges.

mod books;
mod claims;
mod evidence;
mod judge;
mod ledger;
mod lineage;
mod logs;
mod payments;
mod plan;
#[cfg(test)]
mod tests;

use anyhow::{Result, bail};
use evidence::Evidence;
use ledger::Ledger;
use serde::Serialize;
use std::{
    collections::{BTreeSet, HashMap},
    io::{self, Write},
    path::PathBuf,
};
use yao_protocol::{Fen, PacketId};

/// Problems that are told one by one; further ones are counted.
const PROBLEMS_SHOWN_MAX: usize = 100;

/// Whether one node's event balances, to the fen
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct AuditArgs {
    /// Signed manifest of the campaign
    #[arg(long)]
    manifest: PathBuf,
    /// Folder of seed files and their keys
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
    /// State directory of the node that played it; as often as --reclaimed, or never
    #[arg(long, requires = "reclaimed")]
    reclaimed_state: Vec<PathBuf>,
    /// The schedule that this node played; as often as --reclaimed-state
    #[arg(long, requires = "reclaimed_state")]
    reclaimed_schedule: Vec<PathBuf>,
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
    /// Packets whose open was acknowledged.
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
    /// Opens that came after their packet had been taken back: somebody must look.
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
    let verdict = judge_all(args, &ledger)?;
    print(&verdict, args.json)?;
    match verdict.problems.first() {
        None => Ok(()),
        Some(first) => bail!("{} problems; the first: {first}", verdict.problem_count),
    }
}

/// Judges the node, those of reclaimed generations by themselves, and what lies between them.
/// Problems of all are those of the first.
fn judge_all(args: &AuditArgs, ledger: &Ledger) -> Result<Verdict> {
    let mut all = vec![Evidence::read(args)?];
    let states = args.reclaimed_state.len();
    if ![0, args.reclaimed.len()].contains(&states) || args.reclaimed_schedule.len() != states {
        bail!("give --reclaimed-state and --reclaimed-schedule once for each --reclaimed");
    }
    let played = args.reclaimed_state.iter().zip(&args.reclaimed_schedule);
    for (folder, (state, schedule)) in args.reclaimed.iter().zip(played) {
        let later = AuditArgs {
            manifest: folder.join("manifest.yaomanifest"),
            seeds: folder.clone(),
            state: state.clone(),
            schedule: schedule.clone(),
            spool_fallback: None,
            ..args.clone()
        };
        all.push(Evidence::read(&later)?);
    }
    let mut problems = lineages(args, &all, ledger)?;
    let shards: Vec<_> = all.iter().map(Evidence::shard).collect();
    let mut verdicts = Vec::new();
    for (at, evidence) in all.iter_mut().enumerate() {
        let (own, mut others) = (shards[at], shards.clone());
        others.remove(at);
        let of = |packet: PacketId| (packet.generation(), packet.shard());
        // A row of nobody's is the first one's to explain.
        evidence.ledger =
            ledger.part(|packet| of(packet) == own || (at == 0 && !shards.contains(&of(packet))));
        evidence.others = others;
        verdicts.push(judge::judge(evidence));
    }
    let mut first = verdicts.remove(0);
    problems.extend(verdicts.iter().flat_map(|later| later.problems.clone()));
    first.problem_count += problems.len() as u64;
    let room = PROBLEMS_SHOWN_MAX.saturating_sub(first.problems.len());
    first.problems.extend(problems.into_iter().take(room));
    first.verdict = if first.problem_count == 0 { "balanced" } else { "UNBALANCED" };
    first.generations = verdicts;
    Ok(first)
}

/// What lies between the generations: their parents, and everything that the ledger voided.
fn lineages(args: &AuditArgs, all: &[Evidence], ledger: &Ledger) -> Result<Vec<String>> {
    let known: HashMap<_, _> = all.iter().flat_map(Evidence::contents).collect();
    let key = all[0].campaign_key()?;
    let mut problems = Vec::new();
    let mut generations = BTreeSet::new();
    for folder in &args.reclaimed {
        let generation = lineage::read_generation(folder, &key, &mut problems)?;
        generations.insert(generation.number);
        problems.extend(lineage::judge(&generation, &ledger.voids, &known));
    }
    let unseen = ledger.voids.iter().filter(|void| !generations.contains(&void.child)).count();
    if unseen > 0 {
        problems.push(format!(
            "{unseen} packets were voided for a generation that no --reclaimed shows"
        ));
    }
    Ok(problems)
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
