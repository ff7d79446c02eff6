//! The ledger: its admission, its rules and its real store, on SQLite in memory. The glue stands
//! for `ledger/src/http.rs`. What is committed survives; SQLite's own durability is SQLite's.

use crate::{
    canary::Canary,
    plan::{Event, SETTLEMENT, identity},
};
use std::path::Path;
use yao_ledger::{
    admission::{Admission, admit},
    state::{Limits, Row},
    store::{Store, Totals},
    writer::{Judged, settle},
};
use yao_protocol::{WallTime, keys::SignKey, settlement::Batch};

/// Rows read at once.
const ROWS: usize = 10_000;

/// What a POST comes to.
#[derive(Debug)]
pub enum Reply {
    /// HTTP 200.
    Answer(Vec<u8>),
    /// HTTP 503.
    Busy,
    /// HTTP 400 or 403.
    Refused,
}

/// The one settlement service of a world.
pub struct Settlement {
    event: &'static Event,
    store: Store,
    key: SignKey,
    canary: Canary,
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
    pub fn new(event: &'static Event, canary: Canary) -> Self {
        Self {
            event,
            store: Store::open(Path::new(":memory:"), event.campaign).expect("memory"),
            key: SignKey::from_seed(&identity().settlement_seed),
            canary,
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
        let limits = Limits::of(&self.event.manifest);
        let signer = (&self.key, SETTLEMENT);
        if self.canary == Canary::LedgerForgets && self.posts.is_multiple_of(10) {
            return Reply::Answer(self.forgotten(&batch, bytes, wall));
        }
        let answers = settle(&mut self.store, limits, wall, signer, &[judged]);
        Reply::Answer(answers.expect("memory does not fail").remove(0))
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
