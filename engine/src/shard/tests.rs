//! Sessions told as bytes in and bytes out.

mod leaving;
mod reconnect;
mod slow;

use super::{CandidateShake, Effect, Hint, Settings, ShardEngine, State, Surroundings};
use crate::{ConnectionId, gate::GateView, time::Timestamp};
use yao_protocol::{
    CampaignId, Epoch, Fen, KeyId, PacketId, PacketIndex, ShakeId, ShardId, SponsorId, SponsorSet,
    UserId, WallTime, WaveIndex,
    client::{
        ClientMessage, ErrorCode, GoAwayReason, Hello, NoWinReason, RetryClass, ServerMessage,
        Shake, kind, put_empty, put_open,
    },
    frame::{Frame, FrameHeader, put_frame, split_frame},
    keys::{MacKey, SignKey},
    tally::{TALLY_BYTES, Tally},
    ticket::{Ticket, TicketBody},
    token::{Bearer, Identity},
};

const CAMPAIGN: CampaignId = CampaignId(7);
const USER: UserId = UserId(77);
const BEARER: Bearer = Bearer { device: 5, risk: 2 };

fn at(ms: u64) -> Timestamp {
    Timestamp::from_ns(ms * 1_000_000)
}

fn mac_key() -> MacKey {
    MacKey::new(KeyId(1), [9; 32])
}

fn hint(endpoint: &str) -> Hint {
    let endpoints = vec![endpoint.to_owned()];
    let (return_ms_min, return_ms_jitter) = (1_000, 10_000);
    Hint { return_ms_min, return_ms_jitter, endpoints, ..Hint::default() }
}

/// One engine with one connection.
struct World {
    engine: ShardEngine,
    now: Timestamp,
    surroundings: Surroundings,
    connection: ConnectionId,
    accepted: u32,
}

impl World {
    fn new() -> Self {
        Self::new_at(at(1_000_000))
    }

    fn new_at(now: Timestamp) -> Self {
        let settings = Settings {
            thread: 3,
            connections_max: 1_000,
            heartbeat_ms_max: 60_000,
            hint: hint("other:1"),
            ..Settings::new(CAMPAIGN, mac_key())
        };
        let mut engine = ShardEngine::new(settings, now);
        let connection = engine.handle_accepted(now, true, 0).expect("room");
        let surroundings = Surroundings {
            gate: GateView::default(),
            wall: WallTime(5),
            shake_interval_ms: 0,
            cue: 4,
            tier: 0,
        };
        Self { engine, now, surroundings, connection, accepted: 0 }
    }

    /// Another connection.
    fn accept(&mut self) -> ConnectionId {
        self.accepted += 1;
        self.engine.handle_accepted(self.now, true, self.accepted).expect("room")
    }

    /// A world whose connection has been welcomed.
    fn open() -> Self {
        Self::new().opened()
    }

    fn opened(mut self) -> Self {
        self.greet(None);
        self.believe(USER);
        self
    }

    fn greet(&mut self, tally: Option<&[u8; TALLY_BYTES]>) -> Vec<u8> {
        let mut bytes = Vec::new();
        let hello = Hello {
            version_min: 1,
            version_max: 1,
            software: 1,
            campaign: CAMPAIGN,
            tally,
            token: b"token",
        };
        hello.put(&mut bytes, 11);
        self.receive(&bytes)
    }

    fn believe(&mut self, user: UserId) -> Vec<u8> {
        let Bearer { device, risk } = BEARER;
        let identity = Identity { user, device, risk, expires_at: WallTime(u64::MAX) };
        let mut out = Vec::new();
        let connection = self.connection;
        self.engine.handle_token(&self.surroundings, connection, Some(identity), &mut out);
        out
    }

    fn receive(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let (now, slot) = (self.now, self.connection.slot);
        self.engine.handle_received(now, &self.surroundings, slot, bytes, &mut out);
        out
    }

    fn effects(&mut self) -> Vec<Effect> {
        std::iter::from_fn(|| self.engine.poll_effect()).collect()
    }

    fn state(&self) -> State {
        self.engine.table.slot(self.connection.slot).state()
    }

    fn gate(&mut self, sponsors: u64, count: u32) {
        self.surroundings.gate = GateView { sponsors: SponsorSet(sponsors), count, running: true };
    }
}

fn messages(bytes: &[u8]) -> Vec<(FrameHeader, ServerMessage<'_>)> {
    let mut rest = bytes;
    let mut found = Vec::new();
    while let Some((frame, tail)) = split_frame(rest, 16 * 1024).expect("our own frames") {
        let Frame { header, .. } = frame;
        found.push((header, ServerMessage::decode(frame).expect("our own messages")));
        rest = tail;
    }
    assert!(rest.is_empty(), "only whole frames are sent");
    found
}

