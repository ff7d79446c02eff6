//! One phone, played by a script over plain TCP: it shakes until it wins, opens what it won, and
//! has its receipt. An honest client without the SDK's policies: it comes back at once, shows its
//! tally, sends its unanswered shake again, and opens again what was not acknowledged.

use super::seen::Seen;
use anyhow::{Context, Result};
use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    thread,
    time::Duration,
};
use yao_protocol::{
    CampaignId, ShakeId, WireError,
    client::{ErrorCode, Hello, NoWinReason, ServerMessage, Shake, VERSION, put_open},
    frame::split_frame,
    limits::CLIENT_PAYLOAD_BYTES_MAX,
    receipt::RECEIPT_BYTES,
    tally::TALLY_BYTES,
    ticket::TICKET_BYTES,
};

/// This often a phone that waits looks whether it shall stop.
const LOOK: Duration = Duration::from_millis(20);
/// Between two shakes.
const SHAKE_EVERY: Duration = Duration::from_millis(3);
/// Before a shake is sent again, or an open that was refused for now: a node answers one resend of
/// a connection a second.
const AGAIN: Duration = Duration::from_millis(50);
/// A connection must be there, or refused, within this time: it is loopback.
const CONNECT_MAX: Duration = Duration::from_secs(2);

/// How a visit to the node ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Visit {
    /// The receipt is there.
    Done,
    /// The connection broke; a crash does that.
    Lost,
    /// It was told to stop.
    Stopped,
    /// The node said what it must not say to an honest client.
    Wrong(String),
}

/// What one user holds.
pub(super) struct Phone<'a> {
    user: u64,
    token: &'a str,
    campaign: CampaignId,
    /// Number of the last shake.
    shakes: u64,
    /// It was not answered yet.
    unanswered: bool,
    tally: Option<[u8; TALLY_BYTES]>,
    ticket: Option<[u8; TICKET_BYTES]>,
}

/// A message of the server, without borrowing.
enum Heard {
    Welcome,
    NoWin(NoWinReason),
    Win([u8; TICKET_BYTES], [u8; TALLY_BYTES]),
    Receipt([u8; RECEIPT_BYTES]),
    Refused(ErrorCode),
    Other,
}

impl<'a> Phone<'a> {
    pub(super) const fn new(user: u64, token: &'a str, campaign: CampaignId) -> Self {
        Self { user, token, campaign, shakes: 0, unanswered: false, tally: None, ticket: None }
    }

    /// Plays at the node at `address` until the receipt is there.
    pub(super) fn visit(&mut self, address: &str, seen: &Seen, stop: &dyn Fn() -> bool) -> Visit {
        match self.play(address, seen, stop) {
            Ok(visit) => visit,
            // Whatever the connection says, it is the node's crash; that it is up is looked at
            // elsewhere. Bytes that are no frame are the node's fault.
            Err(error) if error.downcast_ref::<WireError>().is_some() => {
                Visit::Wrong(format!("user {}: {error:#}", self.user))
            }
            Err(_) => Visit::Lost,
        }
    }

    fn play(&mut self, address: &str, seen: &Seen, stop: &dyn Fn() -> bool) -> Result<Visit> {
        let mut wire = Wire::connect(address)?;
        wire.send(|out| {
            let hello = Hello {
                version_min: VERSION,
                version_max: VERSION,
                software: 1,
                campaign: self.campaign,
                tally: self.tally.as_ref(),
                token: self.token.as_bytes(),
            };
            hello.put(out, 1);
        })?;
        loop {
            if stop() {
                return Ok(Visit::Stopped);
            }
            let heard = wire.next()?;
            if heard.is_some() {
                seen.answer();
            }
            match heard {
                None | Some(Heard::Other) => {}
                Some(Heard::Welcome) => self.ask(&mut wire)?,
                Some(Heard::NoWin(reason)) => self.on_no_win(&mut wire, reason)?,
                Some(Heard::Win(ticket, tally)) => {
                    seen.ticket(self.user, &ticket);
                    self.unanswered = false;
                    self.tally = Some(tally);
                    // It comes again after WELCOME; one open of it is under way then.
                    if self.ticket.replace(ticket) != Some(ticket) {
                        self.ask(&mut wire)?;
                    }
                }
                Some(Heard::Receipt(receipt)) => {
                    seen.receipt(self.user, &receipt);
                    return Ok(Visit::Done);
                }
                Some(Heard::Refused(ErrorCode::OpenUnavailable | ErrorCode::Busy)) => {
                    thread::sleep(AGAIN);
                    self.ask(&mut wire)?;
                }
                Some(Heard::Refused(code)) => {
                    return Ok(Visit::Wrong(format!("user {} was told {code:?}", self.user)));
                }
            }
        }
    }

