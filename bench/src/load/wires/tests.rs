//! Wires against servers made with other libraries' server sides: bytes both ways, resumption, and
//! servers that must not be believed.

use super::{Received, Signal, Wires};
use crate::{
    certificates,
    load::{Target, TargetArgs},
};
use rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    version::TLS13,
};
use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
    path::Path,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(10);

/// Certificates for servers at `localhost`.
fn authority() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    certificates::create(folder.path(), &[]).expect("certificates");
    crate::identity::create_keys(folder.path()).expect("keys");
    folder
}

fn server_config(folder: &Path, alpn: &[u8]) -> Arc<ServerConfig> {
    let chain = CertificateDer::pem_file_iter(folder.join("server-ed25519.pem")).expect("a chain");
    let key = PrivateKeyDer::from_pem_file(folder.join("server-ed25519.key.pem")).expect("a key");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .expect("TLS 1.3 is known")
        .with_no_client_auth()
        .with_single_cert(chain.collect::<Result<_, _>>().expect("certificates"), key)
        .expect("the key is the chain's");
    config.alpn_protocols = vec![alpn.to_vec()];
    Arc::new(config)
}

/// An echo over TLS that serves until the tests end.
fn serve_tls(folder: &Path, alpn: &[u8]) -> SocketAddr {
    let config = server_config(folder, alpn);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    thread::spawn(move || {
        for socket in listener.incoming() {
            let connection = ServerConnection::new(Arc::clone(&config)).expect("a connection");
            let mut stream = StreamOwned::new(connection, socket.expect("a client"));
            thread::spawn(move || {
                let mut bytes = [0; 100];
                // Its client may break off whenever it likes.
                while let Ok(read @ 1..) = stream.read(&mut bytes) {
                    if stream.write_all(&bytes[..read]).is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

/// An echo over QUIC that serves until the tests end.
fn serve_quic(folder: &Path, alpn: &[u8]) -> SocketAddr {
    let config = ServerConfig::clone(&server_config(folder, alpn));
    let (tell, told) = std::sync::mpsc::sync_channel(1);
    thread::spawn(move || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().build().expect("a runtime").block_on(async move {
            let crypto = quinn::crypto::rustls::QuicServerConfig::try_from(config);
            let config = quinn::ServerConfig::with_crypto(Arc::new(crypto.expect("TLS 1.3")));
            let address = "127.0.0.1:0".parse().expect("an address");
            let endpoint = quinn::Endpoint::server(config, address).expect("a socket");
            tell.send(endpoint.local_addr().expect("bound")).expect("the test waits");
            while let Some(incoming) = endpoint.accept().await {
                tokio::spawn(async move {
                    let Ok(connection) = incoming.await else { return };
                    let Ok((mut send, mut receive)) = connection.accept_bi().await else { return };
                    while let Ok(Some(chunk)) = receive.read_chunk(4_096, true).await {
                        if send.write_all(&chunk.bytes).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
    });
    told.recv().expect("it serves")
}

fn wires(scheme: &str, folder: &Path, ca: &Path, address: SocketAddr) -> Wires {
    let args = TargetArgs {
        addr: format!("{scheme}://localhost:{}", address.port()).parse().expect("an endpoint"),
        ca: Some(ca.join("ca.pem")),
        session_key: Some(folder.join("session.key.pem")),
        kid: "dev-1".to_owned(),
        audience: "yao".to_owned(),
        campaign: 1,
        first_user: 1,
    };
    Wires::new(&Target::node(&args).expect("a target")).expect("wires")
}

/// Polls until a signal of `place` says something else than that there are bytes.
fn await_fate(wires: &mut Wires, place: usize) -> Signal {
    let (start, mut signals) = (Instant::now(), Vec::new());
    while start.elapsed() < PATIENCE {
        wires.poll(Duration::from_millis(10), &mut signals).expect("an epoll");
        let fate = |(at, signal): &(usize, Signal)| *at == place && *signal != Signal::Bytes;
        if let Some((_, signal)) = signals.iter().find(|one| fate(one)) {
            return *signal;
        }
    }
    panic!("nothing became of connection {place}");
}

/// Sends `bytes` and receives as many.
fn echo(wires: &mut Wires, place: usize, bytes: &[u8]) -> Vec<u8> {
    assert!(wires.send(place, bytes));
    let (start, mut signals, mut back) = (Instant::now(), Vec::new(), Vec::new());
    while back.len() < bytes.len() && start.elapsed() < PATIENCE {
        wires.poll(Duration::from_millis(10), &mut signals).expect("an epoll");
        assert!(signals.drain(..).all(|signal| signal == (place, Signal::Bytes)));
        assert_eq!(wires.receive(place, &mut back), Received::All);
    }
    back
}

/// Twice: who returns over TLS is known.
fn comes_and_goes(scheme: &str, serve: impl Fn(&Path, &[u8]) -> SocketAddr) {
    let folder = authority();
    let address = serve(folder.path(), b"yao/1");
    let mut wires = wires(scheme, folder.path(), folder.path(), address);
    for round in 0..2 {
        wires.connect(3, 0).expect("a socket");
        assert_eq!(await_fate(&mut wires, 3), Signal::Open);
        // More than a socket, a record, a window or our buffer takes at one time.
        let bytes: Vec<u8> = (0..300_000_u32).map(|index| index.to_le_bytes()[round]).collect();
        assert!(echo(&mut wires, 3, &bytes) == bytes, "other bytes came back");
        // quinn does not say.
        assert_eq!(wires.was_resumed(3), round == 1 && scheme == "tls", "round {round}");
        assert!(wires.close(3));
        assert!(!wires.close(3) && !wires.is_there(3));
    }
}

fn is_lost(scheme: &str, serve: impl Fn(&Path, &[u8]) -> SocketAddr) {
    let (folder, other) = (authority(), authority());
    let check = |alpn: &[u8], ca: &Path| {
        let address = serve(folder.path(), alpn);
        let mut wires = wires(scheme, folder.path(), ca, address);
        wires.connect(0, 0).expect("a socket");
        assert_eq!(await_fate(&mut wires, 0), Signal::Lost);
    };
    check(b"yao/1", other.path());
    check(b"other", folder.path());
}

#[test]
fn bytes_go_and_come_over_tls_and_who_returns_is_known() {
    comes_and_goes("tls", serve_tls);
}

#[test]
fn bytes_go_and_come_over_quic() {
    comes_and_goes("quic", serve_quic);
}

#[test]
fn a_server_of_another_ca_or_protocol_is_lost() {
    is_lost("tls", serve_tls);
    is_lost("quic", serve_quic);
}
