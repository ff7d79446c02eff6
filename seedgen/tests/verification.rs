//! The second path notices: every flipped byte, and every record that keys could seal but the plan
//! does not allow.

mod common;

use common::{SMALL, file, keys, manifest, opened, plan, sealed_again};
use yao_protocol::{
    Fen, ShardId, SponsorId,
    manifest::ShardEntry,
    seed_file::{SeedHeader, SeedRecord},
};
use yao_seedgen::{
    CampaignKeys, Plan,
    reckon::Reckoning,
    shard::{SealedShard, build},
    verify::{ShardTally, VerifyError, verify_manifest, verify_shard, verify_totals},
};

const SHARD: ShardId = ShardId(1);

struct Built {
    plan: Plan,
    keys: CampaignKeys,
    reckoning: Reckoning,
    shard: SealedShard,
}

impl Built {
    fn new() -> Self {
        let plan = plan(SMALL);
        let keys = keys(&plan, 1);
        let shard = build(&plan, &keys, SHARD);
        Self { reckoning: Reckoning::new(plan.campaign()), plan, keys, shard }
    }

    fn verify(&self, entry: &ShardEntry, file: &[u8]) -> Result<ShardTally, VerifyError> {
        let key = self.keys.shard_key(SHARD);
        let tally = verify_shard(&self.reckoning, &self.keys.public(), &key, entry, file)?;
        let manifest = manifest(&self.plan, vec![entry.clone()]);
        verify_totals(&self.reckoning, &manifest, std::slice::from_ref(&tally))?;
        Ok(tally)
    }
}

#[test]
fn every_flipped_byte_is_noticed() {
    let built = Built::new();
    let entry = &built.shard.entry;
    let mut file = file(&built.shard);
    built.verify(entry, &file).expect("unharmed");
    for position in 0..file.len() {
        file[position] ^= 1 << (position % 8);
        assert!(built.verify(entry, &file).is_err(), "byte {position} under the file's hash");
        // Even when the hash in the manifest were that of the harmed file.
        let hash = *blake3::hash(&file).as_bytes();
        let fooled = ShardEntry { hash, ..entry.clone() };
        assert!(built.verify(&fooled, &file).is_err(), "byte {position} under signature and seal");
        file[position] ^= 1 << (position % 8);
    }
    built.verify(entry, &file).expect("unharmed again");
}

#[test]
fn a_cut_or_a_longer_file_is_noticed() {
    let built = Built::new();
    let whole = file(&built.shard);
    for length in [0, 15, 16, 175, 300, whole.len() - 1] {
        let cut = &whole[..length];
        let hash = *blake3::hash(cut).as_bytes();
        let entry = ShardEntry { bytes: length as u64, hash, ..built.shard.entry.clone() };
        assert!(built.verify(&entry, cut).is_err(), "cut to {length} bytes");
    }
    let longer = [whole.as_slice(), &[0]].concat();
    let hash = *blake3::hash(&longer).as_bytes();
    let entry = ShardEntry { bytes: longer.len() as u64, hash, ..built.shard.entry.clone() };
    assert!(built.verify(&entry, &longer).is_err());
}

/// Changes header or records with all keys in hand, and checks the line that verify answers with.
fn check(expected: &str, change: impl FnOnce(&mut SeedHeader, &mut Vec<SeedRecord>)) {
    let built = Built::new();
    let (mut header, mut records) = opened(&built.plan, &built.keys, &built.shard);
    change(&mut header, &mut records);
    let sign = built.keys.sign_key();
    let (entry, file) = sealed_again(&built.shard, &sign, header, &records);
    match built.verify(&entry, &file) {
        Ok(_) => assert!(expected.is_empty(), "should fail with: {expected}"),
        Err(error) => {
            let error = error.to_string();
            assert!(!expected.is_empty() && error.contains(expected), "{error} / {expected}");
            assert!(!error.contains('\n'), "one line: {error}");
        }
    }
}

/// The first pair of neighbours in the first section for which `holds`.
fn neighbours(records: &[SeedRecord], holds: impl Fn(&SeedRecord, &SeedRecord) -> bool) -> usize {
    records[..30].windows(2).position(|pair| holds(&pair[0], &pair[1])).expect("among 30 packets")
}

#[test]
fn nothing_changed_is_accepted() {
    check("", |_, _| {});
}

