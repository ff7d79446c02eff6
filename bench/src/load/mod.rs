//! The load generator: raw frames over many connections (TCP, TLS, QUIC) on one thread, so that it
//! costs as little as a generator can. `shake`, `opens`, `idle`, `malformed` and `compare` drive
//! it.
//!
//! Never the SDK: that is what `netbench crowd` is for. Never reads the server's memory or clock.

mod counts;
mod fleet;
mod meter;
mod peer;
mod schedule;
mod target;
mod ticket_log;
pub(crate) mod trust;
mod wires;

pub(crate) use counts::{Counts, Latency};
pub(crate) use fleet::{Fleet, Plan};
pub(crate) use meter::{Meter, pin_to_core};
pub(crate) use peer::Opens;
pub(crate) use schedule::Pace;
pub(crate) use target::{Target, TargetArgs};
pub(crate) use ticket_log::TicketLog;
pub(crate) use wires::{Received, Signal, Wires};

use std::{sync::OnceLock, time::Instant};

/// Monotonic time of this process, ns.
pub(crate) fn now_ns() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    u64::try_from(START.get_or_init(Instant::now).elapsed().as_nanos()).unwrap_or(u64::MAX)
}
