//! Cases of wire.md 3.1, 9.2 and 11: what HELLO says, and in which order it is judged.

use super::{
    case::{Answer, Case, Refused, Step, case, case_if, expect, on, refused, send},
    facts::{Facts, hello},
    frames::{frame, goes_on, open, ping},
    states::{at_drain, farewell},
};
use yao_protocol::{
    CampaignId, KeyId, UserId,
    client::kind,
    keys::MacKey,
    limits::TOKEN_BYTES_MAX,
    tally::{TALLY_BYTES, Tally},
};

pub(super) fn cases(facts: &Facts) -> Vec<Case> {
    let mut cases = versions(facts);
    cases.extend(fields(facts));
    cases.extend(order(facts));
    cases.extend(places(facts));
    cases.extend(tallies(facts));
    cases.extend(replaced(facts));
    cases
}

/// HELLO whose byte at `at` of the payload is another one.
fn changed(facts: &Facts, at: usize, byte: u8) -> Vec<u8> {
    let mut bytes = facts.hello(facts.user());
    bytes[8 + at] = byte;
    bytes
}

/// A frame with a byte more, as its header says.
fn grown(mut frame: Vec<u8>) -> Vec<u8> {
    let payload = u16::from_le_bytes([frame[0], frame[1]]) + 1;
    frame[..2].copy_from_slice(&payload.to_le_bytes());
    frame.push(0);
    frame
}

fn versions(facts: &Facts) -> Vec<Case> {
    let range = |low: u8, high: u8| {
        let mut bytes = changed(facts, 0, low);
        bytes[9] = high;
        send(bytes)
    };
    let mut cases = Vec::new();
    for (low, high) in [(0, 1), (1, 1), (1, 2), (0, 255)] {
        let what = format!("versions {low} to {high} include 1");
        let steps = [range(low, high), expect(1, Answer::Welcome)];
        cases.push(case(format!("W11-01.{low}-{high}"), what, steps));
    }
    for (low, high) in [(0, 0), (2, 2), (2, 255)] {
        let what = format!("versions {low} to {high} do not include 1");
        let steps = [range(low, high), refused(1, Refused::VERSION)];
        cases.push(case(format!("W9.2-01.{low}-{high}"), what, steps));
    }
    let what = "versions 2 to 1 are none";
    cases.push(case("W3.1-03", what, [range(2, 1), refused(1, Refused::PROTOCOL)]));
    cases
}

fn fields(facts: &Facts) -> Vec<Case> {
    let protocol = || refused(1, Refused::PROTOCOL);
    let mut cases = Vec::new();
    for (id, what, at, byte) in [
        ("W3.1-04.two", "two tallies", 2, 2),
        ("W3.1-04.missing", "a tally that is not there", 2, 1),
        ("W3.1-05", "the reserved byte is set", 3, 1),
        ("W1.1-01", "a reserved byte is 255", 3, 255),
        ("W3.1-07.more", "a token that is longer than the frame", 16, 255),
        ("W3.1-07.less", "a token that is shorter than the frame", 17, 0),
    ] {
        cases.push(case(id, what, [send(changed(facts, at, byte)), protocol()]));
    }
    let what = "a tally that the count denies";
    let tallied = {
        let token = facts.tokens.good(facts.user());
        let mut bytes = facts.hello_with(&token, Some(&[0; TALLY_BYTES]));
        bytes[8 + 2] = 0;
        bytes
    };
    cases.push(case("W3.1-04.denied", what, [send(tallied), protocol()]));
    let what = format!("a token of {} bytes", TOKEN_BYTES_MAX + 1);
    let mut long = grown(facts.hello_with(&[b'e'; TOKEN_BYTES_MAX], None));
    let length = u16::try_from(TOKEN_BYTES_MAX + 1).expect("a token is short").to_le_bytes();
    long[8 + 16..8 + 18].copy_from_slice(&length);
    cases.push(case("W3.1-07.long", what, [send(long), protocol()]));
    let what = "a byte behind the token";
    let longer = grown(facts.hello(facts.user()));
    cases.push(case("W1.1-02", what, [send(longer), protocol()]));
    for (variant, byte) in [("zeros", 0), ("ones", 0xff)] {
        let mut bytes = facts.hello(facts.user());
        bytes[12..16].fill(byte);
        let what = format!("software of {variant}");
        let steps = [send(bytes), expect(1, Answer::Welcome)];
        cases.push(case(format!("W3.1-06.{variant}"), what, steps));
    }
    cases
}

