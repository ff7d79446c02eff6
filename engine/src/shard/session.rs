//! What each message does to its session, and what comes back from the other threads.

use super::{
    Broken, CandidateShake, DECISION_MS_MAX, Effect, OPENS_IN_FLIGHT_MAX, RESEND_MS_MIN,
    ShardEngine, State, Surroundings, reconnect::Cold, wheel,
};
use crate::{ConnectionId, time::Timestamp};
use yao_protocol::{
    ShakeId, WallTime,
    client::{
        self, ClientMessage, ErrorCode, GoAway, GoAwayReason, Hello, NoWin, NoWinReason, Refusal,
        RetryClass, Shake, Welcome,
    },
    frame::Frame,
    receipt::RECEIPT_BYTES,
    reconnect::is_reconnect,
    tally::{TALLY_BYTES, Tally},
    ticket::TICKET_BYTES,
    token::Identity,
};

/// Not believed, or not for us; the client may come back with something better.
const fn closing(code: ErrorCode, class: RetryClass) -> Broken {
    Broken(Refusal { code, class, closes: true, delay_ms: 0, jitter_ms: 0 })
}

/// Token, ticket or tally is not to be believed. One answer for every reason.
pub(super) const NOT_BELIEVED: Broken = closing(ErrorCode::AuthFailed, RetryClass::Reauthenticate);

/// Too much at this moment; the connection stays.
const BUSY: Refusal = Refusal {
    code: ErrorCode::Busy,
    class: RetryClass::After,
    closes: false,
    delay_ms: 1_000,
    jitter_ms: 1_000,
};

impl ShardEngine {
    /// Does what `frame` asks.
    pub(super) fn read_frame(
        &mut self,
        now: Timestamp,
        surroundings: &Surroundings,
        slot: u32,
        frame: Frame<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), Broken> {
        let request_id = frame.header.request_id;
        let state = self.table.slot(slot).state();
        match (ClientMessage::decode(frame)?, state) {
            (ClientMessage::Shake(shake), State::Open | State::Leaving) => {
                if shake.campaign != self.settings.campaign {
                    return Err(closing(ErrorCode::WrongCampaign, RetryClass::Never));
                }
                // 0 means that nobody asked: the answer to such a draw could not be told apart
                // from a ticket that comes unasked.
                if request_id == 0 {
                    return Err(Broken::PROTOCOL);
                }
                self.on_shake(now, surroundings, slot, request_id, shake, out);
                Ok(())
            }
            (ClientMessage::Ping, State::Open | State::Leaving) => {
                client::put_pong(out, request_id, surroundings.wall);
                self.ask_for_renewal(surroundings, slot);
                Ok(())
            }
            (ClientMessage::Open(ticket), State::Open | State::Leaving) => {
                self.on_open(slot, request_id, ticket, out);
                Ok(())
            }
            (ClientMessage::Hello(hello), State::Greeting) => {
                self.on_hello(surroundings, slot, request_id, &hello)
            }
            (ClientMessage::Bye, _) => {
                self.begin_close(slot);
                Ok(())
            }
            (ClientMessage::Unknown, _) => Ok(()),
            // A second HELLO, or anything but HELLO before WELCOME.
            (_, _) => Err(Broken::PROTOCOL),
        }
    }

    fn on_hello(
        &mut self,
        surroundings: &Surroundings,
        slot: u32,
        request_id: u32,
        hello: &Hello<'_>,
    ) -> Result<(), Broken> {
        if !(hello.version_min..=hello.version_max).contains(&client::VERSION) {
            return Err(closing(ErrorCode::Version, RetryClass::Never));
        }
        if hello.campaign != self.settings.campaign {
            return Err(closing(ErrorCode::WrongCampaign, RetryClass::Never));
        }
        if self.refuses_new() {
            // Before any signature is checked, and before a ticket to come back with is used up.
            self.turn_away(slot);
            return Ok(());
        }
        let tally = match hello.tally {
            None => None,
            Some(bytes) => Some(self.believe_tally(bytes)?),
        };
        let effect = if is_reconnect(hello.token) {
            self.on_reconnect(surroundings, slot, hello.token)?
        } else {
            Effect::CheckToken { connection: self.id(slot), token: hello.token.to_vec() }
        };
        let connection = self.table.slot_mut(slot);
        connection.become_state(State::Checking);
        connection.hello_request = request_id;
        if let Some(tally) = tally {
            connection.user = tally.user;
            connection.wins = tally.wins;
            connection.sponsors = tally.sponsors;
            connection.tally_set();
        }
        self.effects.push_back(effect);
        Ok(())
    }

