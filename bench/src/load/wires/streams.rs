//! Many TCP connections on one epoll.

use super::{Received, Signal, stream::Stream};
use crate::load::Target;
use anyhow::Result;
use mio::{Events, Interest, Poll, Token, net::TcpStream};
use rustls::{ClientConfig, ClientConnection, pki_types::ServerName};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::{
    io::{self, ErrorKind},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

/// Connections per source address: far below the 28,000 ephemeral ports that each has, so that
/// ports never bind even when connections come and go.
const CONNECTIONS_PER_ADDRESS: usize = 2_048;
/// RST instead of FIN, so that a closed connection leaves no TIME_WAIT behind.
const LINGER: Option<Duration> = Some(Duration::ZERO);
/// Read at one time from a socket.
const BUFFER_BYTES: usize = 1 << 16;

/// See the module.
pub(crate) struct Streams {
    poll: Poll,
    events: Events,
    streams: Vec<Option<Stream>>,
    address: SocketAddr,
    /// Settings and the name that the certificate must bear; `None`: plain TCP.
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    buffer: Box<[u8]>,
}

impl Streams {
    pub(super) fn new(target: &Target) -> Result<Self> {
        Ok(Self {
            poll: Poll::new()?,
            events: Events::with_capacity(1_024),
            streams: Vec::new(),
            address: target.address,
            tls: target.tls.clone(),
            buffer: vec![0; BUFFER_BYTES].into_boxed_slice(),
        })
    }

    pub(super) fn connect(&mut self, place: usize, number: usize) -> io::Result<()> {
        let mut socket = connect(self.address, number)?;
        let tls = match &self.tls {
            None => None,
            Some((config, name)) => {
                let connection = ClientConnection::new(Arc::clone(config), name.clone());
                let mut connection = connection.map_err(io::Error::other)?;
                // What the kernel does not take waits with us, not there.
                connection.set_buffer_limit(None);
                Some(Box::new(connection))
            }
        };
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(&mut socket, Token(place), interest)?;
        if self.streams.len() <= place {
            self.streams.resize_with(place + 1, || None);
        }
        self.streams[place] = Some(Stream::new(socket, tls));
        Ok(())
    }

    pub(super) fn poll(
        &mut self,
        wait: Duration,
        signals: &mut Vec<(usize, Signal)>,
    ) -> io::Result<()> {
        self.poll.poll(&mut self.events, Some(wait)).or_else(|error| match error.kind() {
            ErrorKind::Interrupted => Ok(()),
            _ => Err(error),
        })?;
        for event in &self.events {
            let place = event.token().0;
            let Some(stream) = self.streams.get_mut(place).and_then(Option::as_mut) else {
                continue;
            };
            let readable = event.is_readable() || event.is_read_closed() || event.is_error();
            if stream.is_secured() {
                if event.is_writable() && !stream.flush() {
                    signals.push((place, Signal::Lost));
                } else if readable {
                    signals.push((place, Signal::Bytes));
                }
            } else {
                greet(stream, place, readable, &mut self.buffer, signals);
            }
        }
        Ok(())
    }

    pub(super) fn send(&mut self, place: usize, bytes: &[u8]) -> bool {
        self.streams.get_mut(place).and_then(Option::as_mut).is_some_and(|s| s.send(bytes))
    }

    pub(super) fn receive(&mut self, place: usize, into: &mut Vec<u8>) -> Received {
        match self.streams.get_mut(place).and_then(Option::as_mut) {
            Some(stream) => stream.receive(&mut self.buffer, into),
            None => Received::Ended,
        }
    }

    pub(super) fn close(&mut self, place: usize) -> bool {
        self.streams.get_mut(place).and_then(Option::take).is_some()
    }

    pub(super) fn is_there(&self, place: usize) -> bool {
        self.streams.get(place).is_some_and(Option::is_some)
    }

    pub(super) fn was_resumed(&self, place: usize) -> bool {
        let stream = self.streams.get(place).and_then(Option::as_ref);
        let tls = stream.and_then(|stream| stream.tls.as_ref());
        tls.and_then(|tls| tls.handshake_kind()) == Some(rustls::HandshakeKind::Resumed)
    }
}

/// The way from a new socket to one that carries frames.
fn greet(
    stream: &mut Stream,
    place: usize,
    readable: bool,
    buffer: &mut [u8],
    signals: &mut Vec<(usize, Signal)>,
) {
    if !stream.connected {
        let refused = stream.socket.take_error().map_or(true, |error| error.is_some());
        if refused || stream.socket.peer_addr().is_err() {
            signals.push((place, Signal::Lost));
            return;
        }
        stream.connected = true;
    }
    // No server speaks before the first frame of its client.
    let mut early = Vec::new();
    let over = readable && stream.receive(buffer, &mut early) == Received::Ended;
    if over || !early.is_empty() || !stream.flush() {
        signals.push((place, Signal::Lost));
    } else if stream.is_secured() {
        signals.push((place, Signal::Open));
    }
}

/// Begins to connect the `number`-th connection.
fn connect(address: SocketAddr, number: usize) -> io::Result<TcpStream> {
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    if address.is_ipv4() && address.ip().is_loopback() {
        let number = number / CONNECTIONS_PER_ADDRESS;
        let third = u8::try_from(number % 256).expect("below 256");
        let source = IpAddr::V4(Ipv4Addr::new(127, 2, third, 1));
        socket.bind(&SockAddr::from(SocketAddr::new(source, 0)))?;
    }
    socket.set_tcp_nodelay(true)?;
    socket.set_linger(LINGER)?;
    match socket.connect(&SockAddr::from(address)) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        _ => Ok(TcpStream::from_std(socket.into())),
    }
}
