//! The session as tables: at a time an input, then exactly these outputs.

mod lives;
mod returning;
mod silence;

use super::{
    Departure, Output, Session, SessionConfig,
    testing::{
        CAMPAIGN, feed, receipt, receipt_for, reconnect_keys, reconnect_ticket, tally, ticket,
        welcome,
    },
};
use crate::{
    error::{Error, LinkError},
    event::Event,
    limits::{
        ANSWER_LATE_MS, LEAVING_MS_MAX, OPEN_ANSWER_MS_MAX, RESEND_MS_MIN, SHAKE_ANSWER_MS_MAX,
    },
    time::Timestamp,
    wallet::{Home, Record, Wallet},
};
use yao_protocol::{
    CampaignId, PacketId, ShakeId, UserId, WallTime,
    client::{
        ClientMessage, ErrorCode, GoAway, GoAwayReason, NoWin, NoWinReason, Refusal, RetryClass,
        Welcome, put_pong, put_receipt, put_reconnect, put_win,
    },
    frame::split_frame,
    limits::CLIENT_PAYLOAD_BYTES_MAX,
    reconnect::is_reconnect,
};

/// What happens to the session. Shakes are named by the order in which they were first sent: 0 is
/// the first. Answers to requests name the request by its order too, on the last connection.
#[derive(Clone, Debug)]
enum Input {
    Connect,
    Break,
    Shake(u32),
    Open(u64),
    Close,
    Timeout,
    Welcome(Welcome),
    NoWin {
        shake: usize,
        interval_ms: u32,
        reason: NoWinReason,
    },
    Win {
        shake: usize,
        packet: u64,
    },
    /// A win sent again after WELCOME, of a shake that this session does not know.
    OldWin(u64),
    Receipt(u64),
    /// A refusal of the last request that was sent.
    Refuse(Refusal),
    GoAway(GoAway),
    /// The reconnect ticket that was made at this time and lives 600 s.
    Reconnect(u64),
    Raw(Vec<u8>),
}

struct Table {
    session: Session,
    shakes: Vec<ShakeId>,
    request_id_last: u32,
    counted: u64,
}

impl Table {
    fn new(open_automatically: bool) -> Self {
        Self::with(open_automatically, Wallet::default())
    }

    fn with(open_automatically: bool, wallet: Wallet) -> Self {
        let config = SessionConfig { campaign: CAMPAIGN, software: 1, open_automatically, seed: 5 };
        let shakes = wallet.pending().into_iter().collect();
        let session = Session::new(config, wallet);
        Self { session, shakes, request_id_last: 0, counted: 0 }
    }

    /// A session that is open, at 0 ms, with this shake interval.
    fn open(open_automatically: bool, interval_ms: u32) -> Self {
        let mut table = Self::new(open_automatically);
        table.check(0, Input::Connect, &["send HELLO"]);
        let opened = ["welcome", "event Connected", "event Cue 1"];
        table.check(0, Input::Welcome(welcome(interval_ms)), &opened);
        table
    }

    /// The record of an open is left out: `lives.rs` checks it.
    #[track_caller]
    fn check(&mut self, at_ms: u64, input: Input, expected: &[&str]) {
        let now = Timestamp::from_ms(at_ms);
        self.give(now, input.clone());
        let mut seen = Vec::new();
        loop {
            match self.session.poll() {
                Output::SleepUntil { .. } => break,
                output => self.describe(&output, &mut seen),
            }
        }
        assert_eq!(seen, expected, "at {at_ms} ms, {input:?}");
    }

    #[track_caller]
    fn check_sleep(&mut self, expected_ms: u64) {
        assert_eq!(self.sleep(), expected_ms);
    }

    /// When the session wants to be called again, ms.
    #[track_caller]
    fn sleep(&mut self) -> u64 {
        match self.session.poll() {
            Output::SleepUntil { at: Some(at) } => at.ms(),
            output => panic!("unexpected {output:?}"),
        }
    }

