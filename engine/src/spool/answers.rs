//! What settlement says: whether it answers this very batch, and what became of each open.
//!
//! An answer that does not match its batch in every field changes nothing but a counter (M7): the
//! agent that brought it can be broken or hostile, and the batch is sent again.

use super::{
    DeadLetter, Mismatch, Output, Settings, Spool,
    delivery::{Outgoing, State},
};
use crate::Timestamp;
use yao_protocol::settlement::{Answer, OpenResult};

impl Spool {
    pub(super) fn handle_delivered(
        &mut self,
        now: Timestamp,
        request_id: u32,
        answer: &Answer,
        answer_digest: [u8; 32],
    ) {
        let settings = &self.settings;
        // An answer that came twice, or after its batch was given up and answered: nothing to do.
        let Some(batch) = self.delivery.batch(request_id) else { return };
        if let Err(why) = check_answer(settings, batch, answer) {
            self.refuse_answer(now, request_id, why);
            return;
        }
        let first = batch.first_sequence;
        let batch = self.delivery.take(first, answer_digest);
        for ((sequence, open), result) in batch.records.into_iter().zip(&answer.results) {
            self.count_result(*result);
            if is_dead(*result) {
                self.ready.push_back(Output::DeadLetter(DeadLetter {
                    sequence,
                    open,
                    result: *result,
                    settled_at: answer.settled_at,
                }));
            }
        }
        self.delivery.advance();
    }

    pub(super) fn refuse_answer(&mut self, now: Timestamp, request_id: u32, why: Mismatch) {
        self.counters.forged_answers += 1;
        self.ready.push_back(Output::AnswerRefused { request_id, why });
        self.delivery.retry(now, request_id, 0);
    }

    const fn count_result(&mut self, result: OpenResult) {
        let counters = &mut self.counters;
        counters.settled += 1;
        let counter = match result {
            OpenResult::Applied => &mut counters.applied,
            OpenResult::Same => &mut counters.same,
            OpenResult::Conflict => &mut counters.conflict,
            OpenResult::OverLimit => &mut counters.over_limit,
            OpenResult::Expired => &mut counters.expired,
            OpenResult::Invalid => &mut counters.invalid,
            OpenResult::Reclaimed => &mut counters.reclaimed,
        };
        *counter += 1;
    }
}

/// Whether nobody will ever be paid for an open that this node accepted, and somebody must look.
const fn is_dead(result: OpenResult) -> bool {
    matches!(result, OpenResult::Conflict | OpenResult::Invalid | OpenResult::Reclaimed)
}

/// Whether `answer`, whose signature is settlement's, answers exactly this batch.
fn check_answer(settings: &Settings, batch: &Outgoing, answer: &Answer) -> Result<(), Mismatch> {
    let ours = (settings.campaign, settings.shard, settings.epoch, settings.incarnation);
    let theirs = (answer.campaign, answer.shard, answer.epoch, answer.incarnation);
    let range = (batch.first_sequence, batch.last_sequence);
    if theirs != ours || (answer.first_sequence, answer.last_sequence) != range {
        return Err(Mismatch::OtherBatch);
    }
    if batch.state == State::Signing || answer.batch_digest != batch.digest {
        return Err(Mismatch::Digest);
    }
    if answer.results.len() != batch.records.len() {
        return Err(Mismatch::Count);
    }
    Ok(())
}
