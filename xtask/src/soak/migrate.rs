//! Phones that change their network in the middle of a wave: SDK clients over QUIC move to another
//! address and port, again and again, and no shake is lost or drawn twice.

use super::{
    LEAD_SECONDS, arm, end,
    people::People,
    ready,
    rehearsal::{DEMO, Rehearsal},
};
use crate::event::{Event, Plan, Way};
use anyhow::{Context, Result};
use std::{
    collections::BTreeSet,
    fs,
    time::{Duration, Instant},
};

/// The crowd comes a second before T0 and moves in the middle four fifths of this time, which is
/// inside the ten seconds of the wave.
const SECONDS: &str = "12";
/// The node hands on its counters once a second.
const COUNTED_MAX: Duration = Duration::from_secs(3);

pub(super) fn run(clients: u64, moves: u64) -> Result<()> {
    // Several threads: a client that moves must still meet the thread that knows it.
    let mut event = ready("migrate", Plan { threads: 2, ..DEMO })?;
    arm(&event)?;
    std::thread::sleep(Duration::from_secs(LEAD_SECONDS - 1));
    let (count, times) = (clients.to_string(), moves.to_string());
    let options =
        ["--clients", &count, "--moves", &times, "--seconds", SECONDS, "--shake-every-ms", "400"];
    let target = event.load_options_over(Way::Quic);
    let mut crowd = People::start(&event, "crowd", &target, &options)?;
    let mut sources = BTreeSet::new();
    while crowd.is_running()? {
        see_sources(&event, &mut sources)?;
        std::thread::sleep(Duration::from_millis(20));
    }
    let played = crowd.finish()?;
    let answered = played.number("shakes")?;
    let drawn = counted_shakes(&event, answered)?;
    event.await_settled()?;
    let audit = end(&mut event, &["crowd.tickets"])?;
    let mut rehearsal = Rehearsal::new("migrate");
    rehearsal.tell("clients", clients);
    rehearsal.exactly("moves", played.number("moves")?, clients * moves);
    // Seen in the kernel's table, some between two looks not: the moves were real.
    let seen = sources.len() as u64;
    rehearsal.at_least("sources_seen", seen, clients * (moves + 1) * 9 / 10);
    rehearsal.tell("shakes_answered", answered);
    // Each SHAKE that reached the node was answered once, and none was sent a second time.
    rehearsal.exactly("shakes_at_the_node", drawn, answered);
    rehearsal.exactly("unanswered", played.number("unanswered")?, 0);
    rehearsal.exactly("sessions_quic", played.sessions("quic")?, clients);
    rehearsal.exactly("interruptions_quic", played.interruptions("quic")?, 0);
    rehearsal.exactly("errors", played.number("errors")?, 0);
    rehearsal.audited(&audit);
    rehearsal.judge()?;
    event.remove()
}

/// Adds the local addresses of the sockets that are connected to the node's QUIC port.
fn see_sources(event: &Event, sources: &mut BTreeSet<String>) -> Result<()> {
    let endpoint = event.endpoint(Way::Quic);
    let (_, port) = endpoint.rsplit_once(':').context("an endpoint has a port")?;
    let remote_end = format!(":{:04X}", port.parse::<u16>()?);
    for line in fs::read_to_string("/proc/net/udp")?.lines() {
        let mut words = line.split_whitespace().skip(1);
        if let (Some(local), Some(remote)) = (words.next(), words.next())
            && remote.ends_with(&remote_end)
        {
            sources.insert(local.to_owned());
        }
    }
    Ok(())
}

/// SHAKE frames that the node has seen, as soon as it has counted `expected`, or after a while.
fn counted_shakes(event: &Event, expected: u64) -> Result<u64> {
    let start = Instant::now();
    loop {
        let shakes = event.status()?["shakes"].as_u64().context("the status counts shakes")?;
        if shakes >= expected && start.elapsed() > Duration::from_secs(2) {
            return Ok(shakes);
        }
        if start.elapsed() > COUNTED_MAX {
            return Ok(shakes);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
