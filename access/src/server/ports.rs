//! Pollers, inboxes and listening sockets of the shard threads, opened before any of them runs.

use crate::{
    config::{Config, ListenConfig},
    inbox::{Inbox, Outlet, inbox},
    messages::ToShard,
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
pub(super) struct Addresses {
    pub(super) tcp: Vec<SocketAddr>,
    pub(super) tls: Vec<SocketAddr>,
}

/// What every thread of sessions is started with, and how to reach it.
pub(super) struct Opened {
    pub(super) shards: Vec<Ports>,
    pub(super) outlets: Vec<Outlet<ToShard>>,
    pub(super) addresses: Addresses,
}

/// How many shard threads `listen` asks for.
pub(super) fn shard_thread_count(listen: &ListenConfig) -> u16 {
    if listen.threads > 0 {
        return listen.threads;
    }
    let cores = thread::available_parallelism().map_or(1, usize::from);
    u16::try_from(cores.min(256)).expect("bounded just now")
}

/// Opens everything.
pub(super) fn open(config: &Config, tls: &TlsSettings) -> Result<Opened> {
    let listen = &config.listen;
    // Port 0 is settled by the first thread; the others share what it got.
    let mut addresses = Addresses { tcp: listen.tcp.clone(), tls: listen.tls.clone() };
    let (mut shards, mut outlets) = (Vec::new(), Vec::new());
    for thread in 0..shard_thread_count(listen) {
        let first = thread == 0;
        let mut listeners = listeners(&mut addresses.tcp, "listen.tcp", first, false)?;
        listeners.extend(self::listeners(&mut addresses.tls, "listen.tls", first, true)?);
        let poll = Poll::new()?;
        let (outlet, queue) = thread_inbox(&poll)?;
        outlets.push(outlet);
        shards.push(Ports::new(poll, queue, listeners, tls.clone())?);
    }
    Ok(Opened { shards, outlets, addresses })
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
