//! Every file and record, with any content, is read as it was written.

use super::{
    any_proof::{body, open, sponsor, wall_time},
    codecs::{CAMPAIGN, EPOCH, SHARD, shard_key, sign_key},
};
use proptest::{array::uniform16, collection::vec, option, prelude::*, sample::select};
use yao_protocol::{
    CampaignId, Epoch, Fen, Incarnation, PacketIndex, ShardId, UserId, WallTime, WaveIndex,
    cursor::Cursor,
    journal::{Event, SkipReason},
    limits::{LOG_PAYLOAD_BYTES_MAX, SHARDS_MAX},
    log::{RECORD_OVERHEAD_BYTES, Record, Scan, ScanEnd, SegmentHeader},
    policy::Policy,
    schedule::{Schedule, WaveSchedule},
    seed_file::{Section, SeedHeader, SeedRecord, Segment, decode_records},
    slots::{SLOT_PAYLOAD_BYTES_MAX, Slot, SlotPair},
    spool::{Open, Watermark},
};

const MAGIC: [u8; 8] = *b"YAOTEST\0";
/// Unix microseconds of the last year that RFC 3339 can write.
const YEAR_9999: u64 = 253_370_764_800_000_000;

fn event() -> impl Strategy<Value = Event> {
    let life = uniform16(any::<u8>());
    let (at, wave) = (wall_time, || any::<u16>().prop_map(WaveIndex));
    let reason = select(vec![SkipReason::Restart, SkipReason::Waited, SkipReason::Burnt]);
    prop_oneof![
        (life, life, at()).prop_map(|(life, boot_id, at)| {
            Event::Start { incarnation: Incarnation(life), boot_id, at }
        }),
        (wave(), any::<u32>(), at()).prop_map(|(wave, high, at)| Event::Reserve { wave, high, at }),
        body(0..SHARDS_MAX).prop_map(Event::Issue),
        (wave(), reason, any::<u32>(), any::<u32>(), at()).prop_map(
            |(wave, reason, first, count, at)| {
                let (first, count) = (PacketIndex(first), count.min(u32::MAX - first));
                Event::Skip { wave, reason, first, count, at }
            }
        ),
        (wave(), any::<u32>(), any::<u64>(), at()).prop_map(|(wave, unissued, sum, at)| {
            Event::Close { wave, unissued, sum: Fen(sum), at }
        }),
        (wave(), any::<u64>(), any::<[u32; 2]>(), life, at(), at()).prop_map(
            |(wave, id, range, life, not_after, at)| {
                let (lo, hi) = (range[0].min(range[1]), range[0].max(range[1]));
                Event::Grant { wave, id, lo, hi, holder: Incarnation(life), not_after, at }
            }
        ),
        (1_u8..=2, at()).prop_map(|(place, at)| Event::Fence { place, at }),
    ]
}

