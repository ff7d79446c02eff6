//! Who may come in: connections whose peer is not known yet have a budget of their own, and so has
//! the rate at which they come. One per thread of sessions, with the thread's share.
//!
//! An address is a reason to refuse only under pressure, and only when it has more than its share:
//! thousands of phones may stand behind one address of a carrier. Never here: sockets, clocks.

use crate::time::Timestamp;
// Addresses only: the sockets are in `std`.
use core::net::IpAddr;
use hashbrown::HashMap;

/// The budgets. Of one thread when given to [`Admission`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdmissionLimits {
    /// Connections whose session is not open, at most; 0 = no limit.
    pub connections_max: u32,
    /// Newcomers a second, sustained; 0 = no limit.
    pub handshakes_per_second: u32,
    /// Newcomers at once, after a time of rest. At least 1.
    pub burst: u32,
    /// Not open, or come within a second, from one address before it is refused first.
    pub per_address: u32,
}

impl AdmissionLimits {
    /// Lets everybody in.
    pub const NONE: Self =
        Self { connections_max: 0, handshakes_per_second: 0, burst: 1, per_address: u32::MAX };

    /// The share of one of `threads` threads: the kernel spreads newcomers evenly over them.
    #[must_use]
    pub fn share(self, threads: u32) -> Self {
        let threads = threads.max(1);
        Self {
            connections_max: self.connections_max.div_ceil(threads),
            handshakes_per_second: self.handshakes_per_second.div_ceil(threads),
            burst: self.burst.div_ceil(threads).max(1),
            per_address: self.per_address.div_ceil(threads).max(1),
        }
    }
}

/// Where a connection comes from, as far as budgets care: an IPv4 address, or the /64 of an IPv6
/// one, of which a household has at least one whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Origin(u64);

impl Origin {
    /// The origin of `address`; an IPv4 address is the same however it is written.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            // No global unicast address begins with 16 one bits.
            IpAddr::V4(address) => Self(0xffff_0000_0000_0000 | u64::from(address.to_bits())),
            IpAddr::V6(address) => Self((address.to_bits() >> 64) as u64),
        }
    }
}

/// What to do with a newcomer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Let it in.
    Admit,
    /// Let it first prove that it hears us at its address (QUIC: Retry), at no cost of ours.
    Prove,
    /// Close it at once, before any cryptography.
    Refuse(RefusedBy),
}

/// Which budget is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusedBy {
    /// Connections whose session is not open.
    Connections,
    /// Newcomers a second.
    Rate,
    /// Its address has more than its share, and the others need room.
    Address,
}

/// Ns in a second: a newcomer costs so many credits, a ns gives `handshakes_per_second`.
const SECOND_NS: u64 = 1_000_000_000;

#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    /// Its connections that are not open.
    held: u32,
    /// Come in the second numbered `second`.
    recent: u32,
    second: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Admission {
    limits: AdmissionLimits,
    /// Credits of the token bucket, in newcomers x [`SECOND_NS`].
    credit: u64,
    credit_at: Timestamp,
    /// Connections that are not open, by slot; `None` until a balancer has named the origin.
    waiting: HashMap<u32, Option<Origin>>,
    /// Invariant: at most as many as are waiting and came within two seconds.
    origins: HashMap<Origin, Seen>,
    /// The second of the last sweep over `origins`.
    swept: u64,
}

impl Admission {
    /// Nobody has come yet; a whole burst may.
    #[must_use]
    pub fn new(limits: AdmissionLimits, now: Timestamp) -> Self {
        let mut admission = Self {
            limits,
            credit: 0,
            credit_at: now,
            waiting: HashMap::new(),
            origins: HashMap::new(),
            swept: 0,
        };
        admission.credit = admission.credit_max();
        admission
    }

    /// Changes the budgets; who is in stays in.
    pub fn limits_set(&mut self, limits: AdmissionLimits) {
        let full = self.credit == self.credit_max();
        self.limits = limits;
        let most = self.credit_max();
        self.credit = if full { most } else { self.credit.min(most) };
    }

    /// Connections whose session is not open.
    #[must_use]
    pub fn waiting(&self) -> u32 {
        u32::try_from(self.waiting.len()).expect("slots are numbered by u32")
    }

