//! The Yao client SDK: hold a connection, shake, win, open, and never lose a win.
//!
//! [`Client::connect`] is all that an app needs; `examples/shake.rs` is a program to copy, and
//! `examples/blocking.rs` one without async. Below it, in reading order: the rules without any IO
//! in [`session`] (one user's conversation with the server), [`wallet`] (what the user holds),
//! [`reconnect`], [`start`] and `wait.rs` (when and where to connect), [`race`] (by which
//! transport) and [`rhythm`] (how long a network lets a connection rest); then what does IO:
//! [`store`] (the disk), [`link`] (the network), [`client`] (the task that drives them all) and
//! [`blocking`] (the same without async). The rules take `now` and a seed as arguments, so a
//! simulator can run them.
#![forbid(unsafe_code)]

pub mod blocking;
pub mod client;
mod driver;
pub mod error;
pub mod event;
pub mod limits;
pub mod link;
mod mailbox;
pub mod race;
pub mod random;
pub mod reconnect;
pub mod rhythm;
pub mod session;
pub mod start;
pub mod store;
pub mod time;
mod wait;
pub mod wallet;

pub use client::{Client, Config, TokenSource};
pub use error::{Blame, Error};
pub use event::{Event, Opened};
pub use link::{Transport, trust::Trust};
pub use mailbox::Events;
pub use race::NetworkKey;
pub use start::StartPlan;
pub use store::{FileStore, MemoryStore, Store};
pub use time::Timestamp;
