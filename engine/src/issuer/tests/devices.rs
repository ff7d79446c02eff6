//! What the agent hears of a candidate: his device and risk class, and what was won before.

use super::{super::Input, thousand, world::World};
use crate::{ConnectionId, shard::CandidateShake};
use yao_protocol::{SponsorSet, UserId, agent::Standing, token::Bearer};

fn on(device: u64) -> Bearer {
    Bearer { device, risk: 3 }
}

/// A draw of `user` on `device`, its verdict, and how the agent was told that he stands.
fn draw(world: &mut World, user: u64, device: u64, allowed: bool) -> Standing {
    let standing = ask(world, user, device);
    let call = world.vets.last().expect("asked just now").call;
    world.input(Input::Verdict { call, allowed });
    standing
}

fn ask(world: &mut World, user: u64, device: u64) -> Standing {
    let shake = world.vets.len() as u64 + 1;
    let candidate = CandidateShake { bearer: on(device), ..world.candidate(user, shake) };
    let asked = world.vets.len();
    world.input(Input::Candidate(candidate));
    assert_eq!(world.vets.len(), asked + 1, "the agent is asked");
    *world.standings.last().expect("with every question")
}

fn serving() -> World {
    let mut world = World::running(thousand(), 10, 2_000_000);
    world.input(Input::AgentAvailable(true));
    world
}

#[test]
fn wins_count_for_the_user_and_for_the_device_and_refused_ones_for_nobody() {
    let mut world = serving();
    let check = |world: &mut World, user, device, allowed, user_wins, device_wins| {
        let expected = Standing { bearer: on(device), user_wins, device_wins };
        assert_eq!(draw(world, user, device, allowed), expected, "user {user} on {device}");
    };
    check(&mut world, 1, 7, true, 0, 0);
    check(&mut world, 1, 7, false, 1, 1);
    check(&mut world, 1, 7, true, 1, 1);
    check(&mut world, 2, 7, true, 0, 2);
    check(&mut world, 2, 8, true, 1, 0);
    check(&mut world, 3, 7, true, 0, 3);
    // Device 0 is none: whoever names none shares it with nobody.
    check(&mut world, 4, 0, true, 0, 0);
    check(&mut world, 5, 0, true, 0, 0);
}

#[test]
fn candidates_of_one_device_count_while_they_are_decided() {
    let mut world = serving();
    assert_eq!(ask(&mut world, 1, 7).device_wins, 0);
    assert_eq!(ask(&mut world, 2, 7).device_wins, 1);
    assert_eq!(ask(&mut world, 3, 7).device_wins, 2);
    for (asked, allowed) in [(0, true), (1, false)] {
        let call = world.vets[asked].call;
        world.input(Input::Verdict { call, allowed });
    }
    assert_eq!(ask(&mut world, 4, 7).device_wins, 2, "one won, one is being decided");
    // Silence is a yes: the third and the fourth have won.
    world.run_to(3_000_000);
    assert_eq!(ask(&mut world, 5, 7).device_wins, 3);
}

#[test]
fn a_tally_of_other_nodes_counts_for_the_user() {
    let mut world = serving();
    let sponsors = SponsorSet(0b11);
    let shown = world.candidate(1, 1);
    world.input(Input::Candidate(CandidateShake { wins: 2, sponsors, bearer: on(7), ..shown }));
    let expected = Standing { bearer: on(7), user_wins: 2, device_wins: 0 };
    assert_eq!(world.standings, [expected]);
}

#[test]
fn wins_without_a_device_are_not_charged_to_the_next_one() {
    let mut world = serving();
    draw(&mut world, 1, 0, true);
    let connection = ConnectionId { thread: 0, slot: 9, number: 1 };
    let (user, wins, sponsors, bearer) = (UserId(1), 0, SponsorSet::EMPTY, on(7));
    world.input(Input::Welcomed { connection, user, wins, sponsors, bearer });
    assert_eq!(draw(&mut world, 1, 7, true).device_wins, 0, "none was won on it");
    assert_eq!(ask(&mut world, 2, 7).device_wins, 1);
}

#[test]
fn after_a_restart_the_wins_of_those_who_come_back_count_for_their_device_again() {
    let mut world = serving();
    draw(&mut world, 1, 7, true);
    draw(&mut world, 1, 7, true);
    draw(&mut world, 2, 7, true);
    world.crash(0);
    world.run_to(9_000_000);
    world.input(Input::AgentAvailable(true));
    assert_eq!(ask(&mut world, 3, 7).device_wins, 0, "the journal names no devices");
    let connection = ConnectionId { thread: 0, slot: 9, number: 1 };
    let (user, wins, sponsors) = (UserId(1), 0, SponsorSet::EMPTY);
    for bearer in [on(0), on(7), on(7), on(8)] {
        world.input(Input::Welcomed { connection, user, wins, sponsors, bearer });
    }
    assert_eq!(ask(&mut world, 4, 7).device_wins, 3, "two wins, and the one being decided");
    assert_eq!(ask(&mut world, 5, 8).device_wins, 0, "each win is on one device");
}
