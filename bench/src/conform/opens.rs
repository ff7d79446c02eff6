//! Cases of wire.md 3.4 and 9.4: opens. With the server's own ticket key there are genuine tickets
//! of every kind, also of packets that nobody has.

use super::{
    case::{Answer, Case, Refused, Step, When, case, case_if, closed, expect, on, refused, send},
    facts::Facts,
    frames::{bye, goes_on, open},
    told::Spool,
};
use crate::identity::unix_seconds;
use yao_protocol::{
    CampaignId, Epoch, Fen, PacketId, PacketIndex, ShakeId, ShardId, SponsorId, UserId, WallTime,
    WaveIndex,
    client::put_open,
    keys::{KeyOwner, PrivateKeyFile, SignKey},
    ticket::{TICKET_BYTES, Ticket, TicketBody},
};

/// The part of packet ids from which tickets are made here: no shard has so many packets.
const INDEX_FIRST: u32 = 1 << 31;
/// A ticket's life, us.
const LIFETIME_US: u64 = 3_600 * 1_000_000;

type Bytes = [u8; TICKET_BYTES];

pub(super) fn cases(facts: &Facts) -> Vec<Case> {
    let mut cases = forgeries(facts);
    cases.extend(genuine(facts));
    cases.extend(known(facts));
    cases.extend(waiting(facts));
    cases.extend(no_room(facts));
    cases
}

pub(super) fn opening(request_id: u32, ticket: &Bytes) -> Vec<u8> {
    let mut bytes = Vec::new();
    put_open(&mut bytes, request_id, ticket);
    bytes
}

fn opened(request_id: u32, ticket: &Bytes) -> Vec<Step> {
    send(opening(request_id, ticket))
}

fn receipt(request_id: u32, ticket: &Bytes) -> Vec<Step> {
    expect(request_id, Answer::Receipt(Box::new(*ticket)))
}

/// A session of this user.
fn of(facts: &Facts, user: UserId) -> Vec<Step> {
    [send(facts.hello(user)), expect(1, Answer::Welcome)].concat()
}

/// What a ticket of `user` says, of a packet that nobody has.
fn body(facts: &Facts, user: UserId, shard: ShardId, epoch: Epoch) -> TicketBody {
    let number = (facts.user().0 & 0x7fff_ffff) as u32;
    let packet = PacketId::new(0, shard, PacketIndex(INDEX_FIRST | number));
    let now = WallTime::from_seconds(unix_seconds());
    TicketBody {
        campaign: facts.campaign,
        packet,
        user,
        amount: Fen(100),
        shake: ShakeId(1),
        issued_at: now,
        expires_at: now.plus_us(LIFETIME_US),
        shard,
        epoch,
        sponsor: SponsorId::new(0).expect("below 64"),
        wave: WaveIndex(0),
    }
}

fn owner(key: &PrivateKeyFile) -> (ShardId, Epoch) {
    match key.owner {
        KeyOwner::Ticket { shard, epoch, .. } => (shard, epoch),
        _ => unreachable!("looked at when it was read"),
    }
}

/// A ticket of `user` that is as genuine as `key`, and as `change` leaves it.
fn made(
    facts: &Facts,
    key: &PrivateKeyFile,
    user: UserId,
    change: impl FnOnce(&mut TicketBody),
) -> Bytes {
    let (shard, epoch) = owner(key);
    let mut body = body(facts, user, shard, epoch);
    change(&mut body);
    body.sign(&SignKey::from_seed(&key.seed)).encode()
}

/// The key of genuine tickets, where they can be opened.
fn key_of(facts: &Facts) -> Result<&PrivateKeyFile, &'static str> {
    if facts.told.spool.is_some() {
        return Err("the spool takes no opens");
    }
    facts.keys.ticket.as_ref().ok_or("the key is not given: --ticket-key")
}