fn shake(id: u64, resend: bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    Shake { shake: ShakeId(id), campaign: CAMPAIGN, merged_count: 1, resend }.put(&mut bytes, 21);
    bytes
}

/// The reason of the only answer, a NO_WIN.
fn reason(bytes: &[u8]) -> NoWinReason {
    match messages(bytes).as_slice() {
        [(_, ServerMessage::NoWin(no_win))] => no_win.reason,
        other => panic!("one NO_WIN, not {other:?}"),
    }
}

#[test]
fn hello_is_checked_and_welcomed() {
    let mut world = World::new();
    assert!(world.greet(None).is_empty());
    let connection = world.connection;
    let expected = Effect::CheckToken { connection, token: b"token".to_vec() };
    assert_eq!(world.effects(), [expected]);
    let out = world.believe(USER);
    let found = messages(&out);
    assert_eq!(found[0].0.request_id, 11);
    assert!(matches!(&found[0].1, ServerMessage::Welcome(welcome)
        if welcome.wins_per_user == 3 && welcome.endpoints == ["other:1"]));
    assert_eq!(
        world.effects(),
        [Effect::Opened {
            connection,
            user: USER,
            wins: 0,
            sponsors: SponsorSet::EMPTY,
            bearer: BEARER
        }]
    );
    assert_eq!(world.state(), State::Open);
}

#[test]
fn whatever_breaks_the_protocol_gets_one_error_and_is_closed() {
    let hello = || {
        let mut bytes = Vec::new();
        put_empty(&mut bytes, kind::PING, 1);
        bytes
    };
    let mut giant =
        FrameHeader { payload_bytes: 1_025, kind: 1, flags: 0, request_id: 0 }.encode().to_vec();
    giant.push(0);
    let mut unknown = Vec::new();
    put_empty(&mut unknown, 0x3f, 1);
    let mut flags = shake(1, false);
    flags[3] = 0x80;
    let check = |open: bool, bytes: &[u8], code: ErrorCode| {
        let mut world = if open { World::open() } else { World::new() };
        world.effects();
        let out = world.receive(bytes);
        let found = messages(&out);
        assert!(
            matches!(&found[..], [(_, ServerMessage::Error(refusal))]
            if refusal.code == code && refusal.closes),
            "{found:?}"
        );
        let connection = world.connection;
        assert_eq!(world.effects(), [Effect::Close { connection }]);
        assert!(world.receive(&shake(2, false)).is_empty(), "nothing is read after it");
    };
    check(false, &hello(), ErrorCode::Protocol);
    check(false, &giant, ErrorCode::Protocol);
    check(false, &shake(1, false), ErrorCode::Protocol);
    check(true, &unknown, ErrorCode::Protocol);
    check(true, &flags, ErrorCode::Protocol);
    let mut unasked = shake(1, false);
    unasked[4..8].fill(0);
    check(true, &unasked, ErrorCode::Protocol);
    let mut elsewhere = shake(1, false);
    elsewhere[16] ^= 1;
    check(true, &elsewhere, ErrorCode::WrongCampaign);
    let mut second = Vec::new();
    let tally = None;
    Hello { version_min: 1, version_max: 1, software: 0, campaign: CAMPAIGN, tally, token: b"t" }
        .put(&mut second, 1);
    check(true, &second, ErrorCode::Protocol);
    let mut newer = Vec::new();
    Hello { version_min: 2, version_max: 9, software: 0, campaign: CAMPAIGN, tally, token: b"t" }
        .put(&mut newer, 1);
    check(false, &newer, ErrorCode::Version);
    let campaign = CampaignId(8);
    let mut foreign = Vec::new();
    Hello { version_min: 1, version_max: 1, software: 0, campaign, tally, token: b"t" }
        .put(&mut foreign, 1);
    check(false, &foreign, ErrorCode::WrongCampaign);
}

#[test]
fn an_optional_kind_is_ignored() {
    let mut world = World::open();
    let mut bytes = Vec::new();
    put_frame(&mut bytes, 0x7f, 0, 1, |out| out.extend_from_slice(b"later"));
    assert!(world.receive(&bytes).is_empty());
    assert_eq!(world.state(), State::Open);
}

