//! Voids in a real database: between an open and a void the first one wins, and stays.

use super::*;
use crate::{
    grants::GrantPolicy,
    reclaim::Opening,
    state::Limits,
    store::{
        Totals, grants,
        seals::{Disproof, Kept},
    },
    testing::{
        CAMPAIGN, EPOCH, PACKETS, SHARD, batch, grant_request, packet, seal, ticket_key,
        void_request as request,
    },
};
use tempfile::TempDir;
use yao_protocol::{
    Incarnation,
    grant::Verdict,
    keys::{KeyOwner, PublicKeyFile},
    seal::Seal,
    settlement::{Batch, OpenResult},
};

/// Packets from here on never left.
const HIGH: u32 = 6;
const POLICY: VoidPolicy = VoidPolicy { clock_skew_us: 10, claim_window_us: 10_000 };
/// When the seal comes, and when what it covers opens: 100 of ticket, 10 of skew later.
const SEALED: WallTime = WallTime(1_000);
const OPENS: WallTime = WallTime(1_110);

struct World {
    folder: TempDir,
    store: Store,
    ground: Ground,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::open(&folder.path().join("ledger.db"), CAMPAIGN).expect("open");
        let ground = Ground {
            ticket_lifetime_us: 100,
            shards: Vec::new(),
            generations: vec![0],
            heard_at: WallTime(0),
            keys: Arc::default(),
        };
        let mut world = Self { folder, store, ground };
        world.key(SHARD, EPOCH);
        world
    }

    fn sealed() -> Self {
        let mut world = Self::new();
        assert_eq!(world.keep(SEALED, &seal(HIGH)), Kept::At(SEALED));
        world
    }

    /// A shard has a key, or one more.
    fn key(&mut self, shard: ShardId, epoch: Epoch) {
        let owner = KeyOwner::Ticket { campaign: CAMPAIGN, shard, epoch };
        let key = ticket_key().public().to_bytes();
        let keys = Arc::make_mut(&mut self.ground.keys);
        keys.add(&PublicKeyFile { owner, key }).expect("a key");
        match self.ground.shards.iter_mut().find(|(known, _)| *known == shard) {
            Some((_, epochs)) => epochs.push(epoch),
            None => self.ground.shards.push((shard, vec![epoch])),
        }
    }

    fn keep(&mut self, now: WallTime, seal: &Seal) -> Kept {
        self.keep_by(POLICY, now, seal)
    }

    fn keep_by(&mut self, policy: VoidPolicy, now: WallTime, seal: &Seal) -> Kept {
        let bytes = seal.encode(&ticket_key());
        self.store.keep_seal(now, policy, &self.ground, (seal, &bytes)).expect("kept or not")
    }

    /// The process ends, and another one opens the same file.
    fn reopen(&mut self) {
        self.store = Store::open(&self.folder.path().join("ledger.db"), CAMPAIGN).expect("open");
    }

    fn void(&mut self, now: WallTime, request: VoidRequest) -> Voided {
        self.store.void(now, POLICY, &self.ground, &request).expect("void")
    }

    /// The indexes that a request voids.
    fn voided(&mut self, now: WallTime, request: VoidRequest) -> Vec<u32> {
        let (_, void) = self.void(now, request).expect("not refused");
        (request.first..).zip(void).filter(|(_, void)| *void).map(|(index, _)| index).collect()
    }

    /// When the refused request may come again.
    fn refused(&mut self, now: WallTime, request: VoidRequest) -> Opening {
        match self.void(now, request) {
            Err(Refused::TooEarly(opening)) => opening,
            other => panic!("{other:?}"),
        }
    }

    fn open(&mut self, index: u32, user: u64) -> OpenResult {
        self.settle(WallTime(60), &batch(index, user))
    }

    fn settle(&mut self, now: WallTime, batch: &Batch) -> OpenResult {
        let limits = Limits { wins_per_user: 3 };
        let settled = self.store.settle(limits, now, &[(batch, &[true])]);
        settled.expect("settle")[0][0]
    }

    /// An open of packet 1, as the spool's record with this sequence.
    fn deliver(&mut self, now: WallTime, sequence: u64) {
        let mut batch = batch(1, 7);
        batch.records[0].0 = sequence;
        self.settle(now, &batch);
    }

    fn counts(&mut self) -> (u64, u64, u64) {
        let Totals { sequence, voided, late_opens, .. } = self.store.totals().expect("totals");
        (sequence, voided, late_opens)
    }
}

