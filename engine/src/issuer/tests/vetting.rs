//! Winners and the agent: its word counts in time, and silence is yes.

use super::{super::Input, thousand, world::World};
use std::sync::Arc;
use yao_protocol::{ShakeId, UserId, agent::VetKind, policy::Policy};

#[test]
fn while_one_shake_is_vetted_another_of_the_same_user_gets_nothing() {
    let mut world = World::running(thousand(), 10, 2_000_000);
    world.input(Input::AgentAvailable(true));
    assert!(world.shake(1, 1).is_none());
    assert_eq!(world.vets.last().map(|vet| (vet.kind, vet.user)), Some((VetKind::Win, UserId(1))));
    assert!(world.shake(1, 2).is_none());
    assert_eq!(world.lost, [ShakeId(2)]);
    let call = world.vets[0].call;
    world.input(Input::Verdict { call, allowed: true });
    assert_eq!(world.wins.len(), 1);
}

#[test]
fn a_refused_packet_goes_to_the_head_of_its_queue() {
    let mut world = World::running(thousand(), 10, 2_000_000);
    world.input(Input::AgentAvailable(true));
    world.shake(1, 1);
    let (call, packet) = (world.vets[0].call, world.vets[0].packet);
    world.input(Input::Verdict { call, allowed: false });
    assert_eq!(world.lost, [ShakeId(1)]);
    world.shake(2, 2);
    assert_eq!(world.vets[1].packet, packet, "the next candidate is offered the same one");
}

#[test]
fn no_verdict_in_time_means_yes_and_a_late_one_changes_nothing() {
    let mut world = World::running(thousand(), 10, 2_000_000);
    world.input(Input::AgentAvailable(true));
    world.shake(1, 1);
    let call = world.vets[0].call;
    world.run_to(2_019_000);
    assert!(world.wins.is_empty(), "20 ms are not over");
    world.run_to(2_021_000);
    assert_eq!(world.wins.len(), 1);
    world.input(Input::Verdict { call, allowed: false });
    assert_eq!((world.wins.len(), world.issuer.counters().refused), (1, 0));
}

#[test]
fn banned_users_win_nothing_and_small_wins_are_not_vetted() {
    let mut world = World::running(thousand(), 10, 2_000_000);
    world.input(Input::AgentAvailable(true));
    let policy = Policy { banned: vec![UserId(9)], vet_amount_min: 3, ..Policy::default() };
    world.input(Input::Policy(Arc::new(policy)));
    assert!(world.shake(9, 1).is_none());
    // Amounts are 1, 2, 3 fen.
    assert!(world.shake(1, 2).is_some() && world.shake(2, 3).is_some());
    assert!(world.shake(3, 4).is_none());
    assert_eq!(world.vets.len(), 1);
}
