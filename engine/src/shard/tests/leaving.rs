//! Who is asked to leave, who is not let in, and what they are told.

use super::*;
use crate::pace::Pace;
use yao_protocol::client::GoAway;

/// A world with `count` sessions, the first of [`USER`].
fn crowd(count: u64) -> World {
    let mut world = World::open();
    for user in 1..count {
        world.connection = world.accept();
        world.greet(None);
        world.believe(UserId(1_000 + user));
    }
    world.effects();
    world
}

/// The only message of `bytes`, a GOAWAY.
fn go_away(bytes: &[u8]) -> GoAway {
    match messages(bytes).as_slice() {
        [(_, ServerMessage::GoAway(go_away))] => go_away.clone(),
        other => panic!("one GOAWAY, not {other:?}"),
    }
}

/// Fires timers at `now` and lets `pace` say how many are asked; returns who was.
fn ask(world: &mut World, now: Timestamp, pace: &mut Pace) -> Vec<ConnectionId> {
    world.engine.handle_time(now);
    let mut asked = Vec::new();
    while let Some(effect) = world.engine.poll_effect() {
        match effect {
            Effect::AskToLeave { count_max } => {
                let count = pace.take(now, count_max);
                let used = world.engine.handle_ask_to_leave(now, count);
                assert!(used <= count);
                pace.give_back(count - used);
            }
            Effect::Send { connection, bytes } => {
                let said = go_away(&bytes);
                let (reason, class) = (GoAwayReason::Drain, RetryClass::After);
                let (delay_ms, jitter_ms) = (1_000, 10_000);
                let endpoints = vec!["other:1".to_owned()];
                assert_eq!(said, GoAway { reason, class, delay_ms, jitter_ms, endpoints });
                asked.push(connection);
            }
            Effect::Close { .. } => {}
            other => panic!("farewells, not {other:?}"),
        }
    }
    asked
}

#[test]
fn everybody_is_asked_once_and_at_the_pace() {
    let mut world = crowd(300);
    // Some leave before they are asked: their places are empty.
    for slot in (0..300).step_by(3) {
        world.engine.handle_closed(slot);
    }
    world.engine.handle_drain(world.now);
    let (mut pace, mut asked) = (Pace::new(world.now, 50), Vec::new());
    for ms in (0..10_000).step_by(10) {
        let now = at(1_000_000 + ms);
        asked.extend(ask(&mut world, now, &mut pace).into_iter().map(|id| (id.slot, ms)));
        assert!(asked.len() as u64 <= 50 * ms / 1_000, "{} within {ms} ms", asked.len());
        // What was said before changes nothing.
        world.engine.handle_drain(now);
    }
    let slots: Vec<u32> = asked.iter().map(|(slot, _)| *slot).collect();
    let expected: Vec<u32> = (0..300).filter(|slot| slot % 3 != 0).collect();
    assert_eq!(slots, expected);
    assert_eq!(world.engine.counters().asked_to_leave, 200);
    let (_, last) = asked.last().expect("200 of them");
    assert!((4_000..4_100).contains(last), "the last after {last} ms");
    assert_eq!(world.engine.deadline(at(1_010_000)), world.engine.wheel.deadline(at(1_010_000)));
}

#[test]
fn a_pace_that_allows_all_does_not_keep_those_who_stay_waiting() {
    let mut world = crowd(200);
    world.engine.handle_drain(world.now);
    let mut pace = Pace::new(at(0), u32::MAX);
    let mut asked = Vec::new();
    while asked.len() < 200 {
        let now = world.now;
        assert_eq!(world.engine.deadline(now), now, "the next group is due at once");
        let group = ask(&mut world, now, &mut pace);
        assert!((1..=64).contains(&group.len()), "{} in one go", group.len());
        asked.extend(group);
    }
}

