//! The whole client over real TCP, against a server of a few lines that follows a script. What the
//! server must see is checked frame by frame; nothing waits for a clock where an event will do.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use yao_client::{
    Blame, Client, Config, Error, Event, Events, FileStore, Store, TokenSource, reconnect::BackOff,
    wallet::Outcome,
};
use yao_protocol::{
    CampaignId, Epoch, Fen, KeyId, PacketId, ShakeId, SponsorId, SponsorSet, UserId, WallTime,
    WaveIndex,
    client::{
        ClientMessage, ErrorCode, NoWin, NoWinReason, Refusal, RetryClass, Shake, VERSION, Welcome,
        put_receipt, put_win,
    },
    frame::split_frame,
    keys::{MacKey, SignKey},
    limits::CLIENT_PAYLOAD_BYTES_MAX,
    receipt::Receipt,
    tally::Tally,
    ticket::{Ticket, TicketBody},
};

const CAMPAIGN: CampaignId = CampaignId(2015);
const USER: UserId = UserId(77);
/// Nothing here takes this long unless it is broken.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the server saw, owned.
#[derive(Debug, PartialEq)]
enum Seen {
    Hello { token: String, tally: bool },
    Shake(Shake),
    Open(Ticket),
    Ping,
    Bye,
    End,
}

/// The server's end of one connection.
struct Peer {
    stream: TcpStream,
    address: SocketAddr,
    received: Vec<u8>,
    request_id: u32,
}

impl Peer {
    async fn accept(listener: &TcpListener) -> Self {
        let (stream, address) = timeout(PATIENCE, listener.accept())
            .await
            .expect("a client comes")
            .expect("it can be accepted");
        stream.set_nodelay(true).expect("TCP_NODELAY");
        Self { stream, address, received: Vec::new(), request_id: 0 }
    }

    /// Accepts and welcomes; expects `token`.
    async fn welcome(listener: &TcpListener, token: &str, interval_ms: u32) -> (Self, bool) {
        let mut peer = Self::accept(listener).await;
        let Seen::Hello { token: sent, tally } = peer.next().await else {
            panic!("the first frame is HELLO");
        };
        assert_eq!(sent, token);
        let welcome = Welcome {
            version: VERSION,
            tier: 0,
            cue: 1,
            shake_interval_ms: interval_ms,
            heartbeat_ms_min: 1_000,
            heartbeat_ms_max: 60_000,
            server_time: WallTime(1),
            campaign: CAMPAIGN,
            wins_per_user: 3,
            endpoints: Vec::new(),
        };
        let id = peer.request_id;
        peer.send(|out| welcome.put(out, id)).await;
        (peer, tally)
    }

    async fn next(&mut self) -> Seen {
        timeout(PATIENCE, self.next_unbounded()).await.expect("the client says something")
    }

    async fn next_unbounded(&mut self) -> Seen {
        loop {
            let frame = split_frame(&self.received, CLIENT_PAYLOAD_BYTES_MAX).expect("a frame");
            if let Some((frame, rest)) = frame {
                self.request_id = frame.header.request_id;
                let seen = match ClientMessage::decode(frame).expect("a message") {
                    ClientMessage::Hello(hello) => Seen::Hello {
                        token: String::from_utf8(hello.token.to_vec()).expect("text"),
                        tally: hello.tally.is_some(),
                    },
                    ClientMessage::Shake(shake) => Seen::Shake(shake),
                    ClientMessage::Open(bytes) => Seen::Open(Ticket::decode(bytes).expect("ours")),
                    ClientMessage::Ping => Seen::Ping,
                    ClientMessage::Bye => Seen::Bye,
                    ClientMessage::Unknown => panic!("the client sends no unknown kinds"),
                };
                let used = self.received.len() - rest.len();
                self.received.drain(..used);
                return seen;
            }
            if self.stream.read_buf(&mut self.received).await.unwrap_or(0) == 0 {
                return Seen::End;
            }
        }
    }

    async fn send(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = Vec::new();
        write(&mut bytes);
        self.stream.write_all(&bytes).await.expect("the client reads");
    }

    /// Sends byte by byte, each in a segment of its own as far as the kernel lets us.
    async fn trickle(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = Vec::new();
        write(&mut bytes);
        for byte in bytes {
            self.stream.write_all(&[byte]).await.expect("the client reads");
            tokio::task::yield_now().await;
        }
    }

    async fn no_win(&mut self, shake: ShakeId, reason: NoWinReason) {
        let id = self.request_id;
        let (server_time, interval_ms, cue, tier) = (WallTime(1), 20, 1, 0);
        let answer = NoWin { shake, server_time, interval_ms, cue, reason, tier };
        self.send(|out| answer.put(out, id)).await;
    }
}

fn mac_key() -> MacKey {
    MacKey::new(KeyId(1), [9; 32])
}

fn ticket(packet: u64, shake: ShakeId) -> Ticket {
    let body = TicketBody {
        campaign: CAMPAIGN,
        packet: PacketId(packet),
        user: USER,
        amount: Fen(288),
        shake,
        issued_at: WallTime(1),
        expires_at: WallTime(u64::MAX),
        shard: PacketId(packet).shard(),
        epoch: Epoch(1),
        sponsor: SponsorId::new(0).expect("below 64"),
        wave: WaveIndex(0),
    };
    body.sign(&SignKey::from_seed(&[3; 32]))
}

fn put_win_of(out: &mut Vec<u8>, ticket: &Ticket) {
    let counted_at = WallTime(5);
    let tally =
        Tally { campaign: CAMPAIGN, user: USER, wins: 1, sponsors: SponsorSet::EMPTY, counted_at };
    put_win(out, 0, &ticket.encode(), &tally.encode(&mac_key()));
}

