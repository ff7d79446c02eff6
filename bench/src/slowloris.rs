//! `netbench slowloris`: connections that are held half-way, and whether a legitimate client still
//! gets in as fast.
//!
//! In windows with the attack and without it (`windows.rs`) visitors come at fixed moments:
//! connect, handshake, HELLO, WELCOME, close.

mod encrypted;
mod holders;
mod visits;

use crate::{
    load::{Meter, Target, TargetArgs},
    windows::{self, Claim, WINDOW, Windows},
};
use anyhow::{Context, Result, bail};
use holders::{Crowd, Holders, Tally};
use serde::Serialize;
use std::{
    fs,
    io::{self, Write},
    time::{Duration, Instant},
};
use visits::Visits;
use yao_protocol::{
    endpoint::Endpoint,
    limits::{GREETING_BYTES_MAX, GREETING_RECORD_BYTES_MAX},
};

/// The p99 of others may rise so much (`windows.rs`).
const RATIO_MAX: f64 = 2.0;
/// What a held connection may cost, bytes; and what one over TLS may that leaves the most, beside
/// what TLS itself costs.
const BYTES_EACH_MAX: u64 = GREETING_BYTES_MAX as u64;
/// Those who leave the most really leave more than this, bytes: else nothing was measured.
const LEFT_BYTES_MIN: u64 = GREETING_RECORD_BYTES_MAX as u64;
/// Sooner than any deadline: HELLO has 3 s.
const AT_ONCE: Duration = Duration::from_secs(1);
/// One of so many connections suffices to measure what is left.
const LEFT_SHARE: usize = 4;
/// The attack is there, or gone, within this time.
const TURN_MAX: Duration = Duration::from_secs(30);
/// So many of a hundred are held at one time; the others are just being opened again.
const HELD_OF_HUNDRED: usize = 90;
/// Descriptors that may come and go for other reasons.
const STRAYS_MAX: usize = 16;
/// Users of the attack begin here, far from the others.
const ATTACK_USERS: u64 = 1 << 40;

/// Connections held half-way, and whether others still get in
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct SlowlorisArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// Where plain TCP is attacked: host:port
    #[arg(long)]
    plain: Endpoint,
    /// Where TLS is attacked: tls://host:port
    #[arg(long)]
    tls: Option<Endpoint>,
    /// Process whose memory and descriptors are counted
    #[arg(long)]
    server_pid: u32,
    /// Connections held
    #[arg(long, default_value_t = 15_000)]
    connections: usize,
    /// Rounds of three one-second windows: without, with, without
    #[arg(long, default_value_t = 20)]
    rounds: usize,
    /// Legitimate visits a second
    #[arg(long, default_value_t = 200)]
    rate: u32,
    /// Print the result as one line of JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    verdict: &'static str,
    rounds: usize,
    connections: usize,
    /// Fewest descriptors that the server held for the attack in a window with it.
    held_at_the_server_min: usize,
    held: Tally,
    /// Latency of the others.
    #[serde(flatten)]
    claim: Claim,
    visits: u64,
    /// Legitimate visits that were not welcomed.
    errors: u64,
    private_dirty_before: u64,
    /// The most in any window with the attack.
    private_dirty_with: u64,
    bytes_per_connection: u64,
    /// What TLS costs when nothing follows its handshake, and what the most that can follow costs
    /// beside it. 0 without TLS.
    secured_bytes_per_connection: u64,
    left_bytes_per_connection: u64,
    /// Whether one that leaves a byte more was closed at once.
    more_is_closed: bool,
    problems: Vec<String>,
}