#[test]
fn m10_a_packet_is_opened_or_void_whichever_comes_first() {
    let mut world = World::sealed();
    assert_eq!(world.open(2, 7), OpenResult::Applied);
    let refused = world.void(WallTime(OPENS.0 - 1), request(0, PACKETS));
    let opening = Opening { at: OPENS, unsealed: Vec::new() };
    assert_eq!(refused, Err(Refused::TooEarly(opening)));
    assert_eq!(world.counts(), (1, 0, 0), "nothing of what is refused is void");
    assert_eq!(world.voided(OPENS, request(0, PACKETS)), [0, 1, 3, 4, 5, 6, 7, 8, 9]);
    // The loser hears of it, however often, and no row is made.
    for _ in 0..2 {
        assert_eq!(world.open(3, 8), OpenResult::Reclaimed);
        assert_eq!(world.open(2, 7), OpenResult::Same);
    }
    assert_eq!(world.open(3, 9), OpenResult::Reclaimed);
    assert_eq!(world.counts(), (1, 9, 2));
    let page = |after: Option<u32>| {
        let voids = world.store.voids(after.map(packet), 4).expect("voids");
        voids.iter().map(|void| (void.packet.index().0, void.child)).collect::<Vec<_>>()
    };
    assert_eq!(page(None), [(0, 1), (1, 1), (3, 1), (4, 1)]);
    assert_eq!(page(Some(7)), [(8, 1), (9, 1)]);
}

#[test]
fn m10_what_was_opened_without_a_grant_is_not_given_out_again() {
    let mut world = World::sealed();
    let transaction = world.store.connection.unchecked_transaction().expect("a transaction");
    let (_, open) = batch(5, 7).records[0];
    for _ in 0..2 {
        grants::keep_ungranted(&transaction, WallTime(60), &open).expect("kept");
    }
    transaction.commit().expect("commit");
    assert_eq!(world.store.totals().expect("totals").ungranted_opens, 1);
    assert_eq!(world.voided(OPENS, request(4, 3)), [4, 6]);
}

#[test]
fn late_opens_are_shown_packet_by_packet() {
    let mut world = World::sealed();
    assert_eq!(world.voided(OPENS, request(0, 4)), [0, 1, 2, 3]);
    for (index, user) in [(1, 9), (0, 7), (1, 8)] {
        assert_eq!(world.open(index, user), OpenResult::Reclaimed);
    }
    let page = |after: Option<u32>, limit| {
        let late = world.store.late_opens(after.map(packet), limit).expect("late opens");
        assert!(late.iter().all(|late| late.accepted_at == WallTime(50)));
        late.iter().map(|late| (late.packet.index().0, late.user.0)).collect::<Vec<_>>()
    };
    assert_eq!(page(None, 10), [(0, 7), (1, 8), (1, 9)]);
    assert_eq!(page(None, 1), [(0, 7)]);
    assert_eq!(page(Some(0), 1), [(1, 8), (1, 9)], "both of its users");
    assert_eq!(page(Some(1), 1), []);
}

#[test]
fn m10_asked_again_it_says_the_same_and_no_packet_goes_to_two_children() {
    let mut world = World::sealed();
    world.open(4, 7);
    let first = world.void(OPENS, request(0, 8)).expect("granted");
    assert_eq!((first.0, first.1.iter().filter(|void| **void).count()), (OPENS, 7));
    world.reopen();
    assert_eq!(world.void(WallTime(9_999), request(0, 8)), Ok(first));
    // Another plan, another range from the same packet on.
    for other in [VoidRequest { plan_digest: [8; 32], ..request(0, 8) }, request(0, 9)] {
        let refused = world.void(WallTime(9_999), other);
        assert!(matches!(refused, Err(Refused::Contradicts(_))), "{refused:?}");
    }
    // What overlaps, in the same child or another one, gets what is left.
    assert_eq!(world.voided(WallTime(9_999), request(6, 4)), [8, 9]);
    assert_eq!(world.voided(WallTime(9_999), request(6, 4)), [8, 9]);
    world.ground.generations.push(1);
    let later = VoidRequest { child: 2, plan_digest: [8; 32], ..request(0, PACKETS) };
    for _ in 0..2 {
        assert_eq!(world.voided(WallTime(9_999), later), Vec::<u32>::new());
        world.reopen();
    }
    assert_eq!(world.counts(), (1, 9, 0));
}

