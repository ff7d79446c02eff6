//! Cases of wire.md 1.4, 1.5 and 9.5 about what lies below the frames: handshakes, ALPN, records,
//! streams, addresses.

use super::{
    case::{Answer, Below, Case, Refused, Step, case, elsewhere, expect, refused, send},
    deadlines::due,
    facts::{Facts, Way},
    frames::{goes_on, open, ping},
};
use std::ops::RangeInclusive;

/// What a transport must keep to.
#[derive(Clone, Debug)]
pub(super) enum Rule {
    /// A handshake that is not done is closed without a frame, so many ms after the connection.
    /// Before that these bytes are sent, or as much as the transport itself begins with.
    Handshake(RangeInclusive<u64>, Opening),
    /// Bytes that are no handshake are not answered as frames are.
    NoHandshake(Vec<u8>),
    /// A client that offers these protocols (ALPN) gets no handshake.
    Protocols(&'static [&'static [u8]]),
    /// A client that knows only this older version is told so.
    Version(Older),
    /// The certificate's key is of a kind that clients understand.
    Certificate,
    /// The client is not asked for one.
    NoClientCertificate,
    /// What is sent before the handshake's end, by a client that takes the right to, is not taken.
    EarlyData(Vec<u8>),
    /// The ticket of a session gives no such right.
    NoEarlyData(Vec<u8>),
    /// A connection that resumes another's session begins as that one did.
    Resumed {
        /// What is sent on the first connection, and again on the second.
        hello: Vec<u8>,
        /// What is sent on a third one in its place; it ends that one.
        early: Vec<u8>,
    },
    /// The server allows no second stream, in either direction.
    OneStream,
    /// Whoever opens one nevertheless is closed.
    Streams(Vec<u8>),
    /// The server takes no datagram frames.
    NoDatagrams,
    /// Whoever sends one nevertheless is closed.
    Datagrams(Vec<u8>),
    /// A close that is not acknowledged follows so many ms later.
    Unacknowledged(Vec<u8>, RangeInclusive<u64>),
    /// A new connection is closed, or not let in, before any frame.
    Refused,
}

/// How far a handshake comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opening {
    /// Not a byte.
    Nothing,
    /// Half of the client's first message.
    Half,
    /// The client's first message; then it hears the answer and says no more.
    Silent,
}

/// A client of another time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Older {
    /// TLS 1.2, named among the versions.
    Tls12,
    /// One that does not name versions at all.
    Unnamed,
    /// A QUIC version that nobody knows.
    Quic,
}

/// A rule of one transport.
fn rule(facts: &Facts, (id, what): (&str, &str), way: Way, rule: Rule) -> Case {
    steps(facts, (id, what), way, vec![Step::Transport(rule)])
}

fn steps(facts: &Facts, (id, what): (&str, &str), way: Way, steps: Vec<Step>) -> Case {
    let name = match way {
        Way::Tcp => "TCP",
        Way::Tls => "TLS",
        Way::Quic => "QUIC",
    };
    if facts.way == way { case(id, what, [steps]) } else { elsewhere(id, what, name) }
}

/// A rule of TLS wherever it is: over TCP and in QUIC.
fn both(facts: &Facts, id: &str, what: &str, make: impl Fn() -> Rule) -> Vec<Case> {
    if facts.way == Way::Tcp {
        return vec![elsewhere(id, what, "TLS and QUIC")];
    }
    vec![case(id, what, [vec![Step::Transport(make())]])]
}

pub(super) fn cases(facts: &Facts) -> Vec<Case> {
    let mut cases = handshakes(facts);
    cases.extend(early_data(facts));
    cases.extend(records(facts));
    cases.extend(streams(facts));
    cases.extend(ends(facts));
    cases.extend(strangers(facts));
    cases
}

