//! The keys after the next key update, which hardly any connection lives to see: derived when
//! first used. quinn-proto asks for them at the end of each handshake, where deriving them was a
//! waste of six HKDF expansions. All cryptography is rustls': this file only decides when.

use quinn_proto::crypto::{CryptoError, KeyPair, PacketKey};
use rustls::quic::{PacketKeySet, Secrets};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// What the keys come from, and the keys once somebody wanted them.
struct Later {
    secrets: Mutex<Secrets>,
    keys: OnceLock<PacketKeySet>,
}

impl Later {
    fn keys(&self) -> &PacketKeySet {
        self.keys.get_or_init(|| self.derive())
    }

    fn derive(&self) -> PacketKeySet {
        self.secrets.lock().unwrap_or_else(PoisonError::into_inner).next_packet_keys()
    }
}

/// The keys of one key update after another.
pub(super) struct Updates {
    later: Arc<Later>,
    asked: bool,
}

impl Updates {
    pub(super) fn new(secrets: Secrets) -> Self {
        let later = Later { secrets: Mutex::new(secrets), keys: OnceLock::new() };
        Self { later: Arc::new(later), asked: false }
    }

    /// The keys of the next update that was not asked for yet.
    pub(super) fn next(&mut self) -> KeyPair<Box<dyn PacketKey>> {
        if !std::mem::replace(&mut self.asked, true) {
            let key = |of: Direction| -> Box<dyn PacketKey> {
                Box::new(LaterKey { later: Arc::clone(&self.later), of })
            };
            return KeyPair { local: key(local), remote: key(remote) };
        }
        // The first pair comes first in the chain of secrets, wanted or not.
        self.later.keys();
        let keys = self.later.derive();
        KeyPair { local: Box::new(keys.local), remote: Box::new(keys.remote) }
    }
}

fn local(keys: &PacketKeySet) -> &dyn PacketKey {
    &keys.local
}

fn remote(keys: &PacketKeySet) -> &dyn PacketKey {
    &keys.remote
}

type Direction = fn(&PacketKeySet) -> &dyn PacketKey;

/// One direction's key of the first update.
struct LaterKey {
    later: Arc<Later>,
    of: Direction,
}

impl LaterKey {
    fn key(&self) -> &dyn PacketKey {
        (self.of)(self.later.keys())
    }
}

impl PacketKey for LaterKey {
    fn encrypt(&self, packet: u64, buf: &mut [u8], header_len: usize) {
        self.key().encrypt(packet, buf, header_len);
    }

    fn decrypt(
        &self,
        packet: u64,
        header: &[u8],
        payload: &mut bytes::BytesMut,
    ) -> Result<(), CryptoError> {
        self.key().decrypt(packet, header, payload)
    }

    fn tag_len(&self) -> usize {
        self.key().tag_len()
    }

    fn confidentiality_limit(&self) -> u64 {
        self.key().confidentiality_limit()
    }

    fn integrity_limit(&self) -> u64 {
        self.key().integrity_limit()
    }
}
