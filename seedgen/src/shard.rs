//! One shard's sealed file, built in memory from plan and keys. Never touches a disk.

use crate::{
    amounts::{Prize, draw_lot},
    derive::{CampaignKeys, Draw},
    moments::draw_second,
    plan::{Plan, WaveLayout},
};
use yao_protocol::{
    Fen, PacketId, PacketIndex, ShardId,
    keys::SignKey,
    limits::{SEAL_TAG_BYTES, SEED_CHUNK_RECORDS_MAX, SEED_RECORD_BYTES},
    manifest::ShardEntry,
    seed_file::{Merkle, Salts, Section, SeedHeader, SeedRecord, ShardKey},
};

/// One shard, ready to be written: the file is `header` followed by `body`.
#[derive(Debug)]
pub struct SealedShard {
    /// The signed header.
    pub header: Vec<u8>,
    /// The sealed chunks.
    pub body: Vec<u8>,
    /// What the node needs to open it.
    pub key: ShardKey,
    /// Its line in the manifest.
    pub entry: ShardEntry,
}

/// Name of the shard's seed file.
#[must_use]
pub fn seed_file_name(shard: ShardId) -> String {
    format!("shard-{:05}.yaoseed", shard.0)
}

/// Name of the shard's key file.
#[must_use]
pub fn key_file_name(shard: ShardId) -> String {
    format!("shard-{:05}.yaokey", shard.0)
}

/// Name of the parents file of a reclaimed shard.
#[must_use]
pub fn parents_file_name(shard: ShardId) -> String {
    format!("shard-{:05}.yaoparents", shard.0)
}

/// Builds `shard`. The same plan and keys make the same bytes, whatever else is built.
///
/// Needs about 24 bytes of memory for each packet of the shard.
#[must_use]
pub fn build(plan: &Plan, keys: &CampaignKeys, shard: ShardId) -> SealedShard {
    let key = keys.shard_key(shard);
    let packets: u64 = plan.waves().iter().map(|wave| u64::from(wave.shard_packets(shard))).sum();
    let packets = usize::try_from(packets).expect("fits in memory");
    let mut body = Body::new(plan.digest(), &key, packets);
    let mut sections = Vec::new();
    for wave in plan.waves().iter().filter(|wave| wave.shard_packets(shard) > 0) {
        sections.push(fill_section(wave, keys, shard, &mut body));
    }
    assert_eq!(body.end().0 as usize, packets, "every planned packet has a record");
    body.finish(plan.campaign().sponsors.len(), sections, &keys.sign_key())
}

/// Draws one wave's packets of the shard and appends them in order of winning moment.
fn fill_section(
    wave: &WaveLayout,
    keys: &CampaignKeys,
    shard: ShardId,
    body: &mut Body<'_>,
) -> Section {
    let random = |draw| keys.random(draw, shard, wave.wave);
    let lots = wave.lots(shard);
    let count = wave.shard_packets(shard);
    let mut prizes: Vec<Prize> = Vec::with_capacity(count as usize);
    let mut amounts = random(Draw::Amounts);
    for lot in &lots {
        draw_lot(&mut amounts, lot, &mut prizes);
    }
    random(Draw::Order).shuffle(&mut prizes);

    let first = body.end();
    let mut moments_random = random(Draw::Moments);
    let mut moments = Vec::new();
    let mut left = prizes.as_slice();
    for (second, count) in wave.seconds(shard).enumerate() {
        draw_second(&mut moments_random, second as u64 * 1_000_000, count, &mut moments);
        let (now, later) = left.split_at(count as usize);
        left = later;
        for (offset_us, prize) in moments.iter().zip(now) {
            let amount = Fen(u64::from(prize.amount));
            body.push(SeedRecord { offset_us: *offset_us, amount, sponsor: prize.sponsor });
        }
    }
    assert!(left.is_empty(), "every prize found its second");
    let sum = lots.iter().map(|lot| lot.prizes.sum()).sum();
    Section { wave: wave.wave, first, count, sum, segments: wave.segments(shard) }
}

