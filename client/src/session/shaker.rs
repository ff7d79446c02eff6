//! The shake that is in flight and those that wait to be merged into the next one. Knows the
//! interval that the server states; sends nothing itself.
//!
//! Invariant: one shake is in flight at most, and its id never changes until it is answered (M6).

use super::RequestIds;
use crate::{
    limits::{RESEND_MS_MIN, RETRY_NOW_MS, SHAKE_ANSWER_MS_MAX},
    random::Random,
    time::Timestamp,
};
use yao_protocol::{
    ShakeId,
    client::{NoWin, NoWinReason},
    limits::SHAKE_INTERVAL_MS_MAX,
};

/// A shake that the server has not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct InFlight {
    shake: ShakeId,
    merged_count: u16,
    /// Its request id on this connection; 0 when it was not sent on this connection.
    request_id: u32,
    /// How often it was sent, on this and earlier connections; from the second time on with the
    /// RESEND flag.
    sent_count: u32,
    /// When to send it (again).
    due_at: Timestamp,
}

/// What to put on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Outgoing {
    pub(super) shake: ShakeId,
    pub(super) merged_count: u16,
    pub(super) resend: bool,
    pub(super) request_id: u32,
}

/// What an answer meant for the shake in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It answers no shake that is in flight.
    Foreign,
    /// The shake is decided.
    Decided,
    /// The shake was not drawn, and merges into the next one.
    Merged,
    /// The shake was sent again and is still not decided: it keeps its id.
    Undecided,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub(super) struct Shaker {
    wanted_count: u64,
    in_flight: Option<InFlight>,
    interval_ms: u32,
    /// No new shake before this.
    next_at: Timestamp,
}

impl Shaker {
    /// A shaker that still waits for the answer to `pending`, of an earlier life of the app.
    pub(super) fn new(pending: Option<ShakeId>) -> Self {
        let in_flight = pending.map(|shake| InFlight {
            shake,
            merged_count: 1,
            request_id: 0,
            sent_count: 1,
            due_at: Timestamp::ZERO,
        });
        Self { in_flight, ..Self::default() }
    }

    /// The user shook this many times.
    pub(super) const fn want(&mut self, count: u32) {
        self.wanted_count = self.wanted_count.saturating_add(count as u64);
    }

    /// Whether an answer is awaited on this connection.
    pub(super) fn is_waiting(&self) -> bool {
        self.in_flight.is_some_and(|in_flight| in_flight.request_id != 0)
    }

    /// Whether `request_id` is the shake in flight.
    pub(super) fn is_waiting_for(&self, request_id: u32) -> bool {
        request_id != 0 && self.in_flight.is_some_and(|sent| sent.request_id == request_id)
    }

    /// A session opened: what is in flight goes out again at once, with the flag.
    pub(super) fn handle_welcome(&mut self, now: Timestamp, interval_ms: u32) {
        self.interval_ms = interval_ms;
        self.next_at = self.next_at.min(now.plus_ms(u64::from(interval_ms)));
        if let Some(in_flight) = &mut self.in_flight {
            in_flight.due_at = now;
        }
    }

    /// The connection ended: request ids mean nothing any more.
    pub(super) const fn handle_disconnected(&mut self) {
        if let Some(in_flight) = &mut self.in_flight {
            in_flight.request_id = 0;
        }
    }

    /// When [`Shaker::poll`] has something to send next.
    pub(super) fn deadline(&self) -> Option<Timestamp> {
        match &self.in_flight {
            Some(in_flight) => Some(in_flight.due_at),
            None => (self.wanted_count > 0).then_some(self.next_at),
        }
    }

    /// The shake to send now, if one is due; it is then in flight.
    pub(super) fn poll(
        &mut self,
        now: Timestamp,
        request_ids: &mut RequestIds,
        random: &mut Random,
    ) -> Option<Outgoing> {
        if self.deadline().is_none_or(|at| at > now) {
            return None;
        }
        let mut sending = match self.in_flight {
            Some(in_flight) => in_flight,
            None => {
                let merged_count = u16::try_from(self.wanted_count).unwrap_or(u16::MAX);
                // The count is statistics only, so what exceeds its field is dropped with it.
                self.wanted_count = 0;
                let shake = ShakeId(random.next_u64());
                InFlight { shake, merged_count, request_id: 0, sent_count: 0, due_at: now }
            }
        };
        let resend = sending.sent_count > 0;
        sending.request_id = request_ids.next();
        sending.sent_count = sending.sent_count.saturating_add(1);
        sending.due_at = now.plus_ms(SHAKE_ANSWER_MS_MAX);
        self.in_flight = Some(sending);
        let InFlight { shake, merged_count, request_id, .. } = sending;
        Some(Outgoing { shake, merged_count, resend, request_id })
    }

    /// A NO_WIN came.
    pub(super) fn handle_no_win(&mut self, now: Timestamp, answer: &NoWin) -> Answer {
        let Some(in_flight) = self.in_flight.filter(|sent| sent.shake == answer.shake) else {
            return Answer::Foreign;
        };
        // A wrong figure heals: no server can silence a phone for longer.
        self.interval_ms = answer.interval_ms.min(SHAKE_INTERVAL_MS_MAX);
        let wait_ms = u64::from(self.interval_ms);
        match answer.reason {
            NoWinReason::NoneDue | NoWinReason::LimitReached | NoWinReason::NotRunning => {
                self.finish(now.plus_ms(wait_ms));
                Answer::Decided
            }
            NoWinReason::TooSoon | NoWinReason::Pending | NoWinReason::Busy => {
                self.postpone(now, in_flight, wait_ms)
            }
        }
    }

    /// A WIN for `shake` came; says whether that was the shake in flight.
    pub(super) fn handle_win(&mut self, now: Timestamp, shake: ShakeId) -> bool {
        let matches = self.in_flight.is_some_and(|sent| sent.shake == shake);
        if matches {
            self.finish(now.plus_ms(u64::from(self.interval_ms)));
        }
        matches
    }

    /// An ERROR came that lets the request be retried after `wait_ms`.
    pub(super) fn handle_refusal(
        &mut self,
        now: Timestamp,
        request_id: u32,
        wait_ms: u64,
    ) -> Answer {
        match self.in_flight.filter(|_| self.is_waiting_for(request_id)) {
            Some(in_flight) => self.postpone(now, in_flight, wait_ms.max(RETRY_NOW_MS)),
            None => Answer::Foreign,
        }
    }

    const fn finish(&mut self, next_at: Timestamp) {
        self.in_flight = None;
        self.next_at = next_at;
    }

    /// The shake was not drawn. Sent once, it merges into the next one. Sent again, the question
    /// whether its first sending won is still open, so it must keep its id (M6).
    fn postpone(&mut self, now: Timestamp, in_flight: InFlight, wait_ms: u64) -> Answer {
        if in_flight.sent_count <= 1 {
            self.finish(now.plus_ms(wait_ms));
            self.wanted_count += u64::from(in_flight.merged_count);
            return Answer::Merged;
        }
        let due_at = now.plus_ms(wait_ms.max(RESEND_MS_MIN));
        self.in_flight = Some(InFlight { due_at, ..in_flight });
        Answer::Undecided
    }
}
