//! The disk as the files of money need it: cursors, journal, spool, seed file. Every write of them
//! goes through [`Disk`], so that the simulator gives the same code a disk that loses what was not
//! synced, tears writes, and fails (docs/decisions/0017-simulator.md).
//!
//! Owns the real disk, [`RealDisk`]. Never decides what a failure means, never retries.

use rustix::{
    fs::{FallocateFlags, FlockOperation, fallocate, flock},
    io::{Errno, retry_on_intr},
};
use std::{
    ffi::OsString,
    fmt,
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    path::Path,
    time::UNIX_EPOCH,
};

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// To read; it must exist.
    Read,
    /// To read and write; it must exist.
    Write,
    /// To read and write; it must not exist, and is nobody else's to read.
    Create,
    /// To read and write; created, when it does not exist, as by [`Self::Create`].
    Append,
}

/// What tells a file from its copy, and from itself after a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Device number.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
    /// Birth time, ns since the epoch; 0 where the file system has none.
    pub born_ns: u64,
    /// Length.
    pub bytes: u64,
    /// When the content was changed last: seconds and nanoseconds since the epoch.
    pub modified: (i64, i64),
}

impl Stamp {
    fn of(metadata: &fs::Metadata) -> Self {
        let born = metadata.created().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            born_ns: born.and_then(|since| u64::try_from(since.as_nanos()).ok()).unwrap_or(0),
            bytes: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }
}

/// Names and directories. An error is that of the operating system.
#[expect(clippy::missing_errors_doc, reason = "said once, above")]
pub trait Disk: fmt::Debug + Send + Sync {
    /// Opens a file.
    fn open(&self, path: &Path, access: Access) -> io::Result<Box<dyn DiskFile>>;
    /// Opens a file to read, for this process alone until it is dropped: whoever has it, by any
    /// name, is in the way (`WouldBlock`), and so is a second name of it (`TooManyLinks`).
    fn hold(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    /// What the file of this name is.
    fn stamp(&self, path: &Path) -> io::Result<Stamp>;
    /// Whether there is something of this name.
    fn exists(&self, path: &Path) -> bool;
    /// Whether there is a directory of this name.
    fn is_directory(&self, path: &Path) -> bool;
    /// The names in a directory, in any order.
    fn names(&self, directory: &Path) -> io::Result<Vec<OsString>>;
    /// Creates a directory, and those above it.
    fn create_directories(&self, directory: &Path) -> io::Result<()>;
    /// Gives a file a second name; one that exists is left as it is.
    fn link(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Gives a file another name, in the place of whatever has it.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Takes a file's name away.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a directory durable: new, changed and removed ones.
    fn sync_directory(&self, directory: &Path) -> io::Result<()>;
    /// Bytes that files in this directory can still take.
    fn free_bytes(&self, directory: &Path) -> io::Result<u64>;
}

/// An open file. An error is that of the operating system.
#[expect(clippy::missing_errors_doc, reason = "said once, above")]
pub trait DiskFile: fmt::Debug + Send {
    /// Reads from `offset` on, how many bytes it says; 0 at the end.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all of `bytes`, or fails after any part of them.
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Cuts the file, or lengthens it with zeros.
    fn set_length(&self, bytes: u64) -> io::Result<()>;
    /// Takes room for so many bytes from the file system; what lies behind the end reads as zeros.
    /// Where a file system cannot, the file is left to grow with each write.
    fn allocate(&self, bytes: u64) -> io::Result<()>;
    /// Waits until content and length are on disk.
    fn sync_data(&self) -> io::Result<()>;
    /// Waits until content and all that is known of the file are on disk.
    fn sync_all(&self) -> io::Result<()>;
    /// Drops cached pages that the kernel believes clean: what is read next is what the disk holds.
    fn drop_cached(&self) -> io::Result<()>;
    /// What it is.
    fn stamp(&self) -> io::Result<Stamp>;

    /// Fills `buffer` from `offset` on; a shorter file is an error.
    fn read_exact_at(&self, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
        while !buffer.is_empty() {
            match self.read_at(buffer, offset)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => {
                    buffer = &mut buffer[count..];
                    offset += count as u64;
                }
            }
        }
        Ok(())
    }

    /// Appends the whole content to `bytes`.
    fn read_to_end(&self, bytes: &mut Vec<u8>) -> io::Result<()> {
        let length = usize::try_from(self.stamp()?.bytes).unwrap_or(usize::MAX);
        let start = bytes.len();
        bytes.resize(start + length, 0);
        let mut read = 0;
        while read < length {
            match self.read_at(&mut bytes[start + read..], read as u64)? {
                0 => break,
                count => read += count,
            }
        }
        bytes.truncate(start + read);
        Ok(())
    }
}

/// The disk of this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn open(&self, path: &Path, access: Access) -> io::Result<Box<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        options.read(true);
        match access {
            Access::Read => &mut options,
            Access::Write => options.write(true),
            Access::Create => options.write(true).create_new(true).mode(0o600),
            Access::Append => options.write(true).create(true).truncate(false).mode(0o600),
        };
        Ok(Box::new(options.open(path)?))
    }

    fn hold(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let file = File::open(path)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        match file.metadata()?.nlink() {
            1 => Ok(Box::new(file)),
            _ => Err(io::ErrorKind::TooManyLinks.into()),
        }
    }

    fn stamp(&self, path: &Path) -> io::Result<Stamp> {
        fs::metadata(path).map(|metadata| Stamp::of(&metadata))
    }

    fn exists(&self, path: &Path) -> bool {
        path.exists()
    }

    fn is_directory(&self, path: &Path) -> bool {
        path.is_dir()
    }

    fn names(&self, directory: &Path) -> io::Result<Vec<OsString>> {
        fs::read_dir(directory)?.map(|entry| entry.map(|entry| entry.file_name())).collect()
    }

    fn create_directories(&self, directory: &Path) -> io::Result<()> {
        fs::create_dir_all(directory)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::hard_link(from, to)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        File::open(directory)?.sync_all()
    }

    fn free_bytes(&self, directory: &Path) -> io::Result<u64> {
        let space = rustix::fs::statvfs(directory)?;
        Ok(space.f_bavail.saturating_mul(space.f_frsize))
    }
}

impl DiskFile for File {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        FileExt::read_at(self, buffer, offset)
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        FileExt::write_all_at(self, bytes, offset)
    }

    fn set_length(&self, bytes: u64) -> io::Result<()> {
        self.set_len(bytes)
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        match retry_on_intr(|| fallocate(self, FallocateFlags::empty(), 0, bytes)) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            allocated => Ok(allocated?),
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        Self::sync_data(self)
    }

    fn sync_all(&self) -> io::Result<()> {
        Self::sync_all(self)
    }

    fn drop_cached(&self) -> io::Result<()> {
        Ok(rustix::fs::fadvise(self, 0, None, rustix::fs::Advice::DontNeed)?)
    }

    fn stamp(&self) -> io::Result<Stamp> {
        self.metadata().map(|metadata| Stamp::of(&metadata))
    }
}

/// A disk that takes every byte and syncs nothing.
#[cfg(test)]
pub(crate) fn broken() -> Box<dyn DiskFile> {
    Box::new(OpenOptions::new().write(true).open("/dev/null").expect("a device"))
}
