//! What the ledger took back of one shard: in which class it is, and what it must not have been.

use super::{
    faults, tampered,
    world::{World, packet},
};
use crate::audit::ledger::{Late, Void};

/// Packets 3, 5, 6 and 7 were not opened: issued, skipped and unissued ones may be taken back.
#[test]
fn what_is_reclaimed_is_in_no_other_class() {
    let mut world = World::new();
    world.ledger.voids = [3, 5, 6, 7].map(|index| void(packet(index).0)).to_vec();
    // Those of other shards and generations are judged elsewhere.
    world.ledger.voids.push(void(packet(0).0 | 1 << 56));
    let verdict = world.judge().expect("readable");
    assert_eq!(verdict.problems, Vec::<String>::new());
    let classes = [
        (verdict.planned, verdict.planned_fen),
        (verdict.issued, verdict.issued_fen),
        (verdict.opened, verdict.opened_fen),
        (verdict.skipped, verdict.skipped_fen),
        (verdict.unissued, verdict.unissued_fen),
        (verdict.reclaimed, verdict.reclaimed_fen),
    ];
    assert_eq!(classes, [(8, 828), (4, 407), (3, 303), (0, 0), (0, 0), (4, 421)]);
}

/// Packet 4 was accepted, and not paid, as its user had enough: it stays issued, and may come back.
#[test]
fn m8_a_refused_open_stays_issued_and_may_be_reclaimed() {
    let check = |state: &str, voided: bool, issued, reclaimed| {
        let mut world = World::new();
        if state == "expired" {
            // As the ledger would judge an open that a node accepted too late.
            let end = world.opens[3].ticket.body.expires_at;
            (world.opens[3].accepted_at, world.receipts[3].accepted_at) = (end, end);
        }
        world.settle();
        world.ledger.rows[3].state = state.to_owned();
        world.total();
        if voided {
            world.ledger.voids.push(void(packet(4).0));
        }
        let verdict = world.judge().expect("readable");
        let expected = u64::from(state == "expired");
        assert_eq!(verdict.problem_count, expected, "{:?}", verdict.problems);
        assert!(verdict.problems.iter().all(|problem| problem.contains("its ticket's life")));
        assert_eq!((verdict.issued, verdict.opened, verdict.reclaimed), (issued, 3, reclaimed));
        assert_eq!(faults(&verdict), [0; 4]);
    };
    check("over_limit", false, 5, 0);
    check("over_limit", true, 4, 1);
    check("expired", false, 5, 0);
    check("expired", true, 4, 1);
}

#[test]
fn m8_nothing_is_both_paid_and_reclaimed() {
    tampered(
        |world| world.ledger.voids.push(void(packet(0).0)),
        "packet 0/3/0 was settled, and reclaimed as well",
        [1, 0, 0, 0],
    );
    tampered(
        |world| {
            world.ledger.rows.remove(1);
            world.total();
            world.ledger.voids.push(void(packet(1).0));
        },
        "packet 0/3/1 was acknowledged, and reclaimed",
        [0, 1, 0, 0],
    );
}

/// Packet 1 was taken back, and its open came later: the node's spool has it, its user a receipt.
#[test]
fn m7_a_late_open_that_was_made_good_balances_with_its_spool_and_receipt() {
    let check = |allowed: bool, user: u64, removed: bool, expected: &[&str]| {
        let mut world = World::new();
        world.ledger.rows.remove(1);
        world.total();
        world.ledger.voids.push(void(packet(1).0));
        world.ledger.late = vec![Late { packet: packet(1).0, user }];
        world.ledger.late_opens = 1;
        world.ledger.late_allowed = allowed;
        if removed {
            world.opens.drain(..2);
            world.opens_from = 3;
        }
        let verdict = world.judge().expect("readable");
        let found = &verdict.problems;
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.contains(expected), "{found} / {expected}");
        }
        assert_eq!(verdict.lost, u64::from(!expected.is_empty()) * (1 + u64::from(removed)));
        assert_eq!((verdict.reclaimed, verdict.opened), (1, 2));
    };
    let reclaimed = "packet 0/3/1 was acknowledged, and reclaimed";
    check(true, 2, false, &[]);
    // The record was settled and removed: its receipt is all there is.
    check(true, 2, true, &[]);
    // Not known, or of somebody else.
    check(false, 2, false, &[reclaimed]);
    check(true, 3, false, &[reclaimed]);
    check(true, 3, true, &["has a receipt and no spooled open", reclaimed]);
}

pub(super) const fn void(packet: u64) -> Void {
    Void { packet, child: 1 }
}
