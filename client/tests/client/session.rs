//! The whole client over real sockets, against a server of a few lines that follows a script. What
//! the server must see is checked frame by frame.

use crate::support::{
    CAMPAIGN, PATIENCE, Peer, Seen, is_connected, listen_by, mac_key, put_receipt_of, put_win_of,
    stopped, ticket, until,
};
use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};
use tokio::{net::TcpListener, time::timeout};
use yao_client::{
    Blame, Client, Config, Error, Event, FileStore, MemoryStore, Store, TokenSource, Transport,
    wallet::{Outcome, ReconnectSecret, Record},
};
use yao_protocol::{
    CampaignId, PacketId, ShakeId, UserId, WallTime,
    client::{
        ErrorCode, GoAway, GoAwayReason, NoWinReason, Refusal, RetryClass, Shake, put_pong,
        put_reconnect,
    },
    hex,
    keys::SignKey,
    reconnect::{ReconnectKeys, ReconnectTicket},
    ticket::TicketBody,
    token::Identity,
};

#[tokio::test]
async fn a_win_whose_answer_was_lost_is_won_opened_and_kept() {
    for transport in [Transport::Tcp, Transport::Tls, Transport::Quic] {
        check_lost_answer(transport).await;
    }
}

async fn check_lost_answer(transport: Transport) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("wallet");
    let (door, mut config) = listen_by(transport).await;
    config.store = Box::new(FileStore::open(&path, CAMPAIGN).expect("a new store"));
    config.open_automatically = true;
    config.local_address = Some("127.9.8.7".parse().expect("an address"));
    let (client, mut events) = Client::connect(config).expect("a good configuration");

    let (mut peer, tally) = Peer::welcome(&door, "token", 0).await;
    assert!(!tally, "a new user has no tally");
    assert_eq!(peer.address.ip().to_string(), "127.9.8.7");
    until(&mut events, is_connected).await;
    client.shake();
    let Seen::Shake(first) = peer.next().await else { panic!("a shake was asked for") };
    assert!(!first.resend);
    drop(peer);

    let (mut peer, _) = Peer::welcome(&door, "token", 0).await;
    let again = peer.next().await;
    assert_eq!(again, Seen::Shake(Shake { resend: true, ..first }), "the same id, flagged");
    let won = ticket(7, first.shake);
    peer.trickle(|out| put_win_of(out, &won)).await;
    assert_eq!(peer.next().await, Seen::Open(won));
    drop(peer);

    let (mut peer, tally) = Peer::welcome(&door, "token", 0).await;
    assert!(tally, "the tally of the win travels");
    // The server sends unopened tickets again; the client opens again. Both at once, merged.
    peer.send(|out| put_win_of(out, &won)).await;
    assert_eq!(peer.next().await, Seen::Open(won));
    peer.send(|out| {
        put_receipt_of(out, PacketId(7));
        put_receipt_of(out, PacketId(7));
    })
    .await;
    let mut wins = 0;
    let opened = until(&mut events, |event| match event {
        Event::Won(_) => {
            wins += 1;
            None
        }
        Event::Opened(opened) => Some(opened),
        _ => None,
    })
    .await;
    assert_eq!((wins, opened.receipt.packet), (1, PacketId(7)), "told once");
    client.close().await;
    assert_eq!(peer.next().await, Seen::Bye);
    assert_eq!(until(&mut events, stopped).await, Error::Closed);
    assert_eq!(events.next().await, None, "nothing comes after the end");

    let mut store = FileStore::open(&path, CAMPAIGN).expect("the client let go of it");
    let wallet = store.load().expect("loads");
    let held = wallet.holding(PacketId(7)).expect("the ticket is kept");
    assert_eq!(held.outcome, Outcome::Opened(opened.proof));
    assert_eq!(wallet.pending(), None);
}

#[tokio::test]
async fn a_last_word_is_heard_although_the_clients_own_write_fails_first() {
    for transport in [Transport::Tcp, Transport::Tls, Transport::Quic] {
        for frames_before in [0, 300] {
            check_last_word(transport, frames_before).await;
        }
    }
}

