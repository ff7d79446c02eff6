//! Cases of wire.md 9.5 and 9.6: deadlines, and ends without a frame.

use super::{
    case::{
        Answer, Below, Case, DEADLINE_EARLY_MS, DEADLINE_LATE_MS, Refused, Step, When, case,
        case_if, elsewhere, expect, refused, send,
    },
    facts::{Facts, Way},
    frames::{UNKNOWN, frame, goes_on, open, ping},
    states::{at_drain, leaving},
    told::Ending,
    transport::Rule,
};
use std::ops::RangeInclusive;

/// Heartbeats longer than this are not waited for, ms.
const HEARTBEAT_MS_MAX: u32 = 20_000;
/// How long a client that was asked to leave may stay, ms (wire.md 9.5).
const LEAVE_MS: u64 = 2_000;
/// Between two bytes of somebody who is slow, ms.
const SLOW_MS: u64 = 400;
/// PONGs that are left unread come to far more than 262,144 bytes and what kernels hold.
const FLOOD_TIMES: usize = 4_000;
const FLOOD_PINGS: usize = 1_000;

pub(super) fn cases(facts: &Facts) -> Vec<Case> {
    let mut cases = greetings(facts);
    cases.extend(frames(facts));
    cases.extend(records(facts));
    cases.extend(heartbeats(facts));
    cases.extend(room(facts));
    cases.extend(ends(facts));
    cases
}

/// When the answer to a deadline of `ms` may come, from the mark on.
pub(super) fn due(facts: &Facts, ms: u64) -> RangeInclusive<u64> {
    ms.saturating_sub(DEADLINE_EARLY_MS)..=ms + DEADLINE_LATE_MS + facts.told.slack_ms
}

pub(super) fn timeout(facts: &Facts, ms: u64) -> Vec<Step> {
    [vec![Step::After(due(facts, ms))], refused(0, Refused::TIMEOUT)].concat()
}

fn mark() -> Vec<Step> {
    vec![Step::Mark]
}

fn slowly(bytes: Vec<u8>) -> Vec<Step> {
    vec![Step::Trickle { bytes, piece: 1, pause_ms: SLOW_MS }]
}

/// So many slow bytes that a deadline of `ms` is over before the last one.
fn slow_count(ms: u64) -> usize {
    usize::try_from(ms / SLOW_MS).unwrap_or(usize::MAX).min(40)
}

fn greetings(facts: &Facts) -> Vec<Case> {
    let greeting = facts.told.greeting_ms;
    let late = || timeout(facts, greeting);
    let hello = || facts.hello(facts.user());
    let what = "nothing at all instead of HELLO";
    // Over QUIC a stream on which nothing came is none to the server: it has nowhere to answer.
    let (plain, quic) = if facts.way == Way::Quic {
        let window = vec![Step::Connect, Step::After(due(facts, greeting)), Step::Closed];
        (elsewhere("W9.5-03", what, "TCP and TLS"), case("W9.6-03", what, [window]))
    } else {
        let steps = [vec![Step::Connect], late()];
        (case("W9.5-03", what, steps), elsewhere("W9.6-03", what, "QUIC"))
    };
    let slow = slowly(hello()[..slow_count(greeting)].to_vec());
    let odd = frame(UNKNOWN, 0, 1, &[]).repeat(slow_count(greeting));
    let odd = vec![Step::Trickle { bytes: odd, piece: 8, pause_ms: SLOW_MS }];
    let cut = hello();
    vec![
        plain,
        quic,
        case("W9.5-03.byte", "a byte instead of HELLO", [send([0x42]), late()]),
        case("W9.5-03.cut", "HELLO but for its last byte", [send(&cut[..cut.len() - 1]), late()]),
        case("W9.5-03.slow", "HELLO a byte at a time: one deadline for all of it", [slow, late()]),
        case("W9.5-03.ignored", "ignored frames do not put HELLO's deadline off", [odd, late()]),
    ]
}

