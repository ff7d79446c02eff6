//! Cases of wire.md 1.5 and 4.6: how sessions end, and what a client is told that shall leave.

use super::{
    case::{Answer, Case, Refused, Step, case, elsewhere, expect, on, send},
    facts::{Facts, Way},
    frames::{bye, frame, goes_on, open},
    opens::opening,
    states::{at_drain, leaving},
};
use yao_protocol::{client::kind, ticket::TICKET_BYTES};

pub(super) fn cases(facts: &Facts) -> Vec<Case> {
    let mut cases = farewells(facts);
    let what = "GOAWAY, and the session goes on";
    cases.push(at_drain(facts, "W4.6-01", what, [leaving(facts), goes_on(2)].concat()));
    let both = [opening(2, &[0; TICKET_BYTES]), bye()].concat();
    let what = "a client that was asked to leave opens, and leaves";
    let steps = [leaving(facts), send(both), vec![Step::Closed]].concat();
    cases.push(at_drain(facts, "W4.6-01.leaves", what, steps));
    let user = facts.user();
    let session = || [send(facts.hello(user)), expect(1, Answer::Welcome)].concat();
    let steps = [session(), on(1), session(), on(0), expect(0, Answer::Replaced)];
    let what = "GOAWAY to a session that was replaced";
    cases.push(case("W4.6-02", what, [steps.concat(), vec![Step::Farewell]]));
    cases
}

/// Each way in which a session ends, with the transport's own word for it.
fn farewells(facts: &Facts) -> Vec<Case> {
    let error = |id, refused| expect(id, Answer::Error(refused));
    let bad = frame(kind::PING, 1, 9, &[]);
    let stranger = send(facts.hello_with(b"no token", None));
    let deadline = [vec![Step::Connect], send([0x42]), error(0, Refused::TIMEOUT)].concat();
    let ways = [
        ("bye", [open(facts), send(bye())].concat()),
        ("bye-early", send(bye())),
        ("protocol", [open(facts), send(bad.clone()), error(9, Refused::PROTOCOL)].concat()),
        ("protocol-early", [send(bad), error(9, Refused::PROTOCOL)].concat()),
        ("not-believed", [stranger, error(1, Refused::AUTH_FAILED)].concat()),
        ("timeout", deadline),
    ];
    let mut cases = Vec::new();
    let end = || vec![Step::Farewell];
    for (variant, steps) in ways {
        for (rule, what, way, name) in [
            ("W1.5-02", "the end is said with close_notify", Way::Tls, "TLS"),
            ("W1.5-03", "FIN, and CONNECTION_CLOSE with code 0", Way::Quic, "QUIC"),
        ] {
            let (id, what) = (format!("{rule}.{variant}"), format!("{variant}: {what}"));
            cases.push(if facts.way == way {
                case(id, what, [steps.clone(), end()])
            } else {
                elsewhere(id, what, name)
            });
        }
    }
    cases
}
