//! The ledger's rows: each of a ticket that left, none changed or gone, and nobody paid beyond the
//! limits.

use super::{Checked, Checks, must};
use std::collections::BTreeMap;
use yao_ledger::state::{PacketState, Row};
use yao_protocol::{SponsorSet, UserId};

/// Packets that a user is paid at most.
const PAID_PER_USER: u32 = 3;

impl Checks {
    /// The ledger as it is now.
    ///
    /// # Errors
    /// What it breaks.
    pub fn ledger(&mut self, rows: Vec<Row>, conflicts: u64) -> Checked {
        must("once", conflicts == 0, || format!("{conflicts} packets were opened by two users"))?;
        let mut paid: BTreeMap<UserId, (u32, SponsorSet)> = BTreeMap::new();
        let now: BTreeMap<_, _> = rows.into_iter().map(|row| (row.packet, row)).collect();
        for (packet, row) in &self.rows {
            must("once", now.get(packet) == Some(row), || {
                format!("the row of packet {packet} was {row:?}, and is {:?}", now.get(packet))
            })?;
        }
        self.totals.paid = 0;
        let mut in_order: Vec<&Row> = now.values().collect();
        in_order.sort_unstable_by_key(|row| row.sequence);
        for row in in_order {
            let Some(issued) = self.issued.get(&row.packet) else {
                return must("money", false, || format!("{row:?} is of a packet that never left"));
            };
            let body = &issued.body;
            let as_issued =
                (row.user, row.amount, row.sponsor) == (body.user, body.amount, body.sponsor);
            must("money", as_issued, || format!("{row:?} is of the ticket {body:?}"))?;
            // What the node accepted in time and within the limits is paid; nothing else is.
            let (count, sponsors) = paid.entry(row.user).or_default();
            let has_room = *count < PAID_PER_USER && !sponsors.contains(row.sponsor);
            let due = match () {
                () if row.accepted_at >= body.expires_at => PacketState::Expired,
                () if has_room => PacketState::Applied,
                () => PacketState::OverLimit,
            };
            must("limits", row.state == due, || {
                format!("{row:?} is of {body:?}, {count} paid before, and should be {due:?}")
            })?;
            if row.state == PacketState::Applied {
                self.totals.paid += 1;
                *count += 1;
                *sponsors = sponsors.with(row.sponsor);
            }
        }
        self.totals.rows = now.len() as u64;
        self.rows = now;
        Ok(())
    }
}
