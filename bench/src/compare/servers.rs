//! The servers under comparison: started, and certainly ended. They are compared over one way in:
//! plain TCP, TLS or QUIC.

use super::{Scratch, free_port};
use crate::{certificates, identity::create_keys};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::{
    fs,
    io::{BufRead, BufReader},
    net::{TcpStream, UdpSocket},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use yao_protocol::{
    CampaignId, WallTime, WaveIndex,
    reconnect::ReconnectKeyEntry,
    schedule::{Schedule, WaveSchedule},
};

const CAMPAIGN: &str = include_str!("../../../campaigns/compare.toml");
pub(crate) const CAMPAIGN_ID: u64 = 90;
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

/// What carries the frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Way {
    /// Plain TCP; the echo is `raw_epoll`.
    Tcp,
    /// TLS 1.3 over TCP; the echo is `tokio_echo`.
    Tls,
    /// QUIC; the echo is `quinn_echo`.
    Quic,
}

impl Way {
    /// The scheme of its endpoints, which is also the ready line's key.
    pub(crate) const fn scheme(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Quic => "quic",
        }
    }

    /// The arguments of its echo after the port.
    const fn echo_arguments(self) -> &'static [&'static str] {
        match self {
            Self::Tcp => &["et"],
            Self::Tls => &["tls-aws"],
            Self::Quic => &["stream", "aws"],
        }
    }
}

/// An echo server of the baselines.
pub(crate) struct Echo {
    server: Server,
    way: Way,
    address: String,
}

impl Echo {
    pub(crate) fn start(program: &Path, way: Way) -> Result<Self> {
        // The port may be taken between our look and its bind: then another one is tried.
        let mut last = None;
        for _ in 0..PORTS_TRIED {
            match Self::start_on(program, way, free_port()?) {
                Ok(echo) => return Ok(echo),
                Err(error) => last = Some(error),
            }
        }
        Err(last.expect("at least one port was tried"))
    }

    fn start_on(program: &Path, way: Way, port: u16) -> Result<Self> {
        let child = Command::new("sh")
            .args(["-c", "ulimit -n $(ulimit -Hn); exec \"$0\" \"$@\""])
            .arg(program)
            .arg(port.to_string())
            .args(way.echo_arguments())
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let mut echo = Self { server: Server(child), way, address: format!("127.0.0.1:{port}") };
        let start = Instant::now();
        // It has no ready line, and may not be changed: this is the only question to ask.
        while !echo.listens() {
            let ended = echo.server.0.try_wait()?.is_some();
            if ended || start.elapsed() > READY_MAX {
                bail!("{} does not listen on {}", program.display(), echo.address);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(echo)
    }

    /// A TCP port listens when one can connect, a UDP port when nobody else can have it.
    fn listens(&self) -> bool {
        if self.way == Way::Quic {
            UdpSocket::bind(&self.address).is_err()
        } else {
            TcpStream::connect(&self.address).is_ok()
        }
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("{}://{}", self.way.scheme(), self.address)
    }

    pub(crate) fn id(&self) -> u32 {
        self.server.0.id()
    }
}

/// An access node whose wave runs.
pub(crate) struct Node {
    server: Server,
    ready: Value,
    pub(crate) session_key: PathBuf,
    /// Whose signature its certificate bears.
    pub(crate) ca: PathBuf,
    _scratch: Scratch,
}

impl Node {
    pub(crate) fn start(access: &Path, seedgen: &Path, work: &Path) -> Result<Self> {
        let scratch = Scratch::new(work)?;
        let session = work.join("session");
        create_keys(&session)?;
        certificates::create(&session, &[])?;
        write_reconnect_key(&session.join("reconnect.json"))?;
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
        Ok(Self {
            server,
            ready: serde_json::from_str(json)?,
            ca: session.join("ca.pem"),
            session_key: session.join("session.key.pem"),
            _scratch: scratch,
        })
    }

    /// Where it listens.
    pub(crate) fn endpoint(&self, way: Way) -> Result<String> {
        let address = self.ready[way.scheme()][0].as_str();
        let address = address.with_context(|| format!("no address in {}", self.ready))?;
        Ok(format!("{}://{address}", way.scheme()))
    }

    pub(crate) fn id(&self) -> u32 {
        self.server.0.id()
    }
}

/// The key of reconnect tickets.
fn write_reconnect_key(path: &Path) -> Result<()> {
    let mut key = [0; 32];
    getrandom::fill(&mut key).map_err(|error| anyhow::anyhow!("no randomness: {error}"))?;
    let mut options = fs::OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(path)?;
    let entry = ReconnectKeyEntry { id: 1, key };
    Ok(serde_json::to_writer(&mut file, &[entry])?)
}

/// One shard thread, as the echo has one; no interval, no agent.
const CONFIG: &str = r#"
[node]
name = "node-00000"
state = "state"
keys = "seeds/keyset"
[listen]
tcp = ["127.0.0.1:0"]
tls = ["127.0.0.1:0"]
quic = ["127.0.0.1:0"]
threads = 1
quic_threads = 1
[[tls.certificates]]
chain = "session/server-ed25519.pem"
key = "session/server-ed25519.key.pem"
[[tls.certificates]]
chain = "session/server-p256.pem"
key = "session/server-p256.key.pem"
[shard]
seed = "seeds/shard-00000.yaoseed"
key = "seeds/shard-00000.yaokey"
manifest = "seeds/manifest.yaomanifest"
schedule = "schedule.toml"
[identity]
jwks = "session/session.jwks.json"
[identity.reconnect]
keys = "session/reconnect.json"
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
