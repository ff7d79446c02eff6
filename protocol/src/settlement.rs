//! What a node sends to settlement, and settlement's signed answer (wire.md 8).
//!
//! The agent and any broker only carry these bytes. The batch is signed with the shard's ticket
//! key, the answer with settlement's key, so that whoever carries them can neither invent an open
//! nor its result (M7).
//!
//! ```text
//! batch                                    answer
//!  0  4 B  "YAOB"                           0  4 B  "YAOA"
//!  4  u16  version = 1                      4  u16  version = 1
//!  6  u16  count, 1..=256                   6  u16  count
//!  8  u64  campaign                         8  u64  campaign
//! 16  u32  shard                           16  u32  shard
//! 20  u32  epoch                           20  u32  epoch
//! 24  16 B incarnation                     24  16 B incarnation
//! 40  u64  reserved = 0                    40  u64  first sequence
//! 48  count x {u64 sequence,               48  u64  last sequence
//!              u64 accepted at, us,        56  32 B BLAKE3 of the whole batch
//!              136 B ticket}               88  u64  settled at, Unix us
//! ..  64 B signature                       96  u32  settlement key id
//!                                         100  u32  reserved = 0
//!                                         104  count x u8 result
//!                                          ..  64 B signature
//! ```

use crate::{
    CampaignId, Epoch, Incarnation, KeyId, ShardId, WallTime, WireError,
    codec::{Put, Reader},
    keys::{KeySet, SIGNATURE_BYTES, SignKey, context},
    limits::BATCH_RECORDS_MAX,
    spool::Open,
    ticket::{TICKET_BYTES, Ticket},
};

const BATCH_MAGIC: [u8; 4] = *b"YAOB";
const ANSWER_MAGIC: [u8; 4] = *b"YAOA";
const VERSION: u16 = 1;
const BATCH_HEADER_BYTES: usize = 48;
const ANSWER_HEADER_BYTES: usize = 104;
/// Bytes of one record in a batch.
pub const BATCH_RECORD_BYTES: usize = 16 + TICKET_BYTES;
/// Bytes of a full batch.
pub const BATCH_BYTES_MAX: usize =
    BATCH_HEADER_BYTES + BATCH_RECORDS_MAX * BATCH_RECORD_BYTES + SIGNATURE_BYTES;
/// Bytes of a full answer.
pub const ANSWER_BYTES_MAX: usize = ANSWER_HEADER_BYTES + BATCH_RECORDS_MAX + SIGNATURE_BYTES;

/// What stands for the bytes of a batch in its answer, and for those of an answer in the
/// watermark: their BLAKE3.
#[must_use]
pub fn digest(bytes: &[u8]) -> [u8; 32] {
    *blake3::hash(bytes).as_bytes()
}

/// Campaign and shard in the head of a batch or a request for a grant: both say them at the same
/// places.
pub(crate) fn sender(bytes: &[u8], magic: [u8; 4]) -> Option<(CampaignId, ShardId)> {
    let rest = bytes.strip_prefix(&magic)?;
    let campaign = rest.get(4..12)?.first_chunk()?;
    let shard = rest.get(12..16)?.first_chunk()?;
    Some((CampaignId(u64::from_le_bytes(*campaign)), ShardId(u32::from_le_bytes(*shard))))
}

/// Opens on their way to settlement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// The campaign.
    pub campaign: CampaignId,
    /// The shard of the node that sends it.
    pub shard: ShardId,
    /// The epoch of the key that signs it.
    pub epoch: Epoch,
    /// The process life that sends it.
    pub incarnation: Incarnation,
    /// The opens with their sequences in the spool, strictly rising; 1..=256 of them.
    pub records: Vec<(u64, Open)>,
}

impl Batch {
    /// The signed bytes.
    ///
    /// # Panics
    /// When there are no records or more than [`BATCH_RECORDS_MAX`].
    #[must_use]
    pub fn encode(&self, key: &SignKey) -> Vec<u8> {
        assert!((1..=BATCH_RECORDS_MAX).contains(&self.records.len()), "a batch is bounded");
        let mut out = Vec::with_capacity(
            BATCH_HEADER_BYTES + self.records.len() * BATCH_RECORD_BYTES + SIGNATURE_BYTES,
        );
        out.put(&BATCH_MAGIC);
        out.put_u16(VERSION);
        out.put_u16(u16::try_from(self.records.len()).expect("asserted above"));
        out.put_u64(self.campaign.0);
        out.put_u32(self.shard.0);
        out.put_u32(self.epoch.0);
        out.put(&self.incarnation.0);
        out.put_u64(0);
        for (sequence, open) in &self.records {
            out.put_u64(*sequence);
            out.put_u64(open.accepted_at.0);
            out.put(&open.ticket.encode());
        }
        let signature = key.sign(context::BATCH, &out);
        out.put(&signature);
        out
    }

