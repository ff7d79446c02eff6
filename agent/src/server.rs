//! The life of an agent: read the files, connect, serve two sockets, drain, leave. A thin shell:
//! the verdicts are in [`crate::rules`], the fate of batches in [`crate::delivery`].
//!
//! The two sockets are served by two tasks, so that a slow delivery never delays a verdict. When
//! the access process closes either of them, the agent ends: nobody is left to serve.

use crate::{
    config::Config,
    delivery::{Delivery, Outcome, Output},
    grants::{self, Grants},
    link::{Link, LinkError, greeting, name},
    policy_watch::PolicyWatch,
    rules::Rules,
    upstream::Upstream,
};
use anyhow::{Context, Result};
use std::{
    hash::{BuildHasher, Hasher, RandomState},
    path::PathBuf,
    time::Duration,
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep_until},
};
use yao_protocol::agent::{FromAccess, FromAgent, Role, Standing, Vet, VetKind};

/// Deliveries under way when the drain began get this long. Below the access process' patience
/// (`agent.leave_ms_max`, 5 s): what is cut here is delivered again by the successor.
const DRAIN_MAX: Duration = Duration::from_secs(4);

/// How this process was started.
#[derive(Clone, Debug)]
pub struct Start {
    /// Where the access process listens.
    pub socket: PathBuf,
    /// Which generation we are.
    pub generation: u32,
    /// What shows that we were started by it.
    pub proof: [u8; 16],
}

/// How far the end has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Serving,
    Draining,
    Drained,
}

/// Serves until told to drain, or until the access process is gone.
///
/// # Errors
/// Whatever keeps the agent from serving.
pub async fn run(start: &Start, config: &Config, policy: PolicyWatch) -> Result<()> {
    // Before anybody may send one: the default of each is death.
    let mut terminate = signal(SignalKind::terminate()).context("cannot handle SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot handle SIGINT")?;
    let hang_up = signal(SignalKind::hangup()).context("cannot handle SIGHUP")?;
    let upstream = Upstream::new(&config.settlement.url).context("cannot make an HTTP client")?;
    let (policies, policy_now) = watch::channel(policy.now());
    let greet = |role| greeting(role, start.generation, start.proof);
    let vets = Link::open(&start.socket, greet(Role::Vet)).await?;
    let delivers = Link::open(&start.socket, greet(Role::Deliver)).await?;
    let stage = watch::Sender::new(Stage::Serving);
    tracing::info!(event = "agent_serves", generation = start.generation);

    let both = async {
        tokio::try_join!(
            serve_vets(vets, policy_now, &stage),
            serve_deliveries(delivers, &upstream, &stage),
        )
    };
    let watching = policy.run(policies, hang_up);
    tokio::pin!(both, watching);
    loop {
        tokio::select! {
            ended = &mut both => {
                ended?;
                break;
            }
            failed = &mut watching => return failed,
            _ = terminate.recv() => drain(&stage),
            _ = interrupt.recv() => drain(&stage),
        }
    }
    tracing::info!(event = "agent_left", generation = start.generation);
    Ok(())
}

fn drain(stage: &watch::Sender<Stage>) {
    stage.send_if_modified(|stage| {
        let begins = *stage == Stage::Serving;
        if begins {
            *stage = Stage::Draining;
        }
        begins
    });
}

/// Waits until the end has come as far as `stage`. The value is let go at once: it is a lock.
async fn reached(ending: &mut watch::Receiver<Stage>, stage: Stage) {
    ending.wait_for(|now| *now >= stage).await.map(drop).expect("`run` holds the sender");
}

/// Answers VETs at once, in as many writes as reads, and sends the policy when it changes.
async fn serve_vets(
    mut link: Link,
    mut rules: watch::Receiver<Rules>,
    stage: &watch::Sender<Stage>,
) -> Result<(), LinkError> {
    let mut ending = stage.subscribe();
    let first = rules.borrow_and_update().policy.encode();
    link.put(&FromAgent::Policy(&first), 0);
    let mut judge = Judge::default();
    loop {
        link.take(|request_id, message, out| match message {
            FromAccess::Standing { call, standing } => {
                judge.about = Some((call, standing));
                Ok(())
            }
            FromAccess::Vet(vet) => {
                let allowed = judge.verdict(&rules.borrow(), &vet);
                FromAgent::Verdict { call: vet.call, allowed }.put(out, request_id);
                Ok(())
            }
            FromAccess::Drain => {
                drain(stage);
                Ok(())
            }
            other => Err(LinkError::Misplaced(name(&other))),
        })?;
        link.flush().await?;
        tokio::select! {
            filled = link.fill() => filled?,
            Ok(()) = rules.changed() => {
                let changed = rules.borrow_and_update().policy.encode();
                link.put(&FromAgent::Policy(&changed), 0);
            }
            () = reached(&mut ending, Stage::Drained) => {
                link.put(&FromAgent::Bye, 0);
                return link.flush().await;
            }
        }
    }
}

/// What is known while questions are answered.
#[derive(Debug, Default)]
struct Judge {
    /// The STANDING that came last, with its call.
    about: Option<(u64, Standing)>,
    /// It was said that the access process sends none.
    warned: bool,
}

