//! What was read, as a stranger's program would tell it: the `fields` of the vectors.
//!
//! Keys are the names of the fields in the documents, in snake_case and with their unit. Numbers of
//! 64 bits are decimal strings, smaller ones numbers, bytes lower-case hexadecimal. What has a
//! number and a name is both. Magics, lengths, checksums and reserved bytes are not told.

use serde_json::{Value, json};
use yao_protocol::{
    Fen, Incarnation, KeyId, WallTime,
    agent::{FromAccess, FromAgent, Greet, Role, Vet, VetKind},
    client::{ErrorCode, GoAway, GoAwayReason, NoWin, NoWinReason, Refusal, RetryClass, Welcome},
    cursor::Cursor,
    hex,
    journal::{Event, SkipReason},
    keys::{KeyOwner, PublicKeyFile, SIGNATURE_BYTES},
    log::{Record, SegmentHeader},
    manifest::{Manifest, ParentsEntry, ShardEntry, SponsorPlan, WavePlan},
    policy::Policy,
    receipt::Receipt,
    reconnect::ReconnectTicket,
    seed_file::{Section, SeedHeader, SeedRecord, Segment},
    settlement::{Answer, Batch, OpenResult},
    spool::{Open, Watermark},
    tally::Tally,
    ticket::{Ticket, TicketBody},
};

/// A number of 64 bits: beyond 2^53 many readers of JSON round.
pub(crate) fn long(number: u64) -> Value {
    json!(number.to_string())
}

/// A number of a protocol and what it stands for.
pub(crate) fn named(number: impl Into<u64>, name: &str) -> Value {
    json!({ "number": number.into(), "name": name })
}

pub(crate) fn time(time: WallTime) -> Value {
    long(time.0)
}

fn money(amount: Fen) -> Value {
    long(amount.0)
}

pub(crate) fn incarnation(incarnation: Incarnation) -> Value {
    json!(hex::encode(&incarnation.0))
}

/// The last `length` bytes: a signature or a MAC.
pub(crate) fn proof(bytes: &[u8], length: usize) -> Value {
    json!(hex::encode(&bytes[bytes.len() - length..]))
}

pub(crate) fn welcome(welcome: &Welcome) -> Value {
    json!({
        "version": welcome.version, "tier": welcome.tier, "cue": welcome.cue,
        "shake_interval_ms": welcome.shake_interval_ms,
        "heartbeat_min_ms": welcome.heartbeat_ms_min,
        "heartbeat_max_ms": welcome.heartbeat_ms_max,
        "server_time": time(welcome.server_time), "campaign": long(welcome.campaign.0),
        "wins_per_user": welcome.wins_per_user, "endpoints": welcome.endpoints,
    })
}

pub(crate) fn no_win(no_win: &NoWin) -> Value {
    let name = match no_win.reason {
        NoWinReason::NoneDue => "none due",
        NoWinReason::LimitReached => "limit reached",
        NoWinReason::NotRunning => "not running",
        NoWinReason::TooSoon => "too soon",
        NoWinReason::Pending => "pending",
        NoWinReason::Busy => "busy",
    };
    json!({
        "shake_id": long(no_win.shake.0), "server_time": time(no_win.server_time),
        "interval_ms": no_win.interval_ms, "cue": no_win.cue,
        "reason": named(no_win.reason as u8, name), "tier": no_win.tier,
    })
}

fn retry_class(class: RetryClass) -> Value {
    let name = match class {
        RetryClass::Now => "now",
        RetryClass::After => "after",
        RetryClass::Reauthenticate => "re-authenticate",
        RetryClass::Never => "never",
    };
    named(class as u8, name)
}

pub(crate) fn go_away(go_away: &GoAway) -> Value {
    let name = match go_away.reason {
        GoAwayReason::Drain => "drain",
        GoAwayReason::Replaced => "replaced",
        GoAwayReason::Overload => "overload",
    };
    json!({
        "reason": named(go_away.reason as u8, name), "class": retry_class(go_away.class),
        "delay_ms": go_away.delay_ms, "jitter_ms": go_away.jitter_ms,
        "endpoints": go_away.endpoints,
    })
}

