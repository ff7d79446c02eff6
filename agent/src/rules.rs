//! May this win be issued, may this open be accepted? Pure: rules, a question, and how its user
//! stands give a verdict. Counts nothing: what was won before comes with the question, so that an
//! agent that has just started judges as the one before it did. The access process asks for advice
//! only: no answer in time means yes.

use yao_protocol::{
    Fen,
    agent::{Standing, Vet, VetKind},
    policy::Policy,
};

/// Everything of a policy file that holds at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// What the access process obeys by itself.
    pub policy: Policy,
    /// Limits of risk classes, by rising class: the last one that begins at or below a user's class
    /// is his.
    pub risk: Vec<RiskRule>,
    /// Packets that may be won on one device; `None` = any number.
    pub device_wins_max: Option<u8>,
}

/// What the users of some risk classes may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RiskRule {
    /// The first class that it is about.
    pub from: u8,
    /// Largest packet that they may win; `None` = any.
    pub amount_max: Option<Fen>,
    /// Packets that they may win in all; `None` = as many as others.
    pub wins_max: Option<u8>,
    /// Whether they may open what they have won.
    pub opens: bool,
}

/// Why the answer is no. For the log: the access process hears yes or no.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The probe that must be refused.
    Probe,
    /// A packet without value does not exist.
    Worthless,
    /// The user is on the ban list.
    Banned,
    /// The packet is too large for his risk class.
    RiskAmount,
    /// He has won as much as his risk class may.
    RiskWins,
    /// His risk class may open nothing.
    RiskOpen,
    /// As much as may be was won on his device.
    DeviceWins,
}

impl Rules {
    /// Whether an access process that says nothing of devices and risk classes leaves some of these
    /// rules without effect.
    #[must_use]
    pub fn need_standing(&self) -> bool {
        self.device_wins_max.is_some() || !self.risk.is_empty()
    }

