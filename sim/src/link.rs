//! The access process' end of the link to its agents. The rules are production code: `InFlight`,
//! `Proving`, `Backoff`, the bytes of both directions. The glue between them stands for
//! `access/src/agent_link/supervisor`, whose sockets and processes do not run here.

use arc_swap::ArcSwap;
use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::SyncSender,
    },
    time::Duration,
};
use yao_access::{
    agent_link::{
        Word,
        backoff::Backoff,
        in_flight::{BATCHES_MAX, InFlight, VETS_MAX},
        proving::{CALL_YES, Proving, probe, probes},
        words,
    },
    issuer_thread::{GrantOut, VetOut},
    messages::{ToIssuer, ToSpool},
    spool::Ways,
};
use yao_engine::Timestamp;
use yao_protocol::{
    WaveIndex,
    agent::{FromAccess, Greet, Question, Role, VERSION, VetKind},
    grant::GRANT_BYTES,
    policy::Policy,
};

/// Time for a verdict, ms.
pub const VET_MS_MAX: u32 = 20;
/// Time for a newcomer to prove itself, ms.
const PROVE_MS_MAX: u64 = 3_000;
/// Time for a replaced agent to leave, ms.
const LEAVE_MS_MAX: u64 = 5_000;
/// The serving agent is asked whether it lives this often, ms.
const HEALTH_MS: u64 = 1_000;
/// After so many questions without a word it is replaced.
const SILENT_PROBES_MAX: u32 = 10;

/// What the link wants of the world.
#[derive(Debug)]
pub enum Act {
    /// Start an agent process with this generation and secret.
    Start(u32, [u8; 16]),
    /// Bytes for an agent's socket.
    Send(u32, Role, Vec<u8>),
    /// Kill an agent process.
    Kill(u32),
}

/// Questions, batches with their ids, and requests for grants with theirs.
type Queues = (VecDeque<Question>, VecDeque<(u32, Vec<u8>)>, VecDeque<(u32, Vec<u8>)>);

/// Questions on their way from the other threads.
#[derive(Debug, Default)]
struct Asked {
    available: AtomicBool,
    queues: Mutex<Queues>,
}

impl Asked {
    fn vet(&self, question: Question) -> bool {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        let room = queues.0.len() < 2 * VETS_MAX;
        let taken = self.available.load(Ordering::Relaxed) && room;
        if taken {
            queues.0.push_back(question);
        }
        taken
    }

    fn deliver(&self, request_id: u32, batch: Vec<u8>) -> bool {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        let room = queues.1.len() < BATCHES_MAX;
        let taken = self.available.load(Ordering::Relaxed) && room;
        if taken {
            queues.1.push_back((request_id, batch));
        }
        taken
    }

    fn ask_grant(&self, request_id: u32, request: Vec<u8>) -> bool {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        let room = queues.2.len() < GRANTS_WAITING;
        let taken = self.available.load(Ordering::Relaxed) && room;
        if taken {
            queues.2.push_back((request_id, request));
        }
        taken
    }
}

/// Requests for grants that may wait.
const GRANTS_WAITING: usize = yao_protocol::limits::WAVES_MAX;
/// A request for a grant that finds no agent is to be made again after this long, ms.
const NO_AGENT_MS: u32 = 1_000;

struct Newcomer {
    generation: u32,
    proving: Proving,
    deadline: Timestamp,
}

/// See the module.
pub struct AgentLink {
    asked: Arc<Asked>,
    issuer: SyncSender<ToIssuer>,
    spool: SyncSender<ToSpool>,
    policy: Arc<ArcSwap<Policy>>,
    in_flight: InFlight,
    backoff: Backoff,
    generation_next: u32,
    serving: Option<u32>,
    served_since: Timestamp,
    newcomer: Option<Newcomer>,
    leaving: Vec<(u32, Timestamp)>,
    start_at: Option<Timestamp>,
    probe_at: Timestamp,
    silent_probes: u32,
    acts: Vec<Act>,
}

impl AgentLink {
    /// Nothing runs yet; the first agent is due at once.
    #[must_use]
    pub fn new(
        issuer: SyncSender<ToIssuer>,
        spool: SyncSender<ToSpool>,
        policy: Arc<ArcSwap<Policy>>,
    ) -> Self {
        Self {
            asked: Arc::default(),
            issuer,
            spool,
            policy,
            in_flight: InFlight::default(),
            backoff: Backoff::default(),
            generation_next: 1,
            serving: None,
            served_since: Timestamp::NEVER,
            newcomer: None,
            leaving: Vec::new(),
            start_at: Some(Timestamp::default()),
            probe_at: Timestamp::NEVER,
            silent_probes: 0,
            acts: Vec::new(),
        }
    }

