//! The sockets of a shard thread: pages of streams by slot, the TLS state of those that speak it,
//! and what the kernel would not take yet.

use super::proxy;
use crate::{
    sessions::{Carrier, CarrierCounters},
    tls::{Fed, TlsSession, TlsSettings},
};
use hashbrown::HashMap;
use mio::{Interest, Registry, Token, net::TcpStream};
use std::{
    io::{self, ErrorKind, Read, Write},
    net::IpAddr,
    ops::Range,
};
use yao_engine::ConnectionId;

const PAGE_BITS: u32 = 8;
const PAGE_SLOTS: usize = 1 << PAGE_BITS;
/// Bytes a peer may leave unread before it is cut: a slow reader must not grow our memory. Chosen
/// as four times what the answers to a full receive buffer of shakes need on top of the kernel's.
const UNSENT_BYTES_MAX: usize = 256 * 1024;
/// The thread's own buffers are given back when a burst made them larger than this.
const BUFFER_BYTES_KEPT: usize = 256 * 1024;

/// What became of a read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Received {
    /// These bytes of the buffer.
    Bytes(Range<usize>),
    /// A balancer's header is whole: see [`Sockets::take_named`]. This many bytes were read.
    Named(usize),
    /// This many bytes of TLS records, which were opened: see [`Sockets::take_opened`].
    Sealed(usize),
    /// Nothing now.
    Empty,
    /// The peer closed, or the connection broke.
    Closed,
}

/// What a balancer's header said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Named {
    /// Whose connection it is.
    pub(super) source: IpAddr,
    /// The connection speaks TLS.
    pub(super) tls: bool,
    /// What followed the header in the buffer.
    pub(super) rest: Range<usize>,
}

/// A connection whose PROXY header is not whole yet.
#[derive(Debug)]
struct Balanced {
    /// The balancer: what it says of itself is its own.
    peer: IpAddr,
    /// The start of the header, at most [`proxy::HEADER_BYTES_MAX`].
    header: Vec<u8>,
}

/// What the records of the last read said.
#[derive(Debug)]
pub(super) struct Opened {
    /// What the peer says.
    pub(super) plain: Vec<u8>,
    /// The handshake ended well with this read.
    pub(super) secured: bool,
    /// A record is cut.
    pub(super) cut: bool,
    /// Nothing follows.
    pub(super) ended: bool,
}

/// Streams by slot. Kept beside the engine's table, four bytes each.
#[derive(Debug)]
pub(super) struct Sockets {
    registry: Registry,
    pages: Vec<Box<[Option<TcpStream>]>>,
    /// TLS by slot: pages only where a TLS connection was.
    tls_pages: Vec<Box<[Option<Box<TlsSession>>]>>,
    tls: TlsSettings,
    /// Connections of balancers that have not said yet whose they are, by slot.
    balanced: HashMap<u32, Balanced>,
    named: Option<Named>,
    /// Bytes that did not fit into the kernel's buffer, by slot. Empty in ordinary times.
    unsent: HashMap<u32, Vec<u8>>,
    /// Plaintext of the last read, and records on their way out: one buffer each for the thread.
    plain: Vec<u8>,
    sealed: Vec<u8>,
    /// Records of TLS itself, sealed by the read under way, that go with its answer.
    waiting: Vec<u8>,
    waiting_slot: u32,
    fed: Fed,
    /// What was counted.
    pub(super) counters: CarrierCounters,
}

impl Sockets {
    pub(super) fn new(registry: Registry, tls: TlsSettings) -> Self {
        Self {
            registry,
            pages: Vec::new(),
            tls_pages: Vec::new(),
            tls,
            balanced: HashMap::new(),
            named: None,
            unsent: HashMap::new(),
            plain: Vec::new(),
            sealed: Vec::new(),
            waiting: Vec::new(),
            waiting_slot: u32::MAX,
            fed: Fed::default(),
            counters: CarrierCounters::default(),
        }
    }

    /// Keeps `stream` under the connection's slot and has it watched for input. `balancer`: who
    /// must say first whose connection it is.
    pub(super) fn insert(
        &mut self,
        connection: ConnectionId,
        mut stream: TcpStream,
        tls: bool,
        balancer: Option<IpAddr>,
    ) -> io::Result<()> {
        let token = Token(connection.slot as usize);
        self.registry.register(&mut stream, token, Interest::READABLE)?;
        if tls {
            let settings = self.tls.stream().ok_or_else(|| io::Error::other("no certificates"))?;
            let session = TlsSession::new(settings).map_err(io::Error::other)?;
            *place(&mut self.tls_pages, connection.slot) = Some(Box::new(session));
        }
        if let Some(peer) = balancer {
            self.balanced.insert(connection.slot, Balanced { peer, header: Vec::new() });
        }
        *place(&mut self.pages, connection.slot) = Some(stream);
        Ok(())
    }

