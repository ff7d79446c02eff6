//! QUIC as a blocking stream: the first bidirectional stream of a connection, over an independent
//! implementation (quinn). Its reactor has a thread of its own.

use super::{Received, Wire};
use anyhow::{Context, Result};
use quinn::{
    ClientConfig, Connection, Endpoint, RecvStream, SendStream, crypto::rustls::QuicClientConfig,
};
use std::{
    future::pending,
    io::{self, ErrorKind},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};
use tokio::{
    runtime::{Builder, Handle},
    time::{timeout, timeout_at},
};

/// Makes connections to one server.
pub(super) struct Connector {
    reactor: Handle,
    config: ClientConfig,
    local: SocketAddr,
    address: SocketAddr,
    name: String,
}

/// The stream, and the connection that it keeps open.
pub(super) struct Stream {
    reactor: Handle,
    /// Closed when this is dropped.
    _connection: Connection,
    outgoing: SendStream,
    incoming: RecvStream,
    patience: Duration,
}

impl Connector {
    pub(super) fn new(
        tls: rustls::ClientConfig,
        address: SocketAddr,
        name: String,
    ) -> Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let reactor = runtime.handle().clone();
        let local: SocketAddr = if address.is_ipv4() {
            (Ipv4Addr::UNSPECIFIED, 0).into()
        } else {
            (Ipv6Addr::UNSPECIFIED, 0).into()
        };
        let tls = QuicClientConfig::try_from(tls).context("TLS for QUIC")?;
        let config = ClientConfig::new(Arc::new(tls));
        // Ends with the process: connections may be open until then.
        thread::Builder::new()
            .name("quic-reactor".to_owned())
            .spawn(move || runtime.block_on(pending::<()>()))?;
        Ok(Self { reactor, config, local, address, name })
    }

    pub(super) fn connect(&self, patience: Duration) -> Result<Stream> {
        self.reactor.block_on(async {
            // A socket each: in a common one the packets of many wait for one reader, and the last
            // ones before a close are never sent again when they find no room.
            let endpoint = Endpoint::client(self.local)?;
            let connecting =
                endpoint.connect_with(self.config.clone(), self.address, &self.name)?;
            let connection = timeout(patience, connecting)
                .await
                .with_context(|| format!("no QUIC handshake with {}", self.address))?
                .with_context(|| format!("cannot connect to {}", self.address))?;
            let (outgoing, incoming) = timeout(patience, connection.open_bi())
                .await
                .context("the server allows no bidirectional stream")??;
            let reactor = self.reactor.clone();
            Ok(Stream { reactor, _connection: connection, outgoing, incoming, patience })
        })
    }
}

impl Wire for Stream {
    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Self { reactor, outgoing, patience, .. } = self;
        reactor.block_on(async {
            match timeout(*patience, outgoing.write_all(bytes)).await {
                Ok(result) => result.map_err(io::Error::from),
                Err(_) => Err(ErrorKind::TimedOut.into()),
            }
        })
    }

    fn receive(&mut self, bytes: &mut [u8], until: Instant) -> Received {
        let Self { reactor, incoming, .. } = self;
        reactor.block_on(async {
            match timeout_at(until.into(), incoming.read(bytes)).await {
                Ok(Ok(Some(count))) => Received::Bytes(count),
                Ok(Ok(None) | Err(_)) => Received::Closed,
                Err(_) => Received::Nothing,
            }
        })
    }
}
