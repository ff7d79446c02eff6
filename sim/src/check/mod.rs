//! The checkers: what must hold whatever happens, judged from what can be seen from outside: bytes
//! that left a node, bytes on its disk, rows of the ledger, and the plan. They share formats with
//! the code they check, and no rule.

mod evidence;
mod issues;
mod ledger;
mod money;
mod opens;
mod pace;
mod skips;

pub(crate) use evidence::{cursor_path, segments};

pub(crate) use self::money::{Death, JOURNALED_NS};
use self::{issues::Issued, money::Journaled, opens::Acknowledged, pace::Pace, skips::Lives};
use crate::{
    disk::SimDisk,
    plan::{Event, ShardPlan, WAVES},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};
use yao_ledger::state::Row;
use yao_protocol::{
    PacketId, UserId, WallTime, WaveIndex,
    client::{NoWinReason, ServerMessage},
    frame::split_frame,
    grant::{Claim, GrantAnswer, GrantRequest, Verdict},
    limits::CLIENT_PAYLOAD_BYTES_MAX,
    receipt::Receipt,
    ticket::{Ticket, TicketBody},
};

/// Something that must hold and does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The checker: money, once, limits, opens, pacing, liveness, or a panic.
    pub rule: &'static str,
    /// What was seen.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule, self.what)
    }
}

/// What a check comes to.
pub type Checked = Result<(), Violation>;

/// A violation of `rule`, unless `holds`.
pub(crate) fn must(rule: &'static str, holds: bool, what: impl FnOnce() -> String) -> Checked {
    if holds { Ok(()) } else { Err(Violation { rule, what: what() }) }
}

/// What is known of one node.
#[derive(Debug, Default)]
struct NodeBook {
    /// Its shard's place in the plan.
    shard: usize,
    /// What settlement granted it: wave, and the positions from and to before.
    granted: Vec<(WaveIndex, u32, u32)>,
    /// Below this position of each wave what was granted before is burnt.
    burnt: [u32; WAVES as usize],
    /// The T0 that the node goes by, by wave; where nobody outside can tell, the earliest that it
    /// was ever told.
    t0: [Option<WallTime>; WAVES as usize],
    /// Which of them nobody outside can tell.
    moved: [bool; WAVES as usize],
    /// How each wave goes.
    pace: [Pace; WAVES as usize],
    /// Users of whom a death took a journal record: the node may let them win once more.
    forgotten: BTreeSet<UserId>,
    /// Packets whose journal record a death took: skipped by the next start, and honoured.
    orphans: BTreeSet<PacketId>,
    /// Opens that are on the medium, as far as was read.
    durable_opens: BTreeSet<(PacketId, UserId, WallTime)>,
    /// Files were damaged behind the node's back: records may be missing.
    damaged: bool,
    /// A bit of a cursor was turned over: the file may be lost, for the running process as well.
    cursor_rots: bool,
    /// Acknowledged opens that a damaged spool may lack.
    in_doubt: BTreeSet<PacketId>,
    /// When the running process began, by its own clock.
    began: WallTime,
    /// Packets that its journal had as issued then.
    issued_before: BTreeSet<PacketId>,
    /// What its journal said of each packet at the last look; empty when records may be gone since.
    said: Vec<Journaled>,
    /// Tickets of this life that were seen, by wave.
    fresh: [u32; WAVES as usize],
    /// Its processes that have ended.
    lives: Lives,
    /// Disk operations at the last look.
    looked_at: u64,
}

/// What was counted, for the table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Packets that left in tickets.
    pub issued: u64,
    /// Tickets that left again.
    pub repeated: u64,
    /// Opens acknowledged.
    pub acknowledged: u64,
    /// Rows of the ledger.
    pub rows: u64,
    /// Packets paid.
    pub paid: u64,
    /// Times that the money was counted.
    pub counts: u64,
}

/// All checkers, with what they have seen.
#[derive(Debug)]
pub struct Checks {
    event: &'static Event,
    nodes: Vec<NodeBook>,
    issued: BTreeMap<PacketId, Issued>,
    /// Whether a wave's close always knows the sum of what it leaves: nothing is held up, with the
    /// agent or on the disk.
    sums: bool,
    acknowledged: BTreeMap<PacketId, Acknowledged>,
    rows: BTreeMap<PacketId, Row>,
    /// What any journal ever issued.
    journaled: BTreeMap<PacketId, TicketBody>,
    /// What was counted.
    pub totals: Totals,
}

/// The state of a node at the moment of a check.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// The true time, ns.
    pub now: u64,
    /// Which node.
    pub node: usize,
    /// Its disk.
    pub disk: &'a SimDisk,
    /// Its own wall clock.
    pub wall: WallTime,
    /// To whom it speaks.
    pub user: UserId,
    /// The same, if he is honest and nothing that should hold him up has happened here.
    pub served: Option<UserId>,
}