    /// Whose batch these bytes say they are. Nothing is checked.
    #[must_use]
    pub fn sender(bytes: &[u8]) -> Option<(CampaignId, ShardId)> {
        sender(bytes, BATCH_MAGIC)
    }

    /// Reads a batch and checks its own signature; those of its tickets are for the caller.
    ///
    /// # Errors
    /// A wrong form, no key for (campaign, shard, epoch), a wrong signature, sequences that do not
    /// rise.
    pub fn decode(bytes: &[u8], keys: &KeySet) -> Result<Self, WireError> {
        let mut r = Reader::new("a settlement batch", bytes);
        if r.array::<4>()? != BATCH_MAGIC {
            return Err(WireError::Magic { what: "a settlement batch" });
        }
        known_version("a settlement batch", r.u16()?)?;
        let count = usize::from(r.u16()?);
        if !(1..=BATCH_RECORDS_MAX).contains(&count) {
            return Err(WireError::Value { field: "batch count", value: count as u64 });
        }
        let campaign = CampaignId(r.u64()?);
        let (shard, epoch) = (ShardId(r.u32()?), Epoch(r.u32()?));
        let incarnation = Incarnation(r.array()?);
        r.reserved::<8>()?;
        let body = r.bytes(count * BATCH_RECORD_BYTES)?;
        let signature = r.array::<SIGNATURE_BYTES>()?;
        r.finish()?;
        let signed = &bytes[..BATCH_HEADER_BYTES + body.len()];
        let authentic = keys
            .ticket(campaign, shard, epoch)
            .is_some_and(|key| key.verifies(context::BATCH, signed, &signature));
        if !authentic {
            return Err(WireError::Forged { what: "a settlement batch" });
        }
        let mut records = Vec::with_capacity(count);
        let mut r = Reader::new("a settlement batch", body);
        let mut last = 0;
        for _ in 0..count {
            let sequence = r.u64()?;
            let accepted_at = WallTime(r.u64()?);
            let ticket = Ticket::decode(r.bytes(TICKET_BYTES)?)?;
            if sequence <= last {
                return Err(WireError::Value { field: "batch sequence", value: sequence });
            }
            last = sequence;
            records.push((sequence, Open { accepted_at, ticket }));
        }
        Ok(Self { campaign, shard, epoch, incarnation, records })
    }
}

/// Settlement's final word on one open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum OpenResult {
    /// Paid now.
    Applied = 1,
    /// Was paid before, to the same user.
    Same = 2,
    /// Belongs to another user already. Never expected: somebody must look.
    Conflict = 3,
    /// The user has as many packets, or this sponsor's, as the campaign allows.
    OverLimit = 4,
    /// Accepted after the ticket's expiry.
    Expired = 5,
    /// The ticket is not genuine, or of a campaign that settlement does not know.
    Invalid = 6,
    /// The packet was voided before this open came, and its value went to a later generation (M10).
    /// Never expected: somebody must look. Its number leaves room, for 7 is published as a result
    /// that does not exist.
    Reclaimed = 16,
}

impl OpenResult {
    /// The result with this number.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Applied,
            2 => Self::Same,
            3 => Self::Conflict,
            4 => Self::OverLimit,
            5 => Self::Expired,
            6 => Self::Invalid,
            16 => Self::Reclaimed,
            _ => return None,
        })
    }
}

/// Settlement's answer to one batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The campaign, as in the batch.
    pub campaign: CampaignId,
    /// The shard, as in the batch.
    pub shard: ShardId,
    /// The epoch, as in the batch.
    pub epoch: Epoch,
    /// The incarnation, as in the batch.
    pub incarnation: Incarnation,
    /// Sequence of the batch's first record.
    pub first_sequence: u64,
    /// Sequence of the batch's last record.
    pub last_sequence: u64,
    /// BLAKE3 of the whole batch, signature included.
    pub batch_digest: [u8; 32],
    /// When it was settled.
    pub settled_at: WallTime,
    /// Which settlement key signs.
    pub key_id: KeyId,
    /// One result per record, in order.
    pub results: Vec<OpenResult>,
}

