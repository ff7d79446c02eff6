//! QUIC threads under real clients over loopback: quinn, and quinn-proto driven by hand.

mod bare;
mod budgets;
mod joined;
mod limits;
mod moves;
mod restart;

use crate::{
    messages::ToShard,
    server::testing::{CAMPAIGN, Rig, token},
    tls::ALPN,
};
use quinn::{ClientConfig, Connection, Endpoint, RecvStream, SendStream};
use rustls::RootCertStore;
use std::{
    io::{Read, Write},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};
use tokio::time::timeout;
use yao_protocol::{
    ShakeId,
    client::{GoAwayReason, Hello, NoWinReason, ServerMessage, Shake, kind, put_empty},
    frame::split_frame,
    limits::CLIENT_PAYLOAD_BYTES_MAX,
};

/// More than any of this needs; reached only when something is lost.
const PATIENCE: Duration = Duration::from_secs(20);

const LOOPBACK: ([u8; 4], u16) = ([127, 0, 0, 1], 0);

/// A client and its one stream.
struct Phone {
    endpoint: Endpoint,
    connection: Connection,
    send: SendStream,
    receive: RecvStream,
    incoming: Vec<u8>,
}

/// A client of TLS that trusts the rig.
fn tls_client(rig: &Rig, alpn: &[u8]) -> rustls::ClientConfig {
    let mut roots = RootCertStore::empty();
    for root in &rig.roots {
        roots.add(root.clone()).expect("a certificate");
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![alpn.to_vec()];
    tls
}

fn quic_client(tls: rustls::ClientConfig) -> ClientConfig {
    let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(tls).expect("has AES-128");
    ClientConfig::new(Arc::new(crypto))
}

fn config(rig: &Rig) -> ClientConfig {
    quic_client(tls_client(rig, ALPN))
}

fn put_hello(out: &mut Vec<u8>, user: u64) {
    let token = token(user);
    let hello = Hello {
        version_min: 1,
        version_max: 1,
        software: 0,
        campaign: CAMPAIGN,
        tally: None,
        token: &token,
    };
    hello.put(out, 1);
}

fn put_shake(out: &mut Vec<u8>, number: u64) {
    let (shake, campaign) = (ShakeId(number), CAMPAIGN);
    Shake { shake, campaign, merged_count: 1, resend: false }.put(out, 2);
}

impl Phone {
    /// Connected, and nothing said.
    async fn dial(rig: &Rig) -> Self {
        let endpoint = Endpoint::client(SocketAddr::from(LOOPBACK)).expect("a socket");
        let connecting = endpoint.connect_with(config(rig), rig.addresses.quic[0], "localhost");
        let connection = connecting.expect("a good name").await.expect("connected");
        let (send, receive) = connection.open_bi().await.expect("one stream");
        Self { endpoint, connection, send, receive, incoming: Vec::new() }
    }

    /// With an open session.
    async fn connect(rig: &Rig, user: u64) -> Self {
        let mut phone = Self::dial(rig).await;
        phone.greet(user).await;
        phone
    }

    async fn greet(&mut self, user: u64) {
        let mut bytes = Vec::new();
        put_hello(&mut bytes, user);
        self.say(&bytes).await;
        self.hear(|message| assert!(matches!(message, ServerMessage::Welcome(_)))).await;
    }

    async fn say(&mut self, bytes: &[u8]) {
        self.send.write_all(bytes).await.expect("sent");
    }

    async fn hear<T>(&mut self, look: impl Fn(ServerMessage<'_>) -> T) -> T {
        loop {
            if let Some((frame, rest)) =
                split_frame(&self.incoming, CLIENT_PAYLOAD_BYTES_MAX).expect("frames")
            {
                let seen = look(ServerMessage::decode(frame).expect("a message"));
                self.incoming = rest.to_vec();
                return seen;
            }
            let chunk = timeout(PATIENCE, self.receive.read_chunk(usize::MAX, true)).await;
            let chunk = chunk.expect("in time").expect("open").expect("more");
            self.incoming.extend_from_slice(&chunk.bytes);
        }
    }

    async fn shake(&mut self, number: u64) {
        let mut bytes = Vec::new();
        put_shake(&mut bytes, number);
        self.say(&bytes).await;
        self.hear_no_win(number).await;
    }

    async fn hear_no_win(&mut self, number: u64) {
        let answered = self.hear(|message| match message {
            ServerMessage::NoWin(no) => (no.shake, no.reason),
            other => panic!("NO_WIN, not {other:?}"),
        });
        assert_eq!(answered.await, (ShakeId(number), NoWinReason::NotRunning));
    }
}

#[tokio::test]
async fn keys_are_updated_after_the_handshake_is_forgotten() {
    let rig = Rig::start("quic = ['127.0.0.1:0']\nquic_threads = 1");
    let mut phone = Phone::connect(&rig, 7).await;
    for round in 0..5 {
        phone.connection.force_key_update();
        phone.shake(round).await;
    }
}

#[tokio::test]
async fn a_panic_ends_this_threads_connections_and_no_others() {
    let rig =
        Rig::start("quic = ['127.0.0.1:0']\nquic_threads = 1\ntcp = ['127.0.0.1:0']\nthreads = 1");
    let mut tcp = std::net::TcpStream::connect(rig.addresses.tcp[0]).expect("connected");
    let mut phone = Phone::connect(&rig, 7).await;
    // The stream thread is number 0, the QUIC thread number 1.
    rig.shards.send(1, ToShard::Panic);
    let mut bytes = Vec::new();
    put_empty(&mut bytes, kind::PING, 9);
    // The next life knows the old connection ids well enough to end them.
    let reason = loop {
        let asked_again = Duration::from_millis(10);
        match timeout(asked_again, phone.connection.closed()).await {
            Ok(reason) => break reason,
            // Fails once the connection is over, and then the next look sees it.
            Err(_) => phone.send.write_all(&bytes).await.ok(),
        };
    };
    assert_eq!(reason, quinn::ConnectionError::Reset);
    Phone::connect(&rig, 7).await.shake(1).await;
    let mut hello = Vec::new();
    put_hello(&mut hello, 8);
    tcp.write_all(&hello).expect("TCP lives on");
    tcp.set_read_timeout(Some(PATIENCE)).expect("set");
    let mut header = [0; 8];
    tcp.read_exact(&mut header).expect("answered");
    assert_eq!(header[2], kind::WELCOME);
}

#[tokio::test]
async fn a_thread_that_panics_does_not_forget_that_the_node_drains() {
    let rig = Rig::start("quic = ['127.0.0.1:0']\nquic_threads = 1");
    let mut stays = Phone::connect(&rig, 7).await;
    rig.context.orders.drain(rig.context.node.clock.now(), 1_000);
    rig.shards.send(0, ToShard::Drain);
    let is_drain = |message: ServerMessage<'_>| match message {
        ServerMessage::GoAway(go_away) => go_away.reason == GoAwayReason::Drain,
        _ => false,
    };
    assert!(stays.hear(is_drain).await);
    for _ in 0..2 {
        let mut late = Phone::dial(&rig).await;
        let mut bytes = Vec::new();
        put_hello(&mut bytes, 8);
        // Its stream ends with HELLO: it hears the last words all the same.
        late.say(&bytes).await;
        late.send.finish().expect("not finished before");
        assert!(late.hear(is_drain).await);
        rig.shards.send(0, ToShard::Panic);
    }
}

#[tokio::test]
async fn a_client_of_another_protocol_is_refused() {
    let rig = Rig::start("quic = ['127.0.0.1:0']\nquic_threads = 1");
    let endpoint = Endpoint::client(SocketAddr::from(LOOPBACK)).expect("a socket");
    let stranger = quic_client(tls_client(&rig, b"h3"));
    let connecting = endpoint.connect_with(stranger, rig.addresses.quic[0], "localhost");
    let error = connecting.expect("a good name").await.expect_err("refused");
    assert!(matches!(error, quinn::ConnectionError::ConnectionClosed(_)), "{error}");
}
