//! Which connection a user has on this node: one at a time, the one accepted last wins; whether the
//! issuer knows him; and which reconnect tickets may still open a session of his. Touched when a
//! session opens and closes and when a candidate goes to the issuer, never by a shake that loses.

mod claims;
mod users;

use claims::{Claims, Latest};
use hashbrown::HashSet;
use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU32, AtomicU64, Ordering},
};
use users::{Connected, Users};
use yao_engine::ConnectionId;
use yao_protocol::{UserId, WallTime, ticket::TicketBody, token::Identity};

/// Parts with a lock each. Chosen as a power of two well above the number of shard threads.
const PARTS: usize = 64;

/// Users and their connections.
#[derive(Debug)]
pub struct Registry {
    parts: Box<[Mutex<Part>]>,
    /// Connections that were accepted; wraps.
    accepted: AtomicU32,
    replayed: AtomicU64,
}

#[derive(Clone, Debug, Default)]
struct Part {
    connected: Users,
    /// Of those who are not connected.
    claims: Claims,
    /// Users of whom the issuer may know something: a win, or a candidate. The others, nearly
    /// everybody, come and go without waking it.
    drawn: HashSet<UserId>,
}

impl Part {
    /// `connection` has opened on `device`. Its own first ticket is made at `now`. Returns the
    /// connection that it replaces.
    fn open(
        &mut self,
        now: WallTime,
        user: UserId,
        device: u64,
        connection: ConnectionId,
    ) -> Option<ConnectionId> {
        self.claims.age(now);
        let past = self.claims.take(user);
        let older = self.connected.get(user).copied();
        let used = older.map(|older| older.latest).or(past).map(|latest| latest.made_until);
        let before = WallTime(now.0.saturating_sub(1));
        let made_until = used.map_or(before, |used| used.max(before));
        self.connected.insert(Connected {
            user,
            connection,
            latest: Latest { made_until, device },
        });
        older.map(|older| older.connection)
    }

    /// The user is here no more.
    fn close(&mut self, user: UserId) {
        if let Some(Connected { latest, .. }) = self.connected.remove(user) {
            // Without room his older tickets are good again, as on any node that has not seen him.
            self.claims.remember(user, latest);
        }
    }

    /// Whether a ticket for `device`, made at `issued_at`, opens a session; if so it is used up.
    fn claim(&mut self, now: WallTime, user: UserId, device: u64, issued_at: WallTime) -> bool {
        self.claims.age(now);
        let used = Latest { made_until: issued_at, device };
        if let Some(entry) = self.connected.get_mut(user) {
            let fits = entry.latest.lets_in(device, issued_at);
            if fits {
                entry.latest = used;
            }
            return fits;
        }
        self.claims.latest(user).is_none_or(|latest| latest.lets_in(device, issued_at))
            && self.claims.remember(user, used)
    }

    /// The user's connection.
    fn connection(&self, user: UserId) -> Option<ConnectionId> {
        self.connected.get(user).map(|entry| entry.connection)
    }
}

/// What the registry knows of a user whose session opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Which of his connections must go, having been accepted before the other: his older one, or,
    /// when that one has overtaken it, the very one that opens.
    pub replaced: Option<ConnectionId>,
    /// Whether the issuer may know something of him.
    pub drawn: bool,
}

impl Default for Registry {
    fn default() -> Self {
        Self {
            parts: (0..PARTS).map(|_| Mutex::default()).collect(),
            accepted: AtomicU32::new(0),
            replayed: AtomicU64::new(0),
        }
    }
}

impl Registry {
    /// The number of a connection that is accepted now, on whichever thread: by these it can be
    /// told here which came first.
    #[must_use]
    pub fn next_number(&self) -> u32 {
        // Nothing else is published by it: its own order is all that counts.
        self.accepted.fetch_add(1, Ordering::Relaxed)
    }

