//! The control thread: admin HTTP, signals, reloads, and the drain that ends the process. A tokio
//! current-thread runtime; nothing here is on the path of a shake.

mod admin;
mod drain;
mod metrics;
mod status;

use crate::{
    agent_link::AgentHandle,
    clock::Clock,
    config::{self, Config},
    files,
    issuer_thread::IssuerStatus,
    messages::ToIssuer,
    node::{Node, Shards},
    overdue::{self, overdue},
    registry::Registry,
    sessions::Orders,
    spool::SpoolCounters,
    telemetry::{CryptoCounters, DiskCounters, ShardCounters},
    tls::TlsSettings,
    token_keys::TokenKeys,
};
use arc_swap::{ArcSwap, ArcSwapOption};
pub use drain::{DrainOrder, Ended};
pub use metrics::Exporter;
#[cfg(test)]
pub(crate) use metrics::names as metric_names;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    io,
    path::PathBuf,
    pin::pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
        mpsc::SyncSender,
    },
};
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
    sync::Notify,
};
use yao_engine::{
    Timestamp,
    shard::{Hint, Reconnect},
};
use yao_protocol::{
    WallTime, WaveIndex,
    schedule::{Schedule, format_rfc3339},
};

/// The wall clock may differ from the node's anchor by this much before the node says so, us.
const CLOCK_STEP_US_MAX: i64 = 500_000;

/// Everything the control thread reads and commands.
#[derive(Debug)]
pub struct Control {
    /// Where the configuration came from.
    pub config_path: PathBuf,
    /// The configuration in force.
    pub config: ArcSwap<Config>,
    /// Who we are.
    pub node: Arc<Node>,
    /// The shard threads' inboxes.
    pub shards: Shards,
    /// Users and connections.
    pub registry: Arc<Registry>,
    /// The issuer's queue.
    pub issuer: SyncSender<ToIssuer>,
    /// What the issuer last said about itself.
    pub issuer_status: Arc<ArcSwap<IssuerStatus>>,
    /// Shard threads' numbers.
    pub shard_counters: Vec<Arc<ShardCounters>>,
    /// Crypto threads' numbers.
    pub crypto: Vec<Arc<CryptoCounters>>,
    /// The money-disk thread's numbers.
    pub disk: Arc<DiskCounters>,
    /// The spool thread's numbers.
    pub spool: Arc<SpoolCounters>,
    /// The agent link, when one is configured.
    pub agent: Option<AgentHandle>,
    /// Keys of session tokens, replaced by a reload.
    pub tokens: Arc<ArcSwap<TokenKeys>>,
    /// Keys of reconnect tickets, replaced by a reload.
    pub reconnect: Arc<ArcSwap<Option<Reconnect>>>,
    /// Where clients go that this node does not want, replaced by a reload.
    pub hint: Arc<ArcSwap<Hint>>,
    /// Certificates, replaced by a reload.
    pub tls: TlsSettings,
    /// What the threads of sessions shall do.
    pub orders: Arc<Orders>,
    /// The schedule in force.
    pub schedule: ArcSwap<Schedule>,
    /// How long each wave of the shard lasts, us of wave time.
    pub wave_us: BTreeMap<WaveIndex, u64>,
    /// Waves that the schedule of the start had ended before they began, and since when: they are
    /// idle until a reload corrects their T0.
    pub left_alone: Vec<(WaveIndex, WallTime)>,
    /// When the process began.
    pub started: Timestamp,
    /// Notified when the node shall drain and end.
    pub stop: Notify,
    /// How it shall drain, where that is not as configured.
    pub drain_order: ArcSwap<DrainOrder>,
    /// When it began to.
    pub drain_began: OnceLock<Timestamp>,
    /// Since when an operator has newcomers turned away.
    pub refused_since: ArcSwapOption<Timestamp>,
    /// Prometheus' view.
    pub exporter: Exporter,
    /// Reloads that were refused.
    pub reloads_refused: AtomicU64,
}

impl Control {
    /// Whether newcomers are turned away.
    fn refuses_new(&self) -> bool {
        self.orders.is_draining() || self.orders.refuse_new.load(Ordering::Relaxed)
    }

    /// How long newcomers have been turned away, seconds; `None` while they are taken.
    fn refused_seconds(&self) -> Option<u64> {
        let since = self.refused_since.load_full().map(|since| *since);
        let since = since.or_else(|| self.drain_began.get().copied())?;
        Some(self.node.clock.now().since(since).as_secs())
    }

