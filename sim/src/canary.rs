//! Planted bugs in what the simulator puts around the production code: a search that does not find
//! them finds nothing (STYLE.md, rule 24). Off unless asked for.

/// The bug that is planted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Canary {
    /// None.
    #[default]
    None,
    /// The disk says "synced" and has not: opens are acknowledged before they are on disk.
    SyncLies,
    /// After a power cut the cursor files are made anew, as by `init`: the node starts at 0.
    StartsAtZero,
    /// Settlement forgets a tenth of the batches that it has answered.
    LedgerForgets,
    /// Settlement tells a node that burns that its range begins at its own H.
    BurnsNothing,
    /// Nodes are told that waves begin a moment earlier than they do.
    EarlyStart,
    /// A node that is started again hears nothing of the last wave.
    NeverAgain,
    /// Settlement pays a user one packet more than it may.
    PaysFour,
    /// What a killed process had written to its journal last is gone from the page cache.
    ForgetsJournal,
}
