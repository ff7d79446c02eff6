//! The seed file: one shard's packets, sealed, sorted by winning moment within each wave's section
//! (seed-file.md).
//!
//! The header is signed by the campaign key; the records follow in AEAD chunks. [`SeedHeader`] is
//! read first and says where everything is; [`ShardKey`] opens chunks.

use crate::{
    CampaignId, Fen, KeyId, PacketId, PacketIndex, ShardId, SponsorId, WaveIndex, WireError,
    codec::{Put, Reader},
    keys::{PublicKey, SIGNATURE_BYTES, SignKey, context},
    limits::{
        SEAL_TAG_BYTES, SEED_CHUNK_RECORDS_MAX, SEED_HEADER_BYTES_MAX, SEED_RECORD_BYTES,
        SEGMENTS_MAX, SHARDS_MAX, SPONSORS_MAX, WAVES_MAX,
    },
};
use chacha20poly1305::{ChaCha20Poly1305, Key, KeyInit, Nonce, Tag, aead::AeadInOut};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::Range;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// First bytes of a seed file.
pub const MAGIC: [u8; 8] = *b"YAOSEED\0";
/// Version of the format.
pub const VERSION: u16 = 1;
/// Bytes of the header before the section table.
pub const HEADER_FIXED_BYTES: usize = 176;

/// One packet as the shard holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeedRecord {
    /// Winning moment: microseconds after the wave's T0, in wave time.
    pub offset_us: u64,
    /// How much it holds, minor units. At most 2^32 - 1.
    pub amount: Fen,
    /// Whose packet.
    pub sponsor: SponsorId,
}

impl SeedRecord {
    /// The 16 bytes inside a chunk: offset u64, amount u32, sponsor u8, prize kind u8 = 0,
    /// reserved u16 = 0.
    ///
    /// # Panics
    /// When the amount exceeds 32 bits; the plan bounds every amount.
    #[must_use]
    pub fn encode(&self) -> [u8; SEED_RECORD_BYTES] {
        let amount = u32::try_from(self.amount.0).expect("the plan bounds every amount to 32 bits");
        let mut bytes = [0; SEED_RECORD_BYTES];
        bytes[..8].copy_from_slice(&self.offset_us.to_le_bytes());
        bytes[8..12].copy_from_slice(&amount.to_le_bytes());
        bytes[12] = self.sponsor.number();
        bytes
    }

    /// Reads a record.
    ///
    /// # Errors
    /// A sponsor above 63, an unknown prize kind, a reserved byte that is set.
    pub fn decode(bytes: &[u8; SEED_RECORD_BYTES]) -> Result<Self, WireError> {
        let mut r = Reader::new("a seed record", bytes);
        let offset_us = r.u64()?;
        let amount = Fen(u64::from(r.u32()?));
        let sponsor = r.u8()?;
        let sponsor = SponsorId::new(sponsor)
            .ok_or(WireError::Value { field: "sponsor", value: u64::from(sponsor) })?;
        r.reserved::<3>()?;
        r.finish()?;
        Ok(Self { offset_us, amount, sponsor })
    }
}

/// A stretch of a wave with an even release rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// How long, microseconds of wave time. At least 1.
    pub duration_us: u64,
    /// How many of this shard's packets have their winning moment in it.
    pub packets: u32,
}

/// The packets of one wave in this shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// The wave.
    pub wave: WaveIndex,
    /// Index of its first packet.
    pub first: PacketIndex,
    /// How many packets.
    pub count: u32,
    /// Their sum, minor units.
    pub sum: Fen,
    /// The release curve, in order; the wave lasts as long as its segments together.
    pub segments: Vec<Segment>,
}

impl Section {
    /// Indexes of its packets.
    #[must_use]
    pub const fn indexes(&self) -> Range<u32> {
        self.first.0..self.first.0 + self.count
    }

    /// How long the wave lasts, microseconds of wave time.
    #[must_use]
    pub fn duration_us(&self) -> u64 {
        self.segments.iter().map(|segment| segment.duration_us).sum()
    }
}

