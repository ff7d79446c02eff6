//! What the running kernel remembers of a cursor: the newest slot that was written, in a file in
//! memory (tmpfs). A reboot takes it away, and no backup of the disk brings it back: so a cursor
//! that was put back to an older state in this boot is noticed (M4).
//!
//! Never the only guard, and never waited for: without it a start asks settlement, or goes on as it
//! always did in local mode.

use crate::{
    files::{FileError, content},
    slot_file::{FileIdentity, SlotMark},
};
use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};
use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};
use yao_engine::grant;
use yao_protocol::{CampaignId, ShardId, WaveIndex};

const MAGIC: [u8; 8] = *b"YAOWITN\0";
/// Magic, sequence, digest of the slot's payload, and half a BLAKE3 of these.
const BYTES: usize = 64;
/// Of statfs(2): file systems in memory. As wide as the field is on any machine.
const TMPFS_MAGIC: i128 = 0x0102_1994;
const RAMFS_MAGIC: i128 = 0x8584_58f6;

/// The memory of one cursor.
#[derive(Debug)]
pub struct Witness {
    file: File,
    path: PathBuf,
    /// A write failed: what it says is older than the cursor, which a start takes for nothing.
    failed: bool,
}

impl Witness {
    /// The witness of `section`'s cursor with this identity, in `directory`, which must be in
    /// memory: for this process alone until it is dropped. Where a file system tells no birth
    /// time, and numbers its inodes as a copy of it does, a copied cursor has the same name here.
    ///
    /// # Errors
    /// A directory that cannot be made or is on a disk, another process that has the witness, and
    /// those of the operating system.
    pub fn open(
        directory: &Path,
        section: (CampaignId, ShardId, WaveIndex),
        cursor: FileIdentity,
    ) -> Result<Self, FileError> {
        let fail = |error: io::Error| content(directory, format!("{error}; see shard.witness"));
        fs::create_dir_all(directory).map_err(fail)?;
        let kind = rustix::fs::statfs(directory).map_err(|error| fail(error.into()))?.f_type;
        if !is_in_memory(i128::from(kind)) {
            let message = "is on a disk; name a directory in memory (tmpfs) in shard.witness, such \
                           as /run/yao: what a backup can bring back is no witness";
            return Err(content(directory, message));
        }
        let ((campaign, shard, wave), FileIdentity { inode, born_ns }) = (section, cursor);
        let wave = wave.0;
        let name = format!("cursor-{campaign}-{shard}-{wave}-{inode}-{born_ns}.yaowitness");
        let path = directory.join(name);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|error| content(&path, error))?;
        flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|error| match error {
            Errno::WOULDBLOCK => {
                content(&path, "is held by another process: a clone of this state runs here")
            }
            error => content(&path, io::Error::from(error)),
        })?;
        Ok(Self { file, path, failed: false })
    }

    /// What it says of a cursor whose newest slot is `mark`. Where the other slot was lost
    /// (`!whole`) that may have been the newer one: then one slot more proves nothing.
    #[must_use]
    pub fn of(&self, mark: SlotMark, whole: bool) -> grant::Witness {
        let mut bytes = [0; BYTES];
        if self.file.read_exact_at(&mut bytes, 0).is_err() {
            return grant::Witness::Absent;
        }
        match judge(&bytes, mark) {
            grant::Witness::RolledBack if !whole && sequence_of(&bytes) == mark.sequence + 1 => {
                grant::Witness::Absent
            }
            said => said,
        }
    }

    /// Remembers `mark`, which is on disk.
    pub fn write(&mut self, mark: SlotMark) {
        if let Err(error) = self.file.write_all_at(&encode(mark), 0)
            && !std::mem::replace(&mut self.failed, true)
        {
            let path = self.path.display();
            tracing::warn!(event = "witness_failed", %path, %error, "the next start asks anew");
        }
    }
}

const fn is_in_memory(kind: i128) -> bool {
    matches!(kind, TMPFS_MAGIC | RAMFS_MAGIC)
}

