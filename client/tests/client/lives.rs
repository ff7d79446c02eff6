//! What a client leaves to its next life: opens and shakes that wait for their answer, and a wallet
//! that is free. Stores that are slow or full are here, too.

use crate::support::{
    CAMPAIGN, Door, PATIENCE, Peer, Seen, listen_by, put_receipt_of, stopped, ticket, until,
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};
use tokio::time::timeout;
use yao_client::{
    Client, Config, Error, Event, FileStore, MemoryStore, Store, TokenSource, Transport,
    error::StoreError,
    reconnect::BackOff,
    start::sort_endpoints,
    wallet::{Home, Record, Wallet},
};
use yao_protocol::{PacketId, ShakeId, UserId};

#[tokio::test]
async fn an_open_is_in_the_store_before_it_is_answered_and_outlives_the_app() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("wallet");
    let stored = Arc::new(AtomicU32::new(0));
    let (door, mut config) = listen_by(Transport::Tcp).await;
    let store = FileStore::open(&path, CAMPAIGN).expect("a new store");
    config.store = Box::new(SlowStore { store, stored: Arc::clone(&stored) });
    let (client, events) = Client::connect(config).expect("a good configuration");
    let old = ticket(3, ShakeId(1));
    client.open(old).await.expect("taken in charge");
    assert_eq!(stored.load(Ordering::Relaxed), 2, "the ticket, and that it is opened");
    // A copy of the file is what a killed process leaves.
    let left = folder.path().join("left");
    std::fs::copy(&path, &left).expect("copied");
    drop((client, events, door));

    let (door, mut config) = listen_by(Transport::Tcp).await;
    config.store = Box::new(FileStore::open(&left, CAMPAIGN).expect("opens"));
    let (client, mut events) = Client::connect(config).expect("a good configuration");
    let (mut peer, _) = Peer::welcome(&door, "token", 0).await;
    assert_eq!(peer.next().await, Seen::Open(old), "without being told again");
    peer.send(|out| put_receipt_of(out, PacketId(3))).await;
    let opened = until(&mut events, |event| match event {
        Event::Opened(opened) => Some(opened),
        _ => None,
    });
    assert_eq!(opened.await.receipt.packet, PacketId(3));
    assert!(!client.wallet().await.expect("it lives").holdings()[0].opening);
}

/// A disk that is full when it is flushed.
#[derive(Default)]
struct FullStore(MemoryStore);

impl Store for FullStore {
    fn load(&mut self) -> Result<Wallet, StoreError> {
        self.0.load()
    }

    fn append(&mut self, record: &Record) -> Result<(), StoreError> {
        if record.must_be_durable() { Err(disk_full()) } else { self.0.append(record) }
    }

    fn waits_for_disk(&self) -> bool {
        true
    }
}

fn disk_full() -> StoreError {
    let (path, message) = ("wallet".to_owned(), "no space".to_owned());
    StoreError::Io { action: "writing", path, message }
}

#[tokio::test]
async fn an_open_that_cannot_be_stored_is_refused_although_nobody_reads_the_events() {
    let (door, mut config) = listen_by(Transport::Tcp).await;
    config.store = Box::<FullStore>::default();
    config.events_max = 1;
    let (client, mut events) = Client::connect(config).expect("a good configuration");
    let (mut peer, _) = Peer::welcome(&door, "token", 0).await;
    client.shake();
    assert!(matches!(peer.next().await, Seen::Shake(_)), "the session's event fills the queue");
    let opening = timeout(PATIENCE, client.open(ticket(1, ShakeId(1)))).await.expect("an answer");
    let error = Error::Store(disk_full());
    assert_eq!(opening, Err(error.clone()));
    assert_eq!(until(&mut events, stopped).await, error);
}

/// A disk that takes its time.
struct SlowStore {
    store: FileStore,
    /// Durable records that are on it.
    stored: Arc<AtomicU32>,
}

impl Store for SlowStore {
    fn load(&mut self) -> Result<Wallet, StoreError> {
        self.store.load()
    }

    fn append(&mut self, record: &Record) -> Result<(), StoreError> {
        std::thread::sleep(Duration::from_millis(50));
        self.store.append(record)?;
        self.stored.fetch_add(u32::from(record.must_be_durable()), Ordering::Relaxed);
        Ok(())
    }

    fn waits_for_disk(&self) -> bool {
        true
    }
}

