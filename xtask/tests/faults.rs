//! The real node on disks that fail: of each soak about crashes so much that it takes seconds, in a
//! process of its own, as root with power cuts, else without. docs/operations.md has the long runs.

use std::{
    process::Command,
    sync::{Mutex, PoisonError},
};

/// Each plays several nodes at a time by itself.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn holds(arguments: &[&str]) {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let mut soak = Command::new(env!("CARGO_BIN_EXE_xtask"));
    let output = soak.arg("soak").args(arguments).arg("--debug").output().expect("it starts");
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace('\r', "\n");
    let (out, err) = (said(&output.stdout), said(&output.stderr));
    assert!(output.status.success(), "{arguments:?}: {err}\n{out}");
}

// Together these three are all of the few.

#[test]
fn m1_a_few_crash_points_of_cursors_hold() {
    holds(&["crash-points", "--few", "--only", "cursor/"]);
}

#[test]
fn m6_a_few_crash_points_of_the_journal_hold() {
    holds(&["crash-points", "--few", "--only", "journal/"]);
}

#[test]
fn m7_a_few_crash_points_of_the_spool_hold() {
    holds(&["crash-points", "--few", "--only", "spool/"]);
}

#[test]
fn a_few_power_cuts_hold() {
    holds(&["power-cuts", "--cuts", "24"]);
}

#[test]
fn a_seed_file_that_is_damaged_fences_within_a_second() {
    holds(&["sick-seed"]);
}
