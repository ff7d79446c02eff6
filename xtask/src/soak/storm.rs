//! A reconnect storm: every connection over TCP and TLS is cut at once, and SDK clients return with
//! their own policy. All are back in time, newcomers are let in no faster than the budget says, and
//! connections that were not cut hardly notice.

use super::{
    people::{self, People, now_us},
    ready,
    rehearsal::{DEMO, Rehearsal, STREAM_THREAD},
    windows::Ratio,
};
use crate::{
    event::{Event, Plan, Way},
    shell,
};
use anyhow::{Context, Result};
use serde_json::Value;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// Newcomers a second. The burst is part of what a second may see. The whole crowd comes from four
/// addresses, as from behind a carrier's NAT. Who finds no room is told a shorter window than the
/// default, whose end would be past [`BACK_MS_MAX`].
const BUDGET: f64 = 2_500.0;
const SECTIONS: &str = "[admission]\nconnections_max = 20000\nhandshakes_per_second = 2500\n\
                        burst = 250\nper_address = 5000\n\
                        return_ms_min = 1000\nreturn_ms_jitter = 10000\n";
/// How far above the budget a second may be.
const OVER_BUDGET_MAX: f64 = 1.2;
/// Everybody is back within this time of the cut, ms.
const BACK_MS_MAX: f64 = 30_000.0;
/// The p99 of untouched connections may rise so many times.
const RATIO_MAX: f64 = 2.0;
/// Connections that no cut touches: over QUIC, whose thread is another. Fewer than the burst.
const UNTOUCHED: &str = "200";
/// The first of their users: far from the crowd's.
const OTHER_USERS: u64 = 10_000_000;
/// Their shakes a second, all together.
const RATE: &str = "1000";
/// How long they are measured, s: longer than the clients' return takes.
const MEASURED: &str = "20";
/// The wait before that, s, in which they connect.
const WARM: &str = "3";
/// A session that lasted so long was a good one to the SDK, which then forgets earlier failures.
const STABLE: Duration = Duration::from_secs(31);
/// After this long the node has handed on what it counted.
const COUNTED: Duration = Duration::from_millis(1_500);
/// Nobody is waited for longer, behind a measurement.
const AWAY_MAX: Duration = Duration::from_secs(40);
/// How often the node's counter is read; it is handed on once a second.
const SAMPLE: Duration = Duration::from_millis(20);

pub(super) fn run(clients: u64, rounds: u64, release: bool) -> Result<()> {
    let plan = Plan { release, sections: SECTIONS, shake_interval_ms: 0, ..DEMO };
    let event = Arc::new(ready("storm", plan)?);
    let count = clients.to_string();
    // Two measurements, a return and a rest for each round, and the time to come.
    let seconds = (40 + rounds * 90).to_string();
    let options =
        ["--clients", &count, "--seconds", &seconds, "--shake-every-ms", "20000", "--sdk-back-off"];
    let target = event.crowd_options_over(&[Way::Tcp, Way::Tls]);
    let crowd = People::start_behind(&event, "crowd", &target, &options)?;
    people::await_users(&event, clients, Duration::from_secs(90))?;
    let mut cuts = Vec::new();
    for round in 1..=rounds {
        thread::sleep(STABLE);
        let cut = cut(&event, clients)?;
        println!(
            "round {round}: p99 {} us without, {} us with the storm, at most {:.0} accepted in a \
             second",
            cut.p99_before, cut.p99_during, cut.accepted_per_second
        );
        cuts.push(cut);
    }
    let played = crowd.finish()?;
    let mut rehearsal = Rehearsal::new("storm");
    rehearsal.tell("clients", clients);
    rehearsal.tell("rounds", rounds);
    for (round, cut) in cuts.iter().enumerate() {
        let key = |what: &str| format!("cut_{}_{what}", round + 1);
        let returns = played.returns(&["tcp", "tls"], cut.at_us);
        rehearsal.exactly(&key("were_there"), returns.len() as u64, clients);
        rehearsal.at_most(&key("all_back_ms"), people::last_ms(&returns)? as f64, BACK_MS_MAX);
        let over = cut.accepted_per_second / BUDGET;
        rehearsal.at_most(&key("accepts_by_budget"), over, OVER_BUDGET_MAX);
        // All came back through the door that was watched.
        rehearsal.at_least(&key("accepted"), cut.accepted, clients);
        rehearsal.tell(&key("untouched_p99_us_before"), cut.p99_before);
        rehearsal.tell(&key("untouched_p99_us_during"), cut.p99_during);
        rehearsal.exactly(&key("untouched_troubles"), cut.troubles, 0);
    }
    let p99s = |of: fn(&Cut) -> u64| cuts.iter().map(of).collect::<Vec<_>>();
    let ratio = Ratio::of(&p99s(|cut| cut.p99_during), &p99s(|cut| cut.p99_before));
    rehearsal.at_most("untouched_p99_ratio_median", ratio.median, RATIO_MAX);
    rehearsal.judge()?;
    event.remove()
}

