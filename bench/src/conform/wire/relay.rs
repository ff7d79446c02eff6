//! A relay for UDP between one client and the server, which can be told to swallow what the client
//! sends from some datagram on: the server then hears somebody who has gone silent.

use anyhow::Result;
use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

/// The longest datagram.
const DATAGRAM_BYTES_MAX: usize = 65_536;
/// How often the threads look whether they are still wanted.
const LOOK: Duration = Duration::from_millis(50);

/// Every datagram.
const ALL: usize = usize::MAX;

/// A running relay. It ends when this is dropped.
pub(super) struct Relay {
    /// Where the client connects.
    pub(super) address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    /// Datagrams of the client that still pass.
    left: AtomicUsize,
    /// None passes any more once the server has answered.
    until_answer: AtomicBool,
    client: Mutex<Option<SocketAddr>>,
    ended: AtomicBool,
}

impl Relay {
    /// A relay to `server`; with `until_answer` the client is heard only until the server speaks.
    pub(super) fn start(server: SocketAddr, until_answer: bool) -> Result<Self> {
        let any: SocketAddr = if server.is_ipv4() {
            (Ipv4Addr::LOCALHOST, 0).into()
        } else {
            (Ipv6Addr::LOCALHOST, 0).into()
        };
        let (front, back) = (UdpSocket::bind(any)?, UdpSocket::bind(any)?);
        back.connect(server)?;
        for socket in [&front, &back] {
            socket.set_read_timeout(Some(LOOK))?;
        }
        let address = front.local_addr()?;
        let shared = Arc::new(Shared {
            left: AtomicUsize::new(ALL),
            until_answer: AtomicBool::new(until_answer),
            client: Mutex::new(None),
            ended: AtomicBool::new(false),
        });
        let (up, down) = (Arc::clone(&shared), Arc::clone(&shared));
        let (front_out, back_out) = (front.try_clone()?, back.try_clone()?);
        thread::spawn(move || up.pass_up(&front, &back_out));
        thread::spawn(move || down.pass_down(&back, &front_out));
        Ok(Self { address, shared })
    }

    /// The client is heard again, whatever the server says.
    pub(super) fn open(&self) {
        self.shared.until_answer.store(false, Ordering::SeqCst);
        self.limit(ALL);
    }

    /// So many more datagrams of the client pass.
    pub(super) fn limit(&self, left: usize) {
        self.shared.left.store(left, Ordering::SeqCst);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
    }
}

impl Shared {
    fn pass_up(&self, front: &UdpSocket, back: &UdpSocket) {
        let mut bytes = vec![0; DATAGRAM_BYTES_MAX];
        while !self.ended.load(Ordering::SeqCst) {
            let Ok((count, from)) = front.recv_from(&mut bytes) else { continue };
            *self.client.lock().expect("no holder panics") = Some(from);
            let take = |left: usize| match left {
                ALL => Some(ALL),
                left => left.checked_sub(1),
            };
            if self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).is_ok() {
                // Lost datagrams are part of UDP.
                back.send(&bytes[..count]).ok();
            }
        }
    }

    fn pass_down(&self, back: &UdpSocket, front: &UdpSocket) {
        let mut bytes = vec![0; DATAGRAM_BYTES_MAX];
        while !self.ended.load(Ordering::SeqCst) {
            let Ok(count) = back.recv(&mut bytes) else { continue };
            if self.until_answer.load(Ordering::SeqCst) {
                self.left.store(0, Ordering::SeqCst);
            }
            if let Some(client) = *self.client.lock().expect("no holder panics") {
                front.send_to(&bytes[..count], client).ok();
            }
        }
    }
}
