//! The start-up order of a node, its threads, and their end. Reads like the sequence it is.

mod ports;
mod seal;
#[cfg(test)]
pub(crate) mod testing;
mod threads;
mod wiring;

pub use self::seal::seal;

use self::{
    ports::Addresses,
    threads::Way,
    wiring::{
        agent_sinks, backlog_per_second, grant_out, start_spool_and_agent, vet_ms_max, vet_out,
        wave_us,
    },
};
use crate::{
    agent_link::AgentHandle,
    clock::Clock,
    config::Config,
    control::{self, Control, Ended},
    crypto::{self, CryptoContext},
    disk::{Disk, RealDisk},
    files,
    gate::Gate,
    issuer_thread::{self, IssuerContext},
    messages::{ToCrypto, ToIssuer, ToShard},
    money_disk::{MoneyDisk, ToMoneyDisk},
    node::{Node, Shards},
    overdue::{left_alone, overdue, without},
    quic::ResetSecret,
    recovery::{self, Recovered},
    registry::Registry,
    seed_shard::SeedShard,
    sessions::{Orders, SessionContext},
    spool::SpoolHandle,
    state_dir::{EPOCH_LOCAL, StateDir},
    telemetry::{CryptoCounters, DiskCounters, ShardCounters},
    tls::TlsSettings,
    token_keys::TokenKeys,
};
use anyhow::{Context, Result, anyhow};
use arc_swap::ArcSwap;
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{
        Arc,
        atomic::Ordering,
        mpsc::{SyncSender, sync_channel},
    },
    thread::{self, JoinHandle},
};
use yao_engine::shard::{Hint, Reconnect, Settings};
use yao_protocol::{
    Incarnation, WallTime, WaveIndex,
    keys::{MacKey, SignKey},
    manifest::Manifest,
    policy::Policy,
    schedule::{Schedule, format_rfc3339},
    seed_file::ShardKey,
};

/// Candidates that may wait for the issuer; beyond it shakes are answered "busy".
const ISSUER_QUEUE: usize = 65_536;
/// Journal records that may wait for the disk; beyond it issuing rests.
const DISK_QUEUE: usize = 65_536;
/// Tokens and tickets that may wait for one crypto thread.
const CRYPTO_QUEUE: usize = 32_768;

/// Whose word is taken for who a client is.
struct Believed {
    tokens: TokenKeys,
    reconnect: Option<Reconnect>,
}

/// What is checked before anything starts.
struct Checked {
    believed: Believed,
    tls: TlsSettings,
    manifest: Manifest,
    shard_key: ShardKey,
    seed: SeedShard,
    keys: yao_protocol::keys::KeySet,
    schedule: Schedule,
}

/// Reads and verifies every file the configuration names.
fn check_files(config: &Config) -> Result<Checked> {
    let tokens = TokenKeys::load(&config.identity.jwks, &config.identity.audience)?;
    let reconnect = files::reconnect(config.identity.reconnect.as_ref())?;
    let tls = TlsSettings::default();
    if let Some(config) = &config.tls {
        tls.put_in_force(tls.prepare(config)?);
    }
    let keys = files::key_set(&config.node.keys)?;
    let shard_key = files::shard_key(&config.shard.key)?;
    let campaign = shard_key.campaign;
    let manifest = files::manifest(&config.shard.manifest, campaign, &keys)?;
    let campaign_key = keys.campaign(campaign).context("the manifest was checked by it")?;
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let seed =
        SeedShard::open(&disk, &config.shard.seed, shard_key.clone(), &campaign_key, &manifest)?;
    let schedule = files::schedule(&config.shard.schedule, campaign)?;
    let believed = Believed { tokens, reconnect };
    Ok(Checked { believed, tls, manifest, shard_key, seed, keys, schedule })
}

/// `yao-access check-config`: everything a start would read, and nothing that it would change.
///
/// # Errors
/// The first thing that is wrong.
pub fn check(config: &Config) -> Result<String> {
    let checked = check_files(config)?;
    let header = checked.seed.header();
    // Not refused: the show may be over, or this wave of it.
    let over = overdue(&checked.schedule, &wave_us(header), Clock::start().wall());
    let over = over.iter().map(|(wave, end)| {
        format!("; by its t0 wave {wave} is over since {}", format_rfc3339(*end))
    });
    let over: String = over.collect();
    Ok(format!(
        "configuration is good: campaign {} ({}), shard {}, {} packets, {} {}; schedule version \
         {}{over}",
        header.campaign,
        checked.manifest.name,
        header.shard,
        header.record_count,
        header.sum.to_decimal(checked.manifest.exponent),
        checked.manifest.currency,
        checked.schedule.version,
    ))
}

