//! The nodes of all generations, each judged by itself, and what lies between generations: whose
//! value a later one carries on, and what became of opens that came too late.

use super::{
    AuditArgs, PROBLEMS_SHOWN_MAX, Verdict,
    evidence::{Evidence, share_opens},
    fallback, judge,
    ledger::Ledger,
    lineage::{self, Generation},
};
use anyhow::{Result, bail};
use std::collections::BTreeSet;
use yao_protocol::PacketId;

/// Judges the node, those of reclaimed generations by themselves, and what lies between them.
/// Problems of all are those of the first.
///
/// # Errors
/// Evidence that cannot be read, or that stands there twice.
pub(super) fn judge_all(args: &AuditArgs, ledger: &Ledger) -> Result<Verdict> {
    let mut all = read_all(args)?;
    let mut problems = lineages(args, &all, ledger)?;
    if ledger.late_opens > args.allow_late_opens {
        problems.push(format!(
            "{} opens came after their packets had been taken back, and were not paid; known are \
             {} (M7)",
            ledger.late_opens, args.allow_late_opens
        ));
    }
    if ledger.conflicts > 0 {
        problems.push(format!(
            "{} times a second user presented a valid ticket of a packet, and was not paid: it was \
             issued twice (M1)",
            ledger.conflicts
        ));
    }
    if ledger.ungranted_opens > 0 {
        problems.push(format!(
            "{} opens were of packets that had been granted to nobody, and were not paid: a key \
             was stolen, or the ledger's database put back (M4)",
            ledger.ungranted_opens
        ));
    }
    share_opens(&mut all);
    let shards: Vec<_> = all.iter().map(Evidence::shard).collect();
    let mut verdicts = Vec::new();
    for (at, evidence) in all.iter_mut().enumerate() {
        let (own, mut others) = (shards[at], shards.clone());
        others.remove(at);
        let of = |packet: PacketId| (packet.generation(), packet.shard());
        // A row of nobody's is the first one's to explain.
        evidence.ledger =
            ledger.part(|packet| of(packet) == own || (at == 0 && !shards.contains(&of(packet))));
        evidence.ledger.late_allowed = ledger.late_opens <= args.allow_late_opens;
        evidence.others = others;
        verdicts.push(judge::judge(evidence));
    }
    let mut first = verdicts.remove(0);
    problems.extend(verdicts.iter().flat_map(|later| later.problems.clone()));
    first.duplicates += ledger.conflicts;
    first.problem_count += problems.len() as u64;
    let room = PROBLEMS_SHOWN_MAX.saturating_sub(first.problems.len());
    first.problems.extend(problems.into_iter().take(room));
    first.verdict = if first.problem_count == 0 { "balanced" } else { "UNBALANCED" };
    first.generations = verdicts;
    Ok(first)
}

/// What each node left behind, that of generation 0 first.
fn read_all(args: &AuditArgs) -> Result<Vec<Evidence>> {
    let states = args.reclaimed_state.len();
    if states > args.reclaimed.len() || args.reclaimed_schedule.len() != states {
        bail!("give --reclaimed-state and --reclaimed-schedule once for each --reclaimed");
    }
    let mut all = vec![Evidence::read(args)?];
    let fallbacks = fallback::of_states(&args.reclaimed_state, &args.reclaimed_spool_fallback)?;
    let played = args.reclaimed_state.iter().zip(&args.reclaimed_schedule).zip(fallbacks);
    for (folder, ((state, schedule), spool_fallback)) in args.reclaimed.iter().zip(played) {
        let later = AuditArgs {
            manifest: folder.join("manifest.yaomanifest"),
            seeds: folder.clone(),
            state: state.clone(),
            schedule: schedule.clone(),
            spool_fallback,
            ..args.clone()
        };
        all.push(Evidence::read(&later)?);
    }
    Ok(all)
}

/// What lies between the generations: their parents, and everything that the ledger voided.
fn lineages(args: &AuditArgs, all: &[Evidence], ledger: &Ledger) -> Result<Vec<String>> {
    let (first, key) = (&all[0], all[0].campaign_key()?);
    let mut problems = Vec::new();
    let mut generations: Vec<Generation> = Vec::new();
    for folder in &args.reclaimed {
        let generation = lineage::read_generation(folder, &first.manifest, &key, &mut problems)?;
        if generations.iter().any(|other| other.number == generation.number) {
            // Each by itself would carry on all that was voided.
            let (number, folder) = (generation.number, folder.display());
            bail!("{folder} is a second folder of generation {number}; one of them is false");
        }
        generations.push(generation);
    }
    let known = lineage::contents(first, &args.seeds, &key, &generations, &mut problems)?;
    for generation in &generations {
        problems.extend(lineage::judge(generation, &ledger.voids, &known));
    }
    let shown: BTreeSet<u8> = generations.iter().map(|generation| generation.number).collect();
    let unseen = ledger.voids.iter().filter(|void| !shown.contains(&void.child)).count();
    if unseen > 0 {
        problems.push(format!(
            "{unseen} packets were voided for a generation that no --reclaimed shows"
        ));
    }
    Ok(problems)
}
