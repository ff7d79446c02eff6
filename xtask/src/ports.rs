//! Ports for servers that end and come back.
//!
//! Where a server may listen anywhere, and where clients call from, the kernel chooses out of one
//! range. Of that range, the port of a server that is away may be another's when it comes back.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    ops::RangeInclusive,
    process,
    sync::atomic::{AtomicU32, Ordering},
};

/// Below it are the well-known services' ports, and those of our own examples.
const LOWEST: u16 = 10_000;
/// How many neighbours a process takes before it meets those of the next process.
const NEIGHBOURS: u32 = 64;

/// An address on loopback, free for TCP and for UDP, which the kernel gives to nobody else: what
/// listens there finds it again. Where there is none, it is one of the kernel's own choice.
pub(crate) fn lasting() -> SocketAddr {
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    let ports: Vec<u16> = outside(&given_out()).collect();
    let mut address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    for _ in &ports {
        let taken = TAKEN.fetch_add(1, Ordering::Relaxed);
        let place = process::id().wrapping_mul(NEIGHBOURS).wrapping_add(taken) as usize;
        address.set_port(ports[place % ports.len()]);
        if TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok() {
            return address;
        }
    }
    address.set_port(0);
    address
}

/// The ports that the kernel gives out (ip(7)); its default where it does not say.
fn given_out() -> RangeInclusive<u16> {
    let told = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut bounds = told.split_whitespace().flat_map(str::parse);
    bounds.next().unwrap_or(32_768)..=bounds.next().unwrap_or(60_999)
}

fn outside(given_out: &RangeInclusive<u16>) -> impl Iterator<Item = u16> {
    (LOWEST..=u16::MAX).filter(|port| !given_out.contains(port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn lasting_ports_are_many_and_none_is_given_out() {
        let ports: HashSet<u16> = (0..100).map(|_| lasting().port()).collect();
        assert_eq!(ports.len(), 100);
        assert!(ports.iter().all(|port| !given_out().contains(port)));
        let taken: HashSet<u16> = outside(&(11_000..=65_535)).collect();
        assert_eq!(taken, (10_000..11_000).collect());
    }

    #[test]
    fn a_port_that_is_taken_is_passed_over() {
        let first = lasting();
        let next = first.port().saturating_add(1);
        let _taken = UdpSocket::bind((Ipv4Addr::LOCALHOST, next));
        assert_ne!(lasting().port(), next);
    }
}
