//! `netbench crowd`: many real SDK clients that behave like people. Each shakes in bursts, opens
//! every packet it wins, and writes down every ticket and receipt it saw for `netbench audit`.
//!
//! Owns no measurement of latency: `netbench shake` does that. Clients run on a few threads with
//! one runtime each; the main thread writes the ticket log and shows progress.

mod journal;
mod player;
mod rhythm;
mod ticket_log;
mod totals;

use crate::identity::Minter;
use anyhow::{Context, Result, anyhow, bail};
use journal::Journal;
use player::Player;
use rhythm::Rhythm;
use serde::Serialize;
use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use ticket_log::Line;
use tokio::{
    runtime,
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep_until, timeout_at},
};
use totals::{Counter, Totals};
use yao_client::{
    Client, Config, TokenSource, Transport, Trust,
    random::Random,
    reconnect::BackOff,
    wallet::{Holding, Outcome},
};
use yao_protocol::{CampaignId, UserId, endpoint::Endpoint};

/// After the last shake, receipts may take this long.
const SETTLING: Duration = Duration::from_secs(10);
/// A client that heard nothing for so long, and waits for nothing, has nothing more to send. Longer
/// than the interval between two shakes.
const QUIET: Duration = Duration::from_millis(1_500);
/// Lines of the ticket log that wait for the writer; a full queue makes the clients wait.
const LINES_MAX: usize = 4_096;
/// File descriptors besides one per client: standard streams, epoll, the log, some reserve.
const DESCRIPTORS_OTHER: u64 = 64;
/// Clients per source address: far below the 28,000 ephemeral ports of each.
const CLIENTS_PER_ADDRESS: u64 = 4_096;

/// Real SDK clients that behave like people.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct CrowdArgs {
    /// Node to connect to, "host:port" or "tls+quic://host:port"; may be given more than once
    #[arg(long = "addr", required = true)]
    addresses: Vec<String>,
    /// Give each client one of the addresses only, in turn, instead of all of them
    #[arg(long)]
    in_turn: bool,
    /// Certificates (PEM) of the CAs that may sign a node's certificate; needed for TLS and QUIC
    #[arg(long)]
    ca: Option<PathBuf>,
    /// How many clients, each a user of its own
    #[arg(long, default_value_t = 1_000)]
    clients: u64,
    /// How long they shake
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Private key that mints the session tokens (PEM, see `netbench keys`)
    #[arg(long)]
    session_key: PathBuf,
    /// Key id in the tokens' headers
    #[arg(long, default_value = crate::identity::KEY_ID)]
    kid: String,
    /// Audience of the tokens
    #[arg(long, default_value = "yao")]
    audience: String,
    /// Campaign to take part in
    #[arg(long)]
    campaign: u64,
    /// User id of the first client; the others follow
    #[arg(long, default_value_t = 1)]
    first_user: u64,
    /// File to which every ticket and receipt seen is appended
    #[arg(long)]
    tickets: PathBuf,
    /// File that gets a line of JSON for each connection that came or went
    #[arg(long)]
    journal: Option<PathBuf>,
    /// Mean time between two shakes of one client, ms
    #[arg(long, default_value_t = 1_000)]
    shake_every_ms: u64,
    /// How often each client moves to another local address and port (127.2.0.0/15)
    #[arg(long, default_value_t = 0)]
    moves: u32,
    /// Wait between attempts as the SDK does by itself, up to half a minute
    #[arg(long)]
    sdk_back_off: bool,
    /// Threads that the clients are spread over
    #[arg(long, default_value_t = 1)]
    threads: u64,
    /// Show what happens, each second, on stderr
    #[arg(long)]
    progress: bool,
    /// Print the result as one line of JSON
    #[arg(long)]
    json: bool,
}

/// The result, as printed.
#[derive(Debug, Serialize)]
struct Report {
    clients: u64,
    /// Draw requests that were answered, refused ones too.
    shakes: u64,
    wins: u64,
    receipts: u64,
    /// Clients that stopped, opens refused, broken protocol.
    errors: u64,
    reconnects: u64,
    /// Clients that still waited for an answer when they left.
    unanswered: u64,
    /// Moves to another local address and port.
    moves: u64,
    /// Sessions opened, by what carried them.
    sessions: ByTransport,
    /// Sessions that ended before their client left.
    interruptions: ByTransport,
}

/// A number for each transport.
#[derive(Debug, Serialize)]
struct ByTransport {
    tcp: u64,
    tls: u64,
    quic: u64,
}

/// What every client knows.
struct Plan {
    args: CrowdArgs,
    trust: Option<Trust>,
    minter: Minter,
    totals: Arc<Totals>,
    journal: Option<Arc<Journal>>,
    start: Instant,
    shake_until: Instant,
    spread_addresses: bool,
}

