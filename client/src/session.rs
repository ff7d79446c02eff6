//! One user's conversation with the server, over as many connections as it takes. No socket, no
//! clock, no random source: bytes, `now` and a seed come in.
//!
//! One mutation (`handle_*`), then [`Session::poll`] until it answers [`Output::SleepUntil`]. The
//! order of the outputs is a promise: a [`Output::Persist`] comes before the event that tells the
//! app and before the frame that builds on it, so whoever works the outputs off in order never
//! forgets what the server was told.

mod claims;
mod heartbeat;
mod messages;
mod returning;
mod shaker;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use crate::{
    error::{Error, ProtocolError},
    event::{Event, Opened},
    limits::{AUTH_FAILED_COUNT_MAX, GREETING_MS_MAX, LEAVING_MS_MAX},
    link::Transport,
    random::Random,
    reconnect::Retry,
    rhythm::Rhythm,
    time::Timestamp,
    wallet::{Home, Outcome, Record, Wallet},
};
use claims::Claims;
use heartbeat::Heartbeat;
use returning::Returning;
use shaker::Shaker;
use std::collections::VecDeque;
use yao_protocol::{
    CampaignId, PacketId, WireError,
    client::{ErrorCode, Hello, Shake, VERSION, kind, put_empty, put_open},
    limits::TOKEN_BYTES_MAX,
    receipt::Receipt,
    ticket::Ticket,
};

/// What a session is told once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionConfig {
    /// The campaign to take part in.
    pub campaign: CampaignId,
    /// Version of the app, sent in HELLO: major << 16 | minor.
    pub software: u32,
    /// Whether every win is opened at once, without [`Session::handle_open`].
    pub open_automatically: bool,
    /// Seed of shake ids and jitter: 64 bits that nobody else has.
    pub seed: u64,
}

/// What the driver must do, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Store this before anything that follows; on disk when [`Record::must_be_durable`].
    Persist(Record),
    /// Send these bytes: whole frames.
    Transmit(Vec<u8>),
    /// Tell the app.
    Event(Event),
    /// The session opened; these are other nodes.
    Welcome(Vec<String>),
    /// Close the connection (frames before this one are still sent). Never twice for one.
    Disconnect(Departure),
    /// Nothing more to do until then, or until the next input.
    SleepUntil {
        /// When to call [`Session::handle_timeout`]; `None` is never.
        at: Option<Timestamp>,
    },
}

/// Why a connection ends, and what is next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Departure {
    /// Why.
    pub error: Error,
    /// When to come back.
    pub retry: Retry,
    /// Where to, if the server said so.
    pub endpoints: Vec<String>,
}

/// The life of one connection. Every transition is in `handle_connected`, `handle_welcome`,
/// `leave` and `depart`.
#[derive(Clone, Debug)]
enum State {
    /// No connection.
    Offline,
    /// HELLO was sent, WELCOME has not come.
    Greeting { since: Timestamp, hello_id: u32 },
    /// The session is open.
    Open(Heartbeat),
    /// The session is open, but the server asked us to leave: no new requests, answers until then.
    Leaving { until: Timestamp, departure: Departure },
}

/// The last request id that was given out.
#[derive(Clone, Debug)]
struct RequestIds(u32);

