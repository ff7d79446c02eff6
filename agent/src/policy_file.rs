//! From the policy file, TOML, to the rules of the moment: the policy that the access process
//! obeys, and what the agent itself judges by. Pure: text in, rules or one clear sentence out. The
//! file may list cues with the times from which they hold.
//!
//! ```toml
//! version = 3                # grows with each change; for people
//! cue = 1                    # whose greeting a losing shake shows
//! shake_interval_ms = 500    # absent: the node's own setting
//! banned = [17, "18446744073709551615"]
//! vet_amount_min = 0         # wins below it are not vetted, minor units
//! device_wins_max = 3        # packets won on one device; absent: any number
//! [[risk]]
//! from = 2                   # risk classes from 2 up to the next entry's
//! amount_max = 500           # win no packet above it, minor units; absent: any
//! wins_max = 1               # and so many in all; absent: as many as others
//! [[risk]]
//! from = 200
//! amount_max = 0             # win nothing
//! opens = false              # and open nothing; absent: true
//! [[cues]]
//! cue = 2
//! from = "2015-02-18T20:30:00+08:00"
//! ```

use crate::{
    keys,
    rules::{RiskRule, Rules},
};
use serde::Deserialize;
use thiserror::Error;
use toml::{Table, Value};
use yao_protocol::{
    Fen, UserId, WallTime,
    limits::{AGENT_PAYLOAD_BYTES_MAX, SHAKE_INTERVAL_MS_MAX},
    policy::Policy,
    schedule::parse_rfc3339,
};

/// Cues of one file. A rundown has dozens.
const CUES_MAX: usize = 1_024;

/// Why a policy file is refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PolicyError {
    /// Not TOML, or a value of the wrong type.
    #[error("{0}")]
    Syntax(String),
    /// A key that does not exist.
    #[error("{0}")]
    UnknownKey(String),
    /// A value that cannot be.
    #[error("`{key}` {problem}")]
    Value {
        /// The key.
        key: String,
        /// What is wrong, and what to write.
        problem: String,
    },
}

/// A policy file that was read: the rules at any time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyFile {
    rules: Rules,
    /// Times from which a cue holds, strictly rising.
    cues: Vec<(WallTime, u16)>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Source {
    version: u64,
    cue: u16,
    shake_interval_ms: Option<u32>,
    banned: Vec<User>,
    vet_amount_min: u64,
    device_wins_max: Option<u8>,
    risk: Vec<RiskSource>,
    cues: Vec<CueSource>,
}

#[derive(Deserialize)]
struct RiskSource {
    from: u8,
    amount_max: Option<u64>,
    wins_max: Option<u8>,
    #[serde(default = "allowed")]
    opens: bool,
}

const fn allowed() -> bool {
    true
}

#[derive(Deserialize)]
struct CueSource {
    cue: u16,
    from: String,
}

/// A user id; those above 2^63 do not fit a TOML integer and are written as strings.
#[derive(Deserialize)]
#[serde(untagged)]
enum User {
    Number(u64),
    Text(String),
}

impl PolicyFile {
    /// Reads the file's text.
    ///
    /// # Errors
    /// See [`PolicyError`].
    pub fn compile(text: &str) -> Result<Self, PolicyError> {
        check_keys(text)?;
        let source: Source =
            toml::from_str(text).map_err(|error| PolicyError::Syntax(error.to_string()))?;
        if source.version == 0 {
            return Err(value("version", "is missing or 0: number your changes from 1".into()));
        }
        if source.shake_interval_ms.is_some_and(|ms| ms > SHAKE_INTERVAL_MS_MAX) {
            let problem = format!("exceeds {SHAKE_INTERVAL_MS_MAX} ms, one minute");
            return Err(value("shake_interval_ms", problem));
        }
        let mut banned = source.banned.iter().map(user).collect::<Result<Vec<_>, _>>()?;
        banned.sort_unstable();
        banned.dedup();
        let policy = Policy {
            version: source.version,
            cue: source.cue,
            shake_interval_ms: source.shake_interval_ms,
            banned,
            vet_amount_min: source.vet_amount_min,
        };
        // The cue of the moment may be longer in digits than the file's own.
        let bytes = Policy { cue: u16::MAX, ..policy.clone() }.encode().len();
        if bytes > AGENT_PAYLOAD_BYTES_MAX {
            let problem = format!(
                "lists {} users: the policy has {bytes} bytes, {AGENT_PAYLOAD_BYTES_MAX} fit; \
                 refuse the others where their session tokens are made",
                policy.banned.len()
            );
            return Err(value("banned", problem));
        }
        let rules =
            Rules { policy, risk: risk(&source.risk)?, device_wins_max: source.device_wins_max };
        check_vetted(&rules)?;
        Ok(Self { rules, cues: cues(&source.cues)? })
    }

    /// The rules that hold at `now`.
    #[must_use]
    pub fn at(&self, now: WallTime) -> Rules {
        let mut rules = self.rules.clone();
        let begun = self.cues.partition_point(|(from, _)| *from <= now);
        if let Some(last) = begun.checked_sub(1) {
            rules.policy.cue = self.cues[last].1;
        }
        rules
    }
}

