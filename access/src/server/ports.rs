//! Pollers, inboxes and listening sockets of the threads of sessions, opened before any of them
//! runs.

use super::threads::Way;
use crate::{
    config::Config,
    inbox::{Inbox, Outlet, inbox},
    messages::ToShard,
    quic::{QuicPorts, ResetSecret},
    shard::{self, Listener, Ports},
    tls::TlsSettings,
};
use anyhow::{Context, Result};
use mio::{Poll, Waker};
use std::{net::SocketAddr, thread};

/// Messages that may wait for a thread of sessions.
const SHARD_QUEUE: usize = 65_536;

/// Where clients can connect, with the ports that were found for 0.
#[derive(Clone, Debug, Default)]
pub(crate) struct Addresses {
    pub(crate) tcp: Vec<SocketAddr>,
    pub(crate) tls: Vec<SocketAddr>,
    pub(crate) quic: Vec<SocketAddr>,
}

/// What every thread of sessions is started with, and how to reach it.
pub(super) struct Opened {
    pub(super) ways: Vec<Way>,
    pub(super) outlets: Vec<Outlet<ToShard>>,
    pub(super) addresses: Addresses,
}

/// As many threads as were asked for; 0 is one per core.
fn thread_count(asked: u16) -> u16 {
    if asked > 0 {
        return asked;
    }
    let cores = thread::available_parallelism().map_or(1, usize::from);
    u16::try_from(cores.min(256)).expect("bounded just now")
}

/// Opens everything.
pub(super) fn open(config: &Config, tls: &TlsSettings, resets: &ResetSecret) -> Result<Opened> {
    let listen = &config.listen;
    // Port 0 is settled by the first thread; the others share what it got.
    let mut addresses =
        Addresses { tcp: listen.tcp.clone(), tls: listen.tls.clone(), quic: listen.quic.clone() };
    let (mut ways, mut outlets) = (Vec::new(), Vec::new());
    let stream_threads = if listen.tcp.is_empty() && listen.tls.is_empty() {
        0
    } else {
        thread_count(listen.threads)
    };
    for thread in 0..stream_threads {
        let first = thread == 0;
        let mut listeners = listeners(&mut addresses.tcp, "listen.tcp", first, false)?;
        listeners.extend(self::listeners(&mut addresses.tls, "listen.tls", first, true)?);
        let poll = Poll::new()?;
        let (outlet, queue) = thread_inbox(&poll)?;
        outlets.push(outlet);
        ways.push(Way::Streams(Box::new(Ports::new(
            poll,
            queue,
            listeners,
            tls.clone(),
            listen.proxy_from.clone(),
        )?)));
    }
    let quic_threads = u8::try_from(thread_count(listen.quic_threads).min(64)).expect("64 at most");
    for address in &mut addresses.quic {
        for thread in 0..quic_threads {
            let taken = || format!("cannot listen on {address} (UDP) for listen.quic");
            if thread == 0 && address.port() != 0 {
                std::net::UdpSocket::bind(*address).map(drop).with_context(taken)?;
            }
            let poll = Poll::new()?;
            let (outlet, queue) = thread_inbox(&poll)?;
            let place = (thread, quic_threads);
            let ports = QuicPorts::open(*address, place, poll, queue, tls.clone(), resets)
                .with_context(taken)?;
            *address = ports.local_addr()?;
            outlets.push(outlet);
            ways.push(Way::Quic(Box::new(ports)));
        }
    }
    Ok(Opened { ways, outlets, addresses })
}

fn thread_inbox(poll: &Poll) -> Result<(Outlet<ToShard>, Inbox<ToShard>)> {
    let waker = Waker::new(poll.registry(), shard::WAKE)?;
    Ok(inbox(SHARD_QUEUE, waker))
}

fn listeners(
    addresses: &mut [SocketAddr],
    key: &'static str,
    first: bool,
    tls: bool,
) -> Result<Vec<Listener>> {
    addresses
        .iter_mut()
        .map(|address| {
            let taken =
                || format!("cannot listen on {address} for {key}; is another process there?");
            if first && address.port() != 0 {
                refuse_busy_port(*address).with_context(taken)?;
            }
            let socket = shard::listen(*address).with_context(taken)?;
            *address = socket.local_addr()?;
            Ok(Listener { socket, tls })
        })
        .collect()
}

/// SO_REUSEPORT would let two nodes share a port, each getting half of the clients: a plain bind
/// notices the other one first.
fn refuse_busy_port(address: SocketAddr) -> std::io::Result<()> {
    std::net::TcpListener::bind(address).map(drop)
}