fn forgeries(facts: &Facts) -> Vec<Case> {
    let forged = |user, shard, epoch| {
        let body = body(facts, user, ShardId(shard), Epoch(epoch));
        body.sign(&SignKey::from_seed(&[0x55; 32])).encode()
    };
    let invalid = || [refused(2, Refused::TICKET_INVALID), goes_on(3)].concat();
    let mut cases = Vec::new();
    for (variant, byte) in [("zeros", 0), ("ones", 0xff)] {
        let what = format!("a ticket of {variant}");
        let steps = [open(facts), opened(2, &[byte; TICKET_BYTES]), invalid()];
        cases.push(case(format!("W9.4-03.{variant}"), what, steps));
    }
    let what = "another user's ticket, of a key that nobody has: judged before its key";
    let theirs = forged(facts.user(), 0x00ff_fffe, 77);
    cases.push(case("W9.4-03.user", what, [open(facts), opened(2, &theirs), invalid()]));
    let what = "a ticket whose key the server does not have";
    let user = facts.user();
    let unknown = opened(2, &forged(user, 0x00ff_fffe, 77));
    let steps = [of(facts, user), unknown, refused(2, Refused::KEY_MISSING), goes_on(3)];
    cases.push(case("W9.4-04", what, steps));
    let what = "a ticket of the server's own shard under another key";
    let user = facts.user();
    let script = facts.keys.ticket.as_ref().ok_or("the key is not given: --ticket-key");
    let script = script.map(|key| {
        let (shard, epoch) = owner(key);
        let ticket = forged(user, shard.0, epoch.0);
        [of(facts, user), opened(2, &ticket), invalid()].concat()
    });
    cases.push(case_if("W9.4-05", what, script));
    let what = "after a refused ticket the session goes on";
    let steps = [open(facts), opened(2, &[0; TICKET_BYTES]), invalid()];
    cases.push(case("W6-19", what, steps));
    let what = "many opens at once: each is answered, from the ninth on perhaps with BUSY";
    let all: Vec<u8> = (2..34).flat_map(|id| opening(id, &[0; TICKET_BYTES])).collect();
    let answer = |id| {
        let invalid = Answer::Error(Refused::TICKET_INVALID);
        let busy = Answer::Error(Refused::OPEN_BUSY);
        (id, if id < 10 { invalid } else { Answer::OneOf(vec![invalid, busy]) })
    };
    let answers = vec![Step::Expect((2..34).map(answer).collect())];
    cases.push(case("W9.4-01.many", what, [open(facts), send(all), answers, goes_on(40)]));
    cases
}

/// A case of a new user with a genuine ticket.
fn with_ticket(
    facts: &Facts,
    (id, what): (&str, &str),
    change: impl FnOnce(&mut TicketBody),
    steps: impl FnOnce(UserId, Bytes) -> Vec<Step>,
) -> Case {
    let user = facts.user();
    let script = key_of(facts).map(|key| {
        let ticket = made(facts, key, user, change);
        [of(facts, user), opened(2, &ticket), steps(user, ticket)].concat()
    });
    case_if(id, what, script)
}

fn genuine(facts: &Facts) -> Vec<Case> {
    let invalid = refused(2, Refused::TICKET_INVALID);
    let expired = || refused(2, Refused::TICKET_EXPIRED);
    let mut cases = vec![
        with_ticket(facts, ("W5.3-01", "a genuine ticket"), |_| {}, |_, it| receipt(2, &it)),
        with_ticket(
            facts,
            ("W9.4-03.campaign", "a genuine ticket of another campaign"),
            |body| body.campaign = CampaignId(body.campaign.0 ^ 1),
            |_, _| invalid,
        ),
        with_ticket(
            facts,
            ("W9.4-09", "a genuine ticket that has expired"),
            |body| (body.issued_at, body.expires_at) = (WallTime(1), WallTime(2)),
            |_, _| [expired(), goes_on(3)].concat(),
        ),
        with_ticket(
            facts,
            ("W9.4-09.now", "a genuine ticket that expired a second ago"),
            |body| body.expires_at = WallTime::from_seconds(unix_seconds() - 1),
            |_, _| expired(),
        ),
        with_ticket(
            facts,
            ("W9.4-09.known", "a ticket that was opened, and expired since: the same receipt"),
            |body| body.expires_at = WallTime::from_seconds(unix_seconds() + 6),
            |_, it| {
                let again = [opened(3, &it), expect(3, Answer::SameAs(1))].concat();
                [receipt(2, &it), vec![Step::Silence(6_500)], again].concat()
            },
        )
        .at(When::Soon),
    ];
    let script = facts.keys.other_ticket.as_ref().ok_or("--other-ticket-key is not given");
    let user = facts.user();
    let script = script.and_then(|key| key_of(facts).map(|_| key)).map(|key| {
        let ticket = made(facts, key, user, |_| {});
        [of(facts, user), opened(2, &ticket), receipt(2, &ticket)].concat()
    });
    cases.push(case_if("W9.4-14", "a ticket of another node of the campaign", script));
    let script = facts.told.banned_user.ok_or("--banned-user is not given");
    let script = script.and_then(|user| key_of(facts).map(|key| (UserId(user), key)));
    let script = script.map(|(user, key)| {
        let ticket = made(facts, key, user, |_| {});
        let refusal = [refused(2, Refused::OPEN_REFUSED), goes_on(3)].concat();
        [of(facts, user), opened(2, &ticket), refusal].concat()
    });
    let what = "an open that policy forbids";
    cases.push(case_if("W9.4-12", what, script).at(When::InTurn));
    cases
}

