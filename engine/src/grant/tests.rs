//! A granted right against every answer that settlement, or somebody between, can give.

use super::{AfterReboot, Asker, Fleet, Opening, Right, Witness};
use crate::{
    cursor::{Found, Recovered},
    time::Timestamp,
};
use yao_protocol::{
    CampaignId, Epoch, Incarnation, KeyId, ShardId, WallTime, WaveIndex,
    cursor::GrantRecord,
    grant::{Claim, GrantAnswer, GrantRequest, NodeName, Verdict},
    keys::{KeyOwner, KeySet, PublicKeyFile, SignKey},
    settlement::digest,
};

const ME: Incarnation = Incarnation([1; 16]);
const PREDECESSOR: Incarnation = Incarnation([2; 16]);
const WRITER: Incarnation = Incarnation([3; 16]);
const OTHER: Incarnation = Incarnation([4; 16]);
const NOBODY: Incarnation = Incarnation([0; 16]);
const COUNT: u32 = 200_000;

fn at(ms: u64) -> Timestamp {
    Timestamp::from_ns(ms * 1_000_000)
}

fn key() -> SignKey {
    SignKey::from_seed(&[3; 32])
}

fn keys() -> KeySet {
    let owner = KeyOwner::Ticket { campaign: CampaignId(7), shard: ShardId(17), epoch: Epoch(1) };
    let mut keys = KeySet::default();
    keys.add(&PublicKeyFile { owner, key: key().public().to_bytes() }).expect("one key");
    keys
}

fn asker() -> Asker {
    Asker {
        campaign: CampaignId(7),
        shard: ShardId(17),
        generation: 0,
        epoch: Epoch(1),
        wave: WaveIndex(0),
        first: 5,
        count: COUNT,
        incarnation: ME,
        merkle_root: [9; 32],
        node: NodeName::new("node-17"),
    }
}

/// A grant of the predecessor, in force until 40 s of the boot clock.
fn past() -> GrantRecord {
    GrantRecord {
        id: 7,
        lo: 100,
        hi: 1_000,
        holder: PREDECESSOR,
        not_after: WallTime(1_000_000),
        until_ns: at(40_000).as_ns(),
        lifetime_us: 60_000_000,
    }
}

fn opening(grant: Option<GrantRecord>, witness: Witness) -> Opening {
    let found = Found {
        recovered: Recovered { high: 500, must_rewrite_both: false },
        moved_from: None,
        written_by: WRITER,
        boot_id: [1; 16],
        asked: true,
        grant,
    };
    Opening::new(&found, [1; 16], witness, AfterReboot::Resume)
}

/// A right with the request that it sent last.
struct World {
    fleet: Fleet,
    high: u32,
    asked: Vec<u8>,
}

impl World {
    fn new(opening: &Opening) -> Self {
        Self { fleet: Fleet::new(at(1_000), asker(), opening), high: 500, asked: Vec::new() }
    }

    /// A right in force: the first grant, of the positions 500 to 1,500, asked for at 1 s.
    fn granted() -> Self {
        let mut world = Self::new(&opening(None, Witness::Absent));
        world.ask(1_000);
        assert_eq!(world.grant(1_100, 8, 500, 1_500), Some(8));
        world
    }

    fn ask(&mut self, ms: u64) -> GrantRequest {
        let asked = self.fleet.poll(at(ms), self.high, &key());
        self.asked = asked.unwrap_or_else(|| panic!("nothing is asked at {ms} ms"));
        GrantRequest::decode(&self.asked, &keys()).expect("signed by the shard's key")
    }

    fn is_silent(&mut self, ms: u64) -> bool {
        self.fleet.poll(at(ms), self.high, &key()).is_none()
    }

    /// An answer to the last request: ten seconds with half a second of margin.
    fn answer(&self, verdict: Verdict, id: u64, holder: Incarnation) -> GrantAnswer {
        GrantAnswer {
            verdict,
            campaign: CampaignId(7),
            shard: ShardId(17),
            generation: 0,
            epoch: Epoch(1),
            wave: WaveIndex(0),
            key_id: KeyId(1),
            id,
            lo: 500,
            hi: 1_500,
            seen: 500,
            margin_ms: 500,
            decided_at: WallTime(50_000_000),
            not_after: WallTime(60_000_000),
            holder,
            node: NodeName::new("node-other"),
            request_digest: digest(&self.asked),
        }
    }

