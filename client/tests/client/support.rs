//! The server's end: doors for each transport with certificates of their own, and peers that follow
//! a script, frame by frame. Nothing waits for a clock where an event will do.

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::{
    ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
};
use rustls_pki_types::PrivatePkcs8KeyDer;
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use yao_client::{
    Config, Error, Event, Events, TokenSource,
    link::{Transport, trust::Trust},
    reconnect::BackOff,
};
use yao_protocol::{
    CampaignId, Epoch, Fen, KeyId, PacketId, ShakeId, SponsorId, SponsorSet, UserId, WallTime,
    WaveIndex,
    client::{
        ClientMessage, NoWin, NoWinReason, Shake, VERSION, Welcome, put_pong, put_receipt, put_win,
    },
    endpoint::{ALPN, Endpoint},
    frame::split_frame,
    hex,
    keys::{MacKey, SignKey},
    limits::CLIENT_PAYLOAD_BYTES_MAX,
    receipt::Receipt,
    reconnect::is_reconnect,
    tally::Tally,
    ticket::{Ticket, TicketBody},
};

pub(crate) const CAMPAIGN: CampaignId = CampaignId(2015);
pub(crate) const USER: UserId = UserId(77);
/// Nothing here takes this long unless it is broken.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A stream of bytes in both directions.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<Any: AsyncRead + AsyncWrite + Unpin + Send> Stream for Any {}

/// A certificate for localhost and 127.0.0.1 that signs itself, and what serves with it.
pub(crate) struct Identity {
    certified: CertifiedKey<rcgen::KeyPair>,
}

impl Identity {
    pub(crate) fn new() -> Self {
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        Self { certified: generate_simple_self_signed(names).expect("a certificate") }
    }

    pub(crate) fn trust(&self) -> Trust {
        Trust::from_pem(self.certified.cert.pem().as_bytes()).expect("our own certificate")
    }

    pub(crate) fn server(&self, alpn: &[u8]) -> ServerConfig {
        self.server_with(aws_lc_rs::default_provider(), alpn)
    }

    pub(crate) fn server_with(&self, provider: CryptoProvider, alpn: &[u8]) -> ServerConfig {
        let key = PrivatePkcs8KeyDer::from(self.certified.signing_key.serialize_der());
        let mut config = ServerConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("suites of TLS 1.3")
            .with_no_client_auth()
            .with_single_cert(vec![self.certified.cert.der().clone()], key.into())
            .expect("key and certificate fit");
        config.alpn_protocols = vec![alpn.to_vec()];
        config
    }
}

/// Where clients come in.
pub(crate) enum Door {
    Tcp(TcpListener),
    Tls(TcpListener, TlsAcceptor),
    Quic(quinn::Endpoint),
}