fn put_receipt_of(out: &mut Vec<u8>, packet: PacketId) {
    let receipt = Receipt { campaign: CAMPAIGN, packet, user: USER, accepted_at: WallTime(9) };
    put_receipt(out, 0, &receipt.encode(&mac_key()));
}

async fn listen() -> (TcpListener, Config) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    let token = TokenSource::Fixed("token".to_owned());
    let mut config = Config::new(vec![address], CAMPAIGN, token);
    config.back_off = BackOff { first_ms_max: 5, last_ms_max: 20 };
    (listener, config)
}

/// The next event that `choose` accepts; others are skipped.
async fn until<Found>(
    events: &mut Events,
    mut choose: impl FnMut(Event) -> Option<Found>,
) -> Found {
    let search = async {
        loop {
            let event = events.next().await.expect("the client has not ended");
            if let Some(found) = choose(event) {
                return found;
            }
        }
    };
    timeout(PATIENCE, search).await.expect("the event comes")
}

fn is_connected(event: Event) -> Option<()> {
    matches!(event, Event::Connected { .. }).then_some(())
}

fn stopped(event: Event) -> Option<Error> {
    match event {
        Event::Stopped(error) => Some(error),
        _ => None,
    }
}

#[tokio::test]
async fn a_win_whose_answer_was_lost_is_won_opened_and_kept() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("wallet");
    let (listener, mut config) = listen().await;
    config.store = Box::new(FileStore::open(&path, CAMPAIGN).expect("a new store"));
    config.open_automatically = true;
    config.local_address = Some("127.9.8.7".parse().expect("an address"));
    let (client, mut events) = Client::connect(config).expect("a good configuration");

    let (mut peer, tally) = Peer::welcome(&listener, "token", 0).await;
    assert!(!tally, "a new user has no tally");
    assert_eq!(peer.address.ip().to_string(), "127.9.8.7");
    until(&mut events, is_connected).await;
    client.shake();
    let Seen::Shake(first) = peer.next().await else { panic!("a shake was asked for") };
    assert!(!first.resend);
    drop(peer);

    let (mut peer, _) = Peer::welcome(&listener, "token", 0).await;
    let again = peer.next().await;
    assert_eq!(again, Seen::Shake(Shake { resend: true, ..first }), "the same id, flagged");
    let won = ticket(7, first.shake);
    peer.trickle(|out| put_win_of(out, &won)).await;
    assert_eq!(peer.next().await, Seen::Open(won));
    drop(peer);

    let (mut peer, tally) = Peer::welcome(&listener, "token", 0).await;
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
async fn shakes_are_merged_to_the_servers_pace() {
    let (listener, config) = listen().await;
    let (client, mut events) = Client::connect(config).expect("a good configuration");
    for _ in 0..3 {
        client.shake();
    }
    let (mut peer, _) = Peer::welcome(&listener, "token", 0).await;
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
async fn a_refused_token_is_renewed_or_ends_the_client() {
    let refuse = |peer: &Peer| Refusal {
        code: ErrorCode::AuthFailed,
        class: RetryClass::Reauthenticate,
        closes: peer.request_id != 0,
        delay_ms: 0,
        jitter_ms: 0,
    };
    let (listener, mut config) = listen().await;
    let minted = Arc::new(AtomicU32::new(0));
    config.token = TokenSource::provider(move || {
        let count = minted.fetch_add(1, Ordering::Relaxed);
        async move { Ok(format!("token-{count}")) }
    });
    let (_client, mut events) = Client::connect(config).expect("a good configuration");
    let mut peer = Peer::accept(&listener).await;
    assert_eq!(peer.next().await, Seen::Hello { token: "token-0".to_owned(), tally: false });
    let (refusal, id) = (refuse(&peer), peer.request_id);
    peer.send(|out| refusal.put(out, id)).await;
    let (peer, _) = Peer::welcome(&listener, "token-1", 0).await;
    drop(peer);
    // A token that was accepted is used again.
    let (_peer, _) = Peer::welcome(&listener, "token-1", 0).await;
    until(&mut events, is_connected).await;

    let (listener, config) = listen().await;
    let (_client, mut events) = Client::connect(config).expect("a good configuration");
    let mut peer = Peer::accept(&listener).await;
    peer.next().await;
    let (refusal, id) = (refuse(&peer), peer.request_id);
    peer.send(|out| refusal.put(out, id)).await;
    let error = until(&mut events, stopped).await;
    assert_eq!((error.clone(), error.blame()), (Error::TokenRefused, Blame::App));
}

#[tokio::test]
async fn never_means_never() {
    let (listener, config) = listen().await;
    let (client, mut events) = Client::connect(config).expect("a good configuration");
    let mut peer = Peer::accept(&listener).await;
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
    let (listener, mut config) = listen().await;
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
    let (mut peer, _) = Peer::welcome(&listener, "token", 0).await;
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
    let (listener, config) = listen().await;
    let (_client, mut events) = Client::connect(config).expect("a good configuration");
    let mut peer = Peer::accept(&listener).await;
    peer.next().await;
    peer.send(|out| out.extend_from_slice(&[0xff; 64])).await;
    let error = until(&mut events, |event| match event {
        Event::Disconnected { error, .. } => Some(error),
        _ => None,
    });
    assert_eq!(error.await.blame(), Blame::Server);
    let (_peer, _) = Peer::welcome(&listener, "token", 0).await;
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
