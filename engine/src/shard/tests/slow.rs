//! Peers that come and say little or nothing: what they cost, and when they are gone.

use super::*;
use crate::admission::{AdmissionLimits, Decision, Origin, RefusedBy};

const PEERS: u32 = 1_000;

/// How a peer stops.
#[derive(Clone, Copy, Debug)]
enum Stops {
    /// In the handshake of its transport, which goes on and on.
    Securing,
    /// Before its first byte.
    Silent,
    /// One byte of HELLO every half second.
    Trickling,
    /// With all of the longest first frame but its last byte.
    Cut,
    /// After its handshake, in the middle of a TLS record.
    CutRecord,
}

fn hello_header() -> [u8; 8] {
    [0, 4, kind::HELLO, 0, 1, 0, 0, 0]
}

#[test]
fn a_thousand_half_open_connections_are_gone_after_their_deadline() {
    let check = |stops: Stops, gone_ms: u64| {
        let mut world = World::new();
        world.engine.handle_closed(world.connection.slot);
        let (start, origin) = (world.now, Some(Origin::of([10, 0, 0, 1].into())));
        world.engine.handle_admission(AdmissionLimits {
            connections_max: PEERS,
            handshakes_per_second: 0,
            burst: 1,
            per_address: u32::MAX,
        });
        let secured = !matches!(stops, Stops::Securing | Stops::CutRecord);
        for slot in 0..PEERS {
            assert_eq!(world.engine.handle_newcomer(start, origin, true), Decision::Admit);
            let connection = world.engine.handle_accepted(start, secured, 9).expect("room");
            assert_eq!(connection.slot, slot);
            world.engine.handle_entered(start, slot, origin);
            world.connection = connection;
            match stops {
                Stops::Cut => {
                    let mut bytes = hello_header().to_vec();
                    bytes.resize(8 + 1_023, 0);
                    assert!(world.receive(&bytes).is_empty());
                }
                Stops::CutRecord => {
                    world.engine.handle_secured(start, slot);
                    world.engine.handle_cut(start, slot, true);
                }
                Stops::Securing | Stops::Silent | Stops::Trickling => {}
            }
        }
        let full = Decision::Refuse(RefusedBy::Connections);
        assert_eq!(world.engine.handle_newcomer(start, origin, true), full);
        for ms in (0..=gone_ms).step_by(100) {
            world.now = start.plus_ms(ms);
            if ms % 500 == 0 {
                trickle(&mut world, stops, (ms / 500) as usize);
            }
            // What is due goes a few at a time; others have their turn in between.
            while world.engine.deadline(world.now) <= world.now {
                world.engine.handle_time(world.now);
                let mut closed = 0;
                for effect in world.effects() {
                    if let Effect::Close { connection } = effect {
                        assert!(ms + 500 >= gone_ms, "{stops:?}: closed early, after {ms} ms");
                        world.engine.handle_closed(connection.slot);
                        closed += 1;
                    }
                }
                assert!(closed <= 32, "{stops:?}: {closed} closed in one go");
            }
        }
        assert_eq!(world.engine.connections(), 0, "{stops:?}: all gone after {gone_ms} ms");
        assert_eq!(world.engine.partial_bytes(), 0, "{stops:?}");
        assert_eq!(world.engine.unopened(), 0, "{stops:?}: the budget is free again");
        assert_eq!(world.engine.counters().timed_out, u64::from(PEERS), "{stops:?}");
    };
    check(Stops::Securing, 5_300);
    check(Stops::Silent, 3_300);
    check(Stops::Trickling, 3_300);
    check(Stops::Cut, 3_300);
    check(Stops::CutRecord, 3_300);
}

fn trickle(world: &mut World, stops: Stops, place: usize) {
    for slot in 0..PEERS {
        if world.engine.table.slot(slot).state() == State::Free {
            continue;
        }
        world.connection.slot = slot;
        match stops {
            Stops::Trickling => {
                let byte = hello_header().get(place).copied().unwrap_or(0);
                assert!(world.receive(&[byte]).is_empty());
            }
            Stops::Securing => world.engine.handle_cut(world.now, slot, place.is_multiple_of(2)),
            Stops::Silent | Stops::Cut | Stops::CutRecord => {}
        }
    }
}

#[test]
fn a_session_that_opens_gives_its_place_to_the_next() {
    let mut world = World::new();
    let limits = AdmissionLimits { connections_max: 1, ..AdmissionLimits::NONE };
    world.engine.handle_admission(limits);
    world.engine.handle_entered(world.now, world.connection.slot, None);
    let full = Decision::Refuse(RefusedBy::Connections);
    assert_eq!(world.engine.handle_newcomer(world.now, None, true), full);
    world.greet(None);
    assert_eq!(world.engine.handle_newcomer(world.now, None, true), full, "checked, not open");
    world.believe(USER);
    assert_eq!(world.engine.handle_newcomer(world.now, None, true), Decision::Admit);
    assert_eq!(world.engine.counters().refused_connections, 2);
}

/// What a read asked for may close the connection before its cut record is reported.
#[test]
fn a_cut_record_of_a_connection_that_is_gone_leaves_nothing() {
    let mut world = World::open();
    let slot = world.connection.slot;
    world.engine.handle_closed(slot);
    for _ in 0..3 {
        world.engine.handle_cut(world.now, slot, true);
        world.engine.handle_cut(world.now, 9_999, true);
    }
    let next = world.accept();
    assert_eq!(next.slot, slot);
    world.connection = next;
    world.greet(None);
    assert_eq!(world.state(), State::Checking);
    world.engine.handle_closed(slot);
    assert_eq!(world.engine.partials.count(), 0);
}

#[test]
fn a_cut_record_has_the_deadline_of_a_cut_frame() {
    let mut world = World::open();
    world.effects();
    let slot = world.connection.slot;
    world.engine.handle_cut(world.now, slot, true);
    let start = world.now;
    for (ms, closing) in [(4_000, false), (5_600, true)] {
        world.engine.handle_time(start.plus_ms(ms));
        let closed = world.effects().iter().any(|effect| matches!(effect, Effect::Close { .. }));
        assert_eq!(closed, closing, "after {ms} ms");
    }
}

/// What is kept is what came: no more is asked of the allocator, however small the pieces are, and
/// whatever the header promises.
#[test]
fn a_frame_costs_the_bytes_that_came_and_not_those_it_promises() {
    let check = |mut world: World, payload: u16| {
        let mut frame = vec![0; 8 + usize::from(payload)];
        frame[..8].copy_from_slice(&hello_header());
        frame[..2].copy_from_slice(&payload.to_le_bytes());
        for (came, byte) in frame[..frame.len() - 1].iter().enumerate() {
            world.receive(&[*byte]);
            assert_eq!(world.engine.partial_bytes(), came + 1);
        }
        world.engine.handle_closed(world.connection.slot);
        assert_eq!(world.engine.partial_bytes(), 0);
    };
    check(World::new(), 1_024);
    check(World::open(), 16_384);
}
