//! `netbench conform`: every rule of docs/wire.md that a client can see, as cases that are named
//! after its number, against any server.
//!
//! Cases are data (`case`), made by one file for each part of wire.md and played by one (`talk`)
//! over any transport (`wire`). Each has its own connections and users, so that they run side by
//! side and slow ones do not add up. There are always the same ones: what a server cannot be asked
//! says why. Which rules have cases, and that ids stay what they are, is tested in `rules`.

mod case;
mod deadlines;
mod draws;
mod ending;
mod facts;
mod frames;
mod hello;
mod leaving;
mod opens;
mod report;
mod returning;
#[cfg(test)]
mod rules;
mod states;
mod talk;
mod tokens;
mod told;
mod transport;
mod vectors;
mod wins;
mod wire;

use self::{
    case::{Case, Silent, When},
    ending::Ending,
    facts::{Facts, Tokens},
    report::{Outcome, Verdict},
    talk::{Next, Peer, Stage},
    told::{KeyArgs, Told},
    wire::Server,
};
use crate::identity::unix_seconds;
use anyhow::{Context, Result, bail, ensure};
use std::{
    path::PathBuf,
    process::Command,
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
    #[command(flatten)]
    keys: KeyArgs,
    #[command(flatten)]
    told: Told,
    /// Campaign to take part in
    #[arg(long, default_value_t = 1)]
    campaign: u64,
    /// User id of the first connection; the others follow. By default one of the clock, so that no
    /// run meets the users of the last one
    #[arg(long)]
    first_user: Option<u64>,
    /// Shake so long for real tickets, seconds; 0 leaves those cases out
    #[arg(long, default_value_t = 0)]
    win_seconds: u64,
    /// Who won in an earlier life of the server; made by this run if it is not there
    #[arg(long)]
    wins_file: Option<PathBuf>,
    /// Ask only cases whose id begins with one of these, such as "W9.4"
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Print the result as one JSON object on the last line
    #[arg(long)]
    json: bool,
}

/// Runs every case and prints how each went.
///
/// # Errors
/// A server that is not there, or any red case.
pub(crate) fn run(args: &ConformArgs) -> Result<()> {
    let start = Instant::now();
    let server = Server::new(&args.addr, args.ca.as_deref())?;
    let facts = learn(args, &server)?;
    let (cases, left_out) = catalogue(&facts)?.into_iter().partition(|case| is_wanted(args, case));
    let outcomes = run_all(args, &server, facts.campaign, cases)?;
    report::print(&args.addr, &outcomes, &left_out, start.elapsed(), args.json)
}

fn is_wanted(args: &ConformArgs, case: &Case) -> bool {
    args.only.is_empty() || args.only.iter().any(|prefix| case.id.starts_with(prefix))
}

/// Every case, whether this server can be asked or not.
fn catalogue(facts: &Facts) -> Result<Vec<Case>> {
    let mut cases = frames::cases(facts);
    cases.extend(states::cases(facts));
    cases.extend(hello::cases(facts));
    cases.extend(tokens::cases(facts));
    cases.extend(returning::cases(facts));
    cases.extend(draws::cases(facts));
    cases.extend(opens::cases(facts));
    cases.extend(wins::cases(facts));
    cases.extend(deadlines::cases(facts));
    cases.extend(leaving::cases(facts));
    cases.extend(transport::cases(facts));
    cases.extend(vectors::cases(facts)?);
    Ok(cases)
}

/// Opens a first session, and wins what there is to win.
fn learn(args: &ConformArgs, server: &Server) -> Result<Facts> {
    let campaign = CampaignId(args.campaign);
    // Seconds leave room for as many users as a run can have.
    let first_user = args.first_user.unwrap_or_else(|| unix_seconds() << 16);
    let tokens = Tokens::new(&args.keys.key, &args.keys.kid, &args.keys.audience)?;
    let token = tokens.good(yao_protocol::UserId(first_user));
    let (welcome, makes_tickets) = welcome(server, &facts::hello(campaign, &token, None))?;
    let told = (args.told.clone(), server.way());
    let users = (campaign, first_user + 1);
    let mut facts = Facts::new(users, (tokens, args.keys.read()?), told, welcome);
    facts.makes_tickets = makes_tickets;
    facts.former = args.wins_file.as_deref().map(wins::read).transpose()?.flatten();
    if args.win_seconds > 0 {
        let until = Instant::now() + Duration::from_secs(args.win_seconds);
        let all = usize::from(facts.welcome.wins_per_user);
        let win = |count| wins::collect(server, &facts, count, until).context("while shaking");
        let (winner, once) = (win(all)?, win(1)?);
        if let (Some(once), Some(path), None) = (&once, &args.wins_file, &facts.former) {
            wins::write(path, once)?;
        }
        (facts.winner, facts.once) = (winner, once);
    }
    Ok(facts)
}

