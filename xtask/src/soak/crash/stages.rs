//! Several stages side by side: each makes one trial after the other, whichever is next, until all
//! are made or the time is over. Judges no trial.

use super::{kit::Kit, play::Counted, stage::Stage};
use crate::soak::{
    record::{Record, Share},
    rehearsal::Rehearsal,
};
use anyhow::{Result, anyhow};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Instant,
};

/// Problems that are told one by one.
const TOLD_MAX: usize = 10;

/// What came of a trial.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(in crate::soak) struct Made {
    pub(in crate::soak) counted: Counted,
    /// What it is about came to pass.
    pub(in crate::soak) reached: bool,
}

/// The stages of a soak.
pub(in crate::soak) struct Stages {
    all: Vec<Stage>,
    name: &'static str,
    start: Instant,
}

/// What came of trials, by their names.
pub(in crate::soak) struct Outcome {
    pub(in crate::soak) made: BTreeMap<String, Made>,
    planned: usize,
    /// Of `made`: by this run.
    now: usize,
    seconds: u64,
}

impl Stages {
    /// So many for the soak `name`.
    pub(in crate::soak) fn new(kit: &Kit, name: &'static str, count: u64) -> Result<Self> {
        let start = Instant::now();
        let all = (0..count).map(|number| Stage::new(kit, name, number)).collect::<Result<_>>()?;
        Ok(Self { all, name, start })
    }

    /// The first of them.
    pub(in crate::soak) fn first(&mut self) -> &mut Stage {
        &mut self.all[0]
    }

    /// Makes every trial that the record of earlier runs lacks. A trial that cannot be made is one
    /// with a problem: the others go on.
    pub(in crate::soak) fn make<J: Sync>(
        &mut self,
        kit: &Kit,
        share: Share,
        trials: &[(String, J)],
        make: impl Fn(&mut Stage, &J) -> Result<Made> + Sync,
    ) -> Result<Outcome> {
        let record = Mutex::new(Record::<Made>::open(self.name, &kit.binaries, share)?);
        let record = || record.lock().unwrap_or_else(PoisonError::into_inner);
        let left: Vec<&(String, J)> =
            trials.iter().filter(|(name, _)| record().made(name).is_none()).collect();
        let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let start = self.start;
        let work = |stage: &mut Stage| -> Result<()> {
            while let Some((name, job)) = left.get(next.fetch_add(1, Ordering::Relaxed))
                && !record().is_over()
            {
                let made = make(stage, job).unwrap_or_else(|error| Made::impossible(&error));
                if !made.counted.problems.is_empty() {
                    let kept = stage.keep(name)?;
                    let problems = made.counted.problems.join("; ");
                    println!("\n{name}: {problems} (see {})", kept.display());
                }
                record().add(name.clone(), made)?;
                let done = done.fetch_add(1, Ordering::Relaxed) + 1;
                print!("\r{:>4} s: {done} of {}   ", start.elapsed().as_secs(), left.len());
            }
            Ok(())
        };
        thread::scope(|scope| {
            let workers: Vec<_> =
                self.all.iter_mut().map(|stage| scope.spawn(|| work(stage))).collect();
            workers
                .into_iter()
                .try_for_each(|worker| worker.join().map_err(|_| anyhow!("a trial panicked"))?)
        })?;
        println!();
        Ok(Outcome::of(trials, &record(), done.into_inner(), start.elapsed().as_secs()))
    }

    /// Ends what runs and removes every file.
    pub(in crate::soak) fn remove(self) -> Result<()> {
        self.all.into_iter().try_for_each(Stage::remove)
    }
}

impl Made {
    fn impossible(error: &anyhow::Error) -> Self {
        let problems = vec![format!("it could not be made: {error:#}")];
        Self { counted: Counted { problems, ..Counted::default() }, reached: true }
    }
}

impl Outcome {
    fn of<J>(trials: &[(String, J)], record: &Record<Made>, now: usize, seconds: u64) -> Self {
        let found = |(name, _): &(String, J)| Some((name.clone(), record.made(name)?.clone()));
        let made = trials.iter().filter_map(found).collect();
        Self { made, planned: trials.len(), now, seconds }
    }

    /// The sum over all trials.
    pub(in crate::soak) fn sum(&self, number: fn(&Counted) -> u64) -> u64 {
        self.made.values().map(|made| number(&made.counted)).sum()
    }

    /// What every such soak must come to. `planned` is what was made before, now, and what is left.
    pub(in crate::soak) fn judge(&self, rehearsal: &mut Rehearsal) {
        rehearsal.tell("planned", self.planned);
        rehearsal.tell("made_before", self.made.len() - self.now);
        rehearsal.tell("made_now", self.now);
        rehearsal.tell("left", self.planned - self.made.len());
        rehearsal.tell("receipts", self.sum(|counted| counted.receipts));
        rehearsal.tell("crashes", self.sum(|counted| counted.crashes));
        rehearsal.tell("skipped", self.sum(|counted| counted.skipped));
        let unjudged = self.made.values().filter(|made| !made.counted.skips_judged).count();
        rehearsal.tell("with_skips_that_are_not_judged", unjudged);
        rehearsal.exactly("duplicates", self.sum(|counted| counted.duplicates), 0);
        rehearsal.exactly("lost", self.sum(|counted| counted.lost), 0);
        let bad: Vec<_> =
            self.made.iter().filter(|(_, made)| !made.counted.problems.is_empty()).collect();
        for (name, made) in bad.iter().take(TOLD_MAX) {
            println!("! {name}: {}", made.counted.problems.join("; "));
        }
        rehearsal.exactly("with_problems", bad.len() as u64, 0);
        let unreached: Vec<_> = self.made.iter().filter(|(_, made)| !made.reached).collect();
        for (name, _) in unreached.iter().take(TOLD_MAX) {
            println!("! {name} was not reached");
        }
        rehearsal.exactly("unreached", unreached.len() as u64, 0);
        for (step, ms) in self.mean_ms() {
            rehearsal.tell(&format!("ms_{step}"), ms);
        }
        rehearsal.tell("seconds", self.seconds);
    }

    /// How long each step of a trial took, in the mean over all.
    fn mean_ms(&self) -> BTreeMap<&str, u64> {
        let mut sums: BTreeMap<&str, u64> = BTreeMap::new();
        for (step, ms) in self.made.values().flat_map(|made| &made.counted.times_ms) {
            *sums.entry(step.as_str()).or_default() += ms;
        }
        let count = self.made.len().max(1) as u64;
        sums.into_iter().map(|(step, sum)| (step, sum / count)).collect()
    }
}
