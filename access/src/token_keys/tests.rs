//! Every credential that must not be believed, through the same path as on a node, and the one
//! answer that all of them get.

use super::TokenKeys;
use crate::registry::Registry;
use aws_lc_rs::{
    rand::SystemRandom,
    rsa::KeySize,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256,
    },
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};
use yao_engine::{
    GateView, Timestamp,
    shard::{Effect, Reconnect, Settings, ShardEngine, Surroundings, first_message},
};
use yao_protocol::{
    CampaignId, KeyId, UserId, WallTime,
    client::{ErrorCode, Hello, RetryClass, ServerMessage},
    keys::MacKey,
    reconnect::{RECONNECT_BYTES, ReconnectKeys, ReconnectTicket},
    token::Identity,
};

const NOW_SECONDS: u64 = 1_500_000_000;
const NOW: WallTime = WallTime(NOW_SECONDS * 1_000_000);
const CAMPAIGN: CampaignId = CampaignId(7);

/// The app's backend: one key of each kind, `ed` and `ec`; `other` signs, but nobody knows it.
struct Backend {
    jwks: String,
    ed: EncodingKey,
    ed_public: Vec<u8>,
    ec: EncodingKey,
    other: EncodingKey,
}

/// Base64 as JWT has it (RFC 7515, 2).
pub(crate) fn base64_url(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn ed_pair() -> (Vec<u8>, EncodingKey) {
    let pair = Ed25519KeyPair::generate().expect("randomness");
    let der = pair.to_pkcs8v1().expect("a document");
    (pair.public_key().as_ref().to_vec(), EncodingKey::from_ed_der(der.as_ref()))
}

fn ec_pair() -> (Vec<u8>, EncodingKey) {
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("randomness");
    let der = pair.to_pkcs8v1().expect("a document");
    (pair.public_key().as_ref().to_vec(), EncodingKey::from_ec_der(der.as_ref()))
}

fn ed_jwk(kid: &str, public: &[u8]) -> Value {
    json!({"kty": "OKP", "crv": "Ed25519", "kid": kid, "x": base64_url(public)})
}

fn ec_jwk(kid: &str, public: &[u8]) -> Value {
    let (x, y) = public[1..].split_at(32);
    json!({"kty": "EC", "crv": "P-256", "kid": kid, "x": base64_url(x), "y": base64_url(y)})
}

impl Backend {
    fn new() -> Self {
        let ((ed_public, ed), (ec_public, ec), (_, other)) = (ed_pair(), ec_pair(), ed_pair());
        let jwks = json!({"keys": [ed_jwk("ed", &ed_public), ec_jwk("ec", &ec_public)]});
        Self { jwks: jwks.to_string(), ed, ed_public, ec, other }
    }

    fn keys(&self) -> TokenKeys {
        TokenKeys::parse(&self.jwks, "yao").expect("good keys")
    }
}

fn claims() -> Value {
    json!({
        "sub": "77", "aud": "yao", "exp": NOW_SECONDS + 3_600, "iat": NOW_SECONDS,
        "device": 5, "risk": 2, "somebody's": "own",
    })
}

/// The good claims with one of them changed.
fn but(claim: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[claim] = value;
    claims
}

fn header(algorithm: Algorithm, kid: Option<&str>) -> Header {
    Header { kid: kid.map(str::to_owned), ..Header::new(algorithm) }
}

fn signed(algorithm: Algorithm, kid: Option<&str>, claims: &Value, key: &EncodingKey) -> Vec<u8> {
    encode(&header(algorithm, kid), claims, key).expect("signs").into_bytes()
}

/// A token whose header says what no library would write.
fn headed(header: &Value, claims: &Value, signature: &str) -> Vec<u8> {
    let part = |value: &Value| base64_url(value.to_string().as_bytes());
    format!("{}.{}.{signature}", part(header), part(claims)).into_bytes()
}

/// A node as far as a HELLO is concerned: engine, token keys, registry.
struct Door {
    engine: ShardEngine,
    tokens: TokenKeys,
    registry: Registry,
    wall: WallTime,
}

fn reconnect(id: u8) -> Reconnect {
    let key = MacKey::new(KeyId(u32::from(id)), [id; 32]);
    Reconnect { keys: ReconnectKeys::new(vec![key]).expect("one key"), lifetime_seconds: 1_200 }
}

impl Door {
    fn new(tokens: TokenKeys) -> Self {
        let settings = Settings {
            reconnect: Some(reconnect(1)),
            ..Settings::new(CAMPAIGN, MacKey::new(KeyId(9), [9; 32]))
        };
        let engine = ShardEngine::new(settings, Timestamp::from_ns(0));
        Self { engine, tokens, registry: Registry::default(), wall: NOW }
    }

    /// The answer to a HELLO with this credential.
    fn greet(&mut self, token: &[u8]) -> Vec<u8> {
        let surroundings = Surroundings {
            gate: GateView::default(),
            wall: self.wall,
            shake_interval_ms: 0,
            cue: 0,
            tier: 0,
        };
        let now = Timestamp::from_ns(0);
        let connection =
            self.engine.handle_accepted(now, true, self.registry.next_number()).expect("room");
        let (mut hello, mut out) = (Vec::new(), Vec::new());
        let (campaign, tally) = (CAMPAIGN, None);
        Hello { version_min: 1, version_max: 1, software: 1, campaign, tally, token }
            .put(&mut hello, 1);
        self.engine.handle_received(now, &surroundings, connection.slot, &hello, &mut out);
        while let Some(effect) = self.engine.poll_effect() {
            let identity = match effect {
                Effect::CheckToken { token, .. } => self.tokens.identity(&token, self.wall),
                Effect::ClaimReconnect { identity, issued_at, .. } => {
                    let fits = self.registry.claim(self.wall, &identity, issued_at);
                    fits.then_some(identity)
                }
                Effect::Opened { connection, user, bearer, .. } => {
                    self.registry.opened(self.wall, user, bearer.device, connection);
                    continue;
                }
                _ => continue,
            };
            self.engine.handle_token(&surroundings, connection, identity, &mut out);
        }
        self.engine.handle_closed(connection.slot);
        out
    }

    /// The ticket behind the WELCOME that this credential must get.
    fn welcomed(&mut self, token: &[u8]) -> [u8; RECONNECT_BYTES] {
        let out = self.greet(token);
        let welcome = first_message(&out);
        assert!(matches!(welcome, Some(ServerMessage::Welcome(_))), "{welcome:?}");
        *out.last_chunk().expect("WELCOME and RECONNECT")
    }
}

#[test]
fn both_kinds_of_key_prove_user_device_and_risk() {
    let backend = Backend::new();
    let expires_at = WallTime::from_seconds(NOW_SECONDS + 3_600);
    let expected = Identity { user: UserId(77), device: 5, risk: 2, expires_at };
    let check = |algorithm, kid, key| {
        let token = signed(algorithm, Some(kid), &claims(), key);
        assert_eq!(backend.keys().identity(&token, NOW), Some(expected), "{kid}");
        let at = |seconds| WallTime::from_seconds(NOW_SECONDS + seconds);
        assert!(backend.keys().identity(&token, at(3_629)).is_some(), "clocks differ by 29 s");
        assert!(backend.keys().identity(&token, at(3_630)).is_none());
        let ticket = Door::new(backend.keys()).welcomed(&token);
        assert_eq!(ReconnectTicket::peek(&ticket).map(|ticket| ticket.identity()), Ok(expected));
    };
    check(Algorithm::EdDSA, "ed", &backend.ed);
    check(Algorithm::ES256, "ec", &backend.ec);
}

/// A genuine RS256 token of a stranger, under the key id of the Ed25519 key.
fn rsa_signed(claims: &Value) -> Vec<u8> {
    let key = aws_lc_rs::rsa::KeyPair::generate(KeySize::Rsa2048).expect("randomness");
    let unsigned = headed(&json!({"alg": "RS256", "kid": "ed"}), claims, "");
    let message = unsigned.strip_suffix(b".").expect("an empty signature");
    let mut signature = vec![0; key.public_modulus_len()];
    key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature).expect("signs");
    [&unsigned[..], base64_url(&signature).as_bytes()].concat()
}