#[test]
fn m10_a_request_that_voids_nothing_binds_no_plan() {
    let mut world = World::sealed();
    assert_eq!(world.voided(SEALED, request(HIGH, 4)), [6, 7, 8, 9]);
    world.ground.generations.push(1);
    // Somebody asks for generation 2 before there is anything new, and again when there is.
    let too_soon = VoidRequest { child: 2, plan_digest: [8; 32], ..request(HIGH, 4) };
    assert_eq!(world.voided(SEALED, too_soon), Vec::<u32>::new());
    assert_eq!(world.store.children(), Ok(BTreeMap::from([(1, 4)])));
    let later = VoidRequest { plan_digest: [9; 32], first: 0, count: PACKETS, ..too_soon };
    assert_eq!(world.voided(OPENS, later), [0, 1, 2, 3, 4, 5]);
    // Now there is a plan, and the other one is none.
    let refused = world.void(OPENS, too_soon);
    assert!(matches!(refused, Err(Refused::Contradicts(_))), "{refused:?}");
    assert_eq!(world.voided(OPENS, later), [0, 1, 2, 3, 4, 5]);
}

#[test]
fn m10_a_plan_that_an_earlier_version_bound_for_nothing_is_free_again() {
    let mut world = World::sealed();
    let bound = VoidRequest { child: 2, plan_digest: [8; 32], ..request(HIGH, 4) };
    let insert = format!(
        "INSERT INTO children VALUES (2, x'{}', 1, 0);
         INSERT INTO void_requests VALUES (2, 0, {}, {HIGH}, 4, 1);
         DROP TABLE delivered;
         DROP TABLE second_seals;
         DROP TABLE ungranted_opens;
         PRAGMA user_version = 4;",
        "08".repeat(32),
        SHARD.0
    );
    world.store.connection.execute_batch(&insert).expect("as version 4 left it");
    let other = VoidRequest { plan_digest: [9; 32], count: 3, ..bound };
    let refused = world.void(SEALED, other);
    assert!(matches!(refused, Err(Refused::Contradicts(_))), "{refused:?}");
    world.reopen();
    assert_eq!(world.voided(SEALED, other), [6, 7, 8]);
}

#[test]
fn m1_what_never_left_is_void_at_once() {
    let mut world = World::sealed();
    let refused = world.void(SEALED, request(HIGH - 1, 2));
    assert!(matches!(refused, Err(Refused::TooEarly(_))), "{refused:?}");
    assert_eq!(world.voided(SEALED, request(HIGH, 4)), [6, 7, 8, 9]);
    // Not when another epoch of the shard has no seal, nor when the seal's key is gone.
    let mut world = World::sealed();
    world.key(SHARD, Epoch(2));
    assert!(world.void(SEALED, request(HIGH, 4)).is_err());
    let mut world = World::sealed();
    world.ground.keys = Arc::default();
    assert!(world.void(SEALED, request(HIGH, 4)).is_err());
}

#[test]
fn m10_a_dead_node_holds_its_packets_until_the_claim_window_ends() {
    let mut world = World::new();
    let opening = Opening { at: WallTime(500 + 100 + 10 + 10_000), unsealed: vec![SHARD] };
    for now in [500, 700] {
        let refused = world.void(WallTime(now), request(0, PACKETS));
        assert_eq!(refused, Err(Refused::TooEarly(opening.clone())), "since the first request");
        world.reopen();
    }
    assert_eq!(world.voided(opening.at, request(0, PACKETS)).len(), 10);
}

