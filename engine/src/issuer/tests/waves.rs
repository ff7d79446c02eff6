//! Two waves of one shard: each has its own section, cursor and close.

use super::world::{T0, key, plan, settings};
use crate::{
    ConnectionId,
    grant::Right,
    issuer::{Input, Issuer, Output, Recovered, RecoveredSection},
    shard::CandidateShake,
    time::Timestamp,
    wave_clock::WaveClock,
};
use yao_protocol::{
    PacketIndex, ShakeId, SponsorSet, UserId, WaveIndex,
    journal::Event,
    seed_file::{Section, Segment},
    token::Bearer,
};

const COUNT: u32 = 100;
const FIRST: [u32; 2] = [0, 1_000];

fn section(wave: u16) -> Section {
    Section {
        wave: WaveIndex(wave),
        first: PacketIndex(FIRST[usize::from(wave)]),
        count: COUNT,
        sum: plan(COUNT, 10, 4).iter().map(|record| record.amount).sum(),
        segments: vec![Segment { duration_us: 10_000_000, packets: COUNT }],
    }
}

/// Answers reservations at once; what else the issuer does until `now`.
fn drain(issuer: &mut Issuer, now: Timestamp) -> Vec<Output> {
    let mut outputs = Vec::new();
    loop {
        match issuer.poll(now) {
            Output::SleepUntil { .. } => return outputs,
            Output::Reserve { wave, first, high } => {
                let records = plan(COUNT, 10, 4)[first as usize..high as usize].to_vec();
                issuer.handle(now, Input::Reserved { wave, first, high, records });
            }
            output => outputs.push(output),
        }
    }
}

#[test]
fn m8_two_waves_at_once_keep_their_packets_apart() {
    let sections = [0, 1].map(|wave| RecoveredSection {
        section: section(wave),
        high: 0,
        closed: false,
        right: Right::Local,
    });
    let recovered = Recovered { sections: sections.to_vec(), issued: Vec::new() };
    let mut issuer = Issuer::new(settings(), key(), &recovered);
    let anchor = settings().anchor;
    let clock = WaveClock::new(T0, 1);
    for wave in [0, 1].map(WaveIndex) {
        let clock = clock.clone();
        issuer.handle(anchor.at, Input::ArmWave { wave, clock, grace_us: 0 });
    }
    let mut issued: [u32; 2] = [0, 0];
    let mut left: [u32; 2] = [0, 0];
    for us in (0..=10_000_000).step_by(10_000) {
        let now = anchor.timestamp(T0.plus_us(us));
        let mut outputs = drain(&mut issuer, now);
        issuer.handle(
            now,
            Input::Candidate(CandidateShake {
                connection: ConnectionId { thread: 0, slot: 1, number: 1 },
                request_id: 1,
                shake: ShakeId(us),
                user: UserId(us),
                wins: 0,
                sponsors: SponsorSet::EMPTY,
                bearer: Bearer::default(),
            }),
        );
        outputs.extend(drain(&mut issuer, now));
        for output in outputs {
            match output {
                Output::Journal(Event::Issue(body)) => {
                    let wave = usize::from(body.wave.0);
                    let indexes = section(body.wave.0).indexes();
                    assert!(indexes.contains(&body.packet.index().0), "of wave {wave}");
                    issued[wave] += 1;
                }
                Output::Journal(Event::Close { wave, unissued, .. }) => {
                    left[usize::from(wave.0)] = unissued;
                }
                Output::Journal(event) => panic!("nothing waits so long: {event:?}"),
                _ => {}
            }
        }
    }
    assert_eq!(issued.map(|count| count > 95), [true, true], "{issued:?}");
    assert_eq!([issued[0] + left[0], issued[1] + left[1]], [COUNT, COUNT]);
}
