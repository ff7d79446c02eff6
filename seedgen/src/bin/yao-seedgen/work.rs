//! The output directory of `yao-seedgen reclaim`: its plan, the requests, and the answers. The plan
//! is there before the first request, and stays: seals that come later change nothing of what is
//! asked for. Decides nothing.

use crate::{
    files,
    post::{ComeAgain, Refused, Settlement},
    seeds::list,
};
use anyhow::{Context, Error, Result, bail};
use std::{
    collections::BTreeSet,
    fs::File,
    path::{Path, PathBuf},
};
use yao_protocol::{
    keys::KeySet,
    manifest::Manifest,
    void::{VoidAnswer, VoidRequest},
};
use yao_seedgen::{CampaignKeys, reclaim::ReclaimPlan};

/// Name of the plan.
const PLAN: &str = "plan.yaoplan";
/// Ending of a request, and of its answer.
const REQUEST: &str = ".yaovoid";
const ANSWER: &str = ".yaovoided";

/// So many requests that wait are named: before the opening all of them do.
const WAITING_NAMED_MAX: usize = 8;

const FOREIGN: &str = "is of another plan or secret, or damaged; choose another --out";

/// The directory, locked.
pub(crate) struct Out {
    path: PathBuf,
    _lock: File,
}

impl Out {
    /// Takes the directory; makes it if need be, so that no power cut takes it away.
    pub(crate) fn take(path: &Path) -> Result<Self> {
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
    pub(crate) fn plan(
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
    pub(crate) fn begin(
        self,
        plan: ReclaimPlan,
        never_left: bool,
        keys: &CampaignKeys,
    ) -> Result<Work> {
        let sign = keys.sign_key();
        let named = |request: VoidRequest| {
            let VoidRequest { generation, shard, first, .. } = request;
            let name = format!("void-{generation:03}-{:05}-{first:010}", shard.0);
            (name, request, request.encode(&sign))
        };
        let requests = plan.requests().into_iter().map(named).collect();
        let work = Work { out: self, plan, requests };
        let out = work.out();
        let plan = encode_plan(&work.plan, never_left);
        let plan_missing = is_missing(&out.join(PLAN), &plan)?;
        let missing = work.missing()?;
        // Before the first request: what was granted once belongs to this plan for ever, and only
        // who knows the plan can go on with it.
        if plan_missing {
            files::write(out, PLAN, files::MODE_PUBLIC, &[&plan])?;
        }
        for (name, bytes) in missing {
            files::write(&out.join("requests"), &name, files::MODE_PUBLIC, &[bytes])?;
        }
        Ok(work)
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
fn is_missing(path: &Path, content: &[u8]) -> Result<bool> {
    match files::read_if_there(path)? {
        None => Ok(true),
        Some(found) if found == content => Ok(false),
        Some(_) => bail!("{} {FOREIGN}", path.display()),
    }
}

/// A plan whose requests are all there.
pub(crate) struct Work {
    out: Out,
    plan: ReclaimPlan,
    /// Each with the name that its files have.
    requests: Vec<(String, VoidRequest, Vec<u8>)>,
}

impl Work {
    pub(crate) const fn plan(&self) -> &ReclaimPlan {
        &self.plan
    }

    pub(crate) fn out(&self) -> &Path {
        &self.out.path
    }

    /// The requests that have no file yet, by the file's name.
    fn missing(&self) -> Result<Vec<(String, &[u8])>> {
        let folder = self.out().join("requests");
        let files: Vec<(String, &[u8])> = self
            .requests
            .iter()
            .map(|(name, _, bytes)| (format!("{name}{REQUEST}"), bytes.as_slice()))
            .collect();
        let wanted: BTreeSet<PathBuf> = files.iter().map(|(name, _)| folder.join(name)).collect();
        if let Some(path) = list(&folder, REQUEST)?.iter().find(|path| !wanted.contains(*path)) {
            bail!("{} {FOREIGN}", path.display());
        }
        let mut missing = Vec::new();
        for (name, bytes) in files {
            if is_missing(&folder.join(&name), bytes)? {
                missing.push((name, bytes));
            }
        }
        Ok(missing)
    }

    fn answer(&self, name: &str) -> PathBuf {
        self.out().join("answers").join(format!("{name}{ANSWER}"))
    }

    /// Posts every request that has no good answer yet; each answer is a file before the next is
    /// asked. One that is refused, or is to come again, holds up none behind it.
    pub(crate) fn ask(&self, settlement: &Settlement, keys: &KeySet) -> Result<()> {
        let mut unanswered = Vec::new();
        for (name, request, bytes) in &self.requests {
            // What curl wrote until its connection broke is no answer: the same one comes again.
            let there = files::read_if_there(&self.answer(name))?;
            if there.is_some_and(|there| check(&there, request, keys).is_ok()) {
                continue;
            }
            let answer = match settlement.post("/v1/voids", bytes) {
                Err(error) if error.is::<Refused>() || error.is::<ComeAgain>() => {
                    unanswered.push((name.as_str(), error));
                    continue;
                }
                answer => answer?,
            };
            check(&answer, request, keys).with_context(|| format!("the answer to {name}"))?;
            let folder = self.out().join("answers");
            files::write(&folder, &format!("{name}{ANSWER}"), files::MODE_PUBLIC, &[&answer])?;
        }
        all_answered(unanswered)
    }

    /// Settlement's answers, in the order of the requests.
    pub(crate) fn answers(&self, keys: &KeySet) -> Result<Vec<VoidAnswer>> {
        let mut answers = Vec::new();
        for (name, request, _) in &self.requests {
            let path = self.answer(name);
            let Some(bytes) = files::read_if_there(&path)? else {
                bail!(
                    "there is no answer {}; name --ledger, or post the seals and each request: \
                     curl --fail --data-binary @{}/requests/{name}.yaovoid -o {} \
                     http://LEDGER/v1/voids",
                    path.display(),
                    self.out().display(),
                    path.display()
                );
            };
            let answer = check(&bytes, request, keys);
            answers.push(answer.with_context(|| path.display().to_string())?);
        }
        Ok(answers)
    }
}

fn names<'a>(of: &[(&'a str, Error)]) -> Vec<&'a str> {
    of.iter().map(|(name, _)| *name).collect()
}

