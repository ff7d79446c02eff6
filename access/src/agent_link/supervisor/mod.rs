//! The life of agents: one serves, perhaps one proves itself, perhaps some are leaving.
//!
//! ```text
//!            start                 proved: cut-over              DRAIN, then exit or deadline
//! (nothing) -------> newcomer ----------------------> serving ------------------------------> gone
//!                       | fails: killed                  | fails: killed
//!                       v                                v
//!          the one that serves goes on      back-off, then a new newcomer
//! ```
//! Every agent is told apart by its generation, so that a word from one that is gone finds nobody.
//! What they say is handled in `events`.

mod events;

use super::{
    AgentSinks,
    backoff::Backoff,
    generation::Generation,
    handle::{AgentState, Shared, SwapReport, Swapped},
    in_flight::InFlight,
    process,
    proving::{CALL_YES, probe},
    wire::Event,
};
use crate::{clock::Clock, config::AgentConfig};
use std::{sync::atomic::Ordering, time::Duration};
use tokio::{
    net::UnixListener,
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::{sleep, timeout},
};
use yao_engine::Timestamp;
use yao_protocol::agent::Question;

/// Events of agents that may wait; their readers wait when it is full.
const EVENTS_WAITING: usize = 64;
/// Vets taken from the queue at once; they leave in one write.
const VETS_AT_ONCE: usize = 256;
/// Agents that may be leaving at once; with more, the oldest is ended.
const LEAVING_MAX: usize = 4;
/// The serving agent is asked a probe this often, ms.
const HEALTH_MS: u64 = 1_000;
/// After so many probes without a word it has hung and is replaced. Long, because the breaker
/// protects winners from the first moment on; a hung agent only holds up deliveries.
const SILENT_PROBES_MAX: u32 = 10;
/// Sent back batches wait this long when the link has no room, ms.
const NO_ROOM_RETRY_MS: u32 = 1_000;
/// Killed processes are waited for this long at the end.
const REAP_MAX: Duration = Duration::from_secs(2);

/// What the rest of the process asks for.
pub(super) struct Inputs {
    pub(super) vets: mpsc::Receiver<Question>,
    pub(super) batches: mpsc::Receiver<(u32, Vec<u8>)>,
    pub(super) grants: mpsc::Receiver<(u32, Vec<u8>)>,
    pub(super) swaps: mpsc::Receiver<oneshot::Sender<Swapped>>,
}

/// An agent on trial, and who waits for the outcome.
struct Newcomer {
    agent: Generation,
    reply: Option<oneshot::Sender<Swapped>>,
}

/// All agents of this node.
pub(super) struct Supervisor<'a> {
    config: &'a AgentConfig,
    clock: Clock,
    sinks: &'a AgentSinks,
    shared: &'a Shared,
    generation_next: &'a mut u32,
    serving: Option<Generation>,
    newcomer: Option<Newcomer>,
    leaving: Vec<Generation>,
    in_flight: InFlight,
    backoff: Backoff,
    /// When the next agent is started. Invariant: set exactly when none serves, none is on trial
    /// and the link is not ending.
    start_at: Option<Timestamp>,
    probe_at: Timestamp,
    silent_probes: u32,
    stopping: bool,
    uid: u32,
    events: mpsc::Sender<Event>,
    event_queue: mpsc::Receiver<Event>,
    watches: JoinSet<()>,
}

impl<'a> Supervisor<'a> {
    /// Nothing runs yet; the first agent is due at once.
    pub(super) fn new(
        config: &'a AgentConfig,
        clock: Clock,
        sinks: &'a AgentSinks,
        shared: &'a Shared,
        generation_next: &'a mut u32,
    ) -> Self {
        let (events, event_queue) = mpsc::channel(EVENTS_WAITING);
        Self {
            config,
            clock,
            sinks,
            shared,
            generation_next,
            serving: None,
            newcomer: None,
            leaving: Vec::new(),
            in_flight: InFlight::default(),
            backoff: Backoff::default(),
            start_at: Some(clock.now()),
            probe_at: Timestamp::NEVER,
            silent_probes: 0,
            stopping: false,
            uid: rustix::process::geteuid().as_raw(),
            events,
            event_queue,
            watches: JoinSet::new(),
        }
    }

