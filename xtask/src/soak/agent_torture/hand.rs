//! The hand that torments: signals to agents, and requests for other ones, while a load runs.

use super::torment::{Done, Swaps, Torment};
use crate::{
    bad_agent::{self, Manner},
    event::Event,
    process,
};
use anyhow::{Context, Result, bail};
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

/// From one round of kills to the next.
const KILL_EVERY: Duration = Duration::from_millis(200);
/// How often it is looked for agents that are not stopped.
const STOP_EVERY: Duration = Duration::from_millis(20);
/// A good agent serves within this time, whatever came before it.
const RELIEF_MAX: Duration = Duration::from_secs(20);
/// Between two requests for a good one.
const AGAIN: Duration = Duration::from_millis(100);
/// What the node's metrics hand on once a second is there after this time.
const COUNTED: Duration = Duration::from_millis(1_100);

/// Starts agents of a certain manner, and torments them.
pub(super) struct Hand {
    manner: PathBuf,
    agent: PathBuf,
    counted: Done,
    /// Agents that were stopped in this window.
    stopped: Vec<u32>,
}

impl Hand {
    /// From now on the node of `event`, which does not run yet, starts agents by us.
    pub(super) fn new(event: &mut Event) -> Result<Self> {
        let (manner, script) = (event.path("manner"), event.path("agent.sh"));
        let agent = event.agent_program();
        bad_agent::write_manner(&manner, Manner::Honest, &agent)?;
        let program = process::this_program()?;
        let text = format!(
            "#!/bin/sh\nexec '{}' bad-agent --manner '{}' \"$@\"\n",
            program.display(),
            manner.display()
        );
        fs::write(&script, text)?;
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
        event.start_agent_by(script);
        Ok(Self { manner, agent, counted: Done::default(), stopped: Vec::new() })
    }

    /// Before a window of `torment`.
    pub(super) fn prepare(&mut self, event: &Event, torment: Torment) -> Result<()> {
        self.counted = self.read(event)?;
        bad_agent::write_manner(&self.manner, torment.manner(), &self.agent)?;
        if torment.serves() {
            let (code, answer) = event.post("/agent/swap")?;
            if code != 200 {
                bail!("such an agent is refused: {answer}");
            }
        }
        Ok(())
    }

    /// Torments while `work` is done.
    pub(super) fn during<R>(
        &mut self,
        event: &Event,
        torment: Torment,
        swaps: Swaps,
        work: impl FnOnce() -> Result<R>,
    ) -> Result<(R, Done)> {
        let over = AtomicBool::new(false);
        let stopped = &mut self.stopped;
        thread::scope(|scope| {
            let signals = scope.spawn(|| signals(event, torment, stopped, &over));
            let successors = scope.spawn(|| successors(event, swaps, &over));
            let result = work();
            over.store(true, Relaxed);
            let mut done = Done::default();
            for thread in [signals, successors] {
                done.add(&thread.join().ok().context("a thread panicked")??);
            }
            Ok((result?, done))
        })
    }

    /// After a window: whoever is stopped goes on, and a good agent serves. What the node counted.
    pub(super) fn relieve(&mut self, event: &Event) -> Result<Done> {
        bad_agent::write_manner(&self.manner, Manner::Honest, &self.agent)?;
        for id in self.stopped.drain(..) {
            // It may have been ended meanwhile.
            signal("CONT", id);
        }
        thread::sleep(COUNTED);
        let now = self.read(event)?;
        let before = self.counted;
        let start = Instant::now();
        loop {
            let (code, answer) = event.post("/agent/swap")?;
            if code == 200 {
                break;
            }
            if start.elapsed() > RELIEF_MAX {
                bail!("no good agent serves after {RELIEF_MAX:?}: {answer}");
            }
            thread::sleep(AGAIN);
        }
        Ok(Done {
            lost: now.lost - before.lost,
            silent: now.silent - before.silent,
            forged: now.forged - before.forged,
            unanswered: now.unanswered - before.unanswered,
            ..Done::default()
        })
    }

