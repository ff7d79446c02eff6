//! Drains: who is asked to leave and when, what becomes of opens, and what the exit code says.

use crate::support::{Client, Event, Heard, Node, Signal, Transport};
use std::{collections::BTreeMap, time::Duration};
use tokio::{task::JoinSet, time::Instant};
use yao_protocol::{PacketId, receipt::RECEIPT_BYTES, ticket::Ticket};

// docs/operations.md, "How a node ended".
const ALL_LEFT: i32 = 0;
const OVERSTAYED: i32 = 3;
const REMAINING: i32 = 4;

const WAYS: [Transport; 3] = [Transport::Tcp, Transport::Tls, Transport::Quic];

/// What became of tickets that were opened: the receipt of each that was acknowledged.
type Receipts = BTreeMap<PacketId, Box<[u8; RECEIPT_BYTES]>>;

/// So many clients over every way in, each with three tickets.
async fn winners(node: &Node<'_>, count: u64) -> Vec<(Client, Vec<Ticket>)> {
    let mut winners = Vec::new();
    for (user, way) in (1..=count).zip(WAYS.into_iter().cycle()) {
        let mut client = Client::welcomed(node, way, user).await;
        let tickets = client.win(3).await;
        winners.push((client, tickets));
    }
    winners
}

/// Says OPEN for every ticket of everybody, and waits for no answer.
async fn open_all(winners: &mut [(Client, Vec<Ticket>)]) {
    for (client, tickets) in winners {
        for ticket in tickets {
            client.open(ticket).await;
        }
    }
}

/// Lets everybody hear his answers until his connection ends. Whoever is asked to leave does so
/// when he has them all, if he has `manners`.
async fn finish_all(winners: Vec<(Client, Vec<Ticket>)>, manners: bool) -> Receipts {
    let mut tasks = JoinSet::new();
    for (client, tickets) in winners {
        tasks.spawn(finish(client, tickets, manners));
    }
    tasks.join_all().await.into_iter().flatten().collect()
}

async fn finish(mut client: Client, tickets: Vec<Ticket>, manners: bool) -> Receipts {
    let (mut receipts, mut asked) = (Receipts::new(), false);
    let mut waiting = tickets.iter();
    loop {
        match client.hear().await {
            Heard::Receipt(receipt) => {
                let ticket = waiting.next().expect("one receipt for each open");
                receipts.insert(ticket.body.packet, receipt);
            }
            Heard::GoAway(_) => asked = true,
            Heard::End => return receipts,
            Heard::Reconnect(_) => {}
            other => panic!("receipts and farewells, not {other:?}"),
        }
        if manners && asked && receipts.len() == tickets.len() {
            client.bye().await;
        }
    }
}

/// Every receipt is of an open that the node of the next life has on disk.
async fn all_kept(event: &Event, tickets: &[Ticket], receipts: &Receipts) {
    let node = event.start();
    let kept = node.status()["spool"]["next_sequence"].as_u64().expect("a number") - 1;
    assert!(kept >= receipts.len() as u64, "{kept} kept, {} acknowledged", receipts.len());
    for ticket in tickets {
        let Some(receipt) = receipts.get(&ticket.body.packet) else { continue };
        let mut owner = Client::welcomed(&node, Transport::Tcp, ticket.body.user.0).await;
        owner.open(ticket).await;
        assert_eq!(owner.receipt().await, *receipt, "the receipt of then, with its time");
    }
    assert_eq!(node.status()["spool"]["next_sequence"], kept + 1, "none was new to it");
    node.kill();
}

fn tickets_of(winners: &[(Client, Vec<Ticket>)]) -> Vec<Ticket> {
    winners.iter().flat_map(|(_, tickets)| tickets.clone()).collect()
}

#[tokio::test]
async fn every_open_under_way_is_acknowledged_and_kept_when_the_node_is_asked_to_end() {
    let event = Event::new();
    event.arm();
    // Nothing is on disk when the signal comes.
    event.set("spool.commit_us_max", 300_000);
    let mut node = event.start();
    let mut winners = winners(&node, 12).await;
    let tickets = tickets_of(&winners);
    open_all(&mut winners).await;
    node.signal(Signal::TERM);
    let receipts = finish_all(winners, true).await;
    assert_eq!(node.exit_code().await, ALL_LEFT);
    assert_eq!(receipts.len(), tickets.len(), "everybody had time to finish");
    all_kept(&event, &tickets, &receipts).await;
}

