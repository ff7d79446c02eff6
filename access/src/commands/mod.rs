//! The subcommands of `yao-access` that are no part of a node: each reads the configuration, looks
//! or asks, says what it found, and ends. They change nothing on disk. `init`, `check-config`
//! and `seal` read what a start reads, and lie beside it (`server/mod.rs`).

pub mod ask;
pub mod doctor;
