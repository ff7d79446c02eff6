//! The spool against a modelled disk, agent and settlement: see [`world`]. Single rules are
//! checked here, whole histories in [`histories`].

mod histories;
mod lanes;
mod world;

use self::world::{World, opened, settings};
use super::*;
use yao_protocol::client::{ErrorCode, RetryClass};

const MS: u64 = 1_000_000;

fn refused(reply: &Reply) -> (ErrorCode, RetryClass) {
    match reply {
        Reply::Refused(refusal) => (refusal.code, refusal.class),
        Reply::Receipt(_) => panic!("a receipt where a refusal was expected"),
    }
}

fn receipt(reply: &Reply) -> Receipt {
    match reply {
        Reply::Receipt(receipt) => *receipt,
        Reply::Refused(refusal) => panic!("refused: {refusal:?}"),
    }
}

#[test]
fn m7_a_receipt_leaves_only_after_the_sync() {
    let mut world = World::new(settings());
    let first = world.open(opened(1, 7));
    world.advance(5 * MS);
    // Written, the sync is under way: whatever else happens, nobody is told yes.
    assert!(world.sync_is_due());
    assert_eq!(world.reply(first), None);
    let again = world.open(opened(1, 7));
    world.advance(100 * MS);
    assert_eq!((world.reply(first), world.reply(again)), (None, None));
    world.sync();
    let (first, again) = (world.reply(first).expect("synced"), world.reply(again).expect("synced"));
    assert_eq!(receipt(&first), receipt(&again), "one packet, one receipt");
}

#[test]
fn one_sync_serves_all_opens_of_two_milliseconds() {
    let mut world = World::new(settings());
    let opens: Vec<_> = (0..100).map(|n| world.open(opened(n, 7))).collect();
    world.advance(1_999_999);
    assert!(!world.sync_is_due(), "more may come");
    world.advance(1);
    world.sync();
    assert!(opens.iter().all(|open| world.reply(*open).is_some()));
    assert_eq!(world.spool.counters().syncs, 1);
    // Enough bytes do not wait.
    let records = settings().commit_bytes_max as u64 / RECORD_BYTES + 1;
    for n in 0..records {
        world.open(opened(1_000 + n, 7));
    }
    world.advance(0);
    assert!(world.sync_is_due());
}

#[test]
fn the_same_packet_is_answered_alike_for_ever_and_nobody_elses() {
    let mut world = World::new(settings());
    let first = world.open(opened(1, 7));
    world.advance(5 * MS);
    world.sync();
    let first = receipt(&world.reply(first).expect("synced"));
    // Long after the ticket's expiry, and after a restart.
    world.advance(world::LIFETIME_US * 2_000);
    for _ in 0..2 {
        let again = world.open(opened(1, 7));
        world.advance(0);
        assert_eq!(receipt(&world.reply(again).expect("known")), first);
        let thief = world.open(opened(1, 8));
        world.advance(0);
        let reply = world.reply(thief).expect("known");
        assert_eq!(refused(&reply), (ErrorCode::TicketInvalid, RetryClass::Never));
        world.crash(0);
    }
}

#[test]
fn what_cannot_be_taken_is_refused_with_its_reason() {
    let check = |change: &dyn Fn(&mut World, &mut Ticket), code, class| {
        let mut world = World::new(Settings { bytes_max: 10 * RECORD_BYTES, ..settings() });
        let mut ticket = opened(1, 7);
        change(&mut world, &mut ticket);
        let open = world.open(ticket);
        world.advance(0);
        assert_eq!(refused(&world.reply(open).expect("refused at once")), (code, class));
        assert_eq!(world.spool.next_sequence(), world.disk.appended.len() as u64 + 1);
    };
    check(
        &|world, ticket| ticket.body.expires_at = world.wall(),
        ErrorCode::TicketExpired,
        RetryClass::Never,
    );
    check(
        &|_, ticket| ticket.body.campaign = CampaignId(1),
        ErrorCode::TicketInvalid,
        RetryClass::Never,
    );
    check(
        &|world, _| {
            for n in 100..110 {
                world.open(opened(n, 9));
            }
            world.advance(5 * MS);
        },
        ErrorCode::OpenUnavailable,
        RetryClass::After,
    );
}