/// The server says "never", behind `frames_before` others, and the connection is gone before the
/// client has read any of it; then the user shakes.
async fn check_last_word(transport: Transport, frames_before: u32) {
    let (door, config) = listen_by(transport).await;
    let (client, mut events) = Client::connect(config).expect("a good configuration");
    let mut peer = match transport {
        Transport::Quic => Peer::welcome(&door, "token", 0).await.0,
        Transport::Tcp | Transport::Tls => Peer::welcome_to_reset(&door, "token").await,
    };
    until(&mut events, is_connected).await;
    let replaced = GoAway {
        reason: GoAwayReason::Replaced,
        class: RetryClass::Never,
        delay_ms: 0,
        jitter_ms: 0,
        endpoints: Vec::new(),
    };
    // All of it before the client's task gets its turn: both run on this thread.
    peer.send(|out| {
        for id in 0..frames_before {
            put_pong(out, id, WallTime(1));
        }
        replaced.put(out);
    })
    .await;
    let _connection = peer.drop_stream();
    client.shake();
    let end = until(&mut events, |event| match event {
        Event::Disconnected { error, .. } => panic!("over {transport} it comes back: {error}"),
        event => stopped(event),
    });
    assert_eq!(end.await, Error::GoAway(GoAwayReason::Replaced), "over {transport}");
}

#[tokio::test]
async fn shakes_are_merged_to_the_servers_pace() {
    let (door, config) = listen_by(Transport::Tcp).await;
    let (client, mut events) = Client::connect(config).expect("a good configuration");
    for _ in 0..3 {
        client.shake();
    }
    let (mut peer, _) = Peer::welcome(&door, "token", 0).await;
    let Seen::Shake(first) = peer.next().await else { panic!("a shake was asked for") };
    assert_eq!(first.merged_count, 3, "shakes before the connection are not lost");
    for _ in 0..4 {
        client.shake();
    }
    peer.no_win(first.shake, NoWinReason::TooSoon).await;
    let Seen::Shake(second) = peer.next().await else { panic!("the shakes still wait") };
    assert_eq!((second.merged_count, second.resend), (7, false));
    assert_ne!(second.shake, first.shake);
    peer.no_win(second.shake, NoWinReason::NoneDue).await;
    let told = until(&mut events, |event| match event {
        Event::NoWin { shake, reason, .. } => Some((shake, reason)),
        _ => None,
    });
    assert_eq!(told.await, (second.shake, NoWinReason::NoneDue));
}

#[tokio::test]
async fn a_user_stays_at_his_only_node_although_it_cannot_store_opens() {
    let (door, config) = listen_by(Transport::Tcp).await;
    let (client, _events) = Client::connect(config).expect("a good configuration");
    let (mut peer, _) = Peer::welcome(&door, "token", 0).await;
    let won = ticket(1, ShakeId(1));
    client.open(won).await.expect("taken in charge");
    let full = Refusal {
        code: ErrorCode::OpenUnavailable,
        class: RetryClass::After,
        closes: false,
        delay_ms: 20,
        jitter_ms: 0,
    };
    for _ in 0..5 {
        assert_eq!(peer.next().await, Seen::Open(won));
        let id = peer.request_id;
        peer.send(|out| full.put(out, id)).await;
    }
}

#[tokio::test]
async fn a_refused_token_is_renewed_or_ends_the_client() {
    let refuse = |peer: &Peer| Refusal {
        code: ErrorCode::AuthFailed,
        class: RetryClass::Reauthenticate,
        closes: peer.request_id != 0,
        delay_ms: 0,
        jitter_ms: 0,
    };
    let (door, mut config) = listen_by(Transport::Tcp).await;
    let minted = Arc::new(AtomicU32::new(0));
    config.token = TokenSource::provider(move || {
        let count = minted.fetch_add(1, Ordering::Relaxed);
        async move { Ok(format!("token-{count}")) }
    });
    let (_client, mut events) = Client::connect(config).expect("a good configuration");
    let mut peer = Peer::accept(&door).await;
    assert_eq!(peer.next().await, Seen::Hello { token: "token-0".to_owned(), tally: false });
    let (refusal, id) = (refuse(&peer), peer.request_id);
    peer.send(|out| refusal.put(out, id)).await;
    let (peer, _) = Peer::welcome(&door, "token-1", 0).await;
    drop(peer);
    // A token that was accepted is used again.
    let (_peer, _) = Peer::welcome(&door, "token-1", 0).await;
    until(&mut events, is_connected).await;

    let (door, config) = listen_by(Transport::Tcp).await;
    let (_client, mut events) = Client::connect(config).expect("a good configuration");
    let mut peer = Peer::accept(&door).await;
    peer.next().await;
    let (refusal, id) = (refuse(&peer), peer.request_id);
    peer.send(|out| refusal.put(out, id)).await;
    let error = until(&mut events, stopped).await;
    assert_eq!((error.clone(), error.blame()), (Error::TokenRefused, Blame::App));
}