    /// The issuer's way here.
    #[must_use]
    pub fn vet_out(&self) -> VetOut {
        let asked = Arc::clone(&self.asked);
        Box::new(move |question| asked.vet(question))
    }

    /// The way of requests for grants here.
    #[must_use]
    pub fn grant_out(&self) -> GrantOut {
        let asked = Arc::clone(&self.asked);
        Box::new(move |request_id, request| asked.ask_grant(request_id, request))
    }

    /// The spool's ways here and to the issuer.
    #[must_use]
    pub fn ways(&self) -> Ways {
        let (vets, batches) = (Arc::clone(&self.asked), Arc::clone(&self.asked));
        let issuer = self.issuer.clone();
        Ways {
            vet: Box::new(move |question| vets.vet(question)),
            vet_ms_max: VET_MS_MAX,
            deliver: Box::new(move |request_id, batch| batches.deliver(request_id, batch)),
            agent: Box::new(|| None),
            throttle: Box::new(move |percent| {
                issuer.try_send(ToIssuer::Throttle { percent }).is_ok()
            }),
        }
    }

    /// What the world must do since the last call.
    pub fn take_acts(&mut self) -> Vec<Act> {
        std::mem::take(&mut self.acts)
    }

    /// The generation that serves.
    #[must_use]
    pub const fn serving(&self) -> Option<u32> {
        self.serving
    }

