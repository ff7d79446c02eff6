//! Shards of a later generation from packets that settlement voided: the same amounts and sponsors
//! one to one, new ids, and winning moments drawn anew. The same plan and answers make the same
//! bytes. Never touches a disk, never decides what is void.

use crate::{
    apportion::proportion,
    derive::{CampaignKeys, Draw, LaterKeys},
    moments::draw_second,
    reclaim::ReclaimPlan,
    shard::{Body, SealedShard, parents_file_name},
};
use yao_protocol::{
    Fen, PacketId, ShardId,
    codec::Put,
    manifest::{Manifest, ParentsEntry, Reclaimed, ShardEntry, SponsorPlan, WavePlan},
    parents::Parents,
    seed_file::{Section, SeedRecord, Segment},
};

/// A packet that was voided, with what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parent {
    /// Its id.
    pub packet: PacketId,
    /// What it holds; its winning moment is forgotten.
    pub record: SeedRecord,
}

/// A generation about to be packed.
#[derive(Debug)]
pub struct Repack<'a> {
    plan: &'a ReclaimPlan,
    digest: [u8; 32],
    keys: LaterKeys,
    sponsors: usize,
    /// Dealt out: parent n belongs to shard n mod shards.
    dealt: Vec<Parent>,
}

/// What a plan becomes when settlement has answered: BLAKE3 over the plan and each bit. Everything
/// that is drawn or sealed grows under it.
#[must_use]
pub fn pack_digest(plan: &ReclaimPlan, void: &[Vec<bool>]) -> [u8; 32] {
    let mut out = Vec::new();
    out.put(b"yao repack v1\0");
    out.put(&plan.digest());
    out.put_u32(u32::try_from(void.len()).expect("requests are bounded"));
    for bits in void {
        out.put_u32(u32::try_from(bits.len()).expect("a request is bounded"));
        out.extend(bits.iter().map(|bit| u8::from(*bit)));
    }
    *blake3::hash(&out).as_bytes()
}

impl<'a> Repack<'a> {
    /// Deals `parents` out, in the order of their ids; `void` are the bits of settlement's answers
    /// to the plan's requests, in order.
    #[must_use]
    pub fn new(
        plan: &'a ReclaimPlan,
        root: &Manifest,
        keys: &CampaignKeys,
        void: &[Vec<bool>],
        mut parents: Vec<Parent>,
    ) -> Self {
        let bits = void.iter().flatten().filter(|bit| **bit).count();
        assert_eq!(bits, parents.len(), "each void packet is a parent, and nothing else");
        assert!(parents.is_sorted_by(|one, next| one.packet < next.packet), "each of them once");
        let digest = pack_digest(plan, void);
        let keys = keys.later(plan.generation, digest);
        keys.random(Draw::Order, ShardId(plan.first_shard), plan.wave).shuffle(&mut parents);
        Self { plan, digest, keys, sponsors: root.sponsors.len(), dealt: parents }
    }

    /// The new shards.
    pub fn shards(&self) -> impl Iterator<Item = ShardId> + use<> {
        (self.plan.first_shard..self.plan.first_shard + self.plan.shards).map(ShardId)
    }

    /// Builds one of the new shards, and says where its packets come from.
    #[must_use]
    pub fn build(&self, shard: ShardId) -> (SealedShard, Parents) {
        let plan = self.plan;
        let own: Vec<&Parent> = self
            .dealt
            .iter()
            .skip((shard.0 - plan.first_shard) as usize)
            .step_by(plan.shards as usize)
            .collect();
        let key = self.keys.shard_key(shard);
        let mut body = Body::new(&self.digest, &key, own.len());
        let mut random = self.keys.random(Draw::Moments, shard, plan.wave);
        let (count, seconds) = (own.len() as u64, u64::from(plan.wave_seconds));
        let until = |second| proportion(count, second, seconds);
        let mut moments = Vec::new();
        let mut left = own.as_slice();
        for second in 0..seconds {
            let due = u32::try_from(until(second + 1) - until(second)).expect("a part of a shard");
            draw_second(&mut random, second * 1_000_000, due, &mut moments);
            let (now, later) = left.split_at(due as usize);
            left = later;
            for (offset_us, parent) in moments.iter().zip(now) {
                body.push(SeedRecord { offset_us: *offset_us, ..parent.record });
            }
        }
        assert!(left.is_empty(), "every parent found its second");
        let count = body.end().0;
        let sum: Fen = own.iter().map(|parent| parent.record.amount).sum();
        let segments = vec![Segment { duration_us: seconds * 1_000_000, packets: count }];
        let first = yao_protocol::PacketIndex(0);
        let section = Section { wave: plan.wave, first, count, sum, segments };
        let sealed = body.finish(self.sponsors, vec![section], &self.keys.sign_key());
        let parents = Parents {
            campaign: plan.campaign,
            shard,
            generation: plan.generation,
            packets: own.iter().map(|parent| parent.packet).collect(),
        };
        (sealed, parents)
    }

    /// The manifest over the finished shards; names and limits are those of the `root`.
    #[must_use]
    pub fn manifest(&self, root: &Manifest, entries: Vec<(ShardEntry, [u8; 32])>) -> Manifest {
        let plan = self.plan;
        let (packets, budget) = total(self.dealt.iter());
        let sponsor = |planned: &SponsorPlan| {
            let own = self.dealt.iter();
            let own = own.filter(|parent| parent.record.sponsor == planned.sponsor);
            let (packets, sum) = total(own);
            SponsorPlan { packets, sum, ..planned.clone() }
        };
        let wave = WavePlan {
            wave: plan.wave,
            name: format!("reclaimed {}", plan.generation),
            duration_us: u64::from(plan.wave_seconds) * 1_000_000,
            packets,
            sum: budget,
        };
        let parents = entries.iter().map(|(entry, hash)| ParentsEntry {
            shard: entry.shard,
            file: parents_file_name(entry.shard),
            hash: *hash,
        });
        let reclaimed = Reclaimed {
            generation: plan.generation,
            first_shard: plan.first_shard,
            root_digest: plan.root_digest,
            parents: parents.collect(),
        };
        Manifest {
            plan_digest: self.digest,
            packets,
            budget,
            sponsors: root.sponsors.iter().map(sponsor).collect(),
            waves: vec![wave],
            shard_count: plan.shards,
            shards: entries.into_iter().map(|(entry, _)| entry).collect(),
            reclaimed: Some(reclaimed),
            ..root.clone()
        }
    }
}

fn total<'p>(parents: impl Iterator<Item = &'p Parent>) -> (u64, Fen) {
    parents.fold((0, Fen::ZERO), |(count, sum), parent| {
        (count + 1, [sum, parent.record.amount].into_iter().sum())
    })
}
