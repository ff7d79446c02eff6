//! Swarm: each seed draws which faults are on, at least three, and only those happen in it. A world
//! with every fault at once spends its time recovering; one with a few goes deep.

use crate::random::Random;

/// Everything that can go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// A node is killed: memory is lost, the page cache stays.
    Crash,
    /// A machine loses power: what was not synced may be lost, torn, or out of order.
    PowerCut,
    /// A kill or a power cut in the middle of a disk operation.
    MidWrite,
    /// A node is stopped and goes on later.
    Pause,
    /// One thread of a node gets no processor for a while.
    SlowThread,
    /// The disk takes long.
    SlowDisk,
    /// A write or a sync fails; the kernel then believes its pages clean.
    DiskError,
    /// The disk is full for a while.
    DiskFull,
    /// A bit flips in a file.
    BitRot,
    /// The network's delay varies, so that clients overtake one another.
    Jitter,
    /// Bytes arrive in pieces.
    Fragments,
    /// Connections break.
    Break,
    /// Connections die silently: one side, or both, hear nothing any more.
    HalfOpen,
    /// Some clients cannot reach a node for a while.
    Partition,
    /// The agent is killed.
    AgentKill,
    /// The agent hangs, or answers late.
    AgentHang,
    /// The agent is replaced in the middle of the show.
    AgentSwap,
    /// The agent is hostile: forged, foreign and repeated answers, wrong verdicts.
    AgentHostile,
    /// An agent of an older version, or one that never proves itself, is to be swapped in.
    AgentOld,
    /// The policy bans users and has wins vetted.
    Policy,
    /// Settlement is away for a while.
    LedgerDown,
    /// Settlement's answers get lost, and batches arrive twice and out of order.
    LedgerLossy,
    /// Settlement says "later".
    LedgerBusy,
    /// Nodes disagree about the time, and their clocks are stepped.
    ClockSkew,
    /// The start is corrected, earlier and later, while the show runs up to it.
    Correction,
    /// An app is killed and forgets what was not flushed.
    AppKill,
    /// Everybody comes at once.
    Storm,
    /// Users without a tally, or with an old one.
    DropTally,
    /// One user with two devices that know nothing of each other.
    Fork,
    /// Users who go from node to node.
    Hop,
    /// Tickets that are opened twice, here and elsewhere.
    OpenTwice,
    /// Tickets that are opened by somebody else.
    OpenOthers,
    /// Tickets that live for seconds.
    ShortTickets,
    /// A node asks its clients to leave.
    Drain,
    /// A thread of sessions panics and begins again.
    Panic,
    /// A node's state is copied, and a second one runs with the copy (in fleet mode).
    Twin,
    /// Cursors and journal are put back to an older state (in fleet mode).
    Restore,
    /// The spool's own disk syncs nothing any more; there is a fallback.
    SpoolDisk,
}

impl Fault {
    /// All of them, with the name that the table prints.
    pub const ALL: [(Self, &'static str); 38] = [
        (Self::Crash, "crash"),
        (Self::PowerCut, "power cut"),
        (Self::MidWrite, "mid-write"),
        (Self::Pause, "pause"),
        (Self::SlowThread, "slow thread"),
        (Self::SlowDisk, "slow disk"),
        (Self::DiskError, "disk error"),
        (Self::DiskFull, "disk full"),
        (Self::BitRot, "bit rot"),
        (Self::Jitter, "jitter"),
        (Self::Fragments, "fragments"),
        (Self::Break, "break"),
        (Self::HalfOpen, "half-open"),
        (Self::Partition, "partition"),
        (Self::AgentKill, "agent kill"),
        (Self::AgentHang, "agent hang"),
        (Self::AgentSwap, "agent swap"),
        (Self::AgentHostile, "agent hostile"),
        (Self::AgentOld, "agent old"),
        (Self::Policy, "policy"),
        (Self::LedgerDown, "ledger down"),
        (Self::LedgerLossy, "ledger lossy"),
        (Self::LedgerBusy, "ledger busy"),
        (Self::ClockSkew, "clock skew"),
        (Self::Correction, "correction"),
        (Self::AppKill, "app kill"),
        (Self::Storm, "storm"),
        (Self::DropTally, "drop tally"),
        (Self::Fork, "fork"),
        (Self::Hop, "hop"),
        (Self::OpenTwice, "open twice"),
        (Self::OpenOthers, "open others"),
        (Self::ShortTickets, "short tickets"),
        (Self::Drain, "drain"),
        (Self::Panic, "thread panic"),
        (Self::Twin, "twin"),
        (Self::Restore, "restore"),
        (Self::SpoolDisk, "spool disk"),
    ];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL[self as usize].1
    }
}

/// The least number of kinds that a seed draws.
const KINDS_MIN: u64 = 3;
/// The most.
const KINDS_MAX: u64 = 10;

/// Which faults a world has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults(u64);

impl Faults {
    /// Draws [`KINDS_MIN`] to [`KINDS_MAX`] kinds.
    #[must_use]
    pub fn draw(random: &mut Random) -> Self {
        let mut drawn = Self::default();
        let count = random.between(KINDS_MIN, KINDS_MAX);
        while drawn.count() < count {
            drawn = drawn.with(Fault::ALL[random.index(Fault::ALL.len())].0);
        }
        drawn
    }

    /// Exactly these.
    #[must_use]
    pub fn of(faults: &[Fault]) -> Self {
        faults.iter().fold(Self::default(), |all, fault| all.with(*fault))
    }

    /// And this one.
    #[must_use]
    pub const fn with(self, fault: Fault) -> Self {
        Self(self.0 | 1 << fault as u64)
    }

    /// Whether this one is on.
    #[must_use]
    pub const fn has(self, fault: Fault) -> bool {
        self.0 >> fault as u64 & 1 == 1
    }

    /// Whether a win, or the reading of packets, may be under way when a wave ends: something holds
    /// it up, or a process has begun a moment ago.
    #[must_use]
    pub fn hold_up(self) -> bool {
        use Fault::{
            AgentHang, AgentHostile, AgentKill, AgentSwap, Crash, DiskError, DiskFull, Drain,
            MidWrite, Pause, Policy, PowerCut, Restore, SlowDisk, SlowThread, SpoolDisk, Twin,
        };
        let agents = [AgentHang, AgentHostile, AgentKill, AgentSwap];
        let held = [Pause, Policy, SlowDisk, SlowThread];
        let begun =
            [Crash, DiskError, DiskFull, Drain, MidWrite, PowerCut, Restore, SpoolDisk, Twin];
        held.iter().chain(&begun).chain(&agents).any(|fault| self.has(*fault))
    }

    /// How many are on.
    #[must_use]
    pub const fn count(self) -> u64 {
        self.0.count_ones() as u64
    }

    /// Their names.
    #[must_use]
    pub fn names(self) -> Vec<&'static str> {
        Fault::ALL.iter().filter(|(fault, _)| self.has(*fault)).map(|(_, name)| *name).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_seed_draws_some_and_every_fault_is_drawn() {
        for (place, (fault, _)) in Fault::ALL.iter().enumerate() {
            assert_eq!(*fault as usize, place, "the table is in the order of the enum");
        }
        let mut random = Random::new(1);
        let mut seen = 0;
        for _ in 0..1_000 {
            let drawn = Faults::draw(&mut random);
            assert!((KINDS_MIN..=KINDS_MAX).contains(&drawn.count()));
            seen |= drawn.0;
        }
        assert_eq!(seen.count_ones() as usize, Fault::ALL.len());
    }
}