    /// Enters `connection` as the user's, whose session has begun on `device`. Reconnect tickets
    /// that were made for him before `now`, and those of other devices, are worthless here from
    /// then on. Not so when he has a connection already that was accepted after this one: a HELLO
    /// that was held up takes nothing away from the session in use.
    pub fn opened(
        &self,
        now: WallTime,
        user: UserId,
        device: u64,
        connection: ConnectionId,
    ) -> Opened {
        self.with(user, |part| {
            let drawn = part.drawn.contains(&user);
            if part.connection(user).is_some_and(|current| connection.is_overtaken_by(current)) {
                return Opened { replaced: Some(connection), drawn };
            }
            Opened { replaced: part.open(now, user, device, connection), drawn }
        })
    }

    /// A registry that knows of these wins, which the journal has.
    #[must_use]
    pub fn with_wins(wins: &[TicketBody]) -> Self {
        let registry = Self::default();
        wins.iter().for_each(|body| registry.drawn(body.user));
        registry
    }

    /// A candidate of `user` goes to the issuer, or a win of his was found in the journal. Said
    /// before the issuer can decide it, so that no win is unknown when he returns.
    pub fn drawn(&self, user: UserId) {
        self.with(user, |part| part.drawn.insert(user));
    }

    /// Whether `connection` is the user's: none that came after it has taken its place.
    pub fn is_current(&self, user: UserId, connection: ConnectionId) -> bool {
        self.with(user, |part| part.connection(user) == Some(connection))
    }

    /// Takes the user out, unless a newer connection has taken his place.
    pub fn closed(&self, user: UserId, connection: ConnectionId) {
        self.with(user, |part| {
            if part.connection(user) == Some(connection) {
                part.close(user);
            }
        });
    }

