//! Every limit of the client, each with its unit and why it has that value.

use yao_protocol::limits::{CLIENT_PAYLOAD_BYTES_MAX, FRAME_HEADER_BYTES, WINS_PER_USER_MAX};

/// From the connection to WELCOME, ms. Chosen so that a node in a login storm is given up for
/// another before the user gives up.
pub const GREETING_MS_MAX: u64 = 10_000;
/// From a PING to any frame, ms; then the connection counts as dead.
pub const PONG_MS_MAX: u64 = 10_000;
/// From a SHAKE to its answer, ms; then it is sent again with the RESEND flag. Far above the 20 ms
/// that an agent may take, so that only a lost answer meets it.
pub const SHAKE_ANSWER_MS_MAX: u64 = 5_000;
/// From an OPEN to its receipt, ms; then it is sent again.
pub const OPEN_ANSWER_MS_MAX: u64 = 5_000;
/// Least time between two SHAKEs with the RESEND flag on a connection, ms. The server takes one a
/// second (DESIGN.md M6), by a clock of coarse ticks.
pub const RESEND_MS_MIN: u64 = 1_200;
/// AUTH_FAILED in a row after which the tally is left out: it may be what is not believed any more.
pub const AUTH_FAILED_COUNT_MAX: u32 = 2;
/// After a refusal of class "now", ms: retried at once, but never in a tight loop.
pub const RETRY_NOW_MS: u64 = 50;
/// A session that lasted so long was a good one: what failed before it is forgotten, ms.
pub const STABLE_MS_MIN: u64 = 30_000;
/// From GOAWAY to leaving, ms: what answers in flight get.
pub const LEAVING_MS_MAX: u64 = 1_000;
/// Refusals "opens cannot be stored here now" of one open before the client goes elsewhere.
pub const OPEN_UNAVAILABLE_COUNT_MAX: u32 = 3;
/// Tickets held for one campaign. A server that sends more breaks the protocol.
pub const TICKETS_MAX: usize = WINS_PER_USER_MAX as usize;
/// The longest pause a server can ask for, ms (one hour), so that a wrong figure heals.
pub const DELAY_MS_MAX: u64 = 3_600_000;

/// Bytes received and not yet used: one whole frame and what may arrive with its last read.
pub const INCOMING_BYTES_MAX: usize = FRAME_HEADER_BYTES + CLIENT_PAYLOAD_BYTES_MAX + READ_BYTES;
/// Bytes asked of the socket at once: a WIN (216 bytes) and some answers.
pub const READ_BYTES: usize = 2_048;
/// Bytes queued for the socket. Our own frames are small and few; more means that the peer stopped
/// reading.
pub const OUTGOING_BYTES_MAX: usize = 16 * 1024;
/// Buffer capacity kept while idle, bytes: an idle connection should own almost nothing.
pub const IDLE_BYTES_MAX: usize = 512;

/// Commands from the app waiting for the client's task.
pub const COMMANDS_MAX: usize = 8;
/// Events of money (won, opened) that wait for an app which does not read its events.
pub const EVENTS_KEPT_MAX: usize = 4 * TICKETS_MAX;
/// To establish a TCP connection, ms.
pub const CONNECT_MS_MAX: u64 = 10_000;
/// To write BYE before the socket is closed, ms.
pub const FAREWELL_MS_MAX: u64 = 1_000;
/// To obtain a session token from the app, ms.
pub const TOKEN_MS_MAX: u64 = 30_000;

const _: () = assert!(SHAKE_ANSWER_MS_MAX >= RESEND_MS_MIN);
const _: () = assert!(LEAVING_MS_MAX < SHAKE_ANSWER_MS_MAX);
const _: () = assert!(IDLE_BYTES_MAX < READ_BYTES);
const _: () = assert!(OUTGOING_BYTES_MAX > yao_protocol::limits::GREETING_PAYLOAD_BYTES_MAX * 2);
