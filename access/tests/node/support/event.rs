//! A small event in a folder of its own: everything that a node is given, made as for a real one.

use super::{
    Node,
    identity::{Backend, write_certificate, write_jwks, write_secret},
};
use serde::Serialize;
use std::{
    cell::RefCell,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU64, Ordering},
    thread,
};
use tempfile::TempDir;
use toml::{Table, Value};
use yao_access::clock::Clock;
use yao_client::Trust;
use yao_protocol::{
    CampaignId, ShardId, WallTime, WaveIndex,
    reconnect::ReconnectKeyEntry,
    schedule::{Schedule, WaveSchedule},
};
use yao_seedgen::{Campaign, CampaignKeys, Plan, Secret, shard};

/// The only shard.
const SHARD: ShardId = ShardId(0);
/// How long a wave's packets may be taken after its end, seconds: longer than any test.
const GRACE_SECONDS: u32 = 600;
/// Lines of the log that a failed test shows.
const LOG_LINES: usize = 30;

/// One node, three sponsors, one wave of 2,000 packets in two seconds.
const CAMPAIGN: &str = r#"
name = "Test"
currency = "CNY"
exponent = 2
shards = 1
wins_per_user = 3
wins_per_sponsor = 1
ticket_lifetime = "72h"
sponsor = [
    { name = "First", share = "40%" },
    { name = "Second", share = "30%" },
    { name = "Third", share = "30%" },
]
[[wave]]
name = "two seconds"
t0 = "armed later"
budget = "2000.00"
packets = 2000
curve = [{ seconds = 2, per_second = 1000 }]
amounts = "uniform"
"#;

/// The configuration, but for what a test sets. No agent: opens wait in the spool.
const CONFIG: &str = r#"
[node]
name = "node"
state = "state"
keys = "keys"
[listen]
tcp = ["127.0.0.1:0"]
tls = ["127.0.0.1:0"]
quic = ["127.0.0.1:0"]
threads = 2
quic_threads = 2
[[tls.certificates]]
chain = "certificate.pem"
key = "certificate.key.pem"
[shard]
seed = "shard-00000.yaoseed"
key = "shard-00000.yaokey"
manifest = "manifest.yaomanifest"
schedule = "schedule.toml"
[identity]
jwks = "jwks.json"
[identity.reconnect]
keys = "reconnect.json"
[session]
shake_interval_ms = 0
[admin]
listen = "127.0.0.1:0"
"#;

/// See the module. Its folder goes with it.
pub(crate) struct Event {
    folder: TempDir,
    /// Unlike that of any other event on this machine.
    pub(crate) campaign: CampaignId,
    /// Signs session tokens; its public half is what the JWKS file holds.
    pub(crate) backend: Backend,
    /// Trust in the node's certificate.
    pub(crate) trust: Trust,
    config: RefCell<Table>,
}

