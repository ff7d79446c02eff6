//! Seals and voids over the real socket: who may ask, what is too early, that a kill changes
//! nothing that was said, and which manifests and databases belong together.

use crate::rig::{self, Client, LATER_SHARD, PACKETS_PER_SHARD, Setup};
use std::{
    net::TcpListener,
    time::{SystemTime, UNIX_EPOCH},
};
use yao_protocol::{
    PacketId, PacketIndex, ShardId, WallTime,
    keys::SignKey,
    settlement::OpenResult,
    void::{VoidAnswer, VoidRequest},
};

/// Packets of shard 17 from here on never left.
const HIGH: u32 = 99_002;

fn text(body: &[u8]) -> String {
    String::from_utf8_lossy(body).into_owned()
}

fn post(client: &Client, path: &str, bytes: &[u8], status: u16, says: &str) {
    let (found, body) = client.post_to(path, bytes).expect("alive");
    assert_eq!(found, status, "{path}: {}", text(&body));
    assert!(text(&body).contains(says), "{path}: {}", text(&body));
}

#[test]
fn m10_packets_are_taken_back_once_and_a_late_open_is_told() {
    let setup = Setup::new();
    let mut ledger = setup.start();
    let client = ledger.client();
    let (batch, opened) = setup.batch(&[setup.open(HIGH - 1, 7, 0, 50)]);
    let (_, body) = client.post(&opened).expect("alive");
    assert_eq!(client.answer(&body, &opened).results, [OpenResult::Applied]);

    // A seal that knows less than the ledger is not believed; a second one of the same state is
    // not needed.
    post(&client, "/v1/seals", &setup.seal(HIGH - 1), 409, "by this seal it never left");
    post(&client, "/v1/seals", &setup.seal(HIGH), 200, "received_at");
    let copy = setup.seal_at(WallTime(61), PACKETS_PER_SHARD, HIGH);
    post(&client, "/v1/seals", &copy, 409, "another seal");

    let early = setup.void_request(HIGH - 2, 10);
    post(&client, "/v1/voids", &early, 503, "637 are not sealed (0, 1, 2, 3, 4, 5, 6, 7, ...)");

    let request = setup.void_request(HIGH, 3);
    let (status, first) = client.post_to("/v1/voids", &request).expect("alive");
    assert_eq!(status, 200, "{}", text(&first));
    let answer = VoidAnswer::decode(&first, client.keys()).expect("signed by settlement");
    assert_eq!(answer.void, [true; 3]);

    ledger.kill();
    let ledger = setup.start();
    let client = ledger.client();
    let (_, again) = client.post_to("/v1/voids", &request).expect("alive");
    assert_eq!(again, first);
    let (_, late) = setup.batch(&[setup.open(HIGH, 8, 0, 50)]);
    for _ in 0..2 {
        let (_, body) = client.post(&late).expect("alive");
        assert_eq!(client.answer(&body, &late).results, [OpenResult::Reclaimed]);
    }
    let audit = client.get_json("/v1/audit");
    assert_eq!((&audit["voided"], &audit["late_opens"]), (&3.into(), &1.into()));
    let told = client.get_json("/v1/audit/late_opens");
    assert_eq!((&told[0]["packet"], &told[0]["user"]), (&setup.packet(HIGH).into(), &8.into()));
    assert_eq!(told.as_array().map(Vec::len), Some(1));
    let voids = client.get_json("/v1/audit/voids?limit=2");
    assert_eq!(voids[0]["packet"], setup.packet(HIGH));
    assert_eq!(voids.as_array().map(Vec::len), Some(2));
    // That ticket disproves the seal: of the rest nobody knows whether it left.
    let rest = setup.void_request(HIGH + 3, 3);
    post(&client, "/v1/voids", &rest, 503, "638 are not sealed");
    assert_eq!(client.rows().len(), batch.records.len());
    // So does a seal of another state.
    let second = setup.seal(PACKETS_PER_SHARD);
    post(&client, "/v1/seals", &second, 409, "another state of this shard was sealed, too");
}

