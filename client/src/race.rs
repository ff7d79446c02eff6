//! Which way into a node comes first, and what was learned about each network. No socket, no
//! clock: `now` comes in.
//!
//! QUIC starts, TLS follows a moment later, and whichever is established first is kept. The winner
//! goes first next time on the same network. Where an established QUIC connection was swallowed in
//! silence, TLS goes alone. Both hold for a while that doubles up to an hour; then QUIC gets its
//! head start again.

use crate::{
    limits::{NETWORKS_MAX, QUIC_PENALTY_MS_FIRST, QUIC_PENALTY_MS_MAX, QUIC_TRUSTED_MS},
    link::Transport,
    rhythm::Rhythm,
    time::Timestamp,
};
use yao_protocol::endpoint::Transports;

/// Which network the device is on, as the app tells it: any number or text that is the same when
/// the device comes back to the same network (an SSID, "cellular", ...).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetworkKey(u64);

impl From<u64> for NetworkKey {
    fn from(key: u64) -> Self {
        Self(key)
    }
}

impl From<&str> for NetworkKey {
    /// FNV-1a: two networks with the same hash share what was learned, which is only slower.
    fn from(key: &str) -> Self {
        let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        Self(key.bytes().fold(0xcbf2_9ce4_8422_2325, step))
    }
}

/// Transports to try, in order; the second starts [`crate::limits::RACE_STAGGER_MS`] later, or
/// when the first has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    /// Starts at once.
    pub first: Transport,
    /// Starts later, if there is a choice.
    pub second: Option<Transport>,
}

/// What became of QUIC on a network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Quic {
    /// Nothing speaks against it.
    #[default]
    Good,
    /// TLS was faster in spite of QUIC's head start: UDP is blocked, or as good as.
    Beaten,
    /// A connection was made and then nothing was heard any more.
    Swallowed,
}

/// What was learned about one network.
#[derive(Clone, Copy, Debug, Default)]
struct Network {
    key: NetworkKey,
    quic: Quic,
    /// How often in a row QUIC did not work here.
    quic_failure_count: u32,
    /// Until then `quic` counts; afterwards QUIC gets its head start again.
    quic_again_at: Timestamp,
    rhythm: Rhythm,
}

impl Network {
    fn quic_failed(&mut self, now: Timestamp, how: Quic) {
        self.quic = how;
        let doubled = 1_u64.checked_shl(self.quic_failure_count).unwrap_or(u64::MAX);
        let penalty_ms = QUIC_PENALTY_MS_FIRST.saturating_mul(doubled).min(QUIC_PENALTY_MS_MAX);
        self.quic_failure_count = self.quic_failure_count.saturating_add(1);
        self.quic_again_at = now.plus_ms(penalty_ms);
    }
}

/// What was learned about the networks that the device was on, the current one among them.
#[derive(Clone, Debug)]
pub struct Networks {
    /// Invariant: 1 to [`NETWORKS_MAX`]; the current one is the last, the one before it the last
    /// but one, and so on.
    known: Vec<Network>,
}

impl Networks {
    /// Nothing is known yet, and the device is on this network.
    #[must_use]
    pub fn new(key: NetworkKey) -> Self {
        Self { known: vec![Network { key, ..Network::default() }] }
    }

    /// The device is on this network now; the longest unseen one is forgotten when there are many.
    pub fn change(&mut self, key: NetworkKey) {
        let position = self.known.iter().position(|network| network.key == key);
        let network = match position {
            Some(index) => self.known.remove(index),
            None => Network { key, ..Network::default() },
        };
        if self.known.len() >= NETWORKS_MAX {
            self.known.remove(0);
        }
        self.known.push(network);
    }

