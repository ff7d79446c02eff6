//! The key schedule of TLS 1.3 over SHA-256, by the `hkdf` crate. A handshake expands 19 secrets
//! from ten keys, over QUIC 46 from 22. aws-lc prepares the HMAC of a key for each of them, and
//! extracts the key anew where it was extracted; `hkdf` does both once. Measured in memory, that is
//! a tenth of a TLS handshake (docs/costs.md). All cryptography is the libraries': this file only
//! says which of them derives.
//!
//! What is kept is wiped when it goes. What `hkdf` has on the stack meanwhile is not.

use super::Cpu;
use hkdf::{
    Hkdf as Library,
    hmac::{Hmac, KeyInit, Mac},
};
use rustls::{
    CipherSuite, SupportedCipherSuite, Tls13CipherSuite,
    crypto::{
        CipherSuiteCommon,
        aws_lc_rs::cipher_suite,
        hmac::Tag,
        tls13::{Hkdf, HkdfExpander, OkmBlock, OutputLengthError},
    },
};
use sha2::Sha256;
use std::sync::LazyLock;
use zeroize::{Zeroize, Zeroizing};

/// Bytes of a SHA-256.
const HASH_BYTES: usize = 32;

/// `suite` with this key schedule, where that is quicker: a suite of SHA-256 on a CPU that has
/// instructions for it. Without them aws-lc's assembly is the better one.
pub(super) fn quickest(suite: SupportedCipherSuite, cpu: Cpu) -> SupportedCipherSuite {
    static AES_128: LazyLock<Tls13CipherSuite> =
        LazyLock::new(|| scheduled(cipher_suite::TLS13_AES_128_GCM_SHA256));
    static CHACHA20: LazyLock<Tls13CipherSuite> =
        LazyLock::new(|| scheduled(cipher_suite::TLS13_CHACHA20_POLY1305_SHA256));
    match suite.suite() {
        CipherSuite::TLS13_AES_128_GCM_SHA256 if cpu.has_sha => {
            SupportedCipherSuite::Tls13(&AES_128)
        }
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 if cpu.has_sha => {
            SupportedCipherSuite::Tls13(&CHACHA20)
        }
        _ => suite,
    }
}

fn scheduled(theirs: SupportedCipherSuite) -> Tls13CipherSuite {
    let theirs = theirs.tls13().expect("a suite of TLS 1.3");
    Tls13CipherSuite {
        common: CipherSuiteCommon {
            suite: theirs.common.suite,
            hash_provider: theirs.common.hash_provider,
            confidentiality_limit: theirs.common.confidentiality_limit,
        },
        hkdf_provider: &Schedule,
        aead_alg: theirs.aead_alg,
        quic: theirs.quic,
    }
}

/// HKDF with SHA-256 (RFC 5869) as rustls wants it.
struct Schedule;

/// A key from which secrets are expanded, prepared once.
struct Expander(Library<Sha256>);

impl Hkdf for Schedule {
    fn extract_from_zero_ikm(&self, salt: Option<&[u8]>) -> Box<dyn HkdfExpander> {
        self.extract_from_secret(salt, &[0; HASH_BYTES])
    }

    fn extract_from_secret(&self, salt: Option<&[u8]>, secret: &[u8]) -> Box<dyn HkdfExpander> {
        let (mut key, prepared) = Library::extract(salt, secret);
        key.as_mut_slice().zeroize();
        Box::new(Expander(prepared))
    }

    fn expander_for_okm(&self, okm: &OkmBlock) -> Box<dyn HkdfExpander> {
        let key = Library::from_prk(okm.as_ref());
        Box::new(Expander(key.expect("a secret of SHA-256 is as long as its hash")))
    }

    fn hmac_sign(&self, key: &OkmBlock, message: &[u8]) -> Tag {
        let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(key.as_ref())
            .expect("an HMAC takes a key of any length");
        mac.update(message);
        Tag::new(&mac.finalize().into_bytes())
    }
}

impl HkdfExpander for Expander {
    fn expand_slice(&self, info: &[&[u8]], output: &mut [u8]) -> Result<(), OutputLengthError> {
        self.0.expand_multi_info(info, output).map_err(|_| OutputLengthError)
    }

    fn expand_block(&self, info: &[&[u8]]) -> OkmBlock {
        let mut block = Zeroizing::new([0; HASH_BYTES]);
        self.0.expand_multi_info(info, &mut *block).expect("one block is not too long");
        OkmBlock::new(&*block)
    }

