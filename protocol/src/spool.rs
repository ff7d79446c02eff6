//! Records of the spool, the node's durable queue of accepted opens, and its watermark
//! (spool-file.md).

use crate::{
    CampaignId, ShardId, WallTime, WireError,
    codec::{Put, Reader},
    ticket::{TICKET_BYTES, Ticket},
};

/// First bytes of a spool segment.
pub const MAGIC: [u8; 8] = *b"YAOSPOL\0";
/// First bytes of a watermark slot.
pub const WATERMARK_MAGIC: [u8; 8] = *b"YAOMARK\0";
/// Record kind of an accepted open.
pub const KIND_OPEN: u8 = 1;
/// Bytes of an open's payload.
pub const OPEN_BYTES: usize = 8 + TICKET_BYTES;

/// An accepted open: `u64` accepted at (Unix us), then the ticket's 136 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Open {
    /// When the node accepted it; settlement judges expiry by this time.
    pub accepted_at: WallTime,
    /// The ticket, its signature checked before it was accepted.
    pub ticket: Ticket,
}

impl Open {
    /// The record's payload.
    #[must_use]
    pub fn encode(&self) -> [u8; OPEN_BYTES] {
        let mut bytes = [0; OPEN_BYTES];
        bytes[..8].copy_from_slice(&self.accepted_at.0.to_le_bytes());
        bytes[8..].copy_from_slice(&self.ticket.encode());
        bytes
    }

    /// Reads a record's payload.
    ///
    /// # Errors
    /// A wrong length, or a ticket that is none.
    pub fn decode(payload: &[u8]) -> Result<Self, WireError> {
        let mut r = Reader::new("a spooled open", payload);
        let accepted_at = WallTime(r.u64()?);
        let ticket = Ticket::decode(r.bytes(TICKET_BYTES)?)?;
        r.finish()?;
        Ok(Self { accepted_at, ticket })
    }
}

/// How far settlement has answered. Its file is two [`Slot`](crate::slots::Slot)s.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watermark {
    /// The campaign.
    pub campaign: CampaignId,
    /// The shard of the node.
    pub shard: ShardId,
    /// Every record up to this sequence has a final answer from settlement.
    pub settled: u64,
    /// BLAKE3 of the signed answer that moved it here; zero before the first.
    pub answer_digest: [u8; 32],
}

impl Watermark {
    /// The slot's payload.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(56);
        out.put_u64(self.campaign.0);
        out.put_u32(self.shard.0);
        out.put_u32(0);
        out.put_u64(self.settled);
        out.put(&self.answer_digest);
        out
    }

    /// Reads a slot's payload.
    ///
    /// # Errors
    /// A wrong length, a reserved byte that is set, a field out of range.
    pub fn decode(payload: &[u8]) -> Result<Self, WireError> {
        let mut r = Reader::new("a watermark", payload);
        let campaign = CampaignId(r.u64()?);
        let shard = r.shard()?;
        r.reserved::<4>()?;
        let watermark = Self { campaign, shard, settled: r.u64()?, answer_digest: r.array()? };
        r.finish()?;
        if watermark.settled == u64::MAX {
            // No record could ever follow it.
            return Err(WireError::Value { field: "settled sequence", value: watermark.settled });
        }
        Ok(watermark)
    }
}
