//! The issuer thread: the engine's issuer between its queue, the gate, the money disk, the agent
//! and the shards. Decides nothing; every rule is in `yao_engine::issuer`.

use crate::{
    disk_outlet::DiskOutlet,
    gate::Gate,
    grant_status::GrantStatus,
    messages::{ToIssuer, ToShard},
    money_disk::ToMoneyDisk,
    node::{Node, Shards},
    telemetry::DiskCounters,
};
use arc_swap::ArcSwap;
use std::{
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, SyncSender},
    },
    time::Duration,
};
use yao_engine::{
    GateView, Timestamp,
    issuer::{Input, Issuer, Output, Recovered, Settings, WaveState, WaveView},
    wave_clock::WaveClock,
};
use yao_protocol::{
    WaveIndex, agent::Question, grant::GrantAnswer, schedule::Schedule, seed_file::SeedHeader,
};

/// Messages taken before the outputs are done: their answers then leave together.
const INPUTS_MAX: usize = 256;
/// The status is published this often.
const STATUS: Duration = Duration::from_millis(100);

/// Asks the agent about a winner. `false` means: no agent, or no room, now.
pub type VetOut = Box<dyn Fn(Question) -> bool + Send>;

/// Asks settlement for a grant: the number of the request, and its signed bytes. `false` means: no
/// agent, or no room, now.
pub type GrantOut = Box<dyn Fn(u32, Vec<u8>) -> bool + Send>;

/// What the issuer thread shares with the rest of the process.
pub struct IssuerContext {
    /// Who we are.
    pub node: Arc<Node>,
    /// For the answers.
    pub shards: Shards,
    /// What the shards see.
    pub gate: Arc<Gate>,
    /// The money-disk thread's queue.
    pub disk: SyncSender<ToMoneyDisk>,
    /// How far it is.
    pub disk_counters: Arc<DiskCounters>,
    /// The way to the agent.
    pub vet: VetOut,
    /// Time for a verdict, ms.
    pub vet_ms_max: u32,
    /// The way to settlement, by the agent.
    pub ask_grant: GrantOut,
    /// What the control thread shows.
    pub status: Arc<ArcSwap<IssuerStatus>>,
}

