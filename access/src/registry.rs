//! Which connection a user has on this node: one at a time, the newest wins. Touched when a session
//! opens and closes, never by a shake.

use hashbrown::HashMap;
use std::sync::{Mutex, PoisonError};
use yao_engine::ConnectionId;
use yao_protocol::UserId;

/// Parts with a lock each. Chosen as a power of two well above the number of shard threads.
const PARTS: usize = 64;

/// Users and their connections.
#[derive(Debug)]
pub struct Registry {
    parts: Box<[Mutex<HashMap<UserId, ConnectionId>>]>,
}

impl Default for Registry {
    fn default() -> Self {
        Self { parts: (0..PARTS).map(|_| Mutex::default()).collect() }
    }
}

impl Registry {
    /// Enters `connection` as the user's; returns the one it replaces.
    pub fn opened(&self, user: UserId, connection: ConnectionId) -> Option<ConnectionId> {
        self.with(user, |part| part.insert(user, connection))
    }

    /// Takes the user out, unless a newer connection has taken his place.
    pub fn closed(&self, user: UserId, connection: ConnectionId) {
        self.with(user, |part| {
            if part.get(&user) == Some(&connection) {
                part.remove(&user);
            }
        });
    }

    /// Takes out every connection of a shard thread that has lost them all.
    pub fn forget_thread(&self, thread: u16) {
        for part in &self.parts {
            let mut part = part.lock().unwrap_or_else(PoisonError::into_inner);
            part.retain(|_, connection| connection.thread != thread);
        }
    }

    /// How many users are connected.
    #[must_use]
    pub fn len(&self) -> usize {
        let parts = self.parts.iter();
        parts.map(|part| part.lock().unwrap_or_else(PoisonError::into_inner).len()).sum()
    }

    /// Whether nobody is connected.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn with<T>(
        &self,
        user: UserId,
        act: impl FnOnce(&mut HashMap<UserId, ConnectionId>) -> T,
    ) -> T {
        // Multiplying spreads consecutive user ids; the upper bits are the well mixed ones.
        let part = user.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 58;
        let part = &self.parts[part as usize % PARTS];
        // A map is whole after every operation, so a panic elsewhere does not spoil it.
        act(&mut part.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_connection_wins_and_the_older_close_is_ignored() {
        let registry = Registry::default();
        let connection = |slot| ConnectionId { thread: 0, slot, generation: 0 };
        assert_eq!(registry.opened(UserId(1), connection(1)), None);
        assert_eq!(registry.opened(UserId(1), connection(2)), Some(connection(1)));
        registry.closed(UserId(1), connection(1));
        assert_eq!(registry.len(), 1);
        registry.closed(UserId(1), connection(2));
        assert!(registry.is_empty());
    }
}
