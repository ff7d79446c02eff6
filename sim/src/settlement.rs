//! The ledger: its admission, its rules and its real store, on SQLite in memory. The glue stands
//! for `ledger/src/http.rs`. What is committed survives; SQLite's own durability is SQLite's.

use crate::{
    canary::Canary,
    plan::{Event, SETTLEMENT, identity},
};
use std::path::Path;
use yao_ledger::{
    admission::{Admission, admit},
    grants::{GrantPolicy, answer, is_planned},
    state::{Limits, Row},
    store::{Store, Totals},
    writer::{Judged, settle},
};
use yao_protocol::{
    WallTime,
    grant::{Claim, GrantAnswer, GrantRequest, Verdict},
    keys::SignKey,
    settlement::{Batch, digest},
};

/// Rows read at once.
const ROWS: usize = 10_000;

/// What a POST comes to.
#[derive(Debug)]
pub enum Reply<T = Vec<u8>> {
    /// HTTP 200.
    Answer(T),
    /// HTTP 503.
    Busy,
    /// HTTP 400 or 403.
    Refused,
}

impl<T> Reply<T> {
    /// The same with something made of the answer.
    pub fn map<U>(self, make: impl FnOnce(T) -> U) -> Reply<U> {
        match self {
            Self::Answer(answer) => Reply::Answer(make(answer)),
            Self::Busy => Reply::Busy,
            Self::Refused => Reply::Refused,
        }
    }
}

/// The one settlement service of a world.
pub struct Settlement {
    event: &'static Event,
    store: Store,
    key: SignKey,
    canary: Canary,
    grants: GrantPolicy,
    posts: u64,
    changed: bool,
    /// It answers nothing before then, ns.
    pub down_until: u64,
    /// It says "later" until then, ns.
    pub busy_until: u64,
}

impl Settlement {
    /// An empty ledger.
    #[must_use]
    pub fn new(event: &'static Event, grants: GrantPolicy, canary: Canary) -> Self {
        Self {
            event,
            store: Store::open(Path::new(":memory:"), event.campaign).expect("memory"),
            key: SignKey::from_seed(&identity().settlement_seed),
            canary,
            grants,
            posts: 0,
            changed: true,
            down_until: 0,
            busy_until: 0,
        }
    }

    /// A batch arrives.
    pub fn post(&mut self, now_ns: u64, wall: WallTime, bytes: &[u8]) -> Reply {
        if now_ns < self.busy_until {
            return Reply::Busy;
        }
        let Ok(batch) = Batch::decode(bytes, &self.event.keys) else { return Reply::Refused };
        let manifests = std::slice::from_ref(&self.event.manifest);
        let Admission::Judged(genuine) = admit(&batch, manifests, &self.event.keys) else {
            return Reply::Busy;
        };
        self.posts += 1;
        self.changed = true;
        let judged = Judged { batch: &batch, bytes, genuine: &genuine };
        let mut limits = Limits::of(&self.event.manifest);
        limits.wins_per_user += u8::from(self.canary == Canary::PaysFour);
        let signer = (&self.key, SETTLEMENT);
        if self.canary == Canary::LedgerForgets && self.posts.is_multiple_of(10) {
            return Reply::Answer(self.forgotten(&batch, bytes, wall));
        }
        let answers = settle(&mut self.store, limits, wall, signer, &[judged]);
        Reply::Answer(answers.expect("memory does not fail").remove(0))
    }

    /// A request for a grant arrives; what is ruled on it, and how that is put.
    pub fn ask(
        &mut self,
        now_ns: u64,
        wall: WallTime,
        bytes: &[u8],
    ) -> Reply<(GrantAnswer, Vec<u8>)> {
        if now_ns < self.busy_until {
            return Reply::Busy;
        }
        let Ok(request) = GrantRequest::decode(bytes, &self.event.keys) else {
            return Reply::Refused;
        };
        let (planned, digest) = (is_planned(&request, Some(&self.event.manifest)), digest(bytes));
        let ruled = self.store.grant(self.grants, wall, &[(&request, digest, planned)]);
        let (verdict, section) = ruled.expect("memory does not fail").remove(0);
        let (asked, said) = ((&request, digest), (verdict, section.as_ref()));
        let mut answer = answer(self.grants, wall, SETTLEMENT, asked, said);
        let burns = request.claim == Claim::Burn && verdict == Verdict::Granted;
        if burns && self.canary == Canary::BurnsNothing {
            answer.lo = request.high;
        }
        let bytes = answer.encode(&self.key);
        Reply::Answer((answer, bytes))
    }

    /// The canary's answer: everything is paid, and nothing is written down.
    fn forgotten(&self, batch: &Batch, bytes: &[u8], wall: WallTime) -> Vec<u8> {
        use yao_protocol::settlement::{Answer, OpenResult};
        let results = vec![OpenResult::Applied; batch.records.len()];
        Answer::to_batch(batch, bytes, wall, SETTLEMENT, results).encode(&self.key)
    }

    /// Whether a batch was settled since the last call.
    pub const fn take_changed(&mut self) -> bool {
        std::mem::replace(&mut self.changed, false)
    }

    /// Every row.
    #[must_use]
    pub fn rows(&self) -> Vec<Row> {
        self.store.rows(None, ROWS).expect("memory does not fail")
    }

    /// Totals.
    #[must_use]
    pub fn totals(&mut self) -> Totals {
        self.store.totals().expect("memory does not fail")
    }
}
