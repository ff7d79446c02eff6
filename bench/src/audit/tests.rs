//! Balanced books pass, and each kind of tampering is found.

mod generations;
mod reclaimed;
mod world;

use super::Verdict;
use std::{fs, path::Path};
use world::{LAG_US, T0, World, body, packet, sign, start};
use yao_protocol::{
    Fen, PacketIndex, UserId, WallTime, WaveIndex,
    journal::{Event, SkipReason},
    log::{Record, SegmentHeader},
    receipt::Receipt,
    spool::{self, Open},
};

const JOURNAL: &str = "state/journal/journal-00000000000000000001.yaojournal";
const CURSOR: &str = "state/cursor/wave-000.yaocursor";

/// The packets, sums and counts of an untouched world.
#[test]
fn an_honest_event_balances() {
    let verdict = World::new().judge().expect("readable");
    assert_eq!(verdict.problems, Vec::<String>::new());
    let classes = [
        (verdict.planned, verdict.planned_fen),
        (verdict.issued, verdict.issued_fen),
        (verdict.opened, verdict.opened_fen),
        (verdict.settled, verdict.settled_fen),
        (verdict.skipped, verdict.skipped_fen),
        (verdict.unissued, verdict.unissued_fen),
    ];
    assert_eq!(classes, [(8, 828), (5, 510), (3, 303), (3, 303), (1, 105), (2, 213)]);
    let counts = (verdict.over_limit, verdict.tickets_seen, verdict.receipts_seen, verdict.lives);
    assert_eq!(counts, (1, 5, 4, 2));
    assert!((verdict.release_lag_ms_p99 - LAG_US as f64 / 1_000.0).abs() < 1e-9);
    assert_eq!(verdict.verdict, "balanced");
    assert_eq!(faults(&verdict), [0; 4]);
}

/// What a crash, a retry or a clean-up may leave behind, and is no fault.
#[test]
fn what_is_legal_is_no_problem() {
    let check = |change: fn(&mut World), skipped: u64| {
        let mut world = World::new();
        change(&mut world);
        let verdict = world.judge().expect("readable");
        assert_eq!(verdict.problems, Vec::<String>::new());
        assert_eq!((verdict.skipped, faults(&verdict)), (skipped, [0; 4]));
    };
    // The same ticket comes again after a lost reply (M6), and the same receipt.
    check(|world| world.tickets.push(world.tickets[0]), 1);
    check(|world| world.receipts.push(world.receipts[0]), 1);
    // Settled segments are removed.
    check(
        |world| {
            world.opens.drain(..2);
            world.opens_from = 3;
        },
        1,
    );
    // A killed writer's last record; H alone still tells what may have left.
    check(|world| world.after = |root| cut(root, JOURNAL, 3), 1);
    check(|world| world.after = |root| append(root, JOURNAL, &[9; 40]), 1);
    // A killed load's last line.
    check(|world| world.after = |root| append(root, "tickets.log", b"W 0123"), 1);
    // A slot that was torn may have raised H to its limit (M2).
    check(|world| world.after = |root| flip(root, CURSOR, 4_096 + 100), 3);
    check(
        |world| {
            world.cursor.next_high_max = 7;
            world.after = |root| flip(root, CURSOR, 4_096 + 100);
        },
        2,
    );
    // A close says of what a start had not skipped that nobody won it.
    check(|world| world.events.push(close(2, 213)), 1);
    // What nobody took in time was skipped before H was even near the end.
    check(|world| world.events.push(skip(5, 1)), 1);
    // The spool's disk failed: it went on in its fallback, with what it had not synced.
    check(|world| world.after = |root| move_to_fallback(root, 3, &[0; 0]), 1);
    check(|world| world.after = |root| move_to_fallback(root, 3, &[9; 40]), 1);
    check(|world| world.after = |root| move_to_fallback(root, 1, &[9; 40]), 1);
    // Of the commit that failed only a page did not reach the disk.
    check(|world| world.after = move_with_a_hole, 1);
}

fn move_with_a_hole(root: &Path) {
    let path = root.join("state/spool").join(format!("spool-{:020}.yaospool", 1));
    let mut bytes = fs::read(&path).expect("written before");
    move_to_fallback(root, 1, &[]);
    bytes[64 + 172..64 + 172 + 100].fill(0);
    fs::write(path, bytes).expect("a temporary directory");
}

