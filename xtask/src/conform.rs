//! `cargo xtask conform`: `netbench conform` against our own node, over each way in that it has.
//!
//! No node can be asked for everything: it does not drain and serve, its spool is not full and
//! empty. So the node lives several times, each time prepared for some cases, and in the end every
//! case was green over every way that it is a rule of.

mod books;

use self::books::Books;
use crate::{
    event::{self, Event, Life, Plan, Way},
    shell,
};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::{
    fs,
    path::PathBuf,
    process::{Command, Output, Stdio},
    thread::{self, ScopedJoinHandle},
    time::{Duration, Instant},
};
use yao_protocol::{
    CampaignId, Epoch, ShardId,
    keys::{KeyOwner, PrivateKeyFile, PublicKeyFile, SignKey},
};

/// From now to T0, seconds.
const LEAD_SECONDS: u64 = 1;
/// Packets are there from the first second of the wave on.
const WIN_SECONDS: &str = "20";
/// Silence after which the node closes: longer than a frame's deadline, so that the two differ.
const HEARTBEAT_MS_MAX: u32 = 8_000;
/// A verdict is waited for as long as the configuration allows, ms: a busy machine is no agent
/// that says yes.
const VET_MS_MAX: &str = "1000";
/// Policy bans these users, one for each way.
const BANNED_FIRST: usize = 71;
/// Users of the ways, and of runs, are so far apart. Packets are made from their low 31 bits.
const USERS_APART: u64 = 1 << 16;
/// Sessions of the narrow node; newcomers and descriptors of the broken one.
const SESSIONS_MAX: &str = "40";
const NEWCOMERS_MAX: &str = "8";
const DESCRIPTORS_MAX: u32 = 96;
/// More than any disk has room for: the spool of such a node is full.
const SPOOL_BYTES_MAX: &str = "1000000000000000";
/// All sessions that shall see a drain stand within this time.
const GATHER_MAX: Duration = Duration::from_secs(90);
/// How often it is looked whether they do.
const LOOK: Duration = Duration::from_millis(50);

/// Runs every case; an error names how many are red, and what was asked nowhere.
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
    prepare(event)?;
    event.start_ledger()?;
    let mut runs = Runs { books: Books::default(), users: 0 };
    narrow(event, &mut runs)?;
    broken(event, &mut runs)?;
    ordinary(event, &mut runs)?;
    again(event, &mut runs)?;
    event.stop_ledger()?;
    runs.books.close()
}

/// Keys and rules beyond those of an ordinary event.
fn prepare(event: &Event) -> Result<()> {
    let mut second = event.program("netbench");
    second.args(["token", "keys", "--algorithm", "ES256", "--kid", "p256", "--out", "p256"]);
    shell::output(&mut second)?;
    let jwks = event.path("session").join("session.jwks.json");
    let read = |path: &PathBuf| -> Result<Value> { Ok(serde_json::from_slice(&fs::read(path)?)?) };
    let mut both = read(&jwks)?;
    let other = read(&event.path("p256").join("session.jwks.json"))?;
    let keys = both["keys"].as_array_mut().context("a JWKS has keys")?;
    keys.extend(other["keys"].as_array().into_iter().flatten().cloned());
    fs::write(&jwks, both.to_string())?;
    // Another node's ticket key, as its `init` would have made it.
    let (campaign, shard, epoch) = (CampaignId(1), ShardId(99), Epoch(1));
    let owner = KeyOwner::Ticket { campaign, shard, epoch };
    let seed = [99; 32];
    let key = SignKey::from_seed(&seed).public().to_bytes();
    let public = serde_json::to_string(&PublicKeyFile { owner, key })?;
    fs::write(event.path("keys").join("ticket-00099-001.pub.json"), public)?;
    let private = serde_json::to_string(&PrivateKeyFile { owner, seed })?;
    fs::write(event.path("other-ticket.key.json"), private)?;
    let banned = Way::ALL.map(banned_user).join(", ");
    Ok(fs::write(
        event.path("policy.toml"),
        format!("version = 1\ncue = 1\nbanned = [{banned}]\n"),
    )?)
}

fn banned_user(way: Way) -> String {
    (BANNED_FIRST + way as usize).to_string()
}

