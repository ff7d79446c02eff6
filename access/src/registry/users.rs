//! Users who are connected, close together in memory.
//!
//! A hash table keeps up to twice as many places as it has entries, and a wide entry in it costs
//! that much. Here the table holds 4-byte positions and the entries lie side by side. Two maps from
//! user to connection and session took 77 bytes more for each of 15,000 (`cargo xtask soak idle`).

use super::claims::Latest;
use hashbrown::{DefaultHashBuilder, HashTable};
use std::hash::BuildHasher;
use yao_engine::ConnectionId;
use yao_protocol::UserId;

/// A user who is connected.
#[derive(Clone, Copy, Debug)]
pub(super) struct Connected {
    pub(super) user: UserId,
    pub(super) connection: ConnectionId,
    /// How this session began, or with which ticket another one is about to.
    pub(super) latest: Latest,
}

/// One entry for each user who is connected.
#[derive(Clone, Debug, Default)]
pub(super) struct Users {
    /// Invariant: the position of every entry, once, by the hash of its user.
    positions: HashTable<u32>,
    entries: Vec<Connected>,
    hasher: DefaultHashBuilder,
}

impl Users {
    pub(super) fn get(&self, user: UserId) -> Option<&Connected> {
        self.position(user).map(|position| &self.entries[position])
    }

    pub(super) fn get_mut(&mut self, user: UserId) -> Option<&mut Connected> {
        self.position(user).map(|position| &mut self.entries[position])
    }

    /// Enters him, in place of what was known of him.
    pub(super) fn insert(&mut self, connected: Connected) {
        if let Some(entry) = self.get_mut(connected.user) {
            *entry = connected;
            return;
        }
        let Self { positions, entries, hasher } = self;
        let position = u32::try_from(entries.len()).expect("fewer users than addresses");
        entries.push(connected);
        let hash = |&at: &u32| hasher.hash_one(entries[at as usize].user);
        positions.insert_unique(hasher.hash_one(connected.user), position, hash);
    }

    /// Takes him out. The last entry moves to his place.
    pub(super) fn remove(&mut self, user: UserId) -> Option<Connected> {
        let Self { positions, entries, hasher } = self;
        let is_his = |&at: &u32| entries[at as usize].user == user;
        let found = positions.find_entry(hasher.hash_one(user), is_his).ok()?;
        let position = found.remove().0;
        let last = u32::try_from(entries.len() - 1).expect("a position");
        if position != last {
            let moved = entries[last as usize].user;
            let place = positions.find_mut(hasher.hash_one(moved), |&at| at == last);
            *place.expect("every entry has its position") = position;
        }
        Some(entries.swap_remove(position as usize))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Connected> {
        self.entries.iter()
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    fn position(&self, user: UserId) -> Option<usize> {
        let is_his = |&at: &u32| self.entries[at as usize].user == user;
        self.positions.find(self.hasher.hash_one(user), is_his).map(|&at| at as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use yao_protocol::WallTime;

    fn connected(user: u64, number: u32) -> Connected {
        Connected {
            user: UserId(user),
            connection: ConnectionId { thread: 0, slot: 0, number },
            latest: Latest { made_until: WallTime(0), device: user },
        }
    }

    proptest! {
        #[test]
        fn it_holds_what_a_plain_map_would(
            steps in prop::collection::vec((0..40_u64, any::<bool>()), 0..400),
        ) {
            let (mut users, mut map) = (Users::default(), BTreeMap::new());
            for (number, (user, comes)) in (0..).zip(steps) {
                if comes {
                    users.insert(connected(user, number));
                    map.insert(user, number);
                } else {
                    let removed = users.remove(UserId(user)).map(|gone| gone.connection.number);
                    prop_assert_eq!(removed, map.remove(&user));
                }
                let found = |user| users.get(UserId(user)).map(|entry| entry.connection.number);
                for user in 0..40 {
                    prop_assert_eq!(found(user), map.get(&user).copied());
                }
                prop_assert_eq!(users.len(), map.len());
                prop_assert_eq!(users.iter().count(), map.len());
            }
        }
    }
}
