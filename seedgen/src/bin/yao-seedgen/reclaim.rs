//! `yao-seedgen reclaim`: asks settlement to take packets back, and packs what it voided into
//! shards of the next generation (docs/reclaim.md).
//!
//! Every request and every answer is a file in the output directory before the next step begins.
//! A run that was interrupted, or told to come again, is run again; the same inputs and answers
//! make the same files. The manifest is written last.

use crate::{
    files, keys_of,
    post::Settlement,
    read_plan, secret,
    seeds::{list, read_generations, read_keys, read_parents, read_seals},
};
use anyhow::{Context, Result, bail};
use clap::Args;
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};
use yao_protocol::{
    PacketId,
    keys::KeySet,
    manifest::Manifest,
    seal::Seal,
    void::{VoidAnswer, VoidRequest},
};
use yao_seedgen::{
    CampaignKeys,
    reclaim::ReclaimPlan,
    repack::Repack,
    shard::{key_file_name, parents_file_name},
};

/// What to take back, and what to make of it.
#[derive(Args)]
pub(crate) struct ReclaimArguments {
    /// The campaign file (TOML).
    #[arg(long)]
    campaign: PathBuf,
    /// The secret, 32 bytes with mode 0600 [default: beside the campaign, ending in .secret].
    #[arg(long)]
    secret: Option<PathBuf>,
    /// Directory of shards and their manifest; once for each generation so far.
    #[arg(long, required = true)]
    seeds: Vec<PathBuf>,
    /// Directory of seals (*.yaoseal) from `yao-access seal`.
    #[arg(long)]
    seals: Option<PathBuf>,
    /// Directory of public keys: settlement's, and those of the sealed shards.
    #[arg(long)]
    keys: PathBuf,
    /// Settlement, http://host:port. Without it the files are to be posted by other means.
    #[arg(long)]
    ledger: Option<String>,
    /// Directory of the requests, the answers, and in the end of the new shards.
    #[arg(long)]
    out: PathBuf,
    /// How long the wave of the new generation lasts.
    #[arg(long)]
    wave_seconds: u32,
    /// How many shards the new generation has.
    #[arg(long, default_value_t = 1)]
    shards: u32,
    /// Only packets that never left according to the seals: they need not wait for anything.
    #[arg(long, requires = "seals")]
    never_left: bool,
}

const FOREIGN: &str = "is of another plan or secret, or damaged; choose another --out";

/// Asks, waits for the answers, packs.
pub(crate) fn run(arguments: &ReclaimArguments) -> Result<()> {
    let campaign = read_plan(&arguments.campaign)?;
    let beside = || arguments.campaign.with_extension("secret");
    let keys = keys_of(&campaign, secret::read(&arguments.secret.clone().unwrap_or_else(beside))?);
    let key_set = read_keys(&arguments.keys)?;
    let generations = read_generations(&arguments.seeds, &keys.public())?;
    let manifests: Vec<Manifest> = generations.iter().map(|(_, found)| found.clone()).collect();
    let is_other = |root: &Manifest| root.plan_digest != *campaign.digest();
    if manifests.first().is_some_and(|first| first.generation() == 0 && is_other(first)) {
        bail!("--seeds and --campaign are of different plans");
    }
    let seals = match &arguments.seals {
        Some(directory) => read_seals(directory, &key_set)?,
        None => Vec::new(),
    };
    let told: Vec<Seal> = seals.iter().map(|(_, seal)| seal.clone()).collect();
    let only = arguments.never_left.then_some(told.as_slice());
    let plan = ReclaimPlan::new(&manifests, arguments.wave_seconds, arguments.shards, only)?;
    let work = Work::open(&arguments.out, &plan, &keys)?;
    if let Some(url) = &arguments.ledger {
        let settlement = Settlement::new(url)?;
        for (bytes, seal) in &seals {
            settlement
                .post("/v1/seals", bytes)
                .with_context(|| format!("the seal of shard {}", seal.shard))?;
        }
        work.ask(&settlement, &key_set)?;
    }
    let answers = work.answers(&key_set)?;
    work.pack(&campaign, &plan, &keys, &generations, &answers)
}

/// The output directory, locked.
struct Work {
    out: PathBuf,
    /// Each with the name that its files have.
    requests: Vec<(String, VoidRequest, Vec<u8>)>,
    _lock: std::fs::File,
}

