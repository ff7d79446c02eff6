//! Coming in: Retry while a budget is nearly used up, refusal beyond it, and the deadlines of those
//! who stop half-way.
#![expect(clippy::disallowed_methods, reason = "clients measure how long they wait")]

use super::{
    PATIENCE,
    bare::{Bare, is_retry, now},
    config, put_hello,
};
use crate::{quic::settings, server::testing::Rig};
use bytes::{Bytes, BytesMut};
use quinn_proto::{
    ApplicationClose, ClientConfig, ConnectionClose, ConnectionError, DatagramEvent, Endpoint,
    ServerConfig, TimeSource, TokenStore, TransportErrorCode,
};
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, SystemTime},
};
use yao_protocol::client::{ErrorCode, ServerMessage};

/// Four places for those whose session is not open; from the third that is taken on, a newcomer
/// proves its address.
const FOUR_PLACES: &str = "[session]\ngreeting_ms_max = 60000\n\
     [admission]\nconnections_max = 4\nper_address = 1000";
/// Three of four are taken: the budget is nearly used up.
const PRESSED: usize = 3;

fn start(sections: &str) -> Rig {
    Rig::start(&format!("quic = ['127.0.0.1:0']\nquic_threads = 1\n{sections}"))
}

fn newcomer(rig: &Rig) -> Bare {
    Bare::new(rig.addresses.quic[0], config(rig))
}

fn silent(rig: &Rig) -> Bare {
    Bare::silent(rig.addresses.quic[0], config(rig))
}

fn is_closed_with(lost: Option<&ConnectionError>, code: TransportErrorCode) -> bool {
    matches!(
        lost,
        Some(ConnectionError::ConnectionClosed(ConnectionClose { error_code, .. }))
            if *error_code == code
    )
}

#[test]
fn a_newcomer_proves_its_address_while_a_budget_is_nearly_used_up() {
    let rig = start(FOUR_PLACES);
    let first: Vec<Bare> = (0..PRESSED).map(|_| silent(&rig)).collect();
    assert!(
        first.iter().all(|bare| bare.retries == 0),
        "as long as there is room, nobody is asked"
    );
    // Whoever does not answer a Retry takes no place and has no answer larger than its question.
    for _ in 0..100 {
        let mut lost = newcomer(&rig);
        let asked = lost.outgoing();
        lost.send(&asked);
        let answer = lost.receive(PATIENCE).expect("an answer");
        assert!(is_retry(&answer) && answer.len() < asked[0].len() / 8);
    }
    let mut honest = silent(&rig);
    assert_eq!(honest.retries, 1);
    honest.greet(7);
    honest.shake(1);
    // Its session is open and not in the budget any more: the fourth place is free again.
    assert_eq!(silent(&rig).retries, 1);
}

#[test]
fn beyond_its_budget_a_newcomer_is_refused_with_one_packet() {
    let rig = start(FOUR_PLACES);
    let mut inside: Vec<Bare> = (0..4).map(|_| silent(&rig)).collect();
    for _ in 0..100 {
        let mut late = newcomer(&rig);
        let asked = late.outgoing();
        late.send(&asked);
        let answer = late.receive(PATIENCE).expect("an answer");
        assert!(answer.len() < asked[0].len() / 8, "{} bytes", answer.len());
        late.take(&answer);
        let refused = TransportErrorCode::CONNECTION_REFUSED;
        assert!(is_closed_with(late.lost.as_ref(), refused), "{:?}", late.lost);
    }
    // Who is in stays in, and whoever leaves makes room.
    inside[0].greet(7);
    assert!(silent(&rig).secured);
}

/// A clock that runs late by this much.
struct Late(Duration);

impl TimeSource for Late {
    fn now(&self) -> SystemTime {
        SystemTime::now() - self.0
    }
}

/// The Retry that a node with this change would have answered to `datagram` from `address`.
fn retry_of(
    rig: &Rig,
    change: impl FnOnce(&mut ServerConfig),
    datagram: &[u8],
    address: SocketAddr,
) -> Vec<u8> {
    let mut settings = (*rig.tls.quic().expect("certificates are in force")).clone();
    change(&mut settings);
    let config = Arc::new(settings::endpoint_config(&[1; 64], (0, 1)));
    let mut endpoint = Endpoint::new(config, Some(Arc::new(settings)), true, None);
    let mut out = Vec::new();
    let data = BytesMut::from(datagram);
    let event = endpoint.handle(now(), address, None, None, data, &mut out);
    let Some(DatagramEvent::NewConnection(incoming)) = event else { panic!("a newcomer") };
    let transmit = endpoint.retry(incoming, &mut out).expect("it has no token yet");
    assert_eq!(transmit.size, out.len());
    out
}

/// A client that answers such a Retry to the node itself, and what the node says to that.
fn with_retry_of(
    rig: &Rig,
    change: impl FnOnce(&mut ServerConfig),
    address: impl FnOnce(SocketAddr) -> SocketAddr,
) -> (Bare, Vec<u8>) {
    let mut client = newcomer(rig);
    let hello = client.outgoing();
    let own = client.socket.local_addr().expect("bound");
    let retry = retry_of(rig, change, &hello[0], address(own));
    client.take(&retry);
    client.speak();
    let answer = client.receive(PATIENCE).expect("an answer");
    client.take(&answer);
    (client, answer)
}

fn other_key(settings: &mut ServerConfig) {
    let key = aws_lc_rs::hkdf::Salt::new(aws_lc_rs::hkdf::HKDF_SHA256, &[]).extract(&[3; 64]);
    settings.token_key(Arc::new(key));
}

