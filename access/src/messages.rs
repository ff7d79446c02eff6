//! What the threads of the access process say to one another. Plain data, no logic.

use std::sync::Arc;
use yao_engine::{ConnectionId, shard::CandidateShake};
use yao_protocol::{
    ShakeId, SponsorSet, UserId, WaveIndex,
    client::Refusal,
    policy::Policy,
    receipt::RECEIPT_BYTES,
    schedule::Schedule,
    seed_file::SeedRecord,
    tally::TALLY_BYTES,
    ticket::{TICKET_BYTES, Ticket},
    token::{Bearer, Identity},
};

/// To a shard thread.
#[derive(Clone, Debug)]
pub enum ToShard {
    /// A session token was checked; `None` when it is not to be believed.
    TokenChecked {
        /// Whose HELLO it was.
        connection: ConnectionId,
        /// Who the token proves.
        identity: Option<Identity>,
    },
    /// The issuer decided a candidate, or found a recorded win.
    Won {
        /// Who asked.
        connection: ConnectionId,
        /// His request; 0 when the ticket is sent again unasked.
        request_id: u32,
        /// The signed ticket and the tally that counts it.
        win: Box<([u8; TICKET_BYTES], [u8; TALLY_BYTES])>,
    },
    /// The issuer had no packet for a candidate.
    Lost {
        /// Who asked.
        connection: ConnectionId,
        /// His request.
        request_id: u32,
        /// His draw.
        shake: ShakeId,
    },
    /// An open was decided.
    OpenDecided {
        /// Who asked.
        connection: ConnectionId,
        /// His request.
        request_id: u32,
        /// The receipt, or why not.
        reply: OpenReply,
    },
    /// The same user connected elsewhere: say so and close.
    Replaced {
        /// The older connection.
        connection: ConnectionId,
    },
    /// The node drains (`Orders::is_draining`): look now rather than soon.
    Drain,
    /// Panic here and now: a fail point, for rehearsals.
    Panic,
    /// Close everything and end the thread.
    Stop,
}

/// What becomes of an open.
#[derive(Clone, Debug)]
pub enum OpenReply {
    /// It is on disk.
    Receipt(Box<[u8; RECEIPT_BYTES]>),
    /// It was refused.
    Refused(Refusal),
}

/// To the spool thread.
#[derive(Clone, Debug)]
pub enum ToSpool {
    /// A ticket whose signature is good, presented by its own user.
    Open {
        /// Who asked.
        connection: ConnectionId,
        /// His request.
        request_id: u32,
        /// His device and risk class.
        bearer: Bearer,
        /// The ticket.
        ticket: Box<Ticket>,
    },
    /// The agent's verdict on an open.
    Verdict {
        /// Which call.
        call: u64,
        /// Yes or no.
        allowed: bool,
    },
    /// Settlement's signed answer, as the agent brought it; not yet verified.
    Delivered {
        /// The id under which the batch was handed to the agent link.
        request_id: u32,
        /// The bytes.
        answer: Vec<u8>,
    },
    /// A batch did not reach settlement.
    Undelivered {
        /// The id under which the batch was handed to the agent link.
        request_id: u32,
        /// Ask again after this long.
        retry_after_ms: u32,
    },
    /// Whether an agent serves at the moment.
    AgentAvailable(bool),
    /// Flush, sync, and end the thread.
    Stop,
}

/// To the issuer thread.
#[derive(Clone, Debug)]
pub enum ToIssuer {
    /// A shake that may win; it has taken a slot of the gate.
    Candidate(CandidateShake),
    /// A shake sent again (M6); it has taken no slot.
    Resend(CandidateShake),
    /// A session was opened: its user's tickets follow.
    Welcomed {
        /// The connection.
        connection: ConnectionId,
        /// Whose.
        user: UserId,
        /// How many packets his tally counts.
        wins: u8,
        /// Of which sponsors.
        sponsors: SponsorSet,
        /// His device and risk class.
        bearer: Bearer,
    },
    /// The agent's verdict on a winner.
    Verdict {
        /// Which call.
        call: u64,
        /// Yes or no.
        allowed: bool,
    },
    /// Whether an agent serves at the moment.
    AgentAvailable(bool),
    /// The policy changed.
    Policy(Arc<Policy>),
    /// The schedule changed.
    Schedule(Arc<Schedule>),
    /// A cursor was raised and is on disk; here are the packets.
    Reserved {
        /// The wave.
        wave: WaveIndex,
        /// Position in the section of the first record.
        first: u32,
        /// The new H.
        high: u32,
        /// The packets from `first` to `high`.
        records: Vec<SeedRecord>,
    },
    /// Settlement's signed answer to a request for a grant, as the agent brought it; not yet
    /// verified.
    GrantAnswer {
        /// The bytes.
        answer: Vec<u8>,
    },
    /// A request for a grant did not reach settlement.
    GrantUnanswered {
        /// The wave.
        wave: WaveIndex,
        /// Ask again after this long.
        retry_after_ms: u32,
    },
    /// A grant is on disk in the wave's cursor, and H with it.
    GrantKept {
        /// The wave.
        wave: WaveIndex,
        /// Which grant.
        id: u64,
        /// H.
        high: u32,
    },
    /// Persisting, or reading the seed file, failed: nothing is issued any more (M3).
    Fenced {
        /// What failed, for the operator.
        reason: String,
    },
    /// The spool fills up: so many hundredths of what is due may be issued.
    Throttle {
        /// At most 100.
        percent: u8,
    },
    /// The node drains.
    Leaving,
    /// Finish, and end the thread.
    Stop,
}

/// To a crypto thread.
#[derive(Clone, Debug)]
pub enum ToCrypto {
    /// Check a session token.
    Token {
        /// Whose HELLO.
        connection: ConnectionId,
        /// The JWT, compact form.
        token: Vec<u8>,
    },
    /// Check a ticket; a good one goes on to the spool.
    Ticket {
        /// Who presents it.
        connection: ConnectionId,
        /// His request.
        request_id: u32,
        /// The user of the session: the ticket must be his.
        user: UserId,
        /// His device and risk class.
        bearer: Bearer,
        /// The 136 bytes.
        ticket: Box<[u8; TICKET_BYTES]>,
    },
}
