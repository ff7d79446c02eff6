//! When and where to connect next. No socket, no clock: `now` and a seed come in.
//!
//! A hundred thousand clients that lose a node together must not come back together. So the very
//! first attempt already waits a random time ("full jitter"), each failure doubles the range up to
//! a cap, and what the server asks for is obeyed to the millisecond.

mod home;

use crate::{
    limits::{DELAY_MS_MAX, STABLE_MS_MIN},
    random::Random,
    start::sort_endpoints,
    time::Timestamp,
};
use home::OwnFailures;
use yao_protocol::{
    client::{GoAway, GoAwayReason, RetryClass},
    endpoint::{Endpoint, Transports},
    limits::ENDPOINTS_MAX,
};

/// What the end of a connection means for the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Nobody said anything: jitter, doubling with each failure.
    BackOff,
    /// The server said: at once.
    Now,
    /// The server said: not before `delay_ms`, and not after `delay_ms + jitter_ms`.
    After {
        /// Wait at least this long, ms.
        delay_ms: u32,
        /// And up to this much longer, ms.
        jitter_ms: u32,
    },
    /// The server has no room, and said the same. That is a failure like any other: its word is
    /// the least, and the client's own range goes on doubling.
    Overloaded {
        /// Wait at least this long, ms.
        delay_ms: u32,
        /// And, as far as the server is asked, up to this much longer, ms.
        jitter_ms: u32,
    },
    /// The server wants a new session token.
    Reauthenticate,
    /// The device left the network while connecting: says nothing about the node, so it is tried
    /// again as if for the first time.
    NetworkChanged,
    /// The server did not believe the reconnect ticket: says nothing about the node either, so the
    /// session token is shown to that same node, at once. A ticket is gone once it was shown, so
    /// this comes once per ticket and makes no busy loop.
    WithToken,
    /// The device found no way to the node: it has no network, or no address for the name. Says
    /// nothing about the node, so it is tried again as after any failure, and others now and then.
    NoRoute,
    /// The app gave no session token, so no node was asked: back-off, and the same node.
    NoToken,
    /// The server said never, or the app asked to end.
    Never,
}

impl Retry {
    /// What a refusal of this class asks for.
    #[must_use]
    pub const fn from_class(class: RetryClass, delay_ms: u32, jitter_ms: u32) -> Self {
        match class {
            RetryClass::Now => Self::Now,
            RetryClass::After => Self::After { delay_ms, jitter_ms },
            RetryClass::Reauthenticate => Self::Reauthenticate,
            RetryClass::Never => Self::Never,
        }
    }

    /// What a GOAWAY asks for.
    #[must_use]
    pub const fn from_goaway(goaway: &GoAway) -> Self {
        let (delay_ms, jitter_ms) = (goaway.delay_ms, goaway.jitter_ms);
        match (goaway.reason, goaway.class) {
            (GoAwayReason::Overload, RetryClass::After) => Self::Overloaded { delay_ms, jitter_ms },
            (_, class) => Self::from_class(class, delay_ms, jitter_ms),
        }
    }
}

/// Ranges of the waits that the client chooses itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackOff {
    /// The first attempt waits 0 to this long, ms.
    pub first_ms_max: u64,
    /// No attempt waits longer, ms, unless the server asks.
    pub last_ms_max: u64,
}

impl Default for BackOff {
    /// One second spreads a node's 550,000 clients (DESIGN.md 1) over as many microseconds; half a
    /// minute is what a user at a broken network forgives.
    fn default() -> Self {
        Self { first_ms_max: 1_000, last_ms_max: 30_000 }
    }
}

/// The next attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// When to start it.
    pub at: Timestamp,
    /// Whether the app must give a new session token first.
    pub token_must_be_new: bool,
    /// Whether somebody else chose the time: the server, or the plan of the event.
    pub was_asked: bool,
}

/// Plans the attempts of one client.
#[derive(Clone, Debug)]
pub struct Reconnect {
    back_off: BackOff,
    random: Random,
    /// Connections that failed or ended since the last session that lasted.
    failure_count: u32,
    /// Since when the current connection is welcomed.
    welcome: Option<Timestamp>,
    endpoints: Vec<Endpoint>,
    /// What the last WELCOME or GOAWAY named besides those; tried after them.
    learned: Vec<Endpoint>,
    current_index: usize,
    own_failures: Option<OwnFailures>,
}

