//! Session tokens that no key of ours can have signed: refused before the crypto threads' queue,
//! with the one answer that every bad token gets, while good logins wait there or find no room.

use super::{Farewell, PATIENCE, connect, first_word, hello_with};
use crate::{
    messages::ToCrypto,
    server::testing::{Crypto, Rig, token},
};
use std::io::{Read, Write};
use yao_protocol::{
    client::ErrorCode,
    limits::{FRAME_HEADER_BYTES, TOKEN_BYTES_MAX},
};

/// Bytes of ERROR.
const ERROR_BYTES: usize = FRAME_HEADER_BYTES + 12;

/// A good token with another header.
fn headed(header: &str) -> Vec<u8> {
    let good = String::from_utf8(token(7)).expect("text");
    let rest = good.split_once('.').expect("three parts").1;
    format!("{}.{rest}", crate::token_keys::tests::base64_url(header.as_bytes())).into_bytes()
}

/// Tokens that are not worth checking, each with what is wrong.
fn implausible() -> Vec<(&'static str, Vec<u8>)> {
    let good = token(7);
    let cut = |length: usize| good[..length].to_vec();
    let many = |letter: u8| vec![letter; TOKEN_BYTES_MAX];
    vec![
        ("an unknown key id", headed(r#"{"alg":"EdDSA","kid":"other"}"#)),
        ("a key id of another case", headed(r#"{"alg":"EdDSA","kid":"RIG"}"#)),
        ("no key id", headed(r#"{"alg":"EdDSA"}"#)),
        ("two key ids", headed(r#"{"alg":"EdDSA","kid":"rig","kid":"rig"}"#)),
        ("another algorithm", headed(r#"{"alg":"ES256","kid":"rig"}"#)),
        ("HMAC", headed(r#"{"alg":"HS256","kid":"rig"}"#)),
        ("none", headed(r#"{"alg":"none","kid":"rig"}"#)),
        ("an algorithm of another case", headed(r#"{"alg":"eddsa","kid":"rig"}"#)),
        ("a critical extension", headed(r#"{"alg":"EdDSA","kid":"rig","crit":["exp"]}"#)),
        ("a header that is a list", headed("[[[[[[[[[[[[[[")),
        ("a header that is no JSON", headed("{")),
        ("no signature", cut(good.iter().rposition(|byte| *byte == b'.').expect("parts") + 1)),
        ("a signature cut short", cut(good.len() - 1)),
        ("a byte too many", [&good[..], b"A"].concat()),
        ("a fourth part", [&good[..], b"."].concat()),
        ("only dots", many(b'.')),
        ("only letters", many(b'e')),
        ("no text", many(0xff)),
        ("a number", b"7".to_vec()),
        ("nothing", Vec::new()),
    ]
}

/// What the node answers, to the end of the connection.
fn answer(rig: &Rig, token: &[u8]) -> Vec<u8> {
    let mut stream = connect(rig.addresses.tcp[0]);
    stream.write_all(&hello_with(token)).expect("taken");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an answer and the end in time");
    answer
}

/// `rig`'s queue is stuck: every implausible token is refused all the same, and none gets there.
fn refuses_all(rig: &Rig) {
    let answers: Vec<_> =
        implausible().into_iter().map(|(what, token)| (what, answer(rig, &token))).collect();
    for (what, bytes) in &answers {
        assert_eq!(bytes.len(), ERROR_BYTES, "{what}: one ERROR and the end");
        assert_eq!(
            first_word(&mut &bytes[..]),
            Err(Farewell::Refused(ErrorCode::AuthFailed)),
            "{what}"
        );
        assert_eq!(*bytes, answers[0].1, "{what}");
    }
}

fn queued(rig: &Rig) -> usize {
    let queue = rig.unchecked.as_ref().expect("stuck");
    queue.try_iter().filter(|message| matches!(message, ToCrypto::Token { .. })).count()
}

#[test]
fn behind_a_login_that_waits() {
    let rig = Rig::start_checked("tcp = ['127.0.0.1:0']\nthreads = 1", Crypto::Stuck(100));
    let mut waits = connect(rig.addresses.tcp[0]);
    waits.write_all(&hello_with(&token(1))).expect("taken");
    // The one queue and the one thread keep the order: it is in the queue before the others come.
    let queue = rig.unchecked.as_ref().expect("stuck");
    let first = queue.recv_timeout(PATIENCE).expect("a good login is queued");
    assert!(matches!(&first, ToCrypto::Token { token: queued, .. } if *queued == token(1)));
    refuses_all(&rig);
    assert_eq!(queued(&rig), 0, "no work for the crypto threads");
}

#[test]
fn beside_a_queue_without_room() {
    let rig = Rig::start_checked("tcp = ['127.0.0.1:0']\nthreads = 1", Crypto::Stuck(1));
    let mut waits = connect(rig.addresses.tcp[0]);
    waits.write_all(&hello_with(&token(1))).expect("taken");
    // Refused for want of room: so the first one, which came before it, has the room.
    let busy = answer(&rig, &token(2));
    assert_eq!(first_word(&mut &busy[..]), Err(Farewell::Refused(ErrorCode::Busy)));
    refuses_all(&rig);
    assert_eq!(queued(&rig), 1, "the login that waits, and nothing else");
}
