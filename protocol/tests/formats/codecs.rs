//! Each format as a function: bytes to what they say and to the bytes that this build would write.

use super::fields::{self, long, named};
use serde_json::{Value, json};
use yao_protocol::{
    CampaignId, Epoch, KeyId, ShardId, WireError,
    agent::{FromAccess, FromAgent},
    client::{
        ClientMessage, ServerMessage, kind, put_empty, put_open, put_pong, put_receipt,
        put_reconnect, put_win,
    },
    cursor::{self, Cursor},
    frame::{Frame, FrameHeader, put_frame, split_frame},
    hex,
    journal::{self, Event},
    keys::{KeyOwner, KeySet, MAC_BYTES, MacKey, PublicKeyFile, SignKey},
    limits::{AGENT_PAYLOAD_BYTES_MAX, CLIENT_PAYLOAD_BYTES_MAX},
    log::{SEGMENT_HEADER_BYTES, Scan, ScanEnd, SegmentHeader},
    policy::Policy,
    receipt::{RECEIPT_BYTES, Receipt},
    reconnect::{RECONNECT_BYTES, ReconnectKeys, is_reconnect},
    seed_file::{SeedHeader, SeedRecord, ShardKey, decode_records},
    settlement::{Answer, Batch},
    slots::Slot,
    spool::{self, Open, Watermark},
    tally::{TALLY_BYTES, Tally},
    ticket::Ticket,
};

/// The key of campaign, tickets and settlement in every vector: the seed is 32 times 7.
pub(crate) fn sign_key() -> SignKey {
    SignKey::from_seed(&[7; 32])
}

/// The MAC key of every vector: 32 times 9, key id 3.
pub(crate) fn mac_key() -> MacKey {
    MacKey::new(KeyId(3), [9; 32])
}

/// The key that seals chunks in every vector.
pub(crate) fn shard_key() -> ShardKey {
    ShardKey {
        campaign: CAMPAIGN,
        shard: SHARD,
        generation: 0,
        seal_key: [5; 32],
        salt_key: [6; 32],
        mac_key_id: KeyId(3),
        mac_key: [9; 32],
    }
}

pub(crate) const CAMPAIGN: CampaignId = CampaignId(2015);
pub(crate) const SHARD: ShardId = ShardId(17);
pub(crate) const EPOCH: Epoch = Epoch(1);

pub(crate) fn key_set() -> KeySet {
    let mut keys = KeySet::default();
    let key = sign_key().public().to_bytes();
    for owner in [
        KeyOwner::Campaign { campaign: CAMPAIGN },
        KeyOwner::Ticket { campaign: CAMPAIGN, shard: SHARD, epoch: EPOCH },
        KeyOwner::Settlement { key_id: KeyId(1) },
    ] {
        keys.add(&PublicKeyFile { owner, key }).expect("one key per owner");
    }
    keys
}

/// What bytes say, and the bytes that say the same.
pub(crate) type Read = Result<(Value, Vec<u8>), WireError>;

/// Reads the bytes of one format.
pub(crate) type Codec = fn(&[u8]) -> Read;

/// Every format by the name of its vectors.
pub(crate) const CODECS: &[(&str, Codec)] = &[
    ("frame", frame),
    ("client-message", client_message),
    ("server-message", server_message),
    ("agent-message", agent_message),
    ("access-message", access_message),
    ("ticket", ticket),
    ("tally", tally),
    ("receipt", receipt),
    ("reconnect-ticket", reconnect),
    ("seed-record", seed_record),
    ("seed-header", seed_header),
    ("seed-chunk", seed_chunk),
    ("slot", slot),
    ("cursor", cursor),
    ("watermark", watermark),
    ("segment-header", segment_header),
    ("log-record", log_record),
    ("journal-event", journal_event),
    ("spool-open", spool_open),
    ("settlement-batch", batch),
    ("settlement-answer", answer),
    ("grant-request", super::grants::request),
    ("grant-answer", super::grants::answer),
    ("policy", policy),
    ("manifest", super::texts::read_manifest),
    ("token-claims", super::texts::read_claims),
    ("public-key", super::texts::read_public_key),
    ("seal", super::reclaim::read_seal),
    ("void-request", super::reclaim::read_request),
    ("void-answer", super::reclaim::read_answer),
    ("parents", super::reclaim::read_parents),
];

