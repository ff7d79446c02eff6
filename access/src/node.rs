//! What every thread of the node knows: who we are and which keys we hold. Immutable but for the
//! key set, which a reload replaces as a whole.

use crate::{
    clock::Clock,
    inbox::{NotTaken, Outlet},
    messages::{OpenReply, ToShard},
    quic::ResetSecret,
};
use arc_swap::ArcSwap;
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};
use yao_engine::ConnectionId;
use yao_protocol::{
    CampaignId, Epoch, Incarnation, ShardId,
    keys::{KeySet, MacKey, SignKey},
    manifest::Manifest,
};

/// The node's identity and keys.
#[derive(Debug)]
pub struct Node {
    /// Its name in logs and metrics.
    pub name: String,
    /// The campaign it serves.
    pub campaign: CampaignId,
    /// Its shard.
    pub shard: ShardId,
    /// The epoch of its right to issue.
    pub epoch: Epoch,
    /// This life of the process.
    pub incarnation: Incarnation,
    /// The kernel's boot id.
    pub boot_id: [u8; 16],
    /// Signs tickets and settlement batches.
    pub ticket_key: Arc<SignKey>,
    /// Ends QUIC connections of an earlier life.
    pub resets: ResetSecret,
    /// Proves tallies and receipts.
    pub mac_key: MacKey,
    /// Public keys of all shards, of settlement and of the campaign.
    pub keys: ArcSwap<KeySet>,
    /// What was planned.
    pub manifest: Manifest,
    /// The clocks.
    pub clock: Clock,
}

#[cfg(test)]
impl Node {
    /// Shard 17 of campaign 2015, epoch 1, without packets.
    pub(crate) fn for_tests(incarnation: u8, keys: KeySet) -> Arc<Self> {
        let campaign = CampaignId(2015);
        let manifest = Manifest {
            campaign,
            name: "test".to_owned(),
            currency: "CNY".to_owned(),
            exponent: 2,
            plan_digest: [0; 32],
            packets: 0,
            budget: yao_protocol::Fen::ZERO,
            wins_per_user: 3,
            wins_per_sponsor: 1,
            ticket_lifetime_seconds: 60,
            sponsors: Vec::new(),
            waves: Vec::new(),
            shard_count: 638,
            shards: Vec::new(),
            reclaimed: None,
        };
        Arc::new(Self {
            name: "test".to_owned(),
            campaign,
            shard: ShardId(17),
            epoch: Epoch(1),
            incarnation: Incarnation([incarnation; 16]),
            boot_id: [0; 16],
            ticket_key: Arc::new(SignKey::from_seed(&Self::TEST_TICKET_SEED)),
            resets: ResetSecret::derive(&Self::TEST_TICKET_SEED),
            mac_key: MacKey::new(yao_protocol::KeyId(1), [6; 32]),
            keys: ArcSwap::from_pointee(keys),
            manifest,
            clock: Clock::start(),
        })
    }

    /// Of the ticket key of [`Node::for_tests`].
    pub(crate) const TEST_TICKET_SEED: [u8; 32] = [2; 32];
}

/// The inboxes of all shard threads.
#[derive(Clone, Debug)]
pub struct Shards {
    outlets: Arc<[Outlet<ToShard>]>,
    dropped: Arc<AtomicU64>,
}

impl Shards {
    /// The shard threads with these inboxes, by thread number.
    #[must_use]
    pub fn new(outlets: Vec<Outlet<ToShard>>) -> Self {
        Self { outlets: outlets.into(), dropped: Arc::default() }
    }

    /// How many shard threads.
    #[must_use]
    pub fn count(&self) -> usize {
        self.outlets.len()
    }

    /// Messages that found a full inbox. The client asks again: nothing is lost but time.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Hands `message` to shard thread `thread`.
    pub fn send(&self, thread: u16, message: ToShard) {
        let sent = self.outlets.get(usize::from(thread)).map(|outlet| outlet.send(message));
        if !matches!(sent, Some(Ok(()))) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Hands `message` to thread `thread` even if its inbox is full just now: waits until it fits,
    /// or until the thread has ended. For orders that must not get lost.
    pub fn insist(&self, thread: u16, message: &ToShard) {
        let Some(outlet) = self.outlets.get(usize::from(thread)) else { return };
        // The thread reads its inbox in each of its turns, also after a panic.
        while outlet.send(message.clone()) == Err(NotTaken::Full) {
            std::thread::yield_now();
        }
    }

    /// Tells the owner of `connection` what became of its open.
    pub fn open_decided(&self, connection: ConnectionId, request_id: u32, reply: OpenReply) {
        let message = ToShard::OpenDecided { connection, request_id, reply };
        self.send(connection.thread, message);
    }
}
