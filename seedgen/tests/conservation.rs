//! For any campaign: nothing is lost or made in the sharing out, each shard is the same alone, and
//! the second path finds what the first one built.

#[expect(dead_code, reason = "each test file uses its own part of it")]
mod common;

use common::{SMALL, file, keys, opened, plan};
use proptest::prelude::*;
use yao_protocol::{CampaignId, Fen, ShardId, hex};
use yao_seedgen::{
    Campaign, CampaignKeys, Plan, Secret,
    campaign::{Amounts, CurveSegment, SHARE_WHOLE, Sponsor, TableRow, Wave},
    reckon::Reckoning,
    shard::build,
    verify::{verify_manifest, verify_shard, verify_totals},
};

/// Shares of at least 5 % that make the whole.
fn sponsors() -> impl Strategy<Value = Vec<Sponsor>> {
    prop::collection::vec(500_u32..2_000, 1..5).prop_map(|mut shares| {
        let others: u32 = shares[1..].iter().sum();
        shares[0] = SHARE_WHOLE - others;
        let sponsor = |(number, share)| Sponsor { name: format!("sponsor {number}"), share };
        shares.into_iter().enumerate().map(sponsor).collect()
    })
}

fn amounts(packets: u64) -> impl Strategy<Value = (Amounts, u64)> {
    let fixed =
        (1_u64..500).prop_map(move |amount| (Amounts::Fixed(Fen(amount)), amount * packets));
    let table = (1..packets, 1_u64..500).prop_map(move |(cheap, amount)| {
        let rows = vec![
            TableRow { amount: Fen(amount), packets: cheap },
            TableRow { amount: Fen(amount * 7), packets: packets - cheap },
        ];
        (Amounts::Table(rows), amount * cheap + amount * 7 * (packets - cheap))
    });
    prop_oneof![
        (packets * 2..packets * 900).prop_map(|budget| (Amounts::Uniform, budget)),
        fixed,
        table,
    ]
}

fn wave() -> impl Strategy<Value = Wave> {
    prop::collection::vec((1_u32..6, 0_u64..50), 0..3)
        .prop_flat_map(|mut parts| {
            parts.push((3, 50));
            let packets: u64 = parts.iter().map(|(_, packets)| packets).sum();
            (Just(parts), Just(packets), amounts(packets))
        })
        .prop_map(|(parts, packets, (amounts, budget))| Wave {
            name: String::new(),
            budget: Fen(budget),
            packets,
            t0: None,
            curve: parts
                .into_iter()
                .map(|(seconds, packets)| CurveSegment { seconds, packets })
                .collect(),
            amounts,
        })
}

fn campaigns() -> impl Strategy<Value = Campaign> {
    let waves = prop::collection::vec(wave(), 1..4);
    (1_u32..12, sponsors(), waves).prop_map(|(shards, sponsors, mut waves)| {
        for (number, wave) in waves.iter_mut().enumerate() {
            wave.name = format!("wave {number}");
        }
        Campaign {
            id: CampaignId(5),
            name: "any".to_owned(),
            currency: "CNY".to_owned(),
            exponent: 2,
            shards,
            wins_per_user: 3,
            wins_per_sponsor: 1,
            ticket_lifetime_seconds: 60,
            sponsors,
            waves,
        }
    })
}

/// Counts and money of the plan alone.
fn check_plan(plan: &Plan) {
    for (layout, wave) in plan.waves().iter().zip(&plan.campaign().waves) {
        let mut packets = 0;
        let mut by_sponsor = vec![(0, Fen::ZERO); plan.campaign().sponsors.len()];
        let mut by_second = vec![0_u64; usize::try_from(wave.seconds()).expect("short")];
        for shard in plan.shards() {
            packets += u64::from(layout.shard_packets(shard));
            for lot in layout.lots(shard) {
                let total = &mut by_sponsor[lot.sponsor.index()];
                total.0 += u64::from(lot.packets);
                total.1 = total.1.checked_add(lot.prizes.sum()).expect("small");
            }
            for (total, count) in by_second.iter_mut().zip(layout.seconds(shard)) {
                *total += u64::from(count);
            }
            let segments: u32 = layout.segments(shard).iter().map(|s| s.packets).sum();
            assert_eq!(segments, layout.shard_packets(shard));
        }
        assert_eq!(packets, wave.packets);
        for (total, planned) in by_sponsor.iter().zip(&layout.sponsors) {
            assert_eq!(*total, (planned.packets(), planned.sum));
        }
        assert_eq!(by_sponsor.iter().map(|total| total.1).sum::<Fen>(), wave.budget);
        check_seconds(wave, &by_second);
    }
}

