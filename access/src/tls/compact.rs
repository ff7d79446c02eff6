//! QUIC packet keys that are kept as bytes. aws-lc keeps an expanded context of some 620 bytes for
//! each of a connection's four keys; expanding one anew for each packet takes about 150 ns, and an
//! idle connection sends none. All cryptography is the library's: this file only decides how long
//! its contexts live, and makes padding light that was decrypted (`padding.rs`).

use super::{Cpu, padding, schedule};
use aws_lc_rs::aead::{self, Aad, LessSafeKey, UnboundKey};
use rustls::{
    CipherSuite, Error, SupportedCipherSuite, Tls13CipherSuite,
    crypto::{
        CipherSuiteCommon,
        cipher::{AeadKey, Iv, Nonce},
    },
    quic::{Algorithm, HeaderProtectionKey, PacketKey, Tag},
};
use std::sync::OnceLock;
use zeroize::Zeroizing;

/// Makes compact packet keys. Header keys, used once a packet each way, stay the library's.
struct Compact {
    library: &'static dyn Algorithm,
    aead: &'static aead::Algorithm,
    /// How many packets one key may seal, and how many forgeries one may meet (RFC 9001 6.6).
    confidentiality_limit: u64,
    integrity_limit: u64,
}

/// `suite`, the quickest form of it for `cpu`, with compact packet keys. Made once: a suite lives
/// for ever.
pub(super) fn compacted(suite: &'static Tls13CipherSuite, cpu: Cpu) -> &'static Tls13CipherSuite {
    static MADE: [[OnceLock<&'static Tls13CipherSuite>; 3]; 2] =
        [const { [const { OnceLock::new() }; 3] }; 2];
    let (place, aead, confidentiality_limit, integrity_limit) = match suite.common.suite {
        CipherSuite::TLS13_AES_128_GCM_SHA256 => (0, &aead::AES_128_GCM, 1 << 23, 1 << 52),
        CipherSuite::TLS13_AES_256_GCM_SHA384 => (1, &aead::AES_256_GCM, 1 << 23, 1 << 52),
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => {
            (2, &aead::CHACHA20_POLY1305, u64::MAX, 1 << 36)
        }
        _ => return suite,
    };
    let Some(library) = suite.quic else { return suite };
    MADE[usize::from(cpu.has_sha)][place].get_or_init(|| {
        let suite = schedule::quickest(SupportedCipherSuite::Tls13(suite), cpu);
        let suite = suite.tls13().expect("as it was");
        let compact = Compact { library, aead, confidentiality_limit, integrity_limit };
        Box::leak(Box::new(Tls13CipherSuite {
            common: CipherSuiteCommon {
                suite: suite.common.suite,
                hash_provider: suite.common.hash_provider,
                confidentiality_limit: suite.common.confidentiality_limit,
            },
            hkdf_provider: suite.hkdf_provider,
            aead_alg: suite.aead_alg,
            quic: Some(Box::leak(Box::new(compact))),
        }))
    })
}

impl Algorithm for Compact {
    fn packet_key(&self, key: AeadKey, iv: Iv) -> Box<dyn PacketKey> {
        let mut bytes = Zeroizing::new([0; 32]);
        bytes[..key.as_ref().len()].copy_from_slice(key.as_ref());
        Box::new(CompactKey {
            key: bytes,
            iv,
            aead: self.aead,
            confidentiality_limit: self.confidentiality_limit,
            integrity_limit: self.integrity_limit,
        })
    }

    fn header_protection_key(&self, key: AeadKey) -> Box<dyn HeaderProtectionKey> {
        self.library.header_protection_key(key)
    }

    fn aead_key_len(&self) -> usize {
        self.library.aead_key_len()
    }
}

struct CompactKey {
    key: Zeroizing<[u8; 32]>,
    iv: Iv,
    aead: &'static aead::Algorithm,
    confidentiality_limit: u64,
    integrity_limit: u64,
}

impl CompactKey {
    fn expand(&self) -> LessSafeKey {
        let key = UnboundKey::new(self.aead, &self.key[..self.aead.key_len()]);
        LessSafeKey::new(key.expect("exactly as long as the algorithm wants it"))
    }

    fn nonce(&self, packet_number: u64) -> aead::Nonce {
        aead::Nonce::assume_unique_for_key(Nonce::new(&self.iv, packet_number).0)
    }
}

impl PacketKey for CompactKey {
    fn encrypt_in_place(
        &self,
        packet_number: u64,
        header: &[u8],
        payload: &mut [u8],
    ) -> Result<Tag, Error> {
        let nonce = self.nonce(packet_number);
        let sealed = self.expand().seal_in_place_separate_tag(nonce, Aad::from(header), payload);
        sealed.map(|tag| Tag::from(tag.as_ref())).map_err(|_| Error::EncryptError)
    }

    fn decrypt_in_place<'a>(
        &self,
        packet_number: u64,
        header: &[u8],
        payload: &'a mut [u8],
    ) -> Result<&'a [u8], Error> {
        let nonce = self.nonce(packet_number);
        let opened = self.expand().open_in_place(nonce, Aad::from(header), payload);
        opened.map(|plain| padding::lightened(header, plain)).map_err(|_| Error::DecryptError)
    }

    fn tag_len(&self) -> usize {
        self.aead.tag_len()
    }

    fn confidentiality_limit(&self) -> u64 {
        self.confidentiality_limit
    }

    fn integrity_limit(&self) -> u64 {
        self.integrity_limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::crypto::aws_lc_rs::cipher_suite;

    /// Whoever derives them, both algorithms have the same keys: what one seals, the other opens,
    /// and no flipped bit passes either.
    #[test]
    fn a_compact_key_is_the_librarys_key() {
        let suites = [
            cipher_suite::TLS13_AES_128_GCM_SHA256,
            cipher_suite::TLS13_AES_256_GCM_SHA384,
            cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ];
        let cpus = [true, false].map(|has_sha| Cpu { has_aes: true, has_sha });
        for (suite, cpu) in suites.into_iter().flat_map(|suite| cpus.map(|cpu| (suite, cpu))) {
            let library = suite.tls13().expect("TLS 1.3");
            let compact = compacted(library, cpu);
            let key = |suite: &'static Tls13CipherSuite| {
                let version = rustls::quic::Version::V1;
                let keys = rustls::quic::Keys::initial(
                    version,
                    suite,
                    suite.quic.expect("has QUIC"),
                    &[1; 8],
                    rustls::Side::Server,
                );
                (keys.local.packet, keys.remote.packet)
            };
            let (ours, theirs) = (key(compact).0, key(library).0);
            assert_eq!(ours.confidentiality_limit(), theirs.confidentiality_limit());
            assert_eq!(ours.integrity_limit(), theirs.integrity_limit());
            assert_eq!(ours.tag_len(), theirs.tag_len());
            for packet_number in [0, 1, u64::from(u32::MAX), (1 << 62) - 1] {
                let mut bytes = b"shake".to_vec();
                let tag =
                    ours.encrypt_in_place(packet_number, b"head", &mut bytes).expect("sealed");
                bytes.extend_from_slice(tag.as_ref());
                for bit in 0..bytes.len() * 8 {
                    let mut flipped = bytes.clone();
                    flipped[bit / 8] ^= 1 << (bit % 8);
                    assert!(ours.decrypt_in_place(packet_number, b"head", &mut flipped).is_err());
                }
                let mut copy = bytes.clone();
                let plain = theirs.decrypt_in_place(packet_number, b"head", &mut copy);
                assert_eq!(plain.expect("opened"), b"shake");
                let plain = ours.decrypt_in_place(packet_number, b"head", &mut bytes);
                assert_eq!(plain.expect("opened"), b"shake");
            }
        }
    }
}