fn value(key: &str, problem: String) -> PolicyError {
    PolicyError::Value { key: key.to_owned(), problem }
}

fn risk(sources: &[RiskSource]) -> Result<Vec<RiskRule>, PolicyError> {
    if let Some(pair) = sources.windows(2).find(|pair| pair[0].from >= pair[1].from) {
        let problem = format!(
            "is out of order: the entry from {} stands before the one from {}; each begins above \
             the one before it",
            pair[0].from, pair[1].from
        );
        return Err(value("risk", problem));
    }
    let rule = |source: &RiskSource| RiskRule {
        from: source.from,
        amount_max: source.amount_max.map(Fen),
        wins_max: source.wins_max,
        opens: source.opens,
    };
    Ok(sources.iter().map(rule).collect())
}

/// A rule about wins that are never asked about would not be kept, and nobody would notice.
fn check_vetted(rules: &Rules) -> Result<(), PolicyError> {
    let least = rules.policy.vet_amount_min;
    let unasked = |what: String, most: u64| {
        let problem = format!(
            "is {least}: wins below it are not vetted, but {what}; write {most} at most, or leave \
             it out"
        );
        Err(value("vet_amount_min", problem))
    };
    if least > 1 && rules.device_wins_max.is_some() {
        return unasked("`device_wins_max` is about all of them".to_owned(), 1);
    }
    for rule in &rules.risk {
        let from = rule.from;
        if least > 1 && rule.wins_max.is_some() {
            return unasked(format!("`wins_max` of the risk classes from {from} is about all"), 1);
        }
        if let Some(most) = rule.amount_max.map(|most| most.0.saturating_add(1))
            && least > most
        {
            let what =
                format!("`amount_max` of the risk classes from {from} is about some of them");
            return unasked(what, most);
        }
    }
    Ok(())
}

fn check_keys(text: &str) -> Result<(), PolicyError> {
    const KEYS: [&str; 8] = [
        "version",
        "cue",
        "shake_interval_ms",
        "banned",
        "vet_amount_min",
        "device_wins_max",
        "risk",
        "cues",
    ];
    const LISTS: [(&str, &[&str]); 2] =
        [("risk", &["from", "amount_max", "wins_max", "opens"]), ("cues", &["cue", "from"])];
    let table: Table =
        text.parse().map_err(|error: toml::de::Error| PolicyError::Syntax(error.to_string()))?;
    keys::check(&table, "", &KEYS).map_err(PolicyError::UnknownKey)?;
    for (list, known) in LISTS {
        let Some(Value::Array(entries)) = table.get(list) else { continue };
        for entry in entries.iter().filter_map(Value::as_table) {
            let place = format!(" in [[{list}]]");
            keys::check(entry, &place, known).map_err(PolicyError::UnknownKey)?;
        }
    }
    Ok(())
}

fn user(source: &User) -> Result<UserId, PolicyError> {
    match source {
        User::Number(number) => Ok(UserId(*number)),
        User::Text(text) => text.parse().map(UserId).map_err(|_| PolicyError::Value {
            key: "banned".to_owned(),
            problem: format!("holds `{text}`, which is no decimal user id"),
        }),
    }
}

