//! Directories of shards and keys as other runs left them. Reads only.

use crate::files;
use anyhow::{Context, Result, anyhow, bail};
use std::{
    collections::BTreeMap,
    ops::RangeInclusive,
    path::{Path, PathBuf},
};
use yao_protocol::{
    PacketId,
    keys::{KeySet, PublicKey, PublicKeyFile},
    manifest::Manifest,
    seal::Seal,
};
use yao_seedgen::{CampaignKeys, opened::open_shard, repack::Parent};

/// The manifest in a directory of shards.
pub(crate) fn read_manifest(directory: &Path, public: &PublicKey) -> Result<Manifest> {
    let path = directory.join(files::MANIFEST);
    let bytes = files::read(&path)?;
    let text = String::from_utf8(bytes).map_err(|_| anyhow!("{} is no text", path.display()))?;
    Manifest::decode(&text, public).with_context(|| path.display().to_string())
}

/// The directories with their manifests, in order of generation.
pub(crate) fn read_generations(
    directories: &[PathBuf],
    public: &PublicKey,
) -> Result<Vec<(PathBuf, Manifest)>> {
    let read = |directory: &PathBuf| Ok((directory.clone(), read_manifest(directory, public)?));
    let mut found: Vec<(PathBuf, Manifest)> =
        directories.iter().map(read).collect::<Result<_>>()?;
    found.sort_by_key(|(_, manifest)| manifest.generation());
    Ok(found)
}

/// Files of `directory` with this ending, in order of their names.
pub(crate) fn list(directory: &Path, ending: &str) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(directory)
        .with_context(|| format!("cannot read the directory {}", directory.display()))?;
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        // Unfinished files begin with a point.
        if name.ends_with(ending) && !name.starts_with('.') {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Every public key of a directory.
pub(crate) fn read_keys(directory: &Path) -> Result<KeySet> {
    let mut keys = KeySet::default();
    for path in list(directory, ".pub.json")? {
        let name = || path.display().to_string();
        let file: PublicKeyFile =
            serde_json::from_slice(&files::read(&path)?).with_context(name)?;
        keys.add(&file).with_context(name)?;
    }
    Ok(keys)
}

/// Every seal of a directory: its bytes, and what they say.
pub(crate) fn read_seals(directory: &Path, keys: &KeySet) -> Result<Vec<(Vec<u8>, Seal)>> {
    let mut seals = Vec::new();
    for path in list(directory, ".yaoseal")? {
        let bytes = files::read(&path)?;
        let seal = Seal::decode(&bytes, keys).with_context(|| {
            format!("{}; is the shard's ticket-*.pub.json in --keys?", path.display())
        })?;
        seals.push((bytes, seal));
    }
    Ok(seals)
}

/// What each of `packets` holds, rising; their shards are read from the directories.
pub(crate) fn read_parents(
    generations: &[(PathBuf, Manifest)],
    keys: &CampaignKeys,
    mut packets: Vec<PacketId>,
) -> Result<Vec<Parent>> {
    packets.sort_unstable();
    let mut shards: BTreeMap<(u8, u32), RangeInclusive<usize>> = BTreeMap::new();
    for (at, packet) in packets.iter().enumerate() {
        let place = (packet.generation(), packet.shard().0);
        let range = shards.entry(place).or_insert(at..=at);
        *range = *range.start()..=at;
    }
    let mut parents = Vec::with_capacity(packets.len());
    for ((generation, shard), range) in shards {
        let found = generations.iter().find(|(_, manifest)| manifest.generation() == generation);
        let Some((directory, manifest)) = found else {
            bail!("generation {generation} is missing; name its --seeds, too");
        };
        let entry = manifest.shards.iter().find(|entry| entry.shard.0 == shard);
        let entry =
            entry.ok_or_else(|| anyhow!("generation {generation} lists no shard {shard}"))?;
        let key = if generation == 0 {
            keys.shard_key(entry.shard)
        } else {
            keys.later(generation, manifest.plan_digest).shard_key(entry.shard)
        };
        let file = files::read(&directory.join(&entry.file))?;
        let (_, records) = open_shard(manifest, entry, &keys.public(), &key, &file)?;
        for packet in &packets[range] {
            let record = records.get(packet.index().0 as usize);
            let record = record.ok_or_else(|| anyhow!("packet {packet} was never planned"))?;
            parents.push(Parent { packet: *packet, record: *record });
        }
    }
    Ok(parents)
}
