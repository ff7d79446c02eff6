//! Cases of wire.md 3.3 and 9.3: draws, by people who win as chance has it.

use super::{
    case::{Answer, Case, Refused, Step, When, case, case_if, expect, on, refused, send},
    facts::Facts,
    frames::{goes_on, open},
    wins::session_of,
};
use yao_protocol::{CampaignId, ShakeId, UserId, client::Shake};

/// The fields of NO_WIN 3 and 4 to a RESEND.
const RESEND_MS: u32 = 1_000;

pub(super) fn cases(facts: &Facts) -> Vec<Case> {
    let mut cases = fields(facts);
    cases.extend(intervals(facts));
    cases.extend(resends(facts));
    cases.extend(without_a_wave(facts));
    cases.extend(pending(facts));
    cases.push(banned(facts));
    cases.push(drawn_again(facts));
    cases
}

/// SHAKE is what it is answered with in the states that take it: anything but "not drawn".
pub(super) fn drawn(shake: ShakeId) -> Answer {
    Answer::OneOf(vec![no_win(shake, &[0, 1, 2, 5]), Answer::Win(shake)])
}

fn no_win(shake: ShakeId, reasons: &'static [u8]) -> Answer {
    Answer::NoWin(shake, reasons, 0..=u32::MAX)
}

fn not_yet(shake: ShakeId, reasons: &'static [u8]) -> Answer {
    Answer::NoWin(shake, reasons, RESEND_MS..=RESEND_MS)
}

fn shaken(facts: &Facts, request_id: u32, shake: u64) -> Vec<Step> {
    send(facts.shake(request_id, ShakeId(shake), false))
}

fn resent(facts: &Facts, request_id: u32, shake: u64) -> Vec<Step> {
    send(facts.shake(request_id, ShakeId(shake), true))
}

fn fields(facts: &Facts) -> Vec<Case> {
    let protocol = |id| refused(id, Refused::PROTOCOL);
    let changed = |at: usize, byte: u8| {
        let mut bytes = facts.shake(2, ShakeId(1), false);
        bytes[at] = byte;
        send(bytes)
    };
    let mut cases = Vec::new();
    let what = "SHAKE of no shake";
    cases.push(case("W3.3-02", what, [open(facts), changed(24, 0), protocol(2)]));
    let mut merged = facts.shake(2, ShakeId(1), false);
    merged[24..26].copy_from_slice(&u16::MAX.to_le_bytes());
    let what = "65,535 merged shakes are one draw";
    let answer = expect(2, drawn(ShakeId(1)));
    cases.push(case("W3.3-03", what, [open(facts), send(merged), answer]));
    for at in 26..32 {
        let what = format!("SHAKE whose reserved byte {} is set", at - 8);
        let steps = [open(facts), changed(at, 1), protocol(2)];
        cases.push(case(format!("W3.3-04.{}", at - 8), what, steps));
    }
    for bit in 1..8 {
        let what = format!("SHAKE with the flag {:#04x}", 1 << bit);
        let steps = [open(facts), changed(3, 1 << bit), protocol(2)];
        cases.push(case(format!("W3.3-05.{bit}"), what, steps));
    }
    let what = "SHAKE with request id 0";
    cases.push(case("W3.3-06", what, [open(facts), shaken(facts, 0, 1), protocol(0)]));
    let what = "SHAKE with RESEND and request id 0";
    cases.push(case("W3.3-06.resend", what, [open(facts), resent(facts, 0, 1), protocol(0)]));
    let mut other = Vec::new();
    let campaign = CampaignId(facts.campaign.0 ^ 1);
    Shake { shake: ShakeId(1), campaign, merged_count: 1, resend: false }.put(&mut other, 2);
    let what = "SHAKE names another campaign than HELLO";
    let refusal = refused(2, Refused::WRONG_CAMPAIGN);
    cases.push(case("W3.3-07", what, [open(facts), send(other), refusal]));
    cases
}

fn intervals(facts: &Facts) -> Vec<Case> {
    let interval = facts.welcome.shake_interval_ms;
    let script = |steps: Vec<Step>| {
        if interval == 0 { Err("the shake interval is 0") } else { Ok(steps) }
    };
    let (first, second) = (ShakeId(1), ShakeId(2));
    let both = [facts.shake(2, first, false), facts.shake(3, second, false)].concat();
    let too_soon = Answer::NoWin(second, &[3], 0..=interval);
    let answers = vec![Step::Expect(vec![(2, drawn(first)), (3, too_soon)])];
    let steps = [open(facts), send(both), answers].concat();
    let what = "a SHAKE before the interval is over is not drawn";
    let early = case_if("W9.3-01", what, script(steps));
    let what = "a SHAKE after the interval is drawn";
    let steps = [
        open(facts),
        shaken(facts, 2, 1),
        expect(2, drawn(first)),
        vec![Step::Silence(u64::from(interval) + 50)],
        shaken(facts, 3, 2),
        expect(3, drawn(second)),
    ];
    vec![early, case_if("W9.3-01.after", what, script(steps.concat()))]
}