fn handshakes(facts: &Facts) -> Vec<Case> {
    const OTHERS: &[&[u8]] = &[b"http/1.1", b"yao/2", b"yao/"];
    let window = || due(facts, facts.told.handshake_ms);
    let tls = |id, what, it| rule(facts, (id, what), Way::Tls, it);
    let quic = |id, what, it| rule(facts, (id, what), Way::Quic, it);
    let begun = |opening| Rule::Handshake(window(), opening);
    let mut cases = vec![
        tls("W1.4-02.named", "a client of TLS 1.2", Rule::Version(Older::Tls12)),
        tls("W1.4-02.unnamed", "a client that names no version", Rule::Version(Older::Unnamed)),
        tls("W1.4-03", "a client that offers no protocol (ALPN)", Rule::Protocols(&[])),
        tls("W1.4-03.others", "a client that offers other protocols", Rule::Protocols(OTHERS)),
        quic("W1.4-04", "a client of another version of QUIC", Rule::Version(Older::Quic)),
        quic("W1.4-05", "a client that offers no protocol (ALPN)", Rule::Protocols(&[])),
        quic("W1.4-05.others", "a client that offers other protocols", Rule::Protocols(OTHERS)),
        tls("W1.4-17", "frames in place of a handshake", Rule::NoHandshake(ping(2).repeat(8))),
        tls("W9.5-01.nothing", "no handshake at all", begun(Opening::Nothing)),
        tls("W9.5-01.half", "half of the first message", begun(Opening::Half)),
        tls("W9.5-01.silent", "a client that does not finish", begun(Opening::Silent)),
        quic("W9.5-01.quic", "a client that does not finish", begun(Opening::Silent)),
    ];
    let what = "the certificate is Ed25519 or P-256";
    cases.extend(both(facts, "W1.4-06", what, || Rule::Certificate));
    let what = "the client is asked for no certificate";
    cases.extend(both(facts, "W1.4-07", what, || Rule::NoClientCertificate));
    cases
}

fn early_data(facts: &Facts) -> Vec<Case> {
    // A user each: they are played side by side.
    let hello = || facts.hello(facts.user());
    let what = "a session's ticket does not allow early data";
    let mut cases = both(facts, "W1.4-08", what, || Rule::NoEarlyData(hello()));
    let what = "early data that is sent nevertheless is not taken";
    cases.push(rule(facts, ("W1.4-08.sent", what), Way::Tls, Rule::EarlyData(hello())));
    let what = "a resumed connection begins with HELLO, as any other";
    let resumed = Rule::Resumed { hello: hello(), early: ping(9) };
    cases.push(rule(facts, ("W1.4-09", what), Way::Tls, resumed));
    cases
}

/// TLS: records that are too long, and keys that change.
fn records(facts: &Facts) -> Vec<Case> {
    let tls = |id, what, parts: Vec<Step>| steps(facts, (id, what), Way::Tls, parts);
    let raw = |bytes: Vec<u8>| vec![Step::Below(Below::Raw(bytes))];
    let stated = |length: u16, sent: usize| {
        let [high, low] = length.to_be_bytes();
        let mut bytes = vec![23, 3, 3, high, low];
        bytes.resize(sent, 0);
        raw(bytes)
    };
    // Before any deadline: it is refused for what it says, not for what it lacks.
    let soon = || vec![Step::Mark, Step::After(0..=facts.told.greeting_ms / 2), Step::Closed];
    let connect = || vec![Step::Connect];
    let rekey = || vec![Step::Below(Below::Rekey)];
    let what = "keys are changed again and again";
    let changed = (2..8).flat_map(|id| [rekey(), goes_on(id)].concat()).collect();
    let changed = [open(facts), changed].concat();
    vec![
        tls("W1.4-15", "a header that states 18,433 bytes", {
            [open(facts), stated(18_433, 5), soon()].concat()
        }),
        tls("W1.4-15.greeting", "the same before HELLO", {
            [connect(), stated(18_433, 5), soon()].concat()
        }),
        tls("W1.4-15.long", "a record of 16,700 bytes", {
            [open(facts), stated(16_700, 16_705), soon()].concat()
        }),
        tls("W1.4-16", "4,097 bytes of a record before HELLO", {
            [connect(), stated(16_000, 4_097), soon()].concat()
        }),
        tls("W1.4-16.open", "the same after WELCOME is waited for", {
            let quiet = vec![Step::Silence(facts.told.frame_ms / 2)];
            [open(facts), stated(16_000, 4_097), quiet].concat()
        }),
        match facts.way {
            Way::Tcp => elsewhere("W1.4-14", what, "TLS and QUIC"),
            Way::Tls | Way::Quic => case("W1.4-14", what, [changed]),
        },
    ]
}