#[test]
fn a_plan_may_change_until_something_is_void() {
    let mut world = World::sealed();
    assert!(world.void(SEALED, request(0, PACKETS)).is_err());
    let other = |first, count| VoidRequest { plan_digest: [8; 32], ..request(first, count) };
    assert_eq!(world.voided(SEALED, other(8, 2)), [8, 9]);
    let refused = world.void(OPENS, request(0, PACKETS));
    assert!(matches!(refused, Err(Refused::Contradicts(_))), "{refused:?}");
}

#[test]
fn the_first_seal_of_a_shard_and_epoch_stays() {
    let mut world = World::sealed();
    assert_eq!(world.keep(WallTime(5_000), &seal(HIGH)), Kept::At(SEALED));
    // A copy of that very state, sealed too.
    let copy = Seal { sealed_at: WallTime(905), ..seal(HIGH) };
    assert_eq!(world.keep(WallTime(5_000), &copy), Kept::Another);
    assert_eq!(world.voided(SEALED, request(HIGH, 4)).len(), 4);
    assert!(world.void(SEALED, request(0, 1)).is_err(), "below H");
}

fn presented(index: u32) -> Disproof {
    Disproof::Presented(packet(index))
}

#[test]
fn m10_seals_of_two_states_of_a_shard_disprove_each_other() {
    let others = [
        seal(HIGH + 1),
        Seal { settled: 2, ..seal(HIGH) },
        Seal { incarnation: Incarnation([2; 16]), ..seal(HIGH) },
    ];
    for other in others {
        let mut world = World::sealed();
        assert_eq!(world.keep(SEALED, &other), Kept::Disproved(Disproof::Twice));
        // For ever, and whichever comes again.
        world.reopen();
        assert_eq!(world.keep(SEALED, &seal(HIGH)), Kept::Disproved(Disproof::Twice));
        assert_eq!(world.keep(SEALED, &other), Kept::Disproved(Disproof::Twice));
        assert_eq!(world.refused(SEALED, request(8, 1)).unsealed, [SHARD]);
    }
    // Of another shard, epoch or generation that says nothing.
    let of = |change: fn(&mut Seal)| {
        let (mut first, mut second) = (seal(HIGH), Seal { settled: 2, ..seal(HIGH) });
        change(&mut first);
        change(&mut second);
        [first, second]
    };
    for pair in [
        of(|seal| seal.shard = ShardId(4)),
        of(|seal| seal.epoch = Epoch(2)),
        of(|seal| seal.generation = 1),
    ] {
        let mut world = World::sealed();
        world.key(pair[0].shard, pair[0].epoch);
        assert_eq!(world.keep(SEALED, &pair[0]), Kept::At(SEALED));
        assert_eq!(world.keep(SEALED, &pair[1]), Kept::Disproved(Disproof::Twice));
        assert_eq!(world.keep(SEALED, &seal(HIGH)), Kept::At(SEALED));
    }
}

#[test]
fn m10_a_seal_is_not_blamed_for_what_another_epochs_seal_left_out() {
    let mut world = World::sealed();
    world.key(SHARD, Epoch(2));
    world.deliver(SEALED, 5);
    let of_next = Seal { epoch: Epoch(2), ..seal(HIGH) };
    assert_eq!(world.keep(SEALED, &of_next), Kept::At(SEALED));
    assert_eq!(world.keep(SEALED, &seal(HIGH)), Kept::Disproved(Disproof::Delivered(5)));
    assert_eq!(world.refused(SEALED, request(8, 1)).unsealed, [SHARD], "one of them is false");
}

