//! Directories from which somebody else wants to issue: the owner's own, copies of it, links to its
//! files, another mount of it, and older states of it.

use super::{
    cases::{OTHER, STATE},
    stage::{Place, Stage},
};
use crate::shell;
use anyhow::{Context, Result};
use std::{fs, path::Path, process::Command};

/// Somebody who wants to issue while the owner serves.
#[derive(Clone, Copy, Debug)]
pub(super) enum Intruder {
    /// From the very directory.
    Same(Place),
    /// From a copy.
    Copy(Place),
    /// From hard links to the cursors and the journal, and to the lock file or a copy of it.
    Linked { lock: bool, place: Place },
    /// From the directory by another mount.
    Mount,
}

impl Intruder {
    /// Makes what it starts from: directory, place, and why it must be refused.
    pub(super) fn prepare(&self, stage: &Stage) -> Result<(&'static str, Place, &'static str)> {
        const HELD: &str = "held by another process";
        match self {
            Self::Same(place) => Ok((STATE, *place, HELD)),
            Self::Copy(place) => {
                copy(stage, STATE, OTHER, &["-a"])?;
                let reason = match place {
                    Place::Here => "from another directory",
                    Place::Elsewhere => "copied or restored",
                };
                Ok((OTHER, *place, reason))
            }
            Self::Linked { lock, place } => {
                copy(stage, STATE, OTHER, &["-al"])?;
                if *lock {
                    return Ok((OTHER, *place, "second hard link"));
                }
                let path = stage.path(OTHER).join("lock");
                fs::remove_file(&path)?;
                fs::write(&path, "")?;
                let here = *place == Place::Here;
                Ok((OTHER, *place, if here { "from another directory" } else { HELD }))
            }
            Self::Mount => {
                fs::create_dir_all(stage.path(OTHER))?;
                let mut mount = Command::new("mount");
                mount.arg("--bind").arg(stage.path(STATE)).arg(stage.path(OTHER));
                shell::run(&mut mount)?;
                Ok((OTHER, Place::Here, HELD))
            }
        }
    }

    pub(super) fn clear(&self, stage: &Stage) -> Result<()> {
        match self {
            Self::Same(_) => Ok(()),
            Self::Mount => {
                shell::run(Command::new("umount").arg(stage.path(OTHER)))?;
                remove(stage, OTHER)
            }
            Self::Copy(_) | Self::Linked { .. } => remove(stage, OTHER),
        }
    }
}

pub(super) fn copy(stage: &Stage, from: &str, to: &str, how: &[&str]) -> Result<()> {
    shell::run(Command::new("cp").args(how).arg(stage.path(from)).arg(stage.path(to)))
}

pub(super) fn remove(stage: &Stage, name: &str) -> Result<()> {
    Ok(fs::remove_dir_all(stage.path(name))?)
}

/// Writes the files of `from` over those of `to`, which stay the same files, and removes what
/// `from` does not have.
pub(super) fn put_in_place(from: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(to)? {
        let path = entry?.path();
        let source = from.join(path.file_name().context("an entry has a name")?);
        if path.is_dir() {
            put_in_place(&source, &path)?;
        } else if source.exists() {
            fs::write(&path, fs::read(&source)?)?;
        } else {
            fs::remove_file(&path)?;
        }
    }
    for entry in fs::read_dir(from)? {
        let path = entry?.path();
        let target = to.join(path.file_name().context("an entry has a name")?);
        if !target.exists() && path.is_file() {
            fs::copy(&path, &target)?;
        }
    }
    Ok(())
}
