//! One connection of the load, without its socket: what it sends and what it makes of the answers.

use super::Counts;
use crate::load::TicketLog;
use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use yao_client::random::Random;
use yao_protocol::{
    CampaignId, PacketId, ShakeId, UserId,
    client::{self, ErrorCode, Hello, NoWinReason, RetryClass, ServerMessage, Shake, kind},
    frame::split_frame,
    limits::CLIENT_PAYLOAD_BYTES_MAX,
    receipt::Receipt,
    tally::TALLY_BYTES,
    ticket::{TICKET_BYTES, Ticket},
};

/// Request and reply of an echo server, the size of SHAKE and NO_WIN.
pub(super) const ECHO_BYTES: usize = 32;
/// Opens of one connection that may be under way.
const OPENS_IN_FLIGHT: usize = 3;

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// No socket, or one that is not connected yet.
    Down,
    /// HELLO is sent.
    Greeting,
    /// WELCOME arrived.
    Open,
}

/// A shake that waits for its answer.
#[derive(Clone, Copy, Debug)]
struct Asked {
    request_id: u32,
    shake: ShakeId,
    /// When it was to be sent: waiting in our own queues counts.
    scheduled_ns: u64,
}

/// A ticket that was won and has no receipt yet.
struct Held {
    packet: PacketId,
    bytes: Box<[u8; TICKET_BYTES]>,
    /// The OPEN that is under way, 0 when none is.
    request_id: u32,
    asked_ns: u64,
}

/// What is true for every connection of a fleet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Habits {
    pub(super) campaign: CampaignId,
    /// What is done with tickets.
    pub(super) opens: Opens,
}

/// What is done with tickets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opens {
    /// Nothing: they are only counted.
    Never,
    /// They are kept until the fleet is told to open them.
    Later,
    /// Each is opened as it comes.
    AtOnce,
}

/// Where answers are written down.
pub(super) struct Books {
    pub(super) counts: Counts,
    /// From scheduled to answered, shakes, ns.
    pub(super) shakes: Histogram<u64>,
    /// From OPEN to RECEIPT, ns.
    pub(super) opens: Histogram<u64>,
    pub(super) log: Option<TicketLog>,
    pub(super) random: Random,
}

/// What a connection wants after reading.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Wish {
    /// Shakes were answered: the closed loop sends the next one, not before this many ms.
    pub(super) answered: bool,
    pub(super) interval_ms: u32,
    pub(super) welcomed: bool,
    /// The server asked us to leave or refused us for good.
    pub(super) leave: bool,
    /// Come back after this long, ms.
    pub(super) delay_ms: u32,
}

/// One connection.
pub(super) struct Peer {
    pub(super) phase: Phase,
    pub(super) user: UserId,
    /// Least ms without a frame before the server closes.
    pub(super) heartbeat_ms_max: u32,
    pub(super) sent_ns: u64,
    /// Received bytes of a frame that is not whole yet.
    pub(super) partial: Vec<u8>,
    /// When this user's next shake of the closed loop is due.
    pub(super) shake_at_ns: u64,
    /// Least time between two shakes, as the server last said, ms.
    interval_ms: u32,
    /// This user can win no more.
    pub(super) sated: bool,
    wins_per_user: u8,
    wins: u8,
    tally: Option<Box<[u8; TALLY_BYTES]>>,
    asked: Vec<Asked>,
    held: Vec<Held>,
    /// Every packet this user has won: tickets come again after each WELCOME.
    known: Vec<PacketId>,
    next_request: u32,
}

impl Peer {
    pub(super) const fn new(user: UserId) -> Self {
        Self {
            phase: Phase::Down,
            user,
            heartbeat_ms_max: u32::MAX,
            sent_ns: 0,
            partial: Vec::new(),
            shake_at_ns: 0,
            interval_ms: 0,
            sated: false,
            wins_per_user: u8::MAX,
            wins: 0,
            tally: None,
            asked: Vec::new(),
            held: Vec::new(),
            known: Vec::new(),
            next_request: 1,
        }
    }

