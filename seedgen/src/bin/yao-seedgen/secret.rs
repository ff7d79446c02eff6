//! The campaign's secret on disk: 32 bytes, mode 0600, created once and never overwritten.

use crate::files;
use anyhow::{Context, Result, anyhow, bail};
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use yao_seedgen::{Secret, derive::SECRET_BYTES};
use zeroize::Zeroize;

/// The secret at `path`; made first when there is none.
pub(crate) fn read_or_create(path: &Path) -> Result<Secret> {
    let there = path
        .try_exists()
        .with_context(|| format!("cannot look for the secret {}", path.display()))?;
    if !there {
        create(path)?;
        eprintln!("created the secret {}; whoever has it knows every win", path.display());
    }
    read(path)
}

/// The secret at `path`.
pub(crate) fn read(path: &Path) -> Result<Secret> {
    let name = path.display();
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            bail!("there is no secret {name}; name the one the shards were generated with")
        }
        Err(error) => return Err(error).with_context(|| format!("cannot read the secret {name}")),
    };
    let mode = file.metadata()?.permissions().mode() & 0o777;
    if mode & !files::MODE_SECRET != 0 {
        bail!(
            "the secret {name} has mode {mode:04o}, others may read it; chmod 600 it, or \
             make a new one if it leaked"
        );
    }
    // One byte more than it may have, so that a longer file is noticed; never on the heap.
    let mut bytes = [0; SECRET_BYTES + 1];
    let length =
        read_up_to(file, &mut bytes).with_context(|| format!("cannot read the secret {name}"))?;
    if length != SECRET_BYTES {
        let found = if length > SECRET_BYTES { "more".to_owned() } else { length.to_string() };
        bail!(
            "the secret {name} must have {SECRET_BYTES} bytes, it has {found}; restore it \
             from its copy"
        );
    }
    let mut secret = [0; SECRET_BYTES];
    secret.copy_from_slice(&bytes[..SECRET_BYTES]);
    bytes.zeroize();
    Ok(Secret::new(secret))
}

fn read_up_to(mut file: File, bytes: &mut [u8]) -> std::io::Result<usize> {
    let mut length = 0;
    while length < bytes.len() {
        match file.read(&mut bytes[length..])? {
            0 => break,
            read => length += read,
        }
    }
    Ok(length)
}

fn create(path: &Path) -> Result<()> {
    let name = path.file_name().and_then(|name| name.to_str());
    let name = name.ok_or_else(|| anyhow!("{} is no file name", path.display()))?;
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut bytes = [0; SECRET_BYTES];
    getrandom::fill(&mut bytes).map_err(|error| anyhow!("no random numbers: {error}"))?;
    let written = files::write_new(directory, name, files::MODE_SECRET, &bytes);
    bytes.zeroize();
    written
}