impl Door {
    /// A door at `address`, often "127.0.0.1:0".
    pub(crate) async fn open(transport: Transport, address: &str, identity: &Identity) -> Self {
        let address: SocketAddr = address.parse().expect("an address");
        match transport {
            Transport::Tcp => Self::Tcp(TcpListener::bind(address).await.expect("a port")),
            Transport::Tls => {
                let acceptor = TlsAcceptor::from(Arc::new(identity.server(ALPN)));
                Self::Tls(TcpListener::bind(address).await.expect("a port"), acceptor)
            }
            Transport::Quic => {
                let crypto =
                    quinn::crypto::rustls::QuicServerConfig::try_from(identity.server(ALPN));
                let config =
                    quinn::ServerConfig::with_crypto(Arc::new(crypto.expect("QUIC's suite")));
                Self::Quic(quinn::Endpoint::server(config, address).expect("a port"))
            }
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        match self {
            Self::Tcp(listener) | Self::Tls(listener, _) => listener.local_addr(),
            Self::Quic(endpoint) => endpoint.local_addr(),
        }
        .expect("bound")
    }

    /// The endpoint that leads here.
    pub(crate) fn endpoint(&self) -> Endpoint {
        let scheme = match self {
            Self::Tcp(_) => "tcp",
            Self::Tls(..) => "tls",
            Self::Quic(_) => "quic",
        };
        format!("{scheme}://{}", self.address()).parse().expect("an endpoint")
    }

    /// The next client whose handshake succeeds; for QUIC, whose stream is open.
    async fn accept(&self) -> Peer {
        loop {
            match self {
                Self::Tcp(listener) => {
                    let (stream, address) = listener.accept().await.expect("accepts");
                    stream.set_nodelay(true).expect("TCP_NODELAY");
                    return Peer::new(Box::new(stream), address, None);
                }
                Self::Tls(listener, acceptor) => {
                    let (stream, address) = listener.accept().await.expect("accepts");
                    stream.set_nodelay(true).expect("TCP_NODELAY");
                    if let Ok(stream) = acceptor.accept(stream).await {
                        return Peer::new(Box::new(stream), address, None);
                    }
                }
                Self::Quic(endpoint) => {
                    let incoming = endpoint.accept().await.expect("not closed");
                    let Ok(connection) = incoming.await else { continue };
                    let Ok((send, receive)) = connection.accept_bi().await else { continue };
                    let address = connection.remote_address();
                    let stream = Box::new(tokio::io::join(receive, send));
                    return Peer::new(stream, address, Some(connection));
                }
            }
        }
    }
}

/// What the server saw, owned.
#[derive(Debug, PartialEq)]
pub(crate) enum Seen {
    /// A reconnect ticket is told in hexadecimal digits.
    Hello {
        token: String,
        tally: bool,
    },
    Shake(Shake),
    Open(Ticket),
    Ping,
    Bye,
    End,
}

/// The server's end of one connection.
pub(crate) struct Peer {
    stream: Box<dyn Stream>,
    pub(crate) address: SocketAddr,
    received: Vec<u8>,
    pub(crate) request_id: u32,
    quic: Option<quinn::Connection>,
}

impl Peer {
    fn new(stream: Box<dyn Stream>, address: SocketAddr, quic: Option<quinn::Connection>) -> Self {
        Self { stream, address, received: Vec::new(), request_id: 0, quic }
    }

    pub(crate) async fn accept(door: &Door) -> Self {
        timeout(PATIENCE, door.accept()).await.expect("a client comes")
    }

    /// Where packets of a QUIC client come from now.
    pub(crate) fn quic_address(&self) -> SocketAddr {
        self.quic.as_ref().expect("a QUIC peer").remote_address()
    }

    /// Accepts and welcomes; expects `token`.
    pub(crate) async fn welcome(door: &Door, token: &str, interval_ms: u32) -> (Self, bool) {
        // One connection that was given up before anything was said is followed by another.
        for _ in 0..2 {
            let mut peer = Self::accept(door).await;
            if let Some(tally) = peer.greet_unless_gone(token, interval_ms).await {
                return (peer, tally);
            }
        }
        panic!("the client gives up one connection after the other");
    }

    /// As [`Peer::welcome`] where the door is TCP or TLS; but the peer's end, when it is dropped,
    /// is a reset.
    pub(crate) async fn welcome_to_reset(door: &Door, token: &str) -> Self {
        let (Door::Tcp(listener) | Door::Tls(listener, _)) = door else { panic!("not over UDP") };
        let (stream, address) =
            timeout(PATIENCE, listener.accept()).await.expect("a client comes").expect("accepts");
        stream.set_zero_linger().expect("SO_LINGER");
        let stream: Box<dyn Stream> = match door {
            Door::Tls(_, acceptor) => Box::new(acceptor.accept(stream).await.expect("TLS")),
            _ => Box::new(stream),
        };
        let mut peer = Self::new(stream, address, None);
        peer.greet(token, 0).await;
        peer
    }

    /// Welcomes who came; expects `token`. Whether a tally came, too.
    async fn greet(&mut self, token: &str, interval_ms: u32) -> bool {
        let tally = self.greet_unless_gone(token, interval_ms).await;
        tally.expect("the first frame is HELLO")
    }

