//! The timer wheel: one deadline per connection, linked through the connections themselves.
//!
//! Time is cut into ticks; a slot of the wheel is the list of connections whose timer fires in that
//! tick. Hearing from a peer does not touch the wheel: a timer that fires too early is put back.

use super::{connection::NONE, table::Table};
use crate::time::Timestamp;

/// Nanoseconds of a tick. No deadline of a session is shorter than a second, but all that is due in
/// a tick fires in one go: thousands of connections that were opened evenly, and are held half-way,
/// shall be closed as evenly. Beside 15,000 of them p99 of a connect was 4.9 ms with ticks of
/// 32 ms, and 3.5 ms with these (`cargo xtask soak slowloris`).
pub(super) const TICK_NS: u64 = 8 * 1_000_000;
/// Slots of the wheel; 16,384 ticks are some two minutes, longer deadlines are put back.
const WHEEL_SLOTS: u32 = 16_384;
/// Ticks that are searched for the next connection; a second of them.
const SEARCHED_MAX: u32 = 125;

/// Deadlines of the connections in a [`Table`].
#[derive(Debug)]
pub(super) struct Wheel {
    heads: Box<[u32]>,
    /// Every tick before this one has fired.
    next_tick: u32,
}

/// The tick in which `now` lies. Wraps after a year of the machine's uptime, so that ticks are
/// compared by their difference, and none is compared that was not set in its connection's life.
pub(super) const fn tick_of(now: Timestamp) -> u32 {
    (now.as_ns() / TICK_NS) as u32
}

/// The first tick that lies wholly `ms` after `now`.
pub(super) const fn tick_after(now: Timestamp, ms: u32) -> u32 {
    tick_of(now.plus_ms(ms as u64)).wrapping_add(1)
}

impl Wheel {
    pub(super) fn new(now: Timestamp) -> Self {
        Self { heads: vec![NONE; WHEEL_SLOTS as usize].into(), next_tick: tick_of(now) }
    }

    /// Links `slot` to fire at `tick`, or as late as the wheel reaches.
    pub(super) fn link(&mut self, table: &mut Table, slot: u32, tick: u32) {
        let ahead = tick.wrapping_sub(self.next_tick);
        // A tick in the past (the difference wraps) fires next.
        let ahead = if ahead > u32::MAX / 2 { 0 } else { ahead.min(WHEEL_SLOTS - 1) };
        let tick = self.next_tick.wrapping_add(ahead);
        let head = &mut self.heads[(tick % WHEEL_SLOTS) as usize];
        let old = std::mem::replace(head, slot);
        if old != NONE {
            table.slot_mut(old).timer_previous = slot;
        }
        let connection = table.slot_mut(slot);
        connection.timer_tick = tick;
        connection.timer_next = old;
        connection.timer_previous = NONE;
    }

    /// Takes `slot` out; it must be linked.
    pub(super) fn unlink(&mut self, table: &mut Table, slot: u32) {
        let connection = table.slot(slot);
        let (previous, next) = (connection.timer_previous, connection.timer_next);
        let head = (connection.timer_tick % WHEEL_SLOTS) as usize;
        if previous == NONE {
            assert!(self.heads[head] == slot, "slot {slot} is linked where its tick says");
            self.heads[head] = next;
        } else {
            table.slot_mut(previous).timer_next = next;
        }
        if next != NONE {
            table.slot_mut(next).timer_previous = previous;
        }
    }

    /// Takes out the next connection whose tick has passed at `now`.
    pub(super) fn fire(&mut self, table: &mut Table, now: Timestamp) -> Option<u32> {
        let current = tick_of(now);
        while current.wrapping_sub(self.next_tick).cast_signed() > 0 {
            let slot = self.heads[(self.next_tick % WHEEL_SLOTS) as usize];
            if slot != NONE {
                self.unlink(table, slot);
                return Some(slot);
            }
            self.next_tick = self.next_tick.wrapping_add(1);
        }
        None
    }

