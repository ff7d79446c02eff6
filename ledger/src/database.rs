//! Which database is the campaign's, and that one process serves it.
//!
//! A ledger that begins anew pays a second time what another database says was paid. So the signing
//! key remembers the campaigns it has served: a database is made once, never in the place of one
//! that is missing. And what a process knows besides the rows, such as when a node was last heard,
//! is whole only where no other process serves the same rows.

use crate::{LedgerError, init};
use std::{
    fs::{File, TryLockError},
    path::{Path, PathBuf},
};
use yao_protocol::CampaignId;

/// A database that nobody else serves. Held as long as the process serves it.
#[derive(Debug)]
#[must_use]
pub(crate) struct Claimed {
    _lock: File,
    /// Remembers at the signing key where the campaign's database is; with its content.
    mark: (PathBuf, String),
}

/// Locks `database`, and makes sure that it may be made if it is not there.
///
/// # Errors
/// Another process that serves it; no database although this key has served the campaign before.
pub(crate) fn claim(
    database: &Path,
    signing_key: &Path,
    campaign: CampaignId,
) -> Result<Claimed, LedgerError> {
    let mark = named(signing_key, &format!(".campaign-{campaign}"));
    if !database.exists() && mark.exists() {
        let before = std::fs::read_to_string(&mark).unwrap_or_default();
        return Err(LedgerError::config(
            database,
            format!(
                "is not there, and campaign {campaign} was settled in {}: an empty database would \
                 pay everything again. Name that one with --database; only if nobody was ever \
                 paid, remove {}",
                before.trim_end(),
                mark.display()
            ),
        ));
    }
    let path = named(database, ".lock");
    let failed = |error| LedgerError::System { doing: format!("use {}", path.display()), error };
    let lock = File::options().write(true).create(true).truncate(false).open(&path);
    let lock = lock.map_err(failed)?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let message = "another yao-ledger serves it; stop that one first";
            return Err(LedgerError::config(database, message));
        }
        Err(TryLockError::Error(error)) => return Err(failed(error)),
    }
    let whole = std::path::absolute(database).unwrap_or_else(|_| database.to_owned());
    Ok(Claimed { _lock: lock, mark: (mark, format!("{}\n", whole.display())) })
}

impl Claimed {
    /// The database is there now, and its directory has it: from now on it is missed.
    pub(crate) fn made(self) -> Self {
        let (mark, text) = &self.mark;
        if !mark.exists()
            && let Err(error) = init::create(mark, text, 0o644)
        {
            tracing::warn!(
                %error,
                "a database that is not there will be made anew without a word: the directory of \
                 the signing key cannot be written"
            );
        }
        self
    }
}

fn named(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}