fn cues(sources: &[CueSource]) -> Result<Vec<(WallTime, u16)>, PolicyError> {
    let error = |problem| Err(PolicyError::Value { key: "cues".to_owned(), problem });
    if sources.len() > CUES_MAX {
        return error(format!("has {} entries, at most {CUES_MAX} are taken", sources.len()));
    }
    let mut cues: Vec<(WallTime, u16)> = Vec::with_capacity(sources.len());
    for source in sources {
        let CueSource { cue, from } = source;
        let Some(time) = parse_rfc3339(from) else {
            return error(format!(
                "has from = `{from}`: write a time with offset, as 2015-02-18T20:30:00+08:00"
            ));
        };
        if cues.last().is_some_and(|(before, _)| *before >= time) {
            return error(format!(
                "is out of order: cue {cue} begins at {from}, not after the one before it"
            ));
        }
        cues.push((time, *cue));
    }
    Ok(cues)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_file_becomes_a_policy() {
        let text = "version = 3\ncue = 4\nshake_interval_ms = 500\n\
                    banned = [9, \"18446744073709551615\", 7, 9]\nvet_amount_min = 20000\n";
        let policy = PolicyFile::compile(text).expect("good").at(WallTime(0)).policy;
        let expected = Policy {
            version: 3,
            cue: 4,
            shake_interval_ms: Some(500),
            banned: vec![UserId(7), UserId(9), UserId(u64::MAX)],
            vet_amount_min: 20_000,
        };
        assert_eq!(policy, expected);
        assert_eq!(Policy::decode(&policy.encode()), Ok(expected));
    }

    #[test]
    fn the_least_file_leaves_the_node_as_it_is() {
        let rules = PolicyFile::compile("version = 1").expect("good").at(WallTime(0));
        let policy = Policy { version: 1, ..Policy::default() };
        assert_eq!(rules, Rules { policy, ..Rules::default() });
    }

    #[test]
    fn what_the_agent_judges_by_does_not_travel() {
        let plain = "version = 1\nvet_amount_min = 1\n";
        let text = format!(
            "{plain}device_wins_max = 3\n[[risk]]\nfrom = 2\namount_max = 500\nwins_max = 1\n\
             [[risk]]\nfrom = 200\namount_max = 0\nopens = false\n"
        );
        let compiled = |text: &str| PolicyFile::compile(text).expect("good").at(WallTime(0));
        let rules = compiled(&text);
        let rule = |from, amount, wins_max, opens| RiskRule {
            from,
            amount_max: Some(Fen(amount)),
            wins_max,
            opens,
        };
        assert_eq!(rules.risk, [rule(2, 500, Some(1), true), rule(200, 0, None, false)]);
        assert_eq!(rules.device_wins_max, Some(3));
        assert_eq!(rules.policy.encode(), compiled(plain).policy.encode(), "as any node reads it");
    }

    #[test]
    fn cues_follow_the_time() {
        let text = "version = 1\ncue = 1\n\
                    [[cues]]\ncue = 2\nfrom = \"1970-01-01T00:00:10Z\"\n\
                    [[cues]]\ncue = 5\nfrom = \"1970-01-01T01:00:20+01:00\"\n";
        let file = PolicyFile::compile(text).expect("good");
        for (us, cue) in [
            (0, 1),
            (9_999_999, 1),
            (10_000_000, 2),
            (19_999_999, 2),
            (20_000_000, 5),
            (1 << 60, 5),
        ] {
            assert_eq!(file.at(WallTime(us)).policy.cue, cue, "at {us} us");
        }
    }

    #[test]
    fn each_mistake_is_one_clear_line() {
        fn check(text: &str, expected: &str) {
            let error = PolicyFile::compile(text).expect_err("a mistake").to_string();
            assert!(error.contains(expected), "{error:?} should say {expected:?}");
        }
        check("", "`version` is missing or 0");
        check("version = 1\nbaned = []", "unknown key `baned`; did you mean `banned`?");
        check("version = 1\n[[cues]]\ncue = 1\nform = \"x\"", "did you mean `from`?");
        check("version = 1\ncue = 70000", "70000");
        check("version = 1\nbanned = [\"x\"]", "holds `x`, which is no decimal user id");
        check("version = 1\nbanned = [-1]", "banned");
        check("version = 1\nshake_interval_ms = 60001", "exceeds 60000 ms");
        check("version = 1\n[[cues]]\ncue = 1\nfrom = \"tonight\"", "write a time with offset");
        let twice = "[[cues]]\ncue = 1\nfrom = \"1970-01-01T00:00:10Z\"\n".repeat(2);
        check(&format!("version = 1\n{twice}"), "out of order");
        check("version = ", "TOML parse error");
        check("version = 1\n[[risk]]\namount_max = 5", "missing field `from`");
        check("version = 1\n[[risk]]\nfrom = 256", "256");
        check("version = 1\n[[risk]]\nfrom = 1\namount_maks = 5", "did you mean `amount_max`?");
        let two = "[[risk]]\nfrom = 3\n[[risk]]\nfrom = 3\n";
        check(&format!("version = 1\n{two}"), "the entry from 3 stands before the one from 3");
    }

    #[test]
    fn a_rule_about_wins_that_are_not_vetted_is_refused() {
        fn check(least: u64, rule: &str, expected: Option<&str>) {
            let text = format!("version = 1\nvet_amount_min = {least}\n{rule}\n");
            let error = PolicyFile::compile(&text).err().map(|error| error.to_string());
            let said = error.as_deref().unwrap_or("");
            let holds = expected.map_or(said.is_empty(), |expected| said.contains(expected));
            assert!(holds, "{rule:?} from {least} on: {said:?}");
        }
        let device = "device_wins_max = 3";
        check(1, device, None);
        check(2, device, Some("but `device_wins_max` is about all of them; write 1 at most"));
        let wins = "[[risk]]\nfrom = 0\n[[risk]]\nfrom = 2\nwins_max = 1";
        check(0, wins, None);
        check(2, wins, Some("`wins_max` of the risk classes from 2"));
        let amount = "[[risk]]\nfrom = 2\namount_max = 500";
        check(501, amount, None);
        check(502, amount, Some("write 501 at most"));
        check(502, "[[risk]]\nfrom = 2\nopens = false", None);
    }

    #[test]
    fn a_ban_list_beyond_one_frame_is_refused_not_cut() {
        let text = |count: u64| {
            let users: Vec<String> = (0..count).map(|n| (1_000_000_000 + n).to_string()).collect();
            format!("version = 1\nbanned = [{}]", users.join(","))
        };
        let most = PolicyFile::compile(&text(5_900)).expect("fits").at(WallTime(0)).policy;
        assert!(most.encode().len() <= AGENT_PAYLOAD_BYTES_MAX && most.banned.len() == 5_900);
        let error = PolicyFile::compile(&text(6_000)).expect_err("too many").to_string();
        assert!(error.contains("lists 6000 users"), "{error}");
    }
}
