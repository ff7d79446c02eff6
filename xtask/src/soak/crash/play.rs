//! One event on a stage, life by life: the node starts with an order, phones play, it dies or is
//! ended, and in the end everything is counted. Decides nothing about which orders are given.

use super::{
    phones::Phones,
    seen::now_us,
    stage::{BLOCK, Stage},
};
use crate::event;
use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::Write,
    path::Path,
    thread,
    time::{Duration, Instant},
};
use yao_protocol::{
    WallTime,
    journal::{self, Event},
    log::{SEGMENT_HEADER_BYTES as HEADER_BYTES, Scan, SegmentHeader},
};

/// How long ago the wave began when it is played: all of it is backlog.
const SINCE_T0_US: u64 = 100_000_000;
/// How often the node is looked at.
const LOOK: Duration = Duration::from_millis(2);
/// Whatever a life shall come to, it comes to in this time, stalls of two seconds in it.
pub(in crate::soak) const LIFE_MAX: Duration = Duration::from_secs(20);
/// What the node earns in a second, packets: 21 and a fifth of that (campaigns/crashes.toml).
const CREDIT_PER_SECOND: f64 = 25.2;
/// Of the 21 packets that it may save up. When so many may have been, all that were on offer may
/// have waited for somebody: then H rises further, and a crash passes over more
/// (docs/decisions/0010-overlooked-packets.md).
const CREDIT_MAX: f64 = 12.0;
/// Bytes of a log's record that a power cut leaves of it.
const TORN_BYTES: usize = 40;
/// Ends the first life of the script: half of a slot is written when H is raised for the second
/// time, and then the process is killed. A raise is two slots.
const TEAR: &str = "torn-kill 0 write cursor/wave-000.yaocursor 4";

/// What became of a life.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::soak) enum End {
    /// The process ended.
    Died,
    /// It never served; what it said.
    NotStarted(String),
    /// It runs, and what was waited for is there.
    Reached,
    /// It runs, and what was waited for did not come.
    Waited,
}

/// The running event.
pub(in crate::soak) struct Play<'a> {
    pub(in crate::soak) stage: &'a mut Stage,
    phones: Phones,
    t0: WallTime,
    /// Whether its curve has ended, so that it can be closed.
    wave_is_over: bool,
    /// Nobody takes what is released, for a while.
    packets_wait: bool,
    /// Since when the node of this life serves, wall time in us.
    served_since_us: Option<u64>,
    /// Ends of a life that nobody asked for.
    pub(in crate::soak) crashes: u64,
    /// What must not be.
    pub(in crate::soak) problems: Vec<String>,
    /// Since when the step lasts that is under way.
    step_since: Instant,
    /// How long steps took, ms.
    times_ms: BTreeMap<String, u64>,
}

/// What was counted in the end.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(in crate::soak) struct Counted {
    pub(in crate::soak) crashes: u64,
    pub(in crate::soak) receipts: u64,
    pub(in crate::soak) duplicates: u64,
    pub(in crate::soak) lost: u64,
    /// Packets that restarts passed over.
    pub(in crate::soak) skipped: u64,
    /// Whether that was held against a block for each crash: not where packets had to wait.
    pub(in crate::soak) skips_judged: bool,
    pub(in crate::soak) problems: Vec<String>,
    /// Where the time of the trial went, ms.
    pub(in crate::soak) times_ms: BTreeMap<String, u64>,
}

impl<'a> Play<'a> {
    /// An event on a cleared stage, with phones on so many threads, before `init`.
    pub(in crate::soak) fn begin(stage: &'a mut Stage, threads: usize) -> Result<Self> {
        Self::begin_at(stage, threads, WallTime(event::wall_time_in(0)?.0 - SINCE_T0_US))
    }

    /// An event whose wave begins now, for loads that are not ours: packets may wait for somebody,
    /// and then a crash passes over more than a block (docs/decisions/0010-overlooked-packets.md).
    pub(in crate::soak) fn begin_now(stage: &'a mut Stage) -> Result<Self> {
        let mut play = Self::begin_at(stage, 0, event::wall_time_in(0)?)?;
        play.packets_wait = true;
        play.wave_is_over = false;
        Ok(play)
    }

    fn begin_at(stage: &'a mut Stage, threads: usize, t0: WallTime) -> Result<Self> {
        let step_since = Instant::now();
        stage.clear()?;
        stage.event.write_schedule(1, Some(t0))?;
        let phones = Phones::start(threads, stage.campaign, &stage.tokens);
        let (crashes, packets_wait, problems) = (0, false, Vec::new());
        let mut play = Self {
            stage,
            phones,
            t0,
            wave_is_over: true,
            packets_wait,
            served_since_us: None,
            crashes,
            problems,
            step_since,
            times_ms: BTreeMap::new(),
        };
        play.took("clearing");
        Ok(play)
    }

