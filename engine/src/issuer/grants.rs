//! Fleet mode in the issuer: requests for grants go out, answers come in, and a grant counts when
//! it is on disk. The rules are in [`crate::grant`].

use super::{
    Issuer, Output,
    wave::{Wave, WaveState},
};
use crate::{
    grant::{Fleet, Right},
    time::Timestamp,
};
use yao_protocol::{
    WaveIndex,
    grant::{GrantAnswer, Verdict},
};

impl Issuer {
    pub(super) fn fleet_mut(&mut self, wave: WaveIndex) -> Option<&mut Fleet> {
        self.wave_mut(wave)?.right.fleet_mut()
    }

    /// Whether an answer to the request with this digest would be heard: to others no signature
    /// needs to be checked.
    #[must_use]
    pub fn awaits_grant(&self, request_digest: &[u8; 32]) -> bool {
        let fleets = self.waves.iter().filter_map(|wave| wave.right.fleet());
        fleets.into_iter().any(|fleet| fleet.awaits(request_digest))
    }

    pub(super) fn on_grant_answer(&mut self, now: Timestamp, answer: &GrantAnswer) {
        let wave = answer.wave;
        // A wave that is over has counted what was left: nothing of that may be burnt any more. But
        // that another one has the section is heard all the same.
        let closed = self.wave_mut(wave).is_some_and(|wave| wave.state == WaveState::Closed);
        let Some(fleet) = self.fleet_mut(wave) else { return };
        if closed && answer.verdict == Verdict::Granted {
            fleet.forget(&answer.request_digest);
            return;
        }
        let (had_it, kept) = (!fleet.is_lost(), fleet.on_answer(now, answer));
        let loses = had_it && fleet.is_lost();
        if let Some(grant) = kept {
            self.outputs.push_back(Output::KeepGrant { wave, grant });
        }
        if loses {
            self.outputs.push_back(Output::GiveUp { wave });
        }
    }

    pub(super) fn on_grant_kept(&mut self, wave: WaveIndex, id: u64, high: u32) {
        let Some(wave) = self.wave_mut(wave) else { return };
        let Some(fleet) = wave.right.fleet_mut() else { return };
        if !fleet.on_kept(id) {
            return;
        }
        let begins = fleet.grant().map_or(0, |grant| grant.lo);
        if begins > wave.high {
            assert!(high >= begins, "M4: H was raised to where the grant begins");
            wave.jump(high);
        }
    }

    /// Asks for whatever grants are wanted now.
    pub(super) fn ask_grants(&mut self, now: Timestamp) {
        for wave in self.waves.iter_mut().filter(|wave| wave.wants_right()) {
            let (index, high) = (wave.wave, wave.high);
            let asked = wave.right.fleet_mut().and_then(|fleet| fleet.poll(now, high, &self.key));
            if let Some(request) = asked {
                self.outputs.push_back(Output::AskGrant { wave: index, request });
            }
        }
    }

    /// Every wave's right, and whether packets of it should be issued now and may not.
    pub fn rights(&self, now: Timestamp) -> impl Iterator<Item = (WaveIndex, &Right, bool)> + '_ {
        let lacks = move |wave: &Wave| wave.wants_right() && !wave.right.is_live(now);
        self.waves.iter().map(move |wave| (wave.wave, &wave.right, lacks(wave)))
    }
}
