//! The node where a win may be recorded whose answer was lost (M6): how a later life of the app
//! finds it, and that it is not left for failures that are not its own.

use super::{Reconnect, Retry};
use crate::limits::OWN_FAILURES_MAX;
use yao_protocol::endpoint::Endpoint;

/// Failures in a row that say nothing about a node.
#[derive(Clone, Copy, Debug)]
pub(super) struct OwnFailures {
    /// Where the first of them was met.
    home_index: usize,
    pub(super) count: u32,
}

impl Reconnect {
    /// An earlier life of the app waits for an answer of this node: it is tried first, also where
    /// only its predecessor named it.
    pub fn return_to(&mut self, endpoint: &str) {
        let Ok(home) = endpoint.parse::<Endpoint>() else { return };
        if self.position(&home).is_none() {
            self.learn(std::slice::from_ref(&home));
        }
        // Not even learned: it is a plain one, and the app wants encryption now.
        self.current_index = self.position(&home).unwrap_or(self.current_index);
    }

    /// A failure that is no fault of the node: it is tried again. Its name or its way may be gone
    /// for ever, so after several of them the others get one attempt each in between.
    pub(super) fn handle_own_failure(&mut self, retry: Retry) {
        let first = OwnFailures { home_index: self.current_index, count: 0 };
        let OwnFailures { home_index, count } = self.own_failures.unwrap_or(first);
        let count = count.saturating_add(1);
        self.own_failures = Some(OwnFailures { home_index, count });
        let all_count = self.endpoints.len() + self.learned.len();
        let round = count / (OWN_FAILURES_MAX + 1);
        let is_turn_of_others = count % (OWN_FAILURES_MAX + 1) == OWN_FAILURES_MAX;
        let mut step = 0;
        if retry == Retry::NoRoute && is_turn_of_others && all_count > 1 {
            step = 1 + round as usize % (all_count - 1);
        }
        self.current_index = (home_index + step) % all_count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{reconnect::BackOff, time::Timestamp};

    const NOW: Timestamp = Timestamp::ZERO;

    fn plan(names: &[&str], seed: u64) -> Reconnect {
        let endpoints = names.iter().map(|name| name.parse().expect("an endpoint")).collect();
        Reconnect::new(endpoints, BackOff::default(), seed, seed)
    }

    fn end(plan: &mut Reconnect, retry: Retry) -> String {
        plan.handle_end(NOW, retry, &[]).expect("goes on");
        plan.endpoint().to_string()
    }

    #[test]
    fn m6_the_next_life_begins_where_the_last_one_waits_for_an_answer() {
        let check = |own: &[&str], home: &str, expected: Option<&str>| {
            for seed in 0..20 {
                let mut plan = plan(own, seed);
                let first = plan.endpoint().to_string();
                plan.return_to(home);
                let begins = plan.endpoint().to_string();
                assert_eq!(begins, expected.map_or(first, str::to_owned), "{own:?}, {home}");
                // It is a node like the others: its failure is one.
                let mut round = vec![begins.clone()];
                round.extend((0..4).map(|_| end(&mut plan, Retry::BackOff)));
                for name in own {
                    let name = name.parse::<Endpoint>().expect("an endpoint").to_string();
                    assert!(round.contains(&name), "{name} in {round:?}");
                }
            }
        };
        check(&["a:1", "b:1", "c:1"], "b:1", Some("b:1"));
        check(&["a:1", "b:1", "c:1"], "d:1", Some("d:1"));
        check(&["a:1", "b:1", "c:1"], "carrier-pigeon://d:1", None);
        check(&["tls://a:1", "tls://b:1"], "a:1", None);
        check(&["tls://a:1", "tls://b:1"], "quic://d:1", Some("quic://d:1"));
    }

    #[test]
    fn m6_what_is_no_fault_of_the_node_is_no_reason_to_leave_it_for_good() {
        for (seed, names) in [(1, &["a:1", "b:1", "c:1"][..]), (2, &["a:1", "b:1"]), (3, &["a:1"])]
        {
            let mut plan = plan(names, seed);
            plan.handle_welcome(NOW, &[]);
            end(&mut plan, Retry::BackOff);
            let home = plan.endpoint().to_string();
            let mut elsewhere = Vec::new();
            for _ in 0..2 {
                for failure in 1..OWN_FAILURES_MAX {
                    assert_eq!(end(&mut plan, Retry::NoRoute), home, "failure {failure}");
                }
                elsewhere.push(end(&mut plan, Retry::NoRoute));
                // There was no way to that one either: it is the device.
                assert_eq!(end(&mut plan, Retry::NoRoute), home, "after {elsewhere:?}");
            }
            elsewhere.sort();
            elsewhere.dedup();
            let others = names.len() - 1;
            let away = elsewhere.iter().filter(|name| **name != home).count();
            assert_eq!(away, others.min(2), "each of the others got its attempt: {elsewhere:?}");
            // A failure of the node itself is one all the same.
            let next = end(&mut plan, Retry::BackOff);
            assert_eq!(next == home, others == 0, "{next}");
        }
    }

    #[test]
    fn m6_an_app_that_gives_no_token_leads_to_no_other_node() {
        let mut plan = plan(&["a:1", "b:1", "c:1"], 4);
        let home = plan.endpoint().to_string();
        for _ in 0..20 {
            assert_eq!(end(&mut plan, Retry::NoToken), home);
        }
        // The first word of the node itself: its refusal counts as the first.
        assert_eq!(end(&mut plan, Retry::Reauthenticate), home, "the token was at fault");
        assert_ne!(end(&mut plan, Retry::Reauthenticate), home, "the next one, too");
    }

    #[test]
    fn waits_grow_with_failures_of_our_own_and_the_other_node_is_kept_once_it_welcomes() {
        for retry in [Retry::NoRoute, Retry::NoToken] {
            let mut longest_ms = [0; 8];
            for seed in 0..200 {
                let mut plan = plan(&["a:1", "b:1"], seed);
                for (failure, longest_ms) in longest_ms.iter_mut().enumerate() {
                    let attempt = plan.handle_end(NOW, retry, &[]).expect("goes on");
                    assert!(!attempt.was_asked && !attempt.token_must_be_new);
                    assert!(attempt.at.ms() <= 30_000.min(1_000 << failure), "{attempt:?}");
                    *longest_ms = attempt.at.ms().max(*longest_ms);
                }
            }
            assert!(longest_ms[0] > 800 && longest_ms[3] > 6_000, "{longest_ms:?}");
            assert!(longest_ms[7] > 24_000, "{longest_ms:?}");
        }
        let mut plan = plan(&["a:1", "b:1"], 1);
        for _ in 0..OWN_FAILURES_MAX {
            end(&mut plan, Retry::NoRoute);
        }
        let away = plan.endpoint().to_string();
        plan.handle_welcome(NOW, &[]);
        for _ in 0..OWN_FAILURES_MAX - 1 {
            assert_eq!(end(&mut plan, Retry::NoRoute), away, "home is here now");
        }
    }
}
