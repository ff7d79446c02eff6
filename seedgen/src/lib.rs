//! Seed shards: from a campaign file to sealed files that add up to the fen, and back again as a
//! check. Offline: never talks to a node.
//!
//! The rules here do no IO: bytes in, bytes out. Files, threads and progress bars live in the
//! binary beside this library. In reading order: [`campaign`] (what is asked for), [`parse`] and
//! [`check`] (from TOML, with one line per mistake), [`apportion`] (whole numbers shared exactly),
//! [`plan`] (what each shard gets, computable alone), [`derive`](mod@derive) (every key and every
//! random draw from one secret), [`moments`] and [`amounts`] (the draws), [`shard`] (the sealed
//! file), and [`reckon`] with [`verify`], the second path from campaign to totals that shares none
//! of the plan's arithmetic. What was not opened comes back: [`reclaim`] plans what to ask
//! settlement for, [`repack`] makes shards of a later generation from what it voided, [`opened`]
//! reads shards back, and [`lineage`] checks that no fen was lost on the way.
#![forbid(unsafe_code)]

pub mod amounts;
pub mod apportion;
pub mod campaign;
pub mod check;
pub mod derive;
mod fields;
pub mod lineage;
pub mod moments;
pub mod opened;
pub mod parse;
pub mod plan;
pub mod reckon;
pub mod reclaim;
pub mod repack;
pub mod shard;
pub mod verify;

pub use campaign::{Campaign, CampaignError};
pub use derive::{CampaignKeys, Secret};
pub use plan::Plan;
