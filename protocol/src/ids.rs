//! The nouns that travel: identifiers, money, wall time. One type each, so that two bare `u64`
//! never stand side by side in a signature.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize,
            Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id! {
    /// A user as the app names him (`sub` of the session token), opaque to us. Never logged.
    UserId(u64)
}
id! {
    /// One campaign: an event with its waves, sponsors and budget.
    CampaignId(u64)
}
id! {
    /// A seed shard of a campaign, 0..shards; 24 bits.
    ShardId(u32)
}
id! {
    /// A wave of a campaign, in the order of the campaign file.
    WaveIndex(u16)
}
id! {
    /// The position of a packet in its shard, 0..records; sections follow one another.
    PacketIndex(u32)
}
id! {
    /// Chosen by the client for one draw; a SHAKE sent again keeps it (M6).
    ShakeId(u64)
}
id! {
    /// The generation of the right to issue from a shard; each has its own ticket key (M4, M5).
    Epoch(u32)
}
id! {
    /// Names a MAC or signing key among those of a campaign, for rotation.
    KeyId(u32)
}

/// A sponsor, 0..64: its bit in a [`SponsorSet`]. Invariant: below 64, from JSON too, so that no
/// shift by it can overflow.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(try_from = "u8", into = "u8")]
pub struct SponsorId(u8);

impl SponsorId {
    /// The sponsor with this number, or `None` above 63.
    #[must_use]
    pub const fn new(number: u8) -> Option<Self> {
        if number < 64 { Some(Self(number)) } else { None }
    }

    /// Its number, 0..64.
    #[must_use]
    pub const fn number(self) -> u8 {
        self.0
    }

    /// Its number as an index, 0..64.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl TryFrom<u8> for SponsorId {
    type Error = crate::WireError;

    fn try_from(number: u8) -> Result<Self, Self::Error> {
        let wrong = crate::WireError::Value { field: "sponsor", value: u64::from(number) };
        Self::new(number).ok_or(wrong)
    }
}

impl From<SponsorId> for u8 {
    fn from(sponsor: SponsorId) -> Self {
        sponsor.0
    }
}

impl fmt::Display for SponsorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A set of sponsors, one bit each (bit n = sponsor n).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SponsorSet(pub u64);

impl SponsorSet {
    /// No sponsor.
    pub const EMPTY: Self = Self(0);

    /// Whether `sponsor` is in the set.
    #[must_use]
    pub const fn contains(self, sponsor: SponsorId) -> bool {
        self.0 >> sponsor.0 & 1 == 1
    }

    /// The set with `sponsor` added.
    #[must_use]
    pub const fn with(self, sponsor: SponsorId) -> Self {
        Self(self.0 | 1 << sponsor.0)
    }

    /// The set with `sponsor` taken out.
    #[must_use]
    pub const fn without(self, sponsor: SponsorId) -> Self {
        Self(self.0 & !(1 << sponsor.0))
    }

    /// Sponsors in either set.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Sponsors of this set that are not in `other`.
    #[must_use]
    pub const fn minus(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// How many sponsors.
    #[must_use]
    pub const fn count(self) -> u32 {
        self.0.count_ones()
    }

    /// Whether no sponsor is in the set.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The sponsors, lowest number first.
    pub fn iter(self) -> impl Iterator<Item = SponsorId> {
        (0..64).filter(move |bit| self.0 >> bit & 1 == 1).map(SponsorId)
    }
}

/// A packet of a campaign: generation (8 bits, 0 = planned, 1.. = reclaimed), shard (24 bits) and
/// index in the shard (32 bits), most significant first.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct PacketId(pub u64);

impl PacketId {
    /// The packet at `index` of `shard` in `generation`. The shard's upper 8 bits must be zero.
    #[must_use]
    pub const fn new(generation: u8, shard: ShardId, index: PacketIndex) -> Self {
        assert!(shard.0 < crate::limits::SHARDS_MAX, "a shard has 24 bits");
        Self((generation as u64) << 56 | (shard.0 as u64) << 32 | index.0 as u64)
    }

    /// How often its value was reclaimed before it got this id.
    #[must_use]
    pub const fn generation(self) -> u8 {
        (self.0 >> 56) as u8
    }

    /// The shard that holds it.
    #[must_use]
    pub const fn shard(self) -> ShardId {
        ShardId((self.0 >> 32) as u32 & (crate::limits::SHARDS_MAX - 1))
    }

    /// Its position in the shard.
    #[must_use]
    pub const fn index(self) -> PacketIndex {
        PacketIndex(self.0 as u32)
    }
}

impl fmt::Display for PacketId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.generation(), self.shard(), self.index())
    }
}

/// Money in the currency's minor unit (fen, cent). Never negative, never a float (M9).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Fen(pub u64);

impl Fen {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// The sum, or `None` when it does not fit.
    #[must_use]
    pub const fn checked_add(self, other: Self) -> Option<Self> {
        match self.0.checked_add(other.0) {
            Some(sum) => Some(Self(sum)),
            None => None,
        }
    }

