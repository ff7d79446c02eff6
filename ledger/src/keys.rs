//! The key set: a directory of `*.pub.json`, read at start, on SIGHUP, and when a batch names a key
//! that is not in it, at most once a second. Never writes.

use crate::{LedgerError, plans::Plans};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::{Duration, Instant},
};
use yao_protocol::{
    keys::{KeyOwner, KeySet, PublicKeyFile},
    manifest::Manifest,
};

/// Least time between two readings that batches cause.
const RELOAD_INTERVAL: Duration = Duration::from_secs(1);

/// The key set of the running ledger.
#[derive(Debug)]
pub struct KeyDirectory {
    directory: PathBuf,
    current: RwLock<Arc<KeySet>>,
    read_at: Mutex<Instant>,
}

impl KeyDirectory {
    /// Reads the directory.
    ///
    /// # Errors
    /// A directory or file that cannot be read, two keys for one owner.
    pub fn open(directory: &Path, now: Instant) -> Result<Self, LedgerError> {
        let keys = key_set(&key_files(directory)?, directory)?;
        Ok(Self {
            directory: directory.to_owned(),
            current: RwLock::new(Arc::new(keys)),
            read_at: Mutex::new(now),
        })
    }

    /// The keys as last read.
    #[must_use]
    pub fn current(&self) -> Arc<KeySet> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads the directory again, unless that was done within a second. Returns whether it was.
    pub fn reload_if_due(&self, now: Instant) -> bool {
        {
            let mut read_at = self.read_at.lock().unwrap_or_else(PoisonError::into_inner);
            if now.saturating_duration_since(*read_at) < RELOAD_INTERVAL {
                return false;
            }
            *read_at = now;
        }
        self.reload()
    }

    /// Reads the directory again. Returns whether it could be used; else the old keys stay.
    pub fn reload(&self) -> bool {
        let read = key_files(&self.directory).and_then(|files| key_set(&files, &self.directory));
        match read {
            Ok(keys) => {
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
                true
            }
            Err(error) => {
                tracing::warn!(%error, "the key set was not read again; the old keys stay");
                false
            }
        }
    }
}

/// Every public key file of `directory`.
fn key_files(directory: &Path) -> Result<Vec<PublicKeyFile>, LedgerError> {
    let entries = fs::read_dir(directory)
        .map_err(|error| LedgerError::config(directory, format!("{error}; see --keys")))?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| LedgerError::config(directory, error.to_string()))?.path();
        if path.to_string_lossy().ends_with(".pub.json") {
            let text = fs::read_to_string(&path)
                .map_err(|error| LedgerError::config(&path, error.to_string()))?;
            let file = serde_json::from_str(&text).map_err(|error| {
                LedgerError::config(&path, format!("is no public key file: {error}"))
            })?;
            files.push(file);
        }
    }
    Ok(files)
}

fn key_set(files: &[PublicKeyFile], directory: &Path) -> Result<KeySet, LedgerError> {
    let mut keys = KeySet::default();
    for file in files {
        keys.add(file).map_err(|error| {
            LedgerError::config(directory, format!("the key of {:?}: {error}", file.owner))
        })?;
    }
    Ok(keys)
}

/// The manifests of every generation at these paths.
///
/// # Errors
/// Those of [`manifest`], and manifests that do not belong together.
pub fn plans(paths: &[PathBuf], directory: &Path) -> Result<Plans, LedgerError> {
    let manifests = paths.iter().map(|path| manifest(path, directory));
    let last = paths.last().map_or(directory, PathBuf::as_path);
    Plans::new(manifests.collect::<Result<_, _>>()?)
        .map_err(|message| LedgerError::config(last, message))
}

/// The manifest, authenticated by one of the campaign keys in `directory`.
///
/// # Errors
/// A file that cannot be read, or that none of these keys signed.
pub fn manifest(path: &Path, directory: &Path) -> Result<Manifest, LedgerError> {
    let text =
        fs::read_to_string(path).map_err(|error| LedgerError::config(path, error.to_string()))?;
    let files = key_files(directory)?;
    let keys = key_set(&files, directory)?;
    let mut problem =
        "no campaign-*.pub.json in the key set to check it by; copy it from the seed \
                       directory"
            .to_owned();
    for file in &files {
        let KeyOwner::Campaign { campaign } = file.owner else { continue };
        let Some(key) = keys.campaign(campaign) else { continue };
        match Manifest::decode(&text, &key) {
            Ok(manifest) if manifest.campaign == campaign => return Ok(manifest),
            Ok(manifest) => {
                problem = format!("is of campaign {}, signed by {campaign}", manifest.campaign);
            }
            Err(error) => problem = error.to_string(),
        }
    }
    Err(LedgerError::config(path, problem))
}
