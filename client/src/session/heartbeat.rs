//! When to send PING, and when silence means that the connection is dead. Sends nothing itself.

use crate::{
    limits::{ANSWER_LATE_MS, PONG_MS_MAX, PROBE_ANSWER_MS_MAX},
    random::Random,
    rhythm::Rhythm,
    time::Timestamp,
};
use yao_protocol::client::Welcome;

/// Least time between two PINGs, ms, whatever the server states: its 0 must not make a busy loop.
const PING_MS_MIN: u64 = 100;
/// Least time from a PING to one that asks whether the connection lives, ms. The server's minimum
/// is meant for signs of life, and no server punishes a question (wire.md 9.5): one that waited for
/// it would come after the connection was given up, or long after the user looked.
const ASK_MS_MIN: u64 = 1_000;
/// Doubts in a row that nobody answered after which a further one grants no more time, so that an
/// app that doubts every second does not keep a dead connection. Three, for each may be about
/// another network: out of the door, down to the train, up again.
const DOUBTS_MAX: u8 = 3;

/// See the module.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heartbeat {
    rhythm: Rhythm,
    /// This connection's part of the rhythm's rest, in 1/1,024: clients that connected together
    /// do not ping together.
    share: u64,
    /// Bounds of the server for a rest, ms: it takes no PING sooner, and closes some time after.
    least_ms: u64,
    most_ms: u64,
    /// The server closes the connection after this long without a frame from us, ms.
    server_ms_max: u64,
    sent_at: Timestamp,
    pinged_at: Option<Timestamp>,
    /// Since when an answer is due: the first frame sent since the server was last heard, for all
    /// our frames demand one; or a later doubt.
    unanswered_since: Option<Timestamp>,
    /// The rest that ended with the first of those frames, ms, if it was a PING.
    rested_ms: Option<u64>,
    /// Whether somebody wants to know now if the connection lives.
    probing: bool,
    /// Whether the PING for that is still to be sent.
    asking: bool,
    /// Doubts since the server was last heard.
    doubt_count: u8,
    /// Whether the user looks: then a dead connection is noticed sooner.
    foreground: bool,
}

impl Heartbeat {
    /// The heartbeat of a session that `welcome` opened. The rest is at most two thirds of the
    /// server's limit, so that one lost PING is still in time.
    pub(super) fn new(
        now: Timestamp,
        welcome: &Welcome,
        rhythm: Rhythm,
        foreground: bool,
        random: &mut Random,
    ) -> Self {
        let server_ms_max = u64::from(welcome.heartbeat_ms_max);
        let least_ms = u64::from(welcome.heartbeat_ms_min).max(PING_MS_MIN);
        Self {
            rhythm,
            share: random.between(768, 1_024),
            least_ms,
            most_ms: (server_ms_max / 3 * 2).max(least_ms),
            server_ms_max,
            sent_at: now,
            pinged_at: None,
            unanswered_since: None,
            rested_ms: None,
            probing: false,
            asking: false,
            doubt_count: 0,
            foreground,
        }
    }

    /// A frame goes out; `ping` when it is nothing but a sign of life.
    pub(super) fn handle_sent(&mut self, now: Timestamp, ping: bool) {
        if ping {
            self.pinged_at = Some(now);
            self.asking = false;
        }
        if self.unanswered_since.is_none() {
            self.unanswered_since = Some(now);
            // What is found out in doubt is about the doubt: the network may be another one by now.
            self.rested_ms = (ping && !self.probing).then(|| now.ms_since(self.sent_at));
        }
        self.sent_at = now;
    }

    /// A frame came in. Gives what is known about the network now.
    pub(super) fn handle_received(&mut self) -> Rhythm {
        self.unanswered_since = None;
        self.probing = false;
        self.asking = false;
        self.doubt_count = 0;
        if let Some(rested_ms) = self.rested_ms.take() {
            self.rhythm.handle_borne(rested_ms, self.most_ms);
        }
        self.rhythm
    }

    /// The connection is given up for its silence. Gives what is known about the network now.
    pub(super) fn handle_died(&mut self) -> Rhythm {
        if let Some(rested_ms) = self.rested_ms.take() {
            self.rhythm.handle_died(rested_ms, self.least_ms);
        }
        self.rhythm
    }

    /// The device is on another network, of which this is known. A rest that was taken before says
    /// nothing about it.
    pub(super) const fn set_rhythm(&mut self, rhythm: Rhythm) {
        self.rhythm = rhythm;
        self.rested_ms = None;
    }

    /// The user looks again, or the network changed: find out now. What was sent before may have
    /// been lost where the device is no more, or answered while it slept, so its silence proves
    /// nothing: it is asked once more, and time counts from here.
    pub(super) fn probe(&mut self, now: Timestamp) {
        self.probing = true;
        self.rested_ms = None;
        if !self.asking && self.doubt_count < DOUBTS_MAX {
            self.doubt_count += 1;
            self.asking = true;
            self.unanswered_since = self.unanswered_since.map(|_| now);
        }
    }

