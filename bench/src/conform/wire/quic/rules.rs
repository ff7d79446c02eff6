//! The rules of QUIC that no frame can show, each on a connection of its own.

use super::{Connector, Stream, check_close, for_quic};
use crate::conform::{
    frames::{bye, ping},
    transport::{Older, Opening, Rule},
    wire::{
        PATIENCE,
        liar::Liar,
        relay::Relay,
        tls::{Asked, check_certificate},
    },
};
use anyhow::{Context, Result, bail, ensure};
use quinn::{
    ClientConfig, Connection, ConnectionError, TransportErrorCode, crypto::rustls::QuicClientConfig,
};
use std::{
    future::Future,
    net::UdpSocket,
    ops::RangeInclusive,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::time::{sleep, timeout};
use yao_protocol::client::kind;

/// Time in which a stream would have been allowed.
const STREAM_TIME: Duration = Duration::from_secs(1);
/// After so long a client has nothing more to acknowledge.
const QUIET: Duration = Duration::from_millis(300);
/// TLS' alert no_application_protocol as QUIC carries it (RFC 9001 4.8).
const NO_PROTOCOL: u64 = 0x100 + 120;
/// Version 1, and one that is reserved for nobody (RFC 9000 15).
const VERSION: u32 = 1;
const OTHER_VERSION: u32 = 0x1a2a_3a4a;
/// The smallest datagram that may begin a connection.
const INITIAL_BYTES: usize = 1_200;

impl Connector {
    pub(in crate::conform::wire) fn check(&self, rule: &Rule) -> Result<()> {
        match rule {
            Rule::Handshake(window, Opening::Silent) => self.unfinished(window),
            Rule::Protocols(protocols) => self.protocols(protocols),
            Rule::Version(Older::Quic) => self.other_version(),
            Rule::Certificate => self.reactor.block_on(async {
                let stream = self.stream(self.config.clone(), self.address, PATIENCE).await?;
                let identity = stream.connection.peer_identity().context("no certificate")?;
                match identity.downcast::<Vec<rustls::pki_types::CertificateDer<'static>>>() {
                    Ok(chain) => check_certificate(&chain),
                    Err(_) => bail!("what it shows is no chain of certificates"),
                }
            }),
            Rule::NoClientCertificate => {
                let (tls, asked) = Asked::listen(&self.tls);
                let config = for_quic(tls)?;
                self.reactor.block_on(self.stream(config, self.address, PATIENCE))?;
                asked.check()
            }
            Rule::NoEarlyData(hello) => self.no_early_data(hello),
            Rule::OneStream => self.one_stream(),
            Rule::Streams(hello) => {
                self.trespass(hello, |connection| async move {
                    let (mut second, _) = connection.open_bi().await?;
                    Ok(second.write_all(b"more").await?)
                })?;
                self.trespass(hello, |connection| async move {
                    let mut other = connection.open_uni().await?;
                    Ok(other.write_all(b"more").await?)
                })
            }
            Rule::NoDatagrams => {
                let stream = self.connect(PATIENCE)?;
                let size = stream.connection.max_datagram_size();
                ensure!(size.is_none(), "datagrams of {size:?} bytes");
                Ok(())
            }
            Rule::Datagrams(hello) => self.trespass_with(
                hello,
                TransportErrorCode::PROTOCOL_VIOLATION,
                |connection| async move { Ok(connection.send_datagram("more".into())?) },
            ),
            Rule::Unacknowledged(hello, window) => self.unacknowledged(hello, window),
            Rule::Refused => self.refused(),
            _ => bail!("QUIC has no such rule"),
        }
    }

    /// Why there is no connection.
    async fn refusal(&self, config: ClientConfig) -> Result<ConnectionError> {
        match self.connection(config, self.address, PATIENCE).await {
            Ok(_) => bail!("the handshake was done"),
            Err(error) => match error.downcast::<ConnectionError>() {
                Ok(reason) => Ok(reason),
                Err(error) => Err(error.context("neither a handshake nor a refusal")),
            },
        }
    }

    fn protocols(&self, protocols: &[&[u8]]) -> Result<()> {
        let mut tls = self.tls.clone();
        tls.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        let reason = self.reactor.block_on(self.refusal(for_quic(tls)?))?;
        check_transport_close(&reason, NO_PROTOCOL)
    }

    fn refused(&self) -> Result<()> {
        let reason = self.reactor.block_on(self.refusal(self.config.clone()))?;
        check_transport_close(&reason, TransportErrorCode::CONNECTION_REFUSED.into())
    }

    /// A first packet of a version that nobody knows; the answer names those that the server does.
    fn other_version(&self) -> Result<()> {
        let socket = UdpSocket::bind(self.local)?;
        socket.connect(self.address)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        // A long header, and two connection ids of eight bytes (RFC 8999 5.1).
        let (theirs, ours) = ([1; 8], [2; 8]);
        let mut packet = vec![0xc0];
        packet.extend(OTHER_VERSION.to_be_bytes());
        packet.push(8);
        packet.extend(theirs);
        packet.push(8);
        packet.extend(ours);
        packet.resize(INITIAL_BYTES, 0);
        socket.send(&packet)?;
        let mut answer = [0; INITIAL_BYTES];
        let count = socket.recv(&mut answer).context("no version negotiation")?;
        // Version 0, and the ids the other way round (RFC 9000 17.2.1).
        let head = [&[0, 0, 0, 0, 8][..], &ours, &[8], &theirs].concat();
        ensure!(answer[0] & 0x80 != 0, "the answer has no long header");
        let versions =
            answer[1..count].strip_prefix(&head[..]).context("no version negotiation")?;
        let mut known =
            versions.chunks(4).map(|four| four.try_into().map_or(0, u32::from_be_bytes));
        // Versions of the form 0x?a?a?a?a are there to be ignored.
        let reserved = |version: u32| version & 0x0f0f_0f0f == 0x0a0a_0a0a;
        ensure!(
            known.by_ref().all(|version| version == VERSION || reserved(version)),
            "other versions than 1 are offered: {versions:x?}"
        );
        let one = VERSION.to_be_bytes();
        ensure!(versions.chunks(4).any(|four| four == one), "version 1 is not offered");
        Ok(())
    }

    /// A client that hears the server's first flight, and is heard again when its time is over:
    /// then nobody knows it. (Meanwhile the server may not say that it closes: so little came from
    /// the client's address that little may go there, RFC 9000 8.1.)
    fn unfinished(&self, window: &RangeInclusive<u64>) -> Result<()> {
        let relay = Relay::start(self.address, true)?;
        self.reactor.block_on(async {
            let mut stream = self.stream(self.config.clone(), relay.address, PATIENCE).await?;
            sleep(Duration::from_millis(*window.end())).await;
            relay.open();
            stream.outgoing.write_all(&ping(1)).await?;
            match timeout(PATIENCE, stream.connection.closed()).await {
                Ok(ConnectionError::Reset) => Ok(()),
                Ok(other) => bail!("{other:?}, where nobody should know the connection"),
                Err(_) => bail!("the server is silent"),
            }
        })
    }

    fn no_early_data(&self, hello: &[u8]) -> Result<()> {
        let mut tls = self.tls.clone();
        tls.resumption = rustls::client::Resumption::in_memory_sessions(8);
        tls.enable_early_data = true;
        let config = for_quic(tls)?;
        self.reactor.block_on(async {
            let mut first = self.stream(config.clone(), self.address, PATIENCE).await?;
            first.welcome(hello).await?;
            // A ticket would have come with the handshake's end.
            sleep(QUIET).await;
            let endpoint = quinn::Endpoint::client(self.local)?;
            let connecting = endpoint.connect_with(config, self.address, &self.name)?;
            ensure!(connecting.into_0rtt().is_err(), "early data would be welcome");
            Ok(())
        })
    }

    fn one_stream(&self) -> Result<()> {
        let stream = self.connect(PATIENCE)?;
        self.reactor.block_on(async {
            let connection = &stream.connection;
            let second = timeout(STREAM_TIME, connection.open_bi()).await;
            ensure!(second.is_err(), "a second bidirectional stream");
            let other = timeout(STREAM_TIME, connection.open_uni()).await;
            ensure!(other.is_err(), "a unidirectional stream");
            Ok(())
        })
    }

    fn trespass<F>(&self, hello: &[u8], act: impl FnOnce(Connection) -> F) -> Result<()>
    where
        F: Future<Output = Result<()>>,
    {
        self.trespass_with(hello, TransportErrorCode::STREAM_LIMIT_ERROR, act)
    }

    /// Does in a session what the server does not allow, and hears of it.
    fn trespass_with<F>(
        &self,
        hello: &[u8],
        code: TransportErrorCode,
        act: impl FnOnce(Connection) -> F,
    ) -> Result<()>
    where
        F: Future<Output = Result<()>>,
    {
        let tls = QuicClientConfig::try_from(self.tls.clone()).context("TLS for QUIC")?;
        let config = ClientConfig::new(Arc::new(Liar(Arc::new(tls))));
        self.reactor.block_on(async {
            let mut stream = self.stream(config, self.address, PATIENCE).await?;
            stream.welcome(hello).await?;
            act(stream.connection.clone()).await?;
            let closed = timeout(PATIENCE, stream.connection.closed()).await;
            check_transport_close(&closed.context("it is borne")?, code.into())
        })
    }

    /// BYE from a client that acknowledges nothing of what follows.
    fn unacknowledged(&self, hello: &[u8], window: &RangeInclusive<u64>) -> Result<()> {
        let relay = Relay::start(self.address, false)?;
        self.reactor.block_on(async {
            let mut stream = self.stream(self.config.clone(), relay.address, PATIENCE).await?;
            stream.welcome(hello).await?;
            sleep(QUIET).await;
            relay.limit(1);
            let since = Instant::now();
            stream.outgoing.write_all(&bye()).await?;
            let closed = timeout(PATIENCE, stream.connection.closed()).await;
            let reason = closed.context("the server does not close")?;
            let ms = u64::try_from(since.elapsed().as_millis())?;
            check_close(&reason)?;
            ensure!(window.contains(&ms), "closed after {ms} ms, not in {window:?}");
            Ok(())
        })
    }
}

impl Stream {
    /// HELLO and its WELCOME.
    async fn welcome(&mut self, hello: &[u8]) -> Result<()> {
        self.outgoing.write_all(hello).await?;
        let mut head = [0; 8];
        let read = timeout(PATIENCE, self.incoming.read_exact(&mut head)).await;
        read.context("no answer to HELLO")??;
        ensure!(head[2] == kind::WELCOME, "not welcomed: {head:?}");
        Ok(())
    }
}

/// CONNECTION_CLOSE of the transport with this code.
fn check_transport_close(reason: &ConnectionError, code: u64) -> Result<()> {
    match reason {
        ConnectionError::ConnectionClosed(close) if u64::from(close.error_code) == code => Ok(()),
        other => bail!("{other:?}, where CONNECTION_CLOSE with code {code:#x} was to come"),
    }
}
