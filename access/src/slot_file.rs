//! A small state on disk as two alternating slots: cursors and the spool's watermark.
//!
//! Owns creating, opening and replacing such a file so that a crash after any line leaves the old
//! state or the new one. Never interprets the payload, and never retries a failed sync (M3).

use crate::disk::{Access, Disk, DiskFile};
use std::{
    io,
    path::{Path, PathBuf},
};
use thiserror::Error;
use yao_protocol::{
    WireError,
    limits::SLOT_BYTES,
    slots::{Slot, SlotPair},
};

/// Why a slot file cannot be used.
#[derive(Debug, Error)]
pub enum SlotFileError {
    /// There is no such file. What that means is for the caller: a cursor must exist (M2).
    #[error("{path} does not exist", path = .0.display())]
    Missing(PathBuf),
    /// Somebody made the file before.
    #[error("{path} exists already and is left as it is", path = .0.display())]
    Exists(PathBuf),
    /// Neither slot is valid, or the file has another size.
    #[error("{path}: {error}", path = path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with the first slot.
        error: WireError,
    },
    /// The operating system refused.
    #[error("cannot {doing} {path}: {error}", path = path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On which file.
        path: PathBuf,
        /// The answer.
        error: io::Error,
    },
    /// An earlier write or sync failed: what is on disk is unknown until the next start.
    #[error("{path} is fenced since an earlier write failed; restart to read what is there",
        path = .0.display())]
    Fenced(PathBuf),
}

/// What tells a file from its copy (M4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileIdentity {
    /// Inode number.
    pub inode: u64,
    /// Birth time, ns since the epoch; 0 where the file system has none.
    pub born_ns: u64,
}

/// The identity of an open file.
///
/// # Errors
/// That of `fstat`.
pub fn identity(file: &dyn DiskFile) -> io::Result<FileIdentity> {
    file.stamp().map(|stamp| FileIdentity { inode: stamp.inode, born_ns: stamp.born_ns })
}

/// Creates `directory`, if it is not there, so that it survives a crash.
///
/// # Errors
/// Those of creating it and of syncing its parent.
pub fn create_directory(disk: &dyn Disk, directory: &Path) -> io::Result<()> {
    if disk.is_directory(directory) {
        return Ok(());
    }
    disk.create_directories(directory)?;
    disk.sync_directory(directory)?;
    match directory.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(parent) => disk.sync_directory(parent),
        None => Ok(()),
    }
}

/// Which slot is the newest, and what it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotMark {
    /// Its sequence.
    pub sequence: u64,
    /// BLAKE3 of its payload.
    pub digest: [u8; 32],
}

impl SlotMark {
    /// The mark of a slot.
    #[must_use]
    pub fn new(sequence: u64, payload: &[u8]) -> Self {
        Self { sequence, digest: *blake3::hash(payload).as_bytes() }
    }
}

/// An open slot file.
#[derive(Debug)]
pub struct SlotFile {
    file: Box<dyn DiskFile>,
    path: PathBuf,
    magic: [u8; 8],
    /// Sequence of the newest slot on disk.
    sequence: u64,
    /// Set by the first failed write or sync, for ever.
    fenced: bool,
}