#[tokio::test]
async fn the_only_token_is_not_given_up_for_a_tally_that_is_not_believed() {
    let check = async |believed: bool| {
        let (door, mut config) = listen_by(Transport::Tcp).await;
        let mut bytes = Vec::new();
        put_win_of(&mut bytes, &ticket(1, ShakeId(1)));
        let tally = bytes.last_chunk().expect("a WIN ends with the tally");
        let mut store = MemoryStore::default();
        store.append(&Record::Tally(*tally)).expect("in memory");
        config.store = Box::new(store);
        let (_client, mut events) = Client::connect(config).expect("a good configuration");
        for tally in [true, true, false] {
            let mut peer = Peer::accept(&door).await;
            assert_eq!(peer.next().await, Seen::Hello { token: "token".to_owned(), tally });
            if tally || !believed {
                let id = peer.request_id;
                peer.send(|out| NOT_BELIEVED.put(out, id)).await;
            } else {
                return;
            }
        }
        assert_eq!(until(&mut events, stopped).await, Error::TokenRefused);
    };
    check(true).await;
    check(false).await;
}

/// A reconnect ticket of that age, as the wallet keeps it.
fn reconnect_ticket(issued_at: u64) -> ReconnectSecret {
    let keys = ReconnectKeys::new(vec![mac_key()]).expect("one key");
    let expires_at = WallTime(u64::MAX);
    let identity = Identity { user: UserId(77), device: 0, risk: 0, expires_at };
    let ticket = ReconnectTicket::issue(&identity, WallTime(issued_at), 600);
    ReconnectSecret(keys.sign(&ticket.expect("the token never ends")))
}

/// What a node says to a ticket or token that it does not believe.
const NOT_BELIEVED: Refusal = Refusal {
    code: ErrorCode::AuthFailed,
    class: RetryClass::Reauthenticate,
    closes: true,
    delay_ms: 0,
    jitter_ms: 0,
};