#[test]
fn a_full_spool_refuses_new_opens_and_knows_the_others() {
    let mut world = World::new(Settings { bytes_max: 100 * RECORD_BYTES, ..settings() });
    world.accept(0..94);
    assert_eq!((world.spool.level(), world.spool.level().issue_percent()), (Level::Slow, 50));
    world.accept(94..95);
    assert_eq!((world.spool.level(), world.spool.level().issue_percent()), (Level::Full, 0));
    let refused_at = |world: &mut World, packet| {
        let open = world.open_allowed(opened(packet, packet));
        match world.reply(open) {
            Some(Reply::Refused(refusal)) => (refusal.code, refusal.delay_ms, refusal.jitter_ms),
            reply => panic!("{reply:?}"),
        }
    };
    let unavailable = (ErrorCode::OpenUnavailable, 15_000, 15_000);
    assert_eq!(refused_at(&mut world, 200), unavailable);
    let known = world.open(opened(3, 3));
    receipt(&world.reply(known).expect("it is on disk since before"));
    // An open that was being vetted when the last room went.
    world.agent_up();
    while world.spool.settled() < 6 {
        let batch = world.take_batch();
        world.answer(&batch);
    }
    assert_eq!(world.spool.level(), Level::Normal, "everything was answered");
    world.input(Input::Space { bytes: 6 * RECORD_BYTES });
    assert_eq!(world.spool.level(), Level::Slow, "the disk has less room than we would take");
    let vetted = [300, 301].map(|packet| world.open(opened(packet, packet)));
    for call in world.vets() {
        world.input(Input::Verdict { call, allowed: true });
    }
    world.advance(5 * MS);
    world.sync();
    receipt(&world.reply(vetted[0]).expect("there was room"));
    assert_eq!(refused(&world.reply(vetted[1]).expect("refused")).0, ErrorCode::OpenUnavailable);
    world.input(Input::Space { bytes: u64::MAX });
    assert_eq!(world.spool.level(), Level::Normal, "somebody has made room");
}

#[test]
fn policy_may_refuse_and_silence_means_yes() {
    let mut world = World::new(settings());
    world.agent_up();
    let opens: Vec<_> = (0..4).map(|n| world.open(opened(n, 7))).collect();
    world.advance(0);
    let calls = world.vets();
    assert_eq!(calls.len(), 4);
    world.input(Input::Verdict { call: calls[0], allowed: true });
    world.input(Input::Verdict { call: calls[1], allowed: false });
    world.input(Input::VetUnsent { call: calls[2] });
    let no = world.reply(opens[1]).expect("refused at once");
    assert_eq!(refused(&no), (ErrorCode::OpenRefused, RetryClass::Never));
    world.advance(1_000 * MS);
    world.sync();
    world.advance(1_000 * MS);
    if world.sync_is_due() {
        world.sync();
    }
    for yes in [0, 2, 3] {
        receipt(&world.reply(opens[yes]).expect("synced"));
    }
    assert_eq!(world.spool.counters().accepted, 3);
}

#[test]
fn m3_a_failed_sync_fences_for_good_and_what_was_synced_stays() {
    let mut world = World::new(settings());
    let kept = world.open(opened(1, 7));
    world.advance(5 * MS);
    world.sync();
    receipt(&world.reply(kept).expect("synced"));
    let lost = world.open(opened(2, 7));
    world.advance(5 * MS);
    let collecting = world.open(opened(3, 7));
    world.fail_sync();
    for open in [lost, collecting] {
        let reply = world.reply(open).expect("answered by the fence");
        assert_eq!(refused(&reply), (ErrorCode::OpenUnavailable, RetryClass::After));
    }
    // No second sync, whatever comes; known packets are answered, and delivered.
    world.agent_up();
    let late = world.open(opened(2, 7));
    let known = world.open(opened(1, 7));
    world.advance(1_000 * MS);
    assert!(!world.sync_is_due(), "a failed sync is never retried");
    assert_eq!(refused(&world.reply(late).expect("fenced")).0, ErrorCode::OpenUnavailable);
    receipt(&world.reply(known).expect("on disk since before"));
    let batch = world.take_batch();
    assert_eq!(batch.sequences(), [1], "only what was synced is delivered");
    world.answer(&batch);
    assert_eq!((world.spool.settled(), world.disk.watermark), (1, 0), "nothing is written");
}

