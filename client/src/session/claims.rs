//! The opens that have no receipt yet: when to send each (again). Sends nothing itself.

use super::RequestIds;
use crate::{
    limits::{OPEN_ANSWER_MS_MAX, OPEN_UNAVAILABLE_COUNT_MAX},
    time::Timestamp,
};
use yao_protocol::PacketId;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Claim {
    packet: PacketId,
    /// Its request id on this connection; 0 when it was not sent on this connection, or refused.
    request_id: u32,
    /// When to send it (again).
    due_at: Timestamp,
    /// How often this connection's node said that it cannot store opens.
    unavailable_count: u32,
}

/// See the module. At most `limits::TICKETS_MAX` entries, because each has its ticket in the
/// wallet.
#[derive(Clone, Debug, Default)]
pub(super) struct Claims(Vec<Claim>);

impl Claims {
    /// Adds an open, due at once; one that is here already stays as it is.
    pub(super) fn add(&mut self, now: Timestamp, packet: PacketId) {
        if !self.contains(packet) {
            self.0.push(Claim { packet, request_id: 0, due_at: now, unavailable_count: 0 });
        }
    }

    /// Whether an open of `packet` waits for its receipt.
    pub(super) fn contains(&self, packet: PacketId) -> bool {
        self.0.iter().any(|claim| claim.packet == packet)
    }

    /// Whether a receipt is awaited on this connection.
    pub(super) fn is_waiting(&self) -> bool {
        self.0.iter().any(|claim| claim.request_id != 0)
    }

    /// A session opened: everything is due.
    pub(super) fn handle_welcome(&mut self, now: Timestamp) {
        for claim in &mut self.0 {
            claim.due_at = now;
        }
    }

    /// The connection ended: request ids mean nothing any more.
    pub(super) fn handle_disconnected(&mut self) {
        for claim in &mut self.0 {
            claim.request_id = 0;
            claim.unavailable_count = 0;
        }
    }

    /// When [`Claims::poll`] has something to send next.
    pub(super) fn deadline(&self) -> Option<Timestamp> {
        self.0.iter().map(|claim| claim.due_at).min()
    }

    /// The packet whose open to send now and its request id, if one is due.
    pub(super) fn poll(
        &mut self,
        now: Timestamp,
        request_ids: &mut RequestIds,
    ) -> Option<(PacketId, u32)> {
        let claim = self.0.iter_mut().find(|claim| claim.due_at <= now)?;
        claim.request_id = request_ids.next();
        claim.due_at = now.plus_ms(OPEN_ANSWER_MS_MAX);
        Some((claim.packet, claim.request_id))
    }

    /// The packet that `request_id` tried to open.
    pub(super) fn packet(&self, request_id: u32) -> Option<PacketId> {
        let sent = self.0.iter().find(|claim| request_id != 0 && claim.request_id == request_id);
        sent.map(|claim| claim.packet)
    }

    /// The open of `packet` is decided; says whether it was awaited.
    pub(super) fn finish(&mut self, packet: PacketId) -> bool {
        let count = self.0.len();
        self.0.retain(|claim| claim.packet != packet);
        self.0.len() < count
    }

    /// The open of `packet` may be retried at `due_at`. Says whether this node was found unable to
    /// store opens so often that another should be tried.
    pub(super) fn postpone(
        &mut self,
        packet: PacketId,
        due_at: Timestamp,
        unavailable: bool,
    ) -> bool {
        let Some(claim) = self.0.iter_mut().find(|claim| claim.packet == packet) else {
            return false;
        };
        claim.request_id = 0;
        claim.due_at = due_at;
        claim.unavailable_count += u32::from(unavailable);
        claim.unavailable_count >= OPEN_UNAVAILABLE_COUNT_MAX
    }
}
