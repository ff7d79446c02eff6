//! The task behind a [`crate::Client`]: gives the session bytes, time and commands, and works off
//! what it answers, in order. Decides nothing itself. The only file that reads a clock.

use crate::{
    client::TokenSource,
    error::{Error, LinkError, StoreError},
    event::Event,
    limits::{FAREWELL_MS_MAX, SALVAGE_MS_MAX, TOKEN_MS_MAX},
    link::{Link, dial::dial, trust::Trust},
    mailbox::Mailbox,
    race::{NetworkKey, Networks},
    reconnect::{Attempt, Reconnect, Retry},
    session::{Departure, Output, Session},
    start::StartPlan,
    store::Store,
    time::Timestamp,
    wait::Wait,
    wallet::{Record, Wallet},
};
use std::{
    convert::Infallible,
    net::IpAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, SystemTime},
};
use tokio::{
    sync::{Notify, mpsc, oneshot},
    time::{Instant, sleep_until, timeout},
};
use yao_protocol::{WallTime, ticket::Ticket};

/// What the app asks.
#[derive(Debug)]
pub(crate) enum Command {
    Open(Box<Ticket>, oneshot::Sender<Result<(), Error>>),
    Wallet(oneshot::Sender<Wallet>),
    Foreground,
    Background,
    /// And the local address to use there, if the app chose one.
    NetworkChanged(NetworkKey, Option<IpAddr>),
    Close,
}

/// What a command changes for somebody who waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stir {
    Nothing,
    /// There is reason to try again soon.
    Hurry,
    /// What is under way was begun on another network.
    StartOver,
}

/// Shakes that the task has not seen yet. A counter, not a queue: it cannot be full.
#[derive(Debug, Default)]
pub(crate) struct Shakes {
    count: AtomicU32,
    wake: Notify,
}

impl Shakes {
    pub(crate) fn add(&self) {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.wake.notify_one();
    }

    fn take(&self) -> u32 {
        self.count.swap(0, Ordering::Relaxed)
    }
}

/// What a driver is made of.
pub(crate) struct Parts {
    pub(crate) session: Session,
    pub(crate) reconnect: Reconnect,
    /// The plan of the event and the user who comes by it.
    pub(crate) start: Option<(StartPlan, u64)>,
    pub(crate) networks: Networks,
    pub(crate) trust: Option<Trust>,
    pub(crate) token: TokenSource,
    pub(crate) store: Box<dyn Store>,
    pub(crate) local_address: Option<IpAddr>,
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) shakes: Arc<Shakes>,
    pub(crate) mailbox: Mailbox,
}

/// See the module.
pub(crate) struct Driver {
    session: Session,
    reconnect: Reconnect,
    start: Option<(StartPlan, u64)>,
    /// The device's clock.
    wall_time: fn() -> WallTime,
    networks: Networks,
    trust: Option<Trust>,
    token: TokenSource,
    /// The token in use; `None` until the provider was asked, and when it must be asked again.
    token_current: Option<String>,
    /// `None` only while a durable record is being flushed on another thread.
    store: Option<Box<dyn Store>>,
    local_address: Option<IpAddr>,
    /// The one of the configuration: what the app chose for one network means nothing on the next.
    local_address_configured: Option<IpAddr>,
    commands: mpsc::Receiver<Command>,
    shakes: Arc<Shakes>,
    mailbox: Mailbox,
    link: Option<Link>,
    /// When `link` was made.
    link_since: Timestamp,
    /// Who asked for an open that the session has taken in charge and the store not yet.
    opens_taken: Vec<oneshot::Sender<Result<(), Error>>>,
    started: Instant,
}

/// What is left after the session's outputs were worked off.
enum Settled {
    Sleep(Option<Timestamp>),
    Departed(Departure),
}

