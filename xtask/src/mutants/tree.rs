//! The copy of the repository in which mutants are made. Never writes outside of it.

use super::list::Mutant;
use crate::shell;
use anyhow::{Context, Result};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The copy.
pub(super) struct Tree {
    path: PathBuf,
}

impl Tree {
    /// Copies every file that git knows or would add, as it is in the working tree, to `path`. What
    /// is the same already is left alone, so that nothing is built twice; what is gone is removed.
    pub(super) fn copy(root: &Path, path: &Path) -> Result<Self> {
        let arguments = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"];
        let names = shell::output(Command::new("git").current_dir(root).args(arguments))?;
        let mut kept = BTreeSet::new();
        for name in names.split_terminator('\0') {
            let (from, to) = (root.join(name), path.join(name));
            // Deleted and not yet committed so, or a repository of its own.
            if !from.is_file() {
                continue;
            }
            kept.insert(to.clone());
            let bytes = fs::read(&from).with_context(|| from.display().to_string())?;
            if fs::read(&to).is_ok_and(|old| old == bytes) {
                continue;
            }
            if let Some(folder) = to.parent() {
                fs::create_dir_all(folder)?;
            }
            fs::copy(&from, &to).with_context(|| format!("cannot copy to {}", to.display()))?;
        }
        remove_others(path, &kept)?;
        Ok(Self { path: path.to_owned() })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Does `act` while the mutant's changes are in the copy, and takes them out again.
    pub(super) fn with<T>(&self, mutant: &Mutant, act: impl FnOnce() -> Result<T>) -> Result<T> {
        let read = |file: &str| {
            let path = self.path.join(file);
            fs::read_to_string(&path).with_context(|| path.display().to_string())
        };
        let mutated = mutant.mutate(read)?;
        let mut originals = Vec::with_capacity(mutated.len());
        for (file, text) in &mutated {
            originals.push((self.path.join(file), read(file)?));
            fs::write(self.path.join(file), text)?;
        }
        let result = act();
        for (path, text) in originals {
            fs::write(&path, text).with_context(|| format!("cannot mend {}", path.display()))?;
        }
        result
    }
}

/// Removes the files below `folder` that are not in `kept`.
fn remove_others(folder: &Path, kept: &BTreeSet<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            remove_others(&path, kept)?;
        } else if !kept.contains(&path) {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}
