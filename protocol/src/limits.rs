//! Every limit of the formats, each with its unit, and the assertions that relate them.

/// Bytes of a frame header (wire.md 2).
pub const FRAME_HEADER_BYTES: usize = 8;
/// Payload of one frame on the client link, bytes.
pub const CLIENT_PAYLOAD_BYTES_MAX: usize = 16 * 1024;
/// Payload of one frame before the session is authenticated, bytes.
pub const GREETING_PAYLOAD_BYTES_MAX: usize = 1024;
/// Payload of one frame on the agent link, bytes; what the 16-bit length can carry.
pub const AGENT_PAYLOAD_BYTES_MAX: usize = u16::MAX as usize;
/// What a peer may make a server keep of what it said before its session is open, bytes: the start
/// of a TLS record, the start of a frame, and its token while that is checked. The state of a
/// handshake is not in it.
pub const GREETING_BYTES_MAX: usize = 4 * 1024;
/// Of these the TLS record, bytes. Chosen as what the longest first frame needs, and as much
/// padding.
pub const GREETING_RECORD_BYTES_MAX: usize = 2 * 1024;
/// Session token (JWT, compact form), bytes. Chosen so that HELLO with a tally fits its limit.
pub const TOKEN_BYTES_MAX: usize = 768;
/// Sponsors of a campaign; one bit each in the gate's 64-bit mask.
pub const SPONSORS_MAX: usize = 64;
/// Waves of a campaign, and so sections of a seed shard.
pub const WAVES_MAX: usize = 64;
/// Segments of a wave's release curve.
pub const SEGMENTS_MAX: usize = 64;
/// Shards of a campaign: the packet id carries 24 bits of shard.
pub const SHARDS_MAX: u32 = 1 << 24;
/// Least time between two shakes that anybody may ask for, ms: a wrong figure heals in a minute.
pub const SHAKE_INTERVAL_MS_MAX: u32 = 60_000;
/// Packets one user may win in a campaign: what the issuer's table holds per winner.
pub const WINS_PER_USER_MAX: u8 = 16;
/// One endpoint in WELCOME or GOAWAY (see [`crate::endpoint`]), bytes.
pub const ENDPOINT_BYTES_MAX: usize = 255;
/// Endpoints in one WELCOME or GOAWAY.
pub const ENDPOINTS_MAX: usize = 8;

/// One record of a seed file, bytes (seed-file.md 4).
pub const SEED_RECORD_BYTES: usize = 16;
/// Tag of a sealed chunk (ChaCha20-Poly1305), bytes.
pub const SEAL_TAG_BYTES: usize = 16;
/// A sealed chunk, tag included, bytes.
pub const SEED_CHUNK_BYTES_MAX: usize = 64 * 1024;
/// Records in a full chunk.
pub const SEED_CHUNK_RECORDS_MAX: u16 =
    ((SEED_CHUNK_BYTES_MAX - SEAL_TAG_BYTES) / SEED_RECORD_BYTES) as u16;
/// Header of a seed file with its section table and signature, bytes.
pub const SEED_HEADER_BYTES_MAX: usize = 128 * 1024;

/// One slot of a cursor or watermark file, bytes: one page of the usual file systems.
pub const SLOT_BYTES: usize = 4096;
/// Payload of one record in a journal or spool segment, bytes.
pub const LOG_PAYLOAD_BYTES_MAX: usize = 4096;
/// One segment of a journal or spool, bytes; the next record after it opens a new segment.
pub const LOG_SEGMENT_BYTES: u64 = 64 * 1024 * 1024;

/// Opens in one settlement batch. 256 keeps a batch (39,024 bytes) inside one agent-link frame.
pub const BATCH_RECORDS_MAX: usize = 256;
/// Packets of one request to void some: some 200 ms of settlement's one writer, behind which opens
/// wait.
pub const VOID_PACKETS_MAX: u32 = 65_536;

/// A node's name where others are told of it, bytes.
pub const NODE_NAME_BYTES_MAX: usize = 63;
/// A grant reaches at most so many packets beyond the H of its request: 13 minutes of the gala's
/// 83 packets a second on one node.
pub const GRANT_PACKETS_MAX: u32 = 65_536;

const _: () = assert!(CLIENT_PAYLOAD_BYTES_MAX <= u16::MAX as usize);
const _: () = assert!(GREETING_PAYLOAD_BYTES_MAX <= CLIENT_PAYLOAD_BYTES_MAX);
const _: () = assert!(
    GREETING_RECORD_BYTES_MAX + FRAME_HEADER_BYTES + GREETING_PAYLOAD_BYTES_MAX + TOKEN_BYTES_MAX
        <= GREETING_BYTES_MAX
);
// A record adds 22 bytes to the longest first frame.
const _: () =
    assert!(FRAME_HEADER_BYTES + GREETING_PAYLOAD_BYTES_MAX + 22 <= GREETING_RECORD_BYTES_MAX);
const _: () = assert!(
    crate::client::HELLO_FIXED_BYTES + crate::tally::TALLY_BYTES + 2 + TOKEN_BYTES_MAX
        <= GREETING_PAYLOAD_BYTES_MAX
);
const _: () = assert!(crate::settlement::BATCH_BYTES_MAX <= AGENT_PAYLOAD_BYTES_MAX);
const _: () = assert!(
    SEED_CHUNK_RECORDS_MAX as usize * SEED_RECORD_BYTES + SEAL_TAG_BYTES <= SEED_CHUNK_BYTES_MAX
);
const _: () = assert!(
    crate::client::WELCOME_FIXED_BYTES + 1 + ENDPOINTS_MAX * (1 + ENDPOINT_BYTES_MAX)
        <= CLIENT_PAYLOAD_BYTES_MAX
);
