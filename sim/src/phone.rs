//! A user's phone: the SDK's session, wallet and plan of attempts, and a disk that forgets what was
//! not flushed when the app is killed. The glue stands for `client/src/driver.rs`.

use yao_client::{
    Error, Event, Timestamp, Transport,
    error::LinkError,
    reconnect::{Attempt, BackOff, Reconnect, Retry},
    session::{Departure, Output, Session, SessionConfig},
    wallet::{Outcome, Record, Wallet},
};
use yao_protocol::{
    CampaignId, PacketId, UserId,
    client::{ErrorCode, GoAwayReason},
    endpoint::Endpoint,
    frame::split_frame,
    limits::CLIENT_PAYLOAD_BYTES_MAX,
    ticket::Ticket,
};

/// How a cheater cheats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cheat {
    /// Comes back without a tally.
    NoTally,
    /// Comes back with its first tally.
    OldTally,
    /// Shares its user with another phone.
    Fork,
    /// Comes back at another node, without a tally.
    Hop,
    /// Opens its tickets again, here and elsewhere.
    OpenTwice,
    /// Opens the tickets of others.
    OpenOthers,
}

/// What a phone wants of the world.
#[derive(Debug)]
pub enum Act {
    /// Send these bytes.
    Transmit(Vec<u8>),
    /// Close the connection.
    Close,
    /// Connect to this node then, ms.
    Dial(u64),
    /// It won.
    Won(Ticket),
    /// Its open was acknowledged.
    Opened(PacketId),
    /// Its open was refused for good.
    Refused(PacketId, ErrorCode),
    /// It was asked to leave, for this reason.
    ToldToLeave(GoAwayReason),
    /// It will do nothing any more.
    Stopped,
}

/// A phone.
pub struct Phone {
    /// Whose.
    pub user: UserId,
    /// How he cheats.
    pub cheat: Option<Cheat>,
    /// The link that it has, or is dialing.
    pub link: Option<usize>,
    /// Nothing more comes of it.
    pub stopped: bool,
    /// When the session wants to be woken, ms.
    pub wake_at: Option<u64>,
    /// When the world will wake it, ns.
    pub woken_at: Option<u64>,
    session: Session,
    reconnect: Reconnect,
    config: SessionConfig,
    token: &'static str,
    /// Everything that was stored, in order; the first `flushed` of it survive.
    records: Vec<Record>,
    flushed: usize,
    incoming: Vec<u8>,
    acts: Vec<Act>,
}

impl Phone {
    /// A phone with an empty wallet that knows these nodes.
    #[must_use]
    pub fn new(
        (user, token): (UserId, &'static str),
        campaign: CampaignId,
        nodes: usize,
        cheat: Option<Cheat>,
        seed: u64,
    ) -> Self {
        let endpoints: Vec<Endpoint> = (0..nodes)
            .map(|node| format!("tcp://node-{node}:1").parse().expect("an endpoint"))
            .collect();
        let config = SessionConfig { campaign, software: 1, open_automatically: true, seed };
        Self {
            user,
            cheat,
            link: None,
            stopped: false,
            wake_at: None,
            woken_at: None,
            session: Session::new(config.clone(), Wallet::default()),
            reconnect: Reconnect::new(endpoints, BackOff::default(), user.0, seed ^ 1),
            config,
            token,
            records: Vec::new(),
            flushed: 0,
            incoming: Vec::new(),
            acts: Vec::new(),
        }
    }

    /// What the world must do since the last call.
    pub fn take_acts(&mut self) -> Vec<Act> {
        std::mem::take(&mut self.acts)
    }

    /// What the user holds.
    #[must_use]
    pub const fn wallet(&self) -> &Wallet {
        self.session.wallet()
    }

    /// Whether nothing that he holds waits for anything.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        let opened = |held: &yao_client::wallet::Holding| held.outcome != Outcome::Unopened;
        self.wallet().holdings().iter().all(opened) && self.wallet().pending().is_none()
    }

    /// What it waits for, for people.
    #[must_use]
    pub fn waits_for(&self) -> String {
        let holdings = self.wallet().holdings().iter();
        let open = holdings.filter(|held| held.outcome == Outcome::Unopened);
        let packets: Vec<PacketId> = open.map(|held| held.ticket.body.packet).collect();
        let (pending, stopped) = (self.wallet().pending(), self.stopped);
        format!("unopened {packets:?}, pending {pending:?}, stopped {stopped}")
    }

    /// The node that it dials next.
    #[must_use]
    pub fn node(&self) -> usize {
        let address = self.reconnect.endpoint().address();
        let digits = address.trim_start_matches("node-").split(':').next();
        digits.and_then(|digits| digits.parse().ok()).expect("one of the world's endpoints")
    }

    /// The app is opened: when it dials first, ms.
    pub fn begin(&mut self, now_ms: u64) {
        let attempt = self.reconnect.start(Timestamp::from_ms(now_ms), Some(0));
        self.dial(&attempt);
    }

    fn dial(&mut self, attempt: &Attempt) {
        self.acts.push(Act::Dial(attempt.at.ms()));
    }

    /// The connection is up.
    pub fn handle_connected(&mut self, now_ms: u64) {
        self.incoming.clear();
        let endpoint = self.reconnect.endpoint().to_string();
        self.session.handle_route(Transport::Tcp, endpoint);
        let connected = self.session.handle_connected(Timestamp::from_ms(now_ms), self.token);
        connected.expect("a token of the right length");
        self.settle(now_ms);
    }

    /// The user shook.
    pub fn shake(&mut self, now_ms: u64, count: u32) {
        self.session.handle_shake(Timestamp::from_ms(now_ms), count);
        self.settle(now_ms);
    }

