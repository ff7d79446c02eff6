//! ERROR: why something is refused and what to do then (wire.md 6).

use super::kind;
use crate::{
    WireError,
    codec::{Put, Reader},
    frame::put_frame,
};

/// What to do after a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RetryClass {
    /// At once.
    Now = 0,
    /// After the stated delay and jitter.
    After = 1,
    /// After a new session token was fetched.
    Reauthenticate = 2,
    /// Never with the same content.
    Never = 3,
}

impl RetryClass {
    const fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            0 => Self::Now,
            1 => Self::After,
            2 => Self::Reauthenticate,
            3 => Self::Never,
            _ => return None,
        })
    }

    pub(super) fn decode(number: u8) -> Result<Self, WireError> {
        Self::from_number(number)
            .ok_or(WireError::Value { field: "retry class", value: u64::from(number) })
    }
}

/// Why something is refused (wire.md 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum ErrorCode {
    /// The peer broke the protocol; the connection is closed.
    Protocol = 1,
    /// No common protocol version.
    Version = 2,
    /// The token or the tally was not accepted; one code for every reason.
    AuthFailed = 3,
    /// The node cannot take this now.
    Busy = 4,
    /// Too slow: no HELLO, or no whole frame, in time.
    Timeout = 5,
    /// The node does not serve this campaign.
    WrongCampaign = 6,
    /// The ticket is not genuine, or not this user's.
    TicketInvalid = 7,
    /// The ticket has expired.
    TicketExpired = 8,
    /// Policy forbids this open.
    OpenRefused = 9,
    /// Opens cannot be stored here now; another node may take them.
    OpenUnavailable = 10,
}

impl ErrorCode {
    const fn from_number(number: u16) -> Option<Self> {
        Some(match number {
            1 => Self::Protocol,
            2 => Self::Version,
            3 => Self::AuthFailed,
            4 => Self::Busy,
            5 => Self::Timeout,
            6 => Self::WrongCampaign,
            7 => Self::TicketInvalid,
            8 => Self::TicketExpired,
            9 => Self::OpenRefused,
            10 => Self::OpenUnavailable,
            _ => return None,
        })
    }
}

/// A refusal: why, what to do, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Why.
    pub code: ErrorCode,
    /// What to do.
    pub class: RetryClass,
    /// Whether the server closes the connection after this frame.
    pub closes: bool,
    /// With [`RetryClass::After`]: wait at least this long, ms.
    pub delay_ms: u32,
    /// And up to this much longer, drawn uniformly, ms.
    pub jitter_ms: u32,
}

impl Refusal {
    /// Appends the ERROR frame.
    pub fn put(&self, out: &mut Vec<u8>, request_id: u32) {
        put_frame(out, kind::ERROR, 0, request_id, |out| {
            out.put_u16(self.code as u16);
            out.put(&[self.class as u8, u8::from(self.closes)]);
            out.put_u32(self.delay_ms);
            out.put_u32(self.jitter_ms);
        });
    }

    pub(super) fn decode(payload: &[u8]) -> Result<Self, WireError> {
        let mut r = Reader::new("ERROR", payload);
        let code = r.u16()?;
        let code = ErrorCode::from_number(code)
            .ok_or(WireError::Value { field: "error code", value: u64::from(code) })?;
        let class = RetryClass::decode(r.u8()?)?;
        let closes = match r.u8()? {
            0 => false,
            1 => true,
            n => return Err(WireError::Value { field: "closes", value: u64::from(n) }),
        };
        let refusal = Self { code, class, closes, delay_ms: r.u32()?, jitter_ms: r.u32()? };
        r.finish()?;
        Ok(refusal)
    }
}
