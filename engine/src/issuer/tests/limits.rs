//! Limits: three wins a user, one of each sponsor, by the tally shown and by the node's own table.

use super::{
    super::Input,
    thousand,
    world::{Win, World},
};
use crate::shard::CandidateShake;
use yao_protocol::{SponsorId, SponsorSet, UserId, token::Bearer};

fn sponsors(numbers: &[u8]) -> SponsorSet {
    let with = |set: SponsorSet, n: &u8| set.with(SponsorId::new(*n).expect("small"));
    numbers.iter().fold(SponsorSet::EMPTY, with)
}

/// A draw of user 1 with a tally that tells of wins of these sponsors.
fn shake_with(world: &mut World, shake: u64, numbers: &[u8]) -> Option<Win> {
    let candidate = shown(world, shake, numbers);
    world.draw(Input::Candidate(candidate), candidate.request_id)
}

fn shown(world: &mut World, shake: u64, numbers: &[u8]) -> CandidateShake {
    let wins = u8::try_from(numbers.len()).expect("few");
    CandidateShake { wins, sponsors: sponsors(numbers), ..world.candidate(1, shake) }
}

#[test]
fn three_wins_and_one_of_each_sponsor() {
    let mut world = World::running(thousand(), 10, 2_000_000);
    let wins: Vec<_> = (0..10).filter_map(|shake| world.shake(1, shake)).collect();
    assert_eq!(wins.len(), 3, "the campaign allows three");
    let sponsors: SponsorSet =
        wins.iter().fold(SponsorSet::EMPTY, |set, win| set.with(win.ticket.body.sponsor));
    assert_eq!(sponsors.count(), 3, "each of another sponsor");
    assert_eq!((wins[2].tally.wins, wins[2].tally.sponsors), (3, sponsors));
}

#[test]
fn wins_of_other_nodes_count_with_those_of_this_one() {
    let mut world = World::running(thousand(), 10, 2_000_000);
    // Two elsewhere, and the tally says so.
    let win = shake_with(&mut world, 1, &[0, 1]).expect("the third");
    assert_eq!((win.tally.wins, win.ticket.body.sponsor.index()), (3, 2));
    // He comes back with the older tally: the table has the third one.
    assert!(shake_with(&mut world, 2, &[0, 1]).is_none(), "that would be the fourth");
    // Or with none at all: what he showed when he won is not forgotten.
    assert!(shake_with(&mut world, 3, &[]).is_none());
    assert_eq!(world.issuer.counters().limited, 2);
}

#[test]
fn a_tally_alone_keeps_the_limits() {
    let mut world = World::running(thousand(), 10, 2_000_000);
    assert!(shake_with(&mut world, 1, &[5, 6, 7]).is_none(), "three elsewhere");
    let win = shake_with(&mut world, 2, &[0, 2]).expect("two elsewhere");
    assert_eq!(win.ticket.body.sponsor.index(), 1, "packets 0 and 2 are not for him");
}

#[test]
fn the_table_keeps_the_limits_of_a_client_that_drops_its_tally_also_after_a_crash() {
    let mut world = World::running(thousand(), 10, 2_000_000);
    for shake in 0..2 {
        world.shake(1, shake).expect("a packet is due");
    }
    world.crash(0);
    // Those of the first seconds lie below H.
    world.run_to(6_000_000);
    let third = world.shake(1, 2).expect("the third");
    assert_eq!((third.tally.wins, third.tally.sponsors.count()), (3, 3));
    assert!(world.shake(1, 3).is_none());
}

#[test]
fn m6_a_ticket_sent_again_comes_with_a_tally_that_forgets_nothing() {
    let mut world = World::running(thousand(), 10, 2_000_000);
    let all = (3, sponsors(&[0, 1, 2]));
    let told = |win: &Win| (win.tally.wins, win.tally.sponsors);
    let first = shake_with(&mut world, 1, &[0, 1]).expect("the third");
    assert_eq!(told(&first), all);
    // The reply was lost, and the client keeps the tally that was counted last.
    let candidate = shown(&mut world, 1, &[0, 1]);
    let again = world.draw(Input::Resend(candidate), candidate.request_id).expect("on record");
    assert_eq!(told(&again), all);
    let connection = candidate.connection;
    world.input(Input::Welcomed {
        connection,
        user: UserId(1),
        wins: 0,
        sponsors: SponsorSet::EMPTY,
        bearer: Bearer::default(),
    });
    assert_eq!(told(world.wins.last().expect("it follows")), all);
    // After a crash the journal has this node's wins, and the client shows the others.
    world.crash(0);
    let again = world.draw(Input::Resend(candidate), candidate.request_id).expect("on record");
    assert_eq!((told(&again), again.ticket), (all, first.ticket));
}
