//! `yao-ledger init`: makes the settlement key once and publishes its public half.

use crate::LedgerError;
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};
use yao_protocol::{
    KeyId,
    keys::{KeyOwner, PrivateKeyFile, PublicKeyFile, SignKey},
};

/// Makes the signing key, unless it is there, and writes its public half into `keys`. Running it
/// again changes nothing.
///
/// # Errors
/// A key of another id in the file, another public key under this id, and those of the operating
/// system.
pub fn init(signing_key: &Path, key_id: KeyId, keys: &Path) -> Result<PathBuf, LedgerError> {
    let owner = KeyOwner::Settlement { key_id };
    let file = if signing_key.exists() {
        let (found, _) = load(signing_key)?;
        if found.owner != owner {
            let message = format!("holds the key of {:?}, not of {owner:?}", found.owner);
            return Err(LedgerError::config(signing_key, message));
        }
        found
    } else {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(|error| {
            LedgerError::config(signing_key, format!("no randomness from the system: {error}"))
        })?;
        let file = PrivateKeyFile { owner, seed };
        let text = serde_json::to_string_pretty(&file).expect("plain data always serialises");
        create(signing_key, &text, 0o600)?;
        file
    };
    let public = PublicKeyFile { owner, key: SignKey::from_seed(&file.seed).public().to_bytes() };
    fs::create_dir_all(keys).map_err(|error| LedgerError::config(keys, error.to_string()))?;
    let path = keys.join(format!("settlement-{key_id}.pub.json"));
    let text = serde_json::to_string_pretty(&public).expect("plain data always serialises");
    if path.exists() {
        let same = fs::read_to_string(&path).is_ok_and(|old| {
            serde_json::from_str(&old).is_ok_and(|old: PublicKeyFile| old == public)
        });
        if !same {
            let message = format!("holds another key; choose a --key-id other than {key_id}");
            return Err(LedgerError::config(path, message));
        }
    } else {
        create(&path, &text, 0o644)?;
    }
    Ok(path)
}

/// The signing key and its id.
///
/// # Errors
/// A file that cannot be read, that others can read, or that is no settlement key.
pub fn signing_key(path: &Path) -> Result<(SignKey, KeyId), LedgerError> {
    let (file, key) = load(path)?;
    match file.owner {
        KeyOwner::Settlement { key_id } => Ok((key, key_id)),
        owner => Err(LedgerError::config(path, format!("holds the key of {owner:?}"))),
    }
}

fn load(path: &Path) -> Result<(PrivateKeyFile, SignKey), LedgerError> {
    let fail = |error: io::Error| {
        LedgerError::config(path, format!("{error}; `yao-ledger init` makes the signing key"))
    };
    let mode = fs::metadata(path).map_err(fail)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        let message = format!("holds a secret but has mode {mode:04o}; run `chmod 600` on it");
        return Err(LedgerError::config(path, message));
    }
    let text = fs::read_to_string(path).map_err(fail)?;
    let file: PrivateKeyFile = serde_json::from_str(&text)
        .map_err(|error| LedgerError::config(path, format!("is no signing key: {error}")))?;
    let key = SignKey::from_seed(&file.seed);
    Ok((file, key))
}

/// Writes a new file that is there as a whole or not at all, and never replaces one.
pub(crate) fn create(path: &Path, text: &str, mode: u32) -> Result<(), LedgerError> {
    let fail = |error: io::Error| LedgerError::config(path, format!("cannot be written: {error}"));
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    fs::create_dir_all(directory).map_err(fail)?;
    let mut draft = path.as_os_str().to_owned();
    draft.push(".draft");
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&draft);
    let file =
        file.as_mut().map_err(|error| fail(io::Error::new(error.kind(), error.to_string())))?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(fail)?;
    fs::hard_link(&draft, path).map_err(fail)?;
    fs::remove_file(&draft).map_err(fail)?;
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(fail)
}
