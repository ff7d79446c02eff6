//! The access node: IO shells around the engine. Every rule lives in `yao-engine`; here are the
//! threads, sockets, files and clocks.
//!
//! Threads and who owns what: ARCHITECTURE.md, "Threads of the access process".
#![deny(unsafe_code)]

pub mod agent_link;
pub mod clock;
pub mod config;
pub mod inbox;
pub mod messages;
pub mod node;
pub mod segments;
pub mod slot_file;
pub mod spool;
