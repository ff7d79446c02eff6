//! The atomics of the lock-free parts (`gate`, `wake`). `fuzz/loom` compiles the same files over
//! others, which try every order.

pub(crate) use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};
