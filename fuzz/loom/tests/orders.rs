//! Every order in which threads may meet in the gate and in the flag of a queue.

use loom::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread,
};
use yao_engine::GateView;
use yao_loom::{gate::Gate, wake::WakeFlag};
use yao_protocol::SponsorSet;

const fn books(count: u32) -> GateView {
    GateView { sponsors: SponsorSet(1), count, running: true }
}

/// A queue as weak as a queue may be: only the message itself is ordered.
#[derive(Default)]
struct Queue(AtomicU32);

impl Queue {
    fn put(&self) {
        self.0.fetch_add(1, Ordering::Release);
    }

    fn has(&self, known: u32) -> bool {
        self.0.load(Ordering::Acquire) > known
    }
}

/// Two senders, and an owner who was woken once before and now looks his last time. `lower` is how
/// he does it.
fn a_message_is_seen_or_wakes(lower: fn(&WakeFlag)) {
    loom::model(move || {
        let shared = Arc::new((Queue::default(), WakeFlag::new(), AtomicU32::new(0)));
        // The burst before: the owner has been woken for it and has read it.
        shared.0.put();
        assert!(shared.1.raise(), "the first message wakes");
        let send = |shared: Arc<(Queue, WakeFlag, AtomicU32)>| {
            thread::spawn(move || {
                let (queue, flag, woken) = &*shared;
                queue.put();
                if flag.raise() {
                    woken.fetch_add(1, Ordering::Relaxed);
                }
            })
        };
        let senders = [send(Arc::clone(&shared)), send(Arc::clone(&shared))];
        let (queue, flag, woken) = &*shared;
        lower(flag);
        let seen = queue.0.load(Ordering::Acquire);
        for sender in senders {
            sender.join().expect("no panic");
        }
        let wakes = woken.load(Ordering::Relaxed);
        assert!(!queue.has(seen) || wakes > 0, "a message waits, and the owner sleeps");
        assert!(wakes <= 1, "one wake-up serves a burst");
    });
}

#[test]
fn a_message_wakes_or_the_last_look_finds_it() {
    a_message_is_seen_or_wakes(WakeFlag::lower);
}

#[test]
#[should_panic(expected = "a message waits, and the owner sleeps")]
fn without_lowering_it_a_message_would_wait() {
    a_message_is_seen_or_wakes(|_| {});
}

#[test]
fn a_slot_is_taken_by_one_whatever_the_order() {
    loom::model(|| {
        let gate = Arc::new(Gate::default());
        gate.renew(books(1), true);
        let take = |gate: Arc<Gate>| thread::spawn(move || u32::from(gate.take()));
        let others = [take(Arc::clone(&gate)), take(Arc::clone(&gate))];
        let taken = others.map(|other| other.join().expect("no panic")).iter().sum::<u32>();
        assert_eq!(taken, 1);
        assert!(gate.view().running, "counting down never touches the running bit");
    });
}

#[test]
fn a_slot_given_back_is_open_again() {
    loom::model(|| {
        let gate = Arc::new(Gate::default());
        gate.renew(books(1), true);
        let full = |gate: Arc<Gate>| {
            thread::spawn(move || {
                let took = gate.take();
                if took {
                    gate.give_back();
                }
            })
        };
        let others = [full(Arc::clone(&gate)), full(Arc::clone(&gate))];
        for other in others {
            other.join().expect("no panic");
        }
        assert_eq!(gate.view(), books(1));
    });
}

/// While candidates wait in the issuer's queue the gate is only made narrower; it is never wider
/// than the books by more than the slots that were given back meanwhile.
#[test]
fn renewing_while_others_take_opens_no_slot_twice() {
    loom::model(|| {
        let gate = Arc::new(Gate::default());
        gate.renew(books(2), true);
        let taker = {
            let gate = Arc::clone(&gate);
            thread::spawn(move || u32::from(gate.take()) + u32::from(gate.take()))
        };
        // One candidate is queued, so a third slot that the books know of may not be shown yet.
        gate.renew(books(3), false);
        let taken = taker.join().expect("no panic");
        assert_eq!(taken + gate.view().count, 2);
    });
}

/// The end of a wave closes the gate at once; a take that is under way may still pass, and what it
/// gives back never makes the wave run again.
#[test]
fn a_closed_gate_stays_closed() {
    loom::model(|| {
        let gate = Arc::new(Gate::default());
        gate.renew(books(2), true);
        let taker = {
            let gate = Arc::clone(&gate);
            thread::spawn(move || {
                if gate.take() {
                    gate.give_back();
                }
            })
        };
        gate.renew(GateView::default(), false);
        taker.join().expect("no panic");
        let view = gate.view();
        assert!(!view.running);
        assert!(view.count <= 1, "only what was given back after the end");
        // The issuer's next look, with nothing in its queue, heals it.
        gate.renew(GateView::default(), true);
        assert!(!gate.take());
    });
}

/// Any number of slots and any set of sponsors may be seen together, for the issuer decides by its
/// books; but nobody sees slots of a wave that was never published.
#[test]
fn a_view_is_made_of_what_was_published() {
    loom::model(|| {
        let gate = Arc::new(Gate::default());
        let reader = {
            let gate = Arc::clone(&gate);
            thread::spawn(move || gate.view())
        };
        gate.renew(GateView { sponsors: SponsorSet(6), count: 2, running: true }, true);
        let view = reader.join().expect("no panic");
        assert!(view.count == 0 || view.count == 2);
        assert!(view.sponsors.0 == 0 || view.sponsors.0 == 6);
        assert!(view.count == 0 || view.running);
    });
}
