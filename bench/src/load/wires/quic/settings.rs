//! What the QUIC clients of a load are made with: room for one stream of frames and no more.

use anyhow::{Context, Result};
use mio::net::UdpSocket;
use quinn_proto::{ClientConfig, TransportConfig, VarInt, crypto::rustls::QuicClientConfig};
use socket2::{Domain, Protocol, Socket, Type};
use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

/// What the server may send ahead, bytes.
const RECEIVE_BYTES: u32 = 64 * 1024;
/// What we send ahead, bytes.
const SEND_BYTES: u64 = 64 * 1024;
/// What the kernel may hold for all connections each way. It caps this at net.core.{r,w}mem_max.
const SOCKET_BYTES: usize = 8 << 20;

/// One socket for every connection to `address`.
pub(super) fn socket(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    // Less than asked for is what the machine allows.
    socket.set_recv_buffer_size(SOCKET_BYTES)?;
    socket.set_send_buffer_size(SOCKET_BYTES)?;
    let any = match address {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    socket.bind(&SocketAddr::new(any, 0).into())?;
    Ok(UdpSocket::from_std(socket.into()))
}

/// A connection. The server's idle timeout is the one in force.
pub(super) fn client(tls: &rustls::ClientConfig) -> Result<ClientConfig> {
    let crypto = QuicClientConfig::try_from(tls.clone()).context("TLS settings for QUIC")?;
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(RECEIVE_BYTES))
        .receive_window(VarInt::from_u32(RECEIVE_BYTES))
        .send_window(SEND_BYTES)
        .datagram_receive_buffer_size(None)
        .mtu_discovery_config(None)
        .max_idle_timeout(None);
    let mut config = ClientConfig::new(Arc::new(crypto));
    config.transport_config(Arc::new(transport));
    Ok(config)
}
