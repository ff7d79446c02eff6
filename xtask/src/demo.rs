//! `cargo xtask demo`: a whole small event with the real programs, and the audit that it balanced.

use crate::{
    event::{self, Event, Life, Plan, Way},
    process::Process,
    table,
};
use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::Value;
use std::{
    fs::{self, File},
    time::{Duration, Instant},
};

/// From now to T0, seconds: the crowd connects meanwhile.
const LEAD_SECONDS: u64 = 6;
/// The wave of campaigns/demo.toml, seconds.
const WAVE_SECONDS: u64 = 10;
/// How long the crowd stays after the wave, seconds.
const AFTER_SECONDS: u64 = 4;

/// What can be chosen.
#[derive(Args)]
pub(crate) struct DemoArguments {
    /// Print the audit as one JSON object on the last line.
    #[arg(long)]
    pub(crate) json: bool,
    /// How many SDK clients shake.
    #[arg(long, default_value_t = 5_000)]
    pub(crate) clients: u32,
    /// The node issues by grants of the ledger, and is killed with -9 in the middle.
    #[arg(long)]
    pub(crate) fleet: bool,
}

/// Runs the event; an error unless everything balances.
pub(crate) fn run(arguments: &DemoArguments) -> Result<()> {
    let mut event = Event::prepare("demo", Plan::DEMO)?;
    let start = Instant::now();
    let memory = Memory::new();
    let overrides = [("shard.ownership", "fleet"), ("shard.witness", memory.name())];
    let fleet = arguments.fleet.then_some(&overrides[..]);
    let result = play(&mut event, arguments.clients, fleet);
    let audit = result.with_context(|| {
        format!("the event's files are kept in {}", event.directory().display())
    })?;
    print_audit(&audit, start.elapsed());
    if arguments.json {
        println!("{audit}");
    }
    if audit["verdict"] != "balanced" {
        bail!("the audit is not balanced; files are kept in {}", event.directory().display());
    }
    event.stop_ledger()?;
    event.remove()
}

/// Of a node in fleet mode: its configuration's keys that differ.
type Fleet<'a> = Option<&'a [(&'a str, &'a str)]>;

/// A directory in memory for the node's witness; it ends with the demo.
struct Memory(String);

impl Memory {
    fn new() -> Self {
        Self(format!("/dev/shm/yao-demo-{}", std::process::id()))
    }

    fn name(&self) -> &str {
        &self.0
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // In local mode nobody made it.
        fs::remove_dir_all(&self.0).ok();
    }
}

fn start_access(event: &mut Event, fleet: Fleet<'_>) -> Result<()> {
    event.start_access_as(Life { overrides: fleet.unwrap_or_default(), ..Life::PLAIN })
}

fn play(event: &mut Event, clients: u32, fleet: Fleet<'_>) -> Result<Value> {
    event.start_ledger()?;
    start_access(event, fleet)?;
    event.await_agent()?;
    println!(
        "ledger, node (2 shard and 2 QUIC threads) and agent serve; {clients} SDK clients connect, \
         a third each, to"
    );
    for way in Way::ALL {
        println!("      {}", event.endpoint(way));
    }
    event.write_schedule(2, Some(event::wall_time_in(LEAD_SECONDS)?))?;
    let (code, answer) = event.post("/reload")?;
    if code != 200 {
        bail!("the schedule was refused: {answer}");
    }
    println!("armed: 10,000 packets of 10,000.00 CNY from T0 = {LEAD_SECONDS} s on, for 10 s");
    let seconds = LEAD_SECONDS + WAVE_SECONDS + AFTER_SECONDS;
    let mut crowd = start_crowd(event, clients, seconds)?;
    let start = Instant::now();
    let mut second = 0;
    while crowd.is_running()? {
        // The progress is for people: once a second is what they can read.
        std::thread::sleep(Duration::from_millis(20));
        if start.elapsed().as_secs() <= second {
            continue;
        }
        second = start.elapsed().as_secs();
        progress(event, second)?;
        if second == LEAD_SECONDS + 4 {
            let (code, answer) = event.post("/agent/swap")?;
            println!("      agent swapped: {} ({code})", answer.trim());
            if code != 200 {
                bail!("the swap was refused");
            }
        }
        if second == LEAD_SECONDS + 2 && fleet.is_some() {
            event.kill_access()?;
            start_access(event, fleet)?;
            println!("      node killed with -9 and started again: {}", event.status()?["grants"]);
        }
        if second == LEAD_SECONDS + 7 {
            println!("      agent {} killed with -9", event.kill_agent()?);
        }
    }
    crowd.finish()?;
    check_crowd(event, clients)?;
    event.await_settled()?;
    event.stop_access()?;
    println!("the node drained and ended; audit:");
    event.audit(&["tickets.log"])
}

fn start_crowd(event: &Event, clients: u32, seconds: u64) -> Result<Process> {
    let mut command = event.program("netbench");
    command.arg("crowd").args(event.crowd_options()).arg("--json");
    command.args(["--clients", &clients.to_string(), "--seconds", &seconds.to_string()]);
    command.args(["--tickets", "tickets.log"]);
    command.stdout(File::create(event.path("crowd.json"))?);
    Process::start("crowd", &mut command, &event.path("crowd.log"))
}

/// Each third came in by its own way.
fn check_crowd(event: &Event, clients: u32) -> Result<()> {
    let text = fs::read_to_string(event.path("crowd.json"))?;
    let report: Value = serde_json::from_str(&text).context("the crowd's report")?;
    let sessions = |way: Way| report["sessions"][way.scheme()].as_u64().unwrap_or(0);
    let [tcp, tls, quic] = Way::ALL.map(sessions);
    println!("sessions over TCP {tcp}, TLS {tls}, QUIC {quic}; {} errors", report["errors"]);
    if [tcp, tls, quic].iter().any(|sessions| *sessions < u64::from(clients / 3)) {
        bail!("a third of the clients did not come in by its own way; see crowd.log");
    }
    Ok(())
}

fn progress(event: &Event, second: u64) -> Result<()> {
    let status = event.status()?;
    let wave = &status["waves"][0];
    let spool = &status["spool"];
    println!(
        "{second:>3} s  wave {:>7}  connected {:>5}  shakes {:>7}  issued {:>5}  opened {:>5}  \
         settled {:>5}  agent {} {}",
        wave["state"].as_str().unwrap_or("-"),
        status["users"],
        status["shakes"],
        wave["wave_issued_total"],
        spool["acknowledged_total"],
        spool["watermark"],
        status["agent"]["generation"],
        status["agent"]["state"].as_str().unwrap_or("-"),
    );
    Ok(())
}

fn print_audit(audit: &Value, took: Duration) {
    let keys = [
        "verdict",
        "planned",
        "opened",
        "issued",
        "skipped",
        "unissued",
        "settled",
        "planned_fen",
        "settled_fen",
        "duplicates",
        "lost",
        "limit_violations",
        "early_releases",
        "release_lag_ms_p99",
    ];
    let plain = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let rows: Vec<(String, String)> =
        keys.iter().map(|key| ((*key).to_owned(), plain(&audit[*key]))).collect();
    table::print(&format!("audit after {:.0} s", took.as_secs_f64()), &rows);
    for problem in audit["problems"].as_array().into_iter().flatten() {
        println!("  ! {}", plain(problem));
    }
}
