//! The client on networks that carry UDP, block it, swallow it after a while, or change.

use crate::support::{
    CAMPAIGN, Door, Identity, PATIENCE, Peer, Seen, connected_by, listen_by, until,
};
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};
use tokio::{
    net::{TcpListener, UdpSocket},
    time::timeout,
};
use yao_client::{
    Client, Config, Event, Events, StartPlan, TokenSource, Transport,
    error::LinkError,
    limits::{QUIC_SILENCE_MS_MAX, RACE_STAGGER_MS},
    link::Link,
    reconnect::BackOff,
};
use yao_protocol::{
    WallTime,
    client::{NoWinReason, kind, put_empty},
};

/// What a user is promised when a network turns out not to carry UDP.
const SWITCHED_MAX: Duration = Duration::from_secs(5);

/// After so long without a packet a network counts as one that swallows UDP.
const SILENCE: Duration = Duration::from_millis(QUIC_SILENCE_MS_MAX);

/// How long a start plan holds a client back here.
const HELD_BACK: Duration = Duration::from_millis(700);

/// A network between one client and the QUIC door of a node: forwards datagrams, until it does not.
struct Network {
    swallows: Arc<AtomicBool>,
}

impl Network {
    /// At the port number where `tls` listens.
    async fn before(quic: &Door, tls: SocketAddr) -> Option<Self> {
        let front = UdpSocket::bind(tls).await.ok()?;
        let back = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
        back.connect(quic.address()).await.expect("an address");
        let swallows = Arc::new(AtomicBool::new(false));
        drop(tokio::spawn(forward(front, back, Arc::clone(&swallows))));
        Some(Self { swallows })
    }

    fn swallow(&self, swallows: bool) {
        self.swallows.store(swallows, Ordering::Relaxed);
    }
}

async fn forward(front: UdpSocket, back: UdpSocket, swallows: Arc<AtomicBool>) {
    let (mut up, mut down) = ([0; 2_048], [0; 2_048]);
    let mut client = None;
    loop {
        let sent = tokio::select! {
            Ok((count, from)) = front.recv_from(&mut up) => {
                client = Some(from);
                if swallows.load(Ordering::Relaxed) { continue }
                back.send(&up[..count]).await
            }
            Ok(count) = back.recv(&mut down) => {
                let Some(client) = client else { continue };
                if swallows.load(Ordering::Relaxed) { continue }
                front.send_to(&down[..count], client).await
            }
        };
        sent.expect("both ends are on this machine");
    }
}

/// A node with both doors behind one port number, and a client's way to it.
struct Node {
    tls: Door,
    quic: Door,
    network: Network,
    config: Config,
}

impl Node {
    async fn new() -> Self {
        let identity = Identity::new();
        let quic = Door::open(Transport::Quic, "127.0.0.1:0", &identity).await;
        loop {
            let tls = Door::open(Transport::Tls, "127.0.0.1:0", &identity).await;
            // The same number may be taken over UDP.
            let Some(network) = Network::before(&quic, tls.address()).await else { continue };
            let config = config(&tls, &identity);
            return Self { tls, quic, network, config };
        }
    }

    fn start(&mut self) -> (Client, Events) {
        let config = std::mem::replace(
            &mut self.config,
            Config::new(Vec::new(), CAMPAIGN, TokenSource::Fixed(String::new())),
        );
        Client::connect(config).expect("a good configuration")
    }
}

/// The next client that comes, which must be by TLS.
async fn welcome_by_tls(node: &Node) -> Peer {
    tokio::select! {
        (peer, _) = Peer::welcome(&node.tls, "token", 0) => peer,
        _ = Peer::accept(&node.quic) => panic!("it came by QUIC"),
    }
}

fn config(tls: &Door, identity: &Identity) -> Config {
    let endpoint = format!("tls+quic://{}", tls.address());
    let token = TokenSource::Fixed("token".to_owned());
    let mut config = Config::new(vec![endpoint], CAMPAIGN, token);
    config.trust = Some(identity.trust());
    config.back_off = BackOff { first_ms_max: 5, last_ms_max: 20 };
    config
}

async fn disconnected(events: &mut Events) {
    until(events, |event| matches!(event, Event::Disconnected { .. }).then_some(())).await;
}

