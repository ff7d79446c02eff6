//! What a case is: a rule of wire.md, and a script of bytes to send and answers to expect. Cases
//! are data; `talk` alone acts on them.

use super::transport::Rule;
use std::{collections::BTreeSet, ops::RangeInclusive};
use yao_protocol::{ShakeId, tally::TALLY_BYTES, ticket::TICKET_BYTES};

/// How early and how late a deadline may be heard, ms: wire.md 9.5 gives it 50 and 100, the rest is
/// the network's.
pub(super) const DEADLINE_EARLY_MS: u64 = 50;
pub(super) const DEADLINE_LATE_MS: u64 = 400;

/// A rule of wire.md and how to see whether a server keeps it.
#[derive(Clone, Debug)]
pub(super) struct Case {
    /// The rule's number in wire.md and, where it has several cases, this one's name among them:
    /// "W9.4-03.zeros". It never changes (`ids.txt`).
    pub(super) id: String,
    /// The rule, or the way in which it is broken here.
    pub(super) what: String,
    /// Who may talk to the server meanwhile.
    pub(super) when: When,
    /// What happens; or why nothing does.
    pub(super) script: Result<Vec<Step>, Silent>,
}

impl Case {
    /// The rule's number.
    pub(super) fn rule(&self) -> &str {
        let dash = self.id.find('-').expect("an id begins with a rule's number");
        &self.id[..dash + "-00".len()]
    }

    /// The rules to which the case holds its server: its own, and those of the answers it expects.
    pub(super) fn rules(&self) -> BTreeSet<String> {
        let mut rules = BTreeSet::from([self.rule().to_owned()]);
        for step in self.script.iter().flatten() {
            if let Step::Expect(answers) = step {
                let answers = answers.iter().filter_map(|(_, answer)| answer.rule());
                rules.extend(answers.map(str::to_owned));
            }
        }
        rules
    }

    /// At another time than all others.
    pub(super) fn at(self, when: When) -> Self {
        Self { when, ..self }
    }
}

/// When a case is played.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    /// Side by side with all others.
    Together,
    /// The same, and first: what is sent ages from when the cases are made.
    Soon,
    /// One after the other, side by side with those above: they share a user.
    InTurn,
    /// One after the other, when nobody else is there: they fill the server.
    Alone,
    /// At last, all together: they see how the server ends.
    Ending,
}

/// Why a case is not played.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Silent {
    /// This server cannot be asked, or this run was not told how.
    Unasked(&'static str),
    /// It is about another transport: which.
    Elsewhere(&'static str),
}

/// One step of a script.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// Goes on with this connection, 0 before the first of these. One is opened when something is
    /// first done with it.
    On(usize),
    /// Opens the connection, if need be, and says nothing.
    Connect,
    /// These bytes at once.
    Send(Vec<u8>),
    /// These bytes in pieces, a pause after each. Ends when the server closes.
    Trickle {
        /// All bytes.
        bytes: Vec<u8>,
        /// Bytes of a piece.
        piece: usize,
        /// Between two pieces, ms.
        pause_ms: u64,
    },
    /// These bytes again and again, answers unread, until the server has cut the connection; at
    /// most so often.
    Flood(Vec<u8>, usize),
    /// HELLO with a reconnect ticket that came before.
    Return(Return),
    /// Something below the frames.
    Below(Below),
    /// Times of `After` count from here; else from the opening of the connection.
    Mark,
    /// The next answer, or end, comes so many ms after the mark.
    After(RangeInclusive<u64>),
    /// The next answers, in any order: request id and content.
    Expect(Vec<(u32, Answer)>),
    /// So many RECONNECTs came on this connection so far.
    Reconnects(usize),
    /// Nothing comes for so many ms.
    Silence(u64),
    /// The server closes without another frame, in whatever way.
    Closed,
    /// The same, as wire.md 1.5 has it: with the transport's own word for it.
    Farewell,
    /// The server cuts the connection. What it says before, and whether it notices only when it is
    /// spoken to, is all the same.
    Gone,
    /// Waits, with PINGs, until the server was told to end (`When::Ending`); sets the mark.
    Ending,
    /// HELLOs, each on a connection of its own that stays, until one is not welcomed. It is an
    /// error when all are.
    Fill(Vec<Vec<u8>>),
    /// Closes those connections, and says one of these HELLOs after the other until one is
    /// welcomed.
    Recover(Vec<Vec<u8>>),
    /// The transport itself keeps this rule, on a connection of its own.
    Transport(Rule),
}

