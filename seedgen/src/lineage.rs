//! Checks a reclaimed generation against the packets whose value it carries on: one parent each,
//! each parent once, the same amount and sponsor, and what is void and nothing else. Shares nothing
//! with [`crate::repack`] but the formats.

use crate::{repack::Parent, verify::VerifyError};
use std::collections::BTreeMap;
use yao_protocol::{
    Fen, PacketId, SponsorId,
    manifest::{Manifest, ShardEntry},
    parents::Parents,
    seed_file::{SeedHeader, SeedRecord},
};

/// Holds shards against their parents, one after the other, and the manifest in the end.
#[derive(Debug)]
pub struct Lineage<'a> {
    manifest: &'a Manifest,
    /// What every void packet holds, and whether it was found again.
    void: BTreeMap<PacketId, (SeedRecord, bool)>,
    sponsors: BTreeMap<SponsorId, (u64, Fen)>,
}

fn broken<T>(text: String) -> Result<T, VerifyError> {
    Err(VerifyError::Broken(text))
}

impl<'a> Lineage<'a> {
    /// `void` is what settlement voided for the generation of `manifest`.
    ///
    /// # Errors
    /// A packet that is void twice.
    pub fn new(
        manifest: &'a Manifest,
        void: impl IntoIterator<Item = Parent>,
    ) -> Result<Self, VerifyError> {
        let mut known = BTreeMap::new();
        for parent in void {
            if known.insert(parent.packet, (parent.record, false)).is_some() {
                return broken(format!("packet {} is void twice", parent.packet));
            }
        }
        Ok(Self { manifest, void: known, sponsors: BTreeMap::new() })
    }

    /// One shard: what was read of its file, and the bytes of its parents file.
    ///
    /// # Errors
    /// The first packet that does not carry on what its parent held.
    pub fn check_shard(
        &mut self,
        entry: &ShardEntry,
        header: &SeedHeader,
        records: &[SeedRecord],
        parents: &[u8],
    ) -> Result<(), VerifyError> {
        let place = format!("shard {}", entry.shard);
        let reclaimed = self.manifest.reclaimed.as_ref();
        let listed = reclaimed.and_then(|reclaimed| {
            reclaimed.parents.iter().find(|listed| listed.shard == entry.shard)
        });
        if listed.map(|listed| listed.hash) != Some(*blake3::hash(parents).as_bytes()) {
            return broken(format!("{place}: its parents are not those that the manifest lists"));
        }
        let wire = |error| VerifyError::Wire { place: place.clone(), error };
        let parents = Parents::decode(parents).map_err(wire)?;
        let found = (parents.campaign, parents.shard, parents.generation, parents.packets.len());
        let wanted = (header.campaign, header.shard, header.generation, records.len());
        if found != wanted {
            return broken(format!("{place}: its parents are another shard's"));
        }
        let [wave] = self.manifest.waves.as_slice() else {
            return broken("a reclaimed generation has one wave".to_owned());
        };
        let [section] = header.sections.as_slice() else {
            return broken(format!("{place}: it has more than one section"));
        };
        if (section.wave, section.duration_us()) != (wave.wave, wave.duration_us) {
            return broken(format!("{place}: its wave is another one than the manifest's"));
        }
        let mut previous_us = 0;
        for (record, parent) in records.iter().zip(&parents.packets) {
            if record.offset_us < previous_us || record.offset_us >= wave.duration_us {
                return broken(format!("{place}: the child of {parent} has no place in the wave"));
            }
            previous_us = record.offset_us;
            self.check_child(&place, record, *parent)?;
        }
        Ok(())
    }

    fn check_child(
        &mut self,
        place: &str,
        record: &SeedRecord,
        parent: PacketId,
    ) -> Result<(), VerifyError> {
        let Some((held, packed)) = self.void.get_mut(&parent) else {
            return broken(format!("{place}: its parent {parent} is not void"));
        };
        if std::mem::replace(packed, true) {
            return broken(format!("{place}: its parent {parent} was packed before"));
        }
        if (held.amount, held.sponsor) != (record.amount, record.sponsor) {
            return broken(format!("{place}: the child of {parent} holds something else"));
        }
        let total = self.sponsors.entry(record.sponsor).or_default();
        total.0 += 1;
        total.1 = [total.1, record.amount].into_iter().sum();
        Ok(())
    }

    /// After the last shard: nothing void was left behind, and the manifest says what was found.
    ///
    /// # Errors
    /// The first thing that does not add up.
    pub fn finish(self) -> Result<(u64, Fen), VerifyError> {
        if let Some((packet, _)) = self.void.iter().find(|(_, (_, packed))| !packed) {
            return broken(format!("packet {packet} is void and was not packed"));
        }
        for plan in &self.manifest.sponsors {
            let found = self.sponsors.get(&plan.sponsor).copied().unwrap_or_default();
            if found != (plan.packets, plan.sum) {
                let number = plan.sponsor;
                return broken(format!("sponsor {number} has other totals in the manifest"));
            }
        }
        let packets = self.sponsors.values().map(|(packets, _)| packets).sum();
        let sum = self.sponsors.values().map(|(_, sum)| *sum).sum();
        let wave = self.manifest.waves.first().map(|wave| (wave.packets, wave.sum));
        let told = (self.manifest.packets, self.manifest.budget);
        if told != (packets, sum) || wave != Some((packets, sum)) {
            return broken("the manifest's totals are others than those of its shards".to_owned());
        }
        Ok((packets, sum))
    }
}