#[test]
fn a_forged_tally_or_another_users_is_refused() {
    let own = Tally { wins: 1, sponsors: SponsorSet(2), ..Tally::empty(CAMPAIGN, USER) };
    let mut forged = own.encode(&mac_key());
    forged[1] = 0;
    let mut world = World::new();
    let out = world.greet(Some(&forged));
    assert!(matches!(&messages(&out)[..], [(_, ServerMessage::Error(refusal))]
        if refusal.code == ErrorCode::AuthFailed));
    let mut world = World::new();
    assert!(world.greet(Some(&own.encode(&mac_key()))).is_empty());
    let out = world.believe(UserId(78));
    assert!(matches!(&messages(&out)[..], [(_, ServerMessage::Error(refusal))]
        if refusal.code == ErrorCode::AuthFailed
            && refusal.class == RetryClass::Reauthenticate));
}

#[test]
fn every_reason_of_a_losing_shake() {
    let mut world = World::open();
    assert_eq!(reason(&world.receive(&shake(1, false))), NoWinReason::NotRunning);
    world.gate(0, 0);
    assert_eq!(reason(&world.receive(&shake(2, false))), NoWinReason::NoneDue);
    world.surroundings.shake_interval_ms = 1_000;
    assert_eq!(reason(&world.receive(&shake(3, false))), NoWinReason::NoneDue);
    world.now = at(1_000_899);
    let out = world.receive(&shake(4, false));
    assert!(matches!(&messages(&out)[..], [(header, ServerMessage::NoWin(no_win))]
        if no_win.reason == NoWinReason::TooSoon && no_win.interval_ms == 1
            && header.request_id == 21 && no_win.shake == ShakeId(4)));
    world.now = at(1_000_900);
    assert_eq!(reason(&world.receive(&shake(5, false))), NoWinReason::NoneDue);
}

#[test]
fn a_sponsor_already_won_is_no_candidate_and_the_limit_ends_it() {
    let tally = Tally { wins: 2, sponsors: SponsorSet(0b11), ..Tally::empty(CAMPAIGN, USER) };
    let mut world = World::new();
    world.greet(Some(&tally.encode(&mac_key())));
    world.believe(USER);
    world.effects();
    world.gate(0b11, 5);
    assert_eq!(reason(&world.receive(&shake(1, false))), NoWinReason::NoneDue);
    world.gate(0b111, 5);
    assert!(world.receive(&shake(2, false)).is_empty());
    let candidate = CandidateShake {
        connection: world.connection,
        request_id: 21,
        shake: ShakeId(2),
        user: USER,
        wins: 2,
        sponsors: SponsorSet(0b11),
        bearer: BEARER,
    };
    assert_eq!(world.effects(), [Effect::Candidate(candidate)]);
    assert_eq!(reason(&world.receive(&shake(3, false))), NoWinReason::Pending);
    let won = Tally { wins: 3, sponsors: SponsorSet(0b111), ..tally };
    let mut out = Vec::new();
    let (connection, bytes) = (world.connection, won.encode(&mac_key()));
    world.engine.handle_won(connection, 21, &ticket().encode(), &bytes, &mut out);
    assert!(matches!(&messages(&out)[..], [(header, ServerMessage::Win { .. })]
        if header.request_id == 21));
    world.gate(u64::MAX, 5);
    assert_eq!(reason(&world.receive(&shake(4, false))), NoWinReason::LimitReached);
}

#[test]
fn m6_a_resent_shake_goes_to_the_issuer_whatever_the_gate_says() {
    let mut world = World::open();
    world.effects();
    assert!(world.receive(&shake(9, true)).is_empty());
    assert!(matches!(&world.effects()[..], [Effect::Resend(candidate)]
        if candidate.shake == ShakeId(9)));
    let mut out = Vec::new();
    let (surroundings, connection) = (world.surroundings, world.connection);
    let reason_none = NoWinReason::NoneDue;
    world.engine.handle_lost(&surroundings, connection, 21, ShakeId(9), reason_none, &mut out);
    assert_eq!(reason(&out), NoWinReason::NoneDue);
    assert_eq!(reason(&world.receive(&shake(9, true))), NoWinReason::TooSoon, "one a second");
    world.now = at(1_001_300);
    assert!(world.receive(&shake(9, true)).is_empty());
}

#[test]
fn on_a_machine_that_is_up_for_long_lost_answers_can_be_asked_for() {
    for days in [1, 100, 200, 300, 400, 700] {
        let mut world = World::new_at(at(days * 86_400_000)).opened();
        assert!(world.receive(&shake(9, true)).is_empty(), "after {days} days");
        let twice = reason(&world.receive(&shake(9, true)));
        assert_eq!(twice, NoWinReason::Pending, "after {days} days");
    }
}