pub(crate) fn refusal(refusal: &Refusal) -> Value {
    let name = match refusal.code {
        ErrorCode::Protocol => "PROTOCOL",
        ErrorCode::Version => "VERSION",
        ErrorCode::AuthFailed => "AUTH_FAILED",
        ErrorCode::Busy => "BUSY",
        ErrorCode::Timeout => "TIMEOUT",
        ErrorCode::WrongCampaign => "WRONG_CAMPAIGN",
        ErrorCode::TicketInvalid => "TICKET_INVALID",
        ErrorCode::TicketExpired => "TICKET_EXPIRED",
        ErrorCode::OpenRefused => "OPEN_REFUSED",
        ErrorCode::OpenUnavailable => "OPEN_UNAVAILABLE",
    };
    json!({
        "code": named(refusal.code as u16, name), "class": retry_class(refusal.class),
        "closes": u8::from(refusal.closes), "delay_ms": refusal.delay_ms,
        "jitter_ms": refusal.jitter_ms,
    })
}

fn greet(greet: &Greet) -> Value {
    let role = match greet.role {
        Role::Vet => "vet",
        Role::Deliver => "deliver",
    };
    json!({
        "version": greet.version, "role": named(greet.role as u8, role),
        "generation": greet.generation, "proof": hex::encode(&greet.proof),
        "software": greet.software,
    })
}

/// The name of the message and what it says.
pub(crate) fn from_agent(message: &FromAgent<'_>) -> (&'static str, Value) {
    match message {
        FromAgent::Greet(said) => ("GREET", greet(said)),
        FromAgent::Verdict { call, allowed } => {
            let verdict = if *allowed { named(1_u8, "yes") } else { named(2_u8, "no") };
            ("VERDICT", json!({ "call": long(*call), "verdict": verdict }))
        }
        FromAgent::Delivered(bytes) => ("DELIVERED", json!({ "answer": hex::encode(bytes) })),
        FromAgent::Undelivered { retry_after_ms } => {
            ("UNDELIVERED", json!({ "retry_after_ms": retry_after_ms }))
        }
        FromAgent::GrantAnswer(bytes) => ("GRANT_ANSWER", json!({ "answer": hex::encode(bytes) })),
        FromAgent::GrantUnanswered { retry_after_ms } => {
            ("GRANT_UNANSWERED", json!({ "retry_after_ms": retry_after_ms }))
        }
        FromAgent::Policy(bytes) => ("POLICY", json!({ "policy": hex::encode(bytes) })),
        FromAgent::Bye => ("BYE", json!({})),
    }
}

fn vet(vet: &Vet) -> Value {
    let kind = match vet.kind {
        VetKind::Win => "win",
        VetKind::Open => "open",
        VetKind::Probe => "probe",
    };
    json!({
        "call": long(vet.call), "kind": named(vet.kind as u8, kind),
        "sponsor": vet.sponsor.number(), "user": long(vet.user.0), "amount": money(vet.amount),
        "packet_id": long(vet.packet.0), "shake_id": long(vet.shake.0),
    })
}

/// The name of the message and what it says.
pub(crate) fn from_access(message: &FromAccess<'_>) -> (&'static str, Value) {
    match message {
        FromAccess::Greeted { version } => ("GREETED", json!({ "version": version })),
        FromAccess::Vet(question) => ("VET", vet(question)),
        FromAccess::Standing { call, standing } => {
            let fields = json!({
                "call": long(*call), "device": long(standing.bearer.device),
                "risk": standing.bearer.risk, "user_wins": standing.user_wins,
                "device_wins": standing.device_wins,
            });
            ("STANDING", fields)
        }
        FromAccess::Deliver(bytes) => ("DELIVER", json!({ "batch": hex::encode(bytes) })),
        FromAccess::GrantAsk(bytes) => ("GRANT_ASK", json!({ "request": hex::encode(bytes) })),
        FromAccess::Drain => ("DRAIN", json!({})),
    }
}

