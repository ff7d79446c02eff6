//! The money rules of the issuer, each named after its promise (DESIGN section 6).

mod crashes;
mod devices;
mod grants;
mod limits;
mod release;
mod vetting;
mod waves;
mod world;

use super::Input;
use crate::GateView;
use world::{World, key, plan, settings};
use yao_protocol::{
    PacketId, PacketIndex, ShakeId, SponsorId, SponsorSet, UserId, keys::context,
    seed_file::SeedRecord, token::Bearer,
};

/// A wave of 1,000 packets over ten seconds, of 8 sponsors.
fn thousand() -> Vec<SeedRecord> {
    plan(1_000, 10, 8)
}

#[test]
fn m1_no_ticket_leaves_for_a_packet_above_the_mark_on_disk() {
    let mut world = World::new(thousand(), 10);
    world.disk = false;
    world.arm();
    world.run_to(500_000);
    assert_eq!(world.raises, [(0, 300)], "asked for once, and not yet on disk");
    for user in 0..50 {
        assert!(world.shake(user, user).is_none(), "nothing is on disk, nothing may leave");
    }
    world.sync();
    world.drain();
    for user in 50..90 {
        world.run_to(500_000 + user * 20_000);
        world.shake(user, user).expect("50 packets are due");
    }
    assert!(world.positions().iter().all(|position| *position < 300));
}

#[test]
fn m1_a_raise_leaves_exactly_b_unissued() {
    // 100 a second: B is 300.
    let mut world = World::running(thousand(), 10, 0);
    assert_eq!(world.high, 300);
    for user in 0..150 {
        world.run_to(user * 10_000);
        world.shake(user, user).expect("one a hundredth of a second");
        assert_eq!(world.high, 300, "half a block is left");
    }
    world.run_to(1_500_000);
    world.shake(150, 150).expect("one more is due");
    world.drain();
    assert_eq!(world.high, 451, "151 are issued, so that 300 are not");
}

#[test]
fn m1_b_is_clamped() {
    let check = |packets: u32, seconds: u64, block: u32| {
        let world = World::running(plan(packets, seconds, 4), seconds, 0);
        assert_eq!(world.high, block, "{packets} packets in {seconds} s");
    };
    check(500, 500, 64);
    check(1_000, 10, 300);
    check(60_000, 3, 32_768);
}

#[test]
#[should_panic(expected = "the cursor is older than the journal")]
fn m1_a_cursor_older_than_the_journal_issues_nothing() {
    let mut world = World::running(thousand(), 10, 1_000_000);
    world.shake(1, 1).expect("a packet is due");
    world.high = 0;
    world.crash(0);
}

#[test]
fn m3_a_fenced_issuer_issues_nothing_more() {
    let mut world = World::running(thousand(), 10, 1_000_000);
    world.shake(1, 1).expect("the disk is well");
    world.input(Input::Fenced { reason: "fdatasync: EIO".to_owned() });
    assert_eq!((world.gate.count, world.gate.running), (0, true), "shakes go on without packets");
    assert!(world.shake(2, 2).is_none());
    assert_eq!(world.lost.last(), Some(&ShakeId(2)), "and are answered");
    let events = world.journal.len();
    world.run_to(20_000_000);
    assert_eq!(world.journal.len(), events, "a fenced node decides nothing");
    assert!(world.resend(1, 1).is_some(), "what was won before stays won");
}

#[test]
fn m3_a_win_in_vetting_when_the_disk_fails_is_not_issued() {
    let mut world = World::running(thousand(), 10, 1_000_000);
    world.input(Input::AgentAvailable(true));
    assert!(world.shake(1, 1).is_none());
    let call = world.vets.last().expect("it is being vetted").call;
    world.input(Input::Fenced { reason: "fdatasync: EIO".to_owned() });
    world.input(Input::Verdict { call, allowed: true });
    assert!(world.wins.is_empty());
    assert_eq!(world.lost, [ShakeId(1)]);
}

#[test]
fn m3_a_fenced_issuer_asks_nobody() {
    let mut world = World::running(thousand(), 10, 1_000_000);
    world.input(Input::AgentAvailable(true));
    world.input(Input::Fenced { reason: "fdatasync: EIO".to_owned() });
    assert!(world.shake(1, 1).is_none());
    assert!(world.vets.is_empty(), "no packet is held for him");
    assert_eq!(world.lost, [ShakeId(1)], "he is told at once");
}

#[test]
fn m5_the_ticket_covers_every_field() {
    let mut world = World::running(thousand(), 10, 1_000_000);
    let win = world.shake(42, 4_711).expect("a packet is due");
    let body = win.ticket.body;
    let record = world.records[0];
    let settings = settings();
    assert_eq!(body.packet, PacketId::new(0, settings.shard, PacketIndex(5)));
    assert_eq!((body.user, body.shake), (UserId(42), ShakeId(4_711)));
    assert_eq!((body.amount, body.sponsor), (record.amount, record.sponsor));
    assert_eq!(
        (body.campaign, body.shard, body.epoch),
        (settings.campaign, settings.shard, settings.epoch)
    );
    assert_eq!(body.expires_at, body.issued_at.plus_us(settings.ticket_lifetime_us));
    let public = key().public();
    let bytes = body.encode();
    assert!(public.verifies(context::TICKET, &bytes, &win.ticket.signature));
    for byte in 0..bytes.len() {
        let mut forged = bytes;
        forged[byte] ^= 1;
        assert!(!public.verifies(context::TICKET, &forged, &win.ticket.signature), "byte {byte}");
    }
}

