//! The connections of one shard thread: sessions, timers, and the losing shake.
//!
//! The shell reads a socket and hands the bytes over; the engine appends its answers to the buffer
//! it is given and queues [`Effect`]s. A losing shake allocates nothing and touches only its own
//! connection. What the engine must not do itself (check a signature, ask the issuer, look in the
//! registry) is an effect whose result comes back as a later input.
//!
//! Never here: sockets, queues, other threads' connections, money.

mod connection;
mod counters;
mod drain;
mod hint;
mod newcomers;
mod partial;
mod reconnect;
mod session;
mod table;
#[cfg(test)]
mod tests;
mod timers;
mod wheel;

pub use connection::State;
pub use counters::Counters;
pub use hint::Hint;
pub use reconnect::Reconnect;

use self::{connection::NONE, drain::Drain, partial::Partials, table::Table, wheel::Wheel};
use crate::{
    ConnectionId,
    admission::{Admission, AdmissionLimits},
    gate::GateView,
    time::Timestamp,
};
use std::collections::VecDeque;
use yao_protocol::{
    CampaignId, ShakeId, SponsorSet, UserId, WallTime,
    client::{ErrorCode, Refusal, RetryClass, ServerMessage},
    frame::split_frame,
    keys::MacKey,
    limits::{CLIENT_PAYLOAD_BYTES_MAX, FRAME_HEADER_BYTES, GREETING_PAYLOAD_BYTES_MAX},
    ticket::TICKET_BYTES,
    token::{Bearer, Identity},
};

/// Opens of one connection that may be under way at once. A user wins three packets; eight leave
/// room for tickets of another node.
const OPENS_IN_FLIGHT_MAX: u8 = 8;
/// A candidate is decided long before this, ms: the agent has 20, queues some hundred. Only then
/// may the same shake be asked for again.
const DECISION_MS_MAX: u32 = 3_000;
/// Least time between two RESENDs of a connection, ms (M6).
const RESEND_MS_MIN: u32 = 1_000;

/// What does not change while the thread lives.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Number of the thread, for [`ConnectionId`].
    pub thread: u16,
    /// Connections it holds at most.
    pub connections_max: u32,
    /// The campaign that is served.
    pub campaign: CampaignId,
    /// Packets a user may win in it.
    pub wins_per_user: u8,
    /// Checks tallies.
    pub mac_key: MacKey,
    /// Makes and checks reconnect tickets; `None` when this node has none.
    pub reconnect: Option<Reconnect>,
    /// Least time between two PINGs, ms.
    pub heartbeat_ms_min: u32,
    /// Silence after which a connection is closed, ms.
    pub heartbeat_ms_max: u32,
    /// Time for the transport's handshake, ms.
    pub handshake_ms_max: u32,
    /// Time for HELLO, ms.
    pub greeting_ms_max: u32,
    /// Time for a whole frame, ms.
    pub frame_ms_max: u32,
    /// What clients are told that shall go elsewhere.
    pub hint: Hint,
}

impl Settings {
    /// A thread of a node that was told nothing else: three wins a user, no reconnect tickets, and
    /// the times that docs/config.md gives as defaults.
    #[must_use]
    pub fn new(campaign: CampaignId, mac_key: MacKey) -> Self {
        Self {
            thread: 0,
            connections_max: 10_000,
            campaign,
            wins_per_user: 3,
            mac_key,
            reconnect: None,
            heartbeat_ms_min: 15_000,
            heartbeat_ms_max: 300_000,
            handshake_ms_max: 5_000,
            greeting_ms_max: 3_000,
            frame_ms_max: 5_000,
            hint: Hint {
                return_ms_min: 1_000,
                return_ms_jitter: 10_000,
                overload_ms_min: 5_000,
                overload_ms_jitter: 25_000,
                endpoints: Vec::new(),
            },
        }
    }
}

/// What the shell knows at this moment; read once per batch of events.
#[derive(Clone, Copy, Debug)]
pub struct Surroundings {
    /// The issuer's word.
    pub gate: GateView,
    /// Wall time, told to clients.
    pub wall: WallTime,
    /// Least time between two shakes, ms; 0 = none.
    pub shake_interval_ms: u32,
    /// The cue whose greeting a losing shake shows.
    pub cue: u16,
    /// The tier, 0 = normal.
    pub tier: u8,
}

/// A draw that may win: for the issuer to decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CandidateShake {
    /// Who shook.
    pub connection: ConnectionId,
    /// His request.
    pub request_id: u32,
    /// His draw.
    pub shake: ShakeId,
    /// Who he is.
    pub user: UserId,
    /// Packets he has won, as this session knows.
    pub wins: u8,
    /// From which sponsors.
    pub sponsors: SponsorSet,
    /// On which device, and in which risk class.
    pub bearer: Bearer,
}