fn encode(mark: SlotMark) -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..16].copy_from_slice(&mark.sequence.to_le_bytes());
    bytes[16..48].copy_from_slice(&mark.digest);
    let check = blake3::hash(&bytes[..48]);
    bytes[48..].copy_from_slice(&check.as_bytes()[..16]);
    bytes
}

fn sequence_of(bytes: &[u8; BYTES]) -> u64 {
    let mut sequence = [0; 8];
    sequence.copy_from_slice(&bytes[8..16]);
    u64::from_le_bytes(sequence)
}

/// What these bytes say of a cursor whose newest slot is `mark`.
fn judge(bytes: &[u8; BYTES], mark: SlotMark) -> grant::Witness {
    let mut digest = [0; 32];
    digest.copy_from_slice(&bytes[16..48]);
    let seen = SlotMark { sequence: sequence_of(bytes), digest };
    if encode(seen) != *bytes {
        return grant::Witness::Absent;
    }
    if seen.sequence > mark.sequence || (seen.sequence == mark.sequence && seen != mark) {
        return grant::Witness::RolledBack;
    }
    // It is written after the cursor: a crash between the two leaves it one behind.
    if mark.sequence - seen.sequence <= 1 { grant::Witness::Agrees } else { grant::Witness::Absent }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(sequence: u64, content: u8) -> SlotMark {
        SlotMark { sequence, digest: [content; 32] }
    }

    #[test]
    fn m4_a_cursor_that_was_put_back_is_noticed_in_the_same_boot() {
        use grant::Witness::{Absent, Agrees, RolledBack};
        let seen = encode(mark(9, 1));
        assert_eq!(judge(&seen, mark(9, 1)), Agrees);
        assert_eq!(judge(&seen, mark(10, 2)), Agrees, "a crash between cursor and witness");
        assert_eq!(judge(&seen, mark(11, 2)), Absent, "somebody wrote without it");
        assert_eq!(judge(&seen, mark(8, 1)), RolledBack);
        assert_eq!(judge(&seen, mark(0, 1)), RolledBack);
        assert_eq!(judge(&seen, mark(9, 2)), RolledBack, "put back, and then written again");
        for bit in 0..BYTES * 8 {
            let mut flipped = seen;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(judge(&flipped, mark(9, 1)), Absent, "bit {bit}");
        }
        assert_eq!(judge(&[0; BYTES], mark(9, 1)), Absent);
    }

    #[test]
    fn m4_a_witness_on_a_disk_is_none() {
        assert!(is_in_memory(TMPFS_MAGIC) && is_in_memory(RAMFS_MAGIC) && !is_in_memory(0xef53));
        let memory = Path::new("/dev/shm");
        if !memory.is_dir() {
            return;
        }
        let directory = tempfile::tempdir_in(memory).expect("a directory in memory");
        let cursor = FileIdentity { inode: 3, born_ns: 4 };
        let section = (CampaignId(1), ShardId(2), WaveIndex(3));
        let open = |section, cursor| Witness::open(directory.path(), section, cursor);
        let mut witness = open(section, cursor).expect("in memory");
        assert_eq!(
            witness.of(mark(5, 1), true),
            grant::Witness::Absent,
            "nothing was written so far"
        );
        witness.write(mark(5, 1));
        let clone = open(section, cursor).expect_err("the same cursor, twice on this machine");
        assert!(clone.to_string().contains("a clone of this state runs here"), "{clone}");
        drop(witness);
        let again = open(section, cursor).expect("its process has ended");
        assert_eq!(again.of(mark(5, 1), true), grant::Witness::Agrees);
        assert_eq!(again.of(mark(4, 1), true), grant::Witness::RolledBack);
        // The slot that is missing is the one that was damaged, not one of another time.
        assert_eq!(again.of(mark(4, 1), false), grant::Witness::Absent);
        assert_eq!(again.of(mark(3, 1), false), grant::Witness::RolledBack);
        let copy = FileIdentity { inode: 5, born_ns: 4 };
        let wave = (section.0, section.1, WaveIndex(4));
        for (section, cursor) in [(section, copy), (wave, cursor)] {
            let other = open(section, cursor).expect("not the one that is held");
            assert_eq!(other.of(mark(4, 1), true), grant::Witness::Absent, "another cursor's");
        }
    }
}
