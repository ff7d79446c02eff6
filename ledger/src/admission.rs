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
    /// A ticket is of a generation of which we have no manifest, and of a shard that no other
    /// generation has. Its node has one, so ours is late: no final word before it came.
    ManifestMissing {
        /// The generation.
        generation: u8,
        /// The shard.
        shard: ShardId,
    },
}

/// What the manifests say of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Planned {
    Yes,
    No,
    /// That of its generation would know.
    Unknown,
}

/// Judges every open of `batch`; `manifests` are those of every generation.
#[must_use]
pub fn admit(batch: &Batch, manifests: &[Manifest], keys: &KeySet) -> Admission {
    let tickets: Vec<Ticket> = batch.records.iter().map(|(_, open)| open.ticket).collect();
    let planned: Vec<Planned> =
        tickets.iter().map(|ticket| planned(&ticket.body, manifests)).collect();
    for (ticket, planned) in tickets.iter().zip(&planned) {
        let TicketBody { campaign, shard, epoch, packet, .. } = ticket.body;
        match planned {
            Planned::Unknown => {
                let generation = packet.generation();
                return Admission::ManifestMissing { generation, shard };
            }
            Planned::Yes if keys.ticket(campaign, shard, epoch).is_none() => {
                return Admission::KeyMissing { campaign, shard, epoch };
            }
            Planned::Yes | Planned::No => {}
        }
    }
    let signed = verify_tickets(&tickets, keys);
    let genuine =
        planned.iter().zip(signed).map(|(planned, good)| *planned == Planned::Yes && good);
    Admission::Judged(genuine.collect())
}

/// What the plan of the packet's generation says.
fn planned(body: &TicketBody, manifests: &[Manifest]) -> Planned {
    let generation = body.packet.generation();
    match manifests.iter().find(|manifest| manifest.generation() == generation) {
        Some(manifest) if has_room(body, manifest) => Planned::Yes,
        Some(_) => Planned::No,
        // No number serves two generations (reclaim.md 4): whoever has a shard's key can make no
        // packet of another one, and so none for which batches wait in vain.
        None => {
            let is_strange = |manifest: &Manifest| {
                manifest.campaign != body.campaign
                    || manifest.shard_numbers().contains(&body.shard.0)
            };
            if manifests.iter().any(is_strange) { Planned::No } else { Planned::Unknown }
        }
    }
}

/// Whether the plan has room for the packet. Its amount and sponsor are believed to the shard's
/// signature: the ledger holds no seeds.
fn has_room(body: &TicketBody, manifest: &Manifest) -> bool {
    let index_in_range =
        manifest.shard(body.shard).is_none_or(|entry| body.packet.index().0 < entry.packets);
    body.campaign == manifest.campaign
        && manifest.shard_numbers().contains(&body.shard.0)
        && index_in_range
        && manifest.sponsors.iter().any(|plan| plan.sponsor == body.sponsor)
        && manifest.waves.iter().any(|plan| plan.wave == body.wave)
        && body.amount <= manifest.budget
}
