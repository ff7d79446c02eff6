//! The issuer: the single writer of money decisions on a node. It releases packets at their
//! moments, decides candidates, and hands out tickets (M1, M5, M6, M8, M9).
//!
//! `handle(now, input)`, then `poll(now)` until [`Output::SleepUntil`]. It signs tickets itself,
//! for signing is arithmetic; cursor, journal, agent and connections are outputs.
//!
//! Never here: files, sockets, the gate's atomics, settlement.

mod draw;
mod grants;
mod history;
mod limits;
mod offer;
#[cfg(test)]
mod tests;
mod wave;
mod winners;

pub use history::History;
pub use wave::WaveState;

use self::{draw::Claim, wave::Wave, winners::Winners};
use crate::{
    Anchor, ConnectionId, GateView,
    grant::Right,
    shard::CandidateShake,
    time::Timestamp,
    vetting::{VetCounters, VetDesk},
    wave_clock::WaveClock,
};
use std::{collections::VecDeque, sync::Arc};
use yao_protocol::{
    CampaignId, Epoch, PacketId, PacketIndex, ShakeId, ShardId, SponsorSet, UserId, WaveIndex,
    agent::Question,
    cursor::GrantRecord,
    grant::GrantAnswer,
    journal::{Event, SkipReason},
    keys::SignKey,
    policy::Policy,
    seed_file::{Section, SeedRecord},
    tally::Tally,
    ticket::{Ticket, TicketBody},
    token::Bearer,
};

/// What does not change in the life of an issuer.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// The campaign.
    pub campaign: CampaignId,
    /// The shard.
    pub shard: ShardId,
    /// The shard's generation.
    pub generation: u8,
    /// The epoch of the ticket key.
    pub epoch: Epoch,
    /// How timestamps are told as wall time.
    pub anchor: Anchor,
    /// Packets a user may win.
    pub wins_per_user: u8,
    /// From issue to expiry of a ticket, us.
    pub ticket_lifetime_us: u64,
    /// Time for a verdict of the agent before it counts as yes, ms.
    pub vet_ms_max: u64,
}

/// What a start knows of the life before it.
#[derive(Clone, Debug, Default)]
pub struct Recovered {
    /// Every section of the shard.
    pub sections: Vec<RecoveredSection>,
    /// Every issue that the journal remembers, in order.
    pub issued: Vec<TicketBody>,
}

impl Recovered {
    /// A packet that the journal says was issued although its section's H does not cover it: the
    /// cursor is older than the journal, and going on would issue packets twice (M1).
    #[must_use]
    pub fn issued_above_high(&self) -> Option<PacketId> {
        let is_above = |body: &&TicketBody| {
            !self.sections.iter().all(|past| past.is_past(body.packet.index()))
        };
        self.issued.iter().find(is_above).map(|body| body.packet)
    }
}

/// One section at a start.
#[derive(Clone, Debug)]
pub struct RecoveredSection {
    /// The section.
    pub section: Section,
    /// Its H on disk: issuing goes on there.
    pub high: u32,
    /// An earlier life has closed its wave.
    pub closed: bool,
    /// By what right its packets are issued (M4).
    pub right: Right,
}

impl RecoveredSection {
    /// Whether nothing from here on can issue this packet: it is below H, or of another section.
    fn is_past(&self, index: PacketIndex) -> bool {
        !self.section.indexes().contains(&index.0) || index.0 - self.section.first.0 < self.high
    }
}

