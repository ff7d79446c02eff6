//! A disk that can lose its power: ext4 on a loop device, mounted in a namespace of our own. Where
//! there is none, an ordinary folder, and power cuts are skipped.

use super::faults::Faults;
use crate::shell;
use anyhow::{Context, Result, bail};
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// Size of a disk: each of the segments that a trial makes takes its 64 MiB beforehand.
const BYTES: u64 = 512 << 20;
/// Where images and everything else of a stage lie, if it is there: a file in memory never makes
/// anybody wait for a busy disk of this machine, and what a cut takes away does not depend on it.
const MEMORY: &str = "/dev/shm";
/// How the names of stages begin there.
pub(in crate::soak) const PREFIX: &str = "yao-soak-";
/// A killed process gives its files back within this time.
const FREE_MAX: Duration = Duration::from_secs(5);

/// Where a node's state lies.
pub(in crate::soak) struct Disk {
    mount: PathBuf,
    /// The file that holds the file system; none for an ordinary folder.
    image: Option<PathBuf>,
}

impl Disk {
    /// A new disk in `folder`.
    pub(in crate::soak) fn make(folder: &Path, loses_power: bool) -> Result<Self> {
        let mount = folder.join("disk");
        fs::create_dir_all(&mount)?;
        if !loses_power {
            return Ok(Self { mount, image: None });
        }
        // Beside the mount point, not below it.
        let image = folder.join("image");
        File::create(&image)?.set_len(BYTES)?;
        // Blocks of the size that cursors are written in, as on any disk that is not tiny.
        shell::run(Command::new("mkfs.ext4").args(["-q", "-F", "-b", "4096"]).arg(&image))?;
        let disk = Self { mount, image: Some(image) };
        disk.mount()?;
        Ok(disk)
    }

    /// Where the node's state belongs.
    pub(in crate::soak) fn state(&self) -> PathBuf {
        self.mount.join("state")
    }

    /// The file system's root.
    pub(in crate::soak) fn root(&self) -> &Path {
        &self.mount
    }

    /// Whether its power can be cut.
    pub(in crate::soak) const fn loses_power(&self) -> bool {
        self.image.is_some()
    }

    /// The power is back: the file system is mounted anew, and its own journal replayed. Whoever
    /// used it has ended.
    pub(in crate::soak) fn come_back(&self) -> Result<()> {
        self.unmount()?;
        self.mount()
    }

    fn mount(&self) -> Result<()> {
        let image = self.image.as_ref().context("an ordinary folder is not mounted")?;
        shell::run(Command::new("mount").args(["-o", "loop"]).arg(image).arg(&self.mount))
    }

    fn unmount(&self) -> Result<()> {
        let start = Instant::now();
        loop {
            let mut command = Command::new("umount");
            let status = command.arg(&self.mount).stderr(Stdio::null()).status()?;
            if status.success() {
                return Ok(());
            }
            if start.elapsed() > FREE_MAX {
                bail!("{} is still in use after {FREE_MAX:?}", self.mount.display());
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Where stages belong.
pub(in crate::soak) fn folder() -> PathBuf {
    let memory = Path::new(MEMORY);
    if memory.is_dir() { memory.to_owned() } else { shell::target() }
}

/// Removes what soaks have left in memory that were ended before they could: nobody else would.
pub(in crate::soak) fn remove_leftovers() -> Result<()> {
    if folder() != Path::new(MEMORY) {
        return Ok(());
    }
    for entry in fs::read_dir(MEMORY)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(process) = process_of(&name) else { continue };
        if !Path::new("/proc").join(process.to_string()).exists() {
            // Another soak may remove it at this moment.
            drop(fs::remove_dir_all(entry.path()));
        }
    }
    Ok(())
}

/// The process in the name of a stage.
fn process_of(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?.rsplit('-').next()?.parse().ok()
}

impl Drop for Disk {
    fn drop(&mut self) {
        // The namespace ends with this process in any case.
        if let Some(image) = &self.image {
            self.unmount().ok();
            fs::remove_file(image).ok();
        }
    }
}

/// Why no disk of this machine can lose its power; `None` when one was seen to.
pub(in crate::soak) fn why_no_power_cuts(folder: &Path, library: &Path) -> Option<String> {
    why_not_mounted().or_else(|| {
        let tried = fs::create_dir_all(folder).map_err(Into::into).and_then(|()| {
            let outcome = canary(folder, library);
            fs::remove_dir_all(folder)?;
            outcome
        });
        tried.err().map(|error| format!("{error:#}"))
    })
}

/// Why no file system can be mounted, looked at without trying.
pub(in crate::soak) fn why_not_mounted() -> Option<String> {
    let root = shell::output(Command::new("id").arg("-u")).is_ok_and(|id| id.trim() == "0");
    if !root {
        return Some("only root can mount the file systems whose power is cut".to_owned());
    }
    let loops = Path::new("/dev/loop-control").exists();
    (!loops).then(|| "this machine has no loop devices".to_owned())
}

/// The harness can fail: what was synced survives a cut, and what was not does not.
fn canary(folder: &Path, library: &Path) -> Result<()> {
    let disk = Disk::make(folder, true)?;
    let state = disk.state();
    fs::create_dir(&state)?;
    File::open(disk.root())?.sync_all()?;
    let faults = Faults::new(library.to_owned(), state.clone(), folder);
    faults.begin(None)?;
    for (name, option) in [("kept", "conv=fsync"), ("lost", "conv=notrunc")] {
        let mut write = Command::new("dd");
        write.args(["if=/dev/zero", "bs=4096", "count=2", "status=none", option]);
        write.arg(format!("of={}", state.join(name).display())).envs(faults.environment());
        shell::run(&mut write)?;
    }
    faults.cut_power()?;
    disk.come_back()?;
    let length = |name: &str| fs::metadata(state.join(name)).map_or(0, |found| found.len());
    match (length("kept"), length("lost")) {
        (8_192, 0) => Ok(()),
        (kept, lost) => bail!("after a cut {kept} of 8192 synced bytes and {lost} others are left"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_in_memory_is_known_by_its_process() {
        assert_eq!(process_of("yao-soak-power-cuts-3-4711"), Some(4_711));
        for other in ["yao-soak-power-cuts", "yao-4711", "sem-4711", "yao-soak-a-47x"] {
            assert_eq!(process_of(other), None, "{other}");
        }
    }
}
