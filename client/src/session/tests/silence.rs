//! When nobody answers: how long the session waits, and what it learns.

use super::{Input, Table, pong};
use crate::{
    limits::{ANSWER_LATE_MS, GREETING_MS_MAX, PONG_MS_MAX, PROBE_ANSWER_MS_MAX},
    rhythm::Rhythm,
    time::Timestamp,
};

#[test]
fn silence_ends_a_connection() {
    let mut table = Table::new(false);
    table.check(0, Input::Connect, &["send HELLO"]);
    table.check(GREETING_MS_MAX - 1, Input::Timeout, &[]);
    table.check(GREETING_MS_MAX, Input::Timeout, &["disconnect BackOff"]);

    let check = |foreground: bool, patience_ms: u64| {
        let mut table = Table::open(false, 0);
        table.session.handle_background();
        if foreground {
            table.session.handle_foreground(Timestamp::ZERO);
            table.check(0, Input::Timeout, &["send PING"]);
            table.check(5, pong(), &[]);
        }
        let ping_at = table.sleep();
        assert!((20_000..=40_000).contains(&ping_at), "{ping_at} is not between the bounds");
        table.check(ping_at, Input::Timeout, &["send PING"]);
        table.check(ping_at + 5, pong(), &[]);
        let again_at = table.sleep();
        assert!(again_at > 2 * ping_at, "a rest that was borne may be longer: {again_at}");
        table.check(again_at, Input::Timeout, &["send PING"]);
        let borne = table.session.rhythm();
        table.check(again_at + patience_ms - 1, Input::Timeout, &[]);
        table.check(again_at + patience_ms, Input::Timeout, &["disconnect BackOff"]);
        assert!(table.session.rhythm().rest_ms() < borne.rest_ms(), "the next one is shorter");
    };
    check(false, PONG_MS_MAX);
    check(true, ANSWER_LATE_MS + PROBE_ANSWER_MS_MAX);
}

#[test]
fn doubt_asks_at_once_and_waits_less() {
    let mut table = Table::open(false, 0);
    table.check(0, Input::Shake(1), &["persist pending 0", "send SHAKE 0 x1"]);
    table.session.handle_doubt(Timestamp::from_ms(500));
    table.check(500, Input::Timeout, &["send PING"]);
    table.check(500 + PROBE_ANSWER_MS_MAX - 1, Input::Timeout, &[]);
    table.check(500 + PROBE_ANSWER_MS_MAX, Input::Timeout, &["disconnect BackOff"]);
    table.session.handle_doubt(Timestamp::from_ms(5_000));
    table.check(5_000, Input::Timeout, &[]);
}

#[test]
fn a_network_that_was_silent_costs_nothing_on_the_next_one() {
    let mut table = Table::open(false, 0);
    table.session.handle_background();
    table.check(0, Input::Shake(1), &["persist pending 0", "send SHAKE 0 x1"]);
    // Longer than a probe is waited for, but not long enough to give the connection up.
    table.check(4_900, Input::Timeout, &[]);
    table.session.handle_doubt(Timestamp::from_ms(4_900));
    table.check(4_900, Input::Timeout, &["send PING"]);
    table.check(4_900 + PROBE_ANSWER_MS_MAX - 1, pong(), &["send SHAKE 0 x1 RESEND"]);
}

/// What is known of a network that forgets soon.
fn impatient() -> Rhythm {
    let mut rhythm = Rhythm::default();
    rhythm.handle_died(20_000, 1_000);
    rhythm
}

#[test]
fn a_changed_network_is_rested_on_as_it_bears_and_learns_nothing_from_the_old_one() {
    let check = |answered: bool| {
        let mut table = Table::open(false, 0);
        let ping_at = table.sleep();
        table.check(ping_at, Input::Timeout, &["send PING"]);
        // Its rest was taken on the network that the device leaves now.
        table.session.set_rhythm(impatient());
        table.session.handle_background();
        if answered {
            table.check(ping_at + 5, pong(), &[]);
            let rest_ms = table.sleep() - ping_at;
            assert!((7_500..=10_000).contains(&rest_ms), "{rest_ms} is the old network's");
        } else {
            table.check(ping_at + PONG_MS_MAX, Input::Timeout, &["disconnect BackOff"]);
        }
        assert_eq!(table.session.rhythm(), impatient(), "answered: {answered}");
    };
    check(true);
    check(false);
}

#[test]
fn what_is_found_out_in_doubt_teaches_nothing_about_rests() {
    let check = |answered: bool| {
        let mut table = Table::open(false, 0);
        let known = table.session.rhythm();
        table.session.handle_doubt(Timestamp::from_ms(19_000));
        table.check(19_000, Input::Timeout, &["send PING"]);
        let end_at = 19_000 + PROBE_ANSWER_MS_MAX;
        if answered {
            table.check(end_at - 1, pong(), &[]);
        } else {
            table.check(end_at, Input::Timeout, &["disconnect BackOff"]);
        }
        assert_eq!(table.session.rhythm(), known, "answered: {answered}");
    };
    check(true);
    check(false);
}
