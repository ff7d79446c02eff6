//! From OPEN to receipt: duplicates, expiry, policy, group commit, and the fence.
//!
//! The one rule (M7): a receipt leaves in [`Spool::handle_synced`], or for a packet whose record
//! was synced before. Every open is answered exactly once.

use super::{Counters, Index, Level, Output, RECORD_BYTES, Reply, Settings, Spool, index::Entry};
use crate::{
    ConnectionId, Timestamp,
    vetting::{Asked, VetDesk},
};
use yao_protocol::{
    PacketId,
    agent::{Question, Standing, Vet, VetKind},
    client::{ErrorCode, Refusal, RetryClass},
    receipt::Receipt,
    spool::Open,
    ticket::Ticket,
    token::Bearer,
};

/// Opens that wait for the disk at once. At 10,000 opens a second this is six seconds of a disk
/// that does not answer; then it is better to say so.
const WAITING_MAX: usize = 65_536;

/// An open whose verdict is awaited.
#[derive(Clone, Copy, Debug)]
pub struct Vetted {
    connection: ConnectionId,
    request_id: u32,
    open: Open,
}

/// A client that gets its receipt when a record is on disk.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    connection: ConnectionId,
    request_id: u32,
    packet: PacketId,
    entry: Entry,
}

/// Where the group commit stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Commit {
    /// No record is between us and the disk.
    Idle,
    /// Records were handed over for writing; the sync is to follow.
    Written { sequence: u64 },
    /// The sync is under way.
    Syncing { sequence: u64 },
}

#[derive(Debug)]
pub(super) struct Intake {
    desk: VetDesk<Vetted>,
    index: Index,
    next_sequence: u64,
    /// Highest sequence that is on disk.
    synced: u64,
    /// Records for the next group commit.
    collecting: Vec<(u64, Open)>,
    /// When the first of them came.
    collecting_since: Timestamp,
    commit: Commit,
    waiting: Vec<Waiting>,
    flushing: bool,
    fenced: bool,
}

impl Intake {
    pub(super) fn new(desk: VetDesk<Vetted>, index: Index, next_sequence: u64) -> Self {
        Self {
            desk,
            index,
            next_sequence,
            synced: next_sequence - 1,
            collecting: Vec::new(),
            collecting_since: Timestamp::NEVER,
            commit: Commit::Idle,
            waiting: Vec::new(),
            flushing: false,
            fenced: false,
        }
    }

    pub(super) const fn is_fenced(&self) -> bool {
        self.fenced
    }

    pub(super) const fn next_sequence(&self) -> u64 {
        self.next_sequence
    }

    pub(super) fn is_flushed(&self) -> bool {
        self.collecting.is_empty() && self.waiting.is_empty() && self.commit == Commit::Idle
    }

    pub(super) const fn flush(&mut self) {
        self.flushing = true;
    }

    pub(super) const fn handle_agent_available(&mut self, available: bool) {
        self.desk.agent_available(available);
    }

    pub(super) fn forget(&mut self, through: u64) {
        self.index.retain(through + 1..=u64::MAX);
    }

    pub(super) fn vet_deadline(&self) -> Timestamp {
        self.desk.deadline()
    }

    /// When the collected records are due.
    pub(super) fn commit_at(&self, settings: &Settings) -> Timestamp {
        if self.collecting.is_empty() || self.commit != Commit::Idle {
            return Timestamp::NEVER;
        }
        let bytes = self.collecting.len().saturating_mul(RECORD_BYTES as usize);
        if self.flushing || bytes >= settings.commit_bytes_max {
            return Timestamp::default();
        }
        self.collecting_since.plus_ns(settings.commit_us_max.saturating_mul(1_000))
    }

    pub(super) fn poll(&mut self, now: Timestamp, settings: &Settings) -> Option<Output> {
        if let Commit::Written { sequence } = self.commit {
            self.commit = Commit::Syncing { sequence };
            return Some(Output::Sync { sequence });
        }
        if now < self.commit_at(settings) {
            return None;
        }
        let records = std::mem::take(&mut self.collecting);
        let (sequence, _) = *records.last()?;
        self.commit = Commit::Written { sequence };
        self.flushing = false;
        Some(Output::Write(records))
    }
}

