//! Session tokens and reconnect tickets: nothing is believed but what was made with the key.

use crate::{seeds::mac_key, tape::Tape};
use jsonwebtoken::{Algorithm, EncodingKey, crypto::sign};
use serde_json::json;
use std::{
    collections::BTreeSet,
    sync::{Arc, LazyLock},
};
use yao_access::token_keys::TokenKeys;
use yao_protocol::{
    UserId, WallTime,
    keys::SignKey,
    reconnect::{RECONNECT_BYTES, ReconnectKeys, ReconnectTicket},
    token::Identity,
};

const AUDIENCE: &str = "yao";
const KID: &str = "dev-1";
const NOW: WallTime = WallTime::from_seconds(1_424_269_800);
/// DER of a PKCS #8 Ed25519 key up to its 32-byte seed (RFC 8410, 7).
const PKCS8: [u8; 16] = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
const SEED: [u8; 32] = [0x21; 32];
const URL_ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// The two sides, and everything that may be believed.
struct Parties {
    key: EncodingKey,
    tokens: TokenKeys,
    tickets: ReconnectKeys,
    made: BTreeSet<Vec<u8>>,
}

static PARTIES: LazyLock<Arc<Parties>> = LazyLock::new(|| Arc::new(parties()));

fn parties() -> Parties {
    let x = base64(&SignKey::from_seed(&SEED).public().to_bytes());
    let jwk = json!({"kty": "OKP", "crv": "Ed25519", "kid": KID, "x": x});
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("jwks.json");
    std::fs::write(&path, json!({"keys": [jwk]}).to_string()).expect("written");
    let tokens = TokenKeys::load(&path, AUDIENCE).expect("a JWKS with a good key");
    let key = EncodingKey::from_ed_der(&[&PKCS8[..], &SEED[..]].concat());
    let tickets = ReconnectKeys::new(vec![mac_key()]).expect("one key");
    let mut made = BTreeSet::new();
    for user in [1, 77, u64::MAX] {
        let claims = json!({"sub": user.to_string(), "aud": AUDIENCE, "exp": NOW.seconds() + 900});
        made.insert(token(&key, &header(), claims.to_string().as_bytes()));
        let (user, expires_at) = (UserId(user), NOW.plus_us(900_000_000));
        let identity = Identity { user, device: 5, risk: 1, expires_at };
        let ticket = ReconnectTicket::issue(&identity, NOW, 600).expect("time is left");
        made.insert(tickets.sign(&ticket).to_vec());
    }
    Parties { key, tokens, tickets, made }
}

fn header() -> Vec<u8> {
    json!({"alg": "EdDSA", "kid": KID}).to_string().into_bytes()
}

fn token(key: &EncodingKey, header: &[u8], claims: &[u8]) -> Vec<u8> {
    let message = format!("{}.{}", base64(header), base64(claims));
    let signature = sign(message.as_bytes(), key, Algorithm::EdDSA).expect("an EdDSA key");
    format!("{message}.{signature}").into_bytes()
}

/// Base64 as JWT has it (RFC 7515, 2).
fn base64(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let mut group = [0; 4];
        group[1..=chunk.len()].copy_from_slice(chunk);
        let bits = u32::from_be_bytes(group);
        for digit in 0..=chunk.len() {
            let index = bits >> (18 - 6 * digit) & 63;
            text.push(char::from(URL_ALPHABET[index as usize]));
        }
    }
    text
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let with = |mode: u8, bytes: &[u8]| [&[mode], bytes].concat();
    let claims = json!({"sub": "77", "aud": AUDIENCE, "exp": NOW.seconds() + 900, "iat": 0,
        "nbf": 0, "device": 5, "risk": 2});
    let made = PARTIES.made.iter().map(|bytes| with(0, bytes));
    made.chain([with(1, claims.to_string().as_bytes()), with(2, &header())]).collect()
}

pub(crate) fn run(bytes: &[u8]) {
    let mut tape = Tape::new(bytes);
    let mode = tape.byte() % 3;
    let bytes = tape.rest();
    match mode {
        0 => made(bytes),
        1 => claims(bytes),
        _ => headers(bytes),
    }
}

/// Only what was made is believed, byte for byte.
fn made(bytes: &[u8]) {
    let parties = &**PARTIES;
    let plausible = parties.tokens.is_plausible(bytes);
    if parties.tokens.identity(bytes, NOW).is_some() {
        assert!(parties.made.contains(bytes), "a token that nobody made is believed");
        assert!(plausible, "what is believed was worth checking");
    } else if bytes.starts_with(b"e") && parties.made.contains(bytes) {
        panic!("a token that was made is not believed");
    }
    if parties.tickets.verify(bytes, NOW).is_ok() {
        assert!(parties.made.contains(bytes), "a ticket that nobody made is believed");
    }
    if let Ok(ticket) = ReconnectTicket::peek(bytes) {
        assert_eq!(bytes.len(), RECONNECT_BYTES);
        // Under the right key it says the same, and never lives longer than its token.
        let again = ticket.encode(&mac_key());
        assert_eq!(again[8..48], bytes[8..48]);
        assert!(
            ticket.expires_at <= ticket.token_expires_at && ticket.issued_at < ticket.expires_at
        );
    }
}

/// Whatever claims are signed: who is believed is a user of our audience, in time.
fn claims(bytes: &[u8]) {
    let token = token(&PARTIES.key, &header(), bytes);
    let Some(identity) = PARTIES.tokens.identity(&token, NOW) else { return };
    let said: serde_json::Value = serde_json::from_slice(bytes).expect("believed, so it is JSON");
    let user = said["sub"].as_str().and_then(|sub| sub.parse().ok());
    assert_eq!(user, Some(identity.user.0), "another user than the token says");
    assert_eq!(said["aud"], AUDIENCE);
    let end = said["exp"].as_u64().expect("a whole number");
    assert!(end.saturating_add(30) > NOW.seconds(), "an expired token is believed");
}

/// Whatever header is signed with the right key: only that algorithm and key id are believed.
fn headers(bytes: &[u8]) {
    let claims = json!({"sub": "77", "aud": AUDIENCE, "exp": NOW.seconds() + 900}).to_string();
    let token = token(&PARTIES.key, bytes, claims.as_bytes());
    let plausible = PARTIES.tokens.is_plausible(&token);
    if PARTIES.tokens.identity(&token, NOW).is_some() {
        assert!(plausible, "what is believed was worth checking");
        let said: serde_json::Value = serde_json::from_slice(bytes).expect("believed, so JSON");
        assert_eq!((&said["alg"], &said["kid"]), (&json!("EdDSA"), &json!(KID)));
    }
}
