//! What every test of this program stands on. Each test has an [`Event`] of its own, so that all of
//! them run side by side: a folder, a campaign id (and with it the name that keeps a second process
//! off the shard), and ports that the kernel chooses.
//!
//! ```text
//! let event = Event::new();                  // seeds, keys, certificate, configuration, init
//! event.set("drain.per_second", 10);         // any key of docs/config.md
//! let mut node = event.start();              // returns when the node listens
//! let mut client = Client::welcomed(&node, Transport::Tls, 7).await;
//! let (code, said) = node.post("/reload");   // or node.signal(Signal::HUP)
//! node.command(&["drain", "--rate", "5"]);   // yao-access drain --rate 5 --config ...
//! assert_eq!(client.hear().await, Heard::End);
//! assert_eq!(node.exit_code().await, 0);     // then event.start() is its next life
//! ```
//!
//! Nothing here sleeps to be sure: what is waited for is an answer, a frame, a line, the end of a
//! process; only `/status` and the log are looked at again and again. Every wait ends after
//! [`PATIENCE`]. A node that is dropped is killed; if its test fails, its log's end is printed.

mod client;
mod event;
mod identity;
mod node;

pub(crate) use client::{Client, Heard};
pub(crate) use event::{Event, write_reconnect_keys};
pub(crate) use identity::{Backend, base64_url, write_certificate, write_jwks, write_secret};
pub(crate) use node::Node;
pub(crate) use rustix::process::Signal;
pub(crate) use yao_client::Transport;

use std::time::Duration;

/// Nothing here takes so long unless it is broken: not even on two busy cores.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