#[test]
fn only_the_campaigns_key_voids_and_only_what_is_planned() {
    let setup = Setup::new();
    let ledger = setup.start();
    let client = ledger.client();
    let check = |path: &str, bytes: &[u8], status: u16, says: &str| {
        post(&client, path, bytes, status, says);
    };
    let request = |change: fn(&mut VoidRequest)| {
        let mut request = setup.void_request_of(0, 1);
        change(&mut request);
        request.encode(&Setup::campaign_key())
    };
    let forged = setup.void_request_of(0, 1).encode(&SignKey::from_seed(&[1; 32]));
    check("/v1/voids", &forged, 403, "not authentic");
    check("/v1/voids", b"YAOV", 400, "cut short");
    let beyond = request(|request| request.first = 100_000);
    check("/v1/voids", &beyond, 409, "it has fewer packets");
    let unlisted = request(|request| request.shard.0 = 18);
    check("/v1/voids", &unlisted, 409, "lists no such shard");
    let unknown = request(|request| (request.generation, request.child) = (1, 2));
    check("/v1/voids", &unknown, 409, "no manifest of this generation");
    let foreign = request(|request| request.campaign.0 = 7);
    check("/v1/voids", &foreign, 409, "of campaign 2015");
    let mut spoilt = setup.seal(HIGH);
    spoilt[60] ^= 1;
    check("/v1/seals", &spoilt, 403, "not authentic");
    check("/v1/seals", &setup.seal_of(5, 5), 409, "another seed file");
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    let years = u64::try_from(since_epoch.as_micros()).expect("64 bits") * 2;
    let ahead = setup.seal_at(WallTime(years), PACKETS_PER_SHARD, HIGH);
    check("/v1/seals", &ahead, 409, "by settlement's clock");
    check("/v1/seals", &setup.seal(HIGH), 200, "received_at");
    assert_eq!(client.get_json("/v1/audit")["voided"], 0);
}

/// Voids four packets that never left, for generation 1.
fn void_four(setup: &Setup, client: &Client) {
    post(client, "/v1/seals", &setup.seal(HIGH), 200, "received_at");
    let (status, body) = client.post_to("/v1/voids", &setup.void_request(HIGH, 4)).expect("alive");
    assert_eq!(status, 200, "{}", text(&body));
}

#[test]
fn m10_a_generation_is_played_only_with_the_database_that_voided_for_it() {
    let setup = Setup::new();
    // A ledger that went on in spite of all could not listen.
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("bound").to_string();
    let refused = |database: &str, packets: u32, says: &str| {
        let mut arguments =
            setup.arguments(&[("--database", database), ("--listen", address.as_str())]);
        arguments.extend(["--manifest".to_owned(), setup.later_manifest(packets)]);
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        let (status, errors) = rig::run(&arguments);
        assert_eq!(status, Some(78), "{errors}");
        assert!(errors.contains(says) && errors.contains(database), "{errors}");
    };
    let database = setup.database("ledger.db");
    refused(
        &database,
        4,
        "here 0 packets are void for generation 1, and its manifest carries on 4",
    );
    let mut ledger = setup.start();
    void_four(&setup, &ledger.client());
    assert_eq!(ledger.terminate(), Some(0));
    // A mistyped name makes no other one; and a generation that holds more or less.
    refused(&setup.database("legder.db"), 4, "an empty database would pay everything again");
    refused(
        &database,
        5,
        "here 4 packets are void for generation 1, and its manifest carries on 5",
    );
    refused(&database, 3, "here 4 packets are void");
    let ledger = setup.start_with(&["--manifest", &setup.later_manifest(4)]);
    assert_eq!(ledger.client().get_json("/v1/audit")["voided"], 4);
}

