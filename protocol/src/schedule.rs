//! The schedule: when each wave starts. Its own versioned document, for now a local TOML file.
//!
//! ```toml
//! version = 1
//! campaign = 2015
//!
//! [[wave]]
//! index = 0
//! t0 = "2015-02-18T22:30:00+08:00"   # left out: not armed yet
//! factor = 1                         # rehearsals: wave time runs this much faster
//! grace_seconds = 30                 # after the end, before the rest closes as unissued
//! ```

use crate::{CampaignId, WallTime, WaveIndex, limits::WAVES_MAX};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// Wave time runs at most this much faster in a rehearsal.
pub const FACTOR_MAX: u32 = 10_000;

/// When each wave starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// Rises with every change; an older or equal version changes nothing.
    pub version: u64,
    /// The campaign it is for.
    pub campaign: CampaignId,
    /// The waves it knows, each at most once.
    #[serde(default, rename = "wave")]
    pub waves: Vec<WaveSchedule>,
}

/// When one wave starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WaveSchedule {
    /// The wave.
    pub index: WaveIndex,
    /// T0; `None` while the wave is not armed.
    #[serde(default, with = "rfc3339", skip_serializing_if = "Option::is_none")]
    pub t0: Option<WallTime>,
    /// How much faster than the clock wave time runs, 1..=10,000. Above 1 only in rehearsals.
    #[serde(default = "one")]
    pub factor: u32,
    /// How long packets may still be taken after the wave's end, seconds.
    #[serde(default = "grace_default")]
    pub grace_seconds: u32,
}

const fn one() -> u32 {
    1
}

const fn grace_default() -> u32 {
    30
}

/// Why a schedule is refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ScheduleError {
    /// Not TOML of this form. The text names line, key and expectation.
    #[error("{0}")]
    Syntax(String),
    /// A wave is listed twice.
    #[error("wave {0} is listed twice; keep one [[wave]] for each index")]
    Twice(WaveIndex),
    /// A factor out of range.
    #[error("wave {wave} has factor {factor}; use 1 to {FACTOR_MAX}")]
    Factor {
        /// The wave.
        wave: WaveIndex,
        /// Its factor.
        factor: u32,
    },
    /// A wave index out of range.
    #[error("wave {0} is out of range; a campaign has at most {WAVES_MAX} waves")]
    Wave(WaveIndex),
}

impl Schedule {
    /// Reads and checks a schedule.
    ///
    /// # Errors
    /// See [`ScheduleError`].
    pub fn decode(text: &str) -> Result<Self, ScheduleError> {
        let schedule: Self =
            toml::from_str(text).map_err(|error| ScheduleError::Syntax(error.to_string()))?;
        for (position, wave) in schedule.waves.iter().enumerate() {
            if usize::from(wave.index.0) >= WAVES_MAX {
                return Err(ScheduleError::Wave(wave.index));
            }
            if !(1..=FACTOR_MAX).contains(&wave.factor) {
                return Err(ScheduleError::Factor { wave: wave.index, factor: wave.factor });
            }
            if schedule.waves[..position].iter().any(|other| other.index == wave.index) {
                return Err(ScheduleError::Twice(wave.index));
            }
        }
        Ok(schedule)
    }

    /// The TOML form.
    #[must_use]
    pub fn encode(&self) -> String {
        toml::to_string(self).expect("plain data always serialises")
    }

    /// What it says of `wave`.
    #[must_use]
    pub fn wave(&self, wave: WaveIndex) -> Option<&WaveSchedule> {
        self.waves.iter().find(|entry| entry.index == wave)
    }
}

/// The wall time that RFC 3339 `text` names; it must carry its offset.
#[must_use]
pub fn parse_rfc3339(text: &str) -> Option<WallTime> {
    let nanoseconds = OffsetDateTime::parse(text, &Rfc3339).ok()?.unix_timestamp_nanos();
    u64::try_from(nanoseconds.div_euclid(1_000)).ok().map(WallTime)
}

/// `time` in RFC 3339, UTC.
#[must_use]
pub fn format_rfc3339(time: WallTime) -> String {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(time.0) * 1_000)
        .ok()
        .and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_else(|| format!("{} us after the epoch", time.0))
}

mod rfc3339 {
    use super::{WallTime, format_rfc3339, parse_rfc3339};
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(
        time: &Option<WallTime>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match time {
            Some(time) => serializer.serialize_str(&format_rfc3339(*time)),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<WallTime>, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse_rfc3339(&text).map(Some).ok_or_else(|| {
            D::Error::custom(format!(
                "`{text}` is no RFC 3339 time with offset, such as 2015-02-18T22:30:00+08:00"
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_survives_its_text() {
        let text = "version = 3\ncampaign = 2015\n[[wave]]\nindex = 0\n\
                    t0 = \"2015-02-18T22:30:00+08:00\"\nfactor = 100\n[[wave]]\nindex = 1\n";
        let schedule = Schedule::decode(text).expect("valid");
        assert_eq!(schedule.waves[0].t0, Some(WallTime(1_424_269_800_000_000)));
        assert_eq!((schedule.waves[1].t0, schedule.waves[1].factor), (None, 1));
        assert_eq!(Schedule::decode(&schedule.encode()), Ok(schedule));
    }

    #[test]
    fn no_time_before_the_epoch_passes_for_one_after_it() {
        assert_eq!(parse_rfc3339("1970-01-01T00:00:00Z"), Some(WallTime(0)));
        assert_eq!(parse_rfc3339("1969-12-31T23:59:59.9999999Z"), None);
    }

    #[test]
    fn a_mistake_is_named() {
        let check = |text: &str, expected: &str| {
            let error = Schedule::decode(text).expect_err("refused").to_string();
            assert!(error.contains(expected), "{error}");
        };
        check("version = 1\ncampaign = 1\nwaves = 3", "waves");
        check("version = 1\ncampaign = 1\n[[wave]]\nindex = 0\nfactor = 0", "factor 0");
        check("version = 1\ncampaign = 1\n[[wave]]\nindex = 0\n[[wave]]\nindex = 0", "twice");
        check("version = 1\ncampaign = 1\n[[wave]]\nindex = 0\nt0 = \"2015-02-18\"", "RFC 3339");
    }
}