impl Spool {
    pub(super) fn handle_open(
        &mut self,
        now: Timestamp,
        connection: ConnectionId,
        request_id: u32,
        bearer: Bearer,
        ticket: &Ticket,
    ) {
        // The user acted now: later waits for verdict and disk do not make the ticket expire.
        let open = Open { accepted_at: self.settings.anchor.wall(now), ticket: *ticket };
        let asked = Vetted { connection, request_id, open };
        if self.answer_known(&asked) {
            return;
        }
        if let Some(refusal) = self.refusal(&open) {
            self.reply(connection, request_id, Reply::Refused(refusal));
            return;
        }
        match self.intake.desk.ask(now, asked) {
            Asked::Allowed(asked) => self.accept(now, &asked),
            Asked::Send { call } => {
                let body = &ticket.body;
                let vet = Vet {
                    call,
                    kind: VetKind::Open,
                    user: body.user,
                    sponsor: body.sponsor,
                    amount: body.amount,
                    packet: body.packet,
                    shake: body.shake,
                };
                // Counted when they were won; an open changes nothing about that.
                let standing = Standing { bearer, ..Standing::default() };
                self.ready.push_back(Output::Vet(Question { vet, standing }));
            }
        }
    }

    pub(super) fn handle_verdict(&mut self, now: Timestamp, call: u64, allowed: bool) {
        match self.intake.desk.verdict(now, call, allowed) {
            Some((asked, true)) => self.accept(now, &asked),
            Some((asked, false)) => {
                self.counters.refused_policy += 1;
                let refusal = refusal(ErrorCode::OpenRefused, RetryClass::Never, 0);
                self.reply(asked.connection, asked.request_id, Reply::Refused(refusal));
            }
            None => {}
        }
    }

    pub(super) fn handle_vet_unsent(&mut self, now: Timestamp, call: u64) {
        if let Some(asked) = self.intake.desk.unsent(call) {
            self.accept(now, &asked);
        }
    }

    /// Opens whose verdict did not come in time go on: the agent is advice, not a gate.
    pub(super) fn expire_vets(&mut self, now: Timestamp) {
        while let Some(asked) = self.intake.desk.poll_expired(now) {
            self.accept(now, &asked);
        }
    }

    pub(super) fn handle_synced(&mut self, sequence: u64) {
        if self.intake.fenced {
            return;
        }
        assert_eq!(self.intake.commit, Commit::Syncing { sequence }, "one sync at a time");
        assert!(sequence > self.intake.synced && sequence < self.intake.next_sequence);
        self.counters.syncs += 1;
        self.counters.bytes += (sequence - self.intake.synced) * RECORD_BYTES;
        self.intake.synced = sequence;
        self.intake.commit = Commit::Idle;
        self.delivery.handle_synced(sequence);
        let served =
            self.intake.waiting.extract_if(.., |waiting| waiting.entry.sequence <= sequence);
        for waiting in served.collect::<Vec<_>>() {
            self.acknowledge(waiting.connection, waiting.request_id, waiting.packet, waiting.entry);
        }
    }

    /// The fence (M3): what was not synced is not acknowledged, now or later, and nothing more is
    /// written. What was synced before stays acknowledged and is delivered.
    pub(super) fn handle_disk_failed(&mut self) {
        self.intake.fenced = true;
        self.intake.commit = Commit::Idle;
        self.intake.collecting.clear();
        let synced = self.intake.synced;
        self.intake.index.retain(0..=synced);
        for waiting in std::mem::take(&mut self.intake.waiting) {
            self.counters.refused_fenced += 1;
            self.reply(waiting.connection, waiting.request_id, Reply::Refused(fence_refusal()));
        }
    }

    /// Answers an open whose packet has a record, or lets it wait for that record's sync.
    fn answer_known(&mut self, asked: &Vetted) -> bool {
        let body = &asked.open.ticket.body;
        let Some(entry) = self.intake.index.find(body.packet).copied() else { return false };
        let (connection, request_id) = (asked.connection, asked.request_id);
        if entry.user != body.user {
            self.counters.refused_invalid += 1;
            let refusal = refusal(ErrorCode::TicketInvalid, RetryClass::Never, 0);
            self.reply(connection, request_id, Reply::Refused(refusal));
        } else if entry.sequence <= self.intake.synced {
            self.counters.duplicate += 1;
            self.acknowledge(connection, request_id, body.packet, entry);
        } else if self.intake.waiting.len() >= WAITING_MAX {
            self.counters.refused_full += 1;
            self.reply(connection, request_id, Reply::Refused(slow_refusal()));
        } else {
            self.counters.duplicate += 1;
            let waiting = Waiting { connection, request_id, packet: body.packet, entry };
            self.intake.waiting.push(waiting);
        }
        true
    }

