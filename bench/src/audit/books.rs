//! What is known about each packet, gathered from every piece of evidence.

use std::collections::BTreeMap;
use yao_protocol::{UserId, WallTime, ticket::TicketBody};

/// What the ledger made of a packet's open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Settled {
    /// It was paid.
    Paid,
    /// It was not: its user had enough, or its ticket had expired. The packet stays issued.
    Refused,
}

/// One packet of the plan.
#[derive(Clone, Default)]
pub(super) struct Packet {
    /// The first ticket that names it.
    pub(super) ticket: Option<TicketBody>,
    /// The journal says that it was issued.
    pub(super) journaled: bool,
    /// When opens of it were accepted, by the spools: here, and at other nodes that took the same
    /// ticket.
    pub(super) accepted_at: Vec<WallTime>,
    /// A client has a receipt for it.
    pub(super) receipted: bool,
    /// The ledger has a row for it, which says this.
    pub(super) settled: Option<Settled>,
    /// A restart or a long wait passed over it.
    pub(super) skipped: bool,
    /// The ledger has taken it back.
    pub(super) reclaimed: bool,
    /// Another ticket names it too.
    pub(super) duplicate: bool,
}

impl Packet {
    /// An open of it was accepted, and not refused by the ledger (M8).
    pub(super) fn is_opened(&self) -> bool {
        let accepted = !self.accepted_at.is_empty() || self.receipted;
        self.settled.map_or(accepted, |settled| settled == Settled::Paid)
    }

    /// It left: somebody has its ticket, or was answered with one.
    pub(super) fn is_issued(&self) -> bool {
        self.ticket.is_some() || self.is_opened() || self.settled.is_some()
    }
}

/// Wins per user, to be compared with the limits.
#[derive(Default)]
pub(super) struct Winners(BTreeMap<UserId, Vec<u8>>);

impl Winners {
    pub(super) fn add(&mut self, user: UserId, sponsor: u8) {
        self.0.entry(user).or_default().push(sponsor);
    }

    /// Users above a limit.
    pub(super) fn above(&self, per_user: u8, per_sponsor: u8) -> Vec<UserId> {
        let too_many = |sponsors: &Vec<u8>| {
            sponsors.len() > usize::from(per_user)
                || sponsors.iter().any(|sponsor| of(sponsors, *sponsor) > usize::from(per_sponsor))
        };
        self.0.iter().filter(|(_, sponsors)| too_many(sponsors)).map(|(user, _)| *user).collect()
    }

    /// Whether one more packet of `sponsor` would bring `user` above a limit.
    pub(super) fn is_full(&self, user: UserId, sponsor: u8, per_user: u8, per_sponsor: u8) -> bool {
        self.0.get(&user).is_some_and(|sponsors| {
            sponsors.len() >= usize::from(per_user)
                || of(sponsors, sponsor) >= usize::from(per_sponsor)
        })
    }
}

/// How many wins are of `sponsor`.
fn of(sponsors: &[u8], sponsor: u8) -> usize {
    sponsors.iter().filter(|other| **other == sponsor).count()
}