impl SlotFile {
    /// Creates the file with both slots written; `first` makes their payload from the new file's
    /// identity. The file appears under its name only when it is whole and on disk.
    ///
    /// # Errors
    /// [`SlotFileError::Exists`] when there is one, and those of the operating system.
    pub fn create(
        disk: &dyn Disk,
        path: &Path,
        magic: [u8; 8],
        first: impl FnOnce(FileIdentity) -> Vec<u8>,
    ) -> Result<Self, SlotFileError> {
        let fail = |doing| move |error| SlotFileError::Io { doing, path: path.to_owned(), error };
        let draft = draft_path(path);
        // A draft is what a crash in this function left; nobody else makes files of that name.
        match disk.remove(&draft) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(fail("remove the draft of")(error));
            }
            _ => {}
        }
        let file = disk.open(&draft, Access::Create).map_err(fail("create"))?;
        let payload = first(identity(&*file).map_err(fail("stat"))?);
        for sequence in [0, 1] {
            let slot = Slot { sequence, payload: payload.clone() };
            file.write_all_at(&slot.encode(magic), slot.offset()).map_err(fail("write"))?;
        }
        file.sync_all().map_err(fail("sync"))?;
        // A link never replaces an existing name, a rename would.
        match disk.link(&draft, path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                disk.remove(&draft).map_err(fail("remove the draft of"))?;
                return Err(SlotFileError::Exists(path.to_owned()));
            }
            linked => linked.map_err(fail("name"))?,
        }
        disk.remove(&draft).map_err(fail("remove the draft of"))?;
        disk.sync_directory(directory_of(path)).map_err(fail("sync the directory of"))?;
        Ok(Self { file, path: path.to_owned(), magic, sequence: 1, fenced: false })
    }

    /// Opens the file and reads both slots.
    ///
    /// # Errors
    /// [`SlotFileError::Missing`], [`SlotFileError::Content`] when no slot is valid, and those of
    /// the operating system.
    pub fn open(
        disk: &dyn Disk,
        path: &Path,
        magic: [u8; 8],
    ) -> Result<(Self, SlotPair), SlotFileError> {
        let fail = |doing| move |error| SlotFileError::Io { doing, path: path.to_owned(), error };
        let file = match disk.open(path, Access::Write) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(SlotFileError::Missing(path.to_owned()));
            }
            Err(error) => return Err(fail("open")(error)),
        };
        // A killed process leaves a slot that was written and not synced. Whoever goes by it before
        // it is on disk, goes by what a power cut takes away; after a failed sync the kernel keeps
        // pages that it believes clean, so they are dropped and the disk itself is read.
        file.sync_all().map_err(fail("sync"))?;
        file.drop_cached().map_err(fail("drop the cached pages of"))?;
        let mut bytes = vec![0; 2 * SLOT_BYTES + 1];
        let mut length = 0;
        while length < bytes.len() {
            match file.read_at(&mut bytes[length..], length as u64).map_err(fail("read"))? {
                0 => break,
                count => length += count,
            }
        }
        let pair = SlotPair::decode(magic, &bytes[..length])
            .map_err(|error| SlotFileError::Content { path: path.to_owned(), error })?;
        let sequence = pair.newest.sequence;
        Ok((Self { file, path: path.to_owned(), magic, sequence, fenced: false }, pair))
    }

    /// Replaces the older slot with `payload`; it is on disk when this returns `Ok`.
    ///
    /// # Errors
    /// The first error fences the file for the life of the process (M3): whether the new slot is
    /// on disk is unknown, and a second sync would claim success without having written.
    pub fn write(&mut self, payload: &[u8]) -> Result<(), SlotFileError> {
        if self.fenced {
            return Err(SlotFileError::Fenced(self.path.clone()));
        }
        let slot = Slot { sequence: self.sequence + 1, payload: payload.to_vec() };
        let bytes = slot.encode(self.magic);
        let result = match self.file.write_all_at(&bytes, slot.offset()) {
            Ok(()) => self.file.sync_data().map_err(|error| ("sync", error)),
            Err(error) => Err(("write", error)),
        };
        match result {
            Ok(()) => {
                self.sequence = slot.sequence;
                Ok(())
            }
            Err((doing, error)) => {
                self.fenced = true;
                Err(SlotFileError::Io { doing, path: self.path.clone(), error })
            }
        }
    }

    /// Breaks the disk under the file: it takes every byte and syncs nothing.
    #[cfg(test)]
    pub(crate) fn break_disk(&mut self) {
        self.file = crate::disk::broken();
    }

    /// Which file this is, to be compared with what its payload says (M4).
    ///
    /// # Errors
    /// That of `fstat`.
    pub fn identity(&self) -> Result<FileIdentity, SlotFileError> {
        identity(&*self.file).map_err(|error| SlotFileError::Io {
            doing: "stat",
            path: self.path.clone(),
            error,
        })
    }

    /// Sequence of the newest slot on disk.
    #[must_use]
    pub const fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn draft_path(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".draft");
    path.with_file_name(name)
}