    /// The verdict on `vet` of a user who stands so; without [`Standing`] he is an ordinary user on
    /// no device, who has won nothing.
    ///
    /// # Errors
    /// Why the answer is no.
    pub fn judge(&self, vet: &Vet, standing: Option<&Standing>) -> Result<(), Refused> {
        if vet.kind == VetKind::Probe {
            // By contract: yes for amount 1, no for amount 0, whatever the policy says.
            return if vet.amount == Fen(1) { Ok(()) } else { Err(Refused::Probe) };
        }
        if vet.amount == Fen(0) {
            return Err(Refused::Worthless);
        }
        if self.policy.is_banned(vet.user) {
            return Err(Refused::Banned);
        }
        let standing = standing.copied().unwrap_or_default();
        let risk = self.risk.iter().rfind(|rule| rule.from <= standing.bearer.risk);
        if vet.kind == VetKind::Open {
            let forbidden = risk.is_some_and(|rule| !rule.opens);
            return if forbidden { Err(Refused::RiskOpen) } else { Ok(()) };
        }
        if let Some(rule) = risk {
            if rule.amount_max.is_some_and(|most| vet.amount > most) {
                return Err(Refused::RiskAmount);
            }
            if rule.wins_max.is_some_and(|most| standing.user_wins >= most) {
                return Err(Refused::RiskWins);
            }
        }
        let named = standing.bearer.device != 0;
        if named && self.device_wins_max.is_some_and(|most| standing.device_wins >= most) {
            return Err(Refused::DeviceWins);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use yao_protocol::{PacketId, ShakeId, SponsorId, UserId, token::Bearer};

    fn vet(kind: VetKind, user: u64, amount: u64) -> Vet {
        Vet {
            call: 1,
            kind,
            user: UserId(user),
            sponsor: SponsorId::new(3).expect("below 64"),
            amount: Fen(amount),
            packet: PacketId(5),
            shake: ShakeId(6),
        }
    }

    #[test]
    fn probes_and_bans_are_judged_whatever_is_known_of_the_user() {
        let banned = vec![UserId(7), UserId(9)];
        let policy = Policy { banned, vet_amount_min: 1_000, ..Policy::default() };
        let rules = Rules { policy, ..Rules::default() };
        let check = |kind, user, amount, expected| {
            for standing in [None, Some(Standing::default())] {
                let judged = rules.judge(&vet(kind, user, amount), standing.as_ref());
                assert_eq!(judged, expected, "{kind:?} user {user} amount {amount}");
            }
        };
        // The contract of probes.
        check(VetKind::Probe, 0, 1, Ok(()));
        check(VetKind::Probe, 0, 0, Err(Refused::Probe));
        check(VetKind::Probe, 0, 2, Err(Refused::Probe));
        check(VetKind::Probe, 7, 1, Ok(()));
        // Banned users, at both ends of the list and around it, at any amount.
        for (user, banned) in [(6, false), (7, true), (8, false), (9, true), (10, false)] {
            let expected = if banned { Err(Refused::Banned) } else { Ok(()) };
            for amount in [1, 999, 1_000, u64::MAX] {
                check(VetKind::Win, user, amount, expected);
                check(VetKind::Open, user, amount, expected);
            }
        }
        check(VetKind::Win, 1, 0, Err(Refused::Worthless));
        check(VetKind::Open, 1, 0, Err(Refused::Worthless));
    }

    #[test]
    fn a_risk_class_obeys_the_last_rule_that_is_not_above_it() {
        let rule = |from, amount_max: Option<u64>, wins_max, opens| RiskRule {
            from,
            amount_max: amount_max.map(Fen),
            wins_max,
            opens,
        };
        let risk = vec![
            rule(2, Some(500), None, true),
            rule(4, None, Some(1), true),
            rule(200, Some(0), None, false),
        ];
        let rules = Rules { risk, ..Rules::default() };
        let check = |kind, risk, user_wins, amount, expected| {
            let bearer = Bearer { device: 5, risk };
            let standing = Standing { bearer, user_wins, device_wins: 255 };
            let judged = rules.judge(&vet(kind, 1, amount), Some(&standing));
            assert_eq!(judged, expected, "{kind:?} class {risk}, {user_wins} wins, {amount}");
        };
        use VetKind::{Open, Win};
        for class in [0, 1] {
            check(Win, class, 255, u64::MAX, Ok(()));
        }
        for class in [2, 3] {
            check(Win, class, 255, 500, Ok(()));
            check(Win, class, 0, 501, Err(Refused::RiskAmount));
            check(Open, class, 0, 501, Ok(()));
        }
        for class in [4, 199] {
            check(Win, class, 0, 501, Ok(()));
            check(Win, class, 1, 1, Err(Refused::RiskWins));
            check(Win, class, 255, 1, Err(Refused::RiskWins));
            check(Open, class, 0, 1, Ok(()));
        }
        for class in [200, 255] {
            check(Win, class, 0, 1, Err(Refused::RiskAmount));
            check(Open, class, 0, 1, Err(Refused::RiskOpen));
        }
        // Of whom nothing is known, nothing bad is assumed.
        assert_eq!(rules.judge(&vet(Win, 1, u64::MAX), None), Ok(()));
        assert!(rules.need_standing());
    }

    #[test]
    fn a_device_wins_so_many_packets_and_no_device_is_none() {
        let rules = Rules { device_wins_max: Some(3), ..Rules::default() };
        let check = |kind, device, device_wins, expected| {
            let bearer = Bearer { device, risk: 0 };
            let standing = Standing { bearer, user_wins: 0, device_wins };
            let judged = rules.judge(&vet(kind, 1, 1), Some(&standing));
            assert_eq!(judged, expected, "{kind:?} device {device}, {device_wins} wins");
        };
        check(VetKind::Win, 5, 2, Ok(()));
        check(VetKind::Win, 5, 3, Err(Refused::DeviceWins));
        check(VetKind::Win, 5, 255, Err(Refused::DeviceWins));
        check(VetKind::Win, 0, 255, Ok(()));
        check(VetKind::Open, 5, 255, Ok(()));
        assert!(rules.need_standing() && !Rules::default().need_standing());
    }
}
