//! What was asked of an agent and not answered: sent again to its successor, but for requests for
//! grants, which their owner makes anew. Pure and bounded.
//!
//! A vet is forgotten at its deadline, because its owner has answered yes by then. A batch stays
//! until it is answered; the spool holds it on disk in any case (M7).

use hashbrown::HashMap;
use std::collections::{BTreeMap, VecDeque};
use yao_engine::Timestamp;
use yao_protocol::agent::{Question, VetKind};

/// Wins, and likewise opens, that are remembered at once: what each owner has in flight at most.
pub const VETS_MAX: usize = 1_024;
/// Batches remembered at once: `spool.batches_in_flight_max` is at most this.
pub const BATCHES_MAX: usize = 64;
/// Answers to requests for grants of one id that are awaited at once: the issuer gives an answer up
/// and asks once more, and then the one that is late must not take the other one's place.
const GRANTS_MAX: u8 = 2;

/// Unanswered vets and batches.
#[derive(Debug, Default)]
pub struct InFlight {
    vets: HashMap<u64, Question>,
    wins: usize,
    opens: usize,
    /// Calls by deadline; answered ones are skipped when reached.
    order: VecDeque<(Timestamp, u64)>,
    batches: BTreeMap<u32, Vec<u8>>,
    /// How many answers are awaited, by request id: as many ids as the shard has waves.
    grants: BTreeMap<u32, u8>,
}

impl InFlight {
    /// Remembers `question` until `deadline`; `false` when there is no room.
    pub fn vet(&mut self, now: Timestamp, deadline: Timestamp, question: Question) -> bool {
        self.forget(now);
        let call = question.vet.call;
        let count = match question.vet.kind {
            VetKind::Win => &mut self.wins,
            VetKind::Open => &mut self.opens,
            // Probes are the link's own affair.
            VetKind::Probe => return false,
        };
        // The order is bounded apart: answered calls stay in it until their deadline, and an owner
        // that is answered at once could otherwise lengthen it without end.
        if *count >= VETS_MAX || self.order.len() >= VETS_MAX * 64 || self.vets.contains_key(&call)
        {
            return false;
        }
        *count += 1;
        self.order.push_back((deadline, call));
        self.vets.insert(call, question);
        true
    }

    /// A verdict came: what the call was about, unless nobody waits for it.
    pub fn verdict(&mut self, call: u64) -> Option<VetKind> {
        let kind = self.vets.remove(&call)?.vet.kind;
        match kind {
            VetKind::Win => self.wins -= 1,
            VetKind::Open => self.opens -= 1,
            VetKind::Probe => unreachable!("never remembered"),
        }
        Some(kind)
    }

    /// Remembers a batch; the same id again replaces it. `false` when there is no room.
    pub fn batch(&mut self, request_id: u32, batch: Vec<u8>) -> bool {
        if self.batches.len() >= BATCHES_MAX && !self.batches.contains_key(&request_id) {
            return false;
        }
        self.batches.insert(request_id, batch);
        true
    }

    /// A batch was answered or sent back; `false` when it was not under way.
    pub fn batch_ended(&mut self, request_id: u32) -> bool {
        self.batches.remove(&request_id).is_some()
    }

    /// A request for a grant was handed over.
    pub fn grant(&mut self, request_id: u32) {
        let awaited = self.grants.entry(request_id).or_default();
        *awaited = (*awaited + 1).min(GRANTS_MAX);
    }

    /// An answer to a request for a grant came; `false` when none is awaited.
    pub fn grant_ended(&mut self, request_id: u32) -> bool {
        let Some(awaited) = self.grants.get_mut(&request_id) else { return false };
        *awaited -= 1;
        if *awaited == 0 {
            self.grants.remove(&request_id);
        }
        true
    }

    /// Forgets the vets whose deadline has passed.
    pub fn forget(&mut self, now: Timestamp) {
        while let Some((deadline, call)) = self.order.front().copied()
            && deadline <= now
        {
            self.order.pop_front();
            self.verdict(call);
        }
    }

    /// Unanswered vets, oldest first.
    pub fn vets(&self) -> impl Iterator<Item = &Question> {
        self.order.iter().filter_map(|(_, call)| self.vets.get(call))
    }

    /// Unanswered batches by rising id.
    pub fn batches(&self) -> impl Iterator<Item = (u32, &[u8])> {
        self.batches.iter().map(|(request_id, batch)| (*request_id, batch.as_slice()))
    }

    /// How many vets and batches are unanswered.
    pub fn counts(&self) -> (usize, usize) {
        (self.vets.len(), self.batches.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use yao_protocol::{
        Fen, PacketId, ShakeId, SponsorId, UserId,
        agent::{Standing, Vet},
    };

    fn at(ms: u64) -> Timestamp {
        Timestamp::default().plus_ms(ms)
    }

    fn vet(call: u64, kind: VetKind) -> Question {
        let vet = Vet {
            call,
            kind,
            user: UserId(1),
            sponsor: SponsorId::new(0).expect("below 64"),
            amount: Fen(1),
            packet: PacketId(1),
            shake: ShakeId(1),
        };
        Question { vet, standing: Standing::default() }
    }

    #[test]
    fn a_vet_is_remembered_until_answered_or_due() {
        let mut table = InFlight::default();
        assert!(table.vet(at(0), at(20), vet(1, VetKind::Win)));
        assert!(table.vet(at(1), at(21), vet(2, VetKind::Open)));
        assert!(table.vet(at(2), at(22), vet(3, VetKind::Win)));
        assert_eq!(table.verdict(2), Some(VetKind::Open));
        assert_eq!(table.verdict(2), None, "the second answer finds nobody");
        let calls =
            |table: &InFlight| table.vets().map(|question| question.vet.call).collect::<Vec<_>>();
        assert_eq!(calls(&table), [1, 3]);
        table.forget(at(20));
        assert_eq!(calls(&table), [3]);
        table.forget(at(22));
        assert_eq!(table.counts(), (0, 0));
    }

    #[test]
    fn wins_and_opens_are_bounded_apart() {
        let mut table = InFlight::default();
        for call in 0..1_024 {
            assert!(table.vet(at(0), at(20), vet(call, VetKind::Win)));
        }
        assert!(!table.vet(at(0), at(20), vet(5_000, VetKind::Win)));
        assert!(table.vet(at(0), at(20), vet(5_001, VetKind::Open)));
        assert!(table.vet(at(20), at(40), vet(5_002, VetKind::Win)), "the old ones are due");
        assert_eq!(table.counts().0, 1);
    }

    #[test]
    fn an_answer_about_a_grant_is_awaited_once_for_each_request() {
        let mut table = InFlight::default();
        assert!(!table.grant_ended(3), "nothing was asked");
        (0..5).for_each(|_| table.grant(3));
        table.grant(4);
        assert!(table.grant_ended(3) && table.grant_ended(3));
        assert!(!table.grant_ended(3), "however often it was asked");
        assert!(table.grant_ended(4) && !table.grant_ended(4));
    }

    #[test]
    fn batches_are_bounded_and_replaced_by_id() {
        let mut table = InFlight::default();
        for id in 0..64 {
            assert!(table.batch(id, vec![1]));
        }
        assert!(!table.batch(64, vec![1]));
        assert!(table.batch(3, vec![2]), "the same batch once more");
        assert_eq!(table.batches().nth(3), Some((3, &[2][..])));
        assert!(table.batch_ended(3));
        assert!(!table.batch_ended(3));
        assert!(table.batch(64, vec![1]));
    }
}
