//! The ledger's rows: each of a ticket that left, none changed or gone, and nobody paid beyond the
//! limits.

use super::{Checked, Checks, must};
use std::collections::BTreeMap;
use yao_ledger::{
    state::{PacketState, Row},
    store::Totals,
};
use yao_protocol::{Fen, SponsorId, SponsorSet, UserId};

/// Packets that a user is paid at most.
const PAID_PER_USER: u32 = 3;

impl Checks {
    /// The ledger as it is now.
    ///
    /// # Errors
    /// What it breaks.
    pub fn ledger(&mut self, rows: Vec<Row>, totals: &Totals) -> Checked {
        let Totals { conflicts, ungranted_opens, .. } = *totals;
        must("once", conflicts == 0, || format!("{conflicts} packets were opened by two users"))?;
        must("once", ungranted_opens == 0, || {
            format!("{ungranted_opens} packets were opened that nobody had been granted")
        })?;
        add_up(&rows, totals)?;
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

/// What the ledger says of all its rows is what its rows say, to the fen.
fn add_up(rows: &[Row], totals: &Totals) -> Checked {
    let mut sums: BTreeMap<(&'static str, SponsorId), (u64, Fen)> = BTreeMap::new();
    for row in rows {
        let (count, sum) = sums.entry((row.state.name(), row.sponsor)).or_default();
        (*count, *sum) = (*count + 1, sum.checked_add(row.amount).expect("within the budget"));
    }
    let told = totals
        .parts
        .iter()
        .map(|(state, sponsor, count, sum)| ((state.name(), *sponsor), (*count, *sum)));
    let told: BTreeMap<_, _> = told.collect();
    must("money", told == sums && totals.sequence == rows.len() as u64, || {
        format!("the ledger's totals are {totals:?}, its rows add up to {sums:?}")
    })
}