impl Judge {
    fn verdict(&mut self, rules: &Rules, vet: &Vet) -> bool {
        let about = self.about.take().filter(|(call, _)| *call == vet.call);
        let standing = about.map(|(_, standing)| standing);
        if standing.is_none() && vet.kind != VetKind::Probe && rules.need_standing() && !self.warned
        {
            self.warned = true;
            tracing::warn!(
                event = "standing_unknown",
                "the access process names no devices and risk classes: the rules about them are \
                 without effect until it is replaced by a newer one"
            );
        }
        let judged = rules.judge(vet, standing.as_ref());
        if let Err(reason) = judged {
            tracing::debug!(event = "refused", kind = ?vet.kind, ?reason);
        }
        judged.is_ok()
    }
}

/// A POST that has ended.
enum Posted {
    Batch(u32, Outcome),
    Grant(u32, Outcome),
}

/// What is carried to settlement.
struct Carrier<'a> {
    delivery: Delivery,
    grants: Grants,
    upstream: &'a Upstream,
    posts: JoinSet<Posted>,
}

/// Carries batches and requests for grants to settlement, and its answers back.
async fn serve_deliveries(
    mut link: Link,
    upstream: &Upstream,
    stage: &watch::Sender<Stage>,
) -> Result<(), LinkError> {
    let mut ending = stage.subscribe();
    let seed = || RandomState::new().build_hasher().finish();
    let (delivery, grants) = (Delivery::new(seed()), Grants::new(seed()));
    let mut carrier = Carrier { delivery, grants, upstream, posts: JoinSet::new() };
    let mut cut_at: Option<Instant> = None;
    loop {
        link.take(|request_id, message, _| match message {
            FromAccess::Deliver(batch) => {
                carrier.delivery.handle_batch(request_id, batch);
                Ok(())
            }
            FromAccess::GrantAsk(request) => {
                carrier.grants.handle_request(request_id, request);
                Ok(())
            }
            FromAccess::Drain => {
                // At once: a batch may stand right behind it.
                carrier.drain();
                drain(stage);
                Ok(())
            }
            other => Err(LinkError::Misplaced(name(&other))),
        })?;
        carrier.perform(&mut link);
        link.flush().await?;
        if carrier.is_drained() {
            break;
        }
        tokio::select! {
            filled = link.fill() => filled?,
            Some(ended) = carrier.posts.join_next() => {
                carrier.take(ended.expect("a POST does not panic"));
            }
            () = reached(&mut ending, Stage::Draining), if cut_at.is_none() => {
                carrier.drain();
                cut_at = Some(Instant::now() + DRAIN_MAX);
            }
            () = sleep_until(cut_at.unwrap_or_else(Instant::now)), if cut_at.is_some() => {
                tracing::warn!(event = "drain_cut", deliveries = carrier.posts.len());
                break;
            }
        }
    }
    link.put(&FromAgent::Bye, 0);
    link.flush().await?;
    stage.send_replace(Stage::Drained);
    Ok(())
}

impl Carrier<'_> {
    fn drain(&mut self) {
        self.delivery.handle_drain();
        self.grants.handle_drain();
    }

    fn is_drained(&self) -> bool {
        self.delivery.is_drained() && self.grants.is_idle()
    }

    fn take(&mut self, posted: Posted) {
        match posted {
            Posted::Batch(request_id, outcome) => {
                tell("batch", request_id, &outcome);
                self.delivery.handle_outcome(request_id, outcome);
            }
            Posted::Grant(request_id, outcome) => {
                tell("grant", request_id, &outcome);
                self.grants.handle_outcome(request_id, outcome);
            }
        }
    }

    /// Does what the state machines ask for.
    fn perform(&mut self, link: &mut Link) {
        while let Some(output) = self.grants.poll() {
            match output {
                grants::Output::Post { request_id, request } => {
                    let upstream = self.upstream.clone();
                    self.posts.spawn(async move {
                        Posted::Grant(request_id, upstream.ask(request).await)
                    });
                }
                grants::Output::Answer { request_id, answer } => {
                    link.put(&FromAgent::GrantAnswer(&answer), request_id);
                }
                grants::Output::Unanswered { request_id, retry_after_ms } => {
                    link.put(&FromAgent::GrantUnanswered { retry_after_ms }, request_id);
                }
            }
        }
        while let Some(output) = self.delivery.poll() {
            match output {
                Output::Post { request_id, batch } => {
                    let upstream = self.upstream.clone();
                    self.posts.spawn(async move {
                        Posted::Batch(request_id, upstream.post(batch).await)
                    });
                }
                Output::Delivered { request_id, answer } => {
                    link.put(&FromAgent::Delivered(&answer), request_id);
                }
                Output::Undelivered { request_id, retry_after_ms } => {
                    link.put(&FromAgent::Undelivered { retry_after_ms }, request_id);
                }
            }
        }
    }
}

fn tell(what: &str, request_id: u32, outcome: &Outcome) {
    match outcome {
        Outcome::Answered(answer) => {
            tracing::debug!(event = "settlement_answered", what, request_id, bytes = answer.len());
        }
        Outcome::Busy { retry_after_ms } => {
            tracing::info!(event = "settlement_busy", what, request_id, retry_after_ms);
        }
        Outcome::Unreachable { reason } => {
            tracing::warn!(event = "settlement_unreachable", what, request_id, reason);
        }
        // Asked again for ever, since nothing acknowledged may be lost: a person must look.
        Outcome::Refused { status, text } => tracing::error!(
            event = "settlement_refused",
            what,
            request_id,
            status,
            text,
            "settlement does not take this; compare the key sets of node and settlement"
        ),
    }
}
