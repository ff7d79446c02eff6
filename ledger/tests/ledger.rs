//! The real program over its real socket: exactly once through kill -9, duplicates at the same
//! time, keys that come late, and every way to be refused.

#[path = "ledger/reclaim.rs"]
mod reclaim;
mod rig;

use rig::{Ledger, Setup, opens_of};
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};
use yao_protocol::settlement::{Answer, OpenResult};

/// Counts the results of an answer by packet.
fn count(
    applied: &Mutex<BTreeMap<u64, u32>>,
    batch: &yao_protocol::settlement::Batch,
    answer: &Answer,
) {
    assert_eq!(answer.results.len(), batch.records.len());
    let mut applied = applied.lock().expect("no test thread panics with the lock");
    for ((_, open), result) in batch.records.iter().zip(&answer.results) {
        let entry = applied.entry(open.ticket.body.packet.0).or_default();
        match result {
            OpenResult::Applied => *entry += 1,
            OpenResult::Same => {}
            other => panic!("{other:?} for a packet of its own user"),
        }
    }
}

#[test]
fn m7_every_open_is_applied_exactly_once_through_kills() {
    const LIVES: u32 = 6;
    const PACKETS: u32 = 60_000;
    let setup = Setup::new();
    let applied = Arc::new(Mutex::new(BTreeMap::new()));
    let batches: Arc<Vec<_>> = Arc::new(
        (0..PACKETS / 100).map(|n| setup.batch(&opens_of(n * 100..n * 100 + 100))).collect(),
    );
    for life in 0..LIVES {
        let mut ledger = setup.start();
        let ended = Arc::new(AtomicBool::new(false));
        let threads: Vec<_> = (0..4)
            .map(|n| {
                let (client, applied) = (ledger.client(), Arc::clone(&applied));
                let (ended, batches) = (Arc::clone(&ended), Arc::clone(&batches));
                thread::spawn(move || {
                    // Overlapping stretches: the same batches at the same time on two threads.
                    let start = (life as usize * 2 + n / 2) * 61 % batches.len();
                    for (batch, bytes) in batches.iter().cycle().skip(start).take(batches.len()) {
                        match client.post(bytes) {
                            Ok((200, body)) => count(&applied, batch, &client.answer(&body, bytes)),
                            Ok((503, _)) => {}
                            Ok((status, body)) => {
                                panic!("{status}: {}", String::from_utf8_lossy(&body))
                            }
                            Err(_) if ended.load(Ordering::Acquire) => return,
                            Err(error) => panic!("the ledger lives: {error}"),
                        }
                    }
                })
            })
            .collect();
        thread::sleep(Duration::from_millis(40 + u64::from(life) * 45));
        ended.store(true, Ordering::Release);
        ledger.kill();
        for thread in threads {
            thread.join().expect("a client");
        }
    }
    let told: u32 = applied.lock().expect("alone").values().sum();
    assert!(told > 0, "the kills came after some answers");
    // The node sends everything again; in the end each packet was applied once and told so at most
    // once: an answer that a kill swallowed becomes SAME.
    let ledger = setup.start();
    let client = ledger.client();
    for (batch, bytes) in batches.iter() {
        let (status, body) = client.post(bytes).expect("alive");
        assert_eq!(status, 200);
        count(&applied, batch, &client.answer(&body, bytes));
    }
    let applied = applied.lock().expect("alone");
    assert!(applied.values().all(|times| *times <= 1), "applied twice");
    let rows = client.rows();
    assert_eq!(rows.len(), PACKETS as usize);
    assert!(rows.iter().all(|row| row["state"] == "applied"));
    let audit = client.get_json("/v1/audit");
    assert_eq!(audit["sequence"], PACKETS);
    let sum: u64 = rows.iter().map(|row| row["amount"].as_u64().expect("a number")).sum();
    assert_eq!(audit["applied"]["sum"], sum);
    assert_eq!(sum, u64::from(PACKETS) * 100, "to the fen");
}

#[test]
fn the_same_batch_from_many_at_once_is_applied_once() {
    let setup = Setup::new();
    let ledger = setup.start();
    let (_, bytes) = setup.batch(&opens_of(0..256));
    let threads: Vec<_> = (0..16)
        .map(|_| {
            let (client, bytes) = (ledger.client(), bytes.clone());
            thread::spawn(move || {
                let (status, body) = client.post(&bytes).expect("alive");
                assert_eq!(status, 200);
                client.answer(&body, &bytes).results
            })
        })
        .collect();
    let results: Vec<_> =
        threads.into_iter().flat_map(|thread| thread.join().expect("a client")).collect();
    let of = |wanted| results.iter().filter(|result| **result == wanted).count();
    assert_eq!((of(OpenResult::Applied), of(OpenResult::Same)), (256, 15 * 256));
}

