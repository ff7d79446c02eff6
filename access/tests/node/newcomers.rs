//! Who is not let in: what he is told by a node that an operator has closed, that drains, or that
//! has no room; and when he is taken again.

use crate::support::{Client, Event, Heard, Node, Signal, Transport};
use serde_json::Value;
use std::collections::BTreeSet;
use yao_client::{Error, TokenSource};
use yao_protocol::client::{GoAway, GoAwayReason, RetryClass};

const WAYS: [Transport; 3] = [Transport::Tcp, Transport::Tls, Transport::Quic];
const ELSEWHERE: [&str; 2] = ["tls+quic://b.example:7443", "tls://c.example:443"];

/// A node that knows others, and wants clients back after 3 to 8 s, or after 7 to 19 s when it has
/// no room.
fn sociable() -> Event {
    let event = Event::new();
    event.set("listen.endpoints", ELSEWHERE);
    event.set("drain.return_ms_min", 3_000);
    event.set("drain.return_ms_jitter", 5_000);
    event.set("admission.return_ms_min", 7_000);
    event.set("admission.return_ms_jitter", 12_000);
    event
}

fn told(reason: GoAwayReason) -> GoAway {
    let (delay_ms, jitter_ms) = match reason {
        GoAwayReason::Overload => (7_000, 12_000),
        GoAwayReason::Drain | GoAwayReason::Replaced => (3_000, 5_000),
    };
    let class = RetryClass::After;
    let endpoints = ELSEWHERE.map(str::to_owned).to_vec();
    GoAway { reason, class, delay_ms, jitter_ms, endpoints }
}

/// Says HELLO as `user` over every way in, and hears that this is not the place.
async fn turned_away(node: &Node<'_>, user: u64) {
    for way in WAYS {
        let mut client = Client::connect(node, way).await;
        client.hello(node.event.backend.token(user).as_bytes()).await;
        assert_eq!(client.go_away().await, told(GoAwayReason::Drain), "over {way}");
        assert_eq!(client.hear().await, Heard::End, "over {way}");
    }
}

#[tokio::test]
async fn an_operator_refuses_newcomers_and_takes_them_again_while_sessions_go_on() {
    let event = sociable();
    let node = event.start();
    let mut here = Client::welcomed(&node, Transport::Quic, 1).await;
    let Heard::Reconnect(ticket) = here.hear().await else { panic!("a ticket to come back with") };
    let mut waits = Client::connect(&node, Transport::Tcp).await;
    assert_eq!(node.get("/readyz"), (200, "ready\n".to_owned()));
    let said = node.command(&["refuse-new"]);
    let expected = "new sessions are refused, 1 stay open; clients are told 2 other endpoints, and \
                    to come back after 3000 to 8000 ms";
    assert_eq!(said.trim(), expected);

    turned_away(&node, 2).await;
    waits.hello(&*ticket).await;
    assert_eq!(waits.go_away().await, told(GoAwayReason::Drain), "who had connected before, too");
    let (code, reasons) = node.get("/readyz");
    assert!(code == 503 && reasons.starts_with("refusing:"), "{code}: {reasons}");
    assert_eq!(node.status()["newcomers"], "refused");
    let seconds = |status: &Value| status["newcomers_refused_seconds"].as_u64();
    node.status_where("a second of it", |status| seconds(status) >= Some(1)).await;
    node.command(&["refuse-new"]);
    assert!(seconds(&node.status()) >= Some(1), "said again, it does not begin again");
    let metrics = node.get("/metrics").1;
    assert!(metrics.contains("yao_access_newcomers_refused 1\n"), "{metrics}");
    here.ping().await;
    assert_eq!(here.hear().await, Heard::Pong, "who is here stays");

    assert_eq!(node.command(&["take-new"]).trim(), "new sessions are taken; 1 are open");
    assert_eq!(node.get("/readyz"), (200, "ready\n".to_owned()));
    assert_eq!(node.status()["newcomers_refused_seconds"], Value::Null);
    for (user, way) in (10..).zip(WAYS) {
        Client::welcomed(&node, way, user).await;
    }
    let mut back = Client::connect(&node, Transport::Tls).await;
    back.hello(&*ticket).await;
    assert!(matches!(back.hear().await, Heard::Welcome(_)), "its ticket was not used up");
}

#[tokio::test]
async fn a_node_that_drains_refuses_newcomers_and_takes_nobody_again() {
    let event = sociable();
    let mut node = event.start();
    let mut here = Client::welcomed(&node, Transport::Tcp, 1).await;
    node.users(1).await;
    node.command(&["drain", "--deadline", "600"]);
    assert_eq!(here.go_away().await, told(GoAwayReason::Drain));
    turned_away(&node, 2).await;
    let (code, reason) = node.post("/take-new");
    assert!(code == 409 && reason.contains("drains"), "{code}: {reason}");
    turned_away(&node, 3).await;
    here.bye().await;
    assert_eq!(node.exit_code().await, 0);
}

