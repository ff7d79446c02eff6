//! What the ledger did, held against what the node issued and spooled: M7 and the limits.

use super::{
    books::{Settled, Winners},
    judge::Judge,
    ledger::{Row, Total},
};
use std::collections::HashSet;
use yao_protocol::{PacketId, UserId};

impl Judge<'_> {
    /// M7: the ledger has every acknowledged open once, and nothing else.
    pub(super) fn ledger(&mut self) {
        let evidence = self.evidence;
        let mut seen = HashSet::new();
        for row in &evidence.ledger.rows {
            if seen.insert(row.packet) {
                self.row(row);
            } else {
                self.verdict.duplicates += 1;
                let packet = PacketId(row.packet);
                self.problem(format!("the ledger has packet {packet} twice"));
            }
        }
        self.voids();
        self.totals();
        // A node delivers what it accepted, whoever issued it.
        seen.extend(evidence.ledger.others.iter().map(|row| row.packet));
        for (sequence, open) in &evidence.opens {
            let packet = open.ticket.body.packet;
            // What was taken back is told already.
            if seen.contains(&packet.0) || evidence.ledger.is_void(packet) {
                continue;
            }
            if *sequence <= evidence.settled_until {
                self.verdict.lost += 1;
                self.problem(format!(
                    "packet {packet} is below the watermark and not in the ledger"
                ));
            } else {
                self.problem(format!("packet {packet} waits for settlement: audit again later"));
            }
        }
    }

    fn row(&mut self, row: &Row) {
        let packet = PacketId(row.packet);
        let settled = match row.state.as_str() {
            "over_limit" | "expired" => Settled::Refused,
            _ => Settled::Paid,
        };
        match row.state.as_str() {
            "applied" => {
                self.verdict.settled += 1;
                self.verdict.settled_fen = self.verdict.settled_fen.saturating_add(row.amount);
            }
            "over_limit" => self.verdict.over_limit += 1,
            "expired" => {}
            other => self.problem(format!("packet {packet} is in the unknown state {other}")),
        }
        let Some(index) = self.place(packet, "the ledger") else { return };
        self.packets[index].settled = Some(settled);
        let Some(ticket) = self.packets[index].ticket else {
            return self.problem(format!("the ledger has packet {packet}, which never left"));
        };
        if row.user != ticket.user.0 {
            self.packets[index].duplicate = true;
            let (paid, won) = (row.user, ticket.user);
            self.problem(format!("the ledger has packet {packet} of user {paid}; {won} won it"));
        }
        let (sponsor, amount) = (ticket.sponsor.number(), ticket.amount.0);
        if (row.sponsor, row.amount) != (sponsor, amount) {
            self.problem(format!(
                "the ledger has packet {packet} with {} of sponsor {}; {amount} of sponsor \
                 {sponsor} was issued",
                row.amount, row.sponsor
            ));
        }
        let accepted_at = &self.packets[index].accepted_at;
        let told = accepted_at.iter().any(|at| at.0 == row.accepted_at);
        if !accepted_at.is_empty() && !told && !self.evidence.removed_elsewhere {
            self.problem(format!("the ledger has packet {packet} accepted at another time"));
        }
        if (row.accepted_at >= ticket.expires_at.0) != (row.state == "expired") {
            self.problem(format!(
                "packet {packet} was accepted at {} with a ticket until {}, and is {}",
                row.accepted_at, ticket.expires_at.0, row.state
            ));
        }
    }

    /// M8: what was taken back was neither paid nor acknowledged; a refused open stays issued, so
    /// that its packet may come back. Of one that came too late somebody holds a receipt: it is
    /// excused when settlement told just this user so, and people made it good.
    fn voids(&mut self) {
        let evidence = self.evidence;
        let own = evidence.shard();
        self.verdict.late_opens = evidence.ledger.late_opens;
        for void in &evidence.ledger.voids {
            let packet = PacketId(void.packet);
            if (packet.generation(), packet.shard()) != own {
                continue;
            }
            let Some(index) = self.place(packet, "the ledger's voids") else { continue };
            self.packets[index].reclaimed = true;
            if self.packets[index].settled == Some(Settled::Paid) {
                self.packets[index].duplicate = true;
                self.problem(format!("packet {packet} was settled, and reclaimed as well"));
            } else if self.packets[index].is_opened() && !self.is_excused(packet, index) {
                self.verdict.lost += 1;
                self.problem(format!("packet {packet} was acknowledged, and reclaimed"));
            }
        }
    }

    /// Whether the open of a packet came too late, and that is known.
    pub(super) fn is_excused(&self, packet: PacketId, index: usize) -> bool {
        let ticket = self.packets[index].ticket;
        ticket.is_some_and(|ticket| self.evidence.ledger.is_excused(packet, ticket.user))
    }

    /// The rows against the ledger's own totals.
    fn totals(&mut self) {
        let evidence = self.evidence;
        for (state, told) in &evidence.ledger.totals {
            let rows = evidence.ledger.all_rows().filter(|row| row.state == *state);
            // Amounts are whatever the ledger says: a sum that overflows matches no total.
            let found = rows.fold(Total { packets: 0, sum: 0 }, |total, row| Total {
                packets: total.packets + 1,
                sum: total.sum.saturating_add(row.amount),
            });
            if found != *told {
                self.problem(format!(
                    "the ledger's rows hold {} packets of {} in all that are {state}; its totals \
                     say {} of {}",
                    found.packets, found.sum, told.packets, told.sum
                ));
            }
        }
    }

    /// Nobody won or was paid more than the campaign allows, and nobody was refused what it does.
    pub(super) fn limits(&mut self) {
        let evidence = self.evidence;
        let (per_user, per_sponsor) =
            (evidence.manifest.wins_per_user, evidence.manifest.wins_per_sponsor);
        let mut paid = Winners::default();
        for row in evidence.ledger.all_rows().filter(|row| row.state == "applied") {
            paid.add(UserId(row.user), row.sponsor);
        }
        for row in evidence.ledger.all_rows().filter(|row| row.state == "over_limit") {
            if !paid.is_full(UserId(row.user), row.sponsor, per_user, per_sponsor) {
                let (packet, user) = (PacketId(row.packet), row.user);
                self.problem(format!("packet {packet} was refused, though user {user} had room"));
            }
        }
        // A ticket that a crash kept from the journal is judged by settlement, not here.
        let mut won = Winners::default();
        for ticket in self.packets.iter().filter(|packet| packet.journaled) {
            if let Some(ticket) = &ticket.ticket {
                won.add(ticket.user, ticket.sponsor.number());
            }
        }
        for (winners, where_) in [(paid, "was paid"), (won, "won")] {
            for user in winners.above(per_user, per_sponsor) {
                self.verdict.limit_violations += 1;
                self.problem(format!("user {user} {where_} more than the campaign allows"));
            }
        }
    }
}
