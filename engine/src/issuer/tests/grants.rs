//! Fleet mode: what leaves by a grant, and that nothing leaves without one (M4).

use super::{
    thousand,
    world::{ANCHOR, T0, WAVE, World, key, settings},
};
use crate::{
    cursor::{Found, Recovered},
    grant::{AfterReboot, Asker, Fleet, Opening, Right, Witness},
    issuer::Input,
    time::Timestamp,
};
use yao_protocol::{
    Incarnation, KeyId,
    grant::{GrantAnswer, GrantRequest, NodeName, Verdict},
    keys::{KeyOwner, KeySet, PublicKeyFile},
    settlement::digest,
};

const ME: Incarnation = Incarnation([1; 16]);

/// A node in fleet mode whose cursor never knew a grant.
fn fleet_world() -> World {
    let settings = settings();
    let asker = Asker {
        campaign: settings.campaign,
        shard: settings.shard,
        generation: settings.generation,
        epoch: settings.epoch,
        wave: WAVE,
        first: 5,
        count: 1_000,
        incarnation: ME,
        merkle_root: [9; 32],
        node: NodeName::new("node"),
    };
    let found = Found {
        recovered: Recovered { high: 0, must_rewrite_both: false },
        moved_from: None,
        written_by: Incarnation::default(),
        boot_id: [0; 16],
        asked: true,
        grant: None,
    };
    let opening = Opening::new(&found, [1; 16], Witness::Absent, AfterReboot::Resume);
    let fleet = Fleet::new(Timestamp::from_ns(0), asker, &opening);
    World::with_right(thousand(), 10, Right::Fleet(Box::new(fleet)))
}

impl World {
    /// The last request for a grant.
    fn request(&self) -> GrantRequest {
        let settings = settings();
        let (campaign, shard, epoch) = (settings.campaign, settings.shard, settings.epoch);
        let owner = KeyOwner::Ticket { campaign, shard, epoch };
        let mut keys = KeySet::default();
        keys.add(&PublicKeyFile { owner, key: key().public().to_bytes() }).expect("one key");
        let bytes = self.asked.last().expect("it asked");
        GrantRequest::decode(bytes, &keys).expect("signed by the shard's key")
    }

    /// Settlement's answer to the last request: these positions for so many seconds, margin 0.5 s.
    fn answer(&self, lo: u32, hi: u32, seconds: u64) -> GrantAnswer {
        let request = self.request();
        let decided_at = ANCHOR.wall(self.now);
        GrantAnswer {
            verdict: Verdict::Granted,
            campaign: request.campaign,
            shard: request.shard,
            generation: request.generation,
            epoch: request.epoch,
            wave: request.wave,
            key_id: KeyId(1),
            id: request.known + 1,
            lo,
            hi,
            seen: request.high,
            margin_ms: 500,
            decided_at,
            not_after: decided_at.plus_us(seconds * 1_000_000),
            holder: ME,
            node: NodeName::new("node"),
            request_digest: digest(self.asked.last().expect("it asked")),
        }
    }

    /// Answers the last request and keeps the grant.
    fn grant(&mut self, lo: u32, hi: u32, seconds: u64) {
        let answer = self.answer(lo, hi, seconds);
        self.input(Input::GrantAnswer(Box::new(answer)));
        self.keep();
    }

    /// The disk has written the grants, and H with them.
    fn keep(&mut self) {
        for grant in std::mem::take(&mut self.keeping) {
            self.high = self.high.max(grant.lo);
            self.input(Input::GrantKept { wave: WAVE, id: grant.id, high: self.high });
        }
    }

    /// How many of 20 new users win now.
    fn winners(&mut self, first_user: u64) -> usize {
        let users = first_user..first_user + 20;
        users.filter(|user| self.shake(*user, *user).is_some()).count()
    }
}

#[test]
fn m4_without_a_grant_nothing_is_reserved_and_nothing_leaves() {
    let mut world = fleet_world();
    world.arm();
    world.run_to(500_000);
    assert_eq!(world.asked.len(), 4, "20, 14, 8 and 2 s before T0: each is waited for 6 s");
    assert!(world.raises.is_empty() && world.high == 0, "H rises by a grant only");
    assert_eq!((world.winners(0), world.gate.count), (0, 0));
    let answer = world.answer(0, 600, 60);
    world.input(Input::GrantAnswer(Box::new(answer)));
    assert_eq!((world.winners(20), world.high), (0, 0), "it is not on disk yet");
    world.keep();
    world.run_to(600_000);
    assert!(world.winners(40) > 0 && world.high > 0);
}

