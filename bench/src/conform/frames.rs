//! Cases of wire.md 2 and 3.2: headers, lengths, kinds, request ids, cuts.

use super::{
    case::{Answer, Case, Refused, Step, case, expect, refused, send},
    facts::Facts,
};
use yao_protocol::{
    client::{kind, put_empty},
    frame::{FrameHeader, put_frame},
};

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
    let mut cases = request_ids(facts);
    cases.extend(lengths(facts));
    cases.extend(kinds(facts));
    cases.extend(cuts(facts));
    cases
}

fn request_ids(facts: &Facts) -> Vec<Case> {
    let mut cases: Vec<Case> = [0, 1, 0x8000_0000, u32::MAX]
        .into_iter()
        .map(|id| {
            let what = format!("the answer repeats the request id {id}");
            case("2", what, [open(facts), send(ping(id)), expect(id, Answer::Pong)])
        })
        .collect();
    let mut hello = facts.hello(facts.user());
    hello[4..8].copy_from_slice(&77_u32.to_le_bytes());
    cases.push(case(
        "2",
        "WELCOME repeats HELLO's request id",
        [send(hello), expect(77, Answer::Welcome)],
    ));
    let pings: Vec<u8> = (2..66).flat_map(ping).collect();
    let pongs = (2..66).map(|id| (id, Answer::Pong)).collect();
    let what = "64 requests in flight together are all answered";
    cases.push(case("2", what, [open(facts), send(pings), vec![Step::Expect(pongs)]]));
    let what = "an ERROR repeats the request id of the frame it refuses";
    let bad = frame(kind::PING, 1, 4_711, &[]);
    cases.push(case("6", what, [open(facts), send(bad), refused(4_711, Refused::PROTOCOL)]));
    cases
}

fn lengths(facts: &Facts) -> Vec<Case> {
    let unknown = 0x7f;
    let mut cases = Vec::new();
    for (what, length) in [("1,025", 1_025), ("16,384", 16_384), ("65,535", u16::MAX)] {
        let what = format!("before WELCOME a header that states {what} bytes is refused at once");
        let steps = [send(header(unknown, 9, length)), refused(0, Refused::PROTOCOL)];
        cases.push(case("2", what, steps));
    }
    for (what, length) in [("16,385", 16_385), ("65,535", u16::MAX)] {
        let what = format!("after WELCOME a header that states {what} bytes is refused at once");
        let bad = send(header(unknown, 9, length));
        cases.push(case("2", what, [open(facts), bad, refused(0, Refused::PROTOCOL)]));
    }
    let longest = send(frame(unknown, 0, 9, &[7; 16_384]));
    let what = "after WELCOME a payload of 16,384 bytes is taken";
    cases.push(case("2", what, [open(facts), longest, goes_on(2)]));
    let what = "before WELCOME a payload of 1,024 bytes is taken";
    let longest = send(frame(unknown, 0, 9, &[7; 1_024]));
    cases.push(case("2", what, [longest, open(facts)]));
    let what = "behind HELLO, before WELCOME, the limit is still 1,024 bytes";
    let both = [facts.hello(facts.user()), header(unknown, 9, 1_025)].concat();
    cases.push(case("9.1", what, [send(both), refused(0, Refused::PROTOCOL)]));
    for (name, number) in [("PING", kind::PING), ("BYE", kind::BYE)] {
        let what = format!("{name} with a payload");
        let bad = send(frame(number, 0, 9, &[0]));
        cases.push(case("3", what, [open(facts), bad, refused(9, Refused::PROTOCOL)]));
    }
    for (name, number, length) in [
        ("SHAKE", kind::SHAKE, 23),
        ("SHAKE", kind::SHAKE, 25),
        ("OPEN", kind::OPEN, 135),
        ("OPEN", kind::OPEN, 137),
    ] {
        let what = format!("{name} with a payload of {length} bytes");
        let bad = send(frame(number, 0, 9, &vec![0; length]));
        cases.push(case("3", what, [open(facts), bad, refused(9, Refused::PROTOCOL)]));
    }
    cases
}

