//! The cases of the golden vectors: every message and record, valid, and wrong in each way that a
//! reader must notice.

use super::codecs::{CAMPAIGN, EPOCH, SHARD, mac_key, shard_key, sign_key};
use std::sync::LazyLock;
use yao_protocol::{
    Fen, Incarnation, KeyId, PacketId, PacketIndex, ShakeId, SponsorId, SponsorSet, UserId,
    WallTime, WaveIndex,
    agent::{FromAccess, FromAgent, Greet, Role, Standing, Vet, VetKind},
    client::{
        ErrorCode, GoAway, GoAwayReason, Hello, NoWin, NoWinReason, Refusal, RetryClass, Shake,
        Welcome, kind, put_empty, put_open, put_pong, put_receipt, put_reconnect, put_win,
    },
    cursor::{self, Cursor},
    frame::put_frame,
    journal::{self, Event, SkipReason},
    log::{Record, SegmentHeader},
    policy::Policy,
    receipt::Receipt,
    reconnect::ReconnectTicket,
    seed_file::{Section, SeedHeader, SeedRecord, Segment},
    settlement::{Answer, Batch, OpenResult},
    slots::Slot,
    spool::{Open, Watermark},
    tally::Tally,
    ticket::{Ticket, TicketBody},
    token::Bearer,
};

/// Format, name, bytes.
pub(crate) type Case = (&'static str, &'static str, Vec<u8>);

const NOW: WallTime = WallTime(1_424_269_800_000_000);

fn sponsor(number: u8) -> SponsorId {
    SponsorId::new(number).expect("below 64")
}

fn packet(index: u32) -> PacketId {
    PacketId::new(0, SHARD, PacketIndex(index))
}

fn ticket() -> Ticket {
    let body = TicketBody {
        campaign: CAMPAIGN,
        packet: packet(188_087),
        user: UserId(1_234_567_890_123),
        amount: Fen(417),
        shake: ShakeId(0x0102_0304_0506_0708),
        issued_at: NOW,
        expires_at: NOW.plus_us(72 * 3_600 * 1_000_000),
        shard: SHARD,
        epoch: EPOCH,
        sponsor: sponsor(5),
        wave: WaveIndex(0),
    };
    body.sign(&sign_key())
}

fn tally() -> Tally {
    Tally {
        campaign: CAMPAIGN,
        user: UserId(1_234_567_890_123),
        wins: 2,
        sponsors: SponsorSet::EMPTY.with(sponsor(0)).with(sponsor(5)),
        counted_at: NOW,
    }
}

fn receipt() -> Receipt {
    let user = UserId(1_234_567_890_123);
    Receipt { campaign: CAMPAIGN, packet: packet(188_087), user, accepted_at: NOW.plus_us(999) }
}

fn reconnect() -> ReconnectTicket {
    ReconnectTicket {
        user: UserId(1_234_567_890_123),
        device: 5,
        risk: 2,
        issued_at: NOW,
        expires_at: NOW.plus_us(1_200 * 1_000_000),
        token_expires_at: NOW.plus_us(86_400 * 1_000_000),
    }
}

/// The bytes that `write` appends.
fn made(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out);
    out
}

/// Every valid case; made once, for signing takes its time.
pub(crate) fn valid() -> &'static [Case] {
    static CASES: LazyLock<Vec<Case>> = LazyLock::new(all);
    &CASES
}

fn all() -> Vec<Case> {
    [plain(), super::numbers::valid(), super::grants::numbers()].concat()
}

/// Those whose every cut and scrambled form is published too.
fn plain() -> Vec<Case> {
    [
        frames(),
        client(),
        server(),
        agent(),
        proofs(),
        disk(),
        events(),
        settlement(),
        super::grants::plain(),
        super::texts::valid(),
        super::reclaim::valid(),
    ]
    .concat()
}

fn frames() -> Vec<Case> {
    let framed = |payload: &[u8]| made(|out| put_frame(out, 3, 1, 77, |out| out.extend(payload)));
    vec![
        ("frame", "no payload", framed(&[])),
        ("frame", "five bytes", framed(b"hello")),
        ("frame", "as much as fits before WELCOME", framed(&[0x5a; 1_024])),
    ]
}

