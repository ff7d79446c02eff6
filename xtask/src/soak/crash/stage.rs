//! What one trial after another is played on: an event of its own, a disk of its own, and orders
//! for the node that runs there. Several stages do not know of each other.

use super::{
    disk::{self, Disk},
    faults::Faults,
    kit::Kit,
};
use crate::{
    event::{Event, Plan},
    shell,
};
use anyhow::{Context, Result};
use std::{
    fs::{self, File},
    path::PathBuf,
    process,
    sync::Arc,
};
use yao_protocol::CampaignId;

/// A reservation of campaigns/crashes.toml, packets: the smallest there is (M1).
pub(in crate::soak) const BLOCK: u64 = 64;
/// Users of a stage, each of whom wins once: more than any trial needs.
const USERS: &str = "400";
/// Stages of a process at most: each has a campaign of its own, for two nodes of one host may not
/// have the same (M4).
const STAGES_MAX: u64 = 256;

const PLAN: Plan = Plan {
    campaign_file: "campaigns/crashes.toml",
    shake_interval_ms: 0,
    threads: 1,
    grace_seconds: 3_600,
    ..Plan::DEMO
};

/// An event, its disk, and its faults.
pub(in crate::soak) struct Stage {
    pub(in crate::soak) event: Event,
    pub(in crate::soak) disk: Disk,
    pub(in crate::soak) faults: Faults,
    pub(in crate::soak) campaign: CampaignId,
    pub(in crate::soak) tokens: Arc<[String]>,
}

impl Stage {
    /// Stage `number` of the soak `name`.
    pub(in crate::soak) fn new(kit: &Kit, name: &str, number: u64) -> Result<Self> {
        assert!(number < STAGES_MAX, "a soak has a few stages");
        let plan = Plan { campaign: u64::from(process::id()) * STAGES_MAX + number, ..PLAN };
        let campaign = CampaignId(plan.campaign);
        // What the ledger writes need not outlive the machine: it loses no power here.
        let (folder, name) = (disk::folder(), format!("{}{name}-{number}", disk::PREFIX));
        let mut event = Event::prepare_in(&folder, kit.binaries.clone(), &name, plan)?;
        let disk = Disk::make(event.directory(), kit.loses_power)?;
        let faults = Faults::new(kit.library.clone(), disk.state(), event.directory());
        event.place_access(disk.state(), faults.environment());
        let mut mint = event.program("netbench");
        mint.args(["token", "mint", "--key", "session/session.key.pem", "--user", "1"]);
        let tokens = shell::output(mint.args(["--count", USERS]))?;
        let tokens = tokens.lines().map(str::to_owned).collect();
        Ok(Self { event, disk, faults, campaign, tokens })
    }

    /// Clears the stage: no state, no ledger, nothing seen.
    pub(in crate::soak) fn clear(&mut self) -> Result<()> {
        self.event.forget()?;
        // That there is no state is on disk, too: a power cut brings nothing back.
        File::open(self.disk.root())?.sync_all()?;
        self.faults.begin(None)
    }

    /// Ends what runs and removes every file.
    pub(in crate::soak) fn remove(self) -> Result<()> {
        let Self { mut event, disk, .. } = self;
        event.forget()?;
        drop(disk);
        event.remove()
    }

    /// Keeps everything of a trial that went wrong; where.
    pub(in crate::soak) fn keep(&self, label: &str) -> Result<PathBuf> {
        let name: String =
            label.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        let kept = shell::target().join("crashes-kept").join(name);
        fs::create_dir_all(&kept)?;
        let mut copy = process::Command::new("cp");
        copy.arg("-r").arg(self.disk.state());
        for file in ["access.log", "faults.log", "tickets.log", "schedule.toml", "ledger.db"] {
            if self.event.path(file).exists() {
                copy.arg(self.event.path(file));
            }
        }
        shell::run(copy.arg(&kept)).context("keeping what a trial left")?;
        Ok(kept)
    }
}
