//! One round of the writer: what came first is decided first.

use super::*;
use crate::{
    grants::GRANT_LIFETIME_US_MAX,
    store::seals::Disproof,
    testing::{
        CAMPAIGN, EPOCH, SHARD, batch, grant_request, packet, seal, ticket_key, void_request,
    },
};
use tempfile::TempDir;
use yao_protocol::{
    Epoch, ShardId,
    grant::Verdict,
    keys::{KeyOwner, KeySet, PublicKeyFile},
    settlement::OpenResult,
};

const KEY_ID: KeyId = KeyId(1);

/// A writer on a new database, and the jobs that it finds waiting.
struct World {
    _folder: TempDir,
    run: Run,
    keys: Arc<KeySet>,
    queue: SyncSender<Job>,
    jobs: Receiver<Job>,
}

fn settlement_key() -> SignKey {
    SignKey::from_seed(&[6; 32])
}

fn rules() -> Rules {
    Rules {
        limits: Limits { wins_per_user: 3 },
        grants: GrantPolicy { packets: 100, lifetime_us: 10_000_000, margin_ms: 500 },
        voids: VoidPolicy::default(),
        key: settlement_key(),
        key_id: KEY_ID,
    }
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::open(&folder.path().join("ledger.db"), CAMPAIGN).expect("open");
        let rules = rules();
        let counters = Arc::<WriterCounters>::default();
        let run = Run { store, rules, clock: Clock::start(), counters };
        let mut keys = KeySet::default();
        let ticket = KeyOwner::Ticket { campaign: CAMPAIGN, shard: SHARD, epoch: EPOCH };
        let settlement = KeyOwner::Settlement { key_id: KEY_ID };
        for (owner, key) in [(ticket, ticket_key()), (settlement, settlement_key())] {
            keys.add(&PublicKeyFile { owner, key: key.public().to_bytes() }).expect("a key");
        }
        let (queue, jobs) = sync_channel(QUEUE_JOBS);
        Self { _folder: folder, run, keys: Arc::new(keys), queue, jobs }
    }

    fn ground(&self, shards: Vec<(ShardId, Vec<Epoch>)>) -> Ground {
        let keys = Arc::clone(&self.keys);
        let heard_at = WallTime(0);
        Ground { ticket_lifetime_us: 0, shards, generations: vec![0], heard_at, keys }
    }

    /// An open of the packet at `index` waits.
    fn open(&self, index: u32) -> oneshot::Receiver<Vec<u8>> {
        let batch = batch(index, u64::from(index));
        let bytes = batch.encode(&ticket_key());
        let (answer, answered) = oneshot::channel();
        let job = BatchJob { batch, bytes, genuine: vec![true], answer };
        self.queue.send(Job::Batch(job)).expect("room");
        answered
    }

    /// A request waits for the first four packets, of which all are free that were not opened: no
    /// shard keeps them back.
    fn void(&self) -> oneshot::Receiver<Result<Vec<u8>, Refused>> {
        let request = void_request(0, 4);
        let (answer, answered) = oneshot::channel();
        let job = VoidJob { request, ground: self.ground(Vec::new()), answer };
        self.queue.send(Job::Void(job)).expect("room");
        answered
    }

    /// A seal waits by which packets from `high` on never left.
    fn seal(&self, high: u32) -> oneshot::Receiver<Kept> {
        let seal = seal(high);
        let bytes = seal.encode(&ticket_key());
        let ground = self.ground(vec![(SHARD, vec![EPOCH])]);
        let (answer, answered) = oneshot::channel();
        self.queue.send(Job::Seal(SealJob { seal, bytes, ground, answer })).expect("room");
        answered
    }

    /// Everything that waits is decided.
    fn decide(self) -> Arc<KeySet> {
        let Self { mut run, keys, queue, jobs, .. } = self;
        drop(queue);
        run.run(&jobs).expect("the database is well");
        keys
    }
}

fn told(mut answered: oneshot::Receiver<Vec<u8>>, keys: &KeySet) -> Vec<OpenResult> {
    let bytes = answered.try_recv().expect("an answer");
    Answer::decode(&bytes, keys).expect("settlement's").results
}

#[test]
fn m10_no_void_overtakes_an_open_that_came_before_it() {
    let world = World::new();
    let (before, mut void, after) = (world.open(1), world.void(), world.open(2));
    let keys = world.decide();
    assert_eq!(told(before, &keys), [OpenResult::Applied]);
    let voided = void.try_recv().expect("an answer").expect("granted");
    let voided = VoidAnswer::decode(&voided, &keys).expect("settlement's");
    assert_eq!(voided.void, [true, false, true, true]);
    assert_eq!(told(after, &keys), [OpenResult::Reclaimed]);
}

#[test]
fn m10_no_seal_overtakes_an_open_that_disproves_it() {
    let world = World::new();
    let (before, mut seal) = (world.open(5), world.seal(5));
    let keys = world.decide();
    assert_eq!(told(before, &keys), [OpenResult::Applied]);
    assert_eq!(seal.try_recv(), Ok(Kept::Disproved(Disproof::Presented(packet(5)))));
}

#[test]
fn m4_a_writer_brings_back_what_a_clock_that_was_ahead_has_granted() {
    let folder = tempfile::tempdir().expect("a folder");
    let open = || Store::open(&folder.path().join("ledger.db"), CAMPAIGN).expect("open");
    let ahead = Clock::start().wall().plus_us(30 * GRANT_LIFETIME_US_MAX);
    let asked = grant_request();
    let ruled = open().grant(rules().grants, ahead, &[(&asked, [6; 32], true)]).expect("ruled");
    assert_eq!(ruled[0].0, Verdict::Granted);
    let (stopped, _listens) = oneshot::channel();
    let (writer, thread) = Writer::start(open(), rules(), stopped).expect("a thread");
    drop(writer);
    thread.join().expect("no panic").expect("the database is well");
    // Whoever comes after the holder waits for a grant's time, not for a month.
    let end = Clock::start().wall().plus_us(rules().grants.lifetime_us);
    let tenure = open().tenures(0, 1).expect("read").pop().expect("one grant");
    assert!(tenure.not_after <= end.0, "{} is later than {}", tenure.not_after, end.0);
}
