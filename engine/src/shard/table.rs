//! The connections of one shard thread: pages of slots, so that growing neither moves nor doubles
//! what is there.

use super::{
    connection::{Connection, NONE, State},
    reconnect::Cold,
};

const PAGE_BITS: u32 = 8;
/// Slots of one page. 256 x 64 bytes are four memory pages: little is touched in advance.
const PAGE_SLOTS: u32 = 1 << PAGE_BITS;

/// Slots by number; a freed one is used again before a new page is made.
#[derive(Debug)]
pub(super) struct Table {
    pages: Vec<Box<[Connection]>>,
    /// Of the same shape.
    cold_pages: Vec<Box<[Cold]>>,
    free: u32,
    used: u32,
    slots_max: u32,
}

impl Table {
    /// An empty table for at most `slots_max` connections.
    pub(super) const fn new(slots_max: u32) -> Self {
        Self { pages: Vec::new(), cold_pages: Vec::new(), free: NONE, used: 0, slots_max }
    }

    /// Connections there are.
    pub(super) const fn used(&self) -> u32 {
        self.used
    }

    /// Slots there are, used or free.
    pub(super) fn slots(&self) -> u32 {
        u32::try_from(self.pages.len()).expect("slots_max bounds the pages") << PAGE_BITS
    }

    /// Takes a slot for the connection with this number, or `None` when the table is full.
    pub(super) fn take(&mut self, number: u32) -> Option<u32> {
        if self.used >= self.slots_max {
            return None;
        }
        if self.free == NONE {
            self.grow();
        }
        let slot = self.free;
        let connection = self.slot_mut(slot);
        let next = connection.timer_next;
        connection.timer_next = NONE;
        connection.number = number;
        self.free = next;
        self.used += 1;
        Some(slot)
    }

    /// Gives `slot` back: late answers find nobody, or a connection with another number.
    pub(super) fn give_back(&mut self, slot: u32) {
        let free = self.free;
        let connection = self.slot_mut(slot);
        assert!(connection.state() != State::Free, "slot {slot} is given back once");
        *connection = Connection::free(free);
        self.free = slot;
        self.used -= 1;
    }

    fn grow(&mut self) {
        let first = self.slots();
        let page: Vec<Connection> = (0..PAGE_SLOTS)
            .map(|offset| if offset + 1 == PAGE_SLOTS { NONE } else { first + offset + 1 })
            .map(Connection::free)
            .collect();
        self.pages.push(page.into_boxed_slice());
        self.cold_pages.push(vec![Cold::default(); PAGE_SLOTS as usize].into_boxed_slice());
        self.free = first;
    }

    /// The connection in `slot`, which exists.
    #[inline]
    pub(super) fn slot(&self, slot: u32) -> &Connection {
        &self.pages[(slot >> PAGE_BITS) as usize][(slot & (PAGE_SLOTS - 1)) as usize]
    }

    /// The connection in `slot`, which exists.
    #[inline]
    pub(super) fn slot_mut(&mut self, slot: u32) -> &mut Connection {
        &mut self.pages[(slot >> PAGE_BITS) as usize][(slot & (PAGE_SLOTS - 1)) as usize]
    }

    /// What is rarely read of the connection in `slot`, which exists.
    pub(super) fn cold(&self, slot: u32) -> &Cold {
        &self.cold_pages[(slot >> PAGE_BITS) as usize][(slot & (PAGE_SLOTS - 1)) as usize]
    }

    /// What is rarely read of the connection in `slot`, which exists.
    pub(super) fn cold_mut(&mut self, slot: u32) -> &mut Cold {
        &mut self.cold_pages[(slot >> PAGE_BITS) as usize][(slot & (PAGE_SLOTS - 1)) as usize]
    }

    /// The connection in `slot` if it is used, and has this number.
    pub(super) fn live_mut(&mut self, slot: u32, number: u32) -> Option<&mut Connection> {
        if slot >= self.slots() {
            return None;
        }
        let connection = self.slot_mut(slot);
        let live = connection.number == number && connection.state() != State::Free;
        live.then_some(connection)
    }
}