    /// Grants `lo` to `hi` and keeps it at once; the grant that is kept.
    fn grant(&mut self, ms: u64, id: u64, lo: u32, hi: u32) -> Option<u64> {
        let answer = GrantAnswer { lo, hi, ..self.answer(Verdict::Granted, id, ME) };
        let kept = self.fleet.on_answer(at(ms), &answer)?;
        assert!(self.fleet.on_kept(kept.id));
        Some(kept.id)
    }

    fn refuse(&mut self, ms: u64, verdict: Verdict, id: u64, holder: Incarnation) {
        let answer = self.answer(verdict, id, holder);
        assert_eq!(self.fleet.on_answer(at(ms), &answer), None);
    }

    /// What an operator reads.
    fn trouble(&self) -> &str {
        self.fleet.trouble().expect("something is wrong")
    }

    fn right(&self) -> Right {
        Right::Fleet(Box::new(self.fleet.clone()))
    }
}

#[test]
fn m4_a_grant_counts_from_the_disk_on_and_ends_a_margin_early() {
    let mut world = World::new(&opening(None, Witness::Absent));
    let request = world.ask(1_000);
    assert_eq!((request.claim, request.high, request.known), (Claim::First, 500, 0));
    assert!(!world.right().is_live(at(1_000)));
    // The answer takes four seconds: they count against us, for settlement's clock runs already.
    let answer = world.answer(Verdict::Granted, 8, ME);
    let kept = world.fleet.on_answer(at(5_000), &answer).expect("granted");
    assert!(!world.right().allows(at(5_000), 500), "not before it is on disk");
    assert!(!world.fleet.on_kept(kept.id + 1), "another grant is on disk, not this one");
    assert!(world.fleet.on_kept(kept.id));
    let right = world.right();
    assert!(right.allows(at(5_000), 500) && right.allows(at(10_499), 1_499));
    assert!(!right.allows(at(5_000), 1_500), "the grant ends there");
    assert!(!right.allows(at(10_500), 500), "ten seconds from the request on, less the margin");
    assert_eq!((right.ceiling(), right.until()), (1_500, at(10_500)));
}

#[test]
fn m4_only_the_answer_to_the_last_request_counts() {
    let mut world = World::granted();
    let first = world.answer(Verdict::Granted, 8, ME);
    world.ask(6_000);
    assert_eq!(world.fleet.on_answer(at(6_001), &first), None, "an old grant, sent again");
    assert_eq!(world.right().until(), at(10_500));
    let mut other = world.answer(Verdict::Granted, 9, ME);
    other.request_digest[31] ^= 1;
    assert_eq!(world.fleet.on_answer(at(6_001), &other), None, "the answer to other bytes");
    assert_eq!(world.grant(6_002, 9, 500, 1_500), Some(9));
    assert_eq!(world.grant(6_003, 10, 500, 2_000), None, "it was answered already");
}

#[test]
fn m4_a_grant_that_contradicts_what_was_asked_is_none() {
    let granted = |change: &dyn Fn(&mut GrantAnswer)| {
        let mut world = World::granted();
        world.ask(6_000);
        let mut answer = world.answer(Verdict::Granted, 9, ME);
        change(&mut answer);
        world.fleet.on_answer(at(6_001), &answer).is_some()
    };
    assert!(granted(&|_| {}), "the same range for longer");
    assert!(granted(&|answer| answer.hi = 500 + 65_536));
    assert!(!granted(&|answer| answer.hi = 500 + 65_537), "65,536 packets beyond H at most");
    assert!(!granted(&|answer| answer.lo = 499), "it begins below ours");
    assert!(!granted(&|answer| answer.lo = 501), "it takes away what we have");
    assert!(!granted(&|answer| answer.hi = 1_499), "it takes away what we have");
    assert!(!granted(&|answer| answer.hi = COUNT + 1), "beyond the section");
    assert!(!granted(&|answer| answer.holder = OTHER), "somebody else's");
    // And with the other claims.
    for (grant, witness, lo, sound) in [
        (None, Witness::Absent, 500, true),
        (None, Witness::Absent, 499, false),
        (None, Witness::Absent, 501, true),
        (Some(past()), Witness::Absent, 500, true),
        (Some(past()), Witness::Absent, 499, false),
        (Some(past()), Witness::Absent, 501, true),
        (Some(past()), Witness::Agrees, 500, true),
        (Some(past()), Witness::Agrees, 501, false),
        (Some(past()), Witness::RolledBack, 499, false),
        (Some(past()), Witness::RolledBack, 1_000, true),
    ] {
        let mut world = World::new(&opening(grant, witness));
        let claim = world.ask(1_000).claim;
        assert_eq!(world.grant(1_001, 9, lo, 1_500).is_some(), sound, "{claim:?} from {lo}");
    }
}

