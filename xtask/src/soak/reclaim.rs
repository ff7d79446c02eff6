//! What nobody opened comes back: a small event whose node is killed in the wave, sealed, taken
//! back by the ledger and packed anew; the next generation is played and settled, and the audit
//! balances both to the fen. On the way: a request that comes too early, tool and ledger killed in
//! the middle, and an open that comes too late.

use super::{LEAD_SECONDS, rehearsal::Rehearsal};
use crate::{
    event::{Event, Generation, Plan, Way},
    http,
    process::Process,
    shell,
};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};
use yao_protocol::{
    Incarnation, PacketId, WallTime, hex,
    keys::{KeyOwner, KeySet, PrivateKeyFile, SignKey},
    settlement::{Answer, Batch, OpenResult},
    spool::Open,
    ticket::{TICKET_BYTES, Ticket},
    void::VoidAnswer,
};

/// 100 packets a second of one node: one block of M1.
const BLOCK: u64 = 300;
/// Of campaigns/reclaim.toml.
const PACKETS: u64 = 1_200;
const BUDGET: u64 = 120_000;
/// Exit code of `yao-seedgen reclaim` when settlement says "later".
const COME_AGAIN: i32 = 75;
/// Tickets live 4 s, and clocks are believed to a second: a reclaim that takes longer never comes.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often a run that was told to come again is run again.
const PAUSE: Duration = Duration::from_millis(250);
/// The tool is killed so often before it may go on, at moments spread over the time that it takes.
const KILLS: u32 = 6;

pub(super) fn run(release: bool) -> Result<()> {
    let plan = Plan {
        campaign_file: "campaigns/reclaim.toml",
        campaign: 93,
        threads: 1,
        release,
        ..Plan::DEMO
    };
    let mut event = Event::prepare("reclaim", plan)?;
    event.ledger_options(&["--clock-skew", "1", "--claim-window", "600"]);
    let mut rehearsal = Rehearsal::new("reclaim");
    play_first(&mut event)?;
    let before = event.audit(&TICKETS)?;
    let skipped = before["skipped"].as_u64().context("a number")?;
    rehearsal.audited(&before);
    rehearsal.at_least("skipped", skipped, 1);
    // Both lives end in the wave: one is killed, the other one stopped.
    let lives = number(&before, "lives")?;
    rehearsal.at_most("skipped_per_life", skipped as f64 / lives as f64, BLOCK as f64);
    let left = number(&before, "planned")? - number(&before, "opened")?;
    take_back(&mut event, &mut rehearsal)?;
    come_late(&event, &mut rehearsal)?;
    play_second(&mut event)?;
    let after = audit_both(&event)?;
    judge(&mut rehearsal, &after, left)?;
    rehearsal.judge()?;
    event.remove()
}

const TICKETS: [&str; 2] = ["open.tickets", "keep.tickets"];
const TICKETS_LATER: &str = "later.tickets";

fn number(audit: &Value, key: &str) -> Result<u64> {
    audit[key].as_u64().with_context(|| format!("the audit tells no {key}"))
}

/// A load that goes on over a crash of the node.
fn load(event: &Event, tickets: &str, first_user: u64, options: &[&str]) -> Result<Process> {
    let mut command = event.program("netbench");
    command.arg("shake").args(event.load_options_from(Way::Tcp, first_user));
    command.args(["--connections", "100", "--closed", "--relogin", "--reconnect"]);
    command.args(["--tickets", tickets]).args(options).stdout(Stdio::null());
    let name = if options.contains(&"--open") { "opening" } else { "keeping" };
    Process::start(name, &mut command, &event.path(&format!("{tickets}.log")))
}

/// Generation 0: some open, some keep their tickets, the node is killed in the wave and stopped
/// before its end.
fn play_first(event: &mut Event) -> Result<()> {
    super::started(event)?;
    let start = Instant::now();
    super::arm(event)?;
    let seconds = (LEAD_SECONDS + 3).to_string();
    let opening = load(event, TICKETS[0], 1, &["--open", "--seconds", &seconds])?;
    let keeping = load(event, TICKETS[1], 100_000, &["--seconds", &seconds])?;
    // One block was reserved and a part of it issued: the crash must have something to skip.
    let kill_at = Duration::from_millis(LEAD_SECONDS * 1_000 + 1_200);
    std::thread::sleep(kill_at.saturating_sub(start.elapsed()));
    event.kill_access()?;
    event.start_access()?;
    opening.finish()?;
    keeping.finish()?;
    event.await_settled()?;
    event.stop_access()
}

/// `yao-seedgen reclaim` into `out`.
fn reclaim(event: &Event, out: &str) -> Command {
    let mut command = event.program("yao-seedgen");
    command.args(["reclaim", "--campaign", "campaign.toml", "--secret", "campaign.secret"]);
    command.args(["--seeds", "seeds", "--seals", "seals", "--keys", "keys", "--out", out]);
    command.args(["--ledger", &event.ledger_url(), "--wave-seconds", "3"]);
    command
}