#[test]
fn m7_the_watermark_moves_only_by_a_matching_answer() {
    type Forgery = fn(&mut Answer);
    let forgeries: [(Forgery, Mismatch); 9] = [
        (|answer| answer.campaign.0 += 1, Mismatch::OtherBatch),
        (|answer| answer.shard.0 += 1, Mismatch::OtherBatch),
        (|answer| answer.epoch.0 += 1, Mismatch::OtherBatch),
        (|answer| answer.incarnation.0[0] ^= 1, Mismatch::OtherBatch),
        (|answer| answer.first_sequence += 1, Mismatch::OtherBatch),
        (|answer| answer.last_sequence += 1, Mismatch::OtherBatch),
        (|answer| answer.batch_digest[31] ^= 1, Mismatch::Digest),
        (|answer| answer.results.truncate(1), Mismatch::Count),
        (|answer| answer.results.push(OpenResult::Applied), Mismatch::Count),
    ];
    for (forge, expected) in forgeries {
        let mut world = World::new(settings());
        world.open(opened(1, 7));
        world.open(opened(2, 7));
        world.advance(5 * MS);
        world.sync();
        world.agent_up();
        let batch = world.take_batch();
        let mut answer = world.settle(&batch);
        forge(&mut answer);
        world.deliver_answer(batch.request_id, answer);
        assert_eq!(world.refused_answers.pop(), Some(expected));
        assert_eq!((world.spool.settled(), world.spool.counters().settled), (0, 0));
        // Sent again, and then answered rightly.
        assert!(world.batches.is_empty(), "not at once");
        world.advance(200 * MS);
        let batch = world.take_batch();
        world.answer(&batch);
        assert_eq!((world.spool.settled(), world.disk.watermark), (2, 2));
    }
}

#[test]
fn m7_the_watermark_waits_for_the_oldest_batch() {
    let mut world = World::new(settings());
    world.agent_up();
    let mut batches = Vec::new();
    for n in 0..3 {
        world.open_allowed(opened(n, 7));
        world.advance(5 * MS);
        world.sync();
        batches.push(world.take_batch());
    }
    world.answer(&batches[2]);
    world.answer(&batches[1]);
    world.answer(&batches[1]);
    assert_eq!((world.spool.settled(), world.disk.watermark), (0, 0));
    assert_eq!(world.spool.counters().settled, 2, "answered, each once");
    world.answer(&batches[0]);
    assert_eq!((world.spool.settled(), world.disk.watermark), (3, 3));
}

#[test]
fn a_batch_that_does_not_arrive_is_sent_again_ever_more_slowly() {
    let mut world = World::new(settings());
    world.open(opened(1, 7));
    world.advance(5 * MS);
    world.sync();
    world.agent_up();
    let mut wait_ms = 100;
    for _ in 0..9 {
        let batch = world.take_batch();
        world.input(Input::Undelivered { request_id: batch.request_id, retry_after_ms: 0 });
        world.advance(wait_ms * MS - 1);
        assert!(world.batches.is_empty(), "not before {wait_ms} ms");
        world.advance(1);
        wait_ms = (wait_ms * 2).min(10_000);
    }
    // An agent that never answers, and one that leaves.
    let batch = world.take_batch();
    world.advance(9_999 * MS);
    assert!(world.batches.is_empty());
    world.advance(MS);
    assert_eq!(world.spool.counters().overdue, 1);
    world.advance(10_000 * MS);
    assert_eq!(world.take_batch().bytes, batch.bytes);
    world.input(Input::AgentAvailable(false));
    world.advance(60_000 * MS);
    assert!(world.batches.is_empty(), "nobody to send it to");
    world.agent_up();
    let batch = world.take_batch();
    world.answer(&batch);
    assert_eq!(world.spool.settled(), 1);
}

