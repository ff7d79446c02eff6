//! Bytes of clients into the shard engine: no panic, every answer a whole and readable frame, and
//! the same answers wherever the bytes are cut.

use crate::{
    seeds::{self, CAMPAIGN, mac_key, vectors},
    tape::Tape,
};
use yao_engine::{
    ConnectionId, GateView, Timestamp,
    shard::{Counters, Effect, Hint, Reconnect, Settings, ShardEngine, Surroundings},
};
use yao_protocol::{
    SponsorSet, UserId, WallTime,
    client::{Hello, NoWinReason, ServerMessage, Shake, kind, put_empty, put_open},
    frame::split_frame,
    limits::CLIENT_PAYLOAD_BYTES_MAX,
    reconnect::ReconnectKeys,
    ticket::TICKET_BYTES,
    token::Identity,
};

/// Connections at a time: one beyond it is refused.
const CONNECTIONS_MAX: u32 = 3;
/// The user of the golden vectors.
const USER: UserId = UserId(1_234_567_890_123);

/// Whole frames of a client, without anything before them.
pub(crate) fn seeds_of_messages() -> Vec<Vec<u8>> {
    let shake = Shake {
        shake: yao_protocol::ShakeId(7),
        campaign: CAMPAIGN,
        merged_count: 1,
        resend: false,
    };
    let mut shakes = Vec::new();
    shake.put(&mut shakes, 5);
    Shake { resend: true, ..shake }.put(&mut shakes, 6);
    let mut rest = Vec::new();
    put_empty(&mut rest, kind::PING, 7);
    put_open(&mut rest, 8, &[9; TICKET_BYTES]);
    let mut all = seeds::of(&[vectors!("client-message"), vectors!("frame")]);
    all.extend([shakes, rest]);
    all
}

/// Operations, each with its bytes.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let operation = |bytes: &[u8]| {
        let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX).to_le_bytes();
        [&[1, 0, length[0], length[1]][..], bytes].concat()
    };
    let messages = seeds_of_messages();
    let single = messages.iter().map(|message| [vec![0, 0], operation(message)].concat());
    let welcomed = [vec![0, 0], operation(&hello()), vec![2, 0, 1]].concat();
    // A second HELLO, or BYE, would end the session before the rest is read.
    let ends = |message: &&Vec<u8>| matches!(message.get(2), Some(&(kind::HELLO | kind::BYE)));
    let (last, first): (Vec<_>, Vec<_>) = messages.iter().partition(ends);
    let session = first.into_iter().chain(last).flat_map(|message| operation(message));
    let all = welcomed.iter().copied().chain(session).collect();
    single.chain([welcomed, all]).collect()
}

fn hello() -> Vec<u8> {
    let mut bytes = Vec::new();
    let (version_min, version_max, software) = (1, 1, 1);
    let (campaign, tally, token) = (CAMPAIGN, None, &b"eyJ.e30.c2ln"[..]);
    Hello { version_min, version_max, software, campaign, tally, token }.put(&mut bytes, 1);
    bytes
}

pub(crate) fn run(bytes: &[u8]) {
    operations(bytes);
    cuts(bytes);
}

fn settings() -> Settings {
    let keys = ReconnectKeys::new(vec![mac_key()]).expect("one key");
    Settings {
        thread: 1,
        connections_max: CONNECTIONS_MAX,
        reconnect: Some(Reconnect { keys, lifetime_seconds: 1_200 }),
        heartbeat_ms_max: 60_000,
        hint: Hint { endpoints: vec!["tls://other.example:7443".to_owned()], ..Hint::default() },
        ..Settings::new(CAMPAIGN, mac_key())
    }
}

fn surroundings() -> Surroundings {
    let gate = GateView { sponsors: SponsorSet(0b101), count: 3, running: true };
    let wall = WallTime(1_424_269_800_000_000);
    Surroundings { gate, wall, shake_interval_ms: 200, cue: 3, tier: 0 }
}

/// The engine, and what its shell would know.
struct World {
    engine: ShardEngine,
    now: Timestamp,
    surroundings: Surroundings,
    live: Vec<ConnectionId>,
    accepted: u32,
    /// What was asked and not answered yet.
    asked: Vec<Effect>,
}