#[tokio::test]
async fn a_second_signal_cuts_and_what_was_acknowledged_is_kept() {
    let event = Event::new();
    event.arm();
    event.set("spool.commit_us_max", 300_000);
    event.set("drain.per_second", 1);
    let mut node = event.start();
    let mut winners = winners(&node, 12).await;
    let tickets = tickets_of(&winners);
    // The first half is on disk, the other under way, and nobody was asked yet.
    let mut later = winners.split_off(6);
    open_all(&mut winners).await;
    let mut receipts = Receipts::new();
    for (client, tickets) in &mut winners {
        for ticket in tickets {
            receipts.insert(ticket.body.packet, client.receipt().await);
        }
    }
    open_all(&mut later).await;
    node.signal(Signal::TERM);
    node.has_logged("draining").await;
    node.signal(Signal::TERM);
    winners.iter_mut().for_each(|(_, tickets)| tickets.clear());
    winners.append(&mut later);
    receipts.append(&mut finish_all(winners, false).await);
    assert_eq!(node.exit_code().await, REMAINING);
    assert_eq!(node.logged("drain_cut_short")["reason"], "a second signal");
    assert!(receipts.len() >= tickets.len() / 2);
    all_kept(&event, &tickets, &receipts).await;
}

#[tokio::test]
async fn a_signal_does_not_cut_short_the_drain_that_an_operator_began() {
    let event = Event::new();
    let mut node = event.start();
    let mut client = Client::welcomed(&node, Transport::Tcp, 1).await;
    node.users(1).await;
    node.command(&["drain", "--rate", "1", "--deadline", "600"]);
    node.has_logged("draining").await;
    node.signal(Signal::TERM);
    node.has_logged("drain_goes_on").await;
    client.go_away().await;
    client.bye().await;
    assert_eq!(node.exit_code().await, ALL_LEFT);
}

#[tokio::test]
async fn who_leaves_when_asked_ends_the_node_in_order() {
    let event = Event::new();
    event.set("drain.per_second", 100);
    let mut node = event.start();
    let mut client = Client::welcomed(&node, Transport::Tls, 1).await;
    node.users(1).await;
    assert_eq!(node.post("/drain?per_second=0").0, 422, "it would never end");
    let said = node.command(&["drain", "--deadline", "20"]);
    assert!(said.starts_with("draining 1 sessions at 100 a second"), "{said}");
    client.go_away().await;
    let (code, said) = node.post("/drain?per_second=50");
    assert!(code == 202 && said.contains("at 50 a second"), "{code}: {said}");
    node.status_where("the new rate", |status| status["drain"]["per_second"] == 50).await;
    let (code, reasons) = node.get("/readyz");
    assert!(code == 503 && reasons.starts_with("draining"), "{code}: {reasons}");
    client.ping().await;
    assert_eq!(client.hear().await, Heard::Pong, "who finishes is still served");
    client.bye().await;
    assert_eq!(client.hear().await, Heard::End);
    assert_eq!(node.exit_code().await, ALL_LEFT);
    let stopped = node.logged("stopped");
    assert_eq!((&stopped["asked"], &stopped["overstayed"]), (&1.into(), &0.into()));
}

#[tokio::test]
async fn nobody_here_ends_the_node_at_once() {
    let event = Event::new();
    let mut node = event.start();
    // Connected, and never says HELLO.
    let mut silent = Client::connect(&node, Transport::Quic).await;
    node.signal(Signal::INT);
    assert_eq!(node.exit_code().await, ALL_LEFT);
    assert_eq!(silent.hear().await, Heard::End);
}

#[tokio::test]
async fn who_does_not_leave_is_cut_off_and_the_exit_code_says_so() {
    let event = Event::new();
    let mut node = event.start();
    let mut leaves = Client::welcomed(&node, Transport::Tcp, 1).await;
    let mut stays = Client::welcomed(&node, Transport::Quic, 2).await;
    node.users(2).await;
    let began = Instant::now();
    node.signal(Signal::TERM);
    leaves.go_away().await;
    leaves.bye().await;
    stays.go_away().await;
    assert_eq!(stays.hear().await, Heard::End, "cut off without a word");
    assert!(began.elapsed() >= Duration::from_secs(2), "cut off after {:?}", began.elapsed());
    assert_eq!(node.exit_code().await, OVERSTAYED);
    let stopped = node.logged("stopped");
    assert_eq!((&stopped["asked"], &stopped["overstayed"]), (&2.into(), &1.into()));
}