#[test]
fn m6_a_candidate_whose_answer_got_lost_can_be_asked_for_again() {
    let mut world = World::open();
    world.effects();
    world.gate(1, 1);
    assert!(world.receive(&shake(9, false)).is_empty());
    assert!(matches!(&world.effects()[..], [Effect::Candidate(_)]));
    // The issuer's answer found no room on its way here. For a while it may still come.
    assert_eq!(reason(&world.receive(&shake(9, true))), NoWinReason::Pending);
    world.now = at(1_003_300);
    assert!(world.receive(&shake(9, true)).is_empty());
    assert!(matches!(&world.effects()[..], [Effect::Resend(candidate)]
        if candidate.shake == ShakeId(9)));
}

#[test]
fn frames_cut_anywhere_are_answered_as_one() {
    let mut stream = shake(1, false);
    put_empty(&mut stream, kind::PING, 5);
    stream.extend(shake(2, false));
    put_open(&mut stream, 6, &ticket().encode());
    let mut whole = World::open();
    whole.effects();
    let expected = (whole.receive(&stream), whole.effects());
    for cut in 1..stream.len() {
        for second in [cut, (cut + 1).min(stream.len()), stream.len()] {
            let mut world = World::open();
            world.effects();
            let mut out = world.receive(&stream[..cut]);
            out.extend(world.receive(&stream[cut..second]));
            out.extend(world.receive(&stream[second..]));
            assert_eq!((out, world.effects()), expected, "cut at {cut} and {second}");
            assert_eq!(world.engine.partial_bytes(), 0);
        }
    }
}

#[test]
fn slow_peers_are_closed_in_time() {
    let check = |prepare: fn(&mut World), silent_until: u64, closed_by: u64| {
        let mut world = World::new();
        prepare(&mut world);
        world.effects();
        for ms in (0..closed_by + 200).step_by(100) {
            world.engine.handle_time(at(1_000_000 + ms));
            let closing = world.effects().iter().any(|e| matches!(e, Effect::Close { .. }));
            assert!(!closing || ms >= silent_until, "closed after {ms} ms");
            if closing {
                assert!(ms <= closed_by, "closed only after {ms} ms");
                return;
            }
        }
        panic!("never closed");
    };
    check(|_| {}, 3_000, 3_400);
    check(
        |world| {
            world.receive(&[1]);
        },
        3_000,
        3_400,
    );
    let open = |world: &mut World| {
        world.greet(None);
        world.believe(USER);
    };
    check(open, 60_000, 60_500);
    check(
        |world| {
            world.greet(None);
            world.believe(USER);
            world.receive(&shake(1, false)[..9]);
        },
        5_000,
        5_500,
    );
}

#[test]
fn a_reused_slot_gets_nothing_that_was_meant_for_its_predecessor() {
    let mut world = World::open();
    let old = world.connection;
    assert_eq!(world.engine.handle_closed(old.slot), Some((old, Some(USER))));
    let new = world.accept();
    assert_eq!(new.slot, old.slot);
    let mut out = Vec::new();
    world.engine.handle_replaced(old, &mut out);
    world.engine.handle_open_busy(old, 1, &mut out);
    assert!(out.is_empty() && new != old);
}

#[test]
fn every_client_message_of_an_open_session_is_accepted() {
    let mut world = World::open();
    world.effects();
    let mut bytes = Vec::new();
    put_empty(&mut bytes, kind::PING, 5);
    put_open(&mut bytes, 6, &ticket().encode());
    put_empty(&mut bytes, kind::BYE, 7);
    let (frame, _) = split_frame(&bytes, 1_024).expect("valid").expect("whole");
    assert_eq!(ClientMessage::decode(frame), Ok(ClientMessage::Ping));
    let out = world.receive(&bytes);
    assert!(matches!(&messages(&out)[..], [(_, ServerMessage::Pong(WallTime(5)))]));
    assert!(matches!(
        &world.effects()[..],
        [Effect::CheckTicket { request_id: 6, bearer: BEARER, .. }, Effect::Close { .. }]
    ));
}

fn ticket() -> Ticket {
    let body = TicketBody {
        campaign: CAMPAIGN,
        packet: PacketId::new(0, ShardId(1), PacketIndex(2)),
        user: USER,
        amount: Fen(100),
        shake: ShakeId(2),
        issued_at: WallTime(1),
        expires_at: WallTime(2),
        shard: ShardId(1),
        epoch: Epoch(1),
        sponsor: SponsorId::new(2).expect("below 64"),
        wave: WaveIndex(0),
    };
    body.sign(&SignKey::from_seed(&[1; 32]))
}