/// Records from `first` on lie in the fallback, whose watermark is the newer one; the own folder
/// has one of them, too, and then `torn`.
fn move_to_fallback(root: &Path, first: u64, torn: &[u8]) {
    let (own, fallback) = (root.join("state/spool"), root.join("fallback"));
    let name = |first: u64| format!("spool-{first:020}.yaospool");
    let bytes = fs::read(own.join(name(1))).expect("written before");
    let end = |sequence: u64| 64 + 172 * usize::try_from(sequence).expect("small");
    let header = SegmentHeader::decode(spool::MAGIC, &bytes).expect("a header");
    let header = SegmentHeader { first_sequence: first, ..header }.encode(spool::MAGIC);
    fs::create_dir(&fallback).expect("a temporary directory");
    let moved = [&header, &bytes[end(first - 1)..]].concat();
    fs::write(fallback.join(name(first)), moved).expect("a temporary directory");
    fs::write(own.join(name(1)), [&bytes[..end(first)], torn].concat()).expect("as above");
    let mark = fs::read(own.join("watermark.yaomark")).expect("written before");
    fs::write(fallback.join("watermark.yaomark"), mark).expect("a temporary directory");
    fs::remove_file(own.join("watermark.yaomark")).expect("written before");
}

#[test]
fn a_fallback_that_tells_other_things_is_told() {
    let check = |change: fn(&mut World), problem: &str, lost: u64| {
        tampered(change, problem, [0, lost, 0, 0]);
    };
    check(|world| world.after = |root| pair(&root.join("state/spool"), 1), "has a fallback", 0);
    check(
        |world| {
            world.after = |root| {
                move_to_fallback(root, 3, &[0; 0]);
                pair(&root.join("state/spool"), 1);
                pair(&root.join("fallback"), 2);
            };
        },
        "is not the fallback of",
        0,
    );
    check(
        |world| {
            world.after = |root| {
                move_to_fallback(root, 3, &[0; 0]);
                let path = root.join("fallback/spool-00000000000000000003.yaospool");
                let bytes = fs::read(&path).expect("written before");
                let header = &bytes[..64];
                let mut open = bytes[64 + 24..64 + 24 + 144].to_vec();
                open[0] ^= 1;
                let mut record = Vec::new();
                let (kind, sequence) = (spool::KIND_OPEN, 3);
                Record { kind, sequence, committed: 2, payload: &open }.put(&mut record);
                fs::write(&path, [header, &record, &bytes[64 + 172..]].concat()).expect("written");
            };
        },
        "record 3 is another one elsewhere",
        0,
    );
    check(
        |world| {
            world.after = |root| {
                move_to_fallback(root, 3, &[0; 0]);
                let own = root.join("state/spool/spool-00000000000000000001.yaospool");
                let file = fs::OpenOptions::new().write(true).open(own).expect("there");
                file.set_len(64 + 172).expect("cut");
            };
        },
        "records before it are missing",
        1,
    );
}

