//! The driver with a device's clock that a test sets. Its own clock cannot be told from a suspended
//! one: next to no time passes here.

use super::*;
use crate::{
    mailbox::{Events, mailbox},
    reconnect::BackOff,
    session::{SessionConfig, testing::CAMPAIGN},
    store::MemoryStore,
};
use std::sync::atomic::AtomicU64;
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
};
use yao_protocol::client::{GoAway, GoAwayReason, RetryClass};

/// In the tests' device it is this many microseconds after 1970.
static WALL_US: AtomicU64 = AtomicU64::new(1_000_000_000);

const HALF_AN_HOUR_US: u64 = 1_800_000_000;
/// Within this time comes who has nothing to wait for; the range of a first failure is much less.
const SOON: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(20);

fn set_wall() -> WallTime {
    WallTime(WALL_US.load(Ordering::Relaxed))
}

fn half_an_hour_passes() {
    WALL_US.fetch_add(HALF_AN_HOUR_US, Ordering::Relaxed);
}

/// A client of the node at `listener` that comes in half an hour.
fn start(listener: &TcpListener) -> (mpsc::Sender<Command>, Events) {
    let address = listener.local_addr().expect("bound").to_string();
    let session =
        SessionConfig { campaign: CAMPAIGN, software: 1, open_automatically: false, seed: 1 };
    let back_off = BackOff { first_ms_max: 5, last_ms_max: 20 };
    let endpoints = vec![address.parse().expect("an endpoint")];
    let start_at = set_wall().plus_us(HALF_AN_HOUR_US);
    let (sender, commands) = mpsc::channel(8);
    let (mailbox, events) = mailbox(8);
    let mut driver = Driver::new(Parts {
        session: Session::new(session, Wallet::default()),
        reconnect: Reconnect::new(endpoints, back_off, 1, 1),
        start: Some((StartPlan { start_at, interval_ms: 0, region: 0 }, 1)),
        networks: Networks::new(NetworkKey::default()),
        trust: None,
        token: TokenSource::Fixed("token".to_owned()),
        store: Box::<MemoryStore>::default(),
        local_address: None,
        commands,
        shakes: Arc::default(),
        mailbox,
    });
    driver.wall_time = set_wall;
    drop(tokio::spawn(driver.run()));
    (sender, events)
}

async fn comes(listener: &TcpListener) -> TcpStream {
    timeout(PATIENCE, listener.accept()).await.expect("it comes").expect("accepts").0
}

#[tokio::test]
async fn who_slept_through_a_wait_comes_when_somebody_looks_and_no_sooner() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let (commands, mut events) = start(&listener);
    let look = async |command| commands.send(command).await.expect("it lives");
    look(Command::Foreground).await;
    assert!(timeout(SOON, listener.accept()).await.is_err(), "the event's plan");
    half_an_hour_passes();
    look(Command::Foreground).await;
    let mut stream = comes(&listener).await;

    let mut bytes = Vec::new();
    let goaway = GoAway {
        reason: GoAwayReason::Drain,
        class: RetryClass::After,
        delay_ms: u32::try_from(HALF_AN_HOUR_US / 1_000).expect("small"),
        jitter_ms: 0,
        endpoints: Vec::new(),
    };
    goaway.put(&mut bytes);
    stream.write_all(&bytes).await.expect("written");
    while !matches!(events.next().await, Some(Event::Disconnected { .. })) {}
    look(Command::Foreground).await;
    look(Command::NetworkChanged(1.into(), None)).await;
    assert!(timeout(SOON, listener.accept()).await.is_err(), "the server's word");
    half_an_hour_passes();
    look(Command::NetworkChanged(2.into(), None)).await;
    comes(&listener).await;
}
