//! What a run saw: replies by kind, and their latencies.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Replies and troubles of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counts {
    /// SHAKE frames that were answered, refused ones too.
    pub(crate) shakes: u64,
    /// Tickets, each counted once per arrival.
    pub(crate) wins: u64,
    /// Answers "no packet was due".
    pub(crate) none_due: u64,
    /// Answers "this user has won enough".
    pub(crate) limit_reached: u64,
    /// Answers "no wave runs".
    pub(crate) not_running: u64,
    /// Answers "pending" to shakes that were sent while an earlier one was not answered: what a
    /// fixed rate asks for as soon as a decision takes longer than the pause between two shakes.
    pub(crate) pending: u64,
    /// Answers "too soon", "busy", or "pending" where nothing is: not drawn.
    pub(crate) refused: u64,
    /// Receipts of opens.
    pub(crate) receipts: u64,
    /// OPEN frames that were refused.
    pub(crate) opens_refused: u64,
    /// Sessions that were opened.
    pub(crate) logins: u64,
    /// Connections that ended without our doing.
    pub(crate) closed: u64,
    /// ERROR frames other than refused opens, and bytes that are no frame.
    pub(crate) errors: u64,
    /// Open loop: shakes whose moment came while their connection was down.
    pub(crate) unsent: u64,
}

impl Counts {
    /// Everything that is not a good answer.
    pub(crate) const fn troubles(&self) -> u64 {
        self.refused + self.opens_refused + self.closed + self.errors + self.unsent
    }

    /// Replies that are the result of a draw.
    pub(crate) const fn drawn(&self) -> u64 {
        self.wins + self.none_due + self.limit_reached
    }
}

/// Percentiles, us.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Latency {
    pub(crate) p50: u64,
    pub(crate) p99: u64,
    pub(crate) p999: u64,
    pub(crate) max: u64,
}

impl Latency {
    /// The percentiles of a histogram of ns.
    pub(crate) fn of(histogram: &Histogram<u64>) -> Self {
        let us = |quantile| histogram.value_at_quantile(quantile) / 1_000;
        Self { p50: us(0.5), p99: us(0.99), p999: us(0.999), max: histogram.max() / 1_000 }
    }
}
