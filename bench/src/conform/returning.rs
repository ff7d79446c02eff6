//! Cases of wire.md 4.8 and 5.6: coming back with a reconnect ticket. The tickets are fetched
//! before the first case; a server that makes none cannot be asked.

use super::{
    case::{Answer, Case, Refused, Step, case, expect, refused, send, unasked},
    facts::Facts,
    frames::{goes_on, ping},
    talk::{Next, Peer},
    wire::Server,
};
use anyhow::{Result, bail};
use std::time::{Duration, Instant};
use yao_protocol::{UserId, reconnect::RECONNECT_BYTES};

/// An answer comes within this time.
const ANSWER_MAX: Duration = Duration::from_secs(10);

type Ticket = [u8; RECONNECT_BYTES];

/// A session's ticket, or `None` from a server that makes none.
fn fetch(server: &Server, facts: &Facts, user: UserId) -> Result<Option<Ticket>> {
    let mut peer = Peer::connect(server)?;
    // The PONG comes behind whatever follows WELCOME.
    peer.send(&facts.hello(user))?;
    for answers in 0..2 {
        match peer.next(Instant::now() + ANSWER_MAX)? {
            Next::Frame(_) if answers == 0 => peer.send(&ping(2))?,
            Next::Frame(_) => {}
            Next::Closed | Next::Nothing => bail!("the server does not answer a good HELLO"),
        }
    }
    Ok(peer.reconnect)
}

pub(super) fn cases(server: &Server, facts: &Facts) -> Result<Vec<Case>> {
    let (once, twice) = (facts.user(), facts.user());
    let what = "a reconnect ticket in place of a session token";
    let Some(ticket) = fetch(server, facts, once)? else {
        return Ok(vec![unasked("5.6", what, "the server makes no reconnect tickets")]);
    };
    let back = |ticket: &[u8]| send(facts.hello_with(ticket, None));
    let refused = || refused(1, Refused::AUTH_FAILED);
    let welcomed = || [expect(1, Answer::Welcome), goes_on(2)].concat();
    let on = |index| vec![Step::On(index)];
    let steps = [back(&ticket), welcomed(), on(1), back(&ticket), refused(), on(0), goes_on(3)];
    let mut cases = vec![case("5.6", format!("{what}, and once only"), steps)];
    let missing = || -> Result<Ticket> {
        match fetch(server, facts, twice)? {
            Some(ticket) => Ok(ticket),
            None => bail!("a server that makes reconnect tickets made none"),
        }
    };
    let (older, newer) = (missing()?, missing()?);
    let what = "an older reconnect ticket after the newest was used";
    let steps = [back(&newer), welcomed(), on(1), back(&older), refused()];
    cases.push(case("5.6", what, steps));
    let user = facts.user();
    let Some(genuine) = fetch(server, facts, user)? else {
        bail!("a server that makes reconnect tickets made none")
    };
    cases.extend((0..RECONNECT_BYTES).map(|at| {
        let mut ticket = genuine;
        ticket[at] ^= 1;
        let what = format!("a reconnect ticket with byte {at} changed");
        case("5.6", what, [back(&ticket), refused()])
    }));
    for (what, bytes) in [
        ("without its last byte", genuine[..RECONNECT_BYTES - 1].to_vec()),
        ("with a byte too many", [&genuine[..], &[0]].concat()),
        ("of its first byte only", vec![1]),
    ] {
        let what = format!("a reconnect ticket {what}");
        cases.push(case("5.6", what, [back(&bytes), refused()]));
    }
    if let Some((_, wins)) = &facts.wins {
        let what = "a reconnect ticket with a genuine tally of another user";
        let hello = send(facts.hello_with(&genuine, Some(&wins[0].tally)));
        cases.push(case("9.2", what, [hello, refused()]));
    }
    let what = "after a refused reconnect ticket a session token is believed";
    let fresh = facts.user();
    let steps = [back(&[1; RECONNECT_BYTES]), refused(), on(1), send(facts.hello(fresh))];
    cases.push(case("5.6", what, [steps.concat(), welcomed()]));
    Ok(cases)
}
