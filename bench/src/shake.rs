//! `netbench shake`: draws over many connections, closed or open loop, and what they cost.

use crate::load::{
    Counts, Fleet, Latency, Meter, Opens, Pace, Plan, Target, TargetArgs, TicketLog,
};
use anyhow::{Result, bail};
use serde::Serialize;
use std::{
    io::{self, Write},
    path::PathBuf,
    time::{Duration, Instant},
};

/// After the last shake, answers may take this long.
const SETTLING: Duration = Duration::from_secs(10);

/// Draws over many connections, and what they cost
#[derive(Clone, Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("loop").required(true).args(["closed", "rate"])))]
pub(crate) struct ShakeArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// How many connections, each a user of its own
    #[arg(long, default_value_t = 1_000)]
    connections: usize,
    /// Closed loop: each connection sends when its last shake was answered
    #[arg(long)]
    closed: bool,
    /// Open loop: shakes a second in all, whatever the server does
    #[arg(long)]
    rate: Option<f64>,
    /// How long it is measured
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// How long it runs before it is measured
    #[arg(long, default_value_t = 0)]
    warm: u64,
    /// Process whose CPU time and memory are read
    #[arg(long)]
    server_pid: Option<u32>,
    /// A user who can win no more makes way for the next user
    #[arg(long)]
    relogin: bool,
    /// End as soon as so many receipts (with --open) or wins have arrived
    #[arg(long)]
    until: Option<u64>,
    /// Open each ticket at once
    #[arg(long)]
    open: bool,
    /// A connection that is lost comes back as the same user
    #[arg(long)]
    reconnect: bool,
    /// File to which every ticket and receipt seen is appended
    #[arg(long)]
    tickets: Option<PathBuf>,
    /// Never sleep: the load has a core of its own
    #[arg(long)]
    spin: bool,
    /// Show what happens, each second, on stderr
    #[arg(long)]
    progress: bool,
    /// Print the result as one line of JSON
    #[arg(long)]
    json: bool,
}

/// The result, as printed.
#[derive(Debug, Serialize)]
struct Report {
    connections: usize,
    seconds: f64,
    shakes: u64,
    shakes_per_s: f64,
    /// Answers that were no draw, lost connections, ERROR frames.
    errors: u64,
    wins: u64,
    wins_per_s: f64,
    receipts: u64,
    users: u64,
    latency_us: Latency,
    open_latency_us: Latency,
    server_cpu_us_per_shake: Option<f64>,
    server_rss_bytes: Option<u64>,
    counts: Counts,
}

/// Runs the load to its end.
///
/// # Errors
/// Options that cannot work, a server that does not welcome, a ticket log that cannot be written.
pub(crate) fn run(args: &ShakeArgs) -> Result<()> {
    let pace = pace(args)?;
    let meter = args.server_pid.map(Meter::new).transpose()?;
    let mut fleet = Fleet::new(Plan {
        target: Target::node(&args.target)?,
        opens: if args.open { Opens::AtOnce } else { Opens::Never },
        relogin: args.relogin,
        reconnect: args.reconnect,
        spin: args.spin,
        log: args.tickets.as_deref().map(TicketLog::append).transpose()?,
        seed: getrandom::u64().map_err(|error| anyhow::anyhow!("no randomness: {error}"))?,
    })?;
    fleet.connect(args.connections)?;
    if args.warm > 0 {
        fleet.run(pace, Duration::from_secs(args.warm))?;
    }
    // Wins of the warm-up belong to the run: only the measures begin anew.
    let warm = fleet.take().0;
    let cpu_before = meter.map(|meter| meter.cpu_ns()).transpose()?;
    let start = Instant::now();
    let mut progress = Progress { shown: args.progress, start, second: 0 };
    fleet.run_while(pace, Duration::from_secs(args.seconds), |fleet| {
        progress.show(fleet);
        let counts = fleet.counts();
        let done = if args.open { counts.receipts } else { counts.wins };
        args.until.is_none_or(|until| done < until)
    })?;
    let seconds = start.elapsed().as_secs_f64();
    let cpu_after = meter.map(|meter| meter.cpu_ns()).transpose()?;
    let resident = meter.map(|meter| meter.resident_bytes()).transpose()?;
    let measured = fleet.counts().clone();
    fleet.settle(SETTLING)?;
    let held = fleet.held();
    let users = fleet.users_until() - args.target.first_user;
    let (counts, latency, opens) = fleet.take();
    let cpu_us = cpu_before.zip(cpu_after).map(|(before, after)| {
        (after.saturating_sub(before)) as f64 / 1_000.0 / measured.shakes.max(1) as f64
    });
    let report = Report {
        connections: args.connections,
        seconds,
        shakes: measured.shakes,
        shakes_per_s: measured.shakes as f64 / seconds,
        errors: counts.troubles() + warm.troubles(),
        wins: counts.wins + warm.wins,
        wins_per_s: measured.wins as f64 / seconds,
        receipts: counts.receipts + warm.receipts,
        users,
        latency_us: latency,
        open_latency_us: opens,
        server_cpu_us_per_shake: cpu_us,
        server_rss_bytes: resident,
        counts,
    };
    print(&report, args.json)?;
    if held > 0 {
        bail!("{held} tickets have no receipt {} s after the end", SETTLING.as_secs());
    }
    Ok(())
}

fn pace(args: &ShakeArgs) -> Result<Pace> {
    if args.connections == 0 {
        bail!("--connections must be at least 1");
    }
    match args.rate {
        None => Ok(Pace::Closed),
        Some(rate) if rate > 0.0 && rate.is_finite() => Ok(Pace::Open { per_second: rate }),
        Some(rate) => bail!("--rate {rate}: shakes a second must be above 0"),
    }
}

/// One line a second for people.
struct Progress {
    shown: bool,
    start: Instant,
    second: u64,
}

impl Progress {
    fn show(&mut self, fleet: &Fleet) {
        let second = self.start.elapsed().as_secs();
        if !self.shown || second == self.second {
            return;
        }
        self.second = second;
        let Counts { shakes, wins, receipts, .. } = fleet.counts();
        let line = format!(
            "{second:>4} s  open {:>6}  shakes {shakes:>9}  wins {wins:>7}  receipts \
             {receipts:>7}  \
             troubles {}",
            fleet.open_count(),
            fleet.counts().troubles(),
        );
        // A closed stderr must not end the load.
        drop(writeln!(io::stderr(), "{line}"));
    }
}

fn print(report: &Report, json: bool) -> Result<()> {
    let mut out = io::stdout();
    if json {
        writeln!(out, "{}", serde_json::to_string(report)?)?;
        return Ok(());
    }
    let Latency { p50, p99, p999, max } = report.latency_us;
    writeln!(
        out,
        "{} connections, {:.1} s: {} shakes ({:.0}/s), {} wins, {} receipts, {} errors\n\
         latency p50 {p50} us, p99 {p99} us, p99.9 {p999} us, max {max} us",
        report.connections,
        report.seconds,
        report.shakes,
        report.shakes_per_s,
        report.wins,
        report.receipts,
        report.errors
    )?;
    if let (Some(cpu), Some(resident)) = (report.server_cpu_us_per_shake, report.server_rss_bytes) {
        writeln!(out, "server: {cpu:.2} us of CPU per shake, {} KiB resident", resident / 1_024)?;
    }
    Ok(())
}