    /// The same; `None` when the client is gone.
    async fn greet_unless_gone(&mut self, token: &str, interval_ms: u32) -> Option<bool> {
        let (sent, tally) = match self.next().await {
            Seen::Hello { token, tally } => (token, tally),
            Seen::End => return None,
            _ => panic!("the first frame is HELLO"),
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
        let id = self.request_id;
        self.send(|out| welcome.put(out, id)).await;
        Some(tally)
    }

    /// The server's end of the stream goes; with QUIC the connection stays.
    pub(crate) fn drop_stream(self) -> Option<quinn::Connection> {
        self.quic
    }

    pub(crate) async fn next(&mut self) -> Seen {
        timeout(PATIENCE, self.next_unbounded()).await.expect("the client says something")
    }

    pub(crate) async fn next_unbounded(&mut self) -> Seen {
        loop {
            let frame = split_frame(&self.received, CLIENT_PAYLOAD_BYTES_MAX).expect("a frame");
            if let Some((frame, rest)) = frame {
                self.request_id = frame.header.request_id;
                let seen = match ClientMessage::decode(frame).expect("a message") {
                    ClientMessage::Hello(hello) => Seen::Hello {
                        token: if is_reconnect(hello.token) {
                            hex::encode(hello.token)
                        } else {
                            String::from_utf8(hello.token.to_vec()).expect("text")
                        },
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

    pub(crate) async fn send(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = Vec::new();
        write(&mut bytes);
        self.stream.write_all(&bytes).await.expect("the client reads");
        // TLS keeps what the socket did not take.
        self.stream.flush().await.expect("the client reads");
    }

    /// Sends byte by byte, each in a segment of its own as far as the kernel lets us.
    pub(crate) async fn trickle(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = Vec::new();
        write(&mut bytes);
        for byte in bytes {
            self.stream.write_all(&[byte]).await.expect("the client reads");
            self.stream.flush().await.expect("the client reads");
            tokio::task::yield_now().await;
        }
    }

    /// Answers the last frame.
    pub(crate) async fn pong(&mut self) {
        let id = self.request_id;
        self.send(|out| put_pong(out, id, WallTime(1))).await;
    }

    pub(crate) async fn no_win(&mut self, shake: ShakeId, reason: NoWinReason) {
        let id = self.request_id;
        let (server_time, interval_ms, cue, tier) = (WallTime(1), 20, 1, 0);
        let answer = NoWin { shake, server_time, interval_ms, cue, reason, tier };
        self.send(|out| answer.put(out, id)).await;
    }
}

pub(crate) fn mac_key() -> MacKey {
    MacKey::new(KeyId(1), [9; 32])
}

pub(crate) fn ticket(packet: u64, shake: ShakeId) -> Ticket {
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

pub(crate) fn put_win_of(out: &mut Vec<u8>, ticket: &Ticket) {
    let counted_at = WallTime(5);
    let tally =
        Tally { campaign: CAMPAIGN, user: USER, wins: 1, sponsors: SponsorSet::EMPTY, counted_at };
    put_win(out, 0, &ticket.encode(), &tally.encode(&mac_key()));
}

pub(crate) fn put_receipt_of(out: &mut Vec<u8>, packet: PacketId) {
    let receipt = Receipt { campaign: CAMPAIGN, packet, user: USER, accepted_at: WallTime(9) };
    put_receipt(out, 0, &receipt.encode(&mac_key()));
}

/// A door, and the configuration of a client that comes through it.
pub(crate) async fn listen_by(transport: Transport) -> (Door, Config) {
    let identity = Identity::new();
    let door = Door::open(transport, "127.0.0.1:0", &identity).await;
    let token = TokenSource::Fixed("token".to_owned());
    let mut config = Config::new(vec![door.endpoint().to_string()], CAMPAIGN, token);
    config.trust = Some(identity.trust());
    config.back_off = BackOff { first_ms_max: 5, last_ms_max: 20 };
    (door, config)
}

/// The next event that `choose` accepts; others are skipped.
pub(crate) async fn until<Found>(
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

/// What the next session runs over, and by which endpoint it was reached.
pub(crate) async fn connected_by(events: &mut Events) -> (Transport, String) {
    let search = until(events, |event| match event {
        Event::Connected { transport, endpoint, .. } => Some((transport, endpoint)),
        _ => None,
    });
    search.await
}

pub(crate) fn is_connected(event: Event) -> Option<()> {
    matches!(event, Event::Connected { .. }).then_some(())
}

pub(crate) fn stopped(event: Event) -> Option<Error> {
    match event {
        Event::Stopped(error) => Some(error),
        _ => None,
    }
}