/// What the shell must do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Check this session token and report by [`ShardEngine::handle_token`]; at once by
    /// [`ShardEngine::handle_token_implausible`] when it names no key of ours.
    CheckToken {
        /// Whose HELLO.
        connection: ConnectionId,
        /// The JWT.
        token: Vec<u8>,
    },
    /// A good reconnect ticket came with HELLO: if this user's latest session here began before
    /// `issued_at` and on the same device, report `identity` by [`ShardEngine::handle_token`], else
    /// `None`.
    ClaimReconnect {
        /// Whose HELLO.
        connection: ConnectionId,
        /// Who the ticket proves.
        identity: Identity,
        /// When it was made.
        issued_at: WallTime,
    },
    /// A reconnect ticket is due: if this connection is still its user's, report by
    /// [`ShardEngine::handle_renewal`], else by [`ShardEngine::handle_replaced`].
    RenewReconnect {
        /// Who would get it.
        connection: ConnectionId,
        /// Who he is.
        user: UserId,
    },
    /// A session is open: enter it in the registry, tell the issuer.
    Opened {
        /// The connection.
        connection: ConnectionId,
        /// Whose.
        user: UserId,
        /// How many packets his tally counts; 0 without one.
        wins: u8,
        /// Of which sponsors.
        sponsors: SponsorSet,
        /// On which device, and in which risk class.
        bearer: Bearer,
    },
    /// Take a slot of the gate and hand this to the issuer. When there is no slot, or no room in
    /// the issuer's queue, report by [`ShardEngine::handle_lost`] at once.
    Candidate(CandidateShake),
    /// Hand this to the issuer; it takes no slot of the gate.
    Resend(CandidateShake),
    /// Check this ticket and go on with the open.
    CheckTicket {
        /// Who presents it.
        connection: ConnectionId,
        /// His request.
        request_id: u32,
        /// Who he is.
        user: UserId,
        /// On which device, and in which risk class.
        bearer: Bearer,
        /// The ticket.
        ticket: Box<[u8; TICKET_BYTES]>,
    },
    /// Send these bytes to a connection other than the one being handled.
    Send {
        /// To whom.
        connection: ConnectionId,
        /// What.
        bytes: Vec<u8>,
    },
    /// Clients are to be asked to leave: take of the node's pace what it allows, at most
    /// `count_max`, and report by [`ShardEngine::handle_ask_to_leave`] at once.
    AskToLeave {
        /// More are not asked in one go.
        count_max: u32,
    },
    /// Close the socket after its bytes are sent, then report by [`ShardEngine::handle_closed`].
    Close {
        /// Which.
        connection: ConnectionId,
    },
}

/// The sessions of one shard thread.
#[derive(Debug)]
pub struct ShardEngine {
    settings: Settings,
    table: Table,
    wheel: Wheel,
    partials: Partials,
    admission: Admission,
    effects: VecDeque<Effect>,
    drain: Option<Drain>,
    refuse_new: bool,
    /// What newcomers are told for whom there is no room.
    no_room: Vec<u8>,
    counters: Counters,
}

impl ShardEngine {
    /// A thread without connections.
    #[must_use]
    pub fn new(settings: Settings, now: Timestamp) -> Self {
        Self {
            table: Table::new(settings.connections_max),
            wheel: Wheel::new(now),
            partials: Partials::default(),
            admission: Admission::new(AdmissionLimits::NONE, now),
            effects: VecDeque::new(),
            drain: None,
            refuse_new: false,
            no_room: settings.hint.no_room(),
            counters: Counters::default(),
            settings,
        }
    }

    /// What was counted so far.
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Connections there are.
    #[must_use]
    pub const fn connections(&self) -> u32 {
        self.table.used()
    }

    /// Bytes of incomplete frames that are kept, as the allocator was asked for them.
    #[must_use]
    pub const fn partial_bytes(&self) -> usize {
        self.partials.bytes()
    }

    /// The next thing to do; drain after every input.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// A connection was accepted, `secured` when frames may come at once and not only after a
    /// handshake of its transport. `number` is the next one of the process, of which each is given
    /// out once. `None` when the thread holds as many as it may: close it.
    pub fn handle_accepted(
        &mut self,
        now: Timestamp,
        secured: bool,
        number: u32,
    ) -> Option<ConnectionId> {
        let Some(slot) = self.table.take(number) else {
            self.counters.refused_full += 1;
            return None;
        };
        self.counters.accepted += 1;
        let (state, ms_max) = if secured {
            (State::Greeting, self.settings.greeting_ms_max)
        } else {
            (State::Securing, self.settings.handshake_ms_max)
        };
        let tick = wheel::tick_after(now, ms_max);
        let connection = self.table.slot_mut(slot);
        connection.become_state(state);
        connection.heard_tick = wheel::tick_of(now);
        connection.resend_tick = connection.heard_tick;
        self.wheel.link(&mut self.table, slot, tick);
        Some(self.id(slot))
    }

