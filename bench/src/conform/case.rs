//! What a case is: a place in wire.md, and a script of bytes to send and answers to expect. Cases
//! are data; `talk` alone acts on them.

use super::transport::Rule;
use std::ops::RangeInclusive;
use yao_protocol::{ShakeId, tally::TALLY_BYTES, ticket::TICKET_BYTES};

/// A rule of wire.md and how to see whether a server keeps it.
#[derive(Clone, Debug)]
pub(super) struct Case {
    /// Section of wire.md.
    pub(super) section: &'static str,
    /// The rule, or the way in which it is broken here.
    pub(super) what: String,
    /// What happens; or why this server cannot be asked.
    pub(super) script: Result<Vec<Step>, &'static str>,
}

/// One step of a script.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// Goes on with this connection, which is opened when it is first named. Scripts begin with 0.
    On(usize),
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
    /// Times of `After` count from here; else from the opening of the connection.
    Mark,
    /// The next answer comes so many ms after the mark.
    After(RangeInclusive<u64>),
    /// The next answers, in any order: request id and content.
    Expect(Vec<(u32, Answer)>),
    /// Nothing comes for so many ms.
    Silence(u64),
    /// The server closes without another frame.
    Closed,
    /// The transport itself keeps this rule, on a connection of its own.
    Transport(Rule),
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
    /// The same payload as the answer of this number, counted from 0 over all connections.
    SameAs(usize),
    /// One of these.
    OneOf(Vec<Self>),
}

/// The fields of an ERROR, as the table of wire.md 6 has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) code: u16,
    pub(super) class: u8,
    pub(super) closes: u8,
    pub(super) delay_ms: u32,
    pub(super) jitter_ms: u32,
}

impl Refused {
    const fn new(code: u16, class: u8, closes: u8, delay_ms: u32, jitter_ms: u32) -> Self {
        Self { code, class, closes, delay_ms, jitter_ms }
    }

    pub(super) const PROTOCOL: Self = Self::new(1, 3, 1, 0, 0);
    pub(super) const VERSION: Self = Self::new(2, 3, 1, 0, 0);
    pub(super) const AUTH_FAILED: Self = Self::new(3, 2, 1, 0, 0);
    pub(super) const OPEN_BUSY: Self = Self::new(4, 1, 0, 1_000, 1_000);
    pub(super) const TIMEOUT: Self = Self::new(5, 1, 1, 0, 1_000);
    pub(super) const WRONG_CAMPAIGN: Self = Self::new(6, 3, 1, 0, 0);
    pub(super) const TICKET_INVALID: Self = Self::new(7, 3, 0, 0, 0);
    pub(super) const TICKET_EXPIRED: Self = Self::new(8, 3, 0, 0, 0);
    pub(super) const KEY_MISSING: Self = Self::new(10, 1, 0, 5_000, 5_000);

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
    section: &'static str,
    what: impl Into<String>,
    parts: [Vec<Step>; N],
) -> Case {
    Case { section, what: what.into(), script: Ok(parts.concat()) }
}

/// A case that this server cannot be asked, and why.
pub(super) fn unasked(
    section: &'static str,
    what: impl Into<String>,
    reason: &'static str,
) -> Case {
    Case { section, what: what.into(), script: Err(reason) }
}

pub(super) fn send(bytes: impl Into<Vec<u8>>) -> Vec<Step> {
    vec![Step::Send(bytes.into())]
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
