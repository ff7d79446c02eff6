//! Agents that are killed, stopped, replaced, that rave, lie, dawdle, or speak another version,
//! under load: shakes are answered as fast as with a good one, and no open is lost or paid twice.
//!
//! Windows with a good agent and windows with a tormented one take turns, at the same node. SDK
//! clients shake and open all the while; the raw connections that are measured open, too.

mod hand;
mod torment;

use self::{
    hand::Hand,
    torment::{Done, Torment},
};
use super::{
    arm, end,
    people::{self, People},
    rehearsal::Rehearsal,
    started,
    windows::{Load, Ratio, Window, between, go_first, median},
};
use crate::event::{Event, Plan, Way};
use anyhow::{Context, Result, bail};
use std::time::Duration;

/// The p99 of shakes with a tormented agent, at most so many times that with a good one.
const RATIO_MAX: f64 = 2.0;
/// And at most so long, us.
const P99_US_MAX: f64 = 20_000.0;
/// A crowd has so many SDK clients, over TCP, TLS and QUIC in turn.
const PEOPLE: u64 = 300;
/// The first user of the first crowd; each crowd has others.
const PEOPLE_FROM: u64 = 1;
/// The first user of the windows. Each has others: a user wins once.
const WINDOWS_FROM: u64 = 1_000_000_000;
/// What is measured: 20 packets a second are won, so that the p99 is that of ordinary shakes.
const LOAD: Load =
    Load { connections: 200, rate: 2_000, seconds: 5, warm: 1, tickets: Some("windows.tickets") };
/// The same for a look.
const LOAD_FEW: Load = Load { connections: 50, rate: 500, seconds: 1, warm: 0, ..LOAD };
/// Besides what is measured, a window takes about so long, s: processes that start and end.
const BETWEEN_SECONDS: u64 = 2;
/// So much longer than its windows a crowd plays, s.
const CROWD_SPARE_SECONDS: u64 = 2;
/// The crowd is there within this time.
const CROWD_MAX: Duration = Duration::from_secs(30);

const PLAN: Plan = Plan {
    campaign_file: "campaigns/torture.toml",
    campaign: 95,
    shake_interval_ms: 0,
    threads: 1,
    grace_seconds: 3_600,
    ..Plan::DEMO
};

/// What can be chosen.
pub(super) struct Choice<'a> {
    /// Only torments whose name contains this.
    pub(super) only: Option<&'a str>,
    /// Windows of each torment, instead of its own number.
    pub(super) rounds: Option<u64>,
    /// A look: one short window of each torment, whose times nobody judges.
    pub(super) few: bool,
    pub(super) release: bool,
}

pub(super) fn run(choice: &Choice<'_>) -> Result<()> {
    let chosen = |torment: &Torment| choice.only.is_none_or(|only| torment.word().contains(only));
    let torments: Vec<Torment> = Torment::ALL.into_iter().filter(chosen).collect();
    if torments.is_empty() {
        bail!("no torment is called so");
    }
    let mut event = Event::prepare("agent-torture", Plan { release: choice.release, ..PLAN })?;
    let mut rehearsal = Rehearsal::new("agent-torture");
    rehearsal.tell("goes_before_others", go_first());
    let mut hand = Hand::new(&mut event)?;
    started(&mut event)?;
    arm(&event)?;
    event.await_packets()?;
    let mut logs = vec![LOAD.tickets.context("the windows have a log")?.to_owned()];
    let mut users = WINDOWS_FROM;
    // A look is one crowd long.
    let acts: Vec<&[Torment]> =
        if choice.few { vec![&torments] } else { torments.chunks(1).collect() };
    for (place, act) in acts.into_iter().enumerate() {
        let scene = Scene { event: &event, hand: &mut hand, choice, users: &mut users };
        let crowd = format!("crowd-{place}");
        scene.play(act, &crowd, PEOPLE_FROM + PEOPLE * place as u64, &mut rehearsal)?;
        logs.push(format!("{crowd}.tickets"));
    }
    event.await_agent()?;
    event.await_settled()?;
    let logs: Vec<&str> = logs.iter().map(String::as_str).collect();
    let audit = end(&mut event, &logs)?;
    let number = |key: &str| audit[key].as_u64().with_context(|| format!("no {key}"));
    let opened = number("opened")?;
    rehearsal.at_least("opens_acknowledged", opened, 1);
    rehearsal.exactly("opens_settled", number("settled")?, opened);
    rehearsal.audited(&audit);
    let log = std::fs::read_to_string(event.path("access.log"))?;
    rehearsal.exactly("panics", log.matches("panicked").count() as u64, 0);
    rehearsal.judge()?;
    event.remove()
}

/// Where torments are played.
struct Scene<'a> {
    event: &'a Event,
    hand: &'a mut Hand,
    choice: &'a Choice<'a>,
    /// The next user of the windows.
    users: &'a mut u64,
}

/// What came of a torment.
#[derive(Default)]
struct Played {
    quiet: Vec<Window>,
    tormented: Vec<Window>,
    done: Done,
}

