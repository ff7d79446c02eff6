//! Which connection a user has on this node: one at a time, the newest wins; whether the issuer
//! knows him; and which reconnect tickets were used here. Touched when a session opens and closes
//! and when a candidate goes to the issuer, never by a shake that loses.

use hashbrown::{HashMap, HashSet};
use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};
use yao_engine::ConnectionId;
use yao_protocol::{
    UserId, WallTime, reconnect::RECONNECT_SECONDS_MAX, token::CLOCK_LEEWAY_SECONDS,
};

/// Parts with a lock each. Chosen as a power of two well above the number of shard threads.
const PARTS: usize = 64;

/// Users of one part whose used tickets are remembered, at most: eight million in all parts, some
/// 250 MB. More than a node ever serves in an hour.
const CLAIMS_MAX: usize = 65_536;
/// After so long no ticket that is remembered could be believed any more, us: a ticket's longest
/// life, and the clocks of the nodes that make and take it.
const CLAIM_US: u64 = (RECONNECT_SECONDS_MAX + CLOCK_LEEWAY_SECONDS) * 1_000_000;

/// Users and their connections.
#[derive(Debug)]
pub struct Registry {
    parts: Box<[Mutex<Part>]>,
    replayed: AtomicU64,
}

#[derive(Debug, Default)]
struct Part {
    connections: HashMap<UserId, ConnectionId>,
    /// Users of whom the issuer may know something: a win, or a candidate. The others, nearly
    /// everybody, come and go without waking it.
    drawn: HashSet<UserId>,
    claims: Claims,
}

/// When the newest reconnect ticket that a user has used was made. Two generations, so that what is
/// too old goes as a whole and nobody ever walks through the users.
#[derive(Debug, Default)]
struct Claims {
    current: HashMap<UserId, WallTime>,
    previous: HashMap<UserId, WallTime>,
    /// When `current` was begun.
    since: WallTime,
}

impl Claims {
    fn claim(&mut self, now: WallTime, user: UserId, issued_at: WallTime) -> bool {
        let age_us = now.us_since(self.since);
        if age_us >= CLAIM_US {
            let ended = std::mem::take(&mut self.current);
            // Twice as old: even the last that was entered is forgotten by right.
            self.previous = if age_us >= 2 * CLAIM_US { HashMap::new() } else { ended };
            self.since = now;
        }
        let newest = self.current.get(&user).max(self.previous.get(&user));
        if newest.is_some_and(|newest| issued_at <= *newest) {
            return false;
        }
        if self.current.len() >= CLAIMS_MAX && !self.current.contains_key(&user) {
            return false;
        }
        self.current.insert(user, issued_at);
        true
    }
}

/// What the registry knows of a user whose session opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// His connection that this one replaces.
    pub older: Option<ConnectionId>,
    /// Whether the issuer may know something of him.
    pub drawn: bool,
}

impl Default for Registry {
    fn default() -> Self {
        Self { parts: (0..PARTS).map(|_| Mutex::default()).collect(), replayed: AtomicU64::new(0) }
    }
}

impl Registry {
    /// Enters `connection` as the user's.
    pub fn opened(&self, user: UserId, connection: ConnectionId) -> Opened {
        self.with(user, |part| Opened {
            older: part.connections.insert(user, connection),
            drawn: part.drawn.contains(&user),
        })
    }

    /// A candidate of `user` goes to the issuer, or a win of his was found in the journal. Said
    /// before the issuer can decide it, so that no win is unknown when he returns.
    pub fn drawn(&self, user: UserId) {
        self.with(user, |part| part.drawn.insert(user));
    }

    /// Takes the user out, unless a newer connection has taken his place.
    pub fn closed(&self, user: UserId, connection: ConnectionId) {
        self.with(user, |part| {
            if part.connections.get(&user) == Some(&connection) {
                part.connections.remove(&user);
            }
        });
    }

