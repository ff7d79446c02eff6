//! One generator process per server: 15,000 connections to each of three servers would not fit one
//! process's descriptors. It connects once, then runs a window each time its parent sends a line.

use super::servers::{CAMPAIGN_ID, Echo, Node, Way};
use crate::{
    identity::KEY_ID,
    load::{Counts, Fleet, Latency, Meter, Opens, Pace, Plan, Target, TargetArgs},
};
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::{
    io::{self, BufRead, BufReader, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::Duration,
};

/// Every shake has its answer so soon after the last one was sent: nearly always at once, but what
/// the kernel had no room for is sent again.
const SETTLED_MAX: Duration = Duration::from_secs(10);
/// Nobody is looked after before the first window, nor between two. By then acknowledgements that
/// are put off (25 ms over QUIC) have come and gone: else both sides would take the pause for the
/// way there and back, and wait for several of it before they send a lost packet again.
const LAST_WORDS: Duration = Duration::from_millis(200);
/// One shake in so many may meet an earlier one that still waits for its answer.
const PENDING_ONE_IN: u64 = 100;

/// The generator of `netbench compare`; not for people
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct WorkerArgs {
    #[command(flatten)]
    target: TargetArgs,
    #[arg(long)]
    connections: usize,
    #[arg(long)]
    server_pid: u32,
    /// The server only echoes
    #[arg(long)]
    echo: bool,
}

/// One run, as the parent asks for it.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Window {
    /// Shakes a second of the open loop; none: closed loop.
    pub(super) rate: Option<f64>,
    pub(super) warm_ms: u64,
    pub(super) measured_ms: u64,
}

/// What the run saw.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Seen {
    pub(super) server_cpu_us_per_shake: f64,
    pub(super) shakes_per_s: f64,
    pub(super) latency_us: Latency,
    pub(super) counts: Counts,
}

/// The child's side: windows from standard input until it ends.
///
/// # Errors
/// The server does not welcome, a reply is neither a draw nor "pending", or a shake has no answer.
pub(crate) fn run(args: &WorkerArgs) -> Result<()> {
    let target =
        if args.echo { Target::echo(&args.target.addr)? } else { Target::node(&args.target)? };
    let mut fleet = Fleet::new(Plan {
        target,
        opens: Opens::Never,
        relogin: false,
        reconnect: false,
        spin: true,
        log: None,
        seed: 1,
    })?;
    let meter = Meter::new(args.server_pid)?;
    fleet.connect(args.connections)?;
    fleet.run(Pace::Silent, LAST_WORDS)?;
    let mut out = io::stdout();
    writeln!(out, "connected")?;
    for line in io::stdin().lock().lines() {
        let window: Window = serde_json::from_str(&line?)?;
        let pace = match window.rate {
            None => Pace::Closed,
            Some(per_second) => Pace::Open { per_second },
        };
        let seen = measure(&mut fleet, meter, pace, window)?;
        writeln!(out, "{}", serde_json::to_string(&seen)?)?;
    }
    Ok(())
}

fn measure(fleet: &mut Fleet, meter: Meter, pace: Pace, window: Window) -> Result<Seen> {
    fleet.take();
    fleet.run(pace, Duration::from_millis(window.warm_ms))?;
    settle(fleet)?;
    let (warm, ..) = fleet.take();
    let start = crate::load::now_ns();
    let cpu_start = meter.cpu_ns()?;
    fleet.run(pace, Duration::from_millis(window.measured_ms))?;
    // Everything asked is answered before the meter is read, so that the cost of an answer is
    // never in another run.
    settle(fleet)?;
    let cpu_ns = meter.cpu_ns()? - cpu_start;
    let seconds = (crate::load::now_ns() - start) as f64 / 1e9;
    fleet.run(Pace::Silent, LAST_WORDS)?;
    let (counts, latency_us, _) = fleet.take();
    for counts in [&warm, &counts] {
        if counts.drawn() + counts.pending != counts.shakes || counts.troubles() > 0 {
            bail!("a reply was not the result of a draw, or a connection was lost: {counts:?}");
        }
    }
    // "Pending" is what a rate that waits for nobody hears of a win whose vetting the machine held
    // up. A few of them change no figure.
    if counts.pending * PENDING_ONE_IN > counts.shakes {
        bail!("of {} shakes {} met an unfinished vetting", counts.shakes, counts.pending);
    }
    if counts.shakes == 0 {
        bail!("the server answered nothing: {counts:?}");
    }
    Ok(Seen {
        server_cpu_us_per_shake: cpu_ns as f64 / 1_000.0 / counts.shakes as f64,
        shakes_per_s: counts.shakes as f64 / seconds,
        latency_us,
        counts,
    })
}

fn settle(fleet: &mut Fleet) -> Result<()> {
    let unanswered = fleet.settle(SETTLED_MAX)?;
    if unanswered > 0 {
        bail!("{unanswered} users have no answer after {SETTLED_MAX:?}");
    }
    Ok(())
}

/// The parent's side.
pub(super) struct Worker {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Worker {
    pub(super) fn echo(echo: &Echo, connections: usize) -> Result<Self> {
        Self::start(&["--echo", "--addr", &echo.endpoint()], echo.id(), connections)
    }

    pub(super) fn node(node: &Node, way: Way, connections: usize) -> Result<Self> {
        let key = node.session_key.to_str().context("the work folder's path is text")?;
        let ca = node.ca.to_str().context("the work folder's path is text")?;
        let (address, campaign) = (node.endpoint(way)?, CAMPAIGN_ID.to_string());
        let options = ["--addr", &address, "--ca", ca, "--session-key", key, "--kid", KEY_ID];
        Self::start(&[&options[..], &["--campaign", &campaign]].concat(), node.id(), connections)
    }

    fn start(options: &[&str], server: u32, connections: usize) -> Result<Self> {
        let own = std::env::current_exe().context("this program's own path")?;
        let mut child = Command::new("sh")
            .args(["-c", "ulimit -n $(ulimit -Hn); exec \"$0\" \"$@\""])
            .arg(own)
            .arg("worker")
            .args(options)
            .args(["--server-pid", &server.to_string()])
            .args(["--connections", &connections.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start a generator")?;
        let stdin = child.stdin.take().context("its input is piped")?;
        let stdout = BufReader::new(child.stdout.take().context("its output is piped")?);
        let mut worker = Self { child, stdin, stdout };
        worker.line().context("a generator did not connect")?;
        Ok(worker)
    }

    /// One window.
    pub(super) fn run(&mut self, window: Window) -> Result<Seen> {
        writeln!(self.stdin, "{}", serde_json::to_string(&window)?)?;
        Ok(serde_json::from_str(&self.line()?)?)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        if self.stdout.read_line(&mut line)? == 0 {
            bail!("the generator ended; its error is above");
        }
        Ok(line)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It may have ended already.
        if self.child.kill().is_ok() {
            self.child.wait().ok();
        }
    }
}