/// Sections of a wave each, with at most 2^20 packets in a segment.
fn sections() -> impl Strategy<Value = Vec<Section>> {
    let segment = (1_u64..1 << 48, 0_u32..1 << 20)
        .prop_map(|(duration_us, packets)| Segment { duration_us, packets });
    let section = (vec(segment, 1..=64), 0_u64..1 << 40, 1_u16..=8);
    vec(section, 1..=8).prop_map(|parts| {
        let (mut first, mut wave) = (0, 0);
        let place = |(segments, sum, gap): (Vec<Segment>, u64, u16)| {
            let count = segments.iter().map(|segment| segment.packets).sum();
            let section = Section {
                wave: WaveIndex(wave),
                first: PacketIndex(first),
                count,
                sum: Fen(sum),
                segments,
            };
            first += count;
            wave += gap;
            section
        };
        parts.into_iter().map(place).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_seed_header(
        sections in sections(), sponsor_count in 1_u8..=64, chunk_records in 1_u16..=4_095,
        digests: [[u8; 16]; 4], shard in 0..SHARDS_MAX, generation: u8,
    ) {
        let [plan_digest, merkle_root, key_check, body_digest] =
            digests.map(|half| [half, half].concat().try_into().expect("32 bytes"));
        let header = SeedHeader {
            campaign: CAMPAIGN,
            shard: ShardId(shard),
            generation,
            sponsor_count,
            chunk_records,
            record_count: sections.iter().map(|section| section.count).sum(),
            sum: sections.iter().map(|section| section.sum).sum(),
            plan_digest,
            merkle_root,
            key_check,
            body_digest,
            sections,
        };
        let bytes = header.encode(&sign_key());
        prop_assert_eq!(SeedHeader::peek_length(&bytes), Ok(bytes.len()));
        let read = SeedHeader::decode(&bytes, &sign_key().public());
        prop_assert_eq!(read.as_ref(), Ok(&header));
        let last = header.chunk_count().saturating_sub(1);
        let end = if header.record_count == 0 { 0 } else { header.chunk_bytes(last).end };
        prop_assert_eq!(end, header.body_bytes(), "the chunks end where the body ends");
    }

    #[test]
    fn any_chunk(
        records in vec((any::<u64>(), any::<u32>(), sponsor()), 0..40), chunk: u32,
        plan in uniform16(any::<u8>()),
    ) {
        let plan: [u8; 32] = [plan, plan].concat().try_into().expect("32 bytes");
        let record = |(offset_us, amount, sponsor)| {
            SeedRecord { offset_us, amount: Fen(u64::from(amount)), sponsor }
        };
        let records: Vec<SeedRecord> = records.into_iter().map(record).collect();
        let mut sealed: Vec<u8> = records.iter().flat_map(SeedRecord::encode).collect();
        shard_key().seal(&plan, chunk, &mut sealed);
        let mut opened = sealed.clone();
        prop_assert_eq!(shard_key().open(&plan, chunk, &mut opened), Ok(()));
        prop_assert_eq!(decode_records(&opened), Ok(records));
        prop_assert!(shard_key().open(&plan, chunk ^ 1, &mut sealed.clone()).is_err());
    }

    #[test]
    fn any_slot(sequence in 0..u64::MAX - 1, payload in vec(any::<u8>(), 0..=600), full: bool) {
        let mut payload = payload;
        if full {
            payload.resize(SLOT_PAYLOAD_BYTES_MAX, 0xa5);
        }
        let slot = Slot { sequence, payload };
        let bytes = slot.encode(MAGIC);
        prop_assert_eq!(Slot::decode(MAGIC, &bytes), Ok(slot.clone()));
        prop_assert!(Slot::decode(*b"YAOCURS\0", &bytes).is_err());
        // In a file with its successor the successor counts; alone, it counts itself.
        let next = Slot { sequence: sequence + 1, payload: vec![1] };
        let in_order = |first: &[u8], second: &[u8]| {
            let even = sequence % 2 == 0;
            if even { [first, second].concat() } else { [second, first].concat() }
        };
        let both = SlotPair::decode(MAGIC, &in_order(&bytes, &next.encode(MAGIC)));
        prop_assert_eq!(both, Ok(SlotPair { newest: next, both_valid: true }));
        let torn = SlotPair::decode(MAGIC, &in_order(&bytes, &[0xee; 4_096]));
        prop_assert_eq!(torn, Ok(SlotPair { newest: slot, both_valid: false }));
        let misplaced = in_order(&[0xee; 4_096], &bytes);
        prop_assert!(SlotPair::decode(MAGIC, &misplaced).is_err(), "each slot has its place");
    }

    #[test]
    fn any_cursor_and_watermark(
        shard in 0..SHARDS_MAX, generation: u8, wave: u16, epoch: u32, high: u32, ahead: u32,
        ids: [u64; 3], life: [u8; 16], settled in 0..u64::MAX,
    ) {
        let (campaign, shard) = (CampaignId(ids[0]), ShardId(shard));
        let cursor = Cursor {
            campaign,
            shard,
            generation,
            wave: WaveIndex(wave),
            epoch: Epoch(epoch),
            merkle_root: [generation; 32],
            incarnation: Incarnation(life),
            high,
            next_high_max: high.saturating_add(ahead),
            inode: ids[1],
            born_ns: ids[2],
            boot_id: life,
            asked: settled % 2 == 1,
            grant: None,
        };
        prop_assert_eq!(Cursor::decode(&cursor.encode()), Ok(cursor));
        let watermark = Watermark { campaign, shard, settled, answer_digest: [generation; 32] };
        prop_assert_eq!(Watermark::decode(&watermark.encode()), Ok(watermark));
    }

    #[test]
    fn any_segment(
        first_sequence in 1..u64::MAX - 20, unwritten in 0_usize..50,
        records in vec((1..=u8::MAX, vec(any::<u8>(), 0..90), any::<u64>()), 0..20), long: bool,
    ) {
        let incarnation = Incarnation([7; 16]);
        let (campaign, shard, epoch) = (CAMPAIGN, SHARD, EPOCH);
        let header = SegmentHeader { campaign, shard, epoch, incarnation, first_sequence };
        prop_assert_eq!(SegmentHeader::decode(MAGIC, &header.encode(MAGIC)), Ok(header));
        let longest = vec![0xa5; LOG_PAYLOAD_BYTES_MAX];
        let (mut bytes, mut written, mut sequence) = (Vec::new(), Vec::new(), first_sequence);
        for (kind, payload, committed) in &records {
            let payload = if long { &longest } else { payload };
            let record = Record { kind: *kind, sequence, committed: committed % sequence, payload };
            let start = bytes.len();
            record.put(&mut bytes);
            prop_assert_eq!(bytes.len() - start, RECORD_OVERHEAD_BYTES + payload.len());
            written.push(record);
            sequence += 1;
        }
        let valid = bytes.len();
        bytes.resize(valid + unwritten, 0);
        let mut scan = Scan::new(&bytes, first_sequence);
        prop_assert_eq!(scan.by_ref().collect::<Vec<_>>(), written);
        prop_assert_eq!((scan.end(), scan.valid_bytes()), (Some(ScanEnd::Clean), valid));
        prop_assert_eq!(scan.next_sequence(), sequence);
    }

    #[test]
    fn any_record_of_journal_and_spool(event in event(), open in open()) {
        let (kind, payload) = event.encode();
        prop_assert_eq!(Event::decode(kind, &payload), Ok(event));
        prop_assert_eq!(Open::decode(&open.encode()), Ok(open));
    }

    #[test]
    fn any_policy_and_schedule(
        version: u64, cue: u16, shake_interval_ms in option::of(0_u32..=60_000),
        banned in vec(any::<u64>(), 0..200), vet_amount_min: u64,
        waves in vec((option::of(0..YEAR_9999), 1_u32..=10_000, any::<u32>()), 0..5),
    ) {
        let mut banned: Vec<UserId> = banned.into_iter().map(UserId).collect();
        let unordered = banned.clone();
        banned.sort_unstable();
        banned.dedup();
        let policy = Policy { version, cue, shake_interval_ms, banned, vet_amount_min };
        let unordered = Policy { banned: unordered, ..policy.clone() };
        prop_assert_eq!(Policy::decode(&policy.encode()), Ok(policy.clone()));
        prop_assert_eq!(Policy::decode(&unordered.encode()), Ok(policy.clone()));
        let wave = |(index, (t0, factor, grace_seconds)): (usize, (Option<u64>, u32, u32))| {
            let index = WaveIndex(u16::try_from(index).expect("at most 5"));
            WaveSchedule { index, t0: t0.map(WallTime), factor, grace_seconds }
        };
        let waves = waves.into_iter().enumerate().map(wave).collect();
        let schedule = Schedule { version, campaign: CAMPAIGN, waves };
        prop_assert_eq!(Schedule::decode(&schedule.encode()), Ok(schedule));
    }
}
