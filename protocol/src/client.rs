//! Messages between client and access node (wire.md 3 and 4).
//!
//! Each message is one frame. Decoders borrow from the receive buffer and check every field. Here
//! is what clients send; what the server sends is in `server`, its refusals in `refusal`.

mod refusal;
mod server;

pub use refusal::{ErrorCode, Refusal, RetryClass};
pub use server::{
    GoAway, GoAwayReason, NoWin, NoWinReason, ServerMessage, Welcome, put_pong, put_receipt,
    put_reconnect, put_win,
};

use crate::{
    CampaignId, ShakeId, WireError,
    codec::{Put, Reader},
    frame::{Frame, KIND_FROM_SERVER, KIND_OPTIONAL, put_frame},
    limits::TOKEN_BYTES_MAX,
    tally::TALLY_BYTES,
    ticket::TICKET_BYTES,
};

/// The protocol version that this build speaks.
pub const VERSION: u8 = 1;

/// Frame kinds. 0x80 marks the server's, 0x40 those a receiver may ignore.
pub mod kind {
    /// First frame of a session.
    pub const HELLO: u8 = 0x01;
    /// Heartbeat.
    pub const PING: u8 = 0x02;
    /// A draw request.
    pub const SHAKE: u8 = 0x03;
    /// Claims a ticket.
    pub const OPEN: u8 = 0x04;
    /// The client leaves.
    pub const BYE: u8 = 0x05;
    /// The session is open.
    pub const WELCOME: u8 = 0x81;
    /// Answer to PING.
    pub const PONG: u8 = 0x82;
    /// Answer to SHAKE: nothing this time.
    pub const NO_WIN: u8 = 0x83;
    /// Answer to SHAKE, or sent again after WELCOME: a ticket.
    pub const WIN: u8 = 0x84;
    /// Answer to OPEN: accepted and on disk.
    pub const RECEIPT: u8 = 0x85;
    /// Please leave.
    pub const GOAWAY: u8 = 0x86;
    /// A refusal.
    pub const ERROR: u8 = 0x87;
    /// A ticket to come back with. Optional: a receiver that does not know it goes on without.
    pub const RECONNECT: u8 = 0xc1;
}

/// SHAKE flag: sent before, its answer never arrived (M6).
pub const FLAG_RESEND: u8 = 0x01;

/// Bytes of HELLO before the tally and the token.
pub const HELLO_FIXED_BYTES: usize = 16;
/// Bytes of WELCOME before the endpoints.
pub const WELCOME_FIXED_BYTES: usize = 40;
/// Payload of SHAKE and of NO_WIN: with the header, 32 bytes each way.
pub const SHAKE_BYTES: usize = 24;

/// What a client sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientMessage<'a> {
    /// Opens the session.
    Hello(Hello<'a>),
    /// Heartbeat; the payload is empty.
    Ping,
    /// A draw request.
    Shake(Shake),
    /// Claims the ticket in these bytes.
    Open(&'a [u8; TICKET_BYTES]),
    /// Leaves; the payload is empty.
    Bye,
    /// An optional kind that this build does not know: to be ignored.
    Unknown,
}

/// The first frame of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello<'a> {
    /// Lowest protocol version the client speaks.
    pub version_min: u8,
    /// Highest protocol version the client speaks.
    pub version_max: u8,
    /// Version of the client software: major << 16 | minor.
    pub software: u32,
    /// The campaign the client takes part in.
    pub campaign: CampaignId,
    /// The tally it holds, if any.
    pub tally: Option<&'a [u8; TALLY_BYTES]>,
    /// Its session token: a JWT in compact form.
    pub token: &'a [u8],
}

/// A draw request. Merged shakes are one draw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shake {
    /// Chosen by the client, kept when sent again.
    pub shake: ShakeId,
    /// The campaign.
    pub campaign: CampaignId,
    /// How many shakes the client merged into this one; statistics only. At least 1.
    pub merged_count: u16,
    /// Whether the RESEND flag is set.
    pub resend: bool,
}

impl<'a> Hello<'a> {
    fn decode(payload: &'a [u8]) -> Result<Self, WireError> {
        let mut r = Reader::new("HELLO", payload);
        let version_min = r.u8()?;
        let version_max = r.u8()?;
        let tally_count = r.u8()?;
        r.reserved::<1>()?;
        let software = r.u32()?;
        let campaign = CampaignId(r.u64()?);
        let tally = match tally_count {
            0 => None,
            1 => Some(first_chunk(r.bytes(TALLY_BYTES)?)),
            n => return Err(WireError::Value { field: "tally count", value: u64::from(n) }),
        };
        let length = usize::from(r.u16()?);
        if length > TOKEN_BYTES_MAX {
            return Err(WireError::TooLarge {
                what: "a session token",
                length,
                limit: TOKEN_BYTES_MAX,
            });
        }
        let token = r.bytes(length)?;
        r.finish()?;
        if version_min > version_max {
            return Err(WireError::Value { field: "version range", value: u64::from(version_min) });
        }
        Ok(Self { version_min, version_max, software, campaign, tally, token })
    }

