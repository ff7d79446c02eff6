//! Which connection a user has on this node: one at a time, the newest wins; whether the issuer
//! knows him; and which reconnect tickets may still open a session of his. Touched when a session
//! opens and closes and when a candidate goes to the issuer, never by a shake that loses.

use hashbrown::{HashMap, HashSet};
use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};
use yao_engine::ConnectionId;
use yao_protocol::{
    UserId, WallTime,
    reconnect::RECONNECT_SECONDS_MAX,
    token::{CLOCK_LEEWAY_SECONDS, Identity},
};

/// Parts with a lock each. Chosen as a power of two well above the number of shard threads.
const PARTS: usize = 64;

/// Users of one part whose latest sessions are remembered, at most: eight million in all parts,
/// some 300 MB. More than a node ever serves in an hour.
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

/// How each user's latest session began. Two generations, so that what is too old goes as a whole
/// and nobody ever walks through the users.
#[derive(Debug, Default)]
struct Claims {
    current: HashMap<UserId, Latest>,
    previous: HashMap<UserId, Latest>,
    /// When `current` was begun.
    since: WallTime,
}

/// How a user's latest session here began.
#[derive(Clone, Copy, Debug)]
struct Latest {
    /// Tickets made until then are worthless: one of them was used, or the session began after it.
    made_until: WallTime,
    /// On which device: no other one's tickets open a session.
    device: u64,
}

impl Claims {
    /// Whether a ticket for `device`, made at `issued_at`, opens a session; if so it is used up.
    fn claim(&mut self, now: WallTime, user: UserId, device: u64, issued_at: WallTime) -> bool {
        self.age(now);
        let fits = |latest: Latest| issued_at > latest.made_until && device == latest.device;
        self.latest(user).is_none_or(fits)
            && self.remember(user, Latest { made_until: issued_at, device })
    }

    /// A session of `user` has begun on `device`. Its own first ticket is made at `now`.
    fn begun(&mut self, now: WallTime, user: UserId, device: u64) {
        self.age(now);
        let before = WallTime(now.0.saturating_sub(1));
        let used = self.latest(user).map_or(WallTime(0), |latest| latest.made_until);
        // Without room his older tickets stay good, as on any node that has not seen him.
        self.remember(user, Latest { made_until: before.max(used), device });
    }

    /// Lets go of what no ticket can matter to any more.
    fn age(&mut self, now: WallTime) {
        let age_us = now.us_since(self.since);
        if age_us >= CLAIM_US {
            let ended = std::mem::take(&mut self.current);
            // Twice as old: even the last that was entered is forgotten by right.
            self.previous = if age_us >= 2 * CLAIM_US { HashMap::new() } else { ended };
            self.since = now;
        }
    }

    fn latest(&self, user: UserId) -> Option<Latest> {
        // What is in both was entered in `current` last.
        self.current.get(&user).or_else(|| self.previous.get(&user)).copied()
    }