/// What happens to the issuer.
#[derive(Clone, Debug)]
pub enum Input {
    /// The schedule names (or corrects) a wave's T0.
    ArmWave {
        /// The wave.
        wave: WaveIndex,
        /// Its clock.
        clock: WaveClock,
        /// How long after its end packets may still be taken, us of wall time.
        grace_us: u64,
    },
    /// The schedule does not name a T0 for this wave (any more).
    DisarmWave {
        /// The wave.
        wave: WaveIndex,
    },
    /// A shake that may win.
    Candidate(CandidateShake),
    /// A shake sent again: a recorded win gets the same ticket, else it is a new draw (M6).
    Resend(CandidateShake),
    /// A session was opened: its user's unexpired tickets follow.
    Welcomed {
        /// The connection.
        connection: ConnectionId,
        /// Whose.
        user: UserId,
        /// How many packets his tally counts.
        wins: u8,
        /// Of which sponsors.
        sponsors: SponsorSet,
        /// On which device, and in which risk class.
        bearer: Bearer,
    },
    /// The agent's verdict.
    Verdict {
        /// Which call.
        call: u64,
        /// Yes or no.
        allowed: bool,
    },
    /// A VET could not be handed to the agent link: it counts as yes.
    VetUnsent {
        /// Which call.
        call: u64,
    },
    /// Whether an agent serves.
    AgentAvailable(bool),
    /// The policy changed.
    Policy(Arc<Policy>),
    /// A cursor is on disk: the packets from `first` to `high` may be issued.
    Reserved {
        /// The wave.
        wave: WaveIndex,
        /// Position of the first record.
        first: u32,
        /// The new H.
        high: u32,
        /// The packets.
        records: Vec<SeedRecord>,
    },
    /// Settlement's answer to a request for a grant; its signature is good.
    GrantAnswer(Box<GrantAnswer>),
    /// The request for a grant could not be handed to the agent link.
    GrantUnsent {
        /// The wave.
        wave: WaveIndex,
    },
    /// The request for a grant did not reach settlement.
    GrantUnanswered {
        /// The wave.
        wave: WaveIndex,
        /// Ask again after this long.
        retry_after_ms: u32,
    },
    /// A grant is on disk in the wave's cursor, and H with it.
    GrantKept {
        /// The wave.
        wave: WaveIndex,
        /// Which grant.
        id: u64,
        /// H, raised where the grant begins above it.
        high: u32,
    },
    /// Persisting failed: nothing is issued any more (M3).
    Fenced {
        /// Why.
        reason: String,
    },
    /// The journal cannot (or can again) take records: issuing rests.
    JournalHold(bool),
    /// Opens find little room: so many hundredths of what is due may be issued, at most 100.
    Throttle {
        /// 100 for all of it, 0 for nothing more.
        percent: u8,
    },
    /// The clients are told to leave: that nobody takes a packet says nothing about it any more.
    Leaving,
}

/// Why the issuer wakes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SleepReason {
    /// A wave's books want a step: a moment, credit, a packet that waited, the close.
    Wave,
    /// A verdict is overdue.
    Verdict,
    /// Nothing until the next input.
    Input,
}

/// What the shell must do.
#[derive(Clone, Debug)]
pub enum Output {
    /// Publish this to the shards.
    Gate(GateView),
    /// Ask the agent.
    Vet(Question),
    /// Append this to the journal; synced within 10 ms (M8). Comes before the ticket it is about.
    Journal(Event),
    /// Raise the wave's cursor to `high`, sync it, read the packets from `first`: then report
    /// [`Input::Reserved`].
    Reserve {
        /// The wave.
        wave: WaveIndex,
        /// The old H.
        first: u32,
        /// The new one.
        high: u32,
    },
    /// A ticket for this connection.
    Won {
        /// Who asked.
        connection: ConnectionId,
        /// His request; 0 when unasked.
        request_id: u32,
        /// The signed ticket.
        ticket: Box<Ticket>,
        /// What the user has won with it.
        tally: Tally,
    },
    /// Carry this signed request for a grant to settlement: then comes [`Input::GrantAnswer`], or
    /// one of the two that say that there is none.
    AskGrant {
        /// The wave.
        wave: WaveIndex,
        /// The bytes.
        request: Vec<u8>,
    },
    /// Write this grant into the wave's cursor, with H raised to its first packet where that lies
    /// above, and sync it: then report [`Input::GrantKept`].
    KeepGrant {
        /// The wave.
        wave: WaveIndex,
        /// The grant.
        grant: GrantRecord,
    },
    /// Write into the wave's cursor that its right is gone, so that no later life goes on with it.
    GiveUp {
        /// The wave.
        wave: WaveIndex,
    },
    /// Nothing for this candidate.
    Lost {
        /// Who asked.
        connection: ConnectionId,
        /// His request.
        request_id: u32,
        /// His draw.
        shake: ShakeId,
    },
    /// Nothing more now.
    SleepUntil {
        /// Until then, or the next input.
        at: Timestamp,
        /// What for.
        reason: SleepReason,
    },
}

/// What was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Candidates decided.
    pub candidates: u64,
    /// Shakes sent again.
    pub resends: u64,
    /// Tickets issued.
    pub issued: u64,
    /// Recorded wins whose ticket was sent again.
    pub reissued: u64,
    /// Candidates that got nothing.
    pub lost: u64,
    /// Candidates refused by a limit that their session did not know.
    pub limited: u64,
    /// Winners that policy refused.
    pub refused: u64,
}

