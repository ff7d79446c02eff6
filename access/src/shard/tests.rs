//! Coming in over real sockets: both families, budgets, balancers, and no descriptors left.
#![expect(clippy::disallowed_methods, reason = "clients measure how long they wait")]

mod descriptors;
mod proxied;
mod replaced;
mod unqueued;

use crate::server::testing::{CAMPAIGN, Rig, token};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::{Duration, Instant},
};
use yao_protocol::{
    client::{ErrorCode, GoAway, GoAwayReason, Hello, RetryClass, ServerMessage, kind},
    frame::split_frame,
    limits::{
        CLIENT_PAYLOAD_BYTES_MAX, FRAME_HEADER_BYTES, GREETING_PAYLOAD_BYTES_MAX,
        GREETING_RECORD_BYTES_MAX,
    },
};

/// More than any of this needs; reached only when something is lost.
const PATIENCE: Duration = Duration::from_secs(20);

fn hello(user: u64) -> Vec<u8> {
    hello_with(&token(user))
}

fn hello_with(token: &[u8]) -> Vec<u8> {
    let (tally, campaign) = (None, CAMPAIGN);
    let mut bytes = Vec::new();
    Hello { version_min: 1, version_max: 1, software: 0, campaign, tally, token }
        .put(&mut bytes, 1);
    bytes
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("the kernel takes it");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    stream.set_nodelay(true).expect("a socket");
    stream
}

fn tls_config(rig: &Rig) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for root in &rig.roots {
        roots.add(root.clone()).expect("a certificate");
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![crate::tls::ALPN.to_vec()];
    Arc::new(config)
}

fn over_tls(rig: &Rig, stream: TcpStream) -> StreamOwned<ClientConnection, TcpStream> {
    let name = "localhost".try_into().expect("a name");
    StreamOwned::new(ClientConnection::new(tls_config(rig), name).expect("a client"), stream)
}

/// What the node says before it closes.
#[derive(Debug, PartialEq)]
enum Farewell {
    Refused(ErrorCode),
    GoAway(GoAway),
}

/// The hint of a node that was told nothing else, to those for whom there is no room.
fn elsewhere() -> Farewell {
    let (reason, class) = (GoAwayReason::Overload, RetryClass::After);
    let (delay_ms, jitter_ms, endpoints) = (5_000, 25_000, Vec::new());
    Farewell::GoAway(GoAway { reason, class, delay_ms, jitter_ms, endpoints })
}

/// What the node says first: `Ok(true)` for WELCOME, `Ok(false)` when it closes without a word.
fn first_word(stream: &mut impl Read) -> Result<bool, Farewell> {
    let mut read = Vec::new();
    loop {
        if let Some((frame, _)) = split_frame(&read, CLIENT_PAYLOAD_BYTES_MAX).expect("frames") {
            return match ServerMessage::decode(frame).expect("a message") {
                ServerMessage::Welcome(_) => Ok(true),
                ServerMessage::Error(refusal) => Err(Farewell::Refused(refusal.code)),
                ServerMessage::GoAway(go_away) => Err(Farewell::GoAway(go_away)),
                other => panic!("WELCOME, ERROR or GOAWAY, not {other:?}"),
            };
        }
        let mut piece = [0; 1_024];
        match stream.read(&mut piece) {
            Ok(0) => return Ok(false),
            Ok(count) => read.extend_from_slice(&piece[..count]),
            Err(error) if is_end(&error) => return Ok(false),
            Err(error) => panic!("an answer or an end in time, not {error}"),
        }
    }
}

fn is_end(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), ConnectionReset | BrokenPipe | ConnectionAborted | UnexpectedEof)
}

/// Says HELLO; a connection that is closed already may not take it.
fn greet(stream: &mut (impl Read + Write), user: u64) -> Result<bool, Farewell> {
    match stream.write_all(&hello(user)) {
        Ok(()) => first_word(stream),
        Err(error) if is_end(&error) => Ok(false),
        Err(error) => panic!("HELLO is taken or refused, not {error}"),
    }
}

#[test]
fn every_listener_serves_both_families() {
    let both = "['127.0.0.1:0', '[::1]:0']";
    let rig = Rig::start(&format!("tcp = {both}\ntls = {both}\nthreads = 2"));
    for (user, address) in (0..).zip(&rig.addresses.tcp) {
        assert_eq!(greet(&mut connect(*address), user), Ok(true), "{address}");
    }
    for (user, address) in (10..).zip(&rig.addresses.tls) {
        let mut stream = over_tls(&rig, connect(*address));
        assert_eq!(greet(&mut stream, user), Ok(true), "{address}");
    }
    assert!(rig.addresses.tcp.iter().chain(&rig.addresses.tls).any(SocketAddr::is_ipv6));
}

