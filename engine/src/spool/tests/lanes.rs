//! Two lanes: who opens now goes first, the backlog keeps its pace, and the watermark passes
//! nobody.

use super::{
    MS,
    world::{World, opened, settings},
};
use crate::spool::Settings;

/// A node that accepted 1,000 opens while nobody delivered them; its newest 50 to 100 are live.
fn after_an_outage(settings: Settings) -> World {
    let mut world = World::new(settings);
    world.accept(0..1_000);
    world.agent_up();
    world
}

/// Answers every batch that is under way; the sequences that were in them.
fn answer_all(world: &mut World) -> Vec<u64> {
    let mut answered = Vec::new();
    while !world.batches.is_empty() {
        let batch = world.take_batch();
        answered.extend(batch.sequences());
        world.answer(&batch);
    }
    answered
}

#[test]
fn whoever_opens_now_is_settled_before_the_backlog() {
    let mut world = after_an_outage(Settings { backlog_per_second: 100, ..settings() });
    let first = world.take_batch();
    assert!(first.sequences().contains(&1_000), "the newest before the oldest");
    world.answer(&first);
    let oldest = world.take_batch();
    assert_eq!(oldest.sequences()[0], 1);
    world.answer(&oldest);
    // The backlog keeps its pace, and who opens now does not.
    assert!(world.batches.is_empty());
    for packet in 5_000..5_010 {
        world.open_allowed(opened(packet, packet));
        world.advance(3 * MS);
        world.sync();
        let batch = world.take_batch();
        assert_eq!(batch.sequences(), [packet - 5_000 + 1_001]);
        world.answer(&batch);
    }
    assert_eq!(world.spool.settled(), 256, "the gap between them is not settled");
}

#[test]
fn a_place_is_left_for_who_opens_now() {
    let mut world = after_an_outage(settings());
    let live = world.take_batch();
    world.answer(&live);
    // Settlement takes batches and answers none: the backlog has all places but one.
    assert_eq!(world.batches.len(), 3);
    world.open_allowed(opened(5_000, 7));
    world.advance(3 * MS);
    world.sync();
    assert_eq!(world.batches.len(), 4);
    assert_eq!(world.batches[3].sequences(), [1_001]);
    // With one place only, the lanes take turns.
    let mut world = after_an_outage(Settings { batches_in_flight_max: 1, ..settings() });
    assert_eq!(answer_all(&mut world).len(), 1_000);
}

#[test]
fn m7_the_watermark_waits_for_the_backlog() {
    let mut world = after_an_outage(settings());
    let live = world.take_batch();
    let (first, last) = (live.sequences()[0], *live.sequences().last().expect("some"));
    world.answer(&live);
    assert_eq!((world.spool.settled(), world.disk.watermark), (0, 0), "900 wait below it");
    // The backlog is answered from its end: nothing moves until its first batch is.
    while world.batches.len() > 1 {
        let batch = world.batches.pop().expect("more than one");
        world.answer(&batch);
        assert_eq!(world.disk.watermark, 0);
    }
    let oldest = world.take_batch();
    world.answer(&oldest);
    assert_eq!((world.disk.watermark, last), (1_000, 1_000), "and then passes all at once");
    assert!(first > 900 && world.batches.is_empty());
    assert_eq!(world.disk.answer_digest, [1_000_u64 as u8; 32], "by the answer about the last");
}

#[test]
fn m7_what_cannot_be_read_is_waited_for_by_the_watermark_and_by_nobody_else() {
    let mut world = World::new(settings());
    world.accept(0..1_000);
    world.crash(0);
    world.unreadable = true;
    world.agent_up();
    for packet in 5_000..5_005 {
        world.open_allowed(opened(packet, packet));
        world.advance(3 * MS);
        world.sync();
    }
    assert_eq!(answer_all(&mut world), [1_001, 1_002, 1_003, 1_004, 1_005]);
    assert_eq!((world.spool.settled(), world.disk.watermark), (0, 0));
    world.unreadable = false;
    world.advance(10_000 * MS);
    assert_eq!(answer_all(&mut world).len(), 1_000);
    assert_eq!((world.spool.settled(), world.disk.watermark), (1_005, 1_005));
}

#[test]
fn m7_a_crash_between_the_lanes_delivers_the_gap_and_what_lies_behind_it_again() {
    let mut world = after_an_outage(Settings { backlog_per_second: 100, ..settings() });
    let live = world.take_batch();
    world.answer(&live);
    world.crash(0);
    world.agent_up();
    let mut seen = Vec::new();
    while world.spool.settled() < 1_000 {
        seen.extend(answer_all(&mut world));
        world.advance(1_000 * MS);
    }
    assert_eq!(seen, (1..=1_000).collect::<Vec<_>>(), "once in this life, in order");
    assert_eq!(world.paid.len(), 1_000);
}

#[test]
fn the_backlog_is_delivered_at_its_rate_and_no_faster() {
    let rate = 1_000;
    let mut world = World::new(Settings {
        backlog_per_second: rate,
        live_records_max: 1,
        tail_records_max: 500,
        ..settings()
    });
    world.accept(0..10_000);
    world.agent_up();
    let (mut sent, mut ms) = (0, 0);
    loop {
        sent += answer_all(&mut world).len() as u64;
        let most = u64::from(rate) * ms / 1_000 + 256 + 1;
        assert!(sent <= most, "{sent} after {ms} ms, at most {most}");
        if sent == 10_000 {
            break;
        }
        world.advance(MS);
        ms += 1;
    }
    assert!(ms <= 12_500, "{ms} ms: at most a quarter slower");
    assert_eq!(world.disk.watermark, 10_000);
    assert_eq!(world.spool.counters().batched_live, 1);
    assert_eq!(world.spool.counters().batched_backlog, 9_999);
}

#[test]
fn the_backlog_catches_up_with_who_opens_now() {
    // More come than settlement takes: the live lane overflows again and again.
    let mut world = World::new(Settings {
        batches_in_flight_max: 2,
        live_records_max: 10,
        tail_records_max: 20,
        ..settings()
    });
    world.agent_up();
    let mut packets = 0;
    for _ in 0..200 {
        world.accept(packets..packets + 37);
        packets += 37;
        let batch = world.batches.pop().expect("one at least is under way");
        world.answer(&batch);
    }
    let settled = world.spool.settled();
    assert!(settled < packets, "it is behind");
    answer_all(&mut world);
    assert_eq!((world.spool.settled(), world.disk.watermark), (packets, packets));
    assert_eq!(world.paid.len() as u64, packets);
    // And everything is live again.
    let backlog = world.spool.counters().batched_backlog;
    world.accept(packets..packets + 5);
    answer_all(&mut world);
    assert_eq!(world.spool.counters().batched_backlog, backlog);
    assert_eq!(world.disk.watermark, packets + 5);
}