    /// `false` when there is no room.
    fn remember(&mut self, user: UserId, latest: Latest) -> bool {
        if self.current.len() >= CLAIMS_MAX && !self.current.contains_key(&user) {
            return false;
        }
        self.current.insert(user, latest);
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
    /// Enters `connection` as the user's, whose session has begun on `device`. Reconnect tickets
    /// that were made for him before `now`, and those of other devices, are worthless here from
    /// then on.
    pub fn opened(
        &self,
        now: WallTime,
        user: UserId,
        device: u64,
        connection: ConnectionId,
    ) -> Opened {
        self.with(user, |part| {
            part.claims.begun(now, user, device);
            Opened {
                older: part.connections.insert(user, connection),
                drawn: part.drawn.contains(&user),
            }
        })
    }

    /// A candidate of `user` goes to the issuer, or a win of his was found in the journal. Said
    /// before the issuer can decide it, so that no win is unknown when he returns.
    pub fn drawn(&self, user: UserId) {
        self.with(user, |part| part.drawn.insert(user));
    }

    /// Whether `connection` is the user's: no newer one has taken its place.
    pub fn is_current(&self, user: UserId, connection: ConnectionId) -> bool {
        self.with(user, |part| part.connections.get(&user) == Some(&connection))
    }

    /// Takes the user out, unless a newer connection has taken his place.
    pub fn closed(&self, user: UserId, connection: ConnectionId) {
        self.with(user, |part| {
            if part.connections.get(&user) == Some(&connection) {
                part.connections.remove(&user);
            }
        });
    }

    /// Uses the reconnect ticket that proves `identity` and was made at `issued_at`. `false` when
    /// it was used before, or was made before the user's latest session here began, or that
    /// session was on another device; or when there is no room to remember it.
    pub fn claim(&self, now: WallTime, identity: &Identity, issued_at: WallTime) -> bool {
        let Identity { user, device, .. } = *identity;
        let fits = self.with(user, |part| part.claims.claim(now, user, device, issued_at));
        if !fits {
            self.replayed.fetch_add(1, Ordering::Relaxed);
        }
        fits
    }

    /// Reconnect tickets that were genuine and refused: used, outdated, or of another device.
    #[must_use]
    pub fn replayed(&self) -> u64 {
        self.replayed.load(Ordering::Relaxed)
    }

    /// Takes out every connection of a shard thread that has lost them all. Returns how many.
    pub fn forget_thread(&self, thread: u16) -> u64 {
        let mut forgotten = 0;
        for part in &self.parts {
            let mut part = part.lock().unwrap_or_else(PoisonError::into_inner);
            let before = part.connections.len();
            part.connections.retain(|_, connection| connection.thread != thread);
            forgotten += (before - part.connections.len()) as u64;
        }
        forgotten
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

    fn at(seconds: u64) -> WallTime {
        WallTime::from_seconds(seconds)
    }

    fn connection(slot: u32) -> ConnectionId {
        ConnectionId { thread: 0, slot, generation: 0 }
    }

    fn claim(registry: &Registry, now: u64, user: u64, device: u64, issued: u64) -> bool {
        let identity = Identity { user: UserId(user), device, risk: 0, expires_at: at(1 << 40) };
        registry.claim(at(now), &identity, at(issued))
    }

    #[test]
    fn the_newest_connection_wins_and_the_older_close_is_ignored() {
        let registry = Registry::default();
        let opened = |older, drawn| Opened { older, drawn };
        let open = |slot| registry.opened(at(100), UserId(1), 5, connection(slot));
        assert_eq!(open(1), opened(None, false));
        registry.drawn(UserId(1));
        assert!(registry.is_current(UserId(1), connection(1)));
        assert_eq!(open(2), opened(Some(connection(1)), true));
        let is_current = |slot| registry.is_current(UserId(1), connection(slot));
        assert!(!is_current(1) && is_current(2));
        registry.closed(UserId(1), connection(1));
        assert_eq!(registry.len(), 1);
        registry.closed(UserId(1), connection(2));
        assert!(registry.is_empty() && !is_current(2));
    }

    #[test]
    fn a_ticket_is_used_once_and_makes_the_older_ones_worthless() {
        let registry = Registry::default();
        let claim = |now, user, issued| claim(&registry, now, user, 5, issued);
        assert!(claim(100_000, 1, 99_000));
        assert!(!claim(100_000, 1, 99_000), "used");
        assert!(!claim(100_001, 1, 98_999), "older");
        assert!(claim(100_001, 2, 98_999), "another user's");
        assert!(claim(100_002, 1, 99_001), "newer");
        assert_eq!(registry.replayed(), 2);
    }

    #[test]
    fn a_session_that_begins_makes_the_older_tickets_worthless_and_its_own_good() {
        let registry = Registry::default();
        registry.opened(at(1_000), UserId(1), 5, connection(1));
        assert!(!claim(&registry, 1_001, 1, 5, 999), "a thief's, from before the full login");
        assert!(claim(&registry, 1_001, 1, 5, 1_000), "what stands behind its WELCOME");
        // A ticket of a node whose clock is ahead, used here, and the session that it opened.
        assert!(claim(&registry, 1_002, 1, 5, 1_020));
        registry.opened(at(1_002), UserId(1), 5, connection(2));
        assert!(!claim(&registry, 1_003, 1, 5, 1_020), "used stays used");
    }

    #[test]
    fn another_device_shows_its_session_token() {
        let registry = Registry::default();
        registry.opened(at(1_000), UserId(1), 5, connection(1));
        assert!(!claim(&registry, 1_010, 1, 6, 1_005), "made elsewhere for another device");
        assert!(!claim(&registry, 1_010, 1, 0, 1_005), "or for none");
        assert!(claim(&registry, 1_010, 1, 5, 1_005), "the refused ones cost this one nothing");
        registry.closed(UserId(1), connection(1));
        assert!(!claim(&registry, 1_011, 1, 6, 1_006), "no session is open, and still");
        registry.opened(at(1_012), UserId(1), 6, connection(2));
        assert!(!claim(&registry, 1_013, 1, 5, 1_013), "now the first one is the other");
        assert!(claim(&registry, 1_013, 1, 6, 1_013));
        assert!(claim(&registry, 1_013, 2, 7, 1_000), "of others nothing is known");
    }

    #[test]
    fn a_used_ticket_is_remembered_until_it_has_expired_and_then_forgotten() {
        let mut claims = Claims::default();
        for step in 0..1_000_u64 {
            // Made by a node whose clock is ahead, and used at once, at any moment of a generation.
            let now = 1_000_000 + step * 37;
            let (user, issued) = (UserId(step), at(now + CLOCK_LEEWAY_SECONDS));
            assert!(claims.claim(at(now), user, 5, issued));
            let mut later = now;
            while later < now + CLOCK_LEEWAY_SECONDS + RECONNECT_SECONDS_MAX {
                let mut copy = Claims {
                    current: claims.current.clone(),
                    previous: claims.previous.clone(),
                    since: claims.since,
                };
                assert!(!copy.claim(at(later), user, 5, issued), "{} s later", later - now);
                later += 600;
            }
        }
        let kept = claims.current.len() + claims.previous.len();
        let bound = 2 * usize::try_from(CLAIM_US / 37_000_000).expect("small") + 2;
        assert!(kept <= bound, "{kept} are kept, at most {bound} can matter");
        assert!(claims.claim(at(10_000_000), UserId(1), 5, at(1)));
        assert_eq!(claims.current.len() + claims.previous.len(), 1);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut claims = Claims::default();
        let now = at(1_000_000);
        for user in 0..CLAIMS_MAX as u64 {
            claims.begun(now, UserId(user), 5);
        }
        assert!(
            !claims.claim(now, UserId(u64::MAX), 5, now),
            "no room: the session token is asked"
        );
        claims.begun(now, UserId(u64::MAX), 5);
        assert_eq!(claims.current.len(), CLAIMS_MAX);
        assert!(claims.claim(now, UserId(0), 5, now.plus_us(1)), "who is known has room");
    }
}
