//! Reading the files a node is given: key set, shard key, manifest, schedule, JWKS. Every error
//! names the file and what to do. Never writes.

use crate::config::ReconnectConfig;
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};
use thiserror::Error;
use yao_engine::shard::Reconnect;
use yao_protocol::{
    CampaignId, WireError,
    keys::{KeySet, PrivateKeyFile, PublicKeyFile},
    manifest::Manifest,
    reconnect::ReconnectKeys,
    schedule::{Schedule, ScheduleError},
    seed_file::ShardKey,
};

/// Why a file is refused.
#[derive(Debug, Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("cannot read {path}: {source}; {advice}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
        /// What to do.
        advice: &'static str,
    },
    /// It is not what it should be.
    #[error("{path}: {message}", path = path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        message: String,
    },
}

/// A content error about `path`.
pub(crate) fn content(path: &Path, message: impl ToString) -> FileError {
    FileError::Content { path: path.to_owned(), message: message.to_string() }
}

fn read_text(path: &Path, advice: &'static str) -> Result<String, FileError> {
    fs::read_to_string(path).map_err(|source| FileError::Read {
        path: path.to_owned(),
        source,
        advice,
    })
}

/// How reconnect tickets are made, as `config` says; `None` without its section.
///
/// # Errors
/// The file of keys cannot be read, is readable by others, or holds no good list of keys.
pub fn reconnect(config: Option<&ReconnectConfig>) -> Result<Option<Reconnect>, FileError> {
    let Some(ReconnectConfig { keys: path, lifetime_seconds }) = config else { return Ok(None) };
    let advice = "point identity.reconnect.keys at the nodes' common key file";
    let text = read_text(path, advice)?;
    check_private(path)?;
    let keys = ReconnectKeys::from_json(&text).map_err(|error| content(path, error))?;
    Ok(Some(Reconnect { keys, lifetime_seconds: *lifetime_seconds }))
}

/// A secret file must be nobody else's to read.
fn check_private(path: &Path) -> Result<(), FileError> {
    let mode = fs::metadata(path).map(|metadata| metadata.permissions().mode() & 0o777);
    match mode {
        Ok(mode) if mode & 0o077 != 0 => Err(content(
            path,
            format!("holds a secret but has mode {mode:04o}; run `chmod 600` on it"),
        )),
        _ => Ok(()),
    }
}

/// Every `*.pub.json` in `directory`.
///
/// # Errors
/// A directory that cannot be read, a file that is no public key, two keys for one owner.
pub fn key_set(directory: &Path) -> Result<KeySet, FileError> {
    let advice = "point node.keys at the directory of *.pub.json files";
    let read = |source| FileError::Read { path: directory.to_owned(), source, advice };
    let mut paths = Vec::new();
    for entry in fs::read_dir(directory).map_err(read)? {
        let path = entry.map_err(read)?.path();
        if path.to_string_lossy().ends_with(".pub.json") {
            paths.push(path);
        }
    }
    paths.sort();
    let mut keys = KeySet::default();
    for path in paths {
        let text = read_text(&path, advice)?;
        let file: PublicKeyFile =
            serde_json::from_str(&text).map_err(|error| content(&path, error))?;
        keys.add(&file).map_err(|error| content(&path, error))?;
    }
    Ok(keys)
}

/// The shard key file.
///
/// # Errors
/// Unreadable, readable by others, or not a shard key.
pub fn shard_key(path: &Path) -> Result<ShardKey, FileError> {
    check_private(path)?;
    let advice = "point shard.key at the shard's .yaokey file from `yao-seedgen generate`";
    serde_json::from_str(&read_text(path, advice)?).map_err(|error| content(path, error))
}

/// The private half of the ticket key.
///
/// # Errors
/// Unreadable, readable by others, or not a private key.
pub fn private_key(path: &Path) -> Result<PrivateKeyFile, FileError> {
    check_private(path)?;
    let advice = "it is made by `yao-access init`; restore it, or adopt the shard anew";
    serde_json::from_str(&read_text(path, advice)?).map_err(|error| content(path, error))
}

/// The manifest, its signature checked by the campaign's key in `keys`.
///
/// # Errors
/// Unreadable, no key for `campaign`, not authentic.
pub fn manifest(path: &Path, campaign: CampaignId, keys: &KeySet) -> Result<Manifest, FileError> {
    let key = keys.campaign(campaign).ok_or_else(|| {
        let advice = "copy campaign-*.pub.json from the seed directory's keyset into node.keys";
        content(path, format!("no public key of campaign {campaign} to check it by; {advice}"))
    })?;
    let text = read_text(path, "point shard.manifest at the campaign's .yaomanifest file")?;
    let manifest = Manifest::decode(&text, &key).map_err(|error| content(path, error))?;
    if manifest.campaign != campaign {
        return Err(content(path, format!("is of campaign {}", manifest.campaign)));
    }
    Ok(manifest)
}

/// The schedule.
///
/// # Errors
/// Unreadable, not a schedule, of another campaign.
pub fn schedule(path: &Path, campaign: CampaignId) -> Result<Schedule, FileError> {
    let text = read_text(path, "point shard.schedule at the schedule's TOML file")?;
    let schedule = Schedule::decode(&text).map_err(|error: ScheduleError| content(path, error))?;
    if schedule.campaign != campaign {
        let message =
            format!("is for campaign {}, this node serves campaign {campaign}", schedule.campaign);
        return Err(content(path, message));
    }
    Ok(schedule)
}

/// A wire error about `path`.
pub(crate) fn wire(path: &Path) -> impl Fn(WireError) -> FileError + '_ {
    move |error| content(path, error)
}
