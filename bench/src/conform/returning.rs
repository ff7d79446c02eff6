//! Cases of wire.md 4.8 and 5.6: coming back with a reconnect ticket. A server that makes none
//! cannot be asked; with its key there are tickets of every kind.

use super::{
    case::{Answer, Case, Change, Refused, Return, Step, When, case_if, expect, on, refused, send},
    facts::Facts,
    frames::{goes_on, open},
};
use crate::identity::unix_seconds;
use serde_json::json;
use yao_protocol::{
    UserId, WallTime,
    reconnect::{RECONNECT_BYTES, ReconnectTicket},
};

/// Microseconds of a second.
const SECOND: u64 = 1_000_000;

pub(super) fn cases(facts: &Facts) -> Vec<Case> {
    let mut cases = handed_out(facts);
    cases.extend(changed(facts));
    cases.extend(used(facts));
    cases.extend(made(facts));
    cases
}

fn reconnects(count: usize) -> Vec<Step> {
    vec![Step::Reconnects(count)]
}

/// HELLO with the ticket of connection `of`.
fn back(of: usize, change: Change) -> Vec<Step> {
    vec![Step::Return(Return { of, change, tally: None })]
}

fn welcomed() -> Vec<Step> {
    [expect(1, Answer::Welcome), goes_on(2)].concat()
}

fn not_believed() -> Vec<Step> {
    refused(1, Refused::AUTH_FAILED)
}

fn session(facts: &Facts, user: UserId) -> Vec<Step> {
    [send(facts.hello(user)), welcomed(), reconnects(1)].concat()
}

fn asked<const N: usize>(
    facts: &Facts,
    id: impl Into<String>,
    what: &str,
    steps: [Vec<Step>; N],
) -> Case {
    let reason = "the server makes no reconnect tickets";
    let script = if facts.makes_tickets { Ok(steps.concat()) } else { Err(reason) };
    case_if(id, what, script)
}

/// HELLO with a session token that ends so many seconds from now.
fn brief(facts: &Facts, seconds: u64) -> Vec<Step> {
    let mut claims = facts.tokens.claims(facts.user());
    claims["exp"] = json!(unix_seconds() + seconds);
    let token = facts.tokens.signed(&facts.tokens.header(), claims.to_string().as_bytes());
    send(facts.hello_with(&token, None))
}

fn handed_out(facts: &Facts) -> Vec<Case> {
    let twice = |id| [goes_on(id), goes_on(id + 1)].concat();
    let what = "RECONNECT follows WELCOME, and no PONG before half of its life";
    let steps = [open(facts), twice(2), reconnects(1)];
    let mut cases = vec![asked(facts, "W4.8-01", what, steps)];
    let what = "WELCOME, and behind it a ticket";
    let steps = [open(facts), goes_on(2), reconnects(1)];
    cases.push(asked(facts, "W9.2-09", what, steps));
    let what = "no ticket that could not live longer: the token ends with it";
    let steps = [
        brief(facts, 6),
        welcomed(),
        reconnects(1),
        vec![Step::Silence(4_000)],
        twice(3),
        reconnects(1),
    ];
    cases.push(asked(facts, "W4.8-03", what, steps).at(When::Soon));
    let what = "a new ticket behind the first PONG after half of the old one's life";
    let script = facts.told.reconnect_seconds.ok_or("it lives too long: --reconnect-seconds");
    let script = script.map(|seconds| {
        let half = vec![Step::Silence(seconds * 500 + 200)];
        let newer = [twice(4), reconnects(2)].concat();
        let back = [on(1), back(0, Change::None), welcomed()].concat();
        [open(facts), twice(2), reconnects(1), half, newer, back].concat()
    });
    cases.push(case_if("W4.8-02", what, script));
    let what = "a ticket whose life is over";
    let script = facts.told.reconnect_seconds.ok_or("it lives too long: --reconnect-seconds");
    let script = script.map(|seconds| {
        let over = vec![Step::Silence(seconds * 1_000 + 100)];
        let back = [on(1), back(0, Change::None), not_believed()].concat();
        [open(facts), goes_on(2), reconnects(1), over, back].concat()
    });
    cases.push(case_if("W5.6-04.over", what, script));
    let what = "no ticket from a node that makes none";
    let script = (!facts.makes_tickets).then(|| [open(facts), twice(2), reconnects(0)].concat());
    cases.push(case_if("W4.8-04", what, script.ok_or("the server makes reconnect tickets")));
    cases
}