/// Runs the attack to its end.
///
/// # Errors
/// Somebody was kept out, or the node holds too much, or it ended.
pub(crate) fn run(args: &SlowlorisArgs) -> Result<()> {
    if args.connections == 0 || args.rounds == 0 || args.rate == 0 {
        bail!("--connections, --rounds and --rate must be at least 1");
    }
    let meter = Meter::new(args.server_pid)?;
    let mut attackers = args.target.clone();
    attackers.first_user = ATTACK_USERS;
    let holders = Holders::start(&args.plain, args.tls.as_ref(), &Target::node(&attackers)?)?;
    let mut visits = Visits::new(Target::node(&args.target)?.forgetful(), args.rate)?;
    // Whatever the node allocates once, for anybody, is there before it is measured.
    visits.run(WINDOW)?;
    let descriptors = descriptors(args.server_pid)?;
    let before = meter.private_dirty_bytes()?;
    let mut report = Report {
        verdict: "unharmed",
        rounds: args.rounds,
        connections: args.connections,
        held_at_the_server_min: usize::MAX,
        held: Tally::default(),
        claim: Claim::new(0, 0, 0),
        visits: 0,
        errors: 0,
        private_dirty_before: before,
        private_dirty_with: before,
        bytes_per_connection: 0,
        secured_bytes_per_connection: 0,
        left_bytes_per_connection: 0,
        more_is_closed: args.tls.is_none(),
        problems: Vec::new(),
    };
    if let Some(tls) = &args.tls {
        let (tls, more) = (holders::resolve(tls)?, GREETING_RECORD_BYTES_MAX + 1);
        report.more_is_closed = encrypted::is_closed_within(AT_ONCE, tls, more)?;
        measure_left(args, &meter, &holders, &mut visits, descriptors, &mut report)?;
    }
    let mut windows = Windows::default();
    for round in 0..args.rounds {
        for kind in 0..windows::KINDS {
            let attack = if kind == windows::WITH { args.connections } else { 0 };
            turn(args.server_pid, &holders, descriptors, Crowd::All, attack)?;
            let window = visits.run(WINDOW)?;
            if kind == windows::WITH {
                let held = self::descriptors(args.server_pid)?.saturating_sub(descriptors);
                report.held_at_the_server_min = report.held_at_the_server_min.min(held);
                let dirty = meter.private_dirty_bytes().context("the server ended")?;
                report.private_dirty_with = report.private_dirty_with.max(dirty);
            }
            report.visits += window.done;
            report.errors += window.failed;
            windows.push(round, kind, window.latency)?;
        }
    }
    report.held = holders.stop()?;
    report.claim = windows.claim();
    judge(&mut report);
    print(&report, args.json)
}

/// How much more the server keeps for those who leave the most after their handshake than for those
/// who leave nothing. First of all: later its allocator has room from elsewhere.
fn measure_left(
    args: &SlowlorisArgs,
    meter: &Meter,
    holders: &Holders,
    visits: &mut Visits,
    descriptors_rest: usize,
    report: &mut Report,
) -> Result<()> {
    let wanted = args.connections.div_ceil(LEFT_SHARE);
    let mut before = report.private_dirty_before;
    for (crowd, each) in [
        (Crowd::Secured, &mut report.secured_bytes_per_connection),
        (Crowd::CutRecord, &mut report.left_bytes_per_connection),
    ] {
        turn(args.server_pid, holders, descriptors_rest, crowd, wanted)?;
        let window = visits.run(WINDOW)?;
        report.visits += window.done;
        report.errors += window.failed;
        let dirty = meter.private_dirty_bytes().context("the server ended")?;
        *each = dirty.saturating_sub(before) / wanted as u64;
        before = dirty;
        turn(args.server_pid, holders, descriptors_rest, crowd, 0)?;
    }
    Ok(())
}

