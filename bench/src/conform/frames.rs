//! Cases of wire.md 2, 3.2 and 3.5: headers, lengths, kinds, request ids, cuts.

use super::{
    case::{Answer, Case, Refused, Step, case, expect, refused, send},
    facts::Facts,
};
use yao_protocol::{
    client::{kind, put_empty},
    frame::{FrameHeader, put_frame},
};

/// An optional kind that nobody knows.
pub(super) const UNKNOWN: u8 = 0x7f;

/// A frame of any kind.
pub(super) fn frame(kind: u8, flags: u8, request_id: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    put_frame(&mut bytes, kind, flags, request_id, |out| out.extend_from_slice(payload));
    bytes
}

/// The header alone of a frame with so many bytes of payload.
pub(super) fn header(kind: u8, request_id: u32, payload_bytes: u16) -> Vec<u8> {
    FrameHeader { payload_bytes, kind, flags: 0, request_id }.encode().to_vec()
}

pub(super) fn ping(request_id: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    put_empty(&mut bytes, kind::PING, request_id);
    bytes
}

pub(super) fn bye() -> Vec<u8> {
    frame(kind::BYE, 0, 0, &[])
}

/// PING and its PONG: the session goes on.
pub(super) fn goes_on(request_id: u32) -> Vec<Step> {
    [send(ping(request_id)), expect(request_id, Answer::Pong)].concat()
}

/// A new user's session.
pub(super) fn open(facts: &Facts) -> Vec<Step> {
    let hello = facts.hello(facts.user());
    [send(hello), expect(1, Answer::Welcome)].concat()
}

fn trickle(bytes: Vec<u8>, piece: usize) -> Vec<Step> {
    vec![Step::Trickle { bytes, piece, pause_ms: 2 }]
}

pub(super) fn cases(facts: &Facts) -> Vec<Case> {
    let mut cases = headers(facts);
    cases.extend(kinds(facts));
    cases.extend(lengths(facts));
    cases.extend(cuts(facts));
    cases
}

fn headers(facts: &Facts) -> Vec<Case> {
    let mut cases = Vec::new();
    for id in [0, 1, 0x8000_0000, u32::MAX] {
        let what = format!("the answer repeats the request id {id}");
        let steps = [open(facts), send(ping(id)), expect(id, Answer::Pong)];
        cases.push(case(format!("W2-03.{id}"), what, steps));
    }
    let mut hello = facts.hello(facts.user());
    hello[4..8].copy_from_slice(&77_u32.to_le_bytes());
    let what = "WELCOME repeats HELLO's request id";
    cases.push(case("W2-03.hello", what, [send(hello), expect(77, Answer::Welcome)]));
    let pings: Vec<u8> = (2..66).flat_map(ping).collect();
    let pongs = (2..66).map(|id| (id, Answer::Pong)).collect();
    let what = "64 requests in flight together are all answered";
    cases.push(case("W2-11", what, [open(facts), send(pings), vec![Step::Expect(pongs)]]));
    let what = "an ERROR repeats the request id of the frame it refuses";
    let bad = frame(kind::PING, 1, 4_711, &[]);
    cases.push(case("W6-16", what, [open(facts), send(bad), refused(4_711, Refused::PROTOCOL)]));
    let what = "a header that states too much is refused with request id 0";
    let bad = send(header(UNKNOWN, 4_711, u16::MAX));
    cases.push(case("W6-17", what, [open(facts), bad, refused(0, Refused::PROTOCOL)]));
    for (name, kind, payload) in [("PING", kind::PING, 0), ("OPEN", kind::OPEN, 136)] {
        for bit in 0..8 {
            let bad = send(frame(kind, 1 << bit, 9, &vec![0; payload]));
            let id = format!("W2-01.{}-{bit}", name.to_lowercase());
            let what = format!("{name} with the flag {:#04x}", 1 << bit);
            cases.push(case(id, what, [open(facts), bad, refused(9, Refused::PROTOCOL)]));
        }
    }
    let mut hello = facts.hello(facts.user());
    hello[3] = 1;
    let what = "HELLO with a flag";
    cases.push(case("W2-01.hello", what, [send(hello), refused(1, Refused::PROTOCOL)]));
    let what = "an unknown optional frame may have flags, any id and anything in it";
    let odd = send(frame(UNKNOWN, 0xff, u32::MAX, &[0xff; 300]));
    cases.push(case("W2-02", what, [open(facts), odd, goes_on(2)]));
    cases
}

