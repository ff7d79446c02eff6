//! The store against a model of two maps; and what a second opening finds.

use super::*;
use proptest::prelude::*;
use rusqlite::StatementStatus;
use std::collections::BTreeMap;
use yao_protocol::{
    Epoch, Incarnation, PacketIndex, ShakeId, ShardId, WaveIndex,
    ticket::{Ticket, TicketBody},
};

const CAMPAIGN: CampaignId = CampaignId(2015);
const LIMITS: Limits = Limits { wins_per_user: 2 };

fn open(packet: u64, user: u64, sponsor: u8, accepted_at: u64) -> Open {
    let packet = PacketId(packet);
    let body = TicketBody {
        campaign: CAMPAIGN,
        packet,
        user: UserId(user),
        amount: Fen(packet.0 % 97 + 1),
        shake: ShakeId(1),
        issued_at: WallTime(0),
        expires_at: WallTime(100),
        shard: packet.shard(),
        epoch: Epoch(1),
        sponsor: SponsorId::new(sponsor).expect("below 64"),
        wave: WaveIndex(0),
    };
    Open { accepted_at: WallTime(accepted_at), ticket: Ticket { body, signature: [0; 64] } }
}

fn batch(opens: Vec<Open>) -> Batch {
    Batch {
        campaign: CAMPAIGN,
        shard: ShardId(17),
        epoch: Epoch(1),
        incarnation: Incarnation([0; 16]),
        records: (1..).zip(opens).collect(),
    }
}

fn settle(store: &mut Store, opens: Vec<Open>) -> Vec<OpenResult> {
    let genuine = vec![true; opens.len()];
    let batch = batch(opens);
    let results = store.settle(LIMITS, WallTime(500), &[(&batch, &genuine)]).expect("settle");
    results.into_iter().flatten().collect()
}

/// SQLite may plan a statement anew for other values of its parameters, at several times the cost
/// of the query.
#[test]
fn a_statement_is_compiled_once_whatever_its_parameters() {
    let mut store = Store::open(Path::new(":memory:"), CAMPAIGN).expect("memory");
    assert_eq!(settle(&mut store, vec![open(1, 1, 1, 50)]), [OpenResult::Applied]);
    for limit in 1..10 {
        assert_eq!(store.rows(None, limit).expect("a page").len(), 1);
    }
    let statement = store.connection.prepare_cached(SELECT_ROWS).expect("it is there");
    let status = |status| statement.get_status(status);
    assert!(status(StatementStatus::Run) >= 9, "the one that was used");
    assert_eq!(status(StatementStatus::RePrepare), 0);
}

/// The rules once more, over maps.
#[derive(Default)]
struct Model {
    rows: BTreeMap<u64, (u64, u8, PacketState)>,
}

impl Model {
    fn settle(&mut self, open: &Open) -> OpenResult {
        let body = &open.ticket.body;
        let (packet, user, sponsor) = (body.packet.0, body.user.0, body.sponsor.number());
        if let Some((owner, _, state)) = self.rows.get(&packet) {
            return match state {
                _ if *owner != user => OpenResult::Conflict,
                PacketState::Applied => OpenResult::Same,
                PacketState::OverLimit => OpenResult::OverLimit,
                PacketState::Expired => OpenResult::Expired,
            };
        }
        let paid =
            || self.rows.values().filter(|row| row.0 == user && row.2 == PacketState::Applied);
        let (state, result) = if open.accepted_at >= body.expires_at {
            (PacketState::Expired, OpenResult::Expired)
        } else if paid().count() >= 2 || paid().any(|row| row.1 == sponsor) {
            (PacketState::OverLimit, OpenResult::OverLimit)
        } else {
            (PacketState::Applied, OpenResult::Applied)
        };
        self.rows.insert(packet, (user, sponsor, state));
        result
    }
}

/// Packets at both ends of the id space: rows come back in unsigned order.
fn packet() -> impl Strategy<Value = u64> {
    (0..30_u64, prop::bool::ANY).prop_map(|(n, high)| if high { u64::MAX - n } else { n })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn the_store_agrees_with_the_model(
        batches in prop::collection::vec(
            prop::collection::vec((packet(), 0..6_u64, 0..3_u8, 80..104_u64), 1..20),
            1..12,
        ),
        page in 1..9_usize,
    ) {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("ledger.db");
        let mut store = Store::open(&path, CAMPAIGN).expect("open");
        let mut model = Model::default();
        for (n, opens) in batches.iter().enumerate() {
            let opens: Vec<Open> =
                opens.iter().map(|(p, user, sponsor, at)| open(*p, *user, *sponsor, *at)).collect();
            let expected: Vec<OpenResult> = opens.iter().map(|open| model.settle(open)).collect();
            prop_assert_eq!(settle(&mut store, opens), expected);
            if n == 5 {
                store = Store::open(&path, CAMPAIGN).expect("open again");
            }
        }
        let mut rows = Vec::new();
        loop {
            let after = rows.last().map(|row: &Row| row.packet);
            let next = store.rows(after, page).expect("rows");
            prop_assert!(next.len() <= page);
            if next.is_empty() {
                break;
            }
            prop_assert!(after.is_none_or(|after| next[0].packet > after), "pages go on");
            rows.extend(next);
        }
        let found: BTreeMap<u64, _> = rows
            .iter()
            .map(|row| (row.packet.0, (row.user.0, row.sponsor.number(), row.state)))
            .collect();
        prop_assert!(rows.is_sorted_by_key(|row| row.packet));
        prop_assert_eq!(&found, &model.rows);
        let mut sequences: Vec<u64> = rows.iter().map(|row| row.sequence).collect();
        sequences.sort_unstable();
        prop_assert_eq!(sequences, (1..=rows.len() as u64).collect::<Vec<_>>());
        let totals = store.totals().expect("totals");
        prop_assert_eq!(totals.sequence, rows.len() as u64);
        for state in PacketState::ALL {
            let of_state = || rows.iter().filter(|row| row.state == state);
            let parts = || totals.parts.iter().filter(|part| part.0 == state);
            prop_assert_eq!(parts().map(|part| part.2).sum::<u64>(), of_state().count() as u64);
            let sum: Fen = parts().map(|part| part.3).sum();
            prop_assert_eq!(sum, of_state().map(|row| row.amount).sum::<Fen>());
        }
    }
}

