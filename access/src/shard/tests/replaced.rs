//! A session whose user has another one by now, and that was never told so.

use super::{Rig, connect, greet};
use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::Arc,
};
use yao_engine::{ConnectionId, shard::Reconnect};
use yao_protocol::{
    KeyId, UserId,
    client::{GoAwayReason, ServerMessage, kind, put_empty},
    frame::split_frame,
    keys::MacKey,
    limits::{CLIENT_PAYLOAD_BYTES_MAX, FRAME_HEADER_BYTES},
    reconnect::ReconnectKeys,
};

/// Says PING on a connection where nothing else is said; hears the PONG, and hands on what is
/// behind it.
fn behind_pong<T>(stream: &mut TcpStream, look: impl FnOnce(&ServerMessage<'_>) -> T) -> T {
    let mut ping = Vec::new();
    put_empty(&mut ping, kind::PING, 5);
    stream.write_all(&ping).expect("taken");
    let pong = frame(stream);
    assert!(matches!(message(&pong), ServerMessage::Pong(_)));
    look(&message(&frame(stream)))
}

fn frame(stream: &mut TcpStream) -> Vec<u8> {
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

#[test]
fn a_session_that_was_replaced_gets_no_ticket_and_ends_though_nobody_told_it() {
    let rig = Rig::start("tcp = ['127.0.0.1:0']\nthreads = 1");
    let mut streams = [1, 2].map(|user| {
        let mut stream = connect(rig.addresses.tcp[0]);
        assert_eq!(greet(&mut stream, user), Ok(true));
        stream
    });
    // From now on a ticket is due, at the next PING.
    let keys = ReconnectKeys::new(vec![MacKey::new(KeyId(1), [1; 32])]).expect("one key");
    rig.context.reconnect.store(Arc::new(Some(Reconnect { keys, lifetime_seconds: 600 })));
    // Somebody is here as user 2 as well, and the word of it is lost.
    let elsewhere = ConnectionId { thread: 7, slot: 1, generation: 1 };
    let now = rig.context.node.clock.wall();
    let opened = rig.context.registry.opened(now, UserId(2), 0, elsewhere);
    assert!(opened.older.is_some(), "who is asked below");

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