struct Cut {
    at_us: u64,
    p99_before: u64,
    p99_during: u64,
    /// Shakes of untouched connections without a good answer, and such connections lost.
    troubles: u64,
    /// The most in any second.
    accepted_per_second: f64,
    accepted: u64,
}

/// One round: the untouched connections alone, and then while everybody else returns.
fn cut(event: &Arc<Event>, clients: u64) -> Result<Cut> {
    let before = untouched(event)?;
    let during = {
        let event = Arc::clone(event);
        thread::spawn(move || untouched(&event))
    };
    let others: u64 = UNTOUCHED.parse()?;
    people::await_users(event, clients + others, Duration::from_secs(10))?;
    // The warm-up is over when the measurement begins, and not before.
    thread::sleep(Duration::from_secs(WARM.parse()?));
    let sampler = Sampler::start(Arc::clone(event))?;
    let at_us = now_us();
    event.panic_thread(STREAM_THREAD)?;
    let during = during.join().ok().context("the thread of the load panicked")??;
    sampler.await_accepted(event, clients)?;
    thread::sleep(COUNTED);
    let (accepted, accepted_per_second) = sampler.finish()?;
    let p99 = |result: &Value| result["latency_us"]["p99"].as_u64().context("no p99");
    let troubles = |result: &Value| result["errors"].as_u64().context("no errors");
    Ok(Cut {
        at_us,
        p99_before: p99(&before)?,
        p99_during: p99(&during)?,
        troubles: troubles(&before)? + troubles(&during)?,
        accepted_per_second,
        accepted,
    })
}

fn untouched(event: &Event) -> Result<Value> {
    // What its clients wait for a processor, the node cannot help.
    let mut netbench = event.program_at(-10, "netbench");
    netbench.arg("shake").args(event.load_options_from(Way::Quic, OTHER_USERS));
    netbench.args(["--connections", UNTOUCHED, "--rate", RATE, "--warm", WARM]);
    let text = shell::output(netbench.args(["--seconds", MEASURED, "--json"]))?;
    let line = text.lines().last().context("netbench printed nothing")?;
    Ok(serde_json::from_str(line)?)
}

/// Reads how many connections the node has accepted, all the time.
struct Sampler {
    /// How many before anybody was cut off: of so many the first are back within milliseconds.
    first: u64,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<(u64, f64)>>,
}

impl Sampler {
    fn start(event: Arc<Event>) -> Result<Self> {
        let stop = Arc::<AtomicBool>::default();
        let stopped = Arc::clone(&stop);
        let start = Instant::now();
        let first = event.metric("accepts_total")?;
        let mut changes = vec![(start.elapsed(), first)];
        let thread = thread::spawn(move || {
            while !stopped.load(Relaxed) {
                let accepted = event.metric("accepts_total")?;
                if changes.last().is_none_or(|(_, last)| *last != accepted) {
                    changes.push((start.elapsed(), accepted));
                }
                thread::sleep(SAMPLE);
            }
            let accepted = changes.last().map_or(first, |(_, last)| *last) - first;
            Ok((accepted, most_per_second(&changes)))
        });
        Ok(Self { first, stop, thread })
    }

    /// Waits until everybody is back. Not for the number of users: the untouched ones who have left
    /// are among them for a while. Who does not come at all is missing in the count.
    fn await_accepted(&self, event: &Event, clients: u64) -> Result<()> {
        let start = Instant::now();
        while event.metric("accepts_total")? < self.first + clients && start.elapsed() < AWAY_MAX {
            thread::sleep(SAMPLE);
        }
        Ok(())
    }

    /// How many were accepted since the start, and the most of them in any second.
    fn finish(self) -> Result<(u64, f64)> {
        self.stop.store(true, Relaxed);
        self.thread.join().ok().context("the sampler panicked")?
    }
}

/// The steepest step between two changes of the counter, a second; nearer ones are taken together,
/// for a step is seen up to a sample late.
fn most_per_second(changes: &[(Duration, u64)]) -> f64 {
    let mut most = 0.0_f64;
    for (index, (from_at, from)) in changes.iter().enumerate() {
        let near = Duration::from_millis(900);
        let next = changes[index..].iter().find(|(at, _)| *at - *from_at >= near);
        if let Some((at, accepted)) = next {
            let rate = accepted.saturating_sub(*from) as f64 / (*at - *from_at).as_secs_f64();
            most = most.max(rate);
        }
    }
    most
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_steepest_second_counts() {
        let at = Duration::from_millis;
        let steps = [(at(0), 100), (at(1_000), 100), (at(2_000), 2_600), (at(3_000), 6_000)];
        assert!((most_per_second(&steps) - 3_400.0).abs() < 1.0);
        let close = [(at(0), 0), (at(50), 2_500), (at(1_050), 5_000)];
        assert!((most_per_second(&close) - 4_762.0).abs() < 1.0, "seconds, not moments");
        assert!(most_per_second(&steps[..1]) < 1.0);
    }
}
