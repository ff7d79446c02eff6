//! Deciding a candidate: limits, the packet he gets, the agent's word, and the ticket.

use super::{
    Issuer, Output,
    wave::{Queued, Wave},
};
use crate::{ConnectionId, shard::CandidateShake, time::Timestamp, vetting::Asked};
use yao_protocol::{
    PacketId, PacketIndex, UserId, WaveIndex,
    agent::{Question, Standing, Vet, VetKind},
    journal::Event,
    tally::Tally,
    ticket::TicketBody,
};

/// A candidate with the packet that is bound to him until he is decided.
#[derive(Clone, Copy, Debug)]
pub(super) struct Claim {
    candidate: CandidateShake,
    wave: WaveIndex,
    queued: Queued,
    /// How the candidate stood when the packet was bound to him.
    standing: Standing,
}

impl Issuer {
    pub(super) fn decide(&mut self, now: Timestamp, candidate: &CandidateShake) {
        // The same draw has one outcome, whether it is sent again with or without the flag.
        if let Some(body) = self.winners.find(candidate.user, candidate.shake) {
            self.counters.reissued += 1;
            self.winners.learn(candidate.user, candidate.wins, candidate.sponsors);
            self.win(candidate.connection, candidate.request_id, &body);
            return;
        }
        // Still being vetted, and asked for once more: the newest connection gets the answer. What
        // the older one sent may come later, over another thread, and it is about to be replaced.
        if let Some(claim) = self.claim_of(candidate.user)
            && claim.candidate.shake == candidate.shake
        {
            if !candidate.connection.is_overtaken_by(claim.candidate.connection) {
                claim.candidate.connection = candidate.connection;
                claim.candidate.request_id = candidate.request_id;
            }
            return;
        }
        match self.claim(now, candidate) {
            Some(claim) => self.vet(now, claim),
            None => self.lose(candidate),
        }
    }

    /// Binds a packet to the candidate, if the rules allow him one and one is there.
    fn claim(&mut self, now: Timestamp, candidate: &CandidateShake) -> Option<Claim> {
        if self.fenced.is_some() || self.hold || self.policy.is_banned(candidate.user) {
            return None;
        }
        let won = self.winners.with(candidate.user, candidate.wins, candidate.sponsors);
        if won.pending {
            return None;
        }
        if won.wins >= self.settings.wins_per_user {
            self.counters.limited += 1;
            return None;
        }
        let eligible = yao_protocol::SponsorSet(u64::MAX).minus(won.sponsors);
        let found = self
            .waves
            .iter()
            .filter(|wave| wave.is_open())
            .find_map(|wave| Some((wave.wave, wave.earliest(now, eligible)?)));
        let (wave, queued) = found?;
        let taken_from = self.wave_mut(wave).expect("it was found just now");
        taken_from.take(queued);
        let bearer = candidate.bearer;
        let device_wins = self.winners.on_device(bearer.device).try_into().unwrap_or(u8::MAX);
        self.winners.hold(bearer.device);
        let standing = Standing { bearer, user_wins: won.wins, device_wins };
        Some(Claim { candidate: *candidate, wave, queued, standing })
    }

    fn vet(&mut self, now: Timestamp, claim: Claim) {
        let user = claim.candidate.user;
        let record = claim.queued.packet.record;
        if record.amount.0 < self.policy.vet_amount_min {
            self.conclude(now, claim, true);
            return;
        }
        let standing = claim.standing;
        match self.desk.ask(now, claim) {
            Asked::Allowed(claim) => self.conclude(now, claim, true),
            Asked::Send { call } => {
                self.winners.pending_set(user, Some(call));
                let vet = Vet {
                    call,
                    kind: VetKind::Win,
                    user,
                    sponsor: record.sponsor,
                    amount: record.amount,
                    packet: self.packet_id(&claim),
                    shake: claim.candidate.shake,
                };
                self.outputs.push_back(Output::Vet(Question { vet, standing }));
            }
        }
    }

    /// The claim of this user that is being vetted.
    fn claim_of(&mut self, user: UserId) -> Option<&mut Claim> {
        self.desk.subject_mut(self.winners.pending_call(user)?)
    }

