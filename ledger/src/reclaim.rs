//! Which packets may be taken back, and from when on (M10; reclaim.md 3). Pure: the caller looks
//! up, asks, and keeps what is ruled.
//!
//! A packet that was not paid may be voided when it never left its node (M1), or when no ticket of
//! it can be valid any more and no node can hold an unsettled open of it. What nodes and operators
//! say counts only as far as they signed it; all times that decide are the ledger's own.

use yao_protocol::{
    CampaignId, Epoch, ShardId, WallTime, keys::KeySet, manifest::Manifest, seal::Seal,
    void::VoidRequest,
};

/// How long the ledger waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VoidPolicy {
    /// By how much a node's clock may differ from the ledger's, us.
    pub clock_skew_us: u64,
    /// How much longer packets of nodes without a seal stay in doubt, us.
    pub claim_window_us: u64,
}

impl VoidPolicy {
    /// Whether a seal of `sealed_at`, by its node's clock, is further ahead of `now` than clocks
    /// may differ. It would hold everything back until then: it is none.
    #[must_use]
    pub fn is_ahead(&self, sealed_at: WallTime, now: WallTime) -> bool {
        sealed_at > now.plus_us(self.clock_skew_us)
    }
}

impl Default for VoidPolicy {
    /// A minute, and a week.
    fn default() -> Self {
        Self { clock_skew_us: 60_000_000, claim_window_us: 7 * 86_400_000_000 }
    }
}

/// A seal that was accepted, and is believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// What it says; its time is that of the node's clock.
    pub seal: Seal,
    /// When it came, by the ledger's clock.
    pub received_at: WallTime,
}

/// From when on what may have left can be voided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opening {
    /// From then on.
    pub at: WallTime,
    /// Shards that keep it back: not sealed in every epoch in which they have a key, by seals
    /// that are disproved, granted from in fleet mode, or never heard of.
    pub unsealed: Vec<ShardId>,
}

/// Why a request is refused as a whole. Nothing of it is void then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Some of its packets may still be opened.
    TooEarly(Opening),
    /// It contradicts the plan, or what was voided before; one sentence.
    Contradicts(String),
}

/// When every ticket has expired and every node is drained: `shards` are those of every
/// generation with the epochs in which each has a key, `since` is the last sign of life: the
/// latest of when the child generation was asked for, when the ledger started, the last batch or
/// request for a grant, the newest seal, and the end of the last grant.
#[must_use]
pub fn opening(
    policy: VoidPolicy,
    ticket_lifetime_us: u64,
    shards: &[(ShardId, Vec<Epoch>)],
    seals: &[Sealed],
    since: WallTime,
) -> Opening {
    let is_sealed = |shard: ShardId, epoch: &Epoch| {
        seals.iter().any(|Sealed { seal, .. }| (seal.shard, seal.epoch) == (shard, *epoch))
    };
    let unsealed: Vec<ShardId> = shards
        .iter()
        .filter(|(shard, epochs)| {
            epochs.is_empty() || !epochs.iter().all(|epoch| is_sealed(*shard, epoch))
        })
        .map(|(shard, _)| *shard)
        .collect();
    // A node's clock that is behind must not open the door early, nor one ahead, whose tickets
    // live longer.
    let last = seals.iter().map(|sealed| sealed.seal.sealed_at.max(sealed.received_at)).max();
    let expired = |since: WallTime| since.plus_us(ticket_lifetime_us).plus_us(policy.clock_skew_us);
    let drained = last.map_or(WallTime(0), expired);
    let at = if unsealed.is_empty() {
        drained
    } else {
        drained.max(expired(since).plus_us(policy.claim_window_us))
    };
    Opening { at, unsealed }
}

/// Whether no node of the packet's shard can have issued the packet at `index`: every epoch in
/// which the shard has a key is sealed, and in each of them it lies at or above H (M1). `seals` are
/// those of the shard.
#[must_use]
pub fn never_left(epochs: &[Epoch], seals: &[Sealed], index: u32) -> bool {
    !epochs.is_empty()
        && epochs.iter().all(|epoch| {
            let sealed = seals.iter().find(|sealed| sealed.seal.epoch == *epoch);
            sealed.is_some_and(|sealed| sealed.seal.never_left(index))
        })
}

/// Whether the plan of its generation has the packets of `request`.
///
/// # Errors
/// One sentence.
pub fn check_planned(request: &VoidRequest, manifest: Option<&Manifest>) -> Result<(), Refused> {
    let (shard, generation) = (request.shard, request.generation);
    let wrong = |why: &str| {
        Err(Refused::Contradicts(format!("shard {shard} of generation {generation}: {why}")))
    };
    let Some(manifest) = manifest else {
        return wrong("the ledger has no manifest of this generation; give it one by --manifest");
    };
    let Some(entry) = manifest.shard(shard) else {
        return wrong("the manifest lists no such shard");
    };
    // A sum of two u32 that VoidRequest has checked.
    if request.first + request.count > entry.packets {
        return wrong("it has fewer packets");
    }
    Ok(())
}

/// Whether `seal` fits the plan of its generation.
///
/// # Errors
/// One sentence.
pub fn check_seal(
    seal: &Seal,
    campaign: CampaignId,
    plan: Option<&Manifest>,
) -> Result<(), String> {
    let (shard, generation) = (seal.shard, seal.generation);
    let Some(manifest) = plan.filter(|_| seal.campaign == campaign) else {
        return Err(format!("no manifest of campaign {}, generation {generation}", seal.campaign));
    };
    let Some(entry) = manifest.shard(shard) else {
        return Err(format!("the manifest of generation {generation} lists no shard {shard}"));
    };
    if (entry.packets, entry.merkle_root) != (seal.packets(), seal.merkle_root) {
        return Err(format!("the seal is of another seed file than that of shard {shard}"));
    }
    Ok(())
}