/// Tokens that prove nothing, each with what is wrong.
fn bad_tokens(backend: &Backend) -> Vec<(&'static str, Vec<u8>)> {
    use Algorithm::{ES256, EdDSA, HS256};
    let (ed, ec, good) = (&backend.ed, &backend.ec, &claims());
    let public = EncodingKey::from_secret(&backend.ed_public);
    let genuine = String::from_utf8(signed(EdDSA, Some("ed"), good, ed)).expect("text");
    let signature = genuine.rsplit('.').next().expect("three parts").to_owned();
    let critical = Header { crit: Some(vec!["exp".into()]), ..header(EdDSA, Some("ed")) };
    let stolen = {
        let mut parts = genuine.split('.');
        let mine = base64_url(but("sub", json!("78")).to_string().as_bytes());
        format!("{}.{mine}.{signature}", parts.next().expect("a header"))
    };
    vec![
        ("the public key as an HMAC secret", signed(HS256, Some("ed"), good, &public)),
        ("RS256 under a known key id", rsa_signed(good)),
        ("ES256 under the Ed25519 key's id", signed(ES256, Some("ed"), good, ec)),
        ("EdDSA under the P-256 key's id", signed(EdDSA, Some("ec"), good, ed)),
        (
            "EdDSA's signature, a header of ES256",
            headed(&json!({"alg": "ES256", "kid": "ed"}), good, &signature),
        ),
        ("none", headed(&json!({"alg": "none", "kid": "ed"}), good, "")),
        ("none, with a signature", headed(&json!({"alg": "none", "kid": "ed"}), good, &signature)),
        ("no signature", headed(&json!({"alg": "EdDSA", "kid": "ed"}), good, "")),
        ("another's key under a known key id", signed(EdDSA, Some("ed"), good, &backend.other)),
        ("no key id", signed(EdDSA, None, good, ed)),
        ("unknown key id", signed(EdDSA, Some("ed2"), good, ed)),
        ("a critical extension", encode(&critical, good, ed).expect("signs").into_bytes()),
        ("another user under a genuine signature", stolen.into_bytes()),
        ("wrong audience", signed(EdDSA, Some("ed"), &but("aud", json!("tea")), ed)),
        ("a list of audiences", signed(EdDSA, Some("ed"), &but("aud", json!(["yao"])), ed)),
        ("expired", signed(EdDSA, Some("ed"), &but("exp", json!(NOW_SECONDS - 30)), ed)),
        ("no end", signed(EdDSA, Some("ed"), &but("exp", Value::Null), ed)),
        ("not valid yet", signed(ES256, Some("ec"), &but("nbf", json!(NOW_SECONDS + 31)), ec)),
        ("minted in the future", signed(EdDSA, Some("ed"), &but("iat", json!(u64::MAX)), ed)),
        ("a user that is no number", signed(EdDSA, Some("ed"), &but("sub", json!("+7")), ed)),
        ("a risk above 255", signed(EdDSA, Some("ed"), &but("risk", json!(256)), ed)),
        ("no token", b"e".to_vec()),
        ("two parts", b"e30.e30".to_vec()),
        ("an empty token", Vec::new()),
    ]
}

