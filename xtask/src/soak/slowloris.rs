//! Thousands of connections held half-way, and legitimate clients that come over TCP, then over
//! TLS. `netbench slowloris` attacks, measures and judges; here is the node.

use super::{
    ready,
    rehearsal::{DEMO, Rehearsal},
};
use crate::event::{Event, Plan, Way};
use anyhow::{Context, Result};
use serde_json::Value;

pub(super) fn run(only: Option<Way>, connections: u64, rounds: u64, release: bool) -> Result<()> {
    let mut rehearsal = Rehearsal::new("slowloris");
    rehearsal.tell("connections", connections);
    for way in [Way::Tcp, Way::Tls].into_iter().filter(|way| only.is_none_or(|only| only == *way)) {
        // Budgets as they are by default: what is held is less than may wait.
        let event = ready("slowloris", Plan { release, ..DEMO })?;
        let result = attack(&event, way, connections, rounds)?;
        let key = |what: &str| format!("{}_{what}", way.scheme());
        let keys = ["p99_us_without", "p99_us_with", "ratio_with", "ratio_control", "visits"];
        let bytes =
            ["bytes_per_connection", "secured_bytes_per_connection", "left_bytes_per_connection"];
        for name in keys.into_iter().chain(["held_at_the_server_min"]).chain(bytes) {
            rehearsal.tell(&key(name), result[name].clone());
        }
        let problems = result["problems"].as_array().context("the report lists problems")?;
        for problem in problems {
            println!("{}: {problem}", way.scheme());
        }
        rehearsal.exactly(&key("problems"), problems.len() as u64, 0);
        event.remove()?;
    }
    rehearsal.judge()
}

fn attack(event: &Event, way: Way, connections: u64, rounds: u64) -> Result<Value> {
    let mut netbench = event.program("netbench");
    netbench.arg("slowloris").args(event.load_options_over(way)).arg("--json");
    netbench.args(["--plain", &event.endpoint(Way::Tcp), "--tls", &event.endpoint(Way::Tls)]);
    netbench.args(["--connections", &connections.to_string(), "--rounds", &rounds.to_string()]);
    netbench.args(["--server-pid", &event.access_id()?.to_string()]);
    let output = netbench.stderr(std::process::Stdio::inherit()).output()?;
    // It prints its report, and fails, when somebody was harmed.
    let text = String::from_utf8(output.stdout)?;
    let line = text.lines().last().context("netbench printed nothing")?;
    println!("{}: {line}", way.scheme());
    Ok(serde_json::from_str(line)?)
}
