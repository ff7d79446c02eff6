//! One TLS connection over rustls' unbuffered interface. It owns no buffer while it is idle:
//! records are opened in the thread's receive buffer, and only one that is cut is kept.

use rustls::{
    ServerConfig,
    server::UnbufferedServerConnection,
    unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus},
};
use std::sync::Arc;
use yao_protocol::limits::GREETING_RECORD_BYTES_MAX;

/// The longest record of TLS 1.3: header, 2^14 bytes and what a suite may add (RFC 8446 5.2).
const RECORD_BYTES_MAX: usize = 5 + 16_384 + 256;
/// During the handshake a peer may make us keep this much of a cut record: of its ClientHello, that
/// is. After it, and before its session is open, [`GREETING_RECORD_BYTES_MAX`].
const HANDSHAKE_BYTES_MAX: usize = 4_096;
/// What encryption adds to each record of at most 2^14 bytes, and room for a KeyUpdate before it.
const SEALING_BYTES_MAX: usize = 64;

/// Why a TLS connection is over.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    /// The peer broke TLS; the alert that says so is in `out`.
    #[error("TLS: {0}")]
    Protocol(#[from] rustls::Error),
    /// The peer makes us keep more than it may.
    #[error("a cut TLS record of {0} bytes is more than a peer may leave here")]
    TooLarge(usize),
    /// rustls was asked for something out of order.
    #[error("TLS state: {0}")]
    State(&'static str),
    /// The peer speaks another protocol, or does not say which.
    #[error("the peer did not offer the protocol yao/1 (ALPN)")]
    Alpn,
    /// So many records were sent under one key that nothing may follow.
    #[error("the TLS key is used up")]
    Exhausted,
}

/// What became of bytes that were fed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fed {
    /// The handshake was completed by these bytes.
    pub secured: bool,
    /// The peer said that nothing follows.
    pub ended: bool,
    /// A record is cut: its rest must come in time.
    pub cut: bool,
}

/// See the module.
pub(crate) struct TlsSession {
    pub(super) connection: UnbufferedServerConnection,
    /// The start of a record, or of a handshake message, whose end has not come. Empty, and
    /// without memory, otherwise.
    cut: Vec<u8>,
    secured: bool,
    /// It failed, or was closed: rustls is not asked any more, which then may panic.
    broken: bool,
}

impl std::fmt::Debug for TlsSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsSession").field("secured", &self.secured).finish_non_exhaustive()
    }
}

impl TlsSession {
    pub(crate) fn new(settings: Arc<ServerConfig>) -> Result<Self, TlsError> {
        let connection = UnbufferedServerConnection::new(settings)?;
        Ok(Self { connection, cut: Vec::new(), secured: false, broken: false })
    }

    /// Whether the handshake is done.
    pub(crate) const fn is_secured(&self) -> bool {
        self.secured
    }

    /// The peer hears nothing any more: there will be no goodbye.
    pub(crate) const fn deafen(&mut self) {
        self.broken = true;
    }

    /// Takes `bytes` from the network, whatever the cut. Appends what the peer says to `plain` and
    /// what must be sent to `out`, also when it fails: then that is the alert.
    pub(crate) fn feed(
        &mut self,
        bytes: &mut [u8],
        plain: &mut Vec<u8>,
        out: &mut Vec<u8>,
        session_open: bool,
    ) -> Result<Fed, TlsError> {
        if self.broken {
            return Err(TlsError::State("it failed before"));
        }
        let fed = self.take(bytes, plain, out, session_open);
        if matches!(fed, Err(TlsError::Alpn | TlsError::TooLarge(_))) && self.secured {
            // Our own rule, of which rustls knows nothing: the peer is told that it is over.
            self.close(out)?;
        }
        self.broken = fed.is_err();
        fed
    }

    fn take(
        &mut self,
        bytes: &mut [u8],
        plain: &mut Vec<u8>,
        out: &mut Vec<u8>,
        session_open: bool,
    ) -> Result<Fed, TlsError> {
        let was_secured = self.secured;
        let mut ended = false;
        let mut kept = std::mem::take(&mut self.cut);
        let mut rest = if kept.is_empty() {
            let used = self.open_records(bytes, plain, out, &mut ended)?;
            &bytes[used..]
        } else {
            kept.extend_from_slice(bytes);
            let used = self.open_records(&mut kept, plain, out, &mut ended)?;
            &kept[used..]
        };
        if ended {
            // Whatever follows the end means nothing.
            rest = &[];
        }
        // Kept before it is judged: rustls remembers how far it looked into a message that is cut,
        // and panics when it is asked for an alert without these bytes.
        self.cut = rest.to_vec();
        if self.secured && !was_secured && self.connection.alpn_protocol() != Some(super::ALPN) {
            return Err(TlsError::Alpn);
        }
        let limit = match (self.secured, session_open) {
            (false, _) => HANDSHAKE_BYTES_MAX,
            (true, false) => GREETING_RECORD_BYTES_MAX,
            (true, true) => RECORD_BYTES_MAX,
        };
        if self.cut.len() > limit {
            return Err(TlsError::TooLarge(self.cut.len()));
        }
        Ok(Fed { secured: self.secured && !was_secured, ended, cut: !self.cut.is_empty() })
    }