    /// Whether the user looks.
    pub(super) const fn set_foreground(&mut self, foreground: bool) {
        self.foreground = foreground;
    }

    /// Whether a PING is due.
    pub(super) fn is_ping_due(&self, now: Timestamp) -> bool {
        self.ping_at().is_some_and(|at| now >= at)
    }

    /// How long the server has been silent, if that is too long, ms.
    pub(super) fn silence_ms(&self, now: Timestamp) -> Option<u64> {
        let silence_ms = now.ms_since(self.unanswered_since?);
        (silence_ms >= self.silence_ms_max()).then_some(silence_ms)
    }

    /// When PING or the end of patience comes next.
    pub(super) fn deadline(&self) -> Timestamp {
        let silent_at = self.unanswered_since.map(|since| since.plus_ms(self.silence_ms_max()));
        let next = self.ping_at().into_iter().chain(silent_at).min();
        next.expect("without an answer to wait for, a PING is due some time")
    }

    /// After a rest, and no sooner than the server wants; or, when an answer is late or somebody
    /// wants to know, once and without regard to that.
    fn ping_at(&self) -> Option<Timestamp> {
        let rest_ms =
            (self.rhythm.rest_ms() * self.share / 1_024).clamp(self.least_ms, self.most_ms);
        let ask_ms_min = self.least_ms.min(ASK_MS_MIN);
        let (wanted_at, gap_ms_min) = match self.unanswered_since {
            _ if self.asking => (Timestamp::ZERO, ask_ms_min),
            // A PING is on its way already.
            Some(since) if self.pinged_at.is_some_and(|at| at >= since) => return None,
            Some(since) if self.foreground => (since.plus_ms(ANSWER_LATE_MS), ask_ms_min),
            Some(_) | None => (self.sent_at.plus_ms(rest_ms), self.least_ms),
        };
        let allowed_at = self.pinged_at.map_or(Timestamp::ZERO, |at| at.plus_ms(gap_ms_min));
        Some(wanted_at.max(allowed_at))
    }

    /// A server that closes idle clients quickly is expected to answer as quickly.
    fn silence_ms_max(&self) -> u64 {
        let patience_ms = match (self.probing, self.foreground) {
            (true, _) => PROBE_ANSWER_MS_MAX,
            (false, true) => ANSWER_LATE_MS + PROBE_ANSWER_MS_MAX,
            (false, false) => PONG_MS_MAX,
        };
        patience_ms.min(self.server_ms_max.max(1_000))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::testing::welcome;
    use proptest::prelude::*;

    fn heartbeat(welcome: &Welcome, foreground: bool, seed: u64) -> Heartbeat {
        let mut random = Random::new(seed);
        Heartbeat::new(Timestamp::ZERO, welcome, Rhythm::default(), foreground, &mut random)
    }

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_ms(ms)
    }

    proptest! {
        #[test]
        fn pings_stay_within_the_servers_bounds(
            seed: u64, least in 0_u32..60_000, span in 0_u32..600_000, answered: [bool; 20],
        ) {
            let (heartbeat_ms_min, heartbeat_ms_max) = (least, least.saturating_mul(2) + span);
            let welcome = Welcome { heartbeat_ms_min, heartbeat_ms_max, ..welcome(0) };
            let mut heartbeat = heartbeat(&welcome, false, seed);
            let mut now = Timestamp::ZERO;
            for answered in answered {
                let gap = heartbeat.deadline().ms_since(now);
                prop_assert!(gap >= u64::from(heartbeat_ms_min));
                prop_assert!(gap <= u64::from(heartbeat_ms_max).max(PING_MS_MIN));
                prop_assert!(!heartbeat.is_ping_due(now.plus_ms(gap - 1)));
                now = now.plus_ms(gap);
                prop_assert!(heartbeat.is_ping_due(now));
                heartbeat.handle_sent(now, true);
                if answered { heartbeat.handle_received() } else { heartbeat.handle_died() };
                heartbeat.handle_received();
            }
        }
    }

    #[test]
    fn silence_counts_from_the_first_frame_without_an_answer_or_from_a_doubt() {
        let check = |foreground, probing, most: u64| {
            let mut heartbeat = heartbeat(&welcome(0), foreground, 1);
            heartbeat.handle_sent(at(1_000), false);
            heartbeat.handle_sent(at(1_900), false);
            let mut since = 1_000;
            if probing {
                since = 2_500;
                heartbeat.probe(at(since));
            }
            assert_eq!(heartbeat.silence_ms(at(since + most - 1)), None);
            assert_eq!(heartbeat.silence_ms(at(since + most)), Some(most));
            heartbeat.handle_received();
            assert_eq!(heartbeat.silence_ms(at(since + most)), None);
        };
        check(false, false, PONG_MS_MAX);
        check(true, false, ANSWER_LATE_MS + PROBE_ANSWER_MS_MAX);
        check(true, true, PROBE_ANSWER_MS_MAX);
        check(false, true, PROBE_ANSWER_MS_MAX);
    }