fn kinds(facts: &Facts) -> Vec<Case> {
    let mut cases = Vec::new();
    let odd = |number| send(frame(number, 0, 9, &[]));
    for number in [0x40, UNKNOWN] {
        let what = format!("the unknown kind {number:#04x} with bit 0x40 is ignored");
        let id = format!("W2-04.{number:02x}");
        cases.push(case(id, what, [open(facts), odd(number), goes_on(2)]));
    }
    for number in [0x00, 0x06, 0x3f] {
        let what = format!("the unknown kind {number:#04x} without bit 0x40");
        let id = format!("W2-05.{number:02x}");
        let steps = [open(facts), odd(number), refused(9, Refused::PROTOCOL)];
        cases.push(case(id, what, steps));
    }
    for number in [kind::WELCOME, kind::PONG, kind::ERROR, 0xbf, 0xc1, 0xff] {
        let what = format!("the kind {number:#04x} of servers, optional or not");
        let id = format!("W2-06.{number:02x}");
        let early = [odd(number), refused(9, Refused::PROTOCOL)];
        cases.push(case(format!("{id}-greeting"), format!("{what}, before HELLO"), early));
        let steps = [open(facts), odd(number), refused(9, Refused::PROTOCOL)];
        cases.push(case(id, what, steps));
    }
    cases
}

fn lengths(facts: &Facts) -> Vec<Case> {
    let mut cases = Vec::new();
    for length in [1_025, 16_384, u16::MAX] {
        let what = format!("before WELCOME a header that states {length} bytes");
        let steps = [send(header(UNKNOWN, 9, length)), refused(0, Refused::PROTOCOL)];
        cases.push(case(format!("W2-08.{length}"), what, steps));
    }
    for length in [16_385, u16::MAX] {
        let what = format!("after WELCOME a header that states {length} bytes");
        let bad = send(header(UNKNOWN, 9, length));
        let steps = [open(facts), bad, refused(0, Refused::PROTOCOL)];
        cases.push(case(format!("W2-07.{length}"), what, steps));
    }
    // Long before the deadline of a frame that is cut.
    let at_once = || vec![Step::Mark, Step::After(0..=facts.told.frame_ms * 3 / 4)];
    let (bad, refusal) = (send(header(UNKNOWN, 9, 16_385)), refused(0, Refused::PROTOCOL));
    let what = "the header is enough, the payload is not waited for";
    cases.push(case("W2-09", what, [open(facts), at_once(), bad, refusal]));
    let longest = send(frame(UNKNOWN, 0, 9, &[7; 16_384]));
    let what = "after WELCOME a payload of 16,384 bytes is taken";
    cases.push(case("W2-07.16384", what, [open(facts), longest, goes_on(2)]));
    let what = "before WELCOME a payload of 1,024 bytes is taken";
    let longest = send(frame(UNKNOWN, 0, 9, &[7; 1_024]));
    cases.push(case("W2-08.1024", what, [longest, open(facts)]));
    for (rule, name, number, lengths) in [
        ("W3.2-01", "PING", kind::PING, &[1][..]),
        ("W3.5-01", "BYE", kind::BYE, &[1]),
        ("W3.3-01", "SHAKE", kind::SHAKE, &[0, 23, 25]),
        ("W3.4-01", "OPEN", kind::OPEN, &[0, 135, 137]),
    ] {
        for length in lengths {
            let what = format!("{name} with a payload of {length} bytes");
            let bad = send(frame(number, 0, 9, &vec![0; *length]));
            let steps = [open(facts), bad, refused(9, Refused::PROTOCOL)];
            cases.push(case(format!("{rule}.{length}"), what, steps));
        }
    }
    cases
}

fn cuts(facts: &Facts) -> Vec<Case> {
    let mut cases = Vec::new();
    for piece in [1, 7, 8, 9] {
        let what = format!("HELLO and PING in pieces of {piece} bytes");
        let steps = [
            trickle(facts.hello(facts.user()), piece),
            expect(1, Answer::Welcome),
            trickle(ping(2), piece),
            expect(2, Answer::Pong),
        ];
        cases.push(case(format!("W2-10.{piece}"), what, steps));
    }
    let what = "frames are joined and cut elsewhere than between them";
    let odd = frame(UNKNOWN, 0, 9, &[5; 300]);
    let joined: Vec<u8> = (2..50).flat_map(|id| [ping(id), odd.clone()].concat()).collect();
    let pongs = (2..50).map(|id| (id, Answer::Pong)).collect();
    let steps = [open(facts), trickle(joined, 101), vec![Step::Expect(pongs)]];
    cases.push(case("W2-10.joined", what, steps));
    let what = "a long frame in single bytes";
    let bytes = frame(UNKNOWN, 0, 9, &[5; 1_000]);
    let slowly = vec![Step::Trickle { bytes, piece: 1, pause_ms: 0 }];
    cases.push(case("W2-10.long", what, [open(facts), slowly, goes_on(2)]));
    cases
}
