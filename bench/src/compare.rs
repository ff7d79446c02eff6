//! `netbench compare`: what a shake costs the access node against what an echo of the same 32 bytes
//! costs, on this machine, in this minute: over TCP against a bare epoll loop, over TLS and QUIC
//! against the echo servers that tokio-rustls and quinn make.
//!
//! Machines drift, so only pairs of short runs next to each other count. All servers are up and
//! pinned to core 0, each has a generator process pinned to core 1, and the runs take turns. The
//! echo also runs against its own copy: that spread is what no ratio here can be better than.
//! Every reply of the node must be the result of a draw in a running wave, or "pending" where an
//! earlier shake waits for its answer; one refusal fails, and so does a shake without an answer.

pub(crate) mod servers;
mod worker;

pub(crate) use worker::{WorkerArgs, run as run_worker};

use crate::load::pin_to_core;
use anyhow::{Context, Result, bail};
use serde::Serialize;
use servers::{Echo, Node, Way};
use std::{
    io::{self, Write},
    path::{Path, PathBuf},
};
use worker::{Window, Worker};

/// The core of the servers, and that of the generators.
pub(crate) const CORES: (usize, usize) = (0, 1);
/// Sparse load: shakes a second of each connection. QUIC clients share one generator's thread with
/// their cryptography and their timers, which carries no more.
const SPARSE_PER_CONNECTION: [f64; 2] = [2.0, 1.0];
/// Fewer pairs say nothing.
pub(crate) const PAIRS_MIN: usize = 7;

/// CPU per shake against an echo server, in interleaved pairs
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct CompareArgs {
    /// Optimised yao-access; default: beside this program
    #[arg(long)]
    access: Option<PathBuf>,
    /// yao-seedgen; default: beside this program
    #[arg(long)]
    seedgen: Option<PathBuf>,
    /// The way's echo of bench/baselines, optimised: raw_epoll, tokio_echo or quinn_echo
    #[arg(long)]
    echo: PathBuf,
    /// What carries the frames
    #[arg(long, value_enum, default_value_t = Way::Tcp)]
    over: Way,
    /// Interleaved pairs for each of the two loads
    #[arg(long, default_value_t = 15)]
    pairs: usize,
    /// Connections of the busy load, one shake in flight on each
    #[arg(long, default_value_t = 1_000)]
    busy: usize,
    /// Connections of the sparse load, two shakes a second on each (QUIC: one); default: 15,000
    /// (QUIC: 10,000)
    #[arg(long)]
    sparse: Option<usize>,
    /// Milliseconds of each run that are measured
    #[arg(long, default_value_t = 1_500)]
    window_ms: u64,
    /// Folder for the node's files; removed afterwards
    #[arg(long)]
    work: Option<PathBuf>,
    /// Print the result as one line of JSON
    #[arg(long)]
    json: bool,
}

/// Median and spread of one ratio.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    least: f64,
    pub(crate) lower_quartile: f64,
    pub(crate) upper_quartile: f64,
    most: f64,
}

/// One load's pairs.
#[derive(Debug, Serialize)]
struct Pairs {
    connections: usize,
    pairs: usize,
    ratio: Spread,
    /// The echo's copy against the echo.
    control: Spread,
    echo_us: f64,
    node_us: f64,
    node_shakes_per_s: f64,
}

#[derive(Debug, Serialize)]
struct Report {
    ratio_busy: f64,
    ratio_sparse: f64,
    busy: Pairs,
    sparse: Pairs,
}

/// Runs both loads.
///
/// # Errors
/// A server that does not start, a reply that is neither a draw nor "pending", a shake without an
/// answer, too few pairs.
pub(crate) fn run(args: &CompareArgs) -> Result<()> {
    if args.pairs < PAIRS_MIN {
        bail!("--pairs {}: at least {PAIRS_MIN}, fewer say nothing", args.pairs);
    }
    let access = beside(args.access.as_deref(), "yao-access")?;
    let seedgen = beside(args.seedgen.as_deref(), "yao-seedgen")?;
    let work = args.work.clone().unwrap_or_else(|| {
        std::env::temp_dir().join(format!("yao-compare-{}", std::process::id()))
    });
    pin_to_core(CORES.0)?;
    let echo = || Echo::start(&args.echo, args.over);
    let echoes = [echo()?, echo()?];
    let node = Node::start(&access, &seedgen, &work)?;
    pin_to_core(CORES.1)?;
    let busy = pairs(args, &echoes, &node, args.busy, None)?;
    let quic = args.over == Way::Quic;
    let sparse = args.sparse.unwrap_or(if quic { 10_000 } else { 15_000 });
    let rate = sparse as f64 * SPARSE_PER_CONNECTION[usize::from(quic)];
    let sparse = pairs(args, &echoes, &node, sparse, Some(rate))?;
    drop(node);
    let report =
        Report { ratio_busy: busy.ratio.median, ratio_sparse: sparse.ratio.median, busy, sparse };
    print(&report, args.json)
}