impl Driver {
    pub(crate) fn new(parts: Parts) -> Self {
        Self {
            session: parts.session,
            reconnect: parts.reconnect,
            start: parts.start,
            wall_time,
            networks: parts.networks,
            trust: parts.trust,
            token: parts.token,
            token_current: None,
            store: Some(parts.store),
            local_address: parts.local_address,
            local_address_configured: parts.local_address,
            commands: parts.commands,
            shakes: parts.shakes,
            mailbox: parts.mailbox,
            link: None,
            link_since: Timestamp::ZERO,
            opens_taken: Vec::new(),
            started: Instant::now(),
        }
    }

    /// Lives until the app, the server or an error ends it, and says which.
    pub(crate) async fn run(mut self) {
        let error = match self.live().await {
            Err(error) => error,
            Ok(never) => match never {},
        };
        let Self { mailbox, commands, link, store, opens_taken, .. } = self;
        drop(link);
        for answer in opens_taken {
            // What the store did not take is not in charge of anybody.
            drop(answer.send(Err(error.clone())));
        }
        // Whoever was told that the client has ended may open its wallet again, also while the
        // last events still wait for the app.
        drop(store);
        // `Client::close` waits for this.
        drop(commands);
        mailbox.finish(Event::Stopped(error)).await;
    }

    async fn live(&mut self) -> Result<Infallible, Error> {
        let wall = (self.wall_time)();
        let planned_ms = self.start.and_then(|(plan, user)| plan.wait_ms(wall, user));
        let mut attempt = self.reconnect.start(self.now(), planned_ms);
        let mut wait = match self.start {
            Some((plan, user)) if planned_ms.is_some() => Wait::until(plan.come_at(user)),
            _ => Wait::between(self.now(), wall, attempt.at),
        };
        loop {
            self.wait(wait, &mut attempt).await?;
            if attempt.token_must_be_new {
                self.token_current = None;
            }
            let departure = match self.connect(attempt.token_must_be_new).await? {
                Ok(token) => self.serve(&token).await?,
                Err(departure) => departure,
            };
            let now = self.now();
            let Departure { error, retry, endpoints } = self.judge(departure);
            match self.reconnect.handle_end(now, retry, &endpoints) {
                None => return Err(error),
                Some(next) => attempt = next,
            }
            wait = Wait::between(now, (self.wall_time)(), attempt.at);
            let retry_ms = attempt.at.ms_since(now);
            self.mailbox.push(Event::Disconnected { error, retry_ms });
        }
    }

    /// Gets a token and a link. The inner error is worth another attempt.
    async fn connect(&mut self, renew: bool) -> Result<Result<String, Departure>, Error> {
        let token = match (&self.token_current, &mut self.token) {
            (Some(token), _) => token.clone(),
            (None, TokenSource::Fixed(_)) if renew && !self.session.may_tally_be_at_fault() => {
                return Err(Error::TokenRefused);
            }
            (None, TokenSource::Fixed(token)) => token.clone(),
            // The app's backend is asked only when its word is needed.
            (None, TokenSource::Provider(_)) if !renew && !self.session.needs_token() => {
                return Ok(self.dial().await?.map(|()| String::new()));
            }
            (None, TokenSource::Provider(ask)) => {
                let answer = timeout(Duration::from_millis(TOKEN_MS_MAX), ask());
                match self.meanwhile(answer).await? {
                    Ok(Ok(token)) => token,
                    Ok(Err(reason)) => return Ok(Err(token_failure(reason))),
                    Err(_) => return Ok(Err(token_failure("it took too long".to_owned()))),
                }
            }
        };
        self.token_current = Some(token.clone());
        Ok(self.dial().await?.map(|()| token))
    }