/// Fails with all that was not answered. What may come again only waits; what is refused is told
/// first, for somebody must look.
fn all_answered(unanswered: Vec<(&str, Error)>) -> Result<()> {
    let (refused, later): (Vec<_>, Vec<_>) =
        unanswered.into_iter().partition(|(_, error)| error.is::<Refused>());
    if let Some((_, first)) = refused.first() {
        let advice = if refused.iter().any(|(_, error)| is_contradiction(error)) {
            format!("; {ANOTHER_PLAN}")
        } else {
            String::new()
        };
        let names = names(&refused).join(", ");
        bail!("{first}{advice}; refused are {} requests: {names}", refused.len());
    }
    let mut named = names(&later);
    named.truncate(WAITING_NAMED_MAX);
    let more = if named.len() < later.len() { ", ..." } else { "" };
    let waiting = format!("{} wait: {}{more}", later.len(), named.join(", "));
    later.into_iter().next_back().map_or(Ok(()), |(_, last)| Err(last.context(waiting)))
}

fn is_contradiction(error: &Error) -> bool {
    error.downcast_ref::<Refused>().is_some_and(|refused| refused.status == 409)
}

const ANOTHER_PLAN: &str = "if requests of this generation were granted before, go on with the \
                            --out directory that they lie in: its plan is kept there, and what it \
                            leaves is for the generation after it (name that directory as --seeds, \
                            too, once it is complete)";

/// An answer of settlement to exactly this request.
fn check(bytes: &[u8], request: &VoidRequest, keys: &KeySet) -> Result<VoidAnswer> {
    let answer = VoidAnswer::decode(bytes, keys)
        .context("is settlement-*.pub.json in --keys, and was it settlement that answered?")?;
    if answer.request != *request {
        bail!("it answers another request");
    }
    Ok(answer)
}