    /// Uses the reconnect ticket of `user` that was made at `issued_at`. `false` when it, or a
    /// newer one, was used before; or when there is no room to remember it.
    pub fn claim(&self, now: WallTime, user: UserId, issued_at: WallTime) -> bool {
        let first = self.with(user, |part| part.claims.claim(now, user, issued_at));
        if !first {
            self.replayed.fetch_add(1, Ordering::Relaxed);
        }
        first
    }

    /// Reconnect tickets that were refused because they were used before.
    #[must_use]
    pub fn replayed(&self) -> u64 {
        self.replayed.load(Ordering::Relaxed)
    }

    /// Takes out every connection of a shard thread that has lost them all.
    pub fn forget_thread(&self, thread: u16) {
        for part in &self.parts {
            let mut part = part.lock().unwrap_or_else(PoisonError::into_inner);
            part.connections.retain(|_, connection| connection.thread != thread);
        }
    }

    /// How many users are connected.
    #[must_use]
    pub fn len(&self) -> usize {
        let count = |part: &Mutex<Part>| {
            part.lock().unwrap_or_else(PoisonError::into_inner).connections.len()
        };
        self.parts.iter().map(count).sum()
    }

    /// Whether nobody is connected.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn with<T>(&self, user: UserId, act: impl FnOnce(&mut Part) -> T) -> T {
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
        let opened = |older, drawn| Opened { older, drawn };
        assert_eq!(registry.opened(UserId(1), connection(1)), opened(None, false));
        registry.drawn(UserId(1));
        assert_eq!(registry.opened(UserId(1), connection(2)), opened(Some(connection(1)), true));
        registry.closed(UserId(1), connection(1));
        assert_eq!(registry.len(), 1);
        registry.closed(UserId(1), connection(2));
        assert!(registry.is_empty());
    }

    #[test]
    fn a_ticket_is_used_once_and_makes_the_older_ones_worthless() {
        let registry = Registry::default();
        let at = WallTime::from_seconds;
        let claim = |now, user, issued| registry.claim(at(now), UserId(user), at(issued));
        assert!(claim(100_000, 1, 99_000));
        assert!(!claim(100_000, 1, 99_000), "used");
        assert!(!claim(100_001, 1, 98_999), "older");
        assert!(claim(100_001, 2, 98_999), "another user's");
        assert!(claim(100_002, 1, 99_001), "newer");
        assert_eq!(registry.replayed(), 2);
    }

    #[test]
    fn a_used_ticket_is_remembered_until_it_has_expired_and_then_forgotten() {
        let at = WallTime::from_seconds;
        let mut claims = Claims::default();
        for step in 0..1_000_u64 {
            // Made by a node whose clock is ahead, and used at once, at any moment of a generation.
            let now = 1_000_000 + step * 37;
            let (user, issued) = (UserId(step), at(now + CLOCK_LEEWAY_SECONDS));
            assert!(claims.claim(at(now), user, issued));
            let mut later = now;
            while later < now + CLOCK_LEEWAY_SECONDS + RECONNECT_SECONDS_MAX {
                let mut copy = Claims {
                    current: claims.current.clone(),
                    previous: claims.previous.clone(),
                    since: claims.since,
                };
                assert!(!copy.claim(at(later), user, issued), "{} s later", later - now);
                later += 600;
            }
        }
        let kept = claims.current.len() + claims.previous.len();
        let bound = 2 * usize::try_from(CLAIM_US / 37_000_000).expect("small") + 2;
        assert!(kept <= bound, "{kept} are kept, at most {bound} can matter");
        assert!(claims.claim(at(10_000_000), UserId(1), at(1)));
        assert_eq!(claims.current.len() + claims.previous.len(), 1);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut claims = Claims::default();
        let now = WallTime::from_seconds(1_000_000);
        for user in 0..CLAIMS_MAX as u64 {
            assert!(claims.claim(now, UserId(user), now));
        }
        assert!(!claims.claim(now, UserId(u64::MAX), now), "no room: the session token is asked");
        assert!(claims.claim(now, UserId(0), now.plus_us(1)), "who is known has room");
    }
}
