//! The access node's lock-free parts, compiled over loom's atomics: `tests/orders.rs` plays every
//! interleaving of small programs around them, and every value that a weak memory model lets a
//! relaxed load see. The same source, not a copy.

// What the node uses of these files is not all that is played here.
#[path = "../../../access/src/gate.rs"]
pub mod gate;
#[path = "../../../access/src/wake.rs"]
pub mod wake;

/// `access/src/sync.rs`, in loom's hands.
mod sync {
    pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};
}
