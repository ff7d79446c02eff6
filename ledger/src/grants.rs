//! Who may issue what: the rules of grants (M4, fleet mode; grants.md 4). Pure: the caller looks
//! up, asks, and keeps what is ruled.
//!
//! A section has one holder at a time, by compare-and-set. What was granted is never granted again:
//! a successor that cannot prove that its H covers all that was issued begins above it.

use yao_protocol::{
    Epoch, Incarnation, KeyId, WallTime,
    grant::{Claim, GrantAnswer, GrantRequest, NodeName, Verdict},
    limits::GRANT_PACKETS_MAX,
    manifest::Manifest,
};

/// No grant holds for longer, us: a day. Nodes believe none for longer.
pub const GRANT_LIFETIME_US_MAX: u64 = 86_400_000_000;

/// How far and how long grants reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GrantPolicy {
    /// Packets beyond H that are granted at once; 1 to [`GRANT_PACKETS_MAX`].
    pub packets: u32,
    /// How long a grant holds, us.
    pub lifetime_us: u64,
    /// By how much clocks may be wrong in that time, ms.
    pub margin_ms: u32,
}

impl GrantPolicy {
    /// What an operator may ask for.
    ///
    /// # Errors
    /// One sentence.
    pub fn new(packets: u32, lifetime_ms: u64, margin_ms: u32) -> Result<Self, String> {
        if !(1..=GRANT_PACKETS_MAX).contains(&packets) {
            return Err(format!("--grant-packets is {packets}: use 1 to {GRANT_PACKETS_MAX}"));
        }
        if !(100..=GRANT_LIFETIME_US_MAX / 1_000).contains(&lifetime_ms) {
            return Err(format!("--grant-ms is {lifetime_ms}: use 100 to 86400000 (a day)"));
        }
        // Disciplined clocks run apart by 500 in a million at most; twice that, and a moment for
        // a ticket to leave.
        let least = lifetime_ms / 1_000 + 10;
        if u64::from(margin_ms) < least || u64::from(margin_ms) > lifetime_ms / 4 {
            return Err(format!(
                "--grant-margin-ms is {margin_ms}: with --grant-ms {lifetime_ms} use {least} to {}",
                lifetime_ms / 4
            ));
        }
        Ok(Self { packets, lifetime_us: lifetime_ms * 1_000, margin_ms })
    }
}

impl Default for GrantPolicy {
    /// A quarter of an hour, in which a node of the gala issues what it may be granted at once.
    fn default() -> Self {
        Self { packets: GRANT_PACKETS_MAX, lifetime_us: 900_000_000, margin_ms: 2_000 }
    }
}

/// A wave's section of a shard, and the grant of it that is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// The shard's generation.
    pub generation: u8,
    /// Index in the shard of its first packet.
    pub first: u32,
    /// Its packets.
    pub count: u32,
    /// Of its shard's seed file.
    pub merkle_root: [u8; 32],
    /// The highest H that its holder, or one that it resumed, has stated. Whoever resumes with a
    /// lower one was put back to an older state.
    pub seen: u32,
    /// The newest grant; one more with each.
    pub id: u64,
    /// Positions that its holder may issue: from here,
    pub lo: u32,
    /// to before here. Invariant: nothing at or above it was ever granted; never falls.
    pub hi: u32,
    /// Who holds it.
    pub holder: Incarnation,
    /// The holder's node.
    pub node: NodeName,
    /// The epoch of the holder's ticket key.
    pub epoch: Epoch,
    /// When the newest grant was decided.
    pub decided_at: WallTime,
    /// Until when it holds. Never falls.
    pub not_after: WallTime,
    /// BLAKE3 of the request that it answers.
    pub request_digest: [u8; 32],
}

impl Section {
    fn is_of(&self, request: &GrantRequest) -> bool {
        (self.generation, self.first, self.count, self.merkle_root)
            == (request.generation, request.first, request.count, request.merkle_root)
    }
}

/// What is ruled on a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ruling {
    /// A grant: the section as it is to be kept.
    Granted {
        /// The section from now on.
        section: Section,
        /// Positions that were granted before and are issued by nobody any more: first and behind
        /// the last. Their holder may have issued some of them.
        burnt: Option<(u32, u32)>,
    },
    /// The very request that the newest grant answers: the same answer.
    Repeated,
    /// No grant; the section stays as it is.
    Refused(Verdict),
}

/// Whether the plan of its generation has such a section.
#[must_use]
pub fn is_planned(request: &GrantRequest, manifest: Option<&Manifest>) -> bool {
    let Some(manifest) = manifest else { return false };
    let fits =
        |packets: u32| request.first.checked_add(request.count).is_some_and(|end| end <= packets);
    let shard = manifest.shard(request.shard);
    request.campaign == manifest.campaign
        && request.generation == manifest.generation()
        && manifest.shard_numbers().contains(&request.shard.0)
        && manifest.waves.iter().any(|plan| plan.wave == request.wave)
        && shard.is_none_or(|entry| fits(entry.packets) && entry.merkle_root == request.merkle_root)
}

