//! The requests of a plan and settlement's answers, each a file of its own. Whether a packet may be
//! taken back is settlement's decision.

use super::{
    out::{FOREIGN, Out, is_missing},
    settlement::{ComeAgain, Refused, Settlement},
};
use crate::{files, seeds::list};
use anyhow::{Context, Error, Result, bail};
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};
use yao_protocol::{
    keys::KeySet,
    void::{VoidAnswer, VoidRequest},
};
use yao_seedgen::{CampaignKeys, reclaim::ReclaimPlan};

/// Ending of a request, and of its answer.
const REQUEST: &str = ".yaovoid";
const ANSWER: &str = ".yaovoided";
/// So many requests are named: before the opening all of them wait.
const NAMED_MAX: usize = 8;

/// All requests of a plan.
pub(super) struct Requests {
    out: Out,
    plan: ReclaimPlan,
    /// Each with the name that its files have, and its bytes.
    all: Vec<(String, VoidRequest, Vec<u8>)>,
}

impl Requests {
    pub(super) fn of(out: Out, plan: ReclaimPlan, keys: &CampaignKeys) -> Self {
        let sign = keys.sign_key();
        let named = |request: VoidRequest| {
            let VoidRequest { generation, shard, first, .. } = request;
            let name = format!("void-{generation:03}-{:05}-{first:010}", shard.0);
            (name, request, request.encode(&sign))
        };
        let all = plan.requests().into_iter().map(named).collect();
        Self { out, plan, all }
    }

    pub(super) const fn plan(&self) -> &ReclaimPlan {
        &self.plan
    }

    pub(super) fn out(&self) -> &Path {
        self.out.path()
    }

    /// The requests that have no file yet, by the file's name.
    ///
    /// # Errors
    /// A file of another plan or secret lies there.
    pub(super) fn missing(&self) -> Result<Vec<(String, &[u8])>> {
        let folder = self.out().join("requests");
        let files: Vec<(String, &[u8])> = self
            .all
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

    /// Writes what is [missing](Self::missing).
    pub(super) fn write(&self, missing: &[(String, &[u8])]) -> Result<()> {
        for (name, bytes) in missing {
            files::write(&self.out().join("requests"), name, files::MODE_PUBLIC, &[bytes])?;
        }
        Ok(())
    }

    fn answer(&self, name: &str) -> PathBuf {
        self.out().join("answers").join(format!("{name}{ANSWER}"))
    }

    /// Posts every request that has no good answer yet; each answer is a file before the next is
    /// asked. One that is refused, or is to come again, holds up none behind it.
    pub(super) fn ask(&self, settlement: &Settlement, keys: &KeySet) -> Result<()> {
        let mut unanswered = Unanswered::default();
        for (name, request, bytes) in &self.all {
            // What curl wrote until its connection broke is no answer: the same one comes again.
            let there = files::read_if_there(&self.answer(name))?;
            if there.is_some_and(|there| check(&there, request, keys).is_ok()) {
                continue;
            }
            let answer = match settlement.post("/v1/voids", bytes) {
                Ok(answer) => answer,
                Err(error) if error.is::<Refused>() => {
                    unanswered.refused.push((name, error));
                    continue;
                }
                Err(error) if error.is::<ComeAgain>() => {
                    unanswered.later.push((name, error));
                    continue;
                }
                Err(gone) => return unanswered.tell(Some(gone)),
            };
            check(&answer, request, keys).with_context(|| format!("the answer to {name}"))?;
            let folder = self.out().join("answers");
            files::write(&folder, &format!("{name}{ANSWER}"), files::MODE_PUBLIC, &[&answer])?;
        }
        unanswered.tell(None)
    }

    /// Settlement's answers, in the order of the requests.
    pub(super) fn answers(&self, keys: &KeySet) -> Result<Vec<VoidAnswer>> {
        let mut answers = Vec::new();
        for (name, request, _) in &self.all {
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

/// Requests without an answer, by name, and why.
#[derive(Default)]
struct Unanswered<'a> {
    /// Somebody must look.
    refused: Vec<(&'a str, Error)>,
    /// To come again.
    later: Vec<(&'a str, Error)>,
}

impl Unanswered<'_> {
    /// Fails with all of it, and with `gone`, why settlement was asked no further. Of these that
    /// comes first which no later run mends by itself.
    fn tell(self, gone: Option<Error>) -> Result<()> {
        let Self { refused, mut later } = self;
        let waiting =
            (!later.is_empty()).then(|| format!("{} wait: {}", later.len(), named(&later)));
        if let Some((_, first)) = refused.first() {
            let mut text = first.to_string();
            if refused.iter().any(|(_, error)| is_contradiction(error)) {
                text.push_str("; ");
                text.push_str(ANOTHER_PLAN);
            }
            let count = refused.len();
            text.push_str(&format!("; refused are {count} requests: {}", named(&refused)));
            for more in waiting.into_iter().chain(gone.map(|gone| format!("{gone:#}"))) {
                text.push_str("; ");
                text.push_str(&more);
            }
            bail!(text);
        }
        match (gone.or_else(|| later.pop().map(|(_, last)| last)), waiting) {
            (None, _) => Ok(()),
            (Some(error), None) => Err(error),
            (Some(error), Some(waiting)) => Err(error.context(waiting)),
        }
    }
}

/// The names of the first few.
fn named(requests: &[(&str, Error)]) -> String {
    let names: Vec<&str> = requests.iter().take(NAMED_MAX).map(|(name, _)| *name).collect();
    let more = if names.len() < requests.len() { ", ..." } else { "" };
    format!("{}{more}", names.join(", "))
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
