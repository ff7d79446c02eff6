//! Ties agent link, issuer and spool together, which know nothing of each other.

use crate::{
    agent_link::{self, AgentHandle, AgentSinks},
    config::Config,
    issuer_thread::{GrantOut, VetOut},
    messages::{ToIssuer, ToSpool},
    node::{Node, Shards},
    spool::{self, SpoolHandle, Ways},
    state_dir::StateDir,
};
use anyhow::Result;
use arc_swap::ArcSwap;
use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock, mpsc::SyncSender},
};
use yao_engine::wave_clock::{Curve, PACKET};
use yao_protocol::{WaveIndex, policy::Policy, schedule::Schedule, seed_file::SeedHeader};

/// Starts the spool and the link to the agent, if there shall be one, and makes them known to each
/// other.
pub(super) fn start_spool_and_agent(
    config: &Config,
    node: &Arc<Node>,
    shards: &Shards,
    state: &StateDir,
    rate: u32,
    issuer: &SyncSender<ToIssuer>,
    sinks: impl FnOnce(&SpoolHandle) -> AgentSinks,
) -> Result<(SpoolHandle, Option<AgentHandle>)> {
    let slot: Arc<OnceLock<AgentHandle>> = Arc::default();
    let ways = spool_ways(&slot, vet_ms_max(config), issuer);
    let directory = state.spool();
    let place = (state.disk(), directory.as_path());
    let spool = spool::start(Arc::clone(node), shards.clone(), &config.spool, rate, place, ways)?;
    let Some(agent) = &config.agent else { return Ok((spool, None)) };
    let handle = agent_link::start(agent.clone(), Arc::clone(node), sinks(&spool))?;
    // The slot is empty: this is the only place that fills it.
    slot.set(handle.clone()).ok();
    Ok((spool, Some(handle)))
}

/// How long a verdict of the agent is waited for, ms; without an agent nobody is asked.
pub(super) fn vet_ms_max(config: &Config) -> u32 {
    config.agent.as_ref().map_or(0, |agent| agent.vet_ms_max)
}

/// The issuer's way to the agent.
pub(super) fn vet_out(agent: Option<AgentHandle>) -> VetOut {
    Box::new(move |question| agent.as_ref().is_some_and(|agent| agent.vet(question)))
}

/// The way of requests for grants to the agent.
pub(super) fn grant_out(agent: Option<AgentHandle>) -> GrantOut {
    Box::new(move |id, request| agent.as_ref().is_some_and(|agent| agent.ask_grant(id, request)))
}

/// How long each wave of the shard lasts, us of wave time.
pub(super) fn wave_us(header: &SeedHeader) -> BTreeMap<WaveIndex, u64> {
    header.sections.iter().map(|section| (section.wave, section.duration_us())).collect()
}

/// Opens of the backlog that are delivered in a second unless the configuration says otherwise: 1.5
/// times what the plan releases in its steepest second, so that the end of an outage brings
/// settlement little more than the event does.
pub(super) fn backlog_per_second(header: &SeedHeader, schedule: &Schedule) -> u32 {
    let released = header.sections.iter().map(|section| {
        let factor = schedule.wave(section.wave).map_or(1, |wave| wave.factor);
        Curve::new(section).rate_max().saturating_mul(u64::from(factor)) / PACKET
    });
    let released = released.max().unwrap_or(0);
    let rate = u32::try_from(released.saturating_mul(3) / 2).unwrap_or(u32::MAX);
    rate.max(BACKLOG_PER_SECOND_MIN)
}

/// A small campaign must not take hours for an outage of minutes. 638 nodes at this rate are what
/// the gala's settlement carries anyway (DESIGN.md 1: 50,000 packets a second).
const BACKLOG_PER_SECOND_MIN: u32 = 100;

fn spool_ways(
    slot: &Arc<OnceLock<AgentHandle>>,
    vet_ms_max: u32,
    issuer: &SyncSender<ToIssuer>,
) -> Ways {
    let (for_vets, for_batches, for_looks) = (Arc::clone(slot), Arc::clone(slot), Arc::clone(slot));
    let issuer = issuer.clone();
    Ways {
        vet_ms_max,
        vet: Box::new(move |question| for_vets.get().is_some_and(|agent| agent.vet(question))),
        deliver: Box::new(move |request_id, batch| {
            for_batches.get().is_some_and(|agent| agent.deliver(request_id, batch))
        }),
        agent: Box::new(move || for_looks.get().map(AgentHandle::is_available)),
        throttle: Box::new(move |percent| issuer.try_send(ToIssuer::Throttle { percent }).is_ok()),
    }
}

/// Where the agent's words go. A full queue drops a verdict: its call times out and counts as yes.
/// The spool's is full when its disk stalls, and the link must not wait for a disk: an answer of
/// settlement is given again when its batch is, and the spool looks for the agent by itself.
pub(super) fn agent_sinks(
    issuer: &SyncSender<ToIssuer>,
    spool: &SyncSender<ToSpool>,
    policy: &Arc<ArcSwap<Policy>>,
) -> AgentSinks {
    let (wins, available_issuer, changed) = (issuer.clone(), issuer.clone(), issuer.clone());
    let (opens, available_spool) = (spool.clone(), spool.clone());
    let (granted, ungranted) = (issuer.clone(), issuer.clone());
    let (delivered, undelivered) = (spool.clone(), spool.clone());
    let current = Arc::clone(policy);
    AgentSinks {
        win_verdict: Box::new(move |call, allowed| {
            wins.try_send(ToIssuer::Verdict { call, allowed }).ok();
        }),
        open_verdict: Box::new(move |call, allowed| {
            opens.try_send(ToSpool::Verdict { call, allowed }).ok();
        }),
        delivered: Box::new(move |request_id, answer| {
            delivered.try_send(ToSpool::Delivered { request_id, answer }).ok();
        }),
        undelivered: Box::new(move |request_id, retry_after_ms| {
            undelivered.try_send(ToSpool::Undelivered { request_id, retry_after_ms }).ok();
        }),
        grant_answer: Box::new(move |answer| {
            // Lost when the queue is full: the issuer asks again.
            granted.try_send(ToIssuer::GrantAnswer { answer }).ok();
        }),
        grant_unanswered: Box::new(move |wave, retry_after_ms| {
            // The request's id is its wave.
            let wave = u16::try_from(wave).map(WaveIndex);
            if let Ok(wave) = wave {
                ungranted.try_send(ToIssuer::GrantUnanswered { wave, retry_after_ms }).ok();
            }
        }),
        available: Box::new(move |available| {
            available_issuer.send(ToIssuer::AgentAvailable(available)).ok();
            available_spool.try_send(ToSpool::AgentAvailable(available)).ok();
        }),
        policy: Arc::clone(policy),
        policy_changed: Box::new(move || {
            changed.send(ToIssuer::Policy(current.load_full())).ok();
        }),
    }
}
