//! Sessions on any thread, over both families, whose clients change port and address.

use super::{
    PATIENCE, Phone,
    bare::{Bare, heard_from, socket},
    config, put_shake,
};
use crate::server::testing::Rig;
use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    time::Duration,
};
use tokio::time::timeout;
use yao_protocol::client::{kind, put_empty};

#[tokio::test]
async fn sessions_live_on_any_thread_and_follow_their_client() {
    let rig = Rig::start("quic = ['127.0.0.1:0']\nquic_threads = 4");
    let mut phones = Vec::new();
    for user in 0..40 {
        phones.push(Phone::connect(&rig, user).await);
    }
    assert_eq!(rig.context.registry.len(), 40);
    for round in 0..20 {
        // Another port, and every other time another address.
        let address = Ipv4Addr::new(127, 0, 0, 1 + u8::try_from(round / 2 % 3).expect("small"));
        for phone in &mut phones {
            // A shake is on its way while the phone moves: its answer finds the new address.
            let mut bytes = Vec::new();
            put_shake(&mut bytes, 2 * round);
            phone.say(&bytes).await;
            let socket = UdpSocket::bind((address, 0)).expect("another port");
            phone.endpoint.rebind(socket).expect("rebound");
            phone.hear_no_win(2 * round).await;
            phone.shake(2 * round + 1).await;
        }
    }
    assert_eq!(rig.context.registry.len(), 40, "nobody had to come again");
    let left = phones.pop().expect("forty");
    left.connection.close(0_u32.into(), b"");
    drop(left.endpoint);
    for mut phone in phones {
        let mut bytes = Vec::new();
        put_empty(&mut bytes, kind::BYE, 0);
        phone.say(&bytes).await;
        let reason = timeout(PATIENCE, phone.connection.closed()).await.expect("in time");
        assert!(matches!(reason, quinn::ConnectionError::ApplicationClosed(_)), "{reason}");
    }
    let gone = async {
        while !rig.context.registry.is_empty() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, gone).await.expect("every session ends with its connection");
}

/// Two endpoints of three threads each. A client is given new connection ids as it uses them up,
/// and each leads to the thread that owns it, wherever the client speaks from.
#[test]
fn every_id_that_a_client_is_given_leads_to_its_thread() {
    const THREADS: u8 = 3;
    let rig = Rig::start("quic = ['127.0.0.1:0', '[::1]:0']\nquic_threads = 3");
    let mut threads = [BTreeSet::new(), BTreeSet::new()];
    for user in 0..60 {
        let family = usize::try_from(user % 2).expect("0 or 1");
        let mut client = Bare::silent(rig.addresses.quic[family], config(&rig));
        client.greet(user);
        for round in 0..20_u8 {
            let address = match rig.addresses.quic[family] {
                SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::new(127, 0, 0, 1 + round % 3)),
                SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
            };
            client.move_to(address);
            client.shake(u64::from(round));
        }
        assert!(client.ids.len() > 10, "{} ids", client.ids.len());
        let led_to: BTreeSet<u8> = client.ids.iter().map(|id| id[0] % THREADS).collect();
        assert_eq!(led_to.len(), 1, "{:x?}", client.ids);
        threads[family].extend(led_to);
    }
    assert_eq!(rig.context.registry.len(), 60);
    assert!(threads.iter().all(|threads| threads.len() == usize::from(THREADS)), "{threads:?}");
}

/// What nobody asked for meets the thread that owns it, too: a packet of somebody else who has seen
/// an id (here, of the same keys, but from another address and a byte changed) harms nobody.
#[test]
fn a_strangers_packet_with_a_clients_id_changes_nothing() {
    let rig = Rig::start("quic = ['127.0.0.1:0']\nquic_threads = 4");
    let mut client = Bare::silent(rig.addresses.quic[0], config(&rig));
    client.greet(7);
    let stranger = socket(rig.addresses.quic[0]);
    for round in 0..50 {
        let mut bytes = Vec::new();
        put_shake(&mut bytes, round);
        client.say_later(&bytes);
        for datagram in client.outgoing() {
            let mut forged = datagram.clone();
            *forged.last_mut().expect("a packet") ^= 1;
            stranger.send_to(&forged, rig.addresses.quic[0]).expect("sent");
            client.send(&[datagram]);
        }
        client.hear_no_win(round);
    }
    let told = heard_from(rig.addresses.quic[0], &stranger, Duration::ZERO);
    assert_eq!(told, None, "not even a reset");
}
