//! Whether the owner of a queue must be woken: one wake-up serves a whole burst, and none is lost.
//!
//! Either the sender finds the flag lowered and wakes, or the owner's last look finds the message.
//! Both write one place and then read the other's; only the two fences keep a processor from doing
//! it the other way round. `fuzz/loom` plays every interleaving of this file.

use crate::sync::{AtomicBool, Ordering, fence};

/// Raised from the first message of a burst until the owner has looked everywhere.
#[derive(Debug)]
pub struct WakeFlag(AtomicBool);

impl WakeFlag {
    /// Lowered: the next message wakes.
    #[must_use]
    pub fn new() -> Self {
        Self(AtomicBool::new(false))
    }

    /// Called after a message was put in. `true`: the caller must wake the owner.
    #[must_use]
    pub fn raise(&self) -> bool {
        fence(Ordering::SeqCst);
        // Looked at first: in a burst the others only read.
        !self.0.load(Ordering::Relaxed) && !self.0.swap(true, Ordering::Relaxed)
    }

    /// Called by the owner who found nothing, before his last look.
    pub fn lower(&self) {
        self.0.store(false, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }
}

impl Default for WakeFlag {
    fn default() -> Self {
        Self::new()
    }
}