    /// Appends the HELLO frame.
    ///
    /// # Panics
    /// When the token exceeds [`TOKEN_BYTES_MAX`]; the caller checks what it was given.
    pub fn put(&self, out: &mut Vec<u8>, request_id: u32) {
        assert!(self.token.len() <= TOKEN_BYTES_MAX, "the token is checked before it is sent");
        put_frame(out, kind::HELLO, 0, request_id, |out| {
            out.put(&[self.version_min, self.version_max, u8::from(self.tally.is_some()), 0]);
            out.put_u32(self.software);
            out.put_u64(self.campaign.0);
            if let Some(tally) = self.tally {
                out.put(tally);
            }
            out.put_u16(u16::try_from(self.token.len()).expect("asserted above"));
            out.put(self.token);
        });
    }
}

impl Shake {
    #[inline]
    fn decode(frame: Frame<'_>) -> Result<Self, WireError> {
        let mut r = Reader::new("SHAKE", frame.payload);
        let shake = ShakeId(r.u64()?);
        let campaign = CampaignId(r.u64()?);
        let merged_count = r.u16()?;
        r.reserved::<6>()?;
        r.finish()?;
        if merged_count == 0 {
            return Err(WireError::Value { field: "merged count", value: 0 });
        }
        if frame.header.flags & !FLAG_RESEND != 0 {
            return Err(WireError::Value {
                field: "SHAKE flags",
                value: u64::from(frame.header.flags),
            });
        }
        Ok(Self { shake, campaign, merged_count, resend: frame.header.flags & FLAG_RESEND != 0 })
    }

    /// Appends the SHAKE frame.
    pub fn put(&self, out: &mut Vec<u8>, request_id: u32) {
        let flags = if self.resend { FLAG_RESEND } else { 0 };
        put_frame(out, kind::SHAKE, flags, request_id, |out| {
            out.put_u64(self.shake.0);
            out.put_u64(self.campaign.0);
            out.put_u16(self.merged_count);
            out.put(&[0; 6]);
        });
    }
}

impl<'a> ClientMessage<'a> {
    /// Reads the message in `frame`.
    ///
    /// # Errors
    /// Every field out of range, every length that does not fit, every unknown kind that is not
    /// optional or is the server's. All of them are the peer's fault: close the connection.
    #[inline]
    pub fn decode(frame: Frame<'a>) -> Result<Self, WireError> {
        match frame.header.kind {
            kind::SHAKE => Shake::decode(frame).map(Self::Shake),
            kind::PING => Reader::new("PING", frame.unflagged()?).finish().map(|()| Self::Ping),
            kind::OPEN => {
                let mut r = Reader::new("OPEN", frame.unflagged()?);
                let ticket = first_chunk(r.bytes(TICKET_BYTES)?);
                r.finish()?;
                Ok(Self::Open(ticket))
            }
            kind::HELLO => Hello::decode(frame.unflagged()?).map(Self::Hello),
            kind::BYE => Reader::new("BYE", frame.unflagged()?).finish().map(|()| Self::Bye),
            other if other & KIND_FROM_SERVER != 0 => Err(WireError::Kind { kind: other }),
            other => unknown_kind(other).map(|()| Self::Unknown),
        }
    }
}

/// `Ok` when a frame of this kind may be ignored.
fn unknown_kind(kind: u8) -> Result<(), WireError> {
    if kind & KIND_OPTIONAL != 0 { Ok(()) } else { Err(WireError::Kind { kind }) }
}

/// The first `N` bytes of a slice that a [`Reader`] returned with exactly that length.
fn first_chunk<const N: usize>(bytes: &[u8]) -> &[u8; N] {
    bytes.first_chunk().expect("the reader returned exactly N bytes")
}

/// Appends an empty client frame: PING or BYE.
pub fn put_empty(out: &mut Vec<u8>, kind: u8, request_id: u32) {
    put_frame(out, kind, 0, request_id, |_| {});
}

/// Appends the OPEN frame for a ticket.
pub fn put_open(out: &mut Vec<u8>, request_id: u32, ticket: &[u8; TICKET_BYTES]) {
    put_frame(out, kind::OPEN, 0, request_id, |out| out.put(ticket));
}
