//! What a client brings from another life of the node, or from another node of the same name:
//! connections, tickets of TLS, tokens. Whatever it is, the client gets in.

use super::{PATIENCE, Phone, bare::Bare, config, put_hello, quic_client, tls_client};
use crate::{quic::ResetSecret, server::testing::Rig, tls::ALPN};
use bytes::Bytes;
use quinn::{Connection, Endpoint};
use quinn_proto::{ConnectionError, TokenStore, ValidationTokenConfig};
use rcgen::{CertificateParams, KeyPair};
use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
};
use tokio::time::timeout;
use yao_protocol::client::{kind, put_empty};

/// An address that no other test uses: its port is free again when a node there has ended.
const AGAIN: &str = "127.0.0.77";

fn start(port: u16, seed: u8) -> Rig {
    let listen = format!("quic = ['{AGAIN}:{port}']\nquic_threads = 2");
    Rig::start_with(&listen, &ResetSecret::derive(&[seed; 32]))
}

fn ping() -> Vec<u8> {
    let mut bytes = Vec::new();
    put_empty(&mut bytes, kind::PING, 9);
    bytes
}

#[test]
fn clients_of_a_node_that_was_killed_hear_it_at_their_first_packet() {
    let first = start(0, 1);
    let port = first.addresses.quic[0].port();
    let mut clients: Vec<Bare> = Vec::new();
    for user in 0..8 {
        let mut client = Bare::silent(first.addresses.quic[0], config(&first));
        client.greet(user);
        clients.push(client);
    }
    first.kill();
    assert!(clients.iter().all(|client| client.lost.is_none()), "nobody was told");
    let again = start(port, 1);
    for (user, mut client) in (0..).zip(clients) {
        client.say(&ping());
        client.drive(|client| client.lost.is_some());
        assert_eq!(client.lost, Some(ConnectionError::Reset));
        let mut client = Bare::silent(again.addresses.quic[0], config(&again));
        client.greet(user);
        client.shake(1);
    }
    drop(again);

    // A node with another ticket key is another node: its resets mean nothing to these clients.
    let first = start(0, 1);
    let port = first.addresses.quic[0].port();
    let mut client = Bare::silent(first.addresses.quic[0], config(&first));
    client.greet(7);
    first.kill();
    let other = start(port, 2);
    client.say(&ping());
    let answer = client.receive(PATIENCE).expect("a reset of the other node's");
    client.take(&answer);
    assert_eq!(client.lost, None);
    Bare::silent(other.addresses.quic[0], config(&other)).greet(7);
}

/// What a client keeps of a server between two visits.
#[derive(Default)]
struct Kept {
    token: Mutex<Option<Bytes>>,
    shown: AtomicU32,
}

impl TokenStore for Kept {
    fn insert(&self, _: &str, token: Bytes) {
        *self.token.lock().expect("nobody panics here") = Some(token);
    }

    fn take(&self, _: &str) -> Option<Bytes> {
        let token = self.token.lock().expect("nobody panics here").take()?;
        self.shown.fetch_add(1, Relaxed);
        Some(token)
    }
}

/// A server of our protocol that gives away what ours does not: tickets of TLS, with early data,
/// and tokens that prove an address next time. Says back whatever it hears.
fn generous() -> (Endpoint, rustls::pki_types::CertificateDer<'static>) {
    let key = KeyPair::generate().expect("a key");
    let parameters = CertificateParams::new(vec!["localhost".to_owned()]).expect("a good name");
    let certificate = parameters.self_signed(&key).expect("signed");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            key.serialize_der().try_into().expect("PKCS#8"),
        )
        .expect("a good pair");
    tls.alpn_protocols = vec![ALPN.to_vec()];
    tls.max_early_data_size = u32::MAX;
    let crypto = quinn::crypto::rustls::QuicServerConfig::try_from(tls).expect("has AES-128");
    let mut settings = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    let mut tokens = ValidationTokenConfig::default();
    tokens.sent(1);
    settings.validation_token_config(tokens);
    let address = SocketAddr::from(super::LOOPBACK);
    let endpoint = Endpoint::server(settings, address).expect("a socket");
    let accepting = endpoint.clone();
    tokio::spawn(async move {
        while let Some(incoming) = accepting.accept().await {
            let connection = incoming.await.expect("a good client");
            while let Ok((mut send, mut receive)) = connection.accept_bi().await {
                let heard = receive.read_to_end(64).await.expect("a word");
                send.write_all(&heard).await.expect("sent");
                send.finish().expect("open");
            }
        }
    });
    (endpoint, certificate.der().clone())
}

async fn echo(connection: &Connection) {
    let (mut send, mut receive) = connection.open_bi().await.expect("a stream");
    send.write_all(b"shake").await.expect("sent");
    send.finish().expect("open");
    assert_eq!(receive.read_to_end(64).await.expect("said back"), b"shake");
}

#[tokio::test]
async fn tickets_and_tokens_of_another_node_are_no_use_and_no_harm() {
    let rig = Rig::start("quic = ['127.0.0.1:0']\nquic_threads = 1");
    let (generous, certificate) = generous();
    let mut roots = rustls::RootCertStore::empty();
    for root in rig.roots.iter().chain([&certificate]) {
        roots.add(root.clone()).expect("a certificate");
    }
    let mut tls = tls_client(&rig, ALPN);
    tls.enable_early_data = true;
    let verifier = rustls::client::WebPkiServerVerifier::builder_with_provider(
        Arc::new(roots),
        Arc::clone(tls.crypto_provider()),
    );
    tls.dangerous().set_certificate_verifier(verifier.build().expect("roots"));
    let kept = Arc::new(Kept::default());
    let mut config = quic_client(tls);
    config.token_store(Arc::<Kept>::clone(&kept));
    let endpoint = Endpoint::client(SocketAddr::from(super::LOOPBACK)).expect("a socket");
    let dial = |to| endpoint.connect_with(config.clone(), to, "localhost").expect("a good name");
    let elsewhere = generous.local_addr().expect("bound");

    // Twice there: the second time proves that it holds what it was given, and gets more of it.
    let connection = dial(elsewhere).await.expect("connected");
    echo(&connection).await;
    connection.close(0_u32.into(), b"");
    let (connection, early) = dial(elsewhere).into_0rtt().expect("it holds a ticket");
    echo(&connection).await;
    assert!(early.await, "which is good there");
    assert_eq!(kept.shown.load(Relaxed), 1);

    // And with the next ticket and token here: early data is refused, the handshake is full, and
    // the session opens.
    let (connection, early) = dial(rig.addresses.quic[0]).into_0rtt().expect("another ticket");
    assert_eq!(kept.shown.load(Relaxed), 2, "and another token");
    let (mut send, _) = connection.open_bi().await.expect("a stream");
    let mut hello = Vec::new();
    put_hello(&mut hello, 7);
    send.write_all(&hello).await.expect("taken");
    assert!(!timeout(PATIENCE, early).await.expect("in time"), "nothing is read before the end");
    assert!(rig.context.registry.is_empty(), "not even HELLO");
    let (send, receive) = connection.open_bi().await.expect("again the first stream");
    assert_eq!(send.id().index(), 0);
    let mut phone = Phone { endpoint, connection, send, receive, incoming: Vec::new() };
    phone.greet(7).await;
    phone.shake(1).await;
}