#[tokio::test]
async fn quic_wins_where_both_work() {
    let mut node = Node::new().await;
    let (_client, mut events) = node.start();
    for _ in 0..3 {
        let (_peer, _) = Peer::welcome(&node.quic, "token", 0).await;
        let (transport, endpoint) = connected_by(&mut events).await;
        assert_eq!(transport, Transport::Quic);
        assert_eq!(endpoint, format!("tls+quic://{}", node.tls.address()));
    }
}

#[tokio::test]
async fn where_udp_is_blocked_tls_takes_over_and_is_remembered() {
    let mut node = Node::new().await;
    node.network.swallow(true);
    let started = Instant::now();
    let (client, mut events) = node.start();
    let peer = welcome_by_tls(&node).await;
    assert_eq!(connected_by(&mut events).await.0, Transport::Tls);
    assert!(started.elapsed() < SWITCHED_MAX, "{:?}", started.elapsed());

    // UDP works again, but TLS goes first and is faster than the head start.
    node.network.swallow(false);
    drop(peer);
    disconnected(&mut events).await;
    let peer = welcome_by_tls(&node).await;
    assert_eq!(connected_by(&mut events).await.0, Transport::Tls, "remembered");

    // On another network nothing is remembered.
    client.network_changed("another").await;
    drop(peer);
    disconnected(&mut events).await;
    let (_peer, _) = Peer::welcome(&node.quic, "token", 0).await;
    assert_eq!(connected_by(&mut events).await.0, Transport::Quic);
}

#[tokio::test]
async fn where_nobody_listens_on_udp_tls_need_not_wait() {
    let identity = Identity::new();
    let tls = Door::open(Transport::Tls, "127.0.0.1:0", &identity).await;
    let mut fastest = Duration::MAX;
    // Several, because a busy machine may be slow once.
    for _ in 0..5 {
        let (_client, mut events) = Client::connect(config(&tls, &identity)).expect("good");
        let started = Instant::now();
        let (_peer, _) = Peer::welcome(&tls, "token", 0).await;
        assert_eq!(connected_by(&mut events).await.0, Transport::Tls);
        fastest = fastest.min(started.elapsed());
    }
    assert!(fastest < Duration::from_millis(RACE_STAGGER_MS), "{fastest:?}");
}

#[tokio::test]
async fn what_swallows_udp_after_a_while_is_noticed_left_and_remembered() {
    let mut node = Node::new().await;
    let (client, mut events) = node.start();
    let (_peer, _) = Peer::welcome(&node.quic, "token", 0).await;
    assert_eq!(connected_by(&mut events).await.0, Transport::Quic);

    node.network.swallow(true);
    let swallowed = Instant::now();
    client.shake();
    let (mut tls_peer, _) = Peer::welcome(&node.tls, "token", 0).await;
    assert_eq!(connected_by(&mut events).await.0, Transport::Tls);
    assert!(swallowed.elapsed() < SWITCHED_MAX, "{:?}", swallowed.elapsed());
    let Seen::Shake(shake) = tls_peer.next().await else { panic!("the shake is not lost") };
    assert!(shake.resend, "it may have arrived the first time");

    // Alone from now on: QUIC works again and TLS is slow, but QUIC was not to be trusted.
    node.network.swallow(false);
    drop(tls_peer);
    disconnected(&mut events).await;
    let head_starts = Duration::from_millis(3 * RACE_STAGGER_MS);
    let by_quic = timeout(head_starts, Peer::accept(&node.quic)).await;
    assert!(by_quic.is_err(), "QUIC is not even tried");
    let (_tls_peer, _) = Peer::welcome(&node.tls, "token", 0).await;
    assert_eq!(connected_by(&mut events).await.0, Transport::Tls, "remembered");
}

#[tokio::test]
async fn an_idle_user_who_looks_again_is_back_as_soon() {
    let mut node = Node::new().await;
    let (client, mut events) = node.start();
    let (_peer, _) = Peer::welcome(&node.quic, "token", 0).await;
    connected_by(&mut events).await;
    client.background().await;
    node.network.swallow(true);
    let looked = Instant::now();
    client.foreground().await;
    let (_peer, _) = Peer::welcome(&node.tls, "token", 0).await;
    assert_eq!(connected_by(&mut events).await.0, Transport::Tls);
    assert!(looked.elapsed() < SWITCHED_MAX, "{:?}", looked.elapsed());
}

