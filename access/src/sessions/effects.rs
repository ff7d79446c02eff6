//! Doing what the engine asks for.

use super::{Carrier, Sessions};
use crate::messages::{ToCrypto, ToIssuer, ToShard};
use yao_engine::{
    ConnectionId,
    shard::{CandidateShake, Effect, Surroundings},
};
use yao_protocol::{UserId, WallTime, client::NoWinReason};

impl<C: Carrier> Sessions<'_, C> {
    /// Does everything the engine asks for.
    pub(super) fn do_effects(&mut self, surroundings: &Surroundings) {
        while let Some(effect) = self.engine.poll_effect() {
            self.do_effect(surroundings, effect);
        }
    }

    fn do_effect(&mut self, surroundings: &Surroundings, effect: Effect) {
        match effect {
            Effect::CheckToken { connection, token } => {
                let mut out = Vec::new();
                // What cannot be good must not wait behind, nor take the room of, what may be.
                if !self.context.tokens.load().is_plausible(&token) {
                    self.engine.handle_token_implausible(surroundings, connection, &mut out);
                } else if !self.ask_crypto(connection, ToCrypto::Token { connection, token }) {
                    self.engine.handle_token_busy(connection, &mut out);
                }
                self.send(connection, &out);
            }
            Effect::ClaimReconnect { connection, identity, issued_at } => {
                let fits = self.context.registry.claim(surroundings.wall, &identity, issued_at);
                let identity = fits.then_some(identity);
                let mut out = Vec::new();
                self.engine.handle_token(surroundings, connection, identity, &mut out);
                self.send(connection, &out);
            }
            Effect::RenewReconnect { connection, user } => {
                let mut out = Vec::new();
                if self.context.registry.is_current(user, connection) {
                    self.engine.handle_renewal(surroundings, connection, &mut out);
                } else {
                    // Word of its successor was lost, or is on its way.
                    self.engine.handle_replaced(connection, &mut out);
                }
                self.send(connection, &out);
            }
            Effect::Opened { connection, user, wins, sponsors, bearer } => {
                if self.enter(surroundings.wall, connection, (user, bearer.device)) {
                    // Without room the user's tickets come with his next session, or by RESEND.
                    let welcomed = ToIssuer::Welcomed { connection, user, wins, sponsors, bearer };
                    self.context.issuer.try_send(welcomed).ok();
                }
            }
            Effect::Candidate(candidate) => self.hand_on(surroundings, candidate),
            Effect::Resend(candidate) => {
                self.context.registry.drawn(candidate.user);
                if self.context.issuer.try_send(ToIssuer::Resend(candidate)).is_err() {
                    self.lost(surroundings, &candidate, NoWinReason::Busy);
                }
            }
            Effect::CheckTicket { connection, request_id, user, bearer, ticket } => {
                let message = ToCrypto::Ticket { connection, request_id, user, bearer, ticket };
                if !self.ask_crypto(connection, message) {
                    let mut out = Vec::new();
                    self.engine.handle_open_busy(connection, request_id, &mut out);
                    self.send(connection, &out);
                }
            }
            Effect::AskToLeave { count_max } => {
                let now = self.context.node.clock.now();
                let ask = |count| self.engine.handle_ask_to_leave(now, count);
                self.context.orders.ask_to_leave(now, count_max, ask);
            }
            Effect::Send { connection, bytes } => self.send(connection, &bytes),
            Effect::Close { connection } => self.close(connection),
        }
    }

    /// Enters the connection as its user's, and sees to it that he has but one. Returns whether the
    /// issuer must hear of it.
    fn enter(
        &mut self,
        now: WallTime,
        connection: ConnectionId,
        (user, device): (UserId, u64),
    ) -> bool {
        // Its WELCOME may have found the socket broken: nobody would ever take it out of the
        // registry again.
        if !self.engine.is_live(connection) {
            return false;
        }
        let opened = self.context.registry.opened(now, user, device, connection);
        if opened.replaced == Some(connection) {
            // Its HELLO was overtaken: he is here on a connection that was accepted after it.
            let mut out = Vec::new();
            self.engine.handle_replaced(connection, &mut out);
            self.send(connection, &out);
            return false;
        }
        if let Some(older) = opened.replaced {
            self.context.shards.send(older.thread, ToShard::Replaced { connection: older });
        }
        opened.drawn
    }

    /// Takes a slot of the gate and pushes the candidate in one step, undone when the queue is
    /// full.
    fn hand_on(&mut self, surroundings: &Surroundings, candidate: CandidateShake) {
        if !self.context.gate.take() {
            self.lost(surroundings, &candidate, NoWinReason::NoneDue);
            return;
        }
        self.context.registry.drawn(candidate.user);
        if self.context.issuer.try_send(ToIssuer::Candidate(candidate)).is_err() {
            self.context.gate.give_back();
            self.lost(surroundings, &candidate, NoWinReason::Busy);
        }
    }

    fn lost(
        &mut self,
        surroundings: &Surroundings,
        candidate: &CandidateShake,
        reason: NoWinReason,
    ) {
        let mut out = Vec::new();
        let (connection, request_id) = (candidate.connection, candidate.request_id);
        let shake = candidate.shake;
        self.engine.handle_lost(surroundings, connection, request_id, shake, reason, &mut out);
        self.send(connection, &out);
    }

    /// The same crypto thread for all of a connection's questions keeps their order.
    fn ask_crypto(&self, connection: ConnectionId, message: ToCrypto) -> bool {
        let threads = self.context.crypto.len();
        let queue = self.context.crypto.get(connection.slot as usize % threads.max(1));
        queue.is_some_and(|queue| queue.try_send(message).is_ok())
    }

    /// Sends `bytes` to a connection of this thread; one that is gone gets nothing.
    pub(super) fn send(&mut self, connection: ConnectionId, bytes: &[u8]) {
        if bytes.is_empty() || !self.engine.is_live(connection) {
            return;
        }
        if !self.carrier.send(connection.slot, bytes) {
            self.drop_connection(connection.slot);
        }
    }

    /// The engine wants the connection closed; its last bytes are with the kernel already.
    fn close(&mut self, connection: ConnectionId) {
        if self.engine.is_live(connection) {
            self.drop_connection(connection.slot);
        }
    }

    /// The connection in `slot` is over, whoever ended it.
    pub fn drop_connection(&mut self, slot: u32) {
        if !self.carrier.is_live(slot) {
            return;
        }
        self.carrier.remove(slot);
        if let Some((connection, user)) = self.engine.handle_closed(slot)
            && let Some(user) = user
        {
            self.context.registry.closed(user, connection);
        }
    }
}