/// HELLO with a reconnect ticket.
#[derive(Clone, Debug)]
pub(super) struct Return {
    /// The connection on which it came.
    pub(super) of: usize,
    /// What becomes of it on the way.
    pub(super) change: Change,
    /// A tally beside it.
    pub(super) tally: Option<Box<[u8; TALLY_BYTES]>>,
}

/// A change to bytes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Change {
    /// None.
    None,
    /// One bit of the byte at this place.
    Flip(usize),
    /// The last byte is missing.
    Cut,
    /// A zero byte follows.
    Grown,
}

impl Change {
    /// `bytes` with this change.
    pub(super) fn of(self, bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        match self {
            Self::None => {}
            Self::Flip(at) => bytes[at] ^= 1,
            Self::Cut => drop(bytes.pop()),
            Self::Grown => bytes.push(0),
        }
        bytes
    }
}

/// What a client can do below the frames.
#[derive(Clone, Debug)]
pub(super) enum Below {
    /// Says that nothing more comes from here: FIN, close_notify.
    End,
    /// QUIC: gives the stream up in one direction, both, or none.
    Abandon {
        /// RESET_STREAM.
        reset: bool,
        /// STOP_SENDING.
        stop: bool,
    },
    /// New keys for what is sent from now on.
    Rekey,
    /// QUIC: goes on from another address.
    Move,
    /// TLS: makes one record of these bytes and sends so many bytes of it.
    Record(Vec<u8>, usize),
    /// TLS: sends what the last record lacks, in pieces of so many bytes, so many ms apart.
    Rest(usize, u64),
    /// TLS: sends these bytes as they are.
    Raw(Vec<u8>),
}

/// What an answer must be.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    /// ERROR with exactly these fields.
    Error(Refused),
    /// WELCOME to the campaign.
    Welcome,
    /// PONG.
    Pong,
    /// NO_WIN to this draw for one of these reasons; its interval is in the range, ms.
    NoWin(ShakeId, &'static [u8], RangeInclusive<u32>),
    /// WIN with a ticket of this draw.
    Win(ShakeId),
    /// WIN with exactly this ticket.
    Ticket(Box<[u8; TICKET_BYTES]>),
    /// RECEIPT for this ticket.
    Receipt(Box<[u8; TICKET_BYTES]>),
    /// GOAWAY "replaced".
    Replaced,
    /// GOAWAY "drain", with this delay and jitter, ms.
    Drain(u32, u32),
    /// GOAWAY "overload".
    Overload,
    /// The same payload as the answer of this number, counted from 0 over all connections.
    SameAs(usize),
    /// One of these.
    OneOf(Vec<Self>),
}

impl Answer {
    /// The rule that says what such a frame holds.
    const fn rule(&self) -> Option<&'static str> {
        Some(match self {
            Self::Error(refused) => refused.rule,
            Self::Welcome => "W4.1-01",
            Self::Pong => "W4.2-01",
            Self::NoWin(..) => "W4.3-01",
            Self::Win(_) | Self::Ticket(_) => "W4.4-01",
            Self::Receipt(_) => "W4.5-01",
            Self::Drain(..) => "W4.6-01",
            Self::Replaced => "W4.6-02",
            Self::Overload => "W4.6-03",
            Self::SameAs(_) | Self::OneOf(_) => return None,
        })
    }
}

/// The fields of an ERROR, as the table of wire.md 6 has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    /// The row of that table.
    pub(super) rule: &'static str,
    pub(super) code: u16,
    pub(super) class: u8,
    pub(super) closes: u8,
    pub(super) delay_ms: u32,
    pub(super) jitter_ms: u32,
}

