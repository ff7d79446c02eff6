//! Every number that stands for something: error codes, reasons, classes, results, roles, kinds.
//! Round trips alone would not notice two of them swapped.

use super::{
    cases::Case,
    codecs::{CAMPAIGN, EPOCH, SHARD, sign_key},
};
use yao_protocol::{
    Fen, Incarnation, KeyId, PacketId, ShakeId, SponsorId, UserId, WallTime,
    agent::{FromAccess, FromAgent, Greet, Role, Vet, VetKind},
    client::{ErrorCode, GoAway, GoAwayReason, NoWin, NoWinReason, Refusal, RetryClass},
    journal::Event,
    settlement::{Answer, OpenResult},
};

/// One valid case for each number.
pub(crate) fn valid() -> Vec<Case> {
    [errors(), classes(), no_wins(), go_aways(), agents(), results(), fences()].concat()
}

fn errors() -> Vec<Case> {
    let case = |(name, code)| {
        let (class, closes) = (RetryClass::Never, false);
        let refusal = Refusal { code, class, closes, delay_ms: 0, jitter_ms: 0 };
        let mut bytes = Vec::new();
        refusal.put(&mut bytes, 1);
        ("server-message", name, bytes)
    };
    let codes = [
        ("ERROR PROTOCOL", ErrorCode::Protocol),
        ("ERROR VERSION", ErrorCode::Version),
        ("ERROR AUTH_FAILED", ErrorCode::AuthFailed),
        ("ERROR BUSY", ErrorCode::Busy),
        ("ERROR TIMEOUT", ErrorCode::Timeout),
        ("ERROR WRONG_CAMPAIGN", ErrorCode::WrongCampaign),
        ("ERROR TICKET_INVALID", ErrorCode::TicketInvalid),
        ("ERROR TICKET_EXPIRED", ErrorCode::TicketExpired),
        ("ERROR OPEN_REFUSED", ErrorCode::OpenRefused),
        ("ERROR OPEN_UNAVAILABLE", ErrorCode::OpenUnavailable),
    ];
    codes.into_iter().map(case).collect()
}

fn classes() -> Vec<Case> {
    let case = |(name, class)| {
        let (delay_ms, jitter_ms) = (0x0102_0304, 0x0506_0708);
        let refusal = Refusal { code: ErrorCode::Busy, class, closes: true, delay_ms, jitter_ms };
        let mut bytes = Vec::new();
        refusal.put(&mut bytes, 1);
        ("server-message", name, bytes)
    };
    let classes = [
        ("ERROR retry now", RetryClass::Now),
        ("ERROR retry after", RetryClass::After),
        ("ERROR authenticate again", RetryClass::Reauthenticate),
        ("ERROR never retry", RetryClass::Never),
    ];
    classes.into_iter().map(case).collect()
}

fn no_wins() -> Vec<Case> {
    let case = |(name, reason)| {
        let (shake, server_time) = (ShakeId(1), WallTime(2));
        let no_win = NoWin { shake, server_time, interval_ms: 3, cue: 4, reason, tier: 5 };
        let mut bytes = Vec::new();
        no_win.put(&mut bytes, 6);
        ("server-message", name, bytes)
    };
    let reasons = [
        ("NO_WIN 0 none due", NoWinReason::NoneDue),
        ("NO_WIN 1 limit reached", NoWinReason::LimitReached),
        ("NO_WIN 2 not running", NoWinReason::NotRunning),
        ("NO_WIN 3 too soon", NoWinReason::TooSoon),
        ("NO_WIN 4 pending", NoWinReason::Pending),
        ("NO_WIN 5 busy", NoWinReason::Busy),
    ];
    reasons.into_iter().map(case).collect()
}

fn go_aways() -> Vec<Case> {
    let case = |(name, reason)| {
        let (class, endpoints) = (RetryClass::Now, Vec::new());
        let go_away = GoAway { reason, class, delay_ms: 1, jitter_ms: 2, endpoints };
        let mut bytes = Vec::new();
        go_away.put(&mut bytes);
        ("server-message", name, bytes)
    };
    let reasons = [
        ("GOAWAY 1 drain", GoAwayReason::Drain),
        ("GOAWAY 2 replaced", GoAwayReason::Replaced),
        ("GOAWAY 3 overload", GoAwayReason::Overload),
    ];
    reasons.into_iter().map(case).collect()
}

fn agents() -> Vec<Case> {
    let greet = |(name, role)| {
        let software = String::new();
        let greet = Greet { version: 1, role, generation: 1, proof: [0; 16], software };
        let mut bytes = Vec::new();
        FromAgent::Greet(greet).put(&mut bytes, 0);
        ("agent-message", name, bytes)
    };
    let vet = |(name, kind)| {
        let vet = Vet {
            call: 1,
            kind,
            user: UserId(2),
            sponsor: SponsorId::new(63).expect("below 64"),
            amount: Fen(3),
            packet: PacketId(4),
            shake: ShakeId(5),
        };
        let mut bytes = Vec::new();
        FromAccess::Vet(vet).put(&mut bytes, 0);
        ("access-message", name, bytes)
    };
    let roles = [("GREET as vet", Role::Vet), ("GREET as deliver", Role::Deliver)];
    let kinds = [
        ("VET a win", VetKind::Win),
        ("VET an open", VetKind::Open),
        ("VET to probe", VetKind::Probe),
    ];
    roles.into_iter().map(greet).chain(kinds.into_iter().map(vet)).collect()
}

fn results() -> Vec<Case> {
    let answer = Answer {
        campaign: CAMPAIGN,
        shard: SHARD,
        epoch: EPOCH,
        incarnation: Incarnation([1; 16]),
        first_sequence: 1,
        last_sequence: 6,
        batch_digest: [8; 32],
        settled_at: WallTime(9),
        key_id: KeyId(1),
        results: vec![
            OpenResult::Applied,
            OpenResult::Same,
            OpenResult::Conflict,
            OpenResult::OverLimit,
            OpenResult::Expired,
            OpenResult::Invalid,
        ],
    };
    vec![("settlement-answer", "every result", answer.encode(&sign_key()))]
}

fn fences() -> Vec<Case> {
    let (kind, payload) = Event::Fence { place: 2, at: WallTime(1) }.encode();
    vec![("journal-event", "FENCE by the seed file", [vec![kind], payload].concat())]
}
