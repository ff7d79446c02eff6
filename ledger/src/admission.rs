//! Which opens of a batch are genuine. Pure; the signatures of a batch are checked together.

use yao_protocol::{
    CampaignId, Epoch, ShardId,
    keys::KeySet,
    manifest::Manifest,
    settlement::Batch,
    ticket::{Ticket, TicketBody, verify_tickets},
};

/// For each open of a batch whether it is genuine, or the key that is missing to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// One verdict per open, in order.
    Judged(Vec<bool>),
    /// A ticket names a shard of this campaign whose key we do not hold. The node that accepted it
    /// does, so ours is late: no final word before it came.
    KeyMissing {
        /// The campaign.
        campaign: CampaignId,
        /// The shard.
        shard: ShardId,
        /// The epoch.
        epoch: Epoch,
    },
}

/// Judges every open of `batch`; `manifests` are those of every generation.
#[must_use]
pub fn admit(batch: &Batch, manifests: &[Manifest], keys: &KeySet) -> Admission {
    let tickets: Vec<Ticket> = batch.records.iter().map(|(_, open)| open.ticket).collect();
    let planned: Vec<bool> =
        tickets.iter().map(|ticket| is_planned(&ticket.body, manifests)).collect();
    for (ticket, planned) in tickets.iter().zip(&planned) {
        let TicketBody { campaign, shard, epoch, .. } = ticket.body;
        if *planned && keys.ticket(campaign, shard, epoch).is_none() {
            return Admission::KeyMissing { campaign, shard, epoch };
        }
    }
    let signed = verify_tickets(&tickets, keys);
    Admission::Judged(planned.iter().zip(signed).map(|(planned, good)| *planned && good).collect())
}

/// Whether the plan of the packet's generation has room for it. Its amount and sponsor are believed
/// to the shard's signature: the ledger holds no seeds.
fn is_planned(body: &TicketBody, manifests: &[Manifest]) -> bool {
    let generation = body.packet.generation();
    let Some(manifest) = manifests.iter().find(|manifest| manifest.generation() == generation)
    else {
        return false;
    };
    let index_in_range =
        manifest.shard(body.shard).is_none_or(|entry| body.packet.index().0 < entry.packets);
    body.campaign == manifest.campaign
        && manifest.shard_numbers().contains(&body.shard.0)
        && index_in_range
        && manifest.sponsors.iter().any(|plan| plan.sponsor == body.sponsor)
        && manifest.waves.iter().any(|plan| plan.wave == body.wave)
        && body.amount <= manifest.budget
}
