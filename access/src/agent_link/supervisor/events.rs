//! What agents do and say, and what follows from it for the supervisor.

use super::{
    super::{
        generation::Generation,
        proving::CALL_YES,
        wire::{Event, Word},
    },
    Supervisor,
};
use tokio::net::UnixStream;
use yao_protocol::{agent::VetKind, policy::Policy};

impl Supervisor<'_> {
    /// Only a process that we started, run by our own user, may greet.
    pub(super) fn handle_connection(&mut self, stream: UnixStream) {
        let ours = stream.peer_cred().is_ok_and(|peer| {
            let newcomer = self.newcomer.as_ref().map(|newcomer| newcomer.agent.pid());
            is_ours((peer.uid(), peer.pid()), (self.uid, newcomer))
        });
        let taken = match &mut self.newcomer {
            Some(newcomer) if ours => newcomer.agent.accept(stream, &self.events),
            _ => false,
        };
        if !taken {
            self.shared.status.lock().expect("no holder panics").refused += 1;
            tracing::debug!(event = "agent_connection_refused");
        }
    }

    pub(super) fn handle_event(&mut self, event: Event) {
        match event {
            Event::Greeted { generation, greet, stream, received } => {
                if let Some(newcomer) = &mut self.newcomer
                    && newcomer.agent.number == generation
                    && let Err(why) = newcomer.agent.greet(greet, stream, received, &self.events)
                {
                    self.refuse(&why);
                }
                self.cut_over_if_proved();
            }
            Event::Words { generation, words } => {
                words.into_iter().for_each(|word| self.handle_word(generation, word));
            }
            Event::Closed { generation, why } => {
                self.fail(generation, &why);
                self.settle(generation, Generation::closed);
            }
            Event::Exited { generation, how } => {
                self.fail(generation, &how);
                self.settle(generation, Generation::exited);
            }
        }
    }

    /// A leaving agent came closer to its end: what it finished while it drained still counts.
    fn settle(&mut self, generation: u32, step: fn(&mut Generation)) {
        let found = self.leaving.iter().position(|agent| agent.number == generation);
        if let Some(index) = found {
            step(&mut self.leaving[index]);
            if self.leaving[index].is_gone() {
                self.leaving.remove(index);
                tracing::info!(event = "agent_left", generation);
            }
        }
    }

    /// The agent `generation` failed, whatever it was doing. A leaving one may close its sockets.
    fn fail(&mut self, generation: u32, why: &str) {
        if self.is_newcomer(generation) {
            self.refuse(why);
        } else if self.is_serving(generation) {
            self.lose(why);
        }
    }

    fn is_newcomer(&self, generation: u32) -> bool {
        self.newcomer.as_ref().is_some_and(|newcomer| newcomer.agent.number == generation)
    }

    fn is_serving(&self, generation: u32) -> bool {
        self.serving.as_ref().is_some_and(|agent| agent.number == generation)
    }

    fn handle_word(&mut self, generation: u32, word: Word) {
        if self.is_serving(generation) {
            self.silent_probes = 0;
            self.handle_serving(word);
        } else if let Some(newcomer) = &mut self.newcomer
            && newcomer.agent.number == generation
        {
            match newcomer.agent.proving.handle_word(word) {
                Ok(()) => self.cut_over_if_proved(),
                Err(why) => self.refuse(&why),
            }
        } else if self.leaving.iter().any(|agent| agent.number == generation) {
            match word {
                // Whoever answers first, answers.
                Word::Verdict { call, allowed } => self.handle_verdict(call, allowed),
                Word::Delivered { request_id, answer } => self.handle_delivered(request_id, answer),
                Word::GrantAnswer(answer) => (self.sinks.grant_answer)(answer),
                Word::GrantUnanswered { request_id, retry_after_ms } => {
                    (self.sinks.grant_unanswered)(request_id, retry_after_ms);
                }
                // Its successor has the batch, and the policy.
                Word::Undelivered { .. } | Word::Policy(_) | Word::Bye => {}
            }
        }
    }

    fn cut_over_if_proved(&mut self) {
        if self.newcomer.as_ref().is_some_and(|newcomer| newcomer.agent.proving.is_proved()) {
            self.cut_over();
        }
    }

    fn handle_serving(&mut self, word: Word) {
        match word {
            Word::Verdict { call: CALL_YES, allowed: true } => {}
            Word::Verdict { call: CALL_YES, allowed: false } => {
                self.lose("answered a probe wrongly");
            }
            Word::Verdict { call, allowed } => self.handle_verdict(call, allowed),
            Word::Delivered { request_id, answer } => self.handle_delivered(request_id, answer),
            Word::Undelivered { request_id, retry_after_ms } => {
                if self.in_flight.batch_ended(request_id) {
                    (self.sinks.undelivered)(request_id, retry_after_ms);
                }
            }
            Word::GrantAnswer(answer) => (self.sinks.grant_answer)(answer),
            Word::GrantUnanswered { request_id, retry_after_ms } => {
                (self.sinks.grant_unanswered)(request_id, retry_after_ms);
            }
            Word::Policy(bytes) => match Policy::decode(&bytes) {
                Ok(policy) => self.take_policy(policy),
                Err(error) => self.lose(&format!("sent no policy: {error}")),
            },
            Word::Bye => self.lose("took its leave unasked"),
        }
    }

    /// A verdict that nobody waits for any more is a duplicate, or late: harmless.
    fn handle_verdict(&mut self, call: u64, allowed: bool) {
        match self.in_flight.verdict(call) {
            Some(VetKind::Win) => (self.sinks.win_verdict)(call, allowed),
            Some(VetKind::Open) => (self.sinks.open_verdict)(call, allowed),
            Some(VetKind::Probe) | None => {}
        }
    }

    fn handle_delivered(&mut self, request_id: u32, answer: Vec<u8>) {
        if self.in_flight.batch_ended(request_id) {
            (self.sinks.delivered)(request_id, answer);
        }
    }

    pub(super) fn take_policy(&self, policy: Policy) {
        if *self.sinks.policy.load_full() != policy {
            tracing::info!(event = "policy_taken", version = policy.version, cue = policy.cue);
            self.sinks.policy.store(policy.into());
            (self.sinks.policy_changed)();
        }
    }
}

/// Whether the peer (user, process) is the newcomer that we (user, newcomer's process) started.
fn is_ours(peer: (u32, Option<i32>), ours: (u32, Option<u32>)) -> bool {
    let pid = peer.1.and_then(|pid| u32::try_from(pid).ok());
    peer.0 == ours.0 && pid.is_some() && pid == ours.1
}

#[cfg(test)]
mod tests {
    use super::is_ours;

    #[test]
    fn only_our_own_child_of_our_own_user_is_ours() {
        let ours = (1_000, Some(77));
        assert!(is_ours((1_000, Some(77)), ours));
        for stranger in
            [(0, Some(77)), (1_001, Some(77)), (1_000, Some(78)), (1_000, None), (1_000, Some(-1))]
        {
            assert!(!is_ours(stranger, ours), "{stranger:?}");
        }
        assert!(!is_ours((1_000, Some(77)), (1_000, None)), "nobody is on trial");
        assert!(!is_ours((1_000, None), (1_000, None)));
    }
}
