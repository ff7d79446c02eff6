//! The gate in atomics: written by the issuer alone, read by every shard on every shake.
//!
//! `fuzz/loom` plays every interleaving of this file.

use crate::sync::{AtomicU32, AtomicU64, Ordering};
use yao_engine::GateView;
use yao_protocol::SponsorSet;

/// Bit of `state` that says a wave is running; the lower bits count candidates.
const RUNNING: u32 = 1 << 31;

/// The word pair. On a cache line of its own, so that its rare writes disturb nothing else.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Gate {
    state: AtomicU32,
    sponsors: AtomicU64,
}

impl Gate {
    /// What the shards see now. Closed or losing, this is one relaxed load.
    #[inline]
    #[must_use]
    pub fn view(&self) -> GateView {
        let state = self.state.load(Ordering::Relaxed);
        let count = state & !RUNNING;
        let sponsors = if count == 0 { 0 } else { self.sponsors.load(Ordering::Relaxed) };
        GateView { sponsors: SponsorSet(sponsors), count, running: state & RUNNING != 0 }
    }

    /// Takes one slot. The candidate that took it must reach the issuer, or [`Self::give_back`].
    #[must_use]
    pub fn take(&self) -> bool {
        let taken = self.state.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |state| {
            (state & !RUNNING > 0).then(|| state - 1)
        });
        taken.is_ok()
    }

    /// Undoes [`Self::take`] when the issuer's queue was full. A publish in between may already
    /// have healed the slot; one candidate too many is harmless, the issuer decides by its books.
    pub fn give_back(&self) {
        self.state.fetch_add(1, Ordering::Relaxed);
    }

    /// Brings the gate to the issuer's books, so that slots whose candidates won nothing, or were
    /// lost on their way, are open again. Only the issuer thread calls this.
    ///
    /// `decided_all` says that no candidate waits in the issuer's queue. While some do, their slots
    /// are spoken for: then the gate is only made narrower.
    pub fn renew(&self, books: GateView, decided_all: bool) {
        let shown = self.view();
        if decided_all || books.count < shown.count || books.running != shown.running {
            // Compared first: an unneeded store would cost every shard a cache miss.
            if (shown.count, shown.running) != (books.count, books.running)
                || self.sponsors.load(Ordering::Relaxed) != books.sponsors.0
            {
                self.publish(books);
            }
        }
    }

    fn publish(&self, view: GateView) {
        let count = view.count.min(RUNNING / 2);
        self.sponsors.store(view.sponsors.0, Ordering::Relaxed);
        let running = if view.running { RUNNING } else { 0 };
        // Exchanged, not stored: so it has its place in the one order of all takes, also where a
        // model of memory knows that order of exchanges only.
        self.state.swap(count | running, Ordering::Relaxed);
    }
}