fn resends(facts: &Facts) -> Vec<Case> {
    let (first, second) = (ShakeId(1), ShakeId(2));
    let mut cases = Vec::new();
    let what = "a draw that says RESEND is answered, though nobody knows it";
    let steps = [open(facts), resent(facts, 2, 1), expect(2, drawn(first))];
    cases.push(case("W9.3-14", what, steps));
    let what = "a second RESEND within a second is not drawn";
    let both = [facts.shake(2, first, true), facts.shake(3, second, true)].concat();
    let answers = vec![(2, drawn(first)), (3, not_yet(second, &[3, 4]))];
    let steps = [open(facts), send(both), vec![Step::Expect(answers)]];
    cases.push(case("W9.3-10", what, steps));
    let what = "a second RESEND after a second is drawn";
    let steps = [
        open(facts),
        resent(facts, 2, 1),
        expect(2, drawn(first)),
        vec![Step::Silence(1_100)],
        resent(facts, 3, 2),
        expect(3, drawn(second)),
    ];
    cases.push(case("W9.3-10.after", what, steps));
    let what = "a RESEND does not use up the interval";
    let steps = [
        open(facts),
        resent(facts, 2, 1),
        expect(2, drawn(first)),
        shaken(facts, 3, 2),
        expect(3, drawn(second)),
    ];
    cases.push(case("W9.3-09.used", what, steps));
    cases
}

fn without_a_wave(facts: &Facts) -> Vec<Case> {
    let script = |steps: Vec<Step>| {
        if facts.told.no_wave { Ok(steps) } else { Err("a wave may run: --no-wave") }
    };
    let none = |id, shake| expect(id, no_win(ShakeId(shake), &[2]));
    let steps = [open(facts), shaken(facts, 2, 1), none(2, 1)].concat();
    let what = "a draw when no wave runs";
    let plain = case_if("W9.3-03", what, script(steps));
    let steps = [open(facts), shaken(facts, 2, 1), none(2, 1), resent(facts, 3, 2)].concat();
    let answer = expect(3, no_win(ShakeId(2), &[0, 2]));
    let what = "a RESEND does not keep the interval";
    vec![plain, case_if("W9.3-09.kept", what, script([steps, answer].concat()))]
}

/// Draws whose verdict is not there yet. It is waited for as long as the agent may take, a second
/// at most; then they win.
fn pending(facts: &Facts) -> Vec<Case> {
    let script = |steps: Vec<Step>| {
        if facts.told.agent_paused { Ok(steps) } else { Err("the agent answers: --agent-paused") }
    };
    let interval = Step::Silence(u64::from(facts.welcome.shake_interval_ms) + 50);
    let win = |id, shake| expect(id, Answer::Win(ShakeId(shake)));
    let mut cases = Vec::new();
    let what = "a draw whose verdict does not come wins when its time is over";
    let steps = [open(facts), shaken(facts, 2, 1), win(2, 1)].concat();
    cases.push(case_if("W9.3-08", what, script(steps)));
    let what = "a SHAKE while an earlier one is being decided";
    let steps = [
        open(facts),
        shaken(facts, 2, 1),
        vec![interval],
        shaken(facts, 3, 2),
        expect(3, no_win(ShakeId(2), &[4])),
        win(2, 1),
    ];
    cases.push(case_if("W9.3-04", what, script(steps.concat())));
    let what = "a RESEND while a SHAKE of the same connection is being decided";
    let steps = [
        open(facts),
        shaken(facts, 2, 1),
        resent(facts, 3, 1),
        expect(3, not_yet(ShakeId(1), &[4])),
        win(2, 1),
    ];
    cases.push(case_if("W9.3-10.pending", what, script(steps.concat())));
    let what = "a RESEND on a new connection of a draw that is being decided: one answer, there";
    let hello = facts.hello(facts.user());
    let session = || [send(hello.clone()), expect(1, Answer::Welcome)].concat();
    let steps = [
        session(),
        shaken(facts, 2, 1),
        on(1),
        session(),
        resent(facts, 3, 1),
        win(3, 1),
        vec![Step::Silence(500)],
        on(0),
        expect(0, Answer::Replaced),
        vec![Step::Closed],
    ];
    cases.push(case_if("W9.3-11", what, script(steps.concat())));
    cases
}

fn banned(facts: &Facts) -> Case {
    let script = facts.told.banned_user.zip(facts.winner.as_ref());
    let script = script.ok_or("no packet is waiting, or --banned-user is not given");
    let script = script.map(|(user, _)| {
        let hello = facts.hello(UserId(user));
        let answer = expect(2, no_win(ShakeId(1), &[0]));
        let session = [send(hello), expect(1, Answer::Welcome)].concat();
        [session, shaken(facts, 2, 1), answer, goes_on(3)].concat()
    });
    case_if("W9.3-07", "a user whom policy bans wins nothing", script).at(When::InTurn)
}

fn drawn_again(facts: &Facts) -> Case {
    let script = facts.once.as_ref().ok_or("nobody won: no wave runs, or --win-seconds is 0");
    let script = script.map(|once| {
        let win = &once.wins[0];
        let ticket = expect(2, Answer::Ticket(Box::new(win.ticket)));
        [session_of(facts, once), send(facts.shake(2, win.shake, false)), ticket].concat()
    });
    let what = "a draw that won, sent again without RESEND: the same ticket";
    case_if("W9.3-06", what, script).at(When::InTurn)
}