#[tokio::test]
async fn a_ticket_of_an_earlier_life_spares_the_backend_until_it_is_refused() {
    let (door, mut config) = listen_by(Transport::Tcp).await;
    let mut store = MemoryStore::default();
    store.append(&Record::Reconnect(Some(reconnect_ticket(1)))).expect("in memory");
    config.store = Box::new(store);
    let minted = Arc::new(AtomicU32::new(0));
    let asked = Arc::clone(&minted);
    config.token = TokenSource::provider(move || {
        minted.fetch_add(1, Ordering::Relaxed);
        async move { Ok("token".to_owned()) }
    });
    let (_client, _events) = Client::connect(config).expect("a good configuration");
    let (mut peer, _) = Peer::welcome(&door, &hex::encode(&reconnect_ticket(1).0), 0).await;
    peer.send(|out| put_reconnect(out, &reconnect_ticket(2).0)).await;
    drop(peer);
    let mut peer = Peer::accept(&door).await;
    let token = hex::encode(&reconnect_ticket(2).0);
    assert_eq!(peer.next().await, Seen::Hello { token, tally: false });
    assert_eq!(asked.load(Ordering::Relaxed), 0, "the backend was not asked");
    let id = peer.request_id;
    peer.send(|out| NOT_BELIEVED.put(out, id)).await;
    Peer::welcome(&door, "token", 0).await;
    assert_eq!(asked.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn m6_a_refused_ticket_of_an_earlier_life_sends_no_pending_shake_to_another_node() {
    let (one, mut config) = listen_by(Transport::Tcp).await;
    let (two, other) = listen_by(Transport::Tcp).await;
    config.endpoints.extend(other.endpoints);
    let shake = ShakeId(42);
    let mut store = MemoryStore::default();
    for record in [Record::Pending(Some(shake)), Record::Reconnect(Some(reconnect_ticket(1)))] {
        store.append(&record).expect("in memory");
    }
    config.store = Box::new(store);
    let (_client, mut events) = Client::connect(config).expect("a good configuration");
    // Each user has an order of his own: home is where this one comes first.
    let (home, away, mut peer) = tokio::select! {
        peer = Peer::accept(&one) => (&one, &two, peer),
        peer = Peer::accept(&two) => (&two, &one, peer),
    };
    let token = hex::encode(&reconnect_ticket(1).0);
    assert_eq!(peer.next().await, Seen::Hello { token, tally: false });
    let id = peer.request_id;
    peer.send(|out| NOT_BELIEVED.put(out, id)).await;
    let (mut peer, _) = tokio::select! {
        welcomed = Peer::welcome(home, "token", 0) => welcomed,
        _ = Peer::accept(away) => panic!("the shake would be drawn a second time there"),
    };
    let retry_ms = until(&mut events, |event| match event {
        Event::Disconnected { retry_ms, .. } => Some(retry_ms),
        _ => None,
    });
    assert_eq!(retry_ms.await, 0, "at once");
    let Seen::Shake(again) = peer.next().await else { panic!("a shake is pending") };
    assert_eq!((again.shake, again.resend), (shake, true));
}

#[tokio::test]
async fn never_means_never() {
    let (door, config) = listen_by(Transport::Tcp).await;
    let (client, mut events) = Client::connect(config).expect("a good configuration");
    let mut peer = Peer::accept(&door).await;
    peer.next().await;
    let refusal = Refusal {
        code: ErrorCode::WrongCampaign,
        class: RetryClass::Never,
        closes: true,
        delay_ms: 0,
        jitter_ms: 0,
    };
    let id = peer.request_id;
    peer.send(|out| refusal.put(out, id)).await;
    let error = until(&mut events, stopped).await;
    assert_eq!(error, Error::Refused(ErrorCode::WrongCampaign));
    let opening = client.open(ticket(1, ShakeId(1))).await;
    assert_eq!(opening, Err(Error::Closed));
    client.close().await;
}

#[tokio::test]
async fn the_user_can_open_without_a_connection_and_dropping_the_handle_says_goodbye() {
    let (door, mut config) = listen_by(Transport::Tcp).await;
    // Nobody listens at the first endpoint of the list; the client finds the second.
    let closed = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    config.endpoints.insert(0, closed.local_addr().expect("bound").to_string());
    drop(closed);
    let (client, events) = Client::connect(config).expect("a good configuration");
    let old = ticket(3, ShakeId(1));
    client.open(old).await.expect("taken in charge");
    let foreign = TicketBody { campaign: CampaignId(1), ..old.body };
    let foreign = foreign.sign(&SignKey::from_seed(&[3; 32]));
    let error = client.open(foreign).await.expect_err("another campaign");
    assert_eq!(error.blame(), Blame::App);
    let (mut peer, _) = Peer::welcome(&door, "token", 0).await;
    assert_eq!(peer.next().await, Seen::Open(old));
    let wallet = client.wallet().await.expect("it lives");
    assert_eq!(wallet.holdings().len(), 1);
    // An app that does not listen still gets its money.
    drop(events);
    peer.send(|out| put_receipt_of(out, PacketId(3))).await;
    let opened = async {
        while client.wallet().await.expect("it lives").holdings()[0].outcome == Outcome::Unopened {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, opened).await.expect("the receipt is kept");
    drop(client);
    assert_eq!(peer.next().await, Seen::Bye);
    assert_eq!(peer.next().await, Seen::End);
}

#[tokio::test]
async fn a_server_that_sends_nonsense_is_left_and_tried_again() {
    let (door, config) = listen_by(Transport::Tcp).await;
    let (_client, mut events) = Client::connect(config).expect("a good configuration");
    let mut peer = Peer::accept(&door).await;
    peer.next().await;
    peer.send(|out| out.extend_from_slice(&[0xff; 64])).await;
    let error = until(&mut events, |event| match event {
        Event::Disconnected { error, .. } => Some(error),
        _ => None,
    });
    assert_eq!(error.await.blame(), Blame::Server);
    let (_peer, _) = Peer::welcome(&door, "token", 0).await;
    until(&mut events, is_connected).await;
}

#[test]
fn a_configuration_that_cannot_work_is_refused_at_once() {
    let check = |endpoints: &[&str]| {
        let endpoints = endpoints.iter().map(|text| (*text).to_owned()).collect();
        let token = TokenSource::Fixed("token".to_owned());
        let error = Client::connect(Config::new(endpoints, CAMPAIGN, token));
        assert_eq!(error.expect_err("unusable").blame(), Blame::App);
    };
    check(&[]);
    check(&["no-port"]);
    check(&["host:1", ":2"]);
    check(&["host:99999"]);
}