    fn stream(&mut self, slot: u32) -> Option<&mut TcpStream> {
        let page = self.pages.get_mut(slot as usize >> PAGE_BITS)?;
        page[slot as usize % PAGE_SLOTS].as_mut()
    }

    fn tls_session(&mut self, slot: u32) -> Option<&mut Box<TlsSession>> {
        let page = self.tls_pages.get_mut(slot as usize >> PAGE_BITS)?;
        page[slot as usize % PAGE_SLOTS].as_mut()
    }

    /// Reads once into `buffer`. `session_open` bounds what a cut TLS record may keep.
    pub(super) fn receive(&mut self, slot: u32, buffer: &mut [u8], session_open: bool) -> Received {
        let Some(stream) = self.stream(slot) else { return Received::Empty };
        let count = match stream.read(buffer) {
            Ok(0) => return Received::Closed,
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Received::Empty,
            Err(error) if error.kind() == ErrorKind::Interrupted => return Received::Empty,
            Err(_) => return Received::Closed,
        };
        self.counters.bytes_in += count as u64;
        if !self.balanced.is_empty() && self.balanced.contains_key(&slot) {
            return self.read_header(slot, &buffer[..count]);
        }
        if self.tls_pages.is_empty() || self.tls_session(slot).is_none() {
            return Received::Bytes(0..count);
        }
        self.open_records(slot, &mut buffer[..count], session_open)
    }

    /// Bytes of a connection whose balancer has not said yet whose it is.
    fn read_header(&mut self, slot: u32, bytes: &[u8]) -> Received {
        let balanced = self.balanced.get_mut(&slot).expect("looked up by the caller");
        let known = balanced.header.len();
        let lacking = (proxy::HEADER_BYTES_MAX - known).min(bytes.len());
        balanced.header.extend_from_slice(&bytes[..lacking]);
        match proxy::parse(&balanced.header) {
            Ok(None) => Received::Bytes(bytes.len()..bytes.len()),
            Ok(Some(header)) => {
                let source = header.source.unwrap_or(balanced.peer);
                self.balanced.remove(&slot);
                let tls = self.tls_session(slot).is_some();
                self.named = Some(Named { source, tls, rest: header.bytes - known..bytes.len() });
                Received::Named(bytes.len())
            }
            Err(error) => {
                self.counters.proxy_errors += 1;
                tracing::debug!(event = "proxy_header_refused", %error);
                Received::Closed
            }
        }
    }

    /// What the last [`Received::Named`] found.
    pub(super) fn take_named(&mut self) -> Named {
        self.named.take().expect("asked once after each header")
    }

    /// Opens the TLS records in `bytes`.
    pub(super) fn open_records(
        &mut self,
        slot: u32,
        bytes: &mut [u8],
        session_open: bool,
    ) -> Received {
        let count = bytes.len();
        let mut plain = std::mem::take(&mut self.plain);
        let mut sealed = std::mem::take(&mut self.sealed);
        plain.clear();
        sealed.clear();
        let tls = self.tls_session(slot).expect("looked up by the caller");
        let fed = tls.feed(bytes, &mut plain, &mut sealed, session_open);
        // A ticket of TLS leaves together with WELCOME; but nobody answers to an error.
        let waits = fed.as_ref().is_ok_and(|fed| !fed.ended) && !plain.is_empty();
        let sent = waits || self.send_raw(slot, &sealed);
        if waits {
            self.waiting_slot = slot;
            std::mem::swap(&mut self.waiting, &mut sealed);
        }
        self.plain = plain;
        self.sealed = sealed;
        match fed {
            Ok(fed) if sent => {
                self.counters.tls_handshakes += u64::from(fed.secured);
                self.fed = fed;
                Received::Sealed(count)
            }
            Ok(_) => Received::Closed,
            Err(error) => {
                self.counters.tls_errors += 1;
                tracing::debug!(event = "tls_broken", %error);
                Received::Closed
            }
        }
    }

    /// What the last [`Received::Sealed`] brought; give its buffer back by [`Sockets::put_back`].
    pub(super) fn take_opened(&mut self) -> Opened {
        let Fed { secured, ended, cut } = std::mem::take(&mut self.fed);
        Opened { plain: std::mem::take(&mut self.plain), secured, cut, ended }
    }

    /// The buffer of an [`Opened`] is the thread's again, and what TLS itself had to say leaves if
    /// no answer took it along. `false` when the connection is broken.
    pub(super) fn put_back(&mut self, slot: u32, plain: Vec<u8>) -> bool {
        self.plain = plain;
        let waiting = self.take_waiting(slot);
        let sent = self.send_raw(slot, &waiting);
        self.waiting = waiting;
        self.waiting.clear();
        sent
    }

    /// Records of TLS itself that wait for an answer to `slot` to go with.
    fn take_waiting(&mut self, slot: u32) -> Vec<u8> {
        if self.waiting_slot == slot { std::mem::take(&mut self.waiting) } else { Vec::new() }
    }