    /// In which order to try `transports` now.
    #[must_use]
    pub fn order(&self, now: Timestamp, transports: Transports) -> Order {
        let only = |first| Order { first, second: None };
        let quic_first = Order { first: Transport::Quic, second: Some(Transport::Tls) };
        let network = self.current();
        match transports {
            Transports::Tcp => only(Transport::Tcp),
            Transports::Tls => only(Transport::Tls),
            Transports::Quic => only(Transport::Quic),
            Transports::TlsQuic if now >= network.quic_again_at => quic_first,
            Transports::TlsQuic => match network.quic {
                Quic::Good => quic_first,
                Quic::Beaten => Order { first: Transport::Tls, second: Some(Transport::Quic) },
                Quic::Swallowed => only(Transport::Tls),
            },
        }
    }

    /// A race in this order was won by `winner`.
    pub fn handle_won(&mut self, now: Timestamp, order: Order, winner: Transport) {
        let network = self.current_mut();
        match (order.first, order.second, winner) {
            (Transport::Quic, Some(Transport::Tls), Transport::Tls) => {
                network.quic_failed(now, Quic::Beaten);
            }
            (Transport::Tls, Some(Transport::Quic), Transport::Quic) => {
                network.quic = Quic::Good;
            }
            _ => {}
        }
    }

    /// Nobody got through in this order.
    pub fn handle_lost(&mut self, order: Order) {
        if order == (Order { first: Transport::Tls, second: None }) {
            // Perhaps it is TLS that is blocked: let both try.
            self.current_mut().quic_again_at = Timestamp::ZERO;
        }
    }

    /// A connection ended after `lasted_ms`; `silently` when nothing was heard although an answer
    /// was due.
    pub fn handle_end(
        &mut self,
        now: Timestamp,
        transport: Transport,
        lasted_ms: u64,
        silently: bool,
    ) {
        let network = self.current_mut();
        if transport != Transport::Quic {
            return;
        }
        if lasted_ms >= QUIC_TRUSTED_MS {
            network.quic_failure_count = 0;
        }
        if silently {
            network.quic_failed(now, Quic::Swallowed);
        }
    }

    /// How long the current network lets a connection rest.
    #[must_use]
    pub fn rhythm(&self) -> Rhythm {
        self.current().rhythm
    }

    /// The session learned how long the current network lets a connection rest.
    pub fn learn_rhythm(&mut self, rhythm: Rhythm) {
        self.current_mut().rhythm = rhythm;
    }

    fn current(&self) -> &Network {
        self.known.last().expect("the current network is always known")
    }

    fn current_mut(&mut self) -> &mut Network {
        self.known.last_mut().expect("the current network is always known")
    }
}

#[cfg(test)]
mod tests {
    use super::{
        Transport::{Quic, Tcp, Tls},
        *,
    };
    use proptest::prelude::*;

