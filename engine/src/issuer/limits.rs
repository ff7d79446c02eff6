//! The issuer's numbers, each with its unit and its reason.

/// What waits longer in its sponsor's queue is skipped, ns (DESIGN, "Release": 60 s).
pub(super) const QUEUE_WAIT_NS: u64 = 60 * 1_000_000_000;
/// Reserving begins this long before T0, us, so that the first packet is there at its moment.
pub(super) const LEAD_US: u64 = 10 * 1_000_000;
/// Credit is capped at what is earned in this time, ns.
pub(super) const CREDIT_NS: u64 = 1_000_000_000;
/// Issue credit is capped at a second's packets, but at no less than this many, so that a slow wave
/// is not held up.
pub(super) const CREDIT_PACKETS_MIN: u64 = 2;
/// While a backlog waits for credit the books are stepped this often, ns.
pub(super) const CATCH_UP_STEP_NS: u64 = 10 * 1_000_000;
/// Steps lie at least this far apart, ns: lag below a millisecond is nobody's concern.
pub(super) const STEP_NS_MIN: u64 = 500_000;
/// Wins and opens are vetted by different desks: the top bit of a call tells them apart.
pub(super) const CALL_FIRST: u64 = 1;

const _: () = assert!(STEP_NS_MIN < CATCH_UP_STEP_NS && CATCH_UP_STEP_NS <= 10 * 1_000_000);