impl Checks {
    /// Nothing seen yet.
    #[must_use]
    pub fn new(event: &'static Event, nodes: usize, sums: bool) -> Self {
        let book = |shard| NodeBook { shard, ..NodeBook::default() };
        Self {
            event,
            sums,
            nodes: (0..nodes).map(book).collect(),
            journaled: BTreeMap::new(),
            issued: BTreeMap::new(),
            acknowledged: BTreeMap::new(),
            rows: BTreeMap::new(),
            totals: Totals::default(),
        }
    }

    /// A node was told when a wave begins; `in_time` when it goes by that, whatever it was told
    /// before.
    pub fn told(&mut self, node: usize, wave: u16, t0: WallTime, in_time: bool) {
        let book = &mut self.nodes[node];
        let known = &mut book.t0[usize::from(wave)];
        if in_time {
            *known = Some(t0);
            return;
        }
        book.moved[usize::from(wave)] |= known.is_some_and(|known| known != t0);
        *known = Some(known.map_or(t0, |known| known.min(t0)));
    }

    /// Bytes leave a node for a client.
    ///
    /// # Errors
    /// What they break.
    pub fn sent(&mut self, seen: Seen<'_>, mut bytes: &[u8]) -> Checked {
        while !bytes.is_empty() {
            let split = split_frame(bytes, CLIENT_PAYLOAD_BYTES_MAX);
            let Ok(Some((frame, rest))) = split else {
                return must("once", false, || "a node sent what is no frame".to_owned());
            };
            bytes = rest;
            match ServerMessage::decode(frame) {
                Ok(ServerMessage::Win { ticket, .. }) => {
                    let ticket = Ticket::decode(ticket).expect("a node's ticket is well formed");
                    let winner = ticket.body.user;
                    must("once", winner == seen.user, || {
                        format!("user {} was sent the ticket of {winner}", seen.user)
                    })?;
                    self.ticket(seen, &ticket)?;
                }
                Ok(ServerMessage::Receipt(proof)) => {
                    let receipt = Receipt::decode(proof, &self.event.mac_key);
                    let receipt = receipt.expect("a node's receipt is well formed and its own");
                    must("opens", receipt.user == seen.user, || {
                        format!("user {} was sent the receipt of {}", seen.user, receipt.user)
                    })?;
                    self.receipt(seen, &receipt)?;
                }
                Ok(ServerMessage::NoWin(no_win)) if no_win.reason == NoWinReason::NoneDue => {
                    if let Some(user) = seen.served {
                        self.none_due(seen, user)?;
                    }
                }
                Ok(_) => {}
                Err(error) => {
                    return must("once", false, || format!("a node sent a bad message: {error}"));
                }
            }
        }
        Ok(())
    }

    /// One more node joins, which has the shard of `node`.
    pub fn joins_as(&mut self, node: usize) {
        let NodeBook { shard, t0, moved, damaged, cursor_rots, ref forgotten, .. } =
            self.nodes[node];
        let forgotten = forgotten.clone();
        let rest = NodeBook::default();
        self.nodes.push(NodeBook { shard, t0, moved, damaged, cursor_rots, forgotten, ..rest });
    }

    /// Settlement has answered a node's request for a grant.
    pub fn granted(&mut self, node: usize, request: &[u8], answer: &GrantAnswer) {
        if answer.verdict != Verdict::Granted {
            return;
        }
        let book = &mut self.nodes[node];
        book.granted.push((answer.wave, answer.lo, answer.hi));
        let request = GrantRequest::decode(request, &self.event.keys);
        if request.is_ok_and(|request| request.claim == Claim::Burn) {
            book.burnt[usize::from(answer.wave.0)] = answer.lo;
        }
    }

    /// The shard that a node issues from.
    fn shard(&self, node: usize) -> &'static ShardPlan {
        &self.event.shards[self.nodes[node].shard]
    }

    /// A node's process begins, at this time, ns, and by its own clock.
    pub fn began(&mut self, node: usize, now: u64, wall: WallTime) {
        self.life_begins(node, now);
        self.nodes[node].fresh = [0; WAVES as usize];
        self.nodes[node].began = wall;
    }

    /// A bit of a node's files was turned over, or a sync was lost: records may be missing there.
    pub fn damaged(&mut self, node: usize) {
        self.nodes[node].damaged = true;
        self.may_lack(node);
    }

    /// A bit of one of a node's cursors was turned over.
    pub fn cursor_rots(&mut self, node: usize) {
        self.nodes[node].cursor_rots = true;
    }

    /// What stood in a node's journal may be gone: it was not on the medium, or was taken away.
    pub fn may_lack(&mut self, node: usize) {
        self.nodes[node].said.clear();
        self.nodes[node].lives.begin_anew();
    }

    /// Whether `user` was paid or may still be: for reports.
    #[must_use]
    pub fn users_seen(&self) -> usize {
        self.issued.values().map(|issued| issued.body.user).collect::<BTreeSet<_>>().len()
    }
}