    /// Whether nothing of this user is under way, so that another may take the connection.
    pub(super) const fn is_idle(&self) -> bool {
        self.asked.is_empty() && self.held.is_empty()
    }

    /// Whether every shake has its answer.
    pub(super) const fn owes_nothing(&self) -> bool {
        self.asked.is_empty()
    }

    /// Tickets without a receipt.
    pub(super) const fn held(&self) -> usize {
        self.held.len()
    }

    const fn request(&mut self) -> u32 {
        let request_id = self.next_request;
        self.next_request = if request_id == u32::MAX { 1 } else { request_id + 1 };
        request_id
    }

    pub(super) fn put_hello(&mut self, campaign: CampaignId, token: &str, out: &mut Vec<u8>) {
        self.phase = Phase::Greeting;
        let tally = self.tally.as_deref();
        let token = token.as_bytes();
        let hello = Hello { version_min: 1, version_max: 1, software: 1, campaign, tally, token };
        hello.put(out, 0);
    }

    /// A new draw.
    pub(super) fn put_shake(
        &mut self,
        habits: Habits,
        scheduled_ns: u64,
        random: &mut Random,
        out: &mut Vec<u8>,
    ) {
        let asked =
            Asked { request_id: self.request(), shake: ShakeId(random.next_u64()), scheduled_ns };
        let campaign = habits.campaign;
        let shake = Shake { shake: asked.shake, campaign, merged_count: 1, resend: false };
        shake.put(out, asked.request_id);
        self.asked.push(asked);
    }

    /// What an echo server sends back.
    pub(super) fn put_echo(&mut self, scheduled_ns: u64, out: &mut Vec<u8>) {
        let request_id = self.request();
        out.resize(out.len() + ECHO_BYTES, 7);
        self.asked.push(Asked { request_id, shake: ShakeId(0), scheduled_ns });
    }

    pub(super) fn put_ping(&mut self, out: &mut Vec<u8>) {
        client::put_empty(out, kind::PING, 0);
    }

    /// Asks for tickets that have no receipt, a few at a time.
    pub(super) fn put_opens(&mut self, now_ns: u64, out: &mut Vec<u8>) {
        let mut under_way = self.held.iter().filter(|held| held.request_id != 0).count();
        for index in 0..self.held.len() {
            if self.held[index].request_id != 0 || under_way >= OPENS_IN_FLIGHT {
                continue;
            }
            under_way += 1;
            let request_id = self.request();
            let held = &mut self.held[index];
            (held.request_id, held.asked_ns) = (request_id, now_ns);
            client::put_open(out, request_id, &held.bytes);
        }
    }

    /// The connection is gone: what was under way is asked again after the next WELCOME (M6).
    pub(super) fn on_down(&mut self) {
        self.phase = Phase::Down;
        for held in &mut self.held {
            held.request_id = 0;
        }
    }

    /// Reads whole frames from `bytes`; how many bytes were used.
    pub(super) fn read(
        &mut self,
        bytes: &[u8],
        now_ns: u64,
        habits: Habits,
        books: &mut Books,
        wish: &mut Wish,
        out: &mut Vec<u8>,
    ) -> Result<usize> {
        let mut rest = bytes;
        while let Ok(Some((frame, after))) = split_frame(rest, CLIENT_PAYLOAD_BYTES_MAX) {
            rest = after;
            let request_id = frame.header.request_id;
            let Ok(message) = ServerMessage::decode(frame) else {
                books.counts.errors += 1;
                wish.leave = true;
                break;
            };
            self.on_message(request_id, &message, now_ns, habits, books, wish, out)?;
        }
        Ok(bytes.len() - rest.len())
    }

