//! Waves that a schedule ends before they begin: a T0 of last year, a restart long after the show.
//!
//! A wave that is over stays so (DESIGN, "Release"), and nothing of it was issued: whoever mistyped
//! a T0 would lose the wave. So none is closed that way. A reload with such a T0 is refused, and a
//! start leaves the wave alone until a reload corrects it.

use crate::clock::Clock;
use std::collections::BTreeMap;
use yao_engine::{issuer::RecoveredSection, wave_clock::WaveClock};
use yao_protocol::{
    WallTime, WaveIndex,
    schedule::{Schedule, format_rfc3339},
};

/// The waves that by `schedule` are over at `now`, and since when. `wave_us`: how long each wave of
/// the shard lasts, us of wave time.
pub(crate) fn overdue(
    schedule: &Schedule,
    wave_us: &BTreeMap<WaveIndex, u64>,
    now: WallTime,
) -> Vec<(WaveIndex, WallTime)> {
    let end = |(wave, wave_us): (&WaveIndex, &u64)| {
        let entry = schedule.wave(*wave)?;
        let end = WaveClock::new(entry.t0?, entry.factor).due(*wave_us);
        Some((*wave, end.plus_us(u64::from(entry.grace_seconds) * 1_000_000)))
    };
    wave_us.iter().filter_map(end).filter(|(_, end)| *end <= now).collect()
}

/// Of the waves that are overdue at a start those that it leaves alone: nothing of them was ever
/// reserved, and no earlier life has closed them.
pub(crate) fn left_alone(
    schedule: &Schedule,
    wave_us: &BTreeMap<WaveIndex, u64>,
    clock: &Clock,
    sections: &[RecoveredSection],
) -> Vec<(WaveIndex, WallTime)> {
    let mut overdue = overdue(schedule, wave_us, clock.wall());
    let is_untouched = |wave: WaveIndex| {
        let mut all = sections.iter().filter(|one| one.section.wave == wave);
        all.any(|one| one.high == 0 && !one.closed)
    };
    overdue.retain(|(wave, _)| is_untouched(*wave));
    for (wave, end) in &overdue {
        tracing::error!(
            event = "wave_left_alone",
            wave = wave.0,
            over_since = format_rfc3339(*end),
            "by its t0 it was over before it began; it stays idle until a reload corrects that"
        );
    }
    overdue
}

/// The schedule without the T0 of some waves.
pub(crate) fn without(schedule: &Schedule, waves: &[(WaveIndex, WallTime)]) -> Schedule {
    let mut schedule = schedule.clone();
    for entry in &mut schedule.waves {
        if waves.iter().any(|(wave, _)| *wave == entry.index) {
            entry.t0 = None;
        }
    }
    schedule
}
