//! Events of the journal: what the issuer decided, in order (journal-file.md 5).
//!
//! The journal is written by one thread and read by restarts, audits and people.

use crate::{
    Fen, Incarnation, PacketIndex, WallTime, WaveIndex, WireError,
    codec::{Put, Reader},
    ticket::{TICKET_BODY_BYTES, TicketBody},
};

/// First bytes of a journal segment.
pub const MAGIC: [u8; 8] = *b"YAOJRNL\0";

/// Why packets were skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum SkipReason {
    /// A start jumped to H: they were below it and nobody knows whether they were issued.
    Restart = 1,
    /// Nobody eligible took them within 60 s of their winning moment.
    Waited = 2,
    /// They belonged to a grant that was burnt: nobody knows whether its holder issued them (M4).
    Burnt = 3,
}

/// One event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A process began to write.
    Start {
        /// The process life.
        incarnation: Incarnation,
        /// The kernel's boot id.
        boot_id: [u8; 16],
        /// When.
        at: WallTime,
    },
    /// The cursor of a wave was raised and is on disk.
    Reserve {
        /// The wave.
        wave: WaveIndex,
        /// The new H, a position in the section.
        high: u32,
        /// When.
        at: WallTime,
    },
    /// A packet was issued: the body of its ticket.
    Issue(TicketBody),
    /// Packets that will not be issued in this run of the wave; reclaimable.
    Skip {
        /// The wave.
        wave: WaveIndex,
        /// Why.
        reason: SkipReason,
        /// Index in the shard of the first one.
        first: PacketIndex,
        /// How many.
        count: u32,
        /// When.
        at: WallTime,
    },
    /// The wave is over: what was not issued stays unissued.
    Close {
        /// The wave.
        wave: WaveIndex,
        /// Packets left.
        unissued: u32,
        /// Their sum, where their records were read; 0 otherwise.
        sum: Fen,
        /// When.
        at: WallTime,
    },
    /// A grant is on disk in the wave's cursor: what is issued from now on is issued by it.
    Grant {
        /// The wave.
        wave: WaveIndex,
        /// Which grant.
        id: u64,
        /// Position of the first packet.
        lo: u32,
        /// Position behind the last one.
        hi: u32,
        /// To whom settlement granted it.
        holder: Incarnation,
        /// Until when, by settlement's clock.
        not_after: WallTime,
        /// When it came into force.
        at: WallTime,
    },
    /// Persisting failed; nothing is issued from now on.
    Fence {
        /// Which file failed: 1 cursor, 2 seed file. (A failed journal cannot say so.)
        place: u8,
        /// When.
        at: WallTime,
    },
}

mod kind {
    pub(super) const START: u8 = 1;
    pub(super) const RESERVE: u8 = 2;
    pub(super) const ISSUE: u8 = 3;
    pub(super) const SKIP: u8 = 4;
    pub(super) const CLOSE: u8 = 5;
    pub(super) const FENCE: u8 = 6;
    /// Its number leaves room, for 7 is published as a kind that does not exist.
    pub(super) const GRANT: u8 = 16;
}

impl Event {
    /// The record kind and payload of this event.
    #[must_use]
    pub fn encode(&self) -> (u8, Vec<u8>) {
        let mut out = Vec::with_capacity(TICKET_BODY_BYTES);
        let kind = match self {
            Self::Start { incarnation, boot_id, at } => {
                out.put(&incarnation.0);
                out.put(boot_id);
                out.put_u64(at.0);
                kind::START
            }
            Self::Reserve { wave, high, at } => {
                out.put_u16(wave.0);
                out.put_u16(0);
                out.put_u32(*high);
                out.put_u64(at.0);
                kind::RESERVE
            }
            Self::Issue(body) => {
                out.put(&body.encode());
                kind::ISSUE
            }
            Self::Skip { wave, reason, first, count, at } => {
                out.put_u16(wave.0);
                out.put(&[*reason as u8, 0]);
                out.put_u32(first.0);
                out.put_u32(*count);
                out.put_u32(0);
                out.put_u64(at.0);
                kind::SKIP
            }
            Self::Close { wave, unissued, sum, at } => {
                out.put_u16(wave.0);
                out.put_u16(0);
                out.put_u32(*unissued);
                out.put_u64(sum.0);
                out.put_u64(at.0);
                kind::CLOSE
            }
            Self::Grant { wave, id, lo, hi, holder, not_after, at } => {
                out.put_u16(wave.0);
                out.put_u16(0);
                out.put_u32(*lo);
                out.put_u32(*hi);
                out.put_u32(0);
                out.put_u64(*id);
                out.put_u64(not_after.0);
                out.put(&holder.0);
                out.put_u64(at.0);
                kind::GRANT
            }
            Self::Fence { place, at } => {
                out.put(&[*place, 0, 0, 0, 0, 0, 0, 0]);
                out.put_u64(at.0);
                kind::FENCE
            }
        };
        (kind, out)
    }

    /// Reads the event in a record.
    ///
    /// # Errors
    /// An unknown kind, and every field that is out of range.
    pub fn decode(kind: u8, payload: &[u8]) -> Result<Self, WireError> {
        let mut r = Reader::new("a journal event", payload);
        let event = match kind {
            kind::START => Self::Start {
                incarnation: Incarnation(r.array()?),
                boot_id: r.array()?,
                at: WallTime(r.u64()?),
            },
            kind::RESERVE => {
                let wave = WaveIndex(r.u16()?);
                r.reserved::<2>()?;
                Self::Reserve { wave, high: r.u32()?, at: WallTime(r.u64()?) }
            }
            kind::ISSUE => Self::Issue(TicketBody::decode(&r.array()?)?),
            kind::SKIP => {
                let wave = WaveIndex(r.u16()?);
                let reason = match r.u8()? {
                    1 => SkipReason::Restart,
                    2 => SkipReason::Waited,
                    3 => SkipReason::Burnt,
                    n => {
                        return Err(WireError::Value { field: "skip reason", value: u64::from(n) });
                    }
                };
                r.reserved::<1>()?;
                let (first, count) = (PacketIndex(r.u32()?), r.u32()?);
                r.reserved::<4>()?;
                if first.0.checked_add(count).is_none() {
                    return Err(WireError::Value { field: "skip count", value: u64::from(count) });
                }
                Self::Skip { wave, reason, first, count, at: WallTime(r.u64()?) }
            }
            kind::CLOSE => {
                let wave = WaveIndex(r.u16()?);
                r.reserved::<2>()?;
                let unissued = r.u32()?;
                Self::Close { wave, unissued, sum: Fen(r.u64()?), at: WallTime(r.u64()?) }
            }
            kind::GRANT => {
                let wave = WaveIndex(r.u16()?);
                r.reserved::<2>()?;
                let (lo, hi) = (r.u32()?, r.u32()?);
                r.reserved::<4>()?;
                if hi < lo {
                    return Err(WireError::Value { field: "hi", value: u64::from(hi) });
                }
                let (id, not_after) = (r.u64()?, WallTime(r.u64()?));
                let holder = Incarnation(r.array()?);
                Self::Grant { wave, id, lo, hi, holder, not_after, at: WallTime(r.u64()?) }
            }
            kind::FENCE => {
                let place = r.u8()?;
                if !(1..=2).contains(&place) {
                    return Err(WireError::Value { field: "fence place", value: u64::from(place) });
                }
                r.reserved::<7>()?;
                Self::Fence { place, at: WallTime(r.u64()?) }
            }
            other => {
                return Err(WireError::Value { field: "journal kind", value: u64::from(other) });
            }
        };
        r.finish()?;
        Ok(event)
    }
}
