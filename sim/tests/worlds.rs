//! What the simulator promises of itself: a seed is one world, nothing is violated in a few of
//! them, and a planted bug is found. `cargo xtask sim` runs many more, optimised.

use yao_sim::{
    canary::Canary,
    faults::{Fault, Faults},
    search::{run_plot, run_seed, search},
    world::Plot,
};

/// Seeds that a canary may live through.
const CANARY_SEEDS_MAX: u64 = 1_000;

#[test]
fn the_same_seed_is_the_same_world_to_the_last_event() {
    for seed in [3, 7] {
        let (first, again) =
            (run_seed(seed, Canary::None, false), run_seed(seed, Canary::None, false));
        assert_eq!(first, again, "seed {seed}");
        assert_ne!(first.digest, run_seed(seed + 1, Canary::None, false).digest);
    }
}

#[test]
fn without_faults_everybody_is_served() {
    let plot = Plot::with_faults(1, Faults::default(), Canary::None);
    let report = run_plot(&plot, false);
    assert_eq!(report.violation, None);
    assert!(report.seconds >= 60 && report.phones >= 100, "{report:?}");
    let totals = report.totals;
    assert!(totals.issued >= 100 && totals.paid == totals.issued, "{totals:?}");
}

#[test]
fn a_few_seeds_violate_nothing() {
    let found = search(0..12, Canary::None, 2, 1);
    assert_eq!(found.violations, []);
    assert_eq!(found.seeds, 12);
}

#[test]
fn m7_receipts_given_before_the_sync_are_found() {
    check_canary(Canary::SyncLies, &["opens", "once"]);
}

#[test]
fn m2_a_node_that_starts_at_0_after_a_power_cut_is_found() {
    // Or the node refuses to go on with a journal that is newer than its cursors.
    check_canary(Canary::StartsAtZero, &["once", "liveness"]);
}

#[test]
fn m7_a_ledger_that_forgets_what_it_answered_is_found() {
    // Its rows are missed by whoever looks first: the opens, or people who wait in the end.
    check_canary(Canary::LedgerForgets, &["opens", "liveness"]);
}

#[test]
fn m4_a_ledger_that_burns_nothing_is_found() {
    check_canary(Canary::BurnsNothing, &["once"]);
}

#[test]
fn m8_a_journal_that_forgets_what_it_was_told_is_found() {
    check_canary(Canary::ForgetsJournal, &["money"]);
}

#[test]
fn m5_a_packet_that_leaves_before_its_moment_is_found() {
    check_canary(Canary::EarlyStart, &["pacing"]);
}

#[test]
fn a_node_that_gives_nothing_after_a_restart_is_found() {
    check_canary(Canary::NeverAgain, &["pacing", "liveness"]);
}

#[test]
fn m9_a_ledger_that_pays_a_fourth_packet_is_found() {
    check_canary(Canary::PaysFour, &["limits"]);
}

fn check_canary(canary: Canary, rules: &[&str]) {
    let found = search(0..CANARY_SEEDS_MAX, canary, 2, 1);
    let report = found.violations.first().expect("the canary sings");
    let violation = report.violation.as_ref().expect("it violated something");
    assert!(rules.contains(&violation.rule), "{violation}");
}

/// Copies of a node's state run beside it, and older states are put back, while grants are lost,
/// doubled, late and lied about: no packet leaves twice, and everything settles.
#[test]
fn m4_twins_and_restored_states_issue_nothing_twice() {
    let copies = [Fault::Twin, Fault::Restore];
    for (seed, others) in [
        [Fault::LedgerLossy, Fault::Pause],
        [Fault::AgentHostile, Fault::Crash],
        [Fault::PowerCut, Fault::LedgerDown],
        [Fault::ClockSkew, Fault::MidWrite],
    ]
    .into_iter()
    .enumerate()
    {
        let faults = Faults::of(&[copies, others].concat());
        for seed in [seed as u64, 10 + seed as u64] {
            let report = run_plot(&Plot::with_faults(seed, faults, Canary::None), false);
            assert_eq!(report.violation, None, "seed {seed}, {:?}", faults.names());
        }
    }
}

/// The spool's own disk dies, with whatever else, and the fallback serves until it is mended: no
/// acknowledged open is lost, not by any hole that the failed syncs left.
#[test]
fn m7_a_spool_whose_disk_dies_loses_nothing() {
    for (seed, others) in [
        [Fault::LedgerDown, Fault::Storm],
        [Fault::PowerCut, Fault::Storm],
        [Fault::MidWrite, Fault::LedgerDown],
        [Fault::Crash, Fault::SlowDisk],
    ]
    .into_iter()
    .enumerate()
    {
        let faults = Faults::of(&[&[Fault::SpoolDisk][..], &others].concat());
        for seed in [seed as u64, 10 + seed as u64] {
            let report = run_plot(&Plot::with_faults(seed, faults, Canary::None), false);
            assert_eq!(report.violation, None, "seed {seed}, {:?}", faults.names());
            assert_eq!(report.lost_nodes, 0, "seed {seed}: nobody turned a bit over");
        }
    }
}

/// What waits for a node that stands still is read before what comes later, however long that was
/// held up on its way: else the simulator itself would break streams.
#[test]
fn a_node_that_stood_still_reads_its_streams_in_order() {
    let faults = Faults::of(&[Fault::Pause, Fault::Jitter, Fault::Fragments]);
    for seed in 0..6 {
        let report = run_plot(&Plot::with_faults(seed, faults, Canary::None), false);
        assert_eq!(report.violation, None, "seed {seed}");
    }
}

/// A user's app is killed, or its connection breaks, while its HELLO is held up; he comes again, is
/// welcomed, and then that HELLO arrives. The session in use goes on (docs/simulator.md, "What it
/// found"): a user who was told never to come back is a violation.
#[test]
fn a_late_hello_takes_nothing_from_the_session_in_use() {
    let faults = Faults::of(&[Fault::Jitter, Fault::AppKill, Fault::Break]);
    for seed in 0..4 {
        let report = run_plot(&Plot::with_faults(seed, faults, Canary::None), false);
        assert_eq!(report.violation, None, "seed {seed}");
    }
}

/// Two in ten thousand that blamed the programs. In 4107 a record of the spool rotted when its
/// receipt had long been given, and the node gave it again from memory. In 9315 a backup that was
/// taken in two steps was put back with the inodes of a clone, which is of one instant.
#[test]
fn what_the_world_itself_did_is_blamed_on_nobody() {
    for seed in [4107, 9315] {
        let report = run_seed(seed, Canary::None, false);
        assert_eq!(report.violation, None, "seed {seed}");
    }
}
