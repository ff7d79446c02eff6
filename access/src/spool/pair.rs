//! Which fallback belongs to a spool. Both directories hold the same small file, so that a disk
//! that is not mounted is not mistaken for a fallback that was never used: acknowledged opens may
//! lie there, and their sequences are taken.
//!
//! Never looks at a record. Works on the files of this machine only: the simulator runs a spool
//! without a fallback.

use super::store::WATERMARK_NAME;
use crate::{
    disk::{Disk, RealDisk},
    segments::LogKind,
    slot_file::{create_directory, directory_of},
};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};
use thiserror::Error;
use yao_protocol::{CampaignId, ShardId, hex};

/// The file's name in both directories.
const NAME: &str = "pair.json";
/// What somebody renamed it to who gave up what the other directory held. While it lies there the
/// shard is not sealed.
pub(crate) const ASIDE: &str = "pair.json.corrupt";
/// The spool's file before the fallback has its own.
const DRAFT: &str = "pair.json.draft";

/// Why spool and fallback do not belong together.
#[derive(Debug, Error)]
pub enum PairError {
    /// The operating system refused.
    #[error("cannot {doing} {path}: {error}", path = path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// The answer.
        error: io::Error,
    },
    /// The file is not one of ours.
    #[error("{path}: {error}; it was not written by a spool", path = path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: serde_json::Error,
    },
    /// The configuration names the spool itself.
    #[error("spool.fallback is the spool's own directory {path}; name one on another disk",
        path = .0.display())]
    Same(PathBuf),
    /// The spool has a fallback, and it is not where the configuration says.
    #[error(
        "{path} says that this spool has a fallback, which is not in {fallback}: accepted opens \
         may lie there; mount its disk; or, if all of them were settled before a start with both, \
         remove the file; or, if they are lost, rename it to {ASIDE}",
        path = path.display(), fallback = fallback.display()
    )]
    Gone {
        /// The spool's file.
        path: PathBuf,
        /// Where the fallback should be.
        fallback: PathBuf,
    },
    /// The fallback has a spool, and it is not in the spool's directory.
    #[error(
        "{path} is that of a spool's fallback, and {spool} is not that spool: accepted opens may \
         lie on a disk that is not mounted; mount it, or rename the file to {ASIDE} if they are \
         lost; if {spool} has opens of its own, give spool.fallback an empty directory",
        path = path.display(), spool = spool.display()
    )]
    SpoolGone {
        /// The fallback's file.
        path: PathBuf,
        /// Where the spool should be.
        spool: PathBuf,
    },
    /// The configuration names none any more.
    #[error(
        "{path} says that this spool has a fallback in {fallback}, where accepted opens may lie, \
         but spool.fallback is not set; set it again; or, if all of them were settled before a \
         start with both, remove the file; or, if they are lost, rename it to {ASIDE}",
        path = path.display(), fallback = fallback.display()
    )]
    Forgotten {
        /// The spool's file.
        path: PathBuf,
        /// Where the fallback was.
        fallback: PathBuf,
    },
    /// The fallback was one before, and was given up.
    #[error(
        "{path} lies there from an earlier time as a fallback, and no pair.json says whose; give \
         spool.fallback an empty directory",
        path = .0.display()
    )]
    Used(PathBuf),
    /// The fallback is another spool's.
    #[error("{path} belongs to {owner}; give each node a directory of its own",
        path = path.display())]
    Other {
        /// The fallback's file.
        path: PathBuf,
        /// Whose it is.
        owner: String,
    },
}

/// What both files say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pair {
    campaign: CampaignId,
    shard: ShardId,
    /// 32 hexadecimal digits, drawn when the two were first used together.
    pair: String,
    /// Where the fallback was then, for people.
    fallback: PathBuf,
}

/// The exclusive right to a fallback, held until it is dropped. (The spool has the shard's.)
#[derive(Debug)]
pub(super) struct PairLock {
    _file: File,
    /// Whether both lie on one file system, so that one failure takes both.
    pub(super) same_device: bool,
}