    fn give(&mut self, now: Timestamp, input: Input) {
        let mut bytes = Vec::new();
        let session = &mut self.session;
        match input {
            Input::Connect => session.handle_connected(now, "token").expect("a good token"),
            Input::Break => session.handle_disconnected(broken()),
            Input::Shake(count) => session.handle_shake(now, count),
            Input::Open(packet) => {
                session.handle_open(now, ticket(packet, 900 + packet)).expect("our campaign");
            }
            Input::Close => session.handle_close(),
            Input::Timeout => session.handle_timeout(now),
            Input::Welcome(welcome) => welcome.put(&mut bytes, 1),
            Input::NoWin { shake, interval_ms, reason } => NoWin {
                shake: self.shakes[shake],
                server_time: WallTime(1),
                interval_ms,
                cue: 1,
                reason,
                tier: 0,
            }
            .put(&mut bytes, self.request_id_last),
            Input::Win { shake, packet } => {
                self.counted += 1;
                let ticket = ticket(packet, self.shakes[shake].0);
                put_win(&mut bytes, 0, &ticket.encode(), &tally(1, self.counted));
            }
            Input::OldWin(packet) => {
                self.counted += 1;
                let ticket = ticket(packet, 900 + packet);
                put_win(&mut bytes, 0, &ticket.encode(), &tally(1, self.counted));
            }
            Input::Receipt(packet) => put_receipt(&mut bytes, 0, &receipt(packet)),
            Input::Refuse(refusal) => refusal.put(&mut bytes, self.request_id_last),
            Input::GoAway(goaway) => goaway.put(&mut bytes),
            Input::Reconnect(issued_at) => {
                put_reconnect(&mut bytes, &reconnect_ticket(issued_at));
            }
            Input::Raw(raw) => bytes = raw,
        }
        feed(&mut self.session, now, &bytes);
    }

    fn describe(&mut self, output: &Output, seen: &mut Vec<String>) {
        seen.push(match output {
            Output::Persist(Record::Tally(_)) => "persist tally".to_owned(),
            Output::Persist(Record::Ticket(ticket)) => {
                format!("persist ticket {}", ticket.body.packet.0)
            }
            Output::Persist(Record::Receipt(_)) => "persist receipt".to_owned(),
            Output::Persist(Record::Refused { packet, code }) => {
                format!("persist refused {} {code}", packet.0)
            }
            Output::Persist(Record::Opening(_)) => return,
            Output::Persist(Record::Home(home)) => {
                format!("persist home {}", home.as_ref().map_or("none", Home::endpoint))
            }
            Output::Persist(Record::Pending(None)) => "persist nothing pending".to_owned(),
            Output::Persist(Record::Pending(Some(shake))) => {
                format!("persist pending {}", self.name(*shake))
            }
            Output::Persist(Record::Reconnect(None)) => "persist no reconnect ticket".to_owned(),
            Output::Persist(Record::Reconnect(Some(_))) => "persist reconnect ticket".to_owned(),
            Output::Welcome(_) => "welcome".to_owned(),
            Output::Event(event) => format!("event {}", self.describe_event(event)),
            Output::Disconnect(Departure { retry, .. }) => format!("disconnect {retry:?}"),
            Output::Transmit(bytes) => return self.describe_frames(bytes, seen),
            Output::SleepUntil { .. } => unreachable!("not given to this function"),
        });
    }

    fn describe_event(&mut self, event: &Event) -> String {
        match event {
            Event::Connected { .. } => "Connected".to_owned(),
            Event::Cue(cue) => format!("Cue {cue}"),
            Event::NoWin { shake, .. } => format!("NoWin {}", self.name(*shake)),
            Event::Throttled { interval_ms, .. } => format!("Throttled {interval_ms}"),
            Event::Won(ticket) => format!("Won {}", ticket.body.packet.0),
            Event::Opened(opened) => format!("Opened {}", opened.receipt.packet.0),
            Event::OpenRefused { packet, .. } => format!("OpenRefused {}", packet.0),
            Event::GoAway(_) => "GoAway".to_owned(),
            other => format!("{other:?}"),
        }
    }

