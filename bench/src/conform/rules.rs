//! That wire.md and the cases belong together: every number of wire.md has a case, or stands on the
//! list of those that no client can see; every id is unique, of a rule that is there, and stays.

use super::{
    case::{Case, Silent, Win},
    catalogue,
    facts::{Facts, Tokens, Way, Winner},
    states::State,
    told::{Ending, Keys, Told},
};
use crate::identity::{KEY_ID, create_keys};
use clap::Parser;
use jsonwebtoken::EncodingKey;
use std::collections::{BTreeMap, BTreeSet};
use yao_protocol::{
    CampaignId, Epoch, KeyId, ShakeId, ShardId, UserId, WallTime,
    client::Welcome,
    keys::{KeyOwner, MacKey, PrivateKeyFile},
    tally::TALLY_BYTES,
    ticket::TICKET_BYTES,
};

const WIRE: &str = include_str!("../../../docs/wire.md");
/// Every id there ever was, in order; append-only.
const IDS: &str = include_str!("ids.txt");

/// Rules that no client can see, or not when it wants to, and what watches them instead.
const UNSEEN: &[(&str, &str)] = &[
    ("W1.4-18", "only a configured balancer sees it: access/src/shard/tests/proxied.rs"),
    ("W6-04", "takes 32,768 tokens that wait at once: access/src/shard/tests/unqueued.rs"),
    ("W6-07", "takes 16,384 opens that wait for one disk: access/src/crypto/tests.rs"),
    ("W9.2-05", "as W6-04"),
    ("W9.3-05", "takes 65,536 draws that wait at once: engine/src/shard/tests.rs"),
    ("W9.3-12", "as W9.3-05"),
    ("W9.4-02", "takes 32,768 tickets that wait at once: engine/src/shard/tests.rs"),
    ("W9.4-06", "as W6-07"),
    ("W9.5-04", "takes a thread that checks nothing for 5 s: engine/src/shard/tests.rs"),
];

