//! Where the packets of a reclaimed shard come from: for each of them the packet whose value it
//! carries on (reclaim.md 5). The manifest holds the file's hash; nothing else proves it.
//!
//! ```text
//!  0  8 B  "YAOPRNT\0"      16  u64  campaign
//!  8  u16  version = 1      24  u32  count
//! 10  u8   generation, 1..  28  u32  reserved = 0
//! 11  u8   reserved = 0     32  count x u64 packet id of an earlier generation, by new index
//! 12  u32  shard
//! ```

use crate::{
    CampaignId, PacketId, ShardId, WireError,
    codec::{Put, Reader},
};

const MAGIC: [u8; 8] = *b"YAOPRNT\0";
const VERSION: u16 = 1;
const WHAT: &str = "a parents file";

/// The parents of one shard's packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parents {
    /// The campaign.
    pub campaign: CampaignId,
    /// The shard whose packets have parents.
    pub shard: ShardId,
    /// Its generation; 1 and above.
    pub generation: u8,
    /// The parent of each packet, by index. All of earlier generations.
    pub packets: Vec<PacketId>,
}

impl Parents {
    /// The file's bytes.
    ///
    /// # Panics
    /// When a shard has 2^32 packets or more.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(32 + 8 * self.packets.len());
        out.put(&MAGIC);
        out.put_u16(VERSION);
        out.put(&[self.generation, 0]);
        out.put_u32(self.shard.0);
        out.put_u64(self.campaign.0);
        out.put_u32(u32::try_from(self.packets.len()).expect("indexes have 32 bits"));
        out.put_u32(0);
        for packet in &self.packets {
            out.put_u64(packet.0);
        }
        out
    }

    /// Reads the file; whoever has its hash compares that first.
    ///
    /// # Errors
    /// A wrong form, generation 0, a parent that is of no earlier generation.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let mut r = Reader::new(WHAT, bytes);
        if r.array::<8>()? != MAGIC {
            return Err(WireError::Magic { what: WHAT });
        }
        let version = r.u16()?;
        if version != VERSION {
            return Err(WireError::Version { what: WHAT, version, known: VERSION });
        }
        let generation = r.u8()?;
        if generation == 0 {
            return Err(WireError::Value { field: "generation", value: 0 });
        }
        r.reserved::<1>()?;
        let (shard, campaign, count) = (r.shard()?, CampaignId(r.u64()?), r.u32()?);
        r.reserved::<4>()?;
        let (ids, _) = r.bytes(count as usize * 8)?.as_chunks::<8>();
        r.finish()?;
        let packets: Vec<PacketId> =
            ids.iter().map(|id| PacketId(u64::from_le_bytes(*id))).collect();
        match packets.iter().find(|packet| packet.generation() >= generation) {
            Some(packet) => Err(WireError::Value { field: "a parent", value: packet.0 }),
            None => Ok(Self { campaign, shard, generation, packets }),
        }
    }
}
