//! Listeners and the accept loop, which survives every error that a peer or a limit can cause.

use super::Shard;
use crate::sessions::Sessions;
use mio::net::{TcpListener, TcpStream};
use socket2::{Domain, Protocol, Socket, Type};
use std::{
    fs::File,
    io::{self, ErrorKind, Read, Write},
    net::{IpAddr, SocketAddr},
};
use yao_engine::{
    Timestamp,
    admission::{Decision, Origin, RefusedBy},
};
use yao_protocol::limits::{FRAME_HEADER_BYTES, GREETING_PAYLOAD_BYTES_MAX};

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
                Err(error) => {
                    let after = After::of(&error);
                    match after {
                        After::Nobody => return Ok(()),
                        After::Next => continue,
                        After::Spare | After::Rest => {}
                    }
                    self.sessions.carrier.counters.accept_errors += 1;
                    if refused == 0 {
                        tracing::warn!(event = "accept_failed", %error, rest_ms = ACCEPT_REST_MS);
                    }
                    refused += 1;
                    if after == After::Rest || !self.turn_away(index) {
                        return Err(ACCEPT_REST_MS);
                    }
                }
            }
        }
        Err(if refused > 0 { ACCEPT_REST_MS } else { 0 })
    }

    /// Gives a newcomer a slot if the budgets allow; else it is told, if it can be, and closed.
    fn admit(&mut self, now: Timestamp, stream: TcpStream, peer: IpAddr, tls: bool) {
        let balanced = self.ports.proxy_from.iter().any(|network| network.contains(peer));
        // Only its header says where a balanced connection comes from.
        let origin = (!balanced).then(|| Origin::of(peer));
        let Sessions { context, engine, carrier, .. } = &mut self.sessions;
        match engine.handle_newcomer(now, origin, true) {
            Decision::Admit => {}
            // The others need what a word to this address would cost.
            Decision::Refuse(RefusedBy::Address) => return,
            Decision::Refuse(_) | Decision::Prove => return self.send_away(stream, tls),
        }
        let Some(connection) =
            engine.handle_accepted(now, !tls && !balanced, context.registry.next_number())
        else {
            return self.send_away(stream, tls);
        };
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
            && let Ok((stream, _)) = listener.socket.accept()
        {
            let tls = listener.tls;
            self.send_away(stream, tls);
        }
        self.ports.spare = spare();
        true
    }

    /// No room at this moment: says where else there may be some, and closes. Before a handshake
    /// there is nothing that a client could hear.
    fn send_away(&self, mut stream: TcpStream, tls: bool) {
        if tls {
            return;
        }
        // A HELLO that nobody read would make the kernel throw our word away.
        stream.read_exact(&mut [0; FRAME_HEADER_BYTES + GREETING_PAYLOAD_BYTES_MAX]).ok();
        // It is closed in any case; a fresh socket has room for this.
        stream.write_all(self.sessions.engine.no_room()).ok();
    }
}

/// A descriptor held in reserve.
pub(super) fn spare() -> Option<File> {
    File::open("/dev/null").ok()
}

/// What to do when accept failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    /// Nobody is waiting.
    Nobody,
    /// This one gave up while it waited, or its network broke (accept(2) hands that on, too): the
    /// next one may be fine.
    Next,
    /// No descriptor is left: use the spare one.
    Spare,
    /// Memory or something worse: let it be for a while.
    Rest,
}

impl After {
    fn of(error: &io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::EMFILE | libc::ENFILE) => Self::Spare,
            Some(
                libc::ECONNABORTED
                | libc::EINTR
                | libc::EPERM
                | libc::EPROTO
                | libc::ENETDOWN
                | libc::ENOPROTOOPT
                | libc::EHOSTDOWN
                | libc::ENONET
                | libc::EHOSTUNREACH
                | libc::EOPNOTSUPP
                | libc::ENETUNREACH,
            ) => Self::Next,
            _ if error.kind() == ErrorKind::WouldBlock => Self::Nobody,
            _ => Self::Rest,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accept_goes_on_after_every_error() {
        let check = |code: i32, expected: After| {
            assert_eq!(After::of(&io::Error::from_raw_os_error(code)), expected, "{code}");
        };
        check(libc::EAGAIN, After::Nobody);
        check(libc::ECONNABORTED, After::Next);
        check(libc::EINTR, After::Next);
        check(libc::EPERM, After::Next);
        check(libc::EHOSTUNREACH, After::Next);
        check(libc::EMFILE, After::Spare);
        check(libc::ENFILE, After::Spare);
        check(libc::ENOBUFS, After::Rest);
        check(libc::ENOMEM, After::Rest);
        check(libc::EINVAL, After::Rest);
    }
}
