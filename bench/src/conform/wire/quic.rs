//! QUIC as a blocking stream: the first bidirectional stream of a connection, over an independent
//! implementation (quinn). Its reactor has a thread of its own.

use super::{Received, Wire};
use crate::conform::transport::Rule;
use anyhow::{Context, Result, bail, ensure};
use quinn::{
    ClientConfig, Connection, ConnectionError, Endpoint, RecvStream, SendStream,
    crypto::rustls::QuicClientConfig,
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
    tls: rustls::ClientConfig,
    local: SocketAddr,
    address: SocketAddr,
    name: String,
}

/// The stream, and the connection that it keeps open.
pub(super) struct Stream {
    reactor: Handle,
    /// Closed when this is dropped.
    connection: Connection,
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
        let config = for_quic(tls.clone())?;
        // Ends with the process: connections may be open until then.
        thread::Builder::new()
            .name("quic-reactor".to_owned())
            .spawn(move || runtime.block_on(pending::<()>()))?;
        Ok(Self { reactor, config, tls, local, address, name })
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
            Ok(Stream { reactor, connection, outgoing, incoming, patience })
        })
    }
}

/// Time in which a stream would have been allowed.
const STREAM_TIME: Duration = Duration::from_secs(1);

impl Connector {
    pub(super) fn check(&self, rule: &Rule) -> Result<()> {
        match rule {
            Rule::Protocols(protocols) => {
                let mut tls = self.tls.clone();
                tls.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
                self.reactor.block_on(async {
                    let endpoint = Endpoint::client(self.local)?;
                    let config = for_quic(tls)?;
                    let connecting = endpoint.connect_with(config, self.address, &self.name)?;
                    match timeout(Duration::from_secs(20), connecting).await {
                        Ok(Err(ConnectionError::ConnectionClosed(_))) => Ok(()),
                        Ok(Err(error)) => bail!("not refused, but {error}"),
                        Ok(Ok(_)) => bail!("the handshake was done"),
                        Err(_) => bail!("neither a handshake nor a refusal"),
                    }
                })
            }
            Rule::OneStream => {
                let stream = self.connect(Duration::from_secs(20))?;
                self.reactor.block_on(async {
                    let connection = &stream.connection;
                    let second = timeout(STREAM_TIME, connection.open_bi()).await;
                    ensure!(second.is_err(), "a second bidirectional stream");
                    let other = timeout(STREAM_TIME, connection.open_uni()).await;
                    ensure!(other.is_err(), "a unidirectional stream");
                    Ok(())
                })
            }
            Rule::NoDatagrams => {
                let stream = self.connect(Duration::from_secs(20))?;
                let size = stream.connection.max_datagram_size();
                ensure!(size.is_none(), "datagrams of {size:?} bytes");
                Ok(())
            }
            Rule::SilentHandshake(_) | Rule::NoHandshake => {
                bail!("over QUIC there is nothing before a handshake")
            }
        }
    }
}

fn for_quic(tls: rustls::ClientConfig) -> Result<ClientConfig> {
    let tls = QuicClientConfig::try_from(tls).context("TLS for QUIC")?;
    Ok(ClientConfig::new(Arc::new(tls)))
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
