//! Reloads: what a running node takes over from its files, what it leaves alone, and that a file
//! which is not good changes nothing. Sessions never notice.

use crate::support::{
    Backend, Client, Event, Heard, Node, Signal, Transport, write_certificate, write_jwks,
    write_reconnect_keys, write_secret,
};
use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::PathBuf,
};
use yao_client::Trust;
use yao_protocol::{
    WallTime,
    client::{ErrorCode, Refusal, RetryClass},
    reconnect::RECONNECT_BYTES,
    token::TokenClaims,
};

type Ticket = Box<[u8; RECONNECT_BYTES]>;

const ENCRYPTED: [Transport; 2] = [Transport::Tls, Transport::Quic];

/// What everybody hears who is not believed.
pub(crate) const NOT_BELIEVED: Heard = Heard::Refused(Refusal {
    code: ErrorCode::AuthFailed,
    class: RetryClass::Reauthenticate,
    closes: true,
    delay_ms: 0,
    jitter_ms: 0,
});

/// The node takes its files over, or the test ends.
fn reload(node: &Node<'_>) {
    let (code, said) = node.post("/reload");
    assert!(code == 200 && said.starts_with("reloaded; schedule version"), "{code}: {said}");
}

/// Whether HELLO with this session token or ticket opens a session.
async fn is_believed(node: &Node<'_>, token: impl AsRef<[u8]>) -> bool {
    match Client::greeted(node, token.as_ref()).await.1 {
        Heard::Welcome(_) => true,
        heard if heard == NOT_BELIEVED => false,
        other => panic!("WELCOME or the one refusal, not {other:?}"),
    }
}

/// Still there, as if nothing had happened.
async fn goes_on(client: &mut Client) {
    client.ping().await;
    while match client.hear().await {
        Heard::Pong => false,
        Heard::Reconnect(_) => true,
        other => panic!("a PONG, not {other:?}"),
    } {}
}

/// The ticket that follows WELCOME.
async fn ticket(client: &mut Client) -> Ticket {
    match client.hear().await {
        Heard::Reconnect(ticket) => ticket,
        other => panic!("a reconnect ticket, not {other:?}"),
    }
}

/// A ticket of a new session of `user`, and the session.
async fn visit(node: &Node<'_>, user: u64) -> (Ticket, Client) {
    let mut client = Client::welcomed(node, Transport::Tcp, user).await;
    (ticket(&mut client).await, client)
}

/// The key that signed it.
fn key_id(ticket: &Ticket) -> u32 {
    u32::from_le_bytes(ticket[4..8].try_into().expect("four bytes"))
}

/// The certificate in the file, PEM.
fn certificate(event: &Event) -> Vec<u8> {
    fs::read(event.path("certificate.pem")).expect("it is there")
}

fn new_certificate(event: &Event) -> Vec<u8> {
    write_certificate(&event.path("certificate.pem"), &event.path("certificate.key.pem"));
    certificate(event)
}

/// Whether a client that was never here, so that it resumes nothing, and trusts this certificate
/// only comes in.
async fn is_served(node: &Node<'_>, way: Transport, certificate: &[u8]) -> bool {
    let trust = Trust::from_pem(certificate).expect("a certificate");
    Client::connect_trusting(node, way, &trust).await.is_ok()
}

#[tokio::test]
async fn a_new_certificate_is_served_over_tls_and_quic_and_who_is_in_stays_in() {
    let event = Event::new();
    let node = event.start();
    let mut inside = Vec::new();
    for (user, way) in (1..).zip(ENCRYPTED) {
        inside.push(Client::welcomed(&node, way, user).await);
    }
    let (first, second) = (certificate(&event), new_certificate(&event));
    for way in ENCRYPTED {
        assert!(!is_served(&node, way, &second).await, "{way}: not before the reload");
    }
    node.signal(Signal::HUP);
    node.has_logged("reloaded").await;
    for way in ENCRYPTED {
        assert!(is_served(&node, way, &second).await, "{way}: after SIGHUP");
        assert!(!is_served(&node, way, &first).await, "{way}: the first one is gone");
    }
    let third = new_certificate(&event);
    reload(&node);
    for way in ENCRYPTED {
        assert!(is_served(&node, way, &third).await, "{way}: after POST /reload");
        assert!(!is_served(&node, way, &second).await, "{way}: the second one is gone");
    }
    for client in &mut inside {
        goes_on(client).await;
    }
}

