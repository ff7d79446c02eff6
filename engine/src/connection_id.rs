//! Which connection: thread, slot and generation. Pointer-free, so that it can cross threads.

/// Names one connection of a node until it closes; a later one in the same slot has another
/// generation, so that an answer that comes too late finds nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnectionId {
    /// The shard thread that owns it.
    pub thread: u16,
    /// Its slot in that thread's table.
    pub slot: u32,
    /// How often the slot was used before.
    pub generation: u32,
}