    /// The peer of `slot` hears nothing any more: no goodbye is wasted on it.
    pub(super) fn deafen(&mut self, slot: u32) {
        if let Some(tls) = self.tls_session(slot) {
            tls.deafen();
        }
    }

    /// Gives back what a burst made large. Called about once a second.
    pub(super) fn shrink(&mut self) {
        for buffer in [&mut self.plain, &mut self.sealed] {
            if buffer.capacity() > BUFFER_BYTES_KEPT {
                *buffer = Vec::new();
            }
        }
    }

    /// Sends bytes as they are; what the kernel does not take is kept.
    fn send_raw(&mut self, slot: u32, bytes: &[u8]) -> bool {
        if bytes.is_empty() {
            return true;
        }
        if !self.unsent.is_empty() && self.unsent.contains_key(&slot) {
            return self.keep(slot, bytes);
        }
        let Some(stream) = self.stream(slot) else { return true };
        match stream.write(bytes) {
            Ok(count) => {
                self.counters.bytes_out += count as u64;
                count == bytes.len() || self.keep(slot, &bytes[count..])
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => self.keep(slot, bytes),
            Err(_) => false,
        }
    }

    fn keep(&mut self, slot: u32, bytes: &[u8]) -> bool {
        let unsent = self.unsent.entry(slot).or_default();
        let first = unsent.is_empty();
        if unsent.len() + bytes.len() > UNSENT_BYTES_MAX {
            self.counters.slow_readers += 1;
            return false;
        }
        unsent.extend_from_slice(bytes);
        !first || self.watch(slot, Interest::READABLE | Interest::WRITABLE)
    }

    /// The socket takes bytes again. `false` when the connection is broken.
    pub(super) fn flush(&mut self, slot: u32) -> bool {
        let Some(mut unsent) = self.unsent.remove(&slot) else { return true };
        let Some(stream) = self.stream(slot) else { return true };
        let mut sent = 0;
        while sent < unsent.len() {
            match stream.write(&unsent[sent..]) {
                Ok(0) => return false,
                Ok(count) => sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        self.counters.bytes_out += sent as u64;
        unsent.drain(..sent);
        if unsent.is_empty() {
            return self.watch(slot, Interest::READABLE);
        }
        self.unsent.insert(slot, unsent);
        true
    }

    /// Asks the poller to say again what it said already: there is more to read. `false` when the
    /// connection is broken.
    pub(super) fn rearm(&mut self, slot: u32) -> bool {
        let interest = if self.unsent.contains_key(&slot) {
            Interest::READABLE | Interest::WRITABLE
        } else {
            Interest::READABLE
        };
        self.watch(slot, interest)
    }

    fn watch(&mut self, slot: u32, interest: Interest) -> bool {
        let Some(page) = self.pages.get_mut(slot as usize >> PAGE_BITS) else { return true };
        let Some(stream) = page[slot as usize % PAGE_SLOTS].as_mut() else { return true };
        self.registry.reregister(stream, Token(slot as usize), interest).is_ok()
    }
}

impl Carrier for Sockets {
    fn is_live(&mut self, slot: u32) -> bool {
        self.stream(slot).is_some()
    }

    fn send(&mut self, slot: u32, bytes: &[u8]) -> bool {
        if bytes.is_empty() {
            return true;
        }
        if self.tls_pages.is_empty() || self.tls_session(slot).is_none() {
            return self.send_raw(slot, bytes);
        }
        let mut sealed = std::mem::take(&mut self.sealed);
        sealed.clear();
        if self.waiting_slot == slot {
            std::mem::swap(&mut self.waiting, &mut sealed);
        }
        let tls = self.tls_session(slot).expect("looked up above");
        let result = tls.seal(bytes, &mut sealed);
        let sent = result.is_ok() && self.send_raw(slot, &sealed);
        self.sealed = sealed;
        sent
    }

    fn remove(&mut self, slot: u32) {
        let mut farewell = self.take_waiting(slot);
        let page = self.tls_pages.get_mut(slot as usize >> PAGE_BITS);
        let tls = page.and_then(|page| page[slot as usize % PAGE_SLOTS].take());
        if let Some(mut tls) = tls
            && tls.is_secured()
        {
            // A peer that is gone needs no goodbye.
            if tls.close(&mut farewell).is_ok() {
                self.send_raw(slot, &farewell);
            }
        }
        self.unsent.remove(&slot);
        self.balanced.remove(&slot);
        if let Some(page) = self.pages.get_mut(slot as usize >> PAGE_BITS) {
            // Closing the descriptor also takes it out of the poller.
            page[slot as usize % PAGE_SLOTS] = None;
        }
    }
}

/// The place of `slot`, whose page is made when it is the first there.
fn place<T>(pages: &mut Vec<Box<[Option<T>]>>, slot: u32) -> &mut Option<T> {
    let page = slot as usize >> PAGE_BITS;
    while pages.len() <= page {
        pages.push((0..PAGE_SLOTS).map(|_| None).collect());
    }
    &mut pages[page][slot as usize % PAGE_SLOTS]
}