/// One wave as an operator sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaveView {
    /// The wave.
    pub wave: WaveIndex,
    /// Where it stands.
    pub state: WaveState,
    /// Packets planned.
    pub count: u32,
    /// H.
    pub high: u32,
    /// Packets released in this life of the process.
    pub released: u32,
    /// Waiting in the sponsors' queues.
    pub queued: u32,
    /// Those of them that do not hold up H: a crash may skip them beyond B.
    pub overlooked: u32,
    /// Being vetted.
    pub vetting: u32,
    /// Issued in this life of the process.
    pub issued: u32,
    /// Dropped after waiting too long.
    pub skipped: u32,
    /// Position at which this life began: what lies below belongs to earlier ones.
    pub start: u32,
    /// Wave time, us.
    pub offset_us: u64,
}

/// The issuer of one shard.
#[derive(Debug)]
pub struct Issuer {
    settings: Settings,
    key: Arc<SignKey>,
    waves: Vec<Wave>,
    winners: Winners,
    desk: VetDesk<Claim>,
    policy: Arc<Policy>,
    outputs: VecDeque<Output>,
    gate: GateView,
    fenced: Option<String>,
    hold: bool,
    share_percent: u8,
    counters: Counters,
}

impl Issuer {
    /// An issuer that goes on where `recovered` ends.
    ///
    /// # Panics
    /// When a packet was issued at or above its section's H: a cursor that was put back to an older
    /// state would issue packets twice (M1).
    #[must_use]
    pub fn new(settings: Settings, key: Arc<SignKey>, recovered: &Recovered) -> Self {
        let mut winners = Winners::default();
        assert_eq!(recovered.issued_above_high(), None, "the cursor is older than the journal");
        recovered.issued.iter().for_each(|body| winners.record(*body, None));
        let waves = recovered.sections.iter().map(Wave::new).collect();
        Self {
            desk: VetDesk::new(settings.vet_ms_max, limits::CALL_FIRST),
            settings,
            key,
            waves,
            winners,
            policy: Arc::default(),
            outputs: VecDeque::new(),
            gate: GateView::default(),
            fenced: None,
            hold: false,
            share_percent: 100,
            counters: Counters::default(),
        }
    }

    /// Takes one input.
    pub fn handle(&mut self, now: Timestamp, input: Input) {
        match input {
            Input::ArmWave { wave, clock, grace_us } => {
                let anchor = self.settings.anchor;
                if let Some(wave) = self.wave_mut(wave) {
                    wave.arm(now, &anchor, clock, grace_us);
                }
            }
            Input::DisarmWave { wave } => {
                if let Some(wave) = self.wave_mut(wave) {
                    wave.disarm();
                }
            }
            Input::Candidate(candidate) => {
                self.counters.candidates += 1;
                self.decide(now, &candidate);
            }
            Input::Resend(candidate) => {
                self.counters.resends += 1;
                self.decide(now, &candidate);
            }
            Input::Welcomed { connection, user, wins, sponsors, bearer } => {
                self.winners.learn(user, wins, sponsors);
                self.winners.place(user, bearer.device);
                self.greet(now, connection, user);
            }
            Input::Verdict { call, allowed } => {
                if let Some((claim, allowed)) = self.desk.verdict(now, call, allowed) {
                    self.conclude(now, claim, allowed);
                }
            }
            Input::VetUnsent { call } => {
                if let Some(claim) = self.desk.unsent(call) {
                    self.conclude(now, claim, true);
                }
            }
            Input::AgentAvailable(available) => self.desk.agent_available(available),
            Input::Policy(policy) => self.policy = policy,
            Input::Reserved { wave, first, high, records } => {
                if let Some(wave) = self.wave_mut(wave) {
                    wave.on_reserved(first, high, records);
                }
            }
            Input::GrantAnswer(answer) => self.on_grant_answer(now, &answer),
            Input::GrantUnsent { wave } => {
                if let Some(fleet) = self.fleet_mut(wave) {
                    fleet.on_unsent(now);
                }
            }
            Input::GrantUnanswered { wave, retry_after_ms } => {
                if let Some(fleet) = self.fleet_mut(wave) {
                    fleet.on_unanswered(now, retry_after_ms);
                }
            }
            Input::GrantKept { wave, id, high } => self.on_grant_kept(wave, id, high),
            Input::Fenced { reason } => self.fenced = self.fenced.take().or(Some(reason)),
            Input::JournalHold(hold) => self.hold = hold,
            Input::Throttle { percent } => {
                assert!(percent <= 100, "a throttle never makes more of what is due");
                self.share_percent = percent;
                self.waves.iter_mut().for_each(|wave| wave.throttle(percent));
            }
            Input::Leaving => self.waves.iter_mut().for_each(Wave::leave),
        }
    }

