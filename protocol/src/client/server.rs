//! What the server sends (wire.md 4).

use super::{Refusal, RetryClass, SHAKE_BYTES, VERSION, first_chunk, kind, unknown_kind};
use crate::{
    CampaignId, ShakeId, WallTime, WireError,
    codec::{Put, Reader},
    frame::{Frame, KIND_FROM_SERVER, put_frame},
    limits::{ENDPOINT_BYTES_MAX, ENDPOINTS_MAX},
    receipt::RECEIPT_BYTES,
    reconnect::RECONNECT_BYTES,
    tally::TALLY_BYTES,
    ticket::TICKET_BYTES,
};

/// What the server sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerMessage<'a> {
    /// The session is open.
    Welcome(Welcome),
    /// Answer to PING: the server's wall time.
    Pong(WallTime),
    /// Nothing this time.
    NoWin(NoWin),
    /// A win: the ticket and the tally that now counts it.
    Win {
        /// The signed ticket.
        ticket: &'a [u8; TICKET_BYTES],
        /// The proved tally.
        tally: &'a [u8; TALLY_BYTES],
    },
    /// The open is accepted and on disk.
    Receipt(&'a [u8; RECEIPT_BYTES]),
    /// Please leave.
    GoAway(GoAway),
    /// A refusal.
    Error(Refusal),
    /// A ticket to come back with, in place of the session token.
    Reconnect(&'a [u8; RECONNECT_BYTES]),
    /// An optional kind that this build does not know: to be ignored.
    Unknown,
}

/// The answer to a good HELLO.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// The protocol version of this session.
    pub version: u8,
    /// The current tier, 0 = normal.
    pub tier: u8,
    /// The current cue.
    pub cue: u16,
    /// Least time between two SHAKEs, ms.
    pub shake_interval_ms: u32,
    /// Least time between two PINGs, ms.
    pub heartbeat_ms_min: u32,
    /// The connection is closed after this long without any frame from the client, ms.
    pub heartbeat_ms_max: u32,
    /// The server's wall time.
    pub server_time: WallTime,
    /// The campaign the session takes part in.
    pub campaign: CampaignId,
    /// Packets a user may win in the campaign.
    pub wins_per_user: u8,
    /// Other nodes, "host:port".
    pub endpoints: Vec<String>,
}

/// The answer to a SHAKE that won nothing. 24 bytes, so that both ways a shake is 32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoWin {
    /// The draw that is answered.
    pub shake: ShakeId,
    /// The server's wall time.
    pub server_time: WallTime,
    /// Least time to the next SHAKE, ms.
    pub interval_ms: u32,
    /// The cue whose greeting to show.
    pub cue: u16,
    /// Why.
    pub reason: NoWinReason,
    /// The tier, 0 = normal.
    pub tier: u8,
}

/// Why a shake won nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum NoWinReason {
    /// Drawn, and no packet was due.
    NoneDue = 0,
    /// The user has won as much as the campaign allows.
    LimitReached = 1,
    /// No wave is running.
    NotRunning = 2,
    /// Before the interval was over: not drawn.
    TooSoon = 3,
    /// An earlier shake of this session is still being decided: not drawn.
    Pending = 4,
    /// The node is too busy: not drawn.
    Busy = 5,
}

impl NoWinReason {
    /// The reason with this number.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            0 => Self::NoneDue,
            1 => Self::LimitReached,
            2 => Self::NotRunning,
            3 => Self::TooSoon,
            4 => Self::Pending,
            5 => Self::Busy,
            _ => return None,
        })
    }

    /// Whether the shake was drawn: a real result, not a refusal.
    #[must_use]
    pub const fn is_draw(self) -> bool {
        matches!(self, Self::NoneDue | Self::LimitReached)
    }
}

impl NoWin {
    /// Appends the NO_WIN frame; a flat 32-byte copy, the hottest write of the server.
    #[inline]
    pub fn put(&self, out: &mut Vec<u8>, request_id: u32) {
        let mut bytes = [0_u8; 8 + SHAKE_BYTES];
        bytes[0..2].copy_from_slice(&(SHAKE_BYTES as u16).to_le_bytes());
        bytes[2] = kind::NO_WIN;
        bytes[4..8].copy_from_slice(&request_id.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.shake.0.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.server_time.0.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.interval_ms.to_le_bytes());
        bytes[28..30].copy_from_slice(&self.cue.to_le_bytes());
        bytes[30] = self.reason as u8;
        bytes[31] = self.tier;
        out.extend_from_slice(&bytes);
    }