#[tokio::test]
async fn keys_of_session_tokens_come_and_go_and_sessions_stay() {
    let event = Event::new();
    let node = event.start();
    let (first, second) = (&event.backend, Backend::new("test-2"));
    let mut inside = Client::welcomed(&node, Transport::Tls, 1).await;
    assert!(!is_believed(&node, second.token(2)).await, "an unknown key id");

    write_jwks(&event.path("jwks.json"), &[first, &second]);
    assert!(!is_believed(&node, second.token(2)).await, "a file is no order");
    reload(&node);
    assert!(is_believed(&node, first.token(3)).await && is_believed(&node, second.token(2)).await);
    let swapped = Backend::new("test-2");
    assert!(!is_believed(&node, swapped.token(4)).await, "another key under a known key id");

    write_jwks(&event.path("jwks.json"), &[&second]);
    reload(&node);
    assert!(!is_believed(&node, first.token(3)).await, "its key was taken out");
    assert!(is_believed(&node, second.token(2)).await);
    write_jwks(&event.path("jwks.json"), &[&swapped]);
    reload(&node);
    assert!(!is_believed(&node, second.token(2)).await, "the same key id, another key");
    assert!(is_believed(&node, swapped.token(4)).await);
    goes_on(&mut inside).await;
}

#[tokio::test]
async fn another_audience_is_another_service() {
    let event = Event::new();
    let node = event.start();
    let (mut inside, tea) = (Client::welcomed(&node, Transport::Tcp, 1).await, "tea".to_owned());
    let for_tea = event.backend.sign(&TokenClaims { aud: tea, ..Backend::claims(2) });
    assert!(!is_believed(&node, &for_tea).await);
    event.set("identity.audience", "tea");
    reload(&node);
    assert!(is_believed(&node, &for_tea).await);
    assert!(!is_believed(&node, event.backend.token(3)).await);
    goes_on(&mut inside).await;
}

#[tokio::test]
async fn reconnect_keys_change_in_three_steps_and_nobody_is_turned_away() {
    let event = Event::new();
    let node = event.start();
    let rotate = |ids: &[u32]| {
        write_reconnect_keys(&event.path("reconnect.json"), ids);
        reload(&node);
    };
    let (one, mut inside) = visit(&node, 1).await;
    assert_eq!(key_id(&one), 1);
    rotate(&[1, 2]);
    let (two, _) = visit(&node, 2).await;
    assert_eq!(key_id(&two), 1, "the new key is known, and does not sign yet");
    rotate(&[2, 1]);
    let (three, _) = visit(&node, 3).await;
    assert_eq!(key_id(&three), 2);
    let (mut back, heard) = Client::greeted(&node, &*two).await;
    assert!(matches!(heard, Heard::Welcome(_)), "the previous key is still listed: {heard:?}");
    assert_eq!(key_id(&ticket(&mut back).await), 2, "and its holder gets the new one's");
    let (four, _) = visit(&node, 4).await;
    rotate(&[2]);
    assert!(!is_believed(&node, &*one).await, "the first key was taken out");
    assert!(is_believed(&node, &*four).await);
    assert!(is_believed(&node, event.backend.token(1)).await, "the session token helps");
    assert!(matches!(inside.hear().await, Heard::GoAway(_)), "the same user came again");
}