    const BOTH: Transports = Transports::TlsQuic;

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_ms(ms)
    }

    fn order(first: Transport, second: impl Into<Option<Transport>>) -> Order {
        Order { first, second: second.into() }
    }

    /// A race now, won by `winner` if it takes part.
    fn race(networks: &mut Networks, now: Timestamp, winner: Transport) -> Order {
        let order = networks.order(now, BOTH);
        let runs = order.first == winner || order.second == Some(winner);
        networks.handle_won(now, order, if runs { winner } else { order.first });
        order
    }

    #[test]
    fn without_a_choice_there_is_no_race_and_nothing_to_learn() {
        let mut networks = Networks::new(NetworkKey::default());
        networks.handle_end(at(0), Quic, 1, true);
        let cases = [(Transports::Tcp, Tcp), (Transports::Tls, Tls), (Transports::Quic, Quic)];
        for (transports, only) in cases {
            assert_eq!(networks.order(at(1), transports), order(only, None));
        }
    }

    #[test]
    fn quic_goes_first_until_it_is_beaten() {
        let mut networks = Networks::new(NetworkKey::default());
        assert_eq!(race(&mut networks, at(0), Quic), order(Quic, Tls));
        assert_eq!(race(&mut networks, at(1), Tls), order(Quic, Tls));
        assert_eq!(networks.order(at(2), BOTH), order(Tls, Quic), "remembered");
        assert_eq!(race(&mut networks, at(3), Tls), order(Tls, Quic), "no further penalty");
        let again = at(1 + QUIC_PENALTY_MS_FIRST);
        assert_eq!(race(&mut networks, again, Quic), order(Quic, Tls), "another chance");
        assert_eq!(networks.order(again, BOTH), order(Quic, Tls), "taken");
        race(&mut networks, again, Tls);
        assert_eq!(race(&mut networks, again, Quic), order(Tls, Quic), "TLS was slower now");
        assert_eq!(networks.order(again, BOTH), order(Quic, Tls));
    }

    #[test]
    fn what_is_swallowed_after_minutes_waits_longer_each_time() {
        let mut networks = Networks::new(NetworkKey::default());
        let mut now = at(0);
        let mut penalty_ms = QUIC_PENALTY_MS_FIRST;
        for _ in 0..10 {
            assert_eq!(race(&mut networks, now, Quic), order(Quic, Tls));
            networks.handle_end(now, Quic, 120_000, true);
            let last = now.plus_ms(penalty_ms - 1);
            assert_eq!(networks.order(last, BOTH), order(Tls, None), "{penalty_ms} ms");
            now = now.plus_ms(penalty_ms);
            penalty_ms = (2 * penalty_ms).min(QUIC_PENALTY_MS_MAX);
        }
        race(&mut networks, now, Quic);
        networks.handle_end(now, Quic, QUIC_TRUSTED_MS, true);
        let now = now.plus_ms(QUIC_PENALTY_MS_FIRST);
        assert_eq!(networks.order(now, BOTH), order(Quic, Tls), "a good while forgives");
    }

    #[test]
    fn where_tls_alone_gets_nowhere_both_try_again() {
        let mut networks = Networks::new(NetworkKey::default());
        networks.handle_end(at(0), Quic, 1, true);
        let alone = networks.order(at(1), BOTH);
        assert_eq!(alone, order(Tls, None));
        networks.handle_lost(alone);
        assert_eq!(networks.order(at(2), BOTH), order(Quic, Tls));
    }

    #[test]
    fn each_network_is_remembered_by_itself_and_few_are() {
        let mut networks = Networks::new(NetworkKey::default());
        networks.change("home".into());
        race(&mut networks, at(0), Tls);
        let mut learned = Rhythm::default();
        learned.handle_died(9_000, 100);
        networks.learn_rhythm(learned);
        networks.change("cellular".into());
        assert_eq!(networks.order(at(1), BOTH), order(Quic, Tls), "nothing is known here");
        assert_eq!(networks.rhythm(), Rhythm::default());
        networks.change("home".into());
        assert_eq!(networks.order(at(1), BOTH), order(Tls, Quic));
        assert_eq!(networks.rhythm(), learned);
        for key in 0..NETWORKS_MAX as u64 {
            networks.change(key.into());
        }
        networks.change("home".into());
        assert_eq!(networks.rhythm(), Rhythm::default(), "forgotten");
        assert!(networks.known.len() <= NETWORKS_MAX);
    }

    proptest! {
        #[test]
        fn whatever_happens_tls_is_tried_and_quic_comes_back_within_the_hour(
            steps in prop::collection::vec((0_u8..4, 0_u64..10_000_000), 0..60),
        ) {
            let mut networks = Networks::new(NetworkKey::default());
            let mut now = at(0);
            for (step, ms) in steps {
                now = now.plus_ms(ms);
                let order = networks.order(now, BOTH);
                prop_assert!(order.first == Tls || order.second == Some(Tls));
                match step {
                    0 => networks.handle_won(now, order, Tls),
                    1 => networks.handle_won(now, order, order.first),
                    2 => networks.handle_lost(order),
                    _ => networks.handle_end(now, Quic, ms, ms % 2 == 0),
                }
                let later = networks.order(now.plus_ms(QUIC_PENALTY_MS_MAX), BOTH);
                prop_assert!(later.first == Quic || later.second == Some(Quic));
            }
        }
    }
}