/// Two doors and a user for whom the first comes first, with a shake that waits for its answer.
async fn waiting_for_an_answer(home: Option<&Door>) -> (Door, Door, Config) {
    let (first, mut config) = listen_by(Transport::Tcp).await;
    let (second, _) = listen_by(Transport::Tcp).await;
    let mut order = vec![first.endpoint(), second.endpoint()];
    let user = (0..).find(|user| {
        sort_endpoints(&mut order, *user);
        order[0] == first.endpoint()
    });
    config.user = user.map(UserId);
    config.endpoints = order.iter().map(ToString::to_string).collect();
    let home = home.map_or_else(|| first.endpoint(), Door::endpoint).to_string();
    let mut store = MemoryStore::default();
    for record in [Record::Home(Home::new(&home)), Record::Pending(Some(ShakeId(42)))] {
        store.append(&record).expect("in memory");
    }
    config.store = Box::new(store);
    (first, second, config)
}

/// The pending shake is sought at `home`, and at no other door first.
async fn seeks_at(home: &Door, others: [&Door; 2]) {
    let (mut peer, _) = tokio::select! {
        welcomed = Peer::welcome(home, "token", 0) => welcomed,
        _ = Peer::accept(others[0]) => panic!("the shake would be drawn a second time there"),
        _ = Peer::accept(others[1]) => panic!("the shake would be drawn a second time there"),
    };
    let Seen::Shake(again) = peer.next().await else { panic!("a shake is pending") };
    assert_eq!((again.shake, again.resend), (ShakeId(42), true));
}

#[tokio::test]
async fn m6_the_next_life_seeks_a_pending_shake_where_it_was_sent() {
    let (third, _) = listen_by(Transport::Tcp).await;
    let (first, second, config) = waiting_for_an_answer(Some(&third)).await;
    let (_client, _events) = Client::connect(config).expect("a good configuration");
    // The app does not name it: the node of the last life was one that another node named.
    seeks_at(&third, [&first, &second]).await;

    // Without a pending shake every user begins as ever.
    let (first, second, mut config) = waiting_for_an_answer(Some(&third)).await;
    let mut store = MemoryStore::default();
    let home = Home::new(&second.endpoint().to_string());
    store.append(&Record::Home(home)).expect("in memory");
    config.store = Box::new(store);
    let (_client, _events) = Client::connect(config).expect("a good configuration");
    tokio::select! {
        _ = Peer::accept(&first) => {}
        _ = Peer::accept(&second) => panic!("not this user's first"),
    }
}

#[tokio::test]
async fn m6_an_app_that_has_no_token_sends_no_pending_shake_to_another_node() {
    let (unused, _) = listen_by(Transport::Tcp).await;
    for failures in 1..4 {
        let (home, away, mut config) = waiting_for_an_answer(None).await;
        let asked = AtomicU32::new(0);
        config.token = TokenSource::provider(move || {
            let failed = asked.fetch_add(1, Ordering::Relaxed) < failures;
            async move { if failed { Err("no network".to_owned()) } else { Ok("token".into()) } }
        });
        let (_client, _events) = Client::connect(config).expect("a good configuration");
        seeks_at(&home, [&away, &unused]).await;
    }
}

#[tokio::test]
async fn m6_a_device_without_a_way_sends_no_pending_shake_to_another_node() {
    let (unused, _) = listen_by(Transport::Tcp).await;
    let (home, away, mut config) = waiting_for_an_answer(None).await;
    // An address that this device does not have stands for a network that it does not have.
    config.local_address = Some("198.51.100.77".parse().expect("an address"));
    config.back_off = BackOff { first_ms_max: 200, last_ms_max: 200 };
    let (client, mut events) = Client::connect(config).expect("a good configuration");
    let failed = until(&mut events, |event| match event {
        Event::Disconnected { error: Error::Link { reason, .. }, .. } => Some(reason),
        _ => None,
    });
    let failed = failed.await;
    assert!(failed.is_own(), "{failed:?}");
    client.moved_to("back", "127.0.0.1".parse().expect("an address")).await;
    seeks_at(&home, [&away, &unused]).await;
}

#[tokio::test]
async fn the_wallet_is_free_when_close_returns_although_nobody_reads_the_events() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("wallet");
    let (door, mut config) = listen_by(Transport::Tcp).await;
    config.store = Box::new(FileStore::open(&path, CAMPAIGN).expect("a new store"));
    config.events_max = 1;
    let (client, mut events) = Client::connect(config).expect("a good configuration");
    let (mut peer, _) = Peer::welcome(&door, "token", 0).await;
    client.shake();
    // The session is open, so its event fills the queue: the last one has to wait.
    assert!(matches!(peer.next().await, Seen::Shake(_)));
    timeout(PATIENCE, client.close()).await.expect("it ends");
    FileStore::open(&path, CAMPAIGN).expect("the client let go of it");
    assert_eq!(until(&mut events, stopped).await, Error::Closed, "and is still told");
}
