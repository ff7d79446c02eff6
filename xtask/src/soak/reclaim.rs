//! What nobody opened comes back: a small event of eight shards. One node comes, is killed in the
//! wave, and sealed; the others never come and count as dead. All that is left is taken back by the
//! ledger and packed anew; a shard of the next generation is played and settled, and what is left
//! then is taken back once more. The audit balances everything to the fen. On the way: a request
//! that comes too early, seal, tool and ledger killed in their middle, and an open that comes too
//! late.

mod between;
mod kills;

use self::kills::{COME_AGAIN, PAUSE};
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
    CampaignId, Incarnation, PacketId, ShardId, WallTime, hex,
    keys::{KeyOwner, KeySet, PrivateKeyFile, SignKey},
    manifest::Manifest,
    seal::Seal,
    settlement::{Answer, Batch, OpenResult},
    spool::Open,
    ticket::{TICKET_BYTES, Ticket},
    void::VoidAnswer,
};

const CAMPAIGN: CampaignId = CampaignId(93);
/// 100 packets a second of one node: one block of M1.
const BLOCK: u64 = 300;
/// Of campaigns/reclaim.toml; the next generation has as many.
const SHARDS: u32 = 8;
/// Of a shard.
const PACKETS: u64 = 1_200;
const BUDGET: u64 = 960_000;
/// The shard of generation 1 that is played, the first one.
const LATER: u32 = SHARDS;
/// A node without a seal holds the ledger up for so many seconds more.
const LEDGER: [&str; 4] = ["--clock-skew", "1", "--claim-window", "2"];
const MANIFESTS: [&str; 4] =
    ["--manifest", "seeds-1/manifest.yaomanifest", "--manifest", "seeds-2/manifest.yaomanifest"];
/// Tickets live 4 s: a reclaim that takes much longer never comes.
const PATIENCE: Duration = Duration::from_secs(40);

pub(super) fn run(release: bool) -> Result<()> {
    let plan = Plan {
        campaign_file: "campaigns/reclaim.toml",
        campaign: CAMPAIGN.0,
        threads: 1,
        release,
        ..Plan::DEMO
    };
    let mut event = Event::prepare("reclaim", plan)?;
    plan_the_dead(&event)?;
    event.ledger_options(&LEDGER);
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
    seal(&mut event, &mut rehearsal)?;
    take_back(&mut event, &mut rehearsal)?;
    come_late(&event, &mut rehearsal)?;
    play_second(&mut event)?;
    let unlooked = audit_all(&event, &["seeds-1"], "0")?;
    let told = unlooked["problems"][0].as_str().is_some_and(|text| text.contains("came after"));
    rehearsal.exactly("late_open_is_a_problem", u64::from(told), 1);
    let after = audit_all(&event, &["seeds-1"], "1")?;
    judge(&event, &mut rehearsal, &after, left)?;
    take_back_again(&mut event, &mut rehearsal)?;
    rehearsal.judge()?;
    event.remove()
}

