//! Every limit of the client, each with its unit and why it has that value.

use yao_protocol::limits::{CLIENT_PAYLOAD_BYTES_MAX, FRAME_HEADER_BYTES, WINS_PER_USER_MAX};

/// From the connection to WELCOME, ms. Chosen so that a node in a login storm is given up for
/// another before the user gives up.
pub const GREETING_MS_MAX: u64 = 10_000;
/// From a frame that demands an answer to any frame, ms; then the connection counts as dead. While
/// the app is out of sight, where a weak network does no harm.
pub const PONG_MS_MAX: u64 = 10_000;
/// While the user looks: from such a frame to the PING that asks whether anybody is there, ms.
pub const ANSWER_LATE_MS: u64 = 2_000;
/// From that PING to any frame, ms; then the connection counts as dead. Together with the wait
/// before the next attempt and its handshake the user is back soon after 5 s.
pub const PROBE_ANSWER_MS_MAX: u64 = 3_000;
/// The rest between heartbeats on a network of which nothing is known, ms. Some mobile networks
/// forget UDP after 30 s; nearly all bear this over TCP.
pub const HEARTBEAT_MS_FIRST: u64 = 30_000;
/// Rests that a network must bear before a longer one is tried, once a connection died of one.
pub const HEARTBEAT_PROOFS: u32 = 16;
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
/// Failures in a row of the device's own (no network, no address of the name) at a node that may
/// have recorded a win, before another one gets an attempt. Their waits are half a minute at most.
pub const OWN_FAILURES_MAX: u32 = 5;
/// Bytes of an endpoint that is remembered over lives of the app; a longer one is not. As much as
/// fits into a record that is no larger than a ticket's, and more than nodes' names have.
pub const HOME_BYTES_MAX: usize = 120;
/// The longest pause a server can ask for, ms (one hour), so that a wrong figure heals.
pub const DELAY_MS_MAX: u64 = 3_600_000;
/// Who waits for the next attempt looks at the device's clock at least so often, ms: so late does a
/// phone come that slept, if nobody looks at it.
pub const LOOK_MS_MAX: u64 = 30_000;
/// A device's clock that gains so much in a wait has jumped, or the device slept, ms. Slewing gains
/// 1.8 s in the longest pause (adjtime: 500 millionths).
pub const CLOCK_JUMP_MS_MIN: u64 = 5_000;

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
/// To establish a connection, from the look-up of its name to the end of its handshake, ms.
pub const CONNECT_MS_MAX: u64 = 10_000;
/// Addresses of one name that are tried. At one each [`RACE_STAGGER_MS`] the last one still has
/// most of the time.
pub const ADDRESSES_MAX: usize = 8;
/// Servers whose sessions can be resumed: the endpoints that one client may know.
pub const RESUMED_SERVERS_MAX: usize = 32;
/// What the server may send unread on QUIC, bytes: as much as the client buffers.
pub const QUIC_WINDOW_BYTES: u32 = INCOMING_BYTES_MAX as u32;
/// QUIC's own end of a silent connection, ms. Above any heartbeat: the session decides before.
pub const QUIC_IDLE_MS_MAX: u32 = 1_800_000;
/// The first guess at a round trip, ms (RFC 9002 recommends 333): first packets are repeated after
/// three times that, and a phone's network rarely needs so long.
pub const QUIC_RTT_MS_FIRST: u64 = 150;
/// From something sent over QUIC that must be acknowledged to any packet, ms; then the network
/// swallows UDP. With the wait before the next attempt (1 s) and a handshake it stays within 5 s.
pub const QUIC_SILENCE_MS_MAX: u64 = 3_000;
/// Head start of the first transport of a race, ms (RFC 8305 recommends 250 between attempts).
pub const RACE_STAGGER_MS: u64 = 250;
/// Networks about which something is remembered: home, work, the train, and some to come.
pub const NETWORKS_MAX: usize = 16;
/// How long a network that swallowed QUIC is not asked to carry it again, ms; doubles each time.
pub const QUIC_PENALTY_MS_FIRST: u64 = 60_000;
/// The longest such time, ms.
pub const QUIC_PENALTY_MS_MAX: u64 = 3_600_000;
/// A QUIC connection that lasted so long shows that the network carries it, ms. Longer than the
/// five minutes after which some networks forget UDP.
pub const QUIC_TRUSTED_MS: u64 = 600_000;
/// To write BYE before the socket is closed, ms.
pub const FAREWELL_MS_MAX: u64 = 1_000;
/// To take in what the server said before its connection broke, ms: it is here, or as good as lost.
pub const SALVAGE_MS_MAX: u64 = 100;
/// To obtain a session token from the app, ms.
pub const TOKEN_MS_MAX: u64 = 30_000;

const _: () = assert!(SHAKE_ANSWER_MS_MAX >= RESEND_MS_MIN);
const _: () = assert!(ADDRESSES_MAX as u64 * RACE_STAGGER_MS <= CONNECT_MS_MAX / 4);
const _: () = assert!(ANSWER_LATE_MS + PROBE_ANSWER_MS_MAX < PONG_MS_MAX);
const _: () = assert!(LEAVING_MS_MAX < SHAKE_ANSWER_MS_MAX);
const _: () = assert!(IDLE_BYTES_MAX < READ_BYTES);
const _: () = assert!(OUTGOING_BYTES_MAX > yao_protocol::limits::GREETING_PAYLOAD_BYTES_MAX * 2);
