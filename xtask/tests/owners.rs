//! The right to issue (M4) with the real programs: a few trials of each way to take it from its
//! owner, and a whole event in fleet mode. docs/operations.md has the long runs.

use std::process::Command;

fn holds(arguments: &[&str]) -> String {
    let mut xtask = Command::new(env!("CARGO_BIN_EXE_xtask"));
    let output = xtask.args(arguments).output().expect("it starts");
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {err}\n{out}");
    out
}

#[test]
fn m4_no_packet_leaves_of_a_wrong_owner() {
    let out = holds(&["soak", "owners", "--trials", "2", "--debug"]);
    assert!(out.contains("\"verdict\":\"held\""), "{out}");
}

#[test]
fn an_event_in_fleet_mode_balances_although_its_node_is_killed() {
    let out = holds(&["demo", "--fleet", "--clients", "600", "--json"]);
    assert!(out.contains("started again"), "{out}");
}
