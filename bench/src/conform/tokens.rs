//! Cases of wire.md 5.4: who is believed. Whoever signed them, wrong claims are refused.

use super::{
    case::{Answer, Case, Refused, Step, When, case, case_if, expect, refused, send},
    facts::{Facts, signed_with, unsigned},
    frames::goes_on,
};
use crate::identity::unix_seconds;
use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::{Value, json};
use yao_protocol::limits::TOKEN_BYTES_MAX;

/// A case, and what it changes of good claims.
type Change = (&'static str, &'static str, fn(&mut Value));

/// Claims that are refused.
const BAD_CLAIMS: &[Change] = &[
    ("W5.4-08.missing", "no sub", |claims| without(claims, "sub")),
    ("W5.4-08.number", "sub as a number", |claims| claims["sub"] = json!(7)),
    ("W5.4-08.empty", "an empty sub", |claims| claims["sub"] = json!("")),
    ("W5.4-08.plus", "a signed sub", |claims| claims["sub"] = json!("+7")),
    ("W5.4-08.negative", "a negative sub", |claims| claims["sub"] = json!("-7")),
    ("W5.4-08.blank", "a sub with a blank", |claims| claims["sub"] = json!("7 ")),
    ("W5.4-08.hexadecimal", "a hexadecimal sub", |claims| claims["sub"] = json!("0x7")),
    ("W5.4-08.large", "a sub of 2^64", |claims| claims["sub"] = json!("18446744073709551616")),
    ("W5.4-09.missing", "no audience", |claims| without(claims, "aud")),
    ("W5.4-09.other", "another audience", |claims| claims["aud"] = json!("elsewhere")),
    ("W5.4-09.longer", "an audience that begins like ours", |claims| {
        claims["aud"] = json!(format!("{}x", claims["aud"].as_str().unwrap_or_default()));
    }),
    ("W5.4-09.empty", "an empty audience", |claims| claims["aud"] = json!("")),
    ("W5.4-09.list", "a list as audience", |claims| claims["aud"] = json!([claims["aud"]])),
    ("W5.4-10.missing", "no exp", |claims| without(claims, "exp")),
    ("W5.4-10.past", "exp 60 s ago", |claims| claims["exp"] = json!(unix_seconds() - 60)),
    ("W5.4-10.fraction", "exp that is no whole number", |claims| {
        claims["exp"] = json!((unix_seconds() + 600) as f64 + 0.5);
    }),
    ("W5.4-10.negative", "a negative exp", |claims| claims["exp"] = json!(-1)),
    ("W5.4-10.text", "exp as text", |claims| {
        claims["exp"] = json!((unix_seconds() + 600).to_string());
    }),
    ("W5.4-11.future", "nbf in 120 s", |claims| claims["nbf"] = json!(unix_seconds() + 120)),
    ("W5.4-12.future", "iat in 120 s", |claims| claims["iat"] = json!(unix_seconds() + 120)),
    ("W5.4-13.negative", "a device of -1", |claims| claims["device"] = json!(-1)),
    ("W5.4-14.large", "a risk of 256", |claims| claims["risk"] = json!(256)),
];

/// Claims that are believed.
const GOOD_CLAIMS: &[Change] = &[
    ("W5.4-07", "claims that nobody knows", |claims| claims["color"] = json!({"a": [1, 2]})),
    ("W5.4-08.largest", "a sub of 20 digits", |claims| {
        // Another one for each user that there might have been.
        let user = claims["sub"].as_str().and_then(|sub| sub.parse::<u64>().ok());
        claims["sub"] = json!((u64::MAX - user.unwrap_or_default()).to_string());
    }),
    ("W5.4-10.late", "exp 10 s ago: clocks differ", |claims| {
        claims["exp"] = json!(unix_seconds() - 10);
    }),
    ("W5.4-11.early", "nbf in 10 s", |claims| claims["nbf"] = json!(unix_seconds() + 10)),
    ("W5.4-12.early", "iat in 10 s", |claims| claims["iat"] = json!(unix_seconds() + 10)),
    ("W5.4-11.missing", "no nbf", |claims| without(claims, "nbf")),
    ("W5.4-12.missing", "no iat", |claims| without(claims, "iat")),
    ("W5.4-13.missing", "no device", |claims| without(claims, "device")),
    ("W5.4-14.missing", "no risk", |claims| without(claims, "risk")),
    ("W5.4-13.largest", "a device of 2^64 - 1", |claims| claims["device"] = json!(u64::MAX)),
    ("W5.4-14.largest", "a risk of 255", |claims| claims["risk"] = json!(255)),
];

