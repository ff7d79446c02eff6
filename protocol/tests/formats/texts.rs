//! The formats that are text: manifest, claims of a session token, public key file. Their vectors
//! hold the bytes of the text.

use super::{
    cases::Case,
    codecs::{CAMPAIGN, EPOCH, Read, SHARD, sign_key},
    fields,
};
use serde_json::json;
use yao_protocol::{
    Fen, KeyId, ShardId, SponsorId, WallTime, WaveIndex, WireError, hex,
    keys::{KeyOwner, KeySet, PublicKeyFile, context},
    manifest::{Manifest, ShardEntry, SponsorPlan, WavePlan},
    token::TokenClaims,
};

/// When the claims are judged, and for whom.
const NOW: WallTime = WallTime(1_424_269_800_000_000);
const AUDIENCE: &str = "yao";

fn text<'a>(field: &'static str, bytes: &'a [u8]) -> Result<&'a str, WireError> {
    std::str::from_utf8(bytes).map_err(|_| WireError::Text { field })
}

pub(crate) fn read_manifest(bytes: &[u8]) -> Read {
    let text = text("a manifest", bytes)?;
    let manifest = Manifest::decode(text, &sign_key().public())?;
    let mut fields = fields::manifest(&manifest);
    fields["signature"] = json!(text.split_whitespace().nth(1));
    Ok((fields, manifest.encode(&sign_key()).into_bytes()))
}

/// Claims that say who it is, at [`NOW`] for [`AUDIENCE`]; their JWT's signature is checked by
/// whoever holds the public keys.
pub(crate) fn read_claims(bytes: &[u8]) -> Read {
    let claims: TokenClaims = serde_json::from_slice(bytes)
        .map_err(|_| WireError::Text { field: "the claims of a token" })?;
    let fields = match claims.identity(NOW, AUDIENCE) {
        Ok(identity) => json!({
            "user": identity.user.0.to_string(), "device": identity.device.to_string(),
            "risk": identity.risk, "expires_at": identity.expires_at.0.to_string(),
        }),
        Err(error) => json!({ "refused": error.to_string() }),
    };
    Ok((fields, serde_json::to_vec(&claims).expect("plain data")))
}

pub(crate) fn read_public_key(bytes: &[u8]) -> Read {
    let file: PublicKeyFile = serde_json::from_slice(bytes)
        .map_err(|_| WireError::Text { field: "a public key file" })?;
    KeySet::default().add(&file)?;
    Ok((fields::public_key(&file), serde_json::to_vec(&file).expect("plain data")))
}

/// One wave of one sponsor, and two of three shards.
pub(crate) fn manifest() -> Manifest {
    let entry = |number: u32| ShardEntry {
        shard: ShardId(number),
        file: format!("shard-{number:05}.yaoseed"),
        bytes: 4_711,
        hash: [3; 32],
        packets: 50,
        sum: Fen(2_500),
        merkle_root: [2; 32],
    };
    Manifest {
        campaign: CAMPAIGN,
        name: "新年".to_owned(),
        currency: "CNY".to_owned(),
        exponent: 2,
        plan_digest: [1; 32],
        packets: 150,
        budget: Fen(7_500),
        wins_per_user: 3,
        wins_per_sponsor: 1,
        ticket_lifetime_seconds: 259_200,
        sponsors: vec![SponsorPlan {
            sponsor: SponsorId::new(0).expect("below 64"),
            name: "first".to_owned(),
            packets: 150,
            sum: Fen(7_500),
        }],
        waves: vec![WavePlan {
            wave: WaveIndex(0),
            name: "midnight".to_owned(),
            duration_us: 60_000_000,
            packets: 150,
            sum: Fen(7_500),
        }],
        shard_count: 3,
        shards: vec![entry(0), entry(2)],
        reclaimed: None,
    }
}

fn claims() -> TokenClaims {
    TokenClaims {
        sub: "1234567890123".to_owned(),
        aud: AUDIENCE.to_owned(),
        exp: NOW.seconds() + 600,
        iat: NOW.seconds() - 60,
        nbf: 0,
        device: 5,
        risk: 2,
    }
}