#[test]
fn m4_what_is_half_used_is_asked_for_again() {
    // By time: lifetime 10 s, so from 5 s before its end on.
    let mut world = World::granted();
    assert!(world.is_silent(5_499));
    let request = world.ask(5_500);
    assert_eq!((request.claim, request.known, request.previous), (Claim::Extend, 8, NOBODY));
    assert_eq!(world.grant(5_501, 9, 500, 1_500), Some(9));
    assert!(world.is_silent(9_999));
    // By packets: 1,000 were granted.
    let mut world = World::granted();
    world.high = 1_000;
    assert!(world.is_silent(1_900), "500 are left, and H is told once a second");
    world.high = 1_001;
    world.ask(1_900);
    assert_eq!(world.grant(1_901, 9, 500, 2_001), Some(9));
    // And H is told when it has risen, a second after the last request.
    world.high = 1_002;
    assert!(world.is_silent(2_899));
    assert_eq!(world.ask(2_900).high, 1_002);
}

#[test]
fn a_request_without_an_answer_is_made_again() {
    let mut world = World::granted();
    let unanswered = world.ask(5_500);
    assert!(world.is_silent(11_499), "one at a time");
    let again = world.ask(11_500);
    assert_eq!(again.claim, Claim::Extend);
    assert!(again.nonce > unanswered.nonce, "every request is another one");
    world.fleet.on_unanswered(at(11_600), 200);
    assert!(world.is_silent(11_799));
    world.ask(11_800);
    world.fleet.on_unanswered(at(11_800), 90_000);
    assert!(world.is_silent(16_799), "five seconds at most, whatever the agent says");
    world.ask(16_800);
    world.fleet.on_unsent(at(16_800));
    assert!(world.is_silent(16_899));
    world.ask(16_900);
    world.fleet.on_unanswered(at(16_901), 0);
    world.fleet.on_unanswered(at(16_902), 5_000);
    assert!(world.is_silent(16_950));
    world.ask(16_951);
}

#[test]
fn m4_a_lost_answer_is_caught_up_with() {
    // The extension was granted as 9, and 10 after it, but no answer came.
    let mut world = World::granted();
    world.high = 1_001;
    world.ask(1_200);
    world.ask(7_200);
    world.refuse(7_201, Verdict::Held, 10, ME);
    assert!(world.right().is_live(at(7_201)), "what we have stays");
    let request = world.ask(7_251);
    assert_eq!((request.claim, request.known), (Claim::Extend, 10));
    // Or the very first one was.
    let mut world = World::new(&opening(Some(past()), Witness::Absent));
    assert_eq!(world.ask(1_000).claim, Claim::Resume);
    assert_eq!(world.ask(7_000).claim, Claim::Resume);
    world.refuse(7_001, Verdict::Held, 8, ME);
    let request = world.ask(7_051);
    assert_eq!((request.claim, request.known), (Claim::Extend, 8));
    assert_eq!(world.grant(7_052, 9, 600, 1_500), Some(9));
    // Or the RESUME of a right that the witness proved: it goes on at the H that was stated, which
    // lies above where the predecessor's grant began.
    let mut world = World::new(&opening(Some(past()), Witness::Agrees));
    assert_eq!(world.ask(1_000).claim, Claim::Resume);
    world.high = 600;
    assert_eq!(world.ask(7_000).claim, Claim::Resume);
    world.refuse(7_001, Verdict::Held, 8, ME);
    let request = world.ask(7_051);
    assert_eq!((request.claim, request.known, request.high), (Claim::Extend, 8, 600));
    assert_eq!(world.grant(7_052, 9, 601, 1_600), None, "between H and it lies what may be ours");
    assert!(world.right().allows(at(7_052), 999), "what we have stays");
    world.ask(12_052);
    world.refuse(12_053, Verdict::Held, 9, ME);
    assert!(!world.fleet.is_lost(), "what was granted and not believed is ours");
    world.ask(12_103);
    assert_eq!(world.grant(12_104, 10, 500, 1_600), Some(10));
    assert!(world.right().allows(at(12_104), 1_599));
}

