//! Campaign files: each mistake has its own line, and a plan is named by its meaning, not its text.

#[expect(dead_code, reason = "each test file uses its own part of it")]
mod common;

use common::{SMALL, plan};
use yao_seedgen::{Campaign, Plan};

/// The one line for `SMALL` with `from` replaced by `to`.
fn mistake(from: &str, to: &str) -> String {
    assert!(SMALL.contains(from), "the campaign has `{from}`");
    let text = SMALL.replacen(from, to, 1);
    let error = Campaign::parse(&text).and_then(Plan::new).expect_err(to).to_string();
    assert!(!error.contains('\n'), "one line: {error}");
    error
}

fn check(from: &str, to: &str, expected: &str) {
    let error = mistake(from, to);
    assert!(error.contains(expected), "{to}:\n  {error}\n  should contain\n  {expected}");
}

#[test]
fn each_mistake_of_spelling_has_its_line() {
    check("id = 7", "id = = 7", "line 2 is no TOML");
    check("shards = 3", "shard = 3", "unknown key `shard`; did you mean `shards`?");
    check("packets = 101", "packet = 101", "unknown key `wave[0].packet`; did you mean `packets`?");
    check(
        "per_second = 20",
        "persecond = 20",
        "`wave[0].curve[0].persecond`; did you mean `per_second`?",
    );
    check("fixed = ", "fixd = ", "unknown key `wave[1].amounts.fixd`; did you mean `fixed`?");
    check("count = 9", "counts = 9", "`wave[2].amounts.table[1].counts`; did you mean `count`?");
    check("id = 7\n", "", "`id` is missing; write the campaign's number");
    check("budget = \"98.77\"\n", "", "`wave[0].budget` is missing; write major units");
    check("duration = \"7s\"\n", "", "`wave[1].duration` is missing; write 1 to 2592000 seconds");
    check("id = 7", "id = \"7\"", "`id` is \"7\"; write the campaign's number");
    check("id = 7", "id = -7", "`id` is -7;");
    check(
        "\"98.77\"",
        "98.77",
        "`wave[0].budget` is 98.77; write major units with exactly 2 decimals",
    );
    check("\"98.77\"", "\"98.7\"", "`wave[0].budget` is \"98.7\"; write major units");
    check("\"50%\"", "\"50.001%\"", "`sponsor[0].share` is \"50.001%\"; write a percentage");
    check("\"50%\"", "50", "`sponsor[0].share` is 50; write a percentage");
    check("\"72h\"", "\"3w\"", "`ticket_lifetime` is \"3w\"; write 1 to");
    check("\"72h\"", "0", "`ticket_lifetime` is 0; write 1 to");
    check("\"armed later\"", "\"soon\"", "`wave[1].t0` is \"soon\"; write \"armed later\" or");
    check("\"2030-01-01T20:00:00+08:00\"", "\"2030-01-01T20:00:00\"", "`wave[0].t0` is");
    check(
        "amounts = \"uniform\"",
        "amounts = \"even\"",
        "`wave[0].amounts` is \"even\"; write \"uniform\"",
    );
    check("{ fixed = \"1.00\" }", "{}", "`wave[1].amounts` is a table; write \"uniform\"");
    check("curve = \"flat\"", "curve = 5", "`wave[2].curve` is 5; write [{ seconds");
}

#[test]
fn each_mistake_of_sense_has_its_line() {
    check("shards = 3", "shards = 0", "`shards` is 0; write 1 to 100000");
    check("shards = 3", "shards = 102", "`shards` is 102; no wave has more than 101 packets");
    check("exponent = 2", "exponent = 5", "`exponent` is 5;");
    check("\"CNY\"", "\"yuan\"", "`currency` is yuan; write the three capital letters");
    check("wins_per_user = 3", "wins_per_user = 0", "`wins_per_user` is 0; write 1 to 16");
    check("wins_per_sponsor = 1", "wins_per_sponsor = 2", "`wins_per_sponsor` is 2; this version");
    check(
        "\"16.67%\"",
        "\"16.66%\"",
        "`sponsor share` is 99.99% in all; the shares of all sponsors",
    );
    check("\"50%\"", "\"0%\"", "`sponsor[0].share` is 0.00%; give the sponsor a share above 0%");
    check("\"Second\"", "\"First\"", "`sponsor name` is \"First\" twice;");
    check("\"equal\"", "\"drawn\"", "`wave name` is \"drawn\" twice;");
    check("\"Third\"", "\" \"", "`sponsor name` is \" \"; write a printable name");
    check("packets = 101", "packets = 0", "`wave[0].packets` is 0; a wave needs at least 1 packet");
    check("packets = 101", "packets = 102", "`wave[0].packets` is 102; its curve releases 101;");
    check("\"98.77\"", "\"1.00\"", "101 packets of at least one minor unit each need 1.01 CNY");
    check("\"98.77\"", "\"2200000000.00\"", "one packet could hold more than 42949672.95 CNY");
    check(
        "\"50.00\"",
        "\"50.01\"",
        "`wave[1].budget` is 50.01 CNY; this sum cannot be reached: the amounts make 50.00 CNY",
    );
    check(
        "\"31.00\"",
        "\"31.01\"",
        "`wave[2].budget` is 31.01 CNY; this sum cannot be reached: the amounts make 31.00 CNY",
    );
    check("count = 30", "count = 29", "`wave[2].packets` is 40; the table's counts make 39");
    check(
        "\"0.30\"",
        "\"0.10\"",
        "`wave[2].amounts.table[1].amount` is 0.10 CNY; the amount is listed twice",
    );
    check(
        "\"0.10\"",
        "\"0.00\"",
        "`wave[2].amounts.table[0].amount` is 0.00 CNY; one packet holds 0.01 CNY to",
    );
    check("\"25.30\"", "\"42949672.96\"", "one packet holds 0.01 CNY to 42949672.95 CNY");
    check("seconds = 1,", "seconds = 0,", "`wave[0].curve[1].seconds` is 0; write how long");
    check(
        "amounts = \"uniform\"",
        "duration = 13\namounts = \"uniform\"",
        "`wave[0].duration` is 13; its curve lasts 12 s",
    );
    check(
        "\"16.67%\"",
        "\"16.66%\"\n[[sponsor]]\nname = \"Tiny\"\nshare = \"0.01%\"",
        "the share of sponsor \"Tiny\" (0.01%) rounds to 0 packets",
    );
}

