//! Who is not believed: reconnect tickets are shown once, the newest, and are never in the way of
//! the session token; nor is a tally for ever.

use super::{Input, Table, reconnect_ticket, refusal, tally, welcome};
use crate::{
    error::Error,
    session::Session,
    time::Timestamp,
    wallet::{ReconnectSecret, Record, Wallet},
};
use yao_protocol::client::{ErrorCode, GoAway, GoAwayReason, RetryClass, put_reconnect};

#[test]
fn the_newest_reconnect_ticket_is_shown_once_and_then_the_session_token() {
    let opened = ["welcome", "event Connected", "event Cue 1"];
    let refused = || refusal(ErrorCode::AuthFailed, RetryClass::Reauthenticate, 0);
    let (none, some) = ("persist no reconnect ticket", "persist reconnect ticket");
    let mut table = Table::open(false, 1_000);
    table.check(1, Input::Reconnect(7), &[some]);
    table.check(1, Input::Reconnect(8), &[some]);
    table.check(1, Input::Break, &["disconnect BackOff"]);
    table.check(2, Input::Connect, &[none, "send HELLO with ticket 8"]);
    table.check(3, Input::Refuse(refused()), &["disconnect WithToken"]);
    // Now it is about the session token, and the server's word about that is obeyed.
    table.check(4, Input::Connect, &["send HELLO"]);
    table.check(5, Input::Refuse(refused()), &["disconnect Reauthenticate"]);
    table.check(6, Input::Connect, &["send HELLO"]);
    table.check(7, Input::Welcome(welcome(1_000)), &opened[..2]);
    // The answer to a ticket may be lost: it counts as used all the same.
    table.check(8, Input::Reconnect(9), &[some]);
    table.check(9, Input::Break, &["disconnect BackOff"]);
    table.check(10, Input::Connect, &[none, "send HELLO with ticket 9"]);
    table.check(11, Input::Break, &["disconnect BackOff"]);
    table.check(12, Input::Connect, &["send HELLO"]);
    table.check(13, Input::Welcome(welcome(1_000)), &opened[..2]);
    // One that has ended is not even tried.
    table.check(14, Input::Reconnect(10), &[some]);
    table.check(15, Input::Break, &["disconnect BackOff"]);
    table.check(600_014, Input::Connect, &[none, "send HELLO"]);
}

/// The answer of a node that takes nobody.
fn turned_away(reason: GoAwayReason) -> Input {
    let (class, delay_ms, jitter_ms) = (RetryClass::After, 70, 0);
    Input::GoAway(GoAway { reason, class, delay_ms, jitter_ms, endpoints: Vec::new() })
}

#[test]
fn a_ticket_that_was_answered_with_goaway_is_shown_again() {
    let (none, some) = ("persist no reconnect ticket", "persist reconnect ticket");
    let again = "disconnect After { delay_ms: 70, jitter_ms: 0 }";
    let mut table = Table::open(false, 1_000);
    table.check(1, Input::Reconnect(7), &[some]);
    table.check(2, Input::Break, &["disconnect BackOff"]);
    for attempt in 0..3 {
        let now = 10 + 100 * attempt;
        table.check(now, Input::Connect, &[none, "send HELLO with ticket 7"]);
        let told = [some, "event GoAway", "send BYE", again];
        table.check(now + 1, turned_away(GoAwayReason::Drain), &told);
        assert!(!table.session.needs_token(), "the ticket is as good as before");
    }
    table.check(400, Input::Connect, &[none, "send HELLO with ticket 7"]);
    let no_room = "disconnect Overloaded { delay_ms: 70, jitter_ms: 0 }";
    let told = [some, "event GoAway", "send BYE", no_room];
    table.check(401, turned_away(GoAwayReason::Overload), &told);
    // Its life goes on meanwhile: 600 s from when it came.
    table.check(600_000, Input::Connect, &[none, "send HELLO with ticket 7"]);
    let told = ["event GoAway", "send BYE", again];
    table.check(600_001, turned_away(GoAwayReason::Drain), &told);
    // What was shown was the session token: there is nothing to keep.
    table.check(600_100, Input::Connect, &["send HELLO"]);
    table.check(600_101, turned_away(GoAwayReason::Drain), &told);
}

