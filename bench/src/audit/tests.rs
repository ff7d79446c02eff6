//! Balanced books pass, and each kind of tampering is found.

mod world;

use super::Verdict;
use world::{LAG_US, World};

/// The packets, sums and counts of an untouched world.
#[test]
fn an_honest_event_balances() {
    let verdict = World::new().judge().expect("readable");
    assert_eq!(verdict.problems, Vec::<String>::new());
    let classes = [
        (verdict.planned, verdict.planned_fen),
        (verdict.issued, verdict.issued_fen),
        (verdict.opened, verdict.opened_fen),
        (verdict.settled, verdict.settled_fen),
        (verdict.skipped, verdict.skipped_fen),
        (verdict.unissued, verdict.unissued_fen),
    ];
    assert_eq!(classes, [(8, 828), (5, 510), (4, 407), (3, 303), (1, 105), (2, 213)]);
    let counts = (verdict.over_limit, verdict.tickets_seen, verdict.receipts_seen, verdict.lives);
    assert_eq!(counts, (1, 5, 4, 2));
    assert!((verdict.release_lag_ms_p99 - LAG_US as f64 / 1_000.0).abs() < 1e-9);
    assert_eq!(verdict.verdict, "balanced");
    assert_eq!(faults(&verdict), [0; 4]);
}

/// Duplicates, lost, limit violations, early releases.
fn faults(verdict: &Verdict) -> [u64; 4] {
    [verdict.duplicates, verdict.lost, verdict.limit_violations, verdict.early_releases]
}
