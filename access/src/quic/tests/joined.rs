//! Datagrams that the kernel joins (GRO) count one by one.

use super::{PATIENCE, bare::Bare, config};
use crate::{
    inbox::inbox,
    quic::{NEWCOMERS_MAX, QuicPorts, QuicThread},
    server::testing::{CAMPAIGN, Rig},
    shard::WAKE,
};
use mio::{Events, Poll, Waker};
use quinn_udp::{Transmit, UdpSockRef, UdpSocketState};
use std::net::{SocketAddr, UdpSocket};
use yao_engine::shard::Settings;

/// The first packets of so many clients in one buffer: more than may come in at once, and less than
/// a buffer holds.
const JOINED: u32 = NEWCOMERS_MAX + 18;
/// What a first packet is padded to, bytes.
const INITIAL_BYTES: usize = 1_200;

#[test]
fn newcomers_in_one_buffer_come_in_by_turns() {
    come_in_by_turns(true);
}

#[test]
fn newcomers_in_two_batches_come_in_by_turns() {
    come_in_by_turns(false);
}

fn come_in_by_turns(joined: bool) {
    let rig = Rig::start("tcp = ['127.0.0.1:0']\nthreads = 1");
    let poll = Poll::new().expect("a poller");
    let (_outlet, queue) = inbox(16, Waker::new(poll.registry(), WAKE).expect("a waker"));
    let address = SocketAddr::from(super::LOOPBACK);
    let resets = &rig.context.node.resets;
    let ports = QuicPorts::open(address, (0, 1), poll, queue, rig.tls.clone(), resets);
    let mut ports = ports.expect("a socket");
    let server = ports.local_addr().expect("bound");
    let gro = ports.state.gro_segments();
    let settings = Settings::new(CAMPAIGN, rig.context.node.mac_key.clone());
    let mut thread = QuicThread::new(&rig.context, settings, &mut ports).expect("an endpoint");

    let mut initials = Vec::new();
    for _ in 0..JOINED {
        let initial = Bare::new(server, config(&rig)).outgoing().swap_remove(0);
        assert_eq!(initial.len(), INITIAL_BYTES);
        initials.extend(initial);
    }
    let socket = UdpSocket::bind(SocketAddr::from(super::LOOPBACK)).expect("a socket");
    let state = UdpSocketState::new(UdpSockRef::from(&socket)).expect("a UDP socket");
    let segments = state.max_gso_segments();
    assert!(segments >= JOINED as usize && gro > 1, "Linux joins: {segments} and {gro}");
    // Apart they are more than one read takes.
    for contents in initials.chunks(if joined { initials.len() } else { INITIAL_BYTES }) {
        let segment_size = joined.then_some(INITIAL_BYTES);
        let packet =
            Transmit { destination: server, ecn: None, contents, segment_size, src_ip: None };
        state.send(UdpSockRef::from(&socket), &packet).expect("sent");
    }
    await_event(&mut thread);

    let now = thread.now();
    thread.sessions.carrier.now_set(now);
    thread.read_socket(now).expect("read");
    assert_eq!(thread.sessions.engine.connections(), NEWCOMERS_MAX, "the others wait");
    assert!(thread.read_again, "for the next turn, and it is taken without an event");
    if joined {
        // Somebody comes meanwhile, and his event is the only one: the batch that is there must not
        // pass for all.
        Bare::new(server, config(&rig)).speak();
        await_event(&mut thread);
    }
    thread.read_socket(now).expect("read");
    let all = JOINED + u32::from(joined);
    assert_eq!(thread.sessions.engine.connections(), all, "nobody was forgotten");
    assert!(!thread.read_again);
}

/// Waits until the socket has something new.
fn await_event(thread: &mut QuicThread<'_>) {
    let mut events = Events::with_capacity(8);
    let mut readable = false;
    while !readable {
        thread.ports.poll.poll(&mut events, Some(PATIENCE)).expect("polled");
        assert!(!events.is_empty(), "it comes in time");
        for event in &events {
            readable |= event.is_readable();
            thread.on_socket(event);
        }
    }
}
