//! What the whole crowd did: counters that every client adds to.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};
use yao_client::Transport;

/// Different troubles that are remembered.
const TROUBLES_MAX: usize = 20;

/// A counter that many add to and one reads now and then.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    pub(super) fn take_back(&self) {
        self.0.fetch_sub(1, Relaxed);
    }

    pub(super) fn count(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// See the module. Only `connected` ever falls.
#[derive(Debug, Default)]
pub(super) struct Totals {
    pub(super) connected: Counter,
    /// Every WELCOME.
    pub(super) connections: Counter,
    pub(super) reconnects: Counter,
    /// Draw requests that were answered, refusals included.
    pub(super) shakes: Counter,
    pub(super) wins: Counter,
    pub(super) receipts: Counter,
    pub(super) errors: Counter,
    /// Shakes and opens that still waited for an answer when their client left.
    pub(super) unanswered: Counter,
    /// Times that a client said it is on another network now.
    pub(super) moves: Counter,
    /// WELCOMEs over TCP, TLS and QUIC.
    sessions: [Counter; 3],
    /// Sessions over each that ended before their client left.
    interruptions: [Counter; 3],
    troubles: Mutex<BTreeMap<String, u64>>,
}

impl Totals {
    /// How often a session was opened over `transport`.
    pub(super) const fn sessions(&self, transport: Transport) -> &Counter {
        &self.sessions[index(transport)]
    }

    /// How often a session over `transport` ended before its client left.
    pub(super) const fn interruptions(&self, transport: Transport) -> &Counter {
        &self.interruptions[index(transport)]
    }

    pub(super) fn count_error(&self, text: String) {
        self.errors.add();
        self.count_trouble(text);
    }

    /// Remembers what went wrong, in few words: a crowd meets the same trouble many times.
    pub(super) fn count_trouble(&self, text: String) {
        let mut troubles = self.troubles.lock().expect("no holder of this lock can panic");
        if troubles.len() < TROUBLES_MAX || troubles.contains_key(&text) {
            *troubles.entry(text).or_default() += 1;
        }
    }

    /// The troubles met, and how often each.
    pub(super) fn troubles(&self) -> BTreeMap<String, u64> {
        self.troubles.lock().expect("no holder of this lock can panic").clone()
    }

    /// One line for people.
    pub(super) fn line(&self, second: u64) -> String {
        format!(
            "{second:>4} s  connected {:>7}  shakes {:>9}  wins {:>7}  receipts {:>7}  errors {}",
            self.connected.count(),
            self.shakes.count(),
            self.wins.count(),
            self.receipts.count(),
            self.errors.count(),
        )
    }
}

const fn index(transport: Transport) -> usize {
    match transport {
        Transport::Tcp => 0,
        Transport::Tls => 1,
        Transport::Quic => 2,
    }
}