#[test]
fn m7_opens_of_a_generation_wait_for_its_manifest() {
    let setup = Setup::new();
    let later = setup.with_shard(LATER_SHARD);
    later.publish();
    let mut ledger = setup.start();
    let client = ledger.client();
    void_four(&setup, &client);
    let (_, bytes) = later.batch(&[setup.open(1, 1, 0, 50), later.open(0, 7, 0, 50)]);
    for _ in 0..2 {
        post(&client, "/v1/opens", &bytes, 503, "no manifest of generation 1");
    }
    assert_eq!(client.rows().len(), 0, "nothing of the batch is settled");
    // A shard of generation 0 makes no packet for which anybody waits.
    let foreign = setup.open_with(2, |body| {
        body.packet = PacketId::new(9, ShardId(17), PacketIndex(2));
    });
    let (_, foreign) = setup.batch(&[foreign]);
    let (_, body) = client.post(&foreign).expect("alive");
    assert_eq!(client.answer(&body, &foreign).results, [OpenResult::Invalid]);
    // What may hold an open of that generation is unknown: nothing is voided for another one.
    let other = VoidRequest { child: 2, ..setup.void_request_of(HIGH + 4, 1) };
    let other = other.encode(&Setup::campaign_key());
    post(&client, "/v1/voids", &other, 409, "the ledger has no manifest of it");
    assert_eq!(ledger.terminate(), Some(0));

    let ledger = setup.start_with(&["--manifest", &setup.later_manifest(4)]);
    let client = ledger.client();
    let (_, body) = client.post(&bytes).expect("alive");
    assert_eq!(client.answer(&body, &bytes).results, [OpenResult::Applied; 2]);
    post(&client, "/v1/voids", &other, 200, "YAOW");
}

/// When the packets of a request that waits may be void.
fn opening(client: &Client, request: &[u8]) -> String {
    let (status, body) = client.post_to("/v1/voids", request).expect("alive");
    assert_eq!(status, 503, "{}", text(&body));
    let said = text(&body);
    let (_, from) = said.split_once("come again at ").expect("it says when");
    from.split([',', '\n']).next().expect("a first part").to_owned()
}

#[test]
fn m10_the_claim_window_begins_with_whatever_the_ledger_hears_of_a_node() {
    let setup = Setup::new();
    let mut ledger = setup.start();
    let client = ledger.client();
    let request = setup.void_request(0, 10);
    let mut last = opening(&client, &request);
    let mut moves = |client: &Client, moved: bool, why: &str| {
        let found = opening(client, &request);
        assert_eq!(found != last, moved, "{why}: from {last} to {found}");
        last = found;
    };
    moves(&client, false, "asked again");
    // A node that visits another's tickets waits for a key, and so does all that it holds.
    let late = setup.with_shard(18);
    let (_, waiting) = setup.batch(&[late.open(2, 2, 0, 50)]);
    post(&client, "/v1/opens", &waiting, 503, "no public key");
    moves(&client, true, "a batch that waits");
    let (_, unknown) = late.batch(&[late.open(1, 1, 0, 50)]);
    post(&client, "/v1/opens", &unknown, 403, "not authentic");
    moves(&client, true, "a batch of a shard whose key has not come");
    let strange = setup.with_shard(PACKETS_PER_SHARD);
    let (_, strange) = strange.batch(&[strange.open(1, 1, 0, 50)]);
    let foreign = setup.foreign_batch(&[setup.open(1, 1, 0, 50)]);
    for bytes in [&strange[..], &foreign, b"YAOB", b"nonsense"] {
        assert_ne!(client.post(bytes).expect("alive").0, 200);
    }
    moves(&client, false, "no shard of the plan, another campaign, no batch");
    post(&client, "/v1/seals", &setup.seal(HIGH), 200, "received_at");
    moves(&client, true, "a seal");
    post(&client, "/v1/seals", &setup.seal(HIGH), 200, "received_at");
    moves(&client, false, "the same seal, as each run of the tool posts it");
    ledger.kill();
    let ledger = setup.start();
    moves(&ledger.client(), true, "nobody was heard while the ledger was away");
}
