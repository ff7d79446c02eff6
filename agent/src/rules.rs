//! May this win be issued, may this open be accepted? Pure: a policy and a question give a verdict.
//! The access process asks on advice only: no answer in time means yes.

use yao_protocol::{
    Fen,
    agent::{Vet, VetKind},
    policy::Policy,
};

/// The verdict on `vet` under `policy`.
#[must_use]
pub fn verdict(policy: &Policy, vet: &Vet) -> bool {
    match vet.kind {
        // By contract: yes for amount 1, no for amount 0, whatever the policy says.
        VetKind::Probe => vet.amount == Fen(1),
        VetKind::Win | VetKind::Open => vet.amount > Fen(0) && !policy.is_banned(vet.user),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use yao_protocol::{PacketId, ShakeId, SponsorId, UserId};

    #[test]
    fn verdicts() {
        let policy = Policy {
            banned: vec![UserId(7), UserId(9)],
            vet_amount_min: 1_000,
            ..Policy::default()
        };
        let check = |kind, user, amount, expected| {
            let vet = Vet {
                call: 1,
                kind,
                user: UserId(user),
                sponsor: SponsorId::new(3).expect("below 64"),
                amount: Fen(amount),
                packet: PacketId(5),
                shake: ShakeId(6),
            };
            assert_eq!(verdict(&policy, &vet), expected, "{kind:?} user {user} amount {amount}");
        };
        // The contract of probes.
        check(VetKind::Probe, 0, 1, true);
        check(VetKind::Probe, 0, 0, false);
        check(VetKind::Probe, 0, 2, false);
        check(VetKind::Probe, 7, 1, true);
        // Banned users, at both ends of the list and around it, at any amount.
        for (user, allowed) in [(6, true), (7, false), (8, true), (9, false), (10, true)] {
            for amount in [1, 999, 1_000, u64::MAX] {
                check(VetKind::Win, user, amount, allowed);
                check(VetKind::Open, user, amount, allowed);
            }
        }
        // A packet without value does not exist.
        check(VetKind::Win, 1, 0, false);
        check(VetKind::Open, 1, 0, false);
    }
}
