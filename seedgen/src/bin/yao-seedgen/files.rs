//! Files of an output directory: names, and writing them so that a crash at any moment leaves
//! either the old file or the new one. A failed sync is never retried: the run ends.

use anyhow::{Context, Result, bail};
use std::fs::{File, OpenOptions, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use yao_protocol::CampaignId;

/// Name of the manifest.
pub(crate) const MANIFEST: &str = "manifest.yaomanifest";
/// Mode of what only its owner may read.
pub(crate) const MODE_SECRET: u32 = 0o600;
/// Mode of what anybody may read.
pub(crate) const MODE_PUBLIC: u32 = 0o644;

/// The directory of public keys inside `out`.
pub(crate) fn key_set(out: &Path) -> PathBuf {
    out.join("keyset")
}

/// Name of the campaign's public key in the key set.
pub(crate) fn public_key_name(campaign: CampaignId) -> String {
    format!("campaign-{campaign}.pub.json")
}

/// Writes `parts`, one after the other, as `directory/name`: under another name first, synced,
/// renamed, and the directory synced.
pub(crate) fn write(directory: &Path, name: &str, mode: u32, parts: &[&[u8]]) -> Result<()> {
    let path = directory.join(name);
    // The directory is locked, so the name is this run's alone; readers look for other endings.
    let unfinished = directory.join(format!(".{name}.tmp"));
    write_synced(&unfinished, mode, parts)?;
    std::fs::rename(&unfinished, &path)
        .with_context(|| format!("cannot rename {} to {name}", unfinished.display()))?;
    sync_directory(directory)
}

/// Like [`write()`], but fails when the file is already there.
pub(crate) fn write_new(directory: &Path, name: &str, mode: u32, content: &[u8]) -> Result<()> {
    let path = directory.join(name);
    // Ends like the finished file, so that what ignores the one ignores the other.
    let unfinished = directory.join(format!(".{}.{name}", std::process::id()));
    write_synced(&unfinished, mode, &[content])?;
    // A hard link is the one step that both names the finished file and refuses an existing one.
    std::fs::hard_link(&unfinished, &path)
        .with_context(|| format!("cannot create {}", path.display()))?;
    std::fs::remove_file(&unfinished)
        .with_context(|| format!("cannot remove {}", unfinished.display()))?;
    sync_directory(directory)
}

fn write_synced(path: &Path, mode: u32, parts: &[&[u8]]) -> Result<()> {
    let write = || {
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(path)?;
        // Whatever the umask, and whoever left a file of this name behind.
        file.set_permissions(Permissions::from_mode(mode))?;
        for part in parts {
            file.write_all(part)?;
        }
        file.sync_all()
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

/// Makes the names in `directory` durable.
pub(crate) fn sync_directory(directory: &Path) -> Result<()> {
    File::open(directory)
        .and_then(|handle| handle.sync_all())
        .with_context(|| format!("cannot sync the directory {}", directory.display()))
}

/// Creates `directory` if it is missing.
pub(crate) fn create_directory(directory: &Path) -> Result<()> {
    std::fs::create_dir_all(directory)
        .with_context(|| format!("cannot create the directory {}", directory.display()))
}

/// Takes the directory for this run alone; the lock goes with the handle.
pub(crate) fn lock_directory(directory: &Path) -> Result<File> {
    let handle = File::open(directory)
        .with_context(|| format!("cannot open the directory {}", directory.display()))?;
    match handle.try_lock() {
        Ok(()) => Ok(handle),
        Err(std::fs::TryLockError::WouldBlock) => {
            bail!("{} is in use by another yao-seedgen; wait for it", directory.display())
        }
        Err(std::fs::TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("cannot lock {}", directory.display()))
        }
    }
}

/// The file's content, or `None` when there is no such file.
pub(crate) fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// The file's content.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}
