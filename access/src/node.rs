//! What every thread of the node knows: who we are and which keys we hold. Immutable but for the
//! key set, which a reload replaces as a whole.

use crate::{
    clock::Clock,
    inbox::Outlet,
    messages::{OpenReply, ToShard},
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
    /// Proves tallies and receipts.
    pub mac_key: MacKey,
    /// Public keys of all shards, of settlement and of the campaign.
    pub keys: ArcSwap<KeySet>,
    /// What was planned.
    pub manifest: Manifest,
    /// The clocks.
    pub clock: Clock,
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

    /// Hands `message` to thread `thread` even if its inbox is full just now; waits until it fits.
    /// For orders that must not get lost.
    pub fn insist(&self, thread: u16, message: &ToShard) {
        let Some(outlet) = self.outlets.get(usize::from(thread)) else { return };
        // The thread reads its inbox in each of its turns, also after a panic.
        while outlet.send(message.clone()).is_err() {
            std::thread::yield_now();
        }
    }

    /// Tells the owner of `connection` what became of its open.
    pub fn open_decided(&self, connection: ConnectionId, request_id: u32, reply: OpenReply) {
        let message = ToShard::OpenDecided { connection, request_id, reply };
        self.send(connection.thread, message);
    }
}
