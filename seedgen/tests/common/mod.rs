//! What the tests of seedgen share: a small campaign with everything in it, and its keys.

use yao_protocol::{
    keys::SignKey,
    manifest::{Manifest, ShardEntry},
    seed_file::{SeedHeader, SeedRecord, decode_records},
};
use yao_seedgen::{Campaign, CampaignKeys, Plan, Secret, shard::SealedShard};

/// Three shards, three sponsors, and one wave for each kind of amounts.
pub(crate) const SMALL: &str = r#"
id = 7
name = "Small"
currency = "CNY"
exponent = 2
shards = 3
wins_per_user = 3
wins_per_sponsor = 1
ticket_lifetime = "72h"

[[sponsor]]
name = "First"
share = "50%"
[[sponsor]]
name = "Second"
share = "33.33%"
[[sponsor]]
name = "Third"
share = "16.67%"

[[wave]]
name = "drawn"
t0 = "2030-01-01T20:00:00+08:00"
budget = "98.77"
packets = 101
curve = [
    { seconds = 4, per_second = 20 },
    { seconds = 1, per_second = 0 },
    { seconds = 7, per_second = 3 },
]
amounts = "uniform"

[[wave]]
name = "equal"
t0 = "armed later"
budget = "50.00"
packets = 50
duration = "7s"
amounts = { fixed = "1.00" }

[[wave]]
name = "listed"
budget = "31.00"
packets = 40
curve = "flat"
duration = 3
[wave.amounts]
table = [
    { amount = "0.10", count = 30 },
    { amount = "0.30", count = 9 },
    { amount = "25.30", count = 1 },
]
"#;

/// The plan of a campaign file that has no mistake.
pub(crate) fn plan(text: &str) -> Plan {
    let campaign = Campaign::parse(text).expect("a valid campaign");
    Plan::new(campaign).expect("a campaign that works out")
}

/// The keys of a plan under a secret of this byte.
pub(crate) fn keys(plan: &Plan, secret: u8) -> CampaignKeys {
    CampaignKeys::new(Secret::new([secret; 32]), plan.campaign().id, *plan.digest())
}

/// The whole file.
pub(crate) fn file(shard: &SealedShard) -> Vec<u8> {
    [shard.header.as_slice(), shard.body.as_slice()].concat()
}

/// The header and all records.
pub(crate) fn opened(
    plan: &Plan,
    keys: &CampaignKeys,
    shard: &SealedShard,
) -> (SeedHeader, Vec<SeedRecord>) {
    let header = SeedHeader::decode(&shard.header, &keys.public()).expect("signed by these keys");
    let mut records = Vec::new();
    for chunk in 0..header.chunk_count() {
        let bytes = header.chunk_bytes(chunk);
        let mut buffer = shard.body[bytes.start as usize..bytes.end as usize].to_vec();
        shard.key.open(plan.digest(), chunk, &mut buffer).expect("sealed with this key");
        records.extend(decode_records(&buffer).expect("valid records"));
    }
    (header, records)
}

/// A manifest over these shards.
pub(crate) fn manifest(plan: &Plan, entries: Vec<ShardEntry>) -> Manifest {
    plan.manifest(entries)
}

/// Seals `records` under `header` and signs, as whoever holds the keys could.
pub(crate) fn sealed_again(
    shard: &SealedShard,
    sign: &SignKey,
    mut header: SeedHeader,
    records: &[SeedRecord],
) -> (ShardEntry, Vec<u8>) {
    use yao_protocol::{
        PacketId, PacketIndex,
        seed_file::{Merkle, Salts},
    };
    let mut merkle = Merkle::default();
    let mut salts = vec![[0; 16]; records.len()];
    Salts::new(&shard.key.salt_key, PacketIndex(0)).fill(&mut salts);
    let mut body = Vec::new();
    for (index, (record, salt)) in records.iter().zip(&salts).enumerate() {
        let packet = PacketId::new(header.generation, header.shard, PacketIndex(index as u32));
        merkle.push(Merkle::leaf(header.campaign, packet, record, salt));
    }
    for (chunk, part) in records.chunks(usize::from(header.chunk_records)).enumerate() {
        let mut plain: Vec<u8> = part.iter().flat_map(SeedRecord::encode).collect();
        shard.key.seal(&header.plan_digest, chunk as u32, &mut plain);
        body.extend_from_slice(&plain);
    }
    header.merkle_root = merkle.root();
    header.body_digest = *blake3::hash(&body).as_bytes();
    let file = [header.encode(sign), body].concat();
    let entry = ShardEntry {
        bytes: file.len() as u64,
        hash: *blake3::hash(&file).as_bytes(),
        packets: header.record_count,
        sum: header.sum,
        merkle_root: header.merkle_root,
        ..shard.entry.clone()
    };
    (entry, file)
}
