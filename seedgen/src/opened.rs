//! A sealed shard read back whole: every signature, hash and tag checked before a record counts.

use crate::verify::VerifyError;
use yao_protocol::{
    PacketId, PacketIndex, WireError,
    keys::PublicKey,
    manifest::{Manifest, ShardEntry},
    seed_file::{Merkle, Salts, SeedHeader, SeedRecord, ShardKey, decode_records},
};

/// The header and every record of the file that `entry` of `manifest` lists.
///
/// # Errors
/// The first thing that is not as the manifest says.
pub fn open_shard(
    manifest: &Manifest,
    entry: &ShardEntry,
    public: &PublicKey,
    key: &ShardKey,
    file: &[u8],
) -> Result<(SeedHeader, Vec<SeedRecord>), VerifyError> {
    let wire = |error| VerifyError::Wire { place: entry.file.clone(), error };
    let must = |holds: bool, what: &str| {
        if holds { Ok(()) } else { Err(VerifyError::Broken(format!("{}: {what}", entry.file))) }
    };
    let same_file =
        file.len() as u64 == entry.bytes && *blake3::hash(file).as_bytes() == entry.hash;
    must(same_file, "it is not the file that the manifest lists")?;
    let length = SeedHeader::peek_length(file).map_err(wire)?;
    let (head, body) = file.split_at_checked(length).ok_or_else(|| {
        wire(WireError::Short { what: "a seed file's header", have: file.len(), need: length })
    })?;
    let header = SeedHeader::decode(head, public).map_err(wire)?;
    let found = (header.campaign, header.shard, header.generation, header.plan_digest);
    let listed = (manifest.campaign, entry.shard, manifest.generation(), manifest.plan_digest);
    must(found == listed, "it is of another campaign, shard, generation or plan")?;
    let found = (header.record_count, header.sum, header.merkle_root, header.key_check);
    let listed = (entry.packets, entry.sum, entry.merkle_root, key.check());
    must(found == listed, "its packets, sum, Merkle root or key are not those that are listed")?;
    must(body.len() as u64 == header.body_bytes(), "its body has another size")?;
    must(*blake3::hash(body).as_bytes() == header.body_digest, "its body has another digest")?;
    let mut records = Vec::with_capacity(header.record_count as usize);
    for chunk in 0..header.chunk_count() {
        let bytes = header.chunk_bytes(chunk);
        let range = usize::try_from(bytes.start).ok().zip(usize::try_from(bytes.end).ok());
        let sealed = range.and_then(|(start, end)| body.get(start..end)).unwrap_or_default();
        let mut buffer = sealed.to_vec();
        key.open(&header.plan_digest, chunk, &mut buffer).map_err(wire)?;
        records.extend(decode_records(&buffer).map_err(wire)?);
    }
    must(records.len() as u64 == u64::from(header.record_count), "it lacks records")?;
    must(root(&header, key, &records) == header.merkle_root, "its packets have another root")?;
    let sum = records.iter().try_fold(0_u64, |sum, record| sum.checked_add(record.amount.0));
    must(sum == Some(header.sum.0), "its packets have another sum")?;
    Ok((header, records))
}

fn root(header: &SeedHeader, key: &ShardKey, records: &[SeedRecord]) -> [u8; 32] {
    let mut salts = vec![[0; 16]; records.len()];
    Salts::new(&key.salt_key, PacketIndex(0)).fill(&mut salts);
    let mut merkle = Merkle::default();
    for (index, (record, salt)) in (0..).zip(records.iter().zip(&salts)) {
        let packet = PacketId::new(header.generation, header.shard, PacketIndex(index));
        merkle.push(Merkle::leaf(header.campaign, packet, record, salt));
    }
    merkle.root()
}