fn ticket_body(body: &TicketBody) -> Value {
    json!({
        "sponsor": body.sponsor.number(), "wave": body.wave.0, "campaign": long(body.campaign.0),
        "packet_id": long(body.packet.0), "user": long(body.user.0), "amount": money(body.amount),
        "shake_id": long(body.shake.0), "issued_at": time(body.issued_at),
        "expires_at": time(body.expires_at), "shard": body.shard.0, "epoch": body.epoch.0,
    })
}

pub(crate) fn ticket(ticket: &Ticket) -> Value {
    let mut fields = ticket_body(&ticket.body);
    fields["signature"] = json!(hex::encode(&ticket.signature));
    fields
}

pub(crate) fn tally(tally: &Tally, key_id: KeyId, mac: &[u8]) -> Value {
    json!({
        "wins": tally.wins, "key_id": key_id.0, "campaign": long(tally.campaign.0),
        "user": long(tally.user.0), "sponsors_won": long(tally.sponsors.0),
        "counted_at": time(tally.counted_at), "mac": hex::encode(mac),
    })
}

pub(crate) fn receipt(receipt: &Receipt, key_id: KeyId, mac: &[u8]) -> Value {
    json!({
        "key_id": key_id.0, "campaign": long(receipt.campaign.0),
        "packet_id": long(receipt.packet.0), "user": long(receipt.user.0),
        "accepted_at": time(receipt.accepted_at), "mac": hex::encode(mac),
    })
}

pub(crate) fn reconnect(ticket: &ReconnectTicket, key_id: KeyId, mac: &[u8]) -> Value {
    json!({
        "risk": ticket.risk, "key_id": key_id.0, "user": long(ticket.user.0),
        "device": long(ticket.device), "issued_at": time(ticket.issued_at),
        "expires_at": time(ticket.expires_at), "token_expires_at": time(ticket.token_expires_at),
        "mac": hex::encode(mac),
    })
}

/// The amount has 32 bits in a seed file.
pub(crate) fn seed_record(record: &SeedRecord) -> Value {
    json!({
        "winning_moment_us": long(record.offset_us), "amount": record.amount.0,
        "sponsor": record.sponsor.number(),
    })
}

fn section(section: &Section) -> Value {
    let segment = |segment: &Segment| {
        json!({
            "duration_us": long(segment.duration_us), "packets": segment.packets,
        })
    };
    json!({
        "wave": section.wave.0, "first": section.first.0, "count": section.count,
        "sum": money(section.sum), "duration_us": long(section.duration_us()),
        "segments": section.segments.iter().map(segment).collect::<Vec<_>>(),
    })
}

pub(crate) fn seed_header(header: &SeedHeader, signed: &[u8]) -> Value {
    json!({
        "campaign": long(header.campaign.0), "shard": header.shard.0,
        "generation": header.generation, "sponsors": header.sponsor_count,
        "records_per_chunk": header.chunk_records, "records": header.record_count,
        "chunks": header.chunk_count(), "sum": money(header.sum),
        "plan_digest": hex::encode(&header.plan_digest),
        "merkle_root": hex::encode(&header.merkle_root),
        "key_check": hex::encode(&header.key_check),
        "body_digest": hex::encode(&header.body_digest),
        "sections": header.sections.iter().map(section).collect::<Vec<_>>(),
        "signature": proof(signed, SIGNATURE_BYTES),
    })
}

pub(crate) fn cursor(cursor: &Cursor) -> Value {
    let mut fields = json!({
        "campaign": long(cursor.campaign.0), "shard": cursor.shard.0, "wave": cursor.wave.0,
        "generation": cursor.generation, "epoch": cursor.epoch.0, "h": cursor.high,
        "next_h_max": cursor.next_high_max, "inode": long(cursor.inode),
        "born_ns": long(cursor.born_ns), "merkle_root": hex::encode(&cursor.merkle_root),
        "incarnation": incarnation(cursor.incarnation), "boot_id": hex::encode(&cursor.boot_id),
    });
    if let Some(grant) = &cursor.grant {
        fields["grant"] = json!({
            "id": long(grant.id), "lo": grant.lo, "hi": grant.hi,
            "holder": incarnation(grant.holder), "not_after": time(grant.not_after),
            "until_ns": long(grant.until_ns), "lifetime_us": long(grant.lifetime_us),
        });
    }
    fields
}

