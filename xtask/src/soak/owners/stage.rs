//! One shard, its ledger, and as many processes as want to issue from it: here, or in a network
//! namespace of their own.

use super::{
    elsewhere::{ELSEWHERE, HERE},
    player::Player,
};
use crate::{
    http,
    process::{self, Process},
    shell,
};
use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use serde_json::Value;
use std::{
    collections::VecDeque,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use yao_protocol::{
    CampaignId, WallTime, WaveIndex,
    schedule::{Schedule, WaveSchedule},
};

/// Of campaigns/owners.toml.
const CAMPAIGN: u64 = 93;
/// The wave began so long ago: packets are due, however many owners' reserves are skipped.
const BEGAN_SECONDS: u64 = 1_800;
/// Nothing takes longer, unless it is broken.
const PATIENCE: Duration = Duration::from_secs(20);
/// Packets of a grant, and its margin.
const GRANT: [(&str, &str); 2] = [("--grant-packets", "64"), ("--grant-margin-ms", "60")];
/// How long a grant holds when a trial waits for its end, ms.
const GRANT_MS_SHORT: &str = "500";
/// And when none does: an owner that a busy machine holds up must not lose its right by that.
const GRANT_MS_LONG: &str = "20000";
/// Session tokens that are made at once.
const TOKENS: u64 = 256;

/// Who says which packets may be issued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// The state directory.
    Local,
    /// The ledger.
    Fleet,
}

/// Where a process runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In our own network namespace.
    Here,
    /// In another one, from which the ledger can be reached.
    Elsewhere,
}

/// What became of a start.
pub(super) enum Started {
    /// It serves.
    Serving(Node),
    /// It ended, with this in its log.
    Refused(String),
}

/// A serving node.
pub(super) struct Node {
    process: Process,
    /// As it calls itself; nobody else does.
    pub(super) name: String,
    pub(super) place: Place,
    /// Where clients connect.
    pub(super) address: String,
    admin: String,
}

/// Everything of one case in one mode.
pub(super) struct Stage {
    pub(super) mode: Mode,
    directory: PathBuf,
    binaries: PathBuf,
    memory: PathBuf,
    /// Of the agents' sockets, whose paths are short.
    sockets: PathBuf,
    ledger: Option<Process>,
    ledger_address: String,
    elsewhere: Option<u32>,
    starts: u32,
    users: u64,
    /// Session tokens of the next users.
    tokens: VecDeque<String>,
}

/// What every stage shares: programs and seeds.
pub(super) struct Backstage {
    pub(super) directory: PathBuf,
    pub(super) binaries: PathBuf,
}

impl Backstage {
    /// Makes the seeds.
    pub(super) fn prepare(directory: &Path, binaries: &Path) -> Result<Self> {
        fs::create_dir_all(directory)?;
        let backstage = Self { directory: directory.to_owned(), binaries: binaries.to_owned() };
        let program = |name: &str| {
            let mut command = Command::new(binaries.join(name));
            command.current_dir(directory);
            command
        };
        shell::output(program("netbench").args(["keys", "--out", "session"]))?;
        let campaign = shell::root().join("campaigns/owners.toml");
        let mut generate = program("yao-seedgen");
        generate.arg("generate").arg("--campaign").arg(campaign);
        generate.args(["--secret", "campaign.secret", "--out", "seeds", "--shard", "0"]);
        shell::output(&mut generate)?;
        Ok(backstage)
    }
}

impl Stage {
    /// A fresh shard with its keys and, in fleet mode, its ledger. `short`: grants end while a
    /// trial waits for it.
    pub(super) fn set(
        backstage: &Backstage,
        name: &str,
        mode: Mode,
        elsewhere: Option<u32>,
        short: bool,
    ) -> Result<Self> {
        let directory = backstage.directory.join(name);
        fs::create_dir_all(directory.join("keys"))?;
        for entry in fs::read_dir(backstage.directory.join("seeds/keyset"))? {
            let path = entry?.path();
            let file = path.file_name().context("an entry has a name")?.to_owned();
            fs::copy(&path, directory.join("keys").join(file))?;
        }
        fs::write(directory.join("policy.toml"), "version = 1\ncue = 1\n")?;
        // On a disk it would be no witness.
        let memory = PathBuf::from(format!("/dev/shm/yao-owners-{}-{name}", std::process::id()));
        let sockets =
            std::env::temp_dir().join(format!("yao-owners-{}-{name}", std::process::id()));
        fs::create_dir_all(&sockets)?;
        let mut stage = Self {
            mode,
            directory,
            binaries: backstage.binaries.clone(),
            memory,
            sockets,
            ledger: None,
            ledger_address: String::new(),
            elsewhere,
            starts: 0,
            users: 0,
            tokens: VecDeque::new(),
        };
        stage.write_schedule()?;
        let config = stage.write_config("init", "state", Place::Here, "resume")?;
        let mut init = stage.program("yao-access", Place::Here)?;
        shell::output(init.arg("init").arg("--config").arg(config))?;
        if mode == Mode::Fleet {
            stage.start_ledger(if short { GRANT_MS_SHORT } else { GRANT_MS_LONG })?;
        }
        Ok(stage)
    }

