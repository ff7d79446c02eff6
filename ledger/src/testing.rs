//! What this package's tests ask of a ledger: the packets of one small shard, in its own name.

use yao_protocol::{
    CampaignId, Epoch, Fen, Incarnation, PacketId, PacketIndex, ShakeId, ShardId, SponsorId,
    UserId, WallTime, WaveIndex,
    grant::{Claim, GrantRequest, NodeName},
    keys::SignKey,
    seal::{Seal, SealedWave},
    settlement::Batch,
    spool::Open,
    ticket::{Ticket, TicketBody},
    void::VoidRequest,
};

pub(crate) const CAMPAIGN: CampaignId = CampaignId(2015);
pub(crate) const SHARD: ShardId = ShardId(3);
pub(crate) const EPOCH: Epoch = Epoch(1);
/// Of the shard's one wave.
pub(crate) const PACKETS: u32 = 10;

/// Signs for the shard.
pub(crate) fn ticket_key() -> SignKey {
    SignKey::from_seed(&[5; 32])
}

pub(crate) fn packet(index: u32) -> PacketId {
    PacketId::new(0, SHARD, PacketIndex(index))
}

/// One open, of the packet at `index` by `user`.
pub(crate) fn batch(index: u32, user: u64) -> Batch {
    let body = TicketBody {
        campaign: CAMPAIGN,
        packet: packet(index),
        user: UserId(user),
        amount: Fen(100),
        shake: ShakeId(1),
        issued_at: WallTime(0),
        expires_at: WallTime(950),
        shard: SHARD,
        epoch: EPOCH,
        sponsor: SponsorId::new(0).expect("below 64"),
        wave: WaveIndex(0),
    };
    let ticket = Ticket { body, signature: [0; 64] };
    Batch {
        campaign: CAMPAIGN,
        shard: SHARD,
        epoch: EPOCH,
        incarnation: Incarnation([1; 16]),
        records: vec![(1, Open { accepted_at: WallTime(50), ticket })],
    }
}

/// By which the packets from `high` on never left.
pub(crate) fn seal(high: u32) -> Seal {
    Seal {
        campaign: CAMPAIGN,
        shard: SHARD,
        generation: 0,
        epoch: EPOCH,
        incarnation: Incarnation([1; 16]),
        settled: 1,
        sealed_at: WallTime(900),
        merkle_root: [2; 32],
        waves: vec![SealedWave { wave: WaveIndex(0), count: PACKETS, high }],
    }
}

/// To take `count` packets from `first` on back for generation 1.
pub(crate) fn void_request(first: u32, count: u32) -> VoidRequest {
    VoidRequest {
        campaign: CAMPAIGN,
        shard: SHARD,
        generation: 0,
        child: 1,
        first,
        count,
        plan_digest: [7; 32],
    }
}

/// The first one for the shard's wave.
pub(crate) fn grant_request() -> GrantRequest {
    GrantRequest {
        claim: Claim::First,
        campaign: CAMPAIGN,
        shard: SHARD,
        generation: 0,
        epoch: EPOCH,
        wave: WaveIndex(0),
        first: 0,
        count: PACKETS,
        high: 0,
        known: 0,
        nonce: 1,
        incarnation: Incarnation([4; 16]),
        previous: Incarnation::default(),
        merkle_root: [2; 32],
        node: NodeName::new("node-3"),
    }
}