/// Each pair of faults is answered as the one that stands first in the table.
fn order(facts: &Facts) -> Vec<Case> {
    let other = CampaignId(facts.campaign.0 ^ 1);
    let token = facts.tokens.good(facts.user());
    let wrong = || hello(other, &token, None);
    let mut cases = Vec::new();
    let steps = [send(wrong()), refused(1, Refused::WRONG_CAMPAIGN)];
    cases.push(case("W9.2-02", "another campaign", steps));
    let mut both = wrong();
    both[8..10].copy_from_slice(&[2, 2]);
    let what = "another version and another campaign: the version is judged first";
    cases.push(case("W9.2-08.version", what, [send(both), refused(1, Refused::VERSION)]));
    let both = hello(other, b"no token", Some(&[0; TALLY_BYTES]));
    let what = "another campaign and a bad tally: the campaign is judged first";
    let steps = [send(both), refused(1, Refused::WRONG_CAMPAIGN)];
    cases.push(case("W9.2-08.campaign", what, steps));
    let newcomer =
        |bytes: Vec<u8>, then: Vec<Step>| [vec![Step::Ending], send(bytes), then].concat();
    let turned_away = || [farewell(facts), vec![Step::Farewell]].concat();
    let what = "HELLO while the node drains";
    let steps = newcomer(facts.hello(facts.user()), turned_away());
    cases.push(at_drain(facts, "W9.2-03", what, steps));
    let what = "HELLO with a bad tally while the node drains: the drain is judged first";
    let steps = newcomer(facts.hello_with(b"no", Some(&[0; TALLY_BYTES])), turned_away());
    cases.push(at_drain(facts, "W9.2-08.drain", what, steps));
    let what = "another campaign while the node drains: the campaign is judged first";
    let steps = newcomer(wrong(), refused(1, Refused::WRONG_CAMPAIGN));
    cases.push(at_drain(facts, "W9.2-08.campaign-drain", what, steps));
    cases
}

/// HELLO comes first, and once.
fn places(facts: &Facts) -> Vec<Case> {
    let protocol = |id| refused(id, Refused::PROTOCOL);
    let mut cases = Vec::new();
    let what = "an ordinary HELLO";
    cases.push(case("W1.4-01", what, [open(facts), goes_on(2)]));
    let named = !facts.welcome.endpoints.is_empty();
    let script = if named { Ok(open(facts)) } else { Err("the server names no other node") };
    cases.push(case_if("W4-01", "the endpoints of other nodes can be read", script));
    let what = "PING in place of HELLO";
    cases.push(case("W3.1-01", what, [send(ping(9)), protocol(9)]));
    let hello = facts.hello(facts.user());
    let what = "a second HELLO behind the first";
    let twice = [hello.clone(), hello.clone()].concat();
    cases.push(case("W3.1-02.behind", what, [send(twice), protocol(1)]));
    let what = "a second HELLO after WELCOME";
    let first = [send(hello.clone()), expect(1, Answer::Welcome)].concat();
    cases.push(case("W3.1-02.after", what, [first, send(hello), protocol(1)]));
    let what = "a flag of PING behind HELLO";
    let both = [facts.hello(facts.user()), frame(kind::PING, 1, 9, &[])].concat();
    cases.push(case("W2-01.checking", what, [send(both), protocol(9)]));
    cases
}

fn tallies(facts: &Facts) -> Vec<Case> {
    let asked = |variant: &str, what: &str, tally: [u8; TALLY_BYTES], user: UserId| {
        let hello = facts.hello_with(&facts.tokens.good(user), Some(&tally));
        let steps = [send(hello), refused(1, Refused::AUTH_FAILED)];
        case(format!("W9.2-04.{variant}"), format!("a tally {what}"), steps)
    };
    let mut cases = vec![
        asked("zeros", "of zeros", [0; TALLY_BYTES], facts.user()),
        asked("ones", "of ones", [0xff; TALLY_BYTES], facts.user()),
    ];
    for id in [0, 1, 3, u32::MAX] {
        let user = facts.user();
        let forged = Tally::empty(facts.campaign, user).encode(&MacKey::new(KeyId(id), [9; 32]));
        let what = format!("with a forged MAC, key id {id}");
        cases.push(asked(&format!("forged-{id}"), &what, forged, user));
    }
    let what = "a token that is none";
    let stranger = send(facts.hello_with(b"no token", None));
    cases.push(case("W9.2-06", what, [stranger, refused(1, Refused::AUTH_FAILED)]));
    let what = "after AUTH_FAILED without the tally: believed";
    let user = facts.user();
    let bad = facts.hello_with(&facts.tokens.good(user), Some(&[1; TALLY_BYTES]));
    let steps = [
        send(bad),
        refused(1, Refused::AUTH_FAILED),
        on(1),
        send(facts.hello(user)),
        expect(1, Answer::Welcome),
        goes_on(2),
    ];
    cases.push(case("W6-18", what, steps));
    cases
}

fn replaced(facts: &Facts) -> Vec<Case> {
    let user = facts.user();
    let session = || [send(facts.hello(user)), expect(1, Answer::Welcome)].concat();
    let steps = [
        session(),
        on(1),
        session(),
        on(0),
        expect(0, Answer::Replaced),
        vec![Step::Farewell],
        on(1),
        goes_on(2),
    ];
    let newer = case("W9.2-11", "the newest session of a user replaces the older", steps);
    let user = facts.user();
    let session = || [send(facts.hello(user)), expect(1, Answer::Welcome)].concat();
    let steps = [
        // Before HELLO nothing tells over TCP that a connection was accepted.
        vec![Step::Connect, Step::Silence(200)],
        on(1),
        session(),
        on(0),
        session(),
        expect(0, Answer::Replaced),
        vec![Step::Farewell],
        on(1),
        goes_on(2),
    ];
    let what = "a HELLO that was overtaken does not end the session in use";
    vec![newer, case("W9.2-11.overtaken", what, steps)]
}
