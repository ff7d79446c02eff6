//! The agent's process: started with its secret, killed when it is let go, and reaped for certain.

use super::wire::Event;
use crate::config::AgentConfig;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::{
    io,
    os::{fd::OwnedFd, unix::process::CommandExt},
    process::{Child, Command, Stdio},
};
use tokio::{sync::mpsc, task::JoinSet};
use yao_protocol::{agent::PROOF_VARIABLE, hex};

/// A running agent: dropped, it is killed.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) pid: u32,
    /// Names the process itself: its number may be another's by the time we kill it.
    pidfd: OwnedFd,
}

impl Drop for Process {
    fn drop(&mut self) {
        // Fails only when it has ended already.
        pidfd_send_signal(&self.pidfd, Signal::KILL).ok();
    }
}

/// Starts the agent as `generation`; its end is told to `events`.
pub(super) fn start(
    config: &AgentConfig,
    generation: u32,
    proof: [u8; 16],
    events: mpsc::Sender<Event>,
    watches: &mut JoinSet<()>,
) -> io::Result<Process> {
    let mut child = Command::new(&config.program)
        .arg("--socket")
        .arg(&config.socket)
        .arg("--generation")
        .arg(generation.to_string())
        .arg("--config")
        .arg(&config.config)
        .env(PROOF_VARIABLE, hex::encode(&proof))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        // A Ctrl-C at the terminal is for the node; the agent leaves when it is told to.
        .process_group(0)
        .spawn()?;
    let pidfd = match open(&child) {
        Ok(pidfd) => pidfd,
        Err(error) => {
            child.kill()?;
            child.wait()?;
            return Err(error);
        }
    };
    let pid = child.id();
    // A thread that waits, because an agent is one process and ends once.
    watches.spawn_blocking(move || watch(generation, child, &events));
    Ok(Process { pid, pidfd })
}

fn open(child: &Child) -> io::Result<OwnedFd> {
    let number = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let number = number.ok_or_else(|| io::Error::other("a process id that is none"))?;
    Ok(pidfd_open(number, PidfdFlags::empty())?)
}

fn watch(generation: u32, mut child: Child, events: &mpsc::Sender<Event>) {
    // "exit status: 78" or "signal: 9 (SIGKILL)".
    let how = match child.wait() {
        Ok(status) => format!("ended, {status}"),
        Err(error) => format!("vanished: {error}"),
    };
    // No receiver: the link has ended, and with it the interest in any agent.
    events.blocking_send(Event::Exited { generation, how }).ok();
}