/// A number's name, and how to read it; `_total` names a counter.
type Number<T> = (&'static str, fn(&T) -> u64);

/// What the issuer and its vetting count. docs/metrics.md has these names, and those of a wave.
const NUMBERS: [Number<Issuer>; 15] = [
    ("issuer_candidates_total", |issuer| issuer.counters().candidates),
    ("issuer_resends_total", |issuer| issuer.counters().resends),
    ("issuer_issued_total", |issuer| issuer.counters().issued),
    ("issuer_reissued_total", |issuer| issuer.counters().reissued),
    ("issuer_lost_total", |issuer| issuer.counters().lost),
    ("issuer_limited_total", |issuer| issuer.counters().limited),
    ("issuer_refused_total", |issuer| issuer.counters().refused),
    ("issuer_share_percent", |issuer| u64::from(issuer.share_percent())),
    ("issuer_wins_known", |issuer| issuer.wins() as u64),
    ("vets_sent_total", |issuer| issuer.vet_counters().sent),
    ("vets_allowed_total", |issuer| issuer.vet_counters().allowed),
    ("vets_refused_total", |issuer| issuer.vet_counters().refused),
    ("vets_expired_total", |issuer| issuer.vet_counters().expired),
    ("vets_unasked_total", |issuer| issuer.vet_counters().unasked),
    ("vets_breaker_opened_total", |issuer| issuer.vet_counters().breaker_opened),
];

/// What there is to say of a wave.
pub(crate) const WAVE_NUMBERS: [Number<WaveView>; 10] = [
    ("wave_packets", |wave| u64::from(wave.count)),
    ("wave_reserved", |wave| u64::from(wave.high)),
    ("wave_start", |wave| u64::from(wave.start)),
    ("wave_released_total", |wave| u64::from(wave.released)),
    ("wave_queued", |wave| u64::from(wave.queued)),
    ("wave_vetting", |wave| u64::from(wave.vetting)),
    ("wave_issued_total", |wave| u64::from(wave.issued)),
    ("wave_skipped_total", |wave| u64::from(wave.skipped)),
    ("wave_unissued", |wave| u64::from(wave.count - wave.start - wave.issued - wave.skipped)),
    ("wave_offset_us", |wave| wave.offset_us),
];

/// What the issuer says of itself, ten times a second.
#[derive(Clone, Debug, Default)]
pub struct IssuerStatus {
    /// Every wave.
    pub waves: Vec<WaveStatus>,
    /// By what right each wave's packets are issued; none in local mode.
    pub grants: Vec<GrantStatus>,
    /// Why nothing is issued, if so.
    pub fenced: Option<String>,
    numbers: [u64; NUMBERS.len()],
}

impl IssuerStatus {
    /// Every number with its name; `_total` names a counter.
    pub fn numbers(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        NUMBERS.iter().map(|(name, _)| *name).zip(self.numbers)
    }
}

/// One wave, for people and metrics.
#[derive(Clone, Copy, Debug)]
pub struct WaveStatus {
    /// The wave.
    pub wave: WaveIndex,
    /// `idle`, `armed`, `running` or `closed`.
    pub state: &'static str,
    view: WaveView,
}

impl WaveStatus {
    fn new(view: WaveView) -> Self {
        let state = match view.state {
            WaveState::Idle => "idle",
            WaveState::Armed => "armed",
            WaveState::Running => "running",
            WaveState::Closed => "closed",
        };
        Self { wave: view.wave, state, view }
    }

    /// Every number with its name; `_total` names a counter.
    pub fn numbers(&self) -> impl Iterator<Item = (&'static str, u64)> + use<> {
        let view = self.view;
        WAVE_NUMBERS.into_iter().map(move |(name, read)| (name, read(&view)))
    }
}

/// Runs the issuer until it is told to stop.
pub fn run(
    context: &IssuerContext,
    header: &SeedHeader,
    recovered: &Recovered,
    queue: &Receiver<ToIssuer>,
) {
    Desk::new(context, header, recovered).run(queue);
}

/// An issuer as the thread starts it.
fn new_issuer(context: &IssuerContext, header: &SeedHeader, recovered: &Recovered) -> Issuer {
    let node = &context.node;
    let settings = Settings {
        campaign: node.campaign,
        shard: node.shard,
        generation: header.generation,
        epoch: node.epoch,
        anchor: node.clock.anchor(),
        wins_per_user: node.manifest.wins_per_user,
        ticket_lifetime_us: node.manifest.ticket_lifetime_seconds.saturating_mul(1_000_000),
        vet_ms_max: u64::from(context.vet_ms_max),
    };
    Issuer::new(settings, Arc::clone(&node.ticket_key), recovered)
}

/// The running issuer with what the shell keeps for it.
pub struct Desk<'a> {
    context: &'a IssuerContext,
    issuer: Issuer,
    waves: Vec<WaveIndex>,
    /// What the issuer last said of its books.
    books: GateView,
    disk: DiskOutlet,
    /// The issuer was told to rest until the disk has caught up.
    holding: bool,
    status_at: Timestamp,
}

impl<'a> Desk<'a> {
    /// An issuer that goes on where `recovered` ends.
    #[must_use]
    pub fn new(context: &'a IssuerContext, header: &SeedHeader, recovered: &Recovered) -> Self {
        Self {
            issuer: new_issuer(context, header, recovered),
            waves: header.sections.iter().map(|section| section.wave).collect(),
            books: GateView::default(),
            disk: DiskOutlet::new(context.disk.clone(), Arc::clone(&context.disk_counters)),
            holding: false,
            status_at: context.node.clock.now(),
            context,
        }
    }

