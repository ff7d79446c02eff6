//! The rules of grants: the table of grants.md 4 row by row, and random histories of many nodes in
//! which no packet is ever anybody's twice.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;
use yao_protocol::{CampaignId, ShardId, WaveIndex};

const POLICY: GrantPolicy = GrantPolicy { packets: 100, lifetime_us: 10_000_000, margin_ms: 500 };
const NOW: WallTime = WallTime(1_000_000_000);
const A: Incarnation = Incarnation([1; 16]);
const B: Incarnation = Incarnation([2; 16]);
const C: Incarnation = Incarnation([3; 16]);
const NOBODY: Incarnation = Incarnation([0; 16]);

fn request(claim: Claim, incarnation: Incarnation, known: u64, high: u32) -> GrantRequest {
    GrantRequest {
        claim,
        campaign: CampaignId(7),
        shard: ShardId(17),
        generation: 0,
        epoch: Epoch(1),
        wave: WaveIndex(0),
        first: 5,
        count: 1_000,
        high,
        known,
        nonce: 1,
        incarnation,
        previous: NOBODY,
        merkle_root: [9; 32],
        node: NodeName::new("node"),
    }
}

fn after(claim: Claim, incarnation: Incarnation, previous: Incarnation, high: u32) -> GrantRequest {
    GrantRequest { previous, ..request(claim, incarnation, 4, high) }
}

/// Grant 4: A holds the positions 100 to 300 until ten seconds from now, and has stated H = 150.
fn held() -> Section {
    Section {
        generation: 0,
        first: 5,
        count: 1_000,
        merkle_root: [9; 32],
        seen: 150,
        id: 4,
        lo: 100,
        hi: 300,
        holder: A,
        node: NodeName::new("node"),
        epoch: Epoch(1),
        decided_at: NOW,
        not_after: NOW.plus_us(10_000_000),
        request_digest: [4; 32],
    }
}

/// Range and burnt range of what is granted `us` from now, or the refusal.
type Ruled = Result<((u32, u32), Option<(u32, u32)>), Verdict>;

fn ruled(found: Option<&Section>, us: u64, request: &GrantRequest) -> Ruled {
    match rule(POLICY, NOW.plus_us(us), (found, 0), request, [5; 32]) {
        Ruling::Granted { section, burnt } => {
            assert_eq!(section.holder, request.incarnation);
            assert_eq!(section.id, found.map_or(1, |found| found.id + 1));
            assert!(section.hi - section.lo.max(request.high) <= 200);
            Ok(((section.lo, section.hi), burnt))
        }
        Ruling::Repeated => panic!("it was never made"),
        Ruling::Refused(verdict) => Err(verdict),
    }
}

