//! Messages between client and access node (wire.md 3 and 4).
//!
//! Each message is one frame. Decoders borrow from the receive buffer and check every field.

use crate::{
    CampaignId, ShakeId, WallTime, WireError,
    codec::{Put, Reader},
    frame::{Frame, KIND_FROM_SERVER, KIND_OPTIONAL, put_frame},
    limits::{ENDPOINT_BYTES_MAX, ENDPOINTS_MAX, TOKEN_BYTES_MAX},
    receipt::RECEIPT_BYTES,
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
    /// optional. All of them are the peer's fault: close the connection.
    #[inline]
    pub fn decode(frame: Frame<'a>) -> Result<Self, WireError> {
        match frame.header.kind {
            kind::SHAKE => Shake::decode(frame).map(Self::Shake),
            kind::PING => Reader::new("PING", frame.payload).finish().map(|()| Self::Ping),
            kind::OPEN => {
                let mut r = Reader::new("OPEN", frame.payload);
                let ticket = first_chunk(r.bytes(TICKET_BYTES)?);
                r.finish()?;
                Ok(Self::Open(ticket))
            }
            kind::HELLO => Hello::decode(frame.payload).map(Self::Hello),
            kind::BYE => Reader::new("BYE", frame.payload).finish().map(|()| Self::Bye),
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

    fn decode(payload: &[u8]) -> Result<Self, WireError> {
        let mut r = Reader::new("ERROR", payload);
        let code = r.u16()?;
        let code = ErrorCode::from_number(code)
            .ok_or(WireError::Value { field: "error code", value: u64::from(code) })?;
        let class = retry_class(r.u8()?)?;
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

fn retry_class(number: u8) -> Result<RetryClass, WireError> {
    RetryClass::from_number(number)
        .ok_or(WireError::Value { field: "retry class", value: u64::from(number) })
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
        let class = retry_class(r.u8()?)?;
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
        let cue = r.u16()?;
        let (shake_interval_ms, heartbeat_ms_min, heartbeat_ms_max) =
            (r.u32()?, r.u32()?, r.u32()?);
        let server_time = WallTime(r.u64()?);
        let campaign = CampaignId(r.u64()?);
        let wins_per_user = r.u8()?;
        r.reserved::<7>()?;
        let endpoints = read_endpoints(&mut r)?;
        r.finish()?;
        if version != VERSION {
            return Err(WireError::Version {
                what: "WELCOME",
                version: u16::from(version),
                known: u16::from(VERSION),
            });
        }
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

impl<'a> ServerMessage<'a> {
    /// Reads the message in `frame`.
    ///
    /// # Errors
    /// As [`ClientMessage::decode`]; here the server is at fault.
    pub fn decode(frame: Frame<'a>) -> Result<Self, WireError> {
        let payload = frame.payload;
        match frame.header.kind {
            kind::NO_WIN => NoWin::decode(payload).map(Self::NoWin),
            kind::WELCOME => Welcome::decode(payload).map(Self::Welcome),
            kind::PONG => {
                let mut r = Reader::new("PONG", payload);
                let time = WallTime(r.u64()?);
                r.finish()?;
                Ok(Self::Pong(time))
            }
            kind::WIN => {
                let mut r = Reader::new("WIN", payload);
                let ticket = first_chunk(r.bytes(TICKET_BYTES)?);
                let tally = first_chunk(r.bytes(TALLY_BYTES)?);
                r.finish()?;
                Ok(Self::Win { ticket, tally })
            }
            kind::RECEIPT => {
                let mut r = Reader::new("RECEIPT", payload);
                let receipt = first_chunk(r.bytes(RECEIPT_BYTES)?);
                r.finish()?;
                Ok(Self::Receipt(receipt))
            }
            kind::GOAWAY => GoAway::decode(payload).map(Self::GoAway),
            kind::ERROR => Refusal::decode(payload).map(Self::Error),
            other if other & KIND_FROM_SERVER == 0 => Err(WireError::Kind { kind: other }),
            other => unknown_kind(other).map(|()| Self::Unknown),
        }
    }
}
