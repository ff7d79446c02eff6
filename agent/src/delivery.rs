//! Batches on their way to settlement: which are posted, and what the access process hears. A pure
//! state machine; sockets and HTTP are its effects.
//!
//! A batch is tried once and its outcome reported: the access process, which has it on disk,
//! decides when to ask again. The request id names the batch, so that one sent again while it is
//! under way is not posted twice. The answer's bytes pass through untouched: they are signed (M7).

use crate::backoff::{BACKOFF_MS_MIN, Backoff};
use std::collections::{BTreeMap, VecDeque};
use yao_protocol::limits::AGENT_PAYLOAD_BYTES_MAX;

/// Requests to settlement at once.
pub const POSTS_MAX: usize = 4;
/// Batches held at once. The access process has at most 64 under way; a batch beyond is sent back.
const OUTSTANDING_MAX: usize = 256;

/// What came of a POST.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// HTTP 200 with this body.
    Answered(Vec<u8>),
    /// HTTP 503: not now.
    Busy {
        /// Retry-After, where it was given.
        retry_after_ms: Option<u32>,
    },
    /// No whole answer: refused, broken or timed out.
    Unreachable {
        /// For the log.
        reason: String,
    },
    /// Any other status: settlement will not take this batch. Somebody must look.
    Refused {
        /// The HTTP status.
        status: u16,
        /// The first line of its text.
        text: String,
    },
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Post this batch, and report with [`Delivery::handle_outcome`].
    Post {
        /// Its id.
        request_id: u32,
        /// The signed batch.
        batch: Vec<u8>,
    },
    /// Send settlement's answer down.
    Delivered {
        /// Of which batch.
        request_id: u32,
        /// The body, untouched.
        answer: Vec<u8>,
    },
    /// Say that the batch did not arrive.
    Undelivered {
        /// Which batch.
        request_id: u32,
        /// When to ask again, ms.
        retry_after_ms: u32,
    },
}

/// All batches that this agent holds.
#[derive(Debug)]
pub struct Delivery {
    /// Waiting for a free POST, oldest first.
    queue: VecDeque<u32>,
    /// Held batches; the bytes leave with the POST. Invariant: every id of `queue` is here with its
    /// bytes, every other one here is being posted.
    outstanding: BTreeMap<u32, Option<Vec<u8>>>,
    posts: usize,
    replies: VecDeque<Output>,
    backoff: Backoff,
    draining: bool,
}

