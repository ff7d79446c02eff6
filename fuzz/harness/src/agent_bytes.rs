//! Both directions of the agent link, policies, batches and settlement's answers.

use crate::{
    seeds::{self, key_set, sign_key, vectors},
    tape::Tape,
};
use yao_protocol::{
    agent::{FromAccess, FromAgent},
    frame::split_frame,
    keys::{SIGNATURE_BYTES, context},
    limits::AGENT_PAYLOAD_BYTES_MAX,
    policy::Policy,
    settlement::{Answer, Batch},
};

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let with = |mode: u8, text: &str| {
        let add = |bytes: Vec<u8>| [vec![mode], bytes].concat();
        seeds::of(&[text]).into_iter().map(add).collect::<Vec<_>>()
    };
    [
        with(0, vectors!("agent-message")),
        with(1, vectors!("access-message")),
        with(2, vectors!("settlement-batch")),
        with(3, vectors!("settlement-answer")),
        with(4, vectors!("policy")),
    ]
    .concat()
}

pub(crate) fn run(bytes: &[u8]) {
    let mut tape = Tape::new(bytes);
    let mode = tape.byte() % 5;
    let bytes = tape.rest();
    match mode {
        0 => stream(bytes, |frame| {
            let Ok(message) = FromAgent::decode(frame) else { return false };
            if let FromAgent::Delivered(answer) = message {
                settlement_answer(answer);
            }
            if let FromAgent::Policy(text) = message {
                policy(text);
            }
            let mut again = Vec::new();
            message.put(&mut again, frame.header.request_id);
            compare(&again, frame.payload);
            true
        }),
        1 => stream(bytes, |frame| {
            let Ok(message) = FromAccess::decode(frame) else { return false };
            let mut again = Vec::new();
            message.put(&mut again, frame.header.request_id);
            compare(&again, frame.payload);
            true
        }),
        2 => {
            batch(bytes);
            batch(&signed(bytes, context::BATCH));
        }
        3 => {
            settlement_answer(bytes);
            settlement_answer(&signed(bytes, context::ANSWER));
        }
        _ => policy(bytes),
    }
}

/// Every whole frame, until one that is none or is refused.
fn stream(mut bytes: &[u8], mut take: impl FnMut(yao_protocol::frame::Frame<'_>) -> bool) {
    while let Ok(Some((frame, rest))) = split_frame(bytes, AGENT_PAYLOAD_BYTES_MAX) {
        if !take(frame) {
            return;
        }
        bytes = rest;
    }
}

/// What is read is written again, unless it is of a kind that is ignored.
fn compare(again: &[u8], payload: &[u8]) {
    if !again.is_empty() {
        assert_eq!(&again[8..], payload, "one meaning has one spelling");
    }
}

/// The same with a right signature at its end, so that what it says is read.
fn signed(bytes: &[u8], context: yao_protocol::keys::Context) -> Vec<u8> {
    let body = &bytes[..bytes.len().saturating_sub(SIGNATURE_BYTES)];
    [body, &sign_key().sign(context, body)[..]].concat()
}

fn batch(bytes: &[u8]) {
    if let Ok(batch) = Batch::decode(bytes, &key_set()) {
        assert_eq!(batch.encode(&sign_key()), bytes, "one meaning has one spelling");
        let rising = batch.records.is_sorted_by(|one, next| one.0 < next.0);
        assert!(rising && (1..=256).contains(&batch.records.len()));
    }
}

fn settlement_answer(bytes: &[u8]) {
    if let Ok(answer) = Answer::decode(bytes, &key_set()) {
        assert_eq!(answer.encode(&sign_key()), bytes, "one meaning has one spelling");
    }
}

fn policy(bytes: &[u8]) {
    if let Ok(policy) = Policy::decode(bytes) {
        let again = Policy::decode(&policy.encode()).expect("what was written is read");
        assert_eq!(again, policy);
    }
}
