//! Reconnect tickets: who is believed, who is refused, when a new one comes.

use super::{CAMPAIGN, Effect, ErrorCode, Hello, USER, World, messages};
use crate::shard::{Reconnect, State};
use yao_protocol::{
    KeyId, UserId, WallTime,
    client::{RetryClass, ServerMessage, kind, put_empty},
    keys::MacKey,
    reconnect::{RECONNECT_BYTES, ReconnectKeys, ReconnectTicket},
    tally::{TALLY_BYTES, Tally},
    token::Identity,
};

const NOW: WallTime = WallTime(1_000_000 * 1_000_000);

fn reconnect(ids: &[u8]) -> Reconnect {
    let key = |id: &u8| MacKey::new(KeyId(u32::from(*id)), [*id; 32]);
    let keys = ReconnectKeys::new(ids.iter().map(key).collect()).expect("distinct keys");
    Reconnect { keys, lifetime_seconds: 1_200 }
}

fn later(seconds: u64) -> WallTime {
    NOW.plus_us(seconds * 1_000_000)
}

fn identity() -> Identity {
    Identity { user: USER, device: 5, risk: 2, expires_at: later(86_400) }
}

fn ticket() -> ReconnectTicket {
    ReconnectTicket::issue(&identity(), NOW, 1_200).expect("the token lasts")
}

/// A world whose node has these keys, at `NOW`.
fn world(keys: Option<Reconnect>) -> World {
    let mut world = World::new();
    world.surroundings.wall = NOW;
    world.engine.handle_reconnect_keys(keys);
    world
}

impl World {
    fn return_with(&mut self, token: &[u8], tally: Option<&[u8; TALLY_BYTES]>) -> Vec<u8> {
        let mut bytes = Vec::new();
        let campaign = CAMPAIGN;
        Hello { version_min: 1, version_max: 1, software: 1, campaign, tally, token }
            .put(&mut bytes, 11);
        self.receive(&bytes)
    }

    fn checked(&mut self, identity: Option<Identity>) -> Vec<u8> {
        let mut out = Vec::new();
        let connection = self.connection;
        self.engine.handle_token(&self.surroundings, connection, identity, &mut out);
        out
    }

    /// The ticket behind the PONG, if any, `seconds` after `NOW`; the connection is its user's.
    fn ping(&mut self, seconds: u64) -> Option<[u8; RECONNECT_BYTES]> {
        self.effects();
        self.pong(seconds);
        let (mut out, connection) = (Vec::new(), self.connection);
        for effect in self.effects() {
            assert_eq!(effect, Effect::RenewReconnect { connection, user: USER });
            self.engine.handle_renewal(&self.surroundings, connection, &mut out);
        }
        handed_out(&messages(&out))
    }

    /// Says PING `seconds` after `NOW` and hears PONG, and nothing else for now.
    fn pong(&mut self, seconds: u64) {
        self.surroundings.wall = later(seconds);
        let mut ping = Vec::new();
        put_empty(&mut ping, kind::PING, 5);
        let out = self.receive(&ping);
        assert!(matches!(&messages(&out)[..], [(_, ServerMessage::Pong(at))]
            if *at == later(seconds)));
    }
}

