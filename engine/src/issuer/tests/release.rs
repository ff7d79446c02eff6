//! Release: never early, a backlog without a burst, and nothing that stands still for ever.

use super::world::{T0, WAVE, World, plan};
use crate::{issuer::Input, wave_clock::WaveClock};
use yao_protocol::{SponsorId, SponsorSet, seed_file::SeedRecord};

/// Shakes with a new user each ms from `from` to `to` (us after T0); how many won.
fn crowd(world: &mut World, from: u64, to: u64) -> usize {
    let before = world.wins.len();
    for us in (from..to).step_by(1_000) {
        world.run_to(us);
        world.shake(1_000 + us, us);
    }
    world.wins.len() - before
}

fn assert_never_early(world: &World) {
    for win in &world.wins {
        let body = win.ticket.body;
        let position = body.packet.index().0 - world.section.first.0;
        let moment = world.records[position as usize].offset_us;
        let offset = (body.issued_at.0 - T0.0) * u64::from(world.factor);
        assert!(offset >= moment, "packet {position} left at {offset}, its moment is {moment}");
    }
}

#[test]
fn no_packet_leaves_before_its_moment() {
    for factor in [1, 100] {
        let seconds = 10 * u64::from(factor);
        let mut world = World::new(plan(1_000, seconds, 8), seconds);
        world.factor = factor;
        world.arm();
        let won = crowd(&mut world, 0, 9_000_000);
        assert!(won > 850, "{won} won at factor {factor}");
        assert_never_early(&world);
        for win in &world.wins {
            let position = win.ticket.body.packet.index().0 - world.section.first.0;
            let moment = world.records[position as usize].offset_us / u64::from(factor);
            let lag = win.ticket.body.issued_at.0 - T0.0 - moment;
            assert!(lag <= 50_000, "packet {position} waited {lag} us although people were there");
        }
    }
}

#[test]
fn not_one_microsecond_early() {
    for factor in [1, 100] {
        // The packets at 0 and at 10 ms of wall time.
        let seconds = 10 * u64::from(factor);
        let mut world = World::new(plan(1_000, seconds, 8), seconds);
        world.factor = factor;
        world.arm();
        world.run_to(0);
        assert!(world.shake(1, 1).is_some(), "the packet of T0, at factor {factor}");
        world.run_to(9_999);
        assert!(world.shake(2, 2).is_none(), "1 us early at factor {factor}");
        world.run_to(10_000);
        assert!(world.shake(3, 3).is_some(), "its moment at factor {factor}");
    }
}

#[test]
fn a_backlog_is_made_up_at_no_more_than_1_2_times_the_curve() {
    // 100 a second; nobody shakes for five seconds.
    let mut world = World::running(plan(2_000, 20, 8), 20, 5_000_000);
    let burst = crowd(&mut world, 5_000_000, 5_200_000);
    assert!(burst <= 100 + 24 + 1, "{burst} packets left: more than a second's worth");
    for second in 5..9 {
        let from = second * 1_000_000 + 200_000;
        let won = crowd(&mut world, from, from + 1_000_000);
        assert!((110..=121).contains(&won), "{won} in a second of catching up");
    }
}

#[test]
fn m7_what_could_not_be_opened_is_issued_slowly_or_not_at_all() {
    // 100 a second, and somebody always there.
    let mut world = World::running(plan(4_000, 40, 8), 40, 0);
    assert!((98..=101).contains(&crowd(&mut world, 0, 1_000_000)));
    world.input(Input::Throttle { percent: 50 });
    let slowed = crowd(&mut world, 1_000_000, 6_000_000);
    // Half of 1.2 times the curve, and what the first second had left over.
    assert!((298..=322).contains(&slowed), "{slowed} of 500");
    world.input(Input::Throttle { percent: 0 });
    let held = crowd(&mut world, 6_000_000, 16_000_000);
    assert!(held <= 1, "{held} left although no open finds room");
    // Room again: what waited is made up like any backlog.
    world.input(Input::Throttle { percent: 100 });
    let burst = crowd(&mut world, 16_000_000, 17_000_000);
    assert!((110..=121).contains(&burst), "{burst} in the first second");
    assert_never_early(&world);
}