    fn describe_frames(&mut self, mut bytes: &[u8], seen: &mut Vec<String>) {
        while let Some((frame, rest)) =
            split_frame(bytes, CLIENT_PAYLOAD_BYTES_MAX).expect("our own frames")
        {
            self.request_id_last = frame.header.request_id;
            let message = ClientMessage::decode(frame).expect("our own messages");
            seen.push(match message {
                ClientMessage::Hello(hello) if is_reconnect(hello.token) => {
                    let opened = reconnect_keys().open(hello.token).expect("our ticket");
                    format!("send HELLO with ticket {}", opened.issued_at.0)
                }
                ClientMessage::Hello(hello) if hello.tally.is_some() => {
                    "send HELLO with tally".into()
                }
                ClientMessage::Hello(_) => "send HELLO".to_owned(),
                ClientMessage::Ping => "send PING".to_owned(),
                ClientMessage::Bye => "send BYE".to_owned(),
                ClientMessage::Open(bytes) => {
                    let ticket = yao_protocol::ticket::Ticket::decode(bytes).expect("a ticket");
                    format!("send OPEN {}", ticket.body.packet.0)
                }
                ClientMessage::Shake(shake) => {
                    let again = if shake.resend { " RESEND" } else { "" };
                    format!("send SHAKE {} x{}{again}", self.name(shake.shake), shake.merged_count)
                }
                ClientMessage::Unknown => unreachable!("we send known kinds"),
            });
            bytes = rest;
        }
        assert!(bytes.is_empty(), "whole frames are sent");
    }

    fn name(&mut self, shake: ShakeId) -> usize {
        let known = self.shakes.iter().position(|known| *known == shake);
        known.unwrap_or_else(|| {
            self.shakes.push(shake);
            self.shakes.len() - 1
        })
    }
}

fn broken() -> Error {
    Error::Link { endpoint: "node:1".to_owned(), reason: LinkError::Closed }
}

fn pong() -> Input {
    let mut bytes = Vec::new();
    put_pong(&mut bytes, 2, WallTime(1));
    Input::Raw(bytes)
}

fn no_win(shake: usize, interval_ms: u32) -> Input {
    Input::NoWin { shake, interval_ms, reason: NoWinReason::NoneDue }
}

fn refusal(code: ErrorCode, class: RetryClass, delay_ms: u32) -> Refusal {
    Refusal { code, class, closes: false, delay_ms, jitter_ms: 0 }
}

#[test]
fn shakes_of_an_interval_are_merged_and_one_is_in_flight() {
    let mut table = Table::open(false, 1_000);
    table.check(10, Input::Shake(1), &["persist pending 0", "send SHAKE 0 x1"]);
    table.check(20, Input::Shake(2), &[]);
    table.check(30, no_win(0, 1_000), &["persist nothing pending", "event NoWin 0"]);
    table.check_sleep(1_030);
    table.check(40, Input::Shake(3), &[]);
    table.check(1_029, Input::Timeout, &[]);
    table.check(1_030, Input::Timeout, &["persist pending 1", "send SHAKE 1 x5"]);
    table.check(1_031, no_win(1, 5_000), &["persist nothing pending", "event NoWin 1"]);
    table.check(1_032, Input::Shake(1), &[]);
    table.check_sleep(6_031);
}

#[test]
fn a_merged_count_beyond_its_field_is_clamped() {
    let mut table = Table::open(false, 0);
    table.check(0, Input::Shake(70_000), &["persist pending 0", "send SHAKE 0 x65535"]);
    table.check(1, no_win(0, 0), &["persist nothing pending", "event NoWin 0"]);
    table.check(2, Input::Timeout, &[]);
}

