//! The link to the agent: a thread of its own that starts agents, proves them, hands them questions
//! and batches, and replaces them. An agent may be new, broken or hostile: nothing here waits for
//! it without a limit, nothing it says moves money (M7), and without any the node goes on.
//!
//! * [`handle`](AgentHandle): what the rest of the process sees; never waits
//! * `supervisor`: the life of generations: proving, cut-over, crash, drain
//! * `proving`, `in_flight`, `backoff`: its rules, pure
//! * `generation`, `process`, `wire`, `socket`: one agent, its process, its sockets, ours
//!
//! The breaker and the deadlines of vets are the engine's (`yao_engine::vetting`).

pub mod backoff;
#[cfg(test)]
mod fake_agent;
mod generation;
mod handle;
pub mod in_flight;
mod process;
pub mod proving;
mod socket;
mod supervisor;
#[cfg(test)]
mod tests;
mod wire;

pub use handle::{AgentHandle, AgentState, AgentStatus, SwapReport, Swapped};
pub use wire::{Word, words};

use crate::{clock::Clock, config::AgentConfig, node::Node};
use arc_swap::ArcSwap;
use handle::Shared;
use socket::Socket;
use std::{
    fmt, io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::{Arc, Mutex, atomic::Ordering},
    thread,
    time::Duration,
};
use supervisor::{Inputs, Supervisor};
use thiserror::Error;
use tokio::{net::UnixListener, sync::mpsc};
use yao_protocol::policy::Policy;

/// Questions that may wait for the link's thread: what both owners have in flight at most.
const VETS_WAITING: usize = 2 * in_flight::VETS_MAX;
/// Batches that may wait for the link's thread.
const BATCHES_WAITING: usize = in_flight::BATCHES_MAX;
/// Requests for grants that may wait: one for each wave.
const GRANTS_WAITING: usize = yao_protocol::limits::WAVES_MAX;
/// Swaps that may wait; all but the first are refused when they are looked at.
const SWAPS_WAITING: usize = 8;
/// After a panic of the link it begins again after this long.
const PANIC_PAUSE: Duration = Duration::from_secs(1);

/// Where the agent's words go. Called on the link's thread.
pub struct AgentSinks {
    /// A verdict on a win: the call, yes or no.
    pub win_verdict: Box<dyn Fn(u64, bool) + Send + Sync>,
    /// A verdict on an open.
    pub open_verdict: Box<dyn Fn(u64, bool) + Send + Sync>,
    /// Settlement's signed answer to a batch, not yet verified.
    pub delivered: Box<dyn Fn(u32, Vec<u8>) + Send + Sync>,
    /// A batch did not reach settlement; when to ask again, ms.
    pub undelivered: Box<dyn Fn(u32, u32) + Send + Sync>,
    /// Settlement's signed answer to a request for a grant, not yet verified.
    pub grant_answer: Box<dyn Fn(Vec<u8>) + Send + Sync>,
    /// A request for a grant did not reach settlement; when to ask again, ms.
    pub grant_unanswered: Box<dyn Fn(u32, u32) + Send + Sync>,
    /// Whether an agent serves; also told, as true, when a successor took over.
    pub available: Box<dyn Fn(bool) + Send + Sync>,
    /// The policy of the serving agent.
    pub policy: Arc<ArcSwap<Policy>>,
    /// It was replaced.
    pub policy_changed: Box<dyn Fn() + Send + Sync>,
}

impl fmt::Debug for AgentSinks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AgentSinks").field("policy", &self.policy).finish_non_exhaustive()
    }
}

/// Why there is no link.
#[derive(Debug, Error)]
pub enum AgentLinkError {
    /// Another process listens on the socket.
    #[error("another process answers on {0}; give this node an agent.socket of its own")]
    InUse(PathBuf),
    /// Something else has the socket's name.
    #[error("{0} exists and is no socket; give agent.socket another name")]
    NotASocket(PathBuf),
    /// The socket cannot be made.
    #[error("cannot listen on agent.socket {path}: {source}")]
    Socket {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The thread cannot be started.
    #[error("cannot start the thread of the agent link: {0}")]
    Thread(io::Error),
}

/// Listens, and starts the first agent. Returns at once: an agent that fails is no reason not to
/// serve.
///
/// # Errors
/// When the socket cannot be had.
pub fn start(
    config: AgentConfig,
    node: Arc<Node>,
    sinks: AgentSinks,
) -> Result<AgentHandle, AgentLinkError> {
    start_at(config, node.clock, sinks)
}

/// As [`start`]: of the node, the link needs the clock only.
fn start_at(
    config: AgentConfig,
    clock: Clock,
    sinks: AgentSinks,
) -> Result<AgentHandle, AgentLinkError> {
    let socket = Socket::bind(&config.socket)?;
    let (vets, vet_queue) = mpsc::channel(VETS_WAITING);
    let (batches, batch_queue) = mpsc::channel(BATCHES_WAITING);
    let (grants, grant_queue) = mpsc::channel(GRANTS_WAITING);
    let (swaps, swap_queue) = mpsc::channel(SWAPS_WAITING);
    let shared = Arc::<Shared>::default();
    let inputs =
        Inputs { vets: vet_queue, batches: batch_queue, grants: grant_queue, swaps: swap_queue };
    let mut thread = LinkThread {
        config,
        clock,
        sinks,
        shared: Arc::clone(&shared),
        socket,
        inputs,
        generation_next: 1,
    };
    let thread = thread::Builder::new()
        .name("yao-agent-link".to_owned())
        .spawn(move || thread.run())
        .map_err(AgentLinkError::Thread)?;
    let thread = Arc::new(Mutex::new(Some(thread)));
    Ok(AgentHandle { vets, batches, grants, swaps, shared, thread })
}

/// What the link's thread owns. It outlives a panic of the link itself.
struct LinkThread {
    config: AgentConfig,
    clock: Clock,
    sinks: AgentSinks,
    shared: Arc<Shared>,
    socket: Socket,
    inputs: Inputs,
    /// Invariant: rises over the whole life of the process, panics included.
    generation_next: u32,
}

impl LinkThread {
    /// Runs until told to end. A panic ends all agents and begins again: restart is safe.
    fn run(&mut self) {
        loop {
            match catch_unwind(AssertUnwindSafe(|| self.live())) {
                Ok(Ok(())) => return,
                Ok(Err(error)) => tracing::error!(event = "agent_link_failed", %error),
                Err(_) => tracing::error!(event = "agent_link_restarted"),
            }
            self.shared.available.store(false, Ordering::Relaxed);
            (self.sinks.available)(false);
            if self.shared.stopping.load(Ordering::Relaxed) {
                return;
            }
            thread::sleep(PANIC_PAUSE);
        }
    }

    /// One life: ends when it is told to.
    fn live(&mut self) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let ended = runtime.block_on(async {
            let listener = UnixListener::from_std(self.socket.listener.try_clone()?)?;
            let (clock, next) = (self.clock, &mut self.generation_next);
            let supervisor = Supervisor::new(&self.config, clock, &self.sinks, &self.shared, next);
            supervisor.run(&listener, &mut self.inputs).await;
            Ok(())
        });
        // A killed process that does not end (it hangs in the kernel) is not waited for.
        runtime.shutdown_background();
        ended
    }
}
