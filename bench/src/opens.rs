//! `netbench opens`: how many durable opens a node acknowledges each second. First everybody wins
//! and keeps the tickets; then all of them are opened, at a rate or as fast as the node takes them.

use crate::load::{Fleet, Latency, Opens, Pace, Plan, Target, TargetArgs, TicketLog};
use anyhow::{Result, bail};
use serde::Serialize;
use std::{
    io::{self, Write},
    path::PathBuf,
    time::{Duration, Instant},
};

/// How many durable opens a node acknowledges each second
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct OpensArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// How many connections, each a user of its own
    #[arg(long, default_value_t = 18_000)]
    connections: usize,
    /// Longest time to win in
    #[arg(long, default_value_t = 60)]
    win_seconds: u64,
    /// Tickets to hold before opening begins; fewer after `win_seconds` is an error
    #[arg(long, default_value_t = 51_000)]
    packets: usize,
    /// Tickets to open each second; 0 is all at once
    #[arg(long, default_value_t = 0)]
    open_rate: u32,
    /// Longest time to open in
    #[arg(long, default_value_t = 60)]
    open_seconds: u64,
    /// File to which every ticket and receipt seen is appended
    #[arg(long)]
    tickets: Option<PathBuf>,
    /// Print the result as one line of JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    connections: usize,
    /// Tickets held when opening began.
    tickets: usize,
    win_seconds: f64,
    wins_per_s: f64,
    opens: u64,
    open_seconds: f64,
    opens_per_s: f64,
    /// Receipts that arrived in each whole second of opening.
    opens_in_second: Vec<u64>,
    errors: u64,
    open_latency_us: Latency,
}

/// Wins, then opens.
///
/// # Errors
/// Too few wins, or opens without a receipt.
pub(crate) fn run(args: &OpensArgs) -> Result<()> {
    let mut fleet = Fleet::new(Plan {
        target: Target::node(&args.target)?,
        opens: Opens::Later,
        relogin: false,
        reconnect: false,
        spin: false,
        log: args.tickets.as_deref().map(TicketLog::append).transpose()?,
        seed: getrandom::u64().map_err(|error| anyhow::anyhow!("no randomness: {error}"))?,
    })?;
    fleet.connect(args.connections)?;
    let start = Instant::now();
    let (mut first_win, mut last) = (None, start);
    fleet.run_while(Pace::Closed, Duration::from_secs(args.win_seconds), |fleet| {
        if fleet.counts().wins > 0 {
            first_win.get_or_insert_with(Instant::now);
        }
        last = Instant::now();
        fleet.held() < args.packets
    })?;
    let win_seconds = (last - first_win.unwrap_or(start)).as_secs_f64();
    let tickets = fleet.held();
    if tickets < args.packets {
        let sated = fleet.sated();
        bail!("only {tickets} tickets were won ({sated} users can win no more); see --win-seconds");
    }
    let won = fleet.take().0;
    let start = Instant::now();
    let mut opens_in_second = Vec::new();
    let (mut before, mut end) = (0, start);
    fleet.open_kept(args.open_rate)?;
    fleet.run_while(Pace::Silent, Duration::from_secs(args.open_seconds), |fleet| {
        let receipts = fleet.counts().receipts;
        while start.elapsed().as_secs() > opens_in_second.len() as u64 {
            opens_in_second.push(receipts - before);
            before = receipts;
        }
        end = Instant::now();
        fleet.held() > 0
    })?;
    let open_seconds = (end - start).as_secs_f64();
    let left = fleet.held();
    let (counts, _, open_latency_us) = fleet.take();
    let errors = counts.troubles() + won.troubles();
    let report = Report {
        connections: args.connections,
        tickets,
        win_seconds,
        wins_per_s: won.wins as f64 / win_seconds,
        opens: counts.receipts,
        open_seconds,
        opens_per_s: counts.receipts as f64 / open_seconds,
        opens_in_second,
        errors,
        open_latency_us,
    };
    print(&report, args.json)?;
    if left > 0 {
        bail!("{left} tickets have no receipt after {} s", args.open_seconds);
    }
    Ok(())
}

fn print(report: &Report, json: bool) -> Result<()> {
    let mut out = io::stdout();
    if json {
        writeln!(out, "{}", serde_json::to_string(report)?)?;
        return Ok(());
    }
    writeln!(
        out,
        "{} tickets won in {:.1} s ({:.0}/s), opened in {:.1} s ({:.0}/s), {} errors",
        report.tickets,
        report.win_seconds,
        report.wins_per_s,
        report.open_seconds,
        report.opens_per_s,
        report.errors
    )?;
    Ok(())
}
