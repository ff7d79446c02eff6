//! What a connection costs before anybody knows whose it is: at most 4 KiB of memory for plain
//! TCP, and nothing is left when it is gone. Live bytes are counted: it holds on any machine.
#![expect(unsafe_code, reason = "a counting global allocator can only be written so")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};
use yao_engine::{
    GateView, Timestamp,
    admission::{AdmissionLimits, Decision, Origin},
    shard::{Effect, Settings, ShardEngine, Surroundings},
};
use yao_protocol::{CampaignId, KeyId, SponsorSet, WallTime, client::kind, keys::MacKey};

thread_local! {
    static LIVE: Cell<i64> = const { Cell::new(0) };
}

struct Counting;

fn count(bytes: usize, sign: i64) {
    let bytes = i64::try_from(bytes).expect("an allocation fits");
    LIVE.with(|live| live.set(live.get() + sign * bytes));
}

// SAFETY: every call goes unchanged to the system allocator; counting touches only a
// const-initialised thread-local cell, which neither allocates nor unwinds.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 1);
        // SAFETY: the caller's promises about `layout` are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(layout.size(), -1);
        // SAFETY: `pointer` came from `alloc` above, that is from the system allocator.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const PEERS: u32 = 10_000;
/// Of the engine's. The shell adds a descriptor in a table, 4 bytes, and keeps nothing else.
const BYTES_MAX: i64 = 4_096 - 4;

fn engine(now: Timestamp) -> ShardEngine {
    let mac_key = MacKey::new(KeyId(1), [1; 32]);
    let settings = Settings { connections_max: PEERS, ..Settings::new(CampaignId(1), mac_key) };
    let mut engine = ShardEngine::new(settings, now);
    engine.handle_admission(AdmissionLimits {
        connections_max: PEERS,
        handshakes_per_second: 1_000_000,
        burst: 1_000_000,
        per_address: 1,
    });
    engine
}

/// Bytes of an entry that a table has room for when it has doubled: less than anything that a
/// connection leaves behind in two rounds.
const DOUBLED_MAX: i64 = 48;

#[test]
fn a_peer_that_is_not_known_yet_costs_at_most_4_kib_and_leaves_nothing() {
    let mut now = Timestamp::from_ns(1_000_000_000);
    let gate = GateView { sponsors: SponsorSet(0), count: 0, running: false };
    let surroundings =
        Surroundings { gate, wall: WallTime(1), shake_interval_ms: 0, cue: 1, tier: 0 };
    let mut engine = engine(now);
    // The worst that a peer can leave: the longest first frame but its last byte, in pieces.
    let mut bytes = vec![0, 4, kind::HELLO, 0, 1, 0, 0, 0];
    bytes.resize(8 + 1_023, 0);
    let mut after = Vec::new();
    for round in 0..4_u32 {
        let before = LIVE.with(Cell::get);
        for peer in 0..PEERS {
            let address = std::net::Ipv4Addr::from_bits(round * PEERS + peer);
            let origin = Some(Origin::of(address.into()));
            // Addresses are many: only the last quarter asks, and each has come once.
            assert_eq!(engine.handle_newcomer(now, origin, true), Decision::Admit);
            let connection = engine.handle_accepted(now, true, round * PEERS + peer).expect("room");
            engine.handle_entered(now, connection.slot, origin);
            let mut out = Vec::new();
            for piece in bytes.chunks(7) {
                engine.handle_received(now, &surroundings, connection.slot, piece, &mut out);
            }
            assert!(out.is_empty());
        }
        let cost = (LIVE.with(Cell::get) - before) / i64::from(PEERS);
        assert!(cost <= BYTES_MAX, "{cost} bytes each");
        assert!(round > 0 || cost > 1_031, "what they sent is kept: {cost}");
        now = now.plus_ms(3_500);
        while engine.deadline(now) <= now {
            engine.handle_time(now);
            while let Some(effect) = engine.poll_effect() {
                if let Effect::Close { connection } = effect {
                    engine.handle_closed(connection.slot);
                }
            }
        }
        assert_eq!((engine.connections(), engine.unopened()), (0, 0));
        after.push(LIVE.with(Cell::get));
    }
    // Tables of 10,000 slots stay, for the next ones. A hash table may double once more: what is
    // removed leaves marks in it, how many depends on where chance has put the entries.
    let grown = after[3] - after[1];
    assert!(grown <= DOUBLED_MAX * i64::from(PEERS), "{after:?}");
}