/// `yao-access init`: the explicit first start of a shard.
///
/// # Errors
/// When it was initialised before, or anything cannot be written.
pub fn init(config: &Config) -> Result<String> {
    let checked = check_files(config)?;
    let state = StateDir::new(&config.node.state);
    let public = state.init(checked.seed.header(), &config.node.keys)?;
    Ok(format!(
        "initialised {} for shard {}; give {} to every node and to settlement",
        state.root().display(),
        checked.seed.header().shard,
        public.display()
    ))
}

/// Runs a node until it is told to end, and says how it ended.
///
/// # Errors
/// Whatever keeps it from starting: nothing has been issued then.
pub fn run(config: Config, config_path: &Path) -> Result<Ended> {
    let clock = Clock::start();
    let checked = check_files(&config)?;
    let state = StateDir::new(&config.node.state);
    let header = checked.seed.header();
    let lock = state.lock(header.campaign, header.shard)?;
    state.refuse_sealed()?;
    let ticket_key = files::private_key(&state.ticket_key(EPOCH_LOCAL))?;
    let mut incarnation = [0; 16];
    getrandom::fill(&mut incarnation).map_err(|error| anyhow!("no randomness: {error}"))?;
    let node = Arc::new(Node {
        name: config.node.name.clone(),
        campaign: header.campaign,
        shard: header.shard,
        epoch: EPOCH_LOCAL,
        incarnation: Incarnation(incarnation),
        boot_id: recovery::boot_id()?,
        ticket_key: Arc::new(SignKey::from_seed(&ticket_key.seed)),
        resets: ResetSecret::derive(&ticket_key.seed),
        mac_key: MacKey::new(checked.shard_key.mac_key_id, checked.shard_key.mac_key),
        keys: ArcSwap::from_pointee(checked.keys.clone()),
        manifest: checked.manifest.clone(),
        clock,
    });
    // Ports first: what recovery writes into cursors and journal is for a life that serves.
    let admin = admin_listener(config.admin.listen)?;
    let opened = ports::open(&config, &checked.tls, &node.resets)?;
    let recovered = recovery::recover(&node, &state, header, &config.shard.owning())?;
    let parts = Parts::start(config, node, &state, checked, (admin, opened), recovered)?;
    let ended = parts.serve(config_path)?;
    drop(lock);
    Ok(ended)
}

/// Everything that runs.
struct Parts {
    config: Config,
    node: Arc<Node>,
    shards: Shards,
    addresses: Addresses,
    tls: TlsSettings,
    registry: Arc<Registry>,
    issuer: SyncSender<ToIssuer>,
    issuer_status: Arc<ArcSwap<issuer_thread::IssuerStatus>>,
    disk: SyncSender<ToMoneyDisk>,
    disk_counters: Arc<DiskCounters>,
    schedule: Arc<Schedule>,
    /// As in [`Control`].
    wave_us: BTreeMap<WaveIndex, u64>,
    /// As in [`Control`].
    left_alone: Vec<(WaveIndex, WallTime)>,
    spool: SpoolHandle,
    agent: Option<AgentHandle>,
    tokens: Arc<ArcSwap<TokenKeys>>,
    reconnect: Arc<ArcSwap<Option<Reconnect>>>,
    hint: Arc<ArcSwap<Hint>>,
    crypto_counters: Vec<Arc<CryptoCounters>>,
    shard_counters: Vec<Arc<ShardCounters>>,
    orders: Arc<Orders>,
    shard_threads: Vec<JoinHandle<()>>,
    /// Issuer and money disk.
    money_threads: [JoinHandle<()>; 2],
    admin: std::net::TcpListener,
}

