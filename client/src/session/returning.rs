//! The reconnect ticket: the newest is kept, shown once in place of the session token, and
//! forgotten, unless the node says that it did not use it. A ticket that is refused costs one
//! attempt: the next one shows the session token, to the same node.

use super::Session;
use crate::{
    limits::AUTH_FAILED_COUNT_MAX,
    reconnect::Retry,
    time::Timestamp,
    wallet::{ReconnectSecret, Record},
};
use yao_protocol::reconnect::{RECONNECT_BYTES, ReconnectTicket};

/// What is known of the ticket in the wallet.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Returning {
    /// When the ticket ends, by our clock; `None` for one from an earlier life of the app, whose
    /// age is not known. That one is tried: the server knows.
    until: Option<Timestamp>,
    /// The ticket that the last HELLO showed.
    shown: Option<ReconnectSecret>,
}

impl Session {
    /// Whether the next greeting is about the session token, for no reconnect ticket is held.
    #[must_use]
    pub const fn needs_token(&self) -> bool {
        self.wallet.reconnect().is_none()
    }

    /// Whether the tally may be what was not believed, so that the same token is worth another
    /// attempt: the tally is left out in the end.
    #[must_use]
    pub fn may_tally_be_at_fault(&self) -> bool {
        let shown = 1..=AUTH_FAILED_COUNT_MAX;
        self.wallet.tally().is_some() && shown.contains(&self.auth_failed_count)
    }

    /// What the next HELLO shows: the ticket, which is forgotten by that, or else `token`.
    pub(super) fn credential(&mut self, now: Timestamp, token: &str) -> Vec<u8> {
        let held = self.wallet.reconnect();
        // Without a token even an old ticket is worth the attempt.
        let over = !token.is_empty() && self.returning.until.is_some_and(|until| now >= until);
        // Before it is sent: a ticket is used once, also when its answer is lost.
        self.persist(Record::Reconnect(None));
        let shown = held.filter(|_| !over);
        // The time stays with it: it may come back (`handle_not_used`).
        self.returning.shown = shown;
        shown.map_or_else(|| token.as_bytes().to_vec(), |ticket| ticket.0.to_vec())
    }

    /// A ticket came. One that this build cannot read is left: the session token does as well.
    pub(super) fn handle_reconnect(&mut self, now: Timestamp, bytes: &[u8; RECONNECT_BYTES]) {
        if let Ok(ticket) = ReconnectTicket::peek(bytes) {
            let life_ms = ticket.expires_at.us_since(ticket.issued_at) / 1_000;
            self.returning.until = Some(now.plus_ms(life_ms));
            self.persist(Record::Reconnect(Some(ReconnectSecret(*bytes))));
        }
    }

    /// The greeting was answered with GOAWAY: the ticket that it showed was not used (wire.md 5.6),
    /// and serves again.
    pub(super) fn handle_not_used(&mut self, now: Timestamp) {
        let over = self.returning.until.is_some_and(|until| now >= until);
        if let Some(ticket) = self.returning.shown.take().filter(|_| !over) {
            self.persist(Record::Reconnect(Some(ticket)));
        }
    }

    /// The greeting was not believed. When it showed a ticket, nothing is said about the session
    /// token, nor about the tally, nor about the node: come back to it with them. Else `None`.
    pub(super) const fn handle_not_believed(&mut self) -> Option<Retry> {
        if self.returning.shown.take().is_some() {
            return Some(Retry::WithToken);
        }
        self.auth_failed_count += 1;
        None
    }
}
