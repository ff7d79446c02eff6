//! `netbench handshake`: server CPU for each client that comes and goes, over TLS or QUIC, against
//! an echo server that does the same.
//!
//! Short runs take turns: the echo, the node with full handshakes, the node with resumed ones, and
//! a copy of the echo, whose ratio to the echo says what no ratio here can be better than. Servers
//! are pinned to one core and the clients to another. The echo's full handshake is the measure of
//! all. Returning clients show the reconnect ticket of their last WELCOME.

mod visitors;

use crate::{
    compare::{
        CORES, PAIRS_MIN, Spread, beside,
        servers::{CAMPAIGN_ID, Echo, Node, Way},
        spread,
    },
    identity::KEY_ID,
    load::{Meter, Target, TargetArgs, pin_to_core},
};
use anyhow::{Context, Result, bail};
use serde::Serialize;
use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    time::Duration,
};
use visitors::{Visitors, Visits};
use yao_protocol::endpoint::{Endpoint, Transports};

/// Server CPU per handshake against an echo server, in interleaved pairs
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct HandshakeArgs {
    /// Node to visit, tls://host:port or quic://host:port; default: one of our own
    #[arg(long, requires_all = ["ca", "session_key", "server_pid"])]
    addr: Option<Endpoint>,
    /// CA that signs that node's certificate, PEM
    #[arg(long, requires = "addr")]
    ca: Option<PathBuf>,
    /// Private key that mints its session tokens, PEM
    #[arg(long, requires = "addr")]
    session_key: Option<PathBuf>,
    /// Its process
    #[arg(long, requires = "addr")]
    server_pid: Option<u32>,
    /// Its campaign
    #[arg(long, default_value_t = CAMPAIGN_ID)]
    campaign: u64,
    /// The way into our own node
    #[arg(long, value_enum, default_value_t = Way::Tls, conflicts_with = "addr")]
    over: Way,
    /// Optimised yao-access; default: beside this program
    #[arg(long)]
    access: Option<PathBuf>,
    /// yao-seedgen; default: beside this program
    #[arg(long)]
    seedgen: Option<PathBuf>,
    /// The way's echo of bench/baselines, optimised: tokio_echo or quinn_echo
    #[arg(long)]
    echo: PathBuf,
    /// Interleaved pairs
    #[arg(long, default_value_t = 15)]
    pairs: usize,
    /// Clients inside at one time
    #[arg(long, default_value_t = 8)]
    parallel: usize,
    /// Milliseconds of each run
    #[arg(long, default_value_t = 1_000)]
    window_ms: u64,
    /// Folder for our own node's files; removed afterwards
    #[arg(long)]
    work: Option<PathBuf>,
    /// Print the result as one line of JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    over: &'static str,
    pairs: usize,
    parallel: usize,
    /// Full handshake of the node by full handshake of the echo, median.
    ratio_full: f64,
    /// Resumed handshake of the node by full handshake of the echo, median.
    ratio_resumed: f64,
    /// The echo's copy by the echo, median.
    control: f64,
    spread_full: Spread,
    spread_resumed: Spread,
    spread_control: Spread,
    echo_us: f64,
    node_full_us: f64,
    node_resumed_us: f64,
    /// Part of the node's HELLOs that carried a reconnect ticket.
    ticket_part: f64,
    /// Part of the handshakes said to be resumed where they should be; quinn does not say.
    resumed_part: Option<f64>,
}

/// One of the servers, as it is visited.
struct Runner {
    name: &'static str,
    visitors: Visitors,
    meter: Meter,
    costs: Vec<f64>,
    seen: Visits,
}

/// Runs all pairs.
///
/// # Errors
/// A server that does not start or does not welcome, too few pairs, a resumption that is none.
pub(crate) fn run(args: &HandshakeArgs) -> Result<()> {
    if args.pairs < PAIRS_MIN {
        bail!("--pairs {}: at least {PAIRS_MIN}, fewer say nothing", args.pairs);
    }
    let way = way(args)?;
    pin_to_core(CORES.0)?;
    let echoes = [Echo::start(&args.echo, way)?, Echo::start(&args.echo, way)?];
    let own = if args.addr.is_none() { Some(start_node(args)?) } else { None };
    pin_to_core(CORES.1)?;
    let (node, pid) = match &own {
        Some(node) => (target_args(&node.endpoint(way)?, &node.ca, &node.session_key)?, node.id()),
        None => given(args)?,
    };
    let node = TargetArgs { campaign: args.campaign, ..node };
    // Other users, so that no ticket of the one run is spent in the other.
    let others = TargetArgs { first_user: 1 << 32, ..node.clone() };
    let echo = |echo: &Echo| -> Result<(Target, u32)> {
        Ok((Target::echo(&echo.endpoint().parse()?)?.forgetful(), echo.id()))
    };
    let servers = [
        ("echo", echo(&echoes[0])?),
        ("node, full", (Target::node(&node)?.forgetful(), pid)),
        ("node, resumed", (Target::node(&others)?, pid)),
        ("copy of the echo", echo(&echoes[1])?),
    ];
    let mut runners = Vec::new();
    for (name, (target, pid)) in servers {
        let visitors = Visitors::new(target, args.parallel)?;
        let (costs, seen) = (Vec::new(), Visits::default());
        runners.push(Runner { name, visitors, meter: Meter::new(pid)?, costs, seen });
    }
    play(args, &mut runners)?;
    let report = report(args, way, &runners)?;
    print(&report, args.json)
}

