//! What is fuzzed: one function for each target, from bytes to a panic when something that must
//! hold does not. `fuzz/` drives them with libFuzzer, `tests/bounded.rs` with a seeded generator.
//!
//! Never part of what is shipped: this is the one package that imports the access node.
#![forbid(unsafe_code)]

mod agent_bytes;
mod client_bytes;
mod config;
mod node_operations;
pub mod search;
mod seed_file;
mod seeds;
mod spool_scan;
mod tape;
mod tokens;

/// A thing to be fuzzed.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, which is also that of its file in `fuzz/fuzz_targets`.
    pub name: &'static str,
    /// Panics when something that must hold does not.
    pub run: fn(&[u8]),
    /// Inputs to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// Every target but the canary.
pub const TARGETS: &[Target] = &[
    Target { name: "client_bytes", run: client_bytes::run, seeds: client_bytes::seeds },
    Target { name: "agent_bytes", run: agent_bytes::run, seeds: agent_bytes::seeds },
    Target { name: "seed_file", run: seed_file::run, seeds: seed_file::seeds },
    Target { name: "spool_scan", run: spool_scan::run, seeds: spool_scan::seeds },
    Target { name: "config", run: config::run, seeds: config::seeds },
    Target { name: "tokens", run: tokens::run, seeds: tokens::seeds },
    Target { name: "node_operations", run: node_operations::run, seeds: node_operations::seeds },
];

/// A target with a fault that must be found: it shows that finding faults works.
pub const CANARY: Target =
    Target { name: "canary", run: canary, seeds: client_bytes::seeds_of_messages };

/// The target of this name; the canary, too.
///
/// # Panics
/// There is none.
#[must_use]
pub fn target(name: &str) -> Target {
    let all = TARGETS.iter().chain([&CANARY]);
    *all.clone().find(|target| target.name == name).expect("a name of the list above")
}

/// Fails on a draw that merges very many shakes, as a reader with a fault of its own might.
fn canary(bytes: &[u8]) {
    use yao_protocol::{client::ClientMessage, frame::split_frame};
    let Ok(Some((frame, _))) = split_frame(bytes, 1_024) else { return };
    if let Ok(ClientMessage::Shake(shake)) = ClientMessage::decode(frame) {
        assert!(shake.merged_count < 0xff00, "the canary sings");
    }
}
