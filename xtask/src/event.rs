//! A whole event in a directory of its own: seeds, keys, configuration, ledger, node and agent. The
//! demo and the soaks drive it.

mod files;
mod loads;

use crate::{
    http, ports,
    process::{self, Process},
    shell,
};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use yao_protocol::WallTime;

/// How often a node is asked how far it is.
const LOOK: Duration = Duration::from_millis(10);

/// A way into the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Way {
    /// Plain TCP.
    Tcp,
    /// TLS 1.3 over TCP.
    Tls,
    /// QUIC.
    Quic,
}

impl Way {
    /// Every way, in the order of `Event`'s addresses.
    pub(crate) const ALL: [Self; 3] = [Self::Tcp, Self::Tls, Self::Quic];

    /// The scheme of its endpoints, which is also the ready line's key.
    pub(crate) const fn scheme(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Quic => "quic",
        }
    }
}

/// How an event differs from another.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Campaign file, relative to the repository.
    pub(crate) campaign_file: &'static str,
    /// Its id, whatever the file says.
    pub(crate) campaign: u64,
    /// The node's shard.
    pub(crate) shard: u32,
    /// How much faster than the clock the wave runs.
    pub(crate) factor: u32,
    /// Least time between two shakes of a connection, ms.
    pub(crate) shake_interval_ms: u32,
    /// Silence after which the node closes a connection, ms.
    pub(crate) heartbeat_ms_max: u32,
    /// Shard threads of the node.
    pub(crate) threads: u16,
    /// Wall time after the wave's end in which packets may still be taken, seconds.
    pub(crate) grace_seconds: u32,
    /// Whether optimised binaries are used.
    pub(crate) release: bool,
    /// Whether threads of the node may be panicked.
    pub(crate) fail_points: bool,
    /// More sections of the node's configuration, as TOML.
    pub(crate) sections: &'static str,
}

impl Plan {
    /// campaigns/demo.toml: 10,000 packets in ten seconds, at the pace of the clock.
    pub(crate) const DEMO: Self = Self {
        campaign_file: "campaigns/demo.toml",
        campaign: 1,
        shard: 0,
        factor: 1,
        shake_interval_ms: 200,
        heartbeat_ms_max: 300_000,
        threads: 2,
        grace_seconds: 3,
        release: false,
        fail_points: false,
        sections: "",
    };
}

/// Which generation of packets the node serves, and where its files lie.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Generation {
    /// Folder of seeds, keys and manifest.
    pub(crate) seeds: &'static str,
    /// The node's shard.
    pub(crate) shard: u32,
    /// The wave of the schedule.
    pub(crate) wave: u16,
    /// The node's state directory.
    pub(crate) state: &'static str,
    /// The schedule's file.
    pub(crate) schedule: &'static str,
}

/// How one life of the node differs from the plan.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Life<'a> {
    /// Keys of its configuration: "section.key", and a value in TOML.
    pub(crate) overrides: &'a [(&'a str, &'a str)],
    /// Descriptors that it may have; as many as this user may have when `None`.
    pub(crate) descriptors_max: Option<u32>,
    /// Whether it makes and takes reconnect tickets.
    pub(crate) reconnect: bool,
}

impl Life<'_> {
    /// Not at all.
    pub(crate) const PLAIN: Self = Self { overrides: &[], descriptors_max: None, reconnect: true };
}

