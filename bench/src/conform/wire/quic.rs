//! QUIC as a blocking stream: the first bidirectional stream of a connection, over an independent
//! implementation (quinn). Its reactor has a thread of its own.

mod rules;

use super::{Received, Wire};
use crate::conform::case::Below;
use anyhow::{Context, Result, bail, ensure};
use quinn::{
    ClientConfig, Connection, ConnectionError, Endpoint, RecvStream, SendStream, TransportConfig,
    VarInt, crypto::rustls::QuicClientConfig,
};
use std::{
    convert::Infallible,
    future::pending,
    io::{self, ErrorKind},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};
use tokio::{
    runtime::{Builder, Handle},
    time::{timeout, timeout_at},
};

/// Application code of the CONNECTION_CLOSE that ends a session (wire.md 1.5).
const CLOSE_CODE: VarInt = VarInt::from_u32(0);

/// The server has heard of every end within this time, or never will.
const FAREWELL_MAX: Duration = Duration::from_secs(2);

/// Makes connections to one server. Dropping it waits until the server has heard of every session's
/// end: one whose client is gone without a word lives on.
pub(super) struct Connector {
    reactor: Handle,
    /// Every stream has one of these until its end was sent.
    under_way: Option<SyncSender<Infallible>>,
    ended: Mutex<Receiver<Infallible>>,
    config: ClientConfig,
    tls: rustls::ClientConfig,
    local: SocketAddr,
    address: SocketAddr,
    name: String,
}

/// The stream, and the connection that it keeps open.
pub(super) struct Stream {
    reactor: Handle,
    endpoint: Endpoint,
    connection: Connection,
    under_way: Option<SyncSender<Infallible>>,
    outgoing: SendStream,
    incoming: RecvStream,
    patience: Duration,
    local: SocketAddr,
    /// The client will not hear the stream's end.
    is_stopped: bool,
    /// The server ended its side.
    is_ended: bool,
}

impl Connector {
    pub(super) fn new(
        mut tls: rustls::ClientConfig,
        address: SocketAddr,
        name: String,
    ) -> Result<Self> {
        tls.resumption = rustls::client::Resumption::disabled();
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
        let (under_way, ended) = sync_channel(0);
        let (under_way, ended) = (Some(under_way), Mutex::new(ended));
        Ok(Self { reactor, under_way, ended, config, tls, local, address, name })
    }

    pub(super) fn connect(&self, patience: Duration) -> Result<Stream> {
        self.reactor.block_on(self.stream(self.config.clone(), self.address, patience))
    }

    /// A connection and its stream.
    async fn stream(
        &self,
        config: ClientConfig,
        address: SocketAddr,
        patience: Duration,
    ) -> Result<Stream> {
        let (endpoint, connection) = self.connection(config, address, patience).await?;
        let (outgoing, incoming) = timeout(patience, connection.open_bi())
            .await
            .context("the server allows no bidirectional stream")??;
        let (reactor, local) = (self.reactor.clone(), self.local);
        let (is_stopped, is_ended) = (false, false);
        Ok(Stream {
            reactor,
            endpoint,
            connection,
            under_way: self.under_way.clone(),
            outgoing,
            incoming,
            patience,
            local,
            is_stopped,
            is_ended,
        })
    }

    async fn connection(
        &self,
        config: ClientConfig,
        address: SocketAddr,
        patience: Duration,
    ) -> Result<(Endpoint, Connection)> {
        // A socket each: in a common one the packets of many wait for one reader, and the last
        // ones before a close are never sent again when they find no room.
        let endpoint = Endpoint::client(self.local)?;
        let connecting = endpoint.connect_with(config, address, &self.name)?;
        let connection = timeout(patience, connecting)
            .await
            .with_context(|| format!("no QUIC handshake with {address}"))?
            .with_context(|| format!("cannot connect to {address}"))?;
        Ok((endpoint, connection))
    }
}

fn for_quic(tls: rustls::ClientConfig) -> Result<ClientConfig> {
    let tls = QuicClientConfig::try_from(tls).context("TLS for QUIC")?;
    let mut config = ClientConfig::new(Arc::new(tls));
    let mut transport = TransportConfig::default();
    // Packets are sent for what the script says only.
    transport.mtu_discovery_config(None);
    config.transport_config(Arc::new(transport));
    Ok(config)
}

impl Drop for Connector {
    fn drop(&mut self) {
        self.under_way = None;
        let ended = self.ended.get_mut().expect("no holder panics");
        // The last sender is gone, or the time is over.
        ended.recv_timeout(FAREWELL_MAX).ok();
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.connection.close(CLOSE_CODE, &[]);
        let (endpoint, under_way) = (self.endpoint.clone(), self.under_way.take());
        self.reactor.spawn(async move {
            endpoint.wait_idle().await;
            drop(under_way);
        });
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
        let Self { reactor, connection, incoming, is_stopped, is_ended, .. } = self;
        reactor.block_on(async {
            if *is_stopped {
                return match timeout_at(until.into(), connection.closed()).await {
                    Ok(_) => Received::Closed,
                    Err(_) => Received::Nothing,
                };
            }
            match timeout_at(until.into(), incoming.read(bytes)).await {
                Ok(Ok(Some(count))) => Received::Bytes(count),
                Ok(Ok(None)) => {
                    *is_ended = true;
                    Received::Closed
                }
                Ok(Err(_)) => Received::Closed,
                Err(_) => Received::Nothing,
            }
        })
    }

    fn below(&mut self, below: &Below) -> Result<()> {
        // quinn wants its reactor near.
        let _entered = self.reactor.enter();
        match below {
            Below::End => self.outgoing.finish()?,
            Below::Abandon { reset, stop } => {
                if *reset {
                    self.outgoing.reset(VarInt::from_u32(9))?;
                }
                if *stop {
                    self.incoming.stop(VarInt::from_u32(9))?;
                    self.is_stopped = true;
                }
            }
            Below::Rekey => self.connection.force_key_update(),
            Below::Move => self.endpoint.rebind(UdpSocket::bind(self.local)?)?,
            Below::Record(..) | Below::Rest(..) | Below::Raw(_) => {
                bail!("QUIC cannot do this: {below:?}")
            }
        }
        Ok(())
    }

    fn farewell(&mut self, until: Instant) -> Result<()> {
        ensure!(self.is_ended, "the stream was not ended, the connection was");
        let Self { reactor, connection, .. } = self;
        reactor.block_on(async {
            match timeout_at(until.into(), connection.closed()).await {
                Ok(reason) => check_close(&reason),
                Err(_) => bail!("no CONNECTION_CLOSE follows the stream's end"),
            }
        })
    }
}

/// CONNECTION_CLOSE as wire.md 1.5 has it.
fn check_close(reason: &ConnectionError) -> Result<()> {
    match reason {
        ConnectionError::ApplicationClosed(close) if close.error_code == CLOSE_CODE => Ok(()),
        other => bail!("{other:?}, where CONNECTION_CLOSE with code 0 was to come"),
    }
}
