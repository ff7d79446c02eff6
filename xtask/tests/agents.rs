//! The real node with agents that are killed, stopped, replaced, that rave, lie and dawdle: so much
//! of the soak that it takes half a minute. docs/operations.md has the long run.

use std::process::Command;

#[test]
fn no_agent_harms_a_shake_or_an_open() {
    let mut soak = Command::new(env!("CARGO_BIN_EXE_xtask"));
    let output = soak.args(["soak", "agent-torture", "--few", "--debug"]).output();
    let output = output.expect("it starts");
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (said(&output.stdout), said(&output.stderr));
    assert!(output.status.success(), "{err}\n{out}");
}