    /// Gets a link. The inner error is worth another attempt.
    async fn dial(&mut self) -> Result<Result<(), Departure>, Error> {
        let endpoint = self.reconnect.endpoint().clone();
        let order = self.networks.order(self.now(), endpoint.transports);
        let (local_address, trust) = (self.local_address, self.trust.clone());
        let mut dialing = pin!(dial(order, &endpoint, local_address, trust.as_ref()));
        let dialed = loop {
            match self.undisturbed(&mut dialing).await? {
                Ok(dialed) => break dialed,
                Err(Stir::StartOver) => break Err(LinkError::NetworkChanged),
                Err(Stir::Nothing | Stir::Hurry) => {}
            }
        };
        let now = self.now();
        match dialed {
            Ok(link) => {
                self.networks.handle_won(now, order, link.transport());
                self.session.handle_route(link.transport(), endpoint.to_string());
                self.link = Some(link);
                self.link_since = now;
                Ok(Ok(()))
            }
            Err(reason) => {
                if reason != LinkError::NetworkChanged {
                    self.networks.handle_lost(order);
                }
                Ok(Err(self.broken(reason)))
            }
        }
    }

    /// One connection, from HELLO to its end.
    async fn serve(&mut self, token: &str) -> Result<Departure, Error> {
        self.session.handle_connected(self.now(), token)?;
        loop {
            let sleep_to = match self.settle().await? {
                Settled::Sleep(at) => at,
                Settled::Departed(departure) => {
                    self.learn(&departure);
                    self.part().await;
                    return Ok(departure);
                }
            };
            let wake_at = sleep_to.map(|at| self.instant(at));
            let link = self.link.as_mut().expect("the session has a connection until it departs");
            let flushed = link.flush();
            if let Err(reason) = flushed {
                self.handle_broken(reason).await;
                continue;
            }
            tokio::select! {
                progress = link.progress() => self.handle_progress(progress).await,
                () = self.shakes.wake.notified() => {
                    self.hear(wake_at).await;
                    let now = self.now();
                    self.session.handle_shake(now, self.shakes.take());
                }
                () = sleep_or_forever(wake_at) => {
                    self.hear(wake_at).await;
                    self.session.handle_timeout(self.now());
                }
                command = self.commands.recv() => {
                    // Whoever leaves does so in a session that has not ended, and hears no more.
                    if !matches!(command, Some(Command::Close) | None) {
                        self.hear(wake_at).await;
                    }
                    self.handle_command(command)?;
                }
                () = self.mailbox.deliver() => {}
            }
        }
    }

    /// What has arrived in a device that was busy or asleep counts before a deadline that passed
    /// meanwhile, whatever woke the task.
    async fn hear(&mut self, deadline: Option<Instant>) {
        if deadline.is_none_or(|at| Instant::now() < at) {
            return;
        }
        // The runtime slept as well: it asks the network before this goes on.
        tokio::task::yield_now().await;
        let link = self.link.as_mut().expect("the session has a connection until it departs");
        tokio::select! {
            biased;
            progress = link.progress() => self.handle_progress(progress).await,
            () = std::future::ready(()) => {}
        }
    }

    /// Waits until the attempt is due, or sooner when there is reason to hurry.
    async fn wait(&mut self, mut wait: Wait, attempt: &mut Attempt) -> Result<(), Error> {
        loop {
            let (now, wall) = (self.now(), (self.wall_time)());
            let spread_ms = self.reconnect.spread_ms();
            let Some(look_at) = wait.look(now, wall, &mut attempt.at, spread_ms) else {
                return Ok(());
            };
            let slept = self.undisturbed(sleep_until(self.instant(look_at))).await?;
            if slept.is_err() {
                let now = self.now();
                self.reconnect.hurry(now, attempt);
            }
        }
    }

    /// Waits for `future` while there is no connection, and goes on serving the app.
    async fn meanwhile<Answer>(
        &mut self,
        future: impl Future<Output = Answer>,
    ) -> Result<Answer, Error> {
        let mut future = pin!(future);
        loop {
            if let Ok(answer) = self.undisturbed(&mut future).await? {
                return Ok(answer);
            }
        }
    }