#[test]
fn m10_a_record_beyond_the_sealed_spool_disproves_the_seal() {
    // What is delivered before the seal comes, and again after it, lies in the sealed spool.
    let mut world = World::new();
    world.deliver(WallTime(60), 1);
    assert_eq!(world.keep(SEALED, &seal(HIGH)), Kept::At(SEALED));
    world.deliver(SEALED, 1);
    assert_eq!(world.voided(SEALED, request(8, 1)), [8]);
    // One more: the node went on in another state than the one that was sealed.
    let beyond = Kept::Disproved(Disproof::Delivered(2));
    world.deliver(SEALED, 2);
    world.deliver(SEALED, 1);
    world.reopen();
    assert_eq!(world.refused(SEALED, request(9, 1)).unsealed, [SHARD]);
    assert_eq!(world.keep(SEALED, &seal(HIGH)), beyond);
    // It came before the seal: then the right state may still be sealed.
    let mut world = World::new();
    world.deliver(WallTime(60), 2);
    assert_eq!(world.keep(SEALED, &seal(HIGH)), beyond);
    let right = Seal { settled: 2, ..seal(HIGH) };
    assert_eq!(world.keep(SEALED, &right), Kept::At(SEALED));
    // What another epoch or another shard delivers says nothing of this one.
    for (shard, epoch) in [(SHARD, Epoch(2)), (ShardId(4), EPOCH)] {
        let mut world = World::sealed();
        world.key(shard, epoch);
        let mut batch = batch(1, 7);
        (batch.shard, batch.epoch, batch.records[0].0) = (shard, epoch, 5);
        world.settle(SEALED, &batch);
        assert_eq!(world.keep(SEALED, &seal(HIGH)), Kept::At(SEALED));
    }
}

/// Until when what may have left stays in doubt, when the last sign of life was at `since`.
const fn in_doubt(since: u64) -> WallTime {
    WallTime(since + 100 + 10 + 10_000)
}

#[test]
fn m10_a_seal_that_our_rows_disprove_is_none() {
    // A state that was put back seals less than its node did.
    let mut world = World::new();
    assert_eq!(world.open(HIGH, 7), OpenResult::Applied);
    assert_eq!(world.keep(SEALED, &seal(HIGH)), Kept::Disproved(presented(HIGH)));
    assert_eq!(world.refused(SEALED, request(HIGH + 1, 1)).unsealed, [SHARD]);
    assert_eq!(world.keep(SEALED, &seal(HIGH + 1)), Kept::At(SEALED), "another one is true");
    assert_eq!(world.voided(SEALED, request(HIGH + 1, 1)), [HIGH + 1]);

    // The row comes later: of what was believed until then the rest is not.
    let mut world = World::sealed();
    assert_eq!(world.voided(SEALED, request(8, 1)), [8]);
    assert_eq!(world.open(7, 7), OpenResult::Applied);
    let opening = Opening { at: in_doubt(SEALED.0), unsealed: vec![SHARD] };
    assert_eq!(world.refused(WallTime(1_300), request(HIGH, 2)), opening);
    assert_eq!(world.refused(WallTime(1_300), request(0, 2)), opening, "all of it is in doubt");
    assert_eq!(world.keep(WallTime(1_300), &seal(HIGH)), Kept::Disproved(presented(7)));
    assert_eq!(world.voided(opening.at, request(HIGH, 2)), [HIGH]);

    // So does the open of a packet that is void by that very seal.
    let mut world = World::sealed();
    assert_eq!(world.voided(SEALED, request(8, 1)), [8]);
    assert_eq!(world.open(8, 7), OpenResult::Reclaimed);
    assert_eq!(world.refused(SEALED, request(9, 1)).unsealed, [SHARD]);
}

#[test]
fn m10_a_seal_of_one_epoch_is_not_disproved_by_what_another_one_issued() {
    let mut world = World::new();
    world.key(SHARD, Epoch(2));
    assert_eq!(world.open(HIGH, 7), OpenResult::Applied);
    assert_eq!(world.keep(SEALED, &seal(HIGH)), Kept::At(SEALED));
    let later = |high| Seal { epoch: Epoch(2), ..seal(high) };
    assert_eq!(world.keep(SEALED, &later(0)), Kept::Disproved(presented(HIGH)), "neither did");
    assert_eq!(world.keep(SEALED, &later(HIGH + 1)), Kept::At(SEALED));
    assert_eq!(world.voided(SEALED, request(HIGH + 1, 2)), [7, 8]);
}

