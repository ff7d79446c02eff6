//! What comes back is given out again to the minor unit: plans, requests, packing, and the check
//! that shares nothing with it.

#[expect(dead_code, reason = "each test file uses its own part of it")]
mod common;

use common::{SMALL, file, keys, plan};
use proptest::prelude::*;
use std::{collections::BTreeMap, slice::from_ref};
use yao_protocol::{
    Fen, Incarnation, PacketId, PacketIndex, ShardId, WallTime, WaveIndex,
    manifest::{Manifest, ShardEntry},
    parents::Parents,
    seal::{Seal, SealedWave},
    seed_file::{SeedHeader, SeedRecord},
};
use yao_seedgen::{
    CampaignKeys, Plan,
    lineage::Lineage,
    opened::open_shard,
    reclaim::{ReclaimError, ReclaimPlan},
    repack::{Parent, Repack, pack_digest},
    shard::{SealedShard, build},
};

/// Generation 0, whole.
struct First {
    plan: Plan,
    keys: CampaignKeys,
    manifest: Manifest,
    /// What every packet holds.
    held: BTreeMap<PacketId, SeedRecord>,
}

impl First {
    fn new() -> Self {
        let plan = plan(SMALL);
        let keys = keys(&plan, 7);
        let shards: Vec<SealedShard> =
            plan.shards().map(|shard| build(&plan, &keys, shard)).collect();
        let manifest = plan.manifest(shards.iter().map(|shard| shard.entry.clone()).collect());
        let mut held = BTreeMap::new();
        for shard in &shards {
            let (entry, public) = (&shard.entry, keys.public());
            let opened = open_shard(&manifest, entry, &public, &shard.key, &file(shard));
            let (header, records) = opened.expect("as it was built");
            for (index, record) in (0..).zip(records) {
                let packet = PacketId::new(0, header.shard, PacketIndex(index));
                held.insert(packet, record);
            }
        }
        Self { plan, keys, manifest, held }
    }

    fn reclaim(&self, shards: u32) -> ReclaimPlan {
        ReclaimPlan::new(from_ref(&self.manifest), 5, shards, None).expect("a plan")
    }

    /// Settlement's bits for each request, and what is void.
    fn voided(
        &self,
        reclaim: &ReclaimPlan,
        is_void: impl Fn(PacketId) -> bool,
    ) -> (Vec<Vec<bool>>, Vec<Parent>) {
        let requests = reclaim.requests();
        let packets = |request: &yao_protocol::void::VoidRequest| {
            let request = *request;
            (0..request.count).map(move |position| request.packet(position))
        };
        let bits = requests.iter().map(|request| packets(request).map(&is_void).collect());
        let parents = requests.iter().flat_map(packets).filter(|packet| is_void(*packet));
        let parents = parents.map(|packet| Parent { packet, record: self.held[&packet] });
        (bits.collect(), parents.collect())
    }
}

/// A generation in memory.
struct Packed {
    manifest: Manifest,
    shards: Vec<(SealedShard, Parents)>,
}

fn pack(first: &First, reclaim: &ReclaimPlan, void: &[Vec<bool>], parents: &[Parent]) -> Packed {
    let repack = Repack::new(reclaim, &first.manifest, &first.keys, void, parents.to_vec());
    let shards: Vec<_> = repack.shards().map(|shard| repack.build(shard)).collect();
    let entry = |(sealed, parents): &(SealedShard, Parents)| {
        (sealed.entry.clone(), *blake3::hash(&parents.encode()).as_bytes())
    };
    let manifest = repack.manifest(&first.manifest, shards.iter().map(entry).collect());
    Packed { manifest, shards }
}

/// One shard as it is read back.
type Read = (ShardEntry, SeedHeader, Vec<SeedRecord>, Parents);

