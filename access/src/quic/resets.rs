//! Keys of stateless resets (RFC 9000 10.3). They are the same in the next life of a node, also
//! after it was killed: its old clients then hear at their first packet that they must come again,
//! as the kernel tells those of TCP. Nothing else of a connection outlives its process.

use std::{fmt, net::SocketAddr};
use zeroize::Zeroizing;

/// What the key is for, as BLAKE3 wants it: no other key comes of the same seed in this way.
const CONTEXT: &str = "yao access node: quic stateless resets, version 1";

/// What the reset keys of all QUIC threads of a node come from.
#[derive(Clone)]
pub struct ResetSecret(Zeroizing<[u8; 32]>);

impl fmt::Debug for ResetSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ResetSecret")
    }
}

impl ResetSecret {
    /// That of the node whose ticket key has the seed `ticket_seed`.
    #[must_use]
    pub fn derive(ticket_seed: &[u8; 32]) -> Self {
        Self(Zeroizing::new(blake3::derive_key(CONTEXT, ticket_seed)))
    }

    /// The key of thread `thread` at `address`. Each has its own: a thread resets whatever it does
    /// not know, and whoever has seen a connection id must not get its reset from another thread
    /// than the one that owns it, which the kernel's steering keeps from happening at one address
    /// but not at two.
    pub(super) fn key(&self, address: SocketAddr, thread: u8) -> Zeroizing<[u8; 64]> {
        let mut key = Zeroizing::new([0; 64]);
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(&[thread]).update(address.to_string().as_bytes());
        hasher.finalize_xof().fill(&mut *key);
        key
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_belongs_to_one_node_one_address_and_one_thread_and_comes_again() {
        let key = |seed: u8, address: &str, thread| {
            let address = address.parse().expect("an address");
            *ResetSecret::derive(&[seed; 32]).key(address, thread)
        };
        let here = key(1, "127.0.0.1:7443", 0);
        assert_eq!(here, key(1, "127.0.0.1:7443", 0));
        for other in [
            key(2, "127.0.0.1:7443", 0),
            key(1, "127.0.0.1:7444", 0),
            key(1, "[::1]:7443", 0),
            key(1, "127.0.0.1:7443", 1),
        ] {
            assert_ne!(here, other);
        }
    }
}
