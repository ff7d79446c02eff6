//! Names of files: as processes see them, as the medium holds them, and the changes in between. A
//! change is on the medium when its directory was synced; a power cut keeps any number of the first
//! of the others, for a journaling file system keeps their order.

use crate::random::Random;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

#[derive(Clone, Debug)]
enum Change {
    Link(PathBuf, u64),
    Remove(PathBuf),
}

impl Change {
    fn is_in(&self, directory: &Path) -> bool {
        let (Self::Link(path, _) | Self::Remove(path)) = self;
        path.parent() == Some(directory)
    }
}

/// All names of a disk. Directories are durable at once: they are made before there is money.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    seen: BTreeMap<PathBuf, u64>,
    durable: BTreeMap<PathBuf, u64>,
    changes: Vec<Change>,
    directories: BTreeSet<PathBuf>,
}

impl Names {
    pub(super) fn find(&self, path: &Path) -> Option<u64> {
        self.seen.get(path).copied()
    }

    pub(super) fn find_durable(&self, path: &Path) -> Option<u64> {
        self.durable.get(path).copied()
    }

    pub(super) fn is_directory(&self, path: &Path) -> bool {
        self.directories.contains(path)
    }

    pub(super) fn create_directories(&mut self, directory: &Path) {
        for ancestor in directory.ancestors() {
            self.directories.insert(ancestor.to_owned());
        }
    }

    pub(super) fn below(&self, directory: &Path) -> Vec<PathBuf> {
        let inside = |path: &&PathBuf| path.parent() == Some(directory);
        self.seen.keys().filter(inside).cloned().collect()
    }

    /// Every inode that has a name somewhere.
    pub(super) fn inodes(&self) -> BTreeSet<u64> {
        self.seen.values().chain(self.durable.values()).copied().collect()
    }

    pub(super) fn link(&mut self, path: &Path, inode: u64) {
        self.seen.insert(path.to_owned(), inode);
        self.changes.push(Change::Link(path.to_owned(), inode));
    }

    pub(super) fn remove(&mut self, path: &Path) {
        self.seen.remove(path);
        self.changes.push(Change::Remove(path.to_owned()));
    }

    /// A name that is durable at once.
    pub(super) fn put(&mut self, path: &Path, inode: u64) {
        if let Some(directory) = path.parent() {
            self.create_directories(directory);
        }
        self.seen.insert(path.to_owned(), inode);
        self.durable.insert(path.to_owned(), inode);
    }

    /// Names that are gone at once, in cache and on the medium.
    pub(super) fn clear(&mut self, directory: &Path) {
        let stays = |path: &PathBuf| path.parent() != Some(directory);
        self.seen.retain(|path, _| stays(path));
        self.durable.retain(|path, _| stays(path));
        self.changes.retain(|change| !change.is_in(directory));
    }

    pub(super) fn sync(&mut self, directory: &Path) {
        let changes = std::mem::take(&mut self.changes);
        for change in changes {
            if change.is_in(directory) {
                self.store(change);
            } else {
                self.changes.push(change);
            }
        }
    }

    fn store(&mut self, change: Change) {
        match change {
            Change::Link(path, inode) => {
                self.durable.insert(path, inode);
            }
            Change::Remove(path) => {
                self.durable.remove(&path);
            }
        }
    }

    pub(super) fn power_cut(&mut self, random: &mut Random) {
        let mut changes = std::mem::take(&mut self.changes);
        changes.truncate(random.index(changes.len() + 1));
        changes.into_iter().for_each(|change| self.store(change));
        self.seen = self.durable.clone();
    }
}
