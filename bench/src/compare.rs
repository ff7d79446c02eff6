//! `netbench compare`: what a shake costs the access node against what an echo of the same 32 bytes
//! costs a bare epoll loop, on this machine, in this minute.
//!
//! Machines drift, so only pairs of short runs next to each other count. All servers are up and
//! pinned to core 0, each has a generator process pinned to core 1, and the runs take turns. The
//! echo also runs against its own copy: that spread is what no ratio here can be better than.
//! Every reply of the node must be the result of a draw in a running wave; one refusal fails.

mod servers;
mod worker;

pub(crate) use worker::{WorkerArgs, run as run_worker};

use crate::load::pin_to_core;
use anyhow::{Context, Result, bail};
use serde::Serialize;
use servers::{Echo, Node};
use std::{
    io::{self, Write},
    path::{Path, PathBuf},
};
use worker::{Window, Worker};

/// The core of the servers, and that of the generators.
const CORES: (usize, usize) = (0, 1);
/// Sparse load: shakes a second over all connections.
const SPARSE_PER_SECOND: f64 = 30_000.0;
/// Fewer pairs say nothing.
const PAIRS_MIN: usize = 7;

/// CPU per shake against a bare epoll echo, in interleaved pairs
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct CompareArgs {
    /// Optimised yao-access; default: beside this program
    #[arg(long)]
    access: Option<PathBuf>,
    /// yao-seedgen; default: beside this program
    #[arg(long)]
    seedgen: Option<PathBuf>,
    /// raw_epoll of bench/baselines, optimised
    #[arg(long)]
    echo: PathBuf,
    /// Interleaved pairs for each of the two loads
    #[arg(long, default_value_t = 15)]
    pairs: usize,
    /// Connections of the busy load, one shake in flight on each
    #[arg(long, default_value_t = 1_000)]
    busy: usize,
    /// Connections of the sparse load, 30,000 shakes a second over all
    #[arg(long, default_value_t = 15_000)]
    sparse: usize,
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
struct Spread {
    median: f64,
    least: f64,
    lower_quartile: f64,
    upper_quartile: f64,
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
/// A server that does not start, a reply that is no draw, too few pairs.
pub(crate) fn run(args: &CompareArgs) -> Result<()> {
    if args.pairs < PAIRS_MIN {
        bail!("--pairs {}: at least {PAIRS_MIN}, fewer say nothing", args.pairs);
    }
    let beside = |name: &str| -> Result<PathBuf> {
        let own = std::env::current_exe().context("this program's own path")?;
        Ok(own.parent().context("a program lies in a folder")?.join(name))
    };
    let access = args.access.clone().map_or_else(|| beside("yao-access"), Ok)?;
    let seedgen = args.seedgen.clone().map_or_else(|| beside("yao-seedgen"), Ok)?;
    let work = args.work.clone().unwrap_or_else(|| {
        std::env::temp_dir().join(format!("yao-compare-{}", std::process::id()))
    });
    pin_to_core(CORES.0)?;
    let echoes = [Echo::start(&args.echo)?, Echo::start(&args.echo)?];
    let node = Node::start(&access, &seedgen, &work)?;
    pin_to_core(CORES.1)?;
    let busy = pairs(args, &echoes, &node, args.busy, None)?;
    let sparse = pairs(args, &echoes, &node, args.sparse, Some(SPARSE_PER_SECOND))?;
    drop(node);
    let report =
        Report { ratio_busy: busy.ratio.median, ratio_sparse: sparse.ratio.median, busy, sparse };
    print(&report, args.json)
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
        Worker::echo(echoes[0].address(), echoes[0].id(), connections)?,
        Worker::node(node, connections)?,
        Worker::echo(echoes[1].address(), echoes[1].id(), connections)?,
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
fn spread(mut values: Vec<f64>) -> Spread {
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