    /// A path of this stage.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Whether anybody was started so far.
    pub(super) fn has_started(&self) -> bool {
        self.starts > 0
    }

    /// Whether processes can run in another network namespace.
    pub(super) fn has_elsewhere(&self) -> bool {
        self.elsewhere.is_some()
    }

    fn write_schedule(&self) -> Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
        let t0 = WallTime(u64::try_from(now.as_micros())? - BEGAN_SECONDS * 1_000_000);
        let wave = WaveSchedule { index: WaveIndex(0), t0: Some(t0), factor: 1, grace_seconds: 10 };
        let campaign = CampaignId(CAMPAIGN);
        let schedule = Schedule { version: 1, campaign, waves: vec![wave] };
        Ok(fs::write(self.path("schedule.toml"), schedule.encode())?)
    }

    fn start_ledger(&mut self, grant_ms: &str) -> Result<()> {
        let mut init = self.program("yao-ledger", Place::Here)?;
        init.args(["init", "--signing-key", "settlement.key.json", "--key-id", "1"]);
        shell::output(init.args(["--keys", "keys"]))?;
        let listen = if self.has_elsewhere() { HERE } else { "127.0.0.1" };
        let mut serve = self.program("yao-ledger", Place::Here)?;
        serve.args(["serve", "--listen", &format!("{listen}:0"), "--database", "ledger.db"]);
        serve.args(["--signing-key", "settlement.key.json", "--keys", "keys"]);
        serve.args(["--manifest", "../seeds/manifest.yaomanifest"]);
        serve.args(["--grant-ms", grant_ms]);
        serve.args(GRANT.iter().flat_map(|(key, value)| [*key, *value]));
        let (process, ready) = Process::serve("ledger", &mut serve, &self.path("ledger.log"))?;
        self.ledger_address = text(&ready["http"])?;
        self.ledger = Some(process);
        Ok(())
    }

    fn program(&self, name: &str, place: Place) -> Result<Command> {
        let binary = self.binaries.join(name);
        let mut command = match place {
            Place::Here => Command::new(binary),
            Place::Elsewhere => {
                let id = self.elsewhere.context("there is another namespace")?;
                let mut enter = Command::new("nsenter");
                enter.args(["--target", &id.to_string(), "--net"]).arg(binary);
                enter
            }
        };
        command.current_dir(&self.directory);
        Ok(command)
    }

    fn write_config(
        &self,
        name: &str,
        state: &str,
        place: Place,
        after_reboot: &str,
    ) -> Result<PathBuf> {
        let listen = if place == Place::Here { "127.0.0.1" } else { ELSEWHERE };
        let mode = if self.mode == Mode::Fleet { "fleet" } else { "local" };
        let socket = self.sockets.join(format!("{name}.sock"));
        let config = format!(
            "[node]\nname = \"{name}\"\nstate = \"{state}\"\nkeys = \"keys\"\n\
             [listen]\ntcp = [\"{listen}:0\"]\nthreads = 1\n\
             [shard]\nseed = \"../seeds/shard-00000.yaoseed\"\n\
             key = \"../seeds/shard-00000.yaokey\"\n\
             manifest = \"../seeds/manifest.yaomanifest\"\nschedule = \"schedule.toml\"\n\
             ownership = \"{mode}\"\nwitness = \"{memory}\"\nafter_reboot = \"{after_reboot}\"\n\
             [identity]\njwks = \"../session/session.jwks.json\"\n\
             [session]\nshake_interval_ms = 0\n\
             [agent]\nprogram = \"{agent}\"\nconfig = \"agent.toml\"\nsocket = \"{socket}\"\n\
             [admin]\nlisten = \"127.0.0.1:0\"\n",
            memory = self.memory.display(),
            agent = self.binaries.join("yao-agent").display(),
            socket = socket.display(),
        );
        let ledger =
            if self.ledger_address.is_empty() { "127.0.0.1:9" } else { &self.ledger_address };
        let agent =
            format!("[settlement]\nurl = \"http://{ledger}\"\n[policy]\nfile = \"policy.toml\"\n");
        fs::write(self.path("agent.toml"), agent)?;
        let path = self.path(&format!("{name}.toml"));
        fs::write(&path, config)?;
        Ok(path)
    }

    /// Starts a process that wants to issue from the directory `state`.
    pub(super) fn start(&mut self, state: &str, place: Place) -> Result<Started> {
        self.starts += 1;
        let name = format!("node-{}", self.starts);
        let config = self.write_config(&name, state, place, "resume")?;
        let log = self.path(&format!("{name}.log"));
        let mut command = self.program("yao-access", place)?;
        match Process::serve("access", command.arg("--config").arg(config), &log) {
            Ok((process, ready)) => {
                let (address, admin) = (text(&ready["tcp"][0])?, text(&ready["admin"])?);
                Ok(Started::Serving(Node { process, name, place, address, admin }))
            }
            Err(error) => {
                let text = fs::read_to_string(&log).unwrap_or_default();
                // A node that only takes too long has refused nothing.
                if !format!("{error:#}").contains("instead of serving") || text.is_empty() {
                    return Err(error);
                }
                Ok(Started::Refused(text))
            }
        }
    }

    /// The same, of one who has the right to.
    pub(super) fn start_owner(&mut self, state: &str, place: Place) -> Result<Node> {
        match self.start(state, place)? {
            Started::Serving(node) => Ok(node),
            Started::Refused(log) => bail!("the owner was refused:\n{log}"),
        }
    }

    /// A session of a new user at `node`.
    pub(super) fn player(&mut self, node: &Node) -> Result<Player> {
        if self.tokens.is_empty() {
            self.mint()?;
        }
        let token = self.tokens.pop_front().context("netbench mints as many as it is asked for")?;
        Player::connect(&node.address, CAMPAIGN, &token)
    }

    fn mint(&mut self) -> Result<()> {
        let mut mint = self.program("netbench", Place::Here)?;
        mint.args(["token", "mint", "--key", "../session/session.key.pem"]);
        mint.args(["--user", &(self.users + 1).to_string(), "--count", &TOKENS.to_string()]);
        self.tokens = shell::output(&mut mint)?.split_whitespace().map(str::to_owned).collect();
        self.users += TOKENS;
        Ok(())
    }

    /// Somebody new wins a packet of `node`: the ticket's bytes.
    pub(super) fn wins(&mut self, node: &Node) -> Result<Vec<u8>> {
        if let Some(ticket) = self.player(node)?.wins_within(PATIENCE)? {
            return Ok(ticket);
        }
        let log = node.process.log_tail();
        bail!("nobody wins of the owner within {PATIENCE:?}; {}\n{log}", self.tenures()?)
    }

    /// The ledger's tenures.
    pub(super) fn tenures(&self) -> Result<Value> {
        match self.mode {
            Mode::Local => Ok(Value::Null),
            Mode::Fleet => http::get(&self.ledger_address, "/v1/audit/grants?limit=10000"),
        }
    }

    /// The newest tenure.
    pub(super) fn tenure(&self) -> Result<Value> {
        let all = self.tenures()?;
        all.as_array().and_then(|all| all.last()).cloned().context("somebody was granted the shard")
    }

    /// Removes everything.
    pub(super) fn strike(mut self) -> Result<()> {
        if let Some(ledger) = self.ledger.take() {
            ledger.kill()?;
        }
        if self.memory.exists() {
            fs::remove_dir_all(&self.memory)?;
        }
        fs::remove_dir_all(&self.sockets)?;
        Ok(fs::remove_dir_all(&self.directory)?)
    }

    /// The kernel forgets the newest cursors, as a reboot makes it.
    pub(super) fn forget(&self) -> Result<()> {
        Ok(fs::remove_dir_all(&self.memory)?)
    }
}