impl RequestIds {
    /// The next one; never 0, which means "nobody asked".
    const fn next(&mut self) -> u32 {
        self.0 = match self.0.wrapping_add(1) {
            0 => 1,
            id => id,
        };
        self.0
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Session {
    config: SessionConfig,
    random: Random,
    wallet: Wallet,
    state: State,
    shaker: Shaker,
    claims: Claims,
    /// How the current connection was made, for the app.
    route: (Transport, String),
    /// What is known about the current network, and whether the user looks.
    rhythm: Rhythm,
    foreground: bool,
    cue: Option<u16>,
    /// Whether there is another node to go to, as far as anybody knows.
    elsewhere_known: bool,
    returning: Returning,
    /// Greetings in a row that were not believed.
    auth_failed_count: u32,
    request_ids: RequestIds,
    outputs: VecDeque<Output>,
}

impl Session {
    /// A session of the user who holds `wallet`; not connected.
    #[must_use]
    pub fn new(config: SessionConfig, wallet: Wallet) -> Self {
        let mut claims = Claims::default();
        for held in wallet.holdings() {
            // What was taken in charge in an earlier life is still owed.
            let automatically = config.open_automatically && held.outcome == Outcome::Unopened;
            if held.opening || automatically {
                claims.add(Timestamp::ZERO, held.ticket.body.packet);
            }
        }
        Self {
            random: Random::new(config.seed),
            shaker: Shaker::new(wallet.pending()),
            config,
            wallet,
            state: State::Offline,
            claims,
            route: (Transport::Tcp, String::new()),
            rhythm: Rhythm::default(),
            foreground: true,
            cue: None,
            elsewhere_known: true,
            returning: Returning::default(),
            auth_failed_count: 0,
            request_ids: RequestIds(0),
            outputs: VecDeque::new(),
        }
    }

    /// What the user holds.
    #[must_use]
    pub const fn wallet(&self) -> &Wallet {
        &self.wallet
    }

    /// A connection is up: greet, with the reconnect ticket if one is held, else with `token`. That
    /// may be empty unless [`Session::needs_token`].
    ///
    /// # Errors
    /// [`Error::Token`] when the token cannot travel; the app is at fault.
    ///
    /// # Panics
    /// When there is a connection already.
    pub fn handle_connected(&mut self, now: Timestamp, token: &str) -> Result<(), Error> {
        assert!(matches!(self.state, State::Offline), "one connection at a time");
        let credential = self.credential(now, token);
        if credential.is_empty() || credential.len() > TOKEN_BYTES_MAX {
            let length = credential.len();
            return Err(Error::Token(format!(
                "it has {length} bytes; 1 to {TOKEN_BYTES_MAX} can be sent"
            )));
        }
        let hello_id = self.request_ids.next();
        let hello = Hello {
            version_min: VERSION,
            version_max: VERSION,
            software: self.config.software,
            campaign: self.config.campaign,
            tally: self.wallet.tally().filter(|_| self.auth_failed_count < AUTH_FAILED_COUNT_MAX),
            token: &credential,
        };
        let mut bytes = Vec::new();
        hello.put(&mut bytes, hello_id);
        self.outputs.push_back(Output::Transmit(bytes));
        self.state = State::Greeting { since: now, hello_id };
        Ok(())
    }

    /// The next connection is made by `transport` to `endpoint`; the app is told.
    pub fn handle_route(&mut self, transport: Transport, endpoint: String) {
        self.route = (transport, endpoint);
    }

    /// Whether other nodes are known than the one of this connection. Where none is, nobody leaves
    /// for a better one.
    pub const fn set_elsewhere_known(&mut self, known: bool) {
        self.elsewhere_known = known;
    }

    /// The user looks at the app.
    pub fn handle_foreground(&mut self, now: Timestamp) {
        self.set_foreground(true);
        self.handle_doubt(now);
    }

    /// The app is out of sight.
    pub fn handle_background(&mut self) {
        self.set_foreground(false);
    }

    /// There is reason to doubt that the connection lives: ask.
    pub fn handle_doubt(&mut self, now: Timestamp) {
        if let State::Open(heartbeat) = &mut self.state {
            heartbeat.probe(now);
        }
        self.pump(now);
    }

    /// What is known about resting on the current network.
    #[must_use]
    pub const fn rhythm(&self) -> Rhythm {
        self.rhythm
    }

    /// The device is on a network of which this is known. Holds at once: what the connection rests
    /// from now on, it rests there.
    pub const fn set_rhythm(&mut self, rhythm: Rhythm) {
        self.rhythm = rhythm;
        if let State::Open(heartbeat) = &mut self.state {
            heartbeat.set_rhythm(rhythm);
        }
    }

    fn set_foreground(&mut self, foreground: bool) {
        self.foreground = foreground;
        if let State::Open(heartbeat) = &mut self.state {
            heartbeat.set_foreground(foreground);
        }
    }

    /// The user shook `count` times. They are merged into one request per interval.
    pub fn handle_shake(&mut self, now: Timestamp, count: u32) {
        self.shaker.want(count);
        self.pump(now);
    }

    /// The user opens a ticket; it may come from elsewhere than this session. Told again for one
    /// that is decided, the session repeats the outcome. The session has it in charge once the
    /// outputs that follow are worked off: it lasts until it is decided, over lives of the app.
    ///
    /// # Errors
    /// [`Error::Config`] when the ticket is for another campaign, or too many are held; nothing is
    /// changed then.
    pub fn handle_open(&mut self, now: Timestamp, ticket: Ticket) -> Result<(), Error> {
        let packet = ticket.body.packet;
        if ticket.body.campaign != self.config.campaign {
            return Err(Error::Config("the ticket is for another campaign"));
        }
        if self.wallet.holding(packet).is_none() {
            if self.wallet.holdings().len() >= crate::limits::TICKETS_MAX {
                return Err(Error::Config("more tickets than any campaign allows one user"));
            }
            self.persist(Record::Ticket(ticket));
        }
        match self.wallet.holding(packet).map(|held| held.outcome) {
            Some(Outcome::Opened(proof)) => {
                let receipt = Receipt::peek(&proof).expect("checked before it was stored");
                self.tell(Event::Opened(Box::new(Opened { receipt, proof })));
            }
            // The app may know better than an old refusal: the server decides again.
            _ => {
                self.persist(Record::Opening(packet));
                self.claims.add(now, packet);
            }
        }
        self.pump(now);
        Ok(())
    }

    /// The app ends: say BYE if there is anybody to hear it.
    pub fn handle_close(&mut self) {
        let departure =
            Departure { error: Error::Closed, retry: Retry::Never, endpoints: Vec::new() };
        self.farewell(departure);
    }

    /// The bytes received are no frame.
    pub fn handle_malformed(&mut self, error: WireError) {
        self.fail(ProtocolError::Wire(error));
    }

    /// The connection broke.
    pub fn handle_disconnected(&mut self, error: Error) {
        match &self.state {
            State::Offline => {}
            // It told us to leave and closed before we did: what it told us still holds.
            State::Leaving { departure, .. } => self.depart(departure.clone()),
            State::Greeting { .. } | State::Open(_) => {
                self.depart(Departure { error, retry: Retry::BackOff, endpoints: Vec::new() });
            }
        }
    }

    /// The time that [`Output::SleepUntil`] named has come.
    pub fn handle_timeout(&mut self, now: Timestamp) {
        self.pump(now);
    }

    /// The next thing to do. See the module for the order.
    pub fn poll(&mut self) -> Output {
        self.outputs.pop_front().unwrap_or_else(|| Output::SleepUntil { at: self.deadline() })
    }

    fn deadline(&self) -> Option<Timestamp> {
        match &self.state {
            State::Offline => None,
            State::Greeting { since, .. } => Some(since.plus_ms(GREETING_MS_MAX)),
            State::Leaving { until, .. } => Some(*until),
            State::Open(heartbeat) => {
                let requests = self.shaker.deadline().into_iter().chain(self.claims.deadline());
                requests.chain([heartbeat.deadline()]).min()
            }
        }
    }

    /// Sends what is due and ends what took too long. Called after every change.
    fn pump(&mut self, now: Timestamp) {
        match &mut self.state {
            State::Offline => {}
            State::Greeting { since, .. } => {
                let after_ms = now.ms_since(*since);
                if after_ms >= GREETING_MS_MAX {
                    self.silent("WELCOME", after_ms);
                }
            }
            State::Leaving { until, departure } => {
                let waiting = self.shaker.is_waiting() || self.claims.is_waiting();
                if !waiting || now >= *until {
                    let departure = departure.clone();
                    self.farewell(departure);
                }
            }
            State::Open(heartbeat) => match heartbeat.silence_ms(now) {
                Some(after_ms) => {
                    self.rhythm = heartbeat.handle_died();
                    self.silent("an answer", after_ms);
                }
                None => self.pump_requests(now),
            },
        }
    }

    fn pump_requests(&mut self, now: Timestamp) {
        let mut bytes = Vec::new();
        while let Some((packet, request_id)) = self.claims.poll(now, &mut self.request_ids) {
            let held = self.wallet.holding(packet).expect("a claim has its ticket in the wallet");
            put_open(&mut bytes, request_id, &held.ticket.encode());
        }
        if let Some(sending) = self.shaker.poll(now, &mut self.request_ids, &mut self.random) {
            // If it wins, this is where that is recorded.
            self.persist(Record::Home(Home::new(&self.route.1)));
            self.persist(Record::Pending(Some(sending.shake)));
            let shake = Shake {
                shake: sending.shake,
                campaign: self.config.campaign,
                merged_count: sending.merged_count,
                resend: sending.resend,
            };
            shake.put(&mut bytes, sending.request_id);
        }
        let State::Open(heartbeat) = &mut self.state else { return };
        let ping = bytes.is_empty() && heartbeat.is_ping_due(now);
        if ping {
            put_empty(&mut bytes, kind::PING, self.request_ids.next());
        }
        if !bytes.is_empty() {
            heartbeat.handle_sent(now, ping);
            self.outputs.push_back(Output::Transmit(bytes));
        }
    }

    /// The server asked us to leave: answers in flight get a moment.
    fn leave(&mut self, now: Timestamp, departure: Departure) {
        self.state = State::Leaving { until: now.plus_ms(LEAVING_MS_MAX), departure };
        self.pump(now);
    }

    /// Says BYE and departs.
    fn farewell(&mut self, departure: Departure) {
        if !matches!(self.state, State::Offline) {
            let mut bytes = Vec::new();
            put_empty(&mut bytes, kind::BYE, 0);
            self.outputs.push_back(Output::Transmit(bytes));
            self.depart(departure);
        }
    }

    fn silent(&mut self, waiting_for: &'static str, after_ms: u64) {
        let error = Error::Silent { waiting_for, after_ms };
        self.depart(Departure { error, retry: Retry::BackOff, endpoints: Vec::new() });
    }

    fn fail(&mut self, error: ProtocolError) {
        let error = Error::Protocol(error);
        self.depart(Departure { error, retry: Retry::BackOff, endpoints: Vec::new() });
    }

    fn depart(&mut self, departure: Departure) {
        if !matches!(self.state, State::Offline) {
            self.state = State::Offline;
            if departure.retry == Retry::Reauthenticate {
                self.persist(Record::Reconnect(None));
            }
            self.shaker.handle_disconnected();
            self.claims.handle_disconnected();
            self.outputs.push_back(Output::Disconnect(departure));
        }
    }

    /// Applies a record and hands it to the store, unless it changes nothing. Says whether it did.
    fn persist(&mut self, record: Record) -> bool {
        let changed = self.wallet.apply(&record).expect("checked before it is persisted");
        if changed {
            self.outputs.push_back(Output::Persist(record));
        }
        changed
    }

    fn tell(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }

    fn refuse_for_good(&mut self, packet: PacketId, code: ErrorCode) {
        self.claims.finish(packet);
        self.persist(Record::Refused { packet, code: code as u16 });
        self.tell(Event::OpenRefused { packet, code });
    }
}
