//! Messages between the access process and its agent, over unix sockets (wire.md 7).
//!
//! The agent connects twice, once for each [`Role`], so that a slow delivery never delays a vet.
//! Frames are those of the client link, with payloads of up to 65,535 bytes.

use crate::{
    Fen, PacketId, ShakeId, SponsorId, UserId, WireError,
    codec::{Put, Reader},
    frame::{Frame, KIND_OPTIONAL, put_frame},
    token::Bearer,
};

/// Version of the agent link: the highest that this build speaks.
pub const VERSION: u16 = 1;
/// The lowest that it still speaks.
pub const VERSION_MIN: u16 = 1;
const _: () = assert!(VERSION_MIN <= VERSION);

/// The version of a link whose agent speaks `highest` and, it may be, lower ones: the highest that
/// both sides speak. `None` when the agent knows none that this build still speaks. An agent to
/// which the version is too low leaves.
#[must_use]
pub fn agreed(highest: u16) -> Option<u16> {
    (highest >= VERSION_MIN).then(|| highest.min(VERSION))
}
/// Environment variable that hands a spawned agent its [`Greet::proof`], 32 hex digits.
pub const PROOF_VARIABLE: &str = "YAO_AGENT_PROOF";

/// Frame kinds. 0x80 marks those of the access process.
pub mod kind {
    /// First frame of the agent on each socket.
    pub const GREET: u8 = 0x01;
    /// Answer to VET.
    pub const VERDICT: u8 = 0x02;
    /// Settlement's signed answer to a DELIVER.
    pub const DELIVERED: u8 = 0x03;
    /// A DELIVER that did not reach settlement.
    pub const UNDELIVERED: u8 = 0x04;
    /// A compiled policy, JSON.
    pub const POLICY: u8 = 0x05;
    /// The agent has drained and leaves.
    pub const BYE: u8 = 0x06;
    /// Settlement's signed answer to a GRANT_ASK. Optional, as are the two below: a peer of an
    /// earlier build ignores them.
    pub const GRANT_ANSWER: u8 = 0x48;
    /// A GRANT_ASK that did not reach settlement.
    pub const GRANT_UNANSWERED: u8 = 0x49;
    /// The access process accepts the agent's GREET.
    pub const GREETED: u8 = 0x81;
    /// May this be issued, or opened?
    pub const VET: u8 = 0x82;
    /// A settlement batch to deliver.
    pub const DELIVER: u8 = 0x83;
    /// Finish what is in flight, then leave.
    pub const DRAIN: u8 = 0x84;
    /// Whom the next VET is about. Optional: an agent that does not know it judges without.
    pub const STANDING: u8 = 0xc2;
    /// A signed request for a grant, to be carried to settlement.
    pub const GRANT_ASK: u8 = 0xc8;
}

const _: () = assert!(kind::STANDING & KIND_OPTIONAL != 0);

/// What a socket of the agent is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Role {
    /// VET and VERDICT, POLICY.
    Vet = 1,
    /// DELIVER, DELIVERED and UNDELIVERED; GRANT_ASK and its answers.
    Deliver = 2,
}

/// What is vetted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum VetKind {
    /// A winner before the ticket is issued.
    Win = 1,
    /// An open before it is spooled.
    Open = 2,
    /// A test of a newcomer: it must answer yes, for user 0 and amount 1, and no for user 0 and
    /// amount 0.
    Probe = 3,
}

/// The agent introduces itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Greet {
    /// Highest version of the link that it speaks. GREET itself is the same in all versions.
    pub version: u16,
    /// What this socket is for.
    pub role: Role,
    /// Its generation, as it was started.
    pub generation: u32,
    /// The secret it was started with: only a process that we spawned knows it.
    pub proof: [u8; 16],
    /// Its software version, for people.
    pub software: String,
}

/// The question of a VET.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vet {
    /// Repeated in the verdict; unique in one life of the access process.
    pub call: u64,
    /// What is vetted.
    pub kind: VetKind,
    /// Whose win or open.
    pub user: UserId,
    /// The sponsor.
    pub sponsor: SponsorId,
    /// The amount.
    pub amount: Fen,
    /// The packet.
    pub packet: PacketId,
    /// The draw.
    pub shake: ShakeId,
}

/// How the user of a VET stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Device and risk class of the session that asks.
    pub bearer: Bearer,
    /// Packets that the user has won, here and by his tally, without the one in question; 255 is
    /// 255 or more. 0 when the question is about an open.
    pub user_wins: u8,
    /// Packets that were won here on this device or are being decided for it, by whomever, without
    /// the one in question; 255 is 255 or more. 0 when no device is named, and about an open.
    pub device_wins: u8,
}

/// What the agent is asked: VET, and STANDING right before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// What is vetted.
    pub vet: Vet,
    /// How its user stands.
    pub standing: Standing,
}