    /// Uses the reconnect ticket that proves `identity` and was made at `issued_at`. `false` when
    /// it was used before, or was made before the user's latest session here began, or that
    /// session was on another device; or when there is no room to remember it.
    pub fn claim(&self, now: WallTime, identity: &Identity, issued_at: WallTime) -> bool {
        let Identity { user, device, .. } = *identity;
        let fits = self.with(user, |part| part.claim(now, user, device, issued_at));
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
            let theirs = part.connected.iter().filter(|entry| entry.connection.thread == thread);
            let users: Vec<UserId> = theirs.map(|entry| entry.user).collect();
            users.iter().for_each(|&user| part.close(user));
            forgotten += users.len() as u64;
        }
        forgotten
    }

    /// How many users are connected.
    #[must_use]
    pub fn len(&self) -> usize {
        let count = |part: &Mutex<Part>| {
            part.lock().unwrap_or_else(PoisonError::into_inner).connected.len()
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
    use super::{
        claims::{CLAIM_US, CLAIMS_MAX},
        *,
    };
    use yao_protocol::{reconnect::RECONNECT_SECONDS_MAX, token::CLOCK_LEEWAY_SECONDS};

    fn at(seconds: u64) -> WallTime {
        WallTime::from_seconds(seconds)
    }

    /// The how-manieth that was accepted.
    fn connection(number: u32) -> ConnectionId {
        ConnectionId { thread: 0, slot: 100 - number, number }
    }

    fn claim(registry: &Registry, now: u64, user: u64, device: u64, issued: u64) -> bool {
        let identity = Identity { user: UserId(user), device, risk: 0, expires_at: at(1 << 40) };
        registry.claim(at(now), &identity, at(issued))
    }

    #[test]
    fn the_newest_connection_wins_and_the_older_close_is_ignored() {
        let registry = Registry::default();
        let opened = |replaced, drawn| Opened { replaced, drawn };
        let open = |number| registry.opened(at(100), UserId(1), 5, connection(number));
        assert_eq!(open(1), opened(None, false));
        registry.drawn(UserId(1));
        assert!(registry.is_current(UserId(1), connection(1)));
        assert_eq!(open(2), opened(Some(connection(1)), true));
        let is_current = |number| registry.is_current(UserId(1), connection(number));
        assert!(!is_current(1) && is_current(2));
        registry.closed(UserId(1), connection(1));
        assert_eq!(registry.len(), 1);
        registry.closed(UserId(1), connection(2));
        assert!(registry.is_empty() && !is_current(2));
    }

    #[test]
    fn a_connection_that_was_overtaken_takes_nothing_away() {
        let registry = Registry::default();
        let user = UserId(1);
        let open = |now, device, number| {
            registry.opened(at(now), user, device, connection(number)).replaced
        };
        assert_eq!(open(1_000, 5, 8), None);
        assert_eq!(open(1_001, 6, 7), Some(connection(7)), "accepted before the one in use");
        assert!(registry.is_current(user, connection(8)));
        registry.closed(user, connection(7));
        assert!(registry.is_current(user, connection(8)), "its end is nobody's");
        assert!(!claim(&registry, 1_002, 1, 6, 1_001), "nor is its device the user's");
        assert!(claim(&registry, 1_002, 1, 5, 1_000), "and the tickets of the other stay good");
        assert_eq!(open(1_003, 5, 9), Some(connection(8)), "accepted after it");
        registry.closed(user, connection(9));
        assert_eq!(open(1_004, 5, 7), None, "nobody is there");
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
    fn what_a_session_began_with_is_known_while_it_lasts_and_when_it_has_closed() {
        let registry = Registry::default();
        let user = UserId(1);
        registry.opened(at(1_000), user, 5, connection(1));
        // Others come, an hour later, and what is old is let go of.
        for now in [5_000, 9_000, 13_000] {
            assert!(claim(&registry, now, 2, 5, now));
        }
        assert!(!claim(&registry, 13_000, 1, 6, 13_000), "he is here, on another device");
        assert!(claim(&registry, 13_000, 1, 5, 12_000));
        registry.closed(user, connection(1));
        assert!(!claim(&registry, 13_001, 1, 5, 12_000), "used");
        assert!(!claim(&registry, 16_000, 1, 6, 16_000), "closed long after anybody came");
        assert!(claim(&registry, 16_000, 1, 5, 12_001));
    }

    #[test]
    fn a_used_ticket_is_remembered_until_it_has_expired_and_then_forgotten() {
        let mut part = Part::default();
        for step in 0..1_000_u64 {
            // Made by a node whose clock is ahead, and used at once, at any moment of a generation.
            let now = 1_000_000 + step * 37;
            let (user, issued) = (UserId(step), at(now + CLOCK_LEEWAY_SECONDS));
            assert!(part.claim(at(now), user, 5, issued));
            let mut later = now;
            while later < now + CLOCK_LEEWAY_SECONDS + RECONNECT_SECONDS_MAX {
                let mut copy = part.clone();
                assert!(!copy.claim(at(later), user, 5, issued), "{} s later", later - now);
                later += 600;
            }
        }
        let kept = part.claims.len();
        let bound = 2 * usize::try_from(CLAIM_US / 37_000_000).expect("small") + 2;
        assert!(kept <= bound, "{kept} are kept, at most {bound} can matter");
        for (user, now) in [(1, 10_000_000), (2, 20_000_000), (3, 30_000_000)] {
            assert!(part.claim(at(now), UserId(user), 5, at(1)), "forgotten");
        }
        assert_eq!(part.claims.len(), 2);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut part = Part::default();
        let now = at(1_000_000);
        let users = CLAIMS_MAX as u64;
        for user in 0..=users {
            assert_eq!(part.open(now, UserId(user), 5, connection(1)), None);
            part.close(UserId(user));
        }
        assert_eq!(part.claims.len(), CLAIMS_MAX);
        let claim = |part: &mut Part, user| part.claim(now, UserId(user), 5, now.plus_us(1));
        assert!(!claim(&mut part, users), "no room: the session token is asked");
        assert!(claim(&mut part, 0), "who is known has room");
        part.open(now, UserId(users), 5, connection(1));
        assert!(claim(&mut part, users), "so has who is here");
    }
}
