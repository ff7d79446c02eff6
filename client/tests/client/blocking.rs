//! The blocking facade, used from plain threads.

use crate::support::{Peer, Seen, listen_by, put_receipt_of, put_win_of, ticket};
use std::{sync::mpsc, thread, time::Duration};
use tokio::runtime::Builder;
use yao_client::{Error, Event, Transport, blocking::Client, wallet::Outcome};
use yao_protocol::PacketId;

#[test]
fn a_program_without_async_wins_opens_and_leaves() {
    let (to_client, from_server) = mpsc::sync_channel(1);
    let server = thread::spawn(move || {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let (door, config) = listen_by(Transport::Quic).await;
            to_client.send(config).expect("the client waits for it");
            let (mut peer, _) = Peer::welcome(&door, "token", 0).await;
            let Seen::Shake(shake) = peer.next().await else { panic!("a shake was asked for") };
            let won = ticket(7, shake.shake);
            peer.send(|out| put_win_of(out, &won)).await;
            assert_eq!(peer.next().await, Seen::Open(won));
            peer.send(|out| put_receipt_of(out, PacketId(7))).await;
            assert_eq!(peer.next().await, Seen::Bye);
        });
    });
    let config = from_server.recv().expect("the server listens");
    let (client, mut events) = Client::connect(config).expect("a good configuration");
    // Handles work from any thread, also while another one waits for events.
    let shaker = client.clone();
    thread::spawn(move || shaker.shake()).join().expect("it does not wait");
    let opened = loop {
        match events.wait_next().expect("the client lives") {
            Event::Won(won) => client.open(*won).expect("taken in charge"),
            Event::Opened(opened) => break opened,
            _ => {}
        }
    };
    assert_eq!(events.wait_next_for(Duration::from_millis(1)), None, "nothing happens");
    let wallet = client.wallet().expect("it lives");
    let held = wallet.holding(opened.receipt.packet).expect("the ticket is kept");
    assert_eq!(held.outcome, Outcome::Opened(opened.proof));
    client.close();
    assert_eq!(events.last(), Some(Event::Stopped(Error::Closed)));
    assert_eq!(client.wallet().expect_err("it has ended"), Error::Closed);
    server.join().expect("the server saw what it should");
}
