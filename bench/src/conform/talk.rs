//! Plays a script: the one place that sends, waits and judges answers.

use super::{
    case::{Answer, Return, Step},
    ending::Ending,
    facts::hello,
    frames::ping,
    wire::{Received, Server, Wire},
};
use anyhow::{Context, Result, bail, ensure};
use std::{
    fmt::Debug,
    io::ErrorKind,
    ops::RangeInclusive,
    thread,
    time::{Duration, Instant},
};
use yao_protocol::{
    CampaignId, SponsorSet, WallTime,
    client::{GoAwayReason, RetryClass, ServerMessage, Welcome, kind},
    endpoint::Endpoint,
    frame::{Frame, FrameHeader, KIND_FROM_SERVER, KIND_OPTIONAL, split_frame},
    limits::CLIENT_PAYLOAD_BYTES_MAX,
    receipt::Receipt,
    reconnect::RECONNECT_BYTES,
    tally::{TALLY_BYTES, Tally},
    ticket::{TICKET_BYTES, Ticket},
};

/// An answer that has no time of its own comes within this, even on a busy machine.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// After closing, so much may still be on its way.
const CLOSE_MAX: Duration = Duration::from_secs(5);
/// While the server's end is waited for, sessions say so often that they are there.
const BEAT: Duration = Duration::from_millis(250);
/// Whether somebody is gone is asked so often.
const ASK_AGAIN: Duration = Duration::from_millis(250);
/// The request id of such PINGs.
const PING: u32 = 0xbea7;
/// The times of one server, in one case, are not further apart, us.
const CLOCK_US_MAX: u64 = 600_000_000;

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

impl Reply {
    /// The frame as it came.
    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.header.encode());
        out.extend_from_slice(&self.payload);
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
    /// The latest reconnect ticket that came, and how many did.
    pub(super) reconnect: Option<[u8; RECONNECT_BYTES]>,
    reconnects: usize,
}

impl Peer {
    pub(super) fn connect(server: &Server) -> Result<Self> {
        // Before connecting: a deadline of the server cannot begin earlier.
        let since = Instant::now();
        let wire = server.connect()?;
        Ok(Self { wire, unread: Vec::new(), closed: false, since, reconnect: None, reconnects: 0 })
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
                    self.reconnects += 1;
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

/// What all scripts of a run share.
pub(super) struct Stage<'a> {
    pub(super) server: &'a Server,
    pub(super) campaign: CampaignId,
    pub(super) ending: &'a Ending,
}

/// A script under way.
struct Talk<'a> {
    stage: &'a Stage<'a>,
    peers: Vec<Option<Peer>>,
    current: usize,
    replies: Vec<Reply>,
    mark: Option<Instant>,
    /// The server was told to end after we came to wait for it,
    arrived: Option<Instant>,
    /// and, if it asks all to leave at once, after this.
    untold: Option<Instant>,
    window: Option<RangeInclusive<u64>>,
    /// Connections that stay open and unheard.
    held: Vec<Peer>,
}

/// Plays `steps`; an error says at which step the server did something else.
pub(super) fn play(stage: &Stage<'_>, steps: &[Step]) -> Result<()> {
    Talk::new(stage).play(steps)
}

impl<'a> Talk<'a> {
    fn new(stage: &'a Stage<'a>) -> Self {
        Self {
            stage,
            peers: Vec::new(),
            current: 0,
            replies: Vec::new(),
            mark: None,
            arrived: None,
            untold: None,
            window: None,
            held: Vec::new(),
        }
    }

    fn play(mut self, steps: &[Step]) -> Result<()> {
        for (index, step) in steps.iter().enumerate() {
            self.act(step).with_context(|| format!("step {}", index + 1))?;
        }
        Ok(())
    }

    /// The current connection, opened when it is first needed.
    fn peer(&mut self) -> Result<&mut Peer> {
        let index = self.current;
        while self.peers.len() <= index {
            self.peers.push(None);
        }
        let place = &mut self.peers[index];
        if place.is_none() {
            *place = Some(Peer::connect(self.stage.server)?);
        }
        Ok(place.as_mut().expect("opened above"))
    }

