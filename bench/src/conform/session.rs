//! Cases of wire.md 9: states, draws, opens, deadlines, and the end of a session.

use super::{
    case::{Answer, Case, Refused, Step, case, expect, refused, send, unasked},
    facts::Facts,
    frames::{frame, goes_on, open, ping},
};
use std::ops::RangeInclusive;
use yao_protocol::{
    CampaignId, Epoch, Fen, PacketId, PacketIndex, ShakeId, ShardId, SponsorId, UserId, WallTime,
    WaveIndex,
    client::{Shake, kind, put_open},
    keys::SignKey,
    ticket::{TICKET_BYTES, TicketBody},
};

/// How late a deadline may fire, ms (wire.md 9.5).
const DEADLINE_LATE_MS: u64 = 400;
/// Heartbeats longer than this are not waited for, ms.
const HEARTBEAT_MS_MAX: u32 = 20_000;
/// PONGs that are left unread come to far more than 262,144 bytes and what kernels hold.
const FLOOD_TIMES: usize = 4_000;
const FLOOD_PINGS: usize = 1_000;

pub(super) fn cases(facts: &Facts) -> Vec<Case> {
    let mut cases = states(facts);
    cases.extend(draws(facts));
    cases.extend(opens(facts));
    cases.extend(deadlines(facts));
    cases.extend(heartbeats(facts));
    cases.extend(ends(facts));
    cases
}

/// SHAKE is what it is answered with in the states that take it: anything but "not drawn".
pub(super) fn drawn(shake: ShakeId) -> Answer {
    Answer::OneOf(vec![Answer::NoWin(shake, &[0, 1, 2, 5], 0..=u32::MAX), Answer::Win(shake)])
}

fn opening(request_id: u32, ticket: &[u8; TICKET_BYTES]) -> Vec<u8> {
    let mut bytes = Vec::new();
    put_open(&mut bytes, request_id, ticket);
    bytes
}

fn states(facts: &Facts) -> Vec<Case> {
    let shake = facts.shake(9, ShakeId(7), false);
    let frames = [("SHAKE", shake), ("OPEN", opening(9, &[0; TICKET_BYTES])), ("PING", ping(9))];
    let mut cases = Vec::new();
    for (name, bytes) in frames {
        let what = format!("{name} before HELLO");
        let early = [send(bytes.clone()), refused(9, Refused::PROTOCOL)];
        cases.push(case("9.1", what, early));
        let what = format!("{name} behind HELLO, before WELCOME");
        let both = [facts.hello(facts.user()), bytes].concat();
        cases.push(case("9.1", what, [send(both), refused(9, Refused::PROTOCOL)]));
    }
    let bye = frame(kind::BYE, 0, 0, &[]);
    let closed = || vec![Step::Closed];
    cases.push(case("3.5", "BYE before HELLO", [send(bye.clone()), closed()]));
    let both = [facts.hello(facts.user()), bye.clone()].concat();
    cases.push(case("3.5", "BYE behind HELLO, before WELCOME", [send(both), closed()]));
    cases.push(case("3.5", "BYE after WELCOME", [open(facts), send(bye), closed()]));
    cases
}

fn draws(facts: &Facts) -> Vec<Case> {
    let (first, second) = (ShakeId(0x51), ShakeId(0x52));
    let interval = facts.welcome.shake_interval_ms;
    let mut cases = Vec::new();
    let one = |id, shake, resend| send(facts.shake(id, shake, resend));
    let what = "a draw is answered";
    cases.push(case("9.3", what, [open(facts), one(2, first, false), expect(2, drawn(first))]));
    let what = "a draw that says RESEND is answered, though nobody knows it";
    cases.push(case("9.3", what, [open(facts), one(2, first, true), expect(2, drawn(first))]));
    let what = "a second RESEND within a second is not drawn";
    let early = expect(3, Answer::NoWin(second, &[3, 4], 1_000..=1_000));
    let both = [facts.shake(2, first, true), facts.shake(3, second, true)].concat();
    let first_two = vec![(2, drawn(first)), (3, Answer::NoWin(second, &[3, 4], 1_000..=1_000))];
    cases.push(case("9.3", what, [open(facts), send(both), vec![Step::Expect(first_two)]]));
    let what = "a RESEND does not use up the interval";
    let steps = [
        open(facts),
        one(2, first, true),
        expect(2, drawn(first)),
        one(3, second, true),
        early,
        one(4, second, false),
        expect(4, drawn(second)),
    ];
    cases.push(case("9.3", what, steps));
    let what = "a SHAKE before the interval is over is not drawn";
    if interval == 0 {
        cases.push(unasked("9.3", what, "the shake interval is 0"));
    } else {
        let both = [facts.shake(2, first, false), facts.shake(3, second, false)].concat();
        let too_soon = Answer::NoWin(second, &[3], 0..=interval);
        let answers = vec![Step::Expect(vec![(2, drawn(first)), (3, too_soon)])];
        cases.push(case("9.3", what, [open(facts), send(both), answers]));
        let what = "a SHAKE after the interval is drawn";
        let pause = u64::from(interval) + 50;
        let steps = [
            open(facts),
            one(2, first, false),
            expect(2, drawn(first)),
            vec![Step::Silence(pause)],
            one(3, second, false),
            expect(3, drawn(second)),
        ];
        cases.push(case("9.3", what, steps));
    }
    let what = "SHAKE with request id 0";
    let bad = one(0, first, false);
    cases.push(case("9.3", what, [open(facts), bad, refused(0, Refused::PROTOCOL)]));
    let mut other = Vec::new();
    let campaign = CampaignId(facts.campaign.0 ^ 1);
    Shake { shake: first, campaign, merged_count: 1, resend: false }.put(&mut other, 2);
    let what = "SHAKE names another campaign than HELLO";
    cases.push(case("3.3", what, [open(facts), send(other), refused(2, Refused::WRONG_CAMPAIGN)]));
    let mut merged = facts.shake(2, first, false);
    merged[24..26].copy_from_slice(&u16::MAX.to_le_bytes());
    let what = "65,535 merged shakes are one draw";
    cases.push(case("3.3", what, [open(facts), send(merged), expect(2, drawn(first))]));
    cases
}