fn client() -> Vec<Case> {
    const FORMAT: &str = "client-message";
    let proved = tally().encode(&mac_key());
    let token = b"eyJhbGciOiJFZERTQSIsImtpZCI6ImRldi0xIn0.e30.c2ln";
    let hello = Hello {
        version_min: 1,
        version_max: 1,
        software: 0x0001_0002,
        campaign: CAMPAIGN,
        tally: None,
        token,
    };
    let known = Hello { tally: Some(&proved), ..hello };
    let back = reconnect().encode(&mac_key());
    let returning = Hello { token: &back, ..known };
    let shake =
        Shake { shake: ShakeId(u64::MAX), campaign: CAMPAIGN, merged_count: 1, resend: false };
    let again = Shake { merged_count: 7, resend: true, ..shake };
    vec![
        (FORMAT, "HELLO without tally", made(|out| hello.put(out, 1))),
        (FORMAT, "HELLO with tally", made(|out| known.put(out, 1))),
        (FORMAT, "HELLO with reconnect ticket", made(|out| returning.put(out, 1))),
        (FORMAT, "SHAKE", made(|out| shake.put(out, 2))),
        (FORMAT, "SHAKE merged and sent again", made(|out| again.put(out, 2))),
        (FORMAT, "OPEN", made(|out| put_open(out, 3, &ticket().encode()))),
        (FORMAT, "PING", made(|out| put_empty(out, kind::PING, 4))),
        (FORMAT, "BYE", made(|out| put_empty(out, kind::BYE, 0))),
        (FORMAT, "unknown but optional", made(|out| put_frame(out, 0x4f, 9, 5, |out| out.push(1)))),
    ]
}

fn server() -> Vec<Case> {
    const FORMAT: &str = "server-message";
    let welcome = Welcome {
        version: 1,
        tier: 0,
        cue: 3,
        shake_interval_ms: 1_000,
        heartbeat_ms_min: 15_000,
        heartbeat_ms_max: 300_000,
        server_time: NOW,
        campaign: CAMPAIGN,
        wins_per_user: 3,
        endpoints: vec!["node-2.example:7000".to_owned(), "[2001:db8::1]:7000".to_owned()],
    };
    let no_win = NoWin {
        shake: ShakeId(u64::MAX),
        server_time: NOW,
        interval_ms: 1_000,
        cue: 3,
        reason: NoWinReason::NoneDue,
        tier: 0,
    };
    let busy = NoWin { reason: NoWinReason::Busy, interval_ms: 5_000, tier: 2, ..no_win };
    let go_away = GoAway {
        reason: GoAwayReason::Drain,
        class: RetryClass::After,
        delay_ms: 1_000,
        jitter_ms: 30_000,
        endpoints: vec!["node-3.example:7000".to_owned()],
    };
    let refusal = Refusal {
        code: ErrorCode::Busy,
        class: RetryClass::After,
        closes: false,
        delay_ms: 1_000,
        jitter_ms: 1_000,
    };
    let last = Refusal {
        code: ErrorCode::AuthFailed,
        class: RetryClass::Reauthenticate,
        closes: true,
        delay_ms: 0,
        jitter_ms: 0,
    };
    let win = |out: &mut Vec<u8>| put_win(out, 2, &ticket().encode(), &tally().encode(&mac_key()));
    let proof = receipt().encode(&mac_key());
    let back = reconnect().encode(&mac_key());
    vec![
        (FORMAT, "WELCOME", made(|out| welcome.put(out, 1))),
        (FORMAT, "PONG", made(|out| put_pong(out, 4, NOW))),
        (FORMAT, "NO_WIN none due", made(|out| no_win.put(out, 2))),
        (FORMAT, "NO_WIN busy", made(|out| busy.put(out, 2))),
        (FORMAT, "WIN", made(win)),
        (FORMAT, "RECEIPT", made(|out| put_receipt(out, 3, &proof))),
        (FORMAT, "GOAWAY", made(|out| go_away.put(out))),
        (FORMAT, "ERROR that stays", made(|out| refusal.put(out, 3))),
        (FORMAT, "ERROR that closes", made(|out| last.put(out, 1))),
        (FORMAT, "RECONNECT", made(|out| put_reconnect(out, &back))),
    ]
}