/// Makes sure that `fallback` is that of the spool in `spool`, from the first time on that it is
/// named.
///
/// # Errors
/// [`PairError`]: opens may lie where nobody would look for them, or where somebody else writes.
pub(super) fn pair(
    spool: &Path,
    fallback: Option<&Path>,
    campaign: CampaignId,
    shard: ShardId,
) -> Result<Option<PairLock>, PairError> {
    create_directory(&RealDisk, spool).map_err(fail("create", spool))?;
    let path = spool.join(NAME);
    let known = read(&path)?;
    let Some(fallback) = fallback else {
        return match known {
            Some(Pair { fallback, .. }) => Err(PairError::Forgotten { path, fallback }),
            None => Ok(None),
        };
    };
    let device = |path: &Path| fs::metadata(path).map(|metadata| (metadata.dev(), metadata.ino()));
    let place = device(fallback).map_err(fail("find spool.fallback", fallback))?;
    let own_place = device(spool).map_err(fail("find", spool))?;
    if place == own_place {
        return Err(PairError::Same(fallback.to_owned()));
    }
    let other_path = fallback.join(NAME);
    let other = read(&other_path)?;
    if let Some(other) = other.as_ref().filter(|it| (it.campaign, it.shard) != (campaign, shard)) {
        let owner = format!("campaign {} shard {}", other.campaign, other.shard);
        return Err(PairError::Other { path: other_path, owner });
    }
    match (known, other) {
        (None, None) => {
            let fallback = fallback.to_owned();
            refuse_used(&fallback, spool)?;
            let pair = Pair { campaign, shard, pair: draw(spool)?, fallback };
            // The spool's gets its name last: with it alone the fallback would be missed. Its draft
            // tells a crash between the two from a spool whose disk is not mounted.
            draft(&path, &pair)?;
            draft(&other_path, &pair)?;
            name(&other_path)?;
        }
        (None, Some(other)) => {
            let drafted = read(&spool.join(DRAFT)).ok().flatten();
            if drafted.is_none_or(|drafted| drafted.pair != other.pair) {
                return Err(PairError::SpoolGone { path: other_path, spool: spool.to_owned() });
            }
        }
        (Some(_), None) => return Err(PairError::Gone { path, fallback: fallback.to_owned() }),
        (Some(known), Some(other)) if known.pair == other.pair => {}
        (Some(_), Some(_)) => {
            let owner = "another spool".to_owned();
            return Err(PairError::Other { path: other_path, owner });
        }
    }
    if !path.exists() {
        name(&path)?;
    }
    let file = File::open(&other_path).map_err(fail("open", &other_path))?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        let owner = "a spool of another process that runs".to_owned();
        return Err(PairError::Other { path: other_path, owner });
    }
    Ok(Some(PairLock { _file: file, same_device: place.0 == own_place.0 }))
}

fn draw(spool: &Path) -> Result<String, PairError> {
    let mut bytes = [0; 16];
    let drawn = getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()));
    drawn.map_err(fail("draw a name for", spool))?;
    Ok(hex::encode(&bytes))
}

fn read(path: &Path) -> Result<Option<Pair>, PairError> {
    let bytes = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => read.map_err(fail("read", path))?,
    };
    let pair = serde_json::from_slice(&bytes);
    pair.map(Some).map_err(|error| PairError::Content { path: path.to_owned(), error })
}

/// Nobody knows any more what a spool left in a directory: sequences may have been used again
/// since, and its watermark would tell of others. Unless somebody said that the spool is lost, and
/// the one that takes its place has nothing yet: then that is said there, too, for as long as
/// nobody has accounted for its opens.
fn refuse_used(fallback: &Path, spool: &Path) -> Result<(), PairError> {
    let Some(left) = left_by_a_spool(fallback)? else { return Ok(()) };
    if !fallback.join(ASIDE).exists() || left_by_a_spool(spool)?.is_some() {
        return Err(PairError::Used(left));
    }
    let said = spool.join(ASIDE);
    let say = || -> io::Result<()> {
        OpenOptions::new().write(true).create(true).truncate(true).open(&said)?.sync_all()?;
        RealDisk.sync_directory(spool)
    };
    say().map_err(fail("create", &said))
}

/// A watermark or a segment in `directory`.
fn left_by_a_spool(directory: &Path) -> Result<Option<PathBuf>, PairError> {
    let mark = directory.join(WATERMARK_NAME);
    if mark.exists() {
        return Ok(Some(mark));
    }
    for entry in fs::read_dir(directory).map_err(fail("read", directory))? {
        let name = entry.map_err(fail("read", directory))?.file_name();
        if name.to_str().is_some_and(|name| LogKind::SPOOL.first_sequence(name).is_some()) {
            return Ok(Some(directory.join(name)));
        }
    }
    Ok(None)
}

/// Creates the file under another name, on disk.
fn draft(path: &Path, pair: &Pair) -> Result<(), PairError> {
    let draft = path.with_file_name(DRAFT);
    let text = serde_json::to_vec_pretty(pair).expect("plain data always serialises");
    let create = || -> io::Result<()> {
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
        file.write_all(&text)?;
        file.sync_all()?;
        RealDisk.sync_directory(directory_of(path))
    };
    create().map_err(fail("create", &draft))
}

/// Gives a draft its name, on disk.
fn name(path: &Path) -> Result<(), PairError> {
    let name = || -> io::Result<()> {
        fs::rename(path.with_file_name(DRAFT), path)?;
        RealDisk.sync_directory(directory_of(path))
    };
    name().map_err(fail("create", path))
}

