//! What nobody opened comes back: the soak `reclaim` with the real programs, which takes seconds.

use std::process::Command;

#[test]
fn what_nobody_opened_is_given_out_again_to_the_fen() {
    let mut soak = Command::new(env!("CARGO_BIN_EXE_xtask"));
    let output = soak.args(["soak", "reclaim", "--debug"]).output().expect("it starts");
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace('\r', "\n");
    let (out, err) = (said(&output.stdout), said(&output.stderr));
    assert!(output.status.success(), "{err}\n{out}");
}