/// The records of a shard on their way into sealed chunks.
pub(crate) struct Body<'a> {
    plan_digest: &'a [u8; 32],
    key: &'a ShardKey,
    /// Records of the open chunk.
    records: Vec<SeedRecord>,
    /// Salts of the open chunk's records; as long as a full chunk.
    salts: Vec<[u8; 16]>,
    salt_source: Salts,
    /// The open chunk, encoded; reused.
    plain: Vec<u8>,
    /// Closed chunks.
    sealed: Vec<u8>,
    merkle: Merkle,
    chunk: u32,
    /// Index of the open chunk's first record.
    next: PacketIndex,
}

impl<'a> Body<'a> {
    /// No record yet, and room for so many.
    pub(crate) fn new(plan_digest: &'a [u8; 32], key: &'a ShardKey, records: usize) -> Self {
        let chunk_records = usize::from(SEED_CHUNK_RECORDS_MAX);
        let tags = records.div_ceil(chunk_records) * SEAL_TAG_BYTES;
        Self {
            plan_digest,
            key,
            records: Vec::with_capacity(chunk_records),
            salts: vec![[0; 16]; chunk_records],
            salt_source: Salts::new(&key.salt_key, PacketIndex(0)),
            plain: Vec::with_capacity(chunk_records * SEED_RECORD_BYTES + SEAL_TAG_BYTES),
            sealed: Vec::with_capacity(records * SEED_RECORD_BYTES + tags),
            merkle: Merkle::default(),
            chunk: 0,
            next: PacketIndex(0),
        }
    }

    /// Index of the next record to be pushed: those of the open chunk count.
    pub(crate) fn end(&self) -> PacketIndex {
        let open = u32::try_from(self.records.len()).expect("at most a full chunk");
        PacketIndex(self.next.0 + open)
    }

    /// Adds a record; they come in order of winning moment, section after section.
    pub(crate) fn push(&mut self, record: SeedRecord) {
        self.records.push(record);
        if self.records.len() == usize::from(SEED_CHUNK_RECORDS_MAX) {
            self.seal_chunk();
        }
    }

    /// Closes the last chunk and signs the header over everything.
    pub(crate) fn finish(
        mut self,
        sponsors: usize,
        sections: Vec<Section>,
        sign: &SignKey,
    ) -> SealedShard {
        self.seal_chunk();
        let key = self.key.clone();
        let header = SeedHeader {
            campaign: key.campaign,
            shard: key.shard,
            generation: key.generation,
            sponsor_count: u8::try_from(sponsors).expect("at most 64"),
            chunk_records: SEED_CHUNK_RECORDS_MAX,
            record_count: self.next.0,
            sum: sections.iter().map(|section: &Section| section.sum).sum(),
            plan_digest: *self.plan_digest,
            merkle_root: self.merkle.root(),
            key_check: key.check(),
            body_digest: *blake3::hash(&self.sealed).as_bytes(),
            sections,
        };
        let body = self.sealed;
        assert_eq!(body.len() as u64, header.body_bytes(), "the chunks are where the header says");
        let encoded = header.encode(sign);
        let hash = blake3::Hasher::new().update(&encoded).update(&body).finalize();
        let entry = ShardEntry {
            shard: key.shard,
            file: seed_file_name(key.shard),
            bytes: (encoded.len() + body.len()) as u64,
            hash: *hash.as_bytes(),
            packets: header.record_count,
            sum: header.sum,
            merkle_root: header.merkle_root,
        };
        SealedShard { header: encoded, body, key, entry }
    }

    /// Closes the open chunk, if it has records.
    fn seal_chunk(&mut self) {
        if self.records.is_empty() {
            return;
        }
        let salts = &mut self.salts[..self.records.len()];
        self.salt_source.fill(salts);
        self.plain.clear();
        let (campaign, generation) = (self.key.campaign, self.key.generation);
        for (record, salt) in self.records.iter().zip(&*salts) {
            let packet = PacketId::new(generation, self.key.shard, self.next);
            self.merkle.push(Merkle::leaf(campaign, packet, record, salt));
            self.plain.extend_from_slice(&record.encode());
            self.next = PacketIndex(self.next.0 + 1);
        }
        self.key.seal(self.plan_digest, self.chunk, &mut self.plain);
        self.sealed.extend_from_slice(&self.plain);
        self.chunk += 1;
        self.records.clear();
    }
}
