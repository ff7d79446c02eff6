//! The attack: a thread that holds connections half-way, each in one of several manners, and opens
//! again what the server closes.

use super::encrypted::{self, Encrypted, is_over};
use crate::load::Target;
use anyhow::{Context, Result};
use mio::{Events, Interest, Poll, Token, net::TcpStream};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, crypto::aws_lc_rs, pki_types::ServerName,
    version::TLS13,
};
use serde::Serialize;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::{
    io::{self, ErrorKind, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};
use yao_protocol::{
    client::Hello,
    endpoint::{ALPN, Endpoint},
    limits::GREETING_RECORD_BYTES_MAX,
};

/// Source addresses of the attack.
const ADDRESSES: usize = 64;
/// The attack grows evenly over this time, and opens again no faster: what the server closes after
/// 3 s or 5 s then comes evenly, too, and not in waves between which there is peace.
const GROWTH: Duration = Duration::from_secs(3);
/// Connections opened in one go. What comes over a network comes one by one; a burst would be
/// another attack.
const OPENED_AT_ONCE: usize = 16;
/// Between two bytes of a dribbled HELLO.
const DRIP: Duration = Duration::from_millis(400);
/// How long the attacker sleeps when nothing happens.
const REST: Duration = Duration::from_millis(1);
/// RST instead of FIN: nothing is left behind.
const LINGER: Option<Duration> = Some(Duration::ZERO);

/// How a connection is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    /// TCP, and not a byte.
    Silent,
    /// HELLO, a byte now and then.
    Dribble,
    /// Half a ClientHello.
    HalfGreeting,
    /// A whole ClientHello, and no answer to what the server says.
    HalfHandshake,
    /// The whole handshake, and nothing after it.
    Secured,
    /// The whole handshake, nearly all of a frame, and the start of a record: the most that a
    /// server keeps.
    CutRecord,
}

/// Of eight connections each is held in its own manner. Handshakes are a quarter: they cost CPU,
/// and this attack is about patience. [`Manner::Secured`] is only measured by itself.
const MANNERS: [Manner; 8] = [
    Manner::Silent,
    Manner::HalfGreeting,
    Manner::Dribble,
    Manner::HalfHandshake,
    Manner::Silent,
    Manner::HalfGreeting,
    Manner::Dribble,
    Manner::CutRecord,
];

/// Who takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Crowd {
    /// Every manner.
    All,
    /// Only handshakes and nothing after them.
    Secured,
    /// Only those who leave the most.
    CutRecord,
}

impl Crowd {
    fn of(number: u8) -> Self {
        [Self::All, Self::Secured, Self::CutRecord][usize::from(number)]
    }

    fn manner(self, number: usize) -> Manner {
        match self {
            Self::All => MANNERS[number % MANNERS.len()],
            Self::Secured => Manner::Secured,
            Self::CutRecord => Manner::CutRecord,
        }
    }
}

/// Connections that were opened, by how they were held.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Tally {
    silent: u64,
    dribble: u64,
    half_greeting: u64,
    half_handshake: u64,
    secured: u64,
    cut_record: u64,
    /// How many of them the server closed while they were wanted.
    closed_by_server: u64,
    /// Attempts that failed at once, refused ones among them.
    failed: u64,
    without_tls: bool,
}

impl Tally {
    /// Whether only plain TCP was attacked.
    pub(super) const fn is_without_tls(&self) -> bool {
        self.without_tls
    }

    /// The manners that never happened although they should have.
    pub(super) fn missing(&self) -> Vec<&'static str> {
        let encrypted = !self.without_tls;
        let all = [
            ("silence", self.silent, true),
            ("dribbling", self.dribble, true),
            ("half a greeting", self.half_greeting, encrypted),
            ("half a handshake", self.half_handshake, encrypted),
            ("a cut record", self.cut_record, encrypted),
        ];
        let absent = all.into_iter().filter(|(_, count, wanted)| *wanted && *count == 0);
        absent.map(|(name, ..)| name).collect()
    }
}

/// The attack, seen from outside of its thread.
pub(super) struct Holders {
    shared: Arc<Shared>,
    thread: JoinHandle<Result<Tally>>,
}

#[derive(Default)]
struct Shared {
    crowd: AtomicU8,
    wanted: AtomicUsize,
    held: AtomicUsize,
    settled: AtomicUsize,
    stop: AtomicBool,
}

