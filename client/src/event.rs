//! What the app hears from the client.

use crate::{error::Error, link::Transport};
use yao_protocol::{
    PacketId, ShakeId,
    client::{ErrorCode, GoAwayReason, NoWinReason},
    receipt::{RECEIPT_BYTES, Receipt},
    ticket::Ticket,
};

/// Something the app may want to show. Small: rare and large contents are boxed, because every
/// client keeps a queue of these.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The session is open.
    Connected {
        /// By what.
        transport: Transport,
        /// With which endpoint of the list.
        endpoint: String,
        /// The least time between two shakes that reach the server, ms.
        shake_interval_ms: u32,
        /// Packets a user may win in the campaign.
        wins_per_user: u8,
    },
    /// The show's current cue changed: another greeting is due.
    Cue(u16),
    /// A shake was answered: nothing this time.
    NoWin {
        /// The draw.
        shake: ShakeId,
        /// The cue whose greeting to show.
        cue: u16,
        /// Why.
        reason: NoWinReason,
    },
    /// A shake was not drawn, because it came too soon or the server is busy. It is not lost: it
    /// is merged into the next one, which goes out when the interval is over.
    Throttled {
        /// Until the next shake reaches the server, ms.
        interval_ms: u32,
        /// Why.
        reason: NoWinReason,
    },
    /// A packet was won; its ticket is in the store. Told once per packet.
    Won(Box<Ticket>),
    /// An open was accepted and will be settled; its receipt is in the store. That it is settled
    /// is not told on this link (wire.md 4.5): no event says so.
    Opened(Box<Opened>),
    /// An open was refused for good.
    OpenRefused {
        /// The packet.
        packet: PacketId,
        /// Why.
        code: ErrorCode,
    },
    /// The server asked the client to leave; it will, and comes back by itself where it may.
    GoAway(GoAwayReason),
    /// The connection ended, or could not be made; the client tries again by itself.
    Disconnected {
        /// Why.
        error: Error,
        /// When the next attempt starts, ms from now.
        retry_ms: u64,
    },
    /// The client has ended and will do nothing any more: always the last event.
    Stopped(Error),
}

impl Event {
    /// Whether the event is about money or final, and so must reach the app even if it is slow;
    /// the others describe a passing state and are dropped when the app's queue is full.
    #[must_use]
    pub const fn must_arrive(&self) -> bool {
        matches!(self, Self::Won(_) | Self::Opened(_) | Self::OpenRefused { .. } | Self::Stopped(_))
    }
}

/// An accepted open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// What the receipt says; the client has no key to check it, an auditor has.
    pub receipt: Receipt,
    /// The 72 bytes of the receipt.
    pub proof: [u8; RECEIPT_BYTES],
}
