//! The link as the rest of the process sees it: questions in, never a wait; the state of things
//! out.

use serde::Serialize;
use std::{
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
};
use tokio::sync::{Notify, mpsc, oneshot};
use yao_protocol::agent::Question;

/// What became of a swap.
pub type Swapped = Result<SwapReport, String>;

/// A swap that succeeded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SwapReport {
    /// The generation that serves now.
    pub generation: u32,
    /// Its process.
    pub pid: u32,
    /// What it says it is.
    pub software: String,
}

/// Where the agent stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AgentState {
    /// None serves; the first, or the next, is proving itself.
    #[default]
    Starting,
    /// One serves.
    Serving,
    /// One serves while its successor proves itself.
    Swapping,
    /// None serves; the next is started after a pause.
    BackingOff,
    /// The link has ended.
    Stopped,
}

/// What an operator wants to know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AgentStatus {
    /// The generation that serves; 0 when none does.
    pub generation: u32,
    /// Its process; 0 when none serves.
    pub pid: u32,
    /// Where the agent stands.
    pub state: AgentState,
    /// Times that an agent was started because the one before it had failed.
    pub restarts: u64,
    /// Swaps that succeeded.
    pub swaps: u64,
    /// Connections that were not our agent's and were closed.
    pub refused: u64,
    /// Vets that wait for a verdict.
    pub in_flight_vets: u64,
    /// Batches that wait for settlement's answer.
    pub in_flight_batches: u64,
    /// Why the last agent failed, or the last newcomer was refused.
    pub last_error: Option<String>,
    /// What the serving agent says it is.
    pub software: String,
}

/// A way to the link; cheap to clone.
#[derive(Clone)]
pub struct AgentHandle {
    pub(super) vets: mpsc::Sender<Question>,
    pub(super) batches: mpsc::Sender<(u32, Vec<u8>)>,
    pub(super) grants: mpsc::Sender<(u32, Vec<u8>)>,
    pub(super) swaps: mpsc::Sender<oneshot::Sender<Swapped>>,
    pub(super) shared: Arc<Shared>,
    pub(super) thread: Arc<Mutex<Option<JoinHandle<()>>>>,
}

impl fmt::Debug for AgentHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AgentHandle").field("status", &self.status()).finish_non_exhaustive()
    }
}

/// What the link's thread publishes, and how it is told to end.
#[derive(Debug, Default)]
pub(super) struct Shared {
    pub(super) status: Mutex<AgentStatus>,
    pub(super) available: AtomicBool,
    pub(super) in_flight_vets: AtomicU64,
    pub(super) in_flight_batches: AtomicU64,
    pub(super) stopping: AtomicBool,
    /// Wakes the thread when `stopping` is set.
    pub(super) stop: Notify,
}

impl AgentHandle {
    /// Whether an agent serves.
    #[must_use]
    pub fn is_available(&self) -> bool {
        self.shared.available.load(Ordering::Relaxed)
    }

    /// Asks the agent; `false` when none serves or there is no room: then the answer is yes.
    #[must_use]
    pub fn vet(&self, question: Question) -> bool {
        self.shared.available.load(Ordering::Relaxed) && self.vets.try_send(question).is_ok()
    }

    /// Hands a signed batch over; `false` when no agent serves or there is no room: later, then.
    #[must_use]
    pub fn deliver(&self, request_id: u32, batch: Vec<u8>) -> bool {
        self.shared.available.load(Ordering::Relaxed)
            && self.batches.try_send((request_id, batch)).is_ok()
    }

    /// Hands a signed request for a grant over; `false` when no agent serves or there is no room.
    /// It may get lost all the same: whoever asks, asks again.
    #[must_use]
    pub fn ask_grant(&self, request_id: u32, request: Vec<u8>) -> bool {
        self.shared.available.load(Ordering::Relaxed)
            && self.grants.try_send((request_id, request)).is_ok()
    }

    /// Starts a successor. What became of it can be waited for, blocking or not.
    #[must_use]
    pub fn swap(&self) -> oneshot::Receiver<Swapped> {
        let (reply, receiver) = oneshot::channel();
        let refused = match self.swaps.try_send(reply) {
            Ok(()) => return receiver,
            Err(mpsc::error::TrySendError::Full(reply)) => (reply, "other swaps are waiting"),
            Err(mpsc::error::TrySendError::Closed(reply)) => (reply, "the agent link has ended"),
        };
        // The receiver is ours: it is there.
        refused.0.send(Err(refused.1.to_owned())).ok();
        receiver
    }

    /// Starts a successor and waits until it serves, or is refused.
    ///
    /// # Errors
    /// Why it was refused; the agent that served goes on.
    pub async fn swap_async(&self) -> Swapped {
        self.swap().await.unwrap_or_else(|_| Err("the agent link has ended".to_owned()))
    }

    /// Where the agent stands.
    #[must_use]
    pub fn status(&self) -> AgentStatus {
        let mut status = self.shared.status.lock().expect("no holder panics").clone();
        status.in_flight_vets = self.shared.in_flight_vets.load(Ordering::Relaxed);
        status.in_flight_batches = self.shared.in_flight_batches.load(Ordering::Relaxed);
        status
    }

    /// Drains the agent, ends it, and ends the link. Blocks for `agent.leave_ms_max` at most, and
    /// a moment; a second call returns at once.
    pub fn stop(&self) {
        self.shared.stopping.store(true, Ordering::Relaxed);
        self.shared.stop.notify_one();
        let thread = self.thread.lock().expect("no holder panics").take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!(event = "agent_link_panicked");
        }
    }
}
