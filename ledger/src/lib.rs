//! The reference settlement service: who was paid which packet, exactly once.
//!
//! # Map
//! * [`state`]: the rules, pure: what becomes of one open, given what is known of packet and user
//! * [`admission`]: which opens are genuine: signatures, campaign, range of the manifest
//! * [`grants`]: who may issue what, pure
//! * [`plans`]: the manifests of every generation
//! * [`reclaim`]: which packets may be taken back, and from when on, pure
//! * [`store`]: the rules applied to SQLite, many batches in one transaction
//! * [`writer`]: the one thread that writes; answers are signed only after their commit
//! * [`keys`]: the key set, read again when a batch names a key that is not in it
//! * [`http`], [`serve`], [`init`]: the service around it
//!
//! Packets are settled by id and never deleted; a repeated open gets the same final word. A packet
//! is opened or taken back, whichever comes first, and never both. The
//! ledger holds no seeds: whether a packet was planned it believes the signature of the shard.
#![forbid(unsafe_code)]

pub mod admission;
pub mod clock;
mod database;
pub mod error;
pub mod grants;
pub mod http;
pub mod init;
pub mod keys;
pub mod plans;
pub mod reclaim;
pub mod serve;
pub mod state;
pub mod store;
#[cfg(test)]
mod testing;
pub mod writer;

pub use error::LedgerError;
