//! By what right packets are issued, for people and metrics; fleet mode only. Decides nothing.

use serde::Serialize;
use yao_engine::{Anchor, Timestamp, grant::Right};
use yao_protocol::{WaveIndex, schedule::format_rfc3339};

/// A number's name, and how to read it.
type Number = (&'static str, fn(&GrantStatus) -> u64);

/// What a right counts. docs/metrics.md has these names.
pub const GRANT_NUMBERS: [Number; 3] = [
    ("wave_no_grant", |grant| u64::from(grant.state != "granted" && grant.needed)),
    ("wave_granted", |grant| u64::from(grant.hi)),
    ("wave_grant_ms_left", |grant| grant.ms_left),
];

/// The right to issue one wave's packets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GrantStatus {
    /// The wave.
    pub wave: u16,
    /// `granted`, `none`, or `lost`: taken over by another process.
    pub state: &'static str,
    /// Whether packets of this wave are, or will soon be, to be issued.
    pub needed: bool,
    /// The grant in force or just over; 0 when there is none.
    pub id: u64,
    /// Position of the first packet of it.
    pub lo: u32,
    /// Position behind the last one.
    pub hi: u32,
    /// How long it holds, ms.
    pub ms_left: u64,
    /// Until when, by this node's clock.
    pub until: Option<String>,
    /// Why nothing new was granted when it was asked for last.
    pub trouble: Option<String>,
}

impl GrantStatus {
    /// The status of one wave's right; `None` in local mode.
    #[must_use]
    pub fn new(
        now: Timestamp,
        anchor: Anchor,
        (wave, right, lacks): (WaveIndex, &Right, bool),
    ) -> Option<Self> {
        let fleet = right.fleet()?;
        let live = right.is_live(now);
        let state = match live {
            true => "granted",
            false if fleet.is_lost() => "lost",
            false => "none",
        };
        let grant = fleet.grant();
        Some(Self {
            wave: wave.0,
            state,
            needed: live || lacks,
            id: grant.map_or(0, |grant| grant.id),
            lo: grant.map_or(0, |grant| grant.lo),
            hi: grant.map_or(0, |grant| grant.hi),
            ms_left: right.until().ns_since(now) / 1_000_000,
            until: grant.map(|_| format_rfc3339(anchor.wall(right.until()))),
            trouble: fleet.trouble().map(str::to_owned),
        })
    }

    /// Why nothing is issued of a wave of which something should be, in one line.
    #[must_use]
    pub fn no_grant(&self) -> Option<String> {
        if self.state == "granted" || !self.needed {
            return None;
        }
        let trouble =
            self.trouble.as_deref().unwrap_or("settlement was asked and has not answered");
        Some(format!("NO_GRANT: wave {}: nothing is issued, shakes go on: {trouble}", self.wave))
    }

    /// Every number with its name.
    pub fn numbers(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        GRANT_NUMBERS.iter().map(|(name, read)| (*name, read(self)))
    }
}
