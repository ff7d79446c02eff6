//! Agent processes: the agent's own rules and delivery (`yao_agent`), and some that are old, hang
//! or lie. The glue stands for `agent/src/server.rs`.

use crate::random::Random;
use yao_agent::{
    delivery::{Delivery, Outcome, Output},
    grants::{self, Grants},
    rules::Rules,
};
use yao_protocol::{
    agent::{FromAccess, FromAgent, Greet, Role, Standing, VERSION},
    frame::split_frame,
    limits::AGENT_PAYLOAD_BYTES_MAX,
    policy::Policy,
};

/// What kind of agent a process turns out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Character {
    /// As it should be.
    Honest,
    /// Speaks an older version of the link.
    Old,
    /// Connects and says nothing.
    Mute,
    /// Proves itself and then forges, misdirects and repeats answers, and turns verdicts round.
    Hostile,
}

/// What an agent asks of settlement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Errand {
    /// To settle a batch.
    Batch,
    /// To grant.
    Grant,
}

/// What an agent wants of the world.
#[derive(Debug)]
pub enum Act {
    /// Its greeting on a socket.
    Greet(Greet),
    /// Bytes for the access process.
    Send(Role, Vec<u8>),
    /// Post this to settlement.
    Post(Errand, u32, Vec<u8>),
    /// It has nothing more to do and leaves.
    Leave,
}

/// A running agent.
pub struct Agent {
    /// Which one.
    pub generation: u32,
    /// What kind.
    pub character: Character,
    /// It does nothing before then, ns.
    pub hangs_until: u64,
    proof: [u8; 16],
    rules: Rules,
    /// The STANDING that came last, with its call.
    about: Option<(u64, Standing)>,
    delivery: Delivery,
    grants: Grants,
    /// Bytes of incomplete frames, by role.
    received: [Vec<u8>; 2],
    /// What the access process made of its own bytes so far, by role.
    pub unread: [Vec<u8>; 2],
    seen_answers: Vec<Vec<u8>>,
    seen_grants: Vec<Vec<u8>>,
    random: Random,
    acts: Vec<Act>,
}

const fn place(role: Role) -> usize {
    match role {
        Role::Vet => 0,
        Role::Deliver => 1,
    }
}

impl Agent {
    /// A process that has just been started.
    #[must_use]
    pub fn start(
        (generation, proof): (u32, [u8; 16]),
        character: Character,
        policy: Policy,
        mut random: Random,
    ) -> Self {
        let rules = Rules { policy, ..Rules::default() };
        Self {
            generation,
            character,
            hangs_until: 0,
            proof,
            rules,
            about: None,
            delivery: Delivery::new(random.next()),
            grants: Grants::new(random.next()),
            received: Default::default(),
            unread: Default::default(),
            seen_answers: Vec::new(),
            seen_grants: Vec::new(),
            random,
            acts: Vec::new(),
        }
    }

    /// The place of a role in [`Self::unread`].
    #[must_use]
    pub const fn place(role: Role) -> usize {
        place(role)
    }

    /// What the world must do since the last call.
    pub fn take_acts(&mut self) -> Vec<Act> {
        std::mem::take(&mut self.acts)
    }

    /// It has connected.
    pub fn handle_connected(&mut self) {
        if self.character == Character::Mute {
            return;
        }
        let version = if self.character == Character::Old { VERSION - 1 } else { VERSION };
        for role in [Role::Vet, Role::Deliver] {
            let (generation, proof) = (self.generation, self.proof);
            let software = String::new();
            self.acts.push(Act::Greet(Greet { version, role, generation, proof, software }));
        }
        let policy = self.rules.policy.encode();
        self.send(Role::Vet, &FromAgent::Policy(&policy), 0);
    }

    /// Its policy file changed.
    pub fn handle_policy(&mut self, policy: &Policy) {
        self.rules.policy = policy.clone();
        let bytes = policy.encode();
        self.send(Role::Vet, &FromAgent::Policy(&bytes), 0);
    }

    fn send(&mut self, role: Role, message: &FromAgent<'_>, request_id: u32) {
        let mut bytes = Vec::new();
        message.put(&mut bytes, request_id);
        self.acts.push(Act::Send(role, bytes));
    }

