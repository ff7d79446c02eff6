//! Cases of wire.md 9.1: what is taken in which state. The state *leaving* needs a server that
//! drains at the end of the run.

use super::{
    case::{Answer, Case, Refused, Step, When, case, case_if, closed, expect, refused, send},
    draws::drawn,
    facts::Facts,
    frames::{UNKNOWN, bye, frame, goes_on, header, open, ping},
    opens::opening,
    told::Ending,
};
use yao_protocol::{ShakeId, client::kind, ticket::TICKET_BYTES};

/// The columns of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Greeting,
    Checking,
    Open,
    Leaving,
}

impl State {
    pub(super) const ALL: [Self; 4] = [Self::Greeting, Self::Checking, Self::Open, Self::Leaving];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Greeting => "greeting",
            Self::Checking => "checking",
            Self::Open => "open",
            Self::Leaving => "leaving",
        }
    }
}

/// GOAWAY of a drain, as this server was said to word it.
pub(super) fn farewell(facts: &Facts) -> Vec<Step> {
    expect(0, Answer::Drain(facts.told.return_ms, facts.told.return_jitter_ms))
}

/// A session that was asked to leave.
pub(super) fn leaving(facts: &Facts) -> Vec<Step> {
    [open(facts), vec![Step::Ending], farewell(facts)].concat()
}

/// A case for servers that drain at the end of the run.
pub(super) fn at_drain(
    facts: &Facts,
    id: impl Into<String>,
    what: impl Into<String>,
    steps: Vec<Step>,
) -> Case {
    let drains = facts.told.ending == Some(Ending::Drain);
    let script = if drains { Ok(steps) } else { Err("it does not drain: --ending") };
    case_if(id, what, script).at(When::Ending)
}

/// `bytes` in `state`; `then` is what comes of it, where WELCOME, if it is still to come, has come.
fn row(
    facts: &Facts,
    state: State,
    (rule, variant, what): (&str, &str, &str),
    bytes: Vec<u8>,
    then: Vec<Step>,
) -> Case {
    let id = format!("{rule}.{}{variant}", state.name());
    let what = format!("{what} in {}", state.name());
    match state {
        State::Greeting => case(id, what, [send(bytes), then]),
        State::Checking => {
            let both = [facts.hello(facts.user()), bytes].concat();
            case(id, what, [send(both), then])
        }
        State::Open => case(id, what, [open(facts), send(bytes), then]),
        State::Leaving => {
            let steps = [leaving(facts), send(bytes), then].concat();
            at_drain(facts, id, what, steps)
        }
    }
}

pub(super) fn cases(facts: &Facts) -> Vec<Case> {
    let mut cases = Vec::new();
    for state in State::ALL {
        cases.extend(requests(facts, state));
        cases.extend(others(facts, state));
    }
    let behind = [frame(kind::PING, 1, 9, &[]), ping(10), ping(11)].concat();
    let what = "BYE is not answered, whatever its request id";
    let numbered = send(frame(kind::BYE, 0, 55, &[]));
    cases.push(case("W3.5-02", what, [open(facts), numbered, closed()]));
    let what = "frames behind one that closes are not read";
    let steps = [open(facts), send(behind), refused(9, Refused::PROTOCOL)];
    cases.push(case("W9.1-09", what, steps));
    let what = "frames behind BYE are not read";
    let behind = [bye(), ping(10)].concat();
    cases.push(case("W1.5-01.behind", what, [open(facts), send(behind), closed()]));
    let what = "after BYE the server closes at once";
    let soon = vec![Step::Mark, Step::After(0..=1_000 + facts.told.slack_ms)];
    cases.push(case("W1.5-01", what, [open(facts), soon, send(bye()), closed()]));
    cases
}

/// HELLO, SHAKE, OPEN, PING and BYE.
fn requests(facts: &Facts, state: State) -> Vec<Case> {
    let early = matches!(state, State::Greeting | State::Checking);
    let or_too_early = |steps: Vec<Step>| {
        if early { refused(9, Refused::PROTOCOL) } else { steps }
    };
    let hello = facts.hello(facts.user());
    let hello_then = match state {
        State::Greeting => [expect(1, Answer::Welcome), goes_on(2)].concat(),
        _ => refused(1, Refused::PROTOCOL),
    };
    let shake = ShakeId(7);
    let invalid = [refused(9, Refused::TICKET_INVALID), goes_on(2)].concat();
    let open_then = or_too_early(invalid);
    vec![
        row(facts, state, ("W9.1-01", "", "HELLO"), hello, hello_then),
        row(
            facts,
            state,
            ("W9.1-02", "", "SHAKE"),
            facts.shake(9, shake, false),
            or_too_early(expect(9, drawn(shake))),
        ),
        row(
            facts,
            state,
            ("W9.1-02", "-resend", "SHAKE with RESEND"),
            facts.shake(9, shake, true),
            or_too_early(expect(9, drawn(shake))),
        ),
        row(facts, state, ("W9.1-03", "", "OPEN"), opening(9, &[0; TICKET_BYTES]), open_then),
        row(facts, state, ("W9.1-04", "", "PING"), ping(9), or_too_early(expect(9, Answer::Pong))),
        row(facts, state, ("W9.1-05", "", "BYE"), bye(), closed()),
    ]
}

/// What is unknown, wrong, or too long.
fn others(facts: &Facts, state: State) -> Vec<Case> {
    let protocol = |id| refused(id, Refused::PROTOCOL);
    let ignored = match state {
        State::Greeting => [open(facts), goes_on(2)].concat(),
        State::Checking => [expect(1, Answer::Welcome), goes_on(2)].concat(),
        State::Open | State::Leaving => goes_on(2),
    };
    let limit = match state {
        State::Greeting | State::Checking => 1_024,
        State::Open | State::Leaving => 16_384,
    };
    let unknown = frame(UNKNOWN, 0xff, 9, &[1; 100]);
    let wrong = [
        ("", "an unknown kind without bit 0x40", frame(0x3f, 0, 9, &[])),
        ("-flag", "a PING with a flag", frame(kind::PING, 1, 9, &[])),
        ("-length", "a PING with a payload", frame(kind::PING, 0, 9, &[0])),
        ("-kind", "a kind of servers", frame(kind::PONG, 0, 9, &[0; 8])),
    ];
    let mut cases: Vec<Case> = wrong
        .into_iter()
        .map(|(variant, what, bytes)| {
            row(facts, state, ("W9.1-07", variant, what), bytes, protocol(9))
        })
        .collect();
    let what = "an unknown kind with bit 0x40";
    cases.push(row(facts, state, ("W9.1-06", "", what), unknown, ignored));
    let what = format!("a header that states {} bytes", limit + 1);
    let too_long = header(UNKNOWN, 9, limit + 1);
    cases.push(row(facts, state, ("W9.1-08", "", &what), too_long, protocol(0)));
    cases
}
