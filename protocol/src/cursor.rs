//! The cursor of one wave's section: how far packets may have been issued (M1, M2;
//! journal-file.md 3). Its file is two [`Slot`](crate::slots::Slot)s.

use crate::{
    CampaignId, Epoch, Incarnation, ShardId, WallTime, WaveIndex, WireError,
    codec::{Put, Reader},
    journal::Event,
};

/// First bytes of a cursor slot.
pub const MAGIC: [u8; 8] = *b"YAOCURS\0";

/// Bytes of a cursor without a grant.
const CURSOR_BYTES: usize = 112;
/// Bytes that a grant adds.
const GRANT_RECORD_BYTES: usize = 64;

/// The grant under which a node issues, as its cursor remembers it (M4, fleet mode).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GrantRecord {
    /// Which grant; 1 and above.
    pub id: u64,
    /// Position of the first packet that may be issued.
    pub lo: u32,
    /// Position behind the last one.
    pub hi: u32,
    /// The incarnation to which settlement granted it: what a successor names as the previous one.
    pub holder: Incarnation,
    /// Until when it holds, by settlement's clock.
    pub not_after: WallTime,
    /// Until when packets may be issued by it, ns of the boot clock: of this boot only.
    pub until_ns: u64,
    /// How long it holds in all, us.
    pub lifetime_us: u64,
}

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
    /// Settlement was asked for this section: the disk alone is no right to it any more.
    pub asked: bool,
    /// The grant in force; `None` in local mode, and before the first one.
    pub grant: Option<GrantRecord>,
}

impl Cursor {
    /// The slot's payload.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(CURSOR_BYTES + GRANT_RECORD_BYTES);
        out.put_u64(self.campaign.0);
        out.put_u32(self.shard.0);
        out.put_u16(self.wave.0);
        out.put(&[self.generation, u8::from(self.asked)]);
        out.put_u32(self.epoch.0);
        out.put_u32(self.high);
        out.put_u32(self.next_high_max);
        out.put_u32(0);
        out.put_u64(self.inode);
        out.put_u64(self.born_ns);
        out.put(&self.merkle_root);
        out.put(&self.incarnation.0);
        out.put(&self.boot_id);
        if let Some(grant) = &self.grant {
            grant.put(&mut out);
        }
        out
    }

    /// Reads a slot's payload.
    ///
    /// # Errors
    /// A wrong length, a reserved byte that is set, a shard above 24 bits, `next_high_max` below
    /// `high`, or a grant that cannot be one.
    pub fn decode(payload: &[u8]) -> Result<Self, WireError> {
        let mut r = Reader::new("a cursor", payload);
        let campaign = CampaignId(r.u64()?);
        let shard = r.shard()?;
        let wave = WaveIndex(r.u16()?);
        let generation = r.u8()?;
        // The other bits are reserved.
        let asked = match r.u8()? {
            0 => false,
            1 => true,
            other => {
                return Err(WireError::Value { field: "a reserved byte", value: u64::from(other) });
            }
        };
        let epoch = Epoch(r.u32()?);
        let (high, next_high_max) = (r.u32()?, r.u32()?);
        r.reserved::<4>()?;
        let mut cursor = Self {
            campaign,
            shard,
            generation,
            wave,
            asked,
            epoch,
            high,
            next_high_max,
            inode: r.u64()?,
            born_ns: r.u64()?,
            merkle_root: r.array()?,
            incarnation: Incarnation(r.array()?),
            boot_id: r.array()?,
            grant: None,
        };
        if r.rest().len() == GRANT_RECORD_BYTES {
            cursor.grant = Some(GrantRecord::read(&mut r)?);
        }
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

impl GrantRecord {
    /// What the journal says when it comes into force.
    #[must_use]
    pub const fn event(&self, wave: WaveIndex, at: WallTime) -> Event {
        let Self { id, lo, hi, holder, not_after, .. } = *self;
        Event::Grant { wave, id, lo, hi, holder, not_after, at }
    }

    fn put(&self, out: &mut Vec<u8>) {
        out.put_u64(self.id);
        out.put_u32(self.lo);
        out.put_u32(self.hi);
        out.put(&self.holder.0);
        out.put_u64(self.not_after.0);
        out.put_u64(self.until_ns);
        out.put_u64(self.lifetime_us);
        out.put_u64(0);
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, WireError> {
        let grant = Self {
            id: r.u64()?,
            lo: r.u32()?,
            hi: r.u32()?,
            holder: Incarnation(r.array()?),
            not_after: WallTime(r.u64()?),
            until_ns: r.u64()?,
            lifetime_us: r.u64()?,
        };
        r.reserved::<8>()?;
        if grant.id == 0 {
            return Err(WireError::Value { field: "grant id", value: 0 });
        }
        if grant.hi < grant.lo {
            return Err(WireError::Value { field: "hi", value: u64::from(grant.hi) });
        }
        Ok(grant)
    }
}
