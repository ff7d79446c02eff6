//! Numbers that threads keep and the control thread reads: each is written by one thread with plain
//! relaxed stores, never shared between writers, never labelled by user.

use crate::sessions::CarrierCounters;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use yao_engine::shard::{Counters, ShardEngine};

/// One number with one writer.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Adds `amount`. Only the owning thread calls this, so no atomic addition is needed.
    pub fn add(&self, amount: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(amount), Ordering::Relaxed);
    }

    /// Sets the number.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Reads it, from any thread.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A shard thread's numbers, as of its last flush. On cache lines of their own.
#[derive(Debug)]
#[repr(align(128))]
pub struct ShardCounters {
    values: [Count; SHARD_COUNTERS.len()],
    /// What earlier lives of the thread had counted: a counter never falls.
    earlier: [Count; SHARD_COUNTERS.len()],
    /// The node drains and the thread knows: no session opens on it any more.
    closed_to_new: AtomicBool,
}

impl Default for ShardCounters {
    fn default() -> Self {
        let zeros = || std::array::from_fn(|_| Count::default());
        Self { values: zeros(), earlier: zeros(), closed_to_new: AtomicBool::new(false) }
    }
}

/// What a shard thread reports: metric name (without `yao_`), label pair, and how to read it.
pub struct ShardCounter {
    /// Metric name without its prefix; `_total` names a counter, anything else a gauge.
    pub name: &'static str,
    /// One label, or none.
    pub label: Option<(&'static str, &'static str)>,
    /// What it says, for people.
    pub help: &'static str,
    read: fn(&Sources<'_>) -> u64,
}

struct Sources<'a> {
    engine: &'a Counters,
    sockets: &'a CarrierCounters,
    connections: u64,
    unopened: u64,
    partial_bytes: u64,
    late_us: u64,
}

macro_rules! counter {
    ($name:literal, $help:literal, $read:expr) => {
        ShardCounter { name: $name, label: None, help: $help, read: $read }
    };
    ($name:literal, $key:literal = $value:literal, $help:literal, $read:expr) => {
        ShardCounter { name: $name, label: Some(($key, $value)), help: $help, read: $read }
    };
}

