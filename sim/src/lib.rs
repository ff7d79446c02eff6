//! A deterministic simulator of the whole system. The code that runs in it is the code that is
//! shipped: the access node's threads turn by turn, on a disk that does all that disks do; the
//! agent's rules and delivery; the SDK's sessions; the ledger's store; shards as seedgen plans
//! them. A seeded scheduler owns time, network, disk, clocks and the life of every process;
//! checkers that share no rule with that code judge what can be seen from outside.
//!
//! In reading order: [`world`] (the scheduler and what is in a world), [`node`], [`link`],
//! [`agent`], [`settlement`], [`phone`] (production code and the glue around it), [`disk`] (the
//! modelled one), [`faults`] (what can go wrong), [`check`] (what must hold), [`canary`] (planted
//! bugs), [`search`] (many seeds). docs/simulator.md says how to use it, decision 0017 why it is
//! so. Never part of what is shipped.
#![forbid(unsafe_code)]

pub mod agent;
pub mod canary;
pub mod carrier;
pub mod check;
pub mod disk;
pub mod faults;
pub mod link;
pub mod node;
pub mod phone;
pub mod plan;
pub mod random;
pub mod search;
pub mod settlement;
mod signer;
mod tokens;
pub mod trace;
pub mod world;
