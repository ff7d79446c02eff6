//! Drains: who is asked to leave and when, what he is told, and what the exit code says.

use crate::support::{Client, Event, Heard, Node, Signal, Transport};
use std::collections::BTreeMap;
use tokio::task::JoinSet;
use yao_protocol::{PacketId, receipt::RECEIPT_BYTES, ticket::Ticket};

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

/// Hears until the connection ends; whoever is asked to leave does, when his opens are answered.
async fn finish(mut client: Client, tickets: Vec<Ticket>) -> Receipts {
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
        if asked && receipts.len() == tickets.len() {
            client.bye().await;
        }
    }
}

/// Opens all tickets, does `then`, and lets everybody finish.
async fn open_all(winners: Vec<(Client, Vec<Ticket>)>, then: impl FnOnce()) -> Receipts {
    let mut tasks = JoinSet::new();
    let mut opening = winners;
    for (client, tickets) in &mut opening {
        for ticket in tickets {
            client.open(ticket).await;
        }
    }
    then();
    for (client, tickets) in opening {
        tasks.spawn(finish(client, tickets));
    }
    tasks.join_all().await.into_iter().flatten().collect()
}

#[tokio::test]
async fn every_open_under_way_is_acknowledged_and_kept_when_the_node_is_asked_to_end() {
    let event = Event::new();
    event.arm();
    // Nothing is on disk when the signal comes.
    event.set("spool.commit_us_max", 300_000);
    let mut node = event.start();
    let winners = winners(&node, 12).await;
    let tickets: Vec<Ticket> = winners.iter().flat_map(|(_, tickets)| tickets.clone()).collect();
    let receipts = open_all(winners, || node.signal(Signal::TERM)).await;
    assert_eq!(node.exit_code().await, 0);
    assert_eq!(receipts.len(), tickets.len(), "everybody had time to finish");

    let node = event.start();
    assert_eq!(node.status()["spool"]["next_sequence"], receipts.len() + 1);
    for ticket in &tickets {
        let mut owner = Client::welcomed(&node, Transport::Tcp, ticket.body.user.0).await;
        owner.open(ticket).await;
        assert_eq!(owner.receipt().await, receipts[&ticket.body.packet], "the receipt of then");
    }
    assert_eq!(node.status()["spool"]["next_sequence"], receipts.len() + 1);
    node.kill();
}

#[tokio::test]
async fn who_leaves_when_asked_ends_the_node_in_order() {
    let event = Event::new();
    event.set("drain.per_second", 100);
    let mut node = event.start();
    let mut client = Client::welcomed(&node, Transport::Tls, 1).await;
    node.users(1).await;
    let said = node.command(&["drain", "--deadline", "20"]);
    assert!(said.starts_with("draining 1 sessions at 100 a second"), "{said}");
    while !matches!(client.hear().await, Heard::GoAway(_)) {}
    let (code, said) = node.post("/drain?per_second=50");
    assert!(code == 202 && said.contains("at 50 a second"), "{code}: {said}");
    let (code, reasons) = node.get("/readyz");
    assert!(code == 503 && reasons.starts_with("draining"), "{code}: {reasons}");
    client.ping().await;
    assert_eq!(client.hear().await, Heard::Pong, "opens and heartbeats go on");
    client.bye().await;
    assert_eq!(client.hear().await, Heard::End);
    assert_eq!(node.exit_code().await, 0);
    assert_eq!(node.logged("stopped")["all_left"], true);
}