    /// The transport's handshake in `slot` is done: HELLO's deadline begins.
    pub fn handle_secured(&mut self, now: Timestamp, slot: u32) {
        let connection = self.table.slot_mut(slot);
        if connection.state() != State::Securing {
            return;
        }
        connection.become_state(State::Greeting);
        let tick = wheel::tick_after(now, self.settings.greeting_ms_max);
        self.wheel.unlink(&mut self.table, slot);
        self.wheel.link(&mut self.table, slot, tick);
    }

    /// Whether the transport of `slot` holds the start of a record whose end has not come. It has
    /// the deadline of a frame that is cut: nobody keeps our memory by stopping in mid-record.
    pub fn handle_cut(&mut self, now: Timestamp, slot: u32, cut: bool) {
        // What the same bytes asked for may have closed the connection already.
        if slot >= self.table.slots() || self.table.slot(slot).state() == State::Free {
            return;
        }
        let partial = self.table.slot(slot).partial;
        if cut && partial == NONE {
            self.keep_partial(now, slot, Vec::new());
        } else if !cut && self.partials.look(partial).is_some_and(|kept| kept.bytes.is_empty()) {
            self.partials.take(partial);
            self.table.slot_mut(slot).partial = NONE;
        }
    }

    /// Whether the session in `slot` is open: its peer is known.
    #[must_use]
    pub fn is_open(&self, slot: u32) -> bool {
        slot < self.table.slots()
            && matches!(self.table.slot(slot).state(), State::Open | State::Leaving)
    }

    /// The socket in `slot` is closed, by either side; the slot is free afterwards.
    ///
    /// Returns which connection it was and, if its session was open, whose: for the registry.
    pub fn handle_closed(&mut self, slot: u32) -> Option<(ConnectionId, Option<UserId>)> {
        if slot >= self.table.slots() || self.table.slot(slot).state() == State::Free {
            return None;
        }
        let id = self.id(slot);
        let connection = self.table.slot_mut(slot);
        let user = connection.is_registered().then_some(connection.user);
        let partial = std::mem::replace(&mut connection.partial, NONE);
        self.partials.take(partial);
        self.admission.leave(slot);
        self.wheel.unlink(&mut self.table, slot);
        self.table.give_back(slot);
        self.counters.closed += 1;
        Some((id, user))
    }

    /// Whether `id` is still the connection in its slot.
    #[must_use]
    pub fn is_live(&mut self, id: ConnectionId) -> bool {
        self.table.live_mut(id.slot, id.number).is_some()
    }

    /// Bytes arrived on the connection in `slot`; answers are appended to `out`.
    ///
    /// Returns whether more should be read: `false` once the connection is closing.
    pub fn handle_received(
        &mut self,
        now: Timestamp,
        surroundings: &Surroundings,
        slot: u32,
        bytes: &[u8],
        out: &mut Vec<u8>,
    ) -> bool {
        let connection = self.table.slot_mut(slot);
        // Whoever waits for his token to be checked gains no time by talking.
        if connection.state() != State::Checking {
            connection.heard_tick = wheel::tick_of(now);
        }
        if connection.partial == NONE {
            self.read_frames(now, surroundings, slot, bytes, out)
        } else {
            self.continue_partial(now, surroundings, slot, bytes, out)
        }
    }

    /// Reads every whole frame of `bytes` and keeps what is left of a cut one.
    fn read_frames(
        &mut self,
        now: Timestamp,
        surroundings: &Surroundings,
        slot: u32,
        mut bytes: &[u8],
        out: &mut Vec<u8>,
    ) -> bool {
        while !bytes.is_empty() {
            let state = self.table.slot(slot).state();
            if state == State::Closing {
                return false;
            }
            match split_frame(bytes, payload_bytes_max(state)) {
                Ok(Some((frame, rest))) => {
                    self.counters.frames += 1;
                    if let Err(error) = self.read_frame(now, surroundings, slot, frame, out) {
                        self.counters.malformed += 1;
                        self.refuse(slot, frame.header.request_id, error.into_refusal(), out);
                        return false;
                    }
                    bytes = rest;
                }
                Ok(None) => {
                    self.keep_partial(now, slot, bytes.to_vec());
                    return true;
                }
                Err(_) => {
                    self.counters.malformed += 1;
                    self.refuse(slot, 0, PROTOCOL_ERROR, out);
                    return false;
                }
            }
        }
        self.table.slot(slot).state() != State::Closing
    }