/// Before the wave: no room in the spool, few sessions, reconnect tickets that live for seconds;
/// and a drain that is too slow.
fn narrow(event: &mut Event, runs: &mut Runs) -> Result<()> {
    let overrides = [
        ("admin.fail_points", "true"),
        ("identity.reconnect", "{ keys = \"reconnect.json\", lifetime_seconds = 6 }"),
        ("listen.connections_max", SESSIONS_MAX),
        ("listen.endpoints", "[\"node-2.example:7000\", \"tls+quic://[2001:db8::1]:443\"]"),
        ("listen.quic_threads", "1"),
        ("listen.threads", "1"),
        ("spool.bytes_max", SPOOL_BYTES_MAX),
    ];
    event.start_access_as(Life { overrides: &overrides, ..Life::PLAIN })?;
    event.await_agent()?;
    let options = ["--no-wave", "--reconnect-seconds", "6", "--spool", "full"];
    let only = "W4-01,W4.8-02,W5.6-04,W9.3-03,W9.3-09,W9.4-11";
    runs.side_by_side(event, &[&options[..], &["--only", only]].concat(), None)?;
    // A QUIC connection has its place for a moment after its end: QUIC goes first, so that it is
    // over when the next ones come that way.
    for way in [Way::Quic, Way::Tcp, Way::Tls] {
        let room = ["--sessions-max", SESSIONS_MAX, "--only", "W9.6-01"];
        runs.one(event, way, &room)?;
    }
    // Of those who came by QUIC some may hold their places until they are missed: a client that
    // ends may not live to say so.
    event.kill_access()?;
    event.start_access_as(Life { overrides: &overrides, ..Life::PLAIN })?;
    let cut = ["--ending", "cut", "--drain-seconds", "1", "--only", "W9.6-04"];
    runs.side_by_side(event, &cut, Some("/drain?per_second=1&deadline_seconds=1"))?;
    let status = event.await_access_end()?;
    ensure!(status.code() == Some(4), "the node cut its clients, and ended with {status}");
    Ok(())
}

/// Before the wave: a spool that cannot be written, no reconnect tickets, few newcomers and
/// descriptors; and threads that die.
fn broken(event: &mut Event, runs: &mut Runs) -> Result<()> {
    let overrides = [
        ("admin.fail_points", "true"),
        ("admission.connections_max", NEWCOMERS_MAX),
        ("listen.quic_threads", "1"),
        ("listen.threads", "1"),
    ];
    let life =
        Life { overrides: &overrides, descriptors_max: Some(DESCRIPTORS_MAX), reconnect: false };
    event.start_access_as(life)?;
    event.await_agent()?;
    // No segment can be made where there is no directory.
    let (spool, away) = (event.path("state").join("spool"), event.path("state").join("away"));
    fs::rename(&spool, &away)?;
    for way in Way::ALL {
        let thread = usize::from(way == Way::Quic);
        let crash = event.post_command(&format!("/fail-point/panic/{thread}"))?;
        let descriptors = DESCRIPTORS_MAX.to_string();
        let only = "W4.8-04,W4.6-03,W9.4-10,W9.4-13,W9.6-01.descriptors,W9.6-02,W9.6-06";
        let options = ["--no-wave", "--newcomers-max", NEWCOMERS_MAX, "--spool", "fenced"];
        let ending = ["--ending", "crash", "--ending-command", &crash, "--only", only];
        let options = [&options[..], &["--descriptors-max", &descriptors], &ending];
        runs.one(event, way, &options.concat())?;
    }
    event.stop_access()?;
    Ok(fs::rename(&away, &spool)?)
}

/// The wave: first with an agent that is silent, then everything else; and a drain.
fn ordinary(event: &mut Event, runs: &mut Runs) -> Result<()> {
    let overrides = [("agent.vet_ms_max", VET_MS_MAX)];
    event.start_access_as(Life { overrides: &overrides, ..Life::PLAIN })?;
    event.await_agent()?;
    event.write_schedule(2, Some(event::wall_time_in(LEAD_SECONDS)?))?;
    let (code, answer) = event.post("/reload")?;
    if code != 200 {
        bail!("the schedule was refused: {answer}");
    }
    event.await_packets()?;
    event.signal_agent("STOP")?;
    let only = "W9.3-04,W9.3-08,W9.3-10.pending,W9.3-11,W9.4-01";
    let waiting = runs.side_by_side(event, &["--agent-paused", "--only", only], None);
    event.signal_agent("CONT")?;
    waiting?;
    runs.side_by_side(event, &["--win-seconds", WIN_SECONDS, "--ending", "drain"], Some("/drain"))?;
    let status = event.await_access_end()?;
    // Some cases stay to see what a client is told then, and are cut off.
    ensure!(status.code() == Some(3), "the node drained, and ended with {status}");
    Ok(())
}