impl Answer {
    /// The answer to `batch`, which travelled as `batch_bytes`.
    #[must_use]
    pub fn to_batch(
        batch: &Batch,
        batch_bytes: &[u8],
        settled_at: WallTime,
        key_id: KeyId,
        results: Vec<OpenResult>,
    ) -> Self {
        assert_eq!(batch.records.len(), results.len(), "one result per record");
        let sequence = |record: Option<&(u64, Open)>| record.map_or(0, |(sequence, _)| *sequence);
        Self {
            campaign: batch.campaign,
            shard: batch.shard,
            epoch: batch.epoch,
            incarnation: batch.incarnation,
            first_sequence: sequence(batch.records.first()),
            last_sequence: sequence(batch.records.last()),
            batch_digest: digest(batch_bytes),
            settled_at,
            key_id,
            results,
        }
    }

    /// The signed bytes.
    #[must_use]
    pub fn encode(&self, key: &SignKey) -> Vec<u8> {
        let mut out = Vec::with_capacity(ANSWER_BYTES_MAX);
        out.put(&ANSWER_MAGIC);
        out.put_u16(VERSION);
        out.put_u16(u16::try_from(self.results.len()).expect("at most BATCH_RECORDS_MAX"));
        out.put_u64(self.campaign.0);
        out.put_u32(self.shard.0);
        out.put_u32(self.epoch.0);
        out.put(&self.incarnation.0);
        out.put_u64(self.first_sequence);
        out.put_u64(self.last_sequence);
        out.put(&self.batch_digest);
        out.put_u64(self.settled_at.0);
        out.put_u32(self.key_id.0);
        out.put_u32(0);
        for result in &self.results {
            out.put_u8(*result as u8);
        }
        let signature = key.sign(context::ANSWER, &out);
        out.put(&signature);
        out
    }

    /// Reads an answer and checks its signature.
    ///
    /// # Errors
    /// A wrong form, an unknown settlement key, a wrong signature, an unknown result.
    pub fn decode(bytes: &[u8], keys: &KeySet) -> Result<Self, WireError> {
        let (signed, signature) =
            bytes.split_last_chunk::<SIGNATURE_BYTES>().ok_or(WireError::Short {
                what: "a settlement answer",
                have: bytes.len(),
                need: ANSWER_HEADER_BYTES + SIGNATURE_BYTES,
            })?;
        let mut r = Reader::new("a settlement answer", signed);
        if r.array::<4>()? != ANSWER_MAGIC {
            return Err(WireError::Magic { what: "a settlement answer" });
        }
        known_version("a settlement answer", r.u16()?)?;
        let count = usize::from(r.u16()?);
        if !(1..=BATCH_RECORDS_MAX).contains(&count) {
            return Err(WireError::Value { field: "answer count", value: count as u64 });
        }
        let mut answer = Self {
            campaign: CampaignId(r.u64()?),
            shard: ShardId(r.u32()?),
            epoch: Epoch(r.u32()?),
            incarnation: Incarnation(r.array()?),
            first_sequence: r.u64()?,
            last_sequence: r.u64()?,
            batch_digest: r.array()?,
            settled_at: WallTime(r.u64()?),
            key_id: KeyId(r.u32()?),
            results: Vec::new(),
        };
        r.reserved::<4>()?;
        let results = r.bytes(count)?;
        r.finish()?;
        let authentic = keys
            .settlement(answer.key_id)
            .is_some_and(|key| key.verifies(context::ANSWER, signed, signature));
        if !authentic {
            return Err(WireError::Forged { what: "a settlement answer" });
        }
        let result = |number: &u8| {
            OpenResult::from_number(*number)
                .ok_or(WireError::Value { field: "open result", value: u64::from(*number) })
        };
        answer.results = results.iter().map(result).collect::<Result<_, _>>()?;
        Ok(answer)
    }
}

fn known_version(what: &'static str, version: u16) -> Result<(), WireError> {
    if version == VERSION {
        Ok(())
    } else {
        Err(WireError::Version { what, version, known: VERSION })
    }
}