#[test]
fn silent_connections_have_a_budget_and_sessions_are_not_in_it() {
    let rig = Rig::start(
        "tcp = ['127.0.0.1:0']\ntls = ['127.0.0.1:0']\nthreads = 1\n\
         [admission]\nconnections_max = 4\nper_address = 1000",
    );
    let (tcp, tls) = (rig.addresses.tcp[0], rig.addresses.tls[0]);
    // Sessions that are open do not count, however many.
    let mut open = Vec::new();
    for user in 0..10 {
        let mut stream = connect(tcp);
        assert_eq!(greet(&mut stream, user), Ok(true));
        open.push(stream);
    }
    let mut silent: Vec<TcpStream> = (0..4).map(|_| connect(tcp)).collect();
    assert_eq!(first_word(&mut connect(tcp)), Err(elsewhere()), "told at once");
    assert_eq!(greet(&mut over_tls(&rig, connect(tls)), 20), Ok(false), "before any cryptography");
    assert_eq!(greet(&mut silent[0], 30), Ok(true), "who is in stays in");
    let mut next = over_tls(&rig, connect(tls));
    assert_eq!(greet(&mut next, 31), Ok(true), "its place was free");
}

#[test]
fn a_burst_comes_in_and_then_the_rate_decides() {
    let rig = Rig::start(
        "tcp = ['127.0.0.1:0']\nthreads = 1\n\
         [admission]\nhandshakes_per_second = 1\nburst = 5\nper_address = 1000",
    );
    let started = Instant::now();
    let mut welcomed = 0_u64;
    let mut refused = 0;
    while refused < 20 {
        match greet(&mut connect(rig.addresses.tcp[0]), welcomed) {
            Ok(true) => welcomed += 1,
            // A HELLO that crossed the farewell may have reset the connection before it was read.
            Ok(false) => refused += 1,
            Err(farewell) => {
                assert_eq!(farewell, elsewhere());
                refused += 1;
            }
        }
    }
    assert!((5..=6 + started.elapsed().as_secs()).contains(&welcomed), "{welcomed}");
    while greet(&mut connect(rig.addresses.tcp[0]), welcomed) != Ok(true) {
        assert!(started.elapsed() < PATIENCE, "a second later there is room again");
        std::thread::yield_now();
    }
}

/// A thousand who stop in the middle of HELLO or of a handshake are told, or closed, in time; and
/// meanwhile others come in.
#[test]
fn a_thousand_half_open_connections_are_closed_and_keep_nobody_out() {
    let rig = Rig::start(
        "tcp = ['127.0.0.1:0']\ntls = ['127.0.0.1:0']\nthreads = 1\n\
         [session]\ngreeting_ms_max = 1000\nhandshake_ms_max = 1500\n",
    );
    let started = Instant::now();
    let open = |address: SocketAddr, said: &[u8]| {
        let mut stream = connect(address);
        stream.write_all(said).expect("taken");
        stream
    };
    let plain: Vec<_> = (0..500).map(|_| open(rig.addresses.tcp[0], &hello(1)[..9])).collect();
    let secured: Vec<_> = (0..500)
        .map(|_| open(rig.addresses.tls[0], &[22, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3]))
        .collect();
    for user in 0..20 {
        assert_eq!(greet(&mut connect(rig.addresses.tcp[0]), user), Ok(true));
    }
    for mut stream in plain {
        assert_eq!(first_word(&mut stream), Err(Farewell::Refused(ErrorCode::Timeout)));
        assert_eq!(stream.read(&mut [0; 8]).unwrap_or(0), 0, "and closed");
    }
    for mut stream in secured {
        assert_eq!(first_word(&mut stream), Ok(false), "an ERROR frame would be no TLS");
    }
    assert!(started.elapsed() >= Duration::from_millis(1_000), "not before its deadline");
}

/// The worst that a TLS peer can leave before HELLO is whole: all of the longest first frame but
/// its last byte, and the start of a record. With a token under check that is below 4 KiB.
#[test]
fn before_hello_a_tls_peer_can_leave_four_kilobytes_and_no_more() {
    let patient = "[session]\ngreeting_ms_max = 60000";
    let rig = Rig::start(&format!("tls = ['127.0.0.1:0']\nthreads = 1\n{patient}"));
    let mut peer = over_tls(&rig, connect(rig.addresses.tls[0]));
    let mut frame = vec![0; FRAME_HEADER_BYTES + GREETING_PAYLOAD_BYTES_MAX];
    frame[..8].copy_from_slice(&[0, 4, kind::HELLO, 0, 1, 0, 0, 0]);
    peer.write_all(&frame[..frame.len() - 1]).expect("taken");
    peer.flush().expect("sent");
    let mut record = Vec::new();
    peer.conn.writer().write_all(&[0; 8_000]).expect("buffered");
    peer.conn.write_tls(&mut record).expect("a vector takes all");
    peer.sock.write_all(&record[..GREETING_RECORD_BYTES_MAX]).expect("taken");
    // One thread serves both: when the other has been welcomed, what came before was read.
    assert_eq!(greet(&mut over_tls(&rig, connect(rig.addresses.tls[0])), 1), Ok(true));
    peer.sock.set_nonblocking(true).expect("a socket");
    // Two tickets of the handshake may lie there; the connection is open.
    while let Ok(count @ 1..) = peer.conn.read_tls(&mut peer.sock) {
        assert!(count > 0);
    }
    let state = peer.conn.process_new_packets().expect("no alert");
    assert!(!state.peer_has_closed());
    peer.sock.set_nonblocking(false).expect("a socket");
    peer.sock.write_all(&record[GREETING_RECORD_BYTES_MAX..=GREETING_RECORD_BYTES_MAX]).ok();
    assert_eq!(first_word(&mut peer), Ok(false), "one byte more ends it");
}