#[test]
fn m4_a_clock_of_settlement_that_was_days_ahead_only_shortens_the_grant() {
    let mut world = World::granted();
    world.ask(6_000);
    let day_ms = 86_400_000;
    let mut answer = world.answer(Verdict::Granted, 9, ME);
    answer.not_after = WallTime(answer.decided_at.0 + 3 * day_ms * 1_000);
    let kept = world.fleet.on_answer(at(6_001), &answer).expect("a shorter belief is safe");
    assert_eq!(kept.lifetime_us, day_ms * 1_000);
    assert!(world.fleet.on_kept(kept.id));
    assert_eq!(world.right().until(), at(6_000 + day_ms - 500), "it ends after a day");
}

#[test]
fn m4_after_a_reboot_burn_binds_a_cursor_without_a_grant_too() {
    let first = |after_reboot| {
        let found = Found {
            recovered: Recovered { high: 500, must_rewrite_both: false },
            moved_from: None,
            written_by: WRITER,
            boot_id: [1; 16],
            asked: true,
            grant: None,
        };
        let opening = Opening::new(&found, [2; 16], Witness::Absent, after_reboot);
        let mut world = World::new(&opening);
        assert_eq!(world.ask(1_000).claim, Claim::First);
        // It was granted to the life before the boot, which did not live to write it down.
        world.refuse(1_001, Verdict::Held, 8, WRITER);
        world
    };
    let request = first(AfterReboot::Resume).ask(1_051);
    assert_eq!((request.claim, request.previous), (Claim::Resume, WRITER));
    let mut world = first(AfterReboot::Burn);
    assert!(world.is_silent(6_000), "until the grant is over, looked at every five seconds");
    let request = world.ask(6_001);
    assert_eq!((request.claim, request.previous, request.known), (Claim::Burn, NOBODY, 8));
}

#[test]
fn m4_whoever_hears_of_another_holder_stops_for_this_life() {
    for (verdict, holder) in [(Verdict::Held, OTHER), (Verdict::RolledBack, ME)] {
        let mut world = World::granted();
        world.ask(5_500);
        let verdict_of = if verdict == Verdict::Held { OTHER } else { holder };
        let mut answer = world.answer(verdict, 12, verdict_of);
        if verdict == Verdict::RolledBack {
            answer.holder = OTHER;
        }
        world.fleet.on_answer(at(5_501), &answer);
        assert!(world.fleet.is_lost() && !world.right().is_live(at(5_501)), "{verdict:?}");
        assert!(world.is_silent(60_000), "nothing is asked any more");
        let said = if verdict == Verdict::Held { "taken the section over" } else { "put back" };
        assert!(world.trouble().contains(said), "{}", world.trouble());
    }
}

#[test]
fn a_refusal_says_what_is_wrong() {
    // Settlement's database was put back to before our last grant.
    let mut world = World::granted();
    world.ask(5_500);
    world.refuse(5_501, Verdict::Held, 7, ME);
    assert!(world.fleet.is_lost());
    assert!(world.trouble().contains("newest grant is 7, and this node has 8"));
    // A disk that has forgotten a raise, before anything was issued in this life.
    let mut world = World::new(&opening(Some(past()), Witness::Absent));
    world.ask(1_000);
    world.refuse(1_001, Verdict::RolledBack, 8, PREDECESSOR);
    let why = world.trouble();
    assert!(why.contains("below position 500") && why.contains("goes on above grant 8"), "{why}");
    for (verdict, said) in [(Verdict::Unknown, "copied"), (Verdict::Contradicts, "sealed")] {
        let mut world = World::granted();
        world.ask(5_500);
        world.refuse(5_501, verdict, 0, NOBODY);
        assert!(world.trouble().contains(said), "{}", world.trouble());
    }
    let mut world = World::granted();
    world.ask(5_500);
    world.fleet.on_unanswered(at(5_501), 0);
    assert!(world.trouble().contains("the agent's log may say why"));
}