#[tokio::test]
async fn endpoints_and_times_change_with_a_reload() {
    let event = Event::new();
    let mut node = event.start();
    let mut old = Client::connect(&node, Transport::Tls).await;
    old.hello(event.backend.token(1).as_bytes()).await;
    let Heard::Welcome(welcome) = old.hear().await else { panic!("WELCOME") };
    assert!(welcome.endpoints.is_empty());

    event.set("listen.endpoints", ["x"; 9]);
    let (code, reason) = node.post("/reload");
    assert!(code == 422 && reason.contains("at most 8 endpoints"), "{code}: {reason}");
    event.set("listen.endpoints", ELSEWHERE);
    event.set("drain.return_ms_min", 3_000);
    event.set("drain.return_ms_jitter", 5_000);
    assert_eq!(node.post("/reload"), (200, "reloaded; schedule version 1\n".to_owned()));
    for (user, way) in (2..).zip(WAYS) {
        let mut new = Client::connect(&node, way).await;
        new.hello(event.backend.token(user).as_bytes()).await;
        let Heard::Welcome(welcome) = new.hear().await else { panic!("WELCOME") };
        assert_eq!(welcome.endpoints, ELSEWHERE, "over {way}");
        new.bye().await;
    }
    node.users(1).await;
    node.signal(Signal::TERM);
    assert_eq!(old.go_away().await, told(GoAwayReason::Drain), "who was here before, too");
    old.bye().await;
    assert_eq!(node.exit_code().await, 0);
}

#[tokio::test]
async fn who_finds_no_room_over_plain_tcp_is_told_where_there_may_be_some() {
    let event = sociable();
    event.set("listen.threads", 1);
    event.set("admission.connections_max", 4);
    event.set("session.greeting_ms_max", 60_000);
    let node = event.start();
    let mut silent = Vec::new();
    for _ in 0..4 {
        silent.push(Client::connect(&node, Transport::Tcp).await);
    }
    // Accepted in the order in which they came.
    let mut fifth = Client::connect(&node, Transport::Tcp).await;
    assert_eq!(fifth.go_away().await, told(GoAwayReason::Overload));
    assert_eq!(fifth.hear().await, Heard::End);
    event.set("admission.return_ms_min", 8_000);
    event.set("admission.return_ms_jitter", 9_000);
    assert_eq!(node.post("/reload"), (200, "reloaded; schedule version 1\n".to_owned()));
    let mut sixth = Client::connect(&node, Transport::Tcp).await;
    let after_reload = GoAway { delay_ms: 8_000, jitter_ms: 9_000, ..told(GoAwayReason::Overload) };
    assert_eq!(sixth.go_away().await, after_reload);
    silent[0].hello(event.backend.token(1).as_bytes()).await;
    assert!(matches!(silent[0].hear().await, Heard::Welcome(_)), "who is in stays in");
}

/// The SDK's own clients, asked to leave together, come back at times of their own.
#[tokio::test]
async fn each_client_draws_its_own_delay_from_what_it_is_told() {
    let event = sociable();
    let mut node = event.start();
    let mut clients = Vec::new();
    for (user, way) in (1..=9).zip(WAYS.into_iter().cycle()) {
        let endpoint = format!("{way}://{}", node.address(way));
        let token = TokenSource::Fixed(event.backend.token(user));
        let mut config = yao_client::Config::new(vec![endpoint], event.campaign, token);
        config.trust = Some(event.trust.clone());
        clients.push(yao_client::Client::connect(config).expect("a good configuration"));
    }
    node.users(9).await;
    node.signal(Signal::TERM);
    let mut delays = BTreeSet::new();
    for (_, events) in &mut clients {
        let (mut told, mut delay) = (None, None);
        while delay.is_none() {
            match events.next().await.expect("the client goes on") {
                yao_client::Event::GoAway(reason) => told = Some(reason),
                yao_client::Event::Disconnected { error, retry_ms } => {
                    assert_eq!(error, Error::GoAway(GoAwayReason::Drain));
                    delay = Some(retry_ms);
                }
                _ => {}
            }
        }
        assert_eq!(told, Some(GoAwayReason::Drain));
        let delay = delay.expect("the loop ended");
        assert!((3_000..=8_000).contains(&delay), "{delay} ms");
        delays.insert(delay);
    }
    assert!(delays.len() >= 6, "nine clients and these delays, ms: {delays:?}");
    assert_eq!(node.exit_code().await, 0, "the SDK leaves when asked");
}