/// Everything a seed file says before its records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeedHeader {
    /// The campaign.
    pub campaign: CampaignId,
    /// The shard.
    pub shard: ShardId,
    /// 0 = planned, 1.. = reclaimed that many times.
    pub generation: u8,
    /// How many sponsors the campaign has, 1..=64.
    pub sponsor_count: u8,
    /// Records in every chunk but the last.
    pub chunk_records: u16,
    /// Records in all.
    pub record_count: u32,
    /// Sum of all amounts.
    pub sum: Fen,
    /// BLAKE3 of the canonical plan.
    pub plan_digest: [u8; 32],
    /// Root of the Merkle tree over all packets (see [`Merkle`]).
    pub merkle_root: [u8; 32],
    /// Tells the right seal key from a wrong one without a chunk (see [`ShardKey::check`]).
    pub key_check: [u8; 32],
    /// BLAKE3 of every byte after the header.
    pub body_digest: [u8; 32],
    /// One section per wave that has packets here, in order of wave.
    pub sections: Vec<Section>,
}

impl SeedHeader {
    /// How many chunks the records fill.
    #[must_use]
    pub fn chunk_count(&self) -> u32 {
        self.record_count.div_ceil(u32::from(self.chunk_records))
    }

    /// Indexes of the records in `chunk`.
    #[must_use]
    pub fn chunk_indexes(&self, chunk: u32) -> Range<u32> {
        let size = u32::from(self.chunk_records);
        let start = chunk.saturating_mul(size).min(self.record_count);
        start..start.saturating_add(size).min(self.record_count)
    }

    /// Bytes of `chunk` on disk, counted from the end of the header.
    #[must_use]
    pub fn chunk_bytes(&self, chunk: u32) -> Range<u64> {
        let full = u64::from(self.chunk_records) * SEED_RECORD_BYTES as u64 + SEAL_TAG_BYTES as u64;
        let records = self.chunk_indexes(chunk);
        let length = records.len() as u64 * SEED_RECORD_BYTES as u64 + SEAL_TAG_BYTES as u64;
        let start = u64::from(chunk) * full;
        start..start + length
    }

    /// Bytes of all chunks together.
    #[must_use]
    pub fn body_bytes(&self) -> u64 {
        u64::from(self.record_count) * SEED_RECORD_BYTES as u64
            + u64::from(self.chunk_count()) * SEAL_TAG_BYTES as u64
    }

    /// The section of `wave`.
    #[must_use]
    pub fn section(&self, wave: WaveIndex) -> Option<&Section> {
        self.sections.iter().find(|section| section.wave == wave)
    }

    /// The signed header.
    #[must_use]
    pub fn encode(&self, key: &SignKey) -> Vec<u8> {
        let table: usize = self.sections.iter().map(|s| 32 + 16 * s.segments.len()).sum();
        let length = HEADER_FIXED_BYTES + table + SIGNATURE_BYTES;
        let mut out = Vec::with_capacity(length);
        out.put(&MAGIC);
        out.put_u16(VERSION);
        out.put_u16(u16::try_from(self.sections.len()).expect("at most WAVES_MAX"));
        out.put_u32(u32::try_from(length).expect("bounded by the tables"));
        out.put_u64(self.campaign.0);
        out.put_u32(self.shard.0);
        out.put(&[self.generation, self.sponsor_count]);
        out.put_u16(self.chunk_records);
        out.put_u32(self.record_count);
        out.put_u32(self.chunk_count());
        out.put_u64(self.sum.0);
        out.put(&self.plan_digest);
        out.put(&self.merkle_root);
        out.put(&self.key_check);
        out.put(&self.body_digest);
        for section in &self.sections {
            out.put_u16(section.wave.0);
            out.put_u16(u16::try_from(section.segments.len()).expect("at most SEGMENTS_MAX"));
            out.put_u32(section.first.0);
            out.put_u32(section.count);
            out.put_u32(0);
            out.put_u64(section.sum.0);
            out.put_u64(section.duration_us());
            for segment in &section.segments {
                out.put_u64(segment.duration_us);
                out.put_u32(segment.packets);
                out.put_u32(0);
            }
        }
        let signature = key.sign(context::SEED, &out);
        out.put(&signature);
        out
    }

    /// How many bytes the header has, from the first 16 bytes of the file.
    ///
    /// # Errors
    /// Not a seed file, another version, or a length outside the format's bounds.
    pub fn peek_length(start: &[u8]) -> Result<usize, WireError> {
        let mut r = Reader::new("a seed file", start);
        if r.array::<8>()? != MAGIC {
            return Err(WireError::Magic { what: "a seed file" });
        }
        let version = r.u16()?;
        if version != VERSION {
            return Err(WireError::Version { what: "a seed file", version, known: VERSION });
        }
        r.u16()?;
        let length = r.u32()? as usize;
        if !(HEADER_FIXED_BYTES + SIGNATURE_BYTES..=SEED_HEADER_BYTES_MAX).contains(&length) {
            return Err(WireError::Value { field: "seed header length", value: length as u64 });
        }
        Ok(length)
    }

