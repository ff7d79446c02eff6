//! Disks that are copied, and disks that are put back: what no disk can notice by itself, so that
//! somebody beside it must say who may issue (M4, fleet mode; docs/grants.md).

use super::{Event, MS, SECOND, World, nodes::Host};
use crate::{check::Death, disk::SimDisk, node::STATE};
use std::path::{Path, PathBuf};

/// The directory of the state that says how far each shard was issued.
const CURSORS: &str = "cursor";
/// The one that says what was issued, packet by packet. The spool's is not in a backup: no rule
/// lets a node forget an open.
const JOURNAL: &str = "journal";
/// Of a thousand times that a phone dials a node with a twin, so many reach the twin: one address
/// stands for both.
const TWIN_PERMILLE: u64 = 400;

/// Cursors and journal as they were: a copy that was taken while the node ran has a journal that is
/// newer than its cursors. A clone, inodes and all, is of one instant.
#[derive(Debug)]
pub(super) struct Backup {
    cursors: Vec<Saved>,
    /// The journal of the instant of the cursors.
    journal: Vec<Saved>,
    /// And that of later, once it was copied.
    newer: Option<Vec<Saved>>,
}

#[derive(Debug)]
struct Saved {
    path: PathBuf,
    bytes: Vec<u8>,
    /// Inode and birth.
    identity: (u64, u64),
}

impl Backup {
    /// Cursors; of the journal what a clone would have.
    fn begin(disk: &SimDisk) -> Self {
        let (cursors, journal) = (saved(disk, CURSORS), saved(disk, JOURNAL));
        Self { cursors, journal, newer: None }
    }

    /// The journal.
    fn end(&mut self, disk: &SimDisk) {
        self.newer = Some(saved(disk, JOURNAL));
    }

    /// Puts it on a disk, in the place of what is there; with the inodes it had if `cloned`.
    fn put(&self, disk: &SimDisk, cloned: bool) {
        [CURSORS, JOURNAL].iter().for_each(|name| disk.clear(&Path::new(STATE).join(name)));
        let journal = self.newer.as_ref().filter(|_| !cloned).unwrap_or(&self.journal);
        for Saved { path, bytes, identity } in self.cursors.iter().chain(journal) {
            if cloned {
                disk.put_as(path, bytes, *identity);
            } else {
                disk.put(path, bytes);
            }
        }
    }
}

fn saved(disk: &SimDisk, directory: &str) -> Vec<Saved> {
    let save = |path: PathBuf| {
        let bytes = disk.cached(&path)?;
        let identity = disk.inode_of(&path)?;
        Some(Saved { path, bytes, identity })
    };
    disk.files(&Path::new(STATE).join(directory)).into_iter().filter_map(save).collect()
}

impl World<'_> {
    /// A second node runs with a copy of this one's state, and the first one may stand still or die
    /// meanwhile. A clone of the whole file system, inodes and all, is told from its original
    /// after a reboot under `burn` alone.
    pub(super) fn twin(&mut self, node: usize) {
        let taken = self.hosts.len() > self.plot.nodes;
        if self.plot.grants.is_none() || taken || self.hosts[node].life == 0 {
            return;
        }
        let index = self.hosts.len();
        let random = self.nemesis_random.fork(index as u64);
        let original = &self.hosts[node];
        let shard = original.shard;
        let (clock, canary) = (self.clocks[index], self.plot.canary);
        let mut twin = Host::new((index, shard), clock, self.show, canary, random);
        twin.skew_us = original.skew_us;
        twin.booted_at = self.now;
        twin.troubled = true;
        (twin.ruined, twin.rotten) = (original.ruined, original.rotten);
        twin.tell_time(self.now);
        twin.initialise(self.show);
        let cloned = self.plot.burns() && self.nemesis_random.chance(500);
        let mut copy = Backup::begin(&original.disk);
        copy.end(&original.disk);
        copy.put(&twin.disk, cloned);
        self.checks.joins_as(node);
        let about = [("node", node as u64), ("as", index as u64), ("cloned", u64::from(cloned))];
        self.trace.say(self.now, "twin", &about);
        self.hosts.push(twin);
        self.after(100 * MS, Event::Start(index));
        match self.nemesis_random.below(3) {
            0 => self.kill(node, false),
            1 => {
                let long = self.nemesis_random.between(SECOND, 12 * SECOND);
                let until = &mut self.hosts[node].paused_until;
                *until = (*until).max(self.now + long);
            }
            _ => {}
        }
    }

    /// Somebody saves cursors, then the journal, and later puts both back: three calls.
    pub(super) fn save_or_restore(&mut self, node: usize) {
        if self.plot.grants.is_none() {
            return;
        }
        let disk = &self.hosts[node].disk;
        let backup = match self.backups.remove(&node) {
            None => {
                self.backups.insert(node, Backup::begin(disk));
                return;
            }
            Some(mut backup) if backup.newer.is_none() => {
                backup.end(disk);
                self.backups.insert(node, backup);
                return;
            }
            Some(backup) => backup,
        };
        // Without a reboot only a file's identity tells that it was put back.
        let cloned = self.plot.burns() && self.nemesis_random.chance(500);
        self.kill(node, cloned);
        backup.put(&self.hosts[node].disk, cloned);
        // What it ended in order with is not there any more.
        self.hosts[node].death = Death::Unknown;
        self.checks.may_lack(node);
        let about = [("node", node as u64), ("cloned", u64::from(cloned))];
        self.trace.say(self.now, "put back", &about);
    }

    /// The node that answers at the address of `node`: itself, or its twin.
    pub(super) fn answers_for(&mut self, node: usize) -> usize {
        let shard = self.hosts[node].shard;
        let is_twin = |host: &&Host<'_>| host.index != node && host.shard == shard;
        let twin = self.hosts.iter().find(is_twin).map(|host| host.index);
        twin.filter(|_| self.people_random.chance(TWIN_PERMILLE)).unwrap_or(node)
    }
}