/// The first WELCOME, and whether a reconnect ticket follows it.
fn welcome(server: &Server, hello: &[u8]) -> Result<(Welcome, bool)> {
    let mut peer = Peer::connect(server)?;
    peer.send(hello)?;
    let welcome = match peer.next(Instant::now() + ANSWER_MAX)? {
        Next::Frame(reply) => match reply.message()? {
            ServerMessage::Welcome(welcome) => welcome,
            other => bail!("the first HELLO was answered {other:?}: check --key and --campaign"),
        },
        Next::Closed => bail!("the server closed after the first HELLO"),
        Next::Nothing => bail!("the server does not answer the first HELLO"),
    };
    // What follows WELCOME comes before the next answer.
    peer.send(&frames::ping(2))?;
    peer.next(Instant::now() + ANSWER_MAX)?;
    Ok((welcome, peer.reconnect.is_some()))
}

/// What is shared by the threads that play cases.
struct Run<'a> {
    stage: Stage<'a>,
    outcomes: Mutex<Vec<Outcome>>,
}

/// Plays all cases, each at its time.
fn run_all(
    args: &ConformArgs,
    server: &Server,
    campaign: CampaignId,
    cases: Vec<Case>,
) -> Result<Vec<Outcome>> {
    let of = |when: &[When]| -> Vec<&Case> {
        when.iter().flat_map(|when| cases.iter().filter(move |case| case.when == *when)).collect()
    };
    let together = of(&[When::Soon, When::Together]);
    let (in_turn, alone, ending) = (of(&[When::InTurn]), of(&[When::Alone]), of(&[When::Ending]));
    let end = Ending::default();
    let stage = Stage { server, campaign, ending: &end };
    let run = Run { stage, outcomes: Mutex::new(Vec::with_capacity(cases.len())) };
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        scope.spawn(|| in_turn.iter().for_each(|case| run.one(case)));
        for _ in 0..AT_A_TIME.min(together.len()) {
            scope.spawn(|| {
                while let Some(case) = together.get(next.fetch_add(1, Ordering::Relaxed)) {
                    run.one(case);
                }
            });
        }
    });
    alone.iter().for_each(|case| run.one(case));
    run.end(&ending, args.told.ending_command.as_deref())?;
    let mut outcomes = run.outcomes.into_inner().expect("no holder panicked");
    outcomes.sort_by_cached_key(|outcome| report::order(&outcome.id));
    Ok(outcomes)
}

impl Run<'_> {
    fn one(&self, case: &Case) {
        let (verdict, why) = match &case.script {
            Err(Silent::Unasked(reason)) => (Verdict::Unasked, Some((*reason).to_owned())),
            Err(Silent::Elsewhere(of)) => (Verdict::Elsewhere, Some((*of).to_owned())),
            Ok(steps) => match talk::play(&self.stage, steps) {
                Ok(()) => (Verdict::Green, None),
                Err(error) => (Verdict::Red, Some(format!("{error:#}"))),
            },
        };
        let (id, what, rules) = (case.id.clone(), case.what.clone(), case.rules());
        let outcome = Outcome { id, what, verdict, why, rules };
        self.outcomes.lock().expect("no holder panics").push(outcome);
    }

    /// The cases of the server's end: all sessions stand, then `command` makes it end.
    fn end(&self, cases: &[&Case], command: Option<&str>) -> Result<()> {
        let (asked, silent): (Vec<&Case>, Vec<&Case>) =
            cases.iter().partition(|case| case.script.is_ok());
        silent.iter().for_each(|case| self.one(case));
        let Some(command) = command.filter(|_| !asked.is_empty()) else { return Ok(()) };
        let ending = self.stage.ending;
        thread::scope(|scope| {
            for case in &asked {
                scope.spawn(|| {
                    self.one(case);
                    ending.leave();
                });
            }
            ending.gather(asked.len());
            let status = Command::new("sh").args(["-c", command]).status();
            ending.tell();
            let status = status.with_context(|| format!("cannot run `{command}`"))?;
            ensure!(status.success(), "`{command}` ended with {status}");
            Ok(())
        })
    }
}