    /// Bytes of the access process.
    pub fn handle_bytes(&mut self, role: Role, bytes: &[u8]) {
        let mut received = std::mem::take(&mut self.received[place(role)]);
        received.extend_from_slice(bytes);
        let mut rest = received.as_slice();
        while let Some((frame, behind)) =
            split_frame(rest, AGENT_PAYLOAD_BYTES_MAX).expect("the node's frames are good")
        {
            rest = behind;
            let request_id = frame.header.request_id;
            match FromAccess::decode(frame).expect("the node's messages are good") {
                FromAccess::Greeted { .. } => {}
                FromAccess::Standing { call, standing } => self.about = Some((call, standing)),
                FromAccess::Vet(vet) => {
                    let about = self.about.take().filter(|(call, _)| *call == vet.call);
                    let standing = about.map(|(_, standing)| standing);
                    let judged = self.rules.judge(&vet, standing.as_ref()).is_ok();
                    let probe = vet.kind == yao_protocol::agent::VetKind::Probe;
                    let lies = self.character == Character::Hostile && !probe;
                    assert!(probe || standing.is_some(), "STANDING is right before VET");
                    let allowed = judged != (lies && self.random.chance(300));
                    self.send(
                        Role::Vet,
                        &FromAgent::Verdict { call: vet.call, allowed },
                        request_id,
                    );
                }
                FromAccess::Deliver(batch) => self.delivery.handle_batch(request_id, batch),
                FromAccess::GrantAsk(request) => self.grants.handle_request(request_id, request),
                FromAccess::Drain => {
                    self.delivery.handle_drain();
                    self.grants.handle_drain();
                }
            }
        }
        let rest = rest.to_vec();
        self.received[place(role)] = rest;
        self.perform();
    }

    /// What came of a POST.
    pub fn handle_outcome(&mut self, errand: Errand, request_id: u32, outcome: Outcome) {
        match errand {
            Errand::Batch => self.delivery.handle_outcome(request_id, outcome),
            Errand::Grant => self.grants.handle_outcome(request_id, outcome),
        }
        self.perform();
    }

    fn perform(&mut self) {
        while let Some(output) = self.grants.poll() {
            match output {
                grants::Output::Post { request_id, request } => {
                    self.acts.push(Act::Post(Errand::Grant, request_id, request));
                }
                grants::Output::Answer { request_id, answer } => {
                    if self.character == Character::Hostile {
                        self.lie_of_grants(request_id, answer);
                    } else {
                        self.send(Role::Deliver, &FromAgent::GrantAnswer(&answer), request_id);
                    }
                }
                grants::Output::Unanswered { request_id, retry_after_ms } => {
                    let message = FromAgent::GrantUnanswered { retry_after_ms };
                    self.send(Role::Deliver, &message, request_id);
                }
            }
        }
        while let Some(output) = self.delivery.poll() {
            match output {
                Output::Post { request_id, batch } => {
                    self.acts.push(Act::Post(Errand::Batch, request_id, batch));
                }
                Output::Delivered { request_id, answer } => {
                    if self.character == Character::Hostile {
                        self.lie(request_id, answer);
                    } else {
                        self.send(Role::Deliver, &FromAgent::Delivered(&answer), request_id);
                    }
                }
                Output::Undelivered { request_id, retry_after_ms } => {
                    let message = FromAgent::Undelivered { retry_after_ms };
                    self.send(Role::Deliver, &message, request_id);
                }
            }
        }
        if self.delivery.is_drained() && self.grants.is_idle() {
            self.acts.push(Act::Leave);
        }
    }

    /// Instead of settlement's answer about a grant: a changed one, an old one, another wave's, or
    /// first that there is none.
    fn lie_of_grants(&mut self, request_id: u32, mut answer: Vec<u8>) {
        self.seen_grants.push(answer.clone());
        let mut to = request_id;
        match self.random.below(5) {
            0 => {
                let at = self.random.index(answer.len());
                answer[at] ^= 1 << self.random.below(8);
            }
            1 => answer.clone_from(&self.seen_grants[self.random.index(self.seen_grants.len())]),
            2 => to = 1 - request_id.min(1),
            3 => {
                let message = FromAgent::GrantUnanswered { retry_after_ms: 10 };
                self.send(Role::Deliver, &message, request_id);
            }
            _ => {}
        }
        self.send(Role::Deliver, &FromAgent::GrantAnswer(&answer), to);
    }

    /// Instead of settlement's answer: another one, an old one, a changed one, or none at all.
    fn lie(&mut self, request_id: u32, mut answer: Vec<u8>) {
        self.seen_answers.push(answer.clone());
        match self.random.below(5) {
            0 => {
                let at = self.random.index(answer.len());
                answer[at] ^= 1 << self.random.below(8);
            }
            1 => answer.clone_from(&self.seen_answers[self.random.index(self.seen_answers.len())]),
            2 => {
                // For the batch before: it may be waiting, too.
                let other = request_id.saturating_sub(1).max(1);
                self.send(Role::Deliver, &FromAgent::Delivered(&answer), other);
                return;
            }
            3 => {
                let message = FromAgent::Undelivered { retry_after_ms: 10 };
                self.send(Role::Deliver, &message, request_id);
                return;
            }
            _ => {}
        }
        self.send(Role::Deliver, &FromAgent::Delivered(&answer), request_id);
    }
}
