//! The client for programs without an async runtime: the same one, on a thread of its own, with
//! calls that wait. Adds no rule.

use crate::{Config, Error, Event, NetworkKey, wallet::Wallet};
use std::{net::IpAddr, sync::Arc, thread, time::Duration};
use tokio::runtime::{Builder, Runtime};
use yao_protocol::ticket::Ticket;

/// A running client. Clones speak to the same one; it ends when the last is dropped, but only
/// [`Client::close`] waits until it has said goodbye.
///
/// Not for use inside an async runtime, where its calls panic.
#[derive(Clone, Debug)]
pub struct Client {
    client: crate::Client,
    runtime: Arc<Runtime>,
}

/// What happened, in order. May live in another thread than the handle.
#[derive(Debug)]
pub struct Events {
    events: crate::Events,
    runtime: Arc<Runtime>,
}

impl Client {
    /// Starts a client; see [`crate::Client::connect`].
    ///
    /// # Errors
    /// A configuration that cannot work, a store that cannot be read, a system without room for a
    /// thread.
    pub fn connect(config: Config) -> Result<(Self, Events), Error> {
        let no_thread = |_| Error::Config("the system gives no thread to run the client");
        let runtime = Builder::new_current_thread().enable_all().build().map_err(no_thread)?;
        let runtime = Arc::new(runtime);
        let inside = runtime.enter();
        let (client, events, task) = crate::Client::start(config)?;
        drop(inside);
        let lent = Arc::clone(&runtime);
        // A task that panics was told where it did; the handles find the client ended.
        let work = move || drop(lent.block_on(task));
        thread::Builder::new().name("yao-client".to_owned()).spawn(work).map_err(no_thread)?;
        Ok((Self { client, runtime: Arc::clone(&runtime) }, Events { events, runtime }))
    }

    /// The user shook; never waits. See [`crate::Client::shake`].
    pub fn shake(&self) {
        self.client.shake();
    }

    /// Opens a ticket; see [`crate::Client::open`].
    ///
    /// # Errors
    /// A ticket of another campaign; a client that has ended.
    pub fn open(&self, ticket: Ticket) -> Result<(), Error> {
        self.wait(self.client.open(ticket))
    }

    /// What the user holds; see [`crate::Client::wallet`].
    ///
    /// # Errors
    /// A client that has ended.
    pub fn wallet(&self) -> Result<Wallet, Error> {
        self.wait(self.client.wallet())
    }

    /// The user looks at the app; see [`crate::Client::foreground`].
    pub fn foreground(&self) {
        self.wait(self.client.foreground());
    }

    /// The app is out of sight; see [`crate::Client::background`].
    pub fn background(&self) {
        self.wait(self.client.background());
    }

    /// The device is on another network; see [`crate::Client::network_changed`].
    pub fn network_changed(&self, network: impl Into<NetworkKey>) {
        self.wait(self.client.network_changed(network));
    }

    /// The same, and which address to speak by; see [`crate::Client::moved_to`].
    pub fn moved_to(&self, network: impl Into<NetworkKey>, local: IpAddr) {
        self.wait(self.client.moved_to(network, local));
    }

    /// Leaves and waits until the client has ended; see [`crate::Client::close`].
    pub fn close(&self) {
        self.wait(self.client.close());
    }

    fn wait<Answer>(&self, future: impl Future<Output = Answer>) -> Answer {
        self.runtime.block_on(future)
    }
}

impl Events {
    /// Waits for the next event; `None` after [`Event::Stopped`].
    pub fn wait_next(&mut self) -> Option<Event> {
        self.runtime.block_on(self.events.next())
    }

    /// Waits for the next event, but not longer than `limit`; `None` when none came, or when
    /// [`Event::Stopped`] came before.
    pub fn wait_next_for(&mut self, limit: Duration) -> Option<Event> {
        let next = self.events.next();
        self.runtime.block_on(async { tokio::time::timeout(limit, next).await.ok().flatten() })
    }
}

impl Iterator for Events {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        self.wait_next()
    }
}
