//! From TOML and environment to a [`Config`] that cannot be wrong. Every error names the key, what
//! is wrong with it, and what to do. Reads one file and the environment it is given; nothing else.

use super::{AgentConfig, Config, HEARTBEAT_MS_MAX, IdentityConfig, Ownership, SessionConfig};
use std::path::{Path, PathBuf};
use thiserror::Error;
use toml::{Table, Value};
use yao_protocol::{
    limits::{ENDPOINT_BYTES_MAX, ENDPOINTS_MAX, LOG_SEGMENT_BYTES, SHAKE_INTERVAL_MS_MAX},
    reconnect::RECONNECT_SECONDS_MAX,
};

/// Prefix of environment variables that override a key: `YAO__SESSION__SHAKE_INTERVAL_MS`.
const ENVIRONMENT_PREFIX: &str = "YAO__";

/// Why a configuration is refused.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}; check --config")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Not TOML, or a value of the wrong type.
    #[error("{path}: {message}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line, column and expectation.
        message: String,
    },
    /// A key that does not exist.
    #[error("{origin}: unknown key `{key}`{hint}")]
    UnknownKey {
        /// The file or the environment variable.
        origin: String,
        /// The key with its section.
        key: String,
        /// The nearest key, or the keys there are.
        hint: String,
    },
    /// A value out of range.
    #[error("`{key}` is {value}: {expected}")]
    Value {
        /// The key with its section.
        key: &'static str,
        /// What it holds.
        value: String,
        /// What it must be.
        expected: &'static str,
    },
}

/// The configuration in `path`, overridden by `environment`.
///
/// Relative paths in the file are relative to the file's directory.
///
/// # Errors
/// See [`ConfigError`].
pub fn load(
    path: &Path,
    environment: impl Iterator<Item = (String, String)>,
) -> Result<Config, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    let base = path.parent().unwrap_or(Path::new("."));
    parse(&text, path, base, environment)
}

/// As [`load`], from `text`; `path` is only named in errors.
///
/// # Errors
/// See [`ConfigError`].
pub fn parse(
    text: &str,
    path: &Path,
    base: &Path,
    environment: impl Iterator<Item = (String, String)>,
) -> Result<Config, ConfigError> {
    let syntax = |message: String| ConfigError::Syntax { path: path.to_owned(), message };
    let mut table: Table =
        text.parse().map_err(|error: toml::de::Error| syntax(error.to_string()))?;
    check_keys(&table, &path.display().to_string())?;
    let overridden = override_keys(&mut table, environment)?;
    // An untouched text is read as it stands: its errors then name line and column.
    let source = if overridden { table.to_string() } else { text.to_owned() };
    let mut config: Config = toml::from_str(&source).map_err(|error| syntax(error.to_string()))?;
    resolve_paths(&mut config, base);
    check_values(&config)?;
    Ok(config)
}

/// Every section with its keys: what [`Config`] accepts.
const KEYS: &[(&str, &[&str])] = &[
    ("node", &["name", "state", "keys"]),
    (
        "listen",
        &[
            "tcp",
            "tls",
            "quic",
            "threads",
            "quic_threads",
            "connections_max",
            "endpoints",
            "proxy_from",
        ],
    ),
    (
        "admission",
        &[
            "connections_max",
            "handshakes_per_second",
            "burst",
            "per_address",
            "return_ms_min",
            "return_ms_jitter",
        ],
    ),
    ("tls", &["certificates"]),
    ("shard", &["seed", "key", "manifest", "schedule", "ownership", "witness", "after_reboot"]),
    ("identity", &["jwks", "audience", "threads", "reconnect"]),
    (
        "session",
        &[
            "shake_interval_ms",
            "heartbeat_ms_min",
            "heartbeat_ms_max",
            "handshake_ms_max",
            "greeting_ms_max",
            "frame_ms_max",
        ],
    ),
    (
        "spool",
        &[
            "commit_us_max",
            "commit_bytes_max",
            "bytes_max",
            "batches_in_flight_max",
            "backlog_per_second",
            "fallback",
        ],
    ),
    ("agent", &["program", "config", "socket", "vet_ms_max", "prove_ms_max", "leave_ms_max"]),
    ("admin", &["listen", "fail_points"]),
    ("drain", &["per_second", "deadline_seconds", "return_ms_min", "return_ms_jitter"]),
];

