//! Plays a script: the one place that sends, waits and judges answers.

use super::{
    case::{Answer, Step},
    wire::{Received, Server, Wire},
};
use anyhow::{Context, Result, bail, ensure};
use std::{
    io::ErrorKind,
    ops::RangeInclusive,
    thread,
    time::{Duration, Instant},
};
use yao_protocol::{
    CampaignId,
    client::{GoAwayReason, RetryClass, ServerMessage, kind},
    frame::{Frame, FrameHeader, KIND_FROM_SERVER, KIND_OPTIONAL, split_frame},
    limits::CLIENT_PAYLOAD_BYTES_MAX,
    receipt::Receipt,
    reconnect::RECONNECT_BYTES,
    ticket::{TICKET_BYTES, Ticket},
};

/// An answer that has no time of its own comes within this, even on a busy machine.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// After closing, so much may still be on its way.
const CLOSE_MAX: Duration = Duration::from_secs(5);

/// A frame of the server.
#[derive(Clone, Debug)]
pub(super) struct Reply {
    pub(super) header: FrameHeader,
    pub(super) payload: Vec<u8>,
}

impl Reply {
    pub(super) fn message(&self) -> Result<ServerMessage<'_>> {
        let frame = Frame { header: self.header, payload: &self.payload };
        ServerMessage::decode(frame).with_context(|| format!("the server sent {self:?}"))
    }
}

/// What a wait for a frame ended with.
pub(super) enum Next {
    Frame(Reply),
    Closed,
    Nothing,
}

/// One connection and the bytes that came on it.
pub(super) struct Peer {
    wire: Box<dyn Wire>,
    unread: Vec<u8>,
    closed: bool,
    since: Instant,
    /// The latest reconnect ticket that came.
    pub(super) reconnect: Option<[u8; RECONNECT_BYTES]>,
}

impl Peer {
    pub(super) fn connect(server: &Server) -> Result<Self> {
        // Before connecting: a deadline of the server cannot begin earlier.
        let since = Instant::now();
        let wire = server.connect()?;
        Ok(Self { wire, unread: Vec::new(), closed: false, since, reconnect: None })
    }

    /// Sends, unless the server has closed: what it said before that is still to be read.
    pub(super) fn send(&mut self, bytes: &[u8]) -> Result<()> {
        match self.wire.send(bytes) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::TimedOut => {
                bail!("the server neither takes bytes nor closes")
            }
            Err(_) => self.closed = true,
        }
        Ok(())
    }

    /// The next frame but for optional ones, by `until`.
    pub(super) fn next(&mut self, until: Instant) -> Result<Next> {
        loop {
            if let Some((frame, rest)) = split_frame(&self.unread, CLIENT_PAYLOAD_BYTES_MAX)? {
                let reply = Reply { header: frame.header, payload: frame.payload.to_vec() };
                self.unread = rest.to_vec();
                if let ServerMessage::Reconnect(ticket) = reply.message()? {
                    ensure!(reply.header.request_id == 0, "RECONNECT answers nothing");
                    self.reconnect = Some(*ticket);
                }
                let optional = KIND_FROM_SERVER | KIND_OPTIONAL;
                if reply.header.kind & optional == optional {
                    continue;
                }
                return Ok(Next::Frame(reply));
            }
            let mut bytes = [0; 16 * 1_024];
            match self.wire.receive(&mut bytes, until) {
                Received::Bytes(count) => self.unread.extend_from_slice(&bytes[..count]),
                Received::Closed => {
                    ensure!(self.unread.is_empty(), "the server closed within a frame");
                    return Ok(Next::Closed);
                }
                Received::Nothing => return Ok(Next::Nothing),
            }
        }
    }
}

/// A script under way.
struct Talk<'a> {
    server: &'a Server,
    campaign: CampaignId,
    peers: Vec<Option<Peer>>,
    current: usize,
    replies: Vec<Reply>,
    mark: Option<Instant>,
    window: Option<RangeInclusive<u64>>,
}

/// Plays `steps`; an error says at which step the server did something else.
pub(super) fn play(server: &Server, campaign: CampaignId, steps: &[Step]) -> Result<()> {
    let mut talk = Talk {
        server,
        campaign,
        peers: Vec::new(),
        current: 0,
        replies: Vec::new(),
        mark: None,
        window: None,
    };
    talk.open(0)?;
    for (index, step) in steps.iter().enumerate() {
        talk.act(step).with_context(|| format!("step {}", index + 1))?;
    }
    Ok(())
}

