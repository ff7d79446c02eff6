//! Configuration and schedules as text, with the environment on top.

use std::path::Path;
use yao_access::config;
use yao_protocol::{
    policy::Policy,
    schedule::{Schedule, parse_rfc3339},
};

/// A configuration with every section.
const CONFIG: &str = include_str!("config.toml");
const SCHEDULE: &str = "version = 2\ncampaign = 1\n[[wave]]\nindex = 0\n\
    t0 = \"2015-02-18T20:00:00+08:00\"\nfactor = 1\ngrace_seconds = 3\n";

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let environment = "\0YAO__LISTEN__THREADS=4\0YAO__SESSION__FRAME_MS_MAX=\"x\"";
    let policy = r#"{"version":1,"cue":2,"banned":[1,2],"vet_amount_min":5}"#;
    let texts = [CONFIG.to_owned(), format!("{CONFIG}{environment}"), SCHEDULE.to_owned()];
    texts.into_iter().chain([policy.to_owned()]).map(String::into_bytes).collect()
}

/// A text, and behind each zero byte `name=value` of the environment.
pub(crate) fn run(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let mut parts = text.split('\0');
    let toml = parts.next().unwrap_or_default();
    let environment = parts.filter_map(|part| part.split_once('='));
    let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let (path, base) = (Path::new("fuzz.toml"), Path::new("/nowhere"));
    match config::load::parse(toml, path, base, environment) {
        Ok(config) => {
            assert!(config.session.heartbeat_ms_min < config.session.heartbeat_ms_max);
            assert!(config.session.heartbeat_ms_max <= config::HEARTBEAT_MS_MAX);
            assert!(config.listen.endpoints.len() <= 8, "more endpoints than WELCOME carries");
        }
        Err(error) => assert!(!error.to_string().is_empty(), "an error says something"),
    }
    if let Ok(schedule) = Schedule::decode(&text) {
        let again = Schedule::decode(&schedule.encode()).expect("what was written is read");
        assert_eq!(again, schedule);
    }
    if let Some(time) = parse_rfc3339(&text) {
        let told = yao_protocol::schedule::format_rfc3339(time);
        assert_eq!(parse_rfc3339(&told), Some(time), "{told}");
    }
    if let Ok(policy) = Policy::decode(bytes) {
        let again = Policy::decode(&policy.encode()).expect("what was written is read");
        assert_eq!(again, policy);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_to_begin_with_is_a_good_one() {
        let parsed = config::load::parse(CONFIG, Path::new("x"), Path::new("/x"), [].into_iter());
        parsed.expect("every section is understood");
        Schedule::decode(SCHEDULE).expect("a schedule");
    }
}
