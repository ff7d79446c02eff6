//! Credentials that must not be believed, over the wire: each gets the one and the same refusal,
//! whatever is wrong with it. At the level of functions: `access/src/token_keys/tests.rs`.

use crate::{
    reload::NOT_BELIEVED,
    support::{Backend, Client, Event, Heard, Node, Transport, base64_url},
};
use jsonwebtoken::{
    Algorithm::{EdDSA, HS256},
    EncodingKey, Header, encode,
};
use serde_json::{Value, json};
use yao_protocol::{limits::TOKEN_BYTES_MAX, reconnect::RECONNECT_BYTES};

/// The claims of a good token, with some of them changed; `null` takes one out.
fn claims(changes: &Value) -> Value {
    let mut claims = json!(Backend::claims(7));
    for (name, value) in changes.as_object().expect("an object") {
        let all = claims.as_object_mut().expect("an object");
        match value {
            Value::Null => drop(all.remove(name)),
            value => drop(all.insert(name.clone(), value.clone())),
        }
    }
    claims
}

/// The good token under another header, its signature kept.
fn headed(good: &str, header: &Value) -> String {
    let rest = good.split_once('.').expect("three parts").1;
    format!("{}.{rest}", base64_url(header.to_string().as_bytes()))
}

/// Tokens that prove nothing, each with what is wrong.
fn forgeries(event: &Event, now: u64) -> Vec<(&'static str, String)> {
    let backend = &event.backend;
    let good = backend.token(7);
    let kid = "test-1";
    let (body, signature) = good.rsplit_once('.').expect("three parts");
    let jwk = backend.jwk();
    let x = jwk["x"].as_str().expect("its public half");
    let hs256 = Header { kid: Some(kid.to_owned()), ..Header::new(HS256) };
    let with_secret = |secret: EncodingKey| {
        encode(&hs256, &claims(&json!({})), &secret).expect("any secret signs")
    };
    let says = |changes: Value| backend.sign(&claims(&changes));
    let unknown = Header { kid: Some("test-9".to_owned()), ..Header::new(EdDSA) };
    let long = json!({ "sub": "7".repeat(40) });
    vec![
        (
            "the public key's letters as an HMAC secret",
            with_secret(EncodingKey::from_secret(x.as_bytes())),
        ),
        (
            "the public key's bytes as an HMAC secret",
            with_secret(EncodingKey::from_base64_secret(&padded(x)).expect("base64")),
        ),
        ("none, without a signature", {
            let header = json!({"alg": "none", "kid": kid});
            headed(body, &header) + "."
        }),
        ("none, with the good signature", headed(&good, &json!({"alg": "none", "kid": kid}))),
        ("ES256 under the Ed25519 key's id", headed(&good, &json!({"alg": "ES256", "kid": kid}))),
        ("the algorithm left out", headed(&good, &json!({"kid": kid}))),
        ("a key that comes with the token", {
            let thief = Backend::new(kid);
            let stolen = thief.token(7);
            let header = json!({"alg": "EdDSA", "kid": kid, "jwk": thief.jwk()});
            headed(&stolen, &header)
        }),
        ("another key under a known key id", Backend::new(kid).token(7)),
        ("the right key under an unknown key id", backend.sign_with(&unknown, &claims(&json!({})))),
        ("no key id", backend.sign_with(&Header::new(EdDSA), &claims(&json!({})))),
        ("another user's claims", {
            let other = backend.token(8);
            let claims = other.split('.').nth(1).expect("three parts");
            format!("{}.{claims}.{signature}", good.split('.').next().expect("three parts"))
        }),
        ("wrong audience", says(json!({"aud": "tea"}))),
        ("a list of audiences", says(json!({"aud": ["yao"]}))),
        ("no audience", says(json!({"aud": null}))),
        ("expired beyond the leeway", says(json!({"exp": now - 31}))),
        ("no end", says(json!({"exp": null}))),
        ("an end that is text", says(json!({"exp": (now + 60).to_string()}))),
        ("an end that is no whole number", says(json!({"exp": 1e300}))),
        ("an end before all time", says(json!({"exp": -1}))),
        ("not valid yet, beyond the leeway", says(json!({"nbf": now + 90}))),
        ("minted in the future", says(json!({"iat": now + 90}))),
        ("no user", says(json!({"sub": null}))),
        ("a user that is no text", says(json!({"sub": 7}))),
        ("a user beyond 2^64", says(json!({"sub": "18446744073709551616"}))),
        ("a user of forty digits", says(long)),
        ("a user in another spelling", says(json!({"sub": "+7"}))),
        ("a device that is negative", says(json!({"device": -1}))),
        ("a risk class above 255", says(json!({"risk": 256}))),
        ("no claims at all", backend.sign(&json!({}))),
        ("claims that are a list", backend.sign(&json!([1]))),
        ("no token", String::new()),
    ]
}

fn padded(letters: &str) -> String {
    let standard = letters.replace('-', "+").replace('_', "/");
    let padding = "=".repeat((4 - letters.len() % 4) % 4);
    standard + &padding
}

async fn answer(node: &Node<'_>, token: &[u8]) -> Heard {
    Client::greeted(node, token).await.1
}

