//! Budgets as crowds meet them.

use super::*;

const LIMITS: AdmissionLimits = AdmissionLimits {
    connections_max: 1_000,
    handshakes_per_second: 100,
    burst: 200,
    per_address: 10,
};

fn at(ms: u64) -> Timestamp {
    Timestamp::from_ns(1_000_000_000_000 + ms * 1_000_000)
}

fn origin(number: u32) -> Origin {
    Origin::of(IpAddr::from(number.to_be_bytes()))
}

/// Newcomers that are let in get slots 0, 1, 2, ...
struct Crowd {
    admission: Admission,
    slots: u32,
}

impl Crowd {
    fn new(limits: AdmissionLimits) -> Self {
        Self { admission: Admission::new(limits, at(0)), slots: 0 }
    }

    fn come(&mut self, now: Timestamp, from: Origin) -> Decision {
        let decision = self.admission.decide(now, Some(from), true);
        if decision == Decision::Admit {
            self.admission.enter(now, self.slots, Some(from));
            self.slots += 1;
        }
        decision
    }
}

#[test]
fn a_burst_is_let_in_and_then_the_rate_holds() {
    for tries_a_ms in [1, 3, 50] {
        let mut crowd = Crowd::new(AdmissionLimits { connections_max: 0, ..LIMITS });
        let mut admitted = vec![0_u32; 11];
        let mut number = 0;
        for ms in 0..11_000 {
            for _ in 0..tries_a_ms {
                number += 1;
                match crowd.come(at(ms), origin(number)) {
                    Decision::Admit => admitted[(ms / 1_000) as usize] += 1,
                    decision => assert_eq!(decision, Decision::Refuse(RefusedBy::Rate)),
                }
            }
        }
        assert!((298..=301).contains(&admitted[0]), "the burst and a second: {}", admitted[0]);
        for second in &admitted[1..] {
            assert!((99..=101).contains(second), "{admitted:?}");
        }
    }
}

#[test]
fn rest_gives_no_more_than_a_burst() {
    let mut crowd = Crowd::new(AdmissionLimits { connections_max: 0, ..LIMITS });
    for hour in 1..3_u64 {
        let now = at(hour * 3_600_000);
        let first = u32::try_from(hour).expect("small") * 1_000;
        let admitted = (first..first + 500)
            .filter(|number| crowd.come(now, origin(*number)) == Decision::Admit)
            .count();
        assert_eq!(admitted, 200);
    }
}

#[test]
fn connections_that_are_not_open_have_a_budget_of_their_own() {
    let limits = AdmissionLimits { handshakes_per_second: 0, ..LIMITS };
    let mut crowd = Crowd::new(limits);
    for number in 0..1_000 {
        assert_eq!(crowd.come(at(0), origin(number)), Decision::Admit);
    }
    let full = Decision::Refuse(RefusedBy::Connections);
    assert_eq!(crowd.come(at(9_999), origin(5_000)), full, "time frees nobody");
    // One opens, one goes: two places, however often it is said.
    for _ in 0..3 {
        crowd.admission.leave(7);
        crowd.admission.leave(8);
    }
    assert_eq!(crowd.admission.waiting(), 998);
    assert_eq!(crowd.come(at(9_999), origin(5_000)), Decision::Admit);
    assert_eq!(crowd.come(at(9_999), origin(5_001)), Decision::Admit);
    assert_eq!(crowd.come(at(9_999), origin(5_002)), full);
}

/// A carrier's address may bring everybody, as long as nobody else needs the room.
#[test]
fn an_address_over_its_share_is_refused_first_and_only_under_pressure() {
    let limits = AdmissionLimits { handshakes_per_second: 0, ..LIMITS };
    let mut crowd = Crowd::new(limits);
    for number in 0..750 {
        assert_eq!(crowd.come(at(0), origin(1)), Decision::Admit, "newcomer {number}");
    }
    assert_eq!(crowd.come(at(0), origin(1)), Decision::Refuse(RefusedBy::Address));
    for number in 0..24 {
        for place in 0..10 {
            assert_eq!(crowd.come(at(0), origin(100 + number)), Decision::Admit, "place {place}");
        }
        let over = Decision::Refuse(RefusedBy::Address);
        assert_eq!(crowd.come(at(0), origin(100 + number)), over);
    }
    for slot in 0..100 {
        crowd.admission.leave(slot);
    }
    // Its connections opened, but 650 of them still wait: under pressure it stays refused.
    let over = Decision::Refuse(RefusedBy::Address);
    assert_eq!(crowd.come(at(0), origin(1)), over);
    for slot in 100..750 {
        crowd.admission.leave(slot);
    }
    assert_eq!(crowd.come(at(0), origin(1)), Decision::Admit, "room for all again");
}

