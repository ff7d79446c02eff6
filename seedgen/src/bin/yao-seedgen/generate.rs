//! `yao-seedgen generate`: builds shards and writes them. Files of another plan or another secret
//! are refused before anything is written.

use crate::{WorkArguments, files, keys_of, read_plan, secret, workers};
use anyhow::{Context, Result, bail};
use std::fs::File;
use std::io::Read;
use std::path::Path;
use yao_protocol::{
    ShardId,
    manifest::{Manifest, ShardEntry},
    seed_file::SeedHeader,
};
use yao_seedgen::{
    CampaignKeys, Plan,
    shard::{build, key_file_name, seed_file_name},
};

const FOREIGN: &str =
    "is of another plan or secret, or damaged; choose another --out, or remove it";

/// Generates one shard or all.
pub(crate) fn run(arguments: &WorkArguments) -> Result<()> {
    let plan = read_plan(&arguments.campaign)?;
    let shards = arguments.shards(&plan)?;
    let keys = keys_of(&plan, secret::read_or_create(&arguments.secret_path())?);
    let out = arguments.out.as_path();
    files::create_directory(&files::key_set(out))?;
    let _lock = files::lock_directory(out)?;
    let manifest = check_out(out, &plan, &keys, &shards)?;
    let public = serde_json::to_vec_pretty(&keys.public_file())?;
    let public_name = files::public_key_name(plan.campaign().id);
    files::write(&files::key_set(out), &public_name, files::MODE_PUBLIC, &[&public])?;
    let entries = workers::run("generating", &shards, arguments.threads(), |shard| {
        generate(out, &plan, &keys, shard)
    })?;
    let manifest = plan.manifest(merged(manifest, entries));
    let text = manifest.encode(&keys.sign_key());
    files::write(out, files::MANIFEST, files::MODE_PUBLIC, &[text.as_bytes()])?;
    let packets: u64 = written(&manifest, &shards).map(|entry| u64::from(entry.packets)).sum();
    let sum = written(&manifest, &shards).map(|entry| entry.sum).sum();
    println!(
        "generated: {} of {} shards, {packets} packets, {}, in {}",
        shards.len(),
        manifest.shard_count,
        plan.campaign().money(sum),
        out.display()
    );
    Ok(())
}

/// Builds one shard and writes its key, then its file: a seed file always has its key beside it.
fn generate(out: &Path, plan: &Plan, keys: &CampaignKeys, shard: ShardId) -> Result<ShardEntry> {
    let sealed = build(plan, keys, shard);
    let key = serde_json::to_vec_pretty(&sealed.key)?;
    files::write(out, &key_file_name(shard), files::MODE_SECRET, &[&key])?;
    let parts: [&[u8]; 2] = [&sealed.header, &sealed.body];
    files::write(out, &sealed.entry.file, files::MODE_PUBLIC, &parts)?;
    Ok(sealed.entry)
}

/// The manifest that is already there, if any, after making sure that every file this run would
/// replace belongs to the same plan and secret.
fn check_out(
    out: &Path,
    plan: &Plan,
    keys: &CampaignKeys,
    shards: &[ShardId],
) -> Result<Option<Manifest>> {
    let path = files::key_set(out).join(files::public_key_name(plan.campaign().id));
    if let Some(bytes) = files::read_if_there(&path)?
        && serde_json::from_slice(&bytes).ok() != Some(keys.public_file())
    {
        bail!("{} {FOREIGN}", path.display());
    }
    for shard in shards {
        check_seed_file(&out.join(seed_file_name(*shard)), plan, keys)?;
        check_key_file(&out.join(key_file_name(*shard)), keys, *shard)?;
    }
    let path = out.join(files::MANIFEST);
    let Some(bytes) = files::read_if_there(&path)? else { return Ok(None) };
    let manifest = String::from_utf8(bytes)
        .ok()
        .and_then(|text| Manifest::decode(&text, &keys.public()).ok())
        .filter(|manifest| manifest.plan_digest == *plan.digest());
    match manifest {
        None => bail!("{} {FOREIGN}", path.display()),
        some => Ok(some),
    }
}

/// Only the signed header is read: it names the plan, and the key that signed it the secret.
fn check_seed_file(path: &Path, plan: &Plan, keys: &CampaignKeys) -> Result<()> {
    if !path.try_exists()? {
        return Ok(());
    }
    let read_header = || -> Result<SeedHeader> {
        let mut file = File::open(path)?;
        let mut bytes = vec![0; 16];
        file.read_exact(&mut bytes)?;
        bytes.resize(SeedHeader::peek_length(&bytes)?, 0);
        file.read_exact(&mut bytes[16..])?;
        Ok(SeedHeader::decode(&bytes, &keys.public())?)
    };
    let header = read_header().with_context(|| format!("{} {FOREIGN}", path.display()))?;
    if header.plan_digest != *plan.digest() {
        bail!("{} {FOREIGN}", path.display());
    }
    Ok(())
}

fn check_key_file(path: &Path, keys: &CampaignKeys, shard: ShardId) -> Result<()> {
    match files::read_if_there(path)? {
        Some(bytes) if serde_json::from_slice(&bytes).ok() != Some(keys.shard_key(shard)) => {
            bail!("{} {FOREIGN}", path.display())
        }
        _ => Ok(()),
    }
}

/// The entries of `old` with `new` added or put in their place, in order of shard.
fn merged(old: Option<Manifest>, new: Vec<ShardEntry>) -> Vec<ShardEntry> {
    let mut entries = new;
    for entry in old.map(|manifest| manifest.shards).unwrap_or_default() {
        if entries.iter().all(|newer| newer.shard != entry.shard) {
            entries.push(entry);
        }
    }
    entries.sort_by_key(|entry| entry.shard);
    entries
}

fn written<'a>(
    manifest: &'a Manifest,
    shards: &'a [ShardId],
) -> impl Iterator<Item = &'a ShardEntry> {
    shards.iter().filter_map(|shard| manifest.shard(*shard))
}
