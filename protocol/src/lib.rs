//! Every byte format of Yao, and nothing else: no socket, file, thread, clock or random source.
//!
//! All integers are little-endian. Decoding never panics and never allocates from a length the peer
//! sent. Modules in reading order: [`limits`], [`ids`], [`codec`], [`error`]; the client link in
//! [`frame`], [`client`] and [`endpoint`]; what is signed in [`keys`], [`ticket`], [`tally`],
//! [`receipt`], [`token`] and [`reconnect`]; the files in [`seed_file`], [`manifest`], [`slots`],
//! [`cursor`], [`log`], [`journal`] and [`spool`]; the other processes in [`agent`],
//! [`settlement`], [`grant`], [`policy`] and [`schedule`]; what takes packets back in [`seal`],
//! [`void`] and [`parents`].
//! `docs/wire.md` and its neighbours describe the same bytes in prose.
#![forbid(unsafe_code)]

pub mod agent;
pub mod client;
pub mod codec;
pub mod cursor;
pub mod endpoint;
pub mod error;
pub mod frame;
pub mod grant;
pub mod hex;
pub mod ids;
pub mod journal;
pub mod keys;
pub mod limits;
pub mod log;
pub mod manifest;
pub mod parents;
pub mod policy;
pub mod receipt;
pub mod reconnect;
pub mod schedule;
pub mod seal;
pub mod seed_file;
pub mod settlement;
pub mod slots;
pub mod spool;
pub mod tally;
pub mod ticket;
pub mod token;
pub mod void;

pub use error::WireError;
pub use ids::{
    CampaignId, Epoch, Fen, Incarnation, KeyId, PacketId, PacketIndex, ShakeId, ShardId, SponsorId,
    SponsorSet, UserId, WallTime, WaveIndex,
};