fn agent() -> Vec<Case> {
    let (from_agent, from_access) = ("agent-message", "access-message");
    let greet = FromAgent::Greet(Greet {
        version: 1,
        role: Role::Deliver,
        generation: 4,
        proof: [0xab; 16],
        software: "yao-agent 0.1.0".to_owned(),
    });
    let policy = policy().encode();
    let vet = FromAccess::Vet(Vet {
        call: 77,
        kind: VetKind::Win,
        user: UserId(1_234_567_890_123),
        sponsor: sponsor(5),
        amount: Fen(417),
        packet: packet(188_087),
        shake: ShakeId(3),
    });
    let bearer = Bearer { device: 0x1122_3344_5566_7788, risk: 3 };
    let won = Standing { bearer, user_wins: 2, device_wins: 255 };
    let win = FromAccess::Standing { call: 77, standing: won };
    let opens = Standing { bearer, ..Standing::default() };
    let open = FromAccess::Standing { call: 1 << 63, standing: opens };
    let agent = |message: &FromAgent<'_>| made(|out| message.put(out, 9));
    let access = |message: &FromAccess<'_>| made(|out| message.put(out, 9));
    vec![
        (from_agent, "GREET", agent(&greet)),
        (from_agent, "VERDICT yes", agent(&FromAgent::Verdict { call: 77, allowed: true })),
        (from_agent, "VERDICT no", agent(&FromAgent::Verdict { call: 78, allowed: false })),
        (from_agent, "DELIVERED", agent(&FromAgent::Delivered(b"answer"))),
        (from_agent, "UNDELIVERED", agent(&FromAgent::Undelivered { retry_after_ms: 250 })),
        (from_agent, "GRANT_ANSWER", agent(&FromAgent::GrantAnswer(b"answer"))),
        (
            from_agent,
            "GRANT_UNANSWERED",
            agent(&FromAgent::GrantUnanswered { retry_after_ms: 250 }),
        ),
        (from_agent, "POLICY", agent(&FromAgent::Policy(&policy))),
        (from_agent, "BYE", agent(&FromAgent::Bye)),
        (from_access, "GREETED", access(&FromAccess::Greeted { version: 1 })),
        (from_access, "VET", access(&vet)),
        (from_access, "DELIVER", access(&FromAccess::Deliver(b"batch"))),
        (from_access, "GRANT_ASK", access(&FromAccess::GrantAsk(b"request"))),
        (from_access, "DRAIN", access(&FromAccess::Drain)),
        (from_access, "STANDING before a win", access(&win)),
        (from_access, "STANDING before an open", access(&open)),
        ("policy", "every field", policy.clone()),
        ("policy", "defaults", Policy::default().encode()),
    ]
}

fn policy() -> Policy {
    Policy {
        version: 7,
        cue: 3,
        shake_interval_ms: Some(5_000),
        banned: vec![UserId(5), UserId(9)],
        vet_amount_min: 100,
    }
}

fn proofs() -> Vec<Case> {
    let token_expires_at = reconnect().expires_at;
    let ends = ReconnectTicket { token_expires_at, ..reconnect() };
    vec![
        ("ticket", "a win", ticket().encode().to_vec()),
        ("tally", "two wins", tally().encode(&mac_key()).to_vec()),
        ("tally", "none", Tally::empty(CAMPAIGN, UserId(0)).encode(&mac_key()).to_vec()),
        ("receipt", "an open", receipt().encode(&mac_key()).to_vec()),
        ("reconnect-ticket", "twenty minutes", reconnect().encode(&mac_key()).to_vec()),
        ("reconnect-ticket", "until the token ends", ends.encode(&mac_key()).to_vec()),
    ]
}

pub(crate) fn cursor() -> Cursor {
    Cursor {
        campaign: CAMPAIGN,
        shard: SHARD,
        generation: 0,
        wave: WaveIndex(0),
        epoch: EPOCH,
        merkle_root: [0x5a; 32],
        incarnation: Incarnation([1; 16]),
        high: 752,
        next_high_max: 1_003,
        inode: 4_711,
        born_ns: 1_424_269_000_000_000_123,
        boot_id: [2; 16],
        asked: false,
        grant: None,
    }
}

/// `plain` as chunk 3 of the vectors' shard.
fn sealed(plain: &[u8]) -> Vec<u8> {
    let mut out = plain.to_vec();
    shard_key().seal(&[1; 32], 3, &mut out);
    out
}

fn disk() -> Vec<Case> {
    let record = SeedRecord { offset_us: 2_399_999_999, amount: Fen(417), sponsor: sponsor(7) };
    let other = SeedRecord { offset_us: 0, amount: Fen(u64::from(u32::MAX)), sponsor: sponsor(0) };
    let header = SeedHeader {
        campaign: CAMPAIGN,
        shard: SHARD,
        generation: 0,
        sponsor_count: 8,
        chunk_records: 4_000,
        record_count: 188_088,
        sum: Fen(78_370_000),
        plan_digest: [1; 32],
        merkle_root: [2; 32],
        key_check: [3; 32],
        body_digest: [4; 32],
        sections: vec![Section {
            wave: WaveIndex(0),
            first: PacketIndex(0),
            count: 188_088,
            sum: Fen(78_370_000),
            segments: vec![Segment { duration_us: 2_400_000_000, packets: 188_088 }],
        }],
    };
    let segment = SegmentHeader {
        campaign: CAMPAIGN,
        shard: SHARD,
        epoch: EPOCH,
        incarnation: Incarnation([1; 16]),
        first_sequence: 5,
    };
    let watermark =
        Watermark { campaign: CAMPAIGN, shard: SHARD, settled: 4_711, answer_digest: [6; 32] };
    let written = Record { kind: 3, sequence: 5, committed: 4, payload: b"payload" };
    let open = Open { accepted_at: NOW.plus_us(999), ticket: ticket() };
    let granted = Cursor { grant: Some(super::grants::a_record()), ..cursor() };
    let slot = Slot { sequence: 6, payload: cursor().encode() };
    vec![
        ("seed-record", "a packet", record.encode().to_vec()),
        ("seed-header", "shard 17", header.encode(&sign_key())),
        ("seed-chunk", "two records", sealed(&[record.encode(), other.encode()].concat())),
        ("seed-chunk", "no record", sealed(&[])),
        ("cursor", "in the middle of a wave", cursor().encode()),
        ("cursor", "under a grant", granted.encode()),
        ("cursor", "settlement was asked", Cursor { asked: true, ..cursor() }.encode()),
        ("slot", "a cursor", slot.encode(cursor::MAGIC)),
        ("watermark", "settled", watermark.encode()),
        ("segment-header", "a journal", segment.encode(journal::MAGIC)),
        ("log-record", "sequence 5", made(|out| written.put(out))),
        ("spool-open", "an open", open.encode().to_vec()),
    ]
}

