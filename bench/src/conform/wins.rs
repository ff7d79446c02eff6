//! Cases that need real tickets and tallies: before the first case one user wins as much as the
//! campaign allows, and another wins once. Without a wave that runs they cannot be asked.

use super::{
    case::{Answer, Case, Refused, Silent, Step, When, Win, case_if, expect, on, refused, send},
    facts::{Facts, Winner},
    frames::{frame, goes_on, open},
    talk::{Next, Peer, Reply},
    wire::Server,
};
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::{
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};
use yao_protocol::{
    ShakeId, UserId,
    client::{ServerMessage, kind},
    hex,
    tally::TALLY_BYTES,
    ticket::TICKET_BYTES,
};

/// An answer comes within this time.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Between two draws of a server without an interval, ms.
const PAUSE_MS_MIN: u64 = 50;

/// Draws for a new user until he has won so often, or `until`.
pub(super) fn collect(
    server: &Server,
    facts: &Facts,
    wins_max: usize,
    until: Instant,
) -> Result<Option<Winner>> {
    let user = facts.user();
    let mut peer = Peer::connect(server)?;
    peer.send(&facts.hello(user))?;
    if !matches!(answer(&mut peer)?.message()?, ServerMessage::Welcome(_)) {
        bail!("a good HELLO was not welcomed");
    }
    let mut wins = Vec::new();
    let pause = u64::from(facts.welcome.shake_interval_ms).max(PAUSE_MS_MIN);
    let mut number = 0;
    while wins.len() < wins_max && Instant::now() < until {
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
    Ok((!wins.is_empty()).then_some(Winner { user, wins }))
}

fn answer(peer: &mut Peer) -> Result<Reply> {
    match peer.next(Instant::now() + ANSWER_MAX)? {
        Next::Frame(reply) => Ok(reply),
        Next::Closed => bail!("the server closed, where it was to answer"),
        Next::Nothing => bail!("the server does not answer"),
    }
}

/// A winner as one life of the server hands it on to the next.
#[derive(Serialize, Deserialize)]
struct Record {
    user: u64,
    shake: u64,
    #[serde(with = "hex::array")]
    ticket: [u8; TICKET_BYTES],
    #[serde(with = "hex::array")]
    tally: [u8; TALLY_BYTES],
}

/// The winner in the file, if there is one.
pub(super) fn read(path: &Path) -> Result<Option<Winner>> {
    if !path.exists() {
        return Ok(None);
    }
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let record: Record = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
    let Record { user, shake, ticket, tally } = record;
    let wins = vec![Win { ticket, tally, shake: ShakeId(shake) }];
    Ok(Some(Winner { user: UserId(user), wins }))
}

/// Leaves somebody who won once for the server's next life.
pub(super) fn write(path: &Path, winner: &Winner) -> Result<()> {
    let Win { ticket, tally, shake } = winner.wins[0];
    let record = Record { user: winner.user.0, shake: shake.0, ticket, tally };
    let text = serde_json::to_string(&record)?;
    fs::write(path, text).with_context(|| path.display().to_string())
}

/// The winner's session, up to his tickets.
pub(super) fn session_of(facts: &Facts, winner: &Winner) -> Vec<Step> {
    session_with(facts.hello(winner.user), winner)
}

fn session_with(hello: Vec<u8>, winner: &Winner) -> Vec<Step> {
    let mut steps = [send(hello), expect(1, Answer::Welcome)].concat();
    for win in &winner.wins {
        steps.extend(expect(0, ticket(win)));
    }
    steps
}

fn ticket(win: &Win) -> Answer {
    Answer::Ticket(Box::new(win.ticket))
}

fn opening(request_id: u32, ticket: &[u8; TICKET_BYTES]) -> Vec<Step> {
    send(frame(kind::OPEN, 0, request_id, ticket))
}

/// A case of the winner.
fn of_winner(
    facts: &Facts,
    id: impl Into<String>,
    what: &str,
    steps: impl FnOnce(&Winner) -> Vec<Step>,
) -> Case {
    let winner = facts.winner.as_ref();
    let script = winner.ok_or("nobody won: no wave runs, or --win-seconds is 0").map(steps);
    case_if(id, what, script).at(When::InTurn)
}

pub(super) fn cases(facts: &Facts) -> Vec<Case> {
    let first = |winner: &Winner| winner.wins[0];
    let last = |winner: &Winner| winner.wins[winner.wins.len() - 1];
    let session = |winner: &Winner| session_of(facts, winner);
    let again = |winner: &Winner, win: Win| {
        let resend = send(facts.shake(2, win.shake, true));
        [session(winner), resend, expect(2, ticket(&win))].concat()
    };
    let mut cases = vec![
        of_winner(facts, "W9.2-10", "the user's tickets follow WELCOME, oldest first", |winner| {
            [session(winner), goes_on(2)].concat()
        }),
        of_winner(facts, "W4.4-02", "they come again with the next session", |winner| {
            [session(winner), on(1), session(winner)].concat()
        }),
        of_winner(facts, "W9.3-13", "RESEND of a draw that won", |winner| {
            again(winner, first(winner))
        }),
        of_winner(facts, "W5.1-02", "the latest ticket by RESEND: the same bytes", |winner| {
            again(winner, last(winner))
        }),
        of_winner(facts, "W4.5-01", "a ticket that was won is opened", |winner| {
            let ticket = first(winner).ticket;
            let receipt = expect(2, Answer::Receipt(Box::new(ticket)));
            [session(winner), opening(2, &ticket), receipt, goes_on(4)].concat()
        }),
        of_winner(facts, "W5.1-01", "a ticket with any byte changed", |winner| {
            [session(winner), changed(&last(winner)), goes_on(1_000)].concat()
        }),
        of_winner(facts, "W9.4-03.genuine", "another user's genuine ticket", |winner| {
            let theirs = opening(2, &winner.wins[0].ticket);
            [open(facts), theirs, refused(2, Refused::TICKET_INVALID), goes_on(3)].concat()
        }),
    ];
    if facts.told.spool.is_some() {
        for case in cases.iter_mut().filter(|case| case.rule() == "W4.5-01") {
            case.script = Err(Silent::Unasked("the spool takes no opens"));
        }
    }
    cases.extend(at_the_limit(facts));
    cases.extend(tallies(facts));
    cases.push(after_a_restart(facts));
    cases
}

/// Each byte of a ticket in its turn.
fn changed(win: &Win) -> Vec<Step> {
    let mut steps = Vec::new();
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
    steps
}

fn at_the_limit(facts: &Facts) -> Vec<Case> {
    let shake = ShakeId(99);
    let asked = |id: &str, what: &str, session: &dyn Fn(&Winner) -> Vec<Step>| {
        let limit = usize::from(facts.welcome.wins_per_user);
        let winner = facts.winner.as_ref().filter(|winner| winner.wins.len() == limit);
        let script = winner.ok_or("nobody won as much as the campaign allows").map(|winner| {
            let answer = Answer::NoWin(shake, &[1], 0..=u32::MAX);
            let draw = [send(facts.shake(2, shake, false)), expect(2, answer)].concat();
            [session(winner), draw].concat()
        });
        case_if(id, what, script).at(When::InTurn)
    };
    let tallied = |winner: &Winner| {
        let tally = winner.wins[winner.wins.len() - 1].tally;
        let token = facts.tokens.good(winner.user);
        session_with(facts.hello_with(&token, Some(&tally)), winner)
    };
    vec![
        asked("W9.3-02.tally", "a draw with a tally at the limit", &tallied),
        asked("W9.3-02.tickets", "a draw with tickets at the limit", &|winner| {
            session_of(facts, winner)
        }),
    ]
}

fn tallies(facts: &Facts) -> Vec<Case> {
    let tally = |winner: &Winner| winner.wins[winner.wins.len() - 1].tally;
    let not_believed = |user: UserId, tally: &[u8; TALLY_BYTES]| {
        let hello = facts.hello_with(&facts.tokens.good(user), Some(tally));
        [send(hello), refused(1, Refused::AUTH_FAILED)].concat()
    };
    let flipped = |at| {
        of_winner(facts, format!("W5.2-01.byte-{at}"), "a tally with a byte changed", |winner| {
            let mut tally = tally(winner);
            tally[at] ^= 1;
            not_believed(winner.user, &tally)
        })
        .at(When::Together)
    };
    let mut cases: Vec<Case> = (0..TALLY_BYTES).map(flipped).collect();
    let what = "a genuine tally of another user";
    let other =
        of_winner(facts, "W9.2-07", what, |winner| not_believed(facts.user(), &tally(winner)));
    cases.push(other.at(When::Together));
    cases
}

fn after_a_restart(facts: &Facts) -> Case {
    let script = facts.former.as_ref().ok_or("nobody won in an earlier life: --wins-file");
    let script = script.map(|former| {
        let win = &former.wins[0];
        let again = send(facts.shake(2, win.shake, true));
        [session_of(facts, former), again, expect(2, ticket(win))].concat()
    });
    case_if("W9.3-15", "a win of the server's former life: the same ticket", script)
        .at(When::InTurn)
}