/// Every valid case of these formats.
pub(crate) fn valid() -> Vec<Case> {
    let claims_of = |name, claims: TokenClaims| {
        ("token-claims", name, serde_json::to_vec(&claims).expect("plain data"))
    };
    let key = sign_key().public().to_bytes();
    let key_of = |name, owner: KeyOwner| {
        let file = PublicKeyFile { owner, key };
        ("public-key", name, serde_json::to_vec(&file).expect("plain data"))
    };
    vec![
        ("manifest", "two of three shards", manifest().encode(&sign_key()).into_bytes()),
        claims_of("believed", claims()),
        claims_of("the last second", TokenClaims { exp: NOW.seconds() - 29, ..claims() }),
        claims_of("expired", TokenClaims { exp: NOW.seconds() - 30, ..claims() }),
        claims_of("not valid yet", TokenClaims { nbf: NOW.seconds() + 31, ..claims() }),
        claims_of("for another audience", TokenClaims { aud: "tea".to_owned(), ..claims() }),
        claims_of("sub is no number", TokenClaims { sub: "+7".to_owned(), ..claims() }),
        key_of("campaign", KeyOwner::Campaign { campaign: CAMPAIGN }),
        key_of("ticket", KeyOwner::Ticket { campaign: CAMPAIGN, shard: SHARD, epoch: EPOCH }),
        key_of("settlement", KeyOwner::Settlement { key_id: KeyId(1) }),
    ]
}

/// A manifest whose signature is right and whose content is not.
pub(crate) fn invalid() -> Vec<(&'static str, String, Vec<u8>)> {
    let good = manifest();
    let (shard, wave, sponsor) = (&good.shards[0], &good.waves[0], &good.sponsors[0]);
    let late = WavePlan { wave: WaveIndex(64), ..wave.clone() };
    let outside = ShardEntry { shard: ShardId(3), ..shard.clone() };
    let wrong = [
        ("a shard twice", Manifest { shards: vec![shard.clone(); 3], ..good.clone() }),
        ("shards that fall", Manifest { shards: reversed(&good.shards), ..good.clone() }),
        ("shard 3 of three", Manifest { shards: vec![outside], ..good.clone() }),
        ("no shard planned", Manifest { shard_count: 0, shards: Vec::new(), ..good.clone() }),
        ("shards of 25 bits", Manifest { shard_count: (1 << 24) + 1, ..good.clone() }),
        ("a wave twice", Manifest { waves: vec![wave.clone(); 2], ..good.clone() }),
        ("wave 64", Manifest { waves: vec![late], ..good.clone() }),
        ("a sponsor twice", Manifest { sponsors: vec![sponsor.clone(); 2], ..good.clone() }),
    ];
    let mut cases: Vec<_> = wrong
        .into_iter()
        .map(|(name, manifest)| ("manifest", name.to_owned(), manifest.encode(&sign_key())))
        .collect();
    let text = good.encode(&sign_key());
    let (line, body) = text.split_once('\n').expect("a manifest's first line");
    let (word, digits) = line.split_once(' ').expect("a word and the signature");
    let shouted = format!("{word} {}\n{body}", digits.to_uppercase());
    cases.push(("manifest", "signature in upper-case digits".to_owned(), shouted));
    let signed = |body: &str| {
        let signature = hex::encode(&sign_key().sign(context::MANIFEST, body.as_bytes()));
        format!("{word} {signature}\n{body}")
    };
    let more = body.replacen('{', "{ \"more\": 1,", 1);
    cases.push(("manifest", "a field that nobody knows".to_owned(), signed(&more)));
    let sponsor = body.replacen("\"sponsor\": 0", "\"sponsor\": 64", 1);
    cases.push(("manifest", "sponsor 64".to_owned(), signed(&sponsor)));
    cases.into_iter().map(|(format, name, text)| (format, name, text.into_bytes())).collect()
}

fn reversed(shards: &[ShardEntry]) -> Vec<ShardEntry> {
    shards.iter().rev().cloned().collect()
}
