//! The key schedule of TLS 1.3 over SHA-256, by the `hkdf` crate. A handshake derives some 30
//! secrets from ten keys; aws-lc prepares the key of an HMAC anew for each of them, `hkdf` once:
//! measured, a tenth of a handshake (docs/costs.md). All cryptography is the libraries': this file
//! only says which of them derives. What is kept is wiped when it goes, as aws-lc does it.

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
const HASH: usize = 32;

/// `suite` with this key schedule, where that is quicker: a suite of SHA-256 on a CPU that has
/// instructions for it. Without them aws-lc's assembly is the better one.
pub(super) fn quickened(suite: SupportedCipherSuite) -> SupportedCipherSuite {
    static AES_128: LazyLock<Tls13CipherSuite> =
        LazyLock::new(|| scheduled(cipher_suite::TLS13_AES_128_GCM_SHA256));
    static CHACHA20: LazyLock<Tls13CipherSuite> =
        LazyLock::new(|| scheduled(cipher_suite::TLS13_CHACHA20_POLY1305_SHA256));
    match suite.suite() {
        CipherSuite::TLS13_AES_128_GCM_SHA256 if cpu_has_sha() => {
            SupportedCipherSuite::Tls13(&AES_128)
        }
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 if cpu_has_sha() => {
            SupportedCipherSuite::Tls13(&CHACHA20)
        }
        _ => suite,
    }
}

#[cfg(target_arch = "x86_64")]
fn cpu_has_sha() -> bool {
    std::arch::is_x86_feature_detected!("sha") && std::arch::is_x86_feature_detected!("sse4.1")
}

#[cfg(target_arch = "aarch64")]
fn cpu_has_sha() -> bool {
    std::arch::is_aarch64_feature_detected!("sha2")
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn cpu_has_sha() -> bool {
    false
}

fn scheduled(library: SupportedCipherSuite) -> Tls13CipherSuite {
    let library = library.tls13().expect("a suite of TLS 1.3");
    Tls13CipherSuite {
        common: CipherSuiteCommon {
            suite: library.common.suite,
            hash_provider: library.common.hash_provider,
            confidentiality_limit: library.common.confidentiality_limit,
        },
        hkdf_provider: &Schedule,
        aead_alg: library.aead_alg,
        quic: library.quic,
    }
}

/// HKDF with SHA-256 (RFC 5869) as rustls wants it.
struct Schedule;

/// A key from which secrets are expanded, prepared once.
struct Expander(Library<Sha256>);

impl Hkdf for Schedule {
    fn extract_from_zero_ikm(&self, salt: Option<&[u8]>) -> Box<dyn HkdfExpander> {
        self.extract_from_secret(salt, &[0; HASH])
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
        let mut block = Zeroizing::new([0; HASH]);
        self.0.expand_multi_info(info, &mut *block).expect("one block is not too long");
        OkmBlock::new(&*block)
    }

    fn hash_len(&self) -> usize {
        HASH
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever rustls asks of a key schedule, both libraries answer alike.
    #[test]
    fn the_libraries_derive_the_same_secrets() {
        let theirs = cipher_suite::TLS13_AES_128_GCM_SHA256.tls13().expect("TLS 1.3").hkdf_provider;
        let bytes: Vec<u8> = (0..=255).collect();
        let expanders = |salt: Option<&[u8]>, secret: &[u8]| {
            let okm = OkmBlock::new(&bytes[secret.len() % 100..][..HASH]);
            [
                (Schedule.extract_from_zero_ikm(salt), theirs.extract_from_zero_ikm(salt)),
                (
                    Schedule.extract_from_secret(salt, secret),
                    theirs.extract_from_secret(salt, secret),
                ),
                (Schedule.expander_for_okm(&okm), theirs.expander_for_okm(&okm)),
            ]
        };
        for length in [0, 1, 31, 32, 33, 63, 64, 65, 200] {
            let salts: [Option<&[u8]>; 3] = [None, Some(&bytes[7..][..length]), Some(&[])];
            for (salt, secret) in
                salts.into_iter().zip([&bytes[..length], &bytes[..32], &bytes[..]])
            {
                for (ours, theirs) in expanders(salt, secret) {
                    assert_eq!(ours.hash_len(), theirs.hash_len());
                    let info: [&[u8]; 3] = [&bytes[..length], b"", &bytes[..3]];
                    let (block, expected) = (ours.expand_block(&info), theirs.expand_block(&info));
                    assert_eq!(block.as_ref(), expected.as_ref());
                    for wanted in [0, 1, 12, 16, 32, 33, 64, 65, 255 * HASH] {
                        let (mut a, mut b) = (vec![0; wanted], vec![0; wanted]);
                        assert!(ours.expand_slice(&info, &mut a).is_ok());
                        assert!(theirs.expand_slice(&info, &mut b).is_ok());
                        assert_eq!(a, b, "{wanted} bytes from a secret of {length}");
                    }
                    let mut too_long = vec![0; 255 * HASH + 1];
                    assert!(ours.expand_slice(&info, &mut too_long).is_err());
                }
            }
            let key = OkmBlock::new(&bytes[..HASH]);
            let (tag, expected) = (
                Schedule.hmac_sign(&key, &bytes[..length]),
                theirs.hmac_sign(&key, &bytes[..length]),
            );
            assert_eq!(tag.as_ref(), expected.as_ref());
        }
    }
}