#[test]
fn a_token_proves_one_address_for_ten_seconds() {
    let rig = start("");
    let late = |seconds| {
        move |settings: &mut ServerConfig| {
            settings.time_source(Arc::new(Late(Duration::from_secs(seconds))));
        }
    };
    for seconds in [0, 8] {
        let (mut client, _) = with_retry_of(&rig, late(seconds), |own| own);
        client.drive(|client| client.secured);
        client.greet(seconds);
    }
    let refused = |client: Bare| {
        let code = TransportErrorCode::INVALID_TOKEN;
        assert!(is_closed_with(client.lost.as_ref(), code), "{:?}", client.lost);
    };
    refused(with_retry_of(&rig, late(12), |own| own).0);
    refused(with_retry_of(&rig, |_| {}, |own| SocketAddr::new(own.ip(), own.port() ^ 1)).0);
    let elsewhere = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
    refused(with_retry_of(&rig, |_| {}, |own| SocketAddr::new(elsewhere, own.port())).0);
}

/// A node that was started again while a client answered its Retry, or another node behind the same
/// name: the token says nothing here. That attempt is lost, for a client follows one Retry only
/// (RFC 9000 17.2.5.2); the next one comes in.
#[test]
fn a_retry_of_another_life_costs_one_attempt_and_nothing_else() {
    let rig = start(FOUR_PLACES);
    let (mut client, _) = with_retry_of(&rig, other_key, |own| own);
    // The node has answered to a client without a token, and that one wonders about it.
    client.drive(|client| client.lost.is_some());
    assert!(matches!(client.lost, Some(ConnectionError::TransportError(_))), "{:?}", client.lost);
    let _inside: Vec<Bare> = (0..PRESSED).map(|_| silent(&rig)).collect();
    let (client, answer) = with_retry_of(&rig, other_key, |own| own);
    assert!(is_retry(&answer), "it proves its address to this node");
    assert!(!client.secured && client.lost.is_none());
    assert_eq!(silent(&rig).retries, 1);
}

/// Has this token for whomever it visits.
struct Holds(Bytes);

impl TokenStore for Holds {
    fn insert(&self, _: &str, _: Bytes) {}

    fn take(&self, _: &str) -> Option<Bytes> {
        Some(self.0.clone())
    }
}

#[test]
fn a_token_that_nobody_made_is_as_good_as_none() {
    let rig = start(FOUR_PLACES);
    let with = |token: &[u8]| {
        let mut config: ClientConfig = config(&rig);
        config.token_store(Arc::new(Holds(Bytes::copy_from_slice(token))));
        Bare::silent(rig.addresses.quic[0], config)
    };
    // As long as ours, and as short and as long as a first packet lets it be.
    let tokens: [&[u8]; 3] = [&[7; 62], &[7], &[7; 700]];
    let mut inside: Vec<Bare> = tokens.iter().map(|token| with(token)).collect();
    assert!(inside.iter().all(|bare| bare.retries == 0));
    for (user, token) in (0..).zip(tokens) {
        let mut proven = with(token);
        assert_eq!(proven.retries, 1, "under pressure it proves its address like anybody");
        proven.greet(user);
        inside.push(proven);
    }
}

#[test]
fn a_handshake_that_stops_is_closed_at_its_deadline_and_its_place_is_free() {
    let rig = start("[session]\nhandshake_ms_max = 700\n[admission]\nconnections_max = 1");
    let started = now();
    let mut stopped = newcomer(&rig);
    stopped.speak();
    // The node has answered, so it has its place; and it says nothing more.
    let flight = stopped.receive(PATIENCE).expect("the node's flight");
    let entered = loop {
        let mut next = newcomer(&rig);
        next.drive(|next| next.secured || next.lost.is_some());
        if next.secured {
            break now();
        }
        let refused = TransportErrorCode::CONNECTION_REFUSED;
        assert!(is_closed_with(next.lost.as_ref(), refused), "{:?}", next.lost);
        assert!(started.elapsed() < PATIENCE, "its place becomes free");
    };
    assert!(entered - started >= Duration::from_millis(700), "not before its deadline");
    // It is told, too, as far as one tells a client that has proved nothing.
    stopped.take(&flight);
    while stopped.lost.is_none() {
        let datagram = stopped.receive(PATIENCE).expect("the node closes");
        stopped.take(&datagram);
    }
    let code = TransportErrorCode::APPLICATION_ERROR;
    assert!(is_closed_with(stopped.lost.as_ref(), code), "{:?}", stopped.lost);
}

#[test]
fn hello_has_a_deadline() {
    let rig = start("[session]\ngreeting_ms_max = 600");
    let started = now();
    let mut silent = silent(&rig);
    let mut half = self::silent(&rig);
    let mut hello = Vec::new();
    put_hello(&mut hello, 7);
    half.say(&hello[..hello.len() - 1]);
    let told = half.hear(|message| match message {
        ServerMessage::Error(refusal) => refusal.code,
        other => panic!("ERROR, not {other:?}"),
    });
    assert_eq!(told, ErrorCode::Timeout);
    for bare in [&mut silent, &mut half] {
        bare.drive(|bare| bare.lost.is_some());
        let application = Some(ConnectionError::ApplicationClosed(ApplicationClose {
            error_code: 0_u32.into(),
            reason: Bytes::new(),
        }));
        assert_eq!(bare.lost, application);
    }
    assert!(started.elapsed() >= Duration::from_millis(600), "not before its deadline");
    newcomer(&rig).drive(|next| next.secured);
}