#[test]
fn whatever_is_not_believed_gets_one_and_the_same_answer() {
    let backend = Backend::new();
    let mut door = Door::new(backend.keys());
    let mut answers: Vec<(String, Vec<u8>)> = bad_tokens(&backend)
        .into_iter()
        .map(|(what, token)| (what.to_owned(), door.greet(&token)))
        .collect();

    let jwt = signed(Algorithm::EdDSA, Some("ed"), &claims(), &backend.ed);
    let older = door.welcomed(&jwt);
    door.wall = NOW.plus_us(1);
    let ticket = door.welcomed(&jwt);
    for at in 0..RECONNECT_BYTES {
        let mut wrong = ticket;
        wrong[at] ^= 0x20;
        answers.push((format!("byte {at} flipped"), door.greet(&wrong)));
    }
    let made = |id: u8, issued_at: WallTime| {
        let opened = reconnect(1).keys.open(&ticket).expect("genuine");
        let life_us = opened.expires_at.us_since(opened.issued_at);
        let expires_at = issued_at.plus_us(life_us);
        reconnect(id).keys.sign(&ReconnectTicket { issued_at, expires_at, ..opened })
    };
    answers.push(("a key that nobody knows".into(), door.greet(&made(2, NOW))));
    let ago = |seconds: u64| WallTime(NOW.0 - seconds * 1_000_000);
    answers.push(("expired".into(), door.greet(&made(1, ago(1_200)))));
    answers.push(("from the future".into(), door.greet(&made(1, NOW.plus_us(32_000_000)))));
    let next = door.welcomed(&ticket);
    answers.push(("used before".into(), door.greet(&ticket)));
    answers.push(("older than the one used".into(), door.greet(&older)));
    door.engine.handle_reconnect_keys(Some(reconnect(2)));
    answers.push(("a key that is no longer held".into(), door.greet(&next)));
    door.engine.handle_reconnect_keys(None);
    answers.push(("to a node without keys".into(), door.greet(&next)));

    let expected = answers[0].1.clone();
    for (what, answer) in &answers {
        assert_eq!(*answer, expected, "{what}");
    }
    assert!(matches!(first_message(&expected), Some(ServerMessage::Error(refusal))
        if refusal.code == ErrorCode::AuthFailed && refusal.closes
            && refusal.class == RetryClass::Reauthenticate));
    assert_eq!(door.registry.replayed(), 2);
}