#[test]
fn settlements_refusals_are_counted_and_the_unexpected_ones_kept() {
    let mut world = World::new(settings());
    let results = [
        OpenResult::Applied,
        OpenResult::Same,
        OpenResult::Conflict,
        OpenResult::OverLimit,
        OpenResult::Expired,
        OpenResult::Invalid,
        OpenResult::Reclaimed,
    ];
    for n in 0..7 {
        world.open(opened(n, 7));
    }
    world.advance(5 * MS);
    world.sync();
    world.agent_up();
    let batch = world.take_batch();
    let mut answer = world.settle(&batch);
    answer.results = results.to_vec();
    world.deliver_answer(batch.request_id, answer);
    let counters = world.spool.counters();
    let counts = [
        counters.applied,
        counters.same,
        counters.conflict,
        counters.over_limit,
        counters.expired,
        counters.invalid,
        counters.reclaimed,
    ];
    assert_eq!((counts, counters.settled), ([1; 7], 7));
    let letters: Vec<_> =
        world.dead_letters.iter().map(|letter| (letter.sequence, letter.result)).collect();
    let expected =
        [(3, OpenResult::Conflict), (6, OpenResult::Invalid), (7, OpenResult::Reclaimed)];
    assert_eq!(letters, expected);
    assert_eq!(world.disk.watermark, 7, "a dead letter never blocks the others");
}

#[test]
fn records_beyond_memory_are_read_again_in_order() {
    let mut world = World::new(Settings { tail_records_max: 300, ..settings() });
    world.accept(0..2_000);
    // Damaged records on disk are left behind.
    world.disk.durable.retain(|(sequence, _)| ![1_500, 1_501].contains(sequence));
    world.agent_up();
    let mut delivered = Vec::new();
    while !world.batches.is_empty() {
        let batch = world.take_batch();
        delivered.extend(batch.sequences());
        world.answer(&batch);
        assert!(world.batches.len() <= settings().batches_in_flight_max);
    }
    delivered.sort_unstable();
    let readable = |n: &u64| ![1_500, 1_501].contains(n);
    assert_eq!(delivered, (1..=2_000).filter(readable).collect::<Vec<_>>());
    assert_eq!(world.disk.watermark, 2_000);
    let reads = world.reads;
    assert!(reads > 0);
    // Once it has caught up, new records go straight to delivery.
    for n in 3_000..3_010 {
        world.open_allowed(opened(n, n));
        world.advance(5 * MS);
        world.sync();
        let batch = world.take_batch();
        world.answer(&batch);
    }
    assert!(world.reads <= reads + 1, "{} reads for ten small commits", world.reads - reads);
}

#[test]
fn m7_what_cannot_be_read_takes_no_room() {
    let mut world = World::new(Settings { bytes_max: 10 * RECORD_BYTES, ..settings() });
    world.accept(0..2);
    world.disk.next_sequence_min = 100;
    world.crash(0);
    assert_eq!(world.spool.level(), Level::Full, "they may all be there");
    world.agent_up();
    let batch = world.take_batch();
    assert_eq!((batch.sequences(), world.spool.fill_permille()), (vec![1, 2], 200));
    world.answer(&batch);
    assert_eq!((world.disk.watermark, world.spool.fill_permille()), (2, 0));
    // Opens are taken, and the watermark goes on where settlement answers.
    let open = world.open_allowed(opened(7, 7));
    world.advance(5 * MS);
    world.sync();
    receipt(&world.reply(open).expect("synced"));
    let batch = world.take_batch();
    assert_eq!((batch.sequences(), world.spool.fill_permille()), (vec![100], 100));
    world.answer(&batch);
    assert_eq!((world.disk.watermark, world.spool.fill_permille()), (100, 0));
}

#[test]
fn removed_segments_are_forgotten_and_a_lost_watermark_delivers_again() {
    let mut world = World::new(settings());
    world.agent_up();
    for n in 1..=2 {
        world.open_allowed(opened(n, 7));
        world.advance(5 * MS);
        world.sync();
        let batch = world.take_batch();
        world.answer(&batch);
    }
    world.disk.watermark = 0;
    world.crash(0);
    world.agent_up();
    let batch = world.take_batch();
    assert_eq!(batch.sequences(), [1, 2]);
    world.answer(&batch);
    assert_eq!((world.spool.counters().same, world.disk.watermark), (2, 2));
    world.input(Input::Removed { through: 1 });
    let forgotten = world.open_allowed(opened(1, 7));
    assert_eq!(world.spool.next_sequence(), 4, "a new record: settlement will say SAME");
    assert_eq!(world.reply(forgotten), None);
}

#[test]
fn a_flush_does_not_wait_for_more() {
    let mut world = World::new(settings());
    let open = world.open(opened(1, 7));
    world.input(Input::Flush);
    assert!(world.sync_is_due() && !world.spool.is_flushed());
    world.sync();
    receipt(&world.reply(open).expect("synced"));
    assert!(world.spool.is_flushed());
}