#[test]
fn a_shake_that_was_not_drawn_is_merged_into_the_next_one() {
    for reason in [NoWinReason::TooSoon, NoWinReason::Busy, NoWinReason::Pending] {
        let mut table = Table::open(false, 0);
        table.check(0, Input::Shake(2), &["persist pending 0", "send SHAKE 0 x2"]);
        let answer = Input::NoWin { shake: 0, interval_ms: 700, reason };
        table.check(5, answer, &["persist nothing pending", "event Throttled 700"]);
        table.check(6, Input::Shake(1), &[]);
        table.check(705, Input::Timeout, &["persist pending 1", "send SHAKE 1 x3"]);
    }
}

#[test]
fn a_lost_answer_is_asked_for_again_under_the_same_id() {
    let mut table = Table::open(false, 0);
    table.check(10, Input::Shake(2), &["persist pending 0", "send SHAKE 0 x2"]);
    table.check(20, Input::Break, &["disconnect BackOff"]);
    table.check(30, Input::Shake(1), &[]);
    table.check(40, Input::Connect, &["send HELLO"]);
    let expected = ["welcome", "event Connected", "send SHAKE 0 x2 RESEND"];
    table.check(50, Input::Welcome(welcome(0)), &expected);
    // Not drawn now, but the first sending may have won: the id stays, for a second at least.
    let busy = Input::NoWin { shake: 0, interval_ms: 0, reason: NoWinReason::Busy };
    table.check(60, busy, &["event Throttled 0"]);
    table.check_sleep(60 + RESEND_MS_MIN);
    table.check(60 + RESEND_MS_MIN, Input::Timeout, &["send SHAKE 0 x2 RESEND"]);
    let won = [
        "persist tally",
        "persist ticket 4",
        "event Won 4",
        "persist pending 1",
        "send SHAKE 1 x1",
    ];
    let mut expected = won.to_vec();
    expected.insert(3, "persist nothing pending");
    table.check(1_100, Input::Win { shake: 0, packet: 4 }, &expected);
}

#[test]
fn an_answer_that_stays_out_is_asked_for_on_the_same_connection_too() {
    let mut table = Table::open(false, 0);
    table.check(0, Input::Shake(1), &["persist pending 0", "send SHAKE 0 x1"]);
    table.check_sleep(ANSWER_LATE_MS);
    table.check(ANSWER_LATE_MS, Input::Timeout, &["send PING"]);
    table.check(ANSWER_LATE_MS + 5, pong(), &[]);
    table.check_sleep(SHAKE_ANSWER_MS_MAX);
    table.check(SHAKE_ANSWER_MS_MAX, Input::Timeout, &["send SHAKE 0 x1 RESEND"]);
    let expected = ["persist nothing pending", "event NoWin 0"];
    table.check(SHAKE_ANSWER_MS_MAX + 1, no_win(0, 0), &expected);
    // The answer to the first sending was only late, and says nothing new.
    table.check(SHAKE_ANSWER_MS_MAX + 2, no_win(0, 0), &[]);
}

#[test]
fn a_shake_of_an_earlier_life_of_the_app_is_sent_again() {
    let mut wallet = Wallet::default();
    wallet.apply(&Record::Pending(Some(ShakeId(42)))).expect("valid");
    wallet.apply(&Record::Tally(tally(1, 1))).expect("valid");
    let mut table = Table::with(false, wallet);
    table.check(0, Input::Connect, &["send HELLO with tally"]);
    let expected = ["welcome", "event Connected", "event Cue 1", "send SHAKE 0 x1 RESEND"];
    table.check(1, Input::Welcome(welcome(0)), &expected);
    table.check(2, no_win(0, 0), &["persist nothing pending", "event NoWin 0"]);
}

