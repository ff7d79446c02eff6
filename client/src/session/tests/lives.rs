//! What one life of the app leaves to the next.

use super::*;
use crate::link::Transport;

/// Every output until the session sleeps.
fn outputs(session: &mut Session) -> Vec<Output> {
    std::iter::from_fn(|| match session.poll() {
        Output::SleepUntil { .. } => None,
        output => Some(output),
    })
    .collect()
}

/// What a life that had these outputs leaves, killed before the last `lost` of them.
fn left(wallet: &Wallet, outputs: &[Output], lost: usize) -> Wallet {
    let mut left = wallet.clone();
    for output in &outputs[..outputs.len() - lost] {
        if let Output::Persist(record) = output {
            left.apply(record).expect("its own record");
        }
    }
    left
}

#[test]
fn an_open_that_was_taken_in_charge_is_owed_by_the_next_life() {
    let check = |held: &[Record], persisted: &[Record]| {
        let mut wallet = Wallet::default();
        for record in held {
            wallet.apply(record).expect("valid");
        }
        let mut table = Table::with(false, wallet.clone());
        table.give(Timestamp::ZERO, Input::Open(1));
        let seen = outputs(&mut table.session);
        let expected: Vec<Output> = persisted.iter().copied().map(Output::Persist).collect();
        assert_eq!(seen, expected, "stored, and nothing said to anybody: {held:?}");
        assert!(persisted.iter().all(Record::must_be_durable), "on disk");
        // Told again it is in charge already.
        table.give(Timestamp::ZERO, Input::Open(1));
        assert_eq!(outputs(&mut table.session), []);

        let mut table = Table::with(false, left(&wallet, &seen, 0));
        let held = table.session.wallet().holdings()[0];
        assert!(held.opening, "the app can tell it from one that nobody opened");
        table.check(0, Input::Connect, &["send HELLO"]);
        let welcomed = ["welcome", "event Connected", "event Cue 1", "send OPEN 1"];
        table.check(1, Input::Welcome(welcome(0)), &welcomed);
        table.check(2, Input::Receipt(1), &["persist receipt", "event Opened 1"]);

        let mut table = Table::with(false, table.session.wallet().clone());
        assert!(!table.session.wallet().holdings()[0].opening, "decided");
        table.check(0, Input::Connect, &["send HELLO"]);
        table.check(1, Input::Welcome(welcome(0)), &welcomed[..3]);

        let mut table = Table::with(false, left(&wallet, &seen, 1));
        table.check(0, Input::Connect, &["send HELLO"]);
        table.check(1, Input::Welcome(welcome(0)), &welcomed[..3]);
    };
    let (ticket, opening) = (Record::Ticket(ticket(1, 901)), Record::Opening(PacketId(1)));
    check(&[], &[ticket, opening]);
    check(&[ticket], &[opening]);
    // The app may know better than an old refusal, in the next life, too.
    check(&[ticket, Record::Refused { packet: PacketId(1), code: 8 }], &[opening]);
}

#[test]
fn a_refusal_for_good_ends_an_open_also_when_it_is_the_second_one() {
    let never = refusal(ErrorCode::TicketExpired, RetryClass::Never, 0);
    let refused = ["persist refused 1 8", "event OpenRefused 1"];
    let mut table = Table::open(false, 0);
    table.check(0, Input::Open(1), &["persist ticket 1", "send OPEN 1"]);
    for now in 1..4 {
        table.check(2 * now, Input::Refuse(never), &refused);
        assert!(!table.session.wallet().holdings()[0].opening, "decided");
        table.check(2 * now + 1, Input::Open(1), &["send OPEN 1"]);
        assert!(table.session.wallet().holdings()[0].opening);
    }
}

#[test]
fn m6_the_node_that_was_asked_is_kept_with_the_shake() {
    let mut table = Table::new(false);
    let mut now = 0;
    let mut connect = |table: &mut Table, endpoint: &str| {
        table.session.handle_route(Transport::Tls, endpoint.to_owned());
        now += 10;
        table.give(Timestamp::from_ms(now), Input::Connect);
        outputs(&mut table.session);
        table.give(Timestamp::from_ms(now), Input::Welcome(welcome(0)));
    };
    connect(&mut table, "tls://a:1");
    assert!(!outputs(&mut table.session).iter().any(|it| matches!(it, Output::Persist(_))));
    let asked = ["persist home tls://a:1", "persist pending 0", "send SHAKE 0 x1"];
    table.check(11, Input::Shake(1), &asked);
    table.check(12, no_win(0, 0), &["persist nothing pending", "event NoWin 0"]);
    table.check(13, Input::Shake(1), &["persist pending 1", "send SHAKE 1 x1"]);
    table.check(14, Input::Break, &["disconnect BackOff"]);
    // Asked again elsewhere, it may win there.
    connect(&mut table, "tls://b:1");
    let again = outputs(&mut table.session);
    assert!(again.contains(&Output::Persist(Record::Home(Home::new("tls://b:1")))), "{again:?}");
    table.check(25, Input::Break, &["disconnect BackOff"]);
    // A name that cannot be kept does not leave another one in its place.
    connect(&mut table, &format!("tls://{}:1", "b".repeat(200)));
    let again = outputs(&mut table.session);
    assert!(again.contains(&Output::Persist(Record::Home(None))), "{again:?}");
}