    fn act(&mut self, step: &Step) -> Result<()> {
        match step {
            Step::On(index) => self.current = *index,
            Step::Connect => drop(self.peer()?),
            Step::Send(bytes) => self.peer()?.send(bytes)?,
            Step::Trickle { bytes, piece, pause_ms } => {
                for part in bytes.chunks(*piece) {
                    self.peer()?.send(part)?;
                    if self.peer()?.closed {
                        break;
                    }
                    // The pause is what is tested: a slow sender.
                    thread::sleep(Duration::from_millis(*pause_ms));
                }
            }
            Step::Flood(bytes, times) => {
                let peer = self.peer()?;
                for _ in 0..*times {
                    peer.send(bytes)?;
                    if peer.closed {
                        return Ok(());
                    }
                }
                bail!("{times} times {} bytes were taken, nothing was read", bytes.len());
            }
            Step::Return(back) => self.come_back(back)?,
            Step::Below(below) => self.peer()?.wire.below(below)?,
            Step::Mark => self.mark = Some(Instant::now()),
            Step::After(window) => self.window = Some(window.clone()),
            Step::Expect(answers) => return self.expect(answers),
            Step::Reconnects(count) => {
                let found = self.peer()?.reconnects;
                ensure!(found == *count, "{found} reconnect tickets came, not {count}");
            }
            Step::Silence(ms) => {
                let until = Instant::now() + Duration::from_millis(*ms);
                match self.peer()?.next(until)? {
                    Next::Nothing => {}
                    Next::Closed => bail!("closed, where nothing was to happen"),
                    Next::Frame(reply) => bail!("{reply:?}, where nothing was to happen"),
                }
            }
            Step::Closed => self.closed()?,
            Step::Farewell => {
                self.closed()?;
                self.peer()?.wire.farewell(Instant::now() + CLOSE_MAX)?;
            }
            Step::Gone => self.gone()?,
            Step::Ending => self.ending()?,
            Step::Fill(hellos) => self.fill(hellos)?,
            Step::Recover(hellos) => self.recover(hellos)?,
            Step::Transport(rule) => self.stage.server.check(rule)?,
        }
        Ok(())
    }

    /// The window that `After` set, in time. Of what it is counted from we may have heard late, so
    /// that less has passed than it seems: `untold` is a time at which it surely had not happened.
    fn window(&mut self, untold: Option<Instant>) -> Result<Option<RangeInclusive<Instant>>> {
        let Some(window) = self.window.take() else { return Ok(None) };
        let since = match self.mark {
            Some(mark) => mark,
            None => self.peer()?.since,
        };
        let first = untold.unwrap_or(since) + Duration::from_millis(*window.start());
        Ok(Some(first..=since + Duration::from_millis(*window.end())))
    }

    fn closed(&mut self) -> Result<()> {
        let window = self.window(self.untold)?;
        let until = window.as_ref().map_or_else(|| Instant::now() + CLOSE_MAX, |it| *it.end());
        match self.peer()?.next(until)? {
            Next::Closed => in_time(window.as_ref(), &"the end"),
            Next::Nothing => bail!("still open after {CLOSE_MAX:?}, or when it was to close"),
            Next::Frame(reply) => bail!("{reply:?}, where the server was to close"),
        }
    }

    /// The connection is cut; over UDP nobody is told before he asks.
    fn gone(&mut self) -> Result<()> {
        // PONGs come in a drain, too, until it is this session's turn.
        let window = self.window(self.arrived)?;
        let until = *window.as_ref().context("when is it cut?")?.end();
        while Instant::now() < until {
            self.peer()?.send(&ping(PING))?;
            let answered = Instant::now() + ASK_AGAIN;
            loop {
                match self.peer()?.next(answered.min(until))? {
                    Next::Closed => return in_time(window.as_ref(), &"the end"),
                    Next::Frame(reply) => {
                        let kind = reply.header.kind;
                        ensure!(matches!(kind, kind::PONG | kind::GOAWAY), "{reply:?}");
                    }
                    Next::Nothing => break,
                }
            }
        }
        bail!("still there when it was to be cut")
    }

    /// Keeps the session until the server was told to end.
    fn ending(&mut self) -> Result<()> {
        self.arrived = Some(Instant::now());
        self.untold = self.arrived;
        let arrival = self.stage.ending.arrive();
        let mut told = false;
        while !arrival.is_over(BEAT)? {
            if !told && self.peers.iter().any(Option::is_some) {
                let before = Instant::now();
                told = self.beat()?;
                if !told {
                    self.untold = Some(before);
                }
            }
        }
        self.mark = Some(Instant::now());
        Ok(())
    }

    /// PING and its PONG. Returns whether something else came before it: the end, which is heard
    /// again.
    fn beat(&mut self) -> Result<bool> {
        let peer = self.peer()?;
        peer.send(&ping(PING))?;
        let (until, mut others) = (Instant::now() + ANSWER_MAX, Vec::new());
        let is_gone = loop {
            match peer.next(until)? {
                Next::Frame(reply) if reply.header.request_id == PING => break false,
                Next::Frame(reply) => reply.put(&mut others),
                // A server that dies is gone before whoever told it to is back.
                Next::Closed => break true,
                Next::Nothing => bail!("no PONG, where the end was waited for"),
            }
        };
        let told = is_gone || !others.is_empty();
        others.append(&mut peer.unread);
        peer.unread = others;
        Ok(told)
    }