    /// Works on whole records of `bytes`; returns how many bytes they took.
    fn open_records(
        &mut self,
        bytes: &mut [u8],
        plain: &mut Vec<u8>,
        out: &mut Vec<u8>,
        ended: &mut bool,
    ) -> Result<usize, TlsError> {
        let mut used = 0;
        loop {
            let UnbufferedStatus { mut discard, state } =
                self.connection.process_tls_records(&mut bytes[used..]);
            let state = match state {
                Ok(state) => state,
                Err(error) => {
                    self.put_alert(out);
                    return Err(error.into());
                }
            };
            let mut done = false;
            match state {
                ConnectionState::ReadTraffic(mut traffic) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record?;
                        discard += record.discard;
                        plain.extend_from_slice(record.payload);
                    }
                }
                ConnectionState::EncodeTlsData(mut data) => encode(out, |room| data.encode(room))?,
                ConnectionState::TransmitTlsData(data) => data.done(),
                ConnectionState::WriteTraffic(_) => {
                    self.secured = true;
                    done = true;
                }
                ConnectionState::BlockedHandshake => done = true,
                ConnectionState::PeerClosed | ConnectionState::Closed => {
                    *ended = true;
                    done = true;
                }
                _ => return Err(TlsError::State("early data was never offered")),
            }
            used += discard;
            if done {
                return Ok(used);
            }
        }
    }

    /// After an error rustls may still have an alert for the peer. Asked only while something waits
    /// to be sent: rustls must not look at records again.
    fn put_alert(&mut self, out: &mut Vec<u8>) {
        while self.connection.wants_write() {
            let state = self.connection.process_tls_records(&mut []).state;
            let Ok(ConnectionState::EncodeTlsData(mut data)) = state else { return };
            if encode(out, |room| data.encode(room)).is_err() {
                return;
            }
        }
    }

    /// Seals `plain` and appends the records to `out`.
    pub(crate) fn seal(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<(), TlsError> {
        self.write(out, plain.len(), |traffic, room| traffic.encrypt(plain, room))
    }

    /// Appends the alert that nothing follows; nothing is read after it either.
    pub(crate) fn close(&mut self, out: &mut Vec<u8>) -> Result<(), TlsError> {
        let closed = self.write(out, 0, |traffic, room| traffic.queue_close_notify(room));
        self.broken = true;
        closed
    }

    fn write(
        &mut self,
        out: &mut Vec<u8>,
        plain_bytes: usize,
        mut put: impl FnMut(&mut WriteTraffic<'_>, &mut [u8]) -> Result<usize, EncryptError>,
    ) -> Result<(), TlsError> {
        if self.broken {
            return Err(TlsError::State("it failed before"));
        }
        // A KeyUpdate that the peer asked for may have to go first. rustls is shown what is kept:
        // where a handshake message spans records, it counts on finding its start (without, it
        // panics).
        for _ in 0..4 {
            match self.connection.process_tls_records(&mut self.cut).state? {
                ConnectionState::EncodeTlsData(mut data) => encode(out, |room| data.encode(room))?,
                ConnectionState::TransmitTlsData(data) => data.done(),
                ConnectionState::WriteTraffic(mut traffic) => {
                    let records = plain_bytes / 16_384 + 1;
                    let mut room_bytes = plain_bytes + records * SEALING_BYTES_MAX;
                    loop {
                        let start = out.len();
                        out.resize(start + room_bytes, 0);
                        let written = put(&mut traffic, &mut out[start..]);
                        out.truncate(start + written.as_ref().copied().unwrap_or(0));
                        match written {
                            Ok(_) => return Ok(()),
                            Err(EncryptError::InsufficientSize(error)) => {
                                room_bytes = error.required_size;
                            }
                            Err(EncryptError::EncryptExhausted) => return Err(TlsError::Exhausted),
                        }
                    }
                }
                _ => break,
            }
        }
        Err(TlsError::State("nothing can be sent in this state of the handshake"))
    }
}

type WriteTraffic<'a> = rustls::unbuffered::WriteTraffic<'a, rustls::server::ServerConnectionData>;

/// Appends one handshake record.
fn encode(
    out: &mut Vec<u8>,
    mut put: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
) -> Result<(), TlsError> {
    let start = out.len();
    // Asking with no room tells how much is needed.
    let room_bytes = match put(&mut []) {
        Ok(_) => return Ok(()),
        Err(EncodeError::InsufficientSize(error)) => error.required_size,
        Err(EncodeError::AlreadyEncoded) => return Err(TlsError::State("encoded twice")),
    };
    out.resize(start + room_bytes, 0);
    match put(&mut out[start..]) {
        Ok(written) => {
            out.truncate(start + written);
            Ok(())
        }
        Err(_) => Err(TlsError::State("a record outgrew the room it asked for")),
    }
}
