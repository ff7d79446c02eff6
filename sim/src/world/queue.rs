//! What will happen, in its order: by time, and of one time in the order in which it was planned.

use std::{cmp::Reverse, collections::BinaryHeap};

/// When something is due, ns, and its number.
pub(super) type Place = (u64, u64);

/// Things with their times. What is sorted is their places: the things, which are big, lie still.
#[derive(Debug)]
pub(super) struct Queue<T> {
    /// Places, and the slots in which their things lie.
    order: BinaryHeap<Reverse<(Place, usize)>>,
    slots: Vec<Option<T>>,
    free: Vec<usize>,
    planned: u64,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self { order: BinaryHeap::new(), slots: Vec::new(), free: Vec::new(), planned: 0 }
    }
}

impl<T> Queue<T> {
    /// Plans `thing` for the time `at`.
    pub(super) fn push(&mut self, at: u64, thing: T) {
        let place = self.place(at);
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.slots[slot] = Some(thing);
        self.order.push(Reverse((place, slot)));
    }

    /// A place behind all that were planned for `at` so far, for a thing that lies elsewhere.
    pub(super) const fn place(&mut self, at: u64) -> Place {
        self.planned += 1;
        (at, self.planned)
    }

    /// The place of what is due next.
    pub(super) fn next(&self) -> Option<Place> {
        self.order.peek().map(|Reverse((place, _))| *place)
    }

    /// What is due next, and when.
    pub(super) fn pop(&mut self) -> Option<(u64, T)> {
        let Reverse(((at, _), slot)) = self.order.pop()?;
        let thing = self.slots[slot].take().expect("each place has its thing");
        self.free.push(slot);
        Some((at, thing))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    #[test]
    fn things_come_by_time_and_of_one_time_as_they_were_planned() {
        let (mut queue, mut random) = (Queue::default(), Random::new(1));
        let (mut expected, mut number, mut now) = (Vec::new(), 0, 0);
        for _ in 0..1_000 {
            for _ in 0..random.below(4) {
                number += 1;
                let at = now + random.below(5);
                queue.push(at, number);
                expected.push((at, number));
            }
            for _ in 0..random.below(4) {
                expected.sort_unstable();
                let first = (!expected.is_empty()).then(|| expected.remove(0));
                assert_eq!(queue.pop(), first);
                now = first.map_or(now, |(at, _)| at);
            }
        }
        assert!(queue.slots.len() < 500, "slots are used again");
    }
}