/// Waits until the attack holds `wanted` connections, at the server, too.
fn turn(
    server: u32,
    holders: &Holders,
    descriptors_rest: usize,
    crowd: Crowd,
    wanted: usize,
) -> Result<()> {
    holders.hold(crowd, wanted);
    let start = Instant::now();
    loop {
        let held = descriptors(server)?.saturating_sub(descriptors_rest);
        let there = if wanted == 0 {
            held <= STRAYS_MAX && holders.held() == 0
        } else {
            held.min(holders.settled()) * 100 >= wanted * HELD_OF_HUNDRED
        };
        if there {
            return Ok(());
        }
        if start.elapsed() > TURN_MAX {
            bail!("{wanted} connections are to be held, the server holds {held}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn descriptors(process: u32) -> Result<usize> {
    let folder = format!("/proc/{process}/fd");
    Ok(fs::read_dir(&folder).with_context(|| format!("cannot read {folder}"))?.count())
}

fn judge(report: &mut Report) {
    let errors = report.errors;
    report.problems.extend(report.claim.problem(RATIO_MAX));
    if errors > 0 {
        report.problems.push(format!("{errors} legitimate visits were not welcomed"));
    }
    let grown = report.private_dirty_with.saturating_sub(report.private_dirty_before);
    let connections = report.connections as u64;
    report.bytes_per_connection = grown / connections;
    if report.bytes_per_connection > BYTES_EACH_MAX {
        let each = report.bytes_per_connection;
        report.problems.push(format!("a held connection costs {each} bytes"));
    }
    let left = report.left_bytes_per_connection;
    if !report.held.is_without_tls() && !(LEFT_BYTES_MIN..=BYTES_EACH_MAX).contains(&left) {
        report.problems.push(format!("what a peer leaves after its handshake costs {left} bytes"));
    }
    if !report.more_is_closed {
        report.problems.push("a peer may leave more of a record than wire.md says".to_owned());
    }
    let missing = report.held.missing();
    if !missing.is_empty() {
        report.problems.push(format!("nothing was held by {}", missing.join(", ")));
    }
    if !report.problems.is_empty() {
        report.verdict = "HARMED";
    }
}

fn print(report: &Report, json: bool) -> Result<()> {
    let mut out = io::stdout();
    if json {
        writeln!(out, "{}", serde_json::to_string(report)?)?;
    } else {
        writeln!(
            out,
            "{}: {} connections held; {}; {} bytes of the server each; the most over TLS {} + {}",
            report.verdict,
            report.connections,
            report.claim,
            report.bytes_per_connection,
            report.secured_bytes_per_connection,
            report.left_bytes_per_connection,
        )?;
    }
    if !report.problems.is_empty() {
        bail!("{}", report.problems.join("; "));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io::Read,
        net::{Shutdown, TcpListener, TcpStream},
        sync::mpsc,
        thread,
    };

    /// Keys, and an endpoint that nobody need listen at.
    fn target(folder: &std::path::Path) -> Target {
        crate::identity::create_keys(folder).expect("keys");
        Target::node(&TargetArgs {
            addr: "127.0.0.1:1".parse().expect("an endpoint"),
            ca: None,
            session_key: Some(folder.join("session.key.pem")),
            kid: crate::identity::KEY_ID.to_owned(),
            audience: "yao".to_owned(),
            campaign: 1,
            first_user: 1,
        })
        .expect("a target")
    }

    fn listen(sender: mpsc::SyncSender<TcpStream>) -> Endpoint {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if sender.send(stream).is_err() {
                    break;
                }
            }
        });
        address.to_string().parse().expect("an endpoint")
    }

    #[test]
    fn what_is_closed_is_held_again_and_all_manners_happen() {
        let folder = tempfile::tempdir().expect("a folder");
        let (sender, streams) = mpsc::sync_channel(64);
        let (plain, tls) = (listen(sender.clone()), listen(sender));
        let target = target(folder.path());
        let holders = Holders::start(&plain, Some(&tls), &target).expect("started");
        holders.hold(Crowd::All, 8);
        let next = || streams.recv_timeout(Duration::from_secs(10)).expect("a connection");
        let mut first: Vec<TcpStream> = (0..8).map(|_| next()).collect();
        // A closed one comes again.
        first[0].shutdown(Shutdown::Both).expect("open until now");
        let again = next();
        // A dribbler goes on dribbling: its second byte comes without being asked for.
        let mut two = [0; 2];
        let dribbles = first[1..].iter_mut().any(|stream| {
            stream.set_read_timeout(Some(Duration::from_millis(600))).expect("a socket");
            // The length of a frame follows, whose payload is a token: not a TLS record.
            stream.read_exact(&mut two).is_ok() && two[0] != 0x16
        });
        assert!(dribbles, "HELLO comes byte by byte");
        holders.hold(Crowd::All, 0);
        drop((first, again));
        let tally = holders.stop().expect("it ends well");
        // Nobody here speaks TLS, so no handshake is ever done (`encrypted.rs` does one).
        assert_eq!(tally.missing(), ["a cut record"]);
        assert!(Tally::default().missing().len() == 5, "nothing done is all missing");
    }

    #[test]
    fn each_promise_can_be_broken() {
        let report = || Report {
            verdict: "unharmed",
            rounds: 1,
            connections: 1_000,
            held_at_the_server_min: 1_000,
            held: Tally::default(),
            claim: Claim::new(10_000, 20_000, 10_000),
            visits: 1,
            errors: 0,
            private_dirty_before: 0,
            private_dirty_with: 4_096_000,
            bytes_per_connection: 0,
            secured_bytes_per_connection: 4_000,
            left_bytes_per_connection: 4_096,
            more_is_closed: true,
            problems: Vec::new(),
        };
        let check = |spoil: fn(&mut Report), expected: Option<&str>| {
            let mut report = report();
            spoil(&mut report);
            judge(&mut report);
            // The tally of this report is empty, which is a problem of its own.
            let told = report.problems.iter().find(|problem| !problem.starts_with("nothing"));
            match expected {
                None => assert_eq!(told, None),
                Some(text) => assert!(told.expect("a problem").contains(text), "{told:?}"),
            }
        };
        check(|_| {}, None);
        check(|report| report.claim = Claim::new(10_000, 20_001, 10_000), Some("p99 rose"));
        check(|report| report.errors = 1, Some("not welcomed"));
        check(|report| report.private_dirty_with += 1_000, Some("4097 bytes"));
        check(|report| report.more_is_closed = false, Some("may leave more"));
        check(|report| report.left_bytes_per_connection = 4_097, Some("costs 4097 bytes"));
        check(|report| report.left_bytes_per_connection = 2_047, Some("costs 2047 bytes"));
    }
}