/// Facts of a server that can be asked for everything, as far as one can; or for nothing special.
fn facts(way: Way, prepared: bool) -> Facts {
    #[derive(Parser)]
    struct Arguments {
        #[command(flatten)]
        told: Told,
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    create_keys(folder.path()).expect("keys");
    let tokens = Tokens::new(&folder.path().join("session.key.pem"), KEY_ID, "yao");
    let welcome = Welcome {
        version: 1,
        tier: 0,
        cue: 0,
        shake_interval_ms: if prepared { 200 } else { 0 },
        heartbeat_ms_min: 100,
        heartbeat_ms_max: if prepared { 8_000 } else { 300_000 },
        server_time: WallTime(1),
        campaign: CampaignId(1),
        wins_per_user: 1,
        endpoints: if prepared { vec!["tls://host:1".to_owned()] } else { Vec::new() },
    };
    let told = Arguments::parse_from(["test"]).told;
    let users = (CampaignId(1), 1 << 20);
    let tokens = tokens.expect("a key that was just made");
    if !prepared {
        return Facts::new(users, (tokens, Keys::default()), (told, way), welcome);
    }
    let told = Told {
        no_wave: true,
        reconnect_seconds: Some(6),
        banned_user: Some(7),
        agent_paused: true,
        sessions_max: Some(4),
        newcomers_max: Some(4),
        descriptors_max: Some(4),
        ending: Some(Ending::Drain),
        ending_command: Some("true".to_owned()),
        ..told
    };
    let owner = |shard| KeyOwner::Ticket {
        campaign: CampaignId(1),
        shard: ShardId(shard),
        epoch: Epoch(1),
    };
    let keys = Keys {
        es256: Some((p256(), "p256".to_owned())),
        ticket: Some(PrivateKeyFile { owner: owner(0), seed: [1; 32] }),
        other_ticket: Some(PrivateKeyFile { owner: owner(9), seed: [2; 32] }),
        reconnect: Some(MacKey::new(KeyId(1), [3; 32])),
    };
    let win = Win { ticket: [0; TICKET_BYTES], tally: [0; TALLY_BYTES], shake: ShakeId(1) };
    let winner = || Some(Winner { user: UserId(5), wins: vec![win] });
    let mut facts = Facts::new(users, (tokens, keys), (told, way), welcome);
    facts.makes_tickets = true;
    (facts.winner, facts.once, facts.former) = (winner(), winner(), winner());
    facts
}

fn p256() -> EncodingKey {
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a key");
    EncodingKey::from_ec_pem(pair.serialize_pem().as_bytes()).expect("a key of P-256")
}

/// All cases over all ways, of every server that can be prepared.
fn everything() -> Vec<Case> {
    let mut cases = Vec::new();
    for way in [Way::Tcp, Way::Tls, Way::Quic] {
        let mut add = |change: &dyn Fn(&mut Facts)| {
            let mut facts = facts(way, true);
            change(&mut facts);
            cases.extend(catalogue(&facts).expect("the vectors can be read"));
        };
        add(&|_| {});
        add(&|facts| facts.told.spool = Some(super::told::Spool::Full));
        add(&|facts| facts.told.spool = Some(super::told::Spool::Fenced));
        add(&|facts| facts.told.ending = Some(Ending::Cut));
        add(&|facts| facts.told.ending = Some(Ending::Crash));
        add(&|facts| facts.makes_tickets = false);
    }
    cases
}

/// The numbers of wire.md and the section in which each stands.
fn rules() -> Vec<(String, String)> {
    let mut rules = Vec::new();
    let mut section = String::new();
    for line in WIRE.lines() {
        if let Some(title) = line.strip_prefix("## ").or_else(|| line.strip_prefix("### ")) {
            let number = title.split(' ').next().unwrap_or_default();
            section = number.trim_end_matches('.').to_owned();
        }
        for part in line.split("[W").skip(1) {
            let (rule, _) = part.split_once(']').expect("a number ends");
            rules.push((format!("W{rule}"), section.clone()));
        }
    }
    rules
}

#[test]
fn numbers_of_wire_md_stand_in_their_sections_once() {
    let rules = rules();
    assert!(rules.len() > 150, "{} rules", rules.len());
    let mut seen = BTreeSet::new();
    for (rule, section) in &rules {
        let (place, count) = rule[1..].rsplit_once('-').expect("a section and a count");
        assert_eq!(place, section, "{rule} stands in section {section}");
        assert!(count.len() == 2 && count.parse::<u8>().is_ok_and(|n| n > 0), "{rule}");
        assert!(seen.insert(rule), "{rule} stands twice");
    }
}

#[test]
fn every_rule_has_a_case_or_a_reason() {
    let rules: BTreeSet<String> = rules().into_iter().map(|(rule, _)| rule).collect();
    let cases = everything();
    let asked = cases.iter().filter(|case| case.script.is_ok());
    let held: BTreeSet<String> = asked.flat_map(Case::rules).collect();
    for rule in &rules {
        let unseen = UNSEEN.iter().find(|(unseen, _)| unseen == rule);
        assert!(
            held.contains(rule) != unseen.is_some(),
            "{rule}: {}",
            unseen
                .map_or("no case asks for it", |_| "is asked for, and on the list of unseen ones")
        );
    }
    for rule in held.iter().map(String::as_str).chain(UNSEEN.iter().map(|(rule, _)| *rule)) {
        assert!(rules.contains(rule), "{rule} is not in wire.md");
    }
    for (rule, why) in UNSEEN {
        let files = why.split(' ').filter(|word| word.ends_with(".rs"));
        for file in files {
            let path = format!("{}/../{file}", env!("CARGO_MANIFEST_DIR"));
            assert!(std::path::Path::new(&path).exists(), "{rule}: {file} is missing");
        }
    }
}

#[test]
fn every_state_of_9_1_is_asked_for_in_every_row() {
    let cases = everything();
    let asked = |id: &str| cases.iter().any(|case| case.id == id && case.script.is_ok());
    for row in 1..=8 {
        for state in State::ALL {
            let id = format!("W9.1-{row:02}.{}", state.name());
            assert!(asked(&id), "{id}");
        }
    }
}

/// The same cases whatever is known of the server, so that runs can be compared.
#[test]
fn ids_are_unique_and_the_same_everywhere() {
    let ids = |facts: &Facts| -> Vec<String> {
        let cases = catalogue(facts).expect("the vectors can be read");
        cases.into_iter().map(|case| case.id).collect()
    };
    let first = ids(&facts(Way::Tcp, false));
    let mut seen = BTreeSet::new();
    for id in &first {
        assert!(seen.insert(id), "{id} twice");
        let letters = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let (_, variant) = id.split_at(id.find('-').expect("a rule") + 3);
        assert!(variant.is_empty() || variant.starts_with('.'), "{id}");
        assert!(variant.len() != 1 && variant.chars().skip(1).all(letters), "{id}");
    }
    for way in [Way::Tcp, Way::Tls, Way::Quic] {
        for prepared in [false, true] {
            assert_eq!(ids(&facts(way, prepared)), first, "{way:?}, prepared: {prepared}");
        }
    }
}

/// An id means the same case for ever: people look for it in old reports.
#[test]
fn ids_stay() {
    let known: BTreeSet<&str> = IDS.lines().collect();
    let cases = catalogue(&facts(Way::Tcp, false)).expect("the vectors can be read");
    let now: BTreeSet<&str> = cases.iter().map(|case| case.id.as_str()).collect();
    let gone: Vec<_> = known.difference(&now).collect();
    assert!(gone.is_empty(), "these cases are gone, or were renamed: {gone:#?}");
    let new: Vec<_> = now.difference(&known).copied().collect();
    assert!(new.is_empty(), "append to bench/src/conform/ids.txt:\n{}", new.join("\n"));
}

/// What is not asked says why.
#[test]
fn a_server_of_which_nothing_is_known_can_still_be_asked_for_most() {
    for way in [Way::Tcp, Way::Tls, Way::Quic] {
        let cases = catalogue(&facts(way, false)).expect("the vectors can be read");
        let mut counts = BTreeMap::<&str, usize>::new();
        for case in &cases {
            let name = match case.script {
                Ok(_) => "asked",
                Err(Silent::Unasked(reason) | Silent::Elsewhere(reason)) => {
                    assert!(!reason.is_empty(), "{}", case.id);
                    "silent"
                }
            };
            *counts.entry(name).or_default() += 1;
        }
        assert!(counts["asked"] > 450, "{way:?}: {counts:?}");
    }
}