/// A message of the agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromAgent<'a> {
    /// First on each socket.
    Greet(Greet),
    /// Answer to a VET: the call, and whether it is allowed.
    Verdict {
        /// Which VET.
        call: u64,
        /// Yes or no.
        allowed: bool,
    },
    /// Settlement's signed answer, untouched (see [`crate::settlement::Answer`]).
    Delivered(&'a [u8]),
    /// The batch did not reach settlement; ask again after this long.
    Undelivered {
        /// Milliseconds.
        retry_after_ms: u32,
    },
    /// Settlement's signed answer to a request for a grant, untouched (see
    /// [`crate::grant::GrantAnswer`]).
    GrantAnswer(&'a [u8]),
    /// The request for a grant did not reach settlement; ask again after this long.
    GrantUnanswered {
        /// Milliseconds.
        retry_after_ms: u32,
    },
    /// A policy, JSON (see [`crate::policy::Policy`]).
    Policy(&'a [u8]),
    /// Drained; the socket closes.
    Bye,
}

/// A message of the access process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromAccess<'a> {
    /// GREET was accepted; the highest version that both speak.
    Greeted {
        /// The link version.
        version: u16,
    },
    /// A question.
    Vet(Vet),
    /// About the VET that follows, if it has the same call.
    Standing {
        /// Which VET.
        call: u64,
        /// How its user stands.
        standing: Standing,
    },
    /// A signed settlement batch. The request id is repeated in the answer.
    Deliver(&'a [u8]),
    /// A signed request for a grant (see [`crate::grant::GrantRequest`]). The request id is
    /// repeated in the answer.
    GrantAsk(&'a [u8]),
    /// Finish, then leave.
    Drain,
}

impl<'a> FromAgent<'a> {
    /// Reads the message in `frame`.
    ///
    /// # Errors
    /// An unknown kind, and every field that is out of range.
    pub fn decode(frame: Frame<'a>) -> Result<Self, WireError> {
        let mut r = Reader::new("an agent message", frame.payload);
        let message = match frame.header.kind {
            kind::GREET => Self::Greet(read_greet(&mut r)?),
            kind::VERDICT => {
                let call = r.u64()?;
                let allowed = match r.u8()? {
                    1 => true,
                    2 => false,
                    n => return Err(WireError::Value { field: "verdict", value: u64::from(n) }),
                };
                r.reserved::<7>()?;
                Self::Verdict { call, allowed }
            }
            kind::DELIVERED => return frame.unflagged().map(Self::Delivered),
            kind::UNDELIVERED => Self::Undelivered { retry_after_ms: r.u32()? },
            kind::GRANT_ANSWER => return frame.unflagged().map(Self::GrantAnswer),
            kind::GRANT_UNANSWERED => Self::GrantUnanswered { retry_after_ms: r.u32()? },
            kind::POLICY => return frame.unflagged().map(Self::Policy),
            kind::BYE => Self::Bye,
            other => return Err(WireError::Kind { kind: other }),
        };
        frame.unflagged()?;
        r.finish()?;
        Ok(message)
    }

    /// Appends the frame of this message.
    pub fn put(&self, out: &mut Vec<u8>, request_id: u32) {
        let kind = match self {
            Self::Greet(_) => kind::GREET,
            Self::Verdict { .. } => kind::VERDICT,
            Self::Delivered(_) => kind::DELIVERED,
            Self::Undelivered { .. } => kind::UNDELIVERED,
            Self::GrantAnswer(_) => kind::GRANT_ANSWER,
            Self::GrantUnanswered { .. } => kind::GRANT_UNANSWERED,
            Self::Policy(_) => kind::POLICY,
            Self::Bye => kind::BYE,
        };
        put_frame(out, kind, 0, request_id, |out| match self {
            Self::Greet(greet) => {
                // Cut between characters, else the reader would find no text.
                let end = greet.software.floor_char_boundary(255);
                let software = &greet.software.as_bytes()[..end];
                out.put_u16(greet.version);
                out.put(&[greet.role as u8, 0]);
                out.put_u32(greet.generation);
                out.put(&greet.proof);
                out.put_u8(u8::try_from(software.len()).expect("cut to 255"));
                out.put(software);
            }
            Self::Verdict { call, allowed } => {
                out.put_u64(*call);
                out.put(&[if *allowed { 1 } else { 2 }, 0, 0, 0, 0, 0, 0, 0]);
            }
            Self::Delivered(bytes) | Self::GrantAnswer(bytes) | Self::Policy(bytes) => {
                out.put(bytes);
            }
            Self::Undelivered { retry_after_ms } | Self::GrantUnanswered { retry_after_ms } => {
                out.put_u32(*retry_after_ms);
            }
            Self::Bye => {}
        });
    }
}

fn read_greet(r: &mut Reader<'_>) -> Result<Greet, WireError> {
    let version = r.u16()?;
    let role = match r.u8()? {
        1 => Role::Vet,
        2 => Role::Deliver,
        n => return Err(WireError::Value { field: "role", value: u64::from(n) }),
    };
    r.reserved::<1>()?;
    let generation = r.u32()?;
    let proof = r.array()?;
    let length = usize::from(r.u8()?);
    let software = std::str::from_utf8(r.bytes(length)?)
        .map_err(|_| WireError::Text { field: "the agent's software version" })?
        .to_owned();
    Ok(Greet { version, role, generation, proof, software })
}

impl<'a> FromAccess<'a> {
    /// Reads the message in `frame`.
    ///
    /// # Errors
    /// An unknown kind, and every field that is out of range.
    pub fn decode(frame: Frame<'a>) -> Result<Self, WireError> {
        let mut r = Reader::new("an access message", frame.payload);
        let message = match frame.header.kind {
            kind::GREETED => Self::Greeted { version: r.u16()? },
            kind::VET => Self::Vet(read_vet(&mut r)?),
            kind::STANDING => read_standing(&mut r)?,
            kind::DELIVER => return frame.unflagged().map(Self::Deliver),
            kind::GRANT_ASK => return frame.unflagged().map(Self::GrantAsk),
            kind::DRAIN => Self::Drain,
            other => return Err(WireError::Kind { kind: other }),
        };
        frame.unflagged()?;
        r.finish()?;
        Ok(message)
    }

    /// Appends the frame of this message.
    pub fn put(&self, out: &mut Vec<u8>, request_id: u32) {
        let kind = match self {
            Self::Greeted { .. } => kind::GREETED,
            Self::Vet(_) => kind::VET,
            Self::Standing { .. } => kind::STANDING,
            Self::Deliver(_) => kind::DELIVER,
            Self::GrantAsk(_) => kind::GRANT_ASK,
            Self::Drain => kind::DRAIN,
        };
        put_frame(out, kind, 0, request_id, |out| match self {
            Self::Greeted { version } => out.put_u16(*version),
            Self::Vet(vet) => {
                out.put_u64(vet.call);
                out.put(&[vet.kind as u8, vet.sponsor.number(), 0, 0, 0, 0, 0, 0]);
                out.put_u64(vet.user.0);
                out.put_u64(vet.amount.0);
                out.put_u64(vet.packet.0);
                out.put_u64(vet.shake.0);
            }
            Self::Standing { call, standing } => {
                let Standing { bearer, user_wins, device_wins } = *standing;
                out.put_u64(*call);
                out.put_u64(bearer.device);
                out.put(&[bearer.risk, user_wins, device_wins, 0, 0, 0, 0, 0]);
            }
            Self::Deliver(bytes) | Self::GrantAsk(bytes) => out.put(bytes),
            Self::Drain => {}
        });
    }
}

fn read_vet(r: &mut Reader<'_>) -> Result<Vet, WireError> {
    let call = r.u64()?;
    let kind = match r.u8()? {
        1 => VetKind::Win,
        2 => VetKind::Open,
        3 => VetKind::Probe,
        n => return Err(WireError::Value { field: "vet kind", value: u64::from(n) }),
    };
    let sponsor = r.u8()?;
    let sponsor = SponsorId::new(sponsor)
        .ok_or(WireError::Value { field: "sponsor", value: u64::from(sponsor) })?;
    r.reserved::<6>()?;
    Ok(Vet {
        call,
        kind,
        sponsor,
        user: UserId(r.u64()?),
        amount: Fen(r.u64()?),
        packet: PacketId(r.u64()?),
        shake: ShakeId(r.u64()?),
    })
}

fn read_standing<'a>(r: &mut Reader<'_>) -> Result<FromAccess<'a>, WireError> {
    let (call, device) = (r.u64()?, r.u64()?);
    let bearer = Bearer { device, risk: r.u8()? };
    let standing = Standing { bearer, user_wins: r.u8()?, device_wins: r.u8()? };
    r.reserved::<5>()?;
    Ok(FromAccess::Standing { call, standing })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{frame::split_frame, limits::AGENT_PAYLOAD_BYTES_MAX};

    #[test]
    fn the_highest_version_that_both_speak_is_agreed_on() {
        for (highest, expected) in [
            (VERSION_MIN - 1, None),
            (VERSION_MIN, Some(VERSION_MIN)),
            (VERSION, Some(VERSION)),
            (VERSION + 1, Some(VERSION)),
            (u16::MAX, Some(VERSION)),
        ] {
            assert_eq!(agreed(highest), expected, "{highest}");
        }
    }

    #[test]
    fn a_long_software_version_is_cut_between_characters() {
        let check = |software: String, expected_bytes: usize| {
            let greet = Greet {
                version: VERSION,
                role: Role::Vet,
                generation: 1,
                proof: [7; 16],
                software,
            };
            let mut bytes = Vec::new();
            FromAgent::Greet(greet.clone()).put(&mut bytes, 0);
            let whole = split_frame(&bytes, AGENT_PAYLOAD_BYTES_MAX).expect("within the limit");
            let (frame, _) = whole.expect("whole");
            let Ok(FromAgent::Greet(found)) = FromAgent::decode(frame) else {
                panic!("a greeting that we wrote is read again")
            };
            assert_eq!(found.software, greet.software[..expected_bytes]);
        };
        check("x".repeat(300), 255);
        check("摇".repeat(100), 255);
        check(format!("ab{}", "摇".repeat(100)), 254);
    }
}
