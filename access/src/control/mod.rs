//! The control thread: admin HTTP, signals, reloads, and the drain that ends the process. A tokio
//! current-thread runtime; nothing here is on the path of a shake.

mod admin;
mod metrics;
mod status;

use crate::{
    agent_link::AgentHandle,
    clock::Clock,
    config::{self, Config, DrainConfig},
    files,
    issuer_thread::IssuerStatus,
    messages::{ToIssuer, ToShard},
    node::{Node, Shards},
    registry::Registry,
    sessions::Orders,
    spool::SpoolCounters,
    telemetry::{CryptoCounters, DiskCounters, ShardCounters},
    tls::TlsSettings,
    token_keys::TokenKeys,
};
use arc_swap::ArcSwap;
pub use metrics::Exporter;
#[cfg(test)]
pub(crate) use metrics::names as metric_names;
use serde_json::{Value, json};
use std::{
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::SyncSender,
    },
    time::Duration,
};
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
    sync::Notify,
};
use yao_engine::{Timestamp, shard::Reconnect};
use yao_protocol::schedule::Schedule;

/// The wall clock may differ from the node's anchor by this much before the node says so, us.
const CLOCK_STEP_US_MAX: i64 = 500_000;
/// A drain is over when no session has been open for so long, ns.
const DRAIN_QUIET_NS: u64 = 1_100_000_000;
/// While draining, this often it is looked whether everybody has left.
const DRAIN_LOOK: Duration = Duration::from_millis(50);

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
    /// Certificates, replaced by a reload.
    pub tls: TlsSettings,
    /// What the threads of sessions shall do.
    pub orders: Arc<Orders>,
    /// The schedule in force.
    pub schedule: ArcSwap<Schedule>,
    /// When the process began.
    pub started: Timestamp,
    /// Notified when the node shall drain and end.
    pub stop: Notify,
    /// How it shall drain: as configured, unless whoever asks says otherwise.
    pub drain_order: ArcSwap<DrainConfig>,
    /// Prometheus' view.
    pub exporter: Exporter,
    /// Reloads that were refused.
    pub reloads_refused: AtomicU64,
}

impl Control {
    fn is_draining(&self) -> bool {
        self.orders.drain_per_second.load(Ordering::Relaxed) > 0
    }

    fn schedule_version(&self) -> u64 {
        self.schedule.load().version
    }

