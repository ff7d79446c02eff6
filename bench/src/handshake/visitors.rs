//! Clients that come, shake hands, are welcomed and go, a few at a time: the unit is connect,
//! handshake, HELLO, WELCOME, close; with an echo it is connect, handshake, one echo, close.

use crate::load::{Received, Signal, Target, Wires, now_ns};
use anyhow::{Context, Result, bail};
use std::time::Duration;
use yao_protocol::{
    UserId,
    client::{Hello, ServerMessage},
    frame::split_frame,
    limits::CLIENT_PAYLOAD_BYTES_MAX,
    reconnect::RECONNECT_BYTES,
};

/// What an echo moves each way, bytes: as many as the baselines' own generator.
const ECHO_BYTES: usize = 32;
/// Users for each visitor: nobody returns while the node still knows the connection before.
const USERS_EACH: usize = 16;
/// After the end of a window the visitors that are inside have this long to leave, ns.
const LEAVING_NS_MAX: u64 = 5_000_000_000;

/// What a window saw.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Visits {
    /// Whole units.
    pub(super) done: u64,
    /// Those whose TLS handshake resumed an earlier session, as far as the library says.
    pub(super) resumed: u64,
    /// Those whose HELLO carried a reconnect ticket.
    pub(super) with_ticket: u64,
    failed: u64,
}

struct User {
    user: UserId,
    token: String,
    /// For the next HELLO; each is used once.
    ticket: Option<Box<[u8; RECONNECT_BYTES]>>,
}

/// See the module.
pub(super) struct Visitors {
    target: Target,
    wires: Wires,
    users: Vec<User>,
    /// Whose turn it is.
    turn: usize,
    /// Who is inside, by place; whether the HELLO had a ticket.
    inside: Vec<Option<(usize, bool)>>,
    inbox: Vec<u8>,
    number: usize,
}

impl Visitors {
    /// `parallel` visitors of `target`.
    ///
    /// # Errors
    /// No epoll, no socket.
    pub(super) fn new(mut target: Target, parallel: usize) -> Result<Self> {
        let count = if target.has_sessions() { parallel * USERS_EACH } else { 1 };
        let users = (0..count).map(|_| {
            let user = target.next_user();
            let token = if target.has_sessions() { target.token(user) } else { String::new() };
            User { user, token, ticket: None }
        });
        let users = users.collect();
        Ok(Self {
            wires: Wires::new(&target)?,
            target,
            users,
            turn: 0,
            inside: vec![None; parallel],
            inbox: Vec::new(),
            number: 0,
        })
    }

    /// Visits for `duration`, and lets those inside finish.
    ///
    /// # Errors
    /// More than one visit in a hundred failed, or somebody never came out.
    pub(super) fn run(&mut self, duration: Duration) -> Result<Visits> {
        let mut visits = Visits::default();
        let end = now_ns() + u64::try_from(duration.as_nanos())?;
        let mut signals = Vec::new();
        loop {
            let now = now_ns();
            for place in 0..self.inside.len() {
                if now < end && self.inside[place].is_none() {
                    self.enter(place)?;
                }
            }
            if self.inside.iter().all(Option::is_none) {
                break;
            }
            if now > end + LEAVING_NS_MAX {
                bail!("a visit of {} never ended: {visits:?}", self.target.endpoint());
            }
            self.wires.poll(Duration::ZERO, &mut signals)?;
            for (place, signal) in signals.drain(..) {
                match signal {
                    Signal::Open => self.greet(place),
                    Signal::Bytes => self.listen(place, &mut visits)?,
                    Signal::Lost => self.leave(place, &mut visits, false),
                }
            }
        }
        if visits.failed * 100 > visits.done {
            bail!("{} fails: {visits:?}", self.target.endpoint());
        }
        Ok(visits)
    }

    fn enter(&mut self, place: usize) -> Result<()> {
        self.number += 1;
        self.turn = (self.turn + 1) % self.users.len();
        self.inside[place] = Some((self.turn, false));
        self.wires.connect(place, self.number % 65_536).context("cannot connect")
    }

    fn greet(&mut self, place: usize) {
        let Some((user, with_ticket)) = &mut self.inside[place] else { return };
        let mut out = Vec::new();
        if self.target.has_sessions() {
            let user = &mut self.users[*user];
            let ticket = user.ticket.take();
            *with_ticket = ticket.is_some();
            let token = ticket.as_deref().map_or(user.token.as_bytes(), |ticket| &ticket[..]);
            let (version_min, version_max, campaign) = (1, 1, self.target.campaign);
            let hello =
                Hello { version_min, version_max, software: 1, campaign, tally: None, token };
            hello.put(&mut out, 0);
        } else {
            out.resize(ECHO_BYTES, 7);
        }
        // When it fails a signal says so.
        self.wires.send(place, &out);
    }

    fn listen(&mut self, place: usize, visits: &mut Visits) -> Result<()> {
        self.inbox.clear();
        let received = self.wires.receive(place, &mut self.inbox);
        let Some((user, _)) = self.inside[place] else { return Ok(()) };
        if !self.target.has_sessions() {
            if self.inbox.len() == ECHO_BYTES {
                self.leave(place, visits, true);
                return Ok(());
            }
        } else if self.read_frames(user)? {
            self.leave(place, visits, true);
            return Ok(());
        }
        if received == Received::Ended {
            self.leave(place, visits, false);
        }
        Ok(())
    }

    /// Whether the node has welcomed us. Its ticket for the next time lies behind the WELCOME.
    fn read_frames(&mut self, user: usize) -> Result<bool> {
        let (mut rest, mut welcomed) = (&self.inbox[..], false);
        while let Some((frame, after)) = split_frame(rest, CLIENT_PAYLOAD_BYTES_MAX)? {
            rest = after;
            match ServerMessage::decode(frame)? {
                ServerMessage::Welcome(_) => welcomed = true,
                ServerMessage::Reconnect(ticket) => {
                    self.users[user].ticket = Some(Box::new(*ticket));
                }
                ServerMessage::Error(refusal) => {
                    bail!("user {} is refused: {refusal:?}", self.users[user].user);
                }
                _ => {}
            }
        }
        Ok(welcomed)
    }

    fn leave(&mut self, place: usize, visits: &mut Visits, well: bool) {
        let Some((_, with_ticket)) = self.inside[place].take() else { return };
        if well {
            visits.done += 1;
            visits.resumed += u64::from(self.wires.was_resumed(place));
            visits.with_ticket += u64::from(with_ticket);
        } else {
            visits.failed += 1;
        }
        self.wires.close(place);
    }
}