impl Choice<'_> {
    fn load(&self, torment: Torment) -> Load {
        if self.few { LOAD_FEW } else { Load { seconds: torment.seconds(), ..LOAD } }
    }

    /// Windows with the torment.
    fn rounds(&self, torment: Torment) -> u64 {
        if self.few { 1 } else { self.rounds.unwrap_or(torment.rounds()) }
    }

    /// All its windows, about, s. A look has no quiet ones: it compares nothing.
    fn seconds(&self, torment: Torment) -> u64 {
        let windows = if self.few { 1 } else { 2 * self.rounds(torment) + 1 };
        let load = self.load(torment);
        windows * (load.seconds + load.warm + BETWEEN_SECONDS)
    }
}

impl Scene<'_> {
    /// Plays these torments while a crowd of SDK clients, called so, does what crowds do.
    fn play(
        mut self,
        act: &[Torment],
        crowd: &str,
        people_from: u64,
        rehearsal: &mut Rehearsal,
    ) -> Result<()> {
        let seconds: u64 = act.iter().map(|torment| self.choice.seconds(*torment)).sum();
        let (count, seconds) = (PEOPLE.to_string(), (seconds + CROWD_SPARE_SECONDS).to_string());
        let options = ["--clients", &count, "--seconds", &seconds, "--shake-every-ms", "500"];
        let endpoints = Way::ALL.map(|way| self.event.endpoint(way));
        let target = self.event.crowd_options_to(&endpoints, people_from);
        let people = People::start_behind(self.event, crowd, &target, &options)?;
        people::await_users(self.event, PEOPLE, CROWD_MAX)?;
        for torment in act {
            let played = self.torment(*torment).with_context(|| torment.word())?;
            played.judge(*torment, self.choice.few, rehearsal);
        }
        let people = people.finish()?;
        let mut troubles = people.number("errors")? + people.number("unanswered")?;
        for way in Way::ALL {
            troubles += people.interruptions(way.scheme())?;
        }
        rehearsal.at_least(&format!("{crowd}_shakes"), people.number("shakes")?, 1);
        rehearsal.at_least(&format!("{crowd}_receipts"), people.number("receipts")?, 1);
        rehearsal.exactly(&format!("{crowd}_troubles"), troubles, 0);
        Ok(())
    }

    fn torment(&mut self, torment: Torment) -> Result<Played> {
        let Choice { few, .. } = *self.choice;
        let (load, rounds) = (self.choice.load(torment), self.choice.rounds(torment));
        let mut played = Played::default();
        if !few {
            played.quiet.push(self.window(load)?);
        }
        for round in 0..rounds {
            self.hand.prepare(self.event, torment)?;
            let length = Duration::from_secs(load.seconds + load.warm);
            let swaps = torment.swaps(round, rounds, length, few);
            let (event, first_user) = (self.event, self.next_users(load));
            let work = || load.measure(event, first_user);
            let (window, done) = self.hand.during(event, torment, swaps, work)?;
            played.tormented.push(window);
            played.done.add(&done);
            played.done.add(&self.hand.relieve(event)?);
            if !few {
                played.quiet.push(self.window(load)?);
            }
        }
        Ok(played)
    }

    fn window(&mut self, load: Load) -> Result<Window> {
        let first_user = self.next_users(load);
        load.measure(self.event, first_user)
    }

    fn next_users(&mut self, load: Load) -> u64 {
        let first = *self.users;
        *self.users += load.connections;
        first
    }
}

impl Played {
    fn judge(&self, torment: Torment, few: bool, rehearsal: &mut Rehearsal) {
        let key = |what: &str| format!("{}_{what}", torment.word());
        let p99 = |windows: &[Window]| windows.iter().map(|one| one.p99_us).collect::<Vec<_>>();
        let (quiet, tormented) = (p99(&self.quiet), p99(&self.tormented));
        let p99_us = median(tormented.clone());
        rehearsal.tell(&key("p99_us_worst"), tormented.iter().copied().max().unwrap_or(0));
        if few {
            rehearsal.tell(&key("p99_us"), p99_us);
        } else {
            // What this machine makes of the same agent twice, and what the torment makes of it.
            let control = Ratio::of(&quiet[1..], &quiet);
            let ratio = Ratio::of(&tormented, &between(&quiet, &quiet[1..]));
            rehearsal.tell(&key("p99_us_quiet"), median(quiet));
            rehearsal.tell(&key("p99_ratio_quiet_to_quiet"), control.median);
            rehearsal.tell(&key("p99_ratio_95"), ratio.range());
            rehearsal.at_most(&key("p99_us"), p99_us as f64, P99_US_MAX);
            rehearsal.at_most(&key("p99_ratio"), ratio.median, RATIO_MAX);
        }
        let errors = self.quiet.iter().chain(&self.tormented).map(|one| one.errors).sum();
        rehearsal.exactly(&key("shake_errors"), errors, 0);
        torment.judge(&self.done, self.tormented.len() as u64, few, rehearsal);
    }
}
