//! The cursor of one wave's section: how far packets may have been issued (M1, M2;
//! journal-file.md 3). Its file is two [`Slot`](crate::slots::Slot)s.

use crate::{
    CampaignId, Epoch, Incarnation, ShardId, WaveIndex, WireError,
    codec::{Put, Reader},
};

/// First bytes of a cursor slot.
pub const MAGIC: [u8; 8] = *b"YAOCURS\0";

/// What a cursor slot says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// The campaign.
    pub campaign: CampaignId,
    /// The shard.
    pub shard: ShardId,
    /// The generation of the shard.
    pub generation: u8,
    /// The wave whose section this is.
    pub wave: WaveIndex,
    /// The epoch under which the shard is issued.
    pub epoch: Epoch,
    /// The Merkle root of the shard: another seed file is a foreign one.
    pub merkle_root: [u8; 32],
    /// The process life that wrote this slot.
    pub incarnation: Incarnation,
    /// H: packets of the section with a lower position may have been issued. 0..=section count.
    pub high: u32,
    /// The next slot's H will not exceed this: what must be assumed when that slot is torn.
    pub next_high_max: u32,
    /// Inode of the cursor file, so that a copy or a restored backup is noticed (M4).
    pub inode: u64,
    /// Birth time of the cursor file, ns since the epoch; 0 where the file system has none.
    pub born_ns: u64,
    /// The kernel's boot id.
    pub boot_id: [u8; 16],
}

impl Cursor {
    /// The slot's payload.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(128);
        out.put_u64(self.campaign.0);
        out.put_u32(self.shard.0);
        out.put_u16(self.wave.0);
        out.put(&[self.generation, 0]);
        out.put_u32(self.epoch.0);
        out.put_u32(self.high);
        out.put_u32(self.next_high_max);
        out.put_u32(0);
        out.put_u64(self.inode);
        out.put_u64(self.born_ns);
        out.put(&self.merkle_root);
        out.put(&self.incarnation.0);
        out.put(&self.boot_id);
        out
    }

    /// Reads a slot's payload.
    ///
    /// # Errors
    /// A wrong length, a reserved byte that is set, a shard above 24 bits, or `next_high_max` below
    /// `high`.
    pub fn decode(payload: &[u8]) -> Result<Self, WireError> {
        let mut r = Reader::new("a cursor", payload);
        let campaign = CampaignId(r.u64()?);
        let shard = r.shard()?;
        let wave = WaveIndex(r.u16()?);
        let generation = r.u8()?;
        r.reserved::<1>()?;
        let epoch = Epoch(r.u32()?);
        let (high, next_high_max) = (r.u32()?, r.u32()?);
        r.reserved::<4>()?;
        let cursor = Self {
            campaign,
            shard,
            generation,
            wave,
            epoch,
            high,
            next_high_max,
            inode: r.u64()?,
            born_ns: r.u64()?,
            merkle_root: r.array()?,
            incarnation: Incarnation(r.array()?),
            boot_id: r.array()?,
        };
        r.finish()?;
        if next_high_max < high {
            return Err(WireError::Value {
                field: "next_high_max",
                value: u64::from(next_high_max),
            });
        }
        Ok(cursor)
    }
}