impl Event {
    /// Makes seeds, keys, certificate and configuration, and runs `yao-access init`. The wave is
    /// not armed.
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        let backend = Backend::new("test-1");
        write_jwks(&path("jwks.json"), &[&backend]);
        write_reconnect_keys(&path("reconnect.json"), &[1]);
        let trust = write_certificate(&path("certificate.pem"), &path("certificate.key.pem"));
        let config = CONFIG.parse().expect("TOML");
        let campaign = unlike_any_other();
        let event = Self { folder, campaign, backend, trust, config: RefCell::new(config) };
        event.write_seeds();
        event.write_schedule(1, None);
        event.write_config();
        event.command(&["init"], &[]);
        event
    }

    /// A file of the event, by the name that the configuration has for it: `yao.toml`,
    /// `jwks.json`, `reconnect.json`, `certificate.pem`, `certificate.key.pem`, `schedule.toml`,
    /// `keys/`, `state/`; and `node.log`.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Sets `key`, such as "drain.per_second", in `yao.toml`; for the next start or reload.
    pub(crate) fn set(&self, key: &str, value: impl Serialize) {
        let value = Value::try_from(value).expect("a value of TOML");
        let (sections, key) = key.rsplit_once('.').expect("section.key");
        let mut config = self.config.borrow_mut();
        let mut table = &mut *config;
        for section in sections.split('.') {
            let entry = table.entry(section).or_insert_with(|| Value::Table(Table::new()));
            table = entry.as_table_mut().expect("a section is a table");
        }
        table.insert(key.to_owned(), value);
        drop(config);
        self.write_config();
    }

    /// Writes the schedule: the wave begins at `t0`, or is not armed. The version must rise for a
    /// node that runs.
    pub(crate) fn write_schedule(&self, version: u64, t0: Option<WallTime>) {
        let wave =
            WaveSchedule { index: WaveIndex(0), t0, factor: 1, grace_seconds: GRACE_SECONDS };
        let schedule = Schedule { version, campaign: self.campaign, waves: vec![wave] };
        fs::write(self.path("schedule.toml"), schedule.encode()).expect("a folder of ours");
    }

    /// The wave began a moment ago: a node that starts now releases packets.
    pub(crate) fn arm(&self) {
        self.write_schedule(2, Some(Clock::start().wall()));
    }

    /// Starts the node; returns when it listens.
    pub(crate) fn start(&self) -> Node<'_> {
        Node::start(self)
    }

    /// Runs `yao-access arguments... --config yao.toml` to its end, in this environment; it must
    /// succeed. Returns what it says.
    pub(crate) fn command(&self, arguments: &[&str], environment: &[(&str, &str)]) -> String {
        let mut command = self.program(arguments);
        let output = command.envs(environment.iter().copied()).output().expect("it starts");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?} ended with {}: {errors}", output.status);
        String::from_utf8(output.stdout).expect("text")
    }

    /// The program with its configuration, not yet started.
    pub(super) fn program(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_yao-access"));
        command.args(arguments).arg("--config").arg(self.path("yao.toml"));
        command
    }

    /// What the event's nodes have logged.
    pub(super) fn log(&self) -> String {
        fs::read_to_string(self.path("node.log")).unwrap_or_default()
    }

    fn write_config(&self) {
        let text = self.config.borrow().to_string();
        fs::write(self.path("yao.toml"), text).expect("a folder of ours");
    }

    fn write_seeds(&self) {
        let text = format!("id = {}\n{CAMPAIGN}", self.campaign);
        let plan = Plan::new(Campaign::parse(&text).expect("a campaign")).expect("a plan");
        let keys = CampaignKeys::new(Secret::new([7; 32]), self.campaign, *plan.digest());
        let sealed = shard::build(&plan, &keys, SHARD);
        let body = [sealed.header.as_slice(), sealed.body.as_slice()].concat();
        fs::write(self.path("shard-00000.yaoseed"), body).expect("a folder of ours");
        write_secret(&self.path("shard-00000.yaokey"), &json(&sealed.key));
        let manifest = plan.manifest(vec![sealed.entry]).encode(&keys.sign_key());
        fs::write(self.path("manifest.yaomanifest"), manifest).expect("a folder of ours");
        fs::create_dir(self.path("keys")).expect("a folder of ours");
        let public = self.path("keys").join(format!("campaign-{}.pub.json", self.campaign));
        fs::write(public, json(&keys.public_file())).expect("a folder of ours");
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if thread::panicking() {
            let log = self.log();
            let start = log.lines().count().saturating_sub(LOG_LINES);
            eprintln!("the end of the node's log:");
            log.lines().skip(start).for_each(|line| eprintln!("{line}"));
        }
    }
}

/// Writes the nodes' common keys of reconnect tickets, one of each id; the first signs.
pub(crate) fn write_reconnect_keys(path: &Path, ids: &[u32]) {
    let entry =
        |id: &u32| ReconnectKeyEntry { id: *id, key: [u8::try_from(*id).expect("small"); 32] };
    let entries: Vec<ReconnectKeyEntry> = ids.iter().map(entry).collect();
    write_secret(path, &json(&entries));
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("plain data")
}

/// Whoever runs at the same time has another process id; whoever ran before is gone.
fn unlike_any_other() -> CampaignId {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    CampaignId(u64::from(std::process::id()) << 16 | NEXT.fetch_add(1, Ordering::Relaxed))
}
