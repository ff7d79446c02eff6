//! Reconnect tickets: believed at HELLO where they lie, handed out behind WELCOME, renewed behind a
//! PONG. Whether one was used before is the shell's to say ([`Effect::ClaimReconnect`]), and
//! whether a session is still its user's ([`Effect::RenewReconnect`]): one that was replaced, and
//! did not hear of it, must not mint what opens the next.

use super::{Broken, Effect, ShardEngine, State, Surroundings, session::NOT_BELIEVED};
use crate::ConnectionId;
use yao_protocol::{
    UserId, WallTime, client,
    reconnect::{ReconnectKeys, ReconnectTicket},
    token::{Bearer, Identity},
};

/// How reconnect tickets are made and checked.
#[derive(Clone, Debug)]
pub struct Reconnect {
    /// The first signs, all verify; the same on every node.
    pub keys: ReconnectKeys,
    /// Life of a ticket, seconds.
    pub lifetime_seconds: u32,
}

/// What is known of a session and rarely read: kept beside the connections, so that a shake does
/// not drag it through the cache. Meaningful while the session is open.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cold {
    /// The device of the session token.
    device: u64,
    /// The end of the session token, Unix seconds, at most the year 2106.
    token_expires_seconds: u32,
    /// The next ticket is due from then on, Unix seconds; `NEVER_RENEW` when none is.
    renew_seconds: u32,
    /// The risk class of the session token.
    risk: u8,
}

const _: () = assert!(size_of::<Cold>() <= 24);

/// The next ticket could not live longer than the last one.
const NEVER_RENEW: u32 = u32::MAX;

impl Cold {
    /// What a good token says; a reconnect ticket is due.
    pub(super) fn of(identity: &Identity) -> Self {
        Self {
            device: identity.device,
            token_expires_seconds: seconds(identity.expires_at),
            renew_seconds: 0,
            risk: identity.risk,
        }
    }

    /// What the session token says beside the user.
    pub(super) const fn bearer(&self) -> Bearer {
        Bearer { device: self.device, risk: self.risk }
    }

    const fn identity(&self, user: UserId) -> Identity {
        let expires_at = WallTime::from_seconds(self.token_expires_seconds as u64);
        Identity { user, device: self.device, risk: self.risk, expires_at }
    }
}

/// Unix seconds in 32 bits, enough until 2106.
fn seconds(at: WallTime) -> u32 {
    u32::try_from(at.seconds()).unwrap_or(u32::MAX)
}

impl ShardEngine {
    /// Other keys, or none: from now on only these sign and verify.
    pub fn handle_reconnect_keys(&mut self, reconnect: Option<Reconnect>) {
        self.settings.reconnect = reconnect;
    }

    /// Who the reconnect ticket in a HELLO proves, as an effect: whether it was used before is not
    /// known here.
    pub(super) fn on_reconnect(
        &mut self,
        surroundings: &Surroundings,
        slot: u32,
        ticket: &[u8],
    ) -> Result<Effect, Broken> {
        self.counters.reconnects += 1;
        let reconnect = self.settings.reconnect.as_ref();
        let believed = reconnect.and_then(|it| it.keys.verify(ticket, surroundings.wall).ok());
        let Some(ticket) = believed else {
            self.counters.reconnects_refused += 1;
            self.counters.unauthenticated += 1;
            return Err(NOT_BELIEVED);
        };
        let (connection, identity) = (self.id(slot), ticket.identity());
        Ok(Effect::ClaimReconnect { connection, identity, issued_at: ticket.issued_at })
    }

    /// A ticket is due after WELCOME, and when half of the last one's life is over.
    fn is_reconnect_due(&self, surroundings: &Surroundings, slot: u32) -> bool {
        let renew_seconds = self.table.cold(slot).renew_seconds;
        self.settings.reconnect.is_some()
            && renew_seconds != NEVER_RENEW
            && surroundings.wall.seconds() >= u64::from(renew_seconds)
    }

    /// PONG was said: a ticket may be due.
    pub(super) fn ask_for_renewal(&mut self, surroundings: &Surroundings, slot: u32) {
        if self.is_reconnect_due(surroundings, slot) {
            let (connection, user) = (self.id(slot), self.table.slot(slot).user);
            self.effects.push_back(Effect::RenewReconnect { connection, user });
        }
    }

    /// The connection is still its user's: he gets the ticket that is due.
    pub fn handle_renewal(
        &mut self,
        surroundings: &Surroundings,
        id: ConnectionId,
        out: &mut Vec<u8>,
    ) {
        let Some(connection) = self.table.live_mut(id.slot, id.number) else { return };
        if matches!(connection.state(), State::Open | State::Leaving) {
            self.put_reconnect_due(surroundings, id.slot, out);
        }
    }

    /// Appends a reconnect ticket when one is due.
    pub(super) fn put_reconnect_due(
        &mut self,
        surroundings: &Surroundings,
        slot: u32,
        out: &mut Vec<u8>,
    ) {
        let due = self.is_reconnect_due(surroundings, slot);
        let Some(reconnect) = self.settings.reconnect.as_ref().filter(|_| due) else { return };
        let cold = self.table.cold(slot);
        let identity = cold.identity(self.table.slot(slot).user);
        let lifetime = u64::from(reconnect.lifetime_seconds);
        let ticket = ReconnectTicket::issue(&identity, surroundings.wall, lifetime);
        let renew_at = ticket.and_then(|ticket| ticket.renew_at());
        if let Some(ticket) = ticket {
            client::put_reconnect(out, &reconnect.keys.sign(&ticket));
            self.counters.reconnect_tickets += 1;
        }
        self.table.cold_mut(slot).renew_seconds = renew_at.map_or(NEVER_RENEW, seconds);
    }
}