#[test]
fn m6_a_shake_sent_again_gets_the_same_ticket() {
    let mut world = World::running(thousand(), 10, 1_000_000);
    let first = world.shake(1, 77).expect("a packet is due");
    let again = world.resend(1, 77).expect("its win is on record");
    assert_eq!(first.ticket.encode(), again.ticket.encode());
    world.shake(1, 77).expect("with or without the flag");
    assert_eq!(world.issuer.counters().issued, 1);
    let other = world.resend(1, 78).expect("a draw that never arrived is a new one");
    assert_ne!(other.ticket.body.packet, first.ticket.body.packet);
}

#[test]
fn m6_the_table_is_rebuilt_from_the_journal() {
    let mut world = World::running(thousand(), 10, 1_000_000);
    let first = world.shake(1, 77).expect("a packet is due");
    world.crash(0);
    world.run_to(1_200_000);
    let again = world.resend(1, 77).expect("the journal remembers");
    assert_eq!(first.ticket.encode(), again.ticket.encode());
}

#[test]
fn m6_after_welcome_the_tickets_that_can_still_be_opened_follow() {
    let mut world = World::running(plan(1_000, 100, 8), 100, 1_000_000);
    let first = world.shake(1, 1).expect("a packet is due");
    world.run_to(40_000_000);
    let second = world.shake(1, 2).expect("a packet is due");
    let connection = world.candidate(1, 0).connection;
    let greeted = |world: &mut World| {
        world.wins.clear();
        world.input(Input::Welcomed {
            connection,
            user: UserId(1),
            wins: 0,
            sponsors: SponsorSet::EMPTY,
            bearer: Bearer::default(),
        });
        world.wins.iter().map(|win| (win.request_id, win.ticket)).collect::<Vec<_>>()
    };
    assert_eq!(greeted(&mut world), [(0, first.ticket), (0, second.ticket)]);
    // The first one's 60 s are over.
    world.run_to(62_000_000);
    assert_eq!(greeted(&mut world), [(0, second.ticket)]);
}

#[test]
fn m8_a_quiet_wave_closes_with_every_packet_in_one_class() {
    let mut world = World::running(thousand(), 10, 500_000);
    for user in 0..100 {
        world.run_to(500_000 + user * 60_000);
        world.shake(user, user);
    }
    world.run_to(20_000_000);
    let (unissued, _) = *world.closed().first().expect("the wave has closed");
    let issued = u32::try_from(world.wins.len()).expect("few");
    assert_eq!(issued + world.skipped() + unissued, 1_000);
    assert_eq!(issued, 100);
}

#[test]
fn m8_what_was_never_reserved_is_left_too() {
    let mut world = World::running(thousand(), 10, 0);
    world.disk = false;
    world.run_to(20_000_000);
    assert_eq!((world.high, world.skipped()), (300, 0));
    assert_eq!(world.closed()[0].0, 1_000);
}

#[test]
fn m8_the_close_states_the_sum_when_every_record_was_read() {
    let mut world = World::running(plan(100, 10, 8), 10, 500_000);
    let issued = world.shake(1, 1).expect("a packet is due").ticket.body.amount;
    world.run_to(20_000_000);
    let (unissued, sum) = world.closed()[0];
    assert_eq!(unissued, 99);
    assert_eq!(sum.0 + issued.0, world.section.sum.0);
}

#[test]
fn a_wave_is_closed_once_in_all_its_lives() {
    let mut world = World::running(thousand(), 10, 20_000_000);
    assert_eq!(world.closed().len(), 1);
    world.crash(0);
    world.run_to(30_000_000);
    assert_eq!(world.closed().len(), 1);
    assert_eq!(world.skipped(), 0, "the close has told what it left");
}

#[test]
fn the_gate_tells_the_books_and_heals() {
    let mut world = World::running(plan(20, 10, 2), 10, 1_800_000);
    let two = SponsorSet::EMPTY
        .with(SponsorId::new(0).expect("small"))
        .with(SponsorId::new(1).expect("small"));
    // Four moments have passed: at 0, 0.5, 1 and 1.5 s; a slow wave has credit for two.
    assert_eq!(world.gate, GateView { sponsors: two, count: 2, running: true });
    // A shard that took a place and lost its candidate changes nothing here: the books decide.
    world.shake(1, 1).expect("a packet is due");
    assert_eq!(world.gate.count, 1);
    world.input(Input::JournalHold(true));
    assert_eq!(world.gate.count, 0, "issuing rests while the journal cannot keep up");
    assert!(world.shake(2, 2).is_none(), "also for a candidate who was under way");
    world.input(Input::JournalHold(false));
    assert_eq!(world.gate.count, 1);
}
