//! A process that we started: its log, its ready line, and its certain end.

use crate::shell;
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{RecvTimeoutError, sync_channel},
    time::Duration,
};

/// A server must be ready within this time, even on a busy machine.
const READY_MAX: Duration = Duration::from_secs(30);
const SIGKILL: i32 = 9;
/// Lines of a log that are shown when its process failed.
const LOG_LINES: usize = 15;

/// This program's file, to run it again. `cargo test` links a new xtask over the running one; then
/// the kernel calls the old file deleted, and the new one, of the same sources, is at its path.
pub(crate) fn this_program() -> Result<PathBuf> {
    let program = std::env::current_exe().context("the path of this program")?;
    let path = program.to_string_lossy();
    Ok(path.strip_suffix(" (deleted)").map_or_else(|| program.clone(), PathBuf::from))
}

/// A running program. Dropping it kills it.
pub(crate) struct Process {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with its errors appended to `log`.
    pub(crate) fn start(name: &'static str, command: &mut Command, log: &Path) -> Result<Self> {
        let errors = File::options().create(true).append(true).open(log)?;
        let child = command
            .stdin(Stdio::null())
            .stderr(errors)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        Ok(Self { name, child, log: log.to_owned() })
    }

    /// Starts a server and waits for its `ready {json}` line.
    pub(crate) fn serve(
        name: &'static str,
        command: &mut Command,
        log: &Path,
    ) -> Result<(Self, Value)> {
        let mut process = Self::start(name, command.stdout(Stdio::piped()), log)?;
        let stdout = process.child.stdout.take().context("its output is piped")?;
        let (sender, lines) = sync_channel(64);
        // Reads on after the first line too, so that the server never blocks on a full pipe.
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                // Nobody listens after the first line.
                sender.send(line).ok();
            }
        });
        match lines.recv_timeout(READY_MAX) {
            Ok(line) => {
                let json = line.strip_prefix("ready ");
                let json = json.with_context(|| format!("{name} said `{line}`, not ready"))?;
                Ok((process, serde_json::from_str(json)?))
            }
            Err(RecvTimeoutError::Timeout) => bail!("{name} is not ready after {READY_MAX:?}"),
            Err(RecvTimeoutError::Disconnected) => {
                let status = process.child.wait()?;
                bail!("{name} ended with {status} instead of serving:\n{}", process.log_tail())
            }
        }
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it still runs.
    pub(crate) fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// kill -9, at once.
    pub(crate) fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// The same; whether it hit a process that had not ended by itself.
    pub(crate) fn strike(mut self) -> Result<bool> {
        self.child.kill()?;
        Ok(self.child.wait()?.signal() == Some(SIGKILL))
    }

    /// Asks it to end, and waits.
    pub(crate) fn end(self) -> Result<()> {
        signal("TERM", self.child.id())?;
        self.finish()
    }

    /// Waits for it to end by itself.
    pub(crate) fn wait(mut self) -> Result<ExitStatus> {
        Ok(self.child.wait()?)
    }

    /// Waits for it to end by itself; an error shows the end of its log.
    pub(crate) fn finish(mut self) -> Result<()> {
        let status = self.child.wait()?;
        if !status.success() {
            bail!("{} ended with {status}:\n{}", self.name, self.log_tail());
        }
        Ok(())
    }

    /// The last lines of its log.
    pub(crate) fn log_tail(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let tail = &lines[lines.len().saturating_sub(LOG_LINES)..];
        format!("{}\n({})", tail.join("\n"), self.log.display())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Already ended is as good.
        if self.child.kill().is_ok() {
            self.child.wait().ok();
        }
    }
}

/// Sends a signal to a process that we, or a server of ours, started.
pub(crate) fn signal(name: &str, id: u32) -> Result<()> {
    shell::run(Command::new("kill").arg(format!("-{name}")).arg(id.to_string()))
}