    /// Why a new open cannot be taken.
    fn refusal(&mut self, open: &Open) -> Option<Refusal> {
        let body = &open.ticket.body;
        let counters: &mut Counters = &mut self.counters;
        if body.campaign != self.settings.campaign {
            counters.refused_invalid += 1;
            return Some(refusal(ErrorCode::TicketInvalid, RetryClass::Never, 0));
        }
        if open.accepted_at >= body.expires_at {
            counters.refused_expired += 1;
            return Some(refusal(ErrorCode::TicketExpired, RetryClass::Never, 0));
        }
        if self.intake.fenced {
            counters.refused_fenced += 1;
            return Some(fence_refusal());
        }
        if self.fullness.level() == Level::Full {
            counters.refused_full += 1;
            return Some(full_refusal());
        }
        if self.intake.waiting.len() >= WAITING_MAX {
            counters.refused_full += 1;
            return Some(slow_refusal());
        }
        None
    }

    /// Judges anew how full the spool is: after each input, and after each open that is accepted.
    pub(super) fn renew_fullness(&mut self) {
        let next_sequence = self.intake.next_sequence;
        let unsettled = self.delivery.unsettled(next_sequence - 1);
        self.fullness.renew(self.settings.bytes_max, unsettled, next_sequence);
    }

    /// Gives an allowed open its record, in memory. Nothing is acknowledged here.
    fn accept(&mut self, now: Timestamp, asked: &Vetted) {
        // While the verdict was awaited the same packet may have come again, the disk may have
        // failed, the bound may have been reached.
        if self.answer_known(asked) {
            return;
        }
        if let Some(refusal) = self.refusal(&asked.open) {
            self.reply(asked.connection, asked.request_id, Reply::Refused(refusal));
            return;
        }
        let intake = &mut self.intake;
        let sequence = intake.next_sequence;
        intake.next_sequence += 1;
        if intake.collecting.is_empty() {
            intake.collecting_since = now;
        }
        intake.collecting.push((sequence, asked.open));
        intake.index.insert(sequence, &asked.open);
        let body = &asked.open.ticket.body;
        let entry = Entry { user: body.user, accepted_at: asked.open.accepted_at, sequence };
        let (connection, request_id) = (asked.connection, asked.request_id);
        intake.waiting.push(Waiting { connection, request_id, packet: body.packet, entry });
        self.counters.accepted += 1;
        self.delivery.handle_accepted(sequence, &asked.open, &self.settings);
        self.renew_fullness();
    }

    fn acknowledge(
        &mut self,
        connection: ConnectionId,
        request_id: u32,
        packet: PacketId,
        entry: Entry,
    ) {
        assert!(entry.sequence <= self.intake.synced, "M7: acknowledged only when on disk");
        self.counters.acknowledged += 1;
        let Entry { user, accepted_at, .. } = entry;
        let receipt = Receipt { campaign: self.settings.campaign, packet, user, accepted_at };
        self.reply(connection, request_id, Reply::Receipt(receipt));
    }

    fn reply(&mut self, connection: ConnectionId, request_id: u32, reply: Reply) {
        self.ready.push_back(Output::Reply { connection, request_id, reply });
    }
}

const fn refusal(code: ErrorCode, class: RetryClass, delay_ms: u32) -> Refusal {
    Refusal { code, class, closes: false, delay_ms, jitter_ms: delay_ms }
}

/// A fenced node takes opens again after a restart by an operator: not soon.
const fn fence_refusal() -> Refusal {
    refusal(ErrorCode::OpenUnavailable, RetryClass::After, 10_000)
}

/// The disk is behind by seconds: a little later it is not.
const fn slow_refusal() -> Refusal {
    refusal(ErrorCode::OpenUnavailable, RetryClass::After, 2_000)
}

/// Room comes back when settlement answers, or when somebody has made some: in minutes, not in
/// seconds. Whoever is refused must not be the next overload.
const fn full_refusal() -> Refusal {
    refusal(ErrorCode::OpenUnavailable, RetryClass::After, 15_000)
}