impl Holders {
    /// An attack that holds nothing yet. `target` lends it a HELLO.
    pub(super) fn start(plain: &Endpoint, tls: Option<&Endpoint>, target: &Target) -> Result<Self> {
        let shared = Arc::<Shared>::default();
        let attack = Attack {
            plain: resolve(plain)?,
            tls: tls.map(resolve).transpose()?,
            hello: hello(target),
            greeting: greeting()?,
            encryption: encrypted::config()?,
            crowd: Crowd::All,
            poll: Poll::new()?,
            places: Vec::new(),
            number: 0,
            dripped_at: Instant::now(),
            drip_place: 0,
            opened_at: Instant::now(),
            tally: Tally { without_tls: tls.is_none(), ..Tally::default() },
        };
        let seen = Arc::clone(&shared);
        let thread = thread::Builder::new().name("attack".to_owned());
        let thread = thread.spawn(move || attack.run(&seen)).context("cannot start a thread")?;
        Ok(Self { shared, thread })
    }

    /// From now on `count` connections are held. Who is there stays as he is.
    pub(super) fn hold(&self, crowd: Crowd, count: usize) {
        self.shared.crowd.store(crowd as u8, Relaxed);
        self.shared.wanted.store(count, Relaxed);
    }

    /// Connections that are held, as far as the attack knows.
    pub(super) fn held(&self) -> usize {
        self.shared.held.load(Relaxed)
    }

    /// Those of them that have left what they had to leave.
    pub(super) fn settled(&self) -> usize {
        self.shared.settled.load(Relaxed)
    }

    /// Ends the attack.
    ///
    /// # Errors
    /// It had no sockets.
    pub(super) fn stop(self) -> Result<Tally> {
        self.shared.stop.store(true, Relaxed);
        self.thread.join().ok().context("the attack panicked")?
    }
}

struct Held {
    socket: TcpStream,
    manner: Manner,
    /// Bytes of its text that were sent.
    sent: usize,
    /// Until its handshake is done and everything is left.
    encrypted: Option<Box<Encrypted>>,
}

struct Attack {
    plain: SocketAddr,
    tls: Option<SocketAddr>,
    hello: Vec<u8>,
    greeting: Vec<u8>,
    encryption: Arc<ClientConfig>,
    crowd: Crowd,
    poll: Poll,
    places: Vec<Option<Held>>,
    number: usize,
    /// Until when the pace of [`DRIP`] was used, and where it is.
    dripped_at: Instant,
    drip_place: usize,
    /// Until when the pace of [`GROWTH`] was used.
    opened_at: Instant,
    tally: Tally,
}