/// Deadlines of a session's frames, which are over before it is silent for too long.
fn frames(facts: &Facts) -> Vec<Case> {
    let cut = facts.told.frame_ms;
    let asked = |id: &str, what: &str, bytes: Vec<Step>| {
        let steps = [open(facts), mark(), bytes, timeout(facts, cut)].concat();
        case_if(id, what, askable(facts, steps))
    };
    let long = frame(UNKNOWN, 0, 2, &[1; 100]);
    let slow = slowly(long[..slow_count(cut)].to_vec());
    let in_time = [open(facts), slowly(ping(2)[..5].to_vec()), send(&ping(2)[5..])].concat();
    let in_time = [in_time, expect(2, Answer::Pong)];
    vec![
        asked("W9.5-05.header", "a frame that is cut in its header", send(&ping(2)[..5])),
        asked("W9.5-05.payload", "a payload that does not come", send(&long[..8])),
        asked("W9.5-05.slow", "a frame that comes a byte at a time, too slowly", slow),
        case("W9.5-05.in-time", "a frame that comes slowly but in time", in_time),
    ]
}

/// Steps with a deadline of frames, unless silence ends the session before.
fn askable(facts: &Facts, steps: Vec<Step>) -> Result<Vec<Step>, &'static str> {
    let silence = u64::from(facts.welcome.heartbeat_ms_max);
    let over = silence <= facts.told.frame_ms + 1_000;
    if over { Err("the heartbeat is over before a frame's deadline") } else { Ok(steps) }
}

/// Records of TLS that come slowly.
fn records(facts: &Facts) -> Vec<Case> {
    let (cut, greeting) = (facts.told.frame_ms, facts.told.greeting_ms);
    let record = |bytes: Vec<u8>, first| vec![Step::Below(Below::Record(bytes, first))];
    let rest = |piece, pause_ms| vec![Step::Below(Below::Rest(piece, pause_ms))];
    let pong = || expect(2, Answer::Pong);
    let asked = |id: &str, what: &str, script| {
        if facts.way == Way::Tls { case_if(id, what, script) } else { elsewhere(id, what, "TLS") }
    };
    let stopped = |first| [open(facts), mark(), record(ping(2), first), timeout(facts, cut)];
    let trickled = [open(facts), mark(), record(ping(2), 1), rest(1, SLOW_MS), timeout(facts, cut)];
    let in_time = [open(facts), record(ping(2), 6), rest(7, 50), pong(), goes_on(3)];
    let early = [record(facts.hello(facts.user()), 20), timeout(facts, greeting)];
    vec![
        asked("W9.5-02", "a record that stops", askable(facts, stopped(20).concat())),
        asked("W9.5-02.header", "a record's first byte", askable(facts, stopped(1).concat())),
        asked(
            "W9.5-02.slow",
            "a record that comes a byte at a time, too slowly",
            askable(facts, trickled.concat()),
        ),
        asked("W9.5-02.in-time", "a record that comes slowly but in time", Ok(in_time.concat())),
        asked("W9.5-02.greeting", "HELLO's record stops: HELLO's deadline", Ok(early.concat())),
    ]
}

fn heartbeats(facts: &Facts) -> Vec<Case> {
    let silence = facts.welcome.heartbeat_ms_max;
    let script = |steps: Vec<Step>| {
        let long = silence > HEARTBEAT_MS_MAX;
        if long { Err("the heartbeat is too long to be waited for") } else { Ok(steps) }
    };
    let silence = u64::from(silence);
    // From before HELLO was sent: its last byte came later, and so does the end.
    let window = due(facts, silence);
    let ended = [vec![Step::After(window)], refused(0, Refused::TIMEOUT)].concat();
    let beat = |id| [vec![Step::Silence(silence * 3 / 4)], goes_on(id)].concat();
    let quiet = [mark(), open(facts), ended].concat();
    let beats = [open(facts), beat(2), beat(3)].concat();
    let pings = (2..34).flat_map(goes_on).collect();
    vec![
        case_if("W9.5-06", "silence after WELCOME", script(quiet)),
        case_if("W9.5-06.beats", "PINGs before that keep the session", script(beats)),
        case("W9.5-08", "PINGs much sooner than asked for", [open(facts), pings]),
    ]
}

