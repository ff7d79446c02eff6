//! A shard's seal: its node's last word, after which it neither issues nor accepts (reclaim.md 2).
//!
//! Signed with the shard's ticket key over a state directory that refuses every later start. It
//! says how far packets may have left (H of each wave, M1) and that settlement has answered every
//! open that the node acknowledged (M7, M10). Never says what became of a packet.
//!
//! ```text
//!  0  8 B  "YAOSEAL\0"                  56  u64  settled: last sequence of the spool
//!  8  u16  version = 1                  64  u64  sealed at, Unix us
//! 10  u16  waves, 1..=64                72  32 B Merkle root of the seed file
//! 12  u32  shard                        104 ...  waves x {u16 wave, u16 reserved = 0,
//! 16  u64  campaign                              u32 count, u32 H}
//! 24  u32  epoch                        ..  64 B signature
//! 28  u8   generation
//! 29  11 B reserved = 0
//! 40  16 B incarnation
//! ```

use crate::{
    CampaignId, Epoch, Incarnation, ShardId, WallTime, WaveIndex, WireError,
    codec::{Put, Reader},
    keys::{KeySet, SIGNATURE_BYTES, SignKey, context},
    limits::WAVES_MAX,
};

/// First bytes of a seal.
pub const MAGIC: [u8; 8] = *b"YAOSEAL\0";
const VERSION: u16 = 1;
const HEADER_BYTES: usize = 104;
const WAVE_BYTES: usize = 12;
/// Bytes of the longest seal.
pub const SEAL_BYTES_MAX: usize = HEADER_BYTES + WAVES_MAX * WAVE_BYTES + SIGNATURE_BYTES;
const WHAT: &str = "a seal";

/// How far one wave's packets may have left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealedWave {
    /// The wave.
    pub wave: WaveIndex,
    /// Packets of its section.
    pub count: u32,
    /// H: packets at this position and above never left. 0..=count.
    pub high: u32,
}

/// What a seal says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seal {
    /// The campaign.
    pub campaign: CampaignId,
    /// The shard.
    pub shard: ShardId,
    /// The generation of the shard.
    pub generation: u8,
    /// The epoch of the key that signs.
    pub epoch: Epoch,
    /// The last process life that wrote to the state; zeros when there was none.
    pub incarnation: Incarnation,
    /// Settlement has answered every record of the spool; this was the last one, 0 = none.
    pub settled: u64,
    /// When, by the node's clock.
    pub sealed_at: WallTime,
    /// Of the seed file.
    pub merkle_root: [u8; 32],
    /// Every section of the shard, in order.
    pub waves: Vec<SealedWave>,
}

impl Seal {
    /// The signed bytes.
    ///
    /// # Panics
    /// When there is no wave, or more than [`WAVES_MAX`].
    #[must_use]
    pub fn encode(&self, key: &SignKey) -> Vec<u8> {
        assert!((1..=WAVES_MAX).contains(&self.waves.len()), "a shard has 1 to 64 sections");
        let mut out = Vec::with_capacity(SEAL_BYTES_MAX);
        out.put(&MAGIC);
        out.put_u16(VERSION);
        out.put_u16(u16::try_from(self.waves.len()).expect("asserted above"));
        out.put_u32(self.shard.0);
        out.put_u64(self.campaign.0);
        out.put_u32(self.epoch.0);
        out.put_u8(self.generation);
        out.put(&[0; 11]);
        out.put(&self.incarnation.0);
        out.put_u64(self.settled);
        out.put_u64(self.sealed_at.0);
        out.put(&self.merkle_root);
        for wave in &self.waves {
            out.put_u16(wave.wave.0);
            out.put_u16(0);
            out.put_u32(wave.count);
            out.put_u32(wave.high);
        }
        let signature = key.sign(context::SEAL, &out);
        out.put(&signature);
        out
    }

