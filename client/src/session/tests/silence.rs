//! When nobody answers: how long the session waits, and what it learns.

use super::{Input, Table, pong};
use crate::{
    limits::{ANSWER_LATE_MS, GREETING_MS_MAX, PONG_MS_MAX, PROBE_ANSWER_MS_MAX},
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
    table.check(PROBE_ANSWER_MS_MAX - 1, Input::Timeout, &["send PING"]);
    table.check(PROBE_ANSWER_MS_MAX, Input::Timeout, &["disconnect BackOff"]);
    table.session.handle_doubt(Timestamp::from_ms(5_000));
    table.check(5_000, Input::Timeout, &[]);
}