pub(crate) fn watermark(watermark: &Watermark) -> Value {
    json!({
        "campaign": long(watermark.campaign.0), "shard": watermark.shard.0,
        "settled": long(watermark.settled),
        "answer_digest": hex::encode(&watermark.answer_digest),
    })
}

pub(crate) fn segment_header(header: &SegmentHeader) -> Value {
    json!({
        "shard": header.shard.0, "campaign": long(header.campaign.0),
        "first_sequence": long(header.first_sequence),
        "incarnation": incarnation(header.incarnation), "epoch": header.epoch.0,
    })
}

pub(crate) fn log_record(record: &Record<'_>) -> Value {
    json!({
        "kind": record.kind, "sequence": long(record.sequence),
        "committed": long(record.committed), "payload": hex::encode(record.payload),
    })
}

pub(crate) fn journal_event(kind: u8, event: &Event) -> Value {
    let (name, said) = match event {
        Event::Start { incarnation: life, boot_id, at } => {
            let life = incarnation(*life);
            let boot_id = hex::encode(boot_id);
            ("START", json!({ "incarnation": life, "boot_id": boot_id, "at": time(*at) }))
        }
        Event::Reserve { wave, high, at } => {
            ("RESERVE", json!({ "wave": wave.0, "h": high, "at": time(*at) }))
        }
        Event::Issue(body) => ("ISSUE", ticket_body(body)),
        Event::Skip { wave, reason, first, count, at } => {
            let name = match reason {
                SkipReason::Restart => "restart",
                SkipReason::Waited => "waited",
                SkipReason::Burnt => "burnt",
            };
            let reason = named(*reason as u8, name);
            let said = json!({
                "wave": wave.0, "reason": reason, "first": first.0, "count": count,
                "at": time(*at),
            });
            ("SKIP", said)
        }
        Event::Close { wave, unissued, sum, at } => {
            let said = json!({
                "wave": wave.0, "unissued": unissued, "sum": money(*sum), "at": time(*at),
            });
            ("CLOSE", said)
        }
        Event::Grant { wave, id, lo, hi, holder, not_after, at } => {
            let said = json!({
                "wave": wave.0, "lo": lo, "hi": hi, "grant": long(*id),
                "not_after": time(*not_after), "holder": incarnation(*holder), "at": time(*at),
            });
            ("GRANT", said)
        }
        Event::Fence { place, at } => {
            let place = named(*place, if *place == 1 { "cursor" } else { "seed file" });
            ("FENCE", json!({ "place": place, "at": time(*at) }))
        }
    };
    json!({ "kind": named(kind, name), "event": said })
}

pub(crate) fn open(open: &Open) -> Value {
    json!({ "accepted_at": time(open.accepted_at), "ticket": ticket(&open.ticket) })
}

pub(crate) fn batch(batch: &Batch, signed: &[u8]) -> Value {
    let record = |(sequence, opened): &(u64, Open)| {
        let mut fields = open(opened);
        fields["sequence"] = long(*sequence);
        fields
    };
    json!({
        "campaign": long(batch.campaign.0), "shard": batch.shard.0, "epoch": batch.epoch.0,
        "incarnation": incarnation(batch.incarnation),
        "records": batch.records.iter().map(record).collect::<Vec<_>>(),
        "signature": proof(signed, SIGNATURE_BYTES),
    })
}

fn open_result(result: OpenResult) -> Value {
    let name = match result {
        OpenResult::Applied => "APPLIED",
        OpenResult::Same => "SAME",
        OpenResult::Conflict => "CONFLICT",
        OpenResult::OverLimit => "OVER_LIMIT",
        OpenResult::Expired => "EXPIRED",
        OpenResult::Invalid => "INVALID",
        OpenResult::Reclaimed => "RECLAIMED",
    };
    named(result as u8, name)
}