    /// A newcomer from `origin`, if that is known already. `proven`: it has shown that it hears us
    /// there, as TCP does by itself. [`Decision::Admit`] uses up its place in the rate;
    /// [`Admission::enter`] must follow if it gets a slot.
    pub fn decide(&mut self, now: Timestamp, origin: Option<Origin>, proven: bool) -> Decision {
        self.refill(now);
        let limits = self.limits;
        if limits.connections_max > 0 && self.waiting() >= limits.connections_max {
            return Decision::Refuse(RefusedBy::Connections);
        }
        let rated = limits.handshakes_per_second > 0;
        if rated && self.credit < SECOND_NS {
            return Decision::Refuse(RefusedBy::Rate);
        }
        if self.is_pressed() {
            if !proven {
                return Decision::Prove;
            }
            if origin.is_some_and(|origin| self.has_its_share(now, origin)) {
                return Decision::Refuse(RefusedBy::Address);
            }
        }
        if rated {
            self.credit -= SECOND_NS;
        }
        Decision::Admit
    }

    /// Whether the last quarter of a budget is being used: from here on the last places are for
    /// addresses that have few.
    #[must_use]
    pub fn is_pressed(&self) -> bool {
        let AdmissionLimits { connections_max, handshakes_per_second, .. } = self.limits;
        let crowded =
            connections_max > 0 && u64::from(self.waiting()) * 4 >= u64::from(connections_max) * 3;
        crowded || (handshakes_per_second > 0 && self.credit < self.credit_max() / 4)
    }

    /// The admitted newcomer has `slot`.
    pub fn enter(&mut self, now: Timestamp, slot: u32, origin: Option<Origin>) {
        self.leave(slot);
        self.waiting.insert(slot, origin);
        if let Some(origin) = origin {
            self.count(now, origin);
        }
    }

    /// A balancer says that the connection in `slot` comes from `origin`. `false` when that one
    /// has more than its share and others need the room: close it.
    pub fn name(&mut self, now: Timestamp, slot: u32, origin: Origin) -> bool {
        let Some(named) = self.waiting.get_mut(&slot) else { return true };
        if named.is_some() {
            return true;
        }
        *named = Some(origin);
        let refused = self.is_pressed() && self.has_its_share(now, origin);
        self.count(now, origin);
        if refused && self.limits.handshakes_per_second > 0 {
            // Its place in the rate is another's: one address must not use up all of them.
            self.credit = (self.credit + SECOND_NS).min(self.credit_max());
        }
        !refused
    }

    /// The session in `slot` is open, or the connection is gone. Harmless when said again.
    pub fn leave(&mut self, slot: u32) {
        let Some(Some(origin)) = self.waiting.remove(&slot) else { return };
        if let Some(seen) = self.origins.get_mut(&origin) {
            seen.held = seen.held.saturating_sub(1);
        }
    }

    #[expect(clippy::disallowed_methods, reason = "forgetting is the same in any order")]
    fn count(&mut self, now: Timestamp, origin: Origin) {
        let second = now.as_ns() / SECOND_NS;
        if second != self.swept {
            self.swept = second;
            self.origins.retain(|_, seen| seen.held > 0 || seen.second == second);
        }
        let seen = self.origins.entry(origin).or_default();
        seen.held += 1;
        seen.recent = if seen.second == second { seen.recent + 1 } else { 1 };
        seen.second = second;
    }

    fn has_its_share(&self, now: Timestamp, origin: Origin) -> bool {
        let Some(seen) = self.origins.get(&origin) else { return false };
        let recent = if seen.second == now.as_ns() / SECOND_NS { seen.recent } else { 0 };
        seen.held.max(recent) >= self.limits.per_address
    }

    fn credit_max(&self) -> u64 {
        u64::from(self.limits.burst.max(1)) * SECOND_NS
    }

    fn refill(&mut self, now: Timestamp) {
        let gained = now
            .ns_since(self.credit_at)
            .saturating_mul(u64::from(self.limits.handshakes_per_second));
        self.credit = self.credit.saturating_add(gained).min(self.credit_max());
        self.credit_at = self.credit_at.max(now);
    }
}

#[cfg(test)]
mod tests;
