//! `cargo xtask ci`: every check in the order in which it is cheapest to fail.

use crate::{conform, demo, layers, mutants, process, programs, shell, sim, tidy};
use anyhow::{Context, Result};
use std::{
    process::Command,
    time::{Duration, Instant},
};

/// Where this is set, a test that needs another program fails without it
/// (`access/src/tls/tests/openssl.rs`).
const NO_SKIP: &str = "YAO_TEST_NO_SKIP";

/// One check.
type Step = (&'static str, fn() -> Result<()>);

const STEPS: &[Step] = &[
    ("format", || shell::run(shell::cargo().args(["fmt", "--all", "--check"]))),
    ("layers", layers::run),
    ("tidy", tidy::run),
    ("mutants fit", || mutants::run(&mutants::MutantsArguments::CHECK)),
    ("clippy", || {
        let arguments = ["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"];
        shell::run(shell::cargo().args(arguments))
    }),
    ("test", test),
    ("docs", || {
        let arguments = ["doc", "--workspace", "--no-deps", "--document-private-items"];
        // Private items are documented here, so links to them lead somewhere.
        let flags = "-D warnings -A rustdoc::private_intra_doc_links";
        shell::run(shell::cargo().args(arguments).env("RUSTDOCFLAGS", flags))
    }),
    ("sim", sim::run_some),
    ("conform", conform::run),
    ("demo", || demo::run(&demo::DemoArguments { json: false, clients: 2_000, fleet: false })),
];

/// Runs every step; the first that fails ends it and is named.
pub(crate) fn run() -> Result<()> {
    let mut times: Vec<(&str, Duration)> = Vec::new();
    for (name, step) in STEPS {
        println!("== {name}");
        let start = Instant::now();
        step().with_context(|| format!("step `{name}` failed"))?;
        times.push((name, start.elapsed()));
    }
    let rows: Vec<(String, String)> = times
        .iter()
        .map(|(name, time)| ((*name).to_owned(), format!("{:.0} s", time.as_secs_f64())))
        .collect();
    crate::table::print("ci passed", &rows);
    Ok(())
}

/// `cargo xtask test`: every test of the workspace. No test needs more than this repository builds,
/// but those against OpenSSL, which are skipped where its program cannot be had, and power cuts,
/// which are skipped where nobody may mount a file system.
pub(crate) fn test() -> Result<()> {
    let mut tests = shell::cargo();
    tests.args(["test", "--workspace"]);
    let openssl = programs::path_with(programs::OPENSSL);
    if let Ok(path) = &openssl {
        tests.env("PATH", path).env(NO_SKIP, "1");
    }
    shell::run(&mut tests)?;
    match openssl {
        Ok(_) => println!("all tests passed; none was skipped for want of a program"),
        Err(error) => println!(
            "all tests passed; those against OpenSSL were skipped: no `openssl` here ({error:#})"
        ),
    }
    // Says so if no power could be cut here (`xtask/tests/faults.rs`).
    let mut cuts = Command::new(process::this_program()?);
    shell::run(cuts.args(["soak", "power-cuts", "--debug", "--cuts", "0"]))
}