/// The directory that holds `path`.
#[must_use]
pub fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::RealDisk;
    use std::fs::{self, File, OpenOptions};

    const MAGIC: [u8; 8] = *b"YAOTEST\0";

    fn newest(path: &Path) -> Result<(Vec<u8>, bool), SlotFileError> {
        SlotFile::open(&RealDisk, path, MAGIC)
            .map(|(_, pair)| (pair.newest.payload, pair.both_valid))
    }

    #[test]
    fn each_write_replaces_the_older_slot_only() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("state");
        let mut file = SlotFile::create(&RealDisk, &path, MAGIC, |_| vec![0]).expect("create");
        for n in 1..=5_u8 {
            let before = fs::read(&path).expect("read");
            file.write(&[n]).expect("write");
            let after = fs::read(&path).expect("read");
            let kept = if n % 2 == 0 { 0..SLOT_BYTES } else { SLOT_BYTES..2 * SLOT_BYTES };
            // Sequence n + 1 goes to slot (n + 1) mod 2: the other one is untouched.
            assert_eq!(before[kept.clone()], after[kept]);
            assert_eq!(newest(&path).expect("open"), (vec![n], true));
        }
    }

    #[test]
    fn a_write_torn_at_any_byte_leaves_the_state_before_it() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("state");
        let mut file =
            SlotFile::create(&RealDisk, &path, MAGIC, |_| b"old".to_vec()).expect("create");
        let before = fs::read(&path).expect("read");
        file.write(b"new").expect("write");
        let after = fs::read(&path).expect("read");
        for torn_at in 1..SLOT_BYTES {
            let mut bytes = before.clone();
            bytes[..torn_at].copy_from_slice(&after[..torn_at]);
            let pair = SlotPair::decode(MAGIC, &bytes).expect("the other slot is whole");
            let whole = bytes[..SLOT_BYTES] == after[..SLOT_BYTES];
            let expected: &[u8] = if whole { b"new" } else { b"old" };
            assert_eq!((pair.newest.payload.as_slice(), torn_at), (expected, torn_at));
        }
    }

    #[test]
    fn a_second_create_is_refused_and_a_lost_file_is_missing() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("state");
        let file =
            SlotFile::create(&RealDisk, &path, MAGIC, |_| b"first".to_vec()).expect("create");
        let again = SlotFile::create(&RealDisk, &path, MAGIC, |_| b"second".to_vec());
        assert!(matches!(again, Err(SlotFileError::Exists(_))));
        assert_eq!(newest(&path).expect("open").0, b"first");
        let copy = directory.path().join("copy");
        fs::copy(&path, &copy).expect("copy");
        let (copy, _) = SlotFile::open(&RealDisk, &copy, MAGIC).expect("open");
        assert_ne!(copy.identity().expect("stat"), file.identity().expect("stat"));
        fs::remove_file(&path).expect("remove");
        assert!(matches!(newest(&path), Err(SlotFileError::Missing(_))));
    }

    #[test]
    fn m3_a_failed_write_fences_the_file_for_good() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("state");
        let mut file =
            SlotFile::create(&RealDisk, &path, MAGIC, |_| b"old".to_vec()).expect("create");
        let read_only = Box::new(File::open(&path).expect("read only"));
        let writable = std::mem::replace(&mut file.file, read_only);
        assert!(matches!(file.write(b"new"), Err(SlotFileError::Io { doing: "write", .. })));
        // Even though the next write would succeed, nobody knows what the failed one left behind.
        file.file = writable;
        assert!(matches!(file.write(b"new"), Err(SlotFileError::Fenced(_))));
        assert_eq!(newest(&path).expect("open").0, b"old");
        // The same for a sync: this device takes every byte and syncs nothing.
        let (mut file, _) = SlotFile::open(&RealDisk, &path, MAGIC).expect("open");
        let null = OpenOptions::new().write(true).open("/dev/null").expect("open");
        let working = std::mem::replace(&mut file.file, Box::new(null));
        assert!(matches!(file.write(b"new"), Err(SlotFileError::Io { doing: "sync", .. })));
        file.file = working;
        assert!(matches!(file.write(b"new"), Err(SlotFileError::Fenced(_))));
    }
}