impl Talk<'_> {
    fn open(&mut self, index: usize) -> Result<()> {
        while self.peers.len() <= index {
            self.peers.push(None);
        }
        if self.peers[index].is_none() {
            self.peers[index] = Some(Peer::connect(self.server)?);
        }
        self.current = index;
        Ok(())
    }

    fn peer(&mut self) -> &mut Peer {
        self.peers[self.current].as_mut().expect("opened when it was named")
    }

    fn act(&mut self, step: &Step) -> Result<()> {
        match step {
            Step::On(index) => return self.open(*index),
            Step::Send(bytes) => self.peer().send(bytes)?,
            Step::Trickle { bytes, piece, pause_ms } => {
                for part in bytes.chunks(*piece) {
                    self.peer().send(part)?;
                    if self.peer().closed {
                        break;
                    }
                    // The pause is what is tested: a slow sender.
                    thread::sleep(Duration::from_millis(*pause_ms));
                }
            }
            Step::Flood(bytes, times) => {
                let peer = self.peer();
                for _ in 0..*times {
                    peer.send(bytes)?;
                    if peer.closed {
                        return Ok(());
                    }
                }
                bail!("{times} times {} bytes were taken, nothing was read", bytes.len());
            }
            Step::Mark => self.mark = Some(Instant::now()),
            Step::After(window) => self.window = Some(window.clone()),
            Step::Expect(answers) => return self.expect(answers),
            Step::Silence(ms) => {
                let until = Instant::now() + Duration::from_millis(*ms);
                match self.peer().next(until)? {
                    Next::Nothing => {}
                    Next::Closed => bail!("closed, where nothing was to happen"),
                    Next::Frame(reply) => bail!("{reply:?}, where nothing was to happen"),
                }
            }
            Step::Transport(rule) => self.server.check(rule)?,
            Step::Closed => match self.peer().next(Instant::now() + CLOSE_MAX)? {
                Next::Closed => {}
                Next::Nothing => bail!("still open after {CLOSE_MAX:?}"),
                Next::Frame(reply) => bail!("{reply:?}, where the server was to close"),
            },
        }
        Ok(())
    }

    fn expect(&mut self, answers: &[(u32, Answer)]) -> Result<()> {
        let window = self.window.take();
        let since = self.mark.unwrap_or_else(|| self.peer().since);
        let mut open: Vec<&(u32, Answer)> = answers.iter().collect();
        while !open.is_empty() {
            let until = match &window {
                Some(window) => since + Duration::from_millis(*window.end()),
                None => Instant::now() + ANSWER_MAX,
            };
            let reply = match self.peer().next(until)? {
                Next::Frame(reply) => reply,
                Next::Closed => bail!("closed, where {open:?} was to come"),
                Next::Nothing => bail!("nothing, where {open:?} was to come"),
            };
            let ms = u64::try_from(since.elapsed().as_millis())?;
            if let Some(window) = window.as_ref().filter(|window| ms < *window.start()) {
                bail!("{reply:?} after {ms} ms, which is before {} ms", window.start());
            }
            let at = open.iter().position(|(id, _)| *id == reply.header.request_id);
            let at = at.with_context(|| format!("{reply:?}, where {open:?} was to come"))?;
            let (_, answer) = open.remove(at);
            self.judge(&reply, answer).with_context(|| format!("{reply:?} is not {answer:?}"))?;
            self.replies.push(reply);
        }
        Ok(())
    }

    fn judge(&self, reply: &Reply, answer: &Answer) -> Result<()> {
        let message = reply.message()?;
        match (answer, &message) {
            (Answer::OneOf(answers), _) => {
                let fits = answers.iter().any(|answer| self.judge(reply, answer).is_ok());
                ensure!(fits, "none of these");
            }
            (Answer::SameAs(number), _) => {
                let first = self.replies.get(*number).context("no such answer")?;
                ensure!(first.payload == reply.payload, "differs from {first:?}");
            }
            (Answer::Error(refused), _) => {
                ensure!(reply.header.kind == kind::ERROR, "no ERROR");
                ensure!(reply.payload == refused.payload(), "another ERROR");
            }
            (Answer::Pong, ServerMessage::Pong(_)) => {}
            (Answer::Welcome, ServerMessage::Welcome(welcome)) => {
                ensure!(welcome.campaign == self.campaign, "another campaign");
                ensure!((1..=16).contains(&welcome.wins_per_user), "wins per user");
                ensure!(welcome.heartbeat_ms_min <= welcome.heartbeat_ms_max, "heartbeats");
            }
            (Answer::NoWin(shake, reasons, interval), ServerMessage::NoWin(no_win)) => {
                ensure!(no_win.shake == *shake, "another draw");
                ensure!(reasons.contains(&(no_win.reason as u8)), "another reason");
                ensure!(interval.contains(&no_win.interval_ms), "another interval");
            }
            (Answer::Win(shake), ServerMessage::Win { ticket, .. }) => {
                ensure!(read(ticket)?.body.shake == *shake, "another draw");
            }
            (Answer::Ticket(expected), ServerMessage::Win { ticket, .. }) => {
                ensure!(**ticket == **expected, "another ticket");
            }
            (Answer::Receipt(ticket), ServerMessage::Receipt(receipt)) => {
                let (body, receipt) = (read(ticket)?.body, Receipt::peek(&receipt[..])?);
                ensure!(receipt.packet == body.packet && receipt.user == body.user, "another one");
            }
            (Answer::Replaced, ServerMessage::GoAway(go_away)) => {
                ensure!(go_away.reason == GoAwayReason::Replaced, "another reason");
                ensure!(go_away.class == RetryClass::Never, "another class");
                ensure!((go_away.delay_ms, go_away.jitter_ms) == (0, 0), "a delay");
                ensure!(go_away.endpoints.is_empty(), "endpoints");
            }
            _ => bail!("another kind"),
        }
        Ok(())
    }
}