/// Servers that are full, or whose client does not read.
fn room(facts: &Facts) -> Vec<Case> {
    let refused_at_once = || vec![Step::Transport(Rule::Refused)];
    let on = |index| vec![Step::On(index)];
    // Where frames need no handshake, the server says where else to go.
    let sent_away = |newcomer: usize| match facts.way {
        Way::Tcp => {
            let told = [expect(0, Answer::Overload), vec![Step::Closed]].concat();
            [on(newcomer), vec![Step::Connect], told].concat()
        }
        Way::Tls | Way::Quic => refused_at_once(),
    };
    // What was just closed elsewhere may still be in the server's books.
    let settled = || vec![Step::Connect, Step::Silence(500)];
    let hello = || facts.hello(facts.user());
    let sessions = facts.told.sessions_max.ok_or("it is not known: --sessions-max").map(|max| {
        // The first is the one that was settled.
        let session = |index| [on(index), send(hello()), expect(1, Answer::Welcome)].concat();
        let all: Vec<Step> = (0..max).flat_map(session).collect();
        [settled(), all, sent_away(max), on(0), goes_on(2)].concat()
    });
    let newcomers = facts.told.newcomers_max.ok_or("it is not known: --newcomers-max").map(|max| {
        let hold = |index| [on(index), vec![Step::Connect]].concat();
        let all: Vec<Step> = (1..max).flat_map(hold).collect();
        let served = [on(0), send(hello()), expect(1, Answer::Welcome)].concat();
        [settled(), all, sent_away(max), served].concat()
    });
    let exhausted = facts.told.descriptors_max.ok_or("not known: --descriptors-max");
    let hellos = |max: usize| (0..max).map(|_| hello()).collect();
    let fill = |max: usize| vec![Step::Fill(hellos(max))];
    let recover = || vec![Step::Recover(hellos(40))];
    let told = exhausted.map(|max| [fill(max), sent_away(1), recover()].concat());
    let closed = exhausted.map(|max| [fill(max), refused_at_once(), recover()].concat());
    let what = "no descriptor is left for the connection";
    let (plain, tls) = match facts.way {
        Way::Tcp => (case_if("W4.6-03", what, told), elsewhere("W9.6-01.descriptors", what, "TLS")),
        Way::Tls => {
            (elsewhere("W4.6-03", what, "TCP"), case_if("W9.6-01.descriptors", what, closed))
        }
        Way::Quic => {
            (elsewhere("W4.6-03", what, "TCP"), elsewhere("W9.6-01.descriptors", what, "TLS"))
        }
    };
    let pings: Vec<u8> = (0..FLOOD_PINGS).flat_map(|_| ping(2)).collect();
    let flood = vec![Step::Flood(pings, FLOOD_TIMES)];
    let what = "a client that does not read its answers is cut";
    vec![
        case_if("W9.6-01", "more sessions than there is room for", sessions).at(When::Alone),
        case_if("W9.6-02", "more newcomers than the budget allows", newcomers).at(When::Alone),
        plain.at(When::Alone),
        tls.at(When::Alone),
        case("W9.6-05", what, [open(facts), flood]),
    ]
}

/// What a session sees of its server's end.
fn ends(facts: &Facts) -> Vec<Case> {
    let told = &facts.told;
    let script = |ending: Ending, steps: Vec<Step>| {
        let reason = "the server does not end so: --ending";
        if told.ending == Some(ending) { Ok(steps) } else { Err(reason) }
    };
    let left = [leaving(facts), mark(), vec![Step::After(due(facts, LEAVE_MS)), Step::Farewell]];
    let left = left.concat();
    let gone = |ms: u64| {
        [open(facts), vec![Step::Ending, Step::After(due(facts, ms)), Step::Gone]].concat()
    };
    let what = "whoever is left when the drain's time is over is cut";
    let cut = case_if("W9.6-04", what, script(Ending::Cut, gone(told.drain_seconds * 1_000)));
    let what = "a thread, or the process, dies";
    let crash = case_if("W9.6-06", what, script(Ending::Crash, gone(0)));
    vec![
        at_drain(facts, "W9.5-07", "a client that was asked to leave and stays", left),
        cut.at(When::Ending),
        crash.at(When::Ending),
    ]
}