fn check_keys(table: &Table, origin: &str) -> Result<(), ConfigError> {
    for (section, value) in table {
        let keys = section_keys(section, origin)?;
        let Value::Table(entries) = value else { continue };
        for key in entries.keys() {
            if !keys.contains(&key.as_str()) {
                return Err(unknown(origin, format!("{section}.{key}"), key, keys.iter().copied()));
            }
        }
    }
    Ok(())
}

fn section_keys(section: &str, origin: &str) -> Result<&'static [&'static str], ConfigError> {
    KEYS.iter().find(|(name, _)| *name == section).map(|(_, keys)| *keys).ok_or_else(|| {
        let names = KEYS.iter().map(|(name, _)| *name);
        unknown(origin, format!("[{section}]"), section, names)
    })
}

fn unknown<'a>(
    origin: &str,
    key: String,
    word: &str,
    known: impl Iterator<Item = &'a str>,
) -> ConfigError {
    let nearest = known.min_by_key(|name| remoteness(word, name));
    let hint = nearest.map_or_else(String::new, |name| format!("; did you mean `{name}`?"));
    ConfigError::UnknownKey { origin: origin.to_owned(), key, hint }
}

/// How far a key is from what was written; its words may stand in another order.
fn remoteness(written: &str, name: &str) -> usize {
    let sorted = |text: &str| {
        let mut words: Vec<&str> = text.split('_').collect();
        words.sort_unstable();
        words.join("_")
    };
    distance(written, name).min(distance(&sorted(written), &sorted(name)))
}

/// Levenshtein distance, for naming the nearest key.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let substitution = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = substitution.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

fn override_keys(
    table: &mut Table,
    environment: impl Iterator<Item = (String, String)>,
) -> Result<bool, ConfigError> {
    let mut overridden = false;
    for (variable, text) in environment {
        let Some(rest) = variable.strip_prefix(ENVIRONMENT_PREFIX) else { continue };
        let lower = rest.to_ascii_lowercase();
        let (section, key) = lower.split_once("__").ok_or_else(|| ConfigError::UnknownKey {
            origin: format!("environment variable {variable}"),
            key: lower.clone(),
            hint: "; write YAO__SECTION__KEY".to_owned(),
        })?;
        let origin = format!("environment variable {variable}");
        let keys = section_keys(section, &origin)?;
        if !keys.contains(&key) {
            return Err(unknown(&origin, format!("{section}.{key}"), key, keys.iter().copied()));
        }
        let entry = table.entry(section.to_owned()).or_insert_with(|| Value::Table(Table::new()));
        if let Value::Table(entries) = entry {
            entries.insert(key.to_owned(), environment_value(&text));
            overridden = true;
        }
    }
    Ok(overridden)
}

/// A TOML value where `text` is one (a number, a list, a quoted string), else the text itself.
fn environment_value(text: &str) -> Value {
    let parsed: Result<Table, _> = format!("value = {text}").parse();
    parsed
        .ok()
        .and_then(|mut table| table.remove("value"))
        .unwrap_or_else(|| Value::String(text.to_owned()))
}

fn resolve_paths(config: &mut Config, base: &Path) {
    let mut paths: Vec<&mut PathBuf> = vec![
        &mut config.node.state,
        &mut config.node.keys,
        &mut config.shard.seed,
        &mut config.shard.key,
        &mut config.shard.manifest,
        &mut config.shard.schedule,
        &mut config.identity.jwks,
    ];
    if let Some(agent) = config.agent.as_mut() {
        paths.extend([&mut agent.config, &mut agent.socket]);
        // A bare program name is looked up in PATH.
        if agent.program.components().count() > 1 {
            paths.push(&mut agent.program);
        }
    }
    paths.extend(config.shard.witness.as_mut());
    paths.extend(&mut config.spool.fallback);
    paths.extend(config.identity.reconnect.iter_mut().map(|reconnect| &mut reconnect.keys));
    let certificates = config.tls.iter_mut().flat_map(|tls| &mut tls.certificates);
    paths.extend(certificates.flat_map(|pair| [&mut pair.chain, &mut pair.key]));
    for path in paths {
        *path = base.join(&*path);
    }
}