/// The program at `path`, or the one of this `name` beside our own.
pub(crate) fn beside(path: Option<&Path>, name: &str) -> Result<PathBuf> {
    if let Some(path) = path {
        return Ok(path.to_owned());
    }
    let own = std::env::current_exe().context("this program's own path")?;
    Ok(own.parent().context("a program lies in a folder")?.join(name))
}

/// One load: `connections` to each server, then short runs in turn.
fn pairs(
    args: &CompareArgs,
    echoes: &[Echo; 2],
    node: &Node,
    connections: usize,
    rate: Option<f64>,
) -> Result<Pairs> {
    let mut workers = [
        Worker::echo(&echoes[0], connections)?,
        Worker::node(node, args.over, connections)?,
        Worker::echo(&echoes[1], connections)?,
    ];
    let window = Window { rate, warm_ms: args.window_ms / 5, measured_ms: args.window_ms };
    let mut costs: Vec<[f64; 3]> = Vec::new();
    let mut node_rate = Vec::new();
    for pair in 0..args.pairs {
        let mut cost = [0.0; 3];
        // Whoever goes first changes, so that no place in the round favours anybody.
        for turn in 0..3 {
            let which = (turn + pair) % 3;
            let seen = workers[which].run(window)?;
            cost[which] = seen.server_cpu_us_per_shake;
            if which == 1 {
                node_rate.push(seen.shakes_per_s);
            }
        }
        costs.push(cost);
        let line = format!(
            "{connections:>6} connections, pair {:>2}: echo {:.2} us, node {:.2} us ({:.2} x), \
             copy of the echo {:.2} us",
            pair + 1,
            cost[0],
            cost[1],
            cost[1] / cost[0],
            cost[2]
        );
        writeln!(io::stderr(), "{line}")?;
    }
    let middle = |pick: &dyn Fn(&[f64; 3]) -> f64| spread(costs.iter().map(pick).collect());
    Ok(Pairs {
        connections,
        pairs: args.pairs,
        ratio: middle(&|cost| cost[1] / cost[0]),
        control: middle(&|cost| cost[2] / cost[0]),
        echo_us: middle(&|cost| cost[0]).median,
        node_us: middle(&|cost| cost[1]).median,
        node_shakes_per_s: spread(node_rate).median,
    })
}

/// Order statistics of at least one number.
pub(crate) fn spread(mut values: Vec<f64>) -> Spread {
    values.sort_by(f64::total_cmp);
    let at = |part: usize| values[(values.len() - 1) * part / 4];
    let last = values.len() - 1;
    let median = f64::midpoint(values[last / 2], values[values.len() / 2]);
    Spread {
        median,
        least: values[0],
        lower_quartile: at(1),
        upper_quartile: at(3),
        most: values[last],
    }
}

fn print(report: &Report, json: bool) -> Result<()> {
    let mut out = io::stdout();
    if json {
        writeln!(out, "{}", serde_json::to_string(report)?)?;
        return Ok(());
    }
    for (name, pairs) in [("busy", &report.busy), ("sparse", &report.sparse)] {
        let Spread { median, lower_quartile, upper_quartile, .. } = pairs.ratio;
        writeln!(
            out,
            "{name:>6}: {median:.3} x the echo ({lower_quartile:.3} to {upper_quartile:.3}), \
             {} pairs, {} connections, {:.0} shakes/s; echo against its copy {:.3} \
             ({:.3} to {:.3})",
            pairs.pairs,
            pairs.connections,
            pairs.node_shakes_per_s,
            pairs.control.median,
            pairs.control.lower_quartile,
            pairs.control.upper_quartile
        )?;
    }
    Ok(())
}

/// A port that was free a moment ago: the echo takes it as an argument.
fn free_port() -> Result<u16> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").context("no free port")?;
    Ok(listener.local_addr()?.port())
}

/// Removes a folder of ours when it goes out of scope.
struct Scratch(PathBuf);

impl Scratch {
    fn new(path: &Path) -> Result<Self> {
        std::fs::create_dir_all(path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self(path.to_owned()))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed is left to be looked at.
        std::fs::remove_dir_all(&self.0).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::spread;

    #[test]
    fn the_median_of_an_even_count_lies_between_the_middle_two() {
        let four = spread(vec![4.0, 1.0, 3.0, 2.0]);
        assert_eq!((four.least, four.median, four.most), (1.0, 2.5, 4.0));
        let five = spread(vec![5.0, 1.0, 4.0, 2.0, 3.0]);
        assert_eq!((five.lower_quartile, five.median, five.upper_quartile), (2.0, 3.0, 4.0));
    }
}
