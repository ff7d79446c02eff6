//! Calls to the agent that are outstanding: their number, their deadlines, and the breaker.
//!
//! The agent is advice, not a gate: no verdict in time means yes, and an agent that keeps missing
//! its time is not asked at all but for one probe a second. Knows nothing of what is vetted.

use crate::time::Timestamp;
use hashbrown::HashMap;
use std::collections::VecDeque;

/// Calls that may be outstanding at once; beyond them the answer is yes at once.
pub const IN_FLIGHT_MAX: usize = 1_024;
/// Deadlines missed in a row after which the breaker opens. Chosen so that one slow batch of
/// verdicts does not open it, and an agent that hangs is given up within two of its deadlines.
const MISSED_MAX: u32 = 64;
/// While the breaker is open, one call is sent this often to see whether the agent is back, ms.
const PROBE_MS: u64 = 1_000;

/// What becomes of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked<T> {
    /// Send it under this number and wait.
    Send {
        /// Unique in the life of the desk.
        call: u64,
    },
    /// Yes, without asking.
    Allowed(T),
}

/// What was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VetCounters {
    /// Calls sent.
    pub sent: u64,
    /// Verdicts: yes.
    pub allowed: u64,
    /// Verdicts: no.
    pub refused: u64,
    /// Deadlines missed: counted as yes.
    pub expired: u64,
    /// Not asked: no agent, no room, or an open breaker.
    pub unasked: u64,
    /// How often the breaker opened.
    pub breaker_opened: u64,
}

/// Outstanding calls about subjects of type `T`.
#[derive(Debug)]
pub struct VetDesk<T> {
    deadline_ms: u64,
    next_call: u64,
    available: bool,
    /// Outstanding calls in the order of their deadlines; answered ones are skipped when reached.
    order: VecDeque<(Timestamp, u64)>,
    subjects: HashMap<u64, T>,
    missed_in_a_row: u32,
    /// While the breaker is open: when the next probe may be sent.
    probe_at: Option<Timestamp>,
    counters: VetCounters,
}

impl<T> VetDesk<T> {
    /// A desk whose calls are numbered from `call_first` and wait `deadline_ms` for their verdict.
    /// No agent is available until [`Self::agent_available`] says so.
    #[must_use]
    pub fn new(deadline_ms: u64, call_first: u64) -> Self {
        Self {
            deadline_ms,
            next_call: call_first,
            available: false,
            order: VecDeque::new(),
            subjects: HashMap::new(),
            missed_in_a_row: 0,
            probe_at: None,
            counters: VetCounters::default(),
        }
    }

    /// What was counted so far.
    #[must_use]
    pub const fn counters(&self) -> &VetCounters {
        &self.counters
    }

    /// What an outstanding call is about.
    pub fn subject_mut(&mut self, call: u64) -> Option<&mut T> {
        self.subjects.get_mut(&call)
    }