fn read(first: &First, packed: &Packed) -> Vec<Read> {
    let manifest = &packed.manifest;
    let keys = first.keys.later(manifest.generation(), manifest.plan_digest);
    let read = |(sealed, parents): &(SealedShard, Parents)| {
        let key = keys.shard_key(sealed.entry.shard);
        assert_eq!(key, sealed.key);
        let opened = open_shard(manifest, &sealed.entry, &first.keys.public(), &key, &file(sealed));
        let (header, records) = opened.expect("as it was packed");
        (sealed.entry.clone(), header, records, parents.clone())
    };
    packed.shards.iter().map(read).collect()
}

fn check(manifest: &Manifest, void: &[Parent], shards: &[Read]) -> Result<(u64, Fen), String> {
    let mut lineage =
        Lineage::new(manifest, void.iter().copied()).map_err(|error| error.to_string())?;
    for (entry, header, records, parents) in shards {
        let parents = parents.encode();
        lineage.check_shard(entry, header, records, &parents).map_err(|error| error.to_string())?;
    }
    lineage.finish().map_err(|error| error.to_string())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn m10_whatever_is_void_is_packed_once_and_to_the_fen(
        void in prop::collection::btree_set(0_usize..191, 0..191), shards in 1_u32..4,
    ) {
        let first = First::new();
        let chosen: Vec<PacketId> = first.held.keys().copied().collect();
        let is_void = |packet| {
            chosen.binary_search(&packet).is_ok_and(|place| void.contains(&place))
        };
        let reclaim = first.reclaim(shards);
        let (bits, parents) = first.voided(&reclaim, is_void);
        prop_assert_eq!(parents.len(), void.len());
        let packed = pack(&first, &reclaim, &bits, &parents);
        let sum: Fen = parents.iter().map(|parent| parent.record.amount).sum();
        let told = (packed.manifest.packets, packed.manifest.budget);
        prop_assert_eq!(told, (void.len() as u64, sum));
        let verdict = check(&packed.manifest, &parents, &read(&first, &packed));
        prop_assert_eq!(verdict, Ok((void.len() as u64, sum)));
        // The signed manifest is read, and again the same bytes come out.
        let text = packed.manifest.encode(&first.keys.sign_key());
        let read = Manifest::decode(&text, &first.keys.public());
        prop_assert_eq!(read.as_ref(), Ok(&packed.manifest));
        let again = pack(&first, &reclaim, &bits, &parents);
        prop_assert_eq!(&again.manifest, &packed.manifest);
    }
}

/// What is made wrong of an honest generation: its manifest, what is void, its shards.
type Change<'a> = &'a dyn Fn(&mut Manifest, &mut Vec<Parent>, &mut Vec<Read>);

#[test]
fn m10_value_that_changes_or_comes_twice_is_told() {
    let first = First::new();
    let reclaim = first.reclaim(2);
    let (bits, parents) = first.voided(&reclaim, |packet| packet.index().0 % 2 == 0);
    let packed = pack(&first, &reclaim, &bits, &parents);
    let honest = read(&first, &packed);
    let told = |change: Change<'_>, says: &str| {
        let (mut manifest, mut void) = (packed.manifest.clone(), parents.clone());
        let mut shards = honest.clone();
        change(&mut manifest, &mut void, &mut shards);
        // The manifest's signer vouches for whatever parents there are.
        let listed = &mut manifest.reclaimed.as_mut().expect("reclaimed").parents;
        for (entry, shard) in listed.iter_mut().zip(&shards) {
            entry.hash = *blake3::hash(&shard.3.encode()).as_bytes();
        }
        let error = check(&manifest, &void, &shards).expect_err(says);
        assert!(error.contains(says), "{error} / {says}");
    };
    told(&|_, _, shards| shards[0].2[0].amount.0 += 1, "holds something else");
    told(&|_, _, shards| shards[0].3.packets[1] = shards[0].3.packets[0], "was packed before");
    told(&|_, _, shards| shards[1].3.packets[0] = shards[0].3.packets[0], "was packed before");
    told(&|_, void, _| void.truncate(3), "is not void");
    let other = PacketId::new(0, ShardId(0), PacketIndex(1));
    told(
        &move |_, void, _| void.push(Parent { packet: other, ..void[0] }),
        "is void and was not packed",
    );
    told(&|_, void, _| void.push(void[0]), "is void twice");
    told(&|manifest, _, _| manifest.budget.0 += 1, "the manifest's totals are others");
    told(&|manifest, _, _| manifest.sponsors[0].packets += 1, "has other totals");
    told(&|_, _, shards| shards[0].2[0].offset_us = 5_000_000, "has no place in the wave");
    told(&|_, _, shards| shards[0].2.truncate(1), "its parents are another shard's");
    let mut manifest = packed.manifest.clone();
    manifest.reclaimed.as_mut().expect("reclaimed").parents[0].hash[0] ^= 1;
    let error = check(&manifest, &parents, &honest).expect_err("another file");
    assert!(error.contains("not those that the manifest lists"), "{error}");
}

