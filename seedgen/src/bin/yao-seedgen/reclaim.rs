//! `yao-seedgen reclaim`: asks settlement to take packets back, and packs what it voided into
//! shards of the next generation (docs/reclaim.md).
//!
//! The plan, every request and every answer is a file in the output directory before the next step
//! begins. A run that was interrupted, or told to come again, is run again and goes on from them;
//! the same plan and answers make the same files. The manifest is written last.

mod out;
mod requests;
mod settlement;

pub(crate) use settlement::ComeAgain;

use self::{
    out::Out,
    requests::Requests,
    settlement::{Refused, Settlement},
};
use crate::{
    files, keys_of, read_plan, secret,
    seeds::{read_generations, read_keys, read_manifest, read_parents, read_seals},
};
use anyhow::{Error, Result, bail};
use clap::Args;
use std::path::{Path, PathBuf};
use yao_protocol::{PacketId, manifest::Manifest, seal::Seal, void::VoidAnswer};
use yao_seedgen::{
    CampaignKeys,
    reclaim::ReclaimPlan,
    repack::Repack,
    shard::{key_file_name, parents_file_name},
};

/// What to take back, and what to make of it.
#[derive(Args)]
pub(crate) struct ReclaimArguments {
    /// The campaign file (TOML).
    #[arg(long)]
    campaign: PathBuf,
    /// The secret, 32 bytes with mode 0600 [default: beside the campaign, ending in .secret].
    #[arg(long)]
    secret: Option<PathBuf>,
    /// Directory of shards and their manifest; once for each generation so far.
    #[arg(long, required = true)]
    seeds: Vec<PathBuf>,
    /// Directory of seals (*.yaoseal) from `yao-access seal`.
    #[arg(long)]
    seals: Option<PathBuf>,
    /// Directory of public keys: settlement's, and those of the sealed shards.
    #[arg(long)]
    keys: PathBuf,
    /// Settlement, http://host:port. Without it the files are to be posted by other means.
    #[arg(long)]
    ledger: Option<String>,
    /// Directory of the requests, the answers, and in the end of the new shards.
    #[arg(long)]
    out: PathBuf,
    /// How long the wave of the new generation lasts.
    #[arg(long)]
    wave_seconds: u32,
    /// How many shards the new generation has.
    #[arg(long, default_value_t = 1)]
    shards: u32,
    /// Only packets that never left according to the seals: they need not wait for anything.
    #[arg(long, requires = "seals")]
    never_left: bool,
}

/// Asks, waits for the answers, packs.
pub(crate) fn run(arguments: &ReclaimArguments) -> Result<()> {
    let campaign = read_plan(&arguments.campaign)?;
    let beside = || arguments.campaign.with_extension("secret");
    let keys = keys_of(&campaign, secret::read(&arguments.secret.clone().unwrap_or_else(beside))?);
    let key_set = read_keys(&arguments.keys)?;
    let generations = read_generations(&arguments.seeds, &keys.public())?;
    let manifests: Vec<Manifest> = generations.iter().map(|(_, found)| found.clone()).collect();
    let is_other = |root: &Manifest| root.plan_digest != *campaign.digest();
    if manifests.first().is_some_and(|first| first.generation() == 0 && is_other(first)) {
        bail!("--seeds and --campaign are of different plans");
    }
    let mut seals = match &arguments.seals {
        Some(directory) => read_seals(directory, &key_set)?,
        None => Vec::new(),
    };
    let frame = ReclaimPlan::frame(&manifests, arguments.wave_seconds, arguments.shards)?;
    let settlement = arguments.ledger.as_deref().map(Settlement::new).transpose()?;
    refuse_foreign(&arguments.out, &frame, &keys)?;
    let out = Out::take(&arguments.out)?;
    let earlier = out.plan(&frame, &manifests, arguments.never_left)?;
    if let Some(settlement) = &settlement {
        seals = hand_in(settlement, seals, arguments.never_left && earlier.is_none())?;
    }
    let plan = match earlier {
        Some(plan) => plan,
        None => {
            let told: Vec<Seal> = seals.into_iter().map(|(_, seal)| seal).collect();
            let only = arguments.never_left.then_some(told.as_slice());
            ReclaimPlan::new(&manifests, arguments.wave_seconds, arguments.shards, only)?
        }
    };
    let requests = out.begin(plan, arguments.never_left, &keys)?;
    if let Some(settlement) = &settlement {
        requests.ask(settlement, &key_set)?;
    }
    let answers = requests.answers(&key_set)?;
    pack(&requests, &campaign, &keys, &generations, &answers)
}