    /// Completes the frame that was cut, then goes on as usual.
    fn continue_partial(
        &mut self,
        now: Timestamp,
        surroundings: &Surroundings,
        slot: u32,
        bytes: &[u8],
        out: &mut Vec<u8>,
    ) -> bool {
        let index = std::mem::replace(&mut self.table.slot_mut(slot).partial, NONE);
        let mut partial = self.partials.take(index).expect("a connection's partial is there");
        // Only as much as the cut frame lacks is copied; the rest is read where it is.
        let mut rest = bytes;
        let state = self.table.slot(slot).state();
        let limit = payload_bytes_max(state) + FRAME_HEADER_BYTES;
        while !rest.is_empty() {
            let lacking =
                lacking_bytes(&partial.bytes).min(limit.saturating_sub(partial.bytes.len()));
            if lacking == 0 {
                break;
            }
            let (head, tail) = rest.split_at(lacking.min(rest.len()));
            // A peer that sends byte by byte does not make us keep more than its bytes.
            partial.bytes.reserve_exact(head.len());
            partial.bytes.extend_from_slice(head);
            rest = tail;
        }
        let whole = match split_frame(&partial.bytes, payload_bytes_max(state)) {
            Ok(Some(_)) | Err(_) => true,
            Ok(None) => false,
        };
        if !whole {
            let index = self.partials.put_back(partial);
            self.table.slot_mut(slot).partial = index;
            return true;
        }
        self.read_frames(now, surroundings, slot, &partial.bytes, out)
            && self.read_frames(now, surroundings, slot, rest, out)
    }

    fn keep_partial(&mut self, now: Timestamp, slot: u32, bytes: Vec<u8>) {
        self.table.slot_mut(slot).partial = self.partials.keep(now, bytes);
        if matches!(self.table.slot(slot).state(), State::Securing | State::Leaving) {
            // The handshake's deadline is for all of its records together, and who leaves has his
            // whole time, however his frames are cut.
            return;
        }
        // A cut frame has a deadline of its own, usually before the heartbeat's.
        let tick = wheel::tick_after(now, self.settings.frame_ms_max);
        if tick.wrapping_sub(self.table.slot(slot).timer_tick) > u32::MAX / 2 {
            self.wheel.unlink(&mut self.table, slot);
            self.wheel.link(&mut self.table, slot, tick);
        }
    }

    /// Appends a refusal; one that closes also ends the session.
    fn refuse(&mut self, slot: u32, request_id: u32, refusal: Refusal, out: &mut Vec<u8>) {
        refusal.put(out, request_id);
        self.counters.refusals += 1;
        if refusal.closes {
            self.begin_close(slot);
        }
    }

    fn begin_close(&mut self, slot: u32) {
        let connection = self.table.slot_mut(slot);
        if connection.state() != State::Closing {
            connection.become_state(State::Closing);
            let connection = self.id(slot);
            self.effects.push_back(Effect::Close { connection });
        }
    }

    fn id(&self, slot: u32) -> ConnectionId {
        ConnectionId { thread: self.settings.thread, slot, number: self.table.slot(slot).number }
    }
}

/// Bytes that must still come before the frame at the start of `bytes` is whole: those of the
/// header first, because only it says how long the frame is.
fn lacking_bytes(bytes: &[u8]) -> usize {
    match bytes.first_chunk::<FRAME_HEADER_BYTES>() {
        None => FRAME_HEADER_BYTES - bytes.len(),
        Some(header) => {
            let payload = usize::from(u16::from_le_bytes([header[0], header[1]]));
            (FRAME_HEADER_BYTES + payload).saturating_sub(bytes.len())
        }
    }
}

/// What a frame may carry in this state.
const fn payload_bytes_max(state: State) -> usize {
    match state {
        State::Free | State::Securing | State::Greeting | State::Checking => {
            GREETING_PAYLOAD_BYTES_MAX
        }
        State::Open | State::Leaving | State::Closing => CLIENT_PAYLOAD_BYTES_MAX,
    }
}

/// The peer broke the protocol.
const PROTOCOL_ERROR: Refusal = Refusal {
    code: ErrorCode::Protocol,
    class: RetryClass::Never,
    closes: true,
    delay_ms: 0,
    jitter_ms: 0,
};

/// Why a frame ends the session. Kept to the code that travels: the peer learns no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Broken(Refusal);

impl Broken {
    const PROTOCOL: Self = Self(PROTOCOL_ERROR);

    const fn into_refusal(self) -> Refusal {
        self.0
    }
}

impl From<yao_protocol::WireError> for Broken {
    fn from(_: yao_protocol::WireError) -> Self {
        Self::PROTOCOL
    }
}

/// The message that a client would read in `bytes`; for tests and tools.
#[must_use]
pub fn first_message(bytes: &[u8]) -> Option<ServerMessage<'_>> {
    let (frame, _) = split_frame(bytes, CLIENT_PAYLOAD_BYTES_MAX).ok()??;
    ServerMessage::decode(frame).ok()
}