    fn come_back(&mut self, back: &Return) -> Result<()> {
        let ticket = self.peers.get(back.of).and_then(Option::as_ref);
        let ticket = ticket.and_then(|peer| peer.reconnect).context("no reconnect ticket came")?;
        let ticket = back.change.of(&ticket);
        let hello = hello(self.stage.campaign, &ticket, back.tally.as_deref());
        self.peer()?.send(&hello)
    }

    fn fill(&mut self, hellos: &[Vec<u8>]) -> Result<()> {
        for hello in hellos {
            // Over TLS whoever is not let in has no handshake.
            let Ok(mut peer) = Peer::connect(self.stage.server) else { return Ok(()) };
            peer.send(hello)?;
            let until = Instant::now() + ANSWER_MAX;
            match peer.next(until)? {
                Next::Frame(reply) if reply.header.kind == kind::WELCOME => self.held.push(peer),
                Next::Frame(_) | Next::Closed => return Ok(()),
                Next::Nothing => bail!("a newcomer is left without an answer"),
            }
        }
        bail!("all {} were welcomed", hellos.len())
    }

    /// Those who filled the server leave, and others come in.
    fn recover(&mut self, hellos: &[Vec<u8>]) -> Result<()> {
        self.held.clear();
        for hello in hellos {
            if let Ok(mut peer) = Peer::connect(self.stage.server) {
                peer.send(hello)?;
                if let Next::Frame(reply) = peer.next(Instant::now() + ANSWER_MAX)?
                    && reply.header.kind == kind::WELCOME
                {
                    return Ok(());
                }
            }
            thread::sleep(ASK_AGAIN);
        }
        bail!("nobody is welcomed any more")
    }

    fn expect(&mut self, answers: &[(u32, Answer)]) -> Result<()> {
        let window = self.window(self.untold)?;
        let mut open: Vec<&(u32, Answer)> = answers.iter().collect();
        while !open.is_empty() {
            let until = window.as_ref().map_or_else(|| Instant::now() + ANSWER_MAX, |it| *it.end());
            let reply = match self.peer()?.next(until)? {
                Next::Frame(reply) => reply,
                Next::Closed => bail!("closed, where {open:?} was to come"),
                Next::Nothing => bail!("nothing, where {open:?} was to come"),
            };
            in_time(window.as_ref(), &reply)?;
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
            (Answer::Pong, ServerMessage::Pong(time)) => {
                // The server's, whoever is right: it is the same clock as at WELCOME.
                let welcomed = self.welcomed_at();
                let apart = welcomed.map_or(0, |at| at.us_since(*time).max(time.us_since(at)));
                ensure!(apart < CLOCK_US_MAX, "a time {apart} us from WELCOME's");
            }
            (Answer::Welcome, ServerMessage::Welcome(welcome)) => check_welcome(self, welcome)?,
            (Answer::NoWin(shake, reasons, interval), ServerMessage::NoWin(no_win)) => {
                ensure!(no_win.shake == *shake, "another draw");
                ensure!(reasons.contains(&(no_win.reason as u8)), "another reason");
                ensure!(interval.contains(&no_win.interval_ms), "another interval");
                ensure!(no_win.tier == 0, "a tier");
            }
            (Answer::Win(shake), ServerMessage::Win { ticket, tally }) => {
                ensure!(read(ticket)?.body.shake == *shake, "another draw");
                self.check_win(ticket, tally)?;
            }
            (Answer::Ticket(expected), ServerMessage::Win { ticket, tally }) => {
                ensure!(**ticket == **expected, "another ticket");
                self.check_win(ticket, tally)?;
            }
            (Answer::Receipt(ticket), ServerMessage::Receipt(receipt)) => {
                let (body, receipt) = (read(ticket)?.body, Receipt::peek(&receipt[..])?);
                ensure!(receipt.packet == body.packet && receipt.user == body.user, "another one");
                ensure!(receipt.campaign == self.stage.campaign, "another campaign");
                ensure!(receipt.accepted_at < body.expires_at, "accepted after its end");
            }
            (Answer::Replaced, ServerMessage::GoAway(go_away)) => {
                ensure!(go_away.reason == GoAwayReason::Replaced, "another reason");
                ensure!(go_away.class == RetryClass::Never, "another class");
                ensure!((go_away.delay_ms, go_away.jitter_ms) == (0, 0), "a delay");
                ensure!(go_away.endpoints.is_empty(), "endpoints");
            }
            (Answer::Drain(delay_ms, jitter_ms), ServerMessage::GoAway(go_away)) => {
                ensure!(go_away.reason == GoAwayReason::Drain, "another reason");
                ensure!(go_away.class == RetryClass::After, "another class");
                let times = (go_away.delay_ms, go_away.jitter_ms);
                ensure!(times == (*delay_ms, *jitter_ms), "another delay");
                check_endpoints(&go_away.endpoints)?;
            }
            (Answer::Overload, ServerMessage::GoAway(go_away)) => {
                ensure!(go_away.reason == GoAwayReason::Overload, "another reason");
                ensure!(go_away.class == RetryClass::After, "another class");
                check_endpoints(&go_away.endpoints)?;
            }
            _ => bail!("another kind"),
        }
        Ok(())
    }