/// One whole frame and nothing else.
fn one_frame(bytes: &[u8], limit: usize) -> Result<Frame<'_>, WireError> {
    match split_frame(bytes, limit)? {
        Some((frame, [])) => Ok(frame),
        Some((_, rest)) => Err(WireError::Trailing { what: "a frame", extra: rest.len() }),
        None => Err(WireError::Short { what: "a frame", have: bytes.len(), need: bytes.len() + 1 }),
    }
}

fn frame(bytes: &[u8]) -> Read {
    let frame = one_frame(bytes, CLIENT_PAYLOAD_BYTES_MAX)?;
    let header = frame.header;
    let mut out = Vec::new();
    let write = |out: &mut Vec<u8>| out.extend_from_slice(frame.payload);
    put_frame(&mut out, header.kind, header.flags, header.request_id, write);
    let fields = json!({
        "payload_length": header.payload_bytes, "kind": header.kind, "flags": header.flags,
        "request_id": header.request_id, "payload": hex::encode(frame.payload),
    });
    Ok((fields, out))
}

/// The header of a message, and what the message says.
fn with_header(header: FrameHeader, (name, message): (&str, Value)) -> Value {
    json!({
        "kind": named(header.kind, name), "flags": header.flags,
        "request_id": header.request_id, "message": message,
    })
}

fn client_message(bytes: &[u8]) -> Read {
    let frame = one_frame(bytes, CLIENT_PAYLOAD_BYTES_MAX)?;
    let (header, id, payload) = (frame.header, frame.header.request_id, frame.payload);
    let message = ClientMessage::decode(frame)?;
    let mut out = Vec::new();
    let told = match &message {
        ClientMessage::Hello(hello) => {
            hello.put(&mut out, id);
            let mut said = json!({
                "version_min": hello.version_min, "version_max": hello.version_max,
                "software": hello.software, "campaign": long(hello.campaign.0),
                "tally": hello.tally.map(|tally| hex::encode(tally)),
            });
            if is_reconnect(hello.token) {
                said["reconnect_ticket"] = json!(hex::encode(hello.token));
            } else {
                said["session_token"] = json!(String::from_utf8_lossy(hello.token));
            }
            ("HELLO", said)
        }
        ClientMessage::Shake(shake) => {
            shake.put(&mut out, id);
            let said = json!({
                "shake_id": long(shake.shake.0), "campaign": long(shake.campaign.0),
                "merged_count": shake.merged_count, "resend": shake.resend,
            });
            ("SHAKE", said)
        }
        ClientMessage::Open(ticket) => {
            put_open(&mut out, id, ticket);
            ("OPEN", json!({ "ticket": hex::encode(*ticket) }))
        }
        ClientMessage::Ping => {
            put_empty(&mut out, kind::PING, id);
            ("PING", json!({}))
        }
        ClientMessage::Bye => {
            put_empty(&mut out, kind::BYE, id);
            ("BYE", json!({}))
        }
        ClientMessage::Unknown => {
            out.extend_from_slice(bytes);
            ("unknown, optional", json!({ "payload": hex::encode(payload) }))
        }
    };
    Ok((with_header(header, told), out))
}

