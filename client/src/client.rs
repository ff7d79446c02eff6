//! The app's handle on a client: configuration, and a few calls that never block. All state lives
//! in one task (`driver.rs`), so any of these futures may be dropped at any time.

use crate::{
    driver::{self, Command, Driver, Shakes},
    error::Error,
    limits::COMMANDS_MAX,
    link::trust::Trust,
    mailbox::{Events, mailbox},
    race::{NetworkKey, Networks},
    reconnect::{BackOff, Reconnect},
    session::{Session, SessionConfig},
    start::StartPlan,
    store::{MemoryStore, Store},
    wallet::Wallet,
};
use std::{fmt, net::IpAddr, pin::Pin, sync::Arc};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};
use yao_protocol::{
    CampaignId, UserId,
    endpoint::{Endpoint, Transports},
    ticket::Ticket,
};

/// A session token to come, or in words why there is none.
pub type TokenFuture = Pin<Box<dyn Future<Output = Result<String, String>> + Send>>;

/// Where session tokens come from: the app's own backend, in the end.
pub enum TokenSource {
    /// This one. When the server refuses it, and not for the tally beside it, the client stops.
    Fixed(String),
    /// Asked before the first connection and whenever the server wants a new one.
    Provider(Box<dyn FnMut() -> TokenFuture + Send>),
}

impl TokenSource {
    /// A provider from an async function.
    pub fn provider<Answer>(mut ask: impl FnMut() -> Answer + Send + 'static) -> Self
    where
        Answer: Future<Output = Result<String, String>> + Send + 'static,
    {
        Self::Provider(Box::new(move || Box::pin(ask())))
    }
}

impl fmt::Debug for TokenSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fixed(_) => "TokenSource::Fixed",
            Self::Provider(_) => "TokenSource::Provider",
        })
    }
}

/// What a client needs to know.
pub struct Config {
    /// Nodes to connect to, as [`yao_protocol::endpoint`] writes them ("tls+quic://host:port").
    /// Each user tries them in an order of his own.
    pub endpoints: Vec<String>,
    /// Who may certify nodes; needed for TLS and QUIC.
    pub trust: Option<Trust>,
    /// The campaign to take part in.
    pub campaign: CampaignId,
    /// The user, where the app knows the number: always tries the nodes in the same order, and
    /// comes at the same place of a [`StartPlan`]. `None` draws a new order each time.
    pub user: Option<UserId>,
    /// When to connect first; `None` is at once.
    pub start: Option<StartPlan>,
    /// The network that the device is on; see [`Client::network_changed`].
    pub network: NetworkKey,
    /// Where session tokens come from.
    pub token: TokenSource,
    /// Where tickets and receipts are kept. One store per user and campaign.
    pub store: Box<dyn Store>,
    /// Whether every win is opened at once, without [`Client::open`]. Default: no.
    pub open_automatically: bool,
    /// Version of the app, told to the server: major << 16 | minor.
    pub software: u32,
    /// How long to wait between attempts when the server says nothing about it.
    pub back_off: BackOff,
    /// The local address to connect from; load tests spread themselves over many.
    pub local_address: Option<IpAddr>,
    /// Events that wait for the app; when it does not read them, passing states are dropped.
    pub events_max: usize,
}

impl Config {
    /// A configuration with a store in memory and everything else at its default.
    #[must_use]
    pub fn new(endpoints: Vec<String>, campaign: CampaignId, token: TokenSource) -> Self {
        Self {
            endpoints,
            trust: None,
            campaign,
            user: None,
            start: None,
            network: NetworkKey::default(),
            token,
            store: Box::<MemoryStore>::default(),
            open_automatically: false,
            software: 0,
            back_off: BackOff::default(),
            local_address: None,
            events_max: 32,
        }
    }

    /// The endpoints, once they and what they need are in order.
    fn checked_endpoints(&self) -> Result<Vec<Endpoint>, Error> {
        let parsed: Result<Vec<Endpoint>, _> =
            self.endpoints.iter().map(|text| text.parse()).collect();
        let endpoints = parsed.ok().filter(|endpoints| !endpoints.is_empty()).ok_or({
            Error::Config("endpoints must be a list of at least one \"scheme://host:port\"")
        })?;
        let encrypted = |endpoint: &Endpoint| endpoint.transports != Transports::Tcp;
        if self.trust.is_none() && endpoints.iter().any(encrypted) {
            return Err(Error::Config("an endpoint wants TLS or QUIC: set `trust`"));
        }
        Ok(endpoints)
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("endpoints", &self.endpoints)
            .field("campaign", &self.campaign)
            .field("token", &self.token)
            .field("open_automatically", &self.open_automatically)
            .finish_non_exhaustive()
    }
}

