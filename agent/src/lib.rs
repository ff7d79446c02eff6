//! The agent of a Yao node: what changes often, or talks to the network, in a process of its own
//! that is replaced in the middle of the show without dropping one connection.
//!
//! The rules are sans-IO: [`rules`] (may this win or open be?), [`policy_file`] (from TOML to a
//! policy), [`delivery`] (batches on their way to settlement), [`grants`] (requests for the right
//! to issue), [`backoff`]. The shell around them: [`link`] (the two unix sockets), [`upstream`]
//! (HTTP), [`policy_watch`] (the file), [`server`] (start and end). Persists nothing and signs
//! nothing: whatever it does, it can neither lose nor invent an open (M7), or a grant (M4).
#![forbid(unsafe_code)]

pub mod backoff;
pub mod config;
pub mod delivery;
pub mod grants;
pub mod keys;
pub mod link;
pub mod policy_file;
pub mod policy_watch;
pub mod rules;
pub mod server;
pub mod upstream;