#[test]
fn what_is_not_genuine_leaves_no_trace() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut store = Store::open(&directory.path().join("ledger.db"), CAMPAIGN).expect("open");
    let batch = batch(vec![open(1, 7, 0, 0), open(2, 7, 1, 0)]);
    let results = store.settle(LIMITS, WallTime(1), &[(&batch, &[false, true])]).expect("settle");
    assert_eq!(results, [[OpenResult::Invalid, OpenResult::Applied]]);
    assert_eq!(store.totals().expect("totals").sequence, 1);
    // When it comes again, genuine this time, nothing stands against it.
    assert_eq!(settle(&mut store, vec![open(1, 7, 0, 0)]), [OpenResult::Applied]);
}

#[test]
fn a_conflict_is_kept_once() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut store = Store::open(&directory.path().join("ledger.db"), CAMPAIGN).expect("open");
    settle(&mut store, vec![open(PacketIndex(1).0.into(), 7, 0, 0)]);
    for _ in 0..2 {
        assert_eq!(settle(&mut store, vec![open(1, 8, 0, 0)]), [OpenResult::Conflict]);
    }
    assert_eq!(store.totals().expect("totals").conflicts, 1);
}

#[test]
fn a_database_of_another_campaign_is_refused() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("ledger.db");
    Store::open(&path, CAMPAIGN).expect("open");
    let error = Store::open(&path, CampaignId(7)).expect_err("foreign");
    assert!(error.to_string().contains("belongs to campaign 2015"), "{error}");
}

#[test]
fn the_voids_of_an_earlier_version_are_counted() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("ledger.db");
    let old = Connection::open(&path).expect("open");
    for step in &schema::STEPS[..3] {
        old.execute_batch(step).expect("its tables");
    }
    let rows = "INSERT INTO campaign VALUES (2015);
                INSERT INTO children VALUES (1, x'07', 50), (2, x'08', 60), (3, x'09', 70);
                INSERT INTO voids VALUES (1, 1, 0), (2, 3, 0), (3, 1, 0);";
    old.execute_batch(rows).expect("rows");
    old.pragma_update(None, "user_version", 3).expect("its version");
    drop(old);
    for _ in 0..2 {
        let store = Store::open(&path, CAMPAIGN).expect("taken over");
        assert_eq!(store.children(), Ok(BTreeMap::from([(1, 2), (3, 1)])));
    }
}

/// What was answered must outlive a power cut: without a sync for each commit it would not.
#[test]
fn m7_a_commit_is_on_disk_when_it_returns() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let store = Store::open(&directory.path().join("ledger.db"), CAMPAIGN).expect("open");
    let pragma = |name: &str| -> rusqlite::types::Value {
        store.connection.pragma_query_value(None, name, |row| row.get(0)).expect("a pragma")
    };
    assert_eq!(pragma("journal_mode"), "wal".to_owned().into());
    assert_eq!(pragma("synchronous"), 2.into(), "FULL");
}

#[test]
fn a_database_of_an_earlier_version_goes_on_with_its_rows() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("ledger.db");
    for version in 1..schema::STEPS.len() {
        let old = Connection::open(&path).expect("open");
        for step in &schema::STEPS[..version] {
            old.execute_batch(step).expect("its tables");
        }
        let row = "INSERT INTO campaign VALUES (2015);
                   INSERT INTO packets VALUES (1, 7, 0, 100, 1, 1, 50, 60);";
        old.execute_batch(row).expect("a row");
        old.pragma_update(None, "user_version", version as i64).expect("its version");
        drop(old);
        for _ in 0..2 {
            let mut store = Store::open(&path, CAMPAIGN).expect("taken over");
            let totals = store.totals().expect("totals");
            assert_eq!((totals.sequence, totals.voided, totals.late_opens), (1, 0, 0));
            assert_eq!(store.tenures(0, 1).expect("the table of grants"), []);
            assert_eq!(settle(&mut store, vec![open(1, 7, 0, 0)]), [OpenResult::Same]);
        }
        std::fs::remove_file(&path).expect("ours");
    }
    Store::open(&path, CAMPAIGN).expect("a new one");
    let newer = Connection::open(&path).expect("open");
    newer.pragma_update(None, "user_version", 99).expect("a later version");
    drop(newer);
    let error = Store::open(&path, CAMPAIGN).expect_err("unknown tables");
    assert!(error.to_string().contains("has tables of version 99"), "{error}");
}
