//! The golden vectors that are, or fit into, frames of a client: each wrong one is refused with the
//! documented code, each good one is understood.

use super::{
    case::{Answer, Case, Refused, Step, case, expect, refused, send},
    deadlines::timeout,
    draws::drawn,
    facts::Facts,
    frames::{frame, goes_on, open},
};
use anyhow::{Context, Result};
use serde::Deserialize;
use yao_protocol::{
    ShakeId,
    client::kind,
    frame::FrameHeader,
    hex,
    limits::{CLIENT_PAYLOAD_BYTES_MAX, FRAME_HEADER_BYTES, GREETING_PAYLOAD_BYTES_MAX},
    tally::TALLY_BYTES,
    ticket::{TICKET_BYTES, Ticket},
};

/// The campaign of the vectors.
const CAMPAIGN: u64 = 2015;

#[derive(Deserialize)]
struct Vectors {
    valid: Vec<Vector>,
    invalid: Vec<Vector>,
}

#[derive(Deserialize)]
struct Vector {
    name: String,
    hex: String,
}

impl Vector {
    fn bytes(&self) -> Result<Vec<u8>> {
        hex::decode(&self.hex).with_context(|| format!("the vector `{}`", self.name))
    }
}

macro_rules! vectors {
    ($name:literal) => {
        read(include_str!(concat!("../../../protocol/tests/vectors/", $name, ".json")))
            .context($name)
    };
}

fn read(text: &str) -> Result<Vectors> {
    Ok(serde_json::from_str(text)?)
}

pub(super) fn cases(facts: &Facts) -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    let messages = vectors!("client-message")?;
    for vector in &messages.valid {
        cases.extend(valid(facts, vector)?);
    }
    for vector in &messages.invalid {
        cases.extend(invalid(facts, "W9.1-07", vector)?);
    }
    for vector in &vectors!("frame")?.invalid {
        cases.extend(invalid(facts, "W1.1-02", vector)?);
    }
    for vector in &vectors!("tally")?.invalid {
        cases.extend(tally(facts, vector)?);
    }
    for vector in &vectors!("ticket")?.invalid {
        cases.push(ticket(facts, vector)?);
    }
    let claims = vectors!("token-claims")?;
    for vector in claims.valid.iter().chain(&claims.invalid) {
        // The good ones are of 2015: expired.
        let token = facts.tokens.signed(&facts.tokens.header(), &vector.bytes()?);
        cases.push(credential(facts, "W5.4-01", "claims", vector, &token));
    }
    let reconnect = vectors!("reconnect-ticket")?;
    for vector in reconnect.valid.iter().chain(&reconnect.invalid) {
        // The good ones are of 2015, too, and of a key that no node has.
        let bytes = vector.bytes()?;
        cases.push(credential(facts, "W5.6-02", "reconnect ticket", vector, &bytes));
    }
    Ok(cases)
}

/// An id that is the vector's: they are append-only, and so are their names.
fn named<const N: usize>(rule: &str, of: &str, vector: &Vector, parts: [Vec<Step>; N]) -> Case {
    let words = vector.name.split(|c: char| !c.is_ascii_alphanumeric());
    let words: Vec<String> =
        words.filter(|word| !word.is_empty()).map(str::to_ascii_lowercase).collect();
    let id = format!("{rule}.vector-{}", words.join("-"));
    case(id, format!("vector: {of}: {}", vector.name), parts)
}

/// What stands in HELLO's place for tokens, and is not believed.
fn credential(facts: &Facts, rule: &str, of: &str, vector: &Vector, token: &[u8]) -> Case {
    let hello = send(facts.hello_with(token, None));
    named(rule, of, vector, [hello, refused(1, Refused::AUTH_FAILED)])
}

