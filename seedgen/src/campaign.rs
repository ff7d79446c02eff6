//! What a campaign asks for, as plain data, with the digest that names it. Never plans anything.

use thiserror::Error;
use yao_protocol::{CampaignId, Fen, WallTime, codec::Put};

/// Hundredths of a percent in the whole: the unit of [`Sponsor::share`].
pub const SHARE_WHOLE: u32 = 10_000;
/// Shards of a campaign; file names carry five digits.
pub const SHARDS_PLANNED_MAX: u32 = 100_000;
/// Packets of one shard. Two shards of this size in memory at once stay below 1 GiB.
pub const SHARD_PACKETS_MAX: u64 = 1 << 24;
/// Length of one wave, seconds: thirty days.
pub const WAVE_SECONDS_MAX: u64 = 30 * 86_400;
/// Waves of a campaign: each generation that is reclaimed takes an index of its own behind theirs,
/// so that at least one is left.
pub const WAVES_PLANNED_MAX: usize = yao_protocol::limits::WAVES_MAX - 1;
/// Lifetime of a ticket, seconds: one year.
pub const TICKET_LIFETIME_SECONDS_MAX: u64 = 366 * 86_400;
/// Rows of a table of amounts.
pub const TABLE_ROWS_MAX: usize = 256;
/// Bytes of a campaign's, sponsor's or wave's name.
pub const NAME_BYTES_MAX: usize = 64;
/// Decimals of a minor unit; no currency of ISO 4217 has more.
pub const EXPONENT_MAX: u8 = 4;

/// One event as its file describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Campaign {
    /// Its number; names keys and files.
    pub id: CampaignId,
    /// Its name, for people.
    pub name: String,
    /// ISO 4217 code.
    pub currency: String,
    /// Decimals of the currency's minor unit.
    pub exponent: u8,
    /// How many access nodes get a shard.
    pub shards: u32,
    /// Packets one user may win.
    pub wins_per_user: u8,
    /// Packets one user may win of one sponsor.
    pub wins_per_sponsor: u8,
    /// From issue to expiry of a ticket, seconds.
    pub ticket_lifetime_seconds: u64,
    /// The sponsors; their position is their id.
    pub sponsors: Vec<Sponsor>,
    /// The waves; their position is their index.
    pub waves: Vec<Wave>,
}

/// Who pays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sponsor {
    /// Name, for people.
    pub name: String,
    /// Part of every wave, in hundredths of a percent.
    pub share: u32,
}

/// One burst of packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wave {
    /// Name, for people.
    pub name: String,
    /// The sum of all its packets.
    pub budget: Fen,
    /// How many packets.
    pub packets: u64,
    /// When it starts, as far as the campaign file knows. The schedule decides; this is a note.
    pub t0: Option<WallTime>,
    /// The release curve.
    pub curve: Vec<CurveSegment>,
    /// How the budget falls into packets.
    pub amounts: Amounts,
}

impl Wave {
    /// How long it lasts.
    #[must_use]
    pub fn seconds(&self) -> u64 {
        self.curve.iter().map(|segment| u64::from(segment.seconds)).sum()
    }
}

/// A stretch of even release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CurveSegment {
    /// How long.
    pub seconds: u32,
    /// Packets of all shards released in it.
    pub packets: u64,
}

/// How a wave's budget falls into packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Amounts {
    /// Drawn evenly from [1 minor unit, 2 x mean), with the remainder spread.
    Uniform,
    /// Every packet the same.
    Fixed(Fen),
    /// So many packets of each amount.
    Table(Vec<TableRow>),
}

/// One line of a table of amounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableRow {
    /// What each of these packets holds.
    pub amount: Fen,
    /// How many there are in the wave.
    pub packets: u64,
}

/// Why a campaign is refused: always the campaign file's fault, always one line.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CampaignError {
    /// Not TOML at all.
    #[error("line {line} is no TOML: {message}")]
    Syntax {
        /// Line of the file, from 1.
        line: usize,
        /// What the TOML reader says.
        message: String,
    },
    /// A key that this version does not know.
    #[error("unknown key `{key}`; did you mean `{nearest}`? Known here: {known}")]
    UnknownKey {
        /// Path of the key.
        key: String,
        /// The known key that looks most like it.
        nearest: String,
        /// All known keys at this place.
        known: String,
    },
    /// A key that must be there.
    #[error("`{key}` is missing; {remedy}")]
    Missing {
        /// Path of the key.
        key: String,
        /// What to write.
        remedy: String,
    },
    /// A value that cannot be.
    #[error("`{key}` is {value}; {remedy}")]
    Wrong {
        /// Path of the key.
        key: String,
        /// What it holds.
        value: String,
        /// What is wrong with it and what to write instead.
        remedy: String,
    },
}

impl Campaign {
    /// The plan digest: BLAKE3 of a canonical form of everything that decides packets, keys or
    /// rules. Comments, spelling and order of keys do not enter; neither does `t0`, because a
    /// show that starts later keeps its sealed shards.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        let mut out = Vec::new();
        out.put(b"yao plan v1\0");
        out.put_u64(self.id.0);
        put_text(&mut out, &self.name);
        put_text(&mut out, &self.currency);
        out.put(&[self.exponent, self.wins_per_user, self.wins_per_sponsor]);
        out.put_u32(self.shards);
        out.put_u64(self.ticket_lifetime_seconds);
        put_count(&mut out, self.sponsors.len());
        for sponsor in &self.sponsors {
            put_text(&mut out, &sponsor.name);
            out.put_u32(sponsor.share);
        }
        put_count(&mut out, self.waves.len());
        for wave in &self.waves {
            put_text(&mut out, &wave.name);
            out.put_u64(wave.budget.0);
            out.put_u64(wave.packets);
            put_count(&mut out, wave.curve.len());
            for segment in &wave.curve {
                out.put_u32(segment.seconds);
                out.put_u64(segment.packets);
            }
            put_amounts(&mut out, &wave.amounts);
        }
        *blake3::hash(&out).as_bytes()
    }
}

fn put_amounts(out: &mut Vec<u8>, amounts: &Amounts) {
    match amounts {
        Amounts::Uniform => out.put(&[0]),
        Amounts::Fixed(amount) => {
            out.put(&[1]);
            out.put_u64(amount.0);
        }
        Amounts::Table(rows) => {
            out.put(&[2]);
            put_count(out, rows.len());
            for row in rows {
                out.put_u64(row.amount.0);
                out.put_u64(row.packets);
            }
        }
    }
}

/// Lengths go first, so that two different campaigns never have the same canonical form.
fn put_text(out: &mut Vec<u8>, text: &str) {
    put_count(out, text.len());
    out.put(text.as_bytes());
}

fn put_count(out: &mut Vec<u8>, count: usize) {
    out.put_u32(u32::try_from(count).expect("names and tables of a campaign are bounded"));
}
