//! Keys that are used up, ours and the client's. How many records one may seal is lowered to eight,
//! from 2^24. The other limit, the end of the record numbers at 2^64, nobody reaches: at a million
//! records a second it is half a million years away, and a key is replaced long before.

use super::*;
use crate::tls::{Cpu, schedule, server_config};
use rustls::{
    ConnectionTrafficSecrets, SupportedCipherSuite, Tls13CipherSuite,
    crypto::{
        CipherSuiteCommon,
        cipher::{
            AeadKey, Iv, MessageDecrypter, MessageEncrypter, Tls13AeadAlgorithm,
            UnsupportedOperationError,
        },
    },
};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// Records that one key may seal here.
const RECORDS_MAX: u64 = 8;

/// The library's keys, counted as they are made.
pub(super) struct Counted {
    library: &'static dyn Tls13AeadAlgorithm,
    /// Keys that seal, and keys that open.
    sealing: AtomicU32,
    opening: AtomicU32,
}

impl Counted {
    /// Keys that were made to seal.
    pub(super) fn sealing(&self) -> u32 {
        self.sealing.load(Relaxed)
    }
}

impl Tls13AeadAlgorithm for Counted {
    fn encrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageEncrypter> {
        self.sealing.fetch_add(1, Relaxed);
        self.library.encrypter(key, iv)
    }

    fn decrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageDecrypter> {
        self.opening.fetch_add(1, Relaxed);
        self.library.decrypter(key, iv)
    }

    fn key_len(&self) -> usize {
        self.library.key_len()
    }

    fn extract_keys(
        &self,
        key: AeadKey,
        iv: Iv,
    ) -> Result<ConnectionTrafficSecrets, UnsupportedOperationError> {
        self.library.extract_keys(key, iv)
    }
}

/// AES-128 whose keys are used up after [`RECORDS_MAX`] records, alone.
pub(super) fn short_lived() -> (CryptoProvider, &'static Counted) {
    let suite = schedule::quickest(aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256, Cpu::here());
    let suite = suite.tls13().expect("TLS 1.3");
    let counted: &'static Counted = Box::leak(Box::new(Counted {
        library: suite.aead_alg,
        sealing: AtomicU32::new(0),
        opening: AtomicU32::new(0),
    }));
    let common = CipherSuiteCommon {
        suite: suite.common.suite,
        hash_provider: suite.common.hash_provider,
        confidentiality_limit: RECORDS_MAX,
    };
    let hkdf_provider = suite.hkdf_provider;
    let short = Tls13CipherSuite { common, hkdf_provider, aead_alg: counted, quic: None };
    let suite = SupportedCipherSuite::Tls13(Box::leak(Box::new(short)));
    (CryptoProvider { cipher_suites: vec![suite], ..aws_lc_rs::default_provider() }, counted)
}

/// No key is used for more records than it may be: a new one is announced in time, also in the
/// middle of one long answer.
#[test]
fn keys_that_are_used_up_are_replaced() {
    let (provider, counted) = short_lived();
    let settings = server_config(&certificates().config, provider).expect("good");
    let mut pair = Pair::new(&self::settings(), &Arc::new(client_config(ALL, &[ALPN])));
    pair.server = TlsSession::new(Arc::new(settings)).expect("a session");
    pair.exchange(usize::MAX).expect("a good handshake");
    let before = counted.sealing();
    for number in 0..100_u8 {
        pair.server.seal(&[number; 32], &mut pair.out).expect("sealed");
        let read = pair.client_reads().expect("every record opens");
        assert_eq!(read, [number; 32], "record {number}");
    }
    assert!(u64::from(counted.sealing() - before) >= 100 / RECORDS_MAX);
    // Five records at once.
    let long = vec![7; 80_000];
    for round in 0..10 {
        pair.server.seal(&long, &mut pair.out).expect("sealed");
        assert_eq!(pair.client_reads().expect("every record opens"), long, "round {round}");
    }
    assert!(u64::from(counted.sealing() - before) >= 150 / RECORDS_MAX);
    pair.echo(b"and back", usize::MAX);
}

/// A client whose own keys are used up changes them without being asked, and we follow, however its
/// records are cut.
#[test]
fn a_client_may_replace_its_keys_again_and_again() {
    for cut in [1, 7, 40, usize::MAX] {
        let (provider, counted) = short_lived();
        let config = Arc::new(client_config_with(provider, ALL, &[ALPN]));
        let mut pair = Pair::new(&settings(), &config);
        pair.exchange(cut).expect("a good handshake");
        let before = counted.sealing();
        for number in 0..100_u8 {
            pair.echo(&[number; 32], cut);
        }
        assert!(u64::from(counted.sealing() - before) >= 100 / RECORDS_MAX, "cut at {cut}");
    }
}

/// Both sides at once: KeyUpdates cross on their way.
#[test]
fn both_may_replace_their_keys_at_once() {
    let (provider, ours) = short_lived();
    let settings = server_config(&certificates().config, provider).expect("good");
    let (provider, theirs) = short_lived();
    let config = Arc::new(client_config_with(provider, ALL, &[ALPN]));
    let mut pair = Pair::new(&self::settings(), &config);
    pair.server = TlsSession::new(Arc::new(settings)).expect("a session");
    pair.exchange(usize::MAX).expect("a good handshake");
    for number in 0..200_u8 {
        pair.server.seal(&[number; 32], &mut pair.out).expect("sealed");
        pair.client.writer().write_all(&[!number; 32]).expect("taken");
        let said = pair.client_bytes();
        pair.plain.clear();
        let heard = pair.client_reads().expect("every record opens");
        pair.feed(&said, 50).expect("every record opens");
        assert_eq!((&heard[..], &pair.plain[..]), (&[number; 32][..], &[!number; 32][..]));
    }
    let least = u32::try_from(200 / RECORDS_MAX).expect("small");
    assert!(ours.sealing() >= least && theirs.sealing() >= least);
}