fn without(claims: &mut Value, name: &str) {
    if let Some(claims) = claims.as_object_mut() {
        claims.remove(name);
    }
}

pub(super) fn cases(facts: &Facts) -> Vec<Case> {
    let mut cases = claims(facts);
    cases.extend(headers(facts));
    cases.extend(bytes(facts));
    cases.extend(p256(facts));
    cases
}

fn believed() -> Vec<Step> {
    [expect(1, Answer::Welcome), goes_on(2)].concat()
}

fn claims(facts: &Facts) -> Vec<Case> {
    let changed = |change: fn(&mut Value)| {
        let mut claims = facts.tokens.claims(facts.user());
        change(&mut claims);
        facts.tokens.signed(&facts.tokens.header(), claims.to_string().as_bytes())
    };
    let asked = |(id, what, change): &Change, steps: Vec<Step>| {
        let token = changed(*change);
        case(*id, format!("a token with {what}"), [send(facts.hello_with(&token, None)), steps])
    };
    let bad = BAD_CLAIMS.iter().map(|change| asked(change, refused(1, Refused::AUTH_FAILED)));
    let good = GOOD_CLAIMS.iter().map(|change| asked(change, believed()));
    let mut cases: Vec<Case> = bad.chain(good).collect();
    let (user, header) = (facts.user(), facts.tokens.header());
    let mut claims = facts.tokens.claims(user);
    // Three bytes become four characters: among three paddings in a row one fits.
    let longest = (0..TOKEN_BYTES_MAX).rev().find_map(|length| {
        claims["padding"] = json!("x".repeat(length));
        let token = facts.tokens.signed(&header, claims.to_string().as_bytes());
        (token.len() <= TOKEN_BYTES_MAX).then_some(token)
    });
    let longest = longest.expect("without padding it fits");
    let what = format!("a token of {} bytes", longest.len());
    cases.push(case("W5.4-02", what, [send(facts.hello_with(&longest, None)), believed()]));
    let what = "a session goes on when its token is long over";
    // It is believed for six more seconds.
    let token = changed(|claims| claims["exp"] = json!(unix_seconds() - 24));
    let open = [send(facts.hello_with(&token, None)), expect(1, Answer::Welcome)].concat();
    let outlived = [open, vec![Step::Silence(7_000)], goes_on(2)];
    cases.push(case("W5.4-15", what, outlived).at(When::Soon));
    cases
}

/// What a token's header can pretend.
fn headers(facts: &Facts) -> Vec<Case> {
    let tokens = &facts.tokens;
    let claims = || tokens.claims(facts.user()).to_string();
    let header = |alg: &str| json!({"typ": "JWT", "alg": alg, "kid": tokens.kid});
    let pretends = |header: &Value| tokens.signed(header, claims().as_bytes());
    let hs256 = |secret: &[u8]| {
        let key = EncodingKey::from_secret(secret);
        signed_with(&header("HS256"), claims().as_bytes(), &key, Algorithm::HS256)
    };
    let other = EncodingKey::from_ed_der(&crate::identity::pkcs8(&[7; 32]));
    let critical =
        |list: Value| pretends(&json!({"alg": "EdDSA", "kid": tokens.kid, "crit": list, "exp": 1}));
    let stranger = json!({"alg": "EdDSA", "kid": format!("{}-not", tokens.kid)});
    let bad: Vec<(&str, &str, Vec<u8>)> = vec![
        ("W5.4-03.missing", "no kid", pretends(&json!({"alg": "EdDSA"}))),
        ("W5.4-03.unknown", "an unknown kid", pretends(&stranger)),
        ("W5.4-04.missing", "no alg", pretends(&json!({"kid": tokens.kid}))),
        ("W5.4-04.none", "alg none and no signature", {
            format!("{}.", unsigned(&header("none"), claims().as_bytes())).into_bytes()
        }),
        ("W5.4-04.capital", "alg None and a good key's signature", pretends(&header("None"))),
        ("W5.4-04.guessed", "alg HS256 with a guessed secret", hs256(b"secret")),
        ("W5.4-04.empty", "alg HS256 with an empty secret", hs256(b"")),
        ("W5.4-04.hs256", "alg HS256 and an EdDSA signature", pretends(&header("HS256"))),
        ("W5.4-04.es256", "alg ES256 and an EdDSA signature", pretends(&header("ES256"))),
        ("W5.4-05.key", "the signature of another key", {
            signed_with(&tokens.header(), claims().as_bytes(), &other, Algorithm::EdDSA)
        }),
        ("W5.4-06.known", "crit, of a claim that is known", critical(json!(["exp"]))),
        ("W5.4-06.empty", "an empty crit", critical(json!([]))),
    ];
    bad.into_iter().map(|(id, what, token)| refusal(facts, id, what, &token)).collect()
}