    /// Asks for what is still missing: the receipt, the answer to a shake, or a win.
    fn ask(&mut self, wire: &mut Wire) -> Result<()> {
        if let Some(ticket) = &self.ticket {
            return wire.send(|out| put_open(out, 2, ticket));
        }
        let resend = self.unanswered;
        if !resend {
            self.shakes += 1;
            self.unanswered = true;
        }
        // Unique among all phones of an event, and the same when it is sent again.
        let shake = ShakeId(self.user << 32 | self.shakes);
        let shake = Shake { shake, campaign: self.campaign, merged_count: 1, resend };
        wire.send(|out| shake.put(out, 3))
    }

    fn on_no_win(&mut self, wire: &mut Wire, reason: NoWinReason) -> Result<()> {
        match reason {
            NoWinReason::NoneDue | NoWinReason::NotRunning => {
                self.unanswered = false;
                thread::sleep(SHAKE_EVERY);
            }
            // Not drawn, or won before: the ticket follows.
            NoWinReason::TooSoon
            | NoWinReason::Pending
            | NoWinReason::Busy
            | NoWinReason::LimitReached => thread::sleep(AGAIN),
        }
        self.ask(wire)
    }
}

/// A connection, frame by frame.
struct Wire {
    stream: TcpStream,
    received: Vec<u8>,
    /// Bytes of `received` that were read as frames.
    taken: usize,
}

impl Wire {
    fn connect(address: &str) -> Result<Self> {
        let address = address.parse().context("an address of the ready line")?;
        let stream = TcpStream::connect_timeout(&address, CONNECT_MAX)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(LOOK))?;
        Ok(Self { stream, received: Vec::new(), taken: 0 })
    }

    fn send(&mut self, put: impl FnOnce(&mut Vec<u8>)) -> Result<()> {
        let mut frame = Vec::new();
        put(&mut frame);
        Ok(self.stream.write_all(&frame)?)
    }

    /// The next message; nothing when none came for a while.
    fn next(&mut self) -> Result<Option<Heard>> {
        let mut buffer = [0; 4_096];
        loop {
            if let Some(heard) = self.whole()? {
                return Ok(Some(heard));
            }
            match self.stream.read(&mut buffer) {
                Ok(0) => anyhow::bail!("the node closed the connection"),
                Ok(count) => self.received.extend_from_slice(&buffer[..count]),
                Err(error)
                    if [ErrorKind::WouldBlock, ErrorKind::TimedOut].contains(&error.kind()) =>
                {
                    return Ok(None);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn whole(&mut self) -> Result<Option<Heard>> {
        let bytes = &self.received[self.taken..];
        let Some((frame, rest)) = split_frame(bytes, CLIENT_PAYLOAD_BYTES_MAX)? else {
            self.received.drain(..self.taken);
            self.taken = 0;
            return Ok(None);
        };
        let taken = bytes.len() - rest.len();
        let heard = match ServerMessage::decode(frame)? {
            ServerMessage::Welcome(_) => Heard::Welcome,
            ServerMessage::NoWin(no_win) => Heard::NoWin(no_win.reason),
            ServerMessage::Win { ticket, tally } => Heard::Win(*ticket, *tally),
            ServerMessage::Receipt(receipt) => Heard::Receipt(*receipt),
            ServerMessage::Error(refusal) => Heard::Refused(refusal.code),
            ServerMessage::Pong(_)
            | ServerMessage::GoAway(_)
            | ServerMessage::Reconnect(_)
            | ServerMessage::Unknown => Heard::Other,
        };
        self.taken += taken;
        Ok(Some(heard))
    }
}