    /// What was done since the last such line took its time for this step.
    fn took(&mut self, step: &str) {
        let now = Instant::now();
        let since = std::mem::replace(&mut self.step_since, now);
        let ms = u64::try_from((now - since).as_millis()).unwrap_or(u64::MAX);
        *self.times_ms.entry(step.to_owned()).or_default() += ms;
    }

    /// `yao-access init` under an order; what it complained of, if it failed.
    pub(in crate::soak) fn init(&mut self, order: Option<&str>) -> Result<Result<(), String>> {
        self.stage.faults.begin(order)?;
        let output = self.stage.event.init()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        self.took("init");
        Ok(if output.status.success() { Ok(()) } else { Err(said) })
    }

    /// Starts the node under an order; it runs, or what it said.
    pub(in crate::soak) fn start(&mut self, order: Option<&str>) -> Result<Option<String>> {
        // Not before `init`, which makes the key that settlement knows this shard by.
        self.stage.event.need_ledger()?;
        self.took("ledger");
        self.stage.faults.begin(order)?;
        let started = self.stage.event.start_access();
        self.took("start");
        if let Err(error) = started {
            return Ok(Some(format!("{error:#}")));
        }
        self.served_since_us = Some(now_us());
        let endpoint = self.stage.event.endpoint(event::Way::Tcp);
        self.phones.go_to(Some(endpoint.trim_start_matches("tcp://")));
        Ok(None)
    }

    /// Starts the node and waits until `reached`.
    pub(in crate::soak) fn live(
        &mut self,
        order: Option<&str>,
        reached: impl Fn(&Self) -> Result<bool>,
    ) -> Result<End> {
        match self.start(order)? {
            Some(said) => Ok(End::NotStarted(said)),
            None => self.live_on(reached),
        }
    }

    /// Waits until `reached`, or until the node has ended.
    pub(in crate::soak) fn live_on(
        &mut self,
        reached: impl Fn(&Self) -> Result<bool>,
    ) -> Result<End> {
        let end = self.watch(reached);
        self.took("life");
        end
    }

    fn watch(&mut self, reached: impl Fn(&Self) -> Result<bool>) -> Result<End> {
        let start = Instant::now();
        loop {
            if !self.stage.event.access_runs()? {
                self.end_life();
                return Ok(End::Died);
            }
            if reached(self)? {
                return Ok(End::Reached);
            }
            if start.elapsed() > LIFE_MAX {
                return Ok(End::Waited);
            }
            thread::sleep(LOOK);
        }
    }

    /// Whether the order in force was carried out.
    pub(in crate::soak) fn struck(&self) -> Result<bool> {
        Ok(self.stage.faults.log()?.strike.is_some())
    }

    /// Receipts that phones hold.
    pub(in crate::soak) fn receipts(&self) -> usize {
        self.phones.seen().receipt_count()
    }

    /// Receipts that came in this time, wall time in us.
    pub(in crate::soak) fn receipts_between(&self, from_us: u64, until_us: u64) -> usize {
        self.phones.seen().receipts_between(from_us, until_us)
    }

    /// Messages that phones have had.
    pub(in crate::soak) fn answers(&self) -> u64 {
        self.phones.seen().answer_count()
    }

    /// Waits until `more` receipts than now are there; a problem if they do not come.
    pub(in crate::soak) fn go_on(&mut self, more: usize) -> Result<()> {
        let wanted = self.receipts() + more;
        let running = self.stage.event.access_runs()?;
        let enough = move |play: &Self| Ok(play.receipts() >= wanted);
        let end = if running { self.live_on(enough)? } else { self.live(None, enough)? };
        if end != End::Reached {
            let had = wanted - self.receipts();
            self.problem(format!(
                "afterwards the node did not go on, {had} receipts short: {end:?}"
            ));
        }
        Ok(())
    }

    /// kill -9, if it runs.
    pub(in crate::soak) fn kill(&mut self) -> Result<()> {
        self.end_life();
        if self.stage.event.access_runs()? {
            self.stage.event.kill_access()?;
        }
        Ok(())
    }

    fn end_life(&mut self) {
        self.phones.go_to(None);
        if let Some(since_us) = self.served_since_us.take() {
            let credit = self.phones.seen().most_credit(since_us, now_us(), CREDIT_PER_SECOND);
            self.packets_wait |= credit > CREDIT_MAX;
        }
    }

    /// The machine loses its power, and comes back. The process goes first: while a file system is
    /// being shut down it may say that a sync succeeded which it did not make, and a machine
    /// without power says nothing.
    pub(in crate::soak) fn cut_power(&mut self) -> Result<()> {
        self.kill()?;
        self.stage.faults.cut_power()?;
        self.stage.disk.come_back()?;
        self.took("power");
        Ok(())
    }