#[test]
fn a_win_is_told_once_and_opened_until_the_receipt_is_stored() {
    let mut table = Table::open(true, 0);
    table.check(0, Input::Shake(1), &["persist pending 0", "send SHAKE 0 x1"]);
    let expected = [
        "persist tally",
        "persist ticket 4",
        "event Won 4",
        "persist nothing pending",
        "send OPEN 4",
    ];
    table.check(10, Input::Win { shake: 0, packet: 4 }, &expected);
    table.check(11, Input::Win { shake: 0, packet: 4 }, &["persist tally"]);
    table.check(10 + OPEN_ANSWER_MS_MAX, Input::Timeout, &["send OPEN 4"]);
    table.check(6_000, Input::Break, &["disconnect BackOff"]);
    table.check(6_100, Input::Connect, &["send HELLO with tally"]);
    let expected = ["welcome", "event Connected", "send OPEN 4"];
    table.check(6_200, Input::Welcome(welcome(0)), &expected);
    table.check(6_210, Input::OldWin(4), &["persist tally"]);
    table.check(6_300, Input::Receipt(4), &["persist receipt", "event Opened 4"]);
    table.check(6_301, Input::Receipt(4), &[]);
    table.check(20_000, Input::Open(4), &["event Opened 4"]);
}

#[test]
fn tickets_of_an_earlier_life_are_opened_or_wait_for_the_user() {
    let mut wallet = Wallet::default();
    for record in [
        Record::Ticket(ticket(1, 901)),
        Record::Ticket(ticket(2, 902)),
        Record::Receipt(receipt(2)),
        Record::Ticket(ticket(3, 903)),
        Record::Refused { packet: PacketId(3), code: 8 },
    ] {
        wallet.apply(&record).expect("valid");
    }
    let welcomed = ["welcome", "event Connected", "event Cue 1"];
    let mut table = Table::with(true, wallet.clone());
    table.check(0, Input::Connect, &["send HELLO"]);
    let opened = [&welcomed[..], &["send OPEN 1"]].concat();
    table.check(1, Input::Welcome(welcome(0)), &opened);
    let mut table = Table::with(false, wallet);
    table.check(0, Input::Connect, &["send HELLO"]);
    table.check(1, Input::Welcome(welcome(0)), &welcomed);
    table.check(2, Input::Open(1), &["send OPEN 1"]);
    table.check(3, Input::Open(1), &[]);
    // A ticket from elsewhere is kept before it is opened.
    table.check(4, Input::Open(9), &["persist ticket 9", "send OPEN 9"]);
}

#[test]
fn a_refused_open_obeys_its_class() {
    let check = |refusal: Refusal, expected: &[&str], then_at: u64, then: &[&str]| {
        let mut table = Table::open(false, 0);
        table.check(0, Input::Open(1), &["persist ticket 1", "send OPEN 1"]);
        table.check(10, Input::Refuse(refusal), expected);
        table.check(then_at, Input::Timeout, then);
    };
    use ErrorCode::{AuthFailed, OpenUnavailable, TicketExpired};
    let never = refusal(TicketExpired, RetryClass::Never, 0);
    check(never, &["persist refused 1 8", "event OpenRefused 1"], 9_000, &[]);
    check(refusal(OpenUnavailable, RetryClass::After, 300), &[], 309, &[]);
    check(refusal(OpenUnavailable, RetryClass::After, 300), &[], 310, &["send OPEN 1"]);
    check(refusal(OpenUnavailable, RetryClass::Now, 0), &[], 60, &["send OPEN 1"]);
    let renew = refusal(AuthFailed, RetryClass::Reauthenticate, 0);
    check(renew, &["send BYE", "disconnect Reauthenticate"], 9_000, &[]);
    let closes = Refusal { closes: true, ..never };
    let expected = ["persist refused 1 8", "event OpenRefused 1", "disconnect BackOff"];
    check(closes, &expected, 9_000, &[]);
}