    /// Reads the header in `bytes`, which are exactly as many as [`Self::peek_length`] said, and
    /// checks its signature and every relation between its fields.
    ///
    /// # Errors
    /// The signature is checked first; whatever follows it is the generator's fault.
    pub fn decode(bytes: &[u8], key: &PublicKey) -> Result<Self, WireError> {
        let length = Self::peek_length(bytes)?;
        if bytes.len() > length {
            let extra = bytes.len() - length;
            return Err(WireError::Trailing { what: "a seed file's header", extra });
        }
        if bytes.len() < length {
            return Err(WireError::Short {
                what: "a seed file's header",
                have: bytes.len(),
                need: length,
            });
        }
        let (signed, signature) = bytes
            .split_last_chunk::<SIGNATURE_BYTES>()
            .ok_or(WireError::Short { what: "a seed file's header", have: 0, need: length })?;
        if !key.verifies(context::SEED, signed, signature) {
            return Err(WireError::Forged { what: "a seed file's header" });
        }
        let mut r = Reader::new("a seed file's header", signed);
        r.bytes(10)?;
        let section_count = usize::from(r.u16()?);
        r.u32()?;
        let campaign = CampaignId(r.u64()?);
        let shard = ShardId(r.u32()?);
        let (generation, sponsor_count) = (r.u8()?, r.u8()?);
        let chunk_records = r.u16()?;
        let (record_count, chunk_count) = (r.u32()?, r.u32()?);
        let sum = Fen(r.u64()?);
        let (plan_digest, merkle_root) = (r.array()?, r.array()?);
        let (key_check, body_digest) = (r.array()?, r.array()?);
        in_range("section count", section_count as u64, 1..WAVES_MAX as u64 + 1)?;
        let sections =
            (0..section_count).map(|_| read_section(&mut r)).collect::<Result<Vec<_>, _>>()?;
        r.finish()?;
        let header = Self {
            campaign,
            shard,
            generation,
            sponsor_count,
            chunk_records,
            record_count,
            sum,
            plan_digest,
            merkle_root,
            key_check,
            body_digest,
            sections,
        };
        header.check(chunk_count)?;
        Ok(header)
    }

    fn check(&self, chunk_count: u32) -> Result<(), WireError> {
        in_range("shard", u64::from(self.shard.0), 0..u64::from(SHARDS_MAX))?;
        in_range("sponsor count", u64::from(self.sponsor_count), 1..SPONSORS_MAX as u64 + 1)?;
        let records_max = u64::from(SEED_CHUNK_RECORDS_MAX);
        in_range("records per chunk", u64::from(self.chunk_records), 1..records_max + 1)?;
        if chunk_count != self.chunk_count() {
            return Err(WireError::Value { field: "chunk count", value: u64::from(chunk_count) });
        }
        let mut next = 0_u64;
        let mut sum = Fen::ZERO;
        let mut wave = None;
        for section in &self.sections {
            let packets: u64 = section.segments.iter().map(|s| u64::from(s.packets)).sum();
            let contiguous = u64::from(section.first.0) == next;
            if !contiguous || packets != u64::from(section.count) || Some(section.wave) <= wave {
                return Err(WireError::Value {
                    field: "a section's place, order or segment sum",
                    value: u64::from(section.wave.0),
                });
            }
            wave = Some(section.wave);
            next += u64::from(section.count);
            sum = sum
                .checked_add(section.sum)
                .ok_or(WireError::Value { field: "sum of sections", value: sum.0 })?;
        }
        if next != u64::from(self.record_count) || sum != self.sum {
            return Err(WireError::Value { field: "total of sections", value: next });
        }
        Ok(())
    }
}