fn refusal(facts: &Facts, id: impl Into<String>, what: &str, token: &[u8]) -> Case {
    let steps = [send(facts.hello_with(token, None)), refused(1, Refused::AUTH_FAILED)];
    case(id, format!("a token with {what}"), steps)
}

/// A token whose characters are others is not the one that was signed.
fn bytes(facts: &Facts) -> Vec<Case> {
    let good = || String::from_utf8(facts.tokens.good(facts.user())).expect("a JWT is ASCII");
    let mut swapped: Vec<String> = good().split('.').map(str::to_owned).collect();
    swapped[1] = good().split('.').nth(1).expect("three parts").to_owned();
    let token = good();
    let cut = token.as_bytes()[..token.len() - 1].to_vec();
    let two = token.rsplit_once('.').expect("three parts").0.as_bytes().to_vec();
    let forms: Vec<(&str, &str, Vec<u8>)> = vec![
        ("W5.4-05.swapped", "the signature of other claims", swapped.join(".").into_bytes()),
        ("W5.4-05.cut", "its last character missing", cut),
        ("W5.4-01.two", "two parts only", two),
        ("W5.4-01.four", "four parts", format!("{token}.e30").into_bytes()),
        ("W5.4-01.padded", "padding", format!("{token}==").into_bytes()),
        ("W5.4-01.binary", "bytes that are no text", vec![0xff; 100]),
        ("W5.4-01.empty", "no byte", Vec::new()),
    ];
    let mut cases: Vec<Case> =
        forms.iter().map(|(id, what, token)| refusal(facts, *id, what, token)).collect();
    for part in 0..12 {
        let at = part * (token.len() - 1) / 12;
        let mut token = token.clone().into_bytes();
        // Within the alphabet of base64, or a dot becomes a letter.
        token[at] = if token[at] == b'A' { b'B' } else { b'A' };
        let what = format!("another character after {part} twelfths of it");
        cases.push(refusal(facts, format!("W5.4-05.part-{part}"), &what, &token));
    }
    cases
}

/// The other kind of key.
fn p256(facts: &Facts) -> Vec<Case> {
    let reason = "the key is not given: --es256-key";
    let asked = |id: &str, what: &str, alg: &str, then: Vec<Step>| {
        let script = facts.keys.es256.as_ref().ok_or(reason).map(|(key, kid)| {
            let header = json!({"typ": "JWT", "alg": alg, "kid": kid});
            let claims = facts.tokens.claims(facts.user()).to_string();
            let token = signed_with(&header, claims.as_bytes(), key, Algorithm::ES256);
            [send(facts.hello_with(&token, None)), then].concat()
        });
        case_if(id, what, script)
    };
    let refusal = refused(1, Refused::AUTH_FAILED);
    let what = "a token signed with P-256 that says EdDSA";
    let pretends = asked("W5.4-04.p256-eddsa", what, "EdDSA", refusal.clone());
    let what = "a token with the kid of P-256, signed with Ed25519";
    let script = facts.keys.es256.as_ref().ok_or(reason).map(|(_, kid)| {
        let header = json!({"typ": "JWT", "alg": "EdDSA", "kid": kid});
        let claims = facts.tokens.claims(facts.user()).to_string();
        let token = facts.tokens.signed(&header, claims.as_bytes());
        [send(facts.hello_with(&token, None)), refusal].concat()
    });
    let confused = case_if("W5.4-04.eddsa-p256", what, script);
    vec![
        asked("W5.4-04.p256", "a token signed with P-256", "ES256", believed()),
        pretends,
        confused,
    ]
}