impl Node {
    /// SIGKILL.
    pub(super) fn kill(self) -> Result<()> {
        self.process.kill()
    }

    /// SIGSTOP; every thread stands when this returns.
    pub(super) fn stop(&self) -> Result<()> {
        process::signal("STOP", self.process.id())?;
        let tasks = format!("/proc/{}/task", self.process.id());
        await_that("the stopped process", || {
            for entry in fs::read_dir(&tasks)? {
                let stat = fs::read_to_string(entry?.path().join("stat"))?;
                // "pid (name) T ..."
                if !stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" T")) {
                    return Ok(false);
                }
            }
            Ok(true)
        })
    }

    /// SIGCONT.
    pub(super) fn go_on(&self) -> Result<()> {
        process::signal("CONT", self.process.id())
    }

    /// What it says of itself; only of one that runs here.
    pub(super) fn status(&self) -> Result<Value> {
        if self.place == Place::Elsewhere {
            bail!("the admin port of the other namespace is its own");
        }
        http::get(&self.admin, "/status")
    }
}

/// Waits until `holds`.
pub(super) fn await_that(what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let start = Instant::now();
    while !holds()? {
        if start.elapsed() > PATIENCE {
            bail!("waited {PATIENCE:?} for {what} in vain");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

fn text(value: &Value) -> Result<String> {
    Ok(value.as_str().context("the ready line names an address")?.to_owned())
}