    /// The next thing to do; drain until [`Output::SleepUntil`].
    #[must_use]
    pub fn poll(&mut self, now: Timestamp) -> Output {
        if self.outputs.is_empty() {
            self.step(now);
        }
        self.outputs.pop_front().unwrap_or_else(|| self.sleep(now))
    }

    /// Brings every wave's books to `now`, lets overdue verdicts count as yes, renews the gate.
    fn step(&mut self, now: Timestamp) {
        while let Some(claim) = self.desk.poll_expired(now) {
            self.conclude(now, claim, true);
        }
        if self.fenced.is_none() {
            self.step_waves(now);
            self.ask_grants(now);
        }
        let view = self.view(now);
        if view != self.gate {
            self.gate = view;
            self.outputs.push_back(Output::Gate(view));
        }
    }

    fn step_waves(&mut self, now: Timestamp) {
        let anchor = self.settings.anchor;
        let at = anchor.wall(now);
        for wave in &mut self.waves {
            let index = wave.wave;
            let step = wave.step(now, &anchor, self.hold);
            for position in step.waited {
                let first = PacketIndex(wave.first.0 + position);
                let reason = SkipReason::Waited;
                let event = Event::Skip { wave: index, reason, first, count: 1, at };
                self.outputs.push_back(Output::Journal(event));
            }
            if let Some((unissued, sum)) = step.closed {
                let event = Event::Close { wave: index, unissued, sum, at };
                self.outputs.push_back(Output::Journal(event));
            }
            if let Some((first, high)) = step.reserve {
                self.outputs.push_back(Output::Reserve { wave: index, first, high });
            }
        }
    }

    /// What the shards may know: from the books alone, so that a lost slot heals.
    fn view(&self, now: Timestamp) -> GateView {
        let running = self.waves.iter().any(|wave| wave.state == WaveState::Running);
        if self.fenced.is_some() || self.hold {
            return GateView { running, ..GateView::default() };
        }
        let sponsors =
            self.waves.iter().fold(SponsorSet::EMPTY, |all, wave| all.union(wave.available(now)));
        let count = self.waves.iter().map(|wave| wave.available_count(now)).sum();
        GateView { sponsors, count, running }
    }

    fn sleep(&self, now: Timestamp) -> Output {
        let anchor = &self.settings.anchor;
        let waves = match self.fenced {
            Some(_) => Timestamp::NEVER,
            None => {
                let deadlines = self.waves.iter().map(|wave| wave.deadline(now, anchor));
                deadlines.min().unwrap_or(Timestamp::NEVER)
            }
        };
        let verdict = self.desk.deadline();
        let at = waves.min(verdict);
        let reason = if at == Timestamp::NEVER {
            SleepReason::Input
        } else if at == verdict {
            SleepReason::Verdict
        } else {
            SleepReason::Wave
        };
        Output::SleepUntil { at, reason }
    }

    fn wave_mut(&mut self, wave: WaveIndex) -> Option<&mut Wave> {
        self.waves.iter_mut().find(|entry| entry.wave == wave)
    }

    /// What was counted.
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// What was counted about calls to the agent.
    #[must_use]
    pub const fn vet_counters(&self) -> &VetCounters {
        self.desk.counters()
    }

    /// How many hundredths of what is due may be issued.
    #[must_use]
    pub const fn share_percent(&self) -> u8 {
        self.share_percent
    }

    /// Why nothing is issued, if so.
    #[must_use]
    pub fn fenced(&self) -> Option<&str> {
        self.fenced.as_deref()
    }

    /// Wins known, of this life and those before it.
    #[must_use]
    pub fn wins(&self) -> usize {
        self.winners.count()
    }

    /// Every wave as an operator sees it.
    pub fn waves(&self) -> impl Iterator<Item = WaveView> + '_ {
        self.waves.iter().map(|wave| WaveView {
            wave: wave.wave,
            state: wave.state,
            count: wave.count,
            high: wave.high,
            released: wave.released,
            queued: wave.queued(),
            overlooked: wave.overlooked(),
            vetting: wave.vetting,
            issued: wave.issued,
            skipped: wave.skipped,
            start: wave.start,
            offset_us: wave.offset_us(),
        })
    }
}
