//! What is to be taken back, and what it is to become: the plan of a later generation, and the
//! requests that settlement judges one by one (docs/reclaim.md 4). Never decides what is void.

use std::{collections::BTreeSet, ops::Range};
use thiserror::Error;
use yao_protocol::{
    CampaignId, ShardId, WaveIndex, WireError,
    codec::{Put, Reader},
    limits::{SHARDS_MAX, VOID_PACKETS_MAX, WAVES_MAX},
    manifest::Manifest,
    seal::Seal,
    void::VoidRequest,
};

/// First bytes of a plan.
const MAGIC: &[u8; 15] = b"yao reclaim v1\0";
const WHAT: &str = "a reclaim plan";
/// Shards of a reclaimed generation.
pub const SHARDS_RECLAIMED_MAX: u32 = 10_000;

/// Why nothing can be planned. One line each.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ReclaimError {
    /// Directories that do not belong together.
    #[error("{0}")]
    Sources(String),
    /// A number that cannot be.
    #[error("{0}")]
    Asked(String),
}

/// Packets of one shard that are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Their generation.
    pub generation: u8,
    /// Their shard.
    pub shard: ShardId,
    /// The root that names the shard's content.
    pub merkle_root: [u8; 32],
    /// Their indexes; not empty.
    pub range: Range<u32>,
}

/// The plan of a later generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReclaimPlan {
    /// The campaign.
    pub campaign: CampaignId,
    /// Plan digest of generation 0.
    pub root_digest: [u8; 32],
    /// The new generation.
    pub generation: u8,
    /// Its wave, which no earlier generation has: a schedule of those never starts it.
    pub wave: WaveIndex,
    /// How long that lasts.
    pub wave_seconds: u32,
    /// Its shards are numbered from here.
    pub first_shard: u32,
    /// How many.
    pub shards: u32,
    /// Where its value comes from, in order of generation, shard and index.
    pub sources: Vec<Source>,
}

impl ReclaimPlan {
    /// Plans a generation after `manifests`, which are those of all generations so far in order.
    /// With `seals`, only of packets that never left according to them; without, of all.
    ///
    /// # Errors
    /// Those of [`Self::frame`], nothing to ask for.
    pub fn new(
        manifests: &[Manifest],
        wave_seconds: u32,
        shards: u32,
        seals: Option<&[Seal]>,
    ) -> Result<Self, ReclaimError> {
        let frame = Self::frame(manifests, wave_seconds, shards)?;
        let plan = Self { sources: sources(manifests, seals), ..frame };
        if plan.sources.is_empty() {
            let text = "there is no packet to ask for".to_owned();
            return Err(ReclaimError::Asked(text));
        }
        Ok(plan)
    }

    /// The same before it is decided which packets are asked for.
    ///
    /// # Errors
    /// Manifests that leave one out, no number free.
    pub fn frame(
        manifests: &[Manifest],
        wave_seconds: u32,
        shards: u32,
    ) -> Result<Self, ReclaimError> {
        check_sources(manifests)?;
        if !(1..=SHARDS_RECLAIMED_MAX).contains(&shards) {
            let text = format!("--shards is {shards}; use 1 to {SHARDS_RECLAIMED_MAX}");
            return Err(ReclaimError::Asked(text));
        }
        let longest = crate::campaign::WAVE_SECONDS_MAX;
        if wave_seconds == 0 || u64::from(wave_seconds) > longest {
            let text = format!("--wave-seconds is {wave_seconds}; use 1 to {longest}");
            return Err(ReclaimError::Asked(text));
        }
        let waves = manifests.iter().flat_map(|manifest| &manifest.waves);
        let wave = waves.map(|wave| wave.wave.0 + 1).max().unwrap_or(0);
        let ends = manifests.iter().map(|manifest| manifest.shard_numbers().end);
        let first_shard = ends.max().unwrap_or(0);
        let used_up = |what: String| ReclaimError::Sources(format!("{what} are used up"));
        if usize::from(wave) >= WAVES_MAX {
            let text = format!(
                "the {WAVES_MAX} waves that a campaign has with all its generations, of which each \
                 takes one,"
            );
            return Err(used_up(text));
        }
        if first_shard + shards > SHARDS_MAX {
            return Err(used_up("shard numbers".to_owned()));
        }
        let generation = u8::try_from(manifests.len()).ok();
        let generation = generation.ok_or_else(|| used_up("generations".to_owned()))?;
        let root = &manifests[0];
        Ok(Self {
            campaign: root.campaign,
            root_digest: root.plan_digest,
            generation,
            wave: WaveIndex(wave),
            wave_seconds,
            first_shard,
            shards,
            sources: Vec::new(),
        })
    }

    /// Whether `earlier` is a plan in this frame, made of `manifests` at another time: it asks for
    /// other packets perhaps, each planned, and none twice.
    #[must_use]
    pub fn frames(&self, earlier: &Self, manifests: &[Manifest]) -> bool {
        let planned = |source: &Source| {
            let manifest = manifests.get(usize::from(source.generation))?;
            let entry = manifest.shard(source.shard)?;
            let range = &source.range;
            let fits = !range.is_empty() && range.end <= entry.packets;
            (fits && entry.merkle_root == source.merkle_root).then_some(())
        };
        let place = |source: &Source| (source.generation, source.shard);
        let apart = |pair: &[Source]| {
            place(&pair[0]) < place(&pair[1])
                || (place(&pair[0]) == place(&pair[1]) && pair[0].range.end <= pair[1].range.start)
        };
        let frame = Self { sources: Vec::new(), ..earlier.clone() };
        frame == Self { sources: Vec::new(), ..self.clone() }
            && !earlier.sources.is_empty()
            && earlier.sources.iter().all(|source| planned(source).is_some())
            && earlier.sources.windows(2).all(apart)
    }