fn read_section(r: &mut Reader<'_>) -> Result<Section, WireError> {
    let wave = WaveIndex(r.u16()?);
    in_range("wave", u64::from(wave.0), 0..WAVES_MAX as u64)?;
    let segment_count = usize::from(r.u16()?);
    in_range("segment count", segment_count as u64, 1..SEGMENTS_MAX as u64 + 1)?;
    let first = PacketIndex(r.u32()?);
    let count = r.u32()?;
    r.reserved::<4>()?;
    let sum = Fen(r.u64()?);
    let duration_us = r.u64()?;
    let mut segments = Vec::with_capacity(segment_count);
    let mut total = 0_u64;
    for _ in 0..segment_count {
        let segment = Segment { duration_us: r.u64()?, packets: r.u32()? };
        r.reserved::<4>()?;
        // 64 segments of less than 2^48 us each: the sum below cannot overflow.
        in_range("segment duration", segment.duration_us, 1..1 << 48)?;
        total += segment.duration_us;
        segments.push(segment);
    }
    if total != duration_us {
        return Err(WireError::Value { field: "section duration", value: duration_us });
    }
    if first.0.checked_add(count).is_none() {
        return Err(WireError::Value { field: "section count", value: u64::from(count) });
    }
    Ok(Section { wave, first, count, sum, segments })
}

fn in_range(field: &'static str, value: u64, range: Range<u64>) -> Result<(), WireError> {
    if range.contains(&value) { Ok(()) } else { Err(WireError::Value { field, value }) }
}

/// What a node needs besides the seed file: the key that opens its chunks, the campaign's MAC key,
/// and for auditors the key of the Merkle salts. A JSON file with mode 0600.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
pub struct ShardKey {
    /// The campaign.
    #[zeroize(skip)]
    pub campaign: CampaignId,
    /// The shard.
    #[zeroize(skip)]
    pub shard: ShardId,
    /// The generation of the shard.
    pub generation: u8,
    /// Opens the chunks.
    #[serde(with = "crate::hex::array")]
    pub seal_key: [u8; 32],
    /// Salts the Merkle leaves.
    #[serde(with = "crate::hex::array")]
    pub salt_key: [u8; 32],
    /// Names the MAC key.
    #[zeroize(skip)]
    pub mac_key_id: KeyId,
    /// The campaign's MAC key, for tallies and receipts.
    #[serde(with = "crate::hex::array")]
    pub mac_key: [u8; 32],
}

impl fmt::Debug for ShardKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ShardKey(campaign {}, shard {})", self.campaign, self.shard)
    }
}

impl ShardKey {
    /// What [`SeedHeader::key_check`] must be for this seal key.
    #[must_use]
    pub fn check(&self) -> [u8; 32] {
        *blake3::keyed_hash(&self.seal_key, b"yao seal key check v1").as_bytes()
    }

    /// Seals the plain records of `chunk` in place and appends the tag.
    pub fn seal(&self, plan_digest: &[u8; 32], chunk: u32, buffer: &mut Vec<u8>) {
        let tag = self
            .cipher()
            .encrypt_inout_detached(
                &chunk_nonce(chunk),
                &self.chunk_context(plan_digest, chunk),
                buffer.as_mut_slice().into(),
            )
            .expect("a chunk is far below the cipher's limit");
        buffer.extend_from_slice(&tag);
    }

    /// Opens `chunk` in place; afterwards `buffer` holds the plain records.
    ///
    /// # Errors
    /// [`WireError::Forged`] when any byte, the chunk's number, or the plan differs.
    pub fn open(
        &self,
        plan_digest: &[u8; 32],
        chunk: u32,
        buffer: &mut Vec<u8>,
    ) -> Result<(), WireError> {
        let body_bytes = buffer.len().checked_sub(SEAL_TAG_BYTES).ok_or(WireError::Short {
            what: "a sealed chunk",
            have: buffer.len(),
            need: SEAL_TAG_BYTES,
        })?;
        let (body, tag) = buffer.split_at_mut(body_bytes);
        let tag = Tag::try_from(&*tag).map_err(|_| WireError::Forged { what: "a sealed chunk" })?;
        self.cipher()
            .decrypt_inout_detached(
                &chunk_nonce(chunk),
                &self.chunk_context(plan_digest, chunk),
                body.into(),
                &tag,
            )
            .map_err(|_| WireError::Forged { what: "a sealed chunk" })?;
        buffer.truncate(body_bytes);
        Ok(())
    }

    fn cipher(&self) -> ChaCha20Poly1305 {
        ChaCha20Poly1305::new(&Key::from(self.seal_key))
    }

