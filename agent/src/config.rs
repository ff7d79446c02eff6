//! The agent's configuration: where settlement is and where the policy stands. Reads one file.

use crate::keys;
use serde::Deserialize;
use std::path::{Path, PathBuf};
use thiserror::Error;
use toml::{Table, Value};

/// The whole file.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Config {
    /// Where opens are delivered.
    pub settlement: SettlementConfig,
    /// Where the rules stand.
    pub policy: PolicyConfig,
}

/// Where opens are delivered.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct SettlementConfig {
    /// Base address of the settlement service, `http://host:port`.
    pub url: String,
}

/// Where the rules stand.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct PolicyConfig {
    /// The policy file, TOML; relative to the directory of the configuration.
    pub file: PathBuf,
}

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
    /// Its content is not a configuration.
    #[error("{path}: {message}")]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what to do.
        message: String,
    },
}

/// The configuration in `path`.
///
/// # Errors
/// See [`ConfigError`].
pub fn load(path: &Path) -> Result<Config, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    let base = path.parent().unwrap_or(Path::new("."));
    parse(&text, base).map_err(|message| ConfigError::Content { path: path.to_owned(), message })
}

/// The configuration in `text`; relative paths start at `base`.
///
/// # Errors
/// One sentence.
pub fn parse(text: &str, base: &Path) -> Result<Config, String> {
    let table: Table = text.parse().map_err(|error: toml::de::Error| error.to_string())?;
    keys::check(&table, "", &["settlement", "policy"])?;
    for (section, known) in [("settlement", &["url"][..]), ("policy", &["file"][..])] {
        if let Some(Value::Table(entries)) = table.get(section) {
            keys::check(entries, &format!(" in [{section}]"), known)?;
        }
    }
    let mut config: Config = toml::from_str(text).map_err(|error| error.to_string())?;
    let url = config.settlement.url.trim_end_matches('/').to_owned();
    if url.strip_prefix("http://").is_none_or(|host| host.is_empty() || host.contains(['?', '#'])) {
        return Err(format!(
            "settlement.url is `{url}`: write http://host:port (the link to settlement is plain \
             HTTP; what it carries is signed)"
        ));
    }
    config.settlement.url = url;
    config.policy.file = base.join(&config.policy.file);
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_good_file_is_read_and_its_paths_resolved() {
        let text = "[settlement]\nurl = \"http://127.0.0.1:9/\"\n[policy]\nfile = \"p.toml\"\n";
        let config = parse(text, Path::new("base")).expect("good");
        assert_eq!(config.settlement.url, "http://127.0.0.1:9");
        assert_eq!(config.policy.file, Path::new("base/p.toml"));
    }

    #[test]
    fn each_mistake_is_named() {
        fn check(text: &str, expected: &str) {
            let error = parse(text, Path::new(".")).expect_err("a mistake");
            assert!(error.contains(expected), "{error:?} should name {expected:?}");
        }
        let policy = "[policy]\nfile = \"p\"\n";
        check(&format!("[settlement]\nurll = \"x\"\n{policy}"), "did you mean `url`?");
        check(&format!("[setlement]\nurl = \"x\"\n{policy}"), "did you mean `settlement`?");
        check(&format!("[settlement]\nurl = \"https://x\"\n{policy}"), "write http://host:port");
        check(&format!("[settlement]\nurl = \"http://\"\n{policy}"), "write http://host:port");
        check(&format!("[settlement]\nurl = 3\n{policy}"), "invalid type");
        check("[settlement]\nurl = \"http://x\"\n", "policy");
    }
}