fn server_message(bytes: &[u8]) -> Read {
    let frame = one_frame(bytes, CLIENT_PAYLOAD_BYTES_MAX)?;
    let (header, id, payload) = (frame.header, frame.header.request_id, frame.payload);
    let message = ServerMessage::decode(frame)?;
    let mut out = Vec::new();
    let told = match &message {
        ServerMessage::Welcome(welcome) => {
            welcome.put(&mut out, id);
            ("WELCOME", fields::welcome(welcome))
        }
        ServerMessage::Pong(time) => {
            put_pong(&mut out, id, *time);
            ("PONG", json!({ "server_time": long(time.0) }))
        }
        ServerMessage::NoWin(no_win) => {
            no_win.put(&mut out, id);
            ("NO_WIN", fields::no_win(no_win))
        }
        ServerMessage::Win { ticket, tally } => {
            put_win(&mut out, id, ticket, tally);
            ("WIN", json!({ "ticket": hex::encode(*ticket), "tally": hex::encode(*tally) }))
        }
        ServerMessage::Receipt(receipt) => {
            put_receipt(&mut out, id, receipt);
            ("RECEIPT", json!({ "receipt": hex::encode(*receipt) }))
        }
        ServerMessage::GoAway(go_away) => {
            go_away.put(&mut out);
            // Nobody asks for a GOAWAY; a reader takes no notice of its request id.
            out[4..8].copy_from_slice(&id.to_le_bytes());
            ("GOAWAY", fields::go_away(go_away))
        }
        ServerMessage::Error(refusal) => {
            refusal.put(&mut out, id);
            ("ERROR", fields::refusal(refusal))
        }
        ServerMessage::Reconnect(ticket) => {
            put_reconnect(&mut out, ticket);
            // As with a GOAWAY.
            out[4..8].copy_from_slice(&id.to_le_bytes());
            ("RECONNECT", json!({ "reconnect_ticket": hex::encode(*ticket) }))
        }
        ServerMessage::Unknown => {
            out.extend_from_slice(bytes);
            ("unknown, optional", json!({ "payload": hex::encode(payload) }))
        }
    };
    Ok((with_header(header, told), out))
}

fn agent_message(bytes: &[u8]) -> Read {
    let frame = one_frame(bytes, AGENT_PAYLOAD_BYTES_MAX)?;
    let header = frame.header;
    let message = FromAgent::decode(frame)?;
    let mut out = Vec::new();
    message.put(&mut out, header.request_id);
    Ok((with_header(header, fields::from_agent(&message)), out))
}

fn access_message(bytes: &[u8]) -> Read {
    let frame = one_frame(bytes, AGENT_PAYLOAD_BYTES_MAX)?;
    let header = frame.header;
    let message = FromAccess::decode(frame)?;
    let mut out = Vec::new();
    message.put(&mut out, header.request_id);
    Ok((with_header(header, fields::from_access(&message)), out))
}

fn ticket(bytes: &[u8]) -> Read {
    let ticket = Ticket::decode(bytes)?;
    if !ticket.verifies(&key_set()) {
        return Err(WireError::Forged { what: "a ticket" });
    }
    Ok((fields::ticket(&ticket), ticket.encode().to_vec()))
}

fn tally(bytes: &[u8]) -> Read {
    let tally = Tally::decode(bytes, &mac_key())?;
    let fields = fields::tally(&tally, mac_key().id(), &bytes[TALLY_BYTES - MAC_BYTES..]);
    Ok((fields, tally.encode(&mac_key()).to_vec()))
}

fn receipt(bytes: &[u8]) -> Read {
    let receipt = Receipt::decode(bytes, &mac_key())?;
    let fields = fields::receipt(&receipt, mac_key().id(), &bytes[RECEIPT_BYTES - MAC_BYTES..]);
    Ok((fields, receipt.encode(&mac_key()).to_vec()))
}

/// Under the MAC key of the vectors as the only reconnect key.
fn reconnect(bytes: &[u8]) -> Read {
    let keys = ReconnectKeys::new(vec![mac_key()]).expect("one key");
    let ticket = keys.open(bytes)?;
    let fields = fields::reconnect(&ticket, mac_key().id(), &bytes[RECONNECT_BYTES - MAC_BYTES..]);
    Ok((fields, keys.sign(&ticket).to_vec()))
}

fn seed_record(bytes: &[u8]) -> Read {
    let short = WireError::Short { what: "a seed record", have: bytes.len(), need: 16 };
    let record = SeedRecord::decode(bytes.try_into().map_err(|_| short)?)?;
    Ok((fields::seed_record(&record), record.encode().to_vec()))
}

