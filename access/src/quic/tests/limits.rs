//! Keys that are used up: after so many packets sealed a new one, after so many forged the end (RFC
//! 9001 6.6).

use super::{bare::Bare, config, put_shake};
use crate::{
    server::testing::Rig,
    tls::{Cpu, crypto_provider, quic_provider},
};
use quinn_proto::ConnectionError;
use rustls::{
    Error, SupportedCipherSuite, Tls13CipherSuite,
    crypto::{
        CipherSuiteCommon,
        cipher::{AeadKey, Iv},
    },
    quic::{Algorithm, HeaderProtectionKey, PacketKey, Tag},
};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// quinn has new keys made so many packets before the limit.
const MARGIN: u64 = 10_000;

/// Our keys, as they are, with other limits; counted as they are made.
struct Limited {
    ours: &'static dyn Algorithm,
    confidentiality: u64,
    integrity: u64,
    made: AtomicU32,
}

impl Algorithm for Limited {
    fn packet_key(&self, key: AeadKey, iv: Iv) -> Box<dyn PacketKey> {
        self.made.fetch_add(1, Relaxed);
        let (confidentiality, integrity) = (self.confidentiality, self.integrity);
        Box::new(LimitedKey { ours: self.ours.packet_key(key, iv), confidentiality, integrity })
    }

    fn header_protection_key(&self, key: AeadKey) -> Box<dyn HeaderProtectionKey> {
        self.ours.header_protection_key(key)
    }

    fn aead_key_len(&self) -> usize {
        self.ours.aead_key_len()
    }
}

struct LimitedKey {
    ours: Box<dyn PacketKey>,
    confidentiality: u64,
    integrity: u64,
}

impl PacketKey for LimitedKey {
    fn encrypt_in_place(&self, number: u64, head: &[u8], rest: &mut [u8]) -> Result<Tag, Error> {
        self.ours.encrypt_in_place(number, head, rest)
    }

    fn decrypt_in_place<'a>(
        &self,
        number: u64,
        head: &[u8],
        rest: &'a mut [u8],
    ) -> Result<&'a [u8], Error> {
        self.ours.decrypt_in_place(number, head, rest)
    }

    fn tag_len(&self) -> usize {
        self.ours.tag_len()
    }

    fn confidentiality_limit(&self) -> u64 {
        self.confidentiality
    }

    fn integrity_limit(&self) -> u64 {
        self.integrity
    }
}

/// Whose order of suites begins with AES-128, wherever this test runs.
const CPU: Cpu = Cpu { has_aes: true, has_sha: true };

/// A node whose keys have these limits, and what counts them.
fn limited(confidentiality: u64, integrity: u64) -> (Rig, &'static Limited) {
    let rig = Rig::start("quic = ['127.0.0.1:0']\nquic_threads = 1");
    let mut provider = quic_provider(CPU);
    let suite = provider.cipher_suites[0].tls13().expect("TLS 1.3");
    let ours = suite.quic.expect("all of ours have QUIC");
    let limited: &'static Limited =
        Box::leak(Box::new(Limited { ours, confidentiality, integrity, made: AtomicU32::new(0) }));
    let common = CipherSuiteCommon {
        suite: suite.common.suite,
        hash_provider: suite.common.hash_provider,
        confidentiality_limit: suite.common.confidentiality_limit,
    };
    let (hkdf_provider, aead_alg) = (suite.hkdf_provider, suite.aead_alg);
    let suite = Tls13CipherSuite { common, hkdf_provider, aead_alg, quic: Some(limited) };
    provider.cipher_suites = vec![SupportedCipherSuite::Tls13(Box::leak(Box::new(suite)))];
    let prepared = rig.tls.prepare_with(&rig.tls_config, crypto_provider(CPU), provider);
    rig.tls.put_in_force(prepared.expect("good certificates"));
    (rig, limited)
}

/// New settings serve new connections from the thread's next second on.
fn connect(rig: &Rig, limited: &Limited) -> Bare {
    loop {
        let mut client = Bare::silent(rig.addresses.quic[0], config(rig));
        if limited.made.load(Relaxed) > 0 {
            client.greet(7);
            return client;
        }
    }
}

/// quinn has the first new keys made after ten to a thousand packets of either side, so that nobody
/// comes to count on one key; then the limit decides.
#[test]
fn a_key_that_has_sealed_enough_is_replaced_and_no_other() {
    let (rig, limited) = limited(MARGIN + 20, u64::MAX);
    let mut client = connect(&rig, limited);
    let updates = |from: u32| (limited.made.load(Relaxed) - from) / 2;
    let start = limited.made.load(Relaxed);
    let mut shakes = 0;
    while updates(start) < 4 {
        assert!(shakes < 20_000, "{} updates", updates(start));
        client.shake(shakes);
        shakes += 1;
    }
    assert!(shakes >= 3 * 20, "{shakes} shakes are too few for three keys of 20 packets");
}

#[test]
fn a_key_with_room_is_kept() {
    let (rig, limited) = limited(u64::MAX, u64::MAX);
    let mut client = connect(&rig, limited);
    let start = limited.made.load(Relaxed);
    let mut shakes = 0..;
    while limited.made.load(Relaxed) == start {
        client.shake(shakes.next().expect("as many as it takes"));
    }
    // Both sides may have had enough at once.
    shakes.by_ref().take(20).for_each(|number| client.shake(number));
    let made = limited.made.load(Relaxed);
    shakes.take(500).for_each(|number| client.shake(number));
    assert_eq!(limited.made.load(Relaxed), made);
}

#[test]
fn a_connection_that_meets_too_many_forgeries_ends() {
    const FORGERIES_MAX: u64 = 8;
    let (rig, limited) = limited(u64::MAX, FORGERIES_MAX);
    let mut client = connect(&rig, limited);
    let forge = |client: &mut Bare| {
        let mut bytes = Vec::new();
        put_shake(&mut bytes, 1);
        client.say_later(&bytes);
        let datagrams = client.outgoing();
        let mut forged = datagrams[0].clone();
        *forged.last_mut().expect("a packet") ^= 1;
        client.send(&[forged]);
        client.send(&datagrams);
    };
    for _ in 0..FORGERIES_MAX {
        forge(&mut client);
        client.hear_no_win(1);
    }
    forge(&mut client);
    // Nothing more is sealed under these keys, not even the reason (RFC 9001 6.6).
    client.drive(|client| client.lost.is_some());
    assert_eq!(client.lost, Some(ConnectionError::Reset));
    connect(&rig, limited).shake(1);
}