    /// The first life of the script: it ends in the middle of raising H for the second time. By
    /// then every packet that was issued before is in the journal, or the raise and they together
    /// would skip more than a block (M1).
    pub(in crate::soak) fn first_life(&mut self) -> Result<()> {
        let end = self.live(Some(TEAR), |_| Ok(false))?;
        ensure!(end == End::Died && self.struck()?, "the first life ended with {end:?}");
        self.crashes += 1;
        let issued = issues(&self.stage.disk.state().join("journal"))?;
        if issued <= BLOCK / 2 && !self.packets_wait {
            self.problem(format!(
                "H rises behind {issued} packets in the journal; it was asked for after more than \
                 {} (M1)",
                BLOCK / 2
            ));
        }
        self.tear_logs()
    }

    /// Leaves the beginning of a record at the end of each log, as a power cut may.
    fn tear_logs(&self) -> Result<()> {
        let state = self.stage.disk.state();
        for log in ["journal", "spool"] {
            let last = fs::read_dir(state.join(log))?
                .filter_map(|entry| Some(entry.ok()?.path()))
                .filter(|path| path.to_string_lossy().ends_with(&format!("yao{log}")))
                .max();
            tear(&last.with_context(|| format!("the {log} has a segment"))?)?;
        }
        Ok(())
    }

    pub(in crate::soak) fn problem(&mut self, text: String) {
        self.problems.push(text);
    }

    /// Lets everybody finish, closes the wave, ends the node in order, and counts.
    pub(in crate::soak) fn finish(mut self) -> Result<Counted> {
        if self.problems.is_empty() {
            self.settle()?;
        }
        let wrong = self.phones.end()?;
        self.problems.extend(wrong);
        self.count()
    }

    fn settle(&mut self) -> Result<()> {
        self.phones.last_round();
        let end = self.live_on(|play| Ok(play.phones.have_ended()))?;
        if end != End::Reached {
            self.problem(format!("a phone got no receipt for what it won: {end:?}"));
            return Ok(());
        }
        let event = &self.stage.event;
        event.await_settled()?;
        self.took("settling");
        let event = &self.stage.event;
        // A wave that began just now is not over, whatever the schedule says.
        if self.wave_is_over {
            event.write_schedule_until(2, Some(self.t0), 0)?;
            let (code, answer) = event.post("/reload")?;
            if code != 200 {
                bail!("the end of the wave was refused: {answer}");
            }
            event.await_closed()?;
        }
        self.took("closing");
        if self.end_in_order()? != End::Died {
            self.problem("the node does not end when it is told to".to_owned());
        }
        Ok(())
    }

    /// Tells the node to end, and waits for it.
    pub(in crate::soak) fn end_in_order(&mut self) -> Result<End> {
        self.stage.event.post("/drain?deadline_seconds=0")?;
        self.live_on(|_| Ok(false))
    }

    fn count(mut self) -> Result<Counted> {
        let event = &self.stage.event;
        self.phones.seen().write(&event.path("tickets.log"))?;
        let rows = event.ledger_rows()?;
        self.problems.extend(self.phones.seen().problems(&rows)?);
        let audit = event.audit_with(&["tickets.log"], &["--allow-fences"])?;
        let number = |key: &str| audit[key].as_u64().with_context(|| format!("no {key}"));
        let skipped = number("skipped")? - number("waited")?;
        if audit["verdict"] != "balanced" {
            let told = audit["problems"].as_array().map_or(&[][..], Vec::as_slice);
            let told: Vec<&str> = told.iter().filter_map(Value::as_str).take(3).collect();
            self.problems.push(format!("the audit: {}", told.join("; ")));
        }
        if skipped > BLOCK * self.crashes && !self.packets_wait {
            self.problems.push(format!(
                "{skipped} packets were skipped by {} crashes; {BLOCK} each are allowed (M1)",
                self.crashes
            ));
        }
        let log = fs::read_to_string(event.path("access.log")).unwrap_or_default();
        self.took("audit");
        if let Some(line) = log.lines().find(|line| line.contains("panicked")) {
            self.problems.push(format!("the node panicked: {line}"));
        }
        Ok(Counted {
            crashes: self.crashes,
            receipts: self.receipts() as u64,
            duplicates: number("duplicates")?,
            lost: number("lost")?,
            skipped,
            skips_judged: !self.packets_wait,
            problems: self.problems,
            times_ms: self.times_ms,
        })
    }
}

/// Packets that the journal in `folder` says were issued.
fn issues(folder: &Path) -> Result<u64> {
    let mut issues = 0;
    for entry in fs::read_dir(folder)? {
        let bytes = fs::read(entry?.path())?;
        let header = SegmentHeader::decode(journal::MAGIC, &bytes)?;
        for record in Scan::new(&bytes[HEADER_BYTES..], header.first_sequence) {
            let event = Event::decode(record.kind, record.payload)?;
            issues += u64::from(matches!(event, Event::Issue(_)));
        }
    }
    Ok(issues)
}

fn tear(path: &Path) -> Result<()> {
    let bytes = fs::read(path)?;
    let record = bytes.get(HEADER_BYTES..).unwrap_or_default();
    let mut file = OpenOptions::new().append(true).open(path)?;
    file.write_all(&record[..record.len().min(TORN_BYTES)])?;
    File::open(path)?.sync_all().context("a torn record is on disk")
}