pub(crate) fn answer(answer: &Answer, signed: &[u8]) -> Value {
    json!({
        "campaign": long(answer.campaign.0), "shard": answer.shard.0, "epoch": answer.epoch.0,
        "incarnation": incarnation(answer.incarnation),
        "first_sequence": long(answer.first_sequence),
        "last_sequence": long(answer.last_sequence),
        "batch_digest": hex::encode(&answer.batch_digest),
        "settled_at": time(answer.settled_at), "key_id": answer.key_id.0,
        "results": answer.results.iter().copied().map(open_result).collect::<Vec<_>>(),
        "signature": proof(signed, SIGNATURE_BYTES),
    })
}

pub(crate) fn policy(policy: &Policy) -> Value {
    json!({
        "version": long(policy.version), "cue": policy.cue,
        "shake_interval_ms": policy.shake_interval_ms,
        "banned": policy.banned.iter().map(|user| long(user.0)).collect::<Vec<_>>(),
        "vet_amount_min": long(policy.vet_amount_min),
    })
}

pub(crate) fn manifest(manifest: &Manifest) -> Value {
    let sponsor = |plan: &SponsorPlan| {
        json!({
            "sponsor": plan.sponsor.number(), "name": plan.name, "packets": long(plan.packets),
            "sum": money(plan.sum),
        })
    };
    let wave = |plan: &WavePlan| {
        json!({
            "wave": plan.wave.0, "name": plan.name, "duration_us": long(plan.duration_us),
            "packets": long(plan.packets), "sum": money(plan.sum),
        })
    };
    let shard = |entry: &ShardEntry| {
        json!({
            "shard": entry.shard.0, "file": entry.file, "bytes": long(entry.bytes),
            "hash": hex::encode(&entry.hash), "packets": entry.packets, "sum": money(entry.sum),
            "merkle_root": hex::encode(&entry.merkle_root),
        })
    };
    let mut fields = json!({
        "campaign": long(manifest.campaign.0), "name": manifest.name,
        "currency": manifest.currency, "exponent": manifest.exponent,
        "plan_digest": hex::encode(&manifest.plan_digest), "packets": long(manifest.packets),
        "budget": money(manifest.budget), "wins_per_user": manifest.wins_per_user,
        "wins_per_sponsor": manifest.wins_per_sponsor,
        "ticket_lifetime_seconds": long(manifest.ticket_lifetime_seconds),
        "sponsors": manifest.sponsors.iter().map(sponsor).collect::<Vec<_>>(),
        "waves": manifest.waves.iter().map(wave).collect::<Vec<_>>(),
        "shard_count": manifest.shard_count,
        "shards": manifest.shards.iter().map(shard).collect::<Vec<_>>(),
    });
    // Older vectors have no such field.
    if let Some(reclaimed) = &manifest.reclaimed {
        fields["reclaimed"] = json!({
            "generation": reclaimed.generation, "first_shard": reclaimed.first_shard,
            "root_digest": hex::encode(&reclaimed.root_digest),
            "parents": reclaimed.parents.iter().map(parents).collect::<Vec<_>>(),
        });
    }
    fields
}

fn parents(entry: &ParentsEntry) -> Value {
    json!({ "shard": entry.shard.0, "file": entry.file, "hash": hex::encode(&entry.hash) })
}

pub(crate) fn public_key(file: &PublicKeyFile) -> Value {
    let key = hex::encode(&file.key);
    match file.owner {
        KeyOwner::Campaign { campaign } => {
            json!({ "role": "campaign", "campaign": long(campaign.0), "key": key })
        }
        KeyOwner::Ticket { campaign, shard, epoch } => json!({
            "role": "ticket", "campaign": long(campaign.0), "shard": shard.0, "epoch": epoch.0,
            "key": key,
        }),
        KeyOwner::Settlement { key_id } => {
            json!({ "role": "settlement", "key_id": key_id.0, "key": key })
        }
    }
}