    /// Reads whole echoes; how many bytes were used.
    pub(super) fn read_echo(
        &mut self,
        bytes: &[u8],
        now_ns: u64,
        books: &mut Books,
        wish: &mut Wish,
    ) -> usize {
        let whole = bytes.len() / ECHO_BYTES;
        for asked in self.asked.drain(..whole.min(self.asked.len())) {
            books.counts.shakes += 1;
            books.counts.none_due += 1;
            record(&mut books.shakes, now_ns.saturating_sub(asked.scheduled_ns));
            wish.answered = true;
        }
        whole * ECHO_BYTES
    }

    #[expect(clippy::too_many_arguments, reason = "one call site, and a struct would say less")]
    fn on_message(
        &mut self,
        request_id: u32,
        message: &ServerMessage<'_>,
        now_ns: u64,
        habits: Habits,
        books: &mut Books,
        wish: &mut Wish,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        match message {
            ServerMessage::NoWin(no_win) => {
                let waited = self.on_answer(request_id, now_ns, books, wish);
                self.interval_ms = no_win.interval_ms;
                wish.interval_ms = self.interval_ms;
                match no_win.reason {
                    NoWinReason::NoneDue => books.counts.none_due += 1,
                    NoWinReason::LimitReached => {
                        books.counts.limit_reached += 1;
                        self.sated = true;
                    }
                    NoWinReason::NotRunning => books.counts.not_running += 1,
                    NoWinReason::Pending if waited => books.counts.pending += 1,
                    _ => books.counts.refused += 1,
                }
            }
            ServerMessage::Win { ticket, tally } => {
                self.on_answer(request_id, now_ns, books, wish);
                // A ticket says nothing of intervals.
                wish.interval_ms = self.interval_ms;
                self.on_win(ticket, tally, habits, books)?;
                if habits.opens == Opens::AtOnce {
                    self.put_opens(now_ns, out);
                }
            }
            ServerMessage::Receipt(bytes) => {
                books.counts.receipts += 1;
                let packet = Receipt::peek(*bytes).context("a receipt that is none")?.packet;
                if let Some(at) = self.held.iter().position(|held| held.packet == packet) {
                    let held = self.held.swap_remove(at);
                    record(&mut books.opens, now_ns.saturating_sub(held.asked_ns));
                }
                if let Some(log) = &mut books.log {
                    log.receipt(bytes)?;
                }
                self.put_opens(now_ns, out);
            }
            ServerMessage::Welcome(welcome) => {
                self.phase = Phase::Open;
                self.heartbeat_ms_max = welcome.heartbeat_ms_max;
                self.wins_per_user = welcome.wins_per_user;
                books.counts.logins += 1;
                self.interval_ms = welcome.shake_interval_ms;
                (wish.welcomed, wish.interval_ms) = (true, self.interval_ms);
                self.put_again(habits, now_ns, out);
            }
            ServerMessage::GoAway(go_away) => {
                wish.leave = true;
                wish.delay_ms = go_away.delay_ms;
            }
            ServerMessage::Error(refusal) => self.on_refusal(request_id, refusal, books, wish),
            ServerMessage::Pong(_) | ServerMessage::Reconnect(_) | ServerMessage::Unknown => {}
        }
        Ok(())
    }

    /// After WELCOME: shakes without an answer and tickets without a receipt are sent again (M6).
    fn put_again(&mut self, habits: Habits, now_ns: u64, out: &mut Vec<u8>) {
        // One only: the server takes one resend a second.
        self.asked.truncate(1);
        if let Some(asked) = self.asked.first().copied() {
            let campaign = habits.campaign;
            let shake = Shake { shake: asked.shake, campaign, merged_count: 1, resend: true };
            shake.put(out, asked.request_id);
        }
        if habits.opens == Opens::AtOnce {
            self.put_opens(now_ns, out);
        }
    }