    /// Turns newcomers away from now on, or takes them again; sessions stay. Returns what that
    /// comes to.
    ///
    /// # Errors
    /// A node that drains takes nobody again.
    fn refuse_new(&self, refuse: bool) -> Result<String, String> {
        if self.orders.is_draining() && !refuse {
            return Err("the node drains and ends; it takes nobody any more".to_owned());
        }
        self.orders.refuse_new.store(refuse, Ordering::Relaxed);
        if !refuse {
            self.refused_since.store(None);
        } else if self.refused_since.load().is_none() {
            self.refused_since.store(Some(self.node.clock.now().into()));
        }
        let sessions = self.registry.len();
        tracing::info!(event = "newcomers", refused = refuse, sessions);
        if !refuse {
            return Ok(format!("new sessions are taken; {sessions} are open"));
        }
        let hint = self.hint.load();
        let Hint { return_ms_min: from, return_ms_jitter: jitter, endpoints, .. } = &**hint;
        Ok(format!(
            "new sessions are refused, {sessions} stay open; clients are told {} other endpoints, \
             and to come back after {from} to {} ms",
            endpoints.len(),
            u64::from(*from) + u64::from(*jitter),
        ))
    }

    /// Does what a signal asks for that is not the node's end.
    fn obey(self: &Arc<Self>, asked: Asked) {
        match asked {
            Asked::End => {}
            // The reason of a refusal is in the log.
            Asked::Reload => drop(self.reload()),
            Asked::Swap => {
                // A swap takes seconds: the signal loop goes on meanwhile.
                let control = Arc::clone(self);
                tokio::spawn(async move {
                    match control.swap_agent().await {
                        Ok(report) => tracing::info!(event = "agent_swapped", %report),
                        Err(reason) => tracing::error!(event = "agent_swap_refused", %reason),
                    }
                });
            }
        }
    }

    fn schedule_version(&self) -> u64 {
        self.schedule.load().version
    }

    /// Why new clients should not be sent here; empty when they should.
    #[must_use]
    pub fn unready_reasons(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        if self.orders.is_draining() {
            reasons.push("draining: no new sessions are taken".to_owned());
        } else if self.refuses_new() {
            reasons
                .push("refusing: new sessions are refused until `yao-access take-new`".to_owned());
        }
        if let Some(reason) = &self.issuer_status.load().fenced {
            reasons.push(format!("fenced: {reason}"));
        }
        reasons.extend(self.issuer_status.load().grants.iter().filter_map(|g| g.no_grant()));
        if self.spool.is_fenced() {
            reasons.push("spool: opens cannot be stored; see the log and restart".to_owned());
        }
        if self.spool.is_full() {
            reasons.push(
                "spool: full; opens are refused until settlement answers or the disk has room"
                    .to_owned(),
            );
        }
        let clock: &Clock = &self.node.clock;
        let step_us = clock.wall_step_us();
        if step_us.abs() > CLOCK_STEP_US_MAX {
            reasons.push(format!(
                "clock: the system's clock was stepped by {step_us} us since start; armed waves \
                 keep their time"
            ));
        }
        reasons
    }

    /// Reads configuration, key set, JWKS and schedule anew. Nothing changes unless all are good.
    ///
    /// # Errors
    /// One line that names the file and what is wrong with it.
    pub fn reload(&self) -> Result<String, String> {
        self.try_reload().map_err(|reason| {
            let reason = on_one_line(&reason);
            self.reloads_refused.fetch_add(1, Ordering::Relaxed);
            tracing::error!(event = "reload_refused", %reason, "the old configuration stays");
            reason
        })
    }

