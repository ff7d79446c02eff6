//! What a shard thread counts: plain numbers of its own, read by the shell once a second.

/// Counted since the thread began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Sockets accepted.
    pub accepted: u64,
    /// Sockets refused because the thread is full.
    pub refused_full: u64,
    /// Newcomers refused because too many connections were not open.
    pub refused_connections: u64,
    /// Newcomers refused because too many came.
    pub refused_rate: u64,
    /// Newcomers refused because their address had more than its share while others needed room.
    pub refused_address: u64,
    /// Connections that ended.
    pub closed: u64,
    /// Whole frames read.
    pub frames: u64,
    /// Frames that broke the protocol.
    pub malformed: u64,
    /// ERROR frames sent.
    pub refusals: u64,
    /// Sessions opened.
    pub welcomed: u64,
    /// HELLOs whose token or tally was not accepted.
    pub unauthenticated: u64,
    /// Of those, session tokens that no key here can have signed: nobody checked a signature.
    pub tokens_implausible: u64,
    /// HELLOs with a reconnect ticket.
    pub reconnects: u64,
    /// Of those, tickets that are forged, of an unknown key, or too old. Used ones are the shell's
    /// to count.
    pub reconnects_refused: u64,
    /// Reconnect tickets handed out.
    pub reconnect_tickets: u64,
    /// Connections closed because HELLO, a whole frame or a heartbeat did not come in time.
    pub timed_out: u64,
    /// Connections asked to leave because the same user connected again.
    pub replaced: u64,
    /// Sessions asked to leave by a drain.
    pub asked_to_leave: u64,
    /// Of those, sessions that did not leave and were cut off.
    pub overstayed: u64,
    /// HELLOs answered with GOAWAY because no session may open.
    pub turned_away: u64,
    /// SHAKE frames, whatever their answer.
    pub shakes: u64,
    /// Shakes that clients merged into them.
    pub shakes_merged: u64,
    /// Answered: no packet was due.
    pub lost_none_due: u64,
    /// Answered: the user has won as much as he may.
    pub lost_limit: u64,
    /// Answered: no wave is running.
    pub lost_not_running: u64,
    /// Answered: before the interval was over.
    pub lost_too_soon: u64,
    /// Answered: an earlier shake is still being decided.
    pub lost_pending: u64,
    /// Shakes handed to the issuer.
    pub candidates: u64,
    /// RESENDs handed to the issuer.
    pub resends: u64,
    /// Tickets sent.
    pub won: u64,
    /// OPEN frames.
    pub opens: u64,
    /// Receipts sent.
    pub receipts: u64,
}
