//! What the kernel says about a process: CPU time and memory.

use anyhow::{Context, Result, bail};
use rustix::thread::{CpuSet, sched_setaffinity};
use std::fs;

/// Reads `/proc` about one process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Meter {
    process: u32,
}

impl Meter {
    /// The meter of the process with this id.
    ///
    /// # Errors
    /// There is no such process.
    pub(crate) fn new(process: u32) -> Result<Self> {
        let meter = Self { process };
        meter.cpu_ns().with_context(|| format!("--server-pid {process}"))?;
        Ok(meter)
    }

    /// CPU time of all its threads that live, user and system, ns (`schedstat`, exact to the
    /// scheduler's clock; ended threads are not in it, and ours live as long as the process).
    ///
    /// # Errors
    /// The process has ended.
    pub(crate) fn cpu_ns(&self) -> Result<u64> {
        let folder = format!("/proc/{}/task", self.process);
        let mut sum = 0_u64;
        for entry in fs::read_dir(&folder).with_context(|| format!("cannot read {folder}"))? {
            // A thread may end between the listing and this read.
            let Ok(text) = fs::read_to_string(entry?.path().join("schedstat")) else { continue };
            let first = text.split_whitespace().next().context("schedstat is empty")?;
            sum += first.parse::<u64>().context("schedstat begins with a number")?;
        }
        Ok(sum)
    }

    /// Resident memory, bytes.
    ///
    /// # Errors
    /// The process has ended.
    pub(crate) fn resident_bytes(&self) -> Result<u64> {
        self.kibibytes("status", "VmRSS:")
    }

    /// Private memory that the process has written, bytes: what it really owns.
    ///
    /// # Errors
    /// The process has ended, or belongs to somebody else.
    pub(crate) fn private_dirty_bytes(&self) -> Result<u64> {
        self.kibibytes("smaps_rollup", "Private_Dirty:")
    }

    fn kibibytes(&self, file: &str, key: &str) -> Result<u64> {
        let path = format!("/proc/{}/{file}", self.process);
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let Some(line) = text.lines().find_map(|line| line.strip_prefix(key)) else {
            bail!("{path} has no line {key}");
        };
        let number = line.trim().trim_end_matches(" kB").trim();
        Ok(number.parse::<u64>().with_context(|| format!("{path}: {key}{line}"))? * 1_024)
    }
}

/// Keeps this process on one core.
///
/// # Errors
/// There is no such core.
pub(crate) fn pin_to_core(core: usize) -> Result<()> {
    let mut cores = CpuSet::new();
    cores.set(core);
    sched_setaffinity(None, &cores).with_context(|| format!("cannot run on core {core}"))
}