fn read(bytes: &[u8; TICKET_BYTES]) -> Result<Ticket> {
    Ok(Ticket::decode(bytes)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conform::{
        case::{Refused, expect, refused, send},
        frames::{frame, ping},
    };
    use std::{
        io::{Read, Write},
        net::TcpListener,
    };
    use yao_protocol::WallTime;

    /// A server that answers the first bytes of each connection with `answer` and closes.
    fn server(answer: Vec<u8>) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound").to_string();
        thread::spawn(move || {
            for socket in listener.incoming() {
                let mut socket = socket.expect("a connection");
                let read = socket.read(&mut [0; 64]).expect("bytes");
                if read > 0 {
                    socket.write_all(&answer).expect("a client that reads");
                }
            }
        });
        Server::new(&address, None).expect("an address")
    }

    fn pong(request_id: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        yao_protocol::client::put_pong(&mut bytes, request_id, WallTime(1));
        bytes
    }

    #[test]
    fn a_server_that_does_something_else_is_noticed() {
        let error = |refused: Refused| frame(kind::ERROR, 0, 2, &refused.payload());
        let with = |flags| frame(kind::PONG, flags, 2, &[0; 8]);
        let check = |answer: Vec<u8>, steps: Vec<Step>, expected: Option<&str>| {
            let steps = [send(ping(2)), steps].concat();
            let found = play(&server(answer), CampaignId(1), &steps).map_err(|e| format!("{e:#}"));
            match expected {
                None => assert_eq!(found, Ok(())),
                Some(part) => {
                    let text = found.expect_err("the server does something else");
                    assert!(text.contains(part), "{text}");
                }
            }
        };
        let good = || [expect(2, Answer::Pong), vec![Step::Closed]].concat();
        check(pong(2), good(), None);
        check([frame(0xc5, 9, 0, b"optional"), pong(2)].concat(), good(), None);
        check(pong(3), good(), Some("where"));
        check([pong(2), pong(2)].concat(), good(), Some("was to close"));
        check(Vec::new(), good(), Some("closed, where"));
        check(pong(2)[..12].to_vec(), good(), Some("within a frame"));
        check(with(1), good(), Some("flags of the frame"));
        check(error(Refused::PROTOCOL), good(), Some("another kind"));
        check(error(Refused::PROTOCOL), refused(2, Refused::PROTOCOL), None);
        check(error(Refused::VERSION), refused(2, Refused::PROTOCOL), Some("another ERROR"));
        let longer = Refused { delay_ms: 1, ..Refused::PROTOCOL };
        check(error(longer), refused(2, Refused::PROTOCOL), Some("another ERROR"));
        let late = |from| [vec![Step::After(from..=5_000)], expect(2, Answer::Pong)].concat();
        check(pong(2), late(0), None);
        check(pong(2), late(4_000), Some("which is before"));
        check(pong(2), vec![Step::Silence(2_000)], Some("where nothing was to happen"));
        check(pong(2), vec![Step::Closed], Some("was to close"));
    }
}
