//! Seals and voids over the real socket: who may ask, what is too early, and that a kill changes
//! nothing that was said.

use crate::rig::Setup;
use yao_protocol::{
    keys::SignKey,
    settlement::OpenResult,
    void::{VoidAnswer, VoidRequest},
};

/// Packets of shard 17 from here on never left.
const HIGH: u32 = 99_000;

fn text(body: &[u8]) -> String {
    String::from_utf8_lossy(body).into_owned()
}

#[test]
fn m10_packets_are_taken_back_once_and_a_late_open_is_told() {
    let setup = Setup::new();
    let mut ledger = setup.start();
    let client = ledger.client();
    let (batch, opened) = setup.batch(&[setup.open(99_001, 7, 0, 50)]);
    let (_, body) = client.post(&opened).expect("alive");
    assert_eq!(client.answer(&body, &opened).results, [OpenResult::Applied]);

    let (status, body) = client.post_to("/v1/seals", &setup.seal(HIGH)).expect("alive");
    assert_eq!(status, 200, "{}", text(&body));
    let (status, body) = client.post_to("/v1/seals", &setup.seal(0)).expect("alive");
    assert_eq!(status, 409, "{}", text(&body));

    let early = setup.void_request(HIGH - 1, 10);
    let (status, body) = client.post_to("/v1/voids", &early).expect("alive");
    assert_eq!(status, 503, "{}", text(&body));
    assert!(text(&body).contains("637 are not sealed (0, 1, 2, 3, 4, 5, 6, 7, ...)"), "{body:?}");

    let request = setup.void_request(HIGH, 4);
    let (status, first) = client.post_to("/v1/voids", &request).expect("alive");
    assert_eq!(status, 200, "{}", text(&first));
    let answer = VoidAnswer::decode(&first, client.keys()).expect("signed by settlement");
    assert_eq!(answer.void, [true, false, true, true], "one was opened");

    ledger.kill();
    let ledger = setup.start();
    let client = ledger.client();
    let (_, again) = client.post_to("/v1/voids", &request).expect("alive");
    assert_eq!(again, first);
    let (_, late) = setup.batch(&[setup.open(99_000, 8, 0, 50)]);
    for _ in 0..2 {
        let (_, body) = client.post(&late).expect("alive");
        assert_eq!(client.answer(&body, &late).results, [OpenResult::Reclaimed]);
    }
    let audit = client.get_json("/v1/audit");
    assert_eq!((&audit["voided"], &audit["late_opens"]), (&3.into(), &1.into()));
    let voids = client.get_json("/v1/audit/voids?limit=2");
    assert_eq!(voids[0]["packet"], setup.packet(99_000));
    assert_eq!(voids.as_array().map(Vec::len), Some(2));
    assert_eq!(client.rows().len(), batch.records.len());
}

#[test]
fn only_the_campaigns_key_voids_and_only_what_is_planned() {
    let setup = Setup::new();
    let ledger = setup.start();
    let client = ledger.client();
    let check = |path: &str, bytes: &[u8], status: u16, says: &str| {
        let (found, body) = client.post_to(path, bytes).expect("alive");
        assert_eq!(found, status, "{}", text(&body));
        assert!(text(&body).contains(says), "{}", text(&body));
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
    assert_eq!(client.get_json("/v1/audit")["voided"], 0);
}
