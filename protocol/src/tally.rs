//! The tally: the signed count of what a user has won, carried by the client (wire.md 5.2).
//!
//! ```text
//!  0  u8   version = 1            16  u64  user
//!  1  u8   wins                   24  u64  sponsors won, one bit each
//!  2  u16  reserved = 0           32  u64  counted at, Unix us
//!  4  u32  key id                 40  32 B keyed BLAKE3 over context ++ bytes 0..40
//!  8  u64  campaign
//! ```

use crate::{
    CampaignId, KeyId, SponsorSet, UserId, WallTime, WireError,
    codec::{Put, Reader},
    keys::{MAC_BYTES, MacKey, context},
    limits::SPONSORS_MAX,
};

/// Bytes of a tally.
pub const TALLY_BYTES: usize = 40 + MAC_BYTES;

const VERSION: u8 = 1;

/// What one user has won in one campaign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tally {
    /// The campaign.
    pub campaign: CampaignId,
    /// The user.
    pub user: UserId,
    /// How many packets, 0..=64. A user who hopped nodes may have one of every sponsor, more than
    /// the campaign allows: the tally says so truly, and settlement pays the limit only.
    pub wins: u8,
    /// From which sponsors.
    pub sponsors: SponsorSet,
    /// When it was counted; the client keeps the latest.
    pub counted_at: WallTime,
}

impl Tally {
    /// The tally of a user who has won nothing yet.
    #[must_use]
    pub const fn empty(campaign: CampaignId, user: UserId) -> Self {
        Self { campaign, user, wins: 0, sponsors: SponsorSet::EMPTY, counted_at: WallTime(0) }
    }

    /// The 72 bytes that travel, proved under `key`.
    #[must_use]
    pub fn encode(&self, key: &MacKey) -> [u8; TALLY_BYTES] {
        let mut out = Vec::with_capacity(TALLY_BYTES);
        out.put(&[VERSION, self.wins, 0, 0]);
        out.put_u32(key.id().0);
        out.put_u64(self.campaign.0);
        out.put_u64(self.user.0);
        out.put_u64(self.sponsors.0);
        out.put_u64(self.counted_at.0);
        let mac = key.mac(context::TALLY, &out);
        out.put(&mac);
        out.try_into().expect("the fields above are 72 bytes")
    }

    /// Reads a tally and checks its MAC before anything it says is believed.
    ///
    /// # Errors
    /// [`WireError::Forged`] for a foreign key id or a wrong MAC; a wrong length or version.
    pub fn decode(bytes: &[u8], key: &MacKey) -> Result<Self, WireError> {
        let mut r = Reader::new("a tally", bytes);
        let signed = r.bytes(TALLY_BYTES - MAC_BYTES)?;
        let mac = r.array::<MAC_BYTES>()?;
        r.finish()?;
        let tally = Self::peek(bytes)?;
        let mut key_id = Reader::new("a tally", &signed[4..8]);
        if KeyId(key_id.u32()?) != key.id() || !key.verifies(context::TALLY, signed, &mac) {
            return Err(WireError::Forged { what: "a tally" });
        }
        Ok(tally)
    }

    /// Reads what a tally claims, unproved: for the client, which has no key.
    ///
    /// # Errors
    /// A wrong length or version, a field out of range.
    pub fn peek(bytes: &[u8]) -> Result<Self, WireError> {
        let mut r = Reader::new("a tally", bytes);
        let version = r.u8()?;
        if version != VERSION {
            return Err(WireError::Version {
                what: "a tally",
                version: u16::from(version),
                known: u16::from(VERSION),
            });
        }
        let wins = r.u8()?;
        r.reserved::<2>()?;
        r.u32()?;
        let tally = Self {
            campaign: CampaignId(r.u64()?),
            user: UserId(r.u64()?),
            sponsors: SponsorSet(r.u64()?),
            counted_at: WallTime(r.u64()?),
            wins,
        };
        r.array::<MAC_BYTES>()?;
        r.finish()?;
        if usize::from(wins) > SPONSORS_MAX || u32::from(wins) < tally.sponsors.count() {
            return Err(WireError::Value { field: "wins", value: u64::from(wins) });
        }
        Ok(tally)
    }
}
