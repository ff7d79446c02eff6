//! One TCP connection, plain or with TLS 1.3: its socket and the bytes on their way.

use super::Received;
use mio::net::TcpStream;
use rustls::ClientConnection;
use std::io::{ErrorKind, Read, Write};

/// See the module.
pub(super) struct Stream {
    pub(super) socket: TcpStream,
    /// TCP is connected.
    pub(super) connected: bool,
    /// `None`: plain. Boxed: a load of plain connections pays nothing for it.
    pub(super) tls: Option<Box<ClientConnection>>,
    /// Bytes that the kernel did not take yet.
    unsent: Vec<u8>,
}

/// What came of reading a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SocketRead {
    /// So many bytes; `true` when there may be more.
    Some(usize, bool),
    Nothing,
    Ended,
}

impl Stream {
    pub(super) const fn new(socket: TcpStream, tls: Option<Box<ClientConnection>>) -> Self {
        Self { socket, connected: false, tls, unsent: Vec::new() }
    }

    /// Whether frames may go.
    pub(super) fn is_secured(&self) -> bool {
        self.connected && self.tls.as_ref().is_none_or(|tls| !tls.is_handshaking())
    }

    /// Sends `bytes`, sealed if need be, after what waits; `false` when the connection is over.
    pub(super) fn send(&mut self, bytes: &[u8]) -> bool {
        let Some(tls) = &mut self.tls else { return self.send_raw(bytes) };
        tls.writer().write_all(bytes).is_ok() && self.flush()
    }

    /// Hands what rustls wants to say, and what waits, to the kernel.
    pub(super) fn flush(&mut self) -> bool {
        let mut records = Vec::new();
        if let Some(tls) = &mut self.tls {
            while tls.wants_write() {
                if tls.write_tls(&mut records).is_err() {
                    return false;
                }
            }
        }
        self.send_raw(&records)
    }

    fn send_raw(&mut self, bytes: &[u8]) -> bool {
        let mut failed = false;
        if self.unsent.is_empty() {
            let taken = write_some(&mut self.socket, bytes, &mut failed);
            self.unsent.extend_from_slice(&bytes[taken..]);
        } else {
            self.unsent.extend_from_slice(bytes);
            let taken = write_some(&mut self.socket, &self.unsent, &mut failed);
            self.unsent.drain(..taken);
        }
        !failed
    }

    /// Appends what has arrived to `into`; the handshake goes on by the way.
    pub(super) fn receive(&mut self, buffer: &mut [u8], into: &mut Vec<u8>) -> Received {
        loop {
            let (read, more) = match read_some(&mut self.socket, buffer) {
                SocketRead::Some(read, more) => (read, more),
                SocketRead::Nothing => return Received::All,
                SocketRead::Ended => return Received::Ended,
            };
            if self.tls.is_none() {
                into.extend_from_slice(&buffer[..read]);
            } else if !self.open_records(&buffer[..read], into) {
                return Received::Ended;
            }
            if !more {
                return Received::All;
            }
        }
    }

    /// `false` when the peer has ended or broken TLS.
    fn open_records(&mut self, mut records: &[u8], into: &mut Vec<u8>) -> bool {
        let Some(tls) = &mut self.tls else { return true };
        let mut ended = false;
        while !records.is_empty() {
            match tls.read_tls(&mut records) {
                Ok(0) | Err(_) => return false,
                Ok(_) => {}
            }
            match tls.process_new_packets() {
                Ok(state) => ended |= state.peer_has_closed(),
                Err(_) => {
                    // The alert is for the server's log; whether it arrives changes nothing here.
                    self.flush();
                    return false;
                }
            }
            // Nothing to read, and the end, are told as errors.
            tls.reader().read_to_end(into).ok();
        }
        !ended && self.flush()
    }
}

fn read_some(socket: &mut TcpStream, buffer: &mut [u8]) -> SocketRead {
    loop {
        match socket.read(buffer) {
            Ok(0) => return SocketRead::Ended,
            Ok(read) => return SocketRead::Some(read, read == buffer.len()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return SocketRead::Nothing,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return SocketRead::Ended,
        }
    }
}

fn write_some(socket: &mut TcpStream, bytes: &[u8], failed: &mut bool) -> usize {
    let mut taken = 0;
    while taken < bytes.len() {
        match socket.write(&bytes[taken..]) {
            Ok(written) => taken += written,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(_) => {
                *failed = true;
                break;
            }
        }
    }
    taken
}