#[test]
fn m4_h_stops_where_the_grant_ends_until_there_is_more() {
    let mut world = fleet_world();
    world.arm();
    world.run_to(0);
    world.grant(0, 320, 60);
    assert_eq!(world.high, 300, "a whole block");
    let mut user = 0;
    for step in 0..40 {
        world.run_to(step * 100_000);
        for _ in 0..10 {
            world.shake(user, user);
            user += 1;
        }
    }
    assert_eq!(world.high, 320, "no further than the grant");
    assert_eq!(world.positions().len(), 320, "and all of it left");
    let request = world.request();
    assert!(request.high >= 160, "more was asked for when half was used up: {}", request.high);
    world.grant(0, 1_000, 60);
    world.run_to(4_100_000);
    assert!(world.winners(10_000) > 0 && world.high > 320);
}

#[test]
fn m4_nothing_leaves_after_the_grants_end() {
    let mut world = fleet_world();
    world.arm();
    world.run_to(0);
    // It was asked for 2 s before T0: five seconds from there on, less half a one of margin.
    world.grant(0, 1_000, 5);
    world.run_to(2_000_000);
    assert!(world.winners(0) > 0);
    // One more is being vetted when the grant ends.
    world.input(Input::AgentAvailable(true));
    world.run_to(2_490_000);
    assert!(world.shake(100, 100).is_none());
    let call = world.vets.last().expect("it is vetted").call;
    let before = world.wins.len();
    world.now = ANCHOR.timestamp(T0.plus_us(2_500_000));
    world.input(Input::Verdict { call, allowed: true });
    assert_eq!(world.wins.len(), before, "allowed, but too late");
    assert!(world.lost.iter().any(|shake| shake.0 == 100));
    assert_eq!(world.gate.count, 0, "the shards are told");
    world.run_to(3_000_000);
    assert_eq!(world.winners(200), 0);
    // Settlement is back: the same grant for longer, and what was put back leaves after all.
    world.grant(0, 1_000, 60);
    world.run_to(3_100_000);
    world.input(Input::AgentAvailable(false));
    assert!(world.winners(300) > 0);
}

#[test]
fn m4_a_process_that_was_stopped_wakes_without_a_right() {
    let mut world = fleet_world();
    world.arm();
    world.run_to(0);
    world.grant(0, 1_000, 5);
    world.run_to(1_000_000);
    assert!(world.winners(0) > 0);
    // SIGSTOP, ten seconds, SIGCONT: the first thing it sees are shakes, with the true time.
    world.now = ANCHOR.timestamp(T0.plus_us(11_000_000));
    let before = world.wins.len();
    for user in 100..200 {
        let candidate = world.candidate(user, user);
        world.issuer.handle(world.now, Input::Candidate(candidate));
    }
    world.drain();
    assert_eq!(world.wins.len(), before);
    // Somebody else has the section now.
    let mut answer = world.answer(600, 900, 60);
    (answer.verdict, answer.holder) = (Verdict::Held, Incarnation([9; 16]));
    world.input(Input::GrantAnswer(Box::new(answer)));
    let asked = world.asked.len();
    world.run_to(12_000_000);
    assert_eq!((world.winners(300), world.asked.len()), (0, asked));
    let (_, right, lacks) = world.issuer.rights(world.now).next().expect("one wave");
    assert!(right.fleet().is_some_and(Fleet::is_lost) && lacks);
    assert_eq!(world.given_up, 1, "the cursor is told, once");
}

#[test]
fn m4_a_burnt_grant_begins_above_what_was_granted() {
    let mut world = fleet_world();
    world.arm();
    world.run_to(0);
    // A first start that finds the section granted, and asks again when that grant has ended.
    let mut answer = world.answer(0, 400, 1);
    (answer.verdict, answer.holder) = (Verdict::Held, Incarnation([9; 16]));
    world.input(Input::GrantAnswer(Box::new(answer)));
    world.run_to(2_000_000);
    assert_eq!(world.request().claim, yao_protocol::grant::Claim::Burn);
    world.grant(400, 1_000, 60);
    assert_eq!(world.high, 700, "a block from there on");
    world.run_to(5_000_000);
    assert!(world.winners(0) > 0);
    assert!(world.positions().iter().all(|position| *position >= 400));
}

