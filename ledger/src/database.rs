//! Which database is the campaign's, and that one process serves it.
//!
//! A ledger that begins anew pays a second time what another database says was paid. So the signing
//! key remembers the campaigns it has served: a database is made once, never in the place of one
//! that is missing. And what a process knows besides the rows, such as when a node was last heard,
//! is whole only where no other process serves the same rows.

use crate::{LedgerError, init, store::Store};
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
    /// Remembers at the signing key where the campaign's database is; with what it must say.
    mark: (PathBuf, String),
}

/// Locks `database`, and makes sure that it may be made if it is not there.
///
/// # Errors
/// Another process that serves it; none, or an empty one, although this key has served the campaign
/// before.
pub(crate) fn claim(
    database: &Path,
    signing_key: &Path,
    campaign: CampaignId,
) -> Result<Claimed, LedgerError> {
    // By whatever name it is called, it is the same database, with one lock.
    let whole = canonical(database);
    let path = named(&whole, ".lock");
    let failed = |error| LedgerError::System { doing: format!("use {}", path.display()), error };
    let mark =
        (named(signing_key, &format!(".campaign-{campaign}")), format!("{}\n", whole.display()));
    let missing = !database.exists();
    if missing {
        refuse_missed(database, "is not there", &mark.0, campaign)?;
    }
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
    if !missing && !has_tables(database)? {
        refuse_missed(database, "has no tables", &mark.0, campaign)?;
    }
    Ok(Claimed { _lock: lock, mark })
}

fn has_tables(database: &Path) -> Result<bool, LedgerError> {
    Store::has_tables(database)
        .map_err(|error| LedgerError::Database { path: database.to_owned(), error })
}

/// An empty database in the place of one that this key has served.
fn refuse_missed(
    database: &Path,
    state: &str,
    mark: &Path,
    campaign: CampaignId,
) -> Result<(), LedgerError> {
    if !mark.exists() {
        return Ok(());
    }
    let before = std::fs::read_to_string(mark).unwrap_or_default();
    Err(LedgerError::config(
        database,
        format!(
            "{state}, and campaign {campaign} was settled in {}: an empty database would pay \
             everything again. Name that one with --database; only if nobody was ever paid, \
             remove {}",
            before.trim_end(),
            mark.display()
        ),
    ))
}

impl Claimed {
    /// The database is there now, and its directory has it: from now on it is missed. One that was
    /// moved is missed where it is now.
    pub(crate) fn made(self) -> Self {
        let (mark, text) = &self.mark;
        let before = std::fs::read_to_string(mark).ok();
        if before.as_ref() == Some(text) {
            return self;
        }
        if let Some(before) = &before {
            tracing::warn!(
                event = "database_moved",
                before = before.trim_end(),
                now = text.trim_end(),
                "this campaign was settled in another file before; it must be the same database"
            );
        }
        if let Err(error) = keep(mark, text) {
            tracing::warn!(
                %error,
                "a database that is not there will be made anew without a word: the directory of \
                 the signing key cannot be written"
            );
        }
        self
    }
}

/// Writes the mark, whole or not at all.
fn keep(mark: &Path, text: &str) -> Result<(), LedgerError> {
    let draft = named(mark, ".draft");
    std::fs::remove_file(&draft).ok();
    init::create(&draft, text, 0o644)?;
    std::fs::rename(&draft, mark)
        .map_err(|error| LedgerError::System { doing: format!("write {}", mark.display()), error })
}

/// The file's own name, whichever way leads to it; also before it is there.
fn canonical(path: &Path) -> PathBuf {
    let whole = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    if let Ok(found) = whole.canonicalize() {
        return found;
    }
    match (whole.parent().map(Path::canonicalize), whole.file_name()) {
        (Some(Ok(directory)), Some(name)) => directory.join(name),
        _ => whole,
    }
}

fn named(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const CAMPAIGN: CampaignId = CampaignId(2015);

    fn refusal(database: &Path, key: &Path) -> String {
        claim(database, key, CAMPAIGN).expect_err("refused").to_string()
    }

    #[test]
    fn m10_no_empty_file_takes_the_databases_place() {
        let folder = tempfile::tempdir().expect("a folder");
        let [first, second, key] = ["ledger.db", "moved.db", "key"].map(|n| folder.path().join(n));
        let claimed = claim(&first, &key, CAMPAIGN).expect("the first start");
        drop(Store::open(&first, CAMPAIGN).expect("made"));
        drop(claimed.made());
        fs::write(&second, "").expect("write");
        assert!(refusal(&second, &key).contains("has no tables"));
        // A database is moved: from now on it is missed where it is.
        fs::rename(&first, &second).expect("rename");
        drop(claim(&second, &key, CAMPAIGN).expect("it has tables").made());
        let said = refusal(&first, &key);
        assert!(said.contains("is not there") && said.contains("moved.db"), "{said}");
    }

    #[test]
    fn m10_two_names_of_one_database_have_one_lock() {
        let folder = tempfile::tempdir().expect("a folder");
        let [database, link, key] = ["ledger.db", "link.db", "key"].map(|n| folder.path().join(n));
        drop(Store::open(&database, CAMPAIGN).expect("made"));
        std::os::unix::fs::symlink(&database, &link).expect("link");
        let claimed = claim(&database, &key, CAMPAIGN).expect("free");
        assert!(refusal(&link, &key).contains("another yao-ledger serves it"));
        drop(claimed);
        drop(claim(&link, &key, CAMPAIGN).expect("free again"));
    }
}