#[test]
fn m4_of_two_clones_in_memory_one_stops() {
    let mut world = World::granted();
    let mut clone = World { fleet: world.fleet.clone(), high: world.high, asked: Vec::new() };
    let (ours, theirs) = (world.ask(5_500), clone.ask(5_501));
    assert!(ours.nonce != theirs.nonce, "the same bytes would get the same grant");
    assert_ne!(world.asked, clone.asked);
    assert_eq!(world.grant(5_510, 9, 500, 1_500), Some(9));
    // Nothing that the clone asked for before stayed without an answer: it is not the only one.
    clone.refuse(5_511, Verdict::Held, 9, ME);
    assert!(clone.fleet.is_lost() && !clone.right().is_live(at(5_511)));
    assert!(clone.trouble().contains("a clone of this machine runs"), "{}", clone.trouble());
    assert!(world.right().is_live(at(5_511)));
    // Where an answer was lost indeed, that excuses one such refusal and no more.
    let mut world = World::granted();
    world.ask(5_500);
    world.fleet.on_unanswered(at(5_600), 0);
    world.ask(5_650);
    world.refuse(5_651, Verdict::Held, 9, ME);
    assert!(world.right().is_live(at(5_651)));
    world.ask(5_701);
    world.refuse(5_702, Verdict::Held, 10, ME);
    assert!(world.fleet.is_lost() && !world.right().is_live(at(5_702)));
    // Nor is the first grant of a clone taken for ours, when every answer of ours came.
    let mut world = World::new(&opening(None, Witness::Absent));
    world.ask(1_000);
    world.refuse(1_001, Verdict::Held, 1, ME);
    assert!(world.fleet.is_lost());
}

#[test]
fn m4_a_predecessors_grant_goes_on_in_the_same_boot_until_it_ends() {
    let mut world = World::new(&opening(Some(past()), Witness::Agrees));
    assert!(world.right().allows(at(1_000), 999) && !world.right().allows(at(1_000), 1_000));
    assert!(!world.right().is_live(at(40_000)));
    let request = world.ask(1_000);
    assert_eq!((request.claim, request.previous, request.known), (Claim::Resume, PREDECESSOR, 7));
    // While it is asked for more H may rise; what lies below the new grant stays ours.
    world.high = 600;
    assert_eq!(world.grant(1_001, 8, 500, 1_500), Some(8));
    assert!(world.right().allows(at(1_001), 450));
    // Over at the start, it is none.
    let fleet = Fleet::new(at(40_000), asker(), &opening(Some(past()), Witness::Agrees));
    assert!(!Right::Fleet(Box::new(fleet)).is_live(at(40_000)));
}

#[test]
fn m4_a_grant_that_the_predecessor_did_not_live_to_write_down_takes_nothing_from_us() {
    // We go on by the grant that is on disk, and hear of a newer one of the same holder, then of
    // the life between us: neither is another owner.
    let mut world = World::new(&opening(Some(past()), Witness::Agrees));
    world.ask(1_000);
    world.refuse(1_001, Verdict::Held, 8, PREDECESSOR);
    assert!(!world.fleet.is_lost() && world.right().allows(at(1_001), 999));
    let request = world.ask(1_051);
    assert_eq!((request.claim, request.previous, request.known), (Claim::Resume, PREDECESSOR, 8));
    world.refuse(1_052, Verdict::Held, 9, WRITER);
    let request = world.ask(1_102);
    assert_eq!((request.claim, request.previous, request.known), (Claim::Resume, WRITER, 9));
    // But what nobody of this directory holds is somebody else's.
    world.refuse(1_103, Verdict::Held, 10, OTHER);
    assert!(world.fleet.is_lost() && !world.right().is_live(at(1_103)));
}

#[test]
fn m4_a_life_that_wrote_nothing_down_is_succeeded_too() {
    let mut world = World::new(&opening(Some(past()), Witness::Absent));
    world.ask(1_000);
    // The predecessor's own later grant, which it did not live to write down.
    world.refuse(1_001, Verdict::Held, 8, PREDECESSOR);
    let request = world.ask(1_051);
    assert_eq!((request.claim, request.previous, request.known), (Claim::Resume, PREDECESSOR, 8));
    // The life between it and us asked, was granted, and died.
    world.refuse(1_052, Verdict::Held, 9, WRITER);
    let request = world.ask(1_102);
    assert_eq!((request.claim, request.previous, request.known), (Claim::Resume, WRITER, 9));
    world.refuse(1_103, Verdict::Held, 10, OTHER);
    assert!(world.is_silent(1_153), "it is nobody that we know");
}

