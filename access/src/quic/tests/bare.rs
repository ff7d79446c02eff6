//! A client driven by hand: each of its datagrams passes through the test, which may look at it,
//! change it, keep it, or lead it elsewhere.
#![expect(clippy::disallowed_methods, reason = "a client has a clock of its own")]

use super::{PATIENCE, put_hello, put_shake};
use bytes::BytesMut;
use quinn_proto::{
    ClientConfig, Connection, ConnectionError, ConnectionHandle, DatagramEvent, Dir, Endpoint,
    EndpointConfig, Event, StreamId,
};
use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::Arc,
    time::{Duration, Instant},
};
use yao_protocol::{
    ShakeId,
    client::{NoWinReason, ServerMessage},
    frame::split_frame,
    limits::CLIENT_PAYLOAD_BYTES_MAX,
};

/// Bit of a long header, the bits of its type, and the type of a Retry (RFC 9000 17.2).
const LONG: u8 = 0x80;
const TYPE: u8 = 0x30;
const RETRY: u8 = 0x30;

/// See the module.
pub(super) struct Bare {
    pub(super) socket: UdpSocket,
    pub(super) quic: Connection,
    /// Its handshake is done.
    pub(super) secured: bool,
    /// Why it is over.
    pub(super) lost: Option<ConnectionError>,
    /// Retry packets that it heard.
    pub(super) retries: u32,
    /// The node's connection ids that its packets went to, handshake left out.
    pub(super) ids: BTreeSet<[u8; 8]>,
    /// What came on its stream and was not looked at yet.
    heard: Vec<u8>,
    endpoint: Endpoint,
    handle: ConnectionHandle,
    server: SocketAddr,
    stream: Option<StreamId>,
}

pub(super) fn now() -> Instant {
    Instant::now()
}

pub(super) fn is_retry(datagram: &[u8]) -> bool {
    datagram[0] & (LONG | TYPE) == LONG | RETRY
}

/// A socket on loopback that talks to `server`.
pub(super) fn socket(server: SocketAddr) -> UdpSocket {
    match server.ip() {
        IpAddr::V4(_) => UdpSocket::bind("127.0.0.1:0").expect("a socket"),
        IpAddr::V6(_) => UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).expect("a socket"),
    }
}

/// The next datagram that comes from `server`, if one comes in time. Others are meant for whoever
/// had this port before.
pub(super) fn heard_from(
    server: SocketAddr,
    socket: &UdpSocket,
    patience: Duration,
) -> Option<Vec<u8>> {
    let end = now() + patience;
    let mut bytes = [0; 2_048];
    loop {
        let rest = end.saturating_duration_since(now()).max(Duration::from_millis(1));
        socket.set_read_timeout(Some(rest)).expect("a socket");
        match socket.recv_from(&mut bytes) {
            Ok((count, from)) if from == server => return Some(bytes[..count].to_vec()),
            Ok(_) => {}
            Err(_) => return None,
        }
    }
}

impl Bare {
    /// A client that has something to say, and did not.
    pub(super) fn new(server: SocketAddr, config: ClientConfig) -> Self {
        let mut endpoint = Endpoint::new(Arc::new(EndpointConfig::default()), None, true, None);
        let connecting = endpoint.connect(now(), config, server, "localhost");
        let (handle, quic) = connecting.expect("a good name");
        Self {
            socket: socket(server),
            quic,
            secured: false,
            lost: None,
            retries: 0,
            ids: BTreeSet::new(),
            heard: Vec::new(),
            endpoint,
            handle,
            server,
            stream: None,
        }
    }

    /// A client whose handshake is done, and that says nothing more.
    pub(super) fn silent(server: SocketAddr, config: ClientConfig) -> Self {
        let mut bare = Self::new(server, config);
        bare.drive(|bare| bare.secured);
        bare
    }

    /// What it has to say now, each datagram by itself.
    pub(super) fn outgoing(&mut self) -> Vec<Vec<u8>> {
        let mut datagrams = Vec::new();
        let mut bytes = Vec::new();
        while self.quic.poll_transmit(now(), 1, &mut bytes).is_some() {
            if bytes[0] & LONG == 0 {
                self.ids.insert(bytes[1..9].try_into().expect("eight bytes"));
            }
            datagrams.push(std::mem::take(&mut bytes));
        }
        self.settle();
        datagrams
    }

    pub(super) fn send(&self, datagrams: &[Vec<u8>]) {
        for datagram in datagrams {
            self.socket.send_to(datagram, self.server).expect("sent");
        }
    }