/// Settlement grants from 400 on; the answer comes when the wave is about to close.
fn burnt_at_the_end() -> (World, GrantAnswer) {
    let mut world = fleet_world();
    world.arm();
    world.run_to(8_000_000);
    let mut answer = world.answer(0, 400, 1);
    (answer.verdict, answer.holder) = (Verdict::Held, Incarnation([9; 16]));
    world.input(Input::GrantAnswer(Box::new(answer)));
    world.run_to(9_900_000);
    assert_eq!(world.request().claim, yao_protocol::grant::Claim::Burn);
    let answer = world.answer(400, 1_000, 60);
    (world, answer)
}

#[test]
fn m8_a_wave_closes_when_the_grant_that_came_last_is_on_disk() {
    let (mut world, answer) = burnt_at_the_end();
    world.input(Input::GrantAnswer(Box::new(answer)));
    world.run_to(30_000_000);
    assert!(world.closed().is_empty(), "H is about to rise, and what is burnt is not left over");
    world.keep();
    world.run_to(30_100_000);
    assert_eq!(world.closed().iter().map(|(left, _)| *left).collect::<Vec<_>>(), [600]);
    assert_eq!(world.winners(0), 0, "it was over long before");
}

#[test]
fn m8_what_is_left_of_a_closed_wave_is_not_burnt() {
    let (mut world, answer) = burnt_at_the_end();
    world.run_to(30_000_000);
    assert_eq!(world.closed().len(), 1);
    world.input(Input::GrantAnswer(Box::new(answer)));
    assert!(world.keeping.is_empty(), "settlement hears of no use of it, and it ends by itself");
    let digest = digest(world.asked.last().expect("it asked"));
    assert!(!world.issuer.awaits_grant(&digest), "sent again it is not even checked");
}

#[test]
fn m4_that_another_one_took_over_is_heard_after_the_close() {
    let mut world = fleet_world();
    world.arm();
    world.run_to(0);
    world.grant(0, 1_000, 60);
    world.run_to(11_900_000);
    assert!(world.winners(0) > 0);
    world.run_to(13_200_000);
    let mut answer = world.answer(400, 1_000, 60);
    (answer.verdict, answer.holder, answer.id) = (Verdict::Held, Incarnation([9; 16]), 9);
    world.run_to(30_000_000);
    assert_eq!(world.closed().len(), 1);
    let asked = digest(world.asked.last().expect("it asked"));
    assert!(world.issuer.awaits_grant(&asked), "the last request is under way");
    world.input(Input::GrantAnswer(Box::new(answer)));
    assert_eq!(world.given_up, 1, "the cursor is told");
}

#[test]
fn m8_nobody_wins_after_the_end_while_the_disk_is_waited_for() {
    let mut world = fleet_world();
    world.arm();
    world.run_to(0);
    world.grant(0, 1_000, 60);
    world.run_to(9_000_000);
    assert!(world.winners(0) > 0);
    world.input(Input::AgentAvailable(true));
    let end = 13_000_000;
    world.run_to(end - 5_000);
    assert!(world.shake(100, 100).is_none());
    let call = world.vets.last().expect("it is vetted").call;
    // The grant is prolonged, and the disk takes its time.
    let answer = world.answer(0, 1_000, 60);
    world.input(Input::GrantAnswer(Box::new(answer)));
    assert_eq!(world.keeping.len(), 1);
    world.run_to(end + 5_000);
    let before = world.wins.len();
    world.input(Input::Verdict { call, allowed: true });
    assert_eq!((world.wins.len(), world.gate.count), (before, 0), "allowed, but too late");
    world.input(Input::AgentAvailable(false));
    assert_eq!(world.winners(200), 0);
    assert!(world.closed().is_empty());
    world.keep();
    world.run_to(end + 10_000);
    assert_eq!(world.closed().len(), 1);
}

#[test]
#[should_panic(expected = "M4: only by a right that has not ended")]
fn m4_an_issue_without_a_right_is_a_bug() {
    let mut world = fleet_world();
    world.arm();
    world.run_to(0);
    world.grant(0, 1_000, 5);
    world.run_to(1_000_000);
    let end = ANCHOR.timestamp(T0.plus_us(2_500_000));
    world.issuer.waves[0].issue(end, 0);
}