    #[test]
    fn a_late_answer_and_a_probe_ping_once_and_not_one_upon_another() {
        let mut heartbeat = heartbeat(&welcome(0), true, 1);
        heartbeat.probe(at(5));
        assert!(heartbeat.is_ping_due(at(5)), "at once");
        heartbeat.handle_sent(at(5), true);
        assert!(!heartbeat.is_ping_due(at(2_000)), "once");
        assert_eq!(heartbeat.deadline(), at(5 + PROBE_ANSWER_MS_MAX));
        heartbeat.handle_received();
        heartbeat.probe(at(1_004));
        assert!(!heartbeat.is_ping_due(at(1_004)), "one a second");
        assert!(heartbeat.is_ping_due(at(1_005)));
        heartbeat.handle_received();

        heartbeat.handle_sent(at(10_000), false);
        assert_eq!(heartbeat.deadline(), at(10_000 + ANSWER_LATE_MS));
        assert!(heartbeat.is_ping_due(at(10_000 + ANSWER_LATE_MS)));
        heartbeat.handle_sent(at(10_000 + ANSWER_LATE_MS), true);
        assert!(!heartbeat.is_ping_due(at(14_000)), "once");
    }

    #[test]
    fn doubt_asks_once_more_and_grants_time_but_not_for_ever() {
        let mut heartbeat = heartbeat(&welcome(0), false, 1);
        let mut now = 40_000;
        heartbeat.handle_sent(at(now), true);
        for doubt in 0..DOUBTS_MAX {
            // Longer than a probe is waited for: the old network's time does not count.
            now += 2 * PROBE_ANSWER_MS_MAX;
            heartbeat.probe(at(now));
            assert_eq!(heartbeat.silence_ms(at(now)), None, "doubt {doubt}");
            assert!(heartbeat.is_ping_due(at(now)), "doubt {doubt}");
            heartbeat.handle_sent(at(now), true);
            assert!(!heartbeat.is_ping_due(at(now + PROBE_ANSWER_MS_MAX)), "once a doubt");
            assert_eq!(heartbeat.deadline(), at(now + PROBE_ANSWER_MS_MAX));
        }
        heartbeat.probe(at(now + 1));
        assert_eq!(heartbeat.deadline(), at(now + PROBE_ANSWER_MS_MAX), "it was asked enough");
        heartbeat.handle_received();
        heartbeat.handle_sent(at(now + 10), false);
        heartbeat.probe(at(now + 2_000));
        assert_eq!(heartbeat.silence_ms(at(now + 10 + PROBE_ANSWER_MS_MAX)), None, "heard since");
    }

    #[test]
    fn a_question_does_not_wait_for_the_servers_minimum() {
        let quiet = Welcome { heartbeat_ms_min: 15_000, heartbeat_ms_max: 300_000, ..welcome(0) };
        let pinged_at = |at_ms| {
            let mut heartbeat = heartbeat(&quiet, true, 1);
            heartbeat.handle_sent(at(at_ms), true);
            heartbeat.handle_received();
            heartbeat
        };
        let mut heartbeat = pinged_at(20_000);
        heartbeat.probe(at(20_100));
        assert!(!heartbeat.is_ping_due(at(20_000 + ASK_MS_MIN - 1)), "but not one upon another");
        assert!(heartbeat.is_ping_due(at(20_000 + ASK_MS_MIN)), "somebody wants to know");

        let mut heartbeat = pinged_at(20_000);
        heartbeat.handle_sent(at(21_000), false);
        assert_eq!(heartbeat.deadline(), at(21_000 + ANSWER_LATE_MS));
        assert!(heartbeat.is_ping_due(at(21_000 + ANSWER_LATE_MS)), "the answer is late");

        let resting = pinged_at(20_000);
        assert!(!resting.is_ping_due(at(34_999)), "a sign of life keeps the minimum");
    }

    #[test]
    fn only_rests_that_end_with_a_ping_teach_anything() {
        let rest = |ping| {
            let mut heartbeat = heartbeat(&welcome(0), false, 1);
            heartbeat.handle_sent(at(40_000), ping);
            let borne = heartbeat.handle_received().rest_ms();
            heartbeat.handle_sent(at(80_000), ping);
            (borne, heartbeat.handle_died().rest_ms())
        };
        let first = Rhythm::default().rest_ms();
        assert_eq!(rest(false), (first, first));
        assert_eq!(rest(true), (first * 5 / 4, first * 5 / 8));
    }
}