#[test]
fn final_words_stay_the_same_and_forgeries_leave_nothing() {
    let setup = Setup::new();
    let ledger = setup.start();
    let client = ledger.client();
    // User 7: one packet each of sponsors 0, 0 (over limit), 1, 2, then a fourth (over limit),
    // one accepted at its expiry; a packet of his by user 8; a forged ticket; a shard, an index, a
    // sponsor and a campaign beyond the plan.
    let mut opens = vec![
        setup.open(1, 7, 0, 50),
        setup.open(2, 7, 0, 50),
        setup.open(3, 7, 1, 50),
        setup.open(4, 7, 2, 50),
        setup.open(5, 7, 3, 50),
        setup.open(6, 9, 0, rig::EXPIRES_AT),
        setup.open(1, 8, 0, 50),
        setup.open(10, 10, 0, 50),
        setup.open_with(11, |body| body.shard.0 = 900),
        setup.open_with(rig::PACKETS_PER_SHARD, |_| {}),
        setup.open_with(12, |body| body.sponsor = yao_protocol::SponsorId::new(60).expect("< 64")),
        setup.open_with(13, |body| body.campaign.0 += 1),
    ];
    opens[7].ticket.signature[9] ^= 1;
    let expected = |first: bool| {
        use OpenResult::{Applied, Conflict, Expired, Invalid, OverLimit, Same};
        let paid = if first { Applied } else { Same };
        vec![
            paid, OverLimit, paid, paid, OverLimit, Expired, Conflict, Invalid, Invalid, Invalid,
            Invalid, Invalid,
        ]
    };
    let (_, bytes) = setup.batch(&opens);
    for first in [true, false, false] {
        let (status, body) = client.post(&bytes).expect("alive");
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
        assert_eq!(client.answer(&body, &bytes).results, expected(first));
    }
    let audit = client.get_json("/v1/audit");
    assert_eq!(
        (&audit["applied"]["packets"], &audit["over_limit"]["packets"]),
        (&3.into(), &2.into())
    );
    assert_eq!((&audit["expired"]["packets"], &audit["conflicts"]), (&1.into(), &1.into()));
    assert_eq!(
        (&audit["sequence"], &audit["sponsors"][0]["applied"]["sum"]),
        (&6.into(), &100.into())
    );
    let rows = client.get_json(&format!("/v1/audit/opens?after={}&limit=2", setup.packet(2)));
    let packets: Vec<_> = rows.as_array().expect("rows").iter().map(|row| &row["packet"]).collect();
    assert_eq!(packets, [&setup.packet(3), &setup.packet(4)]);
}

#[test]
fn unreadable_and_foreign_batches_are_refused_and_a_late_key_is_found() {
    let setup = Setup::new();
    let ledger = setup.start();
    let client = ledger.client();
    let status = |bytes: &[u8]| client.post(bytes).expect("alive").0;
    let (_, good) = setup.batch(&opens_of(0..3));
    let foreign = setup.foreign_batch(&opens_of(0..3));
    assert_eq!(status(&foreign), 403, "no key");
    let mut forged = good.clone();
    forged[60] ^= 1;
    assert_eq!(status(b"nonsense"), 400);
    assert_eq!(status(&good[..good.len() - 1]), 400);
    assert_eq!(status(&forged), 403);
    assert_eq!(status(&vec![0; 100_000]), 413);
    // A shard whose key is published only now; so is that of a ticket another shard issued.
    let late = setup.with_shard(18);
    let (_, bytes) = late.batch(&[late.open(1, 1, 0, 50)]);
    assert_eq!(status(&bytes), 403, "no key");
    let (_, visiting) = setup.batch(&[late.open(2, 2, 0, 50)]);
    assert_eq!(status(&visiting), 503, "genuine or not: the key will tell");
    late.publish();
    // The directory is read again, at most once a second: until then the refusals stay.
    let give_up = Instant::now() + Duration::from_secs(20);
    while status(&bytes) != 200 {
        assert!(Instant::now() < give_up, "the key that was published is never found");
        thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(status(&visiting), 200);
    // INVALID would be final: a node that asks the wrong ledger keeps what it has.
    let (refused, text) = client.post(&foreign).expect("alive");
    let text = String::from_utf8_lossy(&text);
    assert!(refused == 409 && text.contains("the batch of 2016"), "{refused}: {text}");
    assert_eq!(client.rows().len(), 2);
}

#[test]
fn it_ends_on_sigterm_and_says_what_is_wrong() {
    let setup = Setup::new();
    let mut ledger = setup.start();
    let (_, bytes) = setup.batch(&opens_of(0..3));
    assert_eq!(ledger.client().post(&bytes).expect("alive").0, 200);
    assert_eq!(ledger.terminate(), Some(0));
    assert_eq!(setup.start().client().rows().len(), 3);

    let check = |arguments: &[&str], code, words: &str| {
        let (status, errors) = rig::run(arguments);
        assert_eq!(status, Some(code), "{arguments:?}: {errors}");
        assert!(errors.contains(words), "{errors}");
        assert!(!errors.contains("panicked"), "{errors}");
    };
    check(&["serve"], 2, "--listen");
    let serve = |change: &[(&str, &str)]| -> Vec<String> { setup.arguments(change) };
    let run = |change: &[(&str, &str)], code, words| {
        let arguments = serve(change);
        check(&arguments.iter().map(String::as_str).collect::<Vec<_>>(), code, words);
    };
    run(&[("--signing-key", "/nonexistent/key")], 78, "yao-ledger init");
    run(&[("--manifest", "/nonexistent/manifest")], 78, "/nonexistent/manifest");
    run(&[("--keys", "/nonexistent/keys")], 78, "/nonexistent/keys");
    // A database that is not there although this key has served the campaign.
    run(&[("--database", "/nonexistent/ledger.db")], 78, "would pay everything again");
    let serving = setup.start();
    run(&[], 78, "another yao-ledger serves it");
    drop(serving);
    let other = Setup::new();
    let nowhere = other.arguments(&[("--database", "/nonexistent/ledger.db")]);
    check(&nowhere.iter().map(String::as_str).collect::<Vec<_>>(), 1, "/nonexistent/ledger.db");
    setup.spoil_manifest();
    run(&[], 78, "not authentic");
    let again = Ledger::init(&setup);
    assert_eq!(again, Some(0), "init changes nothing when all is there");
}
