//! The network. One kind of link for now: [`tcp`]. Every link carries the same frames and gives
//! the driver whole ones, however the bytes were cut on their way.

mod incoming;
pub mod tcp;