/// Packets that were opened before.
fn known(facts: &Facts) -> Vec<Case> {
    let same = |id| expect(id, Answer::SameAs(1));
    let theirs = |ticket: &Bytes| {
        let other = facts.user();
        let key = facts.keys.ticket.as_ref().expect("there is a ticket that it made");
        let mut body = Ticket::decode(ticket).expect("genuine").body;
        body.user = other;
        let ticket = body.sign(&SignKey::from_seed(&key.seed)).encode();
        let invalid = refused(2, Refused::TICKET_INVALID);
        [of(facts, other), opened(2, &ticket), invalid, goes_on(3)].concat()
    };
    let again = |it: &Bytes| [receipt(2, it), opened(3, it), same(3)].concat();
    let mut cases = vec![
        with_ticket(
            facts,
            ("W9.4-08", "a ticket that was opened before: the same receipt"),
            |_| {},
            |_, it| again(&it),
        ),
        with_ticket(
            facts,
            ("W3.4-02", "a ticket opened on two connections: the same receipt"),
            |_| {},
            |user, it| {
                let second = [on(1), of(facts, user), opened(3, &it)].concat();
                // The first answers were WELCOME and RECEIPT, the third is WELCOME.
                [receipt(2, &it), second, same(3)].concat()
            },
        ),
        with_ticket(
            facts,
            ("W9.4-07", "a packet that another user has opened"),
            |_| {},
            |_, it| [receipt(2, &it), on(1), theirs(&it)].concat(),
        ),
        with_ticket(
            facts,
            ("W9.4-15", "an open whose connection closes goes on"),
            |_| {},
            |user, it| {
                let left = [send(bye()), closed(), on(1), theirs(&it), on(2)].concat();
                [left, of(facts, user), opened(2, &it), receipt(2, &it)].concat()
            },
        ),
    ];
    let user = facts.user();
    let script = key_of(facts).map(|key| {
        let ticket = made(facts, key, user, |_| {});
        let both = [opening(2, &ticket), opening(3, &ticket)].concat();
        let answer = |id| (id, Answer::Receipt(Box::new(ticket)));
        [of(facts, user), send(both), vec![Step::Expect(vec![answer(2), answer(3)])]].concat()
    });
    let what = "a ticket that is being opened already: the same receipt";
    cases.push(case_if("W9.4-08.together", what, script));
    cases
}

/// Opens whose verdict is not there yet.
fn waiting(facts: &Facts) -> Vec<Case> {
    let user = facts.user();
    let script = key_of(facts).and_then(|key| {
        if !facts.told.agent_paused {
            return Err("the agent answers: --agent-paused");
        }
        let tickets: Vec<Bytes> = (0..9).map(|_| made(facts, key, user, |_| {})).collect();
        let all: Vec<u8> = (2..).zip(&tickets).flat_map(|(id, it)| opening(id, it)).collect();
        let answer = |(id, it): (u32, &Bytes)| match id {
            10 => (id, Answer::Error(Refused::OPEN_BUSY)),
            _ => (id, Answer::Receipt(Box::new(*it))),
        };
        let answers = (2..).zip(&tickets).map(answer).collect();
        Ok([of(facts, user), send(all), vec![Step::Expect(answers)], goes_on(11)].concat())
    });
    vec![case_if("W9.4-01", "a ninth open while eight are under way", script)]
}

/// Spools that take nothing.
fn no_room(facts: &Facts) -> Vec<Case> {
    let refusal = |id, what, spool: Spool, refusal, reason| {
        let user = facts.user();
        let key = facts.keys.ticket.as_ref().filter(|_| facts.told.spool == Some(spool));
        let script = key.ok_or(reason).map(|key| {
            let ticket = made(facts, key, user, |_| {});
            [of(facts, user), opened(2, &ticket), refused(2, refusal), goes_on(3)].concat()
        });
        case_if(id, what, script).at(When::InTurn)
    };
    let fenced = "the spool is not fenced: --spool fenced, --ticket-key";
    let what = "an open that cannot be written";
    let unwritten = refusal("W9.4-13", what, Spool::Fenced, Refused::FENCED, fenced);
    let what = "an open behind the fence";
    let behind = refusal("W9.4-10", what, Spool::Fenced, Refused::FENCED, fenced);
    let what = "an open without room in the spool";
    let reason = "the spool is not full: --spool full, --ticket-key";
    let full = refusal("W9.4-11", what, Spool::Full, Refused::SPOOL_FULL, reason);
    vec![unwritten, behind, full]
}
