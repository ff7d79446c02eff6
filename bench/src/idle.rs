//! `netbench idle`: what an idle connection costs the server's process, before and after traffic.

use crate::load::{Fleet, Meter, Opens, Pace, Plan, Target, TargetArgs};
use anyhow::{Result, bail};
use serde::Serialize;
use std::{
    io::{self, Write},
    time::Duration,
};

/// The slope is taken from this part of the connections on: below it, first-time allocations that
/// do not grow with connections would count.
const FIRST_THIRD: usize = 3;
/// Memory is read after this long without traffic, for the server to become quiet.
const QUIET: Duration = Duration::from_secs(2);
/// Shakes of all connections together, per second.
const SHAKES_PER_SECOND: f64 = 20_000.0;
/// Longest time for all of them.
const SHAKES_TIME_MAX: Duration = Duration::from_secs(300);

/// What an idle connection costs
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct IdleArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// How many connections at the end; the slope begins at a third of them
    #[arg(long, default_value_t = 15_000)]
    connections: usize,
    /// Process whose memory is read
    #[arg(long)]
    server_pid: u32,
    /// How often each connection shakes before memory is read again
    #[arg(long, default_value_t = 20)]
    shakes: u32,
    /// Print the result as one line of JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    connections: usize,
    /// Slope of private dirty memory from a third of the connections to all.
    bytes_per_connection: f64,
    /// The same slope when every connection has shaken `shakes` times and is idle again.
    bytes_per_connection_after_shakes: f64,
    shakes: u32,
    /// Resident memory before the first connection, bytes.
    rss_at_zero: u64,
    private_dirty_at_zero: u64,
    private_dirty_at_third: u64,
    private_dirty_at_all: u64,
    private_dirty_at_third_after_shakes: u64,
    private_dirty_at_all_after_shakes: u64,
}

/// Connects, waits, reads memory, shakes, reads memory again.
///
/// # Errors
/// The server does not welcome everybody, or ends.
pub(crate) fn run(args: &IdleArgs) -> Result<()> {
    let third = args.connections / FIRST_THIRD;
    if third == 0 {
        bail!("--connections must be at least {FIRST_THIRD}");
    }
    let meter = Meter::new(args.server_pid)?;
    let rss_at_zero = meter.resident_bytes()?;
    let private_dirty_at_zero = meter.private_dirty_bytes()?;
    let mut fleet = Fleet::new(Plan {
        target: Target::node(&args.target)?,
        opens: Opens::Never,
        relogin: false,
        reconnect: false,
        spin: false,
        log: None,
        seed: 1,
    })?;
    let mut measure = |count: usize| -> Result<(u64, u64)> {
        fleet.connect(count)?;
        fleet.run(Pace::Silent, QUIET)?;
        let idle = meter.private_dirty_bytes()?;
        shake(&mut fleet, args.shakes)?;
        fleet.run(Pace::Silent, QUIET)?;
        Ok((idle, meter.private_dirty_bytes()?))
    };
    let (at_third, at_third_after) = measure(third)?;
    let (at_all, at_all_after) = measure(args.connections)?;
    let slope = |from: u64, to: u64| (to as f64 - from as f64) / (args.connections - third) as f64;
    let report = Report {
        connections: args.connections,
        // What the first third's shakes left behind is in here: rather too much than too little.
        bytes_per_connection: slope(at_third, at_all),
        bytes_per_connection_after_shakes: slope(at_third_after, at_all_after),
        shakes: args.shakes,
        rss_at_zero,
        private_dirty_at_zero,
        private_dirty_at_third: at_third,
        private_dirty_at_all: at_all,
        private_dirty_at_third_after_shakes: at_third_after,
        private_dirty_at_all_after_shakes: at_all_after,
    };
    let mut out = io::stdout();
    if args.json {
        writeln!(out, "{}", serde_json::to_string(&report)?)?;
    } else {
        writeln!(
            out,
            "{} connections: {:.0} B each, {:.0} B each after {} shakes; {} KiB resident before",
            report.connections,
            report.bytes_per_connection,
            report.bytes_per_connection_after_shakes,
            report.shakes,
            rss_at_zero / 1_024
        )?;
    }
    Ok(())
}

/// Each connection shakes `times`, evenly spread, and every shake is answered.
fn shake(fleet: &mut Fleet, times: u32) -> Result<()> {
    let connections = fleet.open_count();
    let wanted = connections as u64 * u64::from(times);
    let answered = |fleet: &Fleet| fleet.counts().shakes;
    let before = answered(fleet);
    let pace = Pace::Open { per_second: SHAKES_PER_SECOND };
    // A machine with other work to do falls behind: it gets its time, but every shake is played.
    fleet.run_while(pace, SHAKES_TIME_MAX, |fleet| answered(fleet) - before < wanted)?;
    fleet.settle(Duration::from_secs(10))?;
    let done = answered(fleet) - before;
    if done < wanted {
        bail!("only {done} of {wanted} shakes were answered: {:?}", fleet.counts());
    }
    Ok(())
}
