//! `cargo xtask ci`: every check in the order in which it is cheapest to fail.

use crate::{conform, demo, layers, shell, tidy};
use anyhow::{Context, Result};
use std::time::{Duration, Instant};

/// One check.
type Step = (&'static str, fn() -> Result<()>);

const STEPS: &[Step] = &[
    ("format", || shell::run(shell::cargo().args(["fmt", "--all", "--check"]))),
    ("layers", layers::run),
    ("tidy", tidy::run),
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
    ("conform", conform::run),
    ("demo", || demo::run(&demo::DemoArguments { json: false, clients: 2_000 })),
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

/// `cargo xtask test`: every test of the workspace. Nothing is skipped: no test needs more than
/// this repository builds.
pub(crate) fn test() -> Result<()> {
    shell::run(shell::cargo().args(["test", "--workspace"]))?;
    println!("all tests passed; none was skipped");
    Ok(())
}