fn fail<'a>(doing: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> PairError + use<'a> {
    move |error| PairError::Io { doing, path: path.to_owned(), error }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAMPAIGN: CampaignId = CampaignId(2015);
    const SHARD: ShardId = ShardId(17);

    fn refusal(spool: &Path, fallback: Option<&Path>) -> String {
        pair(spool, fallback, CAMPAIGN, SHARD).expect_err("refused").to_string()
    }

    #[test]
    fn m7_a_fallback_that_is_not_mounted_or_not_named_any_more_is_missed() {
        let folder = tempfile::tempdir().expect("a folder");
        let [spool, first, second] = ["spool", "first", "second"].map(|n| folder.path().join(n));
        assert!(pair(&spool, None, CAMPAIGN, SHARD).expect("no fallback").is_none());
        assert!(refusal(&spool, Some(&first)).contains("find spool.fallback"));
        fs::create_dir(&first).expect("create");
        fs::create_dir(&second).expect("create");
        let lock = pair(&spool, Some(&first), CAMPAIGN, SHARD).expect("paired").expect("one");
        assert!(lock.same_device);
        drop(lock);
        drop(pair(&spool, Some(&first), CAMPAIGN, SHARD).expect("and again"));
        // The mount point is there, the disk is not; and then nobody names it any more.
        assert!(refusal(&spool, Some(&second)).contains("mount its disk"));
        assert!(refusal(&spool, None).contains("is not set"));
        // A crash between the two files.
        fs::rename(spool.join(NAME), spool.join(DRAFT)).expect("rename");
        drop(pair(&spool, Some(&first), CAMPAIGN, SHARD).expect("completed"));
        assert!(refusal(&spool, Some(&second)).contains("mount its disk"), "and from then on");
    }

    #[test]
    fn m7_a_spool_that_is_not_mounted_is_missed() {
        let folder = tempfile::tempdir().expect("a folder");
        let [spool, fallback] = ["spool", "fallback"].map(|name| folder.path().join(name));
        fs::create_dir(&fallback).expect("create");
        drop(pair(&spool, Some(&fallback), CAMPAIGN, SHARD).expect("paired"));
        fs::write(fallback.join(LogKind::SPOOL.file_name(51)), "").expect("write");
        // The mount point is there, the disk is not.
        let mounted = folder.path().join("elsewhere");
        fs::rename(&spool, &mounted).expect("rename");
        assert!(refusal(&spool, Some(&fallback)).contains("is not that spool"));
        // Nor is one that was only begun with another one.
        fs::copy(mounted.join(NAME), spool.join(DRAFT)).expect("copy");
        let drafted = fs::read_to_string(spool.join(DRAFT)).expect("read");
        let other = drafted.replace("\"pair\": \"", "\"pair\": \"0");
        fs::write(spool.join(DRAFT), other).expect("write");
        assert!(refusal(&spool, Some(&fallback)).contains("is not that spool"));
        // Somebody says that it is lost, and that stays to be seen.
        fs::rename(fallback.join(NAME), fallback.join(ASIDE)).expect("rename");
        drop(pair(&spool, Some(&fallback), CAMPAIGN, SHARD).expect("adopted"));
        drop(pair(&spool, Some(&fallback), CAMPAIGN, SHARD).expect("and again"));
        assert!(fallback.join(ASIDE).exists() && spool.join(ASIDE).exists(), "on both sides");
        // But one that has used sequences of its own since takes nothing over.
        fs::remove_file(spool.join(NAME)).expect("remove");
        fs::remove_file(fallback.join(NAME)).expect("remove");
        fs::write(spool.join(LogKind::SPOOL.file_name(51)), "").expect("write");
        assert!(refusal(&spool, Some(&fallback)).contains("an empty directory"));
    }

    #[test]
    fn m7_a_fallback_that_was_given_up_is_not_taken_again_with_what_it_holds() {
        let folder = tempfile::tempdir().expect("a folder");
        let [spool, fallback] = ["spool", "fallback"].map(|name| folder.path().join(name));
        fs::create_dir(&fallback).expect("create");
        for left in [WATERMARK_NAME.to_owned(), LogKind::SPOOL.file_name(101)] {
            fs::write(fallback.join(&left), "").expect("write");
            let said = refusal(&spool, Some(&fallback));
            assert!(said.contains(&left) && said.contains("an empty directory"), "{said}");
            fs::remove_file(fallback.join(&left)).expect("remove");
        }
        drop(pair(&spool, Some(&fallback), CAMPAIGN, SHARD).expect("paired"));
    }

    #[test]
    fn m4_no_two_spools_share_a_fallback() {
        let folder = tempfile::tempdir().expect("a folder");
        let [spool, other, fallback] = ["a", "b", "c"].map(|name| folder.path().join(name));
        fs::create_dir(&fallback).expect("create");
        let lock = pair(&spool, Some(&fallback), CAMPAIGN, SHARD).expect("paired");
        assert!(refusal(&spool, Some(&fallback)).contains("another process"));
        drop(lock);
        let error = pair(&other, Some(&fallback), CAMPAIGN, ShardId(18)).expect_err("another's");
        assert!(error.to_string().contains("campaign 2015 shard 17"), "{error}");
        assert!(refusal(&spool, Some(&spool)).contains("the spool's own directory"));
        // Both have a fallback, but not each other.
        let own = folder.path().join("d");
        fs::create_dir(&own).expect("create");
        drop(pair(&other, Some(&own), CAMPAIGN, SHARD).expect("paired"));
        assert!(refusal(&other, Some(&fallback)).contains("belongs to another spool"));
        fs::write(own.join(NAME), "{}").expect("write");
        assert!(refusal(&other, Some(&own)).contains("was not written by a spool"));
    }
}
