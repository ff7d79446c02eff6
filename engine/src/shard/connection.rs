//! One connection of a shard thread: 64 bytes without a pointer, and the states it passes through.

use yao_protocol::{SponsorSet, UserId};

use crate::time::Timestamp;

/// No slot, no partial frame.
pub(super) const NONE: u32 = u32::MAX;

/// Where a session stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// The slot is unused.
    Free,
    /// Connected; what carries the frames (TLS, QUIC) is still being agreed on.
    Securing,
    /// HELLO has not come yet.
    Greeting,
    /// HELLO came; its token is being checked.
    Checking,
    /// WELCOME was sent.
    Open,
    /// GOAWAY was sent; opens are still answered.
    Leaving,
    /// An error that closes was sent, or the peer left: nothing is read any more.
    Closing,
}

impl State {
    /// Every allowed step, as a table (wire.md 1). Anything else is a bug of ours.
    const STEPS: &'static [(Self, Self)] = &[
        (Self::Free, Self::Securing),
        (Self::Free, Self::Greeting),
        (Self::Securing, Self::Greeting),
        (Self::Securing, Self::Closing),
        (Self::Greeting, Self::Checking),
        (Self::Greeting, Self::Closing),
        (Self::Checking, Self::Open),
        (Self::Checking, Self::Closing),
        (Self::Open, Self::Leaving),
        (Self::Open, Self::Closing),
        (Self::Leaving, Self::Closing),
    ];

    /// Whether a session may step from here to `next`; every state may return to `Free`.
    #[must_use]
    pub fn may_become(self, next: Self) -> bool {
        next == Self::Free || Self::STEPS.contains(&(self, next))
    }
}

/// A shake of this session is with the issuer.
const FLAG_PENDING: u8 = 1;
/// HELLO carried a tally.
const FLAG_TALLY: u8 = 2;

/// The session was open once, so the registry knows it.
const FLAG_REGISTERED: u8 = 4;

/// One connection. Kept at 64 bytes so that a million of them are 64 MB (checked below).
#[derive(Clone, Debug)]
pub(super) struct Connection {
    /// Whose session; before `Open`: whose tally HELLO carried.
    pub(super) user: UserId,
    /// Sponsors he has won.
    pub(super) sponsors: SponsorSet,
    /// The next shake is drawn from here on.
    pub(super) shake_from: Timestamp,
    /// Wheel tick of the last frame.
    pub(super) heard_tick: u32,
    /// Wheel tick at which the timer fires; meaningful while linked.
    pub(super) timer_tick: u32,
    /// Neighbours in the wheel's list; in a free slot `timer_next` links the free list.
    pub(super) timer_next: u32,
    /// The other neighbour.
    pub(super) timer_previous: u32,
    /// The how-manieth connection of the process it is.
    pub(super) number: u32,
    /// Index of the incomplete frame, or `NONE`.
    pub(super) partial: u32,
    /// Request id of the HELLO being checked.
    pub(super) hello_request: u32,
    /// Wheel tick from which the next RESEND is taken.
    pub(super) resend_tick: u32,
    /// Where the session stands.
    state: State,
    /// Packets he has won.
    pub(super) wins: u8,
    /// Opens that are with the crypto, spool or agent threads.
    pub(super) opens_in_flight: u8,
    flags: u8,
}

const _: () = assert!(size_of::<Connection>() <= 64);

impl Connection {
    /// An unused slot; `next` continues the free list.
    pub(super) const fn free(next: u32) -> Self {
        Self {
            user: UserId(0),
            sponsors: SponsorSet::EMPTY,
            shake_from: Timestamp::from_ns(0),
            heard_tick: 0,
            timer_tick: 0,
            timer_next: next,
            timer_previous: NONE,
            number: 0,
            partial: NONE,
            hello_request: 0,
            resend_tick: 0,
            state: State::Free,
            wins: 0,
            opens_in_flight: 0,
            flags: 0,
        }
    }

    pub(super) const fn state(&self) -> State {
        self.state
    }

    /// Steps to `next`.
    ///
    /// # Panics
    /// When the table does not allow it: a bug of ours, never the peer's doing.
    pub(super) fn become_state(&mut self, next: State) {
        assert!(self.state.may_become(next), "no step from {:?} to {next:?}", self.state);
        self.state = next;
    }

    pub(super) const fn is_pending(&self) -> bool {
        self.flags & FLAG_PENDING != 0
    }

    pub(super) const fn pending_set(&mut self, pending: bool) {
        self.flags = if pending { self.flags | FLAG_PENDING } else { self.flags & !FLAG_PENDING };
    }

    pub(super) const fn is_registered(&self) -> bool {
        self.flags & FLAG_REGISTERED != 0
    }

    pub(super) const fn registered_set(&mut self) {
        self.flags |= FLAG_REGISTERED;
    }

    pub(super) const fn has_tally(&self) -> bool {
        self.flags & FLAG_TALLY != 0
    }

    pub(super) const fn tally_set(&mut self) {
        self.flags |= FLAG_TALLY;
    }
}