    fn decode(payload: &[u8]) -> Result<Self, WireError> {
        let mut r = Reader::new("NO_WIN", payload);
        let shake = ShakeId(r.u64()?);
        let server_time = WallTime(r.u64()?);
        let interval_ms = r.u32()?;
        let cue = r.u16()?;
        let reason = r.u8()?;
        let reason = NoWinReason::from_number(reason)
            .ok_or(WireError::Value { field: "NO_WIN reason", value: u64::from(reason) })?;
        let tier = r.u8()?;
        r.finish()?;
        Ok(Self { shake, server_time, interval_ms, cue, reason, tier })
    }
}

/// Why the server asks a client to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum GoAwayReason {
    /// The node is being drained.
    Drain = 1,
    /// The same user connected again; the newest connection wins.
    Replaced = 2,
    /// The node sheds load.
    Overload = 3,
}

/// Please leave, and when and where to come back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GoAway {
    /// Why.
    pub reason: GoAwayReason,
    /// What to do.
    pub class: RetryClass,
    /// Come back after at least this long, ms.
    pub delay_ms: u32,
    /// And up to this much longer, ms.
    pub jitter_ms: u32,
    /// Where else to go, "host:port".
    pub endpoints: Vec<String>,
}

impl GoAway {
    /// Appends the GOAWAY frame.
    pub fn put(&self, out: &mut Vec<u8>) {
        put_frame(out, kind::GOAWAY, 0, 0, |out| {
            out.put(&[self.reason as u8, self.class as u8, 0, 0]);
            out.put_u32(self.delay_ms);
            out.put_u32(self.jitter_ms);
            put_endpoints(out, &self.endpoints);
        });
    }

    fn decode(payload: &[u8]) -> Result<Self, WireError> {
        let mut r = Reader::new("GOAWAY", payload);
        let reason = match r.u8()? {
            1 => GoAwayReason::Drain,
            2 => GoAwayReason::Replaced,
            3 => GoAwayReason::Overload,
            n => return Err(WireError::Value { field: "GOAWAY reason", value: u64::from(n) }),
        };
        let class = RetryClass::decode(r.u8()?)?;
        r.reserved::<2>()?;
        let (delay_ms, jitter_ms) = (r.u32()?, r.u32()?);
        let endpoints = read_endpoints(&mut r)?;
        r.finish()?;
        Ok(Self { reason, class, delay_ms, jitter_ms, endpoints })
    }
}

impl Welcome {
    /// Appends the WELCOME frame.
    pub fn put(&self, out: &mut Vec<u8>, request_id: u32) {
        put_frame(out, kind::WELCOME, 0, request_id, |out| {
            out.put(&[self.version, self.tier]);
            out.put_u16(self.cue);
            out.put_u32(self.shake_interval_ms);
            out.put_u32(self.heartbeat_ms_min);
            out.put_u32(self.heartbeat_ms_max);
            out.put_u64(self.server_time.0);
            out.put_u64(self.campaign.0);
            out.put(&[self.wins_per_user, 0, 0, 0, 0, 0, 0, 0]);
            put_endpoints(out, &self.endpoints);
        });
    }

    fn decode(payload: &[u8]) -> Result<Self, WireError> {
        let mut r = Reader::new("WELCOME", payload);
        let (version, tier) = (r.u8()?, r.u8()?);
        // Before anything else: another version may lay out the rest in another way.
        if version != VERSION {
            return Err(WireError::Version {
                what: "WELCOME",
                version: u16::from(version),
                known: u16::from(VERSION),
            });
        }
        let cue = r.u16()?;
        let (shake_interval_ms, heartbeat_ms_min, heartbeat_ms_max) =
            (r.u32()?, r.u32()?, r.u32()?);
        let server_time = WallTime(r.u64()?);
        let campaign = CampaignId(r.u64()?);
        let wins_per_user = r.u8()?;
        r.reserved::<7>()?;
        let endpoints = read_endpoints(&mut r)?;
        r.finish()?;
        Ok(Self {
            version,
            tier,
            cue,
            shake_interval_ms,
            heartbeat_ms_min,
            heartbeat_ms_max,
            server_time,
            campaign,
            wins_per_user,
            endpoints,
        })
    }
}