    /// Whether questions wait to be passed on.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        let queues = self.asked.queues.lock().unwrap_or_else(PoisonError::into_inner);
        !queues.0.is_empty() || !queues.1.is_empty() || !queues.2.is_empty()
    }

    /// Passes on what waits and does what is due; when something is due next.
    pub fn turn(&mut self, now: Timestamp) -> Timestamp {
        let (vets, batches, grants) = {
            let mut queues = self.asked.queues.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *queues)
        };
        vets.into_iter().for_each(|question| self.vet(now, question));
        batches.into_iter().for_each(|(id, batch)| self.deliver(id, batch));
        grants.into_iter().for_each(|(id, request)| self.ask_grant(id, &request));
        self.tick(now);
        let newcomer = self.newcomer.as_ref().map(|newcomer| newcomer.deadline);
        let leaving = self.leaving.iter().map(|(_, deadline)| *deadline).min();
        let all = [newcomer, leaving, self.start_at, Some(self.probe_at)];
        all.into_iter().flatten().min().unwrap_or(Timestamp::NEVER)
    }

    /// A successor is started, unless one is on trial.
    pub fn swap(&mut self, now: Timestamp) {
        if self.newcomer.is_none() {
            self.start(now);
        }
    }

    fn vet(&mut self, now: Timestamp, question: Question) {
        let deadline = now.plus_ms(u64::from(VET_MS_MAX));
        if self.in_flight.vet(now, deadline, question)
            && let Some(serving) = self.serving
        {
            self.ask(serving, question);
        }
    }

    fn ask(&mut self, generation: u32, Question { vet, standing }: Question) {
        let standing = FromAccess::Standing { call: vet.call, standing };
        self.send(generation, Role::Vet, &standing, 0);
        self.send(generation, Role::Vet, &FromAccess::Vet(vet), 0);
    }

    fn deliver(&mut self, request_id: u32, batch: Vec<u8>) {
        if let Some(serving) = self.serving {
            self.send(serving, Role::Deliver, &FromAccess::Deliver(&batch), request_id);
        }
        if !self.in_flight.batch(request_id, batch) {
            let undelivered = ToSpool::Undelivered { request_id, retry_after_ms: 1_000 };
            self.spool.try_send(undelivered).ok();
        }
    }

    fn ask_grant(&mut self, request_id: u32, request: &[u8]) {
        let Some(serving) = self.serving else {
            self.no_grant(request_id, NO_AGENT_MS);
            return;
        };
        self.send(serving, Role::Deliver, &FromAccess::GrantAsk(request), request_id);
        self.in_flight.grant(request_id);
    }

    fn no_grant(&self, request_id: u32, retry_after_ms: u32) {
        let wave = WaveIndex(u16::try_from(request_id).expect("requests are named after waves"));
        self.issuer.try_send(ToIssuer::GrantUnanswered { wave, retry_after_ms }).ok();
    }

    fn send(&mut self, generation: u32, role: Role, message: &FromAccess<'_>, request_id: u32) {
        let mut bytes = Vec::new();
        message.put(&mut bytes, request_id);
        self.acts.push(Act::Send(generation, role, bytes));
    }

    fn tick(&mut self, now: Timestamp) {
        if self.newcomer.as_ref().is_some_and(|newcomer| newcomer.deadline <= now) {
            self.refuse(now);
        }
        for index in (0..self.leaving.len()).rev() {
            if self.leaving[index].1 <= now {
                let (generation, _) = self.leaving.remove(index);
                self.acts.push(Act::Kill(generation));
            }
        }
        if self.start_at.is_some_and(|at| at <= now) {
            self.start(now);
        }
        if self.probe_at <= now {
            if self.silent_probes >= SILENT_PROBES_MAX {
                self.lose(now);
            } else if let Some(serving) = self.serving {
                self.send(serving, Role::Vet, &FromAccess::Vet(probe(CALL_YES)), 0);
                self.silent_probes += 1;
                self.probe_at = now.plus_ms(HEALTH_MS);
            }
        }
        self.in_flight.forget(now);
    }

    fn start(&mut self, now: Timestamp) {
        self.start_at = None;
        let generation = self.generation_next;
        self.generation_next += 1;
        let proof = [generation.to_le_bytes()[0]; 16];
        let deadline = now.plus_ms(PROVE_MS_MAX);
        let proving = Proving::new(generation, proof);
        self.newcomer = Some(Newcomer { generation, proving, deadline });
        self.acts.push(Act::Start(generation, proof));
    }

    fn refuse(&mut self, now: Timestamp) {
        if let Some(newcomer) = self.newcomer.take() {
            self.acts.push(Act::Kill(newcomer.generation));
            if self.serving.is_none() {
                self.start_later(now, Duration::ZERO);
            }
        }
    }

    fn lose(&mut self, now: Timestamp) {
        let Some(generation) = self.serving.take() else { return };
        self.acts.push(Act::Kill(generation));
        self.probe_at = Timestamp::NEVER;
        self.set_available(false);
        if self.newcomer.is_none() {
            self.start_later(now, now.since(self.served_since));
        }
    }

    fn start_later(&mut self, now: Timestamp, served: Duration) {
        self.start_at = Some(now.plus_ms(self.backoff.next_ms(served)));
    }

    fn set_available(&mut self, available: bool) {
        self.asked.available.store(available, Ordering::Relaxed);
        // In production the sender waits; here the queues have room for as few as these.
        self.issuer.try_send(ToIssuer::AgentAvailable(available)).ok();
        self.spool.try_send(ToSpool::AgentAvailable(available)).ok();
    }

    /// The process of an agent, or a socket of it, ended.
    pub fn handle_gone(&mut self, now: Timestamp, generation: u32) {
        if self.newcomer.as_ref().is_some_and(|newcomer| newcomer.generation == generation) {
            self.refuse(now);
        } else if self.serving == Some(generation) {
            self.lose(now);
        }
        self.leaving.retain(|(leaving, _)| *leaving != generation);
    }

    /// A greeting came.
    pub fn handle_greet(&mut self, now: Timestamp, greet: &Greet) {
        let Some(newcomer) = &mut self.newcomer else { return };
        let generation = newcomer.generation;
        if newcomer.proving.handle_greet(greet).is_err() {
            self.refuse(now);
            return;
        }
        self.send(generation, greet.role, &FromAccess::Greeted { version: VERSION }, 0);
        if greet.role == Role::Vet {
            for probe in probes() {
                self.send(generation, Role::Vet, &FromAccess::Vet(probe), 0);
            }
        }
        self.cut_over_if_proved(now);
    }

    /// Bytes came on a greeted socket.
    pub fn handle_bytes(
        &mut self,
        now: Timestamp,
        generation: u32,
        role: Role,
        bytes: &mut Vec<u8>,
    ) {
        match words(role, bytes) {
            Ok(words) => {
                words.into_iter().for_each(|word| self.handle_word(now, generation, word));
            }
            Err(_) => {
                self.acts.push(Act::Kill(generation));
                self.handle_gone(now, generation);
            }
        }
    }

    fn handle_word(&mut self, now: Timestamp, generation: u32, word: Word) {
        if self.serving == Some(generation) {
            self.silent_probes = 0;
            self.handle_serving(now, word);
        } else if let Some(newcomer) = &mut self.newcomer
            && newcomer.generation == generation
        {
            match newcomer.proving.handle_word(word) {
                Ok(()) => self.cut_over_if_proved(now),
                Err(_) => self.refuse(now),
            }
        } else if self.leaving.iter().any(|(leaving, _)| *leaving == generation) {
            match word {
                Word::Verdict { call, allowed } => self.handle_verdict(call, allowed),
                Word::Delivered { request_id, answer } => self.handle_delivered(request_id, answer),
                Word::GrantAnswer { request_id, answer } => self.handle_grant(request_id, answer),
                Word::GrantUnanswered { request_id, retry_after_ms } => {
                    self.handle_no_grant(request_id, retry_after_ms);
                }
                Word::Undelivered { .. } | Word::Policy(_) | Word::Bye => {}
            }
        }
    }

    fn handle_serving(&mut self, now: Timestamp, word: Word) {
        match word {
            Word::Verdict { call: CALL_YES, allowed: true } => {}
            Word::Verdict { call: CALL_YES, allowed: false } | Word::Bye => self.lose(now),
            Word::Verdict { call, allowed } => self.handle_verdict(call, allowed),
            Word::Delivered { request_id, answer } => self.handle_delivered(request_id, answer),
            Word::Undelivered { request_id, retry_after_ms } => {
                if self.in_flight.batch_ended(request_id) {
                    let undelivered = ToSpool::Undelivered { request_id, retry_after_ms };
                    self.spool.try_send(undelivered).ok();
                }
            }
            Word::GrantAnswer { request_id, answer } => self.handle_grant(request_id, answer),
            Word::GrantUnanswered { request_id, retry_after_ms } => {
                self.handle_no_grant(request_id, retry_after_ms);
            }
            Word::Policy(bytes) => match Policy::decode(&bytes) {
                Ok(policy) => self.take_policy(policy),
                Err(_) => self.lose(now),
            },
        }
    }

    fn handle_verdict(&mut self, call: u64, allowed: bool) {
        match self.in_flight.verdict(call) {
            Some(VetKind::Win) => {
                self.issuer.try_send(ToIssuer::Verdict { call, allowed }).ok();
            }
            Some(VetKind::Open) => {
                self.spool.try_send(ToSpool::Verdict { call, allowed }).ok();
            }
            Some(VetKind::Probe) | None => {}
        }
    }

    fn handle_delivered(&mut self, request_id: u32, answer: Vec<u8>) {
        if self.in_flight.batch_ended(request_id) {
            self.spool.try_send(ToSpool::Delivered { request_id, answer }).ok();
        }
    }

    fn handle_grant(&mut self, request_id: u32, answer: Vec<u8>) {
        if answer.len() == GRANT_BYTES && self.in_flight.grant_ended(request_id) {
            self.issuer.try_send(ToIssuer::GrantAnswer { answer }).ok();
        }
    }

    fn handle_no_grant(&mut self, request_id: u32, retry_after_ms: u32) {
        if self.in_flight.grant_ended(request_id) {
            self.no_grant(request_id, retry_after_ms);
        }
    }

    fn take_policy(&mut self, policy: Policy) {
        if *self.policy.load_full() != policy {
            let policy = Arc::new(policy);
            self.policy.store(Arc::clone(&policy));
            self.issuer.try_send(ToIssuer::Policy(policy)).ok();
        }
    }

    fn cut_over_if_proved(&mut self, now: Timestamp) {
        let proved = |newcomer: &mut Newcomer| newcomer.proving.is_proved();
        let Some(mut newcomer) = self.newcomer.take_if(proved) else { return };
        if let Some(policy) = newcomer.proving.take_policy() {
            self.take_policy(policy);
        }
        self.in_flight.forget(now);
        let generation = newcomer.generation;
        for question in self.in_flight.vets().copied().collect::<Vec<_>>() {
            self.ask(generation, question);
        }
        let batches: Vec<(u32, Vec<u8>)> =
            self.in_flight.batches().map(|(id, batch)| (id, batch.to_vec())).collect();
        for (request_id, batch) in batches {
            self.send(generation, Role::Deliver, &FromAccess::Deliver(&batch), request_id);
        }
        self.served_since = now;
        self.probe_at = now.plus_ms(HEALTH_MS);
        self.silent_probes = 0;
        let predecessor = self.serving.replace(generation);
        self.set_available(true);
        if let Some(predecessor) = predecessor {
            self.leaving.push((predecessor, now.plus_ms(LEAVE_MS_MAX)));
            for role in [Role::Vet, Role::Deliver] {
                self.send(predecessor, role, &FromAccess::Drain, 0);
            }
        }
    }
}
