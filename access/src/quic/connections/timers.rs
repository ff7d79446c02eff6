//! One deadline a connection, in a heap. An entry that no longer counts is dropped when it fires.

use std::{cmp::Reverse, collections::BinaryHeap};
use yao_engine::Timestamp;

/// So many entries are never worth a rebuild.
const SPARE: usize = 1_024;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Timers {
    heap: BinaryHeap<Reverse<(Timestamp, u32)>>,
}

impl Timers {
    pub(super) fn push(&mut self, at: Timestamp, handle: u32) {
        self.heap.push(Reverse((at, handle)));
    }

    /// Whether most entries cannot count any more, with `connections` of at most two each.
    pub(super) fn is_crowded(&self, connections: usize) -> bool {
        self.heap.len() > 4 * connections + SPARE
    }

    /// Forgets every entry, and the memory that a crowd of them took.
    pub(super) fn clear(&mut self) {
        self.heap = BinaryHeap::new();
    }

    /// The earliest deadline.
    pub(super) fn next(&self) -> Timestamp {
        self.heap.peek().map_or(Timestamp::NEVER, |Reverse((at, _))| *at)
    }

    /// The earliest entry if its time has come.
    pub(super) fn pop_due(&mut self, now: Timestamp) -> Option<(Timestamp, u32)> {
        if self.next() > now {
            return None;
        }
        self.heap.pop().map(|Reverse(entry)| entry)
    }
}
