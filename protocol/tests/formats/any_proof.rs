//! Everything that carries a proof, with any content, is read as it was written; and by nobody who
//! holds another key.

use super::codecs::{CAMPAIGN, EPOCH, SHARD, key_set, mac_key, sign_key};
use proptest::{array::uniform32, collection::vec, prelude::*};
use yao_protocol::{
    CampaignId, Epoch, Fen, Incarnation, KeyId, PacketId, PacketIndex, ShakeId, ShardId, SponsorId,
    SponsorSet, UserId, WallTime, WaveIndex, WireError,
    keys::{KeySet, MacKey, SignKey},
    limits::{BATCH_RECORDS_MAX, SHARDS_MAX},
    receipt::Receipt,
    reconnect::{RECONNECT_SECONDS_MAX, ReconnectKeys, ReconnectTicket},
    seal::{Seal, SealedWave},
    settlement::{Answer, Batch, OpenResult, digest},
    spool::Open,
    tally::Tally,
    ticket::{Ticket, TicketBody, verify_tickets},
    void::{VoidAnswer, VoidRequest},
};

pub(crate) fn sponsor() -> impl Strategy<Value = SponsorId> {
    (0_u8..64).prop_map(|number| SponsorId::new(number).expect("below 64"))
}

pub(crate) fn wall_time() -> impl Strategy<Value = WallTime> {
    any::<u64>().prop_map(WallTime)
}

/// A ticket body of this shard, or of any.
pub(crate) fn body(shard: impl Strategy<Value = u32>) -> impl Strategy<Value = TicketBody> {
    let numbers = (shard, any::<u8>(), any::<u32>(), any::<u16>());
    (numbers, any::<[u64; 6]>(), sponsor()).prop_map(
        |(
            (shard, generation, index, wave),
            [campaign, user, amount, shake, at, until],
            sponsor,
        )| {
            let shard = ShardId(shard);
            TicketBody {
                campaign: CampaignId(campaign),
                packet: PacketId::new(generation, shard, PacketIndex(index)),
                user: UserId(user),
                amount: Fen(amount),
                shake: ShakeId(shake),
                issued_at: WallTime(at),
                expires_at: WallTime(until),
                shard,
                epoch: EPOCH,
                sponsor,
                wave: WaveIndex(wave),
            }
        },
    )
}

pub(crate) fn open() -> impl Strategy<Value = Open> {
    (wall_time(), body(0..SHARDS_MAX)).prop_map(|(accepted_at, body)| {
        let ticket = Ticket { body, signature: [0x33; 64] };
        Open { accepted_at, ticket }
    })
}