    /// When the wheel next wants to be looked at: once the next tick that has a connection is
    /// over, and about a second from now at the latest. A thread with few connections sleeps.
    pub(super) fn deadline(&self, now: Timestamp) -> Timestamp {
        let occupied = |tick: &u32| self.heads[(tick % WHEEL_SLOTS) as usize] != NONE;
        let tick = |ahead| self.next_tick.wrapping_add(ahead);
        let next = (0..SEARCHED_MAX).map(tick).find(occupied).unwrap_or(tick(SEARCHED_MAX));
        let ahead = next.wrapping_sub(tick_of(now)).cast_signed();
        match u64::try_from(ahead) {
            Ok(ahead) => Timestamp::from_ns((now.as_ns() / TICK_NS + ahead + 1) * TICK_NS),
            Err(_) => now,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::connection::State;

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_ns(ms * 1_000_000)
    }

    #[test]
    fn timers_fire_in_their_tick_and_not_before() {
        let mut table = Table::new(100);
        let mut wheel = Wheel::new(at(1_000));
        let slots: Vec<u32> = (0..5).map(|number| table.take(number).expect("room")).collect();
        for (slot, ms) in slots.iter().zip([3_000, 1_000, 2_000, 900_000, 2_000]) {
            table.slot_mut(*slot).become_state(State::Greeting);
            wheel.link(&mut table, *slot, tick_after(at(1_000), ms));
        }
        wheel.unlink(&mut table, slots[4]);
        let mut fired = Vec::new();
        for ms in (1_000..130_000).step_by(50) {
            while let Some(slot) = wheel.fire(&mut table, at(ms)) {
                fired.push((slot, ms));
            }
        }
        let order: Vec<u32> = fired.iter().map(|(slot, _)| *slot).collect();
        assert_eq!(order, [slots[1], slots[2], slots[0]]);
        for ((_, ms), due) in fired.iter().zip([2_000, 3_000, 4_000]) {
            assert!((due..due + 120).contains(ms), "fired at {ms}, due {due}");
        }
        let late = wheel.fire(&mut table, at(135_000));
        assert_eq!(late, Some(slots[3]), "beyond the horizon it fires early, to be put back");
    }

    #[test]
    fn the_wheel_asks_to_be_looked_at_when_something_is_due_and_hardly_else() {
        // Ticks wrap on the way.
        let wrap = (1 << 32) * TICK_NS / 1_000_000;
        for start in [1_000, wrap - 5_000] {
            let mut table = Table::new(1);
            let mut wheel = Wheel::new(at(start));
            let slot = table.take(0).expect("room");
            table.slot_mut(slot).become_state(State::Greeting);
            wheel.link(&mut table, slot, tick_after(at(start), 10_000));
            let (mut now, mut looks) = (at(start), 0);
            while wheel.fire(&mut table, now).is_none() {
                let next = wheel.deadline(now);
                assert!(next > now, "what is due has fired");
                (now, looks) = (next, looks + 1);
            }
            let ms = (now.as_ns() - at(start).as_ns()) / 1_000_000;
            assert!((10_000..=10_016).contains(&ms), "fired after {ms} ms");
            assert!(looks <= 11, "{looks} looks in ten seconds");
        }
    }

    #[test]
    fn what_was_left_in_an_earlier_tick_is_due_at_once() {
        let mut table = Table::new(2);
        let mut wheel = Wheel::new(at(1_000));
        for number in 0..2 {
            let slot = table.take(number).expect("room");
            table.slot_mut(slot).become_state(State::Greeting);
            wheel.link(&mut table, slot, tick_after(at(1_000), 100));
        }
        assert!(wheel.fire(&mut table, at(2_000)).is_some());
        assert_eq!(wheel.deadline(at(2_000)), at(2_000));
        assert!(wheel.fire(&mut table, at(1_900)).is_some(), "time that goes back does no harm");
        assert!(wheel.fire(&mut table, at(1_500)).is_none());
    }
}
