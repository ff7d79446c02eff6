//! Random histories: opens, syncs, failures, forged answers, agents that come and go, power cuts
//! at any point. Whatever happens, every receipt ever given ends as a payment, made once.

use super::{
    MS,
    world::{World, opened, settings},
};
use crate::spool::{Input, RECORD_BYTES, Settings};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    Open { packet: u64 },
    Steal { packet: u64 },
    Advance { ms: u64 },
    Sync,
    FailSync,
    Verdict { allowed: bool },
    Agent { available: bool },
    Answer { which: usize },
    LoseAnswer { which: usize },
    Corrupt { which: usize, byte: usize },
    Forged { which: usize },
    Undelivered { which: usize },
    PowerCut { kept: usize },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (0..40_u64).prop_map(|packet| Step::Open { packet }),
        1 => (0..40_u64).prop_map(|packet| Step::Steal { packet }),
        6 => prop_oneof![Just(0), Just(1), Just(2), Just(25), Just(300), Just(11_000)]
            .prop_map(|ms| Step::Advance { ms }),
        8 => Just(Step::Sync),
        1 => Just(Step::FailSync),
        4 => prop::bool::weighted(0.9).prop_map(|allowed| Step::Verdict { allowed }),
        2 => prop::bool::weighted(0.7).prop_map(|available| Step::Agent { available }),
        6 => (0..4_usize).prop_map(|which| Step::Answer { which }),
        2 => (0..4_usize).prop_map(|which| Step::LoseAnswer { which }),
        2 => (0..4_usize, 0..32_usize).prop_map(|(which, byte)| Step::Corrupt { which, byte }),
        1 => (0..4_usize).prop_map(|which| Step::Forged { which }),
        2 => (0..4_usize).prop_map(|which| Step::Undelivered { which }),
        2 => (0..5_usize).prop_map(|kept| Step::PowerCut { kept }),
    ]
}

/// The user to whom a packet was issued: one, for the whole history.
const fn owner(packet: u64) -> u64 {
    packet % 13
}

fn perform(world: &mut World, step: &Step) {
    match *step {
        Step::Open { packet } => {
            world.open(opened(packet, owner(packet)));
        }
        // Only a packet with a record: a thief's ticket for another one is the issuer's failure.
        Step::Steal { packet } => {
            let known = world.promised.keys().any(|known| u64::from(known.index().0) == packet);
            if known {
                world.open(opened(packet, 99));
            }
        }
        Step::Advance { ms } => world.advance(ms * MS),
        Step::Sync if world.sync_is_due() => world.sync(),
        Step::FailSync if world.sync_is_due() => world.fail_sync(),
        Step::Sync | Step::FailSync => {}
        Step::Verdict { allowed } => {
            for call in world.vets() {
                world.input(Input::Verdict { call, allowed });
            }
        }
        Step::Agent { available } => world.input(Input::AgentAvailable(available)),
        Step::PowerCut { kept } => world.crash(kept),
        Step::Answer { which } => with_batch(world, which, |world, held| world.answer(held)),
        Step::LoseAnswer { which } => with_batch(world, which, |world, held| {
            world.settle(held);
        }),
        Step::Corrupt { which, byte } => with_batch(world, which, |world, held| {
            let mut answer = world.settle(held);
            answer.batch_digest[byte] ^= 1;
            world.deliver_answer(held.request_id, answer);
        }),
        Step::Forged { which } => with_batch(world, which, |world, held| {
            world.input(Input::Forged { request_id: held.request_id });
        }),
        Step::Undelivered { which } => with_batch(world, which, |world, held| {
            world.input(Input::Undelivered { request_id: held.request_id, retry_after_ms: 50 });
        }),
    }
}

fn with_batch(world: &mut World, which: usize, act: impl FnOnce(&mut World, &super::world::Held)) {
    if !world.batches.is_empty() {
        let held = world.batches.remove(which % world.batches.len());
        act(world, &held);
    }
}

/// The show is over: the node restarts if it must, an agent serves, settlement answers.
fn settle_everything(world: &mut World) {
    if world.spool.is_fenced() {
        world.crash(0);
    }
    world.agent_up();
    for _ in 0..2_000 {
        for call in world.vets() {
            world.input(Input::Verdict { call, allowed: true });
        }
        if world.sync_is_due() {
            world.sync();
        }
        while !world.batches.is_empty() {
            let held = world.take_batch();
            world.answer(&held);
        }
        let done = world.spool.settled_on_disk() + 1 == world.spool.next_sequence();
        if done && world.unanswered() == 0 && world.spool.is_flushed() {
            return;
        }
        world.advance(200 * MS);
    }
    panic!("not settled: {:?}", world.spool);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn m7_every_receipt_is_paid_once_whatever_happens(
        steps in prop::collection::vec(step(), 1..120),
        live_records_max in 1..20_usize,
        tail_records_max in 1..20_usize,
        backlog_per_second in prop_oneof![Just(u32::MAX), Just(100)],
        commit_records in 1..8_u64,
        batches_in_flight_max in 1..4_usize,
    ) {
        let mut world = World::new(Settings {
            live_records_max,
            tail_records_max,
            backlog_per_second,
            batches_in_flight_max,
            commit_bytes_max: usize::try_from(commit_records * RECORD_BYTES).expect("small"),
            ..settings()
        });
        for step in &steps {
            perform(&mut world, step);
        }
        settle_everything(&mut world);
        prop_assert_eq!(world.fenced_syncs, 0, "M3: no sync behind a fence");
        for receipt in world.promised.values() {
            prop_assert_eq!(world.paid.get(&receipt.packet), Some(&receipt.user));
        }
    }
}
