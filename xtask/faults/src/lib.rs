//! A sick disk, and a machine that loses its power, as a program sees them: preloaded
//! (`LD_PRELOAD`) between it and the C library, this counts its persistence calls below one folder
//! and strikes at the one it is told to.
//!
//! Owns the counting and the faults. Never touches a call elsewhere, never decides whether what the
//! program did then was right, and is never shipped.
//!
//! | variable | what it names |
//! |---|---|
//! | `YAO_FAULTS_ROOT` | the folder, absolute and without links; without it nothing happens |
//! | `YAO_FAULTS_LOG` | the file that gets a line for each call and each strike |
//! | `YAO_FAULTS_ORDER` | the file with the order in force, read at each call; may be missing |
//!
//! A line of the log is `call BEGIN_US END_US OPERATION NAME NUMBER RESULT` or
//! `strike AT_US ORDER`; `order.rs` says what an order is, `name.rs` what a file is called.

#[cfg(not(test))]
mod calls;
mod name;
mod order;
#[cfg(not(test))]
mod system;
#[cfg(not(test))]
mod watch;