impl Parts {
    fn start(
        config: Config,
        node: Arc<Node>,
        state: &StateDir,
        checked: Checked,
        (admin, opened): (std::net::TcpListener, ports::Opened),
        recovered: Recovered,
    ) -> Result<Self> {
        let Checked { believed, tls, seed, schedule, .. } = checked;
        let (addresses, shards) = (opened.addresses, Shards::new(opened.outlets));
        let (issuer, issuer_queue) = sync_channel(ISSUER_QUEUE);
        let (disk, disk_queue) = sync_channel(DISK_QUEUE);
        let (policy, gate) = (Arc::<ArcSwap<Policy>>::default(), Arc::new(Gate::default()));
        let sinks = |spool: &SpoolHandle| agent_sinks(&issuer, &spool.sender, &policy);
        let rate = backlog_per_second(seed.header(), &schedule);
        let (spool, agent) =
            start_spool_and_agent(&config, &node, &shards, state, rate, &issuer, sinks)?;
        let (issuer_status, disk_counters) = (Arc::default(), Arc::<DiskCounters>::default());
        let context = IssuerContext {
            node: Arc::clone(&node),
            shards: shards.clone(),
            gate: Arc::clone(&gate),
            disk: disk.clone(),
            disk_counters: Arc::clone(&disk_counters),
            vet: vet_out(agent.clone()),
            vet_ms_max: vet_ms_max(&config),
            ask_grant: grant_out(agent.clone()),
            status: Arc::clone(&issuer_status),
        };
        let registry = Arc::new(Registry::with_wins(&recovered.issuer.issued));
        let (header, wave_us) = (seed.header().clone(), wave_us(seed.header()));
        let left_alone = left_alone(&schedule, &wave_us, &node.clock, &recovered.issuer.sections);
        let money_disk = MoneyDisk::new(
            Arc::clone(&node),
            seed,
            (recovered.journal, recovered.cursors),
            issuer.clone(),
            Arc::clone(&disk_counters),
        );
        let issue = move || issuer_thread::run(&context, &header, &recovered.issuer, &issuer_queue);
        let money_threads = start_money(issue, move || money_disk.run(&disk_queue))?;
        let mut parts = Self {
            registry,
            crypto_counters: Vec::new(),
            shard_counters: Vec::new(),
            orders: Arc::new(Orders::new(config.session.shake_interval_ms)),
            shard_threads: Vec::new(),
            tokens: Arc::new(ArcSwap::from_pointee(believed.tokens)),
            reconnect: Arc::new(ArcSwap::from_pointee(believed.reconnect)),
            hint: Arc::new(ArcSwap::from_pointee(config.hint())),
            config,
            node,
            shards,
            addresses,
            tls,
            issuer,
            issuer_status,
            disk,
            disk_counters,
            schedule: Arc::new(schedule),
            wave_us,
            left_alone,
            spool,
            agent,
            money_threads,
            admin,
        };
        let crypto = parts.start_crypto()?;
        parts.start_shards(opened.ways, &gate, &crypto, &policy).map(|()| parts)
    }

    fn start_crypto(&mut self) -> Result<Vec<SyncSender<ToCrypto>>> {
        let mut queues = Vec::new();
        for number in 0..self.config.identity.threads {
            let (sender, queue) = sync_channel(CRYPTO_QUEUE);
            let counters = Arc::<CryptoCounters>::default();
            self.crypto_counters.push(Arc::clone(&counters));
            let context = CryptoContext {
                node: Arc::clone(&self.node),
                tokens: Arc::clone(&self.tokens),
                shards: self.shards.clone(),
                spool: self.spool.sender.clone(),
                counters,
            };
            // Ends by itself when the shard threads have dropped its queue.
            thread::Builder::new().name(format!("yao-crypto-{number}")).spawn(move || {
                while catch_unwind(AssertUnwindSafe(|| crypto::run(&context, &queue))).is_err() {
                    tracing::error!(event = "crypto_thread_restarted");
                }
            })?;
            queues.push(sender);
        }
        Ok(queues)
    }

    fn start_shards(
        &mut self,
        ways: Vec<Way>,
        gate: &Arc<Gate>,
        crypto: &[SyncSender<ToCrypto>],
        policy: &Arc<ArcSwap<Policy>>,
    ) -> Result<()> {
        let quic_count = ways.iter().filter(|way| way.is_quic()).count();
        let counts = [ways.len() - quic_count, quic_count];
        for (number, way) in ways.into_iter().enumerate() {
            let number = u16::try_from(number).expect("at most 512 threads");
            let siblings = u32::try_from(counts[usize::from(way.is_quic())]).expect("as above");
            let counters = Arc::<ShardCounters>::default();
            self.shard_counters.push(Arc::clone(&counters));
            let context = SessionContext {
                node: Arc::clone(&self.node),
                gate: Arc::clone(gate),
                registry: Arc::clone(&self.registry),
                shards: self.shards.clone(),
                issuer: self.issuer.clone(),
                crypto: crypto.to_vec(),
                tokens: Arc::clone(&self.tokens),
                policy: Arc::clone(policy),
                orders: Arc::clone(&self.orders),
                reconnect: Arc::clone(&self.reconnect),
                hint: Arc::clone(&self.hint),
                admission: self.config.admission.limits().share(siblings),
                counters,
            };
            let settings = shard_settings(&self.config, &self.node, number, siblings);
            let name = format!("yao-{}-{number}", if way.is_quic() { "quic" } else { "shard" });
            let body = move || threads::run(&context, settings, way);
            self.shard_threads.push(thread::Builder::new().name(name).spawn(body)?);
        }
        Ok(())
    }