impl Attack {
    fn run(mut self, shared: &Shared) -> Result<Tally> {
        // Attackers have machines of their own: ours must not take theirs from node and visitors.
        // The kernel keeps this for each thread.
        rustix::process::nice(19).context("cannot step back")?;
        let mut events = Events::with_capacity(1_024);
        while !shared.stop.load(Relaxed) {
            let wanted = shared.wanted.load(Relaxed);
            self.crowd = Crowd::of(shared.crowd.load(Relaxed));
            self.places.truncate(wanted);
            self.places.resize_with(wanted, || None);
            self.open_missing()?;
            let held = self.places.iter().flatten();
            shared.held.store(held.clone().count(), Relaxed);
            let settled = held.filter(|held| held.sent > 0 && held.encrypted.is_none());
            shared.settled.store(settled.count(), Relaxed);
            match self.poll.poll(&mut events, Some(REST)) {
                Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error.into()),
                _ => {}
            }
            for event in &events {
                self.handle(event.token().0, event.is_writable());
            }
            self.drip();
        }
        Ok(self.tally)
    }

    fn open_missing(&mut self) -> Result<()> {
        let passed = self.opened_at.elapsed();
        let due = self.places.len() as f64 * passed.as_secs_f64() / GROWTH.as_secs_f64();
        if due < 1.0 {
            return Ok(());
        }
        // What was not needed is not saved up, but a fraction of one is: turns are short.
        let fraction = GROWTH.mul_f64(due.fract() / self.places.len() as f64);
        self.opened_at = Instant::now().checked_sub(fraction).unwrap_or_else(Instant::now);
        let due = (due as usize).min(OPENED_AT_ONCE);
        let free = |(place, held): (usize, &Option<Held>)| held.is_none().then_some(place);
        let missing: Vec<usize> =
            self.places.iter().enumerate().filter_map(free).take(due).collect();
        for place in missing {
            self.number += 1;
            let (manner, address) = match (self.crowd.manner(self.number), self.tls) {
                (manner @ (Manner::Silent | Manner::Dribble), _) => (manner, self.plain),
                (manner, Some(tls)) => (manner, tls),
                (Manner::HalfGreeting | Manner::Secured, None) => (Manner::Silent, self.plain),
                (_, None) => (Manner::Dribble, self.plain),
            };
            let leaves = (manner == Manner::CutRecord).then_some(GREETING_RECORD_BYTES_MAX);
            let encrypted = (leaves.is_some() || manner == Manner::Secured)
                .then(|| Encrypted::new(&self.encryption, leaves).map(Box::new))
                .transpose()?;
            let mut socket =
                connect(address, self.number).context("cannot connect; see `ulimit -n`")?;
            let interest = Interest::READABLE | Interest::WRITABLE;
            self.poll.registry().register(&mut socket, Token(place), interest)?;
            self.places[place] = Some(Held { socket, manner, sent: 0, encrypted });
        }
        Ok(())
    }

    /// Something happened at `place`.
    fn handle(&mut self, place: usize, writable: bool) {
        let Some(Some(held)) = self.places.get_mut(place) else { return };
        if let Some(encrypted) = &mut held.encrypted {
            match encrypted.progress(&mut held.socket) {
                Ok(false) => {}
                Ok(true) => {
                    held.encrypted = None;
                    held.sent = 1;
                    let leaves = held.manner == Manner::CutRecord;
                    self.tally.cut_record += u64::from(leaves);
                    self.tally.secured += u64::from(!leaves);
                }
                Err(error) if error.kind() == ErrorKind::NotConnected => {}
                Err(_) => {
                    self.tally.failed += 1;
                    self.places[place] = None;
                }
            }
            return;
        }
        if writable && held.socket.peer_addr().is_ok() && held.sent == 0 {
            let (text, count) = match held.manner {
                Manner::Silent => (&self.hello[..0], &mut self.tally.silent),
                Manner::Dribble => (&self.hello[..1], &mut self.tally.dribble),
                Manner::HalfGreeting => {
                    (&self.greeting[..self.greeting.len() / 2], &mut self.tally.half_greeting)
                }
                Manner::HalfHandshake => (&self.greeting[..], &mut self.tally.half_handshake),
                Manner::Secured | Manner::CutRecord => return,
            };
            // A connection that breaks here is found below.
            held.sent = held.socket.write(text).unwrap_or(0).max(1);
            *count += 1;
        }
        if is_over(&mut held.socket) {
            let counter = if held.sent > 0 {
                &mut self.tally.closed_by_server
            } else {
                &mut self.tally.failed
            };
            *counter += 1;
            self.places[place] = None;
        }
    }

    /// One more byte of HELLOs whose turn has come, never the last. The turns are spread evenly: a
    /// thousand writes at one moment would be another attack.
    fn drip(&mut self) {
        let passed = self.dripped_at.elapsed().as_secs_f64();
        let due = (self.places.len() as f64 * passed / DRIP.as_secs_f64()) as usize;
        if due == 0 {
            return;
        }
        self.dripped_at = Instant::now();
        for _ in 0..due.min(self.places.len()) {
            self.drip_place = (self.drip_place + 1) % self.places.len();
            let Some(held) = &mut self.places[self.drip_place] else { continue };
            let more = held.manner == Manner::Dribble && held.sent > 0;
            if more && held.sent + 1 < self.hello.len() {
                let next = &self.hello[held.sent..=held.sent];
                held.sent += held.socket.write(next).unwrap_or(0);
            }
        }
    }
}

fn hello(target: &Target) -> Vec<u8> {
    let token = target.token(yao_protocol::UserId(1 << 40));
    let hello = Hello {
        version_min: 1,
        version_max: 1,
        software: 1,
        campaign: target.campaign,
        tally: None,
        token: token.as_bytes(),
    };
    let mut bytes = Vec::new();
    hello.put(&mut bytes, 1);
    bytes
}

/// A good ClientHello. Its handshake never ends, so nobody need be believed.
fn greeting() -> Result<Vec<u8>> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&TLS13])
        .context("TLS 1.3 is not built in")?
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    let name = ServerName::try_from("localhost")?;
    let mut bytes = Vec::new();
    ClientConnection::new(Arc::new(config), name)?.write_tls(&mut bytes)?;
    Ok(bytes)
}

/// Where `endpoint` is.
///
/// # Errors
/// A name that does not resolve.
pub(super) fn resolve(endpoint: &Endpoint) -> Result<SocketAddr> {
    let mut addresses = endpoint
        .address()
        .to_socket_addrs()
        .with_context(|| format!("{endpoint}: the host is not known"))?;
    addresses.next().with_context(|| format!("{endpoint} has no address"))
}

/// Begins to connect, on loopback from one of [`ADDRESSES`].
fn connect(address: SocketAddr, number: usize) -> io::Result<TcpStream> {
    let socket =
        Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    if address.is_ipv4() && address.ip().is_loopback() {
        let third = u8::try_from(number % ADDRESSES).expect("below 256");
        let source = IpAddr::V4(Ipv4Addr::new(127, 3, third, 1));
        socket.bind(&SockAddr::from(SocketAddr::new(source, 0)))?;
    }
    socket.set_linger(LINGER)?;
    match socket.connect(&SockAddr::from(address)) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        _ => Ok(TcpStream::from_std(socket.into())),
    }
}
