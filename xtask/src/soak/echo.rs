//! The node against echo servers of the same protocols (bench/baselines), in CPU time.

use crate::{
    event::{self, Way},
    shell,
};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// CPU per shake may be so many times the way's echo.
pub(super) fn compare(only: Option<Way>) -> Result<()> {
    let mut problems = Vec::new();
    for way in Way::ALL.into_iter().filter(|way| only.is_none_or(|only| only == *way)) {
        let ratio_max = match way {
            Way::Tcp => 1.15,
            Way::Tls => 1.0,
            Way::Quic => 0.7,
        };
        let keys = [("ratio_busy", ratio_max), ("ratio_sparse", ratio_max)];
        problems.extend(against_echo("compare", way, &keys)?);
    }
    if problems.is_empty() { Ok(()) } else { bail!("{}", problems.join("; ")) }
}

/// CPU per client that comes and goes, full and resumed, against the echo's full handshake.
pub(super) fn handshake(only: Option<Way>) -> Result<()> {
    let mut problems = Vec::new();
    for way in [Way::Tls, Way::Quic].into_iter().filter(|way| only.is_none_or(|only| only == *way))
    {
        let both = [("ratio_full", 0.6), ("ratio_resumed", 0.6)];
        // Whether a QUIC handshake was resumed the library does not say: nothing is claimed of it.
        let keys = if way == Way::Quic { &both[..1] } else { &both[..] };
        problems.extend(against_echo("handshake", way, keys)?);
    }
    if problems.is_empty() { Ok(()) } else { bail!("{}", problems.join("; ")) }
}

/// Runs `netbench command` over `way`, and says which `keys` are above their bounds.
fn against_echo(command: &str, way: Way, keys: &[(&str, f64)]) -> Result<Vec<String>> {
    let binaries = event::build(true)?;
    let echo = build(way)?;
    let mut netbench = std::process::Command::new(binaries.join("netbench"));
    netbench.args([command, "--json", "--over", way.scheme(), "--echo"]).arg(echo);
    let text = shell::output(&mut netbench)?;
    let line = text.lines().last().context("netbench printed nothing")?;
    println!("{}: {line}", way.scheme());
    let result: Value = serde_json::from_str(line)?;
    let mut problems = Vec::new();
    for (key, ratio_max) in keys {
        let ratio = result[*key].as_f64().with_context(|| format!("{key} is no number"))?;
        if ratio > *ratio_max {
            let scheme = way.scheme();
            problems.push(format!("{scheme}: {key} is {ratio:.3}; at most {ratio_max}"));
        }
    }
    Ok(problems)
}

/// The way's echo, optimised.
pub(super) fn build(way: Way) -> Result<PathBuf> {
    let echo = match way {
        Way::Tcp => "raw_epoll",
        Way::Tls => "tokio_echo",
        Way::Quic => "quinn_echo",
    };
    let target = shell::target().join("baselines");
    let mut cargo = shell::cargo();
    cargo.env("CARGO_TARGET_DIR", &target);
    cargo.args(["build", "--release", "--manifest-path", "bench/baselines/Cargo.toml"]);
    shell::run(cargo.args(["--bin", echo]))?;
    Ok(target.join(Path::new("release").join(echo)))
}