#[test]
fn m4_several_lives_that_wrote_nothing_down_are_succeeded_too() {
    let mut world = World::new(&opening(Some(past()), Witness::Absent));
    world.fleet.follow([PREDECESSOR, OTHER, WRITER].into_iter());
    world.ask(1_000);
    world.refuse(1_001, Verdict::Held, 8, OTHER);
    let request = world.ask(1_051);
    assert_eq!((request.claim, request.previous, request.known), (Claim::Resume, OTHER, 8));
    // Each is tried once: else a clone of one of them would be asked after for ever.
    world.refuse(1_052, Verdict::Held, 9, OTHER);
    assert_eq!(world.ask(1_102).previous, OTHER, "it holds more than we knew");
    // Before the first grant no slot tells which lives were given up.
    let mut world = World::new(&opening(None, Witness::Absent));
    world.fleet.follow([PREDECESSOR, OTHER].into_iter());
    world.ask(1_000);
    world.refuse(1_001, Verdict::Held, 8, OTHER);
    assert!(world.is_silent(1_052), "it waits to burn");
    // Nor does who burns.
    let mut world = World::new(&opening(Some(past()), Witness::RolledBack));
    world.fleet.follow([PREDECESSOR, OTHER].into_iter());
    world.ask(1_000);
    world.refuse(1_001, Verdict::Held, 8, OTHER);
    let request = world.ask(1_051);
    assert_eq!((request.claim, request.previous), (Claim::Burn, NOBODY));
}

/// The journal of a copy begins with lives of the directory that it was made from. One of them may
/// be alive, and hold the section: it began before whoever was granted something in the copy.
#[test]
fn m4_a_life_from_before_the_copy_is_not_succeeded() {
    for lives in [&[OTHER, PREDECESSOR, WRITER][..], &[OTHER, WRITER]] {
        let mut world = World::new(&opening(Some(past()), Witness::Absent));
        world.fleet.follow(lives.iter().copied());
        world.ask(1_000);
        world.refuse(1_001, Verdict::Held, 8, OTHER);
        assert!(world.is_silent(1_051), "it waits until that one's grant has ended");
        let request = world.ask(6_001);
        assert_eq!((request.claim, request.previous), (Claim::Burn, NOBODY));
    }
}

#[test]
fn m4_another_ones_grant_must_end_before_ours_begins() {
    let mut world = World::new(&opening(Some(past()), Witness::Absent));
    world.ask(1_000);
    // Held for 10 s more, and half a second of margin: but it is looked at every five seconds.
    world.refuse(1_001, Verdict::Held, 9, OTHER);
    assert!(world.is_silent(6_000));
    let request = world.ask(6_001);
    assert_eq!((request.claim, request.previous, request.known), (Claim::Burn, NOBODY, 9));
    // The holder has prolonged it meanwhile: the same question again, about the newer grant.
    world.refuse(6_002, Verdict::Held, 10, OTHER);
    assert_eq!(world.ask(6_052).known, 10);
    let mut answer = world.answer(Verdict::Held, 10, OTHER);
    answer.not_after = WallTime(answer.decided_at.0 + 1_000_000);
    assert_eq!(world.fleet.on_answer(at(6_053), &answer), None);
    assert!(world.is_silent(7_552), "a second, and the margin");
    world.ask(7_553);
    assert_eq!(world.grant(7_554, 11, 1_500, 2_500), Some(11), "above all that was granted");
    assert!(world.right().is_live(at(7_554)));
    // A disk that was put back to an older state waits in the same way.
    let mut world = World::new(&opening(Some(past()), Witness::Absent));
    world.ask(1_000);
    world.refuse(1_001, Verdict::RolledBack, 8, PREDECESSOR);
    assert!(world.is_silent(6_000));
    let request = world.ask(6_001);
    assert_eq!((request.claim, request.previous), (Claim::Burn, NOBODY));
}

#[test]
fn without_any_knowledge_of_settlement_the_right_runs_out() {
    for verdict in [Verdict::Unknown, Verdict::Contradicts] {
        let mut world = World::granted();
        world.ask(5_500);
        world.refuse(5_501, verdict, 0, NOBODY);
        assert!(world.right().is_live(at(10_499)) && !world.right().is_live(at(10_500)));
        assert!(world.is_silent(10_500));
        assert_eq!(world.ask(10_501).claim, Claim::Extend);
    }
}
