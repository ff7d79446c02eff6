//! `cargo xtask sim`: builds the simulator optimised, and hands its arguments on. A world costs
//! some 60 ms so, and a second without.

use crate::shell;
use anyhow::Result;

/// What `yao-sim` is told; `--help` says what it knows.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct SimArguments {
    /// `--seed N`, or `--seeds N`; more in docs/simulator.md
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// Seeds of one run of `ci`: less than a minute on two cores.
const SEEDS_IN_CI: &str = "800";

/// Runs as many seeds as `ci` has time for.
pub(crate) fn run_some() -> Result<()> {
    run(&SimArguments { arguments: vec!["--seeds".to_owned(), SEEDS_IN_CI.to_owned()] })
}

/// Runs the simulator; it fails when a world violated something.
pub(crate) fn run(arguments: &SimArguments) -> Result<()> {
    let mut command = shell::cargo();
    command.args(["run", "--quiet", "--release", "--package", "yao-sim", "--"]);
    shell::run(command.args(&arguments.arguments))
}
