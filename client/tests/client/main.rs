//! The client from outside, over real sockets on this machine.

mod blocking;
mod links;
mod lives;
mod networks;
mod session;
mod support;