    /// Calls outstanding.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.subjects.len()
    }

    /// Whether an agent serves. A new one starts with a closed breaker.
    pub const fn agent_available(&mut self, available: bool) {
        self.available = available;
        self.missed_in_a_row = 0;
        self.probe_at = None;
    }

    /// Puts a question.
    pub fn ask(&mut self, now: Timestamp, subject: T) -> Asked<T> {
        let probe = self.probe_at.is_none_or(|at| now >= at);
        if !self.available || !probe || self.subjects.len() >= IN_FLIGHT_MAX {
            self.counters.unasked += 1;
            return Asked::Allowed(subject);
        }
        if self.probe_at.is_some() {
            self.probe_at = Some(now.plus_ms(PROBE_MS));
        }
        let call = self.next_call;
        self.next_call += 1;
        self.order.push_back((now.plus_ms(self.deadline_ms), call));
        let before = self.subjects.insert(call, subject);
        assert!(before.is_none(), "a call's number is used once");
        self.counters.sent += 1;
        Asked::Send { call }
    }

    /// The link had no room for this call: the question is answered yes.
    pub fn unsent(&mut self, call: u64) -> Option<T> {
        self.counters.unasked += 1;
        self.subjects.remove(&call)
    }

    /// A verdict arrived. `None` when nobody waits for it any more.
    pub fn verdict(&mut self, _now: Timestamp, call: u64, allowed: bool) -> Option<(T, bool)> {
        let subject = self.subjects.remove(&call)?;
        self.missed_in_a_row = 0;
        self.probe_at = None;
        if allowed {
            self.counters.allowed += 1;
        } else {
            self.counters.refused += 1;
        }
        Some((subject, allowed))
    }

    /// The next subject whose verdict did not come in time: yes.
    pub fn poll_expired(&mut self, now: Timestamp) -> Option<T> {
        while let Some((deadline, call)) = self.order.front().copied() {
            if !self.subjects.contains_key(&call) {
                self.order.pop_front();
                continue;
            }
            if now < deadline {
                return None;
            }
            self.order.pop_front();
            self.counters.expired += 1;
            self.missed_in_a_row += 1;
            if self.missed_in_a_row >= MISSED_MAX && self.probe_at.is_none() {
                self.counters.breaker_opened += 1;
                self.probe_at = Some(now.plus_ms(PROBE_MS));
            }
            return self.subjects.remove(&call);
        }
        None
    }

    /// When [`Self::poll_expired`] next has something to say; `NEVER` when nothing is outstanding.
    #[must_use]
    pub fn deadline(&self) -> Timestamp {
        // An answered call at the front wakes its owner once too often, which costs nothing.
        self.order.front().map_or(Timestamp::NEVER, |(deadline, _)| *deadline)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_ns(ms * 1_000_000)
    }

    fn desk() -> VetDesk<u32> {
        let mut desk = VetDesk::new(20, 100);
        desk.agent_available(true);
        desk
    }

    #[test]
    fn a_verdict_in_time_decides_and_a_late_one_finds_nobody() {
        let mut desk = desk();
        assert_eq!(desk.ask(at(0), 7), Asked::Send { call: 100 });
        assert_eq!(desk.ask(at(1), 8), Asked::Send { call: 101 });
        assert_eq!(desk.verdict(at(5), 100, false), Some((7, false)));
        assert_eq!(desk.poll_expired(at(20)), None, "the second has one more");
        assert_eq!(desk.poll_expired(at(21)), Some(8), "time-out means yes");
        assert_eq!(desk.verdict(at(22), 101, false), None);
        assert_eq!(desk.deadline(), Timestamp::NEVER);
    }

    #[test]
    fn without_agent_or_room_the_answer_is_yes_at_once() {
        let mut idle = VetDesk::new(20, 0);
        assert_eq!(idle.ask(at(0), 1), Asked::Allowed(1));
        let mut desk = desk();
        for n in 0..1_024 {
            assert!(matches!(desk.ask(at(0), n), Asked::Send { .. }));
        }
        assert_eq!(desk.ask(at(0), 9_999), Asked::Allowed(9_999));
    }

    #[test]
    fn a_hanging_agent_opens_the_breaker_and_is_probed_once_a_second() {
        let mut desk = desk();
        for n in 0..64 {
            desk.ask(at(0), n);
        }
        while desk.poll_expired(at(20)).is_some() {}
        assert_eq!(desk.ask(at(21), 1), Asked::Allowed(1));
        assert!(matches!(desk.ask(at(1_020), 2), Asked::Send { .. }), "the probe");
        assert_eq!(desk.ask(at(1_021), 3), Asked::Allowed(3));
        let call = 100 + 64;
        assert_eq!(desk.verdict(at(1_022), call, true), Some((2, true)));
        assert!(matches!(desk.ask(at(1_023), 4), Asked::Send { .. }), "closed again");
    }
}