    /// What the node has counted, and said, since it was started.
    fn read(&self, event: &Event) -> Result<Done> {
        let log = fs::read_to_string(event.path("access.log")).context("the node's log")?;
        let lost = log.lines().filter(|line| line.contains("agent_lost"));
        Ok(Done {
            lost: lost.clone().count() as u64,
            silent: lost.filter(|line| line.contains("was silent for")).count() as u64,
            forged: event.metric("spool_forged_answers_total")?,
            unanswered: event.metric("vets_expired_total")? + event.metric("vets_unasked_total")?,
            ..Done::default()
        })
    }
}

impl Drop for Hand {
    fn drop(&mut self) {
        // A stopped process would outlive its node.
        for id in self.stopped.drain(..) {
            signal("CONT", id);
        }
    }
}

/// Kills, or stops, the agents of the node until it is `over`.
fn signals(
    event: &Event,
    torment: Torment,
    stopped: &mut Vec<u32>,
    over: &AtomicBool,
) -> Result<Done> {
    let node = event.access_id()?;
    let mut done = Done::default();
    while !over.load(Relaxed) {
        match torment {
            Torment::Killed => {
                done.kills +=
                    children(node)?.into_iter().filter(|id| signal("KILL", *id)).count() as u64;
                thread::sleep(KILL_EVERY);
            }
            Torment::Stopped => {
                for id in children(node)? {
                    if !stopped.contains(&id) && signal("STOP", id) {
                        stopped.push(id);
                        done.stops += 1;
                    }
                }
                thread::sleep(STOP_EVERY);
            }
            _ => break,
        }
    }
    Ok(done)
}

/// Asks for one agent after the other, so many, or until it is `over`.
fn successors(event: &Event, swaps: Swaps, over: &AtomicBool) -> Result<Done> {
    let mut done = Done::default();
    while swaps.count.map_or_else(|| !over.load(Relaxed), |count| done.swaps < count) {
        thread::sleep(swaps.every);
        match event.post("/agent/swap")? {
            (200, _) => done.swaps += 1,
            (_, answer) if swaps.count.is_some() => bail!("a good agent is refused: {answer}"),
            (_, answer) => {
                done.refusals += 1;
                done.versions_refused += u64::from(answer.contains("speaks version"));
            }
        }
    }
    Ok(done)
}

/// The processes whose parent is `parent`, those that have ended left out.
fn children(parent: u32) -> Result<Vec<u32>> {
    let mut children = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // It may end between two lines of ours.
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        if is_living_child(&stat, parent) {
            children.push(id);
        }
    }
    Ok(children)
}

/// Whether the process whose `/proc/N/stat` this is lives and has this parent.
fn is_living_child(stat: &str, parent: u32) -> bool {
    // "pid (name) state parent ..."; a name may have brackets of its own.
    let mut fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let state = fields.next();
    state != Some("Z") && fields.next().and_then(|id| id.parse().ok()) == Some(parent)
}

/// Sends a signal; whether there was somebody to get it.
fn signal(name: &str, id: u32) -> bool {
    let mut kill = Command::new("kill");
    kill.arg(format!("-{name}")).arg(id.to_string()).stderr(Stdio::null());
    kill.status().is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_living_child_is_known_by_its_line() {
        assert!(is_living_child("7 (yao-agent) S 3 7 7 0", 3));
        assert!(is_living_child("7 (a) b) R 3 7 7 0", 3));
        assert!(!is_living_child("7 (yao-agent) Z 3 7 7 0", 3), "it has ended");
        assert!(!is_living_child("7 (yao-agent) S 4 7 7 0", 3));
        assert!(!is_living_child("", 3));
        let own = std::process::id();
        let mut sleeper = Command::new("sleep").arg("60").spawn().expect("it starts");
        let found = children(own).expect("readable");
        sleeper.kill().expect("it runs");
        sleeper.wait().expect("it ended");
        assert!(found.contains(&sleeper.id()));
    }
}
