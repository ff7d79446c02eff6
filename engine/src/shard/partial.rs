//! Incomplete frames: the only bytes a connection ever keeps, and only while a frame is cut.

use super::{connection::NONE, wheel};
use crate::time::Timestamp;

/// The start of a frame whose end has not arrived.
#[derive(Debug)]
pub(super) struct Partial {
    pub(super) bytes: Vec<u8>,
    /// Wheel tick at which the first byte came.
    pub(super) since_tick: u32,
}

/// Incomplete frames by index; freed places are used again.
#[derive(Debug, Default)]
pub(super) struct Partials {
    places: Vec<Option<Partial>>,
    free: Vec<u32>,
    bytes: usize,
}

impl Partials {
    /// Keeps the bytes of a cut frame and returns their index.
    pub(super) fn keep(&mut self, now: Timestamp, bytes: Vec<u8>) -> u32 {
        self.bytes += bytes.capacity();
        let partial = Some(Partial { bytes, since_tick: wheel::tick_of(now) });
        match self.free.pop() {
            Some(index) => {
                self.places[index as usize] = partial;
                index
            }
            None => {
                self.places.push(partial);
                u32::try_from(self.places.len() - 1).expect("one per connection at most")
            }
        }
    }

    /// The partial at `index`, if one is there.
    pub(super) fn look(&self, index: u32) -> Option<&Partial> {
        self.places.get(index as usize).and_then(Option::as_ref)
    }

    /// Takes the partial at `index` out; `NONE` holds none.
    pub(super) fn take(&mut self, index: u32) -> Option<Partial> {
        if index == NONE {
            return None;
        }
        let partial = self.places.get_mut(index as usize).and_then(Option::take)?;
        self.bytes -= partial.bytes.capacity();
        self.free.push(index);
        Some(partial)
    }

    /// Puts a partial back that is still incomplete; it keeps its age.
    pub(super) fn put_back(&mut self, partial: Partial) -> u32 {
        let since_tick = partial.since_tick;
        let index = self.keep(Timestamp::from_ns(0), partial.bytes);
        if let Some(place) = self.places[index as usize].as_mut() {
            place.since_tick = since_tick;
        }
        index
    }

    /// Incomplete frames there are.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.places.iter().flatten().count()
    }

    /// Bytes kept in all, as the allocator was asked for them.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }
}