    /// Why new clients should not be sent here; empty when they should.
    #[must_use]
    pub fn unready_reasons(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        if self.is_draining() {
            reasons.push("draining: no new connections are taken".to_owned());
        }
        if let Some(reason) = &self.issuer_status.load().fenced {
            reasons.push(format!("fenced: {reason}"));
        }
        reasons.extend(self.issuer_status.load().grants.iter().filter_map(|g| g.no_grant()));
        if self.spool.is_fenced() {
            reasons.push("spool: opens cannot be stored; see the log and restart".to_owned());
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
        self.try_reload().inspect_err(|reason| {
            self.reloads_refused.fetch_add(1, Ordering::Relaxed);
            tracing::error!(event = "reload_refused", %reason, "the old configuration stays");
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
        let version = schedule.version;
        if !same {
            let schedule = Arc::new(schedule);
            let sent = self.issuer.try_send(ToIssuer::Schedule(Arc::clone(&schedule)));
            sent.map_err(|_| "the issuer's queue is full; ask again".to_owned())?;
            self.schedule.store(schedule);
        }
        if let Some(certificates) = certificates {
            self.tls.put_in_force(certificates);
        }
        self.tokens.store(Arc::new(tokens));
        self.reconnect.store(Arc::new(reconnect));
        self.node.keys.store(Arc::new(keys));
        self.orders.shake_interval_ms.store(config.session.shake_interval_ms, Ordering::Relaxed);
        let restart = needs_restart(&self.config.load(), &config);
        self.drain_order.store(Arc::new(config.drain.clone()));
        self.config.store(Arc::new(config));
        tracing::info!(event = "reloaded", schedule_version = version, needs_restart = ?restart);
        let mut report = format!("reloaded; schedule version {version}");
        if !restart.is_empty() {
            report += &format!("; changes in {} take effect at the next start", restart.join(", "));
        }
        Ok(report)
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

    /// A gauge or counter over all threads of sessions, as of their last flush.
    fn sum(&self, name: &str) -> u64 {
        self.shard_counters.iter().map(|counters| counters.sum(name)).sum()
    }

    /// Asks everybody to leave and waits; `true` when all left before the deadline. Whoever comes
    /// meanwhile is told to go elsewhere when he says HELLO.
    async fn drain(&self) -> bool {
        let start = self.node.clock.now();
        let mut order = self.order_drain();
        // Sessions are what must leave; connections without one come and are turned away all the
        // time. But a HELLO whose token was being checked as the drain began may still open one.
        let checked_at = start.plus_ms(u64::from(self.config.load().session.frame_ms_max));
        let mut empty_since: Option<Timestamp> = None;
        loop {
            let now = self.node.clock.now();
            if !Arc::ptr_eq(&order, &self.drain_order.load()) {
                order = self.order_drain();
            }
            let all_checked = now >= checked_at || self.sum("connections_unopened") == 0;
            if self.registry.is_empty() && all_checked {
                let since = *empty_since.get_or_insert(now);
                if now.ns_since(since) > DRAIN_QUIET_NS {
                    return true;
                }
            } else {
                empty_since = None;
            }
            if now >= start.plus_ms(u64::from(order.deadline_seconds) * 1_000) {
                tracing::warn!(event = "drain_deadline", cut = self.registry.len());
                return false;
            }
            tokio::time::sleep(DRAIN_LOOK).await;
        }
    }

    /// Puts the drain's rate in force, the first or another one; returns the order that it is of.
    fn order_drain(&self) -> Arc<DrainConfig> {
        let order = self.drain_order.load_full();
        let threads = u32::try_from(self.shards.count()).expect("at most 512 threads");
        let per_second = order.per_second.div_ceil(threads.max(1)).max(1);
        tracing::info!(event = "draining", connections = self.sum("connections"), per_second);
        self.orders.drain_per_second.store(per_second, Ordering::Relaxed);
        for thread in 0..self.shards.count() {
            let thread = u16::try_from(thread).expect("at most 512 threads");
            self.shards.send(thread, ToShard::Drain);
        }
        order
    }
}

/// Sections whose changes a running node does not take over.
fn needs_restart(old: &Config, new: &Config) -> Vec<&'static str> {
    // What a reload does take over is made equal first.
    let mut old = old.clone();
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
}

/// Serves until a signal or `/drain` ends the node; `true` when every client left in time.
///
/// `ready` is called once everything listens.
///
/// # Errors
/// When the admin port or the signal handlers cannot be had.
pub fn run(
    control: &Arc<Control>,
    listener: std::net::TcpListener,
    ready: impl FnOnce(),
) -> io::Result<bool> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut signals = Signals::new()?;
        let listener = TcpListener::from_std(listener)?;
        let router = admin::router(Arc::clone(control));
        let server = tokio::spawn(async move { axum::serve(listener, router).await });
        ready();
        loop {
            tokio::select! {
                _ = signals.terminate.recv() => break,
                _ = signals.interrupt.recv() => break,
                () = control.stop.notified() => break,
                _ = signals.hang_up.recv() => {
                    // The reason of a refusal is in the log.
                    control.reload().ok();
                }
                _ = signals.user2.recv() => spawn_swap(control),
            }
        }
        let all_left = tokio::select! {
            all_left = control.drain() => all_left,
            _ = signals.terminate.recv() => false,
            _ = signals.interrupt.recv() => false,
        };
        server.abort();
        Ok(all_left)
    })
}

/// A swap takes seconds: the signal loop goes on meanwhile.
fn spawn_swap(control: &Arc<Control>) {
    let control = Arc::clone(control);
    tokio::spawn(async move {
        match control.swap_agent().await {
            Ok(report) => tracing::info!(event = "agent_swapped", %report),
            Err(reason) => tracing::error!(event = "agent_swap_refused", %reason),
        }
    });
}