/// Runs the crowd to its end.
///
/// # Errors
/// Arguments that cannot work, a log that cannot be written, a crowd that never connected.
pub(crate) fn run(args: CrowdArgs) -> Result<()> {
    check(&args)?;
    let minter = Minter::from_pem_file(&args.session_key, &args.kid)?;
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&args.tickets)
        .with_context(|| format!("cannot write the ticket log {}", args.tickets.display()))?;
    let totals = Arc::<Totals>::default();
    let plan = Arc::new(Plan {
        minter,
        trust: args.ca.as_deref().map(trust).transpose()?,
        totals: Arc::clone(&totals),
        journal: args.journal.as_deref().map(Journal::create).transpose()?.map(Arc::new),
        start: Instant::now(),
        shake_until: Instant::now() + Duration::from_secs(args.seconds),
        spread_addresses: args.addresses.iter().all(|address| is_loopback(address)),
        args,
    });
    let (lines, log_lines) = mpsc::channel(LINES_MAX);
    let workers = (0..plan.args.threads)
        .map(|worker| {
            let (plan, lines) = (Arc::clone(&plan), lines.clone());
            let thread = thread::Builder::new().name(format!("crowd-{worker}"));
            thread.spawn(move || work(&plan, worker, &lines)).context("cannot start a thread")
        })
        .collect::<Result<Vec<_>>>()?;
    drop(lines);
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let written = runtime.block_on(ticket_log::write(log, log_lines, plan.progress()));
    for worker in workers {
        worker.join().map_err(|_| anyhow::anyhow!("a crowd thread panicked"))??;
    }
    plan.journal.as_ref().map_or(Ok(()), |journal| journal.flush()).context("the journal")?;
    written.with_context(|| format!("the ticket log {}", plan.args.tickets.display()))?;
    report(&plan)
}

impl Plan {
    /// Whose progress to show each second, if anybody's.
    fn progress(&self) -> Option<&Totals> {
        self.args.progress.then_some(&self.totals)
    }
}

fn check(args: &CrowdArgs) -> Result<()> {
    if args.clients == 0 || args.threads == 0 || args.shake_every_ms == 0 {
        bail!("--clients, --threads and --shake-every-ms must be at least 1");
    }
    if args.first_user.checked_add(args.clients).is_none() {
        bail!("--first-user plus --clients exceeds the largest user id");
    }
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let needed = args.clients + DESCRIPTORS_OTHER;
    match open_files_max(&limits) {
        Some(most) if most < needed => bail!(
            "{} clients need {needed} file descriptors, the limit is {most}: `ulimit -n {needed}`",
            args.clients
        ),
        _ => Ok(()),
    }
}

/// The soft limit of open files in the text of `/proc/self/limits`.
fn open_files_max(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

fn trust(ca: &Path) -> Result<Trust> {
    let pem = fs::read(ca).with_context(|| format!("cannot read --ca {}", ca.display()))?;
    Trust::from_pem(&pem).with_context(|| format!("--ca {}", ca.display()))
}

fn is_loopback(address: &str) -> bool {
    let host = address.parse().map(|endpoint: Endpoint| endpoint.host);
    host.is_ok_and(|host| host.parse().is_ok_and(|address: Ipv4Addr| address.is_loopback()))
}

/// One thread: every `threads`-th client, in a runtime of its own.
fn work(plan: &Arc<Plan>, worker: u64, lines: &mpsc::Sender<Line>) -> Result<()> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut players = JoinSet::new();
        for index in (worker..plan.args.clients).step_by(usize::try_from(plan.args.threads)?) {
            players.spawn(play(Arc::clone(plan), index, lines.clone()));
        }
        while let Some(ended) = players.join_next().await {
            ended.context("a client panicked")??;
        }
        Ok(())
    })
}

/// The life of one client.
async fn play(plan: Arc<Plan>, index: u64, lines: mpsc::Sender<Line>) -> Result<()> {
    let mut random = Random::new(random_u64()?);
    let (client, events) = Client::connect(config(&plan, index))?;
    let journal = plan.journal.clone().map(|journal| (journal, index));
    let mut player = Player::new(Arc::clone(&plan.totals), lines, events, journal);
    let mut rhythm = Rhythm::new(plan.args.shake_every_ms, &mut random);
    let mut shake_at = Instant::now() + rhythm.pause(&mut random);
    let mut move_number = 0;
    while Instant::now() < plan.shake_until {
        tokio::select! {
            () = sleep_until(move_at(&plan, index, move_number)) => {
                client.moved_to(u64::from(move_number % 2), address(index, move_number)).await;
                plan.totals.moves.add();
                move_number += 1;
            }
            () = sleep_until(shake_at.min(plan.shake_until)) => {
                if Instant::now() >= shake_at {
                    client.shake();
                    shake_at += rhythm.pause(&mut random);
                }
            }
            going_on = player.next() => {
                if !going_on? {
                    return Ok(());
                }
            }
        }
    }
    let Some(settled) = settle(&plan, &client, &mut player).await? else { return Ok(()) };
    if !settled {
        plan.totals.unanswered.add();
    }
    client.close().await;
    while player.next().await? {}
    Ok(())
}