#[test]
fn a_ticket_that_opened_a_session_is_used_though_goaway_follows() {
    let mut table = Table::open(false, 1_000);
    table.check(1, Input::Reconnect(7), &["persist reconnect ticket"]);
    table.check(2, Input::Break, &["disconnect BackOff"]);
    let shown = ["persist no reconnect ticket", "send HELLO with ticket 7"];
    table.check(3, Input::Connect, &shown);
    table.check(4, Input::Welcome(welcome(1_000)), &["welcome", "event Connected"]);
    let left = ["event GoAway", "send BYE", "disconnect After { delay_ms: 70, jitter_ms: 0 }"];
    table.check(5, turned_away(GoAwayReason::Drain), &left);
    table.check(6, Input::Connect, &["send HELLO"]);
}

#[test]
fn a_reconnect_ticket_of_an_earlier_life_of_the_app_is_tried() {
    let mut wallet = Wallet::default();
    let secret = ReconnectSecret(reconnect_ticket(7));
    wallet.apply(&Record::Reconnect(Some(secret))).expect("valid");
    wallet.apply(&Record::Tally(tally(1, 1))).expect("valid");
    let mut table = Table::with(false, wallet);
    let expected = ["persist no reconnect ticket", "send HELLO with ticket 7"];
    table.check(0, Input::Connect, &expected);
    let refused = refusal(ErrorCode::AuthFailed, RetryClass::Reauthenticate, 0);
    table.check(1, Input::Refuse(refused), &["disconnect WithToken"]);
    table.check(2, Input::Connect, &["send HELLO with tally"]);
}

#[test]
fn with_a_ticket_no_token_is_needed_until_the_server_asks_for_one() {
    let mut table = Table::open(false, 1_000);
    let fresh = || Session::new(table.session.config.clone(), Wallet::default());
    let told = fresh().handle_connected(Timestamp::ZERO, "").expect_err("nothing to show");
    assert!(matches!(told, Error::Token(_)) && table.session.needs_token());
    table.check(1, Input::Reconnect(7), &["persist reconnect ticket"]);
    table.check(2, Input::Break, &["disconnect BackOff"]);
    assert!(!table.session.needs_token());
    let mut tokenless = Session::new(table.session.config.clone(), table.session.wallet().clone());
    tokenless.handle_connected(Timestamp::ZERO, "").expect("the ticket is shown");
    assert!(tokenless.needs_token(), "once");
    // A server that wants the session token anew is not shown a ticket instead.
    table.check(3, Input::Connect, &["persist no reconnect ticket", "send HELLO with ticket 7"]);
    let opened = ["welcome", "event Connected"];
    table.check(4, Input::Welcome(welcome(1_000)), &opened);
    table.check(5, Input::Reconnect(8), &["persist reconnect ticket"]);
    let renew = refusal(ErrorCode::AuthFailed, RetryClass::Reauthenticate, 0);
    let expected = ["persist no reconnect ticket", "disconnect Reauthenticate"];
    table.check(6, Input::Refuse(renew), &expected);
}

#[test]
fn a_reconnect_ticket_of_a_later_version_is_left_and_none_comes_before_welcome() {
    let mut later = reconnect_ticket(7);
    later[0] = 2;
    let mut frame = Vec::new();
    put_reconnect(&mut frame, &later);
    let mut table = Table::open(false, 1_000);
    table.check(1, Input::Raw(frame), &[]);
    let mut table = Table::new(false);
    table.check(0, Input::Connect, &["send HELLO"]);
    table.check(1, Input::Reconnect(7), &["disconnect BackOff"]);
}

#[test]
fn a_tally_that_may_be_what_is_not_believed_is_left_out_in_the_end() {
    let mut wallet = Wallet::default();
    wallet.apply(&Record::Tally(tally(1, 1))).expect("valid");
    let mut table = Table::with(false, wallet);
    let refused = || refusal(ErrorCode::AuthFailed, RetryClass::Reauthenticate, 0);
    for (now, hello) in
        [(0, "send HELLO with tally"), (10, "send HELLO with tally"), (20, "send HELLO")]
    {
        table.check(now, Input::Connect, &[hello]);
        table.check(now + 1, Input::Refuse(refused()), &["disconnect Reauthenticate"]);
    }
    table.check(30, Input::Connect, &["send HELLO"]);
    table.check(31, Input::Welcome(welcome(0)), &["welcome", "event Connected", "event Cue 1"]);
    table.check(32, Input::Break, &["disconnect BackOff"]);
    table.check(33, Input::Connect, &["send HELLO with tally"]);
}