fn check(
    holds: bool,
    key: &'static str,
    value: &dyn ToString,
    expected: &'static str,
) -> Result<(), ConfigError> {
    if holds { Ok(()) } else { Err(ConfigError::Value { key, value: value.to_string(), expected }) }
}

fn check_values(config: &Config) -> Result<(), ConfigError> {
    let listen = &config.listen;
    check_ways_in(config)?;
    check_admission(config)?;
    let (threads, connections) = (listen.threads, listen.connections_max);
    check(threads <= 256, "listen.threads", &threads, "use 0 (one per core) to 256")?;
    check(connections > 0, "listen.connections_max", &connections, "allow at least one")?;
    let endpoints = &listen.endpoints;
    let fitting = endpoints.iter().all(|endpoint| endpoint.len() <= ENDPOINT_BYTES_MAX);
    check(
        endpoints.len() <= ENDPOINTS_MAX && fitting,
        "listen.endpoints",
        &endpoints.len(),
        "name at most 8 endpoints of at most 255 bytes",
    )?;
    check_identity(&config.identity, config.admin.fail_points)?;
    check(
        config.shard.ownership == Ownership::Local || config.agent.is_some(),
        "shard.ownership",
        &"fleet",
        "add an [agent] section: it is the agent that asks settlement for grants",
    )?;
    check_session(&config.session)?;
    let spool = &config.spool;
    check(
        (1..=64).contains(&spool.batches_in_flight_max),
        "spool.batches_in_flight_max",
        &spool.batches_in_flight_max,
        "use 1 to 64",
    )?;
    check(
        spool.bytes_max >= 2 * LOG_SEGMENT_BYTES,
        "spool.bytes_max",
        &spool.bytes_max,
        "use at least 134217728: two segments",
    )?;
    check(
        spool.commit_us_max <= 1_000_000,
        "spool.commit_us_max",
        &spool.commit_us_max,
        "use at most 1000000: clients wait this long for a receipt",
    )?;
    let admin = config.admin.listen;
    check(
        admin.ip().is_loopback(),
        "admin.listen",
        &admin,
        "use a loopback address: there is no login on this port",
    )?;
    let rate = config.drain.per_second;
    check(rate > 0, "drain.per_second", &rate, "ask at least one: a drain must end")?;
    config.agent.as_ref().map_or(Ok(()), check_agent)
}

fn check_session(session: &SessionConfig) -> Result<(), ConfigError> {
    check(
        session.heartbeat_ms_max <= HEARTBEAT_MS_MAX,
        "session.heartbeat_ms_max",
        &session.heartbeat_ms_max,
        "use at most 1500000: QUIC ends what is silent for longer without a word",
    )?;
    check(
        session.heartbeat_ms_min < session.heartbeat_ms_max,
        "session.heartbeat_ms_min",
        &session.heartbeat_ms_min,
        "must be below session.heartbeat_ms_max",
    )?;
    check(
        session.shake_interval_ms <= SHAKE_INTERVAL_MS_MAX,
        "session.shake_interval_ms",
        &session.shake_interval_ms,
        "use at most 60000",
    )?;
    check(
        session.greeting_ms_max >= 100,
        "session.greeting_ms_max",
        &session.greeting_ms_max,
        "use at least 100",
    )?;
    check(
        session.frame_ms_max >= 100,
        "session.frame_ms_max",
        &session.frame_ms_max,
        "use at least 100",
    )
}

