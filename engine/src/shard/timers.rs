//! What happens when a connection's timer fires.

use super::{Effect, ShardEngine, State, connection::NONE, wheel};
use crate::time::Timestamp;
use yao_protocol::client::{ErrorCode, Refusal, RetryClass};

/// Timers fired in one go. Each may close a connection, some 15 us for whoever owns the socket: a
/// tick's worth of thousands of them must not keep everybody else waiting.
const FIRED_MAX: usize = 32;

/// The peer was too slow.
const TIMEOUT: Refusal = Refusal {
    code: ErrorCode::Timeout,
    class: RetryClass::After,
    closes: true,
    delay_ms: 0,
    jitter_ms: 1_000,
};

impl ShardEngine {
    /// Fires what is due, at most [`FIRED_MAX`] timers of it; drain [`ShardEngine::poll_effect`]
    /// afterwards. What is left is due at once, and others have their turn before it.
    pub fn handle_time(&mut self, now: Timestamp) {
        for _ in 0..FIRED_MAX {
            let Some(slot) = self.wheel.fire(&mut self.table, now) else { break };
            self.on_timer(now, slot);
        }
        self.drain_step(now);
    }

    /// When [`ShardEngine::handle_time`] wants to be called next; `NEVER` without connections.
    #[must_use]
    pub fn deadline(&self, now: Timestamp) -> Timestamp {
        let used = self.table.used() > 0;
        let wheel = if used { self.wheel.deadline(now) } else { Timestamp::NEVER };
        wheel.min(self.drain.as_ref().map_or(Timestamp::NEVER, |drain| drain.next_at()))
    }

    fn on_timer(&mut self, now: Timestamp, slot: u32) {
        let due = self.next_due(slot);
        let passed = wheel::tick_of(now).wrapping_sub(due) <= u32::MAX / 2;
        if !passed {
            self.wheel.link(&mut self.table, slot, due);
            return;
        }
        // Linked again in any case: the slot leaves the wheel only when the socket is closed.
        let again = wheel::tick_after(now, self.settings.frame_ms_max);
        self.wheel.link(&mut self.table, slot, again);
        match self.table.slot(slot).state() {
            State::Greeting | State::Checking | State::Open => {
                self.counters.timed_out += 1;
                let mut bytes = Vec::new();
                TIMEOUT.put(&mut bytes, 0);
                let connection = self.id(slot);
                self.effects.push_back(Effect::Send { connection, bytes });
                self.begin_close(slot);
            }
            // An ERROR frame would be no part of a handshake.
            State::Securing => {
                self.counters.timed_out += 1;
                self.begin_close(slot);
            }
            State::Leaving => {
                self.counters.overstayed += 1;
                self.begin_close(slot);
            }
            State::Closing | State::Free => {}
        }
    }

    /// The tick at which the connection in `slot` has been silent, or its frame cut, for too long.
    fn next_due(&self, slot: u32) -> u32 {
        let connection = self.table.slot(slot);
        let after = |tick: u32, ms: u32| {
            let ticks = (u64::from(ms) * 1_000_000).div_ceil(wheel::TICK_NS) + 1;
            tick.wrapping_add(u32::try_from(ticks).unwrap_or(u32::MAX / 4))
        };
        let silence = match connection.state() {
            // HELLO has one deadline, however many bytes trickle in before it.
            State::Securing | State::Greeting | State::Leaving | State::Closing | State::Free => {
                return connection.timer_tick;
            }
            State::Checking => after(connection.heard_tick, self.settings.frame_ms_max),
            State::Open => after(connection.heard_tick, self.settings.heartbeat_ms_max),
        };
        if connection.partial == NONE {
            return silence;
        }
        let since = self.partials.look(connection.partial).map(|partial| partial.since_tick);
        let frame = after(since.unwrap_or(connection.heard_tick), self.settings.frame_ms_max);
        if frame.wrapping_sub(silence) > u32::MAX / 2 { frame } else { silence }
    }
}