#[test]
fn m4_a_section_is_granted_once_and_then_by_compare_and_set() {
    let check = |us, request: GrantRequest, expected: Ruled| {
        assert_eq!(ruled(Some(&held()), us, &request), expected, "{request:?}");
    };
    let first = |high| ruled(None, 0, &request(Claim::First, A, 0, high));
    assert_eq!(first(0), Ok(((0, 100), None)));
    assert_eq!(first(40), Ok(((40, 140), None)), "issued in local mode so far");
    assert_eq!(first(1_000), Ok(((1_000, 1_000), None)), "nothing is left");
    for claim in [Claim::Extend, Claim::Resume, Claim::Burn] {
        assert_eq!(ruled(None, 0, &request(claim, A, 0, 0)), Err(Verdict::Unknown), "{claim:?}");
    }
    check(0, request(Claim::First, B, 0, 0), Err(Verdict::Held));
    check(0, request(Claim::First, B, 4, 0), Err(Verdict::Held));
    check(99_000_000, request(Claim::First, B, 0, 0), Err(Verdict::Held));
    // The holder, with more and for longer.
    check(0, request(Claim::Extend, A, 4, 150), Ok(((100, 300), None)));
    check(0, request(Claim::Extend, A, 4, 260), Ok(((100, 360), None)));
    check(99_000_000, request(Claim::Extend, A, 4, 260), Ok(((100, 360), None)));
    check(0, request(Claim::Extend, A, 4, 149), Err(Verdict::RolledBack));
    check(0, request(Claim::Extend, A, 3, 260), Err(Verdict::Held));
    check(0, request(Claim::Extend, B, 4, 260), Err(Verdict::Held));
    // Its successor on the same disk.
    check(0, after(Claim::Resume, B, A, 200), Ok(((200, 300), None)));
    check(0, after(Claim::Resume, B, A, 149), Err(Verdict::RolledBack));
    check(0, after(Claim::Resume, B, C, 200), Err(Verdict::Held));
    check(0, after(Claim::Resume, B, NOBODY, 200), Err(Verdict::Held));
    check(0, after(Claim::Resume, A, A, 200), Err(Verdict::Held));
    let stale = GrantRequest { known: 3, ..after(Claim::Resume, B, A, 200) };
    check(0, stale, Err(Verdict::Held));
    // The lost slot of a cursor: H is what it may have been, above all that was granted.
    check(0, after(Claim::Resume, B, A, 400), Ok(((400, 500), None)));
}

#[test]
fn m4_what_is_left_of_a_burnt_grant_is_granted_to_nobody() {
    let check = |us, request: GrantRequest, expected: Ruled| {
        assert_eq!(ruled(Some(&held()), us, &request), expected, "{request:?}");
    };
    let end = 10_000_000 + 500_000;
    // Who does not know whom it succeeds waits until the grant has ended, and the margin.
    for us in [0, 10_000_000, end - 1] {
        check(us, request(Claim::Burn, B, 4, 120), Err(Verdict::Held));
        check(us, after(Claim::Burn, B, C, 120), Err(Verdict::Held));
    }
    check(end, request(Claim::Burn, B, 4, 120), Ok(((300, 400), Some((150, 300)))));
    check(end, request(Claim::Burn, B, 3, 120), Err(Verdict::Held));
    check(end, request(Claim::Burn, A, 4, 120), Err(Verdict::Held));
    check(end, request(Claim::Burn, B, 4, 350), Ok(((350, 450), Some((150, 350)))));
    // Who does, does not.
    check(0, after(Claim::Burn, B, A, 120), Ok(((300, 400), Some((150, 300)))));
    // A whole section that is used up.
    let last = Section { hi: 1_000, ..held() };
    let burn = request(Claim::Burn, B, 4, 0);
    assert_eq!(ruled(Some(&last), end, &burn), Ok(((1_000, 1_000), Some((150, 1_000)))));
}

#[test]
fn m4_whoever_burnt_and_died_before_it_was_written_down_is_succeeded() {
    let burn = GrantRequest { known: 4, ..request(Claim::Burn, B, 4, 120) };
    let Ruling::Granted { section, .. } =
        rule(POLICY, NOW.plus_us(10_500_000), (Some(&held()), 0), &burn, [6; 32])
    else {
        panic!("granted")
    };
    // B itself, whose answer was lost, and its successor on the same disk: both still at H = 120.
    let again = request(Claim::Extend, B, 5, 120);
    assert_eq!(ruled(Some(&section), 10_500_000, &again), Ok(((300, 400), None)));
    let successor = GrantRequest { known: 5, ..after(Claim::Resume, C, B, 120) };
    assert_eq!(ruled(Some(&section), 10_500_000, &successor), Ok(((300, 400), None)));
    // A, which lives, is told.
    let old = request(Claim::Extend, A, 5, 200);
    assert_eq!(ruled(Some(&section), 10_500_000, &old), Err(Verdict::Held));
}