/// The ticket behind WELCOME. Then the session is entered, too: the node says WELCOME before.
async fn ticket(client: &mut Client) -> Box<[u8; RECONNECT_BYTES]> {
    let heard = client.hear().await;
    let Heard::Reconnect(ticket) = heard else { panic!("a reconnect ticket, not {heard:?}") };
    client.ping().await;
    assert_eq!(client.hear().await, Heard::Pong);
    ticket
}

#[tokio::test]
async fn whatever_is_wrong_with_a_session_token_the_answer_is_the_same() {
    let event = Event::new();
    let node = event.start();
    let now = Backend::claims(7).iat;
    for (what, token) in forgeries(&event, now) {
        let (mut client, heard) = Client::greeted(&node, token.as_bytes()).await;
        assert_eq!(heard, NOT_BELIEVED, "{what}");
        assert_eq!(client.hear().await, Heard::End, "{what}");
    }
    // Clocks may differ by half a minute, and a claim that nobody here knows may be of any length
    // that a HELLO carries.
    let mut filled = claims(&json!({}));
    let room = |claims: &Value| TOKEN_BYTES_MAX - event.backend.sign(claims).len();
    filled["app"] = json!("");
    filled["app"] = json!("x".repeat(room(&filled) * 3 / 4));
    for (what, changes) in [
        ("expired within the leeway", json!({"exp": now - 1})),
        ("valid soon, within the leeway", json!({"nbf": now + 20, "iat": now + 20})),
        (
            "without what need not be there",
            json!({"nbf": null, "iat": null, "device": null, "risk": null}),
        ),
        ("as long as may be", filled),
    ] {
        let token = event.backend.sign(&claims(&changes));
        let heard = answer(&node, token.as_bytes()).await;
        assert!(matches!(heard, Heard::Welcome(_)), "{what}: {heard:?}");
    }
    let refused = |status: &Value| status["users"].as_u64() <= Some(1);
    node.status_where("no session but the good one", refused).await;
}

/// A session token is worth the same until it ends, however often it is shown: it proves who the
/// user is. A reconnect ticket is worth one return.
#[tokio::test]
async fn a_session_token_may_be_shown_again_and_a_reconnect_ticket_may_not() {
    let event = Event::new();
    let node = event.start();
    let token = event.backend.token(7);
    let (mut first, heard) = Client::greeted(&node, token.as_bytes()).await;
    assert!(matches!(heard, Heard::Welcome(_)), "{heard:?}");
    let oldest = ticket(&mut first).await;
    let (mut second, heard) = Client::greeted(&node, token.as_bytes()).await;
    assert!(matches!(heard, Heard::Welcome(_)), "shown again: {heard:?}");
    let newer = ticket(&mut second).await;
    assert!(matches!(first.hear().await, Heard::GoAway(_)), "one session each");

    assert_eq!(answer(&node, &*oldest).await, NOT_BELIEVED, "from before the second login");
    let (mut third, heard) = Client::greeted(&node, &*newer).await;
    assert!(matches!(heard, Heard::Welcome(_)), "{heard:?}");
    let newest = ticket(&mut third).await;
    assert_eq!(answer(&node, &*newer).await, NOT_BELIEVED, "used");
    for at in [0, 1, 2, 4, 8, 16, 24, 32, 40, 48, 79] {
        let mut changed = *newest;
        changed[at] ^= 1;
        assert_eq!(answer(&node, &changed).await, NOT_BELIEVED, "byte {at} of the ticket");
    }
    assert!(matches!(answer(&node, &*newest).await, Heard::Welcome(_)), "and itself is good");
}

/// The device is bound: a ticket returns where it was made for, and nowhere else.
#[tokio::test]
async fn a_reconnect_ticket_returns_on_its_own_device() {
    let event = Event::new();
    // Two nodes of one fleet: the same keys, each with its own memory.
    let elsewhere = Event::new();
    let on = |device: u64| event.backend.sign(&claims(&json!({ "device": device })));
    for path in ["jwks.json", "reconnect.json"] {
        std::fs::copy(event.path(path), elsewhere.path(path)).expect("files of ours");
    }
    let (node, other) = (event.start(), elsewhere.start());
    let mut phone = Client::connect(&node, Transport::Tls).await;
    phone.hello(on(1).as_bytes()).await;
    assert!(matches!(phone.hear().await, Heard::Welcome(_)));
    let phones = ticket(&mut phone).await;
    let (mut tablet, _) = Client::greeted(&other, on(2).as_bytes()).await;
    let tablets = ticket(&mut tablet).await;

    assert_eq!(answer(&node, &*tablets).await, NOT_BELIEVED, "the phone is in");
    phone.ping().await;
    assert_eq!(phone.hear().await, Heard::Pong, "and stays in");
    let (_phone, heard) = Client::greeted(&node, &*phones).await;
    assert!(matches!(heard, Heard::Welcome(_)), "its own ticket: {heard:?}");
    // The tablet shows its session token; now the phone must.
    let (mut tablet, heard) = Client::greeted(&node, on(2).as_bytes()).await;
    assert!(matches!(heard, Heard::Welcome(_)), "{heard:?}");
    let tablets = ticket(&mut tablet).await;
    let (mut phone, _) = Client::greeted(&other, on(1).as_bytes()).await;
    let phones = ticket(&mut phone).await;
    assert_eq!(answer(&node, &*phones).await, NOT_BELIEVED);
    assert!(matches!(answer(&node, &*tablets).await, Heard::Welcome(_)));
}
