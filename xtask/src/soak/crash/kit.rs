//! What every soak about crashes begins with: programs that are built, a namespace in which disks
//! are mounted, and a plain word where power cannot be cut.

use super::{disk, faults::Faults};
use crate::{event, soak::namespace};
use anyhow::Result;
use std::path::PathBuf;

/// What every stage is built from.
#[derive(Clone)]
pub(in crate::soak) struct Kit {
    pub(in crate::soak) binaries: PathBuf,
    pub(in crate::soak) library: PathBuf,
    pub(in crate::soak) loses_power: bool,
}

/// Whether a soak goes on in this process.
pub(in crate::soak) enum Ready {
    Here(Kit),
    /// It ran to its end in a namespace.
    Elsewhere(Result<()>),
}

impl Kit {
    /// Builds everything for the soak `name`, enters a namespace where disks can be mounted, and
    /// says plainly when power cuts must be skipped.
    pub(in crate::soak) fn prepare(release: bool, name: &str) -> Result<Ready> {
        let mountable = disk::why_not_mounted();
        if mountable.is_none() && !namespace::is_inside() {
            return Ok(Ready::Elsewhere(namespace::enter(&[
                "--mount",
                "--propagation",
                "private",
            ])));
        }
        disk::remove_leftovers()?;
        let binaries = event::build(release)?;
        let library = Faults::build(release)?;
        let canary = format!("{}{name}-canary-{}", disk::PREFIX, std::process::id());
        let folder = disk::folder().join(canary);
        let why_not = mountable.or_else(|| disk::why_no_power_cuts(&folder, &library));
        if let Some(why_not) = &why_not {
            println!("power cuts are SKIPPED: {why_not}");
        }
        Ok(Ready::Here(Self { binaries, library, loses_power: why_not.is_none() }))
    }
}
