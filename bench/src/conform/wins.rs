//! Cases that need a real ticket and a real tally: one user wins as much as the campaign allows
//! before the first case. Without a wave that runs they cannot be asked.

use super::{
    case::{Answer, Case, Refused, Step, Win, case, expect, refused, send, unasked},
    facts::Facts,
    frames::{frame, goes_on},
    talk::{Next, Peer, Reply},
    wire::Server,
};
use anyhow::{Context, Result, bail};
use std::{
    thread,
    time::{Duration, Instant},
};
use yao_protocol::{
    Epoch, PacketId, PacketIndex, ShakeId, UserId, WallTime,
    client::{ServerMessage, kind},
    keys::{KeyOwner, PrivateKeyFile, SignKey},
    ticket::{TICKET_BYTES, Ticket},
};

/// An answer comes within this time.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Between two draws of a server without an interval, ms.
const PAUSE_MS_MIN: u64 = 50;

/// Draws for a new user until he has won all that the campaign allows, or `until`.
pub(super) fn collect(
    server: &Server,
    facts: &Facts,
    until: Instant,
) -> Result<(UserId, Vec<Win>)> {
    let user = facts.user();
    let mut peer = Peer::connect(server)?;
    peer.send(&facts.hello(user))?;
    if !matches!(answer(&mut peer)?.message()?, ServerMessage::Welcome(_)) {
        bail!("a good HELLO was not welcomed");
    }
    let mut wins = Vec::new();
    let limit = usize::from(facts.welcome.wins_per_user);
    let pause = u64::from(facts.welcome.shake_interval_ms).max(PAUSE_MS_MIN);
    let mut number = 0;
    while wins.len() < limit && Instant::now() < until {
        number += 1;
        let shake = ShakeId(user.0 << 16 | u64::from(number));
        peer.send(&facts.shake(number, shake, false))?;
        let reply = answer(&mut peer)?;
        if let ServerMessage::Win { ticket, tally } = reply.message()? {
            wins.push(Win { ticket: *ticket, tally: *tally, shake });
        }
        // The server's own interval, which is what is waited for.
        thread::sleep(Duration::from_millis(pause));
    }
    Ok((user, wins))
}

fn answer(peer: &mut Peer) -> Result<Reply> {
    match peer.next(Instant::now() + ANSWER_MAX)? {
        Next::Frame(reply) => Ok(reply),
        Next::Closed => bail!("the server closed, where it was to answer"),
        Next::Nothing => bail!("the server does not answer"),
    }
}

/// Some of the cases; `alone` are those of the winner's own session, of which there can be but one.
pub(super) struct Cases {
    pub(super) together: Vec<Case>,
    pub(super) alone: Vec<Case>,
}

pub(super) fn cases(facts: &Facts, ticket_key: Option<&PrivateKeyFile>) -> Cases {
    let Some((user, wins)) = &facts.wins else {
        let reason = "nobody won: no wave runs, or --win-seconds is 0";
        let what = "tickets, tallies and receipts that are genuine";
        return Cases { together: vec![unasked("5", what, reason)], alone: Vec::new() };
    };
    let session = || {
        let mut steps = [send(facts.hello(*user)), expect(1, Answer::Welcome)].concat();
        for win in wins {
            steps.extend(expect(0, Answer::Ticket(Box::new(win.ticket))));
        }
        steps
    };
    let (first, last) = (&wins[0], &wins[wins.len() - 1]);
    let mut alone = vec![
        case("9.2", "the user's tickets follow WELCOME, oldest first", [session(), goes_on(2)]),
        resend(facts, session(), first),
        resend(facts, session(), last),
        opened(session(), first),
        changed_tickets(session(), last),
    ];
    alone.extend(at_the_limit(facts, *user, wins, &session));
    if let Some(file) = ticket_key {
        alone.push(expired(session(), last, file));
    } else {
        let what = "a genuine ticket that has expired";
        alone.push(unasked("9.4", what, "--ticket-key is not given"));
    }
    Cases { together: tallies(facts, *user, last), alone }
}

fn resend(facts: &Facts, session: Vec<Step>, win: &Win) -> Case {
    let again = send(facts.shake(2, win.shake, true));
    let same = expect(2, Answer::Ticket(Box::new(win.ticket)));
    case("9.3", "RESEND of a draw that won: the same ticket", [session, again, same])
}

fn opening(request_id: u32, ticket: &[u8; TICKET_BYTES]) -> Vec<Step> {
    send(frame(kind::OPEN, 0, request_id, ticket))
}