#[test]
fn everything_that_is_drawn_or_sealed_hangs_on_plan_and_answers() {
    let first = First::new();
    let (one, two) = (first.reclaim(1), first.reclaim(2));
    assert_ne!(one.digest(), two.digest());
    let (bits, parents) = first.voided(&one, |_| true);
    let (fewer, fewer_parents) = first.voided(&one, |packet| packet.index().0 > 0);
    assert_ne!(pack_digest(&one, &bits), pack_digest(&one, &fewer));
    let key = |plan: &ReclaimPlan, bits: &[Vec<bool>], parents: &[Parent]| {
        pack(&first, plan, bits, parents).shards[0].0.key.clone()
    };
    let keys = [
        first.keys.shard_key(ShardId(3)),
        key(&one, &bits, &parents),
        key(&two, &bits, &parents),
        key(&one, &fewer, &fewer_parents),
    ];
    for (at, key) in keys.iter().enumerate() {
        assert_eq!(key.mac_key, keys[0].mac_key, "tallies and receipts hold in every generation");
        for other in &keys[..at] {
            assert_ne!(key.seal_key, other.seal_key, "no nonce serves two plaintexts");
            assert_ne!(key.salt_key, other.salt_key);
        }
    }
}

#[test]
fn a_plan_is_read_back_and_goes_on_only_where_it_fits() {
    let first = First::new();
    let plan = first.reclaim(2);
    assert_eq!(ReclaimPlan::decode(&plan.encode()).expect("as written"), plan);
    let short = &plan.encode()[..20];
    assert!(ReclaimPlan::decode(short).is_err() && ReclaimPlan::decode(&[0; 99]).is_err());
    let manifests = from_ref(&first.manifest);
    let frame = ReclaimPlan::frame(manifests, 5, 2).expect("a frame");
    let check = |change: &dyn Fn(&mut ReclaimPlan), expected: bool| {
        let mut changed = plan.clone();
        change(&mut changed);
        assert_eq!(frame.frames(&changed, manifests), expected, "{changed:?}");
    };
    check(&|_| (), true);
    check(&|plan| plan.sources.truncate(1), true);
    check(&|plan| plan.sources[0].range.start += 1, true);
    check(&|plan| plan.sources.clear(), false);
    check(&|plan| plan.sources.swap(0, 1), false);
    check(&|plan| plan.sources[1] = plan.sources[0].clone(), false);
    check(&|plan| plan.sources[0].range.end += 1, false);
    check(&|plan| plan.sources[0].range.start = plan.sources[0].range.end, false);
    check(&|plan| plan.sources[0].merkle_root[0] ^= 1, false);
    check(&|plan| plan.sources[0].shard.0 = 9, false);
    check(&|plan| plan.sources[0].generation = 1, false);
    check(&|plan| plan.wave_seconds += 1, false);
    check(&|plan| plan.shards += 1, false);
    check(&|plan| plan.first_shard += 1, false);
    check(&|plan| plan.generation += 1, false);
    check(&|plan| plan.wave.0 += 1, false);
    check(&|plan| plan.root_digest[0] ^= 1, false);
    check(&|plan| plan.campaign.0 += 1, false);
}

