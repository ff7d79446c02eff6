//! `cargo xtask miri`: what Miri can run of the parts that threads share or that play with places
//! and offsets, under its checks for undefined behaviour and its weak memory. Needs a nightly
//! compiler with the components `miri` and `rust-src`; not a part of CI.

use crate::shell;
use anyhow::Result;
use std::process::Command;

/// A package's own tests whose names contain one of these. Left out: what asks the system for more
/// than Miri knows, signs, or tries thousands of cases (a hundred times slower here).
const TESTS: &[(&str, &[&str])] = &[
    ("yao-protocol", &["frame::", "ids::tests::decimals", "log::"]),
    ("yao-engine", &["wheel::", "time::", "vetting::", "wave_clock::"]),
    ("yao-access", &["gate_tests::", "disk_outlet::", "registry::tests::a_ticket"]),
];

/// Runs them all; the first package that fails ends it.
pub(crate) fn run() -> Result<()> {
    for (package, names) in TESTS {
        println!("== {package}");
        let mut command = Command::new("cargo");
        command.current_dir(shell::root());
        command.args(["+nightly", "miri", "test", "-p", package, "--lib", "--"]).args(*names);
        // Clocks are read; a thread that spins must give way.
        command.env("MIRIFLAGS", "-Zmiri-disable-isolation");
        shell::run(&mut command)?;
    }
    Ok(())
}