#[test]
fn a_shard_has_a_limit() {
    let text = SMALL.replacen("packets = 50\n", "packets = 60000000\n", 1);
    let text = text.replacen("\"50.00\"", "\"60000000.00\"", 1);
    let error = Campaign::parse(&text).and_then(Plan::new).expect_err("too much").to_string();
    assert!(error.contains("a shard would hold 20000048 packets, at most 16777216"), "{error}");
}

#[test]
fn a_campaign_leaves_a_wave_for_what_is_reclaimed() {
    let mut campaign = Campaign::parse(SMALL).expect("good");
    let wave = campaign.waves[0].clone();
    while campaign.waves.len() < 63 {
        let name = format!("Wave {}", campaign.waves.len());
        campaign.waves.push(yao_seedgen::campaign::Wave { name, ..wave.clone() });
    }
    campaign.check().expect("63 waves");
    campaign.waves.push(yao_seedgen::campaign::Wave { name: "Last".to_owned(), ..wave });
    let error = campaign.check().expect_err("64 waves").to_string();
    assert!(error.contains("`wave` is 64; list 1 to 63 waves; each generation"), "{error}");
}

#[test]
fn text_changes_nothing_and_meaning_changes_everything() {
    let digest = *plan(SMALL).digest();
    let changed = |from: &str, to: &str| {
        assert!(SMALL.contains(from), "the campaign has `{from}`");
        *plan(&SMALL.replacen(from, to, 1)).digest()
    };
    for (from, to) in [
        ("id = 7", "# a remark\nid = 7"),
        ("id = 7\nname = \"Small\"", "name = 'Small'\nid = 0x7"),
        ("\"72h\"", "259200"),
        ("\"50.00\"", "\"50\""),
        ("duration = 3", "duration = \"3s\""),
        ("\"armed later\"", "\"2031-01-01T20:00:00+08:00\""),
    ] {
        assert_eq!(changed(from, to), digest, "{to}");
    }
    for (from, to) in [
        ("id = 7", "id = 8"),
        ("\"Small\"", "\"Smaller\""),
        ("\"CNY\"", "\"USD\""),
        ("shards = 3", "shards = 4"),
        ("wins_per_user = 3", "wins_per_user = 2"),
        ("\"72h\"", "\"71h\""),
        ("\"First\"", "\"Fist\""),
        (
            "\"50%\"\n[[sponsor]]\nname = \"Second\"\nshare = \"33.33%\"",
            "\"50.01%\"\n[[sponsor]]\nname = \"Second\"\nshare = \"33.32%\"",
        ),
        ("\"98.77\"", "\"98.78\""),
        ("seconds = 1,", "seconds = 2,"),
        ("duration = 3", "duration = 4"),
        ("\"drawn\"", "\"draw\""),
    ] {
        assert_ne!(changed(from, to), digest, "{to}");
    }
}

#[test]
fn the_shipped_campaigns_are_what_they_say() {
    let read = |name: &str| {
        let path = format!("{}/../campaigns/{name}", env!("CARGO_MANIFEST_DIR"));
        plan(&std::fs::read_to_string(path).expect("shipped"))
    };
    let gala = read("gala-2015.toml");
    assert_eq!((gala.packets(), gala.budget().0), (120_000_000, 50_000_000_000));
    let campaign = gala.campaign();
    assert_eq!((campaign.id.0, campaign.shards, campaign.sponsors.len()), (2015, 638, 8));
    assert_eq!((campaign.wins_per_user, campaign.wins_per_sponsor), (3, 1));
    assert_eq!(campaign.waves[0].seconds(), 2_400);
    assert_eq!(gala.waves()[0].shard_packets(yao_protocol::ShardId(17)), 188_088);
    let demo = read("demo.toml");
    assert_eq!((demo.packets(), demo.campaign().shards), (10_000, 1));
    assert_eq!((demo.campaign().waves[0].seconds(), demo.campaign().sponsors.len()), (10, 4));
}