#[test]
fn a_request_that_comes_twice_is_granted_once() {
    let extend = request(Claim::Extend, A, 4, 150);
    let answered = Section { request_digest: [5; 32], ..held() };
    assert_eq!(rule(POLICY, NOW, (Some(&answered), 0), &extend, [5; 32]), Ruling::Repeated);
    let digest = answered.request_digest;
    let told = |now| {
        let asked = (&extend, digest);
        answer(POLICY, now, KeyId(1), asked, (Verdict::Granted, Some(&answered)))
    };
    assert_eq!(told(NOW), told(NOW.plus_us(3_000_000)), "and its clock began then");
}

#[test]
fn a_section_that_is_another_one_is_refused() {
    let extend = request(Claim::Extend, A, 4, 150);
    for wrong in [
        GrantRequest { count: 999, ..extend.clone() },
        GrantRequest { first: 6, ..extend.clone() },
        GrantRequest { generation: 1, ..extend.clone() },
        GrantRequest { merkle_root: [8; 32], ..extend },
    ] {
        assert_eq!(ruled(Some(&held()), 0, &wrong), Err(Verdict::Contradicts));
    }
}

#[test]
fn a_policy_says_what_is_wrong_with_it() {
    let check = |packets, lifetime_ms, margin_ms, expected: &str| {
        let error = GrantPolicy::new(packets, lifetime_ms, margin_ms).expect_err("refused");
        assert!(error.contains(expected), "{error}");
    };
    check(0, 10_000, 500, "--grant-packets");
    check(65_537, 10_000, 500, "--grant-packets");
    check(1, 99, 20, "--grant-ms");
    check(1, 86_400_001, 90_000, "--grant-ms");
    check(1, 10_000, 19, "use 20 to 2500");
    check(1, 10_000, 2_501, "use 20 to 2500");
    GrantPolicy::new(65_536, 10_000, 20).expect("good");
    let default = GrantPolicy::default();
    let (packets, ms) = (default.packets, default.lifetime_us / 1_000);
    assert_eq!(GrantPolicy::new(packets, ms, default.margin_ms), Ok(default));
}

/// One directory of a node: what is on its disk, and whether its process lives.
#[derive(Clone, Debug)]
struct Directory {
    high: u32,
    grant: Option<(u64, Incarnation, u32)>,
    life: Option<Incarnation>,
    /// Until when, and how far, the living process may issue.
    held: Option<(WallTime, u32)>,
}

#[derive(Clone, Debug)]
enum Step {
    /// The process asks, as its directory allows; `kept`: the answer arrives and is written down.
    Ask {
        directory: usize,
        kept: bool,
    },
    /// It issues what its grant allows.
    Issue {
        directory: usize,
        count: u32,
    },
    /// It ends, and another one starts from the same disk.
    Restart {
        directory: usize,
    },
    /// Another directory becomes a copy of this one, its process running or not.
    Copy {
        from: usize,
        to: usize,
    },
    Wait {
        ms: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0_usize..3, prop::bool::weighted(0.8))
            .prop_map(|(directory, kept)| Step::Ask { directory, kept }),
        6 => (0_usize..3, 1_u32..60)
            .prop_map(|(directory, count)| Step::Issue { directory, count }),
        2 => (0_usize..3).prop_map(|directory| Step::Restart { directory }),
        1 => (0_usize..3, 0_usize..3).prop_map(|(from, to)| Step::Copy { from, to }),
        4 => (1_u64..8_000).prop_map(|ms| Step::Wait { ms }),
    ]
}

/// Nodes that do all that the rules allow, and settlement. Copies know that they are copies, as
/// the inode tells them.
#[derive(Debug)]
struct Fleet {
    now: WallTime,
    section: Option<Section>,
    directories: Vec<Directory>,
    copies: Vec<bool>,
    lives: u8,
    issued: BTreeMap<u32, Incarnation>,
}

impl Fleet {
    fn life(&mut self) -> Incarnation {
        self.lives += 1;
        Incarnation([self.lives; 16])
    }

