//! The right to issue from one wave's section (M4): in local mode the disk's, in fleet mode by a
//! grant of settlement, which reaches so far and ends at an instant of the boot clock.
//!
//! A right is asked for early and used late: a grant counts when it is on disk, is prolonged when
//! half of it is used up, by packets or by time, and ends a margin before settlement believes that
//! it does. Whoever hears that another one holds the section stops at once, for the rest of its
//! life. Never reads a clock, never signs.
//!
//! * [`Opening`]: what a start may claim
//! * `fleet`: the life of a granted right: what is asked, and what answers mean

mod fleet;
mod opening;
#[cfg(test)]
mod tests;

pub use fleet::{Asker, Fleet};
pub use opening::{AfterReboot, Opening, Witness};

use crate::time::Timestamp;

/// By what right a wave's packets are issued.
#[derive(Clone, Debug, Default)]
pub enum Right {
    /// This disk alone has the section (local mode): no end, and as far as the section goes.
    #[default]
    Local,
    /// By grants of settlement (fleet mode).
    Fleet(Box<Fleet>),
}

impl Right {
    /// Whether the packet at `position` may be issued now. Asked before each issue.
    #[must_use]
    pub fn allows(&self, now: Timestamp, position: u32) -> bool {
        self.is_live(now) && position < self.ceiling()
    }

    /// Whether anything may be issued now.
    #[must_use]
    pub fn is_live(&self, now: Timestamp) -> bool {
        now < self.until()
    }

    /// Whether a grant is on its way to the disk, which may raise H and write into the journal
    /// what that skips.
    #[must_use]
    pub fn is_being_kept(&self) -> bool {
        match self {
            Self::Local => false,
            Self::Fleet(fleet) => fleet.is_being_kept(),
        }
    }

    /// H must not rise above this position.
    #[must_use]
    pub fn ceiling(&self) -> u32 {
        match self {
            Self::Local => u32::MAX,
            Self::Fleet(fleet) => fleet.ceiling(),
        }
    }

    /// When it ends; the clock's origin when there is none.
    #[must_use]
    pub fn until(&self) -> Timestamp {
        match self {
            Self::Local => Timestamp::NEVER,
            Self::Fleet(fleet) => fleet.until(),
        }
    }

    /// When it wants to be asked what to do next, or ends, whichever is first.
    #[must_use]
    pub fn deadline(&self, now: Timestamp, high: u32) -> Timestamp {
        match self {
            Self::Local => Timestamp::NEVER,
            Self::Fleet(fleet) => fleet.deadline(now, high),
        }
    }

    /// The granted right, in fleet mode.
    #[must_use]
    pub fn fleet(&self) -> Option<&Fleet> {
        match self {
            Self::Local => None,
            Self::Fleet(fleet) => Some(fleet),
        }
    }

    /// The same, to be changed.
    pub fn fleet_mut(&mut self) -> Option<&mut Fleet> {
        match self {
            Self::Local => None,
            Self::Fleet(fleet) => Some(fleet),
        }
    }
}