    /// The user opens a ticket that came from elsewhere.
    pub fn open(&mut self, now_ms: u64, ticket: Ticket) {
        // Too many tickets, or one of another campaign: the app's fault, and no matter here.
        self.session.handle_open(Timestamp::from_ms(now_ms), ticket).ok();
        self.settle(now_ms);
    }

    /// The time that the session asked for has come.
    pub fn wake(&mut self, now_ms: u64) {
        self.session.handle_timeout(Timestamp::from_ms(now_ms));
        self.settle(now_ms);
    }

    /// Bytes came.
    pub fn receive(&mut self, now_ms: u64, bytes: &[u8]) {
        let now = Timestamp::from_ms(now_ms);
        let mut received = std::mem::take(&mut self.incoming);
        received.extend_from_slice(bytes);
        let mut rest = received.as_slice();
        loop {
            match split_frame(rest, CLIENT_PAYLOAD_BYTES_MAX) {
                Ok(Some((frame, behind))) => {
                    self.session.handle_frame(now, frame);
                    rest = behind;
                }
                Ok(None) => break,
                Err(error) => {
                    self.session.handle_malformed(error);
                    rest = &[];
                    break;
                }
            }
        }
        self.incoming = rest.to_vec();
        self.settle(now_ms);
    }

    /// The connection broke, or could not be made.
    pub fn handle_broken(&mut self, now_ms: u64, connected: bool) {
        let endpoint = self.reconnect.endpoint().to_string();
        let error = Error::Link { endpoint, reason: LinkError::Closed };
        if connected {
            self.session.handle_disconnected(error);
            self.settle(now_ms);
        } else {
            let departure = Departure { error, retry: Retry::BackOff, endpoints: Vec::new() };
            self.depart(now_ms, departure);
        }
    }

    fn depart(&mut self, now_ms: u64, departure: Departure) {
        let Departure { retry, endpoints, .. } = departure;
        let now = Timestamp::from_ms(now_ms);
        match self.reconnect.handle_end(now, retry, &endpoints) {
            Some(attempt) => self.dial(&attempt),
            None => {
                self.stopped = true;
                self.acts.push(Act::Stopped);
            }
        }
        if let Some(cheat) = self.cheat {
            self.doctor(cheat, now);
        }
    }

    /// A cheater changes its wallet before it comes back.
    fn doctor(&mut self, cheat: Cheat, now: Timestamp) {
        let kept = |record: &Record| match cheat {
            Cheat::NoTally | Cheat::Hop => !matches!(record, Record::Tally(_)),
            Cheat::OpenTwice => !matches!(record, Record::Receipt(_) | Record::Refused { .. }),
            Cheat::OldTally | Cheat::Fork | Cheat::OpenOthers => true,
        };
        let mut tallies = 0;
        let mut records: Vec<Record> = self.records.iter().filter(|it| kept(it)).copied().collect();
        if cheat == Cheat::OldTally {
            records.retain(|record| {
                tallies += u32::from(matches!(record, Record::Tally(_)));
                !matches!(record, Record::Tally(_)) || tallies == 1
            });
        }
        self.live_anew(&records);
        if cheat == Cheat::Hop {
            self.reconnect.handle_end(now, Retry::After { delay_ms: 1, jitter_ms: 0 }, &[]);
        }
    }

    /// The app is killed and opened again: how many of the unflushed records survive is the
    /// world's choice.
    pub fn kill(&mut self, now_ms: u64, survivors: usize) {
        let kept = (self.flushed + survivors).min(self.records.len());
        let records = self.records[..kept].to_vec();
        self.records.truncate(kept);
        self.live_anew(&records);
        self.incoming.clear();
        self.begin(now_ms);
    }

    /// Records beyond the last flush.
    #[must_use]
    pub const fn unflushed(&self) -> usize {
        self.records.len() - self.flushed
    }

    fn live_anew(&mut self, records: &[Record]) {
        let mut wallet = Wallet::default();
        for record in records {
            wallet.apply(record).expect("it was applied before");
        }
        // Another life has another seed: no shake id comes twice.
        self.config.seed = self.config.seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        self.session = Session::new(self.config.clone(), wallet);
        self.wake_at = None;
    }

    /// Works off what the session wants, in its order.
    fn settle(&mut self, now_ms: u64) {
        loop {
            match self.session.poll() {
                Output::Persist(record) => {
                    self.records.push(record);
                    if record.must_be_durable() {
                        self.flushed = self.records.len();
                    }
                }
                Output::Event(event) => self.note(event),
                Output::Welcome(endpoints) => {
                    self.reconnect.handle_welcome(Timestamp::from_ms(now_ms), &endpoints);
                }
                Output::Transmit(bytes) => self.acts.push(Act::Transmit(bytes)),
                Output::Disconnect(departure) => {
                    self.acts.push(Act::Close);
                    self.wake_at = None;
                    self.depart(now_ms, departure);
                    return;
                }
                Output::SleepUntil { at } => {
                    self.wake_at = at.map(Timestamp::ms);
                    return;
                }
            }
        }
    }

    fn note(&mut self, event: Event) {
        match event {
            Event::Won(ticket) => self.acts.push(Act::Won(*ticket)),
            Event::Opened(opened) => self.acts.push(Act::Opened(opened.receipt.packet)),
            Event::GoAway(reason) => self.acts.push(Act::ToldToLeave(reason)),
            Event::OpenRefused { packet, code } => self.acts.push(Act::Refused(packet, code)),
            _ => {}
        }
    }
}