fn opened(session: Vec<Step>, win: &Win) -> Case {
    let receipt = Answer::Receipt(Box::new(win.ticket));
    let count = session.iter().filter(|step| matches!(step, Step::Expect(_))).count();
    let steps = [
        session,
        opening(2, &win.ticket),
        expect(2, receipt),
        opening(3, &win.ticket),
        expect(3, Answer::SameAs(count)),
        goes_on(4),
    ];
    case("9.4", "a ticket is opened, and again: the same receipt", steps)
}

/// Each byte of a ticket in its turn.
fn changed_tickets(session: Vec<Step>, win: &Win) -> Case {
    let mut steps = session;
    for at in 0..TICKET_BYTES {
        let mut ticket = win.ticket;
        ticket[at] ^= 1;
        let id = u32::try_from(at).expect("a ticket is short") + 2;
        steps.extend(opening(id, &ticket));
        // Another epoch is another key, and that one may yet come.
        let refusal =
            if (68..72).contains(&at) { Refused::KEY_MISSING } else { Refused::TICKET_INVALID };
        steps.extend(refused(id, refusal));
    }
    case("9.4", "a ticket with any byte changed", [steps, goes_on(1_000)])
}

/// A ticket that the server's own key signed for a packet that nobody has, and that is over.
fn expired(session: Vec<Step>, win: &Win, file: &PrivateKeyFile) -> Case {
    let ticket = Ticket::decode(&win.ticket).expect("it was decoded when it came");
    let mut body = ticket.body;
    body.packet = PacketId::new(0, body.shard, PacketIndex(u32::MAX));
    body.issued_at = WallTime(1);
    body.expires_at = WallTime(2);
    if let KeyOwner::Ticket { epoch: Epoch(epoch), .. } = file.owner {
        body.epoch = Epoch(epoch);
    }
    let expired = body.sign(&SignKey::from_seed(&file.seed)).encode();
    let steps = [session, opening(2, &expired), refused(2, Refused::TICKET_EXPIRED), goes_on(3)];
    case("9.4", "a genuine ticket that has expired", steps)
}

fn at_the_limit(
    facts: &Facts,
    user: UserId,
    wins: &[Win],
    session: &dyn Fn() -> Vec<Step>,
) -> Vec<Case> {
    let (what, other) = ("a tally at the limit", "tickets at the limit, sent behind WELCOME");
    if wins.len() < usize::from(facts.welcome.wins_per_user) {
        let reason = "nobody won as much as the campaign allows";
        return vec![unasked("9.3", what, reason), unasked("9.3", other, reason)];
    }
    let shake = ShakeId(99);
    let none = || {
        let answer = Answer::NoWin(shake, &[1], 0..=u32::MAX);
        [send(facts.shake(2, shake, false)), expect(2, answer)].concat()
    };
    let tally = wins[wins.len() - 1].tally;
    let hello = facts.hello_with(&facts.tokens.good(user), Some(&tally));
    let mut with = [send(hello), expect(1, Answer::Welcome)].concat();
    for win in wins {
        with.extend(expect(0, Answer::Ticket(Box::new(win.ticket))));
    }
    vec![case("9.3", what, [with, none()]), case("9.3", other, [session(), none()])]
}

fn tallies(facts: &Facts, user: UserId, win: &Win) -> Vec<Case> {
    let token = facts.tokens.good(user);
    let mut cases: Vec<Case> = (0..win.tally.len())
        .map(|at| {
            let mut tally = win.tally;
            tally[at] ^= 1;
            let hello = facts.hello_with(&token, Some(&tally));
            let what = format!("a genuine tally with byte {at} changed");
            case("5.2", what, [send(hello), refused(1, Refused::AUTH_FAILED)])
        })
        .collect();
    let other = facts.user();
    let hello = facts.hello_with(&facts.tokens.good(other), Some(&win.tally));
    let what = "a genuine tally of another user";
    cases.push(case("9.2", what, [send(hello), refused(1, Refused::AUTH_FAILED)]));
    let session = [send(facts.hello(other)), expect(1, Answer::Welcome)].concat();
    let theirs = [opening(2, &win.ticket), refused(2, Refused::TICKET_INVALID)].concat();
    cases.push(case("9.4", "another user's genuine ticket", [session, theirs, goes_on(3)]));
    cases
}

/// Reads the private half of a ticket key.
///
/// # Errors
/// The file is missing or is no such key.
pub(super) fn read_key(path: &std::path::Path) -> Result<PrivateKeyFile> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    serde_json::from_str(&text).with_context(|| format!("{} is no ticket key", path.display()))
}