#[test]
fn m1_while_clients_leave_h_rises_for_nobody_who_left() {
    // 100 a second: B is 300. Nobody shakes after the first second.
    let after = |leaving: bool| {
        let mut world = World::running(plan(2_000, 20, 8), 20, 0);
        crowd(&mut world, 0, 1_000_000);
        if leaving {
            world.input(Input::Leaving);
        }
        world.run_to(12_000_000);
        world.issuer.waves[0].unissued()
    };
    assert!(after(false) > 1_000, "what is on offer to those who may not take it holds up nothing");
    assert!(after(true) <= 300, "the next start passes over a block, not over what was released");
}

#[test]
fn m1_what_nobody_could_win_was_not_overlooked() {
    // 100 a second: B is 300. The journal holds everything up after the first second.
    let mut world = World::running(plan(2_000, 20, 8), 20, 0);
    crowd(&mut world, 0, 1_000_000);
    world.input(Input::JournalHold(true));
    world.run_to(10_000_000);
    assert!(world.issuer.waves[0].unissued() <= 300, "a block, whoever was here");
    world.input(Input::JournalHold(false));
    world.run_to(10_900_000);
    assert!(world.issuer.waves[0].unissued() <= 300, "they are on offer since a moment only");
    world.run_to(14_000_000);
    assert!(world.issuer.waves[0].unissued() > 600, "now nobody wanted them");
}

#[test]
fn m1_a_drain_behind_a_standing_queue_raises_h_by_a_block_at_most() {
    // 100 a second: B is 300, and the queue is full of what waits for a minute.
    let mut world = World::running(plan(12_000, 120, 8), 120, 0);
    world.run_to(70_000_000);
    world.input(Input::Leaving);
    let high = world.issuer.waves[0].high;
    world.run_to(100_000_000);
    let raised = world.issuer.waves[0].high - high;
    assert!(raised <= 300, "{raised} positions more, and nobody is there");
}

#[test]
fn those_who_are_still_here_win_while_others_leave() {
    let mut world = World::running(plan(12_000, 120, 8), 120, 0);
    crowd(&mut world, 0, 1_000_000);
    world.input(Input::Leaving);
    let won = crowd(&mut world, 1_000_000, 80_000_000);
    assert!((7_800..=8_000).contains(&won), "{won} of some 7,900");
}

#[test]
fn a_start_in_the_middle_makes_up_without_a_burst() {
    let mut world = World::running(plan(2_000, 20, 8), 20, 0);
    // Down for four seconds.
    world.now = world.now.plus_ms(4_000);
    world.crash(0);
    let won = crowd(&mut world, 4_000_000, 5_000_000);
    assert!((90..=121).contains(&won), "{won} in the first second of the new life");
    assert_never_early(&world);
}

#[test]
fn a_node_that_stood_still_makes_up_without_a_burst() {
    let mut world = World::running(plan(2_000, 20, 8), 20, 5_000_000);
    // Nobody polls for two seconds: 200 moments pass in one step.
    world.now = world.now.plus_ms(2_000);
    let burst = crowd(&mut world, 7_000_000, 7_100_000);
    assert!(burst <= 100 + 12 + 1, "{burst} packets left: more than a second's worth");
    assert_never_early(&world);
}

#[test]
fn many_packets_of_one_moment_leave_as_a_backlog_does() {
    // 150 packets of one moment, where credit is for 100 at most: one second of 100 a second.
    let mut records: Vec<SeedRecord> = plan(1_000, 10, 8);
    records[100..250].iter_mut().for_each(|record| record.offset_us = 2_490_000);
    let mut world = World::running(records, 10, 0);
    crowd(&mut world, 0, 2_489_000);
    world.run_to(2_490_000);
    let won = (0..200).filter(|user| world.shake(*user, *user).is_some()).count();
    assert_eq!(won, 100, "no burst above a second's worth");
    let won = crowd(&mut world, 2_490_000, 5_490_000);
    assert_eq!(won, 50 + 299, "but all of them soon, and those of the next 3 s too");
}

