//! Many seeds, on as many threads as asked for: each seed is a world of its own, and only the seeds
//! run at once.

use crate::{
    canary::Canary,
    faults::Fault,
    plan::NODES_MAX,
    world::{Plot, Report, run},
};
use std::{
    ops::Range,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

/// One thread's clocks, which outlive every world of it: for each node, and for a twin.
fn clocks() -> [&'static AtomicU64; NODES_MAX + 1] {
    std::array::from_fn(|_| &*Box::leak(Box::new(AtomicU64::new(0))))
}

/// Runs one seed with the faults that it draws.
#[must_use]
pub fn run_seed(seed: u64, canary: Canary, loud: bool) -> Report {
    run_plot(&Plot::of_seed(seed, canary), loud)
}

/// Runs one world.
#[must_use]
pub fn run_plot(plot: &Plot, loud: bool) -> Report {
    run(plot, &clocks(), loud)
}

/// What many seeds came to.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// Seeds run.
    pub seeds: u64,
    /// Those that violated something, lowest first.
    pub violations: Vec<Report>,
    /// Worlds by fault that was on, in the order of [`Fault::ALL`].
    pub drawn: Vec<u64>,
    /// Simulated seconds.
    pub seconds: u64,
    /// Tickets, receipts, rows, starts and nodes that were lost: sums.
    pub sums: Sums,
}

/// Sums over all worlds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// Phones.
    pub phones: u64,
    /// Packets that left in tickets.
    pub issued: u64,
    /// Opens acknowledged.
    pub acknowledged: u64,
    /// Packets paid.
    pub paid: u64,
    /// Times that a node's money was counted.
    pub counts: u64,
    /// Processes started.
    pub starts: u64,
    /// Nodes whose disk was ruined for good.
    pub lost_nodes: u64,
}

impl From<Report> for Found {
    fn from(report: Report) -> Self {
        let totals = &report.totals;
        let sums = Sums {
            phones: report.phones,
            issued: totals.issued,
            acknowledged: totals.acknowledged,
            paid: totals.paid,
            counts: totals.counts,
            starts: report.starts,
            lost_nodes: report.lost_nodes,
        };
        let drawn = Fault::ALL.iter().map(|(fault, _)| u64::from(report.faults.has(*fault)));
        Self {
            seeds: 1,
            seconds: report.seconds,
            drawn: drawn.collect(),
            sums,
            violations: report.violation.is_some().then_some(report).into_iter().collect(),
        }
    }
}

impl Found {
    /// Adds what other seeds came to.
    pub fn add(&mut self, other: Self) {
        self.seeds += other.seeds;
        self.seconds += other.seconds;
        self.drawn.resize(Fault::ALL.len(), 0);
        for (count, more) in self.drawn.iter_mut().zip(other.drawn) {
            *count += more;
        }
        let (sums, more) = (&mut self.sums, other.sums);
        sums.phones += more.phones;
        sums.issued += more.issued;
        sums.acknowledged += more.acknowledged;
        sums.paid += more.paid;
        sums.counts += more.counts;
        sums.starts += more.starts;
        sums.lost_nodes += more.lost_nodes;
        self.violations.extend(other.violations);
        self.violations.sort_by_key(|report| report.seed);
    }
}

/// Runs the seeds on `threads` threads; ends early after `violations_max` of them failed.
#[must_use]
pub fn search(seeds: Range<u64>, canary: Canary, threads: usize, violations_max: usize) -> Found {
    let (next, found) = (AtomicU64::new(seeds.start), Mutex::new(Found::default()));
    thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                let clocks = clocks();
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let report = run(&Plot::of_seed(seed, canary), &clocks, false);
                    let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
                    found.add(report.into());
                    if found.violations.len() >= violations_max {
                        next.store(seeds.end, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    found.into_inner().unwrap_or_else(PoisonError::into_inner)
}
