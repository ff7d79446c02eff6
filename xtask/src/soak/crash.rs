//! What the soaks about crashes share: a node whose disk does as it is told, phones that play by a
//! script, and the counting in the end. Judges no soak.

pub(super) mod disk;
pub(super) mod faults;
pub(super) mod kit;
mod phone;
mod phones;
pub(super) mod play;
mod seen;
pub(super) mod stage;
pub(super) mod stages;