#[test]
fn an_audience_that_shakes_in_step_gets_every_packet() {
    // Told to shake now, everybody shakes in the same instant, and again each interval.
    for interval_us in [200_000, 1_000_000] {
        let mut world = World::new(plan(1_000, 10, 8), 10);
        world.arm();
        let mut won = 0;
        for us in (0..=10_000_000).step_by(interval_us) {
            world.run_to(us);
            won += (0..150).filter(|n| world.shake(us + n, us + n).is_some()).count();
        }
        assert!(won >= 990, "{won} of 1,000 were won in steps of {interval_us} us");
    }
}

#[test]
fn a_backlog_that_nobody_here_may_take_does_not_hold_up_a_restart() {
    // 100 a second; all before 15 s are of sponsor 0, whose packet everybody here has.
    let sponsor = |n: u8| SponsorId::new(n).expect("small");
    let mut records: Vec<SeedRecord> = plan(3_000, 30, 1);
    records[1_500..].iter_mut().for_each(|record| record.sponsor = sponsor(1));
    let mut world = World::running(records, 30, 0);
    world.now = world.now.plus_ms(10_000);
    world.crash(0);
    // No shake reaches the issuer, because the gate shows nothing for the people here.
    world.wake_to(16_000_000);
    let has = SponsorSet::EMPTY.with(sponsor(0));
    assert!(!world.gate.sponsors.minus(has).is_empty(), "H stands at {}", world.high);
}

#[test]
fn what_waits_longer_than_a_minute_is_skipped() {
    let mut world = World::running(plan(120, 120, 2), 120, 59_000_000);
    assert_eq!(world.skipped(), 0);
    world.run_to(70_500_000);
    assert_eq!(world.skipped(), 11, "those of the first ten seconds, and the one at 0");
    assert!(world.shake(1, 1).is_some_and(|win| win.ticket.body.packet.index().0 - 5 >= 11));
}

#[test]
fn packets_that_nobody_here_may_take_do_not_hold_up_the_others() {
    // 100 a second. All but each tenth packet is of sponsor 0, whose packet everybody here has.
    let sponsor = |n: u8| SponsorId::new(n).expect("small");
    let mut records: Vec<SeedRecord> = plan(3_000, 30, 1);
    for record in records.iter_mut().skip(9).step_by(10) {
        record.sponsor = sponsor(1);
    }
    let mut world = World::running(records, 30, 0);
    let mut won = 0;
    for us in (0..25_000_000).step_by(10_000) {
        world.run_to(us);
        let mut candidate = world.candidate(us, us);
        (candidate.wins, candidate.sponsors) = (1, SponsorSet::EMPTY.with(sponsor(0)));
        let request_id = candidate.request_id;
        won += usize::from(world.draw(Input::Candidate(candidate), request_id).is_some());
    }
    assert!((235..=250).contains(&won), "{won} of the 250 packets of sponsor 1 were won");
    assert_never_early(&world);
}

#[test]
fn a_running_wave_is_not_moved() {
    let mut world = World::running(plan(1_000, 10, 8), 10, 2_000_000);
    let running = |world: &World| world.issuer.waves().next().map(|wave| wave.offset_us);
    for clock in [WaveClock::new(T0.plus_us(60_000_000), 1), WaveClock::new(T0, 100)] {
        world.input(Input::ArmWave { wave: WAVE, clock, grace_us: 0 });
        world.run_to(2_000_000 + 1_000);
        let offset = running(&world).expect("one wave");
        assert!((2_000_000..=2_001_000).contains(&offset), "{offset}");
    }
    // Armed again as it is, as each reload does: no credit is lost, nothing waits.
    world.arm();
    assert!(crowd(&mut world, 2_002_000, 3_002_000) >= 100);
}

#[test]
fn a_wave_that_is_disarmed_in_time_never_starts() {
    let mut world = World::new(plan(1_000, 10, 8), 10);
    world.arm();
    world.input(Input::DisarmWave { wave: WAVE });
    world.run_to(5_000_000);
    assert_eq!((world.high, world.gate.running), (0, false));
    assert!(world.shake(1, 1).is_none());
    world.arm();
    world.run_to(5_100_000);
    assert!(world.gate.running, "armed late, it starts at once");
    world.input(Input::DisarmWave { wave: WAVE });
    world.run_to(5_200_000);
    assert!(world.gate.running, "and goes on, whatever the schedule says now");
}
