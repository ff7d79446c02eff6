//! When to send PING, and when silence means that the connection is dead. Sends nothing itself.

use crate::{limits::PONG_MS_MAX, random::Random, time::Timestamp};
use yao_protocol::client::Welcome;

/// Least time between two PINGs, ms, whatever the server states: its 0 must not make a busy loop.
const PING_MS_MIN: u64 = 100;

/// See the module.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heartbeat {
    /// From the last frame sent to the next PING, ms: within the server's bounds.
    ping_ms: u64,
    /// The server closes the connection after this long without a frame from us, ms.
    server_ms_max: u64,
    sent_at: Timestamp,
    /// The first frame sent since the server was last heard; all our frames demand an answer.
    unanswered_since: Option<Timestamp>,
}

impl Heartbeat {
    /// The heartbeat of a session that `welcome` opened.
    ///
    /// The gap is drawn from the middle third below the server's limit, so that clients which
    /// connected together do not ping together, and one lost PING is still in time.
    pub(super) fn new(now: Timestamp, welcome: &Welcome, random: &mut Random) -> Self {
        let server_ms_max = u64::from(welcome.heartbeat_ms_max);
        let least_ms = u64::from(welcome.heartbeat_ms_min).max(PING_MS_MIN);
        let ping_ms = random.between(server_ms_max / 3, server_ms_max / 3 * 2).max(least_ms);
        Self { ping_ms, server_ms_max, sent_at: now, unanswered_since: None }
    }

    /// A frame goes out.
    pub(super) fn handle_sent(&mut self, now: Timestamp) {
        self.sent_at = now;
        self.unanswered_since.get_or_insert(now);
    }

    /// A frame came in.
    pub(super) const fn handle_received(&mut self) {
        self.unanswered_since = None;
    }

    /// Whether a PING is due.
    pub(super) fn is_ping_due(&self, now: Timestamp) -> bool {
        now >= self.sent_at.plus_ms(self.ping_ms)
    }

    /// How long the server has been silent, if that is too long, ms.
    pub(super) fn silence_ms(&self, now: Timestamp) -> Option<u64> {
        let silence_ms = now.ms_since(self.unanswered_since?);
        (silence_ms >= self.silence_ms_max()).then_some(silence_ms)
    }

    /// When PING or the end of patience comes next.
    pub(super) fn deadline(&self) -> Timestamp {
        let ping_at = self.sent_at.plus_ms(self.ping_ms);
        match self.unanswered_since {
            Some(since) => ping_at.min(since.plus_ms(self.silence_ms_max())),
            None => ping_at,
        }
    }

    /// A server that closes idle clients quickly is expected to answer as quickly.
    fn silence_ms_max(&self) -> u64 {
        PONG_MS_MAX.min(self.server_ms_max.max(1_000))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::testing::welcome;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn pings_stay_within_the_servers_bounds(
            seed: u64, least in 0_u32..60_000, span in 0_u32..600_000,
        ) {
            let (heartbeat_ms_min, heartbeat_ms_max) = (least, least.saturating_mul(2) + span);
            let welcome = Welcome { heartbeat_ms_min, heartbeat_ms_max, ..welcome(0) };
            let now = Timestamp::from_ms(5);
            let heartbeat = Heartbeat::new(now, &welcome, &mut Random::new(seed));
            let gap = heartbeat.deadline().ms_since(now);
            prop_assert!(gap >= u64::from(heartbeat_ms_min));
            prop_assert!(gap <= u64::from(heartbeat_ms_max).max(PING_MS_MIN));
            prop_assert!(!heartbeat.is_ping_due(now.plus_ms(gap - 1)));
            prop_assert!(heartbeat.is_ping_due(now.plus_ms(gap)));
        }
    }

    #[test]
    fn silence_counts_from_the_first_frame_without_an_answer() {
        let mut heartbeat = Heartbeat::new(Timestamp::ZERO, &welcome(0), &mut Random::new(1));
        heartbeat.handle_sent(Timestamp::from_ms(1_000));
        heartbeat.handle_sent(Timestamp::from_ms(6_000));
        assert_eq!(heartbeat.silence_ms(Timestamp::from_ms(1_000 + PONG_MS_MAX - 1)), None);
        let late = Timestamp::from_ms(1_000 + PONG_MS_MAX);
        assert_eq!(heartbeat.silence_ms(late), Some(PONG_MS_MAX));
        heartbeat.handle_received();
        assert_eq!(heartbeat.silence_ms(late), None);
    }
}
