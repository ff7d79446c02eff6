//! Running this very command again in namespaces of its own, so that what it does to network or
//! mounts is nobody else's, and is gone when it ends, however it ends.

use crate::{process, shell};
use anyhow::Result;
use std::process::Command;

/// Set inside.
const INSIDE: &str = "YAO_SOAK_INSIDE";

/// Whether this is the command that [`enter`] runs.
pub(super) fn is_inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// Runs this command again, with these options of `unshare`.
pub(super) fn enter(options: &[&str]) -> Result<()> {
    let mut command = Command::new("unshare");
    command.args(options).arg(process::this_program()?);
    command.args(std::env::args_os().skip(1)).env(INSIDE, "1");
    shell::run(&mut command)
}
