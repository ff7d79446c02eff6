//! The cases, one trial at a time. In each the rightful owner issues something, so that a trial in
//! which nobody could have won proves nothing and fails.

use super::{
    Case,
    directories::{Intruder, copy, put_in_place, remove},
    judge::Judge,
    player::Player,
    stage::{Backstage, Mode, Node, Place, Stage, Started, await_that},
};
use crate::event;
use anyhow::{Context, Result, bail};
use std::{fs, time::Duration};

/// An intruder that serves is asked for packets this long.
const INTRUSION: Duration = Duration::from_millis(300);
/// Phones that shake at an owner while it is stopped, and how often each.
const SLEEPERS: (usize, u32) = (3, 5);

/// One case, trial after trial.
pub(super) struct Play {
    stage: Stage,
    judge: Judge,
    /// Who has the right to issue, and its directory.
    owner: Option<(Node, &'static str)>,
    /// Who takes over when the owner's right has ended.
    standby: Option<(Node, &'static str)>,
}

/// What became of a case.
pub(super) struct Score {
    /// Tickets that phones have.
    pub(super) tickets: usize,
    /// Packets that journals call issued.
    pub(super) issued: usize,
    /// One line for each packet that left wrongly.
    pub(super) wrong: Vec<String>,
}

/// The directory, and its copy for the standby.
pub(super) const STATE: &str = "state";
const COPY: &str = "copy";
/// What an intruder starts from.
pub(super) const OTHER: &str = "other";
const BACKUP: &str = "backup";
const NEWEST: &str = "newest";

impl Play {
    pub(super) fn begin(
        backstage: &Backstage,
        name: &str,
        mode: Mode,
        elsewhere: Option<u32>,
        case: Case,
    ) -> Result<Self> {
        let short = matches!(case, Case::StoppedOwner | Case::RestoredBackup);
        let stage = Stage::set(backstage, name, mode, elsewhere, short)?;
        let judge = Judge::new(&stage.path("keys/ticket-00000-001.pub.json"))?;
        Ok(Self { stage, judge, owner: None, standby: None })
    }

    /// How many packets left, and which of them wrongly.
    pub(super) fn end(mut self) -> Result<Score> {
        for (node, state) in [self.owner.take(), self.standby.take()].into_iter().flatten() {
            node.kill()?;
            self.read(state)?;
        }
        if self.stage.mode == Mode::Fleet {
            self.judge.compare(&self.stage.tenures()?)?;
        }
        let wrong: Vec<String> = self.judge.wrong().map(str::to_owned).collect();
        if wrong.is_empty() {
            self.stage.strike()?;
        }
        Ok(Score { tickets: self.judge.tickets(), issued: self.judge.issued(), wrong })
    }

    /// Somebody new wins a packet of `node`.
    fn wins(&mut self, node: &Node) -> Result<()> {
        let ticket = self.stage.wins(node)?;
        self.judge.ticket(&node.name, &ticket)
    }

    pub(super) fn trial(&mut self, case: Case, trial: u32) -> Result<()> {
        match case {
            Case::SameDirectory => self.intruder(Intruder::Same(Place::Here)),
            Case::CopiedDirectory => {
                let beside = self.stage.has_elsewhere() && trial % 2 == 1;
                self.intruder(Intruder::Copy(if beside { Place::Elsewhere } else { Place::Here }))
            }
            Case::HardLink => self.intruder(Intruder::Linked {
                lock: trial.is_multiple_of(2),
                place: if self.stage.has_elsewhere() { Place::Elsewhere } else { Place::Here },
            }),
            Case::BindMount => self.intruder(Intruder::Mount),
            Case::OtherNamespace => self.intruder(Intruder::Same(Place::Elsewhere)),
            Case::StoppedOwner => match self.stage.mode {
                Mode::Local => self.stopped_alone(),
                Mode::Fleet => self.stopped_beside_another(),
            },
            Case::RestoredBackup => match self.stage.mode {
                Mode::Local => self.restored_alone(trial),
                Mode::Fleet => self.restored_in_a_fleet(trial),
            },
        }
    }

    fn read(&mut self, state: &str) -> Result<()> {
        let path = self.stage.path(state);
        self.judge.read(&path, self.stage.mode == Mode::Fleet)
    }

    /// The owner, started if nobody is.
    fn owner(&mut self) -> Result<(Node, &'static str)> {
        match self.owner.take() {
            Some(owner) => Ok(owner),
            None => Ok((self.stage.start_owner(STATE, Place::Here)?, STATE)),
        }
    }

    /// Somebody else comes while the owner serves.
    fn intruder(&mut self, intruder: Intruder) -> Result<()> {
        let (owner, state) = self.owner()?;
        self.wins(&owner)?;
        let (from, place, reason) = intruder.prepare(&self.stage)?;
        match self.stage.start(from, place)? {
            Started::Refused(log) => {
                if !log.contains(reason) {
                    bail!("{intruder:?} was refused for another reason than \"{reason}\":\n{log}");
                }
            }
            Started::Serving(node) => self.intrude(&intruder, node)?,
        }
        self.wins(&owner)?;
        self.read(state)?;
        if from == OTHER {
            self.read(OTHER)?;
        }
        intruder.clear(&self.stage)?;
        self.owner = Some((owner, state));
        Ok(())
    }

    /// An intruder serves. In fleet mode it may: but what it issues is counted against it.
    fn intrude(&mut self, intruder: &Intruder, node: Node) -> Result<()> {
        if let Some(ticket) = self.stage.player(&node)?.wins_within(INTRUSION)? {
            self.judge.ticket(&node.name, &ticket)?;
            self.judge.intruder(format!("a phone won a packet of {intruder:?}"));
        }
        let waits = self.stage.mode == Mode::Fleet && matches!(intruder, Intruder::Copy(_));
        node.kill()?;
        if !waits {
            self.judge.intruder(format!("{intruder:?} served"));
        }
        Ok(())
    }

    /// Local mode: the owner is stopped, and nobody takes its place.
    fn stopped_alone(&mut self) -> Result<()> {
        let (owner, state) = self.owner()?;
        self.wins(&owner)?;
        owner.stop()?;
        self.refused(STATE, Place::Here, "held by another process")?;
        if self.stage.has_elsewhere() {
            copy(&self.stage, STATE, OTHER, &["-a"])?;
            self.refused(OTHER, Place::Elsewhere, "copied or restored")?;
            self.read(OTHER)?;
            remove(&self.stage, OTHER)?;
        }
        owner.go_on()?;
        self.wins(&owner)?;
        self.read(state)?;
        self.owner = Some((owner, state));
        Ok(())
    }

    /// Fleet mode: the owner is stopped until its grant has ended and another one has the section;
    /// then it wakes, with shakes in its sockets. The two change places for the next trial.
    fn stopped_beside_another(&mut self) -> Result<()> {
        let (owner, state) = self.owner()?;
        self.wins(&owner)?;
        let (standby, other) = match self.standby.take() {
            Some(standby) => standby,
            None => {
                copy(&self.stage, STATE, COPY, &["-a"])?;
                (self.stage.start_owner(COPY, Place::Elsewhere)?, COPY)
            }
        };
        let mut sleepers = Vec::new();
        for _ in 0..SLEEPERS.0 {
            sleepers.push(self.stage.player(&owner)?);
        }
        let before = self.stage.tenure()?["tenure"].clone();
        owner.stop()?;
        let stopped_at = event::wall_time_in(0)?;
        for sleeper in &mut sleepers {
            for _ in 0..SLEEPERS.1 {
                sleeper.shake()?;
            }
        }
        let stage = &self.stage;
        await_that("the standby's grant", || Ok(stage.tenure()?["tenure"] != before))?;
        self.wins(&standby)?;
        self.read(state)?;
        // What it issued just before may reach its journal when it wakes.
        let asleep = self.judge.issued_since(stopped_at);
        owner.go_on()?;
        self.wake(&owner, &mut sleepers)?;
        // What it may have issued that nobody saw is in its journal within milliseconds.
        owner.kill()?;
        self.read(state)?;
        if self.judge.issued_since(stopped_at) != asleep {
            self.judge.intruder("the owner that woke issued a packet".to_owned());
        }
        self.wins(&standby)?;
        self.read(other)?;
        let place = if standby_is_here(&standby) { Place::Elsewhere } else { Place::Here };
        self.standby = Some((self.stage.start_owner(state, place)?, state));
        self.owner = Some((standby, other));
        Ok(())
    }

    /// The answers to the shakes that an owner found when it woke.
    fn wake(&mut self, owner: &Node, sleepers: &mut [Player]) -> Result<()> {
        for ticket in sleepers.iter_mut().map(|sleeper| sleeper.wins_among(SLEEPERS.1)) {
            for ticket in ticket? {
                self.judge.ticket(&owner.name, &ticket)?;
                self.judge.intruder(format!("a shake won of {}, which woke too late", owner.name));
            }
        }
        Ok(())
    }

    fn refused(&mut self, from: &str, place: Place, reason: &str) -> Result<()> {
        match self.stage.start(from, place)? {
            Started::Refused(log) if log.contains(reason) => Ok(()),
            Started::Refused(log) => {
                bail!("refused for another reason than \"{reason}\":\n{log}")
            }
            Started::Serving(node) => {
                self.judge.intruder(format!("a process on {from} served"));
                node.kill()
            }
        }
    }

    /// One more life of the owner, behind whose back an older state then comes to lie. The state
    /// that it left is kept as [`NEWEST`].
    fn live_and_put_back(&mut self, in_place: bool) -> Result<()> {
        if !self.stage.has_started() {
            // The first life, before there is anything to put back.
            let (owner, state) = self.owner()?;
            self.wins(&owner)?;
            owner.kill()?;
            self.read(state)?;
        }
        copy(&self.stage, STATE, BACKUP, &["-a"])?;
        let owner = self.stage.start_owner(STATE, Place::Here)?;
        self.wins(&owner)?;
        if self.stage.mode == Mode::Fleet {
            // What settlement has not heard of, it cannot know.
            let high = owner.status()?["waves"][0]["wave_reserved"].as_u64().context("a number")?;
            let stage = &self.stage;
            await_that("H to be told", || Ok(stage.tenure()?["seen"].as_u64() >= Some(high)))?;
        }
        owner.kill()?;
        self.read(STATE)?;
        if in_place {
            copy(&self.stage, STATE, NEWEST, &["-a"])?;
            put_in_place(&self.stage.path(BACKUP), &self.stage.path(STATE))?;
        } else {
            fs::rename(self.stage.path(STATE), self.stage.path(NEWEST))?;
            copy(&self.stage, BACKUP, STATE, &["-a"])?;
        }
        remove(&self.stage, BACKUP)
    }

    /// Local mode: an older backup is refused, whether its files are new ones or the old ones
    /// written over.
    fn restored_alone(&mut self, trial: u32) -> Result<()> {
        let in_place = trial % 2 == 1;
        self.live_and_put_back(in_place)?;
        let reason = if in_place { "put back to an older state" } else { "copied or restored" };
        self.refused(STATE, Place::Here, reason)?;
        self.read(STATE)?;
        if in_place {
            put_in_place(&self.stage.path(NEWEST), &self.stage.path(STATE))?;
            return remove(&self.stage, NEWEST);
        }
        remove(&self.stage, STATE)?;
        Ok(fs::rename(self.stage.path(NEWEST), self.stage.path(STATE))?)
    }

    /// Fleet mode: an older backup gives up what was granted, and goes on above it.
    fn restored_in_a_fleet(&mut self, trial: u32) -> Result<()> {
        self.live_and_put_back(!trial.is_multiple_of(3))?;
        if trial % 3 == 2 {
            // As after a reboot: only settlement remembers.
            self.stage.forget()?;
        }
        let before = self.stage.tenure()?;
        let owner = self.stage.start_owner(STATE, Place::Here)?;
        self.wins(&owner)?;
        let tenure = self.stage.tenure()?;
        let began = tenure["began_at"].as_u64().context("a time")?;
        let ended = before["not_after"].as_u64().context("a time")?;
        if tenure["claim"] != "burn" || began < ended {
            self.judge.intruder(format!("a backup went on by {tenure}, after {before}"));
        }
        owner.kill()?;
        self.read(STATE)?;
        remove(&self.stage, NEWEST)
    }
}

fn standby_is_here(standby: &Node) -> bool {
    standby.place == Place::Here
}