    /// Reads a seal and checks its signature.
    ///
    /// # Errors
    /// A wrong form, no key for (campaign, shard, epoch), a wrong signature, waves that do not
    /// rise, an H above its count, more packets than indexes.
    pub fn decode(bytes: &[u8], keys: &KeySet) -> Result<Self, WireError> {
        let (signed, signature) =
            bytes.split_last_chunk::<SIGNATURE_BYTES>().ok_or(WireError::Short {
                what: WHAT,
                have: bytes.len(),
                need: HEADER_BYTES + WAVE_BYTES,
            })?;
        let mut r = Reader::new(WHAT, signed);
        if r.array::<8>()? != MAGIC {
            return Err(WireError::Magic { what: WHAT });
        }
        let version = r.u16()?;
        if version != VERSION {
            return Err(WireError::Version { what: WHAT, version, known: VERSION });
        }
        let count = usize::from(r.u16()?);
        if !(1..=WAVES_MAX).contains(&count) {
            return Err(WireError::Value { field: "waves of a seal", value: count as u64 });
        }
        let (shard, campaign, epoch) = (r.shard()?, CampaignId(r.u64()?), Epoch(r.u32()?));
        let generation = r.u8()?;
        r.reserved::<11>()?;
        let mut seal = Self {
            campaign,
            shard,
            generation,
            epoch,
            incarnation: Incarnation(r.array()?),
            settled: r.u64()?,
            sealed_at: WallTime(r.u64()?),
            merkle_root: r.array()?,
            waves: Vec::with_capacity(count),
        };
        let waves = r.bytes(count * WAVE_BYTES)?;
        r.finish()?;
        let authentic = keys
            .ticket(campaign, shard, epoch)
            .is_some_and(|key| key.verifies(context::SEAL, signed, signature));
        if !authentic {
            return Err(WireError::Forged { what: WHAT });
        }
        let mut r = Reader::new(WHAT, waves);
        for _ in 0..count {
            let wave = WaveIndex(r.u16()?);
            r.reserved::<2>()?;
            seal.waves.push(SealedWave { wave, count: r.u32()?, high: r.u32()? });
        }
        seal.check()?;
        Ok(seal)
    }

    fn check(&self) -> Result<(), WireError> {
        let mut wave_next = 0;
        let mut packets = 0_u32;
        for sealed in &self.waves {
            let number = u64::from(sealed.wave.0);
            if !(wave_next..WAVES_MAX as u64).contains(&number) {
                return Err(WireError::Value { field: "a wave of a seal", value: number });
            }
            wave_next = number + 1;
            if sealed.high > sealed.count {
                let value = u64::from(sealed.high);
                return Err(WireError::Value { field: "H of a seal", value });
            }
            packets = packets.checked_add(sealed.count).ok_or(WireError::Value {
                field: "packets of a seal",
                value: u64::from(sealed.count),
            })?;
        }
        Ok(())
    }

    /// Packets of the shard.
    #[must_use]
    pub fn packets(&self) -> u32 {
        self.waves.iter().map(|wave| wave.count).sum()
    }

    /// Whether the packet at `index` of the shard lies at or above H of its wave, so that it never
    /// left (M1). Sections follow one another.
    #[must_use]
    pub fn never_left(&self, index: u32) -> bool {
        let mut first = 0;
        for wave in &self.waves {
            if index < first + wave.count {
                return index - first >= wave.high;
            }
            first += wave.count;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn m1_what_lies_below_h_of_its_wave_may_have_left() {
        let wave = |number, count, high| SealedWave { wave: WaveIndex(number), count, high };
        let seal = Seal {
            campaign: CampaignId(1),
            shard: ShardId(2),
            generation: 0,
            epoch: Epoch(1),
            incarnation: Incarnation([0; 16]),
            settled: 0,
            sealed_at: WallTime(0),
            merkle_root: [0; 32],
            waves: vec![wave(0, 4, 3), wave(2, 3, 0), wave(5, 2, 2)],
        };
        let never_left: Vec<u32> = (0..12).filter(|index| seal.never_left(*index)).collect();
        assert_eq!((never_left.as_slice(), seal.packets()), (&[3, 4, 5, 6][..], 9));
    }
}