/// Every shard with the epochs in which it has a key.
pub fn epochs_of(
    shards: impl Iterator<Item = ShardId>,
    campaign: CampaignId,
    keys: &KeySet,
) -> Vec<(ShardId, Vec<Epoch>)> {
    shards.map(|shard| (shard, keys.epochs(campaign, shard).collect())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use yao_protocol::{Incarnation, WaveIndex, seal::SealedWave};

    const POLICY: VoidPolicy = VoidPolicy { clock_skew_us: 10, claim_window_us: 1_000 };
    const LIFETIME_US: u64 = 100;

    /// A seal of ten packets, of which those from `high` on never left.
    fn seal(shard: u32, epoch: u32, sealed_at: u64, high: u32) -> Seal {
        Seal {
            campaign: CampaignId(1),
            shard: ShardId(shard),
            generation: 0,
            epoch: Epoch(epoch),
            incarnation: Incarnation([0; 16]),
            settled: 0,
            sealed_at: WallTime(sealed_at),
            merkle_root: [0; 32],
            waves: vec![SealedWave { wave: WaveIndex(0), count: 10, high }],
        }
    }

    fn sealed(shard: u32, epoch: u32, sealed_at: u64, received_at: u64) -> Sealed {
        let seal = seal(shard, epoch, sealed_at, 5);
        Sealed { seal, received_at: WallTime(received_at) }
    }

    #[test]
    fn m10_what_may_have_left_waits_for_every_node_and_every_ticket() {
        let check = |shards: &[(u32, &[u32])], seals: &[Sealed], at: u64, unsealed: &[u32]| {
            let shards: Vec<_> = shards
                .iter()
                .map(|(shard, epochs)| {
                    (ShardId(*shard), epochs.iter().map(|epoch| Epoch(*epoch)).collect())
                })
                .collect();
            let opening = opening(POLICY, LIFETIME_US, &shards, seals, WallTime(5_000));
            let found: Vec<u32> = opening.unsealed.iter().map(|shard| shard.0).collect();
            assert_eq!((opening.at, found.as_slice()), (WallTime(at), unsealed));
        };
        // The latest of all seals, by the later of both clocks.
        check(&[(0, &[1]), (1, &[1])], &[sealed(0, 1, 200, 300), sealed(1, 1, 250, 260)], 410, &[]);
        check(&[(0, &[1])], &[sealed(0, 1, 700, 300)], 810, &[]);
        // A shard without a seal, with one epoch of two, or never heard of: the claim window.
        check(&[(0, &[1]), (1, &[1])], &[sealed(0, 1, 200, 300)], 6_110, &[1]);
        check(&[(0, &[1, 2])], &[sealed(0, 1, 200, 300)], 6_110, &[0]);
        check(&[(0, &[1]), (7, &[])], &[sealed(0, 1, 200, 300)], 6_110, &[7]);
        check(&[(0, &[1])], &[], 6_110, &[0]);
        // The seal of another shard is none of this one.
        check(&[(0, &[1])], &[sealed(1, 1, 200, 300)], 6_110, &[0]);
        // A seal by which tickets live longer than the claim window lasts.
        check(&[(0, &[1]), (1, &[1])], &[sealed(0, 1, 9_000, 300)], 9_110, &[1]);
    }

    #[test]
    fn a_seal_is_ahead_beyond_what_clocks_may_differ() {
        let check = |sealed_at, expected| {
            let found = POLICY.is_ahead(WallTime(sealed_at), WallTime(500));
            assert_eq!(found, expected, "{sealed_at}");
        };
        check(0, false);
        check(510, false);
        check(511, true);
        check(u64::MAX, true);
        assert!(!POLICY.is_ahead(WallTime(u64::MAX), WallTime(u64::MAX)), "no time wraps");
    }

    #[test]
    fn m10_no_time_wraps() {
        let policy = VoidPolicy { clock_skew_us: u64::MAX, claim_window_us: u64::MAX };
        let shards = [(ShardId(0), vec![Epoch(1)])];
        let opening = opening(policy, u64::MAX, &shards, &[sealed(0, 1, 5, 5)], WallTime(1));
        assert_eq!(opening.at, WallTime(u64::MAX));
    }

    #[test]
    fn m1_a_packet_never_left_only_when_every_epoch_says_so() {
        let sealed =
            |epoch, high| Sealed { seal: seal(0, epoch, 0, high), received_at: WallTime(0) };
        let both = [sealed(1, 4), sealed(2, 7)];
        let check = |epochs: &[u32], seals: &[Sealed], expected: &[u32]| {
            let epochs: Vec<Epoch> = epochs.iter().map(|epoch| Epoch(*epoch)).collect();
            let found: Vec<u32> =
                (0..10).filter(|index| never_left(&epochs, seals, *index)).collect();
            assert_eq!(found, expected, "{epochs:?}");
        };
        check(&[1], &both, &[4, 5, 6, 7, 8, 9]);
        check(&[1, 2], &both, &[7, 8, 9]);
        check(&[1, 2], &both[..1], &[]);
        check(&[], &both, &[]);
    }
}