    /// As [`Driver::meanwhile`], but comes back with every command of the app that may change
    /// what to wait for.
    async fn undisturbed<Answer>(
        &mut self,
        future: impl Future<Output = Answer>,
    ) -> Result<Result<Answer, Stir>, Error> {
        let mut future = pin!(future);
        loop {
            let mut stir = Stir::Nothing;
            tokio::select! {
                answer = &mut future => return Ok(Ok(answer)),
                command = self.commands.recv() => stir = self.handle_command(command)?,
                () = self.mailbox.deliver() => {}
            }
            match self.settle().await? {
                Settled::Sleep(None) => {}
                Settled::Sleep(Some(_)) | Settled::Departed(_) => {
                    unreachable!("a session without a connection waits for nothing")
                }
            }
            if stir != Stir::Nothing {
                return Ok(Err(stir));
            }
        }
    }

    /// Works off what the session wants done. Only then an open is in charge of the client: it is
    /// in the store, and outlives this process.
    async fn settle(&mut self) -> Result<Settled, Error> {
        let settled = self.work_off().await?;
        for answer in self.opens_taken.drain(..) {
            // An app that no longer waits for the answer has still opened the ticket.
            drop(answer.send(Ok(())));
        }
        Ok(settled)
    }

    /// Does what the session wants done, in its order.
    async fn work_off(&mut self) -> Result<Settled, Error> {
        loop {
            match self.session.poll() {
                Output::Persist(record) => self.persist(record).await?,
                Output::Event(event) => self.mailbox.push(event),
                Output::Welcome(endpoints) => {
                    let now = self.now();
                    self.reconnect.handle_welcome(now, &endpoints);
                    self.session.set_elsewhere_known(self.reconnect.knows_others());
                }
                Output::Transmit(bytes) => {
                    let link = self.link.as_mut().expect("the session has a connection");
                    if let Err(reason) = link.queue(&bytes) {
                        self.handle_broken(reason).await;
                    }
                }
                Output::Disconnect(departure) => return Ok(Settled::Departed(departure)),
                Output::SleepUntil { at } => return Ok(Settled::Sleep(at)),
            }
        }
    }

    async fn persist(&mut self, record: Record) -> Result<(), Error> {
        let mut store = self.store.take().expect("the store is here between records");
        let result;
        if store.waits_for_disk() && record.must_be_durable() {
            let flushing = tokio::task::spawn_blocking(move || {
                let result = store.append(&record);
                (store, result)
            });
            (store, result) = flushing.await.map_err(|error| StoreError::Io {
                action: "appending to",
                path: "the store".to_owned(),
                message: error.to_string(),
            })?;
        } else {
            result = store.append(&record);
        }
        self.store = Some(store);
        Ok(result?)
    }

    async fn handle_progress(&mut self, progress: Result<(), LinkError>) {
        if self.take_frames()
            && let Err(reason) = progress
        {
            self.handle_broken(reason).await;
        }
    }

    /// Gives the session what has arrived. False when it cannot be read.
    fn take_frames(&mut self) -> bool {
        let now = self.now();
        let link = self.link.as_mut().expect("the session has a connection");
        loop {
            match link.next_frame() {
                Ok(Some(frame)) => self.session.handle_frame(now, frame),
                Ok(None) => return true,
                Err(error) => {
                    self.session.handle_malformed(error);
                    return false;
                }
            }
        }
    }

    /// The server's last word may lie unread where a write found the connection broken: a client
    /// that was replaced and does not hear it would come back and replace the other.
    async fn handle_broken(&mut self, reason: LinkError) {
        let Departure { error, .. } = self.broken(reason);
        let rest = async {
            while self.take_frames() {
                let link = self.link.as_mut().expect("the session has a connection");
                if !link.salvage().await {
                    break;
                }
            }
        };
        // Whatever did not come in time is lost, as with every broken connection.
        drop(timeout(Duration::from_millis(SALVAGE_MS_MAX), rest).await);
        self.session.handle_disconnected(error);
    }

