//! `yao-seedgen verify` of a reclaimed generation: its shards against settlement's answers and the
//! shards before it, by the library's second path. Writes nothing.

use super::{check_key_file, check_public_key};
use crate::{
    files,
    seeds::{list, read_generations, read_keys, read_parents},
};
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use yao_protocol::{PacketId, manifest::Manifest, void::VoidAnswer};
use yao_seedgen::{
    CampaignKeys,
    lineage::Lineage,
    opened::open_shard,
    shard::{key_file_name, parents_file_name},
};

/// Verifies every shard of `manifest`, which lies in `out`.
pub(super) fn run(
    out: &Path,
    seeds: &[PathBuf],
    key_set: &Path,
    keys: &CampaignKeys,
    manifest: &Manifest,
) -> Result<()> {
    check_public_key(out, keys)?;
    if !manifest.is_complete() {
        bail!("the manifest does not list all of its shards; run `yao-seedgen reclaim` again");
    }
    let generations = read_generations(seeds, &keys.public())?;
    let packets = read_void(&out.join("answers"), key_set, manifest)?;
    let parents = read_parents(&generations, keys, packets)?;
    let mut lineage = Lineage::new(manifest, parents)?;
    let own = keys.later(manifest.generation(), manifest.plan_digest);
    for entry in &manifest.shards {
        let key = own.shard_key(entry.shard);
        check_key_file(&out.join(key_file_name(entry.shard)), &key)?;
        let file = files::read(&out.join(&entry.file))?;
        let (header, records) = open_shard(manifest, entry, &keys.public(), &key, &file)?;
        let parents = files::read(&out.join(parents_file_name(entry.shard)))?;
        lineage.check_shard(entry, &header, &records, &parents)?;
    }
    let (packets, sum) = lineage.finish()?;
    let (generation, shards) = (manifest.generation(), manifest.shard_count);
    println!(
        "verified: generation {generation}, {shards} of {shards} shards, {packets} packets, {} \
         {}, each from one packet that is void",
        sum.to_decimal(manifest.exponent),
        manifest.currency
    );
    Ok(())
}

/// What settlement voided for this generation.
fn read_void(answers: &Path, key_set: &Path, manifest: &Manifest) -> Result<Vec<PacketId>> {
    let keys = read_keys(key_set)?;
    let mut packets = Vec::new();
    for path in list(answers, ".yaovoided")? {
        let answer = VoidAnswer::decode(&files::read(&path)?, &keys)
            .with_context(|| path.display().to_string())?;
        let request = &answer.request;
        if (request.campaign, request.child) != (manifest.campaign, manifest.generation()) {
            bail!("{} is about another generation", path.display());
        }
        packets.extend(answer.packets());
    }
    Ok(packets)
}
