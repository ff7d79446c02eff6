//! Requests for grants on their way to settlement: which are posted, and what the access process
//! hears. A pure state machine, beside that of batches, so that neither waits for the other.
//!
//! A request is tried once and its outcome reported: the access process, whose right it is, decides
//! when to ask again. The answer's bytes pass through untouched: they are signed (M4).

use crate::{
    backoff::{BACKOFF_MS_MIN, Backoff},
    delivery::Outcome,
};
use std::collections::{BTreeSet, VecDeque};
use yao_protocol::limits::WAVES_MAX;

/// Requests under way at once: one for each wave.
const POSTS_MAX: usize = WAVES_MAX;

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Post this request, and report with [`Grants::handle_outcome`].
    Post {
        /// Its id.
        request_id: u32,
        /// The signed request.
        request: Vec<u8>,
    },
    /// Send settlement's answer down.
    Answer {
        /// To which request.
        request_id: u32,
        /// The body, untouched.
        answer: Vec<u8>,
    },
    /// Say that the request did not arrive.
    Unanswered {
        /// Which request.
        request_id: u32,
        /// When to ask again, ms.
        retry_after_ms: u32,
    },
}

/// All requests that this agent holds.
#[derive(Debug)]
pub struct Grants {
    posts: BTreeSet<u32>,
    outputs: VecDeque<Output>,
    backoff: Backoff,
    draining: bool,
}

impl Grants {
    /// Nothing held yet; `seed` makes this agent's waits differ from those of others.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self {
            posts: BTreeSet::new(),
            outputs: VecDeque::new(),
            backoff: Backoff::new(seed),
            draining: false,
        }
    }

    /// The access process hands over a request.
    pub fn handle_request(&mut self, request_id: u32, request: &[u8]) {
        if self.draining || self.posts.len() >= POSTS_MAX || !self.posts.insert(request_id) {
            let retry_after_ms = BACKOFF_MS_MIN;
            self.outputs.push_back(Output::Unanswered { request_id, retry_after_ms });
            return;
        }
        self.outputs.push_back(Output::Post { request_id, request: request.to_vec() });
    }

    /// A POST ended.
    ///
    /// # Panics
    /// When no such POST was asked for.
    pub fn handle_outcome(&mut self, request_id: u32, outcome: Outcome) {
        assert!(self.posts.remove(&request_id), "only what was posted has an outcome");
        let output = match outcome {
            Outcome::Answered(answer) => {
                self.backoff.reset();
                Output::Answer { request_id, answer }
            }
            Outcome::Busy { retry_after_ms } => {
                let retry_after_ms = self.backoff.next_ms().max(retry_after_ms.unwrap_or(0));
                Output::Unanswered { request_id, retry_after_ms }
            }
            Outcome::Unreachable { .. } | Outcome::Refused { .. } => {
                Output::Unanswered { request_id, retry_after_ms: self.backoff.next_ms() }
            }
        };
        self.outputs.push_back(output);
    }

    /// Take no more.
    pub const fn handle_drain(&mut self) {
        self.draining = true;
    }

    /// The next thing to do; `None` until the next input.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Whether nothing is held.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.posts.is_empty() && self.outputs.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(grants: &mut Grants) -> Vec<Output> {
        std::iter::from_fn(|| grants.poll()).collect()
    }

    fn unanswered_ms(outputs: &[Output], id: u32) -> u32 {
        match outputs {
            [Output::Unanswered { request_id, retry_after_ms }] if *request_id == id => {
                *retry_after_ms
            }
            other => panic!("expected that {id} was not answered, got {other:?}"),
        }
    }

    #[test]
    fn a_request_is_posted_once_and_its_answer_passes_untouched() {
        let mut grants = Grants::new(1);
        grants.handle_request(3, &[1, 2]);
        let request = vec![1, 2];
        assert_eq!(drain(&mut grants), [Output::Post { request_id: 3, request }]);
        // The access process gave the first one up, and asks anew: it must not wait for it.
        grants.handle_request(3, &[1, 3]);
        assert_eq!(unanswered_ms(&drain(&mut grants), 3), BACKOFF_MS_MIN);
        grants.handle_outcome(3, Outcome::Answered(vec![0, 255]));
        let answer = vec![0, 255];
        assert_eq!(drain(&mut grants), [Output::Answer { request_id: 3, answer }]);
        assert!(grants.is_idle());
    }

    #[test]
    fn what_does_not_arrive_is_told_with_a_wait_that_grows() {
        let mut grants = Grants::new(1);
        for whole in [50, 100, 200, 400] {
            grants.handle_request(1, &[1]);
            drain(&mut grants);
            grants.handle_outcome(1, Outcome::Unreachable { reason: "refused".to_owned() });
            let wait = unanswered_ms(&drain(&mut grants), 1);
            assert!((whole / 2..=whole).contains(&wait), "{wait} ms for {whole}");
        }
        grants.handle_request(1, &[1]);
        drain(&mut grants);
        grants.handle_outcome(1, Outcome::Busy { retry_after_ms: Some(9_000) });
        assert_eq!(unanswered_ms(&drain(&mut grants), 1), 9_000);
    }

    #[test]
    fn what_is_held_is_bounded_and_a_drain_takes_no_more() {
        let mut grants = Grants::new(1);
        for id in 0..100 {
            grants.handle_request(id, &[1]);
        }
        let posts = drain(&mut grants);
        let posts = posts.iter().filter(|output| matches!(output, Output::Post { .. })).count();
        assert_eq!(posts, POSTS_MAX);
        grants.handle_drain();
        grants.handle_outcome(0, Outcome::Answered(vec![1]));
        drain(&mut grants);
        grants.handle_request(0, &[1]);
        assert_eq!(unanswered_ms(&drain(&mut grants), 0), BACKOFF_MS_MIN);
        assert!(!grants.is_idle(), "others are under way");
    }
}
