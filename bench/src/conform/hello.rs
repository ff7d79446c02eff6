//! Cases of wire.md 3.1, 5.4, 9.2 and 11: what HELLO says, and who is believed.

use super::{
    case::{Answer, Case, Refused, Step, case, expect, refused, send},
    facts::{Facts, hello, signed_with, unsigned},
    frames::goes_on,
};
use crate::identity::unix_seconds;
use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::{Value, json};
use yao_protocol::{
    CampaignId, KeyId, UserId,
    keys::MacKey,
    limits::TOKEN_BYTES_MAX,
    tally::{TALLY_BYTES, Tally},
};

/// A change to good claims.
type Change = (&'static str, fn(&mut Value));

/// Claims that are refused, whoever signed them.
const BAD_CLAIMS: &[Change] = &[
    ("another audience", |claims| claims["aud"] = json!("elsewhere")),
    ("an audience that begins like ours", |claims| {
        claims["aud"] = json!(format!("{}x", claims["aud"].as_str().unwrap_or_default()));
    }),
    ("an empty audience", |claims| claims["aud"] = json!("")),
    ("a list as audience", |claims| claims["aud"] = json!([claims["aud"]])),
    ("no audience", |claims| without(claims, "aud")),
    ("exp 60 s ago", |claims| claims["exp"] = json!(unix_seconds() - 60)),
    ("exp that is no whole number", |claims| {
        claims["exp"] = json!((unix_seconds() + 600) as f64 + 0.5);
    }),
    ("a negative exp", |claims| claims["exp"] = json!(-1)),
    ("exp as text", |claims| claims["exp"] = json!((unix_seconds() + 600).to_string())),
    ("no exp", |claims| without(claims, "exp")),
    ("nbf in 120 s", |claims| claims["nbf"] = json!(unix_seconds() + 120)),
    ("iat in 120 s", |claims| claims["iat"] = json!(unix_seconds() + 120)),
    ("no sub", |claims| without(claims, "sub")),
    ("sub as a number", |claims| claims["sub"] = json!(7)),
    ("an empty sub", |claims| claims["sub"] = json!("")),
    ("a signed sub", |claims| claims["sub"] = json!("+7")),
    ("a negative sub", |claims| claims["sub"] = json!("-7")),
    ("a sub with a blank", |claims| claims["sub"] = json!("7 ")),
    ("a hexadecimal sub", |claims| claims["sub"] = json!("0x7")),
    ("a sub of 2^64", |claims| claims["sub"] = json!("18446744073709551616")),
    ("a risk of 256", |claims| claims["risk"] = json!(256)),
    ("a device of -1", |claims| claims["device"] = json!(-1)),
];

/// Claims that are believed.
const GOOD_CLAIMS: &[Change] = &[
    ("exp 10 s ago: clocks differ", |claims| claims["exp"] = json!(unix_seconds() - 10)),
    ("nbf in 10 s", |claims| claims["nbf"] = json!(unix_seconds() + 10)),
    ("no iat, nbf, device and risk", |claims| {
        for name in ["iat", "nbf", "device", "risk"] {
            without(claims, name);
        }
    }),
    ("claims that nobody knows", |claims| claims["color"] = json!({"a": [1, 2]})),
    ("a device of 2^64 - 1 and a risk of 255", |claims| {
        claims["device"] = json!(u64::MAX);
        claims["risk"] = json!(255);
    }),
];

fn without(claims: &mut Value, name: &str) {
    if let Some(claims) = claims.as_object_mut() {
        claims.remove(name);
    }
}

pub(super) fn cases(facts: &Facts) -> Vec<Case> {
    let mut cases = versions(facts);
    cases.extend(fields(facts));
    cases.extend(claims(facts));
    cases.extend(headers(facts));
    cases.extend(bytes(facts));
    cases.extend(tallies(facts));
    cases
}

/// HELLO whose byte at `at` of the payload is another one.
fn changed(facts: &Facts, at: usize, byte: u8) -> Vec<u8> {
    let mut bytes = facts.hello(facts.user());
    bytes[8 + at] = byte;
    bytes
}

fn versions(facts: &Facts) -> Vec<Case> {
    let range = |low: u8, high: u8| {
        let mut bytes = changed(facts, 0, low);
        bytes[9] = high;
        send(bytes)
    };
    let mut cases = Vec::new();
    for (low, high) in [(0, 1), (1, 1), (1, 2), (0, 255)] {
        let what = format!("versions {low} to {high} include 1");
        cases.push(case("11", what, [range(low, high), expect(1, Answer::Welcome)]));
    }
    for (low, high) in [(0, 0), (2, 2), (2, 255)] {
        let what = format!("versions {low} to {high} do not include 1");
        cases.push(case("9.2", what, [range(low, high), refused(1, Refused::VERSION)]));
    }
    let what = "versions 2 to 1 are none";
    cases.push(case("3.1", what, [range(2, 1), refused(1, Refused::PROTOCOL)]));
    cases
}

fn fields(facts: &Facts) -> Vec<Case> {
    let mut cases = Vec::new();
    let other = CampaignId(facts.campaign.0 ^ 1);
    let token = facts.tokens.good(facts.user());
    let wrong = hello(other, &token, None);
    let what = "another campaign";
    cases.push(case("9.2", what, [send(wrong.clone()), refused(1, Refused::WRONG_CAMPAIGN)]));
    let mut both = wrong.clone();
    both[8..10].copy_from_slice(&[2, 2]);
    let what = "another version and another campaign: the version is judged first";
    cases.push(case("9.2", what, [send(both), refused(1, Refused::VERSION)]));
    let both = hello(other, b"no token", Some(&[0; TALLY_BYTES]));
    let what = "another campaign and a bad tally: the campaign is judged first";
    cases.push(case("9.2", what, [send(both), refused(1, Refused::WRONG_CAMPAIGN)]));
    for (what, at, byte) in [
        ("the reserved byte is set", 3, 1),
        ("two tallies", 2, 2),
        ("a tally that is not there", 2, 1),
    ] {
        let bad = send(changed(facts, at, byte));
        cases.push(case("3.1", what, [bad, refused(1, Refused::PROTOCOL)]));
    }
    for what in ["software 0", "software 2^32 - 1"] {
        let mut bytes = facts.hello(facts.user());
        bytes[12..16].fill(if what.ends_with('0') { 0 } else { 0xff });
        cases.push(case("3.1", what, [send(bytes), expect(1, Answer::Welcome)]));
    }
    let hello = facts.hello(facts.user());
    let twice = [hello.clone(), hello.clone()].concat();
    let what = "a second HELLO behind the first";
    cases.push(case("9.1", what, [send(twice), refused(1, Refused::PROTOCOL)]));
    let what = "a second HELLO after WELCOME";
    let first = [send(hello.clone()), expect(1, Answer::Welcome)].concat();
    cases.push(case("9.1", what, [first, send(hello), refused(1, Refused::PROTOCOL)]));
    cases
}

fn claims(facts: &Facts) -> Vec<Case> {
    let asked = |(what, change): &Change, steps: Vec<Step>| {
        let mut claims = facts.tokens.claims(facts.user());
        change(&mut claims);
        let token = facts.tokens.signed(&facts.tokens.header(), claims.to_string().as_bytes());
        let what = format!("a token with {what}");
        case("5.4", what, [send(facts.hello_with(&token, None)), steps])
    };
    let bad = BAD_CLAIMS.iter().map(|change| asked(change, refused(1, Refused::AUTH_FAILED)));
    let good = GOOD_CLAIMS.iter().map(|change| asked(change, expect(1, Answer::Welcome)));
    let longest = {
        let (user, header) = (facts.user(), facts.tokens.header());
        let mut claims = facts.tokens.claims(user);
        // Three bytes become four characters: among three paddings in a row one fits.
        let token = (0..TOKEN_BYTES_MAX).rev().find_map(|length| {
            claims["padding"] = json!("x".repeat(length));
            let token = facts.tokens.signed(&header, claims.to_string().as_bytes());
            (token.len() <= TOKEN_BYTES_MAX).then_some(token)
        });
        let token = token.expect("without padding it fits");
        let what = format!("a token of {} bytes", token.len());
        case("5.4", what, [send(facts.hello_with(&token, None)), expect(1, Answer::Welcome)])
    };
    bad.chain(good).chain([longest]).collect()
}

/// What a token's header can pretend.
fn headers(facts: &Facts) -> Vec<Case> {
    let tokens = &facts.tokens;
    let claims = || tokens.claims(facts.user()).to_string();
    let secret = EncodingKey::from_secret(b"secret");
    let empty = EncodingKey::from_secret(b"");
    let header = |alg: &str| json!({"typ": "JWT", "alg": alg, "kid": tokens.kid});
    let good = || String::from_utf8(tokens.good(facts.user())).expect("a JWT is ASCII");
    let mut swapped: Vec<String> = good().split('.').map(str::to_owned).collect();
    swapped[1] = good().split('.').nth(1).expect("three parts").to_owned();
    let other = crate::identity::pkcs8(&[7; 32]);
    let other = EncodingKey::from_ed_der(&other);
    let hs256 = |key| signed_with(&header("HS256"), claims().as_bytes(), key, Algorithm::HS256);
    let bad: Vec<(&str, Vec<u8>)> = vec![
        ("no kid", tokens.signed(&json!({"alg": "EdDSA"}), claims().as_bytes())),
        ("an unknown kid", {
            let header = json!({"alg": "EdDSA", "kid": format!("{}-not", tokens.kid)});
            tokens.signed(&header, claims().as_bytes())
        }),
        ("no alg", tokens.signed(&json!({"kid": tokens.kid}), claims().as_bytes())),
        ("alg none and no signature", {
            format!("{}.", unsigned(&header("none"), claims().as_bytes())).into_bytes()
        }),
        ("alg None and a good key's signature", {
            tokens.signed(&header("None"), claims().as_bytes())
        }),
        ("alg HS256 with a guessed secret", hs256(&secret)),
        ("alg HS256 with an empty secret", hs256(&empty)),
        ("alg HS256 and an EdDSA signature", tokens.signed(&header("HS256"), claims().as_bytes())),
        ("alg ES256 and an EdDSA signature", tokens.signed(&header("ES256"), claims().as_bytes())),
        ("the signature of another key", {
            signed_with(&tokens.header(), claims().as_bytes(), &other, Algorithm::EdDSA)
        }),
        ("the signature of other claims", swapped.join(".").into_bytes()),
        ("its last character missing", {
            let token = good();
            token.as_bytes()[..token.len() - 1].to_vec()
        }),
        ("two parts only", good().rsplit_once('.').expect("three parts").0.as_bytes().to_vec()),
        ("four parts", format!("{}.e30", good()).into_bytes()),
        ("padding", format!("{}==", good()).into_bytes()),
        ("bytes that are no text", vec![0xff; 100]),
        ("no byte", Vec::new()),
    ];
    bad.into_iter()
        .map(|(what, token)| {
            let what = format!("a token with {what}");
            let steps = [send(facts.hello_with(&token, None)), refused(1, Refused::AUTH_FAILED)];
            case("5.4", what, steps)
        })
        .collect()
}

/// A token whose bits are flipped is not the one that was signed.
fn bytes(facts: &Facts) -> Vec<Case> {
    let good = facts.tokens.good(facts.user());
    (0..12)
        .map(|part| {
            let at = part * (good.len() - 1) / 12;
            let mut token = good.clone();
            // Within the alphabet of base64, or a dot becomes a letter.
            token[at] = if token[at] == b'A' { b'B' } else { b'A' };
            let what = format!("a token whose character {at} is another one");
            let steps = [send(facts.hello_with(&token, None)), refused(1, Refused::AUTH_FAILED)];
            case("5.4", what, steps)
        })
        .collect()
}

fn tallies(facts: &Facts) -> Vec<Case> {
    let asked = |what: &str, tally: [u8; TALLY_BYTES], user: UserId| {
        let hello = facts.hello_with(&facts.tokens.good(user), Some(&tally));
        let what = format!("a tally {what}");
        case("9.2", what, [send(hello), refused(1, Refused::AUTH_FAILED)])
    };
    let mut cases = vec![
        asked("of zeros", [0; TALLY_BYTES], facts.user()),
        asked("of ones", [0xff; TALLY_BYTES], facts.user()),
    ];
    for id in [0, 1, 3, u32::MAX] {
        let user = facts.user();
        let forged = Tally::empty(facts.campaign, user).encode(&MacKey::new(KeyId(id), [9; 32]));
        cases.push(asked(&format!("with a forged MAC, key id {id}"), forged, user));
    }
    let what = "after AUTH_FAILED without the tally: believed";
    let user = facts.user();
    let bad = facts.hello_with(&facts.tokens.good(user), Some(&[1; TALLY_BYTES]));
    let steps = [
        send(bad),
        refused(1, Refused::AUTH_FAILED),
        vec![Step::On(1)],
        send(facts.hello(user)),
        expect(1, Answer::Welcome),
        goes_on(2),
    ];
    cases.push(case("6", what, steps));
    cases
}