#[test]
fn an_unusable_key_set_is_refused_as_a_whole() {
    let ((ed, _), (ec, _)) = (ed_pair(), ec_pair());
    let with = |mut jwk: Value, name: &str, value: Value| {
        jwk[name] = value;
        jwk
    };
    let check = |keys: Vec<Value>, expected: &str| {
        let text = json!({ "keys": keys }).to_string();
        let error = TokenKeys::parse(&text, "yao").err().unwrap_or_default();
        assert!(error.contains(expected) && error.is_empty() == expected.is_empty(), "{error}");
    };
    let (ed, ec) = (ed_jwk("a", &ed), ec_jwk("b", &ec));
    check(vec![ed.clone(), ec.clone()], "");
    check(
        vec![with(ed.clone(), "alg", json!("EdDSA")), with(ec.clone(), "alg", json!("ES256"))],
        "",
    );
    check(vec![], "holds no key");
    check(vec![ed.clone(), ed.clone()], "key id `a` stands twice");
    check(vec![with(ed.clone(), "alg", json!("ES256"))], "key `a` has alg ES256");
    check(vec![with(ec.clone(), "alg", json!("HS256"))], "key `b` has alg HS256");
    check(vec![with(ec.clone(), "crv", json!("P-384"))], "neither Ed25519");
    check(vec![json!({"kty": "oct", "kid": "c", "k": "c2VjcmV0"})], "neither Ed25519");
    check(vec![with(ed.clone(), "x", json!("AAAA"))], "no usable public key");
    check(vec![with(ed, "x", json!(base64_url(&[0; 32])))], "no usable public key");
    check(vec![with(ec.clone(), "y", ec["x"].clone())], "no usable public key");
}