    fn broken(&self, reason: LinkError) -> Departure {
        let endpoint = self.reconnect.endpoint().to_string();
        let retry = match reason {
            LinkError::NetworkChanged => Retry::NetworkChanged,
            _ => Retry::BackOff,
        };
        let error = Error::Link { endpoint, reason };
        Departure { error, retry, endpoints: Vec::new() }
    }

    /// Where a win may be recorded (M6), what is no fault of the node is not counted against it.
    fn judge(&self, departure: Departure) -> Departure {
        match &departure.error {
            Error::Link { reason, .. }
                if departure.retry == Retry::BackOff
                    && reason.is_own()
                    && self.session.wallet().pending().is_some() =>
            {
                Departure { retry: Retry::NoRoute, ..departure }
            }
            _ => departure,
        }
    }

    /// What the end of a connection says about the network.
    fn learn(&mut self, departure: &Departure) {
        let Some(link) = &self.link else { return };
        let now = self.now();
        let silently = match departure.error {
            Error::Link { reason: LinkError::Silent(_), .. } => true,
            // A node that has much to do lets people wait, too, while the network carries all.
            Error::Silent { .. } => link.is_unheard(),
            _ => false,
        };
        let lasted_ms = now.ms_since(self.link_since);
        self.networks.handle_end(now, link.transport(), lasted_ms, silently);
    }

    /// `None` is the last handle being dropped.
    fn handle_command(&mut self, command: Option<Command>) -> Result<Stir, Error> {
        let now = self.now();
        match command {
            Some(Command::Open(ticket, answer)) => {
                match self.session.handle_open(now, *ticket) {
                    Ok(()) => self.opens_taken.push(answer),
                    // Nobody may be waiting for it any more.
                    Err(error) => drop(answer.send(Err(error))),
                }
                Ok(Stir::Nothing)
            }
            Some(Command::Wallet(answer)) => {
                drop(answer.send(self.session.wallet().clone()));
                Ok(Stir::Nothing)
            }
            Some(Command::Foreground) => {
                self.session.handle_foreground(now);
                Ok(Stir::Hurry)
            }
            Some(Command::Background) => {
                self.session.handle_background();
                Ok(Stir::Nothing)
            }
            Some(Command::NetworkChanged(network, local_address)) => {
                self.local_address = local_address.or(self.local_address_configured);
                self.networks.learn_rhythm(self.session.rhythm());
                self.networks.change(network);
                self.session.set_rhythm(self.networks.rhythm());
                if let Some(link) = &mut self.link {
                    // A link that cannot go on there is found out by the answer.
                    link.rebind(self.local_address);
                }
                self.session.handle_doubt(now);
                Ok(Stir::StartOver)
            }
            Some(Command::Close) | None if self.link.is_none() => Err(Error::Closed),
            Some(Command::Close) | None => {
                self.session.handle_close();
                Ok(Stir::Nothing)
            }
        }
    }

    /// Sends what is queued, BYE among it, and closes.
    async fn part(&mut self) {
        if let Some(mut link) = self.link.take() {
            let limit = Duration::from_millis(FAREWELL_MS_MAX);
            // The connection may be broken already; it ends either way.
            drop(timeout(limit, link.finish()).await);
        }
    }

    fn now(&self) -> Timestamp {
        let ms = self.started.elapsed().as_millis();
        Timestamp::from_ms(u64::try_from(ms).expect("no client lives 500 million years"))
    }

    fn instant(&self, at: Timestamp) -> Instant {
        self.started + Duration::from_millis(at.ms())
    }
}

async fn sleep_or_forever(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// By the device's clock, which may be wrong: good for plans in minutes, and nothing else.
fn wall_time() -> WallTime {
    let since = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    WallTime(u64::try_from(since.as_micros()).expect("half a million years"))
}

fn token_failure(reason: String) -> Departure {
    Departure { error: Error::Token(reason), retry: Retry::NoToken, endpoints: Vec::new() }
}

#[cfg(test)]
mod tests;
