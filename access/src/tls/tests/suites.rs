//! Which suite is picked: by what the CPU can, and by what the client can.

use super::*;
use crate::tls::{Cpu, crypto_provider, quic_provider, server_config};
use rustls::{
    CipherSuite::{
        self, TLS13_AES_128_GCM_SHA256 as AES_128, TLS13_AES_256_GCM_SHA384 as AES_256,
        TLS13_CHACHA20_POLY1305_SHA256 as CHACHA20,
    },
    SupportedCipherSuite,
    quic::{self, Version},
};

/// A client that offers these suites, in this order.
fn offering(suites: &[CipherSuite]) -> Arc<ClientConfig> {
    let mut provider = aws_lc_rs::default_provider();
    let known = std::mem::take(&mut provider.cipher_suites);
    let find = |wanted: &CipherSuite| -> SupportedCipherSuite {
        *known.iter().find(|suite| suite.suite() == *wanted).expect("rustls has it")
    };
    provider.cipher_suites = suites.iter().map(find).collect();
    Arc::new(client_config_with(provider, ALL, &[ALPN]))
}

/// What is picked over TCP.
fn over_tcp(cpu: Cpu, client: &Arc<ClientConfig>) -> Option<CipherSuite> {
    let certificates = &certificates().config;
    let settings = server_config(certificates, crypto_provider(cpu)).expect("good");
    let mut pair = Pair::new(&self::settings(), client);
    pair.server = TlsSession::new(Arc::new(settings)).expect("a session");
    pair.exchange(usize::MAX).expect("a good handshake");
    pair.echo(b"shake", usize::MAX);
    pair.client.negotiated_cipher_suite().map(|suite| suite.suite())
}

/// What is picked over QUIC, whose packets are quinn's affair.
fn over_quic(cpu: Cpu, client: &Arc<ClientConfig>) -> Option<CipherSuite> {
    let certificates = &certificates().config;
    let settings = Arc::new(server_config(certificates, quic_provider(cpu)).expect("good"));
    let name = ServerName::try_from("localhost").expect("a good name");
    let client = quic::ClientConnection::new(Arc::clone(client), Version::V1, name, Vec::new());
    let mut client = client.expect("a client");
    let mut server =
        quic::ServerConnection::new(settings, Version::V1, Vec::new()).expect("a session");
    let mut said = Vec::new();
    while client.is_handshaking() || server.is_handshaking() {
        // What is said under one key is heard before the next.
        while client.write_hs(&mut said).is_some() || !said.is_empty() {
            server.read_hs(&said).expect("a good client");
            said.clear();
        }
        while server.write_hs(&mut said).is_some() || !said.is_empty() {
            client.read_hs(&said).expect("a good server");
            said.clear();
        }
    }
    client.negotiated_cipher_suite().map(|suite| suite.suite())
}

/// With AES in the CPU AES-128 is cheapest, without it ChaCha20; the client's order does not
/// matter, what it knows does.
#[test]
fn the_suite_is_the_cheapest_for_this_cpu_that_the_client_knows() {
    let check = |offered: &[CipherSuite], with_aes: CipherSuite, without: CipherSuite| {
        let client = offering(offered);
        for (has_aes, expected) in [(true, with_aes), (false, without)] {
            // Who derives the keys makes no difference.
            for cpu in [true, false].map(|has_sha| Cpu { has_aes, has_sha }) {
                assert_eq!(over_tcp(cpu, &client), Some(expected), "{offered:?}, {cpu:?}");
                assert_eq!(over_quic(cpu, &client), Some(expected), "{offered:?}, {cpu:?}");
            }
        }
    };
    check(&[AES_256, AES_128, CHACHA20], AES_128, CHACHA20);
    check(&[CHACHA20, AES_128, AES_256], AES_128, CHACHA20);
    check(&[AES_256, CHACHA20], CHACHA20, CHACHA20);
    check(&[AES_128, AES_256], AES_128, AES_128);
    check(&[AES_256], AES_256, AES_256);
}

/// What `prepare` puts in force is the order for the CPU that it runs on.
#[test]
fn the_order_in_force_is_that_of_this_cpu() {
    let mut pair = Pair::new(&settings(), &offering(&[AES_256, AES_128, CHACHA20]));
    pair.exchange(usize::MAX).expect("a good handshake");
    let picked = pair.client.negotiated_cipher_suite().map(|suite| suite.suite());
    // As the kernel says it, who asked the CPU by himself.
    let features = fs::read_to_string("/proc/cpuinfo").expect("Linux");
    let has_aes = features.split_whitespace().any(|word| word == "aes");
    assert_eq!(picked, Some(if has_aes { AES_128 } else { CHACHA20 }));
}
