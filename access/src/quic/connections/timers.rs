//! One deadline a connection, in a heap. An entry that no longer counts is dropped when it fires.

use super::Connections;
use std::{cmp::Reverse, collections::BinaryHeap};
use yao_engine::Timestamp;

/// Deadlines within this time are near, ns.
const NEAR_NS: u64 = 1_000_000_000;
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

impl Connections {
    pub(super) fn set_timer(&mut self, handle: u32) {
        let (clock, now) = (self.clock, self.now);
        let Some(carried) = self.at(handle) else { return };
        let timeout =
            carried.quic.poll_timeout().map_or(Timestamp::NEVER, |at| clock.timestamp(at));
        let at = timeout.min(carried.linger).max(now);
        if at == Timestamp::NEVER {
            return;
        }
        // The idle deadline is far and only ever moves away: its one entry stays where it is while
        // near ones (acknowledgements, probes) come and go. An entry that is too early looks again.
        let entry = if at.ns_since(now) > NEAR_NS { &mut carried.far } else { &mut carried.near };
        if at < *entry {
            *entry = at;
            self.timers.push(at, handle);
            if self.timers.is_crowded(self.live) {
                self.rebuild_timers();
            }
        }
    }

    /// Drops entries that no longer count. On slow networks each packet leaves one, which else
    /// would stay until the idle deadline that it once stood for.
    fn rebuild_timers(&mut self) {
        self.timers.clear();
        for (handle, carried) in self.carried.iter().enumerate() {
            let Some(carried) = carried else { continue };
            let handle = u32::try_from(handle).expect("handles are u32");
            for at in [carried.near, carried.far] {
                if at != Timestamp::NEVER {
                    self.timers.push(at, handle);
                }
            }
        }
    }

    /// Fires what is due.
    pub(in crate::quic) fn fire_timers(&mut self) {
        while let Some((at, handle)) = self.timers.pop_due(self.now) {
            let (now, instant) = (self.now, self.instant);
            let Some(carried) = self.at(handle) else { continue };
            if carried.near == at {
                carried.near = Timestamp::NEVER;
            } else if carried.far == at {
                carried.far = Timestamp::NEVER;
            } else {
                continue;
            }
            let due = carried.quic.poll_timeout().is_some_and(|timeout| timeout <= instant);
            if due {
                carried.quic.handle_timeout(instant);
            }
            let lingered = carried.linger <= now;
            if lingered && carried.closed {
                self.retire(handle);
                continue;
            }
            if lingered {
                carried.close(now, instant);
            }
            if due || lingered {
                self.touch(handle);
            } else {
                self.set_timer(handle);
            }
        }
    }
}
