//! What people hold, and what the node acknowledged: spooled opens, tickets and receipts.

use super::judge::Judge;
use std::collections::HashSet;
use yao_protocol::{
    keys::MacKey,
    receipt::Receipt,
    spool::Open,
    ticket::{Ticket, verify_tickets},
};

/// Tickets verified together.
const BATCH: usize = 256;

impl Judge<'_> {
    /// M7: each accepted open is of a genuine ticket, once; nothing was removed unsettled.
    pub(super) fn spool(&mut self) {
        let evidence = self.evidence;
        let opens = &evidence.opens;
        if evidence.opens_from > evidence.settled_until + 1 {
            self.verdict.lost += evidence.opens_from - evidence.settled_until - 1;
            self.problem(format!(
                "the spool begins at record {} although only {} are settled (M7)",
                evidence.opens_from, evidence.settled_until
            ));
        }
        let tickets: Vec<Ticket> = opens.iter().map(|(_, open)| open.ticket).collect();
        self.signatures(&tickets, "the spool");
        let mut here = HashSet::new();
        for (sequence, open) in opens {
            let packet = open.ticket.body.packet;
            if !here.insert(packet) {
                self.problem(format!("packet {packet} is in the spool twice ({sequence})"));
            }
            // A node takes every ticket of the campaign (W9.4-14): this one is judged with its own.
            if !self.is_others(packet) {
                self.open(open, "the spool");
            }
        }
        for open in &evidence.elsewhere {
            self.open(open, "another node's spool");
        }
    }

    fn open(&mut self, open: &Open, source: &str) {
        let body = &open.ticket.body;
        let Some(index) = self.ticket(body, source) else { return };
        self.packets[index].accepted_at.push(open.accepted_at);
        if open.accepted_at < body.issued_at || open.accepted_at >= body.expires_at {
            self.problem(format!(
                "packet {} was opened outside its ticket's life, at {}",
                body.packet, open.accepted_at.0
            ));
        }
    }

    /// M8: a valid ticket counts, whether or not the journal has it.
    pub(super) fn tickets_seen(&mut self) {
        self.signatures(&self.evidence.tickets, "a client");
        let mut distinct = HashSet::new();
        for ticket in &self.evidence.tickets {
            if self.is_others(ticket.body.packet) {
                continue;
            }
            if distinct.insert(ticket.body.packet) {
                self.verdict.tickets_seen += 1;
            }
            self.ticket(&ticket.body, "a client");
        }
    }

    fn signatures(&mut self, tickets: &[Ticket], source: &str) {
        for tickets in tickets.chunks(BATCH) {
            let good = verify_tickets(tickets, &self.evidence.keys);
            for (ticket, good) in tickets.iter().zip(good) {
                if !good {
                    let packet = ticket.body.packet;
                    self.problem(format!("the ticket of packet {packet} of {source} is forged"));
                }
            }
        }
    }

    /// M7: what was acknowledged is in the spool, or settled before its segment was removed.
    pub(super) fn receipts_seen(&mut self) {
        let settled: HashSet<u64> =
            self.evidence.ledger.rows.iter().map(|row| row.packet).collect();
        let key = &self.evidence.shard_key;
        let key = MacKey::new(key.mac_key_id, key.mac_key);
        for bytes in &self.evidence.receipts {
            let Ok(receipt) = Receipt::decode(bytes, &key) else {
                self.problem("a client has a receipt that is forged".to_owned());
                continue;
            };
            if self.is_others(receipt.packet) {
                continue;
            }
            let Some(index) = self.place(receipt.packet, "a receipt") else { continue };
            // RECLAIMED is a final word, too: the record may be gone from the spool.
            let settled = settled.contains(&receipt.packet.0) || {
                self.evidence.ledger.is_excused(receipt.packet, receipt.user)
            };
            let packet = &mut self.packets[index];
            if !packet.receipted {
                self.verdict.receipts_seen += 1;
            }
            packet.receipted = true;
            let removed = settled && self.evidence.opens_from > 1;
            let elsewhere = settled && self.evidence.removed_elsewhere;
            let spooled = !packet.accepted_at.is_empty();
            let same = packet.accepted_at.contains(&receipt.accepted_at);
            if !spooled && !removed && !elsewhere {
                self.verdict.lost += 1;
                self.problem(format!(
                    "packet {} has a receipt and no spooled open",
                    receipt.packet
                ));
            }
            if spooled && !same && !elsewhere {
                let packet = receipt.packet;
                self.problem(format!("the receipt of packet {packet} tells another time"));
            }
            let user = self.packets[index].ticket.map(|ticket| ticket.user);
            if user.is_some_and(|user| user != receipt.user) {
                self.packets[index].duplicate = true;
                let packet = receipt.packet;
                self.problem(format!("the receipt of packet {packet} names another user"));
            }
        }
    }
}
