//! Which packets have a record, so that the same open gets the same receipt.
//!
//! Never forgets a packet whose segment is still there; rebuilt from the segments at start.

use hashbrown::HashMap;
use yao_protocol::{PacketId, UserId, WallTime, spool::Open};

/// The record of one packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Who opened it.
    pub user: UserId,
    /// When the node accepted it: with the user all that a receipt says.
    pub accepted_at: WallTime,
    /// Where its record is.
    pub sequence: u64,
}

/// All packets with a record.
#[derive(Clone, Debug, Default)]
pub struct Index(HashMap<PacketId, Entry>);

impl Index {
    /// Enters the record `open` with this sequence. A packet's first record stays: its receipt
    /// was given first.
    pub fn insert(&mut self, sequence: u64, open: &Open) {
        let body = &open.ticket.body;
        let entry = Entry { user: body.user, accepted_at: open.accepted_at, sequence };
        self.0.entry(body.packet).or_insert(entry);
    }

    /// The record of `packet`.
    #[must_use]
    pub fn find(&self, packet: PacketId) -> Option<&Entry> {
        self.0.get(&packet)
    }

    /// How many packets.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether no packet has a record.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Forgets the records outside this range.
    pub(super) fn retain(&mut self, sequences: std::ops::RangeInclusive<u64>) {
        #[expect(clippy::disallowed_methods, reason = "each entry is judged by itself")]
        self.0.retain(|_, entry| sequences.contains(&entry.sequence));
    }
}