#[test]
fn who_stays_too_long_is_cut_off_and_counted_and_who_leaves_is_not() {
    let mut world = crowd(3);
    world.engine.handle_drain(world.now);
    let now = world.now;
    assert_eq!(ask(&mut world, now, &mut Pace::new(at(0), 1_000)).len(), 3);
    // One says BYE, one just closes, one stays.
    let mut bytes = Vec::new();
    put_empty(&mut bytes, kind::BYE, 7);
    world.receive(&bytes);
    assert!(matches!(&world.effects()[..], [Effect::Close { .. }]));
    world.engine.handle_closed(world.connection.slot);
    world.engine.handle_closed(1);
    world.engine.handle_time(at(1_001_990));
    assert_eq!(world.effects(), []);
    world.engine.handle_time(at(1_002_100));
    assert!(matches!(&world.effects()[..], [Effect::Close { connection }] if connection.slot == 0));
    assert_eq!(world.engine.counters().overstayed, 1);
}

#[test]
fn who_leaves_has_his_whole_time_also_with_a_frame_that_is_cut() {
    let settings = Settings { frame_ms_max: 500, ..Settings::new(CAMPAIGN, mac_key()) };
    let mut world = World::open();
    world.engine = ShardEngine::new(settings, world.now);
    world.connection = world.accept();
    world.greet(None);
    world.believe(USER);
    world.effects();
    let begun = world.now;
    world.engine.handle_drain(begun);
    world.engine.handle_time(begun);
    world.engine.handle_ask_to_leave(begun, 1);
    assert_eq!(world.state(), State::Leaving);
    world.effects();
    // The start of an OPEN whose rest does not come.
    world.receive(&[136, 0]);
    for ms in [600, 1_000, 1_900] {
        world.engine.handle_time(begun.plus_ms(ms));
        assert_eq!(world.effects(), [], "{ms} ms after he was asked");
    }
    world.engine.handle_time(begun.plus_ms(2_100));
    assert!(matches!(&world.effects()[..], [Effect::Close { .. }]));
    assert_eq!(world.engine.counters().overstayed, 1);
}

#[test]
fn who_comes_during_a_drain_is_told_where_to_go() {
    let mut world = crowd(1);
    world.connection = world.accept();
    world.greet(None);
    let checked = world.connection;
    world.effects();
    world.engine.handle_drain(world.now);
    let told = |effects: &[Effect], id: ConnectionId| {
        assert!(matches!(effects, [Effect::Send { connection, bytes }, Effect::Close { .. }]
            if *connection == id && go_away(bytes).reason == GoAwayReason::Drain));
    };
    world.connection = world.accept();
    world.greet(None);
    let effects = world.effects();
    told(&effects, world.connection);
    // His HELLO came before the drain, his token's check ends in it.
    world.connection = checked;
    assert!(world.believe(UserId(5)).is_empty(), "no WELCOME");
    let effects = world.effects();
    told(&effects, checked);
    assert_eq!(world.engine.counters().turned_away, 2);
    // The drain goes on although newcomers would be welcome otherwise.
    world.engine.handle_refuse_new(false);
    world.connection = world.accept();
    world.greet(None);
    let effects = world.effects();
    told(&effects, world.connection);
}

#[test]
fn newcomers_are_refused_and_taken_again_while_sessions_stay() {
    let mut world = crowd(1);
    let here = world.connection;
    world.engine.handle_refuse_new(true);
    world.engine.handle_hint(hint("elsewhere:2"));
    world.connection = world.accept();
    world.greet(None);
    let effects = world.effects();
    assert!(matches!(&effects[..], [Effect::Send { bytes, .. }, Effect::Close { .. }]
        if go_away(bytes).endpoints == ["elsewhere:2"]));
    world.connection = here;
    assert_eq!(world.state(), State::Open);
    let mut ping = Vec::new();
    put_empty(&mut ping, kind::PING, 5);
    assert!(!world.receive(&ping).is_empty());
    world.engine.handle_time(world.now.plus_ms(5_000));
    assert!(!world.effects().iter().any(|effect| matches!(effect, Effect::AskToLeave { .. })));

    world.engine.handle_refuse_new(false);
    world.connection = world.accept();
    world.greet(None);
    let out = world.believe(UserId(6));
    assert!(
        matches!(&messages(&out)[0].1, ServerMessage::Welcome(welcome)
        if welcome.endpoints == ["elsewhere:2"]),
        "WELCOME names the endpoints of now"
    );
}