fn check_admission(config: &Config) -> Result<(), ConfigError> {
    let admission = &config.admission;
    let expected = "allow at least one";
    for (key, value) in [
        ("admission.connections_max", admission.connections_max),
        ("admission.handshakes_per_second", admission.handshakes_per_second),
        ("admission.burst", admission.burst),
        ("admission.per_address", admission.per_address),
    ] {
        check(value > 0, key, &value, expected)?;
    }
    let blocks = config.listen.proxy_from.len();
    check(blocks <= 64, "listen.proxy_from", &blocks, "name at most 64 blocks of addresses")
}

/// At least one address, and certificates for those that need them.
fn check_ways_in(config: &Config) -> Result<(), ConfigError> {
    let listen = &config.listen;
    let any = !(listen.tcp.is_empty() && listen.tls.is_empty() && listen.quic.is_empty());
    check(any, "listen", &"no address", "name one at least in listen.tcp, tls or quic")?;
    let certificates = config.tls.as_ref().map_or(0, |tls| tls.certificates.len());
    let secured = !(listen.tls.is_empty() && listen.quic.is_empty());
    check(
        certificates > 0 || !secured,
        "tls.certificates",
        &"none",
        "listen.tls and listen.quic need a certificate and its key",
    )?;
    let handshake = config.session.handshake_ms_max;
    check(handshake >= 100, "session.handshake_ms_max", &handshake, "use at least 100")
}

fn check_agent(agent: &AgentConfig) -> Result<(), ConfigError> {
    let length = agent.socket.as_os_str().len();
    check(length <= 107, "agent.socket", &length, "a unix socket's path has at most 107 bytes")?;
    check(
        (1..=1_000).contains(&agent.vet_ms_max),
        "agent.vet_ms_max",
        &agent.vet_ms_max,
        "use 1 to 1000",
    )?;
    Ok(())
}