    /// The server's time when it welcomed this script's first session.
    fn welcomed_at(&self) -> Option<WallTime> {
        self.replies.iter().find_map(|reply| match reply.message() {
            Ok(ServerMessage::Welcome(welcome)) => Some(welcome.server_time),
            _ => None,
        })
    }

    /// What wire.md 4.4, 5.1 and 5.2 say of a win, whoever drew it.
    fn check_win(&self, ticket: &[u8; TICKET_BYTES], tally: &[u8; TALLY_BYTES]) -> Result<()> {
        let (body, tally) = (read(ticket)?.body, Tally::peek(tally)?);
        ensure!(body.campaign == self.stage.campaign, "a ticket of another campaign");
        ensure!(body.issued_at < body.expires_at, "a ticket that never lived");
        ensure!((tally.campaign, tally.user) == (body.campaign, body.user), "another's tally");
        ensure!(tally.counted_at == body.issued_at, "a tally of another time");
        let counted = SponsorSet::EMPTY.with(body.sponsor);
        ensure!(counted.minus(tally.sponsors).is_empty(), "a tally without this win");
        Ok(())
    }
}

fn check_welcome(talk: &Talk<'_>, welcome: &Welcome) -> Result<()> {
    ensure!(welcome.campaign == talk.stage.campaign, "another campaign");
    ensure!((1..=16).contains(&welcome.wins_per_user), "wins per user");
    ensure!(welcome.heartbeat_ms_min <= welcome.heartbeat_ms_max, "heartbeats");
    ensure!(welcome.tier == 0, "a tier");
    check_endpoints(&welcome.endpoints)
}

fn check_endpoints(endpoints: &[String]) -> Result<()> {
    for endpoint in endpoints {
        endpoint.parse::<Endpoint>().with_context(|| format!("the endpoint {endpoint:?}"))?;
    }
    Ok(())
}

/// Something came, and not too soon.
fn in_time(window: Option<&RangeInclusive<Instant>>, what: &dyn Debug) -> Result<()> {
    let Some(window) = window else { return Ok(()) };
    let early = window.start().saturating_duration_since(Instant::now());
    ensure!(early.is_zero(), "{what:?} came {early:?} too soon");
    Ok(())
}

fn read(bytes: &[u8; TICKET_BYTES]) -> Result<Ticket> {
    Ok(Ticket::decode(bytes)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conform::{
        case::{Refused, expect, refused, send},
        frames::frame,
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
            let (server, ending) = (&server(answer), &Ending::default());
            let stage = Stage { server, campaign: CampaignId(1), ending };
            let found = play(&stage, &steps).map_err(|e| format!("{e:#}"));
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
        check(pong(2), late(4_000), Some("too soon"));
        // Whoever was told late has no say in how soon that was.
        let untold = Instant::now().checked_sub(Duration::from_secs(4)).expect("up for long");
        let said = || [send([0; 8]), expect(2, Answer::Pong)].concat();
        for (untold, too_soon) in [(None, true), (Some(untold), false)] {
            let (server, ending) = (server(pong(2)), Ending::default());
            let stage = Stage { server: &server, campaign: CampaignId(1), ending: &ending };
            let steps = [vec![Step::Mark, Step::After(4_000..=5_000)], said()].concat();
            let played = Talk { untold, ..Talk::new(&stage) }.play(&steps);
            assert_eq!(played.is_err(), too_soon, "{played:?}");
        }
        check(pong(2), vec![Step::Silence(2_000)], Some("where nothing was to happen"));
        check(pong(2), vec![Step::Closed], Some("was to close"));
    }
}