/// A ticket of `user` under a key that nobody knows.
fn forged(facts: &Facts, user: UserId, shard: u32, epoch: u32) -> [u8; TICKET_BYTES] {
    let shard = ShardId(shard);
    let body = TicketBody {
        campaign: facts.campaign,
        packet: PacketId::new(0, shard, PacketIndex(3)),
        user,
        amount: Fen(100),
        shake: ShakeId(1),
        issued_at: facts.welcome.server_time,
        expires_at: WallTime(u64::MAX),
        shard,
        epoch: Epoch(epoch),
        sponsor: SponsorId::new(0).expect("below 64"),
        wave: WaveIndex(0),
    };
    body.sign(&SignKey::from_seed(&[0x55; 32])).encode()
}

fn opens(facts: &Facts) -> Vec<Case> {
    let invalid = || refused(2, Refused::TICKET_INVALID);
    let mut cases = Vec::new();
    for (what, ticket) in [("of zeros", [0; TICKET_BYTES]), ("of ones", [0xff; TICKET_BYTES])] {
        let what = format!("a ticket {what}");
        let steps = [open(facts), send(opening(2, &ticket)), invalid(), goes_on(3)];
        cases.push(case("9.4", what, steps));
    }
    let (user, other) = (facts.user(), facts.user());
    let session = || [send(facts.hello(user)), expect(1, Answer::Welcome)].concat();
    let unknown = forged(facts, user, 0x00ff_fffe, 77);
    let what = "a ticket whose key the server does not have";
    let steps = [session(), send(opening(2, &unknown)), refused(2, Refused::KEY_MISSING)];
    cases.push(case("9.4", what, [steps.concat(), goes_on(3)]));
    let theirs = forged(facts, other, 0x00ff_fffe, 77);
    let what = "another user's ticket: judged before its key";
    let user = facts.user();
    let hello = [send(facts.hello(user)), expect(1, Answer::Welcome)].concat();
    cases.push(case("9.4", what, [hello, send(opening(2, &theirs)), invalid(), goes_on(3)]));
    let what = "many opens at once: each is answered, from the ninth on perhaps with BUSY";
    let all: Vec<u8> = (2..34).flat_map(|id| opening(id, &[0; TICKET_BYTES])).collect();
    let answer = |id| {
        let invalid = Answer::Error(Refused::TICKET_INVALID);
        let busy = Answer::Error(Refused::OPEN_BUSY);
        (id, if id < 10 { invalid } else { Answer::OneOf(vec![invalid, busy]) })
    };
    let answers = vec![Step::Expect((2..34).map(answer).collect())];
    cases.push(case("9.4", what, [open(facts), send(all), answers, goes_on(40)]));
    cases
}

/// When the answer to a deadline of `ms` may come, from the mark on.
fn due(facts: &Facts, ms: u64) -> RangeInclusive<u64> {
    ms..=ms + DEADLINE_LATE_MS + facts.slack_ms
}

pub(super) fn timeout(facts: &Facts, ms: u64) -> Vec<Step> {
    [vec![Step::After(due(facts, ms))], refused(0, Refused::TIMEOUT)].concat()
}

fn slowly(bytes: Vec<u8>) -> Vec<Step> {
    vec![Step::Trickle { bytes, piece: 1, pause_ms: 400 }]
}