/// Runs `command`; its exit code and standard error.
fn ended(command: &mut Command) -> Result<(Option<i32>, String)> {
    let Output { status, stderr, .. } = command.output()?;
    Ok((status.code(), String::from_utf8_lossy(&stderr).trim().to_owned()))
}

/// Seals the shard, is refused while tickets live, and then takes back what is left, over kills of
/// the tool and of the ledger.
fn take_back(event: &mut Event, rehearsal: &mut Rehearsal) -> Result<()> {
    fs::create_dir_all(event.path("seals"))?;
    let seal = ["seal", "--config", "yao.toml", "--out", "seals/shard-00000.yaoseal"];
    let said = shell::output(event.program("yao-access").args(seal))?;
    println!("{}", said.trim());
    let bytes = fs::read(event.path(seal[4]))?;
    shell::output(event.program("yao-access").args(seal))?;
    ensure!(fs::read(event.path(seal[4]))? == bytes, "a second seal differs from the first");
    let Err(refused) = event.start_access() else { bail!("a sealed shard was started") };
    ensure!(format!("{refused:#}").contains("was sealed"), "{refused:#}");

    let (code, told) = ended(&mut reclaim(event, "seeds-1"))?;
    println!("{told}");
    rehearsal.exactly("refused_too_early", u64::from(code == Some(COME_AGAIN)), 1);
    ensure!(told.contains("come again at"), "{told}");
    let start = Instant::now();
    let took = loop {
        let begun = Instant::now();
        let (code, told) = ended(&mut reclaim(event, "seeds-1"))?;
        match code {
            Some(0) => break begun.elapsed(),
            Some(COME_AGAIN) if start.elapsed() < PATIENCE => std::thread::sleep(PAUSE),
            _ => bail!("yao-seedgen reclaim ended with {code:?}: {told}"),
        }
    };
    // The ledger dies, and another directory hears the same from its next life, although the tool
    // is killed again and again.
    event.kill_ledger()?;
    event.start_ledger()?;
    for kill in 0..KILLS {
        let mut tool = reclaim(event, "seeds-again");
        let tool = Process::start("reclaim", &mut tool, &event.path("reclaim.log"))?;
        std::thread::sleep(took * kill / KILLS);
        tool.kill()?;
    }
    shell::output(&mut reclaim(event, "seeds-again"))?;
    let (first, again) = (files(&event.path("seeds-1"))?, files(&event.path("seeds-again"))?);
    let differ = first.iter().filter(|(name, bytes)| again.get(*name) != Some(bytes)).count();
    rehearsal.exactly("files_that_differ", differ as u64, 0);
    ensure!(first.len() == again.len() && !first.is_empty(), "one of them lacks files");
    let mut other = reclaim(event, "seeds-other");
    let (code, told) = ended(other.args(["--shards", "2"]))?;
    rehearsal.exactly("another_plan_refused", u64::from(code == Some(1)), 1);
    ensure!(told.contains("by another plan before"), "{told}");
    let mut verify = event.program("yao-seedgen");
    verify.args(["verify", "--campaign", "campaign.toml", "--secret", "campaign.secret"]);
    verify.args(["--out", "seeds-1", "--seeds", "seeds", "--keys", "keys"]);
    println!("{}", shell::output(&mut verify)?.trim());
    Ok(())
}

/// The files of a reclaimed generation, its requests and answers too.
fn files(folder: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().context("a name")?.to_string_lossy().into_owned();
        if path.is_dir() {
            let inner = files(&path)?;
            found
                .extend(inner.into_iter().map(|(inner, bytes)| (format!("{name}/{inner}"), bytes)));
        } else if !name.starts_with('.') {
            found.insert(name, fs::read(&path)?);
        }
    }
    Ok(found)
}

fn key_set(event: &Event) -> Result<KeySet> {
    let mut keys = KeySet::default();
    for entry in fs::read_dir(event.path("keys"))? {
        keys.add(&serde_json::from_str(&fs::read_to_string(entry?.path())?)?)?;
    }
    Ok(keys)
}