fn streams(facts: &Facts) -> Vec<Case> {
    let quic = |id, what, it| rule(facts, (id, what), Way::Quic, it);
    let hello = || facts.hello(facts.user());
    let moved = |id| [vec![Step::Below(Below::Move)], goes_on(id)].concat();
    let what = "the client goes on from another address, twice";
    let moves = [open(facts), goes_on(2), moved(3), moved(4)].concat();
    vec![
        quic("W1.4-10", "a second stream is not allowed", Rule::OneStream),
        quic("W1.4-10.opened", "whoever opens one is closed", Rule::Streams(hello())),
        quic("W1.4-11", "datagram frames are not allowed", Rule::NoDatagrams),
        quic("W1.4-11.sent", "whoever sends one is closed", Rule::Datagrams(hello())),
        steps(facts, ("W1.4-13", what), Way::Quic, moves),
    ]
}

/// The end of the stream, from either side.
fn ends(facts: &Facts) -> Vec<Case> {
    let below = |it| vec![Step::Below(it)];
    let end = || below(Below::End);
    let closed = || vec![Step::Closed];
    let what = "the client ends its stream, and the server the connection";
    let mut cases = vec![
        case("W1.4-12", what, [open(facts), end(), closed()]),
        case("W1.4-12.greeting", "the same before HELLO", [vec![Step::Connect], end(), closed()]),
    ];
    for (variant, reset, stop) in
        [("reset", true, false), ("stop", false, true), ("both", true, true)]
    {
        let (id, what) = (format!("W1.4-12.{variant}"), format!("the same by {variant}"));
        let abandoned = [open(facts), below(Below::Abandon { reset, stop }), closed()].concat();
        cases.push(steps(facts, (&id, &what), Way::Quic, abandoned));
    }
    let what = "frames before the end are answered, where the end leaves a way";
    let both = [open(facts), send(ping(2)), expect(2, Answer::Pong), end(), closed()];
    cases.push(case("W1.4-12.answered", what, both));
    let what = "CONNECTION_CLOSE comes a second later to a client that acknowledges nothing";
    // As early as any deadline may be (9.5).
    let window = *due(facts, 1_000).start()..=1_000 + 1_000 + facts.told.slack_ms;
    let deaf = Rule::Unacknowledged(facts.hello(facts.user()), window);
    cases.push(rule(facts, ("W1.5-04", what), Way::Quic, deaf));
    cases
}

/// PROXY headers from somebody who is no balancer.
fn strangers(facts: &Facts) -> Vec<Case> {
    let mut second = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    second.extend([192, 0, 2, 1, 10, 0, 0, 1, 0x30, 0x39, 0x1f, 0x90]);
    let first = b"PROXY TCP4 192.0.2.1 10.0.0.1 12345 8080\r\n".to_vec();
    let mut cases = Vec::new();
    for (id, what, bytes) in [
        ("W1.4-19", "a PROXY header of version 2 from a stranger", second),
        ("W1.4-19.old", "a PROXY header of version 1 from a stranger", first),
    ] {
        cases.push(match facts.way {
            // The first bytes are read as a header that states too much.
            Way::Tcp => {
                let both = [bytes, facts.hello(facts.user())].concat();
                case(id, what, [send(both), refused(0, Refused::PROTOCOL)])
            }
            Way::Tls => case(id, what, [vec![Step::Transport(Rule::NoHandshake(bytes))]]),
            Way::Quic => elsewhere(id, what, "TCP and TLS"),
        });
    }
    cases
}