fn kinds(facts: &Facts) -> Vec<Case> {
    let mut cases = Vec::new();
    for number in [0x00, 0x06, 0x3f] {
        let what = format!("the unknown kind {number:#04x} without bit 0x40");
        let bad = send(frame(number, 0, 9, &[]));
        let early = [bad.clone(), refused(9, Refused::PROTOCOL)];
        cases.push(case("9.1", format!("{what}, before HELLO"), early));
        cases.push(case("9.1", what, [open(facts), bad, refused(9, Refused::PROTOCOL)]));
    }
    for number in [0x40, 0x7f] {
        let what = format!("the unknown kind {number:#04x} with bit 0x40 is ignored");
        let odd = send(frame(number, 0xff, 9, b"anything"));
        let early = [odd.clone(), open(facts), goes_on(2)];
        cases.push(case("9.1", format!("{what}, before HELLO"), early));
        let both = [facts.hello(facts.user()), frame(number, 0xff, 9, &[1; 100])].concat();
        let checking = [send(both), expect(1, Answer::Welcome), goes_on(2)];
        cases.push(case("9.1", format!("{what}, behind HELLO"), checking));
        cases.push(case("9.1", what, [open(facts), odd, goes_on(2)]));
    }
    for number in [kind::WELCOME, kind::PONG, kind::ERROR, 0xbf, 0xc1, 0xff] {
        let what = format!("the kind {number:#04x} of servers, optional or not");
        let bad = send(frame(number, 0, 9, &[]));
        let early = [bad.clone(), refused(9, Refused::PROTOCOL)];
        cases.push(case("2", format!("{what}, before HELLO"), early));
        cases.push(case("2", what, [open(facts), bad, refused(9, Refused::PROTOCOL)]));
    }
    for flag in 0..8 {
        let bad = send(frame(kind::PING, 1 << flag, 9, &[]));
        let what = format!("PING with the flag {:#04x}", 1 << flag);
        cases.push(case("2", what, [open(facts), bad, refused(9, Refused::PROTOCOL)]));
    }
    cases
}

fn cuts(facts: &Facts) -> Vec<Case> {
    let hello = || facts.hello(facts.user());
    let mut cases = Vec::new();
    for piece in [1, 7, 8, 9] {
        let what = format!("HELLO and PING in pieces of {piece} bytes");
        let steps = [
            trickle(hello(), piece),
            expect(1, Answer::Welcome),
            trickle(ping(2), piece),
            expect(2, Answer::Pong),
        ];
        cases.push(case("2", what, steps));
    }
    let what = "frames are joined and cut elsewhere than between them";
    let odd = frame(0x7f, 0, 9, &[5; 300]);
    let joined: Vec<u8> = (2..50).flat_map(|id| [ping(id), odd.clone()].concat()).collect();
    let pongs = (2..50).map(|id| (id, Answer::Pong)).collect();
    cases.push(case("2", what, [open(facts), trickle(joined, 101), vec![Step::Expect(pongs)]]));
    let what = "a long frame in single bytes";
    let bytes = frame(0x7f, 0, 9, &[5; 1_000]);
    let slowly = vec![Step::Trickle { bytes, piece: 1, pause_ms: 0 }];
    cases.push(case("2", what, [open(facts), slowly, goes_on(2)]));
    let what = "frames behind one that closes are not read";
    let both = [frame(kind::PING, 1, 9, &[]), ping(10), ping(11)].concat();
    cases.push(case("9.1", what, [open(facts), send(both), refused(9, Refused::PROTOCOL)]));
    let what = "frames behind BYE are not read";
    let both = [frame(kind::BYE, 0, 0, &[]), ping(10)].concat();
    cases.push(case("9.1", what, [open(facts), send(both), vec![Step::Closed]]));
    cases
}