    /// A shake is answered. Whether one that was sent before it still is not.
    fn on_answer(
        &mut self,
        request_id: u32,
        now_ns: u64,
        books: &mut Books,
        wish: &mut Wish,
    ) -> bool {
        let Some(at) = self.asked.iter().position(|asked| asked.request_id == request_id) else {
            return false;
        };
        let asked = self.asked.swap_remove(at);
        books.counts.shakes += 1;
        record(&mut books.shakes, now_ns.saturating_sub(asked.scheduled_ns));
        wish.answered = true;
        self.asked.iter().any(|other| other.scheduled_ns < asked.scheduled_ns)
    }

    fn on_win(
        &mut self,
        bytes: &[u8; TICKET_BYTES],
        tally: &[u8; TALLY_BYTES],
        habits: Habits,
        books: &mut Books,
    ) -> Result<()> {
        let ticket = Ticket::decode(bytes).context("the node sent a ticket that is none")?;
        if let Some(log) = &mut books.log {
            log.ticket(bytes)?;
        }
        self.tally = Some(Box::new(*tally));
        let packet = ticket.body.packet;
        if self.known.contains(&packet) {
            return Ok(());
        }
        self.known.push(packet);
        books.counts.wins += 1;
        self.wins = self.wins.saturating_add(1);
        self.sated |= self.wins >= self.wins_per_user;
        if habits.opens != Opens::Never {
            let bytes = Box::new(*bytes);
            self.held.push(Held { packet, bytes, request_id: 0, asked_ns: 0 });
        }
        Ok(())
    }

    fn on_refusal(
        &mut self,
        request_id: u32,
        refusal: &client::Refusal,
        books: &mut Books,
        wish: &mut Wish,
    ) {
        if refusal.closes {
            books.counts.errors += 1;
            (wish.leave, wish.delay_ms) = (true, refusal.delay_ms);
            return;
        }
        books.counts.opens_refused += 1;
        if let Some(at) = self.held.iter().position(|held| held.request_id == request_id) {
            let expired = refusal.code == ErrorCode::TicketExpired;
            if expired || refusal.class == RetryClass::Never {
                self.held.swap_remove(at);
            } else {
                self.held[at].request_id = 0;
            }
        }
    }
}

fn record(histogram: &mut Histogram<u64>, ns: u64) {
    histogram.saturating_record(ns.max(1));
}

#[cfg(test)]
mod tests {
    use super::*;
    use yao_protocol::{WallTime, client::NoWin};

    const HABITS: Habits = Habits { campaign: CampaignId(1), opens: Opens::Never };

    /// Answers the shake with this request id.
    fn answer(peer: &mut Peer, books: &mut Books, request_id: u32, reason: NoWinReason) {
        let (server_time, shake) = (WallTime(0), ShakeId(0));
        let no_win = NoWin { shake, server_time, interval_ms: 0, cue: 0, reason, tier: 0 };
        let mut bytes = Vec::new();
        no_win.put(&mut bytes, request_id);
        let (mut wish, mut out) = (Wish::default(), Vec::new());
        let used = peer.read(&bytes, 1_000, HABITS, books, &mut wish, &mut out);
        assert_eq!(used.expect("a good frame"), bytes.len());
    }

    #[test]
    fn only_a_decision_that_is_waited_for_may_be_pending() {
        let histogram = || Histogram::new(3).expect("good digits");
        let mut books = Books {
            counts: Counts::default(),
            shakes: histogram(),
            opens: histogram(),
            log: None,
            random: Random::new(1),
        };
        let mut peer = Peer::new(UserId(1));
        let mut random = Random::new(2);
        for scheduled_ns in [10, 20, 30] {
            peer.put_shake(HABITS, scheduled_ns, &mut random, &mut Vec::new());
        }
        answer(&mut peer, &mut books, 2, NoWinReason::Pending);
        assert_eq!((books.counts.pending, books.counts.troubles()), (1, 0));
        answer(&mut peer, &mut books, 1, NoWinReason::NoneDue);
        answer(&mut peer, &mut books, 3, NoWinReason::Pending);
        assert_eq!((books.counts.pending, books.counts.troubles()), (1, 1), "nothing was pending");
    }
}