#[tokio::test]
async fn who_is_lost_with_a_thread_has_not_left_and_the_exit_code_says_so() {
    let event = Event::new();
    event.set("admin.fail_points", true);
    event.set("listen.threads", 1);
    let mut node = event.start();
    let mut lost = Client::welcomed(&node, Transport::Tcp, 1).await;
    let mut leaves = Client::welcomed(&node, Transport::Quic, 2).await;
    node.users(2).await;
    // Nobody is asked for a second: it is not for overstaying that he is cut off.
    node.command(&["drain", "--rate", "1", "--deadline", "600"]);
    node.has_logged("draining").await;
    // The threads of TCP come first.
    assert_eq!(node.post("/fail-point/panic/0").0, 202);
    while lost.hear().await != Heard::End {}
    leaves.go_away().await;
    leaves.bye().await;
    assert_eq!(node.exit_code().await, OVERSTAYED);
    let stopped = node.logged("stopped");
    let counted = ["overstayed", "cut", "remaining"].map(|name| stopped[name].clone());
    assert_eq!(counted, [0, 1, 0]);
}

#[tokio::test]
async fn the_deadline_cuts_off_who_is_left_and_the_exit_code_says_so() {
    let event = Event::new();
    event.set("drain.deadline_seconds", 600);
    let mut node = event.start();
    let mut stays = Client::welcomed(&node, Transport::Tls, 1).await;
    node.users(1).await;
    node.command(&["drain", "--deadline", "1"]);
    stays.go_away().await;
    assert_eq!(stays.hear().await, Heard::End);
    assert_eq!(node.exit_code().await, REMAINING);
    assert_eq!(node.logged("drain_cut_short")["reason"], "the deadline is over");
    assert_eq!(node.logged("stopped")["remaining"], 1);
}

/// Asks `clients` to leave at `rate` a second; returns when each of them was asked, counted from
/// before the command. All leave.
async fn asked_after(node: &mut Node<'_>, clients: Vec<Client>, rate: u32) -> Vec<Duration> {
    node.users(clients.len()).await;
    let began = Instant::now();
    let mut tasks = JoinSet::new();
    for mut client in clients {
        tasks.spawn(async move {
            client.go_away().await;
            let after = began.elapsed();
            client.bye().await;
            after
        });
    }
    node.command(&["drain", "--rate", &rate.to_string()]);
    let mut after = tasks.join_all().await;
    assert_eq!(node.exit_code().await, ALL_LEFT);
    after.sort();
    for (before, after) in after.iter().enumerate() {
        let due = Duration::from_secs(1) * (u32::try_from(before).expect("few") + 1) / rate;
        assert!(*after >= due, "{} were asked after {after:?}, at {rate} a second", before + 1);
    }
    after
}

#[tokio::test]
async fn the_stated_rate_is_reached_when_one_thread_of_four_has_all_clients() {
    let event = Event::new();
    event.set("listen.threads", 1);
    event.set("listen.quic_threads", 3);
    let mut node = event.start();
    let mut clients = Vec::new();
    for user in 1..=80 {
        clients.push(Client::welcomed(&node, Transport::Tcp, user).await);
    }
    let after = asked_after(&mut node, clients, 40).await;
    let last = after.last().expect("80 of them");
    // Two seconds; a quarter of the rate would take eight.
    assert!(*last < Duration::from_secs(5), "the last was asked after {last:?}");
}

#[tokio::test]
async fn a_rate_below_the_number_of_threads_is_not_exceeded() {
    let event = Event::new();
    event.set("listen.threads", 4);
    event.set("listen.quic_threads", 4);
    let mut node = event.start();
    let mut clients = Vec::new();
    for (user, way) in (1..=6).zip(WAYS.into_iter().cycle()) {
        clients.push(Client::welcomed(&node, way, user).await);
    }
    asked_after(&mut node, clients, 3).await;
}