#[test]
fn a_moved_moment_is_noticed() {
    check("winning moment of packet 0", |_, records| records[0].offset_us += 1_000_000);
    check("winning moment of packet 33", |_, records| {
        let last = records[33].offset_us;
        records[33].offset_us = last + 1_000_000;
    });
    check("at or after its predecessor's", |_, records| {
        let same_second = |a: &SeedRecord, b: &SeedRecord| {
            a.offset_us / 1_000_000 == b.offset_us / 1_000_000 && a.offset_us < b.offset_us
        };
        let place = neighbours(records, same_second);
        let moment = records[place].offset_us;
        records[place].offset_us = records[place + 1].offset_us;
        records[place + 1].offset_us = moment;
    });
}

#[test]
fn a_curve_that_is_not_the_plan_s_is_noticed() {
    check("curve of wave 0", |header, _| {
        header.sections[0].segments[0].packets -= 1;
        header.sections[0].segments[2].packets += 1;
    });
    check("curve of wave 1", |header, _| header.sections[1].segments[0].duration_us += 1);
}

#[test]
fn wrong_money_is_noticed() {
    check("sum of wave 0", |_, records| records[0].amount.0 += 1);
    check("in wave 0 is", |header, records| {
        records[0].amount.0 += 1;
        header.sections[0].sum.0 += 1;
        header.sum.0 += 1;
    });
    check("packet 0 holds nothing", |_, records| records[0].amount = Fen::ZERO);
    check("table of amounts of sponsor", |header, records| {
        let first = header.sections[1].first.0 as usize;
        let sponsor = records[first].sponsor;
        let second = (first + 1..).find(|place| records[*place].sponsor == sponsor);
        records[first].amount.0 += 1;
        records[second.expect("one of 17")].amount.0 -= 1;
    });
    check("twice the mean or more", |_, records| {
        let sponsor = records[0].sponsor;
        let mut gathered = 0;
        for record in records[1..34].iter_mut().filter(|record| record.sponsor == sponsor) {
            gathered += record.amount.0 - 1;
            record.amount = Fen(1);
        }
        records[0].amount.0 += gathered;
    });
}

#[test]
fn a_wrong_sponsor_is_noticed() {
    check("packets of sponsor", |_, records| {
        let other = if records[0].sponsor.number() == 0 { 1 } else { 0 };
        records[0].sponsor = SponsorId::new(other).expect("below 64");
    });
    check("packet 5 names sponsor 3, who does not exist", |_, records| {
        records[5].sponsor = SponsorId::new(3).expect("below 64");
    });
}

#[test]
fn another_place_is_noticed() {
    check("campaign is 8, but must be 7", |header, _| header.campaign.0 = 8);
    check("shard is 2, but must be 1", |header, _| header.shard.0 = 2);
    check("generation is 1, but must be 0", |header, _| header.generation = 1);
    check("plan digest", |header, _| header.plan_digest[0] ^= 1);
    check("key check", |header, _| header.key_check[0] ^= 1);
}

#[test]
fn a_merkle_root_of_other_packets_is_noticed() {
    let built = Built::new();
    let (mut header, _) = opened(&built.plan, &built.keys, &built.shard);
    header.merkle_root[7] ^= 1;
    let file = [header.encode(&built.keys.sign_key()), built.shard.body.clone()].concat();
    let hash = *blake3::hash(&file).as_bytes();
    let entry = ShardEntry { hash, merkle_root: header.merkle_root, ..built.shard.entry.clone() };
    let error = built.verify(&entry, &file).expect_err("not these packets' root").to_string();
    assert!(error.starts_with("shard-00001.yaoseed: Merkle root is "), "{error}");
}

#[test]
fn totals_notice_a_shard_twice_and_a_wrong_manifest() {
    let built = Built::new();
    let tally = built.verify(&built.shard.entry, &file(&built.shard)).expect("unharmed");
    let manifest = manifest(&built.plan, vec![built.shard.entry.clone()]);
    let twice = [tally.clone(), tally];
    let error = verify_totals(&built.reckoning, &manifest, &twice).expect_err("twice").to_string();
    assert!(error.contains("its packet ids occur in an earlier shard"), "{error}");
    let mut wrong = manifest.clone();
    wrong.budget.0 += 1;
    let error = verify_manifest(&built.reckoning, &wrong).expect_err("budget").to_string();
    assert!(error.contains("the manifest's budget is 17978, but must be 17977"), "{error}");
    let mut wrong = manifest.clone();
    wrong.shards[0].file = "../elsewhere.yaoseed".to_owned();
    verify_manifest(&built.reckoning, &wrong).expect_err("another file");
    let mut wrong = manifest;
    wrong.ticket_lifetime_seconds = 1;
    verify_manifest(&built.reckoning, &wrong).expect_err("lifetime");
}
