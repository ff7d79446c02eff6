//! `netbench conform`: every rule of docs/wire.md that a client can see, as numbered cases, against
//! any server.
//!
//! Cases are data (`case`), made by one file for each part of wire.md (`frames`, `hello`,
//! `returning`, `session`, `transport`, `vectors`, `wins`) and played by one (`talk`) over any
//! transport (`wire`). Each has its own connections and users, so that they run side by side and
//! slow ones do not add up.

mod case;
mod facts;
mod frames;
mod hello;
mod returning;
mod session;
mod talk;
mod transport;
mod vectors;
mod wins;
mod wire;

use self::{
    case::Case,
    facts::{Facts, Tokens},
    talk::{Next, Peer},
    wire::Server,
};
use crate::identity::{KEY_ID, unix_seconds};
use anyhow::{Context, Result, bail};
use serde::Serialize;
use std::{
    io::{self, Write},
    path::PathBuf,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};
use yao_protocol::{
    CampaignId,
    client::{ServerMessage, Welcome},
};

/// Cases at a time. Most wait, for a deadline or an answer.
const AT_A_TIME: usize = 96;
/// The first answer of a server that is up.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// Every rule of docs/wire.md as a numbered case, against any server
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ConformArgs {
    /// The server: "host:port", or tcp://, tls:// or quic:// before it
    #[arg(long)]
    addr: String,
    /// Certificate that vouches for the server's (PEM), for tls:// and quic://
    #[arg(long)]
    ca: Option<PathBuf>,
    /// Private key that mints the session tokens (PEM, see `netbench keys`)
    #[arg(long)]
    key: PathBuf,
    /// Key id in the tokens' headers
    #[arg(long, default_value = KEY_ID)]
    kid: String,
    /// Audience of the tokens
    #[arg(long, default_value = "yao")]
    audience: String,
    /// Campaign to take part in
    #[arg(long, default_value_t = 1)]
    campaign: u64,
    /// User id of the first connection; the others follow. By default one of the clock, so that no
    /// run meets the users of the last one
    #[arg(long)]
    first_user: Option<u64>,
    /// Time that the server gives for a handshake, ms
    #[arg(long, default_value_t = 5_000)]
    handshake_ms: u64,
    /// Time that the server gives for HELLO, ms
    #[arg(long, default_value_t = 3_000)]
    greeting_ms: u64,
    /// Time that the server gives for a frame, ms
    #[arg(long, default_value_t = 5_000)]
    frame_ms: u64,
    /// How much later than wire.md allows a deadline may be heard, ms
    #[arg(long, default_value_t = 2_000)]
    slack_ms: u64,
    /// Shake so long for real tickets, seconds; 0 leaves those cases out
    #[arg(long, default_value_t = 0)]
    win_seconds: u64,
    /// The server's private ticket key, for a genuine ticket that has expired
    #[arg(long)]
    ticket_key: Option<PathBuf>,
    /// Cases that cannot be asked are red, too
    #[arg(long)]
    all: bool,
    /// Print the result as one JSON object on the last line
    #[arg(long)]
    json: bool,
}

/// How a case went.
#[derive(Clone, Debug, Serialize)]
struct Outcome {
    number: usize,
    section: &'static str,
    what: String,
    verdict: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
}

/// The last line.
#[derive(Debug, Serialize)]
struct Report<'a> {
    verdict: &'static str,
    cases: usize,
    green: usize,
    red: usize,
    unasked: usize,
    seconds: u64,
    not_green: Vec<&'a Outcome>,
}

/// Runs every case and prints how each went.
///
/// # Errors
/// A server that is not there, or any red case.
pub(crate) fn run(args: &ConformArgs) -> Result<()> {
    let start = Instant::now();
    let server = Server::new(&args.addr, args.ca.as_deref())?;
    let facts = learn(args, &server)?;
    let key = args.ticket_key.as_deref().map(wins::read_key).transpose()?;
    let mut cases = frames::cases(&facts);
    cases.extend(hello::cases(&facts));
    cases.extend(session::cases(&facts));
    cases.extend(vectors::cases(&facts)?);
    cases.extend(transport::cases(&server, args.handshake_ms, args.slack_ms));
    cases.extend(returning::cases(&server, &facts).context("while fetching reconnect tickets")?);
    let won = wins::cases(&facts, key.as_ref());
    cases.extend(won.together);
    let outcomes = run_all(&server, facts.campaign, &cases, &won.alone)?;
    report(args, &outcomes, start.elapsed())
}

