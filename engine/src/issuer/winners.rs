//! Who has won what: the issuer's own table, which keeps the limits when a client drops its tally,
//! and finds the ticket of a shake that is sent again (M6). Rebuilt from the journal, which names
//! no devices: those of earlier lives are learnt when their users come back.

use hashbrown::HashMap;
use yao_protocol::{ShakeId, SponsorSet, UserId, ticket::TicketBody};

/// No earlier win.
const NONE: u32 = u32::MAX;

/// One user's wins.
#[derive(Clone, Copy, Debug)]
struct Winner {
    /// Of whom he has a packet, here or by a tally that he showed.
    sponsors: SponsorSet,
    /// His latest win here; each win names the one before it.
    latest: u32,
    /// How many packets he has, here and by his tallies.
    wins: u8,
    /// The call about a candidate of his that is being vetted.
    pending_call: Option<u64>,
}

impl Winner {
    const FRESH: Self =
        Self { sponsors: SponsorSet::EMPTY, latest: NONE, wins: 0, pending_call: None };

    const fn won(&self) -> Won {
        let pending = self.pending_call.is_some();
        Won { wins: self.wins, sponsors: self.sponsors, pending }
    }

    /// Takes in what a tally tells. It may count wins of this node too, and the table may know
    /// wins made since: one of each sponsor, so together at least as many as the sponsors.
    fn learn(&mut self, wins: u8, sponsors: SponsorSet) {
        self.sponsors = self.sponsors.union(sponsors);
        let counted = u8::try_from(self.sponsors.count()).expect("at most 64 sponsors");
        self.wins = self.wins.max(wins).max(counted);
    }
}

/// Winners of the campaign on this node.
#[derive(Debug, Default)]
pub(super) struct Winners {
    users: HashMap<UserId, Winner>,
    /// Every win in order.
    wins: Vec<Win>,
    /// Packets won on each device, or being decided for it. Exact and bounded: at most one entry
    /// for each win and each candidate.
    devices: HashMap<u64, u32>,
}

/// One win.
#[derive(Clone, Copy, Debug)]
struct Win {
    body: TicketBody,
    /// Index of the same user's win before it.
    previous: u32,
    /// On which device, 0 = none was named; `None` while the journal is all that tells of the win.
    device: Option<u64>,
}

/// What is known of a user's wins, here and elsewhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Won {
    pub(super) wins: u8,
    pub(super) sponsors: SponsorSet,
    pub(super) pending: bool,
}

impl Winners {
    /// What `user` has won, as far as this node knows.
    pub(super) fn of(&self, user: UserId) -> Won {
        self.users.get(&user).map_or_else(Won::default, Winner::won)
    }

    /// The same, with what a tally tells that he shows now.
    pub(super) fn with(&self, user: UserId, wins: u8, sponsors: SponsorSet) -> Won {
        let mut winner = self.users.get(&user).copied().unwrap_or(Winner::FRESH);
        winner.learn(wins, sponsors);
        winner.won()
    }

    /// Keeps what the tally of a winner tells. Of others nothing is kept: the crowd is too large.
    pub(super) fn learn(&mut self, user: UserId, wins: u8, sponsors: SponsorSet) {
        if let Some(winner) = self.users.get_mut(&user).filter(|winner| winner.latest != NONE) {
            winner.learn(wins, sponsors);
        }
    }

    /// The call about this user's candidate, if one is being vetted.
    pub(super) fn pending_call(&self, user: UserId) -> Option<u64> {
        self.users.get(&user).and_then(|winner| winner.pending_call)
    }

    /// Marks that a candidate of `user` is being vetted, or no longer is.
    pub(super) fn pending_set(&mut self, user: UserId, call: Option<u64>) {
        if call.is_some() {
            self.users.entry(user).or_insert(Winner::FRESH).pending_call = call;
        } else if let Some(winner) = self.users.get_mut(&user) {
            winner.pending_call = None;
            if winner.latest == NONE {
                self.users.remove(&user);
            }
        }
    }

    /// Packets won on `device`, or being decided for it; 0 for the device 0, which is none.
    pub(super) fn on_device(&self, device: u64) -> u32 {
        self.devices.get(&device).copied().unwrap_or(0)
    }

    /// A candidate of `device` is being decided: until [`Self::release`] he counts as a winner, so
    /// that two of them at once do not pass a limit that lets one pass.
    pub(super) fn hold(&mut self, device: u64) {
        if device != 0 {
            *self.devices.entry(device).or_insert(0) += 1;
        }
    }

    /// The candidate is decided.
    pub(super) fn release(&mut self, device: u64) {
        if device == 0 {
            return;
        }
        let count = self.devices.get_mut(&device).expect("what is released was held");
        *count -= 1;
        if *count == 0 {
            self.devices.remove(&device);
        }
    }

    /// `user` is on `device`: his wins of earlier lives, of which no device is known, count for it.
    /// What he won here without naming a device stays without one.
    pub(super) fn place(&mut self, user: UserId, device: u64) {
        if device == 0 {
            return;
        }
        let mut next = self.users.get(&user).map_or(NONE, |winner| winner.latest);
        while let Some(win) = self.wins.get_mut(next as usize) {
            if win.device.is_none() {
                win.device = Some(device);
                *self.devices.entry(device).or_insert(0) += 1;
            }
            next = win.previous;
        }
    }

    /// Records a win on `device`, 0 when none was named; `None` for one from the journal.
    pub(super) fn record(&mut self, body: TicketBody, device: Option<u64>) {
        let index = u32::try_from(self.wins.len()).expect("a shard has at most 2^32 packets");
        self.hold(device.unwrap_or(0));
        let winner = self.users.entry(body.user).or_insert(Winner::FRESH);
        self.wins.push(Win { body, previous: winner.latest, device });
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
            let win = self.wins.get(next as usize)?;
            next = win.previous;
            Some(win.body)
        })
    }

    /// Wins in all.
    pub(super) fn count(&self) -> usize {
        self.wins.len()
    }
}