/// Who comes and goes at once holds nothing, but takes the rate from the others.
#[test]
fn an_address_that_hammers_leaves_the_last_quarter_of_the_rate_to_others() {
    let mut crowd = Crowd::new(LIMITS);
    let (mut hammered, mut others, mut other) = (0_u32, 0_u32, 1_000);
    for ms in 0..10_000 {
        for _ in 0..20 {
            if crowd.come(at(ms), origin(1)) == Decision::Admit {
                hammered += 1;
                crowd.admission.leave(crowd.slots - 1);
            }
        }
        if ms % 20 == 0 {
            other += 1;
            let admitted = crowd.come(at(ms), origin(other)) == Decision::Admit;
            others += u32::from(admitted);
            if admitted {
                crowd.admission.leave(crowd.slots - 1);
            }
        }
    }
    assert_eq!(others, 500, "fifty a second, whatever the one does");
    assert!(hammered > 500, "what is left is his: {hammered}");
}

#[test]
fn an_address_must_be_proven_under_pressure_before_its_share_counts() {
    let limits = AdmissionLimits { handshakes_per_second: 0, ..LIMITS };
    let mut crowd = Crowd::new(limits);
    let decide = |crowd: &mut Crowd| crowd.admission.decide(at(0), Some(origin(1)), false);
    assert_eq!(decide(&mut crowd), Decision::Admit, "no pressure, no proof");
    for number in 0..750 {
        crowd.come(at(0), origin(number));
    }
    assert_eq!(decide(&mut crowd), Decision::Prove);
    for number in 0..250 {
        crowd.come(at(0), origin(10_000 + number));
    }
    assert_eq!(decide(&mut crowd), Decision::Refuse(RefusedBy::Connections));
}

#[test]
fn a_balancer_names_the_origin_later() {
    let limits = AdmissionLimits { handshakes_per_second: 0, ..LIMITS };
    let mut admission = Admission::new(limits, at(0));
    for slot in 0..1_000 {
        assert_eq!(admission.decide(at(0), None, true), Decision::Admit);
        admission.enter(at(0), slot, None);
    }
    for slot in 0..1_000 {
        assert_eq!(admission.name(at(0), slot, origin(1)), slot < 10, "slot {slot}");
        assert!(admission.name(at(0), slot, origin(2)), "named once");
    }
    assert!(admission.name(at(0), 5_000, origin(1)), "nobody is there");
    for slot in 0..1_000 {
        admission.leave(slot);
    }
    assert_eq!(admission.waiting(), 0);
}

#[test]
fn an_origin_is_an_ipv4_address_or_half_of_an_ipv6_one() {
    let of = |text: &str| Origin::of(text.parse().expect("an address"));
    assert_eq!(of("192.0.2.1"), of("::ffff:192.0.2.1"));
    assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
    assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:ffff:ffff:ffff"));
    assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
    assert_ne!(of("::1"), of("0.0.0.1"));
}

/// An attacker with all addresses of the world leaves nothing behind.
#[test]
fn memory_is_bounded_by_who_waits_and_who_just_came() {
    let limits = AdmissionLimits { handshakes_per_second: 1_000, burst: 1_000, ..LIMITS };
    let mut crowd = Crowd::new(limits);
    let mut number = 0;
    for ms in 0..20_000 {
        for _ in 0..5 {
            number += 1;
            if crowd.come(at(ms), origin(number)) == Decision::Admit {
                crowd.admission.leave(crowd.slots - 1);
            }
        }
        assert!(crowd.admission.origins.len() <= 2_001 + 1_000, "after {ms} ms");
    }
    assert!(crowd.slots > 15_000);
    crowd.come(at(60_000), origin(1));
    assert!(crowd.admission.origins.len() <= 2);
    assert!(crowd.admission.waiting.capacity() < 100);
}

#[test]
fn no_limits_let_everybody_in_and_a_share_is_never_nothing() {
    let mut crowd = Crowd::new(AdmissionLimits::NONE);
    for _ in 0..100_000 {
        assert_eq!(crowd.come(at(0), origin(1)), Decision::Admit);
    }
    let share = AdmissionLimits { burst: 3, per_address: 1, ..LIMITS }.share(8);
    let AdmissionLimits { connections_max, handshakes_per_second, burst, per_address } = share;
    assert_eq!((connections_max, handshakes_per_second, burst, per_address), (125, 13, 1, 1));
    assert_eq!(AdmissionLimits::NONE.share(8).handshakes_per_second, 0, "none stays none");
}

#[test]
fn new_limits_hold_at_once() {
    let mut crowd = Crowd::new(AdmissionLimits::NONE);
    crowd.admission.limits_set(LIMITS);
    let admitted = (0..500).filter(|n| crowd.come(at(0), origin(*n)) == Decision::Admit).count();
    assert_eq!(admitted, 200, "a whole burst");
    crowd.admission.limits_set(AdmissionLimits { burst: 400, ..LIMITS });
    assert_eq!(crowd.come(at(0), origin(999)), Decision::Refuse(RefusedBy::Rate));
}
