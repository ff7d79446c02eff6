//! From the policy file, TOML, to the policy that the access process obeys. Pure: text in, policy
//! or one clear sentence out. The file may list cues with the times from which they hold.
//!
//! ```toml
//! version = 3                # grows with each change; for people
//! cue = 1                    # whose greeting a losing shake shows
//! shake_interval_ms = 500    # absent: the node's own setting
//! banned = [17, "18446744073709551615"]
//! vet_amount_min = 20000     # wins below it are not vetted, minor units
//! [[cues]]
//! cue = 2
//! from = "2015-02-18T20:30:00+08:00"
//! ```

use crate::keys;
use serde::Deserialize;
use thiserror::Error;
use toml::{Table, Value};
use yao_protocol::{
    UserId, WallTime,
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

/// A policy file that was read: the policy at any time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyFile {
    policy: Policy,
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
    cues: Vec<CueSource>,
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
        let value =
            |key: &str, problem: String| PolicyError::Value { key: key.to_owned(), problem };
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
        Ok(Self { policy, cues: cues(&source.cues)? })
    }

    /// The policy that holds at `now`.
    #[must_use]
    pub fn at(&self, now: WallTime) -> Policy {
        let begun = self.cues.partition_point(|(from, _)| *from <= now);
        let cue = begun.checked_sub(1).map_or(self.policy.cue, |last| self.cues[last].1);
        Policy { cue, ..self.policy.clone() }
    }
}

fn check_keys(text: &str) -> Result<(), PolicyError> {
    const KEYS: [&str; 6] =
        ["version", "cue", "shake_interval_ms", "banned", "vet_amount_min", "cues"];
    let table: Table =
        text.parse().map_err(|error: toml::de::Error| PolicyError::Syntax(error.to_string()))?;
    keys::check(&table, "", &KEYS).map_err(PolicyError::UnknownKey)?;
    if let Some(Value::Array(cues)) = table.get("cues") {
        for cue in cues.iter().filter_map(Value::as_table) {
            keys::check(cue, " in [[cues]]", &["cue", "from"]).map_err(PolicyError::UnknownKey)?;
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
        let policy = PolicyFile::compile(text).expect("good").at(WallTime(0));
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
        let policy = PolicyFile::compile("version = 1").expect("good").at(WallTime(0));
        assert_eq!(policy, Policy { version: 1, ..Policy::default() });
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
            assert_eq!(file.at(WallTime(us)).cue, cue, "at {us} us");
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
    }

    #[test]
    fn a_ban_list_beyond_one_frame_is_refused_not_cut() {
        let text = |count: u64| {
            let users: Vec<String> = (0..count).map(|n| (1_000_000_000 + n).to_string()).collect();
            format!("version = 1\nbanned = [{}]", users.join(","))
        };
        let most = PolicyFile::compile(&text(5_900)).expect("fits").at(WallTime(0));
        assert!(most.encode().len() <= AGENT_PAYLOAD_BYTES_MAX && most.banned.len() == 5_900);
        let error = PolicyFile::compile(&text(6_000)).expect_err("too many").to_string();
        assert!(error.contains("lists 6000 users"), "{error}");
    }
}
