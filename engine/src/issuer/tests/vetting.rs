//! Winners and the agent: its word counts in time, and silence is yes.

use super::{
    super::Input,
    thousand,
    world::{World, plan},
};
use crate::ConnectionId;
use std::sync::Arc;
use yao_protocol::{ShakeId, SponsorSet, UserId, agent::VetKind, policy::Policy, token::Bearer};

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

#[test]
fn a_question_that_could_not_be_sent_means_yes() {
    let mut world = World::running(thousand(), 10, 2_000_000);
    world.input(Input::AgentAvailable(true));
    world.shake(1, 1);
    let call = world.vets[0].call;
    world.input(Input::VetUnsent { call });
    assert_eq!(world.wins.len(), 1);
}

#[test]
fn an_agent_that_hangs_is_not_asked_any_more() {
    let mut world = World::running(thousand(), 10, 1_000_000);
    world.input(Input::AgentAvailable(true));
    // 64 deadlines missed in a row, one candidate at a time.
    for user in 0..64 {
        let us = 1_000_000 + user * 25_000;
        world.run_to(us);
        assert!(world.shake(user, user).is_none(), "it is asked about user {user}");
        world.run_to(us + 20_000);
    }
    assert_eq!((world.wins.len(), world.issuer.vet_counters().breaker_opened), (64, 1));
    assert!(world.shake(100, 100).is_some(), "yes at once");
    assert_eq!(world.vets.len(), 64);
}

#[test]
fn a_refused_user_may_win_with_another_draw() {
    let mut world = World::running(thousand(), 10, 2_000_000);
    world.input(Input::AgentAvailable(true));
    world.shake(1, 1);
    let call = world.vets[0].call;
    world.input(Input::Verdict { call, allowed: false });
    assert!(!world.issuer.is_pending(UserId(1)));
    world.shake(1, 2);
    let call = world.vets[1].call;
    world.input(Input::Verdict { call, allowed: true });
    assert_eq!(world.wins.last().map(|win| win.ticket.body.shake), Some(ShakeId(2)));
}

#[test]
fn m8_a_verdict_after_the_close_issues_nothing() {
    // The agent has longer than the wave has left.
    let mut world = World::running(plan(100, 10, 8), 10, 12_990_000);
    world.input(Input::AgentAvailable(true));
    assert!(world.shake(1, 1).is_none());
    let call = world.vets[0].call;
    world.run_to(13_000_000);
    assert_eq!(world.closed()[0].0, 100, "the close counts what is being vetted as left");
    world.input(Input::Verdict { call, allowed: true });
    assert!(world.wins.is_empty());
    assert_eq!(world.lost, [ShakeId(1)]);
}

#[test]
fn m6_a_shake_sent_again_while_it_is_vetted_is_answered_once_where_it_was_asked_last() {
    let mut world = World::running(thousand(), 10, 2_000_000);
    world.input(Input::AgentAvailable(true));
    assert!(world.shake(1, 77).is_none());
    let call = world.vets[0].call;
    // The connection broke; the user is back and asks again.
    assert!(world.resend(1, 77).is_none());
    assert!(world.lost.is_empty(), "nobody is told \"no\" about a draw that may win");
    world.input(Input::Verdict { call, allowed: true });
    assert_eq!((world.wins.len(), world.wins[0].request_id), (1, 2), "the second request");
}

#[test]
fn m6_a_win_decided_after_the_user_came_back_follows_him() {
    let mut world = World::running(thousand(), 10, 2_000_000);
    world.input(Input::AgentAvailable(true));
    assert!(world.shake(1, 77).is_none());
    let connection = ConnectionId { thread: 3, slot: 4, number: 5 };
    let (user, wins, sponsors, bearer) = (UserId(1), 0, SponsorSet::EMPTY, Bearer::default());
    world.input(Input::Welcomed { connection, user, wins, sponsors, bearer });
    let call = world.vets[0].call;
    world.input(Input::Verdict { call, allowed: true });
    assert_eq!((world.wins.len(), world.wins[0].request_id), (1, 0), "unasked");
    // Refused instead, nobody on the new connection has asked for anything.
    let mut world = World::running(thousand(), 10, 2_000_000);
    world.input(Input::AgentAvailable(true));
    world.shake(1, 77);
    world.input(Input::Welcomed { connection, user, wins, sponsors, bearer });
    let call = world.vets[0].call;
    world.input(Input::Verdict { call, allowed: false });
    assert!(world.lost.is_empty() && world.wins.is_empty());
}

#[test]
fn m6_what_the_older_connection_sent_and_comes_late_does_not_take_the_answer_back() {
    let mut world = World::running(thousand(), 10, 2_000_000);
    world.input(Input::AgentAvailable(true));
    let mut newer = world.candidate(1, 77);
    newer.connection = ConnectionId { thread: 3, slot: 4, number: 5 };
    let late = world.candidate(1, 77);
    world.input(Input::Resend(newer));
    world.input(Input::Candidate(late));
    let (user, wins, sponsors, bearer) = (UserId(1), 0, SponsorSet::EMPTY, Bearer::default());
    world.input(Input::Welcomed { connection: late.connection, user, wins, sponsors, bearer });
    let call = world.vets[0].call;
    world.input(Input::Verdict { call, allowed: true });
    assert_eq!((world.wins.len(), world.wins[0].request_id), (1, newer.request_id));
}
