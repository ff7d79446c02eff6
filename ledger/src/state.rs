//! What becomes of one open. Pure: the caller looks up, asks, and keeps what is decided.
//!
//! A packet has one row for ever, made by its first open that reaches the ledger; every later open
//! of it is answered from that row. Limits are decided here finally, and only here.

use yao_protocol::{
    Fen, PacketId, SponsorId, SponsorSet, UserId, WallTime, manifest::Manifest,
    settlement::OpenResult, spool::Open,
};

/// The one state of a packet that was opened. No state is ever left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum PacketState {
    /// Paid to its user.
    Applied = 1,
    /// Not paid: the user had as many packets, or this sponsor's, as the campaign allows.
    OverLimit = 2,
    /// Not paid: accepted after the ticket's expiry.
    Expired = 3,
}

impl PacketState {
    /// All states.
    pub const ALL: [Self; 3] = [Self::Applied, Self::OverLimit, Self::Expired];

    /// The state with this number.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|state| *state as u8 == number)
    }

    /// Its name in the audit.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::OverLimit => "over_limit",
            Self::Expired => "expired",
        }
    }

    /// What the user's own open of a packet in this state is told, when it comes again.
    #[must_use]
    pub const fn again(self) -> OpenResult {
        match self {
            Self::Applied => OpenResult::Same,
            Self::OverLimit => OpenResult::OverLimit,
            Self::Expired => OpenResult::Expired,
        }
    }
}

/// A packet's row, as far as the rules need it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settled {
    /// Whose open made it.
    pub user: UserId,
    /// What became of it.
    pub state: PacketState,
}

/// What a user was paid so far in this campaign.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wins {
    /// Packets paid.
    pub count: u32,
    /// Their sponsors.
    pub sponsors: SponsorSet,
}

impl Wins {
    /// With one more packet of `sponsor`.
    #[must_use]
    pub const fn with(self, sponsor: SponsorId) -> Self {
        Self { count: self.count + 1, sponsors: self.sponsors.with(sponsor) }
    }
}

/// The campaign's limits per user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Packets in all.
    pub wins_per_user: u8,
}

impl Limits {
    /// The limits that the manifest states; one packet per sponsor in this version.
    #[must_use]
    pub const fn of(manifest: &Manifest) -> Self {
        Self { wins_per_user: manifest.wins_per_user }
    }
}

/// What is decided about an open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The answer.
    pub result: OpenResult,
    /// The state of the packet's new row; `None` when there is one already.
    pub record: Option<PacketState>,
}

/// Decides about a genuine open: `found` is its packet's row, `wins` what its user was paid.
#[must_use]
pub fn decide(limits: Limits, found: Option<Settled>, wins: Wins, open: &Open) -> Decision {
    let body = &open.ticket.body;
    if let Some(settled) = found {
        let same = settled.user == body.user;
        let result = if same { settled.state.again() } else { OpenResult::Conflict };
        return Decision { result, record: None };
    }
    let over_limit =
        wins.count >= u32::from(limits.wins_per_user) || wins.sponsors.contains(body.sponsor);
    // The user's own action counts: the time at which the node accepted it, not our clock.
    let (result, state) = if open.accepted_at >= body.expires_at {
        (OpenResult::Expired, PacketState::Expired)
    } else if over_limit {
        (OpenResult::OverLimit, PacketState::OverLimit)
    } else {
        (OpenResult::Applied, PacketState::Applied)
    };
    Decision { result, record: Some(state) }
}

/// One row as the audit shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// The packet.
    pub packet: PacketId,
    /// Whose open made the row.
    pub user: UserId,
    /// Its sponsor.
    pub sponsor: SponsorId,
    /// Its amount.
    pub amount: Fen,
    /// What became of it.
    pub state: PacketState,
    /// Rows are numbered from 1 in the order of settlement, without gaps.
    pub sequence: u64,
    /// When the node accepted the open.
    pub accepted_at: WallTime,
    /// When the ledger settled it.
    pub settled_at: WallTime,
}

#[cfg(test)]
mod tests {
    use super::*;
    use yao_protocol::{
        CampaignId, Epoch, PacketIndex, ShakeId, ShardId, WaveIndex,
        ticket::{Ticket, TicketBody},
    };

    const LIMITS: Limits = Limits { wins_per_user: 3 };

    fn open(user: u64, sponsor: u8, accepted_at: u64) -> Open {
        let body = TicketBody {
            campaign: CampaignId(1),
            packet: PacketId::new(0, ShardId(0), PacketIndex(5)),
            user: UserId(user),
            amount: Fen(100),
            shake: ShakeId(1),
            issued_at: WallTime(0),
            expires_at: WallTime(100),
            shard: ShardId(0),
            epoch: Epoch(1),
            sponsor: SponsorId::new(sponsor).expect("below 64"),
            wave: WaveIndex(0),
        };
        Open { accepted_at: WallTime(accepted_at), ticket: Ticket { body, signature: [0; 64] } }
    }

    fn wins(sponsors: &[u8]) -> Wins {
        sponsors
            .iter()
            .fold(Wins::default(), |wins, n| wins.with(SponsorId::new(*n).expect("below 64")))
    }

    #[test]
    fn a_first_open_is_judged_by_expiry_then_limits() {
        let check = |won: &[u8], sponsor, accepted_at, result, state| {
            let decision = decide(LIMITS, None, wins(won), &open(7, sponsor, accepted_at));
            assert_eq!(decision, Decision { result, record: Some(state) }, "{won:?} {sponsor}");
        };
        check(&[], 0, 99, OpenResult::Applied, PacketState::Applied);
        check(&[1, 2], 0, 99, OpenResult::Applied, PacketState::Applied);
        check(&[1, 2], 2, 99, OpenResult::OverLimit, PacketState::OverLimit);
        check(&[1, 2, 3], 0, 99, OpenResult::OverLimit, PacketState::OverLimit);
        check(&[], 0, 100, OpenResult::Expired, PacketState::Expired);
        check(&[1, 2, 3], 0, 100, OpenResult::Expired, PacketState::Expired);
    }

    #[test]
    fn a_packet_with_a_row_is_answered_from_it() {
        let check = |state, user, result| {
            let found = Some(Settled { user: UserId(7), state });
            for (won, accepted_at) in [(wins(&[]), 50), (wins(&[0, 1, 2]), 500)] {
                let decision = decide(LIMITS, found, won, &open(user, 0, accepted_at));
                assert_eq!(decision, Decision { result, record: None });
            }
        };
        check(PacketState::Applied, 7, OpenResult::Same);
        check(PacketState::OverLimit, 7, OpenResult::OverLimit);
        check(PacketState::Expired, 7, OpenResult::Expired);
        for state in PacketState::ALL {
            check(state, 8, OpenResult::Conflict);
        }
    }
}
