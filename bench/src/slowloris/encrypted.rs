//! An attacker who completes his TLS handshake, and then leaves at the server as much as he can.

use crate::load::trust;
use anyhow::{Context, Result, ensure};
use mio::{Events, Interest, Poll, Token, net::TcpStream};
use rustls::{ClientConfig, ClientConnection, client::Resumption, pki_types::ServerName};
use std::{
    io::{self, ErrorKind, Read, Write},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};
use yao_protocol::{
    client::kind,
    endpoint::ALPN,
    limits::{FRAME_HEADER_BYTES, GREETING_PAYLOAD_BYTES_MAX},
};

/// What the second record would hold, bytes. Only its start is sent.
const RECORD_BYTES: usize = 8_000;

/// Settings of clients that believe anybody, and for whom each handshake is the first.
pub(super) fn config() -> Result<Arc<ClientConfig>> {
    let mut config = trust::anybody()?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// See the module. Needed until everything is left; then only the socket is held.
pub(super) struct Encrypted {
    tls: ClientConnection,
    /// What is on its way; the socket takes it all in the end.
    out: Vec<u8>,
    /// Bytes of a record that it leaves after the handshake.
    leaves: Option<usize>,
    left: bool,
}

impl Encrypted {
    /// Leaves nothing but a connection, or with `leaves` all of the longest first frame but its
    /// last byte, and so many bytes of a record, which is longer.
    pub(super) fn new(config: &Arc<ClientConfig>, leaves: Option<usize>) -> Result<Self> {
        let name = ServerName::try_from("localhost")?;
        let mut tls = ClientConnection::new(Arc::clone(config), name)?;
        let mut out = Vec::new();
        tls.write_tls(&mut out)?;
        Ok(Self { tls, out, leaves, left: false })
    }

    /// Goes on; `true` when everything is left.
    ///
    /// # Errors
    /// The server closed, or is no server of TLS.
    pub(super) fn progress(&mut self, socket: &mut TcpStream) -> io::Result<bool> {
        loop {
            self.flush(socket)?;
            if self.left || !self.out.is_empty() {
                return Ok(self.left && self.out.is_empty());
            }
            match self.tls.read_tls(socket) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
            self.tls.process_new_packets().map_err(io::Error::other)?;
            while self.tls.wants_write() {
                self.tls.write_tls(&mut self.out)?;
            }
            if !self.tls.is_handshaking() {
                self.leave()?;
            }
        }
    }

    fn leave(&mut self) -> io::Result<()> {
        self.left = true;
        let Some(record_bytes) = self.leaves else { return Ok(()) };
        let mut frame = vec![0; FRAME_HEADER_BYTES + GREETING_PAYLOAD_BYTES_MAX];
        let payload = u16::try_from(GREETING_PAYLOAD_BYTES_MAX).expect("1 KiB").to_le_bytes();
        frame[..3].copy_from_slice(&[payload[0], payload[1], kind::HELLO]);
        self.tls.writer().write_all(&frame[..frame.len() - 1])?;
        self.tls.write_tls(&mut self.out)?;
        self.tls.writer().write_all(&[0; RECORD_BYTES])?;
        let mut record = Vec::new();
        self.tls.write_tls(&mut record)?;
        self.out.extend_from_slice(&record[..record_bytes]);
        Ok(())
    }

    fn flush(&mut self, socket: &mut TcpStream) -> io::Result<()> {
        while !self.out.is_empty() {
            match socket.write(&self.out) {
                Ok(count) => drop(self.out.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Leaves `record_bytes` of a record at `server`; whether it closes within `patience`.
///
/// # Errors
/// Nobody speaks TLS there.
pub(super) fn is_closed_within(
    patience: Duration,
    server: SocketAddr,
    record_bytes: usize,
) -> Result<bool> {
    let socket = std::net::TcpStream::connect(server)?;
    socket.set_nonblocking(true)?;
    let mut socket = TcpStream::from_std(socket);
    let (mut poll, mut events) = (Poll::new()?, Events::with_capacity(8));
    let interest = Interest::READABLE | Interest::WRITABLE;
    poll.registry().register(&mut socket, Token(0), interest)?;
    let mut encrypted = Encrypted::new(&config()?, Some(record_bytes))?;
    let start = Instant::now();
    while !encrypted.progress(&mut socket).context("no handshake of TLS")? {
        poll.poll(&mut events, Some(patience))?;
        ensure!(start.elapsed() < patience, "the handshake takes too long");
    }
    let start = Instant::now();
    loop {
        if is_over(&mut socket) {
            return Ok(true);
        }
        let Some(rest) = patience.checked_sub(start.elapsed()) else { return Ok(false) };
        poll.poll(&mut events, Some(rest))?;
    }
}

/// Reads what there is, and says whether more can come.
pub(super) fn is_over(socket: &mut TcpStream) -> bool {
    let mut bytes = [0; 2_048];
    loop {
        match socket.read(&mut bytes) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => {
                return !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::{ServerConfig, ServerConnection, crypto::aws_lc_rs, version::TLS13};
    use std::{
        net::{Shutdown, TcpListener},
        thread,
    };

    fn server() -> ServerConnection {
        let key = rcgen::KeyPair::generate().expect("a key");
        let parameters = rcgen::CertificateParams::new(vec!["localhost".to_owned()]);
        let certificate = parameters.expect("a name").self_signed(&key).expect("signed");
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .expect("TLS 1.3")
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                key.serialize_der().try_into().expect("PKCS#8"),
            )
            .expect("a good pair");
        config.alpn_protocols = vec![ALPN.to_vec()];
        ServerConnection::new(Arc::new(config)).expect("a session")
    }

    /// The server sees a frame that lacks one byte, then a record that never ends.
    #[test]
    fn it_leaves_all_that_a_server_keeps_and_not_a_byte_more() {
        let check = |leaves: Option<usize>, plain: usize, cut: usize| {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
            let address = listener.local_addr().expect("bound");
            let attack = thread::spawn(move || {
                let socket = std::net::TcpStream::connect(address).expect("connected");
                socket.set_nonblocking(true).expect("a socket");
                let mut socket = TcpStream::from_std(socket);
                let mut encrypted = Encrypted::new(&config().expect("TLS"), leaves).expect("TLS");
                while !encrypted.progress(&mut socket).expect("a server of TLS") {
                    thread::yield_now();
                }
                // Whoever closes with bytes unread takes back what he said (RST).
                socket.shutdown(Shutdown::Write).expect("open until now");
                while !is_over(&mut socket) {
                    thread::yield_now();
                }
            });
            let (mut socket, _) = listener.accept().expect("somebody");
            let mut server = server();
            let (mut said, mut records) = (Vec::new(), Vec::new());
            loop {
                while server.wants_write() {
                    server.write_tls(&mut socket).expect("sent");
                }
                let mut bytes = [0; 4_096];
                let count = socket.read(&mut bytes).expect("the attack goes on");
                if count == 0 {
                    break;
                }
                records.extend_from_slice(&bytes[..count]);
                // Whole records only: what is left over is what a server has to keep.
                while let Some(length) = records.get(3..5) {
                    let whole = 5 + usize::from(u16::from_be_bytes([length[0], length[1]]));
                    if records.len() < whole {
                        break;
                    }
                    server.read_tls(&mut &records[..whole]).expect("a slice gives all");
                    server.process_new_packets().expect("good records");
                    records.drain(..whole);
                    let mut piece = [0; 2_048];
                    while let Ok(count @ 1..) = server.reader().read(&mut piece) {
                        said.extend_from_slice(&piece[..count]);
                    }
                }
            }
            drop(socket);
            attack.join().expect("it ends well");
            assert_eq!((said.len(), records.len()), (plain, cut));
        };
        check(Some(2_048), FRAME_HEADER_BYTES + GREETING_PAYLOAD_BYTES_MAX - 1, 2_048);
        check(None, 0, 0);
    }
}