    /// Says what it has to say.
    pub(super) fn speak(&mut self) {
        let datagrams = self.outgoing();
        self.send(&datagrams);
    }

    /// The next datagram of the node, if one comes in time.
    pub(super) fn receive(&self, patience: Duration) -> Option<Vec<u8>> {
        heard_from(self.server, &self.socket, patience)
    }

    /// Hears `datagram` as if the node had sent it.
    pub(super) fn take(&mut self, datagram: &[u8]) {
        self.retries += u32::from(is_retry(datagram));
        let data = BytesMut::from(datagram);
        let event = self.endpoint.handle(now(), self.server, None, None, data, &mut Vec::new());
        if let Some(DatagramEvent::ConnectionEvent(_, event)) = event {
            self.quic.handle_event(event);
        }
        self.settle();
    }

    /// Talks to the node until `done`.
    pub(super) fn drive(&mut self, done: impl Fn(&Self) -> bool) {
        let end = now() + PATIENCE;
        while !done(self) {
            assert!(now() < end, "it did not come; lost: {:?}", self.lost);
            self.speak();
            let timer = self.quic.poll_timeout().unwrap_or(end).min(end);
            if let Some(datagram) = self.receive(timer.saturating_duration_since(now())) {
                self.take(&datagram);
            }
            if self.quic.poll_timeout().is_some_and(|timer| timer <= now()) {
                self.quic.handle_timeout(now());
                self.settle();
            }
        }
        self.speak();
    }

    /// Lets the events out.
    fn settle(&mut self) {
        while let Some(event) = self.quic.poll_endpoint_events() {
            if let Some(event) = self.endpoint.handle_event(self.handle, event) {
                self.quic.handle_event(event);
            }
        }
        while let Some(event) = self.quic.poll() {
            match event {
                Event::Connected => self.secured = true,
                Event::ConnectionLost { reason } => self.lost = Some(reason),
                _ => {}
            }
        }
        let Some(id) = self.stream else { return };
        let mut stream = self.quic.recv_stream(id);
        let Ok(mut chunks) = stream.read(true) else { return };
        while let Ok(Some(chunk)) = chunks.next(usize::MAX) {
            self.heard.extend_from_slice(&chunk.bytes);
        }
        let _more = chunks.finalize();
    }

    /// Says `bytes` on its stream.
    pub(super) fn say(&mut self, bytes: &[u8]) {
        self.say_later(bytes);
        self.speak();
    }

    /// Has `bytes` to say on its stream.
    pub(super) fn say_later(&mut self, bytes: &[u8]) {
        let quic = &mut self.quic;
        let id = *self
            .stream
            .get_or_insert_with(|| quic.streams().open(Dir::Bi).expect("one stream is allowed"));
        let taken = self.quic.send_stream(id).write(bytes).expect("the stream is open");
        assert_eq!(taken, bytes.len());
    }

    /// The next message of the node.
    pub(super) fn hear<T>(&mut self, look: impl Fn(ServerMessage<'_>) -> T) -> T {
        let split = |bare: &Self| {
            let split = split_frame(&bare.heard, CLIENT_PAYLOAD_BYTES_MAX).expect("frames");
            split.map(|(frame, rest)| {
                (look(ServerMessage::decode(frame).expect("a message")), rest.len())
            })
        };
        self.drive(|bare| split(bare).is_some());
        let (seen, rest) = split(self).expect("just now");
        self.heard.drain(..self.heard.len() - rest);
        seen
    }

    /// Opens its session.
    pub(super) fn greet(&mut self, user: u64) {
        let mut bytes = Vec::new();
        put_hello(&mut bytes, user);
        self.say(&bytes);
        self.hear(|message| assert!(matches!(message, ServerMessage::Welcome(_)), "{message:?}"));
    }

    /// Shakes, and hears that nothing runs.
    pub(super) fn shake(&mut self, number: u64) {
        let mut bytes = Vec::new();
        put_shake(&mut bytes, number);
        self.say(&bytes);
        self.hear_no_win(number);
    }

    pub(super) fn hear_no_win(&mut self, number: u64) {
        let answered = self.hear(|message| match message {
            ServerMessage::NoWin(no) => (no.shake, no.reason),
            other => panic!("NO_WIN, not {other:?}"),
        });
        assert_eq!(answered, (ShakeId(number), NoWinReason::NotRunning));
    }

    /// From now on it speaks from `address`, and says so at once.
    pub(super) fn move_to(&mut self, address: IpAddr) {
        self.socket = UdpSocket::bind((address, 0)).expect("a socket");
        self.quic.local_address_changed();
        self.settle();
        self.speak();
    }
}