    fn ask(&mut self, at: usize, kept: bool) {
        let Some(life) = self.directories[at].life else { return };
        let Directory { high, grant, held, .. } = self.directories[at].clone();
        let found = self.section.clone();
        let known = found.as_ref().map_or(0, |section| section.id);
        let ours = found.as_ref().is_some_and(|section| section.holder == life);
        let claim = match (grant, &found) {
            _ if ours => Claim::Extend,
            (_, None) => Claim::First,
            (Some((_, holder, _)), Some(section))
                if !self.copies[at] && holder == section.holder && held.is_none() =>
            {
                Claim::Resume
            }
            _ => Claim::Burn,
        };
        let previous = if claim == Claim::Resume { grant.map(|grant| grant.1) } else { None };
        let previous = previous.unwrap_or(NOBODY);
        let request = GrantRequest { previous, ..request(claim, life, known, high) };
        let digest = [self.now.0.to_le_bytes(); 4].concat().try_into().expect("32 bytes");
        let Ruling::Granted { section, .. } =
            rule(POLICY, self.now, (found.as_ref(), 0), &request, digest)
        else {
            return;
        };
        let end = WallTime(self.now.0 + POLICY.lifetime_us - u64::from(POLICY.margin_ms) * 1_000);
        if kept {
            let directory = &mut self.directories[at];
            directory.high = directory.high.max(section.lo);
            directory.grant = Some((section.id, life, section.hi));
            directory.held = Some((end, section.hi));
            self.copies[at] = false;
        }
        self.section = Some(section);
    }

    fn issue(&mut self, at: usize, count: u32) -> Result<(), TestCaseError> {
        let is_live = |held: &Option<(WallTime, u32)>| held.is_some_and(|(end, _)| self.now < end);
        let owners = self.directories.iter().filter(|other| is_live(&other.held)).count();
        prop_assert!(owners <= 1, "{} at once", owners);
        let directory = &mut self.directories[at];
        let (Some(life), Some((end, hi))) = (directory.life, directory.held) else { return Ok(()) };
        for _ in 0..count {
            if self.now >= end || directory.high >= hi {
                break;
            }
            // H is on disk before the packet leaves.
            let position = directory.high;
            directory.high += 1;
            let before = self.issued.insert(position, life);
            prop_assert_eq!(before, None, "position {} left twice", position);
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn m4_no_history_of_nodes_issues_a_packet_twice(
        steps in prop::collection::vec(step(), 1..200),
    ) {
        let empty = Directory { high: 0, grant: None, life: None, held: None };
        let mut fleet = Fleet {
            now: NOW,
            section: None,
            directories: vec![empty; 3],
            copies: vec![false, true, true],
            lives: 0,
            issued: BTreeMap::new(),
        };
        fleet.directories[0].life = Some(fleet.life());
        let mut reached = 0;
        for step in steps {
            match step {
                Step::Ask { directory, kept } => fleet.ask(directory, kept),
                Step::Issue { directory, count } => fleet.issue(directory, count)?,
                Step::Restart { directory } => {
                    if fleet.lives < 250 {
                        let life = fleet.life();
                        let directory = &mut fleet.directories[directory];
                        (directory.life, directory.held) = (Some(life), None);
                    }
                }
                Step::Copy { from, to } => {
                    if from != to {
                        let copy = fleet.directories[from].clone();
                        fleet.directories[to] = Directory { life: None, held: None, ..copy };
                        fleet.copies[to] = true;
                    }
                }
                Step::Wait { ms } => fleet.now = fleet.now.plus_us(ms * 1_000),
            }
            if let Some(section) = &fleet.section {
                prop_assert!(section.hi >= reached, "what was granted once stays granted");
                reached = section.hi;
                let all = fleet.issued.keys().all(|position| *position < section.hi);
                prop_assert!(all, "everything that left was granted");
            }
        }
    }
}