impl World {
    fn new() -> Self {
        let now = Timestamp::from_ns(1_000_000_000_000);
        let engine = ShardEngine::new(settings(), now);
        Self {
            engine,
            now,
            surroundings: surroundings(),
            live: Vec::new(),
            accepted: 0,
            asked: Vec::new(),
        }
    }

    /// The connection that a byte names, if there is one.
    fn chosen(&self, byte: u8) -> Option<ConnectionId> {
        let count = self.live.len().max(1);
        self.live.get(usize::from(byte) % count).copied()
    }

    fn receive(&mut self, id: ConnectionId, bytes: &[u8]) {
        let mut out = Vec::new();
        let (now, surroundings) = (self.now, self.surroundings);
        let goes_on = self.engine.handle_received(now, &surroundings, id.slot, bytes, &mut out);
        readable(&out);
        self.perform();
        assert!(goes_on || !self.live.contains(&id), "nothing more is read, yet nothing closes");
    }

    /// What the shell does at once; questions wait for an answer.
    fn perform(&mut self) {
        while let Some(effect) = self.engine.poll_effect() {
            match effect {
                Effect::Close { connection } => self.close(connection),
                Effect::Send { connection, bytes } => {
                    assert!(self.live.contains(&connection), "bytes for nobody");
                    readable(&bytes);
                }
                Effect::Opened { .. } => {}
                Effect::AskToLeave { count_max } => {
                    let asked = self.engine.handle_ask_to_leave(self.now, count_max);
                    assert!(asked <= count_max, "{asked} are asked of {count_max}");
                }
                question => self.asked.push(question),
            }
        }
    }

    fn close(&mut self, id: ConnectionId) {
        self.engine.handle_closed(id.slot).expect("it was live");
        assert!(!self.engine.is_live(id), "closed and live");
        self.live.retain(|live| *live != id);
    }

    fn answer(&mut self, which: u8, how: u8) {
        if self.asked.is_empty() {
            return;
        }
        let question = self.asked.remove(usize::from(which) % self.asked.len());
        let (mut out, surroundings) = (Vec::new(), self.surroundings);
        let engine = &mut self.engine;
        match question {
            Effect::CheckToken { connection, .. } if how % 4 == 3 => {
                engine.handle_token_busy(connection, &mut out);
            }
            Effect::CheckToken { connection, .. } => {
                let expires_at = surroundings.wall.plus_us(u64::from(how) * 60_000_000);
                let user = if how.is_multiple_of(3) { UserId(9) } else { USER };
                let identity = Identity { user, device: 1, risk: how, expires_at };
                let identity = Some(identity).filter(|_| how != 0);
                engine.handle_token(&surroundings, connection, identity, &mut out);
            }
            Effect::ClaimReconnect { connection, identity, .. } => {
                let identity = Some(identity).filter(|_| how != 0);
                engine.handle_token(&surroundings, connection, identity, &mut out);
            }
            Effect::RenewReconnect { connection, .. } if how % 4 == 3 => {
                engine.handle_replaced(connection, &mut out);
            }
            Effect::RenewReconnect { connection, .. } => {
                engine.handle_renewal(&surroundings, connection, &mut out);
            }
            Effect::Candidate(asked) | Effect::Resend(asked) => {
                let reason = NoWinReason::from_number(how % 6).expect("below 6");
                let (id, request) = (asked.connection, asked.request_id);
                engine.handle_lost(&surroundings, id, request, asked.shake, reason, &mut out);
            }
            Effect::CheckTicket { connection, request_id, .. } => {
                engine.handle_open_busy(connection, request_id, &mut out);
            }
            Effect::Opened { .. }
            | Effect::Send { .. }
            | Effect::AskToLeave { .. }
            | Effect::Close { .. } => {}
        }
        readable(&out);
        self.perform();
    }
}

/// Every frame that leaves is whole, and one that a client understands.
fn readable(mut out: &[u8]) {
    while !out.is_empty() {
        let (frame, rest) = split_frame(out, CLIENT_PAYLOAD_BYTES_MAX)
            .expect("no longer than a client takes")
            .expect("whole");
        ServerMessage::decode(frame).expect("a message of the server");
        out = rest;
    }
}