    fn run(mut self, queue: &Receiver<ToIssuer>) {
        let mut at = self.now();
        loop {
            let message = match queue.recv_timeout(at.since(self.now())) {
                Ok(message) => Some(message),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            match self.turn(message, queue) {
                Some(next) => at = next,
                None => return,
            }
        }
    }

    /// One turn of the thread: `first`, what waits behind it, and everything that follows from
    /// them. When to turn next, unless a message comes; `None` when the thread shall end.
    pub fn turn(
        &mut self,
        first: Option<ToIssuer>,
        queue: &Receiver<ToIssuer>,
    ) -> Option<Timestamp> {
        let mut decided_all = true;
        if let Some(message) = first {
            if !self.take(message) {
                return None;
            }
            decided_all = false;
            for _ in 1..INPUTS_MAX {
                let Ok(message) = queue.try_recv() else {
                    decided_all = true;
                    break;
                };
                if !self.take(message) {
                    return None;
                }
            }
        }
        self.renew_hold();
        let mut at = self.drain();
        self.context.gate.renew(self.books, decided_all);
        if self.holding {
            at = at.min(self.now().plus_ms(1));
        }
        self.publish();
        Some(at.min(self.status_at))
    }

    /// The engine's books, for those who watch it.
    #[must_use]
    pub const fn issuer(&self) -> &Issuer {
        &self.issuer
    }

    fn now(&self) -> Timestamp {
        self.context.node.clock.now()
    }

    /// Hands a message to the engine; `false` when the thread shall end.
    fn take(&mut self, message: ToIssuer) -> bool {
        let input = match message {
            ToIssuer::Candidate(candidate) => Input::Candidate(candidate),
            ToIssuer::Resend(candidate) => Input::Resend(candidate),
            ToIssuer::Welcomed { connection, user, wins, sponsors, bearer } => {
                Input::Welcomed { connection, user, wins, sponsors, bearer }
            }
            ToIssuer::Verdict { call, allowed } => Input::Verdict { call, allowed },
            ToIssuer::AgentAvailable(available) => Input::AgentAvailable(available),
            ToIssuer::Policy(policy) => Input::Policy(policy),
            ToIssuer::Schedule(schedule) => {
                self.apply(&schedule);
                return true;
            }
            ToIssuer::Reserved { wave, first, high, records } => {
                Input::Reserved { wave, first, high, records }
            }
            ToIssuer::GrantAnswer { answer } => match self.believed(&answer) {
                Some(answer) => Input::GrantAnswer(Box::new(answer)),
                None => return true,
            },
            ToIssuer::GrantUnanswered { wave, retry_after_ms } => {
                Input::GrantUnanswered { wave, retry_after_ms }
            }
            ToIssuer::GrantKept { wave, id, high } => Input::GrantKept { wave, id, high },
            ToIssuer::Fenced { reason } => Input::Fenced { reason },
            ToIssuer::Throttle { percent } => Input::Throttle { percent },
            ToIssuer::Leaving => Input::Leaving,
            ToIssuer::Stop => {
                self.drain();
                self.disk.finish();
                return false;
            }
        };
        let now = self.now();
        self.issuer.handle(now, input);
        true
    }

    /// Settlement's answer in `bytes`, if it is one, and to a question of ours.
    fn believed(&self, bytes: &[u8]) -> Option<GrantAnswer> {
        let digest = GrantAnswer::peek_request_digest(bytes)?;
        if !self.issuer.awaits_grant(&digest) {
            return None;
        }
        match GrantAnswer::decode(bytes, &self.context.node.keys.load()) {
            Ok(answer) => {
                let GrantAnswer { verdict, wave, id, lo, hi, .. } = answer;
                tracing::info!(event = "grant_answer", ?verdict, wave = wave.0, id, lo, hi);
                Some(answer)
            }
            Err(error) => {
                tracing::error!(event = "grant_forged", %error, "the agent brought no grant");
                None
            }
        }
    }

    fn apply(&mut self, schedule: &Schedule) {
        let now = self.now();
        for wave in self.waves.clone() {
            let entry = schedule.wave(wave);
            let input = match entry.and_then(|entry| Some((entry, entry.t0?))) {
                Some((entry, t0)) => {
                    let clock = WaveClock::new(t0, entry.factor);
                    tracing::info!(event = "wave_armed", wave = wave.0, factor = entry.factor);
                    Input::ArmWave {
                        wave,
                        clock,
                        grace_us: u64::from(entry.grace_seconds) * 1_000_000,
                    }
                }
                None => Input::DisarmWave { wave },
            };
            self.issuer.handle(now, input);
        }
    }

    /// Does everything the engine asks for; answers when it wants to be woken.
    fn drain(&mut self) -> Timestamp {
        loop {
            let now = self.now();
            match self.issuer.poll(now) {
                Output::SleepUntil { at, .. } => return at,
                output => self.perform(now, output),
            }
        }
    }

    fn perform(&mut self, now: Timestamp, output: Output) {
        let context = self.context;
        match output {
            Output::Gate(books) => self.books = books,
            Output::Vet(question) => {
                if !(context.vet)(question) {
                    self.issuer.handle(now, Input::VetUnsent { call: question.vet.call });
                }
            }
            Output::Journal(event) => self.send_to_disk(now, ToMoneyDisk::Journal(event)),
            Output::Reserve { wave, first, high } => {
                self.send_to_disk(now, ToMoneyDisk::Reserve { wave, first, high });
            }
            Output::Won { connection, request_id, ticket, tally } => {
                let win = Box::new((ticket.encode(), tally.encode(&context.node.mac_key)));
                let message = ToShard::Won { connection, request_id, win };
                context.shards.send(connection.thread, message);
            }
            Output::AskGrant { wave, request } => {
                if !(context.ask_grant)(u32::from(wave.0), request) {
                    self.issuer.handle(now, Input::GrantUnsent { wave });
                }
            }
            Output::KeepGrant { wave, grant } => {
                self.send_to_disk(now, ToMoneyDisk::KeepGrant { wave, grant });
            }
            Output::GiveUp { wave } => self.send_to_disk(now, ToMoneyDisk::GiveUp { wave }),
            Output::Lost { connection, request_id, shake } => {
                let message = ToShard::Lost { connection, request_id, shake };
                context.shards.send(connection.thread, message);
            }
            Output::SleepUntil { .. } => {}
        }
    }

    /// Queues a message for the disk. When it does not fit issuing rests at once, so that no more
    /// is held than what was being vetted.
    fn send_to_disk(&mut self, now: Timestamp, message: ToMoneyDisk) {
        self.disk.send(now, message);
        if !self.holding && self.disk.must_hold(now) {
            self.holding = true;
            self.issuer.handle(now, Input::JournalHold(true));
        }
    }

    /// Tells the issuer whether the disk keeps up.
    fn renew_hold(&mut self) {
        let now = self.now();
        self.disk.retry();
        if self.disk.has_ended() && self.issuer.fenced().is_none() {
            let reason = "the money-disk thread has ended".to_owned();
            self.issuer.handle(now, Input::Fenced { reason });
        }
        let holding = self.disk.must_hold(now);
        if holding != self.holding {
            self.holding = holding;
            self.issuer.handle(now, Input::JournalHold(holding));
        }
    }

    fn publish(&mut self) {
        let now = self.now();
        if now < self.status_at {
            return;
        }
        self.status_at = now.plus(STATUS);
        let numbers = NUMBERS.map(|(_, read)| read(&self.issuer));
        let waves = self.issuer.waves().map(WaveStatus::new).collect();
        let fenced = self.issuer.fenced().map(str::to_owned);
        let anchor = self.context.node.clock.anchor();
        let grants =
            self.issuer.rights(now).filter_map(|right| GrantStatus::new(now, anchor, right));
        let grants = grants.collect();
        self.context.status.store(Arc::new(IssuerStatus { waves, grants, fenced, numbers }));
    }
}
