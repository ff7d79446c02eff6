//! Every manifest of one campaign that the ledger was given: generation 0, and one for each
//! generation that carries reclaimed value on. Never reads a file.

use std::collections::{BTreeMap, BTreeSet};
use yao_protocol::{CampaignId, ShardId, manifest::Manifest};

/// The manifests, in order of generation. Invariant: of one campaign and one plan at the root, the
/// first of generation 0, no shard number in two of them.
#[derive(Clone, Debug)]
pub struct Plans(Vec<Manifest>);

impl Plans {
    /// These manifests, in any order.
    ///
    /// # Errors
    /// One sentence about the first that does not fit.
    pub fn new(mut manifests: Vec<Manifest>) -> Result<Self, String> {
        manifests.sort_by_key(Manifest::generation);
        let root = match manifests.first() {
            Some(root) if root.generation() == 0 => root.clone(),
            _ => return Err("there is no manifest of generation 0; name it, too".to_owned()),
        };
        let mut numbers = BTreeSet::new();
        let mut generations = BTreeSet::new();
        for manifest in &manifests {
            let generation = manifest.generation();
            if !generations.insert(generation) {
                return Err(format!("two manifests are of generation {generation}"));
            }
            let root_digest = manifest.reclaimed.as_ref().map(|reclaimed| reclaimed.root_digest);
            if manifest.campaign != root.campaign
                || root_digest.is_some_and(|digest| digest != root.plan_digest)
            {
                return Err(format!("the manifest of generation {generation} is of another plan"));
            }
            if !manifest.shard_numbers().all(|number| numbers.insert(number)) {
                return Err(format!("generation {generation} has shard numbers of another one"));
            }
        }
        Ok(Self(manifests))
    }

    /// Whether these are generations of a database that has `voided` so many packets for each child
    /// generation. On one that knows nothing of the voids, an older copy for instance, packets and
    /// their children would both be paid.
    ///
    /// # Errors
    /// One sentence about the first that is not.
    pub fn check_voided(&self, voided: &BTreeMap<u8, u64>) -> Result<(), String> {
        for manifest in &self.0[1..] {
            let generation = manifest.generation();
            let found = voided.get(&generation).copied().unwrap_or(0);
            if found != manifest.packets {
                return Err(format!(
                    "here {found} packets are void for generation {generation}, and its manifest \
                     carries on {}: this is not the database that voided them, or an older copy; \
                     name that one, or post the seals and the requests of this generation once \
                     more (docs/reclaim.md 3) before its manifest is named",
                    manifest.packets
                ));
            }
        }
        Ok(())
    }

    /// The generations for which packets were `voided`, and of which there is no manifest.
    pub fn missing(&self, voided: &BTreeMap<u8, u64>) -> Vec<u8> {
        voided.keys().copied().filter(|generation| self.of(*generation).is_none()).collect()
    }

    /// What was planned first; limits and names are the same in all.
    #[must_use]
    pub fn root(&self) -> &Manifest {
        &self.0[0]
    }

    /// The campaign.
    #[must_use]
    pub fn campaign(&self) -> CampaignId {
        self.root().campaign
    }

    /// All of them, in order of generation.
    #[must_use]
    pub fn manifests(&self) -> &[Manifest] {
        &self.0
    }

    /// That of a generation.
    #[must_use]
    pub fn of(&self, generation: u8) -> Option<&Manifest> {
        self.0.iter().find(|manifest| manifest.generation() == generation)
    }

    /// Every shard of every generation.
    pub fn shards(&self) -> impl Iterator<Item = ShardId> {
        self.0.iter().flat_map(Manifest::shard_numbers).map(ShardId)
    }

    /// The longest life of a ticket, microseconds.
    #[must_use]
    pub fn ticket_lifetime_us(&self) -> u64 {
        let seconds = self.0.iter().map(|manifest| manifest.ticket_lifetime_seconds).max();
        seconds.unwrap_or(0).saturating_mul(1_000_000)
    }
}
