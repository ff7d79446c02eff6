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

/// An echo that serves until the test ends.
fn serve(folder: &Path, alpn: &[u8]) -> SocketAddr {
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
    let (config, listener) = (Arc::new(config), TcpListener::bind("127.0.0.1:0").expect("a port"));
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

fn target(folder: &Path, ca: &Path, address: SocketAddr) -> Target {
    let args = TargetArgs {
        addr: format!("tls://localhost:{}", address.port()).parse().expect("an endpoint"),
        ca: Some(ca.join("ca.pem")),
        session_key: Some(folder.join("session.key.pem")),
        kid: "dev-1".to_owned(),
        audience: "yao".to_owned(),
        campaign: 1,
        first_user: 1,
    };
    Target::node(&args).expect("a target")
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

#[test]
fn bytes_go_and_come_over_tls_and_who_returns_is_known() {
    let folder = authority();
    let address = serve(folder.path(), b"yao/1");
    let mut wires = Wires::new(&target(folder.path(), folder.path(), address)).expect("wires");
    for round in 0..2 {
        wires.connect(3, 0).expect("a socket");
        assert_eq!(await_fate(&mut wires, 3), Signal::Open);
        // More than a socket, a record or our buffer takes at one time.
        let bytes: Vec<u8> = (0..300_000_u32).map(|index| index.to_le_bytes()[round]).collect();
        assert!(echo(&mut wires, 3, &bytes) == bytes, "other bytes came back");
        assert_eq!(wires.was_resumed(3), round == 1, "round {round}");
        assert!(wires.close(3));
        assert!(!wires.close(3) && !wires.is_there(3));
    }
}

#[test]
fn a_server_of_another_ca_or_protocol_is_lost() {
    let (folder, other) = (authority(), authority());
    let address = serve(folder.path(), b"yao/1");
    let mut wires = Wires::new(&target(folder.path(), other.path(), address)).expect("wires");
    wires.connect(0, 0).expect("a socket");
    assert_eq!(await_fate(&mut wires, 0), Signal::Lost);
    let address = serve(folder.path(), b"other");
    let mut wires = Wires::new(&target(folder.path(), folder.path(), address)).expect("wires");
    wires.connect(0, 0).expect("a socket");
    assert_eq!(await_fate(&mut wires, 0), Signal::Lost);
}
