//! Tickets as they leave a node: planned, once, below H, not early, within the limits.

use super::{Checked, Checks, NodeBook, Seen, evidence, must};
use yao_protocol::{
    PacketId, PacketIndex, SponsorSet, WaveIndex,
    ticket::{Ticket, TicketBody},
};

/// Packets that a user wins of one node at most.
const WINS_PER_USER: usize = 3;

/// A ticket that left.
#[derive(Clone, Copy, Debug)]
pub(super) struct Issued {
    /// What it says.
    pub(super) body: TicketBody,
    /// Which node sent it first, and when, ns.
    pub(super) node: usize,
    pub(super) at: u64,
    /// What proves it: for the checkers that try to open it elsewhere.
    pub(super) ticket: Ticket,
}

impl Checks {
    /// A ticket leaves: for the first time, or the same once more.
    pub(super) fn ticket(&mut self, seen: Seen<'_>, ticket: &Ticket) -> Checked {
        let body = ticket.body;
        if let Some(first) = self.issued.get(&body.packet) {
            self.totals.repeated += 1;
            return must("once", first.body == body, || {
                format!("packet {} left in two tickets: {:?} and {body:?}", body.packet, first.body)
            });
        }
        let node = seen.node;
        let shard = self.shard(node);
        let planned = shard.packet(body.packet);
        let Some((record, wave)) = planned else {
            return must("money", false, || {
                format!("packet {} is not of node {node}", body.packet)
            });
        };
        let as_planned = (body.amount, body.sponsor, body.wave, body.shard)
            == (record.amount, record.sponsor, wave, shard.shard);
        must("money", as_planned, || format!("{body:?} is planned as {record:?} of {wave:?}"))?;

        let section = shard.header.section(wave).expect("it has the packet");
        let position = body.packet.index().0 - section.first.0;
        let high = evidence::durable_high(seen.disk, wave.0);
        // Of a file in which both slots rotted since, nothing can be said, nor is it started from.
        let unknown = high.is_none() && self.nodes[seen.node].cursor_rots;
        must("once", unknown || high.is_some_and(|high| position < high), || {
            format!("M1: position {position} left, and H on the medium is {high:?}")
        })?;

        let t0 = self.nodes[node].t0[usize::from(wave.0)];
        let due = t0.map(|t0| t0.plus_us(record.offset_us));
        must("pacing", due.is_some_and(|due| body.issued_at >= due), || {
            format!("packet {} was issued at {:?}, due {due:?}", body.packet, body.issued_at)
        })?;
        self.limits(node, &body)?;
        // Else it is of a life before, and first seen now. The dates alone do not tell: the clock
        // may have been put back between the two.
        let before = &self.nodes[node].issued_before;
        if body.issued_at >= self.nodes[node].began && !before.contains(&body.packet) {
            must("pacing", body.issued_at <= seen.wall, || {
                format!("packet {} is dated {:?} at {:?}", body.packet, body.issued_at, seen.wall)
            })?;
            self.granted_to(node, wave, position)?;
            self.nodes[node].fresh[usize::from(wave.0)] += 1;
            self.left(node, wave, body.issued_at)?;
        }
        self.totals.issued += 1;
        self.issued.insert(body.packet, Issued { body, node, at: seen.now, ticket: *ticket });
        Ok(())
    }

    /// In fleet mode what a node issues was granted to it, and to nobody else.
    fn granted_to(&self, node: usize, wave: WaveIndex, position: u32) -> Checked {
        let holds = |book: &NodeBook| {
            let holds = |(at, lo, hi): &(WaveIndex, u32, u32)| {
                *at == wave && (*lo..*hi).contains(&position)
            };
            book.granted.iter().any(holds)
        };
        let shard = self.nodes[node].shard;
        let fleet = self.nodes.iter().any(|book| !book.granted.is_empty());
        let others = self.nodes.iter().enumerate().filter(|(other, _)| *other != node);
        let mut others = others.filter(|(_, book)| book.shard == shard);
        must("once", !fleet || holds(&self.nodes[node]), || {
            format!("M4: position {position} of {wave:?} left node {node}, to which nobody gave it")
        })?;
        must("once", !others.any(|(_, book)| holds(book)), || {
            format!("M4: position {position} of {wave:?} left node {node}, and is another's, too")
        })
    }

    /// Whether this packet left a node in a ticket.
    pub(super) fn has_left(&self, node: usize, index: PacketIndex) -> bool {
        let packet = PacketId::new(0, self.shard(node).shard, index);
        self.issued.contains_key(&packet) || self.journaled.contains_key(&packet)
    }

    /// What one node gives one user, unless a death made it forget.
    fn limits(&self, node: usize, body: &TicketBody) -> Checked {
        if self.nodes[node].forgotten.contains(&body.user) || self.nodes[node].damaged {
            return Ok(());
        }
        let mut sponsors = SponsorSet::EMPTY.with(body.sponsor);
        let mut count = 1;
        for issued in self.issued.values() {
            if issued.node == node && issued.body.user == body.user {
                must("limits", !sponsors.contains(issued.body.sponsor), || {
                    format!("user {} won {:?} twice on node {node}", body.user, body.sponsor)
                })?;
                sponsors = sponsors.with(issued.body.sponsor);
                count += 1;
            }
        }
        must("limits", count <= WINS_PER_USER, || {
            format!("user {} won {count} packets of node {node}", body.user)
        })
    }

    /// A ticket that somebody else may try to open: the `choice`th of those that left.
    #[must_use]
    pub fn any_ticket(&self, choice: u64) -> Option<Ticket> {
        let count = self.issued.len() as u64;
        let place = usize::try_from(choice.checked_rem(count)?).ok()?;
        self.issued.values().nth(place).map(|issued| issued.ticket)
    }
}