/// A ticket that somebody kept is opened after its packet was taken back: the ledger says so, pays
/// nothing, and counts it.
fn come_late(event: &Event, rehearsal: &mut Rehearsal) -> Result<()> {
    let keys = key_set(event)?;
    let mut void = Vec::new();
    for (name, bytes) in files(&event.path("seeds-1/answers"))? {
        let answer = VoidAnswer::decode(&bytes, &keys).with_context(|| name.clone())?;
        void.extend(answer.packets());
    }
    let kept = fs::read_to_string(event.path(TICKETS[1]))?;
    let tickets = kept.lines().filter_map(|line| line.strip_prefix("W "));
    let tickets = tickets.filter_map(hex::decode_array::<TICKET_BYTES>);
    let late = tickets
        .filter_map(|bytes| Ticket::decode(&bytes).ok())
        .find(|ticket| void.contains(&ticket.body.packet));
    let late = late.context("somebody kept a ticket")?;
    let private = fs::read_to_string(event.path("state/ticket-001.key.json"))?;
    let private: PrivateKeyFile = serde_json::from_str(&private)?;
    let KeyOwner::Ticket { campaign, shard, epoch } = private.owner else {
        bail!("the node's key is no ticket key")
    };
    // As its node would have delivered it, had it not vouched that there was nothing left.
    let accepted_at = WallTime(late.body.issued_at.0 + 1);
    let incarnation = Incarnation([7; 16]);
    let records = vec![(1, Open { accepted_at, ticket: late })];
    let batch = Batch { campaign, shard, epoch, incarnation, records };
    let bytes = batch.encode(&SignKey::from_seed(&private.seed));
    let answer = http::post_bytes(event.ledger_address(), "/v1/opens", &bytes)?;
    let answer = Answer::decode(&answer, &keys)?;
    let told = answer.results == [OpenResult::Reclaimed];
    rehearsal.exactly("late_open_told", u64::from(told), 1);
    let rows = event.ledger_rows()?;
    let paid = |packet: PacketId| rows.iter().any(|row| row["packet"] == packet.0);
    rehearsal.exactly("late_open_paid", u64::from(paid(late.body.packet)), 0);
    Ok(())
}

/// Generation 1: a node of its own, everybody opens, everything is settled.
fn play_second(event: &mut Event) -> Result<()> {
    event.stop_ledger()?;
    let options = ["--clock-skew", "1", "--claim-window", "600"];
    let manifest = ["--manifest", "seeds-1/manifest.yaomanifest"];
    event.ledger_options(&[&options[..], &manifest].concat());
    event.go_on_with(Generation {
        seeds: "seeds-1",
        shard: 1,
        wave: 1,
        state: "state-1",
        schedule: "schedule-1.toml",
    });
    event.write_schedule(1, None)?;
    let init = event.init()?;
    ensure!(init.status.success(), "init: {}", String::from_utf8_lossy(&init.stderr));
    super::started(event)?;
    super::arm(event)?;
    let seconds = (LEAD_SECONDS + 4).to_string();
    load(event, TICKETS_LATER, 1_000_000, &["--open", "--seconds", &seconds])?.finish()?;
    event.await_settled()?;
    event.stop_access()
}

fn audit_both(event: &Event) -> Result<Value> {
    let mut command = event.program("netbench");
    command.args(["audit", "--manifest", "seeds/manifest.yaomanifest", "--seeds", "seeds"]);
    command.args(["--keys", "keys", "--schedule", "schedule.toml", "--state", "state"]);
    command.args(["--reclaimed", "seeds-1", "--reclaimed-state", "state-1"]);
    command.args(["--reclaimed-schedule", "schedule-1.toml", "--json"]);
    command.args(["--ledger", &event.ledger_url()]);
    for log in TICKETS.iter().chain([&TICKETS_LATER]) {
        command.args(["--tickets", log]);
    }
    let output = command.stderr(Stdio::inherit()).output()?;
    let text = String::from_utf8(output.stdout)?;
    let line = text.lines().last().context("the audit printed nothing")?;
    println!("{line}");
    serde_json::from_str(line).context("the audit's last line is JSON")
}

/// Both generations add up: what was planned was opened or taken back, and what was taken back was
/// planned anew.
fn judge(rehearsal: &mut Rehearsal, audit: &Value, left: u64) -> Result<()> {
    rehearsal.audited(audit);
    let later = &audit["generations"][0];
    let of = |audit: &Value, keys: &[&str]| -> Result<u64> {
        keys.iter().map(|key| number(audit, key)).sum()
    };
    rehearsal.exactly("planned_0", of(audit, &["planned"])?, PACKETS);
    rehearsal.exactly("planned_0_fen", of(audit, &["planned_fen"])?, BUDGET);
    rehearsal.exactly("reclaimed", of(audit, &["reclaimed"])?, left);
    rehearsal.exactly("skipped_left", of(audit, &["skipped", "unissued"])?, 0);
    rehearsal.exactly("opened_or_reclaimed", of(audit, &["opened", "reclaimed"])?, PACKETS);
    let both = of(audit, &["opened_fen", "reclaimed_fen"])?;
    rehearsal.exactly("opened_or_reclaimed_fen", both, BUDGET);
    rehearsal.exactly("planned_1", of(later, &["planned"])?, left);
    let value = of(audit, &["reclaimed_fen"])?;
    rehearsal.exactly("planned_1_fen", of(later, &["planned_fen"])?, value);
    // How many depends on how busy the machine is.
    rehearsal.at_least("opened_1", of(later, &["opened"])?, left / 10);
    rehearsal.exactly("late_opens", of(audit, &["late_opens"])?, 1);
    rehearsal.exactly("lives", of(audit, &["lives"])?, 2);
    Ok(())
}
