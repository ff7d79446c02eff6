//! Listeners and the accept loop, which survives every error that a peer or a limit can cause.

use super::Shard;
use mio::net::TcpListener;
use socket2::{Domain, Protocol, Socket, Type};
use std::{
    io::{self, ErrorKind},
    net::SocketAddr,
};
use yao_engine::Timestamp;

/// Connections accepted before the thread looks at its other work again.
const ACCEPT_BATCH: usize = 256;
/// After running out of descriptors or memory, accepting rests this long, ms.
const ACCEPT_REST_MS: u64 = 100;
/// Connections the kernel may hold for us; it caps this at net.core.somaxconn.
const BACKLOG: i32 = 4_096;

/// A listening socket and what its connections speak.
#[derive(Debug)]
pub struct Listener {
    /// The socket.
    pub socket: TcpListener,
    /// Whether its connections speak TLS 1.3, or frames as they are.
    pub tls: bool,
}

/// A listener on `address` that shares it with the other shard threads (SO_REUSEPORT).
///
/// TCP_NODELAY is set here and inherited by every accepted socket, which saves a call for each.
///
/// # Errors
/// When the address cannot be bound: the text says which.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    if address.is_ipv6() {
        // An IPv4 address is configured as such; a v6 wildcard does not take it over.
        socket.set_only_v6(true)?;
    }
    socket.set_tcp_nodelay(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(TcpListener::from_std(socket.into()))
}

impl Shard<'_> {
    /// Accepts what is waiting, at most [`ACCEPT_BATCH`] of each listener.
    pub(super) fn accept(&mut self, now: Timestamp) {
        self.accept_at = Timestamp::NEVER;
        for index in 0..self.ports.listeners.len() {
            if let Err(rest_ms) = self.accept_from(now, index) {
                self.accept_at = self.accept_at.min(now.plus_ms(rest_ms));
            }
        }
    }

    /// `Err` tells after how many ms to try again: the edge that said "readable" is used up.
    fn accept_from(&mut self, now: Timestamp, index: usize) -> Result<(), u64> {
        for _ in 0..ACCEPT_BATCH {
            let Some(listener) = self.ports.listeners.get(index) else { return Ok(()) };
            match listener.socket.accept() {
                Ok((stream, _)) => {
                    let tls = listener.tls;
                    let sessions = &mut self.sessions;
                    let Some(connection) = sessions.engine.handle_accepted(now, !tls) else {
                        continue;
                    };
                    if sessions.carrier.insert(connection, stream, tls).is_err() {
                        sessions.carrier.counters.accept_errors += 1;
                        sessions.engine.handle_closed(connection.slot);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                // The peer gave up while it waited: the next one may be fine.
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::ConnectionAborted | ErrorKind::Interrupted
                    ) => {}
                Err(error) => {
                    self.sessions.carrier.counters.accept_errors += 1;
                    tracing::warn!(event = "accept_failed", %error, rest_ms = ACCEPT_REST_MS);
                    return Err(ACCEPT_REST_MS);
                }
            }
        }
        Err(0)
    }
}
