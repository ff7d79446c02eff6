//! When the open loop sends: moments fixed before, whatever the server does.

use yao_client::random::Random;

/// When shakes are sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Pace {
    /// Never; heartbeats only.
    Silent,
    /// One in flight per connection.
    Closed,
    /// So many each second, spread evenly over the connections at random phases.
    Open { per_second: f64 },
}

/// The moments of the open loop: each connection every `period`, at a phase of its own.
pub(super) struct Schedule {
    /// Phases rise; empty in the other modes.
    order: Vec<(u64, usize)>,
    position: usize,
    base_ns: u64,
    period_ns: u64,
}

impl Schedule {
    pub(super) fn new(pace: Pace, peers: usize, start: u64, random: &mut Random) -> Self {
        let Pace::Open { per_second } = pace else {
            return Self { order: Vec::new(), position: 0, base_ns: start, period_ns: 0 };
        };
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a period of ns; rates are checked to be positive"
        )]
        let period_ns = (peers as f64 / per_second * 1e9) as u64;
        let mut order: Vec<_> =
            (0..peers).map(|index| (random.up_to(period_ns.saturating_sub(1)), index)).collect();
        order.sort_unstable();
        Self { order, position: 0, base_ns: start, period_ns: period_ns.max(1) }
    }

    pub(super) fn next(&self) -> Option<u64> {
        self.order.get(self.position).map(|(phase, _)| self.base_ns + phase)
    }

    pub(super) fn due(&mut self, now: u64) -> Option<(usize, u64)> {
        let at = self.next().filter(|at| *at <= now)?;
        let (_, index) = self.order[self.position];
        self.position += 1;
        if self.position == self.order.len() {
            self.position = 0;
            self.base_ns += self.period_ns;
        }
        Some((index, at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_connection_sends_once_a_period_at_its_own_phase() {
        let pace = Pace::Open { per_second: 1_000.0 };
        let mut schedule = Schedule::new(pace, 100, 5_000, &mut Random::new(1));
        let mut sent: Vec<Vec<u64>> = vec![Vec::new(); 100];
        // A tenth of a second is the period of 100 connections at 1,000 a second.
        while let Some((index, at)) = schedule.due(5_000 + 1_000_000_000) {
            sent[index].push(at);
        }
        for times in &sent {
            assert!((10..=11).contains(&times.len()), "{}", times.len());
            assert!(times.windows(2).all(|pair| pair[1] - pair[0] == 100_000_000));
        }
        assert!(Schedule::new(Pace::Closed, 100, 0, &mut Random::new(1)).next().is_none());
    }
}
