//! What the spool has counted since start. Plain numbers; the shell publishes them.

/// Every open that came in is in exactly one of `accepted`, `duplicate` and the `refused_*`, or
/// still waits for its verdict. (An accepted one can be in `refused_fenced` too.)
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Opens that became a record.
    pub accepted: u64,
    /// Opens of a packet that had a record.
    pub duplicate: u64,
    /// Receipts given.
    pub acknowledged: u64,
    /// Refused: the ticket had expired.
    pub refused_expired: u64,
    /// Refused: another user's packet, or another campaign's.
    pub refused_invalid: u64,
    /// Refused: the agent's policy said no.
    pub refused_policy: u64,
    /// Refused: the spool is full, or too many opens wait for the disk.
    pub refused_full: u64,
    /// Refused: a write or sync failed.
    pub refused_fenced: u64,
    /// Syncs that succeeded.
    pub syncs: u64,
    /// Bytes of records synced.
    pub bytes: u64,
    /// Records put into batches of the live lane.
    pub batched_live: u64,
    /// Records put into batches of the backlog.
    pub batched_backlog: u64,
    /// Records with a final answer from settlement.
    pub settled: u64,
    /// Of these: paid now.
    pub applied: u64,
    /// Of these: paid before.
    pub same: u64,
    /// Of these: belongs to another user.
    pub conflict: u64,
    /// Of these: over a limit of the campaign.
    pub over_limit: u64,
    /// Of these: accepted after expiry.
    pub expired: u64,
    /// Of these: not genuine.
    pub invalid: u64,
    /// Of these: voided before their open came, the value given out again.
    pub reclaimed: u64,
    /// Answers that settlement did not sign, or that did not match their batch.
    pub forged_answers: u64,
    /// Batches that did not reach settlement.
    pub undelivered: u64,
    /// Batches whose answer never came in time.
    pub overdue: u64,
    /// Times that segments could not be read.
    pub read_failures: u64,
}
