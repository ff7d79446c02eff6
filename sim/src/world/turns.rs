//! When the threads of a node take their turns. Turns lie here and not in the queue, because most
//! of them are put forward before they are taken.

use super::queue::Place;
use crate::node::Thread;

/// Behind everything that is planned.
const NEVER: Place = (u64::MAX, u64::MAX);

/// The next turn of each thread of one node.
#[derive(Debug)]
pub(super) struct Turns {
    places: [Place; Thread::ALL.len()],
    /// The soonest of them, and whose it is.
    next: (Place, Thread),
}

impl Turns {
    /// No thread has a turn.
    pub(super) const NONE: Self =
        Self { places: [NEVER; Thread::ALL.len()], next: (NEVER, Thread::ALL[0]) };

    /// When the thread's turn is, ns; [`u64::MAX`] when it has none.
    pub(super) const fn at(&self, thread: Thread) -> u64 {
        self.places[thread as usize].0
    }

    /// The thread's turn is then, and not when it was before.
    pub(super) fn give(&mut self, thread: Thread, place: Place) {
        self.places[thread as usize] = place;
        self.sort();
    }

    /// The thread has no turn any more.
    pub(super) fn take(&mut self, thread: Thread) {
        self.give(thread, NEVER);
    }

    /// The soonest turn, and whose it is.
    pub(super) fn next(&self) -> Option<(Place, Thread)> {
        (self.next.0 != NEVER).then_some(self.next)
    }

    fn sort(&mut self) {
        let all = self.places.into_iter().zip(Thread::ALL);
        self.next = all.min_by_key(|(place, _)| *place).expect("there are threads");
    }
}