#[tokio::test]
async fn on_a_changed_network_quic_goes_on_and_tls_is_asked() {
    let (door, config) = listen_by(Transport::Quic).await;
    let (client, mut events) = Client::connect(config).expect("good");
    let (mut peer, _) = Peer::welcome(&door, "token", 0).await;
    connected_by(&mut events).await;
    let mut addresses = vec![peer.quic_address()];
    for key in 0..20_u64 {
        client.network_changed(key).await;
        client.shake();
        let shake = loop {
            match peer.next().await {
                Seen::Ping => peer.pong().await,
                Seen::Shake(shake) => break shake,
                seen => panic!("{seen:?}"),
            }
        };
        assert!(!shake.resend);
        peer.no_win(shake.shake, NoWinReason::NoneDue).await;
        let told = until(&mut events, |event| match event {
            Event::NoWin { shake, .. } => Some(shake),
            Event::Disconnected { error, .. } => panic!("{error}"),
            _ => None,
        });
        assert_eq!(told.await, shake.shake);
        addresses.push(peer.quic_address());
    }
    addresses.dedup();
    assert_eq!(addresses.len(), 21, "the same session from other ports: {addresses:?}");

    let (door, config) = listen_by(Transport::Tls).await;
    let (client, mut events) = Client::connect(config).expect("good");
    let (mut peer, _) = Peer::welcome(&door, "token", 0).await;
    connected_by(&mut events).await;
    client.network_changed(1).await;
    assert_eq!(peer.next().await, Seen::Ping);
}

#[tokio::test]
async fn a_session_over_quic_outlives_the_network_that_died_first() {
    let mut node = Node::new().await;
    let (client, mut events) = node.start();
    let (mut peer, _) = Peer::welcome(&node.quic, "token", 0).await;
    connected_by(&mut events).await;
    node.network.swallow(true);
    client.shake();
    tokio::time::sleep(SILENCE * 5 / 6).await;
    node.network.swallow(false);
    client.network_changed("another").await;
    let Seen::Shake(shake) = peer.next().await else { panic!("the shake is not lost") };
    // The answer comes when the old network's silence and the new one's delay exceed the limit.
    tokio::time::sleep(SILENCE / 3).await;
    peer.no_win(shake.shake, NoWinReason::NoneDue).await;
    let told = until(&mut events, |event| match event {
        Event::NoWin { shake, .. } => Some(shake),
        Event::Disconnected { error, .. } => panic!("{error}"),
        _ => None,
    });
    assert_eq!(told.await, shake.shake, "in the same session");
}

#[tokio::test]
async fn the_silence_of_the_old_network_is_not_counted_on_the_next_one() {
    let node = Node::new().await;
    let endpoint = format!("quic://{}", node.tls.address()).parse().expect("an endpoint");
    let ping = |link: &mut Link| {
        let mut bytes = Vec::new();
        put_empty(&mut bytes, kind::PING, 1);
        link.queue(&bytes).expect("room");
        link.flush().expect("sent");
    };
    let trust = node.config.trust.as_ref();
    let connecting = async {
        let mut link = Link::connect(Transport::Quic, &endpoint, None, trust).await.expect("good");
        ping(&mut link);
        link
    };
    let (mut link, _peer) = tokio::join!(connecting, Peer::accept(&node.quic));
    let broken = async |link: &mut Link| loop {
        if let Err(error) = link.progress().await {
            return error;
        }
    };
    let acknowledging = timeout(Duration::from_millis(200), broken(&mut link));
    assert!(acknowledging.await.is_err(), "it lives");
    assert!(!link.is_unheard());
    node.network.swallow(true);
    ping(&mut link);
    assert!(timeout(SILENCE * 2 / 3, broken(&mut link)).await.is_err(), "not yet");
    assert!(link.is_unheard());
    let changed = Instant::now();
    link.rebind(None);
    let error = timeout(PATIENCE, broken(&mut link)).await.expect("noticed");
    assert_eq!(error, LinkError::Silent(QUIC_SILENCE_MS_MAX));
    assert!(changed.elapsed() >= SILENCE, "{:?}", changed.elapsed());
}

#[tokio::test]
async fn a_node_that_does_not_answer_is_no_fault_of_the_network() {
    let mut node = Node::new().await;
    let (client, mut events) = node.start();
    let (mut peer, _) = Peer::welcome(&node.quic, "token", 0).await;
    connected_by(&mut events).await;
    client.foreground().await;
    assert_eq!(peer.next().await, Seen::Ping);
    // Its packets are acknowledged all the same.
    disconnected(&mut events).await;
    // Were QUIC to blame, it would not be tried before TLS has failed, which takes ten seconds.
    let welcoming = timeout(SWITCHED_MAX, Peer::welcome(&node.quic, "token", 0));
    let (_peer, _) = welcoming.await.expect("by QUIC");
    assert_eq!(connected_by(&mut events).await.0, Transport::Quic);
}

