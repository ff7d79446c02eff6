//! Receipts as they leave a node: on the medium, the user's own, the same each time; and in the end
//! settled.

use super::{Checked, Checks, Seen, evidence, must};
use crate::disk::SimDisk;
use std::path::Path;
use yao_protocol::{UserId, receipt::Receipt, spool::Open};

/// An open that was acknowledged.
#[derive(Clone, Copy, Debug)]
pub(super) struct Acknowledged {
    pub(super) user: UserId,
    pub(super) node: usize,
}

impl Checks {
    pub(super) fn receipt(&mut self, seen: Seen<'_>, receipt: &Receipt) -> Checked {
        let Receipt { packet, user, accepted_at, .. } = *receipt;
        let issued = self.issued.get(&packet);
        must("opens", issued.is_some_and(|issued| issued.body.user == user), || {
            format!("a receipt for packet {packet} to user {user}, who did not win it")
        })?;
        let key = (packet, user, accepted_at);
        let book = &mut self.nodes[seen.node];
        if !book.durable_opens.contains(&key) {
            book.durable_opens = evidence::durable_opens(seen.disk).into_iter().collect();
        }
        // Its record was there when it was acknowledged first, and has rotted since: the node says
        // again what it knows.
        let rotten = book.in_doubt.contains(&packet) && self.acknowledged.contains_key(&packet);
        must("opens", rotten || book.durable_opens.contains(&key), || {
            format!("M7: {receipt:?} left node {}, and its record is not on the medium", seen.node)
        })?;
        if !self.acknowledged.contains_key(&packet) {
            self.totals.acknowledged += 1;
            let acknowledged = Acknowledged { user, node: seen.node };
            self.acknowledged.insert(packet, acknowledged);
        }
        Ok(())
    }

    /// A bit of a spool segment is about to be turned over at `offset`: what lies there or behind
    /// may be lost, which no single disk can prevent.
    pub fn spool_rots(&mut self, node: usize, disk: &SimDisk, path: &Path) {
        let bytes = disk.cached(path).unwrap_or_default();
        let listed = evidence::segments(disk, "spool", ".yaospool");
        let Some((first, _)) = listed.into_iter().find(|(_, listed)| listed == path) else {
            return;
        };
        evidence::records(&bytes, first, |record| {
            if let Ok(open) = Open::decode(record.payload) {
                self.nodes[node].in_doubt.insert(open.ticket.body.packet);
            }
        });
    }

    /// Forgets what was read of a disk whose power was cut.
    pub fn power_was_cut(&mut self, node: usize) {
        self.nodes[node].durable_opens.clear();
        self.may_lack(node);
    }

    /// After everything has settled: every acknowledged open has its row.
    ///
    /// # Errors
    /// The first that has not.
    pub fn all_settled(&self, lost: &[bool]) -> Checked {
        for (packet, open) in &self.acknowledged {
            let excused = lost[open.node] || self.nodes[open.node].in_doubt.contains(packet);
            let row = self.rows.get(packet);
            must("opens", excused || row.is_some_and(|row| row.user == open.user), || {
                format!("packet {packet}, acknowledged {open:?}, is settled as {row:?}")
            })?;
        }
        Ok(())
    }

    /// How many acknowledged opens have no row yet.
    #[must_use]
    pub fn unsettled(&self, lost: &[bool]) -> usize {
        let open = |(packet, open): &(&yao_protocol::PacketId, &Acknowledged)| {
            let excused = lost[open.node] || self.nodes[open.node].in_doubt.contains(*packet);
            !excused && !self.rows.contains_key(*packet)
        };
        self.acknowledged.iter().filter(open).count()
    }
}