#[test]
fn a_later_generation_has_numbers_of_its_own() {
    let first = First::new();
    let reclaim = first.reclaim(2);
    let numbers = (reclaim.generation, reclaim.first_shard, reclaim.wave);
    assert_eq!(numbers, (1, 3, WaveIndex(3)));
    let (bits, parents) = first.voided(&reclaim, |_| true);
    let second = pack(&first, &reclaim, &bits, &parents).manifest;
    let both = [first.manifest.clone(), second.clone()];
    let third = ReclaimPlan::new(&both, 5, 1, None).expect("a plan");
    assert_eq!((third.generation, third.first_shard, third.wave), (2, 5, WaveIndex(4)));
    assert_eq!(third.sources.len(), 5, "what is left of every shard of both");
    let refused = |manifests: &[Manifest], says: &str| {
        let error = ReclaimPlan::new(manifests, 5, 1, None).expect_err(says);
        assert!(error.to_string().contains(says), "{error} / {says}");
    };
    refused(from_ref(&second), "generation 0 is missing");
    refused(&[], "generation 0 is missing");
    refused(&[first.manifest.clone(), first.manifest.clone()], "generation 1 is missing");
    let mut other = second;
    other.reclaimed.as_mut().expect("reclaimed").root_digest[0] ^= 1;
    refused(&[first.manifest.clone(), other], "of another plan");
    let mut full = first.manifest.clone();
    full.waves.last_mut().expect("a wave").wave = WaveIndex(62);
    let last = ReclaimPlan::new(from_ref(&full), 5, 1, None).expect("one is left");
    assert_eq!(last.wave, WaveIndex(63));
    full.waves.last_mut().expect("a wave").wave = WaveIndex(63);
    refused(from_ref(&full), "the 64 waves that a campaign has with all its generations");
    for (seconds, shards) in [(0, 1), (5, 0), (u32::MAX, 1), (5, 10_001)] {
        let asked = ReclaimPlan::new(from_ref(&first.manifest), seconds, shards, None);
        assert!(matches!(asked, Err(ReclaimError::Asked(_))), "{seconds} s, {shards} shards");
    }
    assert_eq!(first.plan.shards().count(), 3);
}

#[test]
fn m1_with_seals_only_what_never_left_is_asked_for() {
    let first = First::new();
    let seal = |shard: u32, epoch, highs: [u32; 3]| {
        let entry = &first.manifest.shards[shard as usize];
        // 101, 50 and 40 packets in three waves over three shards.
        let counts = [(entry.packets - 30) / 2, 0, 0];
        let counts = [counts[0], 17, entry.packets - counts[0] - 17];
        let wave = |number: usize| SealedWave {
            wave: WaveIndex(number as u16),
            count: counts[number],
            high: highs[number],
        };
        Seal {
            campaign: first.manifest.campaign,
            shard: ShardId(shard),
            generation: 0,
            epoch: yao_protocol::Epoch(epoch),
            incarnation: Incarnation([0; 16]),
            settled: 0,
            sealed_at: WallTime(0),
            merkle_root: entry.merkle_root,
            waves: (0..3).map(wave).collect(),
        }
    };
    let first_of = |seal: &Seal, wave: usize| -> u32 {
        seal.waves[..wave].iter().map(|wave| wave.count).sum()
    };
    let asked = |seals: &[Seal]| {
        let plan = ReclaimPlan::new(from_ref(&first.manifest), 5, 1, Some(seals)).expect("a plan");
        plan.sources.iter().map(|source| (source.shard.0, source.range.clone())).collect::<Vec<_>>()
    };
    let own = seal(1, 1, [2, 17, 1]);
    let (second, end) = (first_of(&own, 2), own.packets());
    let expected = vec![(1, 2..first_of(&own, 1)), (1, second + 1..end)];
    assert_eq!(asked(from_ref(&own)), expected);
    let other = seal(1, 2, [5, 17, 0]);
    assert_eq!(asked(&[own, other])[0].1.start, 5, "of every epoch");
    let none = ReclaimPlan::new(from_ref(&first.manifest), 5, 1, Some(&[]));
    assert!(matches!(none, Err(ReclaimError::Asked(_))), "without a seal nothing is known");
}