/// Appends the endpoints, at most [`ENDPOINTS_MAX`] of at most [`ENDPOINT_BYTES_MAX`] bytes each.
fn put_endpoints(out: &mut Vec<u8>, endpoints: &[String]) {
    let fitting: Vec<&String> = endpoints
        .iter()
        .filter(|endpoint| endpoint.len() <= ENDPOINT_BYTES_MAX)
        .take(ENDPOINTS_MAX)
        .collect();
    out.put_u8(u8::try_from(fitting.len()).expect("at most ENDPOINTS_MAX"));
    for endpoint in fitting {
        out.put_u8(u8::try_from(endpoint.len()).expect("filtered above"));
        out.put(endpoint.as_bytes());
    }
}

fn read_endpoints(r: &mut Reader<'_>) -> Result<Vec<String>, WireError> {
    let count = usize::from(r.u8()?);
    if count > ENDPOINTS_MAX {
        return Err(WireError::TooLarge {
            what: "the list of endpoints",
            length: count,
            limit: ENDPOINTS_MAX,
        });
    }
    (0..count)
        .map(|_| {
            let length = usize::from(r.u8()?);
            let text = std::str::from_utf8(r.bytes(length)?);
            text.map(str::to_owned).map_err(|_| WireError::Text { field: "an endpoint" })
        })
        .collect()
}

/// Appends the PONG frame.
pub fn put_pong(out: &mut Vec<u8>, request_id: u32, server_time: WallTime) {
    put_frame(out, kind::PONG, 0, request_id, |out| out.put_u64(server_time.0));
}

/// Appends the WIN frame; `request_id` is 0 when the ticket is sent again unasked.
pub fn put_win(
    out: &mut Vec<u8>,
    request_id: u32,
    ticket: &[u8; TICKET_BYTES],
    tally: &[u8; TALLY_BYTES],
) {
    put_frame(out, kind::WIN, 0, request_id, |out| {
        out.put(ticket);
        out.put(tally);
    });
}

/// Appends the RECEIPT frame.
pub fn put_receipt(out: &mut Vec<u8>, request_id: u32, receipt: &[u8; RECEIPT_BYTES]) {
    put_frame(out, kind::RECEIPT, 0, request_id, |out| out.put(receipt));
}

/// Appends the RECONNECT frame; nobody asks for one.
pub fn put_reconnect(out: &mut Vec<u8>, ticket: &[u8; RECONNECT_BYTES]) {
    put_frame(out, kind::RECONNECT, 0, 0, |out| out.put(ticket));
}

impl<'a> ServerMessage<'a> {
    /// Reads the message in `frame`.
    ///
    /// # Errors
    /// As [`super::ClientMessage::decode`]; here the server is at fault.
    pub fn decode(frame: Frame<'a>) -> Result<Self, WireError> {
        match frame.header.kind {
            kind::NO_WIN => NoWin::decode(frame.unflagged()?).map(Self::NoWin),
            kind::WELCOME => Welcome::decode(frame.unflagged()?).map(Self::Welcome),
            kind::PONG => {
                let mut r = Reader::new("PONG", frame.unflagged()?);
                let time = WallTime(r.u64()?);
                r.finish()?;
                Ok(Self::Pong(time))
            }
            kind::WIN => {
                let mut r = Reader::new("WIN", frame.unflagged()?);
                let ticket = first_chunk(r.bytes(TICKET_BYTES)?);
                let tally = first_chunk(r.bytes(TALLY_BYTES)?);
                r.finish()?;
                Ok(Self::Win { ticket, tally })
            }
            kind::RECEIPT => {
                let mut r = Reader::new("RECEIPT", frame.unflagged()?);
                let receipt = first_chunk(r.bytes(RECEIPT_BYTES)?);
                r.finish()?;
                Ok(Self::Receipt(receipt))
            }
            kind::GOAWAY => GoAway::decode(frame.unflagged()?).map(Self::GoAway),
            kind::RECONNECT => {
                let mut r = Reader::new("RECONNECT", frame.unflagged()?);
                let ticket = first_chunk(r.bytes(RECONNECT_BYTES)?);
                r.finish()?;
                Ok(Self::Reconnect(ticket))
            }
            kind::ERROR => Refusal::decode(frame.unflagged()?).map(Self::Error),
            other if other & KIND_FROM_SERVER == 0 => Err(WireError::Kind { kind: other }),
            other => unknown_kind(other).map(|()| Self::Unknown),
        }
    }
}