/// Fails when another generation lies in `out`: its shards and its manifest would be written over.
fn refuse_foreign(out: &Path, frame: &ReclaimPlan, keys: &CampaignKeys) -> Result<()> {
    if !out.join(files::MANIFEST).try_exists()? {
        return Ok(());
    }
    let (found, generation) = (read_manifest(out, &keys.public())?.generation(), frame.generation);
    if found != generation {
        bail!(
            "{} holds generation {found}, and what is reclaimed now becomes generation \
             {generation}; choose another --out",
            out.display()
        );
    }
    Ok(())
}

/// Gives settlement the seals, and says which of them it keeps. One that it does not keep costs
/// its shard the claim window, and nobody else anything: whoever is asked for is judged without
/// it. Only where the plan is about to be made of the seals, one that settlement does not take for
/// now is waited for.
fn hand_in(
    settlement: &Settlement,
    seals: Vec<(Vec<u8>, Seal)>,
    all_now: bool,
) -> Result<Vec<(Vec<u8>, Seal)>> {
    let mut kept = Vec::new();
    for (bytes, seal) in seals {
        let about = |error: Error| error.context(format!("the seal of shard {}", seal.shard));
        match settlement.post("/v1/seals", &bytes).map_err(about) {
            Ok(_) => kept.push((bytes, seal)),
            Err(error) if error.root_cause().is::<Refused>() => warn(&error),
            Err(error) if error.root_cause().is::<ComeAgain>() && !all_now => warn(&error),
            Err(error) => return Err(error),
        }
    }
    Ok(kept)
}

fn warn(error: &Error) {
    eprintln!("yao-seedgen: going on without a seal: {error:#}");
}

/// Writes the new shards and, when all are there, the manifest.
fn pack(
    requests: &Requests,
    campaign: &yao_seedgen::Plan,
    keys: &CampaignKeys,
    generations: &[(PathBuf, Manifest)],
    answers: &[VoidAnswer],
) -> Result<()> {
    let void: Vec<PacketId> = answers.iter().flat_map(VoidAnswer::packets).collect();
    if void.is_empty() {
        println!(
            "nothing to reclaim: every packet that {} asks for was opened, or reclaimed before; \
             settlement is bound to nothing by that. When there is more to ask for, more seals for \
             instance, run again with another --out",
            requests.out().display()
        );
        return Ok(());
    }
    let (plan, out) = (requests.plan(), requests.out());
    let bits: Vec<Vec<bool>> = answers.iter().map(|answer| answer.void.clone()).collect();
    let parents = read_parents(generations, keys, void)?;
    let root = &generations[0].1;
    let repack = Repack::new(plan, root, keys, &bits, parents);
    let mut entries = Vec::new();
    for shard in repack.shards() {
        let (sealed, parents) = repack.build(shard);
        let (key, parents) = (serde_json::to_vec_pretty(&sealed.key)?, parents.encode());
        // Parents tell who has the old shard's key what a packet holds.
        files::write(out, &key_file_name(shard), files::MODE_SECRET, &[&key])?;
        files::write(out, &parents_file_name(shard), files::MODE_SECRET, &[&parents])?;
        let parts: [&[u8]; 2] = [&sealed.header, &sealed.body];
        files::write(out, &sealed.entry.file, files::MODE_PUBLIC, &parts)?;
        entries.push((sealed.entry, *blake3::hash(&parents).as_bytes()));
    }
    let public = serde_json::to_vec_pretty(&keys.public_file())?;
    let public_name = files::public_key_name(plan.campaign);
    files::write(&files::key_set(out), &public_name, files::MODE_PUBLIC, &[&public])?;
    let manifest = repack.manifest(root, entries);
    let text = manifest.encode(&keys.sign_key());
    files::write(out, files::MANIFEST, files::MODE_PUBLIC, &[text.as_bytes()])?;
    println!(
        "reclaimed: {} packets, {}, as generation {} in {} shards from {} on, wave {}, in {}",
        manifest.packets,
        campaign.campaign().money(manifest.budget),
        plan.generation,
        plan.shards,
        plan.first_shard,
        plan.wave,
        out.display()
    );
    Ok(())
}
