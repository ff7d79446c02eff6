//! The sockets of a shard thread: pages of streams by slot, and what the kernel would not take yet.

use hashbrown::HashMap;
use mio::{Interest, Registry, Token, net::TcpStream};
use std::io::{self, ErrorKind, Read, Write};
use yao_engine::ConnectionId;

const PAGE_BITS: u32 = 8;
const PAGE_SLOTS: usize = 1 << PAGE_BITS;
/// Bytes a peer may leave unread before it is cut: a slow reader must not grow our memory. Chosen
/// as four times what the answers to a full receive buffer of shakes need on top of the kernel's.
const UNSENT_BYTES_MAX: usize = 256 * 1024;

/// What is counted about sockets.
#[derive(Clone, Copy, Debug, Default)]
pub struct SocketCounters {
    /// Calls to accept that failed for want of descriptors or memory.
    pub accept_errors: u64,
    /// Connections cut because they did not read their answers.
    pub slow_readers: u64,
    /// Bytes received.
    pub bytes_in: u64,
    /// Bytes sent.
    pub bytes_out: u64,
}

/// What became of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Received {
    /// This many bytes.
    Bytes(usize),
    /// Nothing now.
    Empty,
    /// The peer closed, or the connection broke.
    Closed,
}

/// Streams by slot. Kept beside the engine's table, four bytes each.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    pages: Vec<Box<[Option<TcpStream>]>>,
    /// Bytes that did not fit into the kernel's buffer, by slot. Empty in ordinary times.
    unsent: HashMap<u32, Vec<u8>>,
    /// What was counted.
    pub(super) counters: SocketCounters,
}

impl Sockets {
    /// Keeps `stream` under the connection's slot and has it watched for input.
    pub(super) fn insert(
        &mut self,
        registry: &Registry,
        connection: ConnectionId,
        mut stream: TcpStream,
    ) -> io::Result<()> {
        let token = Token(connection.slot as usize);
        registry.register(&mut stream, token, Interest::READABLE)?;
        let page = connection.slot as usize >> PAGE_BITS;
        while self.pages.len() <= page {
            self.pages.push((0..PAGE_SLOTS).map(|_| None).collect());
        }
        self.pages[page][connection.slot as usize % PAGE_SLOTS] = Some(stream);
        Ok(())
    }

    fn stream(&mut self, slot: u32) -> Option<&mut TcpStream> {
        let page = self.pages.get_mut(slot as usize >> PAGE_BITS)?;
        page[slot as usize % PAGE_SLOTS].as_mut()
    }

    /// Whether there is a socket in `slot`.
    pub(super) fn is_live(&mut self, slot: u32) -> bool {
        self.stream(slot).is_some()
    }

    /// Closes the socket in `slot`.
    pub(super) fn remove(&mut self, slot: u32) {
        self.unsent.remove(&slot);
        if let Some(page) = self.pages.get_mut(slot as usize >> PAGE_BITS) {
            // Closing the descriptor also takes it out of the poller.
            page[slot as usize % PAGE_SLOTS] = None;
        }
    }

    /// Reads once into `buffer`.
    pub(super) fn receive(&mut self, slot: u32, buffer: &mut [u8]) -> Received {
        let Some(stream) = self.stream(slot) else { return Received::Empty };
        match stream.read(buffer) {
            Ok(0) => Received::Closed,
            Ok(count) => {
                self.counters.bytes_in += count as u64;
                Received::Bytes(count)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Received::Empty,
            Err(error) if error.kind() == ErrorKind::Interrupted => Received::Empty,
            Err(_) => Received::Closed,
        }
    }

    /// Sends `bytes`; what the kernel does not take is kept. `false` when the connection is broken
    /// or the peer has left too much unread.
    pub(super) fn send(&mut self, registry: &Registry, slot: u32, bytes: &[u8]) -> bool {
        if bytes.is_empty() {
            return true;
        }
        if !self.unsent.is_empty() && self.unsent.contains_key(&slot) {
            return self.keep(registry, slot, bytes);
        }
        let Some(stream) = self.stream(slot) else { return true };
        match stream.write(bytes) {
            Ok(count) => {
                self.counters.bytes_out += count as u64;
                count == bytes.len() || self.keep(registry, slot, &bytes[count..])
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => self.keep(registry, slot, bytes),
            Err(_) => false,
        }
    }

    fn keep(&mut self, registry: &Registry, slot: u32, bytes: &[u8]) -> bool {
        let unsent = self.unsent.entry(slot).or_default();
        let first = unsent.is_empty();
        if unsent.len() + bytes.len() > UNSENT_BYTES_MAX {
            self.counters.slow_readers += 1;
            return false;
        }
        unsent.extend_from_slice(bytes);
        let interest = Interest::READABLE | Interest::WRITABLE;
        !first || self.watch(registry, slot, interest)
    }

    /// The socket takes bytes again. `false` when the connection is broken.
    pub(super) fn flush(&mut self, registry: &Registry, slot: u32) -> bool {
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
            return self.watch(registry, slot, Interest::READABLE);
        }
        self.unsent.insert(slot, unsent);
        true
    }

    /// Asks the poller to say again what it said already: there is more to read. `false` when the
    /// connection is broken.
    pub(super) fn rearm(&mut self, registry: &Registry, slot: u32) -> bool {
        let interest = if self.unsent.contains_key(&slot) {
            Interest::READABLE | Interest::WRITABLE
        } else {
            Interest::READABLE
        };
        self.watch(registry, slot, interest)
    }

    fn watch(&mut self, registry: &Registry, slot: u32, interest: Interest) -> bool {
        let Some(stream) = self.stream(slot) else { return true };
        registry.reregister(stream, Token(slot as usize), interest).is_ok()
    }
}