    /// The digest that settlement keeps: packets that were voided for this plan never become
    /// those of another one.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        *blake3::hash(&self.encode()).as_bytes()
    }

    /// The bytes of which the digest is made.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.put(MAGIC);
        out.put_u64(self.campaign.0);
        out.put(&self.root_digest);
        out.put_u8(self.generation);
        out.put_u16(self.wave.0);
        out.put_u32(self.wave_seconds);
        out.put_u32(self.first_shard);
        out.put_u32(self.shards);
        out.put_u32(u32::try_from(self.sources.len()).expect("shards are bounded"));
        for source in &self.sources {
            out.put_u8(source.generation);
            out.put_u32(source.shard.0);
            out.put(&source.merkle_root);
            out.put_u32(source.range.start);
            out.put_u32(source.range.end);
        }
        out
    }

    /// Reads what [`Self::encode`] wrote. Whether it fits anything is not looked at.
    ///
    /// # Errors
    /// A wrong form.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let mut r = Reader::new(WHAT, bytes);
        if r.array()? != *MAGIC {
            return Err(WireError::Magic { what: WHAT });
        }
        let (campaign, root_digest) = (CampaignId(r.u64()?), r.array()?);
        let (generation, wave, wave_seconds) = (r.u8()?, WaveIndex(r.u16()?), r.u32()?);
        let (first_shard, shards, count) = (r.u32()?, r.u32()?, r.u32()?);
        let mut sources = Vec::new();
        for _ in 0..count {
            let (generation, shard, merkle_root) = (r.u8()?, r.shard()?, r.array()?);
            sources.push(Source { generation, shard, merkle_root, range: r.u32()?..r.u32()? });
        }
        r.finish()?;
        Ok(Self {
            campaign,
            root_digest,
            generation,
            wave,
            wave_seconds,
            first_shard,
            shards,
            sources,
        })
    }

    /// The requests for settlement, in order of their packets.
    #[must_use]
    pub fn requests(&self) -> Vec<VoidRequest> {
        let plan_digest = self.digest();
        let mut requests = Vec::new();
        for source in &self.sources {
            let mut first = source.range.start;
            while first < source.range.end {
                let count = VOID_PACKETS_MAX.min(source.range.end - first);
                requests.push(VoidRequest {
                    campaign: self.campaign,
                    shard: source.shard,
                    generation: source.generation,
                    child: self.generation,
                    first,
                    count,
                    plan_digest,
                });
                first += count;
            }
        }
        requests
    }
}

/// All generations from 0 on, of one campaign, with shard numbers of their own.
fn check_sources(manifests: &[Manifest]) -> Result<(), ReclaimError> {
    let wrong = |text: String| Err(ReclaimError::Sources(text));
    let mut numbers = BTreeSet::new();
    for (expected, manifest) in manifests.iter().enumerate() {
        if usize::from(manifest.generation()) != expected {
            return wrong(format!("generation {expected} is missing; name its --seeds, too"));
        }
        let root_digest = manifest.reclaimed.as_ref().map(|reclaimed| reclaimed.root_digest);
        if manifest.campaign != manifests[0].campaign
            || root_digest.is_some_and(|digest| digest != manifests[0].plan_digest)
        {
            return wrong(format!("generation {expected} is of another plan"));
        }
        if !manifest.shard_numbers().all(|number| numbers.insert(number)) {
            return wrong(format!("generation {expected} has shard numbers of an earlier one"));
        }
    }
    if manifests.is_empty() { wrong("generation 0 is missing".to_owned()) } else { Ok(()) }
}

fn sources(manifests: &[Manifest], seals: Option<&[Seal]>) -> Vec<Source> {
    let mut sources = Vec::new();
    for manifest in manifests {
        let generation = manifest.generation();
        for entry in &manifest.shards {
            let ranges = match seals {
                Some(seals) => never_left(seals, generation, entry.shard, entry.packets),
                None => std::iter::once(0..entry.packets).collect(),
            };
            let (shard, merkle_root) = (entry.shard, entry.merkle_root);
            let source = |range| Source { generation, shard, merkle_root, range };
            let ranges = ranges.into_iter().filter(|range: &Range<u32>| !range.is_empty());
            sources.extend(ranges.map(source));
        }
    }
    sources
}

/// The indexes of a shard at or above H in every seal of it, stretch by stretch; none without a
/// seal.
fn never_left(seals: &[Seal], generation: u8, shard: ShardId, packets: u32) -> Vec<Range<u32>> {
    let ours: Vec<&Seal> =
        seals.iter().filter(|seal| (seal.generation, seal.shard) == (generation, shard)).collect();
    let mut ranges: Vec<Range<u32>> = Vec::new();
    for index in 0..packets {
        if ours.is_empty() || !ours.iter().all(|seal| seal.never_left(index)) {
            continue;
        }
        match ranges.last_mut() {
            Some(last) if last.end == index => last.end += 1,
            _ => ranges.push(index..index + 1),
        }
    }
    ranges
}