    fn believe_tally(&mut self, bytes: &[u8; TALLY_BYTES]) -> Result<Tally, Broken> {
        let tally = Tally::decode(bytes, &self.settings.mac_key);
        tally.ok().filter(|tally| tally.campaign == self.settings.campaign).ok_or_else(|| {
            self.counters.unauthenticated += 1;
            NOT_BELIEVED
        })
    }

    /// A session token was checked, or a reconnect ticket claimed; `None` when it is not to be
    /// believed.
    pub fn handle_token(
        &mut self,
        surroundings: &Surroundings,
        id: ConnectionId,
        identity: Option<Identity>,
        out: &mut Vec<u8>,
    ) {
        let Some(connection) = self.table.live_mut(id.slot, id.number) else { return };
        if connection.state() != State::Checking {
            return;
        }
        let request_id = connection.hello_request;
        let own_tally = |user| !connection.has_tally() || connection.user == user;
        let Some(identity) = identity.filter(|identity| own_tally(identity.user)) else {
            self.counters.unauthenticated += 1;
            self.refuse(id.slot, request_id, NOT_BELIEVED.into_refusal(), out);
            return;
        };
        if self.refuses_new() {
            // HELLO came before we began to refuse.
            self.turn_away(id.slot);
            return;
        }
        let connection = self.table.slot_mut(id.slot);
        connection.become_state(State::Open);
        connection.registered_set();
        connection.user = identity.user;
        self.admission.leave(id.slot);
        self.counters.welcomed += 1;
        let (wins, sponsors) = (connection.wins, connection.sponsors);
        let (user, bearer) = (identity.user, identity.bearer());
        self.effects.push_back(Effect::Opened { connection: id, user, wins, sponsors, bearer });
        self.welcome(surroundings).put(out, request_id);
        *self.table.cold_mut(id.slot) = Cold::of(&identity);
        self.put_reconnect_due(surroundings, id.slot, out);
    }

    /// No key here can have signed this session token: it is refused as any other, without having
    /// been checked.
    pub fn handle_token_implausible(
        &mut self,
        surroundings: &Surroundings,
        id: ConnectionId,
        out: &mut Vec<u8>,
    ) {
        self.counters.tokens_implausible += 1;
        self.handle_token(surroundings, id, None, out);
    }

    /// The thread that checks tokens has no room: the client is asked to come back.
    pub fn handle_token_busy(&mut self, id: ConnectionId, out: &mut Vec<u8>) {
        let Some(connection) = self.table.live_mut(id.slot, id.number) else { return };
        let request_id = connection.hello_request;
        let refusal = Refusal { closes: true, jitter_ms: 5_000, ..BUSY };
        self.refuse(id.slot, request_id, refusal, out);
    }

    fn welcome(&self, surroundings: &Surroundings) -> Welcome {
        Welcome {
            version: client::VERSION,
            tier: surroundings.tier,
            cue: surroundings.cue,
            shake_interval_ms: surroundings.shake_interval_ms,
            heartbeat_ms_min: self.settings.heartbeat_ms_min,
            heartbeat_ms_max: self.settings.heartbeat_ms_max,
            server_time: surroundings.wall,
            campaign: self.settings.campaign,
            wins_per_user: self.settings.wins_per_user,
            endpoints: self.settings.hint.endpoints.clone(),
        }
    }