/// A running client. Clones speak to the same one; it ends when the last is dropped.
#[derive(Clone, Debug)]
pub struct Client {
    commands: mpsc::Sender<Command>,
    shakes: Arc<Shakes>,
}

impl Client {
    /// Starts a client as one task of the current tokio runtime. It connects, reconnects and keeps
    /// what is won by itself; [`Events`] tells what happens.
    ///
    /// # Errors
    /// A configuration that cannot work, a store that cannot be read.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn connect(config: Config) -> Result<(Self, Events), Error> {
        Self::start(config).map(|(client, events, _)| (client, events))
    }

    /// As [`Client::connect`], and gives the task, too.
    pub(crate) fn start(mut config: Config) -> Result<(Self, Events, JoinHandle<()>), Error> {
        let endpoints = config.checked_endpoints()?;
        let user = match config.user {
            Some(user) => user.0,
            None => seed()?,
        };
        let wallet = config.store.load()?;
        let session = SessionConfig {
            campaign: config.campaign,
            software: config.software,
            open_automatically: config.open_automatically,
            seed: seed()?,
        };
        let mut reconnect = Reconnect::new(endpoints, config.back_off, user, seed()?);
        if let Some(home) = wallet.home().filter(|_| wallet.pending().is_some()) {
            reconnect.return_to(home.endpoint());
        }
        let (sender, commands) = mpsc::channel(COMMANDS_MAX);
        let shakes = Arc::<Shakes>::default();
        let (mailbox, events) = mailbox(config.events_max);
        let driver = Driver::new(driver::Parts {
            session: Session::new(session, wallet),
            reconnect,
            start: config.start.map(|plan| (plan, user)),
            networks: Networks::new(config.network),
            trust: config.trust,
            token: config.token,
            store: config.store,
            local_address: config.local_address,
            commands,
            shakes: Arc::clone(&shakes),
            mailbox,
        });
        let task = tokio::spawn(driver.run());
        Ok((Self { commands: sender, shakes }, events, task))
    }

    /// The user shook. Any number of calls in an interval become one request.
    pub fn shake(&self) {
        self.shakes.add();
    }

    /// Opens a ticket. Returns when the client has taken charge of it, which the store knows then:
    /// from then on it is sent until the server answers, over all reconnections and lives of the
    /// app; [`crate::Event::Opened`] tells the end.
    ///
    /// # Errors
    /// A ticket of another campaign; a client that has ended, or that ends because its store fails.
    pub async fn open(&self, ticket: Ticket) -> Result<(), Error> {
        let (answer, answered) = oneshot::channel();
        self.ask(Command::Open(Box::new(ticket), answer)).await?;
        answered.await.map_err(|_| Error::Closed)?
    }

    /// What the user holds: tickets, receipts, tally.
    ///
    /// # Errors
    /// A client that has ended.
    pub async fn wallet(&self) -> Result<Wallet, Error> {
        let (answer, answered) = oneshot::channel();
        self.ask(Command::Wallet(answer)).await?;
        answered.await.map_err(|_| Error::Closed)
    }

    /// The user looks at the app: finds out at once whether the connection still lives, and does
    /// not wait any longer to make a new one.
    pub async fn foreground(&self) {
        self.tell(Command::Foreground).await;
    }

    /// The app is out of sight: the connection may rest as long as the network bears it.
    pub async fn background(&self) {
        self.tell(Command::Background).await;
    }

    /// The device is on another network, or has got one again. A QUIC connection goes on there,
    /// others are checked at once. What was learned about the network comes back with its key.
    /// An address that [`Client::moved_to`] chose for the last network is not used any more.
    pub async fn network_changed(&self, network: impl Into<NetworkKey>) {
        self.tell(Command::NetworkChanged(network.into(), None)).await;
    }

    /// As [`Client::network_changed`], and connections go out from `local` until the network
    /// changes again: a device with several addresses chooses by which to speak.
    pub async fn moved_to(&self, network: impl Into<NetworkKey>, local: IpAddr) {
        self.tell(Command::NetworkChanged(network.into(), Some(local))).await;
    }

    /// Leaves: says goodbye to the server and waits until the client has ended. Its store is free
    /// then, also when events still wait to be read.
    pub async fn close(&self) {
        // An error means that it has ended already.
        if self.ask(Command::Close).await.is_ok() {
            self.commands.closed().await;
        }
    }

    /// A hint: a client that has ended needs none.
    async fn tell(&self, command: Command) {
        drop(self.ask(command).await);
    }

    async fn ask(&self, command: Command) -> Result<(), Error> {
        self.commands.send(command).await.map_err(|_| Error::Closed)
    }
}

/// 64 bits from the operating system.
fn seed() -> Result<u64, Error> {
    getrandom::u64().map_err(|_| Error::Config("the operating system gives no random numbers"))
}
