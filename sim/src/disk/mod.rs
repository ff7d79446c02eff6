//! A disk that does all that a disk may do: loses what was not synced, tears it at 512 bytes, keeps
//! it out of order, forgets names whose directory was not synced, fails, fills up, and rots. The
//! access node's own code runs on it, through `yao_access::disk`.
//!
//! Each file has two contents: what processes read (the page cache), and what the medium holds.
//! A sync copies the dirty ranges from the first to the second. A sync that fails copies some
//! sectors or none and calls the pages clean all the same, as Linux does: the next sync succeeds
//! without them.

mod inode;
mod names;
#[cfg(test)]
mod tests;

use self::{inode::Inode, names::Names};
use crate::{canary::Canary, random::Random};
use std::{
    collections::BTreeMap,
    ffi::OsString,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use yao_access::disk::{Access, Disk, DiskFile, Stamp};

/// Bytes that a medium writes whole or not at all.
pub const SECTOR_BYTES: usize = 512;

/// What an allocation shows of itself at most.
const ALLOCATED_BYTES: usize = 4 * 1024;
/// Room on a disk that is not full.
const FREE_BYTES: u64 = 1 << 40;

/// What unwinds a simulated process that ends in the middle of an operation.
#[derive(Clone, Copy, Debug)]
pub struct Killed;

/// What the disk does wrong at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Troubles {
    /// Writes and syncs that fail, of a thousand.
    pub error_permille: u64,
    /// Nothing grows any more.
    pub full: bool,
    /// The process ends in the operation with this number.
    pub kill_at: Option<u64>,
    /// Below this directory no sync succeeds, and few other things do.
    pub dead: Option<&'static str>,
}

/// What is done to a file or directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Write,
    Sync,
}

/// Of a thousand writes to a dead disk, so many are taken all the same: by the page cache.
const DEAD_TAKES_PERMILLE: u64 = 600;

/// The disk of one node.
#[derive(Clone, Debug)]
pub struct SimDisk(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    random: Random,
    inodes: BTreeMap<u64, Inode>,
    names: Names,
    next_inode: u64,
    now_ns: u64,
    troubles: Troubles,
    canary: Canary,
    /// Operations that change something, so far.
    operations: u64,
    /// Operations that failed for no fault of the caller.
    failures: u64,
}

/// What becomes of an operation.
enum Fate {
    Works,
    Fails,
    Kills,
}

impl State {
    /// Numbers an operation that changes something, and says what becomes of it.
    fn fate(&mut self, path: &Path, act: Act) -> Fate {
        self.operations += 1;
        if self.troubles.kill_at == Some(self.operations) {
            self.troubles.kill_at = None;
            return Fate::Kills;
        }
        if self.troubles.dead.is_some_and(|dead| path.starts_with(dead))
            && (act == Act::Sync || !self.random.chance(DEAD_TAKES_PERMILLE))
        {
            self.failures += 1;
            return Fate::Fails;
        }
        if self.troubles.error_permille > 0 && self.random.chance(self.troubles.error_permille) {
            self.failures += 1;
            return Fate::Fails;
        }
        Fate::Works
    }

    fn inode(&self, inode: u64) -> &Inode {
        self.inodes.get(&inode).expect("an open file keeps its inode")
    }

    fn inode_mut(&mut self, inode: u64) -> &mut Inode {
        self.inodes.get_mut(&inode).expect("an open file keeps its inode")
    }

    fn stamp(&self, inode: u64) -> Stamp {
        let file = self.inode(inode);
        let modified = i64::try_from(file.modified_ns).expect("a simulated time");
        Stamp {
            device: 1,
            inode,
            born_ns: file.born_ns,
            bytes: file.cached.len() as u64,
            modified: (modified / 1_000_000_000, modified % 1_000_000_000),
        }
    }

    fn power_cut(&mut self) {
        self.names.power_cut(&mut self.random);
        let named = self.names.inodes();
        self.inodes.retain(|inode, _| named.contains(inode));
        for inode in self.inodes.values_mut() {
            inode.power_cut(&mut self.random);
        }
    }
}

fn failed() -> io::Error {
    io::Error::other("Input/output error (simulated)")
}

fn full() -> io::Error {
    io::ErrorKind::StorageFull.into()
}

/// Ends the process in the middle of what it does; no panic hook hears of it.
fn kill() -> ! {
    std::panic::resume_unwind(Box::new(Killed))
}

