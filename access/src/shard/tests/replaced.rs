//! Two sessions of one user: the connection that was accepted last stays, whoever hears of it.

use super::{Rig, connect, greet, hello, over_tls};
use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::Arc,
};
use yao_engine::{ConnectionId, shard::Reconnect};
use yao_protocol::{
    KeyId, UserId,
    client::{GoAwayReason, RetryClass, ServerMessage, kind, put_empty},
    frame::split_frame,
    keys::MacKey,
    limits::{CLIENT_PAYLOAD_BYTES_MAX, FRAME_HEADER_BYTES},
    reconnect::ReconnectKeys,
};

/// Says PING on a connection where nothing else is said; hears the PONG, and hands on what is
/// behind it.
fn behind_pong<T>(
    stream: &mut (impl Read + Write),
    look: impl FnOnce(&ServerMessage<'_>) -> T,
) -> T {
    let mut ping = Vec::new();
    put_empty(&mut ping, kind::PING, 5);
    stream.write_all(&ping).expect("taken");
    let pong = frame(stream);
    assert!(matches!(message(&pong), ServerMessage::Pong(_)));
    look(&message(&frame(stream)))
}

fn frame(stream: &mut impl Read) -> Vec<u8> {
    let mut bytes = vec![0; FRAME_HEADER_BYTES];
    stream.read_exact(&mut bytes).expect("a header");
    let payload = usize::from(u16::from_le_bytes([bytes[0], bytes[1]]));
    bytes.resize(FRAME_HEADER_BYTES + payload, 0);
    stream.read_exact(&mut bytes[FRAME_HEADER_BYTES..]).expect("a payload");
    bytes
}

fn message(bytes: &[u8]) -> ServerMessage<'_> {
    let (frame, _) = split_frame(bytes, CLIENT_PAYLOAD_BYTES_MAX).expect("good").expect("whole");
    ServerMessage::decode(frame).expect("a message")
}

/// WELCOME is on its way before the session is entered.
fn await_users(rig: &Rig, count: usize) {
    while rig.context.registry.len() != count {
        std::thread::yield_now();
    }
}

/// Says HELLO as user 3 on `late`, who is welcomed on `current` already, which came after it.
fn check_overtaken(rig: &Rig, late: &mut (impl Read + Write), current: &mut TcpStream) {
    await_users(rig, 1);
    late.write_all(&hello(3)).expect("taken");
    assert!(matches!(message(&frame(late)), ServerMessage::Welcome(_)));
    let told = frame(late);
    let ServerMessage::GoAway(told) = message(&told) else { panic!("GOAWAY, not {told:?}") };
    assert_eq!((told.reason, told.class), (GoAwayReason::Replaced, RetryClass::Never));
    assert_eq!(late.read(&mut [0; 8]).expect("an end"), 0);
    // What would follow here is a GOAWAY to the session in use.
    let mut ping = Vec::new();
    put_empty(&mut ping, kind::PING, 5);
    for _ in 0..2 {
        current.write_all(&ping).expect("taken");
        assert!(matches!(message(&frame(current)), ServerMessage::Pong(_)));
    }
    assert_eq!(rig.context.registry.len(), 1);
}

#[test]
fn a_hello_that_was_overtaken_does_not_end_the_session_in_use() {
    let rig = Rig::start("tcp = ['127.0.0.1:0']\nthreads = 1");
    // The kernel hands them over in this order.
    let mut late = connect(rig.addresses.tcp[0]);
    let mut current = connect(rig.addresses.tcp[0]);
    assert_eq!(greet(&mut current, 3), Ok(true));
    check_overtaken(&rig, &mut late, &mut current);
}

#[test]
fn connections_of_all_threads_and_listeners_are_in_one_order() {
    let rig = Rig::start("tcp = ['127.0.0.1:0']\ntls = ['127.0.0.1:0']\nthreads = 2");
    for _ in 0..8 {
        let mut late = over_tls(&rig, connect(rig.addresses.tls[0]));
        // Once the handshake is done it has been accepted.
        while late.conn.is_handshaking() {
            late.conn.complete_io(&mut late.sock).expect("a handshake");
        }
        let mut current = connect(rig.addresses.tcp[0]);
        assert_eq!(greet(&mut current, 3), Ok(true));
        check_overtaken(&rig, &mut late, &mut current);
        drop(current);
        await_users(&rig, 0);
    }
}

#[test]
fn a_session_that_was_replaced_gets_no_ticket_and_ends_though_nobody_told_it() {
    let rig = Rig::start("tcp = ['127.0.0.1:0']\nthreads = 1");
    let mut streams = [1, 2].map(|user| {
        let mut stream = connect(rig.addresses.tcp[0]);
        assert_eq!(greet(&mut stream, user), Ok(true));
        stream
    });
    await_users(&rig, 2);
    // From now on a ticket is due, at the next PING.
    let keys = ReconnectKeys::new(vec![MacKey::new(KeyId(1), [1; 32])]).expect("one key");
    rig.context.reconnect.store(Arc::new(Some(Reconnect { keys, lifetime_seconds: 600 })));
    // Somebody is here as user 2 as well, and the word of it is lost.
    let elsewhere = ConnectionId { thread: 7, slot: 1, number: 1_000 };
    let now = rig.context.node.clock.wall();
    let opened = rig.context.registry.opened(now, UserId(2), 0, elsewhere);
    assert!(opened.replaced.is_some_and(|it| it != elsewhere), "who is asked below");

    let [current, replaced] = &mut streams;
    behind_pong(current, |heard| {
        assert!(matches!(heard, ServerMessage::Reconnect(_)), "{heard:?}");
    });
    behind_pong(replaced, |heard| {
        assert!(
            matches!(heard, ServerMessage::GoAway(told) if told.reason == GoAwayReason::Replaced),
            "{heard:?}"
        );
    });
    assert_eq!(replaced.read(&mut [0; 8]).expect("an end"), 0);
    assert!(rig.context.registry.is_current(UserId(2), elsewhere), "its place stays its own");
}