    /// Serves until told to end, then ends every thread in order.
    fn serve(self, config_path: &Path) -> Result<Ended> {
        let schedule = self.schedule;
        let in_force = without(&schedule, &self.left_alone);
        self.issuer.send(ToIssuer::Schedule(Arc::new(in_force)))?;
        let admin_address = self.admin.local_addr()?;
        let control = Arc::new(Control {
            node: Arc::clone(&self.node),
            shards: self.shards.clone(),
            registry: self.registry,
            issuer: self.issuer.clone(),
            issuer_status: self.issuer_status,
            shard_counters: self.shard_counters.clone(),
            crypto: self.crypto_counters,
            disk: self.disk_counters,
            spool: Arc::clone(&self.spool.counters),
            agent: self.agent.clone(),
            tokens: self.tokens,
            reconnect: self.reconnect,
            hint: self.hint,
            tls: self.tls,
            orders: Arc::clone(&self.orders),
            schedule: ArcSwap::new(schedule),
            wave_us: self.wave_us,
            left_alone: self.left_alone,
            started: self.node.clock.now(),
            stop: tokio::sync::Notify::new(),
            drain_order: ArcSwap::default(),
            drain_began: Default::default(),
            refused_since: Default::default(),
            exporter: control::Exporter::default(),
            reloads_refused: Default::default(),
            config_path: config_path.to_owned(),
            config: ArcSwap::from_pointee(self.config),
        });
        let text = |addresses: &[SocketAddr]| -> Vec<String> {
            addresses.iter().map(ToString::to_string).collect()
        };
        let Addresses { tcp, tls, quic } = &self.addresses;
        let ready = serde_json::json!({
            "tcp": text(tcp), "tls": text(tls), "quic": text(quic),
            "admin": admin_address.to_string()
        });
        let remaining = control::run(&control, self.admin, || announce(&ready))?;

        self.orders.stopping.store(true, Ordering::Relaxed);
        for number in 0..self.shards.count() {
            let number = u16::try_from(number).expect("at most 512 threads");
            self.shards.insist(number, &ToShard::Stop);
        }
        for thread in self.shard_threads {
            // A panic was logged where it happened; the end of the thread is what counts.
            thread.join().ok();
        }
        // The threads have told the last that they counted.
        let ended = Ended::of(&self.shard_counters, self.orders.cut(), remaining);
        self.spool.stop();
        if let Some(agent) = &self.agent {
            agent.stop();
        }
        // The issuer first: what it still holds for the journal must come before the disk's end.
        let [issuer, disk] = self.money_threads;
        self.issuer.send(ToIssuer::Stop).ok();
        issuer.join().map_err(|_| anyhow!("the issuer ended in a panic"))?;
        self.disk.send(ToMoneyDisk::Stop).ok();
        disk.join().map_err(|_| anyhow!("the money-disk thread ended in a panic"))?;
        let Ended { asked, overstayed, cut, remaining } = ended;
        tracing::info!(event = "stopped", asked, overstayed, cut, remaining);
        Ok(ended)
    }
}

/// The one line on standard output, for whoever started the node.
#[expect(clippy::print_stdout, reason = "the ready line is the process's contract with its parent")]
fn announce(ready: &serde_json::Value) {
    println!("ready {ready}");
}

/// Runs a thread that decides about money: its panic ends the process. Restart is safe, limping is
/// not.
fn money_thread(
    name: &str,
    body: impl FnOnce() + Send + 'static,
) -> std::io::Result<JoinHandle<()>> {
    let label = name.to_owned();
    thread::Builder::new().name(name.to_owned()).spawn(move || {
        if catch_unwind(AssertUnwindSafe(body)).is_err() {
            tracing::error!(event = "money_thread_panicked", thread = label);
            std::process::abort();
        }
    })
}

fn shard_settings(config: &Config, node: &Node, thread: u16, thread_count: u32) -> Settings {
    let session = &config.session;
    Settings {
        thread,
        connections_max: config.listen.connections_max.div_ceil(thread_count),
        campaign: node.campaign,
        wins_per_user: node.manifest.wins_per_user,
        mac_key: node.mac_key.clone(),
        // The thread takes both from its context, now and after each reload.
        reconnect: None,
        hint: Hint::default(),
        heartbeat_ms_min: session.heartbeat_ms_min,
        heartbeat_ms_max: session.heartbeat_ms_max,
        handshake_ms_max: session.handshake_ms_max,
        greeting_ms_max: session.greeting_ms_max,
        frame_ms_max: session.frame_ms_max,
    }
}

fn admin_listener(address: SocketAddr) -> Result<std::net::TcpListener> {
    let listener = std::net::TcpListener::bind(address).with_context(|| {
        format!("cannot listen on {address} for admin.listen; is another process there?")
    })?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Starts the two threads that decide and write money.
fn start_money(
    issue: impl FnOnce() + Send + 'static,
    write: impl FnOnce() + Send + 'static,
) -> Result<[JoinHandle<()>; 2]> {
    Ok([money_thread("yao-issuer", issue)?, money_thread("yao-money-disk", write)?])
}
