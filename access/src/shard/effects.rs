//! What a socket's readiness means, and doing what the engine asks for.

use super::{Shard, sockets::Received};
use crate::messages::{ToCrypto, ToIssuer, ToShard};
use mio::event::Event;
use yao_engine::{
    ConnectionId, Timestamp,
    shard::{CandidateShake, Effect, Surroundings},
};
use yao_protocol::client::NoWinReason;

/// Full buffers read from one socket before the others have their turn.
const READS_MAX: u32 = 8;

impl Shard<'_> {
    pub(super) fn on_socket(
        &mut self,
        now: Timestamp,
        surroundings: &Surroundings,
        number: usize,
        event: &Event,
        buffer: &mut [u8],
    ) {
        let Ok(slot) = u32::try_from(number) else { return };
        if event.is_writable() && !self.sockets.flush(self.ports.poll.registry(), slot) {
            self.drop_connection(slot);
            return;
        }
        // A peer that closed its side may still have bytes in the buffer: read to the end.
        let to_the_end = event.is_read_closed() || event.is_error();
        if event.is_readable() || to_the_end {
            self.read_socket(now, surroundings, slot, to_the_end, buffer);
        }
    }

    fn read_socket(
        &mut self,
        now: Timestamp,
        surroundings: &Surroundings,
        slot: u32,
        to_the_end: bool,
        buffer: &mut [u8],
    ) {
        let mut out = std::mem::take(&mut self.out);
        // The gate may have changed since the batch of events began: each socket reads it anew.
        let mut surroundings = *surroundings;
        // A peer that sends faster than it is read must not keep the thread from all others.
        for round in 1.. {
            if round > READS_MAX && !to_the_end {
                if !self.sockets.rearm(self.ports.poll.registry(), slot) {
                    self.drop_connection(slot);
                }
                break;
            }
            match self.sockets.receive(slot, buffer) {
                Received::Bytes(count) => {
                    out.clear();
                    surroundings.gate = self.context.gate.view();
                    let bytes = &buffer[..count];
                    let more =
                        self.engine.handle_received(now, &surroundings, slot, bytes, &mut out);
                    let sent = self.sockets.send(self.ports.poll.registry(), slot, &out);
                    self.do_effects(&surroundings);
                    if !sent {
                        self.drop_connection(slot);
                    }
                    if !more || !sent || (count < buffer.len() && !to_the_end) {
                        break;
                    }
                }
                Received::Empty => break,
                Received::Closed => {
                    self.drop_connection(slot);
                    break;
                }
            }
        }
        self.out = out;
    }

    /// Does everything the engine asks for.
    pub(super) fn do_effects(&mut self, surroundings: &Surroundings) {
        while let Some(effect) = self.engine.poll_effect() {
            self.do_effect(surroundings, effect);
        }
    }

    fn do_effect(&mut self, surroundings: &Surroundings, effect: Effect) {
        match effect {
            Effect::CheckToken { connection, token } => {
                if !self.ask_crypto(connection, ToCrypto::Token { connection, token }) {
                    let mut out = Vec::new();
                    self.engine.handle_token_busy(connection, &mut out);
                    self.send(connection, &out);
                }
            }
            Effect::Opened { connection, user, wins, sponsors } => {
                // Its WELCOME may have found the socket broken: nobody would ever take it out of
                // the registry again.
                if !self.engine.is_live(connection) {
                    return;
                }
                if let Some(older) = self.context.registry.opened(user, connection) {
                    self.context.shards.send(older.thread, ToShard::Replaced { connection: older });
                }
                // Without room the user's tickets come with his next session, or by RESEND.
                let welcomed = ToIssuer::Welcomed { connection, user, wins, sponsors };
                self.context.issuer.try_send(welcomed).ok();
            }
            Effect::Candidate(candidate) => self.hand_on(surroundings, candidate),
            Effect::Resend(candidate) => {
                if self.context.issuer.try_send(ToIssuer::Resend(candidate)).is_err() {
                    self.lost(surroundings, &candidate, NoWinReason::Busy);
                }
            }
            Effect::CheckTicket { connection, request_id, user, ticket } => {
                let message = ToCrypto::Ticket { connection, request_id, user, ticket };
                if !self.ask_crypto(connection, message) {
                    let mut out = Vec::new();
                    self.engine.handle_open_busy(connection, request_id, &mut out);
                    self.send(connection, &out);
                }
            }
            Effect::Send { connection, bytes } => self.send(connection, &bytes),
            Effect::Close { connection } => self.close(connection),
        }
    }

    /// Takes a slot of the gate and pushes the candidate in one step, undone when the queue is
    /// full.
    fn hand_on(&mut self, surroundings: &Surroundings, candidate: CandidateShake) {
        if !self.context.gate.take() {
            self.lost(surroundings, &candidate, NoWinReason::NoneDue);
        } else if self.context.issuer.try_send(ToIssuer::Candidate(candidate)).is_err() {
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
        if !self.sockets.send(self.ports.poll.registry(), connection.slot, bytes) {
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
    fn drop_connection(&mut self, slot: u32) {
        if !self.sockets.is_live(slot) {
            return;
        }
        self.sockets.remove(slot);
        if let Some((connection, user)) = self.engine.handle_closed(slot)
            && let Some(user) = user
        {
            self.context.registry.closed(user, connection);
        }
    }
}
