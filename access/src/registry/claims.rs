//! How the latest sessions began of users who are not connected: which of their reconnect tickets
//! may still open one.

use hashbrown::HashMap;
use yao_protocol::{
    UserId, WallTime, reconnect::RECONNECT_SECONDS_MAX, token::CLOCK_LEEWAY_SECONDS,
};

/// Users of one part who are remembered, at most: eight million in all parts, some 300 MB. More
/// than a node ever serves in an hour.
pub(super) const CLAIMS_MAX: usize = 65_536;
/// After so long no ticket that is remembered could be believed any more, us: a ticket's longest
/// life, and the clocks of the nodes that make and take it.
pub(super) const CLAIM_US: u64 = (RECONNECT_SECONDS_MAX + CLOCK_LEEWAY_SECONDS) * 1_000_000;

/// How a user's latest session here began.
#[derive(Clone, Copy, Debug)]
pub(super) struct Latest {
    /// Tickets made until then are worthless: one of them was used, or the session began after it.
    pub(super) made_until: WallTime,
    /// On which device: no other one's tickets open a session.
    pub(super) device: u64,
}

impl Latest {
    /// Whether a ticket for `device`, made at `issued_at`, opens another session.
    pub(super) fn lets_in(self, device: u64, issued_at: WallTime) -> bool {
        issued_at > self.made_until && device == self.device
    }
}

/// Users and how their latest sessions began. Two generations, so that what is too old goes as a
/// whole and nobody ever walks through the users.
#[derive(Clone, Debug, Default)]
pub(super) struct Claims {
    current: HashMap<UserId, Latest>,
    previous: HashMap<UserId, Latest>,
    /// When `current` was begun.
    since: WallTime,
}

impl Claims {
    /// Lets go of what no ticket can matter to any more. Whoever was entered since is kept until
    /// the next time at least, however long nobody called.
    pub(super) fn age(&mut self, now: WallTime) {
        if now.us_since(self.since) >= CLAIM_US {
            self.previous = std::mem::take(&mut self.current);
            self.since = now;
        }
    }

    pub(super) fn latest(&self, user: UserId) -> Option<Latest> {
        // What is in both was entered in `current` last.
        self.current.get(&user).or_else(|| self.previous.get(&user)).copied()
    }

    /// Takes out what is known of him.
    pub(super) fn take(&mut self, user: UserId) -> Option<Latest> {
        let older = self.previous.remove(&user);
        self.current.remove(&user).or(older)
    }

    /// `false` when there is no room.
    pub(super) fn remember(&mut self, user: UserId, latest: Latest) -> bool {
        if self.current.len() >= CLAIMS_MAX && !self.current.contains_key(&user) {
            return false;
        }
        self.current.insert(user, latest);
        true
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.current.len() + self.previous.len()
    }
}