/// A prepared event; its servers end with it.
pub(crate) struct Event {
    plan: Plan,
    directory: PathBuf,
    binaries: PathBuf,
    ledger: Option<Process>,
    access: Option<Process>,
    ledger_address: String,
    /// Where the node listens, one address for each of [`Way::ALL`].
    addresses: [String; 3],
    admin_address: String,
    /// What the ledger is started with, besides its files.
    ledger_options: Vec<String>,
    /// Folder of seeds, keys and manifest.
    seeds: &'static str,
    /// The schedule's file.
    schedule: &'static str,
    /// The wave that it arms.
    wave: u16,
    /// The node's state directory.
    state: PathBuf,
    /// The agent's unix socket.
    socket: PathBuf,
    /// What the node is started with, besides its own environment.
    access_environment: Vec<(&'static str, OsString)>,
    /// The program, and its arguments, that starts the node.
    access_starter: Vec<OsString>,
    /// What the node starts as its agent, if it is not `yao-agent` itself.
    agent_starter: Option<PathBuf>,
}

impl Event {
    /// The node's state will lie at `state`, and the node be started with this environment.
    pub(crate) fn place_access(
        &mut self,
        state: PathBuf,
        environment: Vec<(&'static str, OsString)>,
    ) {
        self.state = state;
        self.access_environment = environment;
    }

    /// The node will be started by this program.
    pub(crate) fn start_access_by(&mut self, starter: Vec<OsString>) {
        self.access_starter = starter;
    }

    /// The node's next life starts this program as its agent.
    pub(crate) fn start_agent_by(&mut self, starter: PathBuf) {
        self.agent_starter = Some(starter);
    }

    /// The real agent.
    pub(crate) fn agent_program(&self) -> PathBuf {
        self.binaries.join("yao-agent")
    }

    /// TLS and QUIC will listen at this address, both.
    pub(crate) fn listen_at(&mut self, address: &str) {
        self.addresses[Way::Tls as usize] = address.to_owned();
        self.addresses[Way::Quic as usize] = address.to_owned();
    }

    /// The ledger will be started with these options, too.
    pub(crate) fn ledger_options(&mut self, options: &[&str]) {
        self.ledger_options = options.iter().map(|option| (*option).to_owned()).collect();
    }

    /// The node will serve this generation from a state of its own, once `init` was run.
    pub(crate) fn go_on_with(&mut self, generation: Generation) {
        let Generation { seeds, shard, wave, state, schedule } = generation;
        (self.seeds, self.schedule, self.wave) = (seeds, schedule, wave);
        (self.plan.shard, self.state) = (shard, state.into());
    }

    /// Where the ledger serves, "host:port".
    pub(crate) fn ledger_address(&self) -> &str {
        &self.ledger_address
    }

    /// The same as a URL.
    pub(crate) fn ledger_url(&self) -> String {
        format!("http://{}", self.ledger_address)
    }

    /// Builds the binaries and prepares everything up to the first start.
    pub(crate) fn prepare(name: &str, plan: Plan) -> Result<Self> {
        let binaries = build(plan.release)?;
        let event = Self::prepare_with(binaries, name, plan)?;
        let init = event.init()?;
        if !init.status.success() {
            bail!("yao-access init: {}", String::from_utf8_lossy(&init.stderr));
        }
        Ok(event)
    }

    /// The same with binaries that are there, and without `init`.
    pub(crate) fn prepare_with(binaries: PathBuf, name: &str, plan: Plan) -> Result<Self> {
        Self::prepare_in(&shell::target(), binaries, name, plan)
    }

    /// The same below a folder of the caller's.
    pub(crate) fn prepare_in(
        folder: &Path,
        binaries: PathBuf,
        name: &str,
        plan: Plan,
    ) -> Result<Self> {
        let directory = folder.join(format!("{name}-{}", std::process::id()));
        if directory.exists() {
            fs::remove_dir_all(&directory)?;
        }
        fs::create_dir_all(&directory)?;
        let event = Self {
            plan,
            directory,
            binaries,
            ledger: None,
            access: None,
            ledger_address: ports::lasting().to_string(),
            addresses: Way::ALL.map(|_| ports::lasting().to_string()),
            admin_address: ports::lasting().to_string(),
            ledger_options: Vec::new(),
            seeds: "seeds",
            schedule: "schedule.toml",
            wave: 0,
            state: "state".into(),
            socket: socket_path(),
            access_environment: Vec::new(),
            access_starter: Vec::new(),
            agent_starter: None,
        };
        event.make_seeds_and_keys()?;
        Ok(event)
    }

    /// Where everything of the event lies.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// A path inside it.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// One of our programs, with as many descriptors as this user may have.
    pub(crate) fn program(&self, name: &str) -> Command {
        self.program_by(&[], name, None)
    }

    /// The same, before (below 0) or behind everybody else on this machine: clients share no
    /// processor with their node. Who may not come before others runs beside them.
    pub(crate) fn program_at(&self, niceness: i8, name: &str) -> Command {
        let starter = ["nice", "-n", &niceness.to_string()].map(OsString::from);
        self.program_by(&starter, name, None)
    }

    /// The same, started by another program, and with so many descriptors.
    fn program_by(
        &self,
        starter: &[OsString],
        name: &str,
        descriptors_max: Option<u32>,
    ) -> Command {
        let mut command = Command::new("sh");
        let most = descriptors_max.map_or("$(ulimit -Hn)".to_owned(), |count| count.to_string());
        let script = format!("ulimit -n {most}; exec \"$0\" \"$@\"");
        command.args(["-c", &script]).args(starter);
        command.arg(self.binaries.join(name)).current_dir(&self.directory);
        command
    }

    /// Starts (or starts again) the ledger, on the port it had before.
    pub(crate) fn start_ledger(&mut self) -> Result<()> {
        let mut command = self.program("yao-ledger");
        command.args(["serve", "--listen", &self.ledger_address, "--database", "ledger.db"]);
        command.args(["--signing-key", "settlement.key.json", "--keys", "keys"]);
        command.args(["--manifest", "seeds/manifest.yaomanifest"]).args(&self.ledger_options);
        let (process, ready) = Process::serve("ledger", &mut command, &self.path("ledger.log"))?;
        self.ledger_address = text(&ready["http"])?;
        self.ledger = Some(process);
        Ok(())
    }

    /// Starts the ledger unless it runs.
    pub(crate) fn need_ledger(&mut self) -> Result<()> {
        if self.ledger.is_none() { self.start_ledger() } else { Ok(()) }
    }

    /// Starts (or starts again) the node, on the ports it had before.
    pub(crate) fn start_access(&mut self) -> Result<()> {
        self.start_access_as(Life::PLAIN)
    }

    /// The same, for a life of another kind.
    pub(crate) fn start_access_as(&mut self, life: Life<'_>) -> Result<()> {
        self.write_config(life.reconnect)?;
        let mut command = self.access_program(life.descriptors_max);
        command.args(["--config", "yao.toml"]);
        for (key, value) in life.overrides {
            let key = key.replace('.', "__").to_uppercase();
            command.env(format!("YAO__{key}"), value);
        }
        let (process, ready) = Process::serve("access", &mut command, &self.path("access.log"))?;
        for (address, way) in self.addresses.iter_mut().zip(Way::ALL) {
            *address = text(&ready[way.scheme()][0])?;
        }
        self.admin_address = text(&ready["admin"])?;
        self.access = Some(process);
        Ok(())
    }

    /// Whether the node runs; one that has ended by itself is forgotten.
    pub(crate) fn access_runs(&mut self) -> Result<bool> {
        let runs = self.access.as_mut().is_some_and(|access| access.is_running().unwrap_or(false));
        if !runs {
            self.access = None;
        }
        Ok(runs)
    }

    /// kill -9 of the node.
    pub(crate) fn kill_access(&mut self) -> Result<()> {
        self.access.take().context("the node runs")?.kill()
    }

    /// The same; whether it hit a node that had not ended by itself.
    pub(crate) fn strike_access(&mut self) -> Result<bool> {
        self.access.take().context("the node runs")?.strike()
    }

    /// kill -9 of the ledger; whether it hit one that had not ended by itself.
    pub(crate) fn strike_ledger(&mut self) -> Result<bool> {
        self.ledger.take().context("the ledger runs")?.strike()
    }

    /// kill -9 of the ledger.
    pub(crate) fn kill_ledger(&mut self) -> Result<()> {
        self.ledger.take().context("the ledger runs")?.kill()
    }

    /// kill -9 of the agent that serves now.
    pub(crate) fn kill_agent(&self) -> Result<u64> {
        self.signal_agent("KILL")
    }

    /// Sends a signal to the agent that serves now; returns its process id.
    pub(crate) fn signal_agent(&self, name: &str) -> Result<u64> {
        let status = self.status()?;
        let id = status["agent"]["pid"].as_u64().context("an agent runs")?;
        process::signal(name, u32::try_from(id)?)?;
        Ok(id)
    }

    /// Ends the node in order and says whether every client had left.
    pub(crate) fn stop_access(&mut self) -> Result<()> {
        self.access.take().context("the node runs")?.end()
    }

    /// Waits for a node that was told to end, and says how it did.
    pub(crate) fn await_access_end(&mut self) -> Result<ExitStatus> {
        self.access.take().context("the node runs")?.wait()
    }

    /// Ends the ledger in order.
    pub(crate) fn stop_ledger(&mut self) -> Result<()> {
        self.ledger.take().context("the ledger runs")?.end()
    }

    /// Ends what runs and removes the event's files.
    pub(crate) fn remove(&self) -> Result<()> {
        Ok(fs::remove_dir_all(&self.directory)?)
    }

    /// The node's `/status`.
    pub(crate) fn status(&self) -> Result<Value> {
        http::get(&self.admin_address, "/status")
    }

    /// Whether the node is ready, and if not, why.
    pub(crate) fn readiness(&self) -> Result<(u16, String)> {
        http::look(&self.admin_address, "/readyz")
    }

    /// What the ledger holds, a row for each packet.
    pub(crate) fn ledger_rows(&self) -> Result<Vec<Value>> {
        let rows = http::get(&self.ledger_address, "/v1/audit/opens?limit=10000")?;
        rows.as_array().cloned().context("the ledger gives a list")
    }

    /// One of the node's metrics, without labels.
    pub(crate) fn metric(&self, name: &str) -> Result<u64> {
        let text = http::get_text(&self.admin_address, "/metrics")?;
        let prefix = format!("yao_access_{name} ");
        let value = text.lines().find_map(|line| line.strip_prefix(&prefix));
        let value = value.with_context(|| format!("the node has no metric {name}"))?;
        Ok(value.trim().parse()?)
    }

    /// Status code and text of a POST to the node's admin port.
    pub(crate) fn post(&self, path: &str) -> Result<(u16, String)> {
        http::post(&self.admin_address, path)
    }

    /// Panics a thread of the node, which must allow it.
    pub(crate) fn panic_thread(&self, thread: u16) -> Result<()> {
        http::accepted(&self.admin_address, &format!("/fail-point/panic/{thread}"))
    }

    /// A shell command that posts to the node's admin port.
    pub(crate) fn post_command(&self, path: &str) -> Result<String> {
        let program = process::this_program()?;
        Ok(format!("'{}' post {} '{path}'", program.display(), self.admin_address))
    }

    /// Where clients connect over `way`, as an endpoint.
    pub(crate) fn endpoint(&self, way: Way) -> String {
        let address = &self.addresses[way as usize];
        format!("{}://{address}", way.scheme())
    }

    /// The node's process id.
    pub(crate) fn access_id(&self) -> Result<u32> {
        Ok(self.access.as_ref().context("the node runs")?.id())
    }

    /// The certificate whose owner signed the node's.
    pub(crate) const CA: &str = "certificates/ca.pem";

    /// Waits until an agent serves.
    pub(crate) fn await_agent(&self) -> Result<()> {
        self.await_status("an agent that serves", Duration::from_secs(20), |status| {
            status["agent"]["state"] == "serving"
        })
    }

    /// Waits until packets wait for somebody to win them.
    pub(crate) fn await_packets(&self) -> Result<()> {
        self.await_status("packets that wait", Duration::from_secs(20), |status| {
            status["waves"][0]["wave_queued"].as_u64().is_some_and(|count| count > 0)
        })
    }

    /// Waits until settlement has answered every open that was acknowledged.
    pub(crate) fn await_settled(&self) -> Result<()> {
        self.await_status("every open to be settled", Duration::from_secs(60), |status| {
            let spool = &status["spool"];
            let next = spool["next_sequence"].as_u64().unwrap_or(0);
            spool["watermark"].as_u64().is_some_and(|watermark| watermark + 1 >= next)
        })
    }

    fn await_status(
        &self,
        what: &str,
        time_max: Duration,
        holds: impl Fn(&Value) -> bool,
    ) -> Result<()> {
        let start = Instant::now();
        loop {
            let status = self.status();
            if status.as_ref().is_ok_and(&holds) {
                return Ok(());
            }
            if start.elapsed() > time_max {
                let status = status.map_or_else(|error| error.to_string(), |s| s.to_string());
                bail!("waited {time_max:?} for {what} in vain; the last status: {status}");
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Waits until the first wave is over.
    pub(crate) fn await_closed(&self) -> Result<()> {
        self.await_status("the wave to close", Duration::from_secs(10), |status| {
            status["waves"][0]["state"] == "closed"
        })
    }

    /// Runs the audit and returns its verdict object, balanced or not.
    pub(crate) fn audit(&self, ticket_logs: &[&str]) -> Result<Value> {
        self.audit_with(ticket_logs, &[])
    }

    /// The same with more options.
    pub(crate) fn audit_with(&self, ticket_logs: &[&str], options: &[&str]) -> Result<Value> {
        let mut command = self.program("netbench");
        command.args(["audit", "--manifest", "seeds/manifest.yaomanifest", "--seeds", "seeds"]);
        command.args(["--keys", "keys", "--schedule", "schedule.toml", "--state"]);
        command.arg(&self.state);
        command.args(["--ledger", &format!("http://{}", self.ledger_address), "--json"]);
        command.args(options);
        for log in ticket_logs {
            command.args(["--tickets", log]);
        }
        let output = command.stderr(std::process::Stdio::inherit()).output()?;
        let text = String::from_utf8(output.stdout)?;
        let line = text.lines().last().context("the audit printed nothing")?;
        serde_json::from_str(line).context("the audit's last line is JSON")
    }
}

/// This instant and `seconds` more.
pub(crate) fn wall_time_in(seconds: u64) -> Result<WallTime> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    Ok(WallTime(u64::try_from(now.as_micros())?).plus_us(seconds * 1_000_000))
}

fn text(value: &Value) -> Result<String> {
    Ok(value.as_str().context("the ready line names an address")?.to_owned())
}

/// A unix socket's path is short: 107 bytes at most, wherever the repository lies.
fn socket_path() -> PathBuf {
    static EVENTS: AtomicU32 = AtomicU32::new(0);
    let event = EVENTS.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("yao-agent-{}-{event}.sock", std::process::id()))
}

/// Builds our programs and says where they are.
pub(crate) fn build(release: bool) -> Result<PathBuf> {
    let mut command = shell::cargo();
    command.args(["build", "--bins"]);
    for package in ["yao-access", "yao-agent", "yao-ledger", "yao-seedgen", "yao-bench"] {
        command.args(["--package", package]);
    }
    if release {
        command.arg("--release");
    }
    shell::run(&mut command)?;
    Ok(binaries(release))
}

/// Where cargo puts our programs.
pub(crate) fn binaries(release: bool) -> PathBuf {
    shell::target().join(if release { "release" } else { "debug" })
}