    /// The difference, or `None` when it would be negative.
    #[must_use]
    pub const fn checked_sub(self, other: Self) -> Option<Self> {
        match self.0.checked_sub(other.0) {
            Some(difference) => Some(Self(difference)),
            None => None,
        }
    }

    /// The amount in major units with `exponent` decimals: 500 with exponent 2 is "5.00".
    #[must_use]
    pub fn to_decimal(self, exponent: u8) -> String {
        // 10^19 is the largest power of ten in 64 bits; no currency has more than four decimals.
        let exponent = exponent.min(19);
        let unit = 10_u64.pow(u32::from(exponent));
        if unit == 1 {
            return self.0.to_string();
        }
        format!("{}.{:0width$}", self.0 / unit, self.0 % unit, width = usize::from(exponent))
    }

    /// The amount that `text` spells in major units with exactly `exponent` decimals, or none of
    /// them: "5.00" and "5" are 500 with exponent 2.
    #[must_use]
    pub fn from_decimal(text: &str, exponent: u8) -> Option<Self> {
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        let (major, minor) = match text.split_once('.') {
            Some((major, minor)) if minor.len() == usize::from(exponent) => (major, minor),
            Some(_) => return None,
            None => (text, ""),
        };
        if !digits(major) || !(minor.is_empty() || digits(minor)) {
            return None;
        }
        let unit = 10_u64.checked_pow(u32::from(exponent))?;
        let minor = if minor.is_empty() { 0 } else { minor.parse().ok()? };
        major.parse::<u64>().ok()?.checked_mul(unit)?.checked_add(minor).map(Self)
    }
}

impl std::iter::Sum for Fen {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self::ZERO, |sum, fen| {
            sum.checked_add(fen).expect("2^64 minor units exceed any currency in circulation")
        })
    }
}

impl fmt::Display for Fen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Unix time in microseconds. Serves T0, issue times and expiries; never an interval.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct WallTime(pub u64);

impl WallTime {
    /// This many microseconds later, at most the end of time.
    #[must_use]
    pub const fn plus_us(self, us: u64) -> Self {
        Self(self.0.saturating_add(us))
    }

    /// Microseconds since `earlier`, 0 when `earlier` is later.
    #[must_use]
    pub const fn us_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// From whole Unix seconds.
    #[must_use]
    pub const fn from_seconds(seconds: u64) -> Self {
        Self(seconds.saturating_mul(1_000_000))
    }

    /// Whole Unix seconds, rounded down.
    #[must_use]
    pub const fn seconds(self) -> u64 {
        self.0 / 1_000_000
    }
}

/// One life of a node process: 16 random bytes drawn at start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Incarnation(pub [u8; 16]);

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&crate::hex::encode(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_id_keeps_its_three_parts() {
        let id = PacketId::new(3, ShardId(0x00ab_cdef), PacketIndex(u32::MAX));
        assert_eq!((id.generation(), id.shard().0, id.index().0), (3, 0x00ab_cdef, u32::MAX));
        assert_eq!(id.0, 0x03ab_cdef_ffff_ffff);
    }

    #[test]
    fn decimals_are_exact_or_refused() {
        let check = |text: &str, exponent, expected: Option<u64>| {
            assert_eq!(Fen::from_decimal(text, exponent), expected.map(Fen), "{text}");
        };
        check("500000000.00", 2, Some(50_000_000_000));
        check("5", 2, Some(500));
        check("5.1", 2, None);
        check("5.001", 2, None);
        check("-5", 2, None);
        check("", 2, None);
        check(".50", 2, None);
        check("7", 0, Some(7));
        check("184467440737095516.16", 2, None);
        assert_eq!(Fen(5).to_decimal(2), "0.05");
        assert_eq!(Fen(7).to_decimal(0), "7");
        assert_eq!(Fen(u64::MAX).to_decimal(19), "1.8446744073709551615");
        assert_eq!(Fen(u64::MAX).to_decimal(255), "1.8446744073709551615");
    }

    #[test]
    #[should_panic(expected = "2^64 minor units")]
    fn m9_a_sum_of_money_never_wraps() {
        let _sum: Fen = [Fen(u64::MAX), Fen(1)].into_iter().sum();
    }

    #[test]
    fn a_sponsor_set_is_its_bits() {
        let three = SponsorId::new(3).expect("below 64");
        let set = SponsorSet::EMPTY.with(three).with(SponsorId::new(63).expect("below 64"));
        assert!(set.contains(three) && set.count() == 2);
        assert_eq!(set.without(three).iter().map(SponsorId::number).collect::<Vec<_>>(), [63]);
        assert!(SponsorId::new(64).is_none());
    }

    #[test]
    fn no_json_makes_a_sponsor_above_63() {
        let read = serde_json::from_str::<SponsorId>;
        assert_eq!(read("63").ok(), SponsorId::new(63));
        for wrong in ["64", "200", "255", "256", "-1"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
        let text = serde_json::to_string(&SponsorId::new(7)).expect("plain data");
        assert_eq!(text, "7");
    }
}
