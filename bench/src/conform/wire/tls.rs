//! The rules of TLS that no frame can show, each on a bare socket.

use crate::conform::{frames::ping, transport::Rule};
use anyhow::{Context, Result, bail, ensure};
use rustls::{ClientConfig, ClientConnection, StreamOwned, pki_types::ServerName};
use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::{Duration, Instant},
};

/// Longer than any deadline of a server.
const PATIENCE: Duration = Duration::from_secs(20);
/// A refusal comes at once, not with a deadline.
const REFUSED_MAX: Duration = Duration::from_secs(2);

pub(super) fn check(
    address: SocketAddr,
    config: &ClientConfig,
    name: &ServerName<'static>,
    rule: &Rule,
) -> Result<()> {
    let since = Instant::now();
    let mut socket = TcpStream::connect(address)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    match rule {
        Rule::SilentHandshake(window) => {
            let count = socket.read(&mut [0; 64]).context("neither a byte nor the end")?;
            ensure!(count == 0, "the server sent {count} bytes");
            let ms = u64::try_from(since.elapsed().as_millis())?;
            ensure!(window.contains(&ms), "closed after {ms} ms, not in {window:?}");
        }
        Rule::NoHandshake => {
            socket.write_all(&ping(2).repeat(8))?;
            // An alert of TLS may come; a reset is an end, too.
            let mut bytes = Vec::new();
            let end = socket.read_to_end(&mut bytes).map(|_| ());
            ensure!(since.elapsed() < PATIENCE, "still open: {end:?}");
            ensure!(bytes.is_empty() || bytes[0] == 21, "the server answers {bytes:?}");
        }
        Rule::Protocols(protocols) => {
            let mut config = config.clone();
            config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
            let mut session = ClientConnection::new(Arc::new(config), name.clone())?;
            while session.is_handshaking() {
                if session.complete_io(&mut socket).is_err() {
                    ensure!(since.elapsed() < PATIENCE, "neither a handshake nor a refusal");
                    return Ok(());
                }
            }
            // The client is done a message before the server is, which refuses then.
            let mut bytes = [0; 64];
            let read = StreamOwned::new(session, socket).read(&mut bytes);
            ensure!(since.elapsed() < REFUSED_MAX, "not refused, but in the end {read:?}");
            ensure!(!matches!(read, Ok(1..)), "the server says {bytes:?}");
        }
        Rule::OneStream | Rule::NoDatagrams => bail!("TLS has one stream and no datagrams"),
    }
    Ok(())
}