/// What a good message is answered with, by a server that may serve another campaign.
fn valid(facts: &Facts, vector: &Vector) -> Result<Option<Case>> {
    let bytes = vector.bytes()?;
    let Some(header) = header(&bytes) else { return Ok(None) };
    let id = header.request_id;
    let ours = facts.campaign.0 == CAMPAIGN;
    let (session, steps) = match header.kind {
        kind::HELLO if ours => (Vec::new(), refused(id, Refused::AUTH_FAILED)),
        kind::HELLO => (Vec::new(), refused(id, Refused::WRONG_CAMPAIGN)),
        kind::SHAKE if ours => (open(facts), expect(id, drawn(ShakeId(u64::MAX)))),
        kind::SHAKE => (open(facts), refused(id, Refused::WRONG_CAMPAIGN)),
        kind::OPEN => (open(facts), [refused(id, Refused::TICKET_INVALID), goes_on(9)].concat()),
        kind::PING => (open(facts), expect(id, Answer::Pong)),
        kind::BYE => (open(facts), vec![Step::Closed]),
        _ => (open(facts), goes_on(9)),
    };
    let rule = match header.kind {
        kind::HELLO => "W3.1-01",
        kind::SHAKE => "W3.3-01",
        kind::OPEN => "W3.4-01",
        kind::PING => "W3.2-01",
        kind::BYE => "W3.5-01",
        _ => "W2-04",
    };
    Ok(Some(named(rule, "message", vector, [session, send(bytes), steps])))
}

/// What wrong bytes are answered with: on a stream the header alone says where a frame ends.
fn invalid(facts: &Facts, rule: &str, vector: &Vector) -> Result<Option<Case>> {
    let mut bytes = vector.bytes()?;
    if bytes.is_empty() {
        return Ok(None);
    }
    let greeting = vector.name.starts_with("HELLO");
    let limit = if greeting { GREETING_PAYLOAD_BYTES_MAX } else { CLIENT_PAYLOAD_BYTES_MAX };
    let header = header(&bytes);
    let stated = header.map_or(usize::MAX, |header| usize::from(header.payload_bytes));
    let protocol = |id| refused(id, Refused::PROTOCOL);
    let payload = bytes.len().saturating_sub(FRAME_HEADER_BYTES);
    let steps = match header {
        Some(_) if stated > limit => protocol(0),
        Some(header) if stated == payload => protocol(header.request_id),
        // A byte behind a frame begins the next one: here it is made part of this one.
        Some(header) if stated < payload => {
            bytes[..2].copy_from_slice(&u16::try_from(payload)?.to_le_bytes());
            if header.kind & 0xc0 == 0x40 { goes_on(9) } else { protocol(header.request_id) }
        }
        _ if greeting => timeout(facts, facts.told.greeting_ms),
        _ => timeout(facts, facts.told.frame_ms),
    };
    let session = if greeting { Vec::new() } else { [open(facts), vec![Step::Mark]].concat() };
    Ok(Some(named(rule, "message", vector, [session, send(bytes), steps])))
}

fn header(bytes: &[u8]) -> Option<FrameHeader> {
    bytes.first_chunk::<FRAME_HEADER_BYTES>().map(|head| FrameHeader::decode(*head))
}

fn tally(facts: &Facts, vector: &Vector) -> Result<Option<Case>> {
    let bytes = vector.bytes()?;
    // One of another length is a HELLO of another length.
    let Some(mut tally) = bytes.first_chunk::<TALLY_BYTES>().copied() else { return Ok(None) };
    if bytes.len() != TALLY_BYTES {
        return Ok(None);
    }
    let user = facts.user();
    tally[8..16].copy_from_slice(&facts.campaign.0.to_le_bytes());
    tally[16..24].copy_from_slice(&user.0.to_le_bytes());
    let hello = facts.hello_with(&facts.tokens.good(user), Some(&tally));
    let steps = [send(hello), refused(1, Refused::AUTH_FAILED)];
    Ok(Some(named("W9.2-04", "tally", vector, steps)))
}

fn ticket(facts: &Facts, vector: &Vector) -> Result<Case> {
    let mut bytes = vector.bytes()?;
    let user = facts.user();
    if bytes.len() == TICKET_BYTES {
        // As the session's own, so that what is wrong is the only thing that is.
        bytes[8..16].copy_from_slice(&facts.campaign.0.to_le_bytes());
        bytes[24..32].copy_from_slice(&user.0.to_le_bytes());
    }
    let invalid = Answer::Error(Refused::TICKET_INVALID);
    let answer = if bytes.len() != TICKET_BYTES {
        refused(2, Refused::PROTOCOL)
    } else if Ticket::decode(&bytes).is_err() {
        expect(2, invalid)
    } else {
        // Well formed but for its signature; the server need not have a key of the vectors' shard.
        expect(2, Answer::OneOf(vec![invalid, Answer::Error(Refused::KEY_MISSING)]))
    };
    let session = [send(facts.hello(user)), expect(1, Answer::Welcome)].concat();
    let opening = send(frame(kind::OPEN, 0, 2, &bytes));
    Ok(named("W9.4-03", "ticket", vector, [session, opening, answer]))
}