    /// Issues the claim, or puts its packet back.
    pub(super) fn conclude(&mut self, now: Timestamp, claim: Claim, allowed: bool) {
        self.winners.pending_set(claim.candidate.user, None);
        self.winners.release(claim.candidate.bearer.device);
        if !allowed {
            self.counters.refused += 1;
        }
        let position = claim.queued.packet.position;
        let is_ours = |wave: &mut Wave| wave.is_open() && wave.right.allows(now, position);
        let open = self.wave_mut(claim.wave).is_some_and(is_ours);
        if allowed && open && self.fenced.is_none() {
            self.issue(now, &claim);
        } else {
            if let Some(wave) = self.wave_mut(claim.wave) {
                wave.put_back(claim.queued);
            }
            self.lose(&claim.candidate);
        }
    }

    /// The one place where a packet becomes somebody's.
    fn issue(&mut self, now: Timestamp, claim: &Claim) {
        let (candidate, packet) = (claim.candidate, claim.queued.packet);
        let issued_at = self.settings.anchor.wall(now);
        let body = TicketBody {
            campaign: self.settings.campaign,
            packet: self.packet_id(claim),
            user: candidate.user,
            amount: packet.record.amount,
            shake: candidate.shake,
            issued_at,
            expires_at: issued_at.plus_us(self.settings.ticket_lifetime_us),
            shard: self.settings.shard,
            epoch: self.settings.epoch,
            sponsor: packet.record.sponsor,
            wave: claim.wave,
        };
        let wave = self.wave_mut(claim.wave).expect("the claim took the packet from it");
        wave.issue(now, packet.position);
        self.counters.issued += 1;
        self.winners.record(body, Some(candidate.bearer.device));
        // Once he is a winner his tally is kept, so that no later one forgets it.
        self.winners.learn(body.user, candidate.wins, candidate.sponsors);
        self.outputs.push_back(Output::Journal(Event::Issue(body)));
        self.win(candidate.connection, candidate.request_id, &body);
    }

    fn packet_id(&self, claim: &Claim) -> PacketId {
        let wave = self.waves.iter().find(|wave| wave.wave == claim.wave);
        let first = wave.expect("the claim took the packet from it").first.0;
        let index = PacketIndex(first + claim.queued.packet.position);
        PacketId::new(self.settings.generation, self.settings.shard, index)
    }

    /// Sends a user the tickets that he can still open.
    pub(super) fn greet(&mut self, now: Timestamp, connection: ConnectionId, user: UserId) {
        // What is being decided for an older connection follows too, unasked.
        if let Some(claim) = self.claim_of(user)
            && !connection.is_overtaken_by(claim.candidate.connection)
        {
            (claim.candidate.connection, claim.candidate.request_id) = (connection, 0);
        }
        let wall = self.settings.anchor.wall(now);
        let mut bodies: Vec<TicketBody> = self.winners.wins_of(user).collect();
        bodies.retain(|body| body.expires_at > wall);
        for body in bodies.iter().rev() {
            self.win(connection, 0, body);
        }
    }

    /// Ed25519 is deterministic: the same body gives the same ticket, byte for byte (M6).
    fn win(&mut self, connection: ConnectionId, request_id: u32, body: &TicketBody) {
        let won = self.winners.of(body.user);
        let tally = Tally {
            campaign: self.settings.campaign,
            user: body.user,
            wins: won.wins,
            sponsors: won.sponsors,
            counted_at: body.issued_at,
        };
        let ticket = Box::new(body.sign(&self.key));
        self.outputs.push_back(Output::Won { connection, request_id, ticket, tally });
    }

    fn lose(&mut self, candidate: &CandidateShake) {
        self.counters.lost += 1;
        if candidate.request_id == 0 {
            // Nobody on this connection asked: his RESEND will, or has been answered.
            return;
        }
        self.outputs.push_back(Output::Lost {
            connection: candidate.connection,
            request_id: candidate.request_id,
            shake: candidate.shake,
        });
    }

    /// Whether `user` is being decided right now; for tests and tools.
    #[must_use]
    pub fn is_pending(&self, user: UserId) -> bool {
        self.winners.of(user).pending
    }
}
