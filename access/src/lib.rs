//! The access node: IO shells around the engine. Every rule lives in `yao-engine`; here are the
//! threads, sockets, files and clocks.
//!
//! Threads and who owns what: ARCHITECTURE.md, "Processes and threads".
#![deny(unsafe_code)]

pub mod agent_link;
pub mod clock;
pub mod commands;
pub mod config;
pub mod control;
pub mod crypto;
pub mod disk;
pub mod disk_outlet;
pub mod files;
pub mod gate;
#[cfg(test)]
mod gate_tests;
mod gather;
pub mod grant_status;
pub mod inbox;
pub mod issuer_thread;
pub mod messages;
pub mod money_disk;
pub mod node;
mod overdue;
mod prefetch;
pub mod quic;
pub mod recovery;
pub mod registry;
pub mod seed_shard;
pub mod segments;
pub mod server;
pub mod sessions;
pub mod shard;
pub mod slot_file;
pub mod spool;
pub mod state_dir;
mod sync;
pub mod telemetry;
pub mod tls;
pub mod token_keys;
pub mod wake;
pub mod witness;
