//! Golden transcripts: byte for byte what an agent must answer, so that a new agent can take over
//! from an old one under any access process that speaks version 1. Append-only: a line may be
//! added, none changed.
//!
//! A line is `> SOCKET HEX` (the access process sends), `< SOCKET HEX` (the agent must answer; `??`
//! stands for any byte and `*` for any rest), `= HEX` (what settlement receives) or
//! `@ STATUS HEADERS HEX` (what it answers). SOCKET is `vet` or `deliver`.

use super::stage::{Agent, POLICY, Request, Settlement, Socket};
use std::collections::BTreeMap;
use yao_protocol::hex;

/// Plays `transcript` against a fresh agent, which must then have ended as it should.
fn check(name: &str, transcript: &str, policy: &str) {
    let settlement = Settlement::start();
    let mut agent = Agent::start_with(&settlement.url, policy);
    let mut sockets: BTreeMap<String, Socket> = BTreeMap::new();
    let mut request: Option<Request> = None;
    for (number, line) in transcript.lines().enumerate() {
        let place = format!("{name}:{}", number + 1);
        let line = line.split('#').next().expect("the first part is there").trim();
        let Some((direction, rest)) = line.split_once(' ') else { continue };
        match direction {
            ">" => {
                let (socket, bytes) = rest.split_once(' ').expect("SOCKET HEX");
                let socket = sockets.get_mut(socket).expect("the agent greets first");
                socket.send_bytes(&bytes_of(bytes, &place));
            }
            "<" => {
                let (socket, pattern) = rest.split_once(' ').expect("SOCKET HEX");
                let frame = match sockets.get_mut(socket) {
                    Some(socket) => socket.frame(),
                    None => {
                        let (fresh, greeting) = agent.accept();
                        sockets.insert(socket.to_owned(), fresh);
                        greeting
                    }
                };
                assert_matches(&frame, pattern, &place);
            }
            "=" => {
                let received = settlement.next();
                assert!(received.head.starts_with("post /v1/opens http/1.1"), "{}", received.head);
                assert!(received.head.contains("content-type: application/octet-stream"));
                assert_eq!(received.body, bytes_of(rest, &place), "{place}");
                request = Some(received);
            }
            "@" => {
                let mut parts = rest.splitn(3, ' ');
                let status = parts.next().expect("STATUS");
                let headers = match parts.next().expect("HEADERS") {
                    "-" => String::new(),
                    headers => format!("{headers}\r\n"),
                };
                let body = bytes_of(parts.next().unwrap_or_default(), &place);
                let request = request.take().expect("`=` comes first");
                request.respond(&format!("{status} Status"), &headers, &body);
            }
            other => panic!("{place}: `{other}` is no direction"),
        }
    }
    assert!(agent.exit_status().success(), "{name}: told to leave, it leaves in good order");
}

fn bytes_of(text: &str, place: &str) -> Vec<u8> {
    let digits: String = text.split_whitespace().collect();
    hex::decode(&digits).unwrap_or_else(|| panic!("{place}: `{text}` is not hex"))
}

fn assert_matches(frame: &[u8], pattern: &str, place: &str) {
    let pattern: String = pattern.split_whitespace().collect();
    let (pattern, any_rest) = match pattern.strip_suffix('*') {
        Some(front) => (front, true),
        None => (pattern.as_str(), false),
    };
    let found = hex::encode(frame);
    let long_enough =
        if any_rest { found.len() >= pattern.len() } else { found.len() == pattern.len() };
    let same = pattern
        .as_bytes()
        .chunks(2)
        .zip(found.as_bytes().chunks(2))
        .all(|(expected, byte)| expected == b"??" || expected == byte);
    assert!(long_enough && same, "{place}: the agent answered\n  {found}, expected\n  {pattern}");
}

#[test]
fn an_agent_still_vets_as_in_version_1() {
    check("vetting-v1.txt", include_str!("transcripts/vetting-v1.txt"), POLICY);
}

/// Under an access process that says how users stand, and under one that does not.
#[test]
fn an_agent_judges_by_risk_and_device_where_they_are_named() {
    let policy = "version = 3\ndevice_wins_max = 2\n\
                  [[risk]]\nfrom = 2\namount_max = 500\nwins_max = 1\n\
                  [[risk]]\nfrom = 200\namount_max = 0\nopens = false\n";
    check("standing-v1.txt", include_str!("transcripts/standing-v1.txt"), policy);
}

#[test]
fn an_agent_still_delivers_as_in_version_1() {
    check("delivery-v1.txt", include_str!("transcripts/delivery-v1.txt"), POLICY);
}
