//! Random lives of a node: draws, verdicts, resends, lost journal tails and crashes; after each
//! life the promises hold.

use super::{
    super::Input,
    world::{T0, World, plan},
};
use proptest::{collection::vec, prelude::*};
use std::collections::BTreeMap;
use yao_protocol::{SponsorSet, UserId, journal::Event};

/// One thing that happens.
#[derive(Clone, Debug)]
enum Step {
    Wait {
        ms: u64,
    },
    Shake {
        user: u64,
    },
    /// The latest draw of this user once more.
    Resend {
        user: u64,
    },
    Verdict {
        which: usize,
        allowed: bool,
    },
    Agent(bool),
    Disk(bool),
    Crash {
        unsynced: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1_u64..400).prop_map(|ms| Step::Wait { ms }),
        12 => (0_u64..25).prop_map(|user| Step::Shake { user }),
        3 => (0_u64..25).prop_map(|user| Step::Resend { user }),
        4 => (0_usize..8, any::<bool>())
            .prop_map(|(which, allowed)| Step::Verdict { which, allowed }),
        1 => any::<bool>().prop_map(Step::Agent),
        1 => any::<bool>().prop_map(Step::Disk),
        1 => (0_usize..3).prop_map(|unsynced| Step::Crash { unsynced }),
    ]
}

/// What a client of each user remembers.
#[derive(Default)]
struct Clients {
    /// They show no tally, so that only the node's own table keeps the limits.
    forgetful: bool,
    latest: BTreeMap<u64, u64>,
    draws: u64,
    seen: usize,
    tallies: BTreeMap<UserId, (u8, SponsorSet)>,
}

impl Clients {
    /// Clients keep the tallies that came with their tickets.
    fn read(&mut self, world: &World) {
        for win in &world.wins[self.seen..] {
            self.tallies.insert(win.tally.user, (win.tally.wins, win.tally.sponsors));
        }
        self.seen = world.wins.len();
    }

    fn input(&mut self, world: &mut World, user: u64, again: bool) -> Input {
        self.draws += 1;
        let shake = if again { self.latest.get(&user).copied() } else { None };
        let shake = shake.unwrap_or(self.draws);
        self.latest.insert(user, shake);
        let mut candidate = world.candidate(user, shake);
        let tally = self.tallies.get(&UserId(user)).filter(|_| !self.forgetful);
        if let Some((wins, sponsors)) = tally {
            (candidate.wins, candidate.sponsors) = (*wins, *sponsors);
        }
        if again { Input::Resend(candidate) } else { Input::Candidate(candidate) }
    }
}

fn play(steps: Vec<Step>, forgetful: bool) -> World {
    // 60 a second for ten seconds: B is 180.
    let mut world = World::running(plan(600, 10, 8), 10, 0);
    let (mut us, mut clients) = (0, Clients { forgetful, ..Clients::default() });
    for step in steps {
        match step {
            Step::Wait { ms } => {
                us += ms * 1_000;
                world.run_to(us);
            }
            Step::Shake { user } => {
                let input = clients.input(&mut world, user, false);
                world.input(input);
            }
            Step::Resend { user } => {
                let input = clients.input(&mut world, user, true);
                world.input(input);
            }
            Step::Verdict { which, allowed } => {
                if let Some(call) = world.vets.get(which).map(|vet| vet.call) {
                    world.input(Input::Verdict { call, allowed });
                }
            }
            Step::Agent(available) => world.input(Input::AgentAvailable(available)),
            Step::Disk(disk) => {
                world.disk = disk;
                if disk {
                    world.sync();
                    world.drain();
                }
            }
            Step::Crash { unsynced } => {
                // The disk may have written a raise that was never reported.
                if let Some((_, high)) = world.raises.last() {
                    world.high = *high;
                }
                // Of a lost win only the client could tell.
                world.crash(if forgetful { 0 } else { unsynced });
            }
        }
        clients.read(&world);
    }
    world.disk = true;
    world.sync();
    world.run_to(us.max(14_000_000));
    world
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn m8_no_life_issues_a_packet_twice_early_or_beyond_the_limits(
        steps in vec(step(), 1..200),
        forgetful in any::<bool>(),
    ) {
        let world = play(steps, forgetful);
        let mut owners = BTreeMap::new();
        let mut users: BTreeMap<UserId, SponsorSet> = BTreeMap::new();
        for win in &world.wins {
            let body = win.ticket.body;
            let position = body.packet.index().0 - world.section.first.0;
            prop_assert!(position < world.high, "M1: {position} of {}", world.high);
            let record = world.records[position as usize];
            prop_assert!(body.issued_at.0 - T0.0 >= record.offset_us, "early");
            prop_assert_eq!((body.amount, body.sponsor), (record.amount, record.sponsor));
            // The same packet may come again in the same ticket only.
            let first = *owners.entry(body.packet).or_insert(body);
            prop_assert_eq!(first, body, "issued twice");
            let sponsors = users.entry(body.user).or_insert(SponsorSet::EMPTY);
            *sponsors = sponsors.with(body.sponsor);
        }
        for (user, sponsors) in &users {
            let wins = owners.values().filter(|body| body.user == *user).count();
            prop_assert!(wins <= 3, "user {user} won {wins}");
            prop_assert_eq!(wins, sponsors.count() as usize, "two of one sponsor");
        }
        conserved(&world)?;
    }
}

/// M8 by the journal alone: nothing is issued or skipped twice, and nothing is left out.
fn conserved(world: &World) -> Result<(), TestCaseError> {
    let mut classes = vec![0_u8; world.records.len()];
    let mut left = None;
    for event in &world.journal {
        match event {
            Event::Issue(body) => {
                classes[(body.packet.index().0 - world.section.first.0) as usize] += 1;
            }
            Event::Skip { first, count, .. } => {
                let first = (first.0 - world.section.first.0) as usize;
                classes[first..first + *count as usize].iter_mut().for_each(|class| *class += 1);
            }
            Event::Close { unissued, .. } => left = Some(*unissued),
            _ => {}
        }
    }
    prop_assert!(classes.iter().all(|class| *class <= 1), "a packet is in two classes");
    let open = classes.iter().filter(|class| **class == 0).count();
    if let Some(left) = left {
        prop_assert_eq!(left as usize, open, "the close tells what is in no other class");
    }
    Ok(())
}