/// Rules on `request`, whose signature is good and whose bytes have this digest, given what is
/// recorded of its section: its newest grant, and the position behind the last packet that anybody
/// ever presented. An older state of the database may know of no grant that reaches there; whoever
/// did not issue those packets must not issue them again.
#[must_use]
pub fn rule(
    policy: GrantPolicy,
    now: WallTime,
    (found, presented): (Option<&Section>, u32),
    request: &GrantRequest,
    digest: [u8; 32],
) -> Ruling {
    let Some(section) = found else {
        return match request.claim {
            Claim::First => {
                let section = fresh(policy, now, request, presented, digest);
                Ruling::Granted { section, burnt: None }
            }
            _ => Ruling::Refused(Verdict::Unknown),
        };
    };
    if section.request_digest == digest {
        return Ruling::Repeated;
    }
    if !section.is_of(request) {
        return Ruling::Refused(Verdict::Contradicts);
    }
    // Compare: every claim names the newest grant, so that no old request can be played again.
    let is_newest = request.known == section.id;
    let is_holder = request.incarnation == section.holder;
    let succeeds = request.previous == section.holder && !is_holder;
    let is_over = now >= section.not_after.plus_us(u64::from(policy.margin_ms) * 1_000);
    let rolled_back = request.high < section.seen;
    let (lo, burnt) = match request.claim {
        Claim::Extend if is_newest && is_holder => {
            if rolled_back {
                return Ruling::Refused(Verdict::RolledBack);
            }
            (section.lo, None)
        }
        Claim::Resume if is_newest && succeeds => {
            if rolled_back {
                return Ruling::Refused(Verdict::RolledBack);
            }
            // A predecessor that burnt a grant and died may not have raised its H to its own.
            (request.high.max(section.lo), None)
        }
        Claim::Burn if is_newest && !is_holder && (succeeds || is_over) => {
            // Also above what the asker's own disk calls issued.
            let lo = section.hi.max(request.high).max(presented);
            let from = section.seen.max(section.lo);
            (lo, (from < lo).then_some((from, lo)))
        }
        _ => return Ruling::Refused(Verdict::Held),
    };
    let granted = fresh(policy, now, request, 0, digest);
    let section = Section {
        id: section.id + 1,
        lo,
        hi: reach(policy, lo.max(request.high), section.count).max(section.hi),
        not_after: granted.not_after.max(section.not_after),
        ..granted
    };
    Ruling::Granted { section, burnt }
}

/// Position behind the last packet that is granted from `begins` on.
fn reach(policy: GrantPolicy, begins: u32, count: u32) -> u32 {
    begins.saturating_add(policy.packets).min(count)
}

/// The section as its first grant leaves it.
fn fresh(
    policy: GrantPolicy,
    now: WallTime,
    request: &GrantRequest,
    presented: u32,
    request_digest: [u8; 32],
) -> Section {
    let lo = request.high.max(presented);
    Section {
        generation: request.generation,
        first: request.first,
        count: request.count,
        merkle_root: request.merkle_root,
        seen: request.high,
        id: 1,
        lo,
        hi: reach(policy, lo, request.count),
        holder: request.incarnation,
        node: request.node.clone(),
        epoch: request.epoch,
        decided_at: now,
        not_after: now.plus_us(policy.lifetime_us),
        request_digest,
    }
}

/// The answer to `request`: `verdict`, and what is in force, whoever holds it.
#[must_use]
pub fn answer(
    policy: GrantPolicy,
    now: WallTime,
    key_id: KeyId,
    (request, request_digest): (&GrantRequest, [u8; 32]),
    (verdict, section): (Verdict, Option<&Section>),
) -> GrantAnswer {
    let granted = verdict == Verdict::Granted;
    let section_time = section.map_or(now, |section| section.decided_at);
    GrantAnswer {
        verdict,
        campaign: request.campaign,
        shard: request.shard,
        generation: request.generation,
        epoch: request.epoch,
        wave: request.wave,
        key_id,
        id: section.map_or(0, |section| section.id),
        lo: section.map_or(0, |section| section.lo),
        hi: section.map_or(0, |section| section.hi),
        seen: section.map_or(0, |section| section.seen),
        margin_ms: policy.margin_ms,
        // A repeated answer says when its grant began, not when it was asked for again.
        decided_at: if granted { section_time } else { now },
        not_after: section.map_or(WallTime(0), |section| section.not_after),
        holder: section.map_or(Incarnation::default(), |section| section.holder),
        node: section.map_or_else(NodeName::default, |section| section.node.clone()),
        request_digest,
    }
}

#[cfg(test)]
#[path = "grants_tests.rs"]
mod tests;
