//! `yao-seedgen verify`: reads the files of an output directory and checks them against the
//! campaign, by the library's second path. Writes nothing.

mod lineage;

use crate::{WorkArguments, files, keys_of, read_plan, secret, seeds, workers};
use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use yao_protocol::{Fen, ShardId, manifest::Manifest, seed_file::ShardKey};
use yao_seedgen::{
    Campaign, CampaignKeys,
    reckon::Reckoning,
    shard::key_file_name,
    verify::{ShardTally, SponsorTotal, verify_manifest, verify_shard, verify_totals},
};

/// What to verify.
#[derive(Args)]
pub(crate) struct VerifyArguments {
    #[command(flatten)]
    work: WorkArguments,
    /// Of a reclaimed generation: directories of the shards of all earlier ones.
    #[arg(long)]
    seeds: Vec<PathBuf>,
    /// Of a reclaimed generation: directory of public keys, settlement's among them.
    #[arg(long)]
    keys: Option<PathBuf>,
}

/// Verifies one shard or all.
pub(crate) fn run(arguments: &VerifyArguments) -> Result<()> {
    let VerifyArguments { work: arguments, seeds, keys: key_set } = arguments;
    let plan = read_plan(&arguments.campaign)?;
    let shards = arguments.shards(&plan)?;
    let keys = keys_of(&plan, secret::read(&arguments.secret_path())?);
    let out = arguments.out.as_path();
    let reckoning = Reckoning::new(plan.campaign());
    let manifest = seeds::read_manifest(out, &keys.public())?;
    if manifest.generation() > 0 {
        let key_set = key_set.as_deref().ok_or_else(|| {
            anyhow!("a reclaimed generation is verified with --keys and the --seeds before it")
        })?;
        return lineage::run(out, seeds, key_set, &keys, &manifest);
    }
    verify_manifest(&reckoning, &manifest)?;
    check_public_key(out, &keys)?;
    if arguments.shard.is_none() && !manifest.is_complete() {
        bail!(
            "the manifest lists {} of {} shards; generate the others, or verify one with --shard",
            manifest.shards.len(),
            manifest.shard_count
        );
    }
    let tallies = workers::run("verifying", &shards, arguments.threads(), |shard| {
        check_shard(out, &reckoning, &keys, &manifest, shard)
    })?;
    let totals = verify_totals(&reckoning, &manifest, &tallies)?;
    print(&reckoning, &manifest, &totals, &tallies);
    Ok(())
}

/// Nodes check signatures by this file, so it must hold the key that signed.
fn check_public_key(out: &Path, keys: &CampaignKeys) -> Result<()> {
    let expected = keys.public_file();
    let yao_protocol::keys::KeyOwner::Campaign { campaign } = expected.owner else {
        bail!("the campaign's key has no campaign");
    };
    let path = files::key_set(out).join(files::public_key_name(campaign));
    if serde_json::from_slice(&files::read(&path)?).ok() != Some(expected) {
        bail!("{} does not hold the campaign's public key; generate it again", path.display());
    }
    Ok(())
}

fn check_shard(
    out: &Path,
    reckoning: &Reckoning,
    keys: &CampaignKeys,
    manifest: &Manifest,
    shard: ShardId,
) -> Result<ShardTally> {
    let entry = manifest
        .shard(shard)
        .ok_or_else(|| anyhow!("the manifest does not list shard {shard}; generate it first"))?;
    let key = keys.shard_key(shard);
    check_key_file(&out.join(key_file_name(shard)), &key)?;
    let path = out.join(&entry.file);
    let bytes =
        std::fs::metadata(&path).with_context(|| format!("cannot read {}", path.display()))?.len();
    // Looked at first, so that a wrong file of any size is not read into memory.
    if bytes != entry.bytes {
        bail!("{} has {bytes} bytes, but must have {}", path.display(), entry.bytes);
    }
    let file = files::read(&path)?;
    Ok(verify_shard(reckoning, &keys.public(), &key, entry, &file)?)
}

fn check_key_file(path: &Path, expected: &ShardKey) -> Result<()> {
    let bytes = files::read(path)?;
    if serde_json::from_slice(&bytes).ok().as_ref() != Some(expected) {
        bail!("{} does not hold the shard's keys; generate it again", path.display());
    }
    let mode = std::fs::metadata(path)?.permissions().mode() & 0o777;
    if mode & !files::MODE_SECRET != 0 {
        bail!("{} has mode {mode:04o}, others may read it; chmod 600 it", path.display());
    }
    Ok(())
}

fn print(
    reckoning: &Reckoning,
    manifest: &Manifest,
    totals: &[SponsorTotal],
    tallies: &[ShardTally],
) {
    let campaign = reckoning.campaign();
    println!("{:>7}  {:<24}  {:>14}  {:>22}", "sponsor", "name", "packets", "sum");
    for (number, (sponsor, total)) in campaign.sponsors.iter().zip(totals).enumerate() {
        let (packets, sum) = (total.packets, campaign.money(total.sum));
        println!("{number:>7}  {:<24}  {packets:>14}  {sum:>22}", sponsor.name);
    }
    println!("{:>7}  {:<24}  {:>14}  {:>22}", "wave", "name", "packets", "sum");
    for (number, wave) in campaign.waves.iter().enumerate() {
        let (packets, sum) = wave_total(tallies, number);
        println!("{number:>7}  {:<24}  {packets:>14}  {:>22}", wave.name, campaign.money(sum));
    }
    print_last(campaign, manifest, totals, tallies);
}

fn print_last(
    campaign: &Campaign,
    manifest: &Manifest,
    totals: &[SponsorTotal],
    tallies: &[ShardTally],
) {
    let packets: u64 = totals.iter().map(|total| total.packets).sum();
    let sum = totals.iter().map(|total| total.sum).sum();
    println!(
        "verified: {} of {} shards, {packets} packets, {}",
        tallies.len(),
        manifest.shard_count,
        campaign.money(sum)
    );
}

fn wave_total(tallies: &[ShardTally], wave: usize) -> (u64, Fen) {
    let lots = || tallies.iter().flat_map(|tally| &tally.waves[wave]);
    (lots().map(|lot| lot.packets).sum(), lots().map(|lot| lot.sum).sum())
}
