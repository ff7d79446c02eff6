//! The output directory of `yao-seedgen reclaim`, and its plan. The plan is there before the first
//! request, and stays: seals that come later change nothing of what is asked for. Decides nothing.

use super::requests::Requests;
use crate::files;
use anyhow::{Context, Result, bail};
use std::{
    fs::File,
    path::{Path, PathBuf},
};
use yao_protocol::manifest::Manifest;
use yao_seedgen::{CampaignKeys, reclaim::ReclaimPlan};

/// Name of the plan.
const PLAN: &str = "plan.yaoplan";

/// What is wrong with a file that is not the one that this plan makes.
pub(super) const FOREIGN: &str = "is of another plan or secret, or damaged; choose another --out";

/// The directory, locked.
pub(super) struct Out {
    path: PathBuf,
    _lock: File,
}

impl Out {
    /// Takes the directory; makes it if need be, so that no power cut takes it away.
    pub(super) fn take(path: &Path) -> Result<Self> {
        let folders = ["requests", "answers"].map(|name| path.join(name));
        for folder in folders.iter().chain([&files::key_set(path)]) {
            files::create_directory(folder)?;
        }
        files::sync_directory(path)?;
        let above = path.parent().filter(|above| !above.as_os_str().is_empty());
        files::sync_directory(above.unwrap_or(Path::new(".")))?;
        Ok(Self { path: path.to_owned(), _lock: files::lock_directory(path)? })
    }

    /// The plan that an earlier run began with: one of `manifests` in this frame, of what never
    /// left only, or not. `None` where no run began.
    pub(super) fn plan(
        &self,
        frame: &ReclaimPlan,
        manifests: &[Manifest],
        never_left: bool,
    ) -> Result<Option<ReclaimPlan>> {
        let path = self.path.join(PLAN);
        let Some(bytes) = files::read_if_there(&path)? else { return Ok(None) };
        let (plan, only) =
            decode_plan(&bytes).with_context(|| format!("{} {FOREIGN}", path.display()))?;
        if only != never_left || !frame.frames(&plan, manifests) {
            bail!(
                "{} was made with other --seeds, --wave-seconds, --shards or --never-left; repeat \
                 those, or choose another --out",
                path.display()
            );
        }
        Ok(Some(plan))
    }

    /// Writes plan and requests, unless they are there. When anything that is there is another
    /// one, nothing is written.
    pub(super) fn begin(
        self,
        plan: ReclaimPlan,
        never_left: bool,
        keys: &CampaignKeys,
    ) -> Result<Requests> {
        let bytes = encode_plan(&plan, never_left);
        let plan_missing = is_missing(&self.path.join(PLAN), &bytes)?;
        let requests = Requests::of(self, plan, keys);
        let missing = requests.missing()?;
        // Before the first request: what was granted once belongs to this plan for ever, and only
        // who knows the plan can go on with it.
        if plan_missing {
            files::write(requests.out(), PLAN, files::MODE_PUBLIC, &[&bytes])?;
        }
        requests.write(&missing)?;
        Ok(requests)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// The plan's bytes, one that says whether it asks for what never left only, and BLAKE3 of both.
fn encode_plan(plan: &ReclaimPlan, never_left: bool) -> Vec<u8> {
    let mut bytes = plan.encode();
    bytes.push(u8::from(never_left));
    bytes.extend(blake3::hash(&bytes).as_bytes());
    bytes
}

fn decode_plan(bytes: &[u8]) -> Result<(ReclaimPlan, bool)> {
    let (content, hash) = bytes.split_last_chunk::<32>().context("it is too short")?;
    if blake3::hash(content) != *hash {
        bail!("its hash is another one");
    }
    let (never_left, plan) = content.split_last().context("it is too short")?;
    Ok((ReclaimPlan::decode(plan)?, *never_left == 1))
}

/// Whether there is no such file; a file with another content is an error.
pub(super) fn is_missing(path: &Path, content: &[u8]) -> Result<bool> {
    match files::read_if_there(path)? {
        None => Ok(true),
        Some(found) if found == content => Ok(false),
        Some(_) => bail!("{} {FOREIGN}", path.display()),
    }
}