/// The file that says which spool and fallback belong together.
fn pair(folder: &Path, number: u128) {
    let text =
        format!(r#"{{"campaign":7,"shard":3,"pair":"{number:032x}","fallback":"/mnt/fallback"}}"#);
    fs::write(folder.join("pair.json"), text).expect("a temporary directory");
}

#[test]
fn a_fence_is_a_problem_unless_the_disk_failed_on_purpose() {
    let fence = Event::Fence { place: 1, at: T0 };
    tampered(
        |world| world.events.push(Event::Fence { place: 1, at: T0 }),
        "was fenced (place 1)",
        [0; 4],
    );
    let mut world = World::new();
    world.events.push(fence);
    world.fences_allowed = true;
    let verdict = world.judge().expect("readable");
    assert_eq!((verdict.verdict, verdict.fences), ("balanced", 1));
}

#[test]
fn a_packet_that_leaves_twice_is_a_duplicate() {
    let check = |change: fn(&mut World), problem: &str| tampered(change, problem, [1, 0, 0, 0]);
    check(
        |world| world.tickets.push(sign(&body(0, 2))),
        "left twice: to user 1 and, says a client",
    );
    check(
        |world| {
            let mut again = body(3, 1);
            again.shake.0 += 1;
            world.events.push(Event::Issue(again));
        },
        "left twice: to user 1 and, says the journal",
    );
    check(|world| world.events.push(Event::Issue(body(3, 1))), "is in the journal twice");
    check(
        |world| {
            let ticket = sign(&body(0, 9));
            world.opens[0] = Open { ticket, ..world.opens[0] };
        },
        "left twice: to user 1 and, says the spool, to user 9",
    );
    check(
        |world| {
            world.ledger.rows.push(world.ledger.rows[3].clone());
            world.total();
        },
        "the ledger has packet 0/3/4 twice",
    );
    check(|world| world.ledger.rows[2].user = 8, "the ledger has packet 0/3/2 of user 8");
    check(|world| world.receipts[1].user = UserId(9), "names another user");
}

#[test]
fn what_was_acknowledged_and_nobody_has_is_lost() {
    let check = |change: fn(&mut World), problem: &str, lost: u64| {
        tampered(change, problem, [0, lost, 0, 0]);
    };
    check(
        |world| world.receipts.push(receipt(3)),
        "packet 0/3/3 has a receipt and no spooled open",
        1,
    );
    // Its segment cannot have been removed: the spool still begins with its first record.
    check(
        |world| {
            world.opens.pop();
            world.watermark = 3;
        },
        "packet 0/3/4 has a receipt and no spooled open",
        1,
    );
    check(
        |world| {
            world.ledger.rows.remove(1);
            world.total();
        },
        "packet 0/3/1 is below the watermark and not in the ledger",
        1,
    );
    check(
        |world| {
            world.watermark = 3;
            world.ledger.rows.pop();
            world.total();
        },
        "packet 0/3/4 waits for settlement",
        0,
    );
    check(
        |world| {
            world.opens.drain(..3);
            world.opens_from = 4;
            world.watermark = 2;
        },
        "the spool begins at record 4 although only 2 are settled",
        1,
    );
    check(
        |world| {
            let mut foreign = body(1, 2);
            foreign.packet.0 += 100;
            world.tickets.push(sign(&foreign));
        },
        "packet 0/3/101 of a client is not in the shard's plan",
        1,
    );
}

#[test]
fn a_ticket_says_what_was_planned_and_signed() {
    let check = |change: fn(&mut World), problem: &str, lost: u64| {
        tampered(change, problem, [0, lost, 0, 0]);
    };
    check(
        |world| {
            let Some(Event::Issue(body)) = world.events.get_mut(5) else { panic!("packet 3") };
            body.amount = Fen(104);
            world.tickets[3] = sign(body);
        },
        "packet 0/3/3: the journal says 104 of sponsor 3, the plan says 103 of sponsor 3",
        1,
    );
    check(
        |world| {
            let mut dearer = world.tickets[4].body;
            dearer.amount = Fen(9_999);
            world.tickets[4] = sign(&dearer);
            world.opens[3].ticket = world.tickets[4];
            world.settle();
        },
        "packet 0/3/4: the spool says 9999 of sponsor 0, the plan says 104 of sponsor 0",
        1,
    );
    check(|world| world.tickets[2].signature[7] ^= 1, "packet 0/3/2 of a client is forged", 0);
    check(
        |world| world.opens[2].ticket.signature[7] ^= 1,
        "packet 0/3/2 of the spool is forged",
        0,
    );
    check(|world| world.receipts[2].accepted_at.0 += 1, "of packet 0/3/2 tells another time", 0);
    check(
        |world| world.opens[0].accepted_at = world.opens[0].ticket.body.expires_at,
        "was opened outside its ticket's life",
        0,
    );
}

#[test]
fn nothing_leaves_at_or_above_the_reserved_mark() {
    let check = |change: fn(&mut World), problem: &str| tampered(change, problem, [0; 4]);
    // A client's ticket that the journal lost is honoured, but not above H.
    check(
        |world| world.tickets.push(sign(&body(6, 3))),
        "packet 0/3/6 was issued at or above H, index",
    );
    check(|world| world.cursor.high = 4, "packet 0/3/4 was issued at or above H, index");
    check(|world| world.cursor.high = 5, "the cursor of wave 0 is at 5, below 6 (M2)");
    check(
        |world| world.events.push(Event::Reserve { wave: WaveIndex(0), high: 5, at: T0 }),
        "the journal moves H of wave 0 from 6 to 5",
    );
    check(
        |world| world.cursor.merkle_root[0] ^= 1,
        "the cursor of wave 0 belongs to another shard",
    );
    check(
        |world| {
            world.cursor.high = 9;
            world.cursor.next_high_max = 9;
        },
        "the cursor of wave 0 is at 9 of 8",
    );
    check(|world| world.events.push(Event::Issue(body(5, 3))), "was issued after it was skipped");
    check(
        |world| world.events.push(close(3, 318)),
        "wave 0 closed with 3 packets of 318; the journal leaves 2 of 213",
    );
    check(|world| world.events.push(close(2, 212)), "the journal leaves 2 of 213");
    check(|world| world.events.extend([close(2, 0), close(2, 0)]), "wave 0 closed twice");
}

#[test]
fn many_problems_are_counted_and_the_first_are_told() {
    let mut world = World::new();
    for user in 100..350 {
        world.tickets.push(sign(&body(0, user)));
    }
    let verdict = world.judge().expect("readable");
    assert_eq!((verdict.problem_count, verdict.problems.len()), (250, 100));
    assert_eq!((verdict.verdict, faults(&verdict)), ("UNBALANCED", [1, 0, 0, 0]));
}

#[test]
fn nothing_is_released_early() {
    let check = |change: fn(&mut World), problem: &str| tampered(change, problem, [0, 0, 0, 1]);
    check(
        |world| {
            let Some(Event::Issue(body)) = world.events.get_mut(5) else { panic!("packet 3") };
            body.issued_at = WallTime(body.issued_at.0 - LAG_US - 1);
            world.tickets[3] = sign(body);
        },
        "packet 0/3/3 was issued 1 us early",
    );
    check(
        |world| {
            world.after = |root| {
                let text = "version = 1\ncampaign = 7\n[[wave]]\nindex = 0\nfactor = 10\n\
                            t0 = \"2023-11-14T22:13:20.004001Z\"\n";
                fs::write(root.join("schedule.toml"), text).expect("a temporary directory");
            };
            // Only packet 0 is kept: at ten times the speed each would be early by as much.
            world.tickets.truncate(1);
            world.events.truncate(3);
            world.events.push(start(2));
            world.opens.truncate(1);
            world.receipts.truncate(1);
            world.watermark = 1;
            world.settle();
        },
        "packet 0/3/0 was issued 1 us early",
    );
}

#[test]
fn limits_hold_when_issuing_and_when_paying() {
    let check = |change: fn(&mut World), problem: &str, violations: u64| {
        tampered(change, problem, [0, 0, violations, 0]);
    };
    // Two of sponsor 0.
    check(
        |world| {
            world.ledger.rows[3].state = "applied".to_owned();
            world.total();
        },
        "user 1 was paid more than the campaign allows",
        1,
    );
    check(
        |world| {
            let life = world.events.pop().expect("the second start");
            world.events.extend([Event::Issue(body(4, 1)), life]);
        },
        "user 1 won more than the campaign allows",
        1,
    );
    // Four, each of another sponsor.
    check(
        |world| {
            for index in [1, 2] {
                let body = body(u32::try_from(index).expect("small"), 1);
                world.events[2 + index] = Event::Issue(body);
                world.tickets[index] = sign(&body);
                world.opens[index].ticket = sign(&body);
                world.receipts[index].user = UserId(1);
            }
            world.settle();
        },
        "user 1 won more than the campaign allows",
        1,
    );
    check(
        |world| {
            world.ledger.rows[1].state = "over_limit".to_owned();
            world.total();
        },
        "packet 0/3/1 was refused, though user 2 had room",
        0,
    );
}

#[test]
fn the_ledger_is_not_believed() {
    let check = |change: fn(&mut World), problem: &str| tampered(change, problem, [0; 4]);
    check(|world| world.ledger.totals[0].1.sum += 1, "its totals say 3 of 304");
    check(|world| world.ledger.totals[1].1.packets = 0, "its totals say 0 of 104");
    check(
        |world| {
            world.ledger.rows[0].amount = u64::MAX;
            world.total();
        },
        "the ledger has packet 0/3/0 with 18446744073709551615 of sponsor 0",
    );
    check(
        |world| {
            world.ledger.rows[0].state = "expired".to_owned();
            world.total();
        },
        "and is expired",
    );
    check(
        |world| {
            world.ledger.rows[0].state = "gone".to_owned();
            world.total();
        },
        "is in the unknown state gone",
    );
    check(|world| world.ledger.rows[2].accepted_at += 1, "packet 0/3/2 accepted at another time");
    check(
        |world| {
            let mut row = world.ledger.rows[2].clone();
            row.packet = packet(7).0;
            row.user = 4;
            world.ledger.rows.push(row);
            world.total();
        },
        "the ledger has packet 0/3/7, which never left",
    );
}

#[test]
fn the_seeds_are_what_the_manifest_signed() {
    let check = |change: fn(&mut World), problem: &str| tampered(change, problem, [0; 4]);
    check(|world| world.plan = |plan| plan.plan_digest[0] ^= 1, "was made from another plan");
    check(|world| world.plan = |plan| plan.shards[0].hash[0] ^= 1, "is not the file");
    check(
        |world| world.plan = |plan| plan.shards[0].sum.0 += 1,
        "holds 8 packets of 828 in all; the manifest says 8 of 829",
    );
    check(|world| world.plan = |plan| plan.shards[0].packets += 1, "the manifest says 9 of 828");
    check(|world| world.plan = |plan| plan.shards[0].merkle_root[0] ^= 1, "do not hash");
    check(|world| world.plan = |plan| plan.shards.clear(), "does not list shard 3");
}

#[test]
fn damaged_and_foreign_files_are_named() {
    let check = |after: fn(&Path), problem: &str| {
        let mut world = World::new();
        world.after = after;
        let told = match world.judge() {
            Ok(verdict) => verdict.problems.join("\n"),
            Err(error) => format!("{error:#}"),
        };
        assert!(told.contains(problem), "{told}");
    };
    // In the middle: records follow.
    check(|root| flip(root, JOURNAL, 150), "00001.yaojournal, record 2");
    check(|root| flip(root, JOURNAL, 40), "a segment header");
    check(
        |root| {
            let from = root.join(JOURNAL);
            fs::remove_file(from).expect("a temporary directory");
        },
        "state/journal holds no record",
    );
    let both = |root: &Path| {
        flip(root, CURSOR, 100);
        flip(root, CURSOR, 4_096 + 100);
    };
    check(both, "both slots are bad");
}

/// The world with one change has a problem that says so, and these faults.
fn tampered(change: fn(&mut World), problem: &str, expected: [u64; 4]) {
    let mut world = World::new();
    change(&mut world);
    let verdict = world.judge().expect("readable");
    let told = verdict.problems.join("\n");
    assert!(told.contains(problem), "no `{problem}` in:\n{told}");
    assert_eq!(faults(&verdict), expected, "{told}");
    assert_eq!(verdict.verdict, "UNBALANCED");
}

/// Duplicates, lost, limit violations, early releases.
fn faults(verdict: &Verdict) -> [u64; 4] {
    [verdict.duplicates, verdict.lost, verdict.limit_violations, verdict.early_releases]
}

fn receipt(index: u32) -> Receipt {
    let body = body(index, 1);
    let accepted_at = WallTime(body.issued_at.0 + 1);
    Receipt { campaign: body.campaign, packet: body.packet, user: body.user, accepted_at }
}

const fn close(unissued: u32, sum: u64) -> Event {
    Event::Close { wave: WaveIndex(0), unissued, sum: Fen(sum), at: T0 }
}

const fn skip(first: u32, count: u32) -> Event {
    let reason = SkipReason::Restart;
    Event::Skip { wave: WaveIndex(0), reason, first: PacketIndex(first), count, at: T0 }
}

fn edit(root: &Path, path: &str, change: impl FnOnce(&mut Vec<u8>)) {
    let path = root.join(path);
    let mut bytes = fs::read(&path).expect("written before");
    change(&mut bytes);
    fs::write(path, bytes).expect("a temporary directory");
}

fn flip(root: &Path, path: &str, at: usize) {
    edit(root, path, |bytes| bytes[at] ^= 1);
}

fn cut(root: &Path, path: &str, count: usize) {
    edit(root, path, |bytes| bytes.truncate(bytes.len() - count));
}

fn append(root: &Path, path: &str, more: &[u8]) {
    edit(root, path, |bytes| bytes.extend_from_slice(more));
}