    fn hash_len(&self) -> usize {
        HASH_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIBRARYS: [SupportedCipherSuite; 2] =
        [cipher_suite::TLS13_AES_128_GCM_SHA256, cipher_suite::TLS13_CHACHA20_POLY1305_SHA256];

    /// Whatever rustls asks of a key schedule, both libraries answer alike.
    #[test]
    fn the_libraries_derive_the_same_secrets() {
        let theirs = LIBRARYS[0].tls13().expect("TLS 1.3").hkdf_provider;
        let bytes: Vec<u8> = (0..=255).collect();
        for length in [0, 1, 31, 32, 33, 63, 64, 65, 200] {
            let (some, okm) =
                (&bytes[7..][..length], OkmBlock::new(&bytes[length..][..HASH_BYTES]));
            let mut expanders =
                vec![(Schedule.expander_for_okm(&okm), theirs.expander_for_okm(&okm))];
            for salt in [None, Some(some), Some(&bytes[..HASH_BYTES])] {
                expanders.push((
                    Schedule.extract_from_zero_ikm(salt),
                    theirs.extract_from_zero_ikm(salt),
                ));
                for secret in [some, &bytes[..HASH_BYTES], &bytes[..]] {
                    expanders.push((
                        Schedule.extract_from_secret(salt, secret),
                        theirs.extract_from_secret(salt, secret),
                    ));
                }
            }
            for (ours, theirs) in expanders {
                assert_eq!(ours.hash_len(), theirs.hash_len());
                let info: [&[u8]; 3] = [some, b"", &bytes[..3]];
                let (block, expected) = (ours.expand_block(&info), theirs.expand_block(&info));
                assert_eq!(block.as_ref(), expected.as_ref());
                for wanted in [0, 1, 12, 16, 32, 33, 64, 65, 255 * HASH_BYTES] {
                    let (mut output, mut expected) = (vec![0; wanted], vec![0; wanted]);
                    assert!(ours.expand_slice(&info, &mut output).is_ok());
                    assert!(theirs.expand_slice(&info, &mut expected).is_ok());
                    assert_eq!(output, expected, "{wanted} bytes");
                }
                let mut too_long = vec![0; 255 * HASH_BYTES + 1];
                assert!(ours.expand_slice(&info, &mut too_long).is_err());
                assert!(theirs.expand_slice(&info, &mut too_long).is_err());
            }
            let (tag, expected) = (Schedule.hmac_sign(&okm, some), theirs.hmac_sign(&okm, some));
            assert_eq!(tag.as_ref(), expected.as_ref());
        }
    }

    /// The example of RFC 9001, A.1: a client's first secret follows from the id that it chose.
    #[test]
    fn the_first_secret_of_quic_is_that_of_the_rfc() {
        let salt = hex("38762cf7f55934b34d179ae6a4c80cadccbb7f0a");
        let expander = Schedule.extract_from_secret(Some(&salt), &hex("8394c8f03e515708"));
        let label: [&[u8]; 4] = [&[0, 32], &[15], b"tls13 client in", &[0]];
        let expected = hex("c00cf151ca5be075ed0ebfb5c80323c42d6b7db67881289af4008f1f6c357aea");
        assert_eq!(expander.expand_block(&label).as_ref(), expected);
    }

    fn hex(text: &str) -> Vec<u8> {
        let byte = |at| u8::from_str_radix(&text[at..at + 2], 16).expect("hexadecimal");
        (0..text.len()).step_by(2).map(byte).collect()
    }

    /// Whoever derives, a suite keeps all else; one of SHA-384, and any on a CPU without
    /// instructions for SHA-256, stays as it was.
    #[test]
    fn only_the_derivation_is_another() {
        let is_same = |one: &Tls13CipherSuite, other| std::ptr::eq(one, other);
        for library in LIBRARYS {
            let theirs = library.tls13().expect("TLS 1.3");
            let quick = quickest(library, Cpu { has_aes: true, has_sha: true });
            let quick = quick.tls13().expect("as it was");
            assert!(!is_same(quick, theirs), "by another library");
            assert_eq!(quick.common.suite, theirs.common.suite);
            assert_eq!(quick.common.confidentiality_limit, theirs.common.confidentiality_limit);
            let hash = |suite: &Tls13CipherSuite| suite.common.hash_provider.algorithm();
            assert_eq!(hash(quick), hash(theirs));
            assert_eq!(quick.aead_alg.key_len(), theirs.aead_alg.key_len());
            let key_bytes = |suite: &Tls13CipherSuite| suite.quic.map(|quic| quic.aead_key_len());
            assert_eq!(key_bytes(quick), key_bytes(theirs));
            let slow = quickest(library, Cpu { has_aes: true, has_sha: false });
            assert!(is_same(slow.tls13().expect("as it was"), theirs));
        }
        let longer = cipher_suite::TLS13_AES_256_GCM_SHA384;
        let same = quickest(longer, Cpu { has_aes: true, has_sha: true });
        assert!(is_same(same.tls13().expect("as it was"), longer.tls13().expect("TLS 1.3")));
    }
}