impl Reconnect {
    /// A plan over the app's `endpoints`, at least one, in the order of `user`.
    ///
    /// # Panics
    /// When `endpoints` is empty; the configuration is checked before.
    #[must_use]
    pub fn new(mut endpoints: Vec<Endpoint>, back_off: BackOff, user: u64, seed: u64) -> Self {
        assert!(!endpoints.is_empty(), "the configuration names at least one endpoint");
        sort_endpoints(&mut endpoints, user);
        Self {
            back_off,
            random: Random::new(seed),
            failure_count: 0,
            welcome: None,
            endpoints,
            learned: Vec::new(),
            current_index: 0,
            own_failures: None,
        }
    }

    /// The endpoint of the next attempt.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        let mut all = self.endpoints.iter().chain(&self.learned);
        all.nth(self.current_index).unwrap_or(&self.endpoints[0])
    }

    /// Whether there is more than the one endpoint.
    #[must_use]
    pub const fn knows_others(&self) -> bool {
        self.endpoints.len() + self.learned.len() > 1
    }

    /// The first attempt of all: at once but for jitter, or when a plan says so.
    pub fn start(&mut self, now: Timestamp, planned_ms: Option<u64>) -> Attempt {
        let wait_ms = planned_ms.unwrap_or_else(|| self.jittered_ms());
        Attempt {
            at: now.plus_ms(wait_ms),
            token_must_be_new: false,
            was_asked: planned_ms.is_some(),
        }
    }

    /// The user looks at the app again, or the network changed: waiting longer than after a first
    /// failure has lost its reason, unless the server asked for it.
    pub fn hurry(&mut self, now: Timestamp, attempt: &mut Attempt) {
        if !attempt.was_asked {
            let soon = now.plus_ms(self.spread_ms());
            attempt.at = attempt.at.min(soon);
        }
    }

    /// A random time in the range of a first failure, ms: nobody comes at once.
    pub fn spread_ms(&mut self) -> u64 {
        self.random.up_to(self.back_off.first_ms_max)
    }

    /// A session opened and named these other nodes.
    pub fn handle_welcome(&mut self, now: Timestamp, endpoints: &[String]) {
        self.welcome = Some(now);
        self.own_failures = None;
        let current = self.endpoint().clone();
        self.learn(&readable(endpoints));
        // The list changed under the index: stay where we are, also at a node that only its
        // predecessor named. A win whose answer is lost is recorded here (M6).
        self.current_index = self.position(&current).unwrap_or_else(|| {
            self.learned.push(current);
            self.endpoints.len() + self.learned.len() - 1
        });
    }

    /// A connection ended or failed; `endpoints` is where a GOAWAY sent us. `None` is the end.
    pub fn handle_end(
        &mut self,
        now: Timestamp,
        retry: Retry,
        endpoints: &[String],
    ) -> Option<Attempt> {
        let no_failure_wait_ms = match retry {
            Retry::NetworkChanged => Some(self.random.up_to(self.back_off.first_ms_max)),
            // No jitter: whoever shows a ticket comes at a time of his own already.
            Retry::WithToken => Some(0),
            _ => None,
        };
        // Neither a failure nor a reason to leave: another node would draw a pending shake anew
        // whose win is recorded here (M6).
        if let Some(wait_ms) = no_failure_wait_ms {
            let at = now.plus_ms(wait_ms);
            return Some(Attempt { at, token_must_be_new: false, was_asked: false });
        }
        let welcome = self.welcome.take();
        // A node that welcomes and then breaks every connection is a failing node all the same.
        if welcome.is_some_and(|since| now.ms() >= since.ms() + STABLE_MS_MIN) {
            self.failure_count = 0;
        }
        let own_failure_count = self.own_failures.map_or(0, |own| own.count);
        let first_failure = self.failure_count == own_failure_count;
        let mut was_asked = false;
        let wait_ms = match retry {
            Retry::Never => return None,
            // Who says "now", or "in a millisecond", to every attempt must not make a busy loop.
            Retry::Now if first_failure => 0,
            Retry::After { delay_ms, jitter_ms } if delay_ms > 0 || jitter_ms > 0 => {
                was_asked = true;
                let said_ms = u64::from(delay_ms) + self.random.up_to(u64::from(jitter_ms));
                let first_ms_max = if first_failure { 0 } else { self.back_off.first_ms_max };
                said_ms.max(self.random.up_to(first_ms_max))
            }
            Retry::Overloaded { delay_ms, jitter_ms } => {
                was_asked = true;
                let said_ms = u64::from(delay_ms) + self.random.up_to(u64::from(jitter_ms));
                said_ms.max(self.jittered_ms())
            }
            Retry::Reauthenticate if first_failure => 0,
            _ => self.jittered_ms(),
        };
        self.failure_count = self.failure_count.saturating_add(1);
        if matches!(retry, Retry::NoRoute | Retry::NoToken) {
            self.handle_own_failure(retry);
            let at = now.plus_ms(wait_ms);
            return Some(Attempt { at, token_must_be_new: false, was_asked });
        }
        self.own_failures = None;
        // A win whose answer was lost is recorded on its node (M6): look there once more, unless
        // the node itself wants us gone. A token that is refused says nothing of the node, unless
        // it refuses the next one, too.
        let stay = match retry {
            Retry::After { .. } | Retry::Overloaded { .. } => false,
            Retry::Reauthenticate => welcome.is_some() || first_failure,
            _ => welcome.is_some(),
        };
        if !(stay && endpoints.is_empty()) {
            self.move_on(endpoints);
        }
        let at = now.plus_ms(wait_ms.min(DELAY_MS_MAX));
        Some(Attempt { at, token_must_be_new: retry == Retry::Reauthenticate, was_asked })
    }

    /// 0 to `first_ms_max * 2^failures`, at most `last_ms_max`.
    fn jittered_ms(&mut self) -> u64 {
        let doubled = 1_u64.checked_shl(self.failure_count).unwrap_or(u64::MAX);
        let range_ms = self.back_off.first_ms_max.saturating_mul(doubled);
        self.random.up_to(range_ms.min(self.back_off.last_ms_max))
    }

    /// Goes to where the server sent us, else to the next endpoint of the list.
    fn move_on(&mut self, endpoints: &[String]) {
        let named = readable(endpoints);
        if !named.is_empty() {
            self.learn(&named);
        }
        let known: Vec<usize> = named.iter().filter_map(|named| self.position(named)).collect();
        if known.is_empty() {
            let count = self.endpoints.len() + self.learned.len();
            self.current_index = (self.current_index + 1) % count;
            return;
        }
        let most = known.len() as u64 - 1;
        let chosen = usize::try_from(self.random.up_to(most)).expect("an index of the list");
        self.current_index = known[chosen];
    }

    /// Keeps the endpoints that the app did not name itself. Where all of the app's are encrypted,
    /// nobody may send its users to one that is not.
    fn learn(&mut self, endpoints: &[Endpoint]) {
        self.learned.clear();
        let is_plain = |endpoint: &Endpoint| endpoint.transports == Transports::Tcp;
        let plain_allowed = self.endpoints.iter().any(is_plain);
        for endpoint in endpoints {
            if self.position(endpoint).is_none() && (plain_allowed || !is_plain(endpoint)) {
                self.learned.push(endpoint.clone());
            }
        }
    }

    fn position(&self, endpoint: &Endpoint) -> Option<usize> {
        self.endpoints.iter().chain(&self.learned).position(|known| known == endpoint)
    }
}

