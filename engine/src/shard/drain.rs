//! Asking every client to leave, at the node's pace.

use super::{Effect, ShardEngine, State, wheel};
use crate::{ConnectionId, time::Timestamp};

/// How long a client that was asked to leave may stay to finish its opens, ms.
const LEAVE_MS_MAX: u32 = 2_000;
/// Clients are asked in small groups this often, ns, so that a rate is a rate and not a burst.
const STEP_NS: u64 = 20 * 1_000_000;
/// Clients asked in one go. Each costs a write, some 10 us: those who stay must not wait for all
/// who leave.
const ASKED_MAX: u32 = 64;

/// A drain under way. As no session opens any more, one sweep over the table finds everybody.
#[derive(Debug)]
pub(super) struct Drain {
    /// The time of the next step; `NEVER` when nobody is left to be asked.
    next_at: Timestamp,
    /// No slot below this one holds a session that is to be asked.
    next_slot: u32,
}

impl Drain {
    pub(super) const fn next_at(&self) -> Timestamp {
        self.next_at
    }
}

impl ShardEngine {
    /// Turns newcomers away from now on, and asks all others to leave: [`Effect::AskToLeave`] says
    /// when some are to be asked. Said again, it changes nothing.
    pub fn handle_drain(&mut self, now: Timestamp) {
        if self.drain.is_none() {
            self.drain = Some(Drain { next_at: now, next_slot: 0 });
        }
    }

    /// Whether clients are being asked to leave.
    pub(super) const fn is_draining(&self) -> bool {
        self.drain.is_some()
    }

    pub(super) fn drain_step(&mut self, now: Timestamp) {
        let slots = self.table.slots();
        let Some(drain) = self.drain.as_mut().filter(|drain| now >= drain.next_at) else { return };
        while drain.next_slot < slots && self.table.slot(drain.next_slot).state() != State::Open {
            drain.next_slot += 1;
        }
        if drain.next_slot >= slots {
            drain.next_at = Timestamp::NEVER;
            return;
        }
        drain.next_at = now.plus_ns(STEP_NS);
        self.effects.push_back(Effect::AskToLeave { count_max: ASKED_MAX });
    }

    /// The node's pace allows `count` clients of this thread to be asked to leave. Returns how many
    /// were; the others are not used.
    pub fn handle_ask_to_leave(&mut self, now: Timestamp, count: u32) -> u32 {
        let Some(mut drain) = self.drain.take() else { return 0 };
        let slots = self.table.slots();
        let mut asked = 0;
        while asked < count && drain.next_slot < slots {
            if self.table.slot(drain.next_slot).state() == State::Open {
                self.ask_to_leave(now, drain.next_slot);
                asked += 1;
            }
            drain.next_slot += 1;
        }
        if asked == ASKED_MAX {
            // More may be due: at once, but others have their turn before.
            drain.next_at = now;
        }
        self.drain = Some(drain);
        asked
    }

    fn ask_to_leave(&mut self, now: Timestamp, slot: u32) {
        self.counters.asked_to_leave += 1;
        let bytes = self.farewell();
        let connection: ConnectionId = self.id(slot);
        self.effects.push_back(Effect::Send { connection, bytes });
        self.table.slot_mut(slot).become_state(State::Leaving);
        self.wheel.unlink(&mut self.table, slot);
        self.wheel.link(&mut self.table, slot, wheel::tick_after(now, LEAVE_MS_MAX));
    }
}
