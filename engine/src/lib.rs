//! Every rule of Yao as a pure state machine. No socket, file, thread, lock, clock or random
//! source.
//!
//! # The contract of every machine here
//! `handle(now, input)` is exactly one mutation. Then `poll(now)` is drained until it answers that
//! it sleeps, naming the deadline and the reason. `now` is a [`time::Timestamp`], constructible
//! from a number, so that tests and simulators own time. Disk, socket, signature threads and the
//! agent are outputs to perform and inputs to report.
//!
//! # The machines
//! * [`shard`]: the connections of one thread, their sessions and timers, and the losing shake
//! * [`admission`]: budgets of connections whose peer is not known yet
//! * [`pace`]: how fast clients are asked to leave
//! * [`issuer`]: the single writer of money decisions: release, limits, claims, order of wins
//! * [`cursor`]: what a cursor file means and how far it may rise (M1, M2)
//! * [`vetting`]: calls to the agent that are outstanding, their deadlines, the breaker
//! * [`spool`]: accepted opens on their way to disk and to settlement (M7)
//!
//! [`wave_clock`] maps time to the offset in a wave; [`gate`] is the issuer's word to the shards.
#![forbid(unsafe_code)]
// The order of a hash table differs in each run: a simulator could not repeat it. This lint knows
// the standard library's tables; clippy.toml names the methods of hashbrown's.
#![deny(clippy::iter_over_hash_type)]

pub mod admission;
pub mod connection_id;
pub mod cursor;
pub mod gate;
pub mod grant;
pub mod issuer;
pub mod pace;
pub mod shard;
pub mod spool;
pub mod time;
pub mod vetting;
pub mod wave_clock;

pub use connection_id::ConnectionId;
pub use gate::GateView;
pub use time::{Anchor, Timestamp};
