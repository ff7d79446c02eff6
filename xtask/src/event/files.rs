//! The files of an event: seeds, keys, configuration, schedule, and what a run left behind. Starts
//! no server.

use super::Event;
use crate::shell;
use anyhow::{Context, Result};
use std::{
    fs,
    io::{Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    process::{Command, Output},
};
use yao_protocol::{
    CampaignId, WallTime, WaveIndex,
    schedule::{Schedule, WaveSchedule},
};

impl Event {
    pub(super) fn make_seeds_and_keys(&self) -> Result<()> {
        let text = fs::read_to_string(shell::root().join(self.plan.campaign_file))?;
        let campaign = self.path("campaign.toml");
        fs::write(&campaign, with_id(&text, self.plan.campaign)?)?;
        shell::output(self.program("netbench").args(["keys", "--out", "session"]))?;
        shell::output(self.program("netbench").args(["certificates", "--out", "certificates"]))?;
        self.make_reconnect_key()?;
        let shard = self.plan.shard.to_string();
        let mut generate = self.program("yao-seedgen");
        generate.arg("generate").arg("--campaign").arg(&campaign);
        generate.args(["--secret", "campaign.secret", "--out", "seeds", "--shard", &shard]);
        shell::output(&mut generate)?;
        fs::create_dir_all(self.path("keys"))?;
        for entry in fs::read_dir(self.path("seeds").join("keyset"))? {
            let path = entry?.path();
            let name = path.file_name().context("an entry has a name")?.to_owned();
            fs::copy(&path, self.path("keys").join(name))?;
        }
        let mut init = self.program("yao-ledger");
        init.args(["init", "--signing-key", "settlement.key.json", "--key-id", "1"]);
        shell::output(init.args(["--keys", "keys"]))?;
        fs::write(self.path("policy.toml"), "version = 1\ncue = 1\n")?;
        self.write_schedule(1, None)?;
        self.write_config(true)
    }

    /// `yao-access init`, whatever comes of it.
    pub(crate) fn init(&self) -> Result<Output> {
        self.write_config(true)?;
        let mut command = self.access_program(None);
        command.args(["init", "--config", "yao.toml"]);
        command.output().context("cannot start yao-access init")
    }

    /// Forgets everything that was won, opened and settled. Ends what runs.
    pub(crate) fn forget(&mut self) -> Result<()> {
        self.access = None;
        self.ledger = None;
        for name in ["ledger.db", "ledger.db-wal", "ledger.db-shm", "access.log", "ledger.log"] {
            remove(&self.path(name))?;
        }
        // The signing key remembers where its campaign's database was, and would miss it.
        remove(&self.path(&format!("settlement.key.json.campaign-{}", self.plan.campaign)))?;
        self.forget_state()
    }

    /// Forgets the state directory and the public half of its ticket key, so that `init` makes
    /// others; a ledger that knows the old one is ended.
    pub(crate) fn forget_state(&mut self) -> Result<()> {
        self.ledger = None;
        remove(&self.directory.join(&self.state))?;
        remove(&self.path("keys").join(format!("ticket-{:05}-001.pub.json", self.plan.shard)))
    }

    /// The node's program with its environment, in the event's directory, with so many descriptors.
    pub(super) fn access_program(&self, descriptors_max: Option<u32>) -> Command {
        let mut command = self.program_by(&self.access_starter, "yao-access", descriptors_max);
        command.envs(self.access_environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// The key of reconnect tickets, which every node of a fleet holds.
    fn make_reconnect_key(&self) -> Result<()> {
        let mut key = [0; 32];
        fs::File::open("/dev/urandom")?.read_exact(&mut key)?;
        let mut options = fs::OpenOptions::new();
        let mut file =
            options.write(true).create_new(true).mode(0o600).open(self.path("reconnect.json"))?;
        Ok(writeln!(file, "[{{\"id\":1,\"key\":\"{}\"}}]", yao_protocol::hex::encode(&key))?)
    }

    /// `reconnect`: whether the node makes and takes reconnect tickets.
    pub(super) fn write_config(&self, reconnect: bool) -> Result<()> {
        let plan = &self.plan;
        let reconnect =
            if reconnect { "[identity.reconnect]\nkeys = \"reconnect.json\"\n" } else { "" };
        let agent = self.agent_starter.clone().unwrap_or_else(|| self.agent_program());
        let config = format!(
            "[node]\nname = \"node-{shard:05}\"\nstate = \"{state}\"\nkeys = \"keys\"\n\
             [listen]\ntcp = [\"{tcp}\"]\ntls = [\"{tls}\"]\nquic = [\"{quic}\"]\n\
             threads = {threads}\nquic_threads = {threads}\n\
             [[tls.certificates]]\nchain = \"certificates/server-ed25519.pem\"\n\
             key = \"certificates/server-ed25519.key.pem\"\n\
             [[tls.certificates]]\nchain = \"certificates/server-p256.pem\"\n\
             key = \"certificates/server-p256.key.pem\"\n\
             [shard]\nseed = \"{seeds}/shard-{shard:05}.yaoseed\"\n\
             key = \"{seeds}/shard-{shard:05}.yaokey\"\n\
             manifest = \"{seeds}/manifest.yaomanifest\"\nschedule = \"{schedule}\"\n\
             [identity]\njwks = \"session/session.jwks.json\"\n\
             {reconnect}\
             [session]\nshake_interval_ms = {interval}\n\
             heartbeat_ms_min = {heartbeat_min}\nheartbeat_ms_max = {heartbeat_max}\n\
             [agent]\nprogram = \"{agent}\"\nconfig = \"agent.toml\"\nsocket = \"{socket}\"\n\
             [admin]\nlisten = \"{admin}\"\nfail_points = {fail_points}\n\
             [drain]\nper_second = 20000\ndeadline_seconds = 20\n{sections}",
            shard = plan.shard,
            seeds = self.seeds,
            schedule = self.schedule,
            state = self.state.display(),
            tcp = self.addresses[0],
            tls = self.addresses[1],
            quic = self.addresses[2],
            threads = plan.threads,
            interval = plan.shake_interval_ms,
            heartbeat_min = plan.heartbeat_ms_max / 20,
            heartbeat_max = plan.heartbeat_ms_max,
            agent = agent.display(),
            socket = self.socket.display(),
            admin = self.admin_address,
            fail_points = plan.fail_points,
            sections = plan.sections,
        );
        fs::write(self.path("yao.toml"), config)?;
        let agent = format!(
            "[settlement]\nurl = \"http://{}\"\n[policy]\nfile = \"policy.toml\"\n",
            self.ledger_address
        );
        Ok(fs::write(self.path("agent.toml"), agent)?)
    }

    /// Writes the schedule; `t0` `None` leaves the wave unarmed.
    pub(crate) fn write_schedule(&self, version: u64, t0: Option<WallTime>) -> Result<()> {
        self.write_schedule_until(version, t0, self.plan.grace_seconds)
    }

    /// The same with another end of the wave.
    pub(crate) fn write_schedule_until(
        &self,
        version: u64,
        t0: Option<WallTime>,
        grace_seconds: u32,
    ) -> Result<()> {
        let factor = self.plan.factor;
        let wave = WaveSchedule { index: WaveIndex(self.wave), t0, factor, grace_seconds };
        let campaign = CampaignId(self.plan.campaign);
        let schedule = Schedule { version, campaign, waves: vec![wave] };
        Ok(fs::write(self.path(self.schedule), schedule.encode())?)
    }
}

/// The campaign file `text` with another id.
fn with_id(text: &str, id: u64) -> Result<String> {
    let line =
        text.lines().find(|line| line.starts_with("id = ")).context("a campaign has an id")?;
    Ok(text.replacen(line, &format!("id = {id}"), 1))
}

/// Removes a file or a folder, if it is there.
fn remove(path: &Path) -> Result<()> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}