impl Work {
    /// Takes the directory, and writes what is to be asked. A directory of another plan stays as
    /// it is.
    fn open(out: &Path, plan: &ReclaimPlan, keys: &CampaignKeys) -> Result<Self> {
        let folders = ["requests", "answers", "keyset"].map(|name| out.join(name));
        folders.iter().try_for_each(|folder| files::create_directory(folder))?;
        let lock = files::lock_directory(out)?;
        let sign = keys.sign_key();
        let named = |request: VoidRequest| {
            let VoidRequest { generation, shard, first, .. } = request;
            let name = format!("void-{generation:03}-{:05}-{first:010}", shard.0);
            (name, request, request.encode(&sign))
        };
        let requests: Vec<_> = plan.requests().into_iter().map(named).collect();
        let files_of = |name: &str| format!("{name}.yaovoid");
        let wanted: BTreeSet<PathBuf> =
            requests.iter().map(|(name, ..)| folders[0].join(files_of(name))).collect();
        for path in list(&folders[0], ".yaovoid")? {
            if !wanted.contains(&path) {
                bail!("{} {FOREIGN}", path.display());
            }
        }
        for (name, _, bytes) in &requests {
            let path = folders[0].join(files_of(name));
            match files::read_if_there(&path)? {
                Some(found) if found == *bytes => {}
                Some(_) => bail!("{} {FOREIGN}", path.display()),
                None => {
                    files::write(&folders[0], &files_of(name), files::MODE_PUBLIC, &[bytes])?;
                }
            }
        }
        Ok(Self { out: out.to_owned(), requests, _lock: lock })
    }

    fn answer_name(name: &str) -> String {
        format!("{name}.yaovoided")
    }

    /// Posts every request that has no answer yet; each answer is a file before the next is asked.
    fn ask(&self, settlement: &Settlement, keys: &KeySet) -> Result<()> {
        let folder = self.out.join("answers");
        for (name, request, bytes) in &self.requests {
            let file = Self::answer_name(name);
            if folder.join(&file).try_exists()? {
                continue;
            }
            let answer = settlement.post("/v1/voids", bytes)?;
            check(&answer, request, keys).with_context(|| format!("the answer to {name}"))?;
            files::write(&folder, &file, files::MODE_PUBLIC, &[&answer])?;
        }
        Ok(())
    }

    /// Settlement's answers, in the order of the requests.
    fn answers(&self, keys: &KeySet) -> Result<Vec<VoidAnswer>> {
        let mut answers = Vec::new();
        for (name, request, _) in &self.requests {
            let path = self.out.join("answers").join(Self::answer_name(name));
            let Some(bytes) = files::read_if_there(&path)? else {
                bail!(
                    "there is no answer {}; name --ledger, or post the seals and each request: \
                     curl --fail --data-binary @{}/requests/{name}.yaovoid -o {} \
                     http://LEDGER/v1/voids",
                    path.display(),
                    self.out.display(),
                    path.display()
                );
            };
            let answer = check(&bytes, request, keys);
            answers.push(answer.with_context(|| path.display().to_string())?);
        }
        Ok(answers)
    }

    /// Writes the new shards and, when all are there, the manifest.
    fn pack(
        &self,
        campaign: &yao_seedgen::Plan,
        plan: &ReclaimPlan,
        keys: &CampaignKeys,
        generations: &[(PathBuf, Manifest)],
        answers: &[VoidAnswer],
    ) -> Result<()> {
        let void: Vec<PacketId> = answers.iter().flat_map(VoidAnswer::packets).collect();
        if void.is_empty() {
            println!("nothing to reclaim: every packet was opened, or reclaimed before");
            return Ok(());
        }
        let bits: Vec<Vec<bool>> = answers.iter().map(|answer| answer.void.clone()).collect();
        let parents = read_parents(generations, keys, void)?;
        let root = &generations[0].1;
        let repack = Repack::new(plan, root, keys, &bits, parents);
        let out = self.out.as_path();
        let mut entries = Vec::new();
        for shard in repack.shards() {
            let (sealed, parents) = repack.build(shard);
            let (key, parents) = (serde_json::to_vec_pretty(&sealed.key)?, parents.encode());
            // Parents tell who has the old shard's key what a packet holds.
            files::write(out, &key_file_name(shard), files::MODE_SECRET, &[&key])?;
            files::write(out, &parents_file_name(shard), files::MODE_SECRET, &[&parents])?;
            let parts: [&[u8]; 2] = [&sealed.header, &sealed.body];
            files::write(out, &sealed.entry.file, files::MODE_PUBLIC, &parts)?;
            entries.push((sealed.entry, *blake3::hash(&parents).as_bytes()));
        }
        let public = serde_json::to_vec_pretty(&keys.public_file())?;
        let public_name = files::public_key_name(plan.campaign);
        files::write(&files::key_set(out), &public_name, files::MODE_PUBLIC, &[&public])?;
        let manifest = repack.manifest(root, entries);
        let text = manifest.encode(&keys.sign_key());
        files::write(out, files::MANIFEST, files::MODE_PUBLIC, &[text.as_bytes()])?;
        println!(
            "reclaimed: {} packets, {}, as generation {} in {} shards from {} on, wave {}, in {}",
            manifest.packets,
            campaign.campaign().money(manifest.budget),
            plan.generation,
            plan.shards,
            plan.first_shard,
            plan.wave,
            out.display()
        );
        Ok(())
    }
}

/// An answer of settlement to exactly this request.
fn check(bytes: &[u8], request: &VoidRequest, keys: &KeySet) -> Result<VoidAnswer> {
    let answer = VoidAnswer::decode(bytes, keys)
        .context("is settlement-*.pub.json in --keys, and was it settlement that answered?")?;
    if answer.request != *request {
        bail!("it answers another request");
    }
    Ok(answer)
}