impl SimDisk {
    /// An empty disk.
    #[must_use]
    pub fn new(random: Random, canary: Canary) -> Self {
        Self(Arc::new(Mutex::new(State {
            random,
            inodes: BTreeMap::new(),
            names: Names::default(),
            next_inode: 11,
            now_ns: 1,
            troubles: Troubles::default(),
            canary,
            operations: 0,
            failures: 0,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A killed process leaves the lock poisoned, and the disk as it was.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The time for births and changes of files.
    pub fn set_time(&self, now_ns: u64) {
        self.state().now_ns = now_ns;
    }

    /// What goes wrong from now on.
    pub fn set_troubles(&self, change: impl FnOnce(&mut Troubles)) {
        change(&mut self.state().troubles);
    }

    /// The process ends in the middle of the `after`th operation from now on.
    pub fn kill_after(&self, after: u64) {
        let mut state = self.state();
        state.troubles.kill_at = Some(state.operations + 1 + after);
    }

    /// Operations that failed for no fault of the caller.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.state().failures
    }

    /// Operations that change something, so far.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// Power is cut: what was not synced survives in part, or whole, or not at all.
    pub fn power_cut(&self) {
        self.state().power_cut();
    }

    /// Files below `directory`, by name, as processes see them.
    #[must_use]
    pub fn files(&self, directory: &Path) -> Vec<PathBuf> {
        self.state().names.below(directory)
    }

    /// What a process reads in a file.
    #[must_use]
    pub fn cached(&self, path: &Path) -> Option<Vec<u8>> {
        self.look_cached(path, <[u8]>::to_vec)
    }

    /// The same without a copy; `look` does nothing else to this disk.
    pub fn look_cached<R>(&self, path: &Path, look: impl FnOnce(&[u8]) -> R) -> Option<R> {
        let state = self.state();
        state.names.find(path).map(|inode| look(&state.inode(inode).cached))
    }

    /// Looks at what is left of a file when power is cut now and nothing unsynced survives; `None`
    /// when not even its name does. `look` does nothing else to this disk.
    pub fn look_durable<R>(&self, path: &Path, look: impl FnOnce(&[u8]) -> R) -> Option<R> {
        let state = self.state();
        state.names.find_durable(path).map(|inode| look(&state.inode(inode).durable))
    }

    /// Turns one bit of a file over, in cache and medium.
    pub fn rot(&self, path: &Path, offset: usize, bit: u8) {
        let mut state = self.state();
        if let Some(inode) = state.names.find(path) {
            state.inode_mut(inode).rot(offset, bit);
        }
    }

    /// Puts a file there, synced: what an operator copies.
    pub fn put(&self, path: &Path, bytes: &[u8]) {
        let number = self.state().next_inode;
        let born_ns = self.state().now_ns;
        self.put_as(path, bytes, (number, born_ns));
    }

    /// The same with an inode and its birth of another time: what is cloned with its file system.
    pub fn put_as(&self, path: &Path, bytes: &[u8], (number, born_ns): (u64, u64)) {
        let mut state = self.state();
        state.next_inode = state.next_inode.max(number + 1);
        let mut inode = Inode::new(born_ns);
        inode.cached = bytes.to_vec();
        inode.durable = bytes.to_vec();
        state.inodes.insert(number, inode);
        state.names.put(path, number);
    }

    /// The inode of a file, and when it was made, ns.
    #[must_use]
    pub fn inode_of(&self, path: &Path) -> Option<(u64, u64)> {
        let state = self.state();
        let number = state.names.find(path)?;
        Some((number, state.inode(number).born_ns))
    }

    /// Takes every file of a directory away, for good.
    pub fn clear(&self, directory: &Path) {
        self.state().names.clear(directory);
    }
}

impl Disk for SimDisk {
    fn open(&self, path: &Path, access: Access) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.state();
        let found = state.names.find(path);
        let inode = match (found, access) {
            (Some(_), Access::Create) => return Err(io::ErrorKind::AlreadyExists.into()),
            (Some(inode), _) => inode,
            (None, Access::Read | Access::Write) => return Err(io::ErrorKind::NotFound.into()),
            (None, Access::Create | Access::Append) => {
                let fate = state.fate(path, Act::Write);
                match fate {
                    Fate::Works if state.troubles.full => return Err(full()),
                    Fate::Works => {}
                    Fate::Fails => return Err(failed()),
                    Fate::Kills => {
                        drop(state);
                        kill();
                    }
                }
                let (inode, now_ns) = (state.next_inode, state.now_ns);
                state.next_inode += 1;
                state.inodes.insert(inode, Inode::new(now_ns));
                state.names.link(path, inode);
                inode
            }
        };
        drop(state);
        Ok(Box::new(SimFile { disk: self.clone(), inode, path: path.to_owned() }))
    }

    /// A simulated disk has one process at a time, and its operators make no links.
    fn hold(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.open(path, Access::Read)
    }

    fn stamp(&self, path: &Path) -> io::Result<Stamp> {
        let state = self.state();
        let inode = state.names.find(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(state.stamp(inode))
    }

    fn exists(&self, path: &Path) -> bool {
        let state = self.state();
        state.names.find(path).is_some() || state.names.is_directory(path)
    }

    fn is_directory(&self, path: &Path) -> bool {
        self.state().names.is_directory(path)
    }

    fn names(&self, directory: &Path) -> io::Result<Vec<OsString>> {
        let state = self.state();
        if !state.names.is_directory(directory) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let files = state.names.below(directory);
        Ok(files.iter().filter_map(|path| path.file_name().map(ToOwned::to_owned)).collect())
    }

    fn create_directories(&self, directory: &Path) -> io::Result<()> {
        self.state().names.create_directories(directory);
        Ok(())
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.rename_or_link(from, to, false)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.rename_or_link(from, to, true)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.names.find(path).ok_or(io::ErrorKind::NotFound)?;
        match state.fate(path, Act::Write) {
            Fate::Works => state.names.remove(path),
            Fate::Fails => return Err(failed()),
            Fate::Kills => {
                drop(state);
                kill();
            }
        }
        Ok(())
    }

    fn free_bytes(&self, _directory: &Path) -> io::Result<u64> {
        Ok(if self.state().troubles.full { 0 } else { FREE_BYTES })
    }

    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        let mut state = self.state();
        match state.fate(directory, Act::Sync) {
            Fate::Works => state.names.sync(directory),
            Fate::Fails => return Err(failed()),
            Fate::Kills => {
                if state.random.chance(500) {
                    state.names.sync(directory);
                }
                drop(state);
                kill();
            }
        }
        Ok(())
    }
}

impl SimDisk {
    fn rename_or_link(&self, from: &Path, to: &Path, rename: bool) -> io::Result<()> {
        let mut state = self.state();
        let inode = state.names.find(from).ok_or(io::ErrorKind::NotFound)?;
        if !rename && state.names.find(to).is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        match state.fate(to, Act::Write) {
            Fate::Works => {
                state.names.link(to, inode);
                if rename {
                    state.names.remove(from);
                }
                Ok(())
            }
            Fate::Fails => Err(failed()),
            Fate::Kills => {
                drop(state);
                kill();
            }
        }
    }
}

/// An open file.
#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    inode: u64,
    /// The name by which it was opened.
    path: PathBuf,
}

impl SimFile {
    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.state();
        if state.canary == Canary::SyncLies {
            return Ok(());
        }
        match state.fate(&self.path, Act::Sync) {
            Fate::Works => {
                state.inode_mut(self.inode).sync();
                Ok(())
            }
            Fate::Fails => {
                let State { random, inodes, .. } = &mut *state;
                let file = inodes.get_mut(&self.inode).expect("an open file keeps its inode");
                file.fail_sync(random);
                Err(failed())
            }
            Fate::Kills => {
                if state.random.chance(500) {
                    state.inode_mut(self.inode).sync();
                }
                drop(state);
                kill();
            }
        }
    }
}

impl DiskFile for SimFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let state = self.disk.state();
        let content = &state.inode(self.inode).cached;
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(content.len());
        let count = buffer.len().min(content.len() - start);
        buffer[..count].copy_from_slice(&content[start..start + count]);
        Ok(count)
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        let now_ns = state.now_ns;
        let start = usize::try_from(offset).expect("a small file");
        let grows = start + bytes.len() > state.inode(self.inode).cached.len();
        let fate = state.fate(&self.path, Act::Write);
        let part = state.random.index(bytes.len() + 1);
        let file = state.inode_mut(self.inode);
        match fate {
            Fate::Works => {}
            Fate::Fails => {
                file.write(start, &bytes[..part], now_ns);
                return Err(failed());
            }
            Fate::Kills => {
                file.write(start, &bytes[..part], now_ns);
                drop(state);
                kill();
            }
        }
        if grows && state.troubles.full {
            state.inode_mut(self.inode).write(start, &bytes[..part], now_ns);
            return Err(full());
        }
        state.inode_mut(self.inode).write(start, bytes, now_ns);
        Ok(())
    }

    fn set_length(&self, bytes: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        let now_ns = state.now_ns;
        match state.fate(&self.path, Act::Write) {
            Fate::Works => {
                let length = usize::try_from(bytes).expect("a small file");
                state.inode_mut(self.inode).set_length(length, now_ns);
                Ok(())
            }
            Fate::Fails => Err(failed()),
            Fate::Kills => {
                drop(state);
                kill();
            }
        }
    }

    /// Of the room that is asked for only the first part is seen, as zeros behind the end: the
    /// rest would make every world as large as a spool. A file grows all the same.
    fn allocate(&self, bytes: u64) -> io::Result<()> {
        let start = self.disk.state().inode(self.inode).cached.len();
        let end = usize::try_from(bytes).map_or(ALLOCATED_BYTES, |end| end.min(ALLOCATED_BYTES));
        if end <= start {
            return Ok(());
        }
        self.write_all_at(&vec![0; end - start], start as u64)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.sync()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync()
    }

    fn drop_cached(&self) -> io::Result<()> {
        self.disk.state().inode_mut(self.inode).drop_clean();
        Ok(())
    }

    fn stamp(&self) -> io::Result<Stamp> {
        Ok(self.disk.state().stamp(self.inode))
    }
}