fn check_identity(identity: &IdentityConfig, rehearsal: bool) -> Result<(), ConfigError> {
    let threads = identity.threads;
    check((1..=64).contains(&threads), "identity.threads", &threads, "use 1 to 64")?;
    let Some(reconnect) = &identity.reconnect else { return Ok(()) };
    let seconds = reconnect.lifetime_seconds;
    // A rehearsal need not wait five minutes for half of a ticket's life.
    let least = if rehearsal { 2 } else { 600 };
    check(
        (least..=RECONNECT_SECONDS_MAX).contains(&u64::from(seconds)),
        "identity.reconnect.lifetime_seconds",
        &seconds,
        "use 600 to 1800",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ReconnectConfig;

    const GOOD: &str = r#"
[node]
name = "n1"
state = "state"
keys = "keys"
[listen]
tcp = ["127.0.0.1:0"]
[shard]
seed = "s.yaoseed"
key = "s.yaokey"
manifest = "m"
schedule = "schedule.toml"
[identity]
jwks = "jwks.json"
"#;

    fn read(text: &str, environment: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let environment = environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        parse(text, Path::new("yao.toml"), Path::new("/etc/yao"), environment)
    }

    #[test]
    fn defaults_paths_and_environment() {
        let overrides = [
            ("YAO__SESSION__SHAKE_INTERVAL_MS", "250"),
            ("YAO__NODE__NAME", "n2"),
            ("YAO__LISTEN__TCP", "[\"127.0.0.1:7\"]"),
            ("YAO__SPOOL__FALLBACK", "../other"),
            ("HOME", "/root"),
        ];
        let config = read(GOOD, &overrides).expect("good");
        assert_eq!(config.session.shake_interval_ms, 250);
        assert_eq!(config.node.name, "n2");
        assert_eq!(config.listen.tcp[0].port(), 7);
        assert_eq!(config.node.state, Path::new("/etc/yao/state"));
        assert_eq!(config.spool.fallback.as_deref(), Some(Path::new("/etc/yao/../other")));
        assert_eq!(config.session.heartbeat_ms_max, 300_000);
    }

    #[test]
    fn each_mistake_is_one_line_that_names_it() {
        let check = |extra: &str, environment: &[(&str, &str)], expected: &str| {
            let text = format!("{GOOD}{extra}");
            let error = read(&text, environment).expect_err("refused").to_string();
            assert!(error.contains(expected), "{error} should contain {expected}");
        };
        check("[sesion]\n", &[], "did you mean `session`");
        check("", &[("YAO__LISTEN__TCP", "[]")], "at least");
        check("", &[("YAO__LISTEN__TLS", "[\"[::1]:0\"]")], "tls.certificates");
        check("[sesion]\n", &[], "did you mean `session`");
        let reconnect = |rest| format!("[identity.reconnect]\nkeys = \"k\"\n{rest}");
        check(&reconnect("lifetime_seconds = 599\n"), &[], "use 600 to 1800");
        check(&reconnect("lifetime_seconds = 1801\n"), &[], "use 600 to 1800");
        check(&reconnect("lifetime = 900\n"), &[], "lifetime_seconds");
        let short = |seconds| format!("{}[admin]\nfail_points = true\n", reconnect(seconds));
        check(&short("lifetime_seconds = 1\n"), &[], "use 600 to 1800");
        read(&format!("{GOOD}{}", short("lifetime_seconds = 2\n")), &[]).expect("a rehearsal");
        check("[identity.reconnect]\n", &[], "keys");
        check("[session]\nheartbeat_max_ms = 5\n", &[], "did you mean `heartbeat_ms_max`");
        check("[session]\nheartbeat_ms_min = 400000\n", &[], "heartbeat_ms_min");
        check("[session]\nheartbeat_ms_max = 1500001\n", &[], "use at most 1500000");
        read(GOOD, &[("YAO__SESSION__HEARTBEAT_MS_MAX", "1500000")]).expect("the longest");
        check("[spool]\nbytes_max = 0\n", &[], "two segments");
        check("[spool]\nfall_back = \"b\"\n", &[], "did you mean `fallback`");
        check("[admission]\nburst = 0\n", &[], "admission.burst");
        check("[drain]\nper_second = 0\n", &[], "drain.per_second");
        check("[admission]\nbursts = 1\n", &[], "did you mean `burst`");
        check("", &[("YAO__LISTEN__PROXY_FROM", "[\"10.0.0.0/33\"]")], "no block of addresses");
        check("", &[("YAO__SHARD__OWNERSHIP", "fleet")], "add an [agent] section");
        check("", &[("YAO__SHARD__OWNERSHIP", "shared")], "ownership");
        check("", &[("YAO__SHARD__WITNES", "/run")], "did you mean `witness`");
        check("[admin]\nlisten = \"0.0.0.0:80\"\n", &[], "loopback");
        check("[session]\nshake_interval_ms = \"x\"\n", &[], "shake_interval_ms");
        check("", &[("YAO__SESION__X", "1")], "did you mean `session`");
        check("", &[("YAO__SESSION__SHAKE", "1")], "unknown key `session.shake`");
    }

    #[test]
    fn the_key_table_lists_every_key_of_the_config() {
        let config = read(GOOD, &[]).expect("good");
        let agent = AgentConfig {
            program: "a".into(),
            config: "c".into(),
            socket: "s".into(),
            vet_ms_max: 20,
            prove_ms_max: 1,
            leave_ms_max: 1,
        };
        let tls = crate::config::TlsConfig { certificates: Vec::new() };
        let mut full = Config { agent: Some(agent), tls: Some(tls), ..config };
        let reconnect = ReconnectConfig { keys: "k".into(), lifetime_seconds: 600 };
        full.identity.reconnect = Some(reconnect);
        full.shard.witness = Some("w".into());
        full.spool.fallback = Some("f".into());
        let table = Table::try_from(&full).expect("serialises");
        let mut found: Vec<String> = Vec::new();
        for (section, entries) in &table {
            let Value::Table(entries) = entries else { panic!("{section} is a section") };
            found.extend(entries.keys().map(|key| format!("{section}.{key}")));
        }
        let mut known: Vec<String> = KEYS
            .iter()
            .flat_map(|(section, keys)| keys.iter().map(move |key| format!("{section}.{key}")))
            .collect();
        found.sort();
        known.sort();
        assert_eq!(found, known);
    }
}