#[test]
fn a_node_that_cannot_store_opens_is_left_for_another() {
    let mut table = Table::open(false, 0);
    let full = Input::Refuse(refusal(ErrorCode::OpenUnavailable, RetryClass::After, 100));
    table.check(0, Input::Open(1), &["persist ticket 1", "send OPEN 1"]);
    table.check(0, full.clone(), &[]);
    table.check(100, Input::Timeout, &["send OPEN 1"]);
    table.check(100, full.clone(), &[]);
    table.check(200, Input::Timeout, &["send OPEN 1"]);
    table.check(200, full, &["send BYE", "disconnect After { delay_ms: 0, jitter_ms: 0 }"]);
    table.check(300, Input::Connect, &["send HELLO"]);
    let expected = ["welcome", "event Connected", "send OPEN 1"];
    table.check(301, Input::Welcome(welcome(0)), &expected);
}

#[test]
fn m6_an_open_that_cannot_be_stored_waits_while_a_shake_is_pending_or_no_other_node_is_known() {
    let full = Input::Refuse(refusal(ErrorCode::OpenUnavailable, RetryClass::After, 100));
    let mut table = Table::open(false, 0);
    table.check(0, Input::Shake(1), &["persist pending 0", "send SHAKE 0 x1"]);
    table.check(0, Input::Open(1), &["persist ticket 1", "send OPEN 1"]);
    for round in 1..5 {
        table.check(100 * round - 100, full.clone(), &[]);
        table.check(100 * round, Input::Timeout, &["send OPEN 1"]);
    }
    table.check(400, full.clone(), &[]);
    table.check(450, no_win(0, 0), &["persist nothing pending", "event NoWin 0"]);
    table.check(500, Input::Timeout, &["send OPEN 1"]);
    table.check(500, full.clone(), &["send BYE", "disconnect After { delay_ms: 0, jitter_ms: 0 }"]);

    let mut table = Table::open(false, 0);
    table.session.set_elsewhere_known(false);
    table.check(0, Input::Open(1), &["persist ticket 1", "send OPEN 1"]);
    for round in 1..10 {
        table.check(100 * round - 100, full.clone(), &[]);
        table.check(100 * round - 1, Input::Timeout, &[]);
        table.check(100 * round, Input::Timeout, &["send OPEN 1"]);
    }
}

#[test]
fn a_refused_shake_obeys_its_class() {
    let check = |refusal: Refusal, expected: &[&str], then_at: u64, then: &[&str]| {
        let mut table = Table::open(false, 0);
        table.check(0, Input::Shake(1), &["persist pending 0", "send SHAKE 0 x1"]);
        table.check(10, Input::Refuse(refusal), expected);
        table.check(then_at, Input::Timeout, then);
    };
    use ErrorCode::{AuthFailed, Busy, WrongCampaign};
    let merged = ["persist nothing pending"];
    let again = ["persist pending 1", "send SHAKE 1 x1"];
    check(refusal(Busy, RetryClass::After, 400), &merged, 410, &again);
    check(refusal(Busy, RetryClass::Now, 0), &merged, 60, &again);
    check(refusal(WrongCampaign, RetryClass::Never, 0), &["disconnect Never"], 99, &[]);
    let renew = refusal(AuthFailed, RetryClass::Reauthenticate, 0);
    check(renew, &["disconnect Reauthenticate"], 99, &[]);
}

#[test]
fn a_refused_greeting_obeys_its_class() {
    let check = |class, delay_ms, expected: &str| {
        let mut table = Table::new(false);
        table.check(0, Input::Connect, &["send HELLO"]);
        let refusal = refusal(ErrorCode::Busy, class, delay_ms);
        table.check(5, Input::Refuse(refusal), &[expected]);
        // What the server still sends means nothing any more.
        table.check(6, Input::Welcome(welcome(0)), &[]);
    };
    check(RetryClass::Now, 0, "disconnect Now");
    check(RetryClass::After, 70, "disconnect After { delay_ms: 70, jitter_ms: 0 }");
    check(RetryClass::Reauthenticate, 0, "disconnect Reauthenticate");
    check(RetryClass::Never, 0, "disconnect Never");
}

