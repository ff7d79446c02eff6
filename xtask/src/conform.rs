//! `cargo xtask conform`: `netbench conform` against our own node, over each way in that it has.

use crate::{
    event::{self, Event, Plan, Way},
    shell,
};
use anyhow::{Context, Result, bail};

/// From now to T0, seconds.
const LEAD_SECONDS: u64 = 1;
/// Packets are there from the first second of the wave on.
const WIN_SECONDS: &str = "20";
/// Silence after which the node closes: longer than a frame's deadline, so that the two differ.
const HEARTBEAT_MS_MAX: u32 = 8_000;

/// Runs every case; an error names how many are red.
pub(crate) fn run() -> Result<()> {
    // What is not won in the wave waits: all cases, over each way in, find packets.
    let grace_seconds = 50;
    let plan = Plan { heartbeat_ms_max: HEARTBEAT_MS_MAX, grace_seconds, ..Plan::DEMO };
    let mut event = Event::prepare("conform", plan)?;
    play(&mut event).with_context(|| {
        format!("the event's files are kept in {}", event.directory().display())
    })?;
    event.remove()
}

fn play(event: &mut Event) -> Result<()> {
    event.start_ledger()?;
    event.start_access()?;
    event.await_agent()?;
    event.write_schedule(2, Some(event::wall_time_in(LEAD_SECONDS)?))?;
    let (code, answer) = event.post("/reload")?;
    if code != 200 {
        bail!("the schedule was refused: {answer}");
    }
    for way in Way::ALL {
        let endpoint = event.endpoint(way);
        println!("== {endpoint}");
        conform(event, &endpoint)?;
    }
    event.stop_access()?;
    event.stop_ledger()
}

fn conform(event: &Event, address: &str) -> Result<()> {
    let mut command = event.program("netbench");
    command.args(["conform", "--addr", address, "--key", "session/session.key.pem"]);
    command.args(["--campaign", "1", "--ca", Event::CA]);
    command.args(["--win-seconds", WIN_SECONDS]);
    command.args(["--ticket-key", "state/ticket-001.key.json", "--all", "--json"]);
    shell::run(&mut command)
}