    fn try_reload(&self) -> Result<String, String> {
        let text = |error: &dyn ToString| error.to_string();
        let config =
            config::load::load(&self.config_path, std::env::vars()).map_err(|e| text(&e))?;
        let identity = &config.identity;
        let tokens = TokenKeys::load(&identity.jwks, &identity.audience).map_err(|e| text(&e))?;
        let reconnect = files::reconnect(identity.reconnect.as_ref()).map_err(|e| text(&e))?;
        let keys = files::key_set(&config.node.keys).map_err(|e| text(&e))?;
        if let Some(owner) = self.node.keys.load().missing_from(&keys) {
            return Err(format!(
                "{}: the key of {owner:?}, which is in force, is not there any more; without it \
                 genuine tickets would be refused. Is the folder being copied? Keys that are no \
                 longer trusted end with a restart",
                config.node.keys.display()
            ));
        }
        let certificates = config.tls.as_ref().map(|tls| self.tls.prepare(tls)).transpose();
        let certificates = certificates.map_err(|e| text(&e))?;
        let path = &config.shard.schedule;
        let schedule = files::schedule(path, self.node.campaign).map_err(|e| text(&e))?;
        let old = self.schedule.load();
        let same = **old == schedule;
        if !same && schedule.version <= old.version {
            return Err(format!(
                "{}: version {} is not above {}, which is in force; raise `version`",
                path.display(),
                schedule.version,
                old.version
            ));
        }
        if let Some((wave, end)) = self.over_at_once(&schedule) {
            return Err(format!(
                "{}: wave {wave} would be over at once, since {}, and a wave that is over stays \
                 so; correct its t0",
                path.display(),
                format_rfc3339(end)
            ));
        }
        let version = schedule.version;
        if !same {
            let sent =
                self.issuer.try_send(ToIssuer::Schedule(Arc::new(self.to_issuer(&schedule))));
            sent.map_err(|_| "the issuer's queue is full; ask again".to_owned())?;
            self.schedule.store(Arc::new(schedule));
        }
        if let Some(certificates) = certificates {
            self.tls.put_in_force(certificates);
        }
        self.tokens.store(Arc::new(tokens));
        self.reconnect.store(Arc::new(reconnect));
        self.node.keys.store(Arc::new(keys));
        self.orders.shake_interval_ms.store(config.session.shake_interval_ms, Ordering::Relaxed);
        let restart = needs_restart(&self.config.load(), &config);
        self.hint.store(Arc::new(config.hint()));
        self.config.store(Arc::new(config));
        tracing::info!(event = "reloaded", schedule_version = version, needs_restart = ?restart);
        let mut report = format!("reloaded; schedule version {version}");
        if !restart.is_empty() {
            report += &format!("; changes in {} take effect at the next start", restart.join(", "));
        }
        Ok(report)
    }

    /// A wave to which `schedule` gives another T0, and since when it would be over by that. One
    /// that has begun is not moved, so that nothing about it keeps another one's correction out.
    fn over_at_once(&self, schedule: &Schedule) -> Option<(WaveIndex, WallTime)> {
        let old = self.schedule.load();
        let t0 = |schedule: &Schedule, wave| schedule.wave(wave).and_then(|entry| entry.t0);
        let is_moved = |wave| t0(schedule, wave) != t0(&old, wave);
        overdue(schedule, &self.wave_us, self.node.clock.wall())
            .into_iter()
            .find(|(wave, _)| is_moved(*wave) && !self.is_in(*wave, &["running", "closed"]))
    }

    /// Of `schedule` what the issuer is told: not the T0 that had a wave left alone at the start.
    fn to_issuer(&self, schedule: &Schedule) -> Schedule {
        let mut over = overdue(schedule, &self.wave_us, self.node.clock.wall());
        over.retain(|(wave, _)| {
            self.left_alone.iter().any(|(left, _)| left == wave) && self.is_in(*wave, &["idle"])
        });
        overdue::without(schedule, &over)
    }

    /// Whether the issuer last said that a wave is in one of these states.
    fn is_in(&self, wave: WaveIndex, states: &[&str]) -> bool {
        let status = self.issuer_status.load();
        status.waves.iter().any(|known| known.wave == wave && states.contains(&known.state))
    }

    /// What somebody should look at, though the node serves.
    fn warnings(&self) -> Vec<String> {
        let mut warnings = self.spool.warnings();
        let left = self.left_alone.iter().filter(|(wave, _)| self.is_in(*wave, &["idle"]));
        warnings.extend(left.map(|(wave, end)| {
            format!(
                "wave {wave}: not begun, for by its t0 it was over at {} already when the node \
                 started; if that is wrong, correct t0, raise `version` and reload",
                format_rfc3339(*end)
            )
        }));
        warnings
    }

    /// Replaces the agent.
    ///
    /// # Errors
    /// Why the newcomer was refused; the old one keeps serving.
    pub async fn swap_agent(&self) -> Result<String, String> {
        let Some(agent) = &self.agent else {
            return Err("no [agent] is configured".to_owned());
        };
        let report = agent.swap_async().await?;
        Ok(format!("generation {} took over", report.generation))
    }
}