fn operations(bytes: &[u8]) -> Counters {
    let mut tape = Tape::new(bytes);
    let mut world = World::new();
    while let Some(operation) = tape.next() {
        let which = tape.byte();
        match operation % 8 {
            0 => {
                world.accepted += 1;
                let accepted = world.engine.handle_accepted(world.now, true, world.accepted);
                assert_eq!(accepted.is_none(), world.live.len() == CONNECTIONS_MAX as usize);
                world.live.extend(accepted);
            }
            1 => {
                let length = usize::from(tape.short());
                let bytes = tape.bytes(length);
                if let Some(id) = world.chosen(which) {
                    world.receive(id, bytes);
                }
            }
            2 => world.answer(which, tape.byte()),
            3 => {
                world.now = world.now.plus_ms(u64::from(which) * 40);
                world.surroundings.wall =
                    world.surroundings.wall.plus_us(u64::from(which) * 40_000);
                world.engine.handle_time(world.now);
                world.perform();
            }
            4 => {
                if let Some(id) = world.chosen(which) {
                    world.close(id);
                }
            }
            5 => {
                if let Some(id) = world.chosen(which) {
                    let mut out = Vec::new();
                    world.engine.handle_replaced(id, &mut out);
                    readable(&out);
                    world.perform();
                }
            }
            6 => {
                let cut = tape.byte() % 2 == 1;
                if let Some(id) = world.chosen(which) {
                    world.engine.handle_cut(world.now, id.slot, cut);
                }
            }
            _ if which < 128 => world.engine.handle_drain(world.now),
            _ => world.engine.handle_refuse_new(which % 2 == 1),
        }
        let kept = world.engine.partial_bytes();
        assert!(kept <= world.live.len() * (CLIENT_PAYLOAD_BYTES_MAX + 8), "{kept} bytes are kept");
        assert_eq!(world.engine.connections() as usize, world.live.len());
    }
    for id in world.live.clone() {
        world.close(id);
    }
    assert_eq!((world.engine.connections(), world.engine.partial_bytes()), (0, 0));
    *world.engine.counters()
}

/// A stream is answered alike whole and in pieces whose sizes are its first four bytes.
fn cuts(bytes: &[u8]) {
    let (sizes, stream) = bytes.split_at(bytes.len().min(4));
    let whole = answered(stream, &[stream.len().max(1)]);
    let sizes: Vec<usize> = sizes.iter().map(|size| usize::from(size % 40) + 1).collect();
    let pieces = answered(stream, if sizes.is_empty() { &[1] } else { &sizes });
    assert_eq!(whole, pieces, "the answer depends on where the bytes are cut");
}

/// The answers and effects to HELLO, a good token, and these bytes in pieces.
fn answered(stream: &[u8], sizes: &[usize]) -> (Vec<u8>, Vec<Effect>) {
    let (now, surroundings) = (Timestamp::from_ns(1_000_000_000_000), surroundings());
    let mut engine = ShardEngine::new(settings(), now);
    let id = engine.handle_accepted(now, true, 0).expect("room");
    let mut out = Vec::new();
    assert!(engine.handle_received(now, &surroundings, id.slot, &hello(), &mut out));
    let expires_at = surroundings.wall.plus_us(600_000_000);
    let identity = Identity { user: USER, device: 1, risk: 0, expires_at };
    engine.handle_token(&surroundings, id, Some(identity), &mut out);
    let mut sizes = sizes.iter().cycle();
    let mut rest = stream;
    while !rest.is_empty() {
        let size = sizes.next().copied().unwrap_or(1).min(rest.len());
        let (piece, tail) = rest.split_at(size);
        if !engine.handle_received(now, &surroundings, id.slot, piece, &mut out) {
            break;
        }
        rest = tail;
    }
    (out, std::iter::from_fn(|| engine.poll_effect()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sessions_by_hand_come_as_far_as_shakes_and_opens() {
        let counted: Vec<Counters> = seeds().iter().map(|seed| operations(seed)).collect();
        let sum = |count: fn(&Counters) -> u64| counted.iter().map(count).sum::<u64>();
        assert!(sum(|counters| counters.welcomed) > 0);
        assert!(sum(|counters| counters.shakes) > 0);
        assert!(sum(|counters| counters.opens) > 0);
        assert!(sum(|counters| counters.malformed) > 0);
    }
}