/// Over QUIC a stream on which nothing came is none to the server: it has nowhere to answer.
fn nothing(facts: &Facts) -> Case {
    let ended = if facts.is_quic {
        vec![Step::Silence(facts.greeting_ms * 9 / 10), Step::Closed]
    } else {
        timeout(facts, facts.greeting_ms)
    };
    case("9.5", "nothing at all instead of HELLO", [ended])
}

fn deadlines(facts: &Facts) -> Vec<Case> {
    let (greeting, cut) = (facts.greeting_ms, facts.frame_ms);
    let hello = || facts.hello(facts.user());
    let part = |ms: u64| usize::try_from(ms / 400).unwrap_or(usize::MAX).min(40);
    let mark = || vec![Step::Mark];
    let mut cases = vec![
        nothing(facts),
        case("9.5", "a byte instead of HELLO", [send([0x42]), timeout(facts, greeting)]),
        case(
            "9.5",
            "HELLO but for its last byte",
            [send(&hello()[..hello().len() - 1]), timeout(facts, greeting)],
        ),
        case(
            "9.5",
            "HELLO a byte at a time, too slowly: one deadline for all of it",
            [slowly(hello()[..part(greeting)].to_vec()), timeout(facts, greeting)],
        ),
    ];
    let what = "frames that are ignored do not put HELLO's deadline off";
    let odd: Vec<u8> = (0..part(greeting)).flat_map(|_| frame(0x7f, 0, 1, &[])).collect();
    let odd = vec![Step::Trickle { bytes: odd, piece: 8, pause_ms: 400 }];
    cases.push(case("9.5", what, [odd, timeout(facts, greeting)]));
    if u64::from(facts.welcome.heartbeat_ms_max) <= cut + 1_000 {
        let reason = "the heartbeat is over before a frame's deadline";
        cases.push(unasked("9.5", "a frame that is cut after WELCOME", reason));
        return cases;
    }
    let what = "a frame that is cut after WELCOME";
    let steps = [open(facts), mark(), send(&ping(2)[..5]), timeout(facts, cut)];
    cases.push(case("9.5", what, steps));
    let what = "a payload that does not come after WELCOME";
    let steps = [open(facts), mark(), send(&frame(0x7f, 0, 2, &[1])[..8]), timeout(facts, cut)];
    cases.push(case("9.5", what, steps));
    let what = "a frame that comes a byte at a time, too slowly";
    let long = frame(0x7f, 0, 2, &[1; 100])[..part(cut)].to_vec();
    cases.push(case("9.5", what, [open(facts), mark(), slowly(long), timeout(facts, cut)]));
    let what = "a frame that comes slowly but in time";
    let steps = [open(facts), slowly(ping(2)[..5].to_vec()), send(&ping(2)[5..])];
    cases.push(case("9.5", what, [steps.concat(), expect(2, Answer::Pong)]));
    cases
}

fn heartbeats(facts: &Facts) -> Vec<Case> {
    let silence = facts.welcome.heartbeat_ms_max;
    let (what, other) = ("silence after WELCOME", "PINGs before that keep the session");
    if silence > HEARTBEAT_MS_MAX {
        let reason = "the heartbeat is too long to be waited for";
        return vec![unasked("9.5", what, reason), unasked("9.5", other, reason)];
    }
    let silence = u64::from(silence);
    // From before HELLO was sent: its last byte came later, and so does the end.
    let late = silence..=silence + DEADLINE_LATE_MS + facts.slack_ms;
    let mark = vec![Step::Mark];
    let ended = [vec![Step::After(late)], refused(0, Refused::TIMEOUT)].concat();
    let beat = |id| [vec![Step::Silence(silence * 3 / 4)], goes_on(id)].concat();
    vec![
        case("9.5", what, [mark, open(facts), ended]),
        case("9.5", other, [open(facts), beat(2), beat(3)]),
    ]
}

fn ends(facts: &Facts) -> Vec<Case> {
    let user = facts.user();
    let session = || [send(facts.hello(user)), expect(1, Answer::Welcome)].concat();
    let replaced = [
        session(),
        vec![Step::On(1)],
        session(),
        vec![Step::On(0)],
        expect(0, Answer::Replaced),
        vec![Step::Closed, Step::On(1)],
        goes_on(2),
    ];
    let what = "the newest session of a user replaces the older";
    let mut cases = vec![case("4.6", what, replaced)];
    let pings: Vec<u8> = (0..FLOOD_PINGS).flat_map(|_| ping(2)).collect();
    let flood = vec![Step::Flood(pings, FLOOD_TIMES)];
    let what = "a client that does not read its answers is cut";
    cases.push(case("9.6", what, [open(facts), flood]));
    cases
}