/// `reason` without the picture of the place that TOML's own errors draw: they name it, too.
fn on_one_line(reason: &str) -> String {
    let is_picture = |line: &str| {
        line.trim_start()
            .trim_start_matches(|c: char| c.is_ascii_digit())
            .trim_start()
            .starts_with('|')
    };
    let lines: Vec<&str> = reason.lines().filter(|line| !is_picture(line)).map(str::trim).collect();
    lines.join(": ")
}

/// Sections whose changes a running node does not take over.
fn needs_restart(old: &Config, new: &Config) -> Vec<&'static str> {
    // What a reload does take over is made equal first.
    let mut old = old.clone();
    old.listen.endpoints.clone_from(&new.listen.endpoints);
    old.admission.return_ms_min = new.admission.return_ms_min;
    old.admission.return_ms_jitter = new.admission.return_ms_jitter;
    old.session.shake_interval_ms = new.session.shake_interval_ms;
    old.identity.jwks.clone_from(&new.identity.jwks);
    old.identity.audience.clone_from(&new.identity.audience);
    old.identity.reconnect.clone_from(&new.identity.reconnect);
    old.shard.schedule.clone_from(&new.shard.schedule);
    old.node.keys.clone_from(&new.node.keys);
    if let (Some(old), Some(new)) = (&mut old.tls, &new.tls) {
        old.clone_from(new);
    }
    [
        ("[node]", old.node != new.node),
        ("[listen]", old.listen != new.listen),
        ("[admission]", old.admission != new.admission),
        ("[tls]", old.tls != new.tls),
        ("[shard]", old.shard != new.shard),
        ("[identity]", old.identity != new.identity),
        ("[session]", old.session != new.session),
        ("[spool]", old.spool != new.spool),
        ("[agent]", old.agent != new.agent),
        ("[admin]", old.admin != new.admin),
    ]
    .into_iter()
    .filter_map(|(section, differs)| differs.then_some(section))
    .collect()
}

/// The agent's part of `/status`.
fn agent_json(agent: &AgentHandle) -> Value {
    let status = agent.status();
    json!({
        "generation": status.generation,
        "pid": status.pid,
        "state": status.state,
        "restarts": status.restarts,
        "swaps": status.swaps,
        "in_flight_vets": status.in_flight_vets,
        "in_flight_batches": status.in_flight_batches,
        "last_error": status.last_error,
        "software": status.software,
    })
}

/// The signals the node obeys.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
    user2: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
            user2: signal(SignalKind::user_defined2())?,
        })
    }

    /// The next signal, and what it asks for.
    async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.terminate.recv() => Asked::End,
            _ = self.interrupt.recv() => Asked::End,
            _ = self.hang_up.recv() => Asked::Reload,
            _ = self.user2.recv() => Asked::Swap,
        }
    }
}

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    End,
    Reload,
    Swap,
}

/// Serves until a signal or `/drain` ends the node, and drains it. Returns how many sessions are
/// left.
///
/// `ready` is called once everything listens.
///
/// # Errors
/// When the admin port or the signal handlers cannot be had.
pub fn run(
    control: &Arc<Control>,
    listener: std::net::TcpListener,
    ready: impl FnOnce(),
) -> io::Result<u64> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut signals = Signals::new()?;
        let listener = TcpListener::from_std(listener)?;
        let router = admin::router(Arc::clone(control));
        let server = tokio::spawn(async move { axum::serve(listener, router).await });
        ready();
        let mut signalled = loop {
            tokio::select! {
                asked = signals.next() => match asked {
                    Asked::End => break true,
                    other => control.obey(other),
                },
                () = control.stop.notified() => break false,
            }
        };
        let mut drain = pin!(control.drain());
        let remaining = loop {
            tokio::select! {
                remaining = &mut drain => break remaining,
                asked = signals.next() => match asked {
                    Asked::End if signalled => break control.cut_short("a second signal"),
                    // Whoever ends a node that was told to drain does not mean to cut that short.
                    Asked::End => {
                        signalled = true;
                        tracing::info!(event = "drain_goes_on", "another signal cuts it short");
                    }
                    other => control.obey(other),
                },
            }
        };
        server.abort();
        Ok(remaining)
    })
}