/// Every number of a shard thread, once. docs/metrics.md lists these names and every other.
pub const SHARD_COUNTERS: [ShardCounter; 44] = [
    counter!("connections", "Connections open now", |s| s.connections),
    counter!("accepts_total", "Connections accepted", |s| s.engine.accepted),
    counter!("accepts_refused_total", "reason" = "full", "Connections refused", |s| {
        s.engine.refused_full
    }),
    counter!("accepts_refused_total", "reason" = "system", "Connections refused", |s| {
        s.sockets.accept_errors
    }),
    counter!("accepts_refused_total", "reason" = "connections", "Connections refused", |s| {
        s.engine.refused_connections
    }),
    counter!("accepts_refused_total", "reason" = "rate", "Connections refused", |s| {
        s.engine.refused_rate
    }),
    counter!("accepts_refused_total", "reason" = "address", "Connections refused", |s| {
        s.engine.refused_address
    }),
    counter!("accepts_refused_total", "reason" = "proxy", "Connections refused", |s| {
        s.sockets.proxy_errors
    }),
    counter!("connections_unopened", "Connections whose session is not open", |s| s.unopened),
    counter!("closes_total", "Connections ended", |s| s.engine.closed),
    counter!("frames_total", "Whole frames read", |s| s.engine.frames),
    counter!("frames_malformed_total", "Frames that broke the protocol", |s| s.engine.malformed),
    counter!("refusals_total", "ERROR frames sent", |s| s.engine.refusals),
    counter!("sessions_opened_total", "Sessions opened", |s| s.engine.welcomed),
    counter!("sessions_refused_total", "Tokens or tallies not accepted", |s| {
        s.engine.unauthenticated
    }),
    counter!("tokens_implausible_total", "Tokens that no key here can have signed", |s| {
        s.engine.tokens_implausible
    }),
    counter!("reconnects_total", "HELLOs with a reconnect ticket", |s| s.engine.reconnects),
    counter!("reconnects_refused_total", "Reconnect tickets forged, unknown or expired", |s| {
        s.engine.reconnects_refused
    }),
    counter!("reconnect_tickets_total", "Reconnect tickets handed out", |s| {
        s.engine.reconnect_tickets
    }),
    counter!("sessions_ended_total", "reason" = "timeout", "Sessions ended by the node", |s| {
        s.engine.timed_out
    }),
    counter!("sessions_ended_total", "reason" = "replaced", "Sessions ended by the node", |s| {
        s.engine.replaced
    }),
    counter!("sessions_ended_total", "reason" = "overstayed", "Sessions ended by the node", |s| {
        s.engine.overstayed
    }),
    counter!("sessions_asked_to_leave_total", "Sessions asked to leave by a drain", |s| {
        s.engine.asked_to_leave
    }),
    counter!("sessions_turned_away_total", "HELLOs answered with GOAWAY, not WELCOME", |s| {
        s.engine.turned_away
    }),
    counter!("sessions_ended_total", "reason" = "slow", "Sessions ended by the node", |s| {
        s.sockets.slow_readers
    }),
    counter!("shakes_total", "SHAKE frames", |s| s.engine.shakes),
    counter!("shakes_merged_total", "Shakes that clients merged into them", |s| {
        s.engine.shakes_merged
    }),
    counter!("shakes_lost_total", "reason" = "none_due", "Shakes that won nothing", |s| {
        s.engine.lost_none_due
    }),
    counter!("shakes_lost_total", "reason" = "limit", "Shakes that won nothing", |s| {
        s.engine.lost_limit
    }),
    counter!("shakes_lost_total", "reason" = "not_running", "Shakes that won nothing", |s| {
        s.engine.lost_not_running
    }),
    counter!("shakes_lost_total", "reason" = "too_soon", "Shakes that won nothing", |s| {
        s.engine.lost_too_soon
    }),
    counter!("shakes_lost_total", "reason" = "pending", "Shakes that won nothing", |s| {
        s.engine.lost_pending
    }),
    counter!("candidates_total", "Shakes handed to the issuer", |s| s.engine.candidates),
    counter!("resends_total", "Shakes sent again", |s| s.engine.resends),
    counter!("tickets_sent_total", "Tickets sent to clients", |s| s.engine.won),
    counter!("opens_total", "OPEN frames", |s| s.engine.opens),
    counter!("receipts_sent_total", "Receipts sent to clients", |s| s.engine.receipts),
    counter!("received_bytes_total", "Bytes received from clients", |s| s.sockets.bytes_in),
    counter!("sent_bytes_total", "Bytes sent to clients", |s| s.sockets.bytes_out),
    counter!("tls_handshakes_total", "Handshakes of TLS or QUIC completed", |s| s
        .sockets
        .tls_handshakes),
    counter!("tls_errors_total", "Connections whose peer broke TLS or QUIC", |s| s
        .sockets
        .tls_errors),
    counter!("partial_frame_bytes", "Bytes of incomplete frames held", |s| s.partial_bytes),
    counter!("loop_late_us", "How late the last timer of the loop was, us", |s| s.late_us),
    counter!("loop_late_us_total", "Sum of how late the loop's timers were, us", |s| s.late_us),
];

impl ShardCounters {
    /// Hands over what was counted; called once a second by the owning thread.
    pub fn flush(&self, engine: &ShardEngine, sockets: &CarrierCounters, late_ns: u64) {
        let sources = Sources {
            engine: engine.counters(),
            sockets,
            connections: u64::from(engine.connections()),
            unopened: u64::from(engine.unopened()),
            partial_bytes: engine.partial_bytes() as u64,
            late_us: late_ns / 1_000,
        };
        self.take(|counter| (counter.read)(&sources));
    }

