//! The servers under comparison: started, and certainly ended.

use super::{Scratch, free_port};
use crate::identity::create_keys;
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::{
    fs,
    io::{BufRead, BufReader},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use yao_protocol::{
    CampaignId, WallTime, WaveIndex,
    schedule::{Schedule, WaveSchedule},
};

const CAMPAIGN: &str = include_str!("../../../campaigns/compare.toml");
const CAMPAIGN_ID: u64 = 90;
/// A server must answer within this time.
const READY_MAX: Duration = Duration::from_secs(20);
/// Ports that an echo is offered.
const PORTS_TRIED: usize = 5;

/// A process that ends with us.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        if self.0.kill().is_ok() {
            self.0.wait().ok();
        }
    }
}

/// A bare epoll echo.
pub(super) struct Echo {
    server: Server,
    address: String,
}

impl Echo {
    pub(super) fn start(program: &Path) -> Result<Self> {
        // The port may be taken between our look and its bind: then another one is tried.
        let mut last = None;
        for _ in 0..PORTS_TRIED {
            match Self::start_on(program, free_port()?) {
                Ok(echo) => return Ok(echo),
                Err(error) => last = Some(error),
            }
        }
        Err(last.expect("at least one port was tried"))
    }

    fn start_on(program: &Path, port: u16) -> Result<Self> {
        let child = Command::new("sh")
            .args(["-c", "ulimit -n $(ulimit -Hn); exec \"$0\" \"$@\""])
            .arg(program)
            .args([&port.to_string(), "et"])
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let mut echo = Self { server: Server(child), address: format!("127.0.0.1:{port}") };
        let start = Instant::now();
        // It has no ready line, and may not be changed: connecting is the only question to ask.
        while TcpStream::connect(&echo.address).is_err() {
            let ended = echo.server.0.try_wait()?.is_some();
            if ended || start.elapsed() > READY_MAX {
                bail!("{} does not listen on {}", program.display(), echo.address);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(echo)
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    pub(super) fn id(&self) -> u32 {
        self.server.0.id()
    }
}

/// An access node whose wave runs.
pub(super) struct Node {
    server: Server,
    pub(super) address: String,
    pub(super) session_key: PathBuf,
    _scratch: Scratch,
}

impl Node {
    pub(super) fn start(access: &Path, seedgen: &Path, work: &Path) -> Result<Self> {
        let scratch = Scratch::new(work)?;
        let session = work.join("session");
        create_keys(&session)?;
        fs::write(work.join("campaign.toml"), CAMPAIGN)?;
        let generate = "generate --campaign campaign.toml --secret campaign.secret --out seeds";
        run(work, seedgen, generate)?;
        fs::write(work.join("yao.toml"), CONFIG)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
        let wave = WaveSchedule {
            index: WaveIndex(0),
            t0: Some(WallTime(u64::try_from(now.as_micros())?)),
            factor: 1,
            grace_seconds: 0,
        };
        let schedule =
            Schedule { version: 1, campaign: CampaignId(CAMPAIGN_ID), waves: vec![wave] };
        fs::write(work.join("schedule.toml"), schedule.encode())?;
        run(work, access, "init --config yao.toml")?;
        let log = fs::File::create(work.join("access.log"))?;
        let mut child = Command::new("sh")
            .args(["-c", "ulimit -n $(ulimit -Hn); exec \"$0\" \"$@\""])
            .arg(access)
            .args(["--config", "yao.toml"])
            .current_dir(work)
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}", access.display()))?;
        let stdout = child.stdout.take().context("its output is piped")?;
        let server = Server(child);
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let Some(json) = line.strip_prefix("ready ") else {
            let log = fs::read_to_string(work.join("access.log")).unwrap_or_default();
            bail!("{} did not become ready:\n{log}", access.display());
        };
        let ready: Value = serde_json::from_str(json)?;
        let address = ready["tcp"][0].as_str().context("the ready line names an address")?;
        Ok(Self {
            server,
            address: address.to_owned(),
            session_key: session.join("session.key.pem"),
            _scratch: scratch,
        })
    }

    pub(super) fn id(&self) -> u32 {
        self.server.0.id()
    }
}

/// One shard thread, as the echo has one; no interval, no agent.
const CONFIG: &str = r#"
[node]
name = "node-00000"
state = "state"
keys = "seeds/keyset"
[listen]
tcp = ["127.0.0.1:0"]
threads = 1
[shard]
seed = "seeds/shard-00000.yaoseed"
key = "seeds/shard-00000.yaokey"
manifest = "seeds/manifest.yaomanifest"
schedule = "schedule.toml"
[identity]
jwks = "session/session.jwks.json"
[session]
shake_interval_ms = 0
[admin]
listen = "127.0.0.1:0"
"#;

fn run(work: &Path, program: &Path, arguments: &str) -> Result<()> {
    let output = Command::new(program)
        .args(arguments.split(' '))
        .current_dir(work)
        .output()
        .with_context(|| format!("cannot start {}", program.display()))?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        bail!("{} {arguments}: {}\n{errors}", program.display(), output.status);
    }
    Ok(())
}