const fn row(rule: &'static str, code: u16, class: u8, closes: u8) -> Refused {
    Refused { rule, code, class, closes, delay_ms: 0, jitter_ms: 0 }
}

impl Refused {
    pub(super) const PROTOCOL: Self = row("W6-01", 1, 3, 1);
    pub(super) const VERSION: Self = row("W6-02", 2, 3, 1);
    pub(super) const AUTH_FAILED: Self = row("W6-03", 3, 2, 1);
    pub(super) const OPEN_BUSY: Self = row("W6-06", 4, 1, 0).after(1_000, 1_000);
    pub(super) const TIMEOUT: Self = row("W6-08", 5, 1, 1).after(0, 1_000);
    pub(super) const WRONG_CAMPAIGN: Self = row("W6-09", 6, 3, 1);
    pub(super) const TICKET_INVALID: Self = row("W6-10", 7, 3, 0);
    pub(super) const TICKET_EXPIRED: Self = row("W6-11", 8, 3, 0);
    pub(super) const OPEN_REFUSED: Self = row("W6-12", 9, 3, 0);
    pub(super) const FENCED: Self = row("W6-13", 10, 1, 0).after(10_000, 10_000);
    pub(super) const SPOOL_FULL: Self = row("W6-14", 10, 1, 0).after(15_000, 15_000);
    pub(super) const KEY_MISSING: Self = row("W6-15", 10, 1, 0).after(5_000, 5_000);

    const fn after(self, delay_ms: u32, jitter_ms: u32) -> Self {
        Self { delay_ms, jitter_ms, ..self }
    }

    /// The payload of this ERROR.
    pub(super) fn payload(self) -> Vec<u8> {
        let mut bytes = self.code.to_le_bytes().to_vec();
        bytes.extend([self.class, self.closes]);
        bytes.extend(self.delay_ms.to_le_bytes());
        bytes.extend(self.jitter_ms.to_le_bytes());
        bytes
    }
}

/// A case with a script.
pub(super) fn case<const N: usize>(
    id: impl Into<String>,
    what: impl Into<String>,
    parts: [Vec<Step>; N],
) -> Case {
    case_if(id, what, Ok(parts.concat()))
}

/// A case whose script there is, or why this server cannot be asked.
pub(super) fn case_if(
    id: impl Into<String>,
    what: impl Into<String>,
    script: Result<Vec<Step>, &'static str>,
) -> Case {
    let script = script.map_err(Silent::Unasked);
    Case { id: id.into(), what: what.into(), when: When::Together, script }
}

/// A case of another transport than this run's.
pub(super) fn elsewhere(id: impl Into<String>, what: impl Into<String>, of: &'static str) -> Case {
    let script = Err(Silent::Elsewhere(of));
    Case { id: id.into(), what: what.into(), when: When::Together, script }
}

pub(super) fn send(bytes: impl Into<Vec<u8>>) -> Vec<Step> {
    vec![Step::Send(bytes.into())]
}

pub(super) fn on(connection: usize) -> Vec<Step> {
    vec![Step::On(connection)]
}

pub(super) fn closed() -> Vec<Step> {
    vec![Step::Closed]
}

pub(super) fn expect(request_id: u32, answer: Answer) -> Vec<Step> {
    vec![Step::Expect(vec![(request_id, answer)])]
}

/// An ERROR, and the end of the connection if it says so.
pub(super) fn refused(request_id: u32, refused: Refused) -> Vec<Step> {
    let mut steps = expect(request_id, Answer::Error(refused));
    if refused.closes == 1 {
        steps.push(Step::Closed);
    }
    steps
}

/// What WIN carried.
#[derive(Clone, Copy, Debug)]
pub(super) struct Win {
    pub(super) ticket: [u8; TICKET_BYTES],
    pub(super) tally: [u8; TALLY_BYTES],
    pub(super) shake: ShakeId,
}