/// The shards whose nodes never come: nobody has keys of theirs, and nobody seals them.
fn plan_the_dead(event: &Event) -> Result<()> {
    let mut generate = event.program("yao-seedgen");
    generate.args(["generate", "--campaign", "campaign.toml", "--secret", "campaign.secret"]);
    shell::output(generate.args(["--out", "seeds"]))?;
    Ok(())
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

/// `yao-seedgen reclaim` of generation 0 into `out`.
fn reclaim(event: &Event, out: &str) -> Command {
    reclaim_by(event, out, &event.ledger_url())
}

/// The same by another way to the ledger.
fn reclaim_by(event: &Event, out: &str, ledger: &str) -> Command {
    let mut command = event.program("yao-seedgen");
    command.args(["reclaim", "--campaign", "campaign.toml", "--secret", "campaign.secret"]);
    command.args(["--seeds", "seeds", "--seals", "seals", "--keys", "keys", "--out", out]);
    command.args(["--ledger", ledger, "--wave-seconds", "3", "--shards", &SHARDS.to_string()]);
    command
}

/// `yao-seedgen verify` of what was reclaimed into `out` from the generations in `seeds`.
fn verify(event: &Event, out: &str, seeds: &[&str]) -> Result<()> {
    let mut verify = event.program("yao-seedgen");
    verify.args(["verify", "--campaign", "campaign.toml", "--secret", "campaign.secret"]);
    verify.args(["--out", out, "--keys", "keys"]);
    verify.args(seeds.iter().flat_map(|folder| ["--seeds", folder]));
    println!("{}", shell::output(&mut verify)?.trim());
    Ok(())
}

/// How many files of `folder` end so; 0 where there is no folder.
fn count(folder: &Path, ending: &str) -> usize {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    // Unfinished ones begin with a point.
    names.filter(|name| name.ends_with(ending) && !name.starts_with('.')).count()
}

/// Runs `command`; its exit code and standard error.
fn ended(command: &mut Command) -> Result<(Option<i32>, String)> {
    let Output { status, stderr, .. } = command.output()?;
    Ok((status.code(), String::from_utf8_lossy(&stderr).trim().to_owned()))
}

/// Seals the shard, over kills, and puts a second seal beside it, which settlement refuses.
fn seal(event: &mut Event, rehearsal: &mut Rehearsal) -> Result<()> {
    let out = "seals/shard-00000.yaoseal";
    fs::create_dir_all(event.path("seals"))?;
    rehearsal.tell("seal_kills", kills::seal(event, out)?);
    println!("{}", shell::output(&mut kills::sealing(event, out))?.trim());
    let bytes = fs::read(event.path(out))?;
    shell::output(&mut kills::sealing(event, out))?;
    ensure!(fs::read(event.path(out))? == bytes, "a second seal differs from the first");
    let mut other = Seal::decode(&bytes, &key_set(event)?)?;
    other.sealed_at = other.sealed_at.plus_us(1);
    let (_, key) = ticket_key(event)?;
    Ok(fs::write(event.path("seals/the-second.yaoseal"), other.encode(&key))?)
}

/// Is refused while tickets live and nodes count as alive, and then takes back what is left, over
/// kills of the tool and of the ledger.
fn take_back(event: &mut Event, rehearsal: &mut Rehearsal) -> Result<()> {
    let asking = kills::asking(event, "seeds-1")?;
    let (code, told) = ended(&mut reclaim(event, "seeds-1"))?;
    println!("{told}");
    rehearsal.exactly("refused_too_early", u64::from(code == Some(COME_AGAIN)), 1);
    ensure!(told.contains("come again at") && told.contains("not sealed"), "{told}");
    let refused = told.matches("going on without a seal").count();
    rehearsal.exactly("second_seal_told", refused as u64, 1);
    let (granting, ledger_kills) = kills::granting(event, "seeds-1")?;
    // Everything is granted, and packed once, before it is packed under kills.
    shell::output(&mut reclaim(event, "seeds-1"))?;
    let first = files(&event.path("seeds-1"))?;
    rehearsal.tell("tool_kills", asking + granting + kills::packing(event, "seeds-1")?);
    rehearsal.tell("ledger_kills", ledger_kills);
    shell::output(&mut reclaim(event, "seeds-1"))?;
    shell::output(&mut reclaim(event, "seeds-again"))?;
    let mut differ = 0;
    for out in ["seeds-1", "seeds-again"] {
        let again = files(&event.path(out))?;
        differ += first.iter().filter(|(name, bytes)| again.get(*name) != Some(bytes)).count();
        ensure!(first.len() == again.len() && !first.is_empty(), "one of them lacks files");
    }
    rehearsal.exactly("files_that_differ", differ as u64, 0);
    let mut other = reclaim(event, "seeds-other");
    let (code, told) = ended(other.args(["--never-left"]))?;
    rehearsal.exactly("another_plan_refused", u64::from(code == Some(1)), 1);
    ensure!(told.contains("go on with the --out directory"), "{told}");
    verify(event, "seeds-1", &["seeds"])
}

/// What is left after generation 1 is taken back once more, of a sealed node and of those that
/// never came. Then all that was planned has been paid, or lies in generation 2.
fn take_back_again(event: &mut Event, rehearsal: &mut Rehearsal) -> Result<()> {
    shell::output(&mut kills::sealing(event, &format!("seals/shard-{LATER:05}.yaoseal")))?;
    let start = Instant::now();
    loop {
        let (code, told) = ended(reclaim(event, "seeds-2").args(["--seeds", "seeds-1"]))?;
        match code {
            Some(0) => break,
            Some(COME_AGAIN) if start.elapsed() < PATIENCE => std::thread::sleep(PAUSE),
            _ => bail!("yao-seedgen reclaim ended with {code:?}: {told}"),
        }
    }
    verify(event, "seeds-2", &["seeds", "seeds-1"])?;
    event.stop_ledger()?;
    event.ledger_options(&[&LEDGER[..], &MANIFESTS].concat());
    event.start_ledger()?;
    rehearsal.audited(&audit_all(event, &["seeds-1", "seeds-2"], "1")?);
    let rows = event.ledger_rows()?;
    let paid = rows.iter().filter(|row| row["state"] == "applied");
    let paid: u64 = paid.filter_map(|row| row["amount"].as_u64()).sum();
    let lies = manifest(event, "seeds-2")?.budget.0;
    rehearsal.exactly("paid_or_in_generation_2", paid + lies, BUDGET);
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

/// A generation's manifest.
fn manifest(event: &Event, folder: &str) -> Result<Manifest> {
    let text = fs::read_to_string(event.path(folder).join("manifest.yaomanifest"))?;
    let key = key_set(event)?.campaign(CAMPAIGN).context("the campaign's key")?;
    Ok(Manifest::decode(&text, &key)?)
}

/// The key of the node of generation 0, and whose it is.
fn ticket_key(event: &Event) -> Result<(KeyOwner, SignKey)> {
    let private = fs::read_to_string(event.path("state/ticket-001.key.json"))?;
    let private: PrivateKeyFile = serde_json::from_str(&private)?;
    Ok((private.owner, SignKey::from_seed(&private.seed)))
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
    let (owner, key) = ticket_key(event)?;
    let KeyOwner::Ticket { campaign, shard, epoch } = owner else {
        bail!("the node's key is no ticket key")
    };
    // As its node would have delivered it, had it not vouched that there was nothing left.
    let accepted_at = WallTime(late.body.issued_at.0 + 1);
    let incarnation = Incarnation([7; 16]);
    let records = vec![(1, Open { accepted_at, ticket: late })];
    let batch = Batch { campaign, shard, epoch, incarnation, records };
    let bytes = batch.encode(&key);
    let answer = http::post_bytes(event.ledger_address(), "/v1/opens", &bytes)?;
    let answer = Answer::decode(&answer, &keys)?;
    let told = answer.results == [OpenResult::Reclaimed];
    rehearsal.exactly("late_open_told", u64::from(told), 1);
    let rows = event.ledger_rows()?;
    let paid = |packet: PacketId| rows.iter().any(|row| row["packet"] == packet.0);
    rehearsal.exactly("late_open_paid", u64::from(paid(late.body.packet)), 0);
    Ok(())
}

/// A shard of generation 1: a node of its own, everybody opens, everything is settled.
fn play_second(event: &mut Event) -> Result<()> {
    event.stop_ledger()?;
    event.ledger_options(&[&LEDGER[..], &MANIFESTS[..2]].concat());
    event.go_on_with(Generation {
        seeds: "seeds-1",
        shard: LATER,
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

/// The audit of both nodes and of the `later` generations; so many late opens are known.
fn audit_all(event: &Event, later: &[&str], late: &str) -> Result<Value> {
    let mut command = event.program("netbench");
    command.args(["audit", "--manifest", "seeds/manifest.yaomanifest", "--seeds", "seeds"]);
    command.args(["--keys", "keys", "--schedule", "schedule.toml", "--state", "state"]);
    command.args(later.iter().flat_map(|folder| ["--reclaimed", folder]));
    command.args(["--reclaimed-state", "state-1", "--reclaimed-schedule", "schedule-1.toml"]);
    command.args(["--allow-late-opens", late, "--json", "--ledger", &event.ledger_url()]);
    for log in TICKETS.iter().chain([&TICKETS_LATER]) {
        command.args(["--tickets", log]);
    }
    let output = command.stderr(Stdio::inherit()).output()?;
    let text = String::from_utf8(output.stdout)?;
    let line = text.lines().last().context("the audit printed nothing")?;
    println!("{line}");
    serde_json::from_str(line).context("the audit's last line is JSON")
}

/// Both generations add up: what was planned was opened or taken back, and what was taken back,
/// here and of the nodes that never came, was planned anew.
fn judge(event: &Event, rehearsal: &mut Rehearsal, audit: &Value, left: u64) -> Result<()> {
    rehearsal.audited(audit);
    let later = &audit["generations"][0];
    let of = |audit: &Value, keys: &[&str]| -> Result<u64> {
        keys.iter().map(|key| number(audit, key)).sum()
    };
    let (planned, again) = (manifest(event, "seeds")?, manifest(event, "seeds-1")?);
    let own = planned.shard(ShardId(0)).context("the shard that was played")?;
    rehearsal.exactly("planned_0", of(audit, &["planned"])?, PACKETS);
    rehearsal.exactly("planned_0_fen", of(audit, &["planned_fen"])?, own.sum.0);
    rehearsal.exactly("reclaimed", of(audit, &["reclaimed"])?, left);
    rehearsal.exactly("skipped_left", of(audit, &["skipped", "unissued"])?, 0);
    rehearsal.exactly("opened_or_reclaimed", of(audit, &["opened", "reclaimed"])?, PACKETS);
    let both = of(audit, &["opened_fen", "reclaimed_fen"])?;
    rehearsal.exactly("opened_or_reclaimed_fen", both, own.sum.0);
    let dead = u64::from(SHARDS - 1) * PACKETS;
    rehearsal.exactly("planned_1", again.packets, left + dead);
    let opened = of(audit, &["opened_fen"])?;
    rehearsal.exactly("opened_0_or_planned_1_fen", opened + again.budget.0, BUDGET);
    let played = again.shard(ShardId(LATER)).context("the shard that was played")?;
    rehearsal.exactly("played_1", of(later, &["planned"])?, u64::from(played.packets));
    // How many depends on how busy the machine is.
    rehearsal.at_least("opened_1", of(later, &["opened"])?, u64::from(played.packets) / 10);
    rehearsal.exactly("late_opens", of(audit, &["late_opens"])?, 1);
    rehearsal.exactly("lives", of(audit, &["lives"])?, 2);
    Ok(())
}
