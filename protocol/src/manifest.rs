//! The manifest: what was planned, and the hash of every shard, signed by the campaign key
//! (seed-file.md 7).
//!
//! A text file: one line `yao-manifest-v1 <signature, 128 hex digits>`, then the JSON that the
//! signature covers, byte for byte.

use crate::{
    CampaignId, Fen, ShardId, SponsorId, WaveIndex, WireError, hex,
    keys::{PublicKey, SIGNATURE_BYTES, SignKey, context},
    limits::{SHARDS_MAX, WAVES_MAX},
};
use serde::{Deserialize, Serialize};
use std::ops::Range;

const FIRST_WORD: &str = "yao-manifest-v1 ";

/// The signed content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The campaign.
    pub campaign: CampaignId,
    /// Its name, for people.
    pub name: String,
    /// ISO 4217 code.
    pub currency: String,
    /// Decimals of the currency's minor unit.
    pub exponent: u8,
    /// BLAKE3 of the canonical plan.
    #[serde(with = "hex::array")]
    pub plan_digest: [u8; 32],
    /// Packets planned in all shards.
    pub packets: u64,
    /// Their sum.
    pub budget: Fen,
    /// Packets one user may win.
    pub wins_per_user: u8,
    /// Packets one user may win of one sponsor. Always 1 in this version.
    pub wins_per_sponsor: u8,
    /// From issue to expiry of a ticket, seconds.
    pub ticket_lifetime_seconds: u64,
    /// The sponsors, in order of id.
    pub sponsors: Vec<SponsorPlan>,
    /// The waves, in order.
    pub waves: Vec<WavePlan>,
    /// How many shards the campaign has.
    pub shard_count: u32,
    /// The shards generated so far, in order of id; all of them in a complete manifest.
    pub shards: Vec<ShardEntry>,
    /// Only where packets carry on the value of others: what makes them a later generation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reclaimed: Option<Reclaimed>,
}

/// What a manifest says when its packets carry on the value of earlier ones.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reclaimed {
    /// The generation of all its packets; 1 and above.
    pub generation: u8,
    /// Its shards are numbered from here: no number serves two generations, so that ticket keys,
    /// state directories and logs of one are never taken for those of another.
    pub first_shard: u32,
    /// Plan digest of generation 0, under which the campaign's keys grow.
    #[serde(with = "hex::array")]
    pub root_digest: [u8; 32],
    /// Where the packets of each shard come from, in order of shard.
    pub parents: Vec<ParentsEntry>,
}

/// One shard's parents file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ParentsEntry {
    /// The shard.
    pub shard: ShardId,
    /// File name beside the manifest.
    pub file: String,
    /// BLAKE3 of the whole file.
    #[serde(with = "hex::array")]
    pub hash: [u8; 32],
}

/// One sponsor's part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SponsorPlan {
    /// Its number.
    pub sponsor: SponsorId,
    /// Its name, for people.
    pub name: String,
    /// Packets over all waves and shards.
    pub packets: u64,
    /// Their sum.
    pub sum: Fen,
}

/// One wave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WavePlan {
    /// Its number.
    pub wave: WaveIndex,
    /// Its name, for people.
    pub name: String,
    /// How long, microseconds of wave time.
    pub duration_us: u64,
    /// Packets over all shards.
    pub packets: u64,
    /// Their sum.
    pub sum: Fen,
}

/// One shard's file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardEntry {
    /// The shard.
    pub shard: ShardId,
    /// File name beside the manifest.
    pub file: String,
    /// Size of the file.
    pub bytes: u64,
    /// BLAKE3 of the whole file.
    #[serde(with = "hex::array")]
    pub hash: [u8; 32],
    /// Its packets.
    pub packets: u32,
    /// Their sum.
    pub sum: Fen,
    /// Root of the Merkle tree over them.
    #[serde(with = "hex::array")]
    pub merkle_root: [u8; 32],
}

