//! The gate: what the issuer tells the shards, as the engine sees it.
//!
//! The access shell keeps it in atomics; the engine gets its value as input and knows none.

use yao_protocol::SponsorSet;

/// Whether a packet may be won right now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GateView {
    /// Sponsors with a released packet waiting.
    pub sponsors: SponsorSet,
    /// How many candidates may still be sent to the issuer.
    pub count: u32,
    /// Whether any wave is running: decides only which greeting a losing shake gets.
    pub running: bool,
}