fn events() -> Vec<Case> {
    let (wave, at) = (WaveIndex(0), NOW);
    let start = Event::Start { incarnation: Incarnation([1; 16]), boot_id: [2; 16], at };
    let skip = |reason, first, count| Event::Skip { wave, reason, first, count, at };
    let grant = super::grants::a_record();
    let granted = Event::Grant {
        wave,
        id: grant.id,
        lo: grant.lo,
        hi: grant.hi,
        holder: grant.holder,
        not_after: grant.not_after,
        at,
    };
    let case = |name, event: &Event| {
        let (kind, payload) = event.encode();
        ("journal-event", name, [vec![kind], payload].concat())
    };
    vec![
        case("START", &start),
        case("RESERVE", &Event::Reserve { wave, high: 752, at }),
        case("ISSUE", &Event::Issue(ticket().body)),
        case("SKIP after a restart", &skip(SkipReason::Restart, PacketIndex(500), 252)),
        case("SKIP after waiting", &skip(SkipReason::Waited, PacketIndex(7), 1)),
        case("SKIP of what was burnt", &skip(SkipReason::Burnt, PacketIndex(500), 65_000)),
        case("GRANT", &granted),
        case("CLOSE", &Event::Close { wave, unissued: 12, sum: Fen(4_711), at }),
        case("FENCE", &Event::Fence { place: 1, at }),
    ]
}

fn settlement() -> Vec<Case> {
    let open = Open { accepted_at: NOW.plus_us(999), ticket: ticket() };
    let batch = Batch {
        campaign: CAMPAIGN,
        shard: SHARD,
        epoch: EPOCH,
        incarnation: Incarnation([1; 16]),
        records: vec![(5, open), (6, open)],
    };
    let bytes = batch.encode(&sign_key());
    let results = vec![OpenResult::Applied, OpenResult::Same];
    let answer = Answer::to_batch(&batch, &bytes, NOW.plus_us(5_000), KeyId(1), results);
    let answer = answer.encode(&sign_key());
    vec![
        ("settlement-batch", "two opens of one packet", bytes),
        ("settlement-answer", "applied and same", answer),
    ]
}

/// Every invalid case: those crafted, and each valid one cut short, made longer, and with each byte
/// that must hold a fixed or bounded value set to 0xee.
pub(crate) fn invalid() -> Vec<(&'static str, String, Vec<u8>)> {
    let mut cases =
        [super::crafted::invalid(), super::texts::invalid(), super::reclaim::invalid()].concat();
    for (format, name, bytes) in plain() {
        let (_, codec) =
            super::codecs::CODECS.iter().find(|(known, _)| *known == format).expect("known");
        let mut add = |what: String, bytes: Vec<u8>| {
            if codec(&bytes).is_err() {
                cases.push((format, format!("{name}: {what}"), bytes));
            }
        };
        add("without its last byte".to_owned(), bytes[..bytes.len() - 1].to_vec());
        add("empty".to_owned(), Vec::new());
        add("a byte too long".to_owned(), [bytes.clone(), vec![1]].concat());
        // The first bytes hold versions, kinds, reserved fields; later ones are covered by proofs.
        let tried = match format {
            "token-claims" | "public-key" => 1,
            _ if bytes.len() > 1_000 => 6,
            _ => 32,
        };
        for at in 0..bytes.len().min(tried) {
            let mut wrong = bytes.clone();
            wrong[at] = 0xee;
            add(format!("byte {at} is 0xee"), wrong);
        }
    }
    cases
}