impl Manifest {
    /// Whether every shard of the campaign is listed.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.shards.len() as u64 == u64::from(self.shard_count)
    }

    /// The generation of its packets: 0 when they were planned, not reclaimed.
    #[must_use]
    pub fn generation(&self) -> u8 {
        self.reclaimed.as_ref().map_or(0, |reclaimed| reclaimed.generation)
    }

    /// The numbers of its shards.
    #[must_use]
    pub fn shard_numbers(&self) -> Range<u32> {
        let first = self.reclaimed.as_ref().map_or(0, |reclaimed| reclaimed.first_shard);
        first..first.saturating_add(self.shard_count)
    }

    /// The entry of `shard`.
    #[must_use]
    pub fn shard(&self, shard: ShardId) -> Option<&ShardEntry> {
        self.shards.iter().find(|entry| entry.shard == shard)
    }

    /// The text of the signed file.
    #[must_use]
    pub fn encode(&self, key: &SignKey) -> String {
        let body = serde_json::to_string_pretty(self).expect("plain data always serialises");
        let signature = hex::encode(&key.sign(context::MANIFEST, body.as_bytes()));
        format!("{FIRST_WORD}{signature}\n{body}")
    }

    /// Reads a manifest; nothing it says is read before its signature was checked.
    ///
    /// # Errors
    /// Not a manifest, a wrong signature, JSON that is not of this form, or a list that is out of
    /// order or out of range.
    pub fn decode(text: &str, key: &PublicKey) -> Result<Self, WireError> {
        let magic = WireError::Magic { what: "a manifest" };
        let (line, body) = text.split_once('\n').ok_or(magic)?;
        let signature = line.strip_prefix(FIRST_WORD).ok_or(magic)?;
        // Lower-case digits only: the same manifest has one spelling, and so one hash.
        let signature = hex::decode_array::<SIGNATURE_BYTES>(signature)
            .filter(|bytes| hex::encode(bytes) == signature)
            .ok_or(WireError::Text { field: "the manifest's signature" })?;
        if !key.verifies(context::MANIFEST, body.as_bytes(), &signature) {
            return Err(WireError::Forged { what: "a manifest" });
        }
        let manifest: Self = serde_json::from_str(body)
            .map_err(|_| WireError::Text { field: "the manifest's JSON" })?;
        manifest.check()?;
        Ok(manifest)
    }

    /// Every list rises and stays in its bounds: only then does [`Self::is_complete`], which
    /// counts, tell the truth.
    fn check(&self) -> Result<(), WireError> {
        rises(
            "a sponsor of the manifest",
            self.sponsors.iter().map(|s| u64::from(s.sponsor.number())),
            u64::MAX,
        )?;
        rises(
            "a wave of the manifest",
            self.waves.iter().map(|w| u64::from(w.wave.0)),
            WAVES_MAX as u64,
        )?;
        if !(1..=SHARDS_MAX).contains(&self.shard_count) {
            let value = u64::from(self.shard_count);
            return Err(WireError::Value { field: "the manifest's shard count", value });
        }
        let numbers = self.shard_numbers();
        if numbers.end > SHARDS_MAX {
            let value = u64::from(numbers.end);
            return Err(WireError::Value { field: "the manifest's last shard", value });
        }
        let numbers = u64::from(numbers.start)..u64::from(numbers.end);
        let shards = self.shards.iter().map(|entry| u64::from(entry.shard.0));
        rises_in("a shard of the manifest", shards, numbers.clone())?;
        let Some(reclaimed) = &self.reclaimed else { return Ok(()) };
        if reclaimed.generation == 0 {
            return Err(WireError::Value { field: "the manifest's generation", value: 0 });
        }
        let shards = reclaimed.parents.iter().map(|entry| u64::from(entry.shard.0));
        rises_in("a parents file of the manifest", shards, numbers)
    }
}

/// Each number is above the one before it and below `end`.
fn rises(
    field: &'static str,
    numbers: impl Iterator<Item = u64>,
    end: u64,
) -> Result<(), WireError> {
    rises_in(field, numbers, 0..end)
}

/// Each number is above the one before it and in `range`.
fn rises_in(
    field: &'static str,
    mut numbers: impl Iterator<Item = u64>,
    range: Range<u64>,
) -> Result<(), WireError> {
    let Range { start: mut next, end } = range;
    let wrong = numbers.find(|number| {
        let fits = (next..end).contains(number);
        next = number + 1;
        !fits
    });
    match wrong {
        None => Ok(()),
        Some(value) => Err(WireError::Value { field, value }),
    }
}
