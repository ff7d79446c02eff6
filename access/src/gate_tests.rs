//! The gate by itself; with other threads, see `fuzz/loom`.

use crate::gate::Gate;
use yao_engine::GateView;
use yao_protocol::SponsorSet;

#[test]
fn a_slot_is_taken_once_and_the_running_bit_stays() {
    let gate = Gate::default();
    assert!(!gate.take());
    gate.renew(GateView { sponsors: SponsorSet(5), count: 2, running: true }, true);
    assert!(gate.take() && gate.take() && !gate.take());
    assert_eq!(gate.view(), GateView { sponsors: SponsorSet(0), count: 0, running: true });
    gate.give_back();
    assert_eq!(gate.view(), GateView { sponsors: SponsorSet(5), count: 1, running: true });
}

#[test]
fn a_slot_whose_candidate_won_nothing_is_open_again() {
    let books = GateView { sponsors: SponsorSet(1), count: 2, running: true };
    let gate = Gate::default();
    gate.renew(books, true);
    assert!(gate.take() && gate.take() && !gate.take());
    // The books are as they were: both candidates were not eligible.
    gate.renew(books, false);
    assert!(!gate.take(), "others still wait to be decided");
    gate.renew(books, true);
    assert!(gate.take() && gate.take() && !gate.take());
    gate.renew(GateView { count: 1, ..books }, true);
    gate.renew(GateView::default(), false);
    assert!(!gate.take(), "closing never waits");
}

#[test]
fn threads_take_each_slot_once() {
    let gate = Gate::default();
    gate.renew(GateView { sponsors: SponsorSet(1), count: 10_000, running: true }, true);
    let taken: usize = std::thread::scope(|scope| {
        let takers: Vec<_> =
            (0..4).map(|_| scope.spawn(|| (0..5_000).filter(|_| gate.take()).count())).collect();
        takers.into_iter().map(|taker| taker.join().expect("no panic")).sum()
    });
    assert_eq!(taken, 10_000);
}
