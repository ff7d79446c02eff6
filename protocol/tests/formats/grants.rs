//! Grants: what a request and its answer say, and their cases, valid and wrong.

use super::{
    cases::Case,
    codecs::{CAMPAIGN, EPOCH, Read, SHARD, key_set, sign_key},
    fields::{incarnation, long, named, proof, time},
};
use serde_json::json;
use yao_protocol::{
    Incarnation, KeyId, WallTime, WaveIndex,
    cursor::GrantRecord,
    grant::{Claim, GrantAnswer, GrantRequest, NodeName, Verdict},
    hex,
    keys::SIGNATURE_BYTES,
    settlement::digest,
};

const NOW: WallTime = WallTime(1_424_269_800_000_000);

pub(crate) fn request(bytes: &[u8]) -> Read {
    let request = GrantRequest::decode(bytes, &key_set())?;
    let claim = named(request.claim as u8, request.claim.name());
    let fields = json!({
        "claim": claim, "campaign": long(request.campaign.0), "shard": request.shard.0,
        "generation": request.generation, "epoch": request.epoch.0, "wave": request.wave.0,
        "first": request.first, "count": request.count, "h": request.high,
        "known": long(request.known), "nonce": long(request.nonce),
        "incarnation": incarnation(request.incarnation),
        "previous": incarnation(request.previous),
        "merkle_root": hex::encode(&request.merkle_root), "node": request.node.as_str(),
        "signature": proof(bytes, SIGNATURE_BYTES),
    });
    Ok((fields, request.encode(&sign_key())))
}

pub(crate) fn answer(bytes: &[u8]) -> Read {
    let answer = GrantAnswer::decode(bytes, &key_set())?;
    let name = match answer.verdict {
        Verdict::Granted => "GRANTED",
        Verdict::Held => "HELD",
        Verdict::RolledBack => "ROLLED_BACK",
        Verdict::Unknown => "UNKNOWN",
        Verdict::Contradicts => "CONTRADICTS",
    };
    let fields = json!({
        "verdict": named(answer.verdict as u8, name), "campaign": long(answer.campaign.0),
        "shard": answer.shard.0, "generation": answer.generation, "epoch": answer.epoch.0,
        "wave": answer.wave.0, "key_id": answer.key_id.0, "grant": long(answer.id),
        "lo": answer.lo, "hi": answer.hi, "seen": answer.seen, "margin_ms": answer.margin_ms,
        "decided_at": time(answer.decided_at), "not_after": time(answer.not_after),
        "holder": incarnation(answer.holder), "node": answer.node.as_str(),
        "request_digest": hex::encode(&answer.request_digest),
        "signature": proof(bytes, SIGNATURE_BYTES),
    });
    Ok((fields, answer.encode(&sign_key())))
}

pub(crate) fn a_request() -> GrantRequest {
    GrantRequest {
        claim: Claim::Resume,
        campaign: CAMPAIGN,
        shard: SHARD,
        generation: 0,
        epoch: EPOCH,
        wave: WaveIndex(1),
        first: 188_088,
        count: 188_088,
        high: 752,
        known: 77,
        nonce: 3,
        incarnation: Incarnation([1; 16]),
        previous: Incarnation([2; 16]),
        merkle_root: [0x5a; 32],
        node: NodeName::new("node-00017"),
    }
}

pub(crate) fn an_answer() -> GrantAnswer {
    GrantAnswer {
        verdict: Verdict::Granted,
        campaign: CAMPAIGN,
        shard: SHARD,
        generation: 0,
        epoch: EPOCH,
        wave: WaveIndex(1),
        key_id: KeyId(1),
        id: 78,
        lo: 752,
        hi: 752 + 65_536,
        seen: 752,
        margin_ms: 2_000,
        decided_at: NOW,
        not_after: NOW.plus_us(900_000_000),
        holder: Incarnation([1; 16]),
        node: NodeName::new("node-00017"),
        request_digest: digest(&a_request().encode(&sign_key())),
    }
}

pub(crate) fn a_record() -> GrantRecord {
    GrantRecord {
        id: 78,
        lo: 752,
        hi: 752 + 65_536,
        holder: Incarnation([1; 16]),
        not_after: NOW.plus_us(900_000_000),
        until_ns: 4_711_000_000_000,
        lifetime_us: 900_000_000,
    }
}