/// After the wave: what was won is still won.
fn again(event: &mut Event, runs: &mut Runs) -> Result<()> {
    event.start_access()?;
    runs.side_by_side(event, &["--only", "W9.3-15"], None)?;
    event.stop_access()
}

/// The runs of netbench, and what they found.
struct Runs {
    books: Books,
    /// Runs so far: nobody is a user of two of them.
    users: u64,
}

impl Runs {
    /// One run over `way`.
    fn one(&mut self, event: &Event, way: Way, options: &[&str]) -> Result<()> {
        let output = self.command(event, way, options).output()?;
        self.books.enter(way, &output)
    }

    /// A run over each way, at the same time. `drain` is posted when all of them are ready for it.
    fn side_by_side(&mut self, event: &Event, options: &[&str], drain: Option<&str>) -> Result<()> {
        let outputs = thread::scope(|scope| -> Result<Vec<Output>> {
            let runs = Way::ALL.map(|way| {
                let mut command = self.command(event, way, options);
                if drain.is_some() {
                    command.args(["--ending-command", &rendezvous(way)]);
                }
                scope.spawn(move || command.output())
            });
            if let Some(path) = drain {
                let ready = await_ready(event, &runs)?;
                let (code, answer) = event.post(path)?;
                for file in ready {
                    fs::remove_file(file)?;
                }
                ensure!(code == 202, "the drain was answered {code}: {answer}");
            }
            runs.into_iter()
                .map(|run| Ok(run.join().expect("it only waits for a process")?))
                .collect()
        })?;
        for (way, output) in Way::ALL.into_iter().zip(&outputs) {
            self.books.enter(way, output)?;
        }
        Ok(())
    }

    fn command(&mut self, event: &Event, way: Way, options: &[&str]) -> Command {
        self.users += 1;
        let mut command = event.program("netbench");
        command.args(["conform", "--addr", &event.endpoint(way), "--ca", Event::CA]);
        command.args(["--key", "session/session.key.pem", "--campaign", "1"]);
        command.args(["--es256-key", "p256/session.key.pem", "--es256-kid", "p256"]);
        command.args(["--ticket-key", "state/ticket-001.key.json"]);
        command.args(["--other-ticket-key", "other-ticket.key.json"]);
        command.args(["--reconnect-keys", "reconnect.json"]);
        command.args(["--banned-user", &banned_user(way)]);
        command.args(["--wins-file", &format!("wins-{}.json", way.scheme())]);
        command.args(["--first-user", &(self.users * USERS_APART).to_string()]);
        command.arg("--json").args(options).stderr(Stdio::inherit());
        command
    }
}

/// Says that a run is ready for the drain, and ends when that was ordered.
fn rendezvous(way: Way) -> String {
    let file = ready_file(way);
    format!("touch {file}; while [ -e {file} ]; do sleep 0.02; done")
}

/// Made by a run that is ready for the drain; removed when that was ordered.
fn ready_file(way: Way) -> String {
    format!("ready-{}", way.scheme())
}

/// Waits until each run is ready for the drain, or over. Returns the files of those that are ready.
fn await_ready<T>(event: &Event, runs: &[ScopedJoinHandle<'_, T>; 3]) -> Result<Vec<PathBuf>> {
    let files = Way::ALL.map(|way| event.path(&ready_file(way)));
    let start = Instant::now();
    while !files.iter().zip(runs).all(|(file, run)| file.exists() || run.is_finished()) {
        ensure!(start.elapsed() < GATHER_MAX, "not ready for the drain after {GATHER_MAX:?}");
        thread::sleep(LOOK);
    }
    Ok(files.into_iter().filter(|file| file.exists()).collect())
}
