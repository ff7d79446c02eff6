//! Sessions that are resumed, and what a client may try to send before their handshake is done.

use super::{Dialer, Stream};
use crate::conform::frames::ping;
use anyhow::{Context, Result, bail, ensure};
use rustls::{
    ClientConfig, HandshakeKind, NamedGroup,
    client::{ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue},
    pki_types::ServerName,
};
use std::{
    io::{ErrorKind, Read, Write},
    sync::{Arc, Mutex},
    time::Duration,
};
use yao_protocol::{
    client::kind,
    frame::{FrameHeader, split_frame},
    limits::{CLIENT_PAYLOAD_BYTES_MAX, FRAME_HEADER_BYTES},
};

/// Answers that should not come are waited for so long.
const QUIET: Duration = Duration::from_millis(500);
/// The right to early data that a client takes that has none, bytes.
const EARLY_BYTES: u32 = 4_096;

/// Keeps TLS' session tickets, as the server made them or not.
#[derive(Debug, Default)]
pub(super) struct Tickets {
    kept: Mutex<Vec<Tls13ClientSessionValue>>,
    /// Whether tickets are made to say that early data is welcome.
    forged: bool,
}

impl Tickets {
    fn config(dialer: &Dialer, forged: bool) -> (Arc<ClientConfig>, Arc<Self>) {
        let tickets = Arc::new(Self { forged, ..Self::default() });
        let mut config = (*dialer.config).clone();
        config.resumption = Resumption::store(Arc::clone(&tickets) as Arc<dyn ClientSessionStore>);
        config.enable_early_data = true;
        (Arc::new(config), tickets)
    }

    fn are_gone(&self) -> bool {
        self.kept.lock().expect("no holder panics").is_empty()
    }
}

impl ClientSessionStore for Tickets {
    fn set_kx_hint(&self, _: ServerName<'static>, _: NamedGroup) {}

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }

    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, _: ServerName<'static>, ticket: Tls13ClientSessionValue) {
        self.kept.lock().expect("no holder panics").push(ticket);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        let mut ticket = self.kept.lock().expect("no holder panics").pop()?;
        if self.forged {
            // rustls has it for tests of its own. An honest client cannot be made to lie otherwise.
            ticket._private_set_max_early_data_size(EARLY_BYTES);
        }
        Some(ticket)
    }
}

/// The kind and request id of the next frame.
fn next(stream: &mut Stream) -> Result<(u8, u32)> {
    let mut head = [0; FRAME_HEADER_BYTES];
    stream.read_exact(&mut head).context("no answer")?;
    let header = FrameHeader::decode(head);
    let mut payload = vec![0; usize::from(header.payload_bytes)];
    stream.read_exact(&mut payload).context("an answer is cut")?;
    let whole = [&head[..], &payload].concat();
    ensure!(split_frame(&whole, CLIENT_PAYLOAD_BYTES_MAX)?.is_some(), "no frame");
    Ok((header.kind, header.request_id))
}

/// HELLO and its WELCOME.
fn welcome(stream: &mut Stream, hello: &[u8]) -> Result<()> {
    stream.write_all(hello)?;
    stream.flush()?;
    ensure!(next(stream)?.0 == kind::WELCOME, "not welcomed");
    Ok(())
}

/// Opens a session and leaves it; TLS' tickets of it are kept. Says how its handshake went.
fn open(
    dialer: &Dialer,
    config: &Arc<ClientConfig>,
    hello: &[u8],
) -> Result<Option<HandshakeKind>> {
    let mut stream = dialer.handshake(Arc::clone(config))?;
    welcome(&mut stream, hello)?;
    // Tickets come before this answer at the latest.
    stream.write_all(&ping(2))?;
    while next(&mut stream)? != (kind::PONG, 2) {}
    stream.conn.send_close_notify();
    stream.flush()?;
    Ok(stream.conn.handshake_kind())
}

/// The right to early data does not come with a ticket.
pub(super) fn not_allowed(dialer: &Dialer, hello: &[u8]) -> Result<()> {
    let (config, tickets) = Tickets::config(dialer, false);
    open(dialer, &config, hello)?;
    let kept = tickets.kept.lock().expect("no holder panics");
    for ticket in &*kept {
        let size = ticket.max_early_data_size();
        ensure!(size == 0, "a ticket allows {size} bytes of early data");
    }
    Ok(())
}

/// HELLO as early data is not heard; HELLO behind the handshake is.
pub(super) fn not_taken(dialer: &Dialer, hello: &[u8]) -> Result<()> {
    let (config, tickets) = Tickets::config(dialer, true);
    open(dialer, &config, hello)?;
    if tickets.are_gone() {
        // A server without tickets gives nobody the occasion.
        return Ok(());
    }
    let mut session = dialer.session(config)?;
    let mut early = session.early_data().context("this client found no ticket to use")?;
    early.write_all(hello)?;
    let mut socket = super::connect(dialer.address)?;
    socket.set_read_timeout(Some(super::PATIENCE))?;
    while session.is_handshaking() {
        session.complete_io(&mut socket).context("the handshake behind early data failed")?;
    }
    ensure!(!session.is_early_data_accepted(), "early data was accepted");
    socket.set_read_timeout(Some(QUIET))?;
    let mut stream = Stream::new(session, socket);
    match stream.read(&mut [0; 64]) {
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
        other => bail!("{other:?}, where nobody had spoken"),
    }
    stream.sock.set_read_timeout(Some(super::PATIENCE))?;
    welcome(&mut stream, hello)
}

/// A resumed session spares the certificate, not HELLO.
pub(super) fn resumed(dialer: &Dialer, hello: &[u8], early: &[u8]) -> Result<()> {
    let (config, tickets) = Tickets::config(dialer, false);
    open(dialer, &config, hello)?;
    if tickets.are_gone() {
        return Ok(());
    }
    let kind = open(dialer, &config, hello)?;
    ensure!(kind == Some(HandshakeKind::Resumed), "not resumed, but {kind:?}");
    let mut third = dialer.handshake(config)?;
    third.write_all(early)?;
    third.flush()?;
    let answer = next(&mut third)?;
    ensure!(answer.0 == kind::ERROR, "it begins in the middle: {answer:?}");
    Ok(())
}