/// Those that this build can read; a later version may name more.
fn readable(endpoints: &[String]) -> Vec<Endpoint> {
    endpoints.iter().take(ENDPOINTS_MAX).filter_map(|text| text.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn plan(names: &[&str], seed: u64) -> Reconnect {
        let endpoints = names.iter().map(|name| name.parse().expect("an endpoint")).collect();
        Reconnect::new(endpoints, BackOff::default(), seed, seed)
    }

    proptest! {
        #[test]
        fn every_wait_is_inside_its_range(
            seed: u64, failures in 0_u32..80, delay_ms: u32, jitter_ms: u32,
            start in 0_u64..1_000_000,
        ) {
            let now = Timestamp::from_ms(start);
            let back_off = BackOff::default();
            let mut plan = plan(&["a:1", "b:1"], seed);
            let first = plan.start(now, None);
            prop_assert!(first.at.ms_since(now) <= back_off.first_ms_max);
            for failure in 0..failures {
                let attempt = plan.handle_end(now, Retry::BackOff, &[]).expect("goes on");
                let range = back_off.first_ms_max << failure.min(20);
                prop_assert!(attempt.at.ms_since(now) <= range.min(back_off.last_ms_max));
            }
            let asked = plan
                .handle_end(now, Retry::After { delay_ms, jitter_ms }, &[])
                .expect("goes on")
                .at
                .ms_since(now);
            let (least, most) = (u64::from(delay_ms), u64::from(delay_ms) + u64::from(jitter_ms));
            if most > 0 {
                let most = if failures > 0 { most.max(back_off.first_ms_max) } else { most };
                prop_assert!(asked >= least.min(DELAY_MS_MAX) && asked <= most.min(DELAY_MS_MAX));
            }
            prop_assert_eq!(plan.handle_end(now, Retry::Never, &[]), None);
        }
    }

    #[test]
    fn jitter_fills_its_range_from_the_first_attempt_on() {
        let waits: Vec<u64> = (0..1_000)
            .map(|seed| plan(&["a:1"], seed).start(Timestamp::ZERO, None).at.ms())
            .collect();
        for quarter in 0..4 {
            let inside = waits.iter().filter(|wait| **wait / 251 == quarter).count();
            assert!((180..320).contains(&inside), "quarter {quarter} has {inside} of 1,000");
        }
    }

    #[test]
    fn now_and_reauthenticate_are_immediate_once_and_then_back_off() {
        let check = |retry, token_must_be_new| {
            let mut waits = Vec::new();
            for seed in 0..100 {
                let mut plan = plan(&["a:1"], seed);
                let first = plan.handle_end(Timestamp::ZERO, retry, &[]).expect("goes on");
                assert!(first.at.ms() <= 1, "{retry:?}: {first:?}");
                assert_eq!(first.token_must_be_new, token_must_be_new);
                waits.push(plan.handle_end(Timestamp::ZERO, retry, &[]).expect("goes on").at.ms());
            }
            assert!(waits.iter().any(|wait| *wait > 500), "{retry:?} repeated is not spread");
        };
        check(Retry::Now, false);
        check(Retry::After { delay_ms: 1, jitter_ms: 0 }, false);
        check(Retry::Reauthenticate, true);
    }

    #[test]
    fn a_welcome_forgives_failures_only_when_the_session_lasts() {
        let mut plan = plan(&["a:1"], 7);
        let at = Timestamp::from_ms;
        plan.handle_end(at(0), Retry::BackOff, &[]);
        plan.handle_welcome(at(10), &[]);
        let waits: Vec<u64> = (0..20)
            .map(|n| {
                let now = at(20 + n * 100);
                plan.handle_welcome(now, &[]);
                plan.handle_end(now, Retry::Now, &[]).expect("goes on").at.ms() - now.ms()
            })
            .collect();
        assert!(waits.iter().any(|wait| *wait > 500), "no busy loop: {waits:?}");
        plan.handle_welcome(at(100_000), &[]);
        let later = at(100_000 + STABLE_MS_MIN);
        assert_eq!(plan.handle_end(later, Retry::Now, &[]).expect("goes on").at, later);
    }

    #[test]
    fn endpoints_rotate_stay_or_follow_the_server() {
        let mut plan = plan(&["a:1", "b:1"], 3);
        let first = plan.endpoint().clone();
        plan.handle_end(Timestamp::ZERO, Retry::BackOff, &[]);
        let second = plan.endpoint().clone();
        assert_ne!(first, second, "a node that never answered is left");
        plan.handle_welcome(Timestamp::ZERO, &["c:1".to_owned(), second.to_string()]);
        assert_eq!(*plan.endpoint(), second, "learning endpoints moves nobody");
        plan.handle_end(Timestamp::ZERO, Retry::BackOff, &[]);
        assert_eq!(*plan.endpoint(), second, "a lost win is looked for where it is recorded");
        plan.handle_end(Timestamp::ZERO, Retry::BackOff, &[]);
        plan.handle_end(Timestamp::ZERO, Retry::BackOff, &[]);
        plan.handle_end(Timestamp::ZERO, Retry::BackOff, &[]);
        assert_eq!(*plan.endpoint(), second, "three endpoints, the learned one among them");
        plan.handle_welcome(Timestamp::ZERO, &[]);
        let drained = Retry::After { delay_ms: 5, jitter_ms: 0 };
        plan.handle_end(Timestamp::ZERO, drained, &["d:1".to_owned()]);
        assert_eq!(plan.endpoint().to_string(), "d:1", "GOAWAY names where to go");
    }

    #[test]
    fn a_learned_node_is_not_forgotten_by_its_own_welcome() {
        let check = |own: &[&str], others: &[&str], expected_round: &[&str]| {
            let mut plan = plan(own, 5);
            let drained = Retry::After { delay_ms: 5, jitter_ms: 0 };
            plan.handle_end(Timestamp::ZERO, drained, &["d:1".to_owned()]);
            let others: Vec<String> = others.iter().map(|text| (*text).to_owned()).collect();
            for _ in 0..3 {
                plan.handle_welcome(Timestamp::ZERO, &others);
                assert_eq!(plan.endpoint().to_string(), "d:1", "{own:?} welcomed with {others:?}");
                plan.handle_end(Timestamp::ZERO, Retry::BackOff, &[]);
                assert_eq!(plan.endpoint().to_string(), "d:1", "a lost win is looked for there");
            }
            let mut round = Vec::new();
            for _ in expected_round {
                plan.handle_end(Timestamp::ZERO, Retry::BackOff, &[]);
                round.push(plan.endpoint().to_string());
            }
            round.sort();
            assert_eq!(round, expected_round, "afterwards every node gets its turn, once");
        };
        check(&["a:1"], &[], &["a:1", "d:1"]);
        check(&["a:1"], &["b:1", "c:1"], &["a:1", "b:1", "c:1", "d:1"]);
        check(&["a:1", "b:1"], &["b:1", "c:1"], &["a:1", "b:1", "c:1", "d:1"]);
        check(&["a:1", "d:1"], &["b:1"], &["a:1", "b:1", "d:1"]);
    }

    #[test]
    fn the_node_itself_is_no_other() {
        let mut plan = plan(&["a:1"], 3);
        plan.handle_welcome(Timestamp::ZERO, &["a:1".to_owned()]);
        assert!(!plan.knows_others());
        plan.handle_welcome(Timestamp::ZERO, &["b:1".to_owned()]);
        assert!(plan.knows_others());
        let elsewhere = Retry::After { delay_ms: 0, jitter_ms: 0 };
        let attempt = plan.handle_end(Timestamp::ZERO, elsewhere, &[]).expect("goes on");
        assert!(attempt.at.ms() <= BackOff::default().first_ms_max && !attempt.was_asked);
        assert_eq!(plan.endpoint().to_string(), "b:1", "at its own pace");
    }

    #[test]
    fn a_node_without_room_is_left_alone_longer_each_time_but_never_shorter_than_it_says() {
        let now = Timestamp::ZERO;
        let (mut said, mut own) = (0, 0);
        for seed in 0..100 {
            let mut plan = plan(&["a:1", "b:1"], seed);
            let no_room = Retry::Overloaded { delay_ms: 2_000, jitter_ms: 1_000 };
            for failure in 0..10_u32 {
                let here = plan.endpoint().clone();
                let mut attempt = plan.handle_end(now, no_room, &[]).expect("goes on");
                let range_ms = (1_000_u64 << failure).clamp(3_000, 30_000);
                let wait_ms = attempt.at.ms();
                assert!((2_000..=range_ms).contains(&wait_ms), "{failure}: {wait_ms}");
                *if wait_ms <= 3_000 { &mut said } else { &mut own } += 1;
                plan.hurry(now, &mut attempt);
                assert_eq!(attempt.at.ms(), wait_ms, "the server's word");
                assert_ne!(*plan.endpoint(), here, "there is no room here");
            }
        }
        assert!(own > 500 && said > 200, "{own} of its own, {said} as the server said");
    }

    #[test]
    fn only_overload_is_a_failure_of_the_node() {
        let check = |reason, class, expected| {
            let endpoints = Vec::new();
            let goaway = GoAway { reason, class, delay_ms: 5, jitter_ms: 7, endpoints };
            assert_eq!(Retry::from_goaway(&goaway), expected, "{goaway:?}");
        };
        let after = Retry::After { delay_ms: 5, jitter_ms: 7 };
        let overloaded = Retry::Overloaded { delay_ms: 5, jitter_ms: 7 };
        check(GoAwayReason::Overload, RetryClass::After, overloaded);
        check(GoAwayReason::Overload, RetryClass::Never, Retry::Never);
        check(GoAwayReason::Drain, RetryClass::After, after);
        check(GoAwayReason::Replaced, RetryClass::Never, Retry::Never);
    }

    #[test]
    fn a_changed_network_is_no_failure_of_the_node() {
        let now = Timestamp::ZERO;
        let first_ms_max = BackOff::default().first_ms_max;
        for seed in 0..100 {
            let mut plan = plan(&["a:1", "b:1"], seed);
            plan.handle_end(now, Retry::BackOff, &[]);
            plan.handle_welcome(now, &[]);
            let here = plan.endpoint().clone();
            plan.handle_end(now, Retry::BackOff, &[]);
            let failure_count = plan.failure_count;
            for _ in 0..10 {
                let attempt = plan.handle_end(now, Retry::NetworkChanged, &[]).expect("goes on");
                assert!(attempt.at.ms() <= first_ms_max, "{attempt:?}");
                assert!(!attempt.token_must_be_new && !attempt.was_asked, "{attempt:?}");
                assert_eq!(*plan.endpoint(), here, "a lost win is still looked for there");
            }
            assert_eq!(plan.failure_count, failure_count);
            plan.handle_end(now, Retry::BackOff, &[]);
            assert_ne!(*plan.endpoint(), here, "but a failure is one");
        }
    }

    #[test]
    fn m6_a_refused_session_token_is_renewed_for_the_same_node_but_once() {
        let mut plan = plan(&["a:1", "b:1", "c:1"], 4);
        let here = plan.endpoint().clone();
        plan.handle_end(Timestamp::ZERO, Retry::Reauthenticate, &[]);
        assert_eq!(*plan.endpoint(), here, "the token was at fault");
        plan.handle_end(Timestamp::ZERO, Retry::Reauthenticate, &[]);
        assert_ne!(*plan.endpoint(), here, "a node that refuses a new one may lack a key");
    }

    #[test]
    fn m6_a_refused_ticket_is_no_failure_of_the_node_and_the_token_is_shown_there_at_once() {
        let check = |failures: u32, welcomed: bool| {
            let now = Timestamp::ZERO;
            let mut plan = plan(&["a:1", "b:1", "c:1"], 4);
            for _ in 0..failures {
                plan.handle_end(now, Retry::BackOff, &[]);
            }
            if welcomed {
                plan.handle_welcome(now, &[]);
                plan.handle_end(now, Retry::BackOff, &[]);
            }
            let (here, failure_count) = (plan.endpoint().clone(), plan.failure_count);
            let attempt = plan.handle_end(now, Retry::WithToken, &[]);
            let expected = Attempt { at: now, token_must_be_new: false, was_asked: false };
            assert_eq!(attempt, Some(expected), "after {failures} failures");
            assert_eq!(*plan.endpoint(), here, "after {failures} failures");
            assert_eq!(plan.failure_count, failure_count, "the next wait is not longer for it");
            plan.handle_end(now, Retry::BackOff, &[]);
            assert_ne!(*plan.endpoint(), here, "but a failure with the token is one");
        };
        check(0, false);
        check(7, false);
        check(0, true);
        check(7, true);
    }

    #[test]
    fn nobody_is_sent_from_encryption_into_the_open() {
        let check = |own: &str, named: &[&str], goes_to: &str| {
            let mut plan = plan(&[own], 1);
            let named: Vec<String> = named.iter().map(|text| (*text).to_owned()).collect();
            plan.handle_end(Timestamp::ZERO, Retry::Now, &named);
            assert_eq!(plan.endpoint().to_string(), goes_to, "from {own} to {named:?}");
        };
        check("tls://a:1", &["b:1"], "tls://a:1");
        check("tls://a:1", &["b:1", "quic://b:1"], "quic://b:1");
        check("tls://a:1", &["carrier-pigeon://b:1"], "tls://a:1");
        check("a:1", &["carrier-pigeon://b:1", "b:1"], "b:1");
        check("a:1", &["tls+quic://b:1"], "tls+quic://b:1");
    }

    #[test]
    fn only_waits_of_our_own_are_cut_short() {
        let now = Timestamp::ZERO;
        for seed in 0..100 {
            let mut plan = plan(&["a:1"], seed);
            let mut asked = plan.start(now, Some(90_000));
            plan.hurry(now, &mut asked);
            assert_eq!(asked.at.ms(), 90_000, "the event's plan");
            let after = Retry::After { delay_ms: 50_000, jitter_ms: 0 };
            let mut asked = plan.handle_end(now, after, &[]).expect("goes on");
            plan.hurry(now, &mut asked);
            assert_eq!(asked.at.ms(), 50_000, "the server's word");
            for _ in 0..8 {
                plan.handle_end(now, Retry::BackOff, &[]);
            }
            let mut own = plan.handle_end(now, Retry::BackOff, &[]).expect("goes on");
            let before = own.at;
            plan.hurry(now, &mut own);
            assert!(own.at <= before && own.at.ms() <= BackOff::default().first_ms_max);
        }
    }
}