/// Files of the event, each with what may be wrong with it and what the refusal says then.
const BAD_FILES: &[(&str, Bad, &str)] = &[
    ("yao.toml", Bad::Missing, "check --config"),
    ("yao.toml", Bad::Cut, "TOML parse error at line"),
    ("yao.toml", Bad::Text("[identity]\njwkss = 'j'\n"), "did you mean `jwks`?"),
    ("jwks.json", Bad::Missing, "point identity.jwks at the app's public keys"),
    ("jwks.json", Bad::Cut, "EOF while parsing"),
    ("jwks.json", Bad::Text("{\"keys\": []}"), "holds no key: nobody could log in"),
    (
        "jwks.json",
        Bad::Text("{\"keys\": [{\"kty\": \"oct\", \"kid\": \"a\", \"k\": \"c2VjcmV0\"}]}"),
        "key `a` is neither Ed25519 (EdDSA) nor P-256 (ES256)",
    ),
    ("reconnect.json", Bad::Missing, "point identity.reconnect.keys at"),
    ("reconnect.json", Bad::Cut, "not a JSON list"),
    ("reconnect.json", Bad::Text("[]"), "holds 0 keys"),
    ("reconnect.json", Bad::Readable, "run `chmod 600` on it"),
    ("certificate.pem", Bad::Missing, "it must hold the chain as PEM"),
    ("certificate.pem", Bad::Cut, "it must hold the chain as PEM"),
    ("certificate.key.pem", Bad::Cut, "it must hold the private key as PEM"),
    ("certificate.key.pem", Bad::OfAnother, "takes a chain and its own key"),
    ("schedule.toml", Bad::Missing, "point shard.schedule at"),
    ("schedule.toml", Bad::Cut, "TOML parse error at line"),
    ("schedule.toml", Bad::Text("version = 9\ncampaign = 1\n"), "is for campaign 1, this node"),
    ("schedule.toml", Bad::LongAgo, "wave 0 would be over at once, since 2015-02-18T"),
    ("keys", Bad::Missing, "point node.keys at"),
];

/// What is wrong with a file.
#[derive(Clone, Copy, Debug)]
enum Bad {
    Missing,
    /// Caught while it is being written.
    Cut,
    Text(&'static str),
    /// By others than its owner.
    Readable,
    OfAnother,
    /// Of an event that is over.
    LongAgo,
}

impl Bad {
    fn befall(self, event: &Event, name: &str) {
        let path = event.path(name);
        match self {
            Self::Missing => fs::rename(&path, aside(event, name)).expect("it was there"),
            Self::Cut => {
                let bytes = fs::read(&path).expect("it is there");
                fs::write(&path, &bytes[..bytes.len() / 2]).expect("a file of ours");
            }
            Self::Text(text) => fs::write(&path, text).expect("a file of ours"),
            Self::Readable => {
                fs::set_permissions(&path, Permissions::from_mode(0o644)).expect("a file of ours");
            }
            Self::LongAgo => event.write_schedule(9, Some(WallTime(1_424_269_800_000_000))),
            Self::OfAnother => {
                write_certificate(&event.path("other.pem"), &path);
            }
        }
    }
}

fn aside(event: &Event, name: &str) -> PathBuf {
    event.path(&format!("{name}.aside"))
}

/// A copy of the file, to put back; `None` of a folder.
fn copy(event: &Event, name: &str) -> Option<Vec<u8>> {
    fs::read(event.path(name)).ok()
}

fn put_back(event: &Event, name: &str, bytes: Option<Vec<u8>>) {
    match bytes {
        Some(bytes) => write_secret(&event.path(name), &bytes),
        None => fs::rename(aside(event, name), event.path(name)).expect("put aside"),
    }
}

#[tokio::test]
async fn a_start_closes_no_wave_that_its_schedule_ended_before_it_began() {
    let event = Event::new();
    let long_ago = Some(WallTime(1_424_269_800_000_000));
    event.write_schedule(5, long_ago);
    let node = event.start();
    let stands = |expected: &'static str| {
        move |status: &serde_json::Value| status["waves"][0]["state"] == expected
    };
    node.status_where("a wave that is left alone", stands("idle")).await;
    let status = node.status();
    let warning = status["warnings"][0].as_str().expect("one");
    assert!(warning.contains("wave 0: not begun") && warning.contains("2015-02-18T"), "{warning}");
    assert_eq!(node.logged("wave_left_alone")["wave"], 0);
    // Whatever else is new, it stays so; and a certificate may always be new.
    reload(&node);
    event.write_schedule(6, long_ago);
    reload(&node);
    assert_eq!(node.status()["schedule_version"], 6);
    event.write_schedule(7, Some(WallTime(1_424_269_900_000_000)));
    let (code, said) = node.post("/reload");
    assert!(code == 422 && said.contains("wave 0 would be over at once"), "{code}: {said}");
    // Corrected it comes.
    event.write_schedule(7, Some(WallTime(4_070_908_800_000_000)));
    reload(&node);
    node.status_where("an armed wave", stands("armed")).await;
    assert_eq!(node.status()["warnings"], serde_json::json!([]));
}