#[test]
fn goaway_lets_answers_in_flight_arrive() {
    let goaway = Input::GoAway(GoAway {
        reason: GoAwayReason::Drain,
        class: RetryClass::After,
        delay_ms: 20,
        jitter_ms: 0,
        endpoints: vec!["other:1".to_owned()],
    });
    let left = ["send BYE", "disconnect After { delay_ms: 20, jitter_ms: 0 }"];
    let mut table = Table::open(false, 0);
    table.check(0, goaway.clone(), &[&["event GoAway"], &left[..]].concat());

    let mut table = Table::open(false, 0);
    table.check(0, Input::Shake(1), &["persist pending 0", "send SHAKE 0 x1"]);
    table.check(1, goaway.clone(), &["event GoAway"]);
    table.check(2, Input::Shake(1), &[]);
    let answered = [&["persist nothing pending", "event NoWin 0"], &left[..]].concat();
    table.check(3, no_win(0, 0), &answered);

    let mut table = Table::open(false, 0);
    table.check(0, Input::Shake(1), &["persist pending 0", "send SHAKE 0 x1"]);
    table.check(1, goaway.clone(), &["event GoAway"]);
    table.check_sleep(1 + LEAVING_MS_MAX);
    table.check(1 + LEAVING_MS_MAX, Input::Timeout, &left);

    // The server closes first: what it asked for still holds.
    let mut table = Table::open(false, 0);
    table.check(0, Input::Shake(1), &["persist pending 0", "send SHAKE 0 x1"]);
    table.check(1, goaway, &["event GoAway"]);
    table.check(2, Input::Break, &left[1..]);
}

#[test]
fn a_server_that_breaks_the_protocol_is_left() {
    let frame = |write: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = Vec::new();
        write(&mut bytes);
        Input::Raw(bytes)
    };
    let bye = frame(&|out| yao_protocol::client::put_empty(out, 0x05, 0));
    let unknown = frame(&|out| yao_protocol::client::put_empty(out, 0x8f, 0));
    let strange = frame(&|out| put_receipt(out, 0, &receipt(5)));
    let foreign = Welcome { campaign: CampaignId(1), ..welcome(0) };
    for input in [bye, unknown, strange, Input::Welcome(welcome(0))] {
        Table::open(false, 0).check(1, input, &["disconnect BackOff"]);
    }
    let optional = frame(&|out| yao_protocol::client::put_empty(out, 0xcf, 0));
    Table::open(false, 0).check(1, optional, &[]);
    for input in [Input::Welcome(foreign), Input::Receipt(1), Input::OldWin(1)] {
        let mut table = Table::new(false);
        table.check(0, Input::Connect, &["send HELLO"]);
        table.check(1, input, &["disconnect BackOff"]);
    }
    let mut table = Table::open(false, 0);
    table.check(0, Input::Open(1), &["persist ticket 1", "send OPEN 1"]);
    let other_user = frame(&|out| put_receipt(out, 0, &receipt_for(1, UserId(78))));
    table.check(1, other_user, &["disconnect BackOff"]);
}

#[test]
fn more_tickets_than_a_campaign_allows_end_the_connection() {
    let mut table = Table::open(false, 0);
    for packet in 0..16 {
        let (stored, told) = (format!("persist ticket {packet}"), format!("event Won {packet}"));
        table.check(1, Input::OldWin(packet), &["persist tally", &stored, &told]);
    }
    table.check(1, Input::OldWin(16), &["disconnect BackOff"]);
}

#[test]
fn closing_says_goodbye_and_never_comes_back() {
    let mut table = Table::open(false, 0);
    table.check(5, Input::Close, &["send BYE", "disconnect Never"]);
    table.check(6, Input::Close, &[]);
    assert!(table.session.handle_connected(Timestamp::from_ms(7), "").is_err(), "an empty token");
}
