//! The driver with a device's clock that a test sets. Its own clock cannot be told from a suspended
//! one: next to no time passes here.

use super::*;
use crate::{
    limits::PROBE_ANSWER_MS_MAX,
    mailbox::{Events, mailbox},
    reconnect::BackOff,
    session::{
        SessionConfig,
        testing::{CAMPAIGN, welcome},
    },
    store::MemoryStore,
};
use std::sync::atomic::AtomicU64;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use yao_protocol::{
    client::{ClientMessage, GoAway, GoAwayReason, RetryClass, put_pong},
    frame::split_frame,
    limits::CLIENT_PAYLOAD_BYTES_MAX,
};

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

/// The app's ends of a client.
struct App {
    commands: mpsc::Sender<Command>,
    shakes: Arc<Shakes>,
    events: Events,
}

/// A client of the node at `listener`.
fn start(listener: &TcpListener, plan: Option<StartPlan>) -> App {
    let address = listener.local_addr().expect("bound").to_string();
    let session =
        SessionConfig { campaign: CAMPAIGN, software: 1, open_automatically: false, seed: 1 };
    let back_off = BackOff { first_ms_max: 5, last_ms_max: 20 };
    let endpoints = vec![address.parse().expect("an endpoint")];
    let shakes = Arc::<Shakes>::default();
    let (sender, commands) = mpsc::channel(8);
    let (mailbox, events) = mailbox(8);
    let mut driver = Driver::new(Parts {
        session: Session::new(session, Wallet::default()),
        reconnect: Reconnect::new(endpoints, back_off, 1, 1),
        start: plan.map(|plan| (plan, 1)),
        networks: Networks::new(NetworkKey::default()),
        trust: None,
        token: TokenSource::Fixed("token".to_owned()),
        store: Box::<MemoryStore>::default(),
        local_address: None,
        commands,
        shakes: Arc::clone(&shakes),
        mailbox,
    });
    driver.wall_time = set_wall;
    drop(tokio::spawn(driver.run()));
    App { commands: sender, shakes, events }
}

async fn comes(listener: &TcpListener) -> TcpStream {
    timeout(PATIENCE, listener.accept()).await.expect("it comes").expect("accepts").0
}

#[tokio::test]
async fn who_slept_through_a_wait_comes_when_somebody_looks_and_no_sooner() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let start_at = set_wall().plus_us(HALF_AN_HOUR_US);
    let plan = StartPlan { start_at, interval_ms: 0, region: 0 };
    let App { commands, mut events, .. } = start(&listener, Some(plan));
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

/// Reads frames until one of them is what `wanted` says.
async fn read_until(stream: &mut TcpStream, wanted: impl Fn(&ClientMessage<'_>) -> bool) {
    let mut bytes = Vec::new();
    let mut used = 0;
    loop {
        while let Some((frame, rest)) =
            split_frame(&bytes[used..], CLIENT_PAYLOAD_BYTES_MAX).expect("our own frames")
        {
            if wanted(&ClientMessage::decode(frame).expect("our own messages")) {
                return;
            }
            used = bytes.len() - rest.len();
        }
        let reading = timeout(PATIENCE, stream.read_buf(&mut bytes));
        assert_ne!(reading.await.expect("it says something").expect("reads"), 0, "it left");
    }
}

#[tokio::test]
async fn an_answer_that_lies_unread_counts_before_the_deadline_that_it_met() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let App { commands, shakes, mut events } = start(&listener, None);
    let mut stream = comes(&listener).await;
    let mut bytes = Vec::new();
    welcome(0).put(&mut bytes, 1);
    stream.write_all(&bytes).await.expect("written");
    while !matches!(events.next().await, Some(Event::Connected { .. })) {}
    commands.send(Command::Foreground).await.expect("it lives");
    read_until(&mut stream, |message| matches!(message, ClientMessage::Ping)).await;
    bytes.clear();
    put_pong(&mut bytes, 2, WallTime(1));
    stream.write_all(&bytes).await.expect("written");
    // All of the device stands still, longer than an answer may take; then the user shakes.
    std::thread::sleep(Duration::from_millis(PROBE_ANSWER_MS_MAX + 100));
    shakes.add();
    read_until(&mut stream, |message| matches!(message, ClientMessage::Shake(_))).await;
}