impl Delivery {
    /// Nothing held yet; `seed` makes this agent's waits differ from those of others.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self {
            queue: VecDeque::new(),
            outstanding: BTreeMap::new(),
            posts: 0,
            replies: VecDeque::new(),
            backoff: Backoff::new(seed),
            draining: false,
        }
    }

    /// The access process hands over a batch.
    pub fn handle_batch(&mut self, request_id: u32, batch: &[u8]) {
        if self.outstanding.contains_key(&request_id) {
            return;
        }
        if self.draining || self.outstanding.len() >= OUTSTANDING_MAX {
            let retry_after_ms = BACKOFF_MS_MIN;
            self.replies.push_back(Output::Undelivered { request_id, retry_after_ms });
            return;
        }
        self.outstanding.insert(request_id, Some(batch.to_vec()));
        self.queue.push_back(request_id);
    }

    /// A POST ended.
    ///
    /// # Panics
    /// When no such POST was asked for.
    pub fn handle_outcome(&mut self, request_id: u32, outcome: Outcome) {
        let held = self.outstanding.remove(&request_id);
        assert_eq!(held, Some(None), "only what was posted has an outcome");
        self.posts -= 1;
        let retry_after_ms = match outcome {
            Outcome::Answered(answer) if answer.len() <= AGENT_PAYLOAD_BYTES_MAX => {
                self.backoff.reset();
                self.replies.push_back(Output::Delivered { request_id, answer });
                return;
            }
            Outcome::Busy { retry_after_ms: Some(asked) } => self.backoff.next_ms().max(asked),
            Outcome::Answered(_)
            | Outcome::Busy { retry_after_ms: None }
            | Outcome::Unreachable { .. }
            | Outcome::Refused { .. } => self.backoff.next_ms(),
        };
        self.replies.push_back(Output::Undelivered { request_id, retry_after_ms });
    }

    /// Take no more; what is not posted yet goes back at once.
    pub fn handle_drain(&mut self) {
        self.draining = true;
        for request_id in std::mem::take(&mut self.queue) {
            self.outstanding.remove(&request_id);
            let retry_after_ms = BACKOFF_MS_MIN;
            self.replies.push_back(Output::Undelivered { request_id, retry_after_ms });
        }
    }

    /// The next thing to do; `None` until the next input.
    pub fn poll(&mut self) -> Option<Output> {
        if let Some(reply) = self.replies.pop_front() {
            return Some(reply);
        }
        if self.posts >= POSTS_MAX {
            return None;
        }
        let request_id = self.queue.pop_front()?;
        let held = self.outstanding.get_mut(&request_id).and_then(Option::take);
        self.posts += 1;
        Some(Output::Post { request_id, batch: held.expect("queued batches are held") })
    }

    /// Whether nothing is held and nothing more will be taken.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.draining && self.outstanding.is_empty() && self.replies.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(delivery: &mut Delivery) -> Vec<Output> {
        std::iter::from_fn(|| delivery.poll()).collect()
    }

    fn post(request_id: u32) -> Output {
        Output::Post { request_id, batch: vec![u8::try_from(request_id).expect("small")] }
    }

    fn with_batches(ids: std::ops::RangeInclusive<u32>) -> Delivery {
        let mut delivery = Delivery::new(1);
        for id in ids {
            delivery.handle_batch(id, &[u8::try_from(id).expect("small")]);
        }
        delivery
    }

    fn wait_ms(delivery: &mut Delivery, request_id: u32, outcome: Outcome) -> u32 {
        delivery.handle_outcome(request_id, outcome);
        match delivery.poll() {
            Some(Output::Undelivered { request_id: id, retry_after_ms }) if id == request_id => {
                retry_after_ms
            }
            other => panic!("expected UNDELIVERED, got {other:?}"),
        }
    }

    fn unreachable() -> Outcome {
        Outcome::Unreachable { reason: "refused".to_owned() }
    }

    #[test]
    fn four_at_once_in_order_and_the_answer_untouched() {
        let mut delivery = with_batches(1..=6);
        assert_eq!(drain(&mut delivery), [post(1), post(2), post(3), post(4)]);
        delivery.handle_outcome(3, Outcome::Answered(vec![0, 255, 3]));
        let answer = vec![0, 255, 3];
        assert_eq!(drain(&mut delivery), [Output::Delivered { request_id: 3, answer }, post(5)]);
    }

    #[test]
    fn a_batch_sent_again_while_under_way_is_posted_once() {
        let mut delivery = with_batches(1..=5);
        delivery.handle_batch(5, &[5]);
        assert_eq!(drain(&mut delivery).len(), 4);
        delivery.handle_batch(1, &[1]);
        delivery.handle_outcome(1, Outcome::Answered(Vec::new()));
        assert_eq!(drain(&mut delivery).pop(), Some(post(5)));
        for id in 2..=5 {
            delivery.handle_outcome(id, Outcome::Answered(Vec::new()));
        }
        assert!(drain(&mut delivery).iter().all(|o| matches!(o, Output::Delivered { .. })));
        // Once answered, the same id is asked again: settlement answers SAME.
        delivery.handle_batch(1, &[1]);
        assert_eq!(drain(&mut delivery), [post(1)]);
    }

    #[test]
    fn waits_double_from_50_ms_to_5_s_and_begin_again_after_an_answer() {
        let mut delivery = Delivery::new(7);
        for whole in [50, 100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000] {
            delivery.handle_batch(1, &[1]);
            assert_eq!(drain(&mut delivery), [post(1)]);
            let wait = wait_ms(&mut delivery, 1, unreachable());
            assert!((whole / 2..=whole).contains(&wait), "{wait} ms for {whole}");
        }
        delivery.handle_batch(1, &[1]);
        drain(&mut delivery);
        delivery.handle_outcome(1, Outcome::Answered(Vec::new()));
        drain(&mut delivery);
        delivery.handle_batch(1, &[1]);
        drain(&mut delivery);
        assert!(wait_ms(&mut delivery, 1, unreachable()) <= 50);
    }

    #[test]
    fn retry_after_is_honoured_and_a_refusal_is_undelivered() {
        let mut delivery = with_batches(1..=3);
        drain(&mut delivery);
        assert_eq!(wait_ms(&mut delivery, 1, Outcome::Busy { retry_after_ms: Some(9_000) }), 9_000);
        assert!(wait_ms(&mut delivery, 2, Outcome::Busy { retry_after_ms: None }) <= 100);
        let refused = Outcome::Refused { status: 400, text: "unreadable".to_owned() };
        assert!(wait_ms(&mut delivery, 3, refused) <= 200);
    }

    #[test]
    fn an_answer_beyond_one_frame_is_not_an_answer() {
        let mut delivery = with_batches(1..=1);
        drain(&mut delivery);
        wait_ms(&mut delivery, 1, Outcome::Answered(vec![0; AGENT_PAYLOAD_BYTES_MAX + 1]));
    }

    #[test]
    fn draining_finishes_what_is_posted_and_returns_the_rest() {
        let mut delivery = with_batches(1..=6);
        drain(&mut delivery);
        delivery.handle_drain();
        delivery.handle_batch(7, &[7]);
        let returned: Vec<u32> = drain(&mut delivery)
            .into_iter()
            .map(|output| match output {
                Output::Undelivered { request_id, .. } => request_id,
                other => panic!("nothing new is posted: {other:?}"),
            })
            .collect();
        assert_eq!(returned, [5, 6, 7]);
        for id in 1..=4 {
            assert!(!delivery.is_drained());
            delivery.handle_outcome(id, Outcome::Answered(vec![1]));
        }
        assert!(!delivery.is_drained(), "answers still wait to be sent");
        assert_eq!(drain(&mut delivery).len(), 4);
        assert!(delivery.is_drained());
    }

    #[test]
    fn what_is_held_is_bounded() {
        let mut delivery = Delivery::new(1);
        for id in 0..300 {
            delivery.handle_batch(id, &[0]);
        }
        let outputs = drain(&mut delivery);
        let returned = outputs.iter().filter(|o| matches!(o, Output::Undelivered { .. })).count();
        assert_eq!(returned, 300 - OUTSTANDING_MAX);
    }
}