#[tokio::test]
async fn a_changed_network_ends_a_vain_attempt() {
    // A listener that never accepts a handshake: the attempt would last ten seconds.
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let endpoint = format!("tls://{}", listener.local_addr().expect("bound"));
    let identity = Identity::new();
    let token = TokenSource::Fixed("token".to_owned());
    let mut config = Config::new(vec![endpoint], CAMPAIGN, token);
    config.trust = Some(identity.trust());
    config.back_off = BackOff { first_ms_max: 5, last_ms_max: 20 };
    let (client, _events) = Client::connect(config).expect("good");
    let accept = async || timeout(PATIENCE, listener.accept()).await.expect("comes").expect("good");
    let started = Instant::now();
    let _first = accept().await;
    client.network_changed(1).await;
    let _second = accept().await;
    assert!(started.elapsed() < SWITCHED_MAX, "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_lost_win_is_looked_for_where_it_is_although_the_network_changes_on_the_way() {
    let identity = Identity::new();
    let one = Door::open(Transport::Tls, "127.0.0.1:0", &identity).await;
    let other = Door::open(Transport::Tls, "127.0.0.1:0", &identity).await;
    let token = TokenSource::Fixed("token".to_owned());
    let endpoints = vec![one.endpoint().to_string(), other.endpoint().to_string()];
    let mut config = Config::new(endpoints, CAMPAIGN, token);
    config.trust = Some(identity.trust());
    config.back_off = BackOff { first_ms_max: 5, last_ms_max: 20 };
    let (client, mut events) = Client::connect(config).expect("good");
    let ((mut peer, _), here, elsewhere) = tokio::select! {
        peer = Peer::welcome(&one, "token", 0) => (peer, &one, &other),
        peer = Peer::welcome(&other, "token", 0) => (peer, &other, &one),
    };
    connected_by(&mut events).await;
    client.shake();
    let Seen::Shake(first) = peer.next().await else { panic!("a shake was asked for") };
    drop(peer);

    let Door::Tls(listener, _) = here else { unreachable!("opened above") };
    for key in 0..3_u64 {
        // Nobody shakes hands: the attempt is under way until the network changes.
        let attempt = timeout(PATIENCE, listener.accept());
        let _attempt = tokio::select! {
            attempt = attempt => attempt.expect("comes back").expect("accepts"),
            _ = Peer::accept(elsewhere) => panic!("left before change {key}"),
        };
        client.network_changed(key).await;
    }
    let (mut peer, _) = tokio::select! {
        peer = Peer::welcome(here, "token", 0) => peer,
        _ = Peer::accept(elsewhere) => panic!("left the node that has the win"),
    };
    let Seen::Shake(again) = peer.next().await else { panic!("the shake is not lost") };
    assert_eq!((again.shake, again.resend), (first.shake, true));
}

#[tokio::test]
async fn a_start_plan_holds_the_first_connection_back_and_no_later_one() {
    let (door, mut config) = listen_by(Transport::Tcp).await;
    let unix = SystemTime::UNIX_EPOCH.elapsed().expect("after 1970");
    let start_at = WallTime(u64::try_from((unix + HELD_BACK).as_micros()).expect("this age"));
    config.start = Some(StartPlan { start_at, interval_ms: 0, region: 3 });
    let started = Instant::now();
    let (_client, mut events) = Client::connect(config).expect("good");
    drop(Peer::accept(&door).await);
    assert!(started.elapsed() >= HELD_BACK - Duration::from_millis(20), "{:?}", started.elapsed());
    disconnected(&mut events).await;
    let again = Instant::now();
    let (_peer, _) = Peer::welcome(&door, "token", 0).await;
    assert!(again.elapsed() < HELD_BACK, "{:?}", again.elapsed());
}

#[tokio::test]
async fn an_address_chosen_for_one_network_is_not_used_on_the_next() {
    let (door, config) = listen_by(Transport::Tcp).await;
    let (client, mut events) = Client::connect(config).expect("good");
    // This machine does not have it (RFC 5737), as a device that leaves a network loses its own.
    client.moved_to("wlan", "198.51.100.77".parse().expect("an address")).await;
    disconnected(&mut events).await;
    client.network_changed("cellular").await;
    let (_peer, _) = Peer::welcome(&door, "token", 0).await;
    connected_by(&mut events).await;
}
