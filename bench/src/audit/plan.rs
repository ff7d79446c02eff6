//! What was planned: one shard's packets, opened with its key and held against the signed manifest.
//! Never looks at what became of them.

use super::evidence::text;
use anyhow::{Context, Result, ensure};
use std::{
    fs,
    path::{Path, PathBuf},
};
use yao_protocol::{
    PacketId, PacketIndex, ShardId,
    keys::PublicKey,
    limits::SEAL_TAG_BYTES,
    manifest::Manifest,
    seed_file::{Merkle, Salts, SeedHeader, SeedRecord, ShardKey, decode_records},
};

pub(super) fn shard_key_path(seeds: &Path, shard: ShardId) -> PathBuf {
    seeds.join(format!("shard-{:05}.yaokey", shard.0))
}

pub(super) fn read_shard_key(seeds: &Path, shard: ShardId) -> Result<ShardKey> {
    let path = shard_key_path(seeds, shard);
    serde_json::from_str(&text(&path)?).with_context(|| format!("{} is no key", path.display()))
}

/// The plan of one shard, opened and held against the manifest.
pub(super) fn read_shard(
    path: &Path,
    campaign_key: &PublicKey,
    manifest: &Manifest,
    key: &ShardKey,
    problems: &mut Vec<String>,
) -> Result<(SeedHeader, Vec<SeedRecord>)> {
    let bytes = fs::read(path).context("cannot read it")?;
    let length = SeedHeader::peek_length(&bytes)?.min(bytes.len());
    let header = SeedHeader::decode(&bytes[..length], campaign_key)?;
    let records = open_records(&header, key, &bytes[length..])?;
    check_plan(manifest, &header, &records, &bytes, key, problems);
    Ok((header, records))
}

fn open_records(header: &SeedHeader, key: &ShardKey, body: &[u8]) -> Result<Vec<SeedRecord>> {
    let mut records = Vec::with_capacity(body.len() / 16);
    for chunk in 0..header.chunk_count() {
        let range = header.chunk_bytes(chunk);
        let (start, end) = (usize::try_from(range.start)?, usize::try_from(range.end)?);
        let mut buffer = body.get(start..end).context("the file ends within a chunk")?.to_vec();
        ensure!(buffer.len() > SEAL_TAG_BYTES, "chunk {chunk} is empty");
        key.open(&header.plan_digest, chunk, &mut buffer)
            .with_context(|| format!("chunk {chunk}"))?;
        records.extend(decode_records(&buffer)?);
    }
    Ok(records)
}

/// The seed file against the manifest: plan, hash, count, sum and Merkle root, all reckoned again.
fn check_plan(
    manifest: &Manifest,
    header: &SeedHeader,
    records: &[SeedRecord],
    bytes: &[u8],
    key: &ShardKey,
    problems: &mut Vec<String>,
) {
    let shard = header.shard;
    let Some(entry) = manifest.shard(shard) else {
        problems.push(format!("the manifest does not list shard {shard}"));
        return;
    };
    if *blake3::hash(bytes).as_bytes() != entry.hash {
        problems.push(format!("shard {shard} is not the file that the manifest lists"));
    }
    if header.plan_digest != manifest.plan_digest {
        problems.push(format!("shard {shard} was made from another plan than the manifest"));
    }
    let sum: u64 = records.iter().map(|record| record.amount.0).sum();
    let counted = (records.len() as u64, sum);
    if counted != (u64::from(entry.packets), entry.sum.0) {
        problems.push(format!(
            "shard {shard} holds {} packets of {} in all; the manifest says {} of {}",
            counted.0, counted.1, entry.packets, entry.sum.0
        ));
    }
    let mut salts = vec![[0_u8; 16]; records.len()];
    Salts::new(&key.salt_key, PacketIndex(0)).fill(&mut salts);
    let mut merkle = Merkle::default();
    for (index, (record, salt)) in (0_u32..).zip(records.iter().zip(&salts)) {
        let packet = PacketId::new(header.generation, shard, PacketIndex(index));
        merkle.push(Merkle::leaf(manifest.campaign, packet, record, salt));
    }
    if merkle.root() != entry.merkle_root {
        problems.push(format!("shard {shard}: its packets do not hash to the manifest's root"));
    }
}