    /// The hot path. A losing shake reads the gate's value, its own connection, and writes 32
    /// bytes.
    #[inline]
    fn on_shake(
        &mut self,
        now: Timestamp,
        surroundings: &Surroundings,
        slot: u32,
        request_id: u32,
        shake: Shake,
        out: &mut Vec<u8>,
    ) {
        self.counters.shakes += 1;
        self.counters.shakes_merged += u64::from(shake.merged_count);
        if shake.resend {
            self.on_resend(now, surroundings, slot, request_id, shake, out);
            return;
        }
        let wins_per_user = self.settings.wins_per_user;
        let connection = self.table.slot_mut(slot);
        let mut interval_ms = surroundings.shake_interval_ms;
        let reason = if now < connection.shake_from {
            let left = connection.shake_from.ns_since(now).div_ceil(1_000_000);
            interval_ms = u32::try_from(left).unwrap_or(u32::MAX);
            self.counters.lost_too_soon += 1;
            NoWinReason::TooSoon
        } else {
            if interval_ms > 0 {
                // A tenth is forgiven: the network may push two shakes together.
                connection.shake_from = now.plus_ns(u64::from(interval_ms) * 900_000);
            }
            let gate = surroundings.gate;
            if connection.wins >= wins_per_user {
                self.counters.lost_limit += 1;
                NoWinReason::LimitReached
            } else if gate.count == 0 || gate.sponsors.minus(connection.sponsors).is_empty() {
                if gate.running {
                    self.counters.lost_none_due += 1;
                    NoWinReason::NoneDue
                } else {
                    self.counters.lost_not_running += 1;
                    NoWinReason::NotRunning
                }
            } else if connection.is_pending() {
                self.counters.lost_pending += 1;
                NoWinReason::Pending
            } else {
                connection.pending_set(true);
                // Should its answer be lost on the way here, a RESEND fetches it after this time.
                connection.resend_tick = wheel::tick_after(now, DECISION_MS_MAX);
                self.counters.candidates += 1;
                let candidate = self.candidate(slot, request_id, shake.shake);
                self.effects.push_back(Effect::Candidate(candidate));
                return;
            }
        };
        put_no_win(surroundings, interval_ms, reason, shake.shake, request_id, out);
    }

    /// A SHAKE sent again goes to the issuer, who alone knows whether it won (M6).
    fn on_resend(
        &mut self,
        now: Timestamp,
        surroundings: &Surroundings,
        slot: u32,
        request_id: u32,
        shake: Shake,
        out: &mut Vec<u8>,
    ) {
        let tick = wheel::tick_of(now);
        let connection = self.table.slot_mut(slot);
        let early = connection.resend_tick.wrapping_sub(tick);
        if early != 0 && early < u32::MAX / 2 {
            let reason = if connection.is_pending() {
                self.counters.lost_pending += 1;
                NoWinReason::Pending
            } else {
                self.counters.lost_too_soon += 1;
                NoWinReason::TooSoon
            };
            put_no_win(surroundings, RESEND_MS_MIN, reason, shake.shake, request_id, out);
            return;
        }
        // Pending or not: the issuer knows whether it is, and the flag here may be left over from
        // an answer that found no room.
        connection.resend_tick = wheel::tick_after(now, RESEND_MS_MIN);
        connection.pending_set(true);
        self.counters.resends += 1;
        let candidate = self.candidate(slot, request_id, shake.shake);
        self.effects.push_back(Effect::Resend(candidate));
    }

    fn candidate(&self, slot: u32, request_id: u32, shake: ShakeId) -> CandidateShake {
        let connection = self.table.slot(slot);
        CandidateShake {
            connection: self.id(slot),
            request_id,
            shake,
            user: connection.user,
            wins: connection.wins,
            sponsors: connection.sponsors,
            bearer: self.table.cold(slot).bearer(),
        }
    }