    /// The thread has panicked and begins anew: what it counts from now on comes on top of what it
    /// had handed over. What it had not, at most a second's worth, is lost.
    pub fn begin_again(&self) {
        for (value, earlier) in self.values.iter().zip(&self.earlier) {
            earlier.set(value.value());
        }
    }

    fn take(&self, read: impl Fn(&ShardCounter) -> u64) {
        let places = self.values.iter().zip(&self.earlier);
        for (counter, (value, earlier)) in SHARD_COUNTERS.iter().zip(places) {
            let read = read(counter);
            if counter.name == "loop_late_us_total" {
                value.add(read);
            } else if counter.name.ends_with("_total") {
                value.set(earlier.value() + read);
            } else {
                value.set(read);
            }
        }
    }

    /// No session opens on the thread any more, in none of its lives; those that did are in the
    /// registry.
    pub fn closed_to_new_set(&self) {
        self.closed_to_new.store(true, Ordering::Release);
    }

    /// Whether the thread has said so.
    #[must_use]
    pub fn is_closed_to_new(&self) -> bool {
        self.closed_to_new.load(Ordering::Acquire)
    }

    /// Every number with what it is.
    pub fn iter(&self) -> impl Iterator<Item = (&'static ShardCounter, u64)> + '_ {
        SHARD_COUNTERS.iter().zip(self.values.iter().map(Count::value))
    }

    /// The number called `name`, over all its labels.
    #[must_use]
    pub fn sum(&self, name: &str) -> u64 {
        self.iter().filter(|(counter, _)| counter.name == name).map(|(_, value)| value).sum()
    }

    /// The number called `name` with this label alone.
    #[must_use]
    pub fn labelled(&self, name: &str, label: &str) -> u64 {
        let mut numbers = self.iter();
        let found = numbers.find(|(counter, _)| {
            counter.name == name && counter.label.is_some_and(|(_, value)| value == label)
        });
        found.map_or(0, |(_, value)| value)
    }
}

/// A crypto thread's numbers.
#[derive(Debug, Default)]
pub struct CryptoCounters {
    /// Session tokens believed.
    pub tokens: Count,
    /// Session tokens not believed.
    pub tokens_bad: Count,
    /// Tickets found genuine.
    pub tickets: Count,
    /// Tickets that were not, or not this user's.
    pub tickets_bad: Count,
}

/// The money-disk thread's numbers.
#[derive(Debug, Default)]
pub struct DiskCounters {
    /// Journal records written.
    pub journal_records: Count,
    /// Records of the issuer that are on disk.
    pub journal_synced: Count,
    /// fdatasyncs of the journal.
    pub journal_syncs: Count,
    /// Longest time from a journal record to its fdatasync in the last second, us.
    pub journal_late_us: Count,
    /// Cursor raises on disk.
    pub cursor_raises: Count,
    /// 1 once persisting failed.
    pub fenced: Count,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_document_has_every_metric_and_no_other() {
        let document = include_str!("../../docs/metrics.md");
        let cells = document.lines().filter_map(|line| line.strip_prefix("| `")?.split('|').next());
        // `one`, `another{label}`
        let words = cells.flat_map(|cell| cell.split('`').step_by(2));
        let named: BTreeSet<String> =
            words.map(|word| word.split('{').next().unwrap_or_default().to_owned()).collect();
        let printed = crate::control::metric_names();
        let difference: Vec<_> = printed.symmetric_difference(&named).collect();
        assert!(difference.is_empty(), "docs/metrics.md or /metrics lacks {difference:?}");
    }

    #[test]
    fn counters_never_fall_although_their_thread_begins_again() {
        let counters = ShardCounters::default();
        let check = |total, gauge| {
            assert_eq!(counters.sum("shakes_total"), total);
            assert_eq!(counters.sum("loop_late_us_total"), total, "sums itself");
            assert_eq!(counters.sum("connections"), gauge);
        };
        counters.take(|_| 5);
        check(5, 5);
        counters.begin_again();
        check(5, 5);
        counters.take(|_| 2);
        check(7, 2);
        counters.begin_again();
        counters.take(|_| 1);
        check(8, 1);
    }
}
