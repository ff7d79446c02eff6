//! Who has won what: the issuer's own table, which keeps the limits when a client drops its tally,
//! and finds the ticket of a shake that is sent again (M6). Rebuilt from the journal.

use hashbrown::HashMap;
use yao_protocol::{ShakeId, SponsorSet, UserId, ticket::TicketBody};

/// No earlier win.
const NONE: u32 = u32::MAX;

/// One user's wins.
#[derive(Clone, Copy, Debug)]
struct Winner {
    sponsors: SponsorSet,
    /// His latest win; each win names the one before it.
    latest: u32,
    wins: u8,
    /// A candidate of his is being vetted.
    pending: bool,
}

/// Winners of the campaign on this node.
#[derive(Debug, Default)]
pub(super) struct Winners {
    users: HashMap<UserId, Winner>,
    /// Every win in order, with the index of the same user's win before it.
    wins: Vec<(TicketBody, u32)>,
}

/// What is known of a user's wins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Won {
    pub(super) wins: u8,
    pub(super) sponsors: SponsorSet,
    pub(super) pending: bool,
}

impl Winners {
    /// What `user` has won on this node.
    pub(super) fn of(&self, user: UserId) -> Won {
        self.users.get(&user).map_or_else(Won::default, |winner| Won {
            wins: winner.wins,
            sponsors: winner.sponsors,
            pending: winner.pending,
        })
    }

    /// Marks that a candidate of `user` is being vetted, or no longer is.
    pub(super) fn pending_set(&mut self, user: UserId, pending: bool) {
        if pending {
            let fresh =
                Winner { sponsors: SponsorSet::EMPTY, latest: NONE, wins: 0, pending: true };
            self.users.entry(user).or_insert(fresh).pending = true;
        } else if let Some(winner) = self.users.get_mut(&user) {
            winner.pending = false;
            if winner.wins == 0 {
                self.users.remove(&user);
            }
        }
    }

    /// Records a win.
    pub(super) fn record(&mut self, body: TicketBody) {
        let index = u32::try_from(self.wins.len()).expect("a shard has at most 2^32 packets");
        let fresh = Winner { sponsors: SponsorSet::EMPTY, latest: NONE, wins: 0, pending: false };
        let winner = self.users.entry(body.user).or_insert(fresh);
        self.wins.push((body, winner.latest));
        winner.latest = index;
        winner.wins = winner.wins.saturating_add(1);
        winner.sponsors = winner.sponsors.with(body.sponsor);
    }

    /// The win of this very draw, if there was one.
    pub(super) fn find(&self, user: UserId, shake: ShakeId) -> Option<TicketBody> {
        self.wins_of(user).find(|body| body.shake == shake)
    }

    /// A user's wins, latest first.
    pub(super) fn wins_of(&self, user: UserId) -> impl Iterator<Item = TicketBody> + '_ {
        let mut next = self.users.get(&user).map_or(NONE, |winner| winner.latest);
        std::iter::from_fn(move || {
            let (body, previous) = self.wins.get(next as usize)?;
            next = *previous;
            Some(*body)
        })
    }

    /// Wins in all.
    pub(super) fn count(&self) -> usize {
        self.wins.len()
    }
}