#[test]
fn m10_the_claim_window_begins_with_the_last_sign_of_life() {
    let mut world = World::new();
    // Somebody tries the tool long before the event.
    assert_eq!(world.refused(WallTime(500), request(0, PACKETS)).at, in_doubt(500));
    assert_eq!(world.open(1, 7), OpenResult::Applied);
    world.ground.heard_at = WallTime(80_000);
    assert_eq!(world.refused(WallTime(90_000), request(0, PACKETS)).at, in_doubt(80_000));
    // The seal of another node.
    let other = ShardId(4);
    world.key(other, EPOCH);
    let sealed = Seal { shard: other, ..seal(HIGH) };
    assert_eq!(world.keep(WallTime(81_000), &sealed), Kept::At(WallTime(81_000)));
    let opening = Opening { at: in_doubt(81_000), unsealed: vec![SHARD] };
    assert_eq!(world.refused(WallTime(90_000), request(0, PACKETS)), opening);
    // What is asked for now is another thing: asked for since now.
    let other = VoidRequest { plan_digest: [8; 32], ..request(0, PACKETS) };
    assert_eq!(world.refused(WallTime(90_000), other).at, in_doubt(90_000));
    assert_eq!(world.refused(WallTime(90_500), other).at, in_doubt(90_000));
    assert_eq!(world.voided(in_doubt(90_000), other).len(), 9);
}

#[test]
fn m10_the_claim_window_begins_again_with_the_ledger() {
    let mut world = World::new();
    assert_eq!(world.refused(WallTime(500), request(0, PACKETS)).at, in_doubt(500));
    // It was away while the window went by: nobody could have come.
    world.reopen();
    world.ground.heard_at = WallTime(10_000);
    assert_eq!(world.refused(in_doubt(500), request(0, PACKETS)).at, in_doubt(10_000));
    assert_eq!(world.voided(in_doubt(10_000), request(0, PACKETS)).len(), 10);
    // Who has all seals waits for no window.
    let mut world = World::sealed();
    world.ground.heard_at = WallTime(1_100);
    assert_eq!(world.voided(OPENS, request(0, PACKETS)).len(), 10);
}

#[test]
fn m10_a_seal_of_another_state_is_a_sign_of_life() {
    let mut world = World::new();
    let other = ShardId(4);
    world.key(other, EPOCH);
    let sealed = Seal { shard: other, ..seal(HIGH) };
    assert_eq!(world.keep(SEALED, &sealed), Kept::At(SEALED));
    assert_eq!(world.refused(SEALED, request(0, PACKETS)).at, in_doubt(SEALED.0));
    // Just before the window ends: two states of a shard went on, and one may hold opens.
    let now = WallTime(in_doubt(SEALED.0).0 - 1);
    let second = Seal { settled: 2, ..sealed };
    for later in 0..2 {
        let came = world.keep(WallTime(now.0 + later), &second);
        assert_eq!(came, Kept::Disproved(Disproof::Twice));
    }
    let opening = Opening { at: in_doubt(now.0), unsealed: vec![SHARD, other] };
    assert_eq!(
        world.refused(in_doubt(SEALED.0), request(0, PACKETS)),
        opening,
        "when it came first"
    );
}

#[test]
fn m10_a_clock_that_was_ahead_holds_nothing_back() {
    let mut world = World::new();
    let (other, year) = (ShardId(4), 40_000_000);
    world.key(other, EPOCH);
    let first = Seal { shard: other, ..seal(HIGH) };
    let second = Seal { settled: 2, ..first.clone() };
    assert_eq!(world.refused(WallTime(year), request(0, PACKETS)).at, in_doubt(year));
    assert_eq!(world.keep(WallTime(year), &first), Kept::At(WallTime(year)));
    assert_eq!(world.keep(WallTime(year), &second), Kept::Disproved(Disproof::Twice));
    // The clock is right again, and the ledger is started.
    world.reopen();
    assert_eq!(world.store.bring_reclaim_back(WallTime(2_000)), Ok(3));
    assert_eq!(world.store.bring_reclaim_back(WallTime(2_001)), Ok(0), "it is right now");
    assert_eq!(world.refused(WallTime(2_002), request(0, PACKETS)).at, in_doubt(2_000));
    assert_eq!(world.voided(in_doubt(2_000), request(0, PACKETS)).len(), 10);
}

