//! Generations: what was taken back from one is what the next one holds, to the fen. Reads the
//! later generation's shards and parents, and judges them by what the ledger voided and by what the
//! parents held.

use super::{
    evidence::{Evidence, text},
    ledger::Void,
    plan::{read_shard, read_shard_key, shard_key_path},
};
use anyhow::{Context, Result, bail};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fs,
    path::Path,
};
use yao_protocol::{
    PacketId, PacketIndex, ShardId, keys::PublicKey, manifest::Manifest, parents::Parents,
    seed_file::SeedRecord,
};

/// A packet of a later generation.
pub(super) struct Child {
    packet: PacketId,
    record: SeedRecord,
    parent: PacketId,
}

/// A later generation as its files tell it.
pub(super) struct Generation {
    pub(super) number: u8,
    children: Vec<Child>,
    /// What its manifest promises: packets and sum.
    promised: (u64, u64),
}

/// Reads every shard of the generation in `folder`, with its parents; `root` is the manifest of
/// generation 0.
///
/// # Errors
/// Files that are missing or not signed, a folder that holds no later generation.
pub(super) fn read_generation(
    folder: &Path,
    root: &Manifest,
    campaign_key: &PublicKey,
    problems: &mut Vec<String>,
) -> Result<Generation> {
    let manifest = read_manifest(folder, campaign_key)?;
    let number = manifest.generation();
    let Some(reclaimed) = &manifest.reclaimed else {
        bail!("{} holds no reclaimed generation", folder.display());
    };
    if root.generation() != 0 {
        bail!("--manifest is of generation {}; name that of generation 0", root.generation());
    }
    if (manifest.campaign, reclaimed.root_digest) != (root.campaign, root.plan_digest) {
        problems.push(format!("generation {number} grew from another plan than --manifest"));
    }
    if !manifest.is_complete() {
        problems.push(format!("the manifest of generation {number} lists not all of its shards"));
    }
    let mut children = Vec::new();
    for entry in &manifest.shards {
        let key = read_shard_key(folder, entry.shard)?;
        let path = folder.join(&entry.file);
        let (header, records) = read_shard(&path, campaign_key, &manifest, &key, problems)
            .with_context(|| path.display().to_string())?;
        let parents = read_parents(folder, &manifest, entry.shard.0, problems)?;
        let found = (header.generation, header.shard, parents.packets.len());
        if found != (number, entry.shard, records.len()) {
            problems.push(format!("shard {} has parents of another shard", entry.shard));
        }
        for (index, (record, parent)) in (0..).zip(records.iter().zip(&parents.packets)) {
            let packet = PacketId::new(number, entry.shard, PacketIndex(index));
            children.push(Child { packet, record: *record, parent: *parent });
        }
    }
    Ok(Generation { number, children, promised: (manifest.packets, manifest.budget.0) })
}

impl Generation {
    /// The packets whose value it carries on.
    fn parents(&self) -> impl Iterator<Item = PacketId> {
        self.children.iter().map(|child| child.parent)
    }

    /// What its packets hold.
    fn contents(&self) -> impl Iterator<Item = (PacketId, SeedRecord)> {
        self.children.iter().map(|child| (child.packet, child.record))
    }
}

/// What the parents of all `generations` held: those of `first`'s shard, of later generations, and
/// of every other shard of generation 0 whose key lies in `seeds`. The rest is left out.
///
/// # Errors
/// A shard whose key is there and whose file cannot be read.
pub(super) fn contents(
    first: &Evidence,
    seeds: &Path,
    campaign_key: &PublicKey,
    generations: &[Generation],
    problems: &mut Vec<String>,
) -> Result<HashMap<PacketId, SeedRecord>> {
    let wanted: HashSet<PacketId> = generations.iter().flat_map(Generation::parents).collect();
    let is_wanted = |(packet, _): &(PacketId, SeedRecord)| wanted.contains(packet);
    let later = generations.iter().flat_map(Generation::contents);
    let mut known: HashMap<_, _> = first.contents().chain(later).filter(is_wanted).collect();
    let planned = wanted.iter().filter(|packet| packet.generation() == 0);
    let shards: BTreeSet<ShardId> = planned.map(|packet| packet.shard()).collect();
    for shard in shards.into_iter().filter(|shard| *shard != first.header.shard) {
        let Some(entry) = first.manifest.shard(shard) else { continue };
        if !shard_key_path(seeds, shard).exists() {
            continue;
        }
        let (key, path) = (read_shard_key(seeds, shard)?, seeds.join(&entry.file));
        let (header, records) = read_shard(&path, campaign_key, &first.manifest, &key, problems)
            .with_context(|| path.display().to_string())?;
        if header.shard != shard {
            problems.push(format!("{} is the file of another shard", path.display()));
        }
        let id = |index| PacketId::new(0, shard, PacketIndex(index));
        let records = (0..).zip(records).map(|(index, record)| (id(index), record));
        known.extend(records.filter(is_wanted));
    }
    Ok(known)
}

fn read_manifest(folder: &Path, campaign_key: &PublicKey) -> Result<Manifest> {
    let path = folder.join("manifest.yaomanifest");
    Manifest::decode(&text(&path)?, campaign_key).with_context(|| path.display().to_string())
}