fn seed_header(bytes: &[u8]) -> Read {
    let header = SeedHeader::decode(bytes, &sign_key().public())?;
    Ok((fields::seed_header(&header, bytes), header.encode(&sign_key())))
}

/// Chunk 3 of the shard whose seal key is 32 times 5, of the plan whose digest is 32 times 1.
fn seed_chunk(bytes: &[u8]) -> Read {
    let mut buffer = bytes.to_vec();
    shard_key().open(&[1; 32], 3, &mut buffer)?;
    let records = decode_records(&buffer)?;
    let fields: Vec<Value> = records.iter().map(fields::seed_record).collect();
    let mut out = records.iter().flat_map(SeedRecord::encode).collect();
    shard_key().seal(&[1; 32], 3, &mut out);
    Ok((json!({ "chunk": 3, "records": fields }), out))
}

fn slot(bytes: &[u8]) -> Read {
    let slot = Slot::decode(cursor::MAGIC, bytes)?;
    let fields = json!({ "sequence": long(slot.sequence), "payload": hex::encode(&slot.payload) });
    Ok((fields, slot.encode(cursor::MAGIC)))
}

fn cursor(bytes: &[u8]) -> Read {
    let cursor = Cursor::decode(bytes)?;
    Ok((fields::cursor(&cursor), cursor.encode()))
}

fn watermark(bytes: &[u8]) -> Read {
    let watermark = Watermark::decode(bytes)?;
    Ok((fields::watermark(&watermark), watermark.encode()))
}

fn segment_header(bytes: &[u8]) -> Read {
    let header = SegmentHeader::decode(journal::MAGIC, bytes)?;
    // The records follow in the same file: they are not the header's to judge.
    let records = bytes.get(SEGMENT_HEADER_BYTES..).unwrap_or_default();
    Ok((
        fields::segment_header(&header),
        [header.encode(journal::MAGIC), records.to_vec()].concat(),
    ))
}

/// A segment's bytes after its header that hold exactly one record with sequence 5.
fn log_record(bytes: &[u8]) -> Read {
    let mut scan = Scan::new(bytes, 5);
    let first = scan.next();
    let end = scan.by_ref().count();
    match (first, scan.end()) {
        (Some(record), Some(ScanEnd::Clean)) if end == 0 => {
            let mut out = Vec::new();
            record.put(&mut out);
            // Zeros may follow, where nothing was written yet.
            out.resize(bytes.len(), 0);
            Ok((fields::log_record(&record), out))
        }
        (_, Some(ScanEnd::TornTail { error })) => Err(error),
        _ => Err(WireError::Short { what: "a log record", have: 0, need: 28 }),
    }
}

/// The kind byte of the record, then its payload.
fn journal_event(bytes: &[u8]) -> Read {
    let short = WireError::Short { what: "a journal event", have: 0, need: 1 };
    let (kind, payload) = bytes.split_first().ok_or(short)?;
    let event = Event::decode(*kind, payload)?;
    let (kind, payload) = event.encode();
    Ok((fields::journal_event(kind, &event), [vec![kind], payload].concat()))
}

fn spool_open(bytes: &[u8]) -> Read {
    let open = Open::decode(bytes)?;
    let mut fields = fields::open(&open);
    fields["record_kind"] = json!(spool::KIND_OPEN);
    Ok((fields, open.encode().to_vec()))
}

fn batch(bytes: &[u8]) -> Read {
    let batch = Batch::decode(bytes, &key_set())?;
    Ok((fields::batch(&batch, bytes), batch.encode(&sign_key())))
}

fn answer(bytes: &[u8]) -> Read {
    let answer = Answer::decode(bytes, &key_set())?;
    Ok((fields::answer(&answer, bytes), answer.encode(&sign_key())))
}

fn policy(bytes: &[u8]) -> Read {
    let policy = Policy::decode(bytes)?;
    Ok((fields::policy(&policy), policy.encode()))
}
