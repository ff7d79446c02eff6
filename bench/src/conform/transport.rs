//! Cases of wire.md 1.4 and 9.5 about what lies below the frames: handshakes, ALPN, streams.

use super::{
    case::{Case, Step, case},
    wire::Server,
};
use std::ops::RangeInclusive;

/// How late a deadline may fire, ms (wire.md 9.5).
const DEADLINE_LATE_MS: u64 = 400;

/// What a transport must keep to.
#[derive(Clone, Debug)]
pub(super) enum Rule {
    /// A connection on which no handshake comes is closed without a byte, so many ms later.
    SilentHandshake(RangeInclusive<u64>),
    /// Bytes that are no handshake are not answered as frames are.
    NoHandshake,
    /// A client that offers these protocols (ALPN) gets no handshake.
    Protocols(&'static [&'static [u8]]),
    /// The server allows no second stream, in either direction.
    OneStream,
    /// The server takes no datagram frames.
    NoDatagrams,
}

pub(super) fn cases(server: &Server, handshake_ms: u64, slack_ms: u64) -> Vec<Case> {
    let rule = |section, what: &str, rule| case(section, what, [vec![Step::Transport(rule)]]);
    let mut cases = Vec::new();
    if server.is_plain() {
        return cases;
    }
    let (none, other): (&[&[u8]], &[&[u8]]) = (&[], &[b"http/1.1", b"yao/2", b"yao/"]);
    cases.push(rule("1.4", "a client that offers no protocol (ALPN)", Rule::Protocols(none)));
    cases.push(rule("1.4", "a client that offers other protocols", Rule::Protocols(other)));
    if server.is_quic() {
        cases.push(rule("1.4", "a second stream is not allowed", Rule::OneStream));
        cases.push(rule("1.4", "datagram frames are not allowed", Rule::NoDatagrams));
    } else {
        let window = handshake_ms..=handshake_ms + DEADLINE_LATE_MS + slack_ms;
        let what = "no handshake at all: closed without a byte";
        cases.push(rule("9.5", what, Rule::SilentHandshake(window)));
        cases.push(rule("1.4", "frames in place of a handshake", Rule::NoHandshake));
    }
    cases
}
