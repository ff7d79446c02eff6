//! Asking every client to leave, at a stated rate.

use super::{Effect, ShardEngine, State, wheel};
use crate::{ConnectionId, time::Timestamp};
use yao_protocol::client::{GoAway, GoAwayReason, RetryClass};

/// How long a client that was asked to leave may stay to finish its opens, ms.
const LEAVE_MS_MAX: u32 = 2_000;
/// Clients are asked in small groups this often, ns, so that a rate is a rate and not a burst.
const STEP_NS: u64 = 20 * 1_000_000;

/// A drain under way.
#[derive(Debug)]
pub(super) struct Drain {
    per_second: u32,
    next_at: Timestamp,
    /// Every slot below this one has been asked.
    next_slot: u32,
    /// Clients that may be asked, in millionths.
    credit: u64,
}

impl Drain {
    pub(super) const fn next_at(&self) -> Timestamp {
        self.next_at
    }
}

impl ShardEngine {
    /// Begins to ask clients to leave, `per_second` of them a second (at least 1).
    pub fn handle_drain(&mut self, now: Timestamp, per_second: u32) {
        let per_second = per_second.max(1);
        self.drain = Some(Drain { per_second, next_at: now, next_slot: 0, credit: 0 });
    }

    pub(super) fn drain_step(&mut self, now: Timestamp) {
        let Some(drain) = self.drain.as_mut() else { return };
        if now < drain.next_at {
            return;
        }
        drain.next_at = now.plus_ns(STEP_NS);
        drain.credit += u64::from(drain.per_second) * (STEP_NS / 1_000);
        let mut slot = drain.next_slot;
        let mut credit = drain.credit;
        while credit >= 1_000_000 && slot < self.table.slots() {
            if self.table.slot(slot).state() == State::Open {
                self.ask_to_leave(now, slot);
                credit -= 1_000_000;
            }
            slot += 1;
        }
        // Whoever was being checked behind the sweep is found by the next one; whoever has not said
        // HELLO yet is told then.
        let wrapped = if slot >= self.table.slots() { 0 } else { slot };
        if let Some(drain) = self.drain.as_mut() {
            drain.next_slot = wrapped;
            drain.credit = credit.min(1_000_000);
        }
    }

    /// Whether clients are being asked to leave.
    pub(super) const fn is_draining(&self) -> bool {
        self.drain.is_some()
    }

    /// The GOAWAY of a drain. Each client draws its own delay within what it says.
    pub(super) fn farewell(&self) -> Vec<u8> {
        let (delay_ms, jitter_ms) = self.settings.return_ms;
        let go_away = GoAway {
            reason: GoAwayReason::Drain,
            class: RetryClass::After,
            delay_ms,
            jitter_ms,
            endpoints: self.settings.endpoints.clone(),
        };
        let mut bytes = Vec::new();
        go_away.put(&mut bytes);
        bytes
    }

    fn ask_to_leave(&mut self, now: Timestamp, slot: u32) {
        self.counters.drained += 1;
        let bytes = self.farewell();
        let connection: ConnectionId = self.id(slot);
        self.effects.push_back(Effect::Send { connection, bytes });
        self.table.slot_mut(slot).become_state(State::Leaving);
        self.wheel.unlink(&mut self.table, slot);
        self.wheel.link(&mut self.table, slot, wheel::tick_after(now, LEAVE_MS_MAX));
    }
}
