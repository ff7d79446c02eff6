//! What kind of world a seed makes: nodes, people, times.

use super::SECOND;
use crate::{
    canary::Canary,
    faults::{Fault, Faults},
    plan::{Event as Show, START, WAVES},
    random::Random,
};
use yao_access::config::{AfterReboot, Ownership, Owning};
use yao_ledger::grants::GrantPolicy;
use yao_protocol::{
    WaveIndex,
    schedule::{Schedule, WaveSchedule},
};

/// T0 of each wave, ns. The third begins when nothing goes wrong any more: whatever a node went
/// through, it must give then.
const T0: [u64; WAVES as usize] = [4 * SECOND, 27 * SECOND, 48 * SECOND];

/// The plot of a world.
#[derive(Clone, Debug)]
pub struct Plot {
    /// The source of all chance.
    pub seed: u64,
    /// What goes wrong.
    pub faults: Faults,
    /// What is wrong with the simulator itself.
    pub canary: Canary,
    /// Nodes.
    pub nodes: usize,
    /// Users.
    pub users: u64,
    /// How long after their end the waves' packets may still be won, s.
    pub grace_seconds: [u32; WAVES as usize],
    /// Least time between two shakes of a user, ms.
    pub shake_interval_ms: u32,
    /// Bytes of unsettled opens that a spool takes.
    pub spool_bytes_max: u64,
    /// How long a spool collects opens for one commit, us. Those of a long time lie in many
    /// sectors, any of which a failing disk may keep.
    pub spool_commit_us_max: u64,
    /// Whether spools have a fallback on another disk.
    pub fallback: bool,
    /// Where nodes issue by grants (fleet mode), not by the right of their disks: how far these
    /// reach, and how nodes go on after a reboot.
    pub grants: Option<(GrantPolicy, AfterReboot)>,
}

impl Plot {
    /// The world of this seed with exactly these faults.
    #[must_use]
    pub fn with_faults(seed: u64, faults: Faults, canary: Canary) -> Self {
        let mut random = Random::new(seed).fork(105);
        let many = faults.has(Fault::Hop) || random.chance(400);
        let copies = faults.has(Fault::Twin) || faults.has(Fault::Restore);
        let mut plot = Self {
            seed,
            faults,
            canary,
            nodes: if many { 2 + random.index(2) } else { 1 },
            users: random.between(100, 130),
            grace_seconds: [
                // The long one lets packets wait in their queues for a minute.
                if random.chance(150) { 66 } else { 3 },
                u32::try_from(random.between(1, 6)).expect("small"),
                2,
            ],
            shake_interval_ms: [0, 500, 1_000, 2_000][random.index(4)],
            spool_bytes_max: if random.chance(100) { 4_096 } else { 1 << 30 },
            spool_commit_us_max: [2_000, 400_000][random.index(2)],
            fallback: false,
            grants: None,
        };
        if random.chance(300) || copies {
            let packets = [12, 40, 480][random.index(3)];
            let lifetime_ms = random.between(3_000, 9_000);
            let policy = GrantPolicy::new(packets, lifetime_ms, 400).expect("within its bounds");
            let burns = random.chance(500);
            let after = if burns { AfterReboot::Burn } else { AfterReboot::Resume };
            plot.grants = Some((policy, after));
        }
        plot.fallback = random.chance(200) || faults.has(Fault::SpoolDisk);
        plot
    }

    /// Whether what was granted before a reboot is burnt.
    #[must_use]
    pub fn burns(&self) -> bool {
        self.grants.is_some_and(|(_, after)| after == AfterReboot::Burn)
    }

    /// How nodes come by their right. There is no witness: it is a file of the real kernel.
    pub(super) fn owning(&self) -> Owning {
        match self.grants {
            None => Owning::default(),
            Some((_, after_reboot)) => {
                Owning { ownership: Ownership::Fleet, witness: None, after_reboot }
            }
        }
    }

    /// The schedule as it was first told.
    #[must_use]
    pub fn schedule(&self, show: &Show) -> Schedule {
        let waves = (0..WAVES).map(|wave| WaveSchedule {
            index: WaveIndex(wave),
            t0: Some(START.plus_us(T0[usize::from(wave)] / 1_000)),
            factor: 1,
            grace_seconds: self.grace_seconds[usize::from(wave)],
        });
        Schedule { version: 1, campaign: show.campaign, waves: waves.collect() }
    }

    /// Whether each node goes by the T0 that it was told last: one whose clock is off, or which
    /// stood still, may have begun by an earlier one.
    pub(super) fn tells_t0_in_time(&self) -> bool {
        !self.faults.has(Fault::ClockSkew) && !self.faults.has(Fault::Pause)
    }
}