    /// Bound to each chunk: campaign, shard, generation, chunk number and plan.
    fn chunk_context(&self, plan_digest: &[u8; 32], chunk: u32) -> Vec<u8> {
        let mut out = Vec::with_capacity(8 + 4 + 1 + 4 + 32);
        out.put_u64(self.campaign.0);
        out.put_u32(self.shard.0);
        out.put_u8(self.generation);
        out.put_u32(chunk);
        out.put(plan_digest);
        out
    }
}

/// The seal key serves one shard of one plan, so the chunk's number is a nonce that never repeats.
fn chunk_nonce(chunk: u32) -> Nonce {
    let mut nonce = [0; 12];
    nonce[..4].copy_from_slice(&chunk.to_le_bytes());
    Nonce::from(nonce)
}

/// The records in an opened chunk.
///
/// # Errors
/// A length that is no multiple of 16, and every record that is wrong.
pub fn decode_records(plain: &[u8]) -> Result<Vec<SeedRecord>, WireError> {
    let (records, rest) = plain.as_chunks::<SEED_RECORD_BYTES>();
    if !rest.is_empty() {
        return Err(WireError::Trailing { what: "a chunk of records", extra: rest.len() });
    }
    records.iter().map(SeedRecord::decode).collect()
}

/// The Merkle tree over a shard's packets (seed-file.md 6): leaves and nodes are keyed BLAKE3 under
/// two different public keys, so that neither passes for the other. A node without a sibling is
/// carried up unchanged.
#[derive(Debug, Default)]
pub struct Merkle {
    /// Roots of complete subtrees, largest first, with their heights.
    peaks: Vec<(u32, [u8; 32])>,
}

impl Merkle {
    /// Key of the leaf hash.
    pub const LEAF_KEY: &'static [u8; 32] = b"yao merkle leaf v1\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    /// Key of the node hash.
    pub const NODE_KEY: &'static [u8; 32] = b"yao merkle node v1\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

    /// The hash of one packet with its salt.
    #[must_use]
    pub fn leaf(
        campaign: CampaignId,
        packet: PacketId,
        record: &SeedRecord,
        salt: &[u8; 16],
    ) -> [u8; 32] {
        let mut bytes = [0; 42];
        bytes[..8].copy_from_slice(&campaign.0.to_le_bytes());
        bytes[8..16].copy_from_slice(&packet.0.to_le_bytes());
        bytes[16..24].copy_from_slice(&record.amount.0.to_le_bytes());
        bytes[24] = record.sponsor.number();
        bytes[26..42].copy_from_slice(salt);
        *blake3::keyed_hash(Self::LEAF_KEY, &bytes).as_bytes()
    }

    /// The hash of two children.
    #[must_use]
    pub fn node(left: &[u8; 32], right: &[u8; 32]) -> [u8; 32] {
        let mut bytes = [0; 64];
        bytes[..32].copy_from_slice(left);
        bytes[32..].copy_from_slice(right);
        *blake3::keyed_hash(Self::NODE_KEY, &bytes).as_bytes()
    }

    /// Adds the next leaf, in order of packet index.
    pub fn push(&mut self, leaf: [u8; 32]) {
        let mut entry = (0, leaf);
        while let Some((height, left)) = self.peaks.last() {
            if *height != entry.0 {
                break;
            }
            entry = (height + 1, Self::node(left, &entry.1));
            self.peaks.pop();
        }
        self.peaks.push(entry);
    }

    /// The root; 32 zero bytes for no leaf.
    #[must_use]
    pub fn root(&self) -> [u8; 32] {
        let mut peaks = self.peaks.iter().rev().map(|(_, hash)| *hash);
        let Some(last) = peaks.next() else { return [0; 32] };
        peaks.fold(last, |right, left| Self::node(&left, &right))
    }
}

/// The salts of a shard's Merkle leaves: packet `index` has bytes 16 x index .. of the keyed BLAKE3
/// output stream of "yao salt v1".
#[derive(Debug)]
pub struct Salts(blake3::OutputReader);

impl Salts {
    /// The salts under `salt_key`, beginning with packet `first`.
    #[must_use]
    pub fn new(salt_key: &[u8; 32], first: PacketIndex) -> Self {
        let mut reader = blake3::Hasher::new_keyed(salt_key).update(b"yao salt v1").finalize_xof();
        reader.set_position(u64::from(first.0) * 16);
        Self(reader)
    }

    /// The next `salts.len()` salts.
    pub fn fill(&mut self, salts: &mut [[u8; 16]]) {
        self.0.fill(salts.as_flattened_mut());
    }
}