/// Over all shards a segment's seconds differ by at most one packet, and fill the segment.
fn check_seconds(wave: &Wave, by_second: &[u64]) {
    let mut rest = by_second;
    for segment in &wave.curve {
        let (seconds, later) = rest.split_at(segment.seconds as usize);
        rest = later;
        assert_eq!(seconds.iter().sum::<u64>(), segment.packets);
        let even = segment.packets / u64::from(segment.seconds);
        assert!(seconds.iter().all(|count| (even..=even + 1).contains(count)), "{seconds:?}");
    }
    assert!(rest.is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_plan_conserves_count_and_money(campaign in campaigns()) {
        check_plan(&Plan::new(campaign).expect("every generated campaign works out"));
    }

    #[test]
    fn whatever_is_built_is_verified(campaign in campaigns(), secret: [u8; 32]) {
        let plan = Plan::new(campaign).expect("every generated campaign works out");
        let keys = CampaignKeys::new(Secret::new(secret), plan.campaign().id, *plan.digest());
        let reckoning = Reckoning::new(plan.campaign());
        let mut tallies = Vec::new();
        let mut entries = Vec::new();
        for shard in plan.shards() {
            let built = build(&plan, &keys, shard);
            let (key, entry) = (keys.shard_key(shard), built.entry.clone());
            let tally = verify_shard(&reckoning, &keys.public(), &key, &entry, &file(&built));
            tallies.push(tally.expect("just built"));
            entries.push(built.entry);
        }
        let manifest = plan.manifest(entries);
        verify_manifest(&reckoning, &manifest).expect("of the same campaign");
        verify_totals(&reckoning, &manifest, &tallies).expect("adds up");
        let last = &tallies[tallies.len() - 1..];
        verify_totals(&reckoning, &manifest, last).expect("a shard adds up alone");
    }
}

#[test]
fn a_small_plan_conserves_count_and_money() {
    check_plan(&plan(SMALL));
}

#[test]
fn a_shard_alone_equals_the_shard_of_a_full_run() {
    let all = plan(SMALL);
    let full: Vec<_> = all.shards().map(|shard| build(&all, &keys(&all, 1), shard)).collect();
    let alone = build(&plan(SMALL), &keys(&all, 1), ShardId(1));
    assert_eq!(file(&alone), file(&full[1]));
    assert_eq!(alone.entry, full[1].entry);
    assert_eq!(alone.key, full[1].key);
}

/// Shards of a sealed campaign are made again after an upgrade, so this must never change.
#[test]
fn the_bytes_of_a_shard_are_the_same_in_every_version() {
    let plan = plan(SMALL);
    let entry = build(&plan, &keys(&plan, 1), ShardId(1)).entry;
    assert_eq!(
        hex::encode(plan.digest()),
        "5fcbc7553a5b9d5bd96fe5f59229356b59d5e86b3f9421084780827561f55dcb"
    );
    assert_eq!(
        hex::encode(&entry.hash),
        "3a5f81596556ad711691ab18ddff2de8bdd89717bb57fe0fc14f46c8354daa66"
    );
}

#[test]
fn another_secret_changes_everything_but_the_public_plan() {
    let plan = plan(SMALL);
    let (one, two) = (keys(&plan, 1), keys(&plan, 2));
    let (first, second) = (build(&plan, &one, ShardId(0)), build(&plan, &two, ShardId(0)));
    assert_ne!(one.public(), two.public());
    assert_ne!(first.key.seal_key, second.key.seal_key);
    assert_ne!(first.key.salt_key, second.key.salt_key);
    assert_ne!(first.key.mac_key, second.key.mac_key);
    assert_ne!(first.entry.merkle_root, second.entry.merkle_root);
    let ((header, records), (other_header, other_records)) =
        (opened(&plan, &one, &first), opened(&plan, &two, &second));
    assert_eq!(header.sections, other_header.sections, "counts and sums are public");
    let same_moments =
        records.iter().zip(&other_records).filter(|(a, b)| a.offset_us == b.offset_us);
    assert_eq!(same_moments.count(), 0, "of 64 moments to the microsecond none is the same");
    assert!(records.iter().zip(&other_records).any(|(a, b)| a.sponsor != b.sponsor));
}

#[test]
fn two_shards_share_no_draw() {
    let plan = plan(SMALL);
    let keys = keys(&plan, 1);
    let records = |shard| opened(&plan, &keys, &build(&plan, &keys, shard)).1;
    let (first, second) = (records(ShardId(0)), records(ShardId(1)));
    assert!(first.iter().zip(&second).all(|(a, b)| a.offset_us != b.offset_us));
    assert_ne!(keys.shard_key(ShardId(0)).seal_key, keys.shard_key(ShardId(1)).seal_key);
    assert_eq!(keys.shard_key(ShardId(0)).mac_key, keys.shard_key(ShardId(1)).mac_key);
}
