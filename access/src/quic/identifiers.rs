//! Connection ids that name the thread that owns the connection, for the kernel to steer by.

use quinn_proto::{ConnectionId, ConnectionIdGenerator, RandomConnectionIdGenerator};
use std::time::Duration;

/// Bytes of our connection ids: 63 random bits and more at any number of threads in use.
const BYTES: usize = 8;

/// Makes random connection ids whose first byte, modulo the number of threads, is the thread.
#[derive(Debug)]
pub(super) struct Identifiers {
    random: RandomConnectionIdGenerator,
    place: (u8, u8),
}

impl Identifiers {
    /// For thread `place.0` of `place.1`.
    pub(super) fn new(place: (u8, u8)) -> Self {
        assert!(place.0 < place.1, "thread {} of {}", place.0, place.1);
        Self { random: RandomConnectionIdGenerator::new(BYTES), place }
    }
}

impl ConnectionIdGenerator for Identifiers {
    fn generate_cid(&mut self) -> ConnectionId {
        let random = self.random.generate_cid();
        let mut bytes: [u8; BYTES] = random[..].try_into().expect("as long as it was asked for");
        bytes[0] = steered(bytes[0], self.place);
        ConnectionId::new(&bytes)
    }

    fn cid_len(&self) -> usize {
        BYTES
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// The byte nearest below `byte` that leads to thread `place.0` of `place.1`.
fn steered(byte: u8, (thread, count): (u8, u8)) -> u8 {
    let base = byte - byte % count;
    base.checked_add(thread).unwrap_or_else(|| base - count + thread)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_identifier_leads_to_its_thread() {
        for count in 1..=255 {
            for thread in 0..count {
                for byte in 0..=255 {
                    assert_eq!(steered(byte, (thread, count)) % count, thread);
                }
            }
        }
    }
}
