//! Listeners and the accept loop, which survives every error that a peer or a limit can cause.

use super::Shard;
use crate::sessions::Sessions;
use mio::net::{TcpListener, TcpStream};
use socket2::{Domain, Protocol, Socket, Type};
use std::{
    fs::File,
    io::{self, ErrorKind, Write},
    net::{IpAddr, SocketAddr},
};
use yao_engine::{
    Timestamp,
    admission::{Decision, Origin},
};
use yao_protocol::client::{ErrorCode, Refusal, RetryClass};

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
        let mut refused = 0_u64;
        for _ in 0..ACCEPT_BATCH {
            let Some(listener) = self.ports.listeners.get(index) else { return Ok(()) };
            let tls = listener.tls;
            match listener.socket.accept() {
                Ok((stream, peer)) => self.admit(now, stream, peer.ip(), tls),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                // The peer gave up while it waited: the next one may be fine.
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::ConnectionAborted | ErrorKind::Interrupted
                    ) => {}
                Err(error) => {
                    self.sessions.carrier.counters.accept_errors += 1;
                    if refused == 0 {
                        tracing::warn!(event = "accept_failed", %error, rest_ms = ACCEPT_REST_MS);
                    }
                    refused += 1;
                    if !is_out_of_descriptors(&error) || !self.turn_away(index) {
                        return Err(ACCEPT_REST_MS);
                    }
                }
            }
        }
        Err(if refused > 0 { ACCEPT_REST_MS } else { 0 })
    }

    /// Gives a newcomer a slot if the budgets allow; else it is closed at once.
    fn admit(&mut self, now: Timestamp, stream: TcpStream, peer: IpAddr, tls: bool) {
        let balanced = self.ports.proxy_from.iter().any(|network| network.contains(peer));
        // Only its header says where a balanced connection comes from.
        let origin = (!balanced).then(|| Origin::of(peer));
        let Sessions { engine, carrier, .. } = &mut self.sessions;
        if engine.handle_newcomer(now, origin, true) != Decision::Admit {
            return;
        }
        let Some(connection) = engine.handle_accepted(now, !tls && !balanced) else { return };
        engine.handle_entered(now, connection.slot, origin);
        if let Err(error) = carrier.insert(connection, stream, tls, balanced.then_some(peer)) {
            carrier.counters.accept_errors += 1;
            tracing::warn!(event = "accept_failed", %error);
            engine.handle_closed(connection.slot);
        }
    }

    /// Without descriptors: the spare one serves to take a newcomer out of the queue, to tell it,
    /// and to close it. `false` when there is none to spare.
    fn turn_away(&mut self, index: usize) -> bool {
        if self.ports.spare.take().is_none() {
            self.ports.spare = spare();
            return self.ports.spare.is_some();
        }
        if let Some(listener) = self.ports.listeners.get(index)
            && let Ok((mut stream, _)) = listener.socket.accept()
            && !listener.tls
        {
            let mut busy = Vec::new();
            BUSY.put(&mut busy, 0);
            // It is closed in any case; whoever hears why comes back later.
            stream.write_all(&busy).ok();
        }
        self.ports.spare = spare();
        true
    }
}

/// No room at this moment: come back later.
const BUSY: Refusal = Refusal {
    code: ErrorCode::Busy,
    class: RetryClass::After,
    closes: true,
    delay_ms: 1_000,
    jitter_ms: 5_000,
};

/// A descriptor held in reserve.
pub(super) fn spare() -> Option<File> {
    File::open("/dev/null").ok()
}

/// EMFILE or ENFILE.
fn is_out_of_descriptors(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}