    /// Runs until [`Shared::stop`].
    pub(super) async fn run(mut self, listener: &UnixListener, inputs: &mut Inputs) {
        let mut vets = Vec::with_capacity(VETS_AT_ONCE);
        loop {
            let now = self.clock.now();
            self.tick(now);
            self.publish();
            if self.stopping && self.leaving.is_empty() {
                break;
            }
            let wait = self.deadline().since(now);
            tokio::select! {
                () = self.shared.stop.notified() => self.stop(),
                Some(event) = self.event_queue.recv() => self.handle_event(event),
                count = inputs.vets.recv_many(&mut vets, VETS_AT_ONCE), if !self.stopping => {
                    // Nobody holds a handle any more: nobody can ask, nor stop us.
                    if count == 0 {
                        self.stop();
                    }
                    vets.drain(..).for_each(|question| self.vet(&question));
                }
                Some((request_id, batch)) = inputs.batches.recv() => {
                    self.deliver(request_id, batch);
                }
                Some((request_id, request)) = inputs.grants.recv() => {
                    self.ask_grant(request_id, &request);
                }
                Some(reply) = inputs.swaps.recv() => self.swap(reply),
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => self.handle_connection(stream),
                    Err(error) => {
                        tracing::error!(event = "agent_accept_failed", %error);
                        // Out of descriptors, most likely; they do not come back at once.
                        sleep(Duration::from_millis(100)).await;
                    }
                },
                () = sleep(wait) => {}
            }
        }
        self.reap().await;
    }

    /// When something is due without an input.
    fn deadline(&self) -> Timestamp {
        let newcomer = self.newcomer.as_ref().map(|newcomer| newcomer.agent.deadline);
        let leaving = self.leaving.iter().map(|agent| agent.deadline).min();
        let all = [newcomer, leaving, self.start_at, Some(self.probe_at)];
        all.into_iter().flatten().min().expect("the probe's time is always there")
    }

    /// Does what is due.
    fn tick(&mut self, now: Timestamp) {
        if let Some(newcomer) = &self.newcomer
            && newcomer.agent.deadline <= now
        {
            let missing = newcomer.agent.proving.missing();
            let limit_ms = self.config.prove_ms_max;
            self.refuse(&format!("did not prove itself within {limit_ms} ms: without {missing}"));
        }
        self.leaving.retain(|agent| {
            let overdue = agent.deadline <= now;
            if overdue {
                tracing::warn!(event = "agent_killed", generation = agent.number, "did not leave");
            }
            !overdue
        });
        if self.start_at.is_some_and(|at| at <= now) {
            self.start(None);
        }
        if self.probe_at <= now {
            self.probe(now);
        }
        self.in_flight.forget(now);
    }

    /// Asks the serving agent whether it lives. Counts questions, not time: when this thread itself
    /// was held up, the agent's words are read before the next question.
    fn probe(&mut self, now: Timestamp) {
        if self.silent_probes >= SILENT_PROBES_MAX {
            self.lose(&format!(
                "was silent for {} s",
                u64::from(SILENT_PROBES_MAX) * HEALTH_MS / 1_000
            ));
            return;
        }
        if let Some(serving) = &self.serving {
            // A full outbox is silence, too.
            serving.probe(probe(CALL_YES));
            self.silent_probes += 1;
        }
        self.probe_at = now.plus_ms(HEALTH_MS);
    }

    fn vet(&mut self, question: &Question) {
        let now = self.clock.now();
        let deadline = now.plus_ms(u64::from(self.config.vet_ms_max));
        // Without room, or when the agent does not read, the owner's deadline says yes.
        if self.in_flight.vet(now, deadline, *question)
            && let Some(serving) = &self.serving
            && !serving.vet(question)
        {
            self.in_flight.verdict(question.vet.call);
        }
    }

    fn deliver(&mut self, request_id: u32, batch: Vec<u8>) {
        let sent = self.serving.as_ref().is_none_or(|agent| agent.deliver(request_id, &batch));
        if !sent || !self.in_flight.batch(request_id, batch) {
            self.in_flight.batch_ended(request_id);
            (self.sinks.undelivered)(request_id, NO_ROOM_RETRY_MS);
        }
    }

    /// Nothing is remembered of it: an answer that does not come is asked for again by the issuer.
    fn ask_grant(&self, request_id: u32, request: &[u8]) {
        let sent = self.serving.as_ref().is_some_and(|agent| agent.ask_grant(request_id, request));
        if !sent {
            (self.sinks.grant_unanswered)(request_id, NO_ROOM_RETRY_MS);
        }
    }

    fn swap(&mut self, reply: oneshot::Sender<Swapped>) {
        let refused = if self.stopping {
            "the node is ending"
        } else if self.newcomer.is_some() {
            "another agent is proving itself at the moment; ask again when it is done"
        } else {
            return self.start(Some(reply));
        };
        // Who asked may have lost interest.
        reply.send(Err(refused.to_owned())).ok();
    }

    /// Starts a newcomer; `reply` when somebody asked for it.
    fn start(&mut self, reply: Option<oneshot::Sender<Swapped>>) {
        assert!(self.newcomer.is_none(), "one newcomer at a time");
        self.start_at = None;
        let number = *self.generation_next;
        *self.generation_next += 1;
        let mut proof = [0; 16];
        let started = getrandom::fill(&mut proof).map_err(std::io::Error::other).and_then(|()| {
            let events = self.events.clone();
            process::start(self.config, number, proof, events, &mut self.watches)
        });
        match started {
            Ok(process) => {
                tracing::info!(event = "agent_started", generation = number, pid = process.pid);
                let limit_ms = u64::from(self.config.prove_ms_max);
                let deadline = self.clock.now().plus_ms(limit_ms);
                let agent = Generation::new(number, proof, process, deadline);
                self.newcomer = Some(Newcomer { agent, reply });
            }
            Err(error) => {
                let program = self.config.program.display();
                self.refused(number, reply, &format!("cannot be started from {program}: {error}"));
            }
        }
    }

    /// The newcomer failed: it is killed, and nothing else changes.
    fn refuse(&mut self, why: &str) {
        if let Some(Newcomer { agent, reply }) = self.newcomer.take() {
            let number = agent.number;
            drop(agent);
            self.refused(number, reply, why);
        }
    }

    fn refused(&mut self, number: u32, reply: Option<oneshot::Sender<Swapped>>, why: &str) {
        let why = format!("agent generation {number} {why}");
        tracing::error!(event = "agent_refused", generation = number, reason = why);
        self.shared.status.lock().expect("no holder panics").last_error = Some(why.clone());
        if let Some(reply) = reply {
            reply.send(Err(why)).ok();
        }
        if self.serving.is_none() {
            self.start_later(Duration::ZERO);
        }
    }

    /// The serving agent failed: it is killed, and another one is started after a pause.
    fn lose(&mut self, why: &str) {
        let Some(agent) = self.serving.take() else { return };
        let number = agent.number;
        let served = self.clock.now().since(agent.served_since);
        drop(agent);
        self.probe_at = Timestamp::NEVER;
        let why = format!("agent generation {number} {why}");
        tracing::error!(event = "agent_lost", generation = number, reason = why);
        self.shared.status.lock().expect("no holder panics").last_error = Some(why);
        self.shared.available.store(false, Ordering::Relaxed);
        self.publish();
        (self.sinks.available)(false);
        if self.newcomer.is_none() {
            self.start_later(served);
        }
    }

    fn start_later(&mut self, served: Duration) {
        if !self.stopping {
            let wait_ms = self.backoff.next_ms(served);
            self.shared.status.lock().expect("no holder panics").restarts += 1;
            self.start_at = Some(self.clock.now().plus_ms(wait_ms));
            tracing::info!(event = "agent_starts_later", wait_ms);
        }
    }

    /// The newcomer proved itself: it gets what is in flight, and the one before it leaves.
    fn cut_over(&mut self) {
        let Some(Newcomer { mut agent, reply }) = self.newcomer.take() else { return };
        let now = self.clock.now();
        if let Some(policy) = agent.proving.take_policy() {
            self.take_policy(policy);
        }
        self.in_flight.forget(now);
        for question in self.in_flight.vets() {
            // An outbox of its own: everything fits.
            agent.vet(question);
        }
        for (request_id, batch) in self.in_flight.batches() {
            agent.deliver(request_id, batch);
        }
        agent.served_since = now;
        agent.deadline = Timestamp::NEVER;
        self.probe_at = now.plus_ms(HEALTH_MS);
        self.silent_probes = 0;
        let report = SwapReport {
            generation: agent.number,
            pid: agent.pid(),
            software: agent.software.clone(),
        };
        let (resent_vets, resent_batches) = self.in_flight.counts();
        tracing::info!(
            event = "agent_serves",
            generation = report.generation,
            pid = report.pid,
            software = report.software,
            resent_vets,
            resent_batches,
        );
        let predecessor = self.serving.replace(agent);
        self.shared.available.store(true, Ordering::Relaxed);
        // Whoever hears of it finds it in the status.
        self.publish();
        (self.sinks.available)(true);
        if let Some(predecessor) = predecessor {
            self.leave(predecessor);
        }
        if let Some(reply) = reply {
            self.shared.status.lock().expect("no holder panics").swaps += 1;
            reply.send(Ok(report)).ok();
        }
    }

    fn leave(&mut self, mut agent: Generation) {
        agent.drain(self.clock.now().plus_ms(u64::from(self.config.leave_ms_max)));
        if self.leaving.len() >= LEAVING_MAX {
            let oldest = self.leaving.remove(0);
            tracing::warn!(event = "agent_killed", generation = oldest.number, "too many leave");
        }
        self.leaving.push(agent);
    }

    fn stop(&mut self) {
        self.stopping = true;
        self.start_at = None;
        self.probe_at = Timestamp::NEVER;
        self.refuse("was not needed any more: the node is ending");
        if let Some(serving) = self.serving.take() {
            self.shared.available.store(false, Ordering::Relaxed);
            (self.sinks.available)(false);
            self.leave(serving);
        }
    }

    /// Shows the state to [`super::AgentHandle::status`].
    fn publish(&self) {
        let (vets, batches) = self.in_flight.counts();
        self.shared.in_flight_vets.store(vets as u64, Ordering::Relaxed);
        self.shared.in_flight_batches.store(batches as u64, Ordering::Relaxed);
        let mut status = self.shared.status.lock().expect("no holder panics");
        status.state = match (&self.serving, &self.newcomer) {
            _ if self.stopping => AgentState::Stopped,
            (Some(_), Some(_)) => AgentState::Swapping,
            (Some(_), None) => AgentState::Serving,
            (None, Some(_)) => AgentState::Starting,
            (None, None) => AgentState::BackingOff,
        };
        let number = self.serving.as_ref().map_or(0, |agent| agent.number);
        if status.generation != number {
            status.generation = number;
            status.pid = self.serving.as_ref().map_or(0, Generation::pid);
            status.software =
                self.serving.as_ref().map_or_else(String::new, |agent| agent.software.clone());
        }
    }

    /// Waits for the last processes, all of them ended or killed.
    async fn reap(mut self) {
        // Nobody reads events any more: senders must not wait.
        drop(self.event_queue);
        let all = async { while self.watches.join_next().await.is_some() {} };
        if timeout(REAP_MAX, all).await.is_err() {
            tracing::error!(event = "agent_not_reaped", "a killed agent has not ended");
        }
    }
}