#[tokio::test]
async fn a_file_that_is_not_good_changes_nothing_and_one_line_says_why() {
    let event = Event::new();
    let node = event.start();
    let mut inside = Client::welcomed(&node, Transport::Quic, 1).await;
    // In every other file something good is new: none of it may be taken over.
    let new = Backend::new("test-2");
    write_jwks(&event.path("jwks.json"), &[&new]);
    write_reconnect_keys(&event.path("reconnect.json"), &[9]);
    event.write_schedule(5, None);
    event.set("session.shake_interval_ms", 777);
    let first = certificate(&event);
    new_certificate(&event);
    for (number, (name, bad, expected)) in (1..).zip(BAD_FILES) {
        let what = format!("{name} {bad:?}");
        let good = copy(&event, name);
        bad.befall(&event, name);
        let (code, said) = node.post("/reload");
        assert_eq!(code, 422, "{what}: {said}");
        let line = said.strip_suffix('\n').expect("a line");
        assert!(line.contains(expected) && !line.contains('\n'), "{what}: {said}");
        let pair = name.replace(".key", "");
        assert!(line.contains(name) || line.contains(&pair), "{what}: it names the file: {said}");
        assert_eq!(node.logged("reload_refused")["reason"], line, "{what}");
        assert_eq!(node.status()["reloads_refused"], number, "{what}");
        put_back(&event, name, good);
    }
    let metrics = node.get("/metrics").1;
    let counted = format!("yao_access_reloads_refused_total {}\n", BAD_FILES.len());
    assert!(metrics.contains(&counted), "{metrics}");

    // By signal as well.
    Bad::Cut.befall(&event, "jwks.json");
    node.signal(Signal::HUP);
    let refused = BAD_FILES.len() + 1;
    node.status_where("a refusal", |status| status["reloads_refused"] == refused).await;

    // Nothing has changed.
    assert!(!is_believed(&node, new.token(2)).await);
    let (mut client, heard) = Client::greeted(&node, event.backend.token(2).as_bytes()).await;
    assert!(matches!(heard, Heard::Welcome(welcome) if welcome.shake_interval_ms == 0));
    assert_eq!(key_id(&ticket(&mut client).await), 1);
    assert_eq!(node.status()["schedule_version"], 1);
    for way in ENCRYPTED {
        assert!(is_served(&node, way, &first).await, "{way}");
    }
    goes_on(&mut inside).await;

    // The writer was only half done.
    write_jwks(&event.path("jwks.json"), &[&new]);
    reload(&node);
    let (mut client, heard) = Client::greeted(&node, new.token(2).as_bytes()).await;
    assert!(matches!(heard, Heard::Welcome(welcome) if welcome.shake_interval_ms == 777));
    assert_eq!(key_id(&ticket(&mut client).await), 9);
    assert_eq!(node.status()["schedule_version"], 5);
    assert!(!is_believed(&node, event.backend.token(3)).await);
    goes_on(&mut inside).await;
}