    /// A candidate won nothing, or could not be handed on (`reason` says which).
    pub fn handle_lost(
        &mut self,
        surroundings: &Surroundings,
        id: ConnectionId,
        request_id: u32,
        shake: ShakeId,
        reason: NoWinReason,
        out: &mut Vec<u8>,
    ) {
        let Some(connection) = self.table.live_mut(id.slot, id.number) else { return };
        connection.pending_set(false);
        if reason == NoWinReason::NoneDue {
            self.counters.lost_none_due += 1;
        }
        put_no_win(surroundings, surroundings.shake_interval_ms, reason, shake, request_id, out);
    }

    /// A ticket for this connection: won now, found again, or due after WELCOME (request id 0).
    pub fn handle_won(
        &mut self,
        id: ConnectionId,
        request_id: u32,
        ticket: &[u8; TICKET_BYTES],
        tally: &[u8; TALLY_BYTES],
        out: &mut Vec<u8>,
    ) {
        let Some(connection) = self.table.live_mut(id.slot, id.number) else { return };
        if request_id != 0 {
            connection.pending_set(false);
        }
        let counted = Tally::peek(tally).expect("the issuer's tally is well formed");
        if connection.user != counted.user {
            return;
        }
        connection.wins = connection.wins.max(counted.wins);
        connection.sponsors = connection.sponsors.union(counted.sponsors);
        self.counters.won += 1;
        client::put_win(out, request_id, ticket, tally);
    }

    fn on_open(
        &mut self,
        slot: u32,
        request_id: u32,
        ticket: &[u8; TICKET_BYTES],
        out: &mut Vec<u8>,
    ) {
        self.counters.opens += 1;
        let connection = self.table.slot_mut(slot);
        if connection.opens_in_flight >= OPENS_IN_FLIGHT_MAX {
            self.refuse(slot, request_id, BUSY, out);
            return;
        }
        connection.opens_in_flight += 1;
        let (user, bearer) = (connection.user, self.table.cold(slot).bearer());
        let (connection, ticket) = (self.id(slot), Box::new(*ticket));
        self.effects.push_back(Effect::CheckTicket {
            connection,
            request_id,
            user,
            bearer,
            ticket,
        });
    }

    /// An open was decided: its receipt, or why not.
    pub fn handle_open_decided(
        &mut self,
        id: ConnectionId,
        request_id: u32,
        reply: Result<&[u8; RECEIPT_BYTES], Refusal>,
        out: &mut Vec<u8>,
    ) {
        let Some(connection) = self.table.live_mut(id.slot, id.number) else { return };
        connection.opens_in_flight = connection.opens_in_flight.saturating_sub(1);
        match reply {
            Ok(receipt) => {
                self.counters.receipts += 1;
                client::put_receipt(out, request_id, receipt);
            }
            Err(refusal) => self.refuse(id.slot, request_id, refusal, out),
        }
    }

    /// No thread has room for this open: the client asks again.
    pub fn handle_open_busy(&mut self, id: ConnectionId, request_id: u32, out: &mut Vec<u8>) {
        self.handle_open_decided(id, request_id, Err(BUSY), out);
    }

    /// The same user has a connection that was accepted later: that one wins.
    pub fn handle_replaced(&mut self, id: ConnectionId, out: &mut Vec<u8>) {
        let Some(connection) = self.table.live_mut(id.slot, id.number) else { return };
        if !matches!(connection.state(), State::Open | State::Leaving) {
            return;
        }
        self.counters.replaced += 1;
        let go_away = GoAway {
            reason: GoAwayReason::Replaced,
            class: RetryClass::Never,
            delay_ms: 0,
            jitter_ms: 0,
            endpoints: Vec::new(),
        };
        go_away.put(out);
        self.begin_close(id.slot);
    }
}

#[inline]
fn put_no_win(
    surroundings: &Surroundings,
    interval_ms: u32,
    reason: NoWinReason,
    shake: ShakeId,
    request_id: u32,
    out: &mut Vec<u8>,
) {
    let server_time: WallTime = surroundings.wall;
    let (cue, tier) = (surroundings.cue, surroundings.tier);
    NoWin { shake, server_time, interval_ms, cue, reason, tier }.put(out, request_id);
}