fn forged<T: std::fmt::Debug + PartialEq>(read: Result<T, WireError>) {
    assert!(matches!(read, Err(WireError::Forged { .. })), "{read:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_ticket(body in body(0..SHARDS_MAX), epoch: u32) {
        let body = TicketBody { epoch: Epoch(epoch), ..body };
        prop_assert_eq!(TicketBody::decode(&body.encode()), Ok(body));
        let ticket = body.sign(&sign_key());
        prop_assert_eq!(Ticket::decode(&ticket.encode()), Ok(ticket));
        prop_assert!(!ticket.verifies(&KeySet::default()), "without a key nothing is proved");
        let packet = PacketId::new(0, SHARD, PacketIndex(epoch));
        let (campaign, shard, epoch) = (CAMPAIGN, SHARD, EPOCH);
        let ours = TicketBody { campaign, packet, shard, epoch, ..body };
        let good = ours.sign(&sign_key());
        let other = Ticket { body: TicketBody { user: UserId(ours.user.0 ^ 1), ..ours }, ..good };
        prop_assert!(good.verifies(&key_set()) && !other.verifies(&key_set()));
        let verdicts = verify_tickets(&[good, other, ticket, good], &key_set());
        prop_assert_eq!(verdicts, [true, false, ticket.verifies(&key_set()), true]);
    }

    #[test]
    fn any_tally(campaign: u64, user: u64, sponsors: u64, more: u8, counted_at in wall_time()) {
        let sponsors = SponsorSet(sponsors);
        let counted = u8::try_from(sponsors.count()).expect("at most 64");
        let wins = counted.saturating_add(more).min(64);
        let (campaign, user) = (CampaignId(campaign), UserId(user));
        let tally = Tally { campaign, user, wins, sponsors, counted_at };
        let bytes = tally.encode(&mac_key());
        prop_assert_eq!(Tally::decode(&bytes, &mac_key()), Ok(tally));
        prop_assert_eq!(Tally::peek(&bytes), Ok(tally));
        forged(Tally::decode(&bytes, &MacKey::new(KeyId(3), [8; 32])));
        forged(Tally::decode(&bytes, &MacKey::new(KeyId(4), [9; 32])));
    }

    #[test]
    fn any_receipt(campaign: u64, packet: u64, user: u64, accepted_at in wall_time()) {
        let (packet, user) = (PacketId(packet), UserId(user));
        let receipt = Receipt { campaign: CampaignId(campaign), packet, user, accepted_at };
        let bytes = receipt.encode(&mac_key());
        prop_assert_eq!(Receipt::decode(&bytes, &mac_key()), Ok(receipt));
        prop_assert_eq!(Receipt::peek(&bytes), Ok(receipt));
        forged(Receipt::decode(&bytes, &MacKey::new(KeyId(3), [8; 32])));
        // A receipt is as long as a tally, but the proof of one is none of the other.
        prop_assert!(Tally::decode(&bytes, &mac_key()).is_err());
    }

    #[test]
    fn any_reconnect_ticket(
        user: u64, device: u64, risk: u8, issued_at in 0..u64::MAX / 2,
        life_us in 1..=RECONNECT_SECONDS_MAX * 1_000_000, more in 0..u64::MAX / 4,
    ) {
        let issued_at = WallTime(issued_at);
        let expires_at = issued_at.plus_us(life_us);
        let (user, token_expires_at) = (UserId(user), expires_at.plus_us(more));
        let ticket =
            ReconnectTicket { user, device, risk, issued_at, expires_at, token_expires_at };
        let keys = |id, key| ReconnectKeys::new(vec![MacKey::new(KeyId(id), key)]).expect("one");
        let bytes = keys(3, [9; 32]).sign(&ticket);
        prop_assert_eq!(keys(3, [9; 32]).verify(&bytes, issued_at), Ok(ticket));
        prop_assert_eq!(ReconnectTicket::peek(&bytes), Ok(ticket));
        forged(keys(3, [8; 32]).open(&bytes));
        forged(keys(4, [9; 32]).open(&bytes));
    }

    #[test]
    fn any_batch_and_its_answer(
        opens in vec((1_u64..1 << 50, open()), 1..=12), incarnation: [u8; 16],
        settled_at in wall_time(), result in prop_oneof![1_u8..=6, Just(16)],
        plan in uniform32(any::<u8>()),
    ) {
        let mut sequence = 0;
        let records = opens.into_iter().map(|(gap, open)| {
            sequence += gap;
            (sequence, open)
        });
        let records: Vec<(u64, Open)> = records.collect();
        prop_assert!(records.len() <= BATCH_RECORDS_MAX);
        let incarnation = Incarnation(incarnation);
        let batch = Batch { campaign: CAMPAIGN, shard: SHARD, epoch: EPOCH, incarnation, records };
        let bytes = batch.encode(&sign_key());
        let read = Batch::decode(&bytes, &key_set());
        prop_assert_eq!(read.as_ref(), Ok(&batch));
        forged(Batch::decode(&bytes, &KeySet::default()));
        let result = OpenResult::from_number(result).expect("1 to 6, or 16");
        let results = vec![result; batch.records.len()];
        let answer = Answer::to_batch(&batch, &bytes, settled_at, KeyId(1), results);
        prop_assert_eq!(answer.batch_digest, digest(&bytes));
        prop_assert_eq!(answer.last_sequence, sequence);
        let proved = answer.encode(&sign_key());
        let read = Answer::decode(&proved, &key_set());
        prop_assert_eq!(read.as_ref(), Ok(&answer));
        forged(Answer::decode(&proved, &KeySet::default()));
        let other = Answer { batch_digest: plan, ..answer.clone() };
        let again = other.encode(&sign_key());
        prop_assert_eq!(Answer::decode(&again, &key_set()), Ok(other));
        // Neither passes for the other.
        prop_assert!(Batch::decode(&proved, &key_set()).is_err());
        prop_assert!(Answer::decode(&bytes, &key_set()).is_err());
    }
    #[test]
    fn any_seal(
        waves in vec((1_u16..4, 0_u32..1 << 25, 0_u32..1 << 25), 1..16), generation: u8,
        incarnation: [u8; 16], settled: u64, sealed_at in wall_time(),
        merkle_root in uniform32(any::<u8>()),
    ) {
        let mut next = 0;
        let waves = waves.into_iter().map(|(step, one, other)| {
            next += step;
            SealedWave { wave: WaveIndex(next), count: one.max(other), high: one.min(other) }
        });
        let (campaign, shard, epoch) = (CAMPAIGN, SHARD, EPOCH);
        let (incarnation, waves) = (Incarnation(incarnation), waves.collect());
        let seal = Seal {
            campaign, shard, generation, epoch, incarnation, settled, sealed_at, merkle_root, waves,
        };
        let bytes = seal.encode(&sign_key());
        let read = Seal::decode(&bytes, &key_set());
        prop_assert_eq!(read.as_ref(), Ok(&seal));
        forged(Seal::decode(&bytes, &KeySet::default()));
    }

    #[test]
    fn any_void_request_and_its_answer(
        shard in 0..SHARDS_MAX, generation in 0_u8..255, further in 1_u8.., first in 0_u32..1 << 31,
        void in vec(any::<bool>(), 1..200), voided_at in wall_time(),
        plan_digest in uniform32(any::<u8>()),
    ) {
        let child = generation.saturating_add(further);
        let count = u32::try_from(void.len()).expect("small");
        let (campaign, shard) = (CAMPAIGN, ShardId(shard));
        let request =
            VoidRequest { campaign, shard, generation, child, first, count, plan_digest };
        let bytes = request.encode(&sign_key());
        prop_assert_eq!(VoidRequest::decode(&bytes, &sign_key().public()), Ok(request));
        forged(VoidRequest::decode(&bytes, &SignKey::from_seed(&[8; 32]).public()));
        let answer = VoidAnswer { request, voided_at, key_id: KeyId(1), void };
        let proved = answer.encode(&sign_key());
        let read = VoidAnswer::decode(&proved, &key_set());
        prop_assert_eq!(read.as_ref(), Ok(&answer));
        forged(VoidAnswer::decode(&proved, &KeySet::default()));
        let told = answer.packets().map(|packet| packet.index().0 - first);
        let expected = (0..count).filter(|position| answer.void[*position as usize]);
        prop_assert!(told.eq(expected));
    }
}