/// Opens a first session, and wins what there is to win.
fn learn(args: &ConformArgs, server: &Server) -> Result<Facts> {
    let campaign = CampaignId(args.campaign);
    // Seconds leave room for as many users as a run can have.
    let first_user = args.first_user.unwrap_or_else(|| unix_seconds() << 16);
    let tokens = Tokens::new(&args.key, &args.kid, &args.audience)?;
    let token = tokens.good(yao_protocol::UserId(first_user));
    let welcome = welcome(server, &facts::hello(campaign, &token, None))?;
    let times = (args.greeting_ms, args.frame_ms, args.slack_ms);
    let mut facts = Facts::new(campaign, tokens, first_user + 1, times, welcome);
    facts.is_quic = server.is_quic();
    if args.win_seconds > 0 {
        let until = Instant::now() + Duration::from_secs(args.win_seconds);
        let (user, wins) = wins::collect(server, &facts, until).context("while shaking")?;
        facts.wins = (!wins.is_empty()).then_some((user, wins));
    }
    Ok(facts)
}

fn welcome(server: &Server, hello: &[u8]) -> Result<Welcome> {
    let mut peer = Peer::connect(server)?;
    peer.send(hello)?;
    match peer.next(Instant::now() + ANSWER_MAX)? {
        Next::Frame(reply) => match reply.message()? {
            ServerMessage::Welcome(welcome) => Ok(welcome),
            other => bail!("the first HELLO was answered {other:?}: check --key and --campaign"),
        },
        Next::Closed => bail!("the server closed after the first HELLO"),
        Next::Nothing => bail!("the server does not answer the first HELLO"),
    }
}

/// Plays `together` side by side and, meanwhile, `alone` one after the other.
fn run_all(
    server: &Server,
    campaign: CampaignId,
    together: &[Case],
    alone: &[Case],
) -> Result<Vec<Outcome>> {
    let outcomes = Mutex::new(Vec::with_capacity(together.len() + alone.len()));
    let next = AtomicUsize::new(0);
    let one = |index: usize, case: &Case| {
        let outcome = run_one(server, campaign, index + 1, case);
        outcomes.lock().expect("no holder panics").push(outcome);
    };
    thread::scope(|scope| {
        scope.spawn(|| {
            for (index, case) in alone.iter().enumerate() {
                one(together.len() + index, case);
            }
        });
        for _ in 0..AT_A_TIME.min(together.len()) {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(case) = together.get(index) else { return };
                    one(index, case);
                }
            });
        }
    });
    let mut outcomes = outcomes.into_inner().expect("no holder panicked");
    outcomes.sort_by_key(|outcome| outcome.number);
    Ok(outcomes)
}

fn run_one(server: &Server, campaign: CampaignId, number: usize, case: &Case) -> Outcome {
    let (verdict, why) = match &case.script {
        Err(reason) => ("unasked", Some((*reason).to_owned())),
        Ok(steps) => match talk::play(server, campaign, steps) {
            Ok(()) => ("green", None),
            Err(error) => ("RED", Some(format!("{error:#}"))),
        },
    };
    Outcome { number, section: case.section, what: case.what.clone(), verdict, why }
}

fn report(args: &ConformArgs, outcomes: &[Outcome], took: Duration) -> Result<()> {
    let count = |verdict| outcomes.iter().filter(|outcome| outcome.verdict == verdict).count();
    let (green, red, unasked) = (count("green"), count("RED"), count("unasked"));
    let mut out = io::stdout().lock();
    for outcome in outcomes {
        let Outcome { number, section, what, verdict, why } = outcome;
        writeln!(out, "{number:>4}  {section:<4}  {verdict:<7}  {what}")?;
        if let Some(why) = why {
            writeln!(out, "{:>21}{why}", "")?;
        }
    }
    let failed = red > 0 || (args.all && unasked > 0);
    let verdict = if failed { "red" } else { "green" };
    let seconds = took.as_secs();
    writeln!(
        out,
        "{verdict}: {} cases, {green} green, {red} red, {unasked} unasked, {seconds} s",
        outcomes.len()
    )?;
    if args.json {
        let not_green = outcomes.iter().filter(|outcome| outcome.verdict != "green").collect();
        let cases = outcomes.len();
        let report = Report { verdict, cases, green, red, unasked, seconds, not_green };
        writeln!(out, "{}", serde_json::to_string(&report)?)?;
    }
    if failed {
        bail!("{} does not keep wire.md: {red} cases are red, {unasked} unasked", args.addr);
    }
    Ok(())
}
