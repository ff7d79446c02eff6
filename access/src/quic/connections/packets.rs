//! Packets on their way out, and the end of a connection, which is a packet too.

use super::{Connections, NONE};
use quinn_proto::{ConnectionHandle, EndpointEvent, Transmit};
use quinn_udp::UdpSockRef;
use std::io::ErrorKind;

/// How long a client may take to acknowledge the last words of its session, ms.
pub(super) const LINGER_MS_MAX: u64 = 1_000;
/// How long a closed connection is kept, ms: its peer says goodbye, too, and a close may have to be
/// said twice.
pub(super) const CLOSED_MS_MAX: u64 = 250;
/// Every path carries datagrams of this size, bytes (RFC 9000 14).
const DATAGRAM_BYTES_MIN: usize = 1_200;

impl Connections {
    /// Sends what connection `handle` has to say, and sets its timer.
    pub(in crate::quic) fn transmit(&mut self, handle: u32) {
        let segments = self.state.max_gso_segments();
        while self.held.is_none() {
            self.out.clear();
            let Some(Some(carried)) = self.carried.get_mut(handle as usize) else { return };
            let transmit = carried.quic.poll_transmit(self.instant, segments, &mut self.out);
            let Some(transmit) = transmit else { break };
            // What did not fill a datagram was all there was: asking again would only tell so.
            let all = transmit.size < DATAGRAM_BYTES_MIN && !carried.securing;
            self.send_packet(transmit);
            if all {
                break;
            }
        }
        if self.held.is_some() {
            self.touch(handle);
        }
        self.pass_endpoint_events(handle);
        self.set_timer(handle);
    }

    /// The time for CONNECTION_CLOSE is over. How long a closed connection is kept (RFC 9000 10.2)
    /// must not be its peer's to choose; should that one speak again, it gets a stateless reset.
    pub(super) fn retire(&mut self, handle: u32) {
        if let Some(carried) = self.carried[handle as usize].take() {
            debug_assert!(carried.slot == NONE, "sessions end before their connections");
            self.live -= 1;
            let handle = ConnectionHandle(handle as usize);
            self.endpoint.handle_event(handle, EndpointEvent::drained());
        }
    }

    /// An answer that belongs to no connection. Lost when the socket is full: the peer asks again.
    pub(super) fn answer(&mut self, transmit: &Transmit) {
        if self.held.is_none() {
            let out = std::mem::take(&mut self.out);
            let contents = &out[..transmit.size];
            self.counters.bytes_out += contents.len() as u64;
            let packet = udp_transmit(transmit, contents);
            // The same holds for every other error.
            self.state.send(UdpSockRef::from(&*self.socket), &packet).ok();
            self.out = out;
        }
    }

    fn send_packet(&mut self, transmit: Transmit) {
        let contents = &self.out[..transmit.size];
        let packet = udp_transmit(&transmit, contents);
        match self.state.send(UdpSockRef::from(&*self.socket), &packet) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.held = Some((transmit, contents.to_vec()));
            }
            // Anything else is a lost packet, and QUIC sends it again.
            Ok(()) | Err(_) => self.counters.bytes_out += contents.len() as u64,
        }
    }

    /// A packet waits for the socket to take packets again.
    pub(in crate::quic) const fn is_held(&self) -> bool {
        self.held.is_some()
    }

    /// The socket takes packets again.
    pub(in crate::quic) fn unblock(&mut self) {
        if let Some((transmit, contents)) = self.held.take() {
            self.out.clear();
            self.out.extend_from_slice(&contents);
            self.send_packet(transmit);
        }
    }

    /// Ends every connection with one packet each: nobody is here to wait for answers.
    pub(in crate::quic) fn close_all(&mut self) {
        let (now, instant) = (self.now, self.instant);
        for handle in 0..u32::try_from(self.carried.len()).expect("handles are u32") {
            self.transmit(handle);
            if let Some(carried) = self.at(handle) {
                carried.slot = NONE;
                carried.close(now, instant);
                self.transmit(handle);
            }
        }
    }
}

fn udp_transmit<'a>(transmit: &Transmit, contents: &'a [u8]) -> quinn_udp::Transmit<'a> {
    quinn_udp::Transmit {
        destination: transmit.destination,
        ecn: transmit.ecn.and_then(|ecn| quinn_udp::EcnCodepoint::from_bits(ecn as u8)),
        contents,
        segment_size: transmit.segment_size,
        src_ip: transmit.src_ip,
    }
}