fn way(args: &HandshakeArgs) -> Result<Way> {
    let way = match args.addr.as_ref().map(|endpoint| endpoint.transports) {
        None => args.over,
        Some(Transports::Tls) => Way::Tls,
        Some(Transports::Quic) => Way::Quic,
        Some(_) => bail!("--addr must be tls://host:port or quic://host:port"),
    };
    if way == Way::Tcp {
        bail!("plain TCP has no handshake to measure; --over tls or quic");
    }
    Ok(way)
}

fn start_node(args: &HandshakeArgs) -> Result<Node> {
    let access = beside(args.access.as_deref(), "yao-access")?;
    let seedgen = beside(args.seedgen.as_deref(), "yao-seedgen")?;
    let work = args.work.clone().unwrap_or_else(|| {
        std::env::temp_dir().join(format!("yao-handshake-{}", std::process::id()))
    });
    Node::start(&access, &seedgen, &work)
}

fn given(args: &HandshakeArgs) -> Result<(TargetArgs, u32)> {
    let missing = "--addr needs --ca, --session-key and --server-pid";
    let ca = args.ca.as_deref().context(missing)?;
    let key = args.session_key.as_deref().context(missing)?;
    let endpoint = args.addr.as_ref().context(missing)?.to_string();
    Ok((target_args(&endpoint, ca, key)?, args.server_pid.context(missing)?))
}

fn target_args(endpoint: &str, ca: &Path, session_key: &Path) -> Result<TargetArgs> {
    Ok(TargetArgs {
        addr: endpoint.parse()?,
        ca: Some(ca.to_owned()),
        session_key: Some(session_key.to_owned()),
        kid: KEY_ID.to_owned(),
        audience: "yao".to_owned(),
        campaign: CAMPAIGN_ID,
        first_user: 1,
    })
}

/// The runs take turns; whoever goes first changes.
fn play(args: &HandshakeArgs, runners: &mut [Runner]) -> Result<()> {
    let window = Duration::from_millis(args.window_ms);
    for runner in &mut *runners {
        // First visits bring tickets for those that follow.
        runner.visitors.run(window)?;
    }
    for pair in 0..args.pairs {
        for turn in 0..runners.len() {
            let which = (turn + pair) % runners.len();
            let runner = &mut runners[which];
            let before = runner.meter.cpu_ns()?;
            let visits = runner.visitors.run(window)?;
            let cpu_ns = runner.meter.cpu_ns()? - before;
            if visits.done == 0 {
                bail!("{}: no visit within {} ms", runner.name, args.window_ms);
            }
            runner.costs.push(cpu_ns as f64 / 1_000.0 / visits.done as f64);
            runner.seen.done += visits.done;
            runner.seen.resumed += visits.resumed;
            runner.seen.with_ticket += visits.with_ticket;
        }
        let cells: Vec<_> = runners
            .iter()
            .map(|runner| format!("{} {:.1} us", runner.name, runner.costs[pair]))
            .collect();
        writeln!(io::stderr(), "pair {:>2}: {}", pair + 1, cells.join(", "))?;
    }
    Ok(())
}

fn report(args: &HandshakeArgs, way: Way, runners: &[Runner]) -> Result<Report> {
    let [echo, full, resumed, copy] = runners else { bail!("four servers are visited") };
    let ratio = |runner: &Runner| {
        spread(runner.costs.iter().zip(&echo.costs).map(|(cost, echo)| cost / echo).collect())
    };
    let cost = |runner: &Runner| spread(runner.costs.clone()).median;
    let part = |count: u64, of: u64| count as f64 / of.max(1) as f64;
    let resumed_part = (way == Way::Tls).then(|| part(resumed.seen.resumed, resumed.seen.done));
    if full.seen.resumed + echo.seen.resumed + copy.seen.resumed > 0 {
        bail!("a handshake that was to be full resumed a session");
    }
    // The first of each user has none to resume.
    if resumed_part.is_some_and(|part| part < 0.95) {
        bail!("only {resumed_part:?} of the handshakes resumed a session");
    }
    let nodes = [full.seen, resumed.seen];
    let ticket_part = part(
        nodes.iter().map(|seen| seen.with_ticket).sum(),
        nodes.iter().map(|seen| seen.done).sum(),
    );
    let [spread_full, spread_resumed, spread_control] = [full, resumed, copy].map(ratio);
    Ok(Report {
        over: way.scheme(),
        pairs: args.pairs,
        parallel: args.parallel,
        ratio_full: spread_full.median,
        ratio_resumed: spread_resumed.median,
        control: spread_control.median,
        spread_full,
        spread_resumed,
        spread_control,
        echo_us: cost(echo),
        node_full_us: cost(full),
        node_resumed_us: cost(resumed),
        ticket_part,
        resumed_part,
    })
}

fn print(report: &Report, json: bool) -> Result<()> {
    let mut out = io::stdout();
    if json {
        writeln!(out, "{}", serde_json::to_string(report)?)?;
        return Ok(());
    }
    let line = |name: &str, ratio: Spread, us: f64| {
        format!(
            "{name:>16}: {:.3} x the echo's full ({:.3} to {:.3}), {us:.1} us",
            ratio.median, ratio.lower_quartile, ratio.upper_quartile
        )
    };
    writeln!(
        out,
        "{}\n{}\n{}\n{:>16}: {:.1} us; {:.0} % of the HELLOs carried a reconnect ticket",
        line("full", report.spread_full, report.node_full_us),
        line("resumed", report.spread_resumed, report.node_resumed_us),
        line("copy of the echo", report.spread_control, report.control * report.echo_us),
        "echo",
        report.echo_us,
        report.ticket_part * 100.0
    )?;
    Ok(())
}