#[test]
fn m10_a_seal_from_a_clock_that_is_ahead_holds_nothing_back() {
    let ahead = Seal { sealed_at: WallTime(70_000), ..seal(HIGH) };
    let mut world = World::new();
    let now = WallTime(70_000 - 10 - 1);
    assert_eq!(world.keep(now, &ahead), Kept::Ahead(now));
    assert_eq!(
        world.refused(SEALED, request(0, 1)),
        Opening { at: in_doubt(SEALED.0), unsealed: vec![SHARD] }
    );
    // It may come again, or the right one of the same shard.
    let now = WallTime(now.0 + 1);
    assert_eq!(world.keep(now, &ahead), Kept::At(now));
    // One that was kept under other rules counts no more.
    let mut world = World::new();
    let careless = VoidPolicy { clock_skew_us: u64::MAX, ..POLICY };
    assert_eq!(world.keep_by(careless, SEALED, &ahead), Kept::At(SEALED));
    let opening = Opening { at: in_doubt(SEALED.0), unsealed: vec![SHARD] };
    assert_eq!(world.refused(SEALED, request(HIGH, 1)), opening);
}

#[test]
fn m8_what_was_opened_and_not_paid_comes_back() {
    let mut world = World::sealed();
    // A user has one packet of each sponsor at most.
    assert_eq!(world.open(1, 7), OpenResult::Applied);
    assert_eq!(world.open(2, 7), OpenResult::OverLimit);
    assert_eq!(world.voided(OPENS, request(0, 4)), [0, 2, 3]);
    for _ in 0..2 {
        assert_eq!(world.open(2, 7), OpenResult::OverLimit, "a final word stays");
        assert_eq!(world.open(2, 8), OpenResult::Conflict);
        assert_eq!(world.open(3, 8), OpenResult::Reclaimed);
    }
    assert_eq!(world.counts(), (2, 3, 1));
}

#[test]
fn m10_nothing_is_voided_while_a_generation_is_unknown() {
    let mut world = World::sealed();
    let later = VoidRequest { child: 2, plan_digest: [8; 32], ..request(8, 2) };
    assert!(world.void(SEALED, request(0, 1)).is_err(), "too early: nobody can have packed it");
    assert_eq!(world.voided(SEALED, later), [8, 9]);
    assert_eq!(world.store.children(), Ok(BTreeMap::from([(2, 2)])));
    let first = world.void(SEALED, request(HIGH, 2));
    let Err(Refused::Contradicts(why)) = first else { panic!("{first:?}") };
    assert!(why.contains("voided for generation 2, and the ledger has no manifest"), "{why}");
    // Its own requests, new or old, are heard.
    assert_eq!(world.voided(SEALED, later), [8, 9]);
    assert_eq!(world.voided(SEALED, VoidRequest { first: 7, count: 1, ..later }), [7]);
    world.ground.generations.push(2);
    assert_eq!(world.voided(SEALED, request(HIGH, 2)), [6]);
    world.ground.generations.pop();
    assert_eq!(world.voided(SEALED, request(HIGH, 2)), [6], "granted before");
    world.reopen();
    assert_eq!(world.store.children(), Ok(BTreeMap::from([(1, 1), (2, 3)])));
}

/// What a ledger says to a node that asks for the shard's first wave.
fn ask(store: &mut Store, now: WallTime) -> Verdict {
    let policy = GrantPolicy { packets: 5, lifetime_us: 500, margin_ms: 0 };
    store.grant(policy, now, &[(&grant_request(), [6; 32], true)]).expect("ruled")[0].0
}

#[test]
fn m10_of_a_granted_shard_no_seal_speaks_for_all_holders() {
    let mut world = World::new();
    assert_eq!(ask(&mut world.store, WallTime(2_000)), Verdict::Granted);
    assert_eq!(world.keep(SEALED, &seal(HIGH)), Kept::At(SEALED));
    // The grant ends at 2,500; then the last ticket, the skew and the claim window.
    let opening = Opening { at: WallTime(2_500 + 100 + 10 + 10_000), unsealed: vec![SHARD] };
    let refused = world.void(OPENS, request(HIGH, 4));
    assert_eq!(refused, Err(Refused::TooEarly(opening.clone())));
    assert_eq!(world.voided(opening.at, request(0, PACKETS)).len(), 10);
    // Nothing that was sealed or taken back is granted again.
    assert_eq!(ask(&mut world.store, opening.at), Verdict::Contradicts);
    assert_eq!(ask(&mut World::sealed().store, SEALED), Verdict::Contradicts);
}