/// Draws and opens that are under way get an answer, for a bounded time. Whether all did; `None`
/// when the client has ended by itself.
async fn settle(plan: &Plan, client: &Client, player: &mut Player) -> Result<Option<bool>> {
    let end_at = plan.shake_until + SETTLING;
    loop {
        let busy = is_under_way(client).await;
        // What was merged while a shake was in flight follows it after the interval.
        let look_at = if busy { end_at } else { end_at.min(Instant::now() + QUIET) };
        match timeout_at(look_at, player.next()).await {
            Ok(Ok(true)) => {}
            Ok(Ok(false)) => return Ok(None),
            Ok(Err(error)) => return Err(error),
            Err(_) => return Ok(Some(!is_under_way(client).await)),
        }
    }
}

/// When client `index` moves for the `number`th time: evenly over the middle of the run, each
/// client at its own moment. Long after the run for those that stay.
fn move_at(plan: &Plan, index: u64, number: u32) -> Instant {
    let Plan { args, shake_until, start, .. } = plan;
    if number >= args.moves {
        return *shake_until + SETTLING;
    }
    let middle = Duration::from_secs(args.seconds).mul_f64(0.8);
    let phase = index as f64 / args.clients as f64;
    *start
        + middle.div_f64(8.0)
        + middle.mul_f64((f64::from(number) + phase) / f64::from(args.moves))
}

/// The address after the move with this number: neither that of the move before nor a neighbour's.
fn address(index: u64, move_number: u32) -> IpAddr {
    let octet = |value: u64| u8::try_from(value % 250).expect("below 250");
    let second = 2 + octet(u64::from(move_number % 2));
    IpAddr::V4(Ipv4Addr::new(127, second, octet(index / 250), 1 + octet(index)))
}

fn config(plan: &Arc<Plan>, index: u64) -> Config {
    let user = UserId(plan.args.first_user + index);
    let minting = Arc::clone(plan);
    let token = TokenSource::provider(move || {
        let args = &minting.args;
        let lifetime_seconds = args.seconds + 3_600;
        let token = minting.minter.mint(user, &args.audience, lifetime_seconds, unix_seconds());
        std::future::ready(Ok(token))
    });
    let campaign = CampaignId(plan.args.campaign);
    let addresses = &plan.args.addresses;
    let endpoints = if plan.args.in_turn {
        let turn = usize::try_from(index % addresses.len() as u64).expect("an index");
        vec![addresses[turn].clone()]
    } else {
        addresses.clone()
    };
    let mut config = Config::new(endpoints, campaign, token);
    config.trust = plan.trust.clone();
    config.open_automatically = true;
    // A crowd lives for seconds, so it must find a restarted node within seconds.
    if !plan.args.sdk_back_off {
        config.back_off = BackOff { first_ms_max: 1_000, last_ms_max: 4_000 };
    }
    config.local_address = plan.spread_addresses.then(|| {
        let number = index / CLIENTS_PER_ADDRESS;
        let third = u8::try_from(number % 256).expect("below 256");
        IpAddr::V4(Ipv4Addr::new(127, 1, third, 1))
    });
    config
}

/// Whether a shake or an open still waits for its answer.
async fn is_under_way(client: &Client) -> bool {
    client.wallet().await.is_ok_and(|wallet| {
        let waits = |held: &Holding| held.outcome == Outcome::Unopened;
        wallet.pending().is_some() || wallet.holdings().iter().any(waits)
    })
}

fn report(plan: &Plan) -> Result<()> {
    let totals = &plan.totals;
    for (text, count) in totals.troubles() {
        writeln!(io::stderr(), "{count:>7} x {text}")?;
    }
    let report = Report {
        clients: plan.args.clients,
        shakes: totals.shakes.count(),
        wins: totals.wins.count(),
        receipts: totals.receipts.count(),
        errors: totals.errors.count(),
        reconnects: totals.reconnects.count(),
        unanswered: totals.unanswered.count(),
        moves: totals.moves.count(),
        sessions: by_transport(|transport| totals.sessions(transport)),
        interruptions: by_transport(|transport| totals.interruptions(transport)),
    };
    if plan.args.json {
        writeln!(io::stdout(), "{}", serde_json::to_string(&report)?)?;
    } else {
        let Report { clients, shakes, wins, receipts, errors, reconnects, sessions, .. } = report;
        let ByTransport { tcp, tls, quic } = sessions;
        writeln!(
            io::stdout(),
            "{clients} clients: {shakes} shakes answered, {wins} wins, {receipts} receipts, \
             {errors} errors, {reconnects} reconnections; sessions over TCP {tcp}, TLS {tls}, \
             QUIC {quic}; tickets in {}",
            plan.args.tickets.display()
        )?;
    }
    if totals.connections.count() == 0 {
        bail!("not one client was welcomed by {}", plan.args.addresses.join(", "));
    }
    Ok(())
}

fn by_transport<'a>(counter: impl Fn(Transport) -> &'a Counter) -> ByTransport {
    let count = |transport| counter(transport).count();
    ByTransport {
        tcp: count(Transport::Tcp),
        tls: count(Transport::Tls),
        quic: count(Transport::Quic),
    }
}

/// The wall clock: token lifetimes only.
fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn random_u64() -> Result<u64> {
    getrandom::u64().map_err(|error| anyhow!("the operating system gives no randomness: {error}"))
}

#[cfg(test)]
mod tests;
