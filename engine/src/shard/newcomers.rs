//! The budgets of connections that are not open yet, as the thread's carriers meet them: they ask
//! before a connection gets a slot; the engine gives the place back when its session opens or ends.

use super::ShardEngine;
use crate::{
    admission::{AdmissionLimits, Decision, Origin, RefusedBy},
    time::Timestamp,
};

impl ShardEngine {
    /// Budgets that hold from now on. Without them everybody is let in.
    pub fn handle_admission(&mut self, limits: AdmissionLimits) {
        self.admission.limits_set(limits);
    }

    /// A newcomer from `origin`, if that is known already; `proven` when it has shown that it hears
    /// us there. After [`Decision::Admit`] it is accepted, and [`ShardEngine::handle_entered`] says
    /// which slot it has.
    pub fn handle_newcomer(
        &mut self,
        now: Timestamp,
        origin: Option<Origin>,
        proven: bool,
    ) -> Decision {
        let decision = self.admission.decide(now, origin, proven);
        if let Decision::Refuse(by) = decision {
            self.count_refused(by);
        }
        decision
    }

    /// The admitted newcomer has `slot`.
    pub fn handle_entered(&mut self, now: Timestamp, slot: u32, origin: Option<Origin>) {
        self.admission.enter(now, slot, origin);
    }

    /// A balancer says where the connection in `slot` comes from. `false`: close it.
    pub fn handle_origin(&mut self, now: Timestamp, slot: u32, origin: Origin) -> bool {
        let admitted = self.admission.name(now, slot, origin);
        if !admitted {
            self.count_refused(RefusedBy::Address);
        }
        admitted
    }

    /// Connections whose session is not open.
    #[must_use]
    pub fn unopened(&self) -> u32 {
        self.admission.waiting()
    }

    const fn count_refused(&mut self, by: RefusedBy) {
        match by {
            RefusedBy::Connections => self.counters.refused_connections += 1,
            RefusedBy::Rate => self.counters.refused_rate += 1,
            RefusedBy::Address => self.counters.refused_address += 1,
        }
    }
}