fn changed(facts: &Facts) -> Vec<Case> {
    let returns = |id: String, what: &str, change| {
        let steps = [open(facts), goes_on(2), reconnects(1), on(1), back(0, change)];
        asked(facts, id, what, [steps.concat(), not_believed()])
    };
    let mut cases: Vec<Case> = (0..RECONNECT_BYTES)
        .map(|at| returns(format!("W5.6-02.byte-{at}"), "a byte is changed", Change::Flip(at)))
        .collect();
    cases.push(returns("W5.6-02.cut".to_owned(), "its last byte is missing", Change::Cut));
    cases.push(returns("W5.6-02.grown".to_owned(), "a byte too many", Change::Grown));
    let what = "a ticket of its first byte only";
    let first = [send(facts.hello_with(&[1], None)), not_believed()];
    cases.push(asked(facts, "W5.6-02.first", what, first));
    cases
}

fn used(facts: &Facts) -> Vec<Case> {
    let (once, twice, late) = (facts.user(), facts.user(), facts.user());
    let back = |of| back(of, Change::None);
    let mut cases = Vec::new();
    let what = "a reconnect ticket in place of a session token";
    let steps = [open(facts), goes_on(2), reconnects(1), on(1), back(0), welcomed()];
    cases.push(asked(facts, "W5.6-01", what, steps));
    let what = "a reconnect ticket is believed once";
    let steps = [session(facts, once), on(1), back(0), welcomed(), on(2), back(0), not_believed()];
    cases.push(asked(facts, "W5.6-06", what, steps));
    let what = "an older reconnect ticket after the newest was used";
    let (older, newer) = (session(facts, twice), [on(1), session(facts, twice)].concat());
    let steps = [older, newer, on(2), back(1), welcomed(), on(3), back(0), not_believed()];
    cases.push(asked(facts, "W5.6-07", what, steps));
    let what = "after a refused reconnect ticket a session token is believed";
    let bad = send(facts.hello_with(&[1; RECONNECT_BYTES], None));
    let steps = [bad, not_believed(), on(1), send(facts.hello(late)), welcomed()];
    cases.push(asked(facts, "W5.6-08", what, steps));
    let what = "a ticket ends with the session token at the latest";
    let steps = [brief(facts, 4), welcomed(), reconnects(1), vec![Step::Silence(4_500)], on(1)];
    let steps = [steps.concat(), back(0), not_believed()];
    cases.push(asked(facts, "W5.6-04.token", what, steps).at(When::Soon));
    let what = "a reconnect ticket with a genuine tally of another user";
    let script = facts.winner.as_ref().filter(|_| facts.makes_tickets);
    let script = script.ok_or("nobody won, or the server makes no tickets").map(|winner| {
        let tally = Some(Box::new(winner.wins[0].tally));
        let both = vec![Step::Return(Return { of: 0, change: Change::None, tally })];
        [open(facts), goes_on(2), reconnects(1), on(1), both, not_believed()].concat()
    });
    cases.push(case_if("W9.2-07.reconnect", what, script));
    cases
}

/// Tickets that the server's own key proves.
fn made(facts: &Facts) -> Vec<Case> {
    let now = WallTime::from_seconds(unix_seconds());
    let good = |user| ReconnectTicket {
        user,
        device: 1,
        risk: 0,
        issued_at: now,
        expires_at: now.plus_us(600 * SECOND),
        token_expires_at: now.plus_us(3_600 * SECOND),
    };
    let asked = |id: &str, what: &str, change: &dyn Fn(&mut ReconnectTicket), then: Vec<Step>| {
        let user = facts.user();
        let script = facts.keys.reconnect.as_ref().filter(|_| facts.makes_tickets);
        let script = script.ok_or("the key is not given: --reconnect-keys").map(|key| {
            let mut ticket = good(user);
            change(&mut ticket);
            [send(facts.hello_with(&ticket.encode(key), None)), then].concat()
        });
        case_if(id, what, script)
    };
    let at = |seconds: i64| WallTime(now.0.saturating_add_signed(seconds * 1_000_000));
    vec![
        asked("W5.6-01.made", "a ticket that its key proves", &|_| {}, welcomed()),
        asked(
            "W5.6-03.long",
            "a life of 1,801 s",
            &|ticket| ticket.expires_at = at(1_801),
            not_believed(),
        ),
        asked(
            "W5.6-03.longest",
            "a life of 1,800 s",
            &|ticket| ticket.expires_at = at(1_800),
            welcomed(),
        ),
        asked(
            "W5.6-03.token",
            "a life longer than the session token's",
            &|ticket| ticket.token_expires_at = at(599),
            not_believed(),
        ),
        asked("W5.6-03.none", "no life at all", &|ticket| ticket.expires_at = now, not_believed()),
        asked(
            "W5.6-04",
            "a life that is over",
            &|ticket| (ticket.issued_at, ticket.expires_at) = (at(-600), at(-1)),
            not_believed(),
        ),
        asked("W5.6-05", "issued in 60 s", &|ticket| ticket.issued_at = at(60), not_believed()),
        asked("W5.6-05.near", "issued in 10 s", &|ticket| ticket.issued_at = at(10), welcomed()),
    ]
}