/// Those whose every cut and scrambled form is published, too.
pub(crate) fn plain() -> Vec<Case> {
    let unknown = GrantAnswer {
        verdict: Verdict::Unknown,
        id: 0,
        lo: 0,
        hi: 0,
        seen: 0,
        not_after: WallTime(0),
        holder: Incarnation::default(),
        node: NodeName::default(),
        ..an_answer()
    };
    vec![
        ("grant-request", "resume", a_request().encode(&sign_key())),
        ("grant-answer", "granted", an_answer().encode(&sign_key())),
        ("grant-answer", "nobody ever held it", unknown.encode(&sign_key())),
    ]
}

/// Each number and its name.
pub(crate) fn numbers() -> Vec<Case> {
    let claims = [
        ("claim 1 first", Claim::First),
        ("claim 2 extend", Claim::Extend),
        ("claim 3 resume", Claim::Resume),
        ("claim 4 burn", Claim::Burn),
    ];
    let verdicts = [
        ("verdict 1 GRANTED", Verdict::Granted),
        ("verdict 2 HELD", Verdict::Held),
        ("verdict 3 ROLLED_BACK", Verdict::RolledBack),
        ("verdict 4 UNKNOWN", Verdict::Unknown),
        ("verdict 5 CONTRADICTS", Verdict::Contradicts),
    ];
    let request = |(name, claim)| {
        let request = GrantRequest { claim, ..a_request() };
        ("grant-request", name, request.encode(&sign_key()))
    };
    let answer = |(name, verdict)| {
        let answer = GrantAnswer { verdict, ..an_answer() };
        ("grant-answer", name, answer.encode(&sign_key()))
    };
    claims.into_iter().map(request).chain(verdicts.into_iter().map(answer)).collect()
}

/// Wrong fields under a right signature; see `crafted`.
pub(crate) const WRONG: &[super::crafted::Wrong] = &[
    ("grant-request", "resume", "version 2", &[(4, &[2])]),
    ("grant-request", "resume", "claim 0", &[(6, &[0])]),
    ("grant-request", "resume", "claim 5", &[(6, &[5])]),
    ("grant-request", "resume", "shard of 25 bits", &[(19, &[1])]),
    ("grant-request", "resume", "epoch without a key", &[(20, &[2])]),
    ("grant-request", "resume", "reserved byte", &[(26, &[1])]),
    ("grant-request", "resume", "section beyond 2^32", &[(28, &[0xff; 4])]),
    ("grant-request", "resume", "H above the section", &[(36, &[0xff; 4])]),
    ("grant-request", "resume", "no incarnation", &[(56, &[0; 16])]),
    ("grant-request", "resume", "name of 64 bytes", &[(120, &[64])]),
    ("grant-request", "resume", "name that is no text", &[(121, &[0xff])]),
    ("grant-request", "resume", "name with a line's end", &[(121, b"\n")]),
    ("grant-request", "resume", "bytes behind the name", &[(183, &[1])]),
    ("grant-answer", "granted", "magic of the request", &[(0, b"YAOQ")]),
    ("grant-answer", "granted", "version 2", &[(4, &[2])]),
    ("grant-answer", "granted", "verdict 0", &[(6, &[0])]),
    ("grant-answer", "granted", "verdict 6", &[(6, &[6])]),
    ("grant-answer", "granted", "reserved byte", &[(27, &[1])]),
    ("grant-answer", "granted", "key id without a key", &[(28, &[2])]),
    ("grant-answer", "granted", "no id", &[(32, &[0; 8])]),
    ("grant-answer", "granted", "ends before it begins", &[(44, &[0; 4])]),
    ("grant-answer", "granted", "over when it is made", &[(64, &[0; 8])]),
    ("grant-answer", "granted", "bytes behind the name", &[(183, &[1])]),
    ("cursor", "under a grant", "grant 0", &[(112, &[0; 8])]),
    ("cursor", "under a grant", "a grant that ends before it begins", &[(124, &[0; 4])]),
    ("cursor", "under a grant", "last reserved byte", &[(175, &[1])]),
    ("journal-event", "GRANT", "ends before it begins", &[(9, &[0; 4])]),
    ("journal-event", "GRANT", "reserved byte", &[(13, &[1])]),
];