fn read_parents(
    folder: &Path,
    manifest: &Manifest,
    shard: u32,
    problems: &mut Vec<String>,
) -> Result<Parents> {
    let name = format!("shard-{shard:05}.yaoparents");
    let path = folder.join(&name);
    let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut listed = manifest.reclaimed.iter().flat_map(|reclaimed| &reclaimed.parents);
    let listed = listed.find(|entry| entry.shard.0 == shard).map(|entry| entry.hash);
    if listed != Some(*blake3::hash(&bytes).as_bytes()) {
        problems.push(format!("{name} is not the file that the manifest lists"));
    }
    Parents::decode(&bytes).with_context(|| path.display().to_string())
}

/// Judges one generation: each child carries on one void packet, each void packet one child, and
/// nothing changed on the way. `known` is what the parents held: what nobody can look up is no
/// balance.
pub(super) fn judge(
    generation: &Generation,
    voids: &[Void],
    known: &HashMap<PacketId, SeedRecord>,
) -> Vec<String> {
    let number = generation.number;
    let mut problems = Vec::new();
    let ours = voids.iter().filter(|void| void.child == number);
    let mut void: BTreeMap<u64, u32> = ours.map(|void| (void.packet, 0)).collect();
    let mut sum = 0_u64;
    let mut unknown: BTreeMap<(u8, ShardId), u64> = BTreeMap::new();
    for child in &generation.children {
        let Child { packet, record, parent } = child;
        sum = sum.saturating_add(record.amount.0);
        match void.get_mut(&parent.0) {
            None => {
                problems.push(format!("packet {packet} has a parent, {parent}, that is not void"))
            }
            Some(count) => *count += 1,
        }
        match known.get(parent) {
            None => *unknown.entry((parent.generation(), parent.shard())).or_default() += 1,
            Some(held) if (held.amount, held.sponsor) != (record.amount, record.sponsor) => {
                problems.push(format!(
                    "packet {packet} holds {} of sponsor {}; its parent {parent} held {} of \
                     sponsor {}",
                    record.amount, record.sponsor, held.amount, held.sponsor
                ));
            }
            Some(_) => {}
        }
    }
    for ((generation, shard), count) in unknown {
        problems.push(format!(
            "nobody can tell what {count} parents in shard {shard} of generation {generation} \
             held: the shard's file and key must lie in --seeds or --reclaimed"
        ));
    }
    for (packet, count) in void.iter().filter(|(_, count)| **count != 1) {
        let packet = PacketId(*packet);
        problems.push(format!(
            "packet {packet} was voided for generation {number} and is {count} times in it"
        ));
    }
    let found = (generation.children.len() as u64, sum);
    if found != generation.promised {
        problems.push(format!(
            "generation {number} holds {} packets of {} in all; its manifest says {} of {}",
            found.0, found.1, generation.promised.0, generation.promised.1
        ));
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;
    use yao_protocol::{Fen, ShardId, SponsorId};

    fn packet(generation: u8, index: u32) -> PacketId {
        PacketId::new(generation, ShardId(u32::from(generation)), PacketIndex(index))
    }

    fn record(amount: u64) -> SeedRecord {
        let sponsor = SponsorId::new(0).expect("below 64");
        SeedRecord { offset_us: 0, amount: Fen(amount), sponsor }
    }

    #[test]
    fn m8_every_kind_of_lost_or_doubled_value_is_told() {
        let check = |children: &[(u32, u64)], voids: &[u32], promised, expected: &[&str]| {
            let child = |(at, (parent, amount)): (u32, &(u32, u64))| Child {
                packet: packet(1, at),
                record: record(*amount),
                parent: packet(0, *parent),
            };
            let children = (0..).zip(children).map(child).collect();
            let generation = Generation { number: 1, children, promised };
            let void = |index: &u32| Void { packet: packet(0, *index).0, child: 1 };
            let mut voids: Vec<Void> = voids.iter().map(void).collect();
            // One of another generation is none of ours.
            voids.push(Void { packet: packet(0, 9).0, child: 2 });
            let known = (0..9).map(|at| (packet(0, at), record(100 + u64::from(at)))).collect();
            let problems = judge(&generation, &voids, &known);
            assert_eq!(problems.len(), expected.len(), "{problems:?}");
            for (problem, part) in problems.iter().zip(expected) {
                assert!(problem.contains(part), "{problem} / {part}");
            }
        };
        check(&[(3, 103), (1, 101)], &[1, 3], (2, 204), &[]);
        check(
            &[(3, 103)],
            &[1, 3],
            (1, 103),
            &["0/0/1 was voided for generation 1 and is 0 times"],
        );
        let twice = [(1, 101), (1, 101)];
        check(&twice, &[1], (2, 202), &["0/0/1 was voided for generation 1 and is 2 times"]);
        check(&[(1, 101), (2, 102)], &[1], (2, 203), &["a parent, 0/0/2, that is not void"]);
        check(&[(1, 102)], &[1], (1, 102), &["its parent 0/0/1 held 101"]);
        check(&[(1, 101)], &[1], (2, 101), &["its manifest says 2 of 101"]);
        let unknown = "what 1 parents in shard 0 of generation 0 held";
        check(&[(9, 100)], &[], (1, 100), &["a parent, 0/0/9, that is not void", unknown]);
        check(&[(9, 100)], &[9], (1, 100), &[unknown]);
    }
}