/// The only message, a reconnect ticket; or no message.
fn handed_out(
    found: &[(yao_protocol::frame::FrameHeader, ServerMessage<'_>)],
) -> Option<[u8; RECONNECT_BYTES]> {
    match found {
        [] => None,
        [(header, ServerMessage::Reconnect(bytes))] => {
            assert_eq!(header.request_id, 0);
            Some(**bytes)
        }
        other => panic!("one ticket, not {other:?}"),
    }
}

#[test]
fn a_good_ticket_is_claimed_and_welcomed_with_the_next_one() {
    let mut world = world(Some(reconnect(&[2, 1])));
    let bytes = reconnect(&[1]).keys.sign(&ticket());
    world.surroundings.wall = later(300);
    assert!(world.return_with(&bytes, None).is_empty());
    let connection = world.connection;
    let claim = Effect::ClaimReconnect { connection, identity: identity(), issued_at: NOW };
    assert_eq!(world.effects(), [claim]);
    assert_eq!(world.state(), State::Checking);
    let out = world.checked(Some(identity()));
    let found = messages(&out);
    assert!(matches!(found[0].1, ServerMessage::Welcome(_)) && found[0].0.request_id == 11);
    let next = handed_out(&found[1..]).expect("behind WELCOME");
    let next = reconnect(&[2]).keys.verify(&next, later(300)).expect("signed by the first key");
    assert_eq!((next.identity(), next.issued_at), (identity(), later(300)));
    assert_eq!(next.expires_at, later(1_500));
    let counters = world.engine.counters();
    let counted = (counters.reconnects, counters.reconnects_refused, counters.reconnect_tickets);
    assert_eq!(counted, (1, 0, 1));
}

#[test]
fn every_bad_ticket_gets_the_same_refusal_and_asks_nobody() {
    let good = reconnect(&[1]).keys.sign(&ticket());
    let mut refusals = Vec::new();
    let mut check = |keys: Option<Reconnect>, at: WallTime, token: &[u8]| {
        let mut world = world(keys);
        world.surroundings.wall = at;
        refusals.push(world.return_with(token, None));
        let connection = world.connection;
        assert_eq!(world.effects(), [Effect::Close { connection }], "{token:?}");
        assert_eq!(world.engine.counters().reconnects_refused, 1);
    };
    check(None, NOW, &good);
    check(Some(reconnect(&[2, 3])), NOW, &good);
    check(Some(reconnect(&[1])), later(1_200), &good);
    check(Some(reconnect(&[1])), WallTime(NOW.0 - 31_000_000), &good);
    check(Some(reconnect(&[1])), NOW, &good[..79]);
    check(Some(reconnect(&[1])), NOW, &good[..1]);
    check(Some(reconnect(&[1])), NOW, &[&good[..], &[0]].concat());
    // Another first byte makes it no reconnect ticket but a bad session token.
    for at in 1..RECONNECT_BYTES {
        let mut wrong = good;
        wrong[at] ^= 0x10;
        check(Some(reconnect(&[1])), NOW, &wrong);
    }
    // What the shell says of a ticket that was used before, and the engine of another's tally.
    let mut replayed = world(Some(reconnect(&[1])));
    replayed.return_with(&good, None);
    refusals.push(replayed.checked(None));
    let tally = Tally::empty(CAMPAIGN, UserId(78)).encode(&super::mac_key());
    let mut stolen = world(Some(reconnect(&[1])));
    stolen.return_with(&good, Some(&tally));
    refusals.push(stolen.checked(Some(identity())));
    assert!(refusals.iter().all(|refusal| *refusal == refusals[0]));
    assert!(matches!(&messages(&refusals[0])[..], [(_, ServerMessage::Error(refusal))]
        if refusal.code == ErrorCode::AuthFailed && refusal.closes
            && refusal.class == RetryClass::Reauthenticate));
}

#[test]
fn a_ticket_is_renewed_behind_a_pong_when_half_of_its_life_is_over() {
    let mut world = world(Some(reconnect(&[1])));
    world.greet(None);
    let out = world.checked(Some(identity()));
    assert!(handed_out(&messages(&out)[1..]).is_some());
    assert_eq!(world.ping(1), None);
    assert_eq!(world.ping(599), None);
    let renewed = world.ping(600).expect("half of 1,200 s are over");
    let renewed = reconnect(&[1]).keys.verify(&renewed, later(600)).expect("genuine");
    assert_eq!(renewed.expires_at, later(1_800));
    assert_eq!(world.ping(601), None);
    assert_eq!(world.ping(1_199), None);
    assert!(world.ping(5_000).is_some(), "late, but it comes");
}

#[test]
fn a_ticket_that_was_asked_for_twice_comes_once_and_a_session_that_ends_gets_none() {
    let mut world = world(Some(reconnect(&[1])));
    world.greet(None);
    world.checked(Some(identity()));
    world.effects();
    world.pong(600);
    world.pong(600);
    let connection = world.connection;
    let renew = Effect::RenewReconnect { connection, user: USER };
    assert_eq!(world.effects(), [renew.clone(), renew.clone()]);
    let mut out = Vec::new();
    world.engine.handle_renewal(&world.surroundings, connection, &mut out);
    world.engine.handle_renewal(&world.surroundings, connection, &mut out);
    assert!(handed_out(&messages(&out)).is_some(), "one");
    world.pong(1_200);
    assert_eq!(world.effects(), [renew]);
    let (mut out, mut none) = (Vec::new(), Vec::new());
    world.engine.handle_replaced(connection, &mut out);
    assert!(matches!(&messages(&out)[..], [(_, ServerMessage::GoAway(_))]));
    world.engine.handle_renewal(&world.surroundings, connection, &mut none);
    assert!(none.is_empty(), "it is being closed");
}

#[test]
fn no_ticket_outlives_the_token_or_comes_without_keys() {
    let short = Identity { expires_at: later(900), ..identity() };
    let mut bounded = world(Some(reconnect(&[1])));
    bounded.greet(None);
    let out = bounded.checked(Some(short));
    let only = handed_out(&messages(&out)[1..]).expect("one");
    let only = reconnect(&[1]).keys.verify(&only, NOW).expect("genuine");
    assert_eq!((only.expires_at, only.token_expires_at), (later(900), later(900)));
    assert_eq!(bounded.ping(450), None, "the next one could not live longer");

    // A token is believed a little after its end; that is no reason to go on without it.
    let mut ended = world(Some(reconnect(&[1])));
    ended.greet(None);
    let out = ended.checked(Some(Identity { expires_at: NOW, ..identity() }));
    assert_eq!(handed_out(&messages(&out)[1..]), None);
    assert_eq!(ended.ping(10), None);

    let mut keyless = world(None);
    keyless.greet(None);
    let out = keyless.checked(Some(identity()));
    assert_eq!(handed_out(&messages(&out)[1..]), None);
    assert_eq!(keyless.ping(10), None);
    keyless.engine.handle_reconnect_keys(Some(reconnect(&[3])));
    let first = keyless.ping(20).expect("keys came with a reload");
    assert!(reconnect(&[3]).keys.verify(&first, later(20)).is_ok());
    keyless.engine.handle_reconnect_keys(None);
    assert_eq!(keyless.ping(1_000), None);
}
