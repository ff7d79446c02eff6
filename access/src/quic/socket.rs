//! The UDP socket of a QUIC thread: batches in, segments out (GRO, GSO), and what must outlive a
//! panic of the thread.

use super::{ResetSecret, SOCKET, steering};
use crate::{inbox::Inbox, messages::ToShard, tls::TlsSettings};
use mio::{Interest, Poll, net::UdpSocket, unix::SourceFd};
use quinn_udp::{BATCH_SIZE, RecvMeta, UdpSockRef, UdpSocketState};
use socket2::{Domain, Protocol, Socket, Type};
use std::{
    io::{self, ErrorKind, IoSliceMut},
    net::SocketAddr,
    os::fd::AsRawFd,
    sync::Arc,
};
use zeroize::Zeroizing;

/// Bytes that one read of the socket may fill: what GRO joins at most.
const READ_BYTES: usize = 65_535;
/// What the kernel may hold for us each way. It caps this at net.core.{r,w}mem_max.
const SOCKET_BYTES: usize = 8 * 1024 * 1024;

/// What of the last batch was not taken yet.
#[derive(Clone, Copy, Debug, Default)]
struct Unread {
    /// Filled places of the batch, the next one to look at, and bytes of it that were taken.
    count: usize,
    place: usize,
    offset: usize,
    /// The batch was not full, and no event has come since it was read: nothing lies behind it.
    last: bool,
}

/// What outlives a panic of the thread.
pub struct QuicPorts {
    pub(super) poll: Poll,
    pub(super) inbox: Inbox<ToShard>,
    pub(super) tls: TlsSettings,
    pub(super) socket: Arc<UdpSocket>,
    pub(super) state: Arc<UdpSocketState>,
    /// Which of the node's QUIC threads this is, and how many there are.
    pub(super) place: (u8, u8),
    /// Signs stateless resets: the next life ends the connections of this one.
    pub(super) reset_key: Zeroizing<[u8; 64]>,
    watches_writable: bool,
    buffers: Vec<u8>,
    metas: [RecvMeta; BATCH_SIZE],
    unread: Unread,
}

impl std::fmt::Debug for QuicPorts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QuicPorts").field("place", &self.place).finish_non_exhaustive()
    }
}

impl QuicPorts {
    /// A socket on `address`, shared with the other QUIC threads (SO_REUSEPORT). The kernel steers
    /// each connection's packets to the thread that owns it, whatever address they come from.
    ///
    /// # Errors
    /// When the address cannot be bound or the poller refuses the socket.
    pub fn open(
        address: SocketAddr,
        place: (u8, u8),
        poll: Poll,
        inbox: Inbox<ToShard>,
        tls: TlsSettings,
        resets: &ResetSecret,
    ) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_reuse_port(true)?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.set_nonblocking(true)?;
        // Less than asked for is what the machine allows; `doctor` says so.
        socket.set_recv_buffer_size(SOCKET_BYTES)?;
        socket.set_send_buffer_size(SOCKET_BYTES)?;
        socket.bind(&address.into())?;
        if place.0 == 0 {
            steering::attach(&socket, place.1)?;
        }
        let mut socket = UdpSocket::from_std(socket.into());
        let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
        poll.registry().register(&mut socket, SOCKET, Interest::READABLE)?;
        let reset_key = resets.key(socket.local_addr()?, place.0);
        Ok(Self {
            poll,
            inbox,
            tls,
            socket: Arc::new(socket),
            state: Arc::new(state),
            place,
            reset_key,
            watches_writable: false,
            buffers: vec![0; BATCH_SIZE * READ_BYTES],
            metas: [RecvMeta::default(); BATCH_SIZE],
            unread: Unread::default(),
        })
    }

    /// The address that was bound.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Whether to be told when the socket takes packets again. Watched only while one is held back:
    /// every packet that the network has taken off our hands would wake the thread.
    ///
    /// # Errors
    /// When the poller refuses.
    pub(super) fn watch_writable(&mut self, wanted: bool) -> io::Result<()> {
        if wanted != self.watches_writable {
            let interest =
                if wanted { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
            let registry = self.poll.registry();
            registry.reregister(&mut SourceFd(&self.socket.as_raw_fd()), SOCKET, interest)?;
            self.watches_writable = wanted;
        }
        Ok(())
    }

    /// The socket says that something came: it is asked again when the batch is used up.
    pub(super) const fn note_readable(&mut self) {
        self.unread.last = false;
    }

    /// The next datagram; `None` when the socket holds nothing more. It counts as taken at once:
    /// should it bring the thread down, its next life does not meet it again.
    ///
    /// # Errors
    /// When the socket itself fails.
    pub(super) fn next_datagram(&mut self) -> io::Result<Option<(RecvMeta, &[u8])>> {
        loop {
            let Unread { count, place, offset, last } = self.unread;
            if place == count {
                // To be told "nothing" costs a system call, which a wake-up for one packet feels.
                if std::mem::take(&mut self.unread.last) {
                    return Ok(None);
                }
                let Some(count) = self.receive()? else { return Ok(None) };
                let last = (1..BATCH_SIZE).contains(&count);
                self.unread = Unread { count, place: 0, offset: 0, last };
                continue;
            }
            let meta = self.metas[place];
            let end = meta.len.min(offset + meta.stride.max(1));
            self.unread = if end == meta.len {
                Unread { count, place: place + 1, offset: 0, last }
            } else {
                Unread { count, place, offset: end, last }
            };
            if offset < end {
                let start = place * READ_BYTES;
                return Ok(Some((meta, &self.buffers[start + offset..start + end])));
            }
        }
    }

    /// Reads a batch; `None` when there is nothing.
    fn receive(&mut self) -> io::Result<Option<usize>> {
        let mut buffers = self.buffers.chunks_mut(READ_BYTES);
        let mut slices: [IoSliceMut<'_>; BATCH_SIZE] =
            std::array::from_fn(|_| IoSliceMut::new(buffers.next().expect("one for each place")));
        let reference = UdpSockRef::from(&*self.socket);
        match self.state.recv(reference, &mut slices, &mut self.metas) {
            Ok(count) => Ok(Some(count)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            // Somebody's ICMP error is nobody's failure here; the next read goes on.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::ConnectionReset
                        | ErrorKind::ConnectionRefused
                        | ErrorKind::HostUnreachable
                        | ErrorKind::NetworkUnreachable
                        | ErrorKind::Interrupted
                ) =>
            {
                Ok(Some(0))
            }
            Err(error) => Err(error),
        }
    }
}
