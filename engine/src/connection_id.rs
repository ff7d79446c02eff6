//! Which connection: thread, slot and number. Pointer-free, so that it can cross threads.

/// Connections that may be accepted between one and a later one that opens first. Chosen as a
/// multiple of what a node accepts in the longest time from accept to WELCOME, half a minute; small
/// beside 2^32, so that numbers may wrap.
const OVERTAKEN_BY_MAX: u32 = 1 << 24;

/// Names one connection of a node until it closes; a later one in the same slot has another number,
/// so that an answer that comes too late finds nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnectionId {
    /// The shard thread that owns it.
    pub thread: u16,
    /// Its slot in that thread's table.
    pub slot: u32,
    /// The how-manieth connection it is that the process accepted; wraps.
    pub number: u32,
}

impl ConnectionId {
    /// Whether this connection, which is heard of now, was accepted before `open`, which was heard
    /// of earlier.
    #[must_use]
    pub const fn is_overtaken_by(self, open: Self) -> bool {
        let ahead = open.number.wrapping_sub(self.number);
        ahead != 0 && ahead <= OVERTAKEN_BY_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_numbers_survives_their_wrapping() {
        let connection = |number| ConnectionId { thread: 0, slot: 0, number };
        let check = |opens: u32, open: u32, overtaken: bool| {
            let found = connection(opens).is_overtaken_by(connection(open));
            assert_eq!(found, overtaken, "{opens} opens while {open} is open");
        };
        check(5, 6, true);
        check(6, 5, false);
        check(u32::MAX, 3, true);
        check(3, u32::MAX, false);
        // A session that lasts, while billions come and go, is the older one all the same.
        check(3, 3 + (1 << 24), true);
        check(3, 4 + (1 << 24), false);
    }
}
