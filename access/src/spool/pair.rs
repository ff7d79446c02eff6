//! Which fallback belongs to a spool. Both directories hold the same small file, so that a disk
//! that is not mounted is not mistaken for a fallback that was never used: acknowledged opens may
//! lie there, and their sequences are taken.
//!
//! Never looks at a record. Works on the files of this machine only: the simulator runs a spool
//! without a fallback.

use crate::{
    disk::{Disk, RealDisk},
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
         may lie there; mount its disk, or remove the file if what is there is lost or settled",
        path = path.display(), fallback = fallback.display()
    )]
    Gone {
        /// The spool's file.
        path: PathBuf,
        /// Where the fallback should be.
        fallback: PathBuf,
    },
    /// The configuration names none any more.
    #[error(
        "{path} says that this spool has a fallback in {fallback}, where accepted opens may lie, \
         but spool.fallback is not set; set it again, or remove the file if all of them are \
         settled",
        path = path.display(), fallback = fallback.display()
    )]
    Forgotten {
        /// The spool's file.
        path: PathBuf,
        /// Where the fallback was.
        fallback: PathBuf,
    },
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
    let pair = match (known, other) {
        (None, None) => {
            let fallback = fallback.to_owned();
            let pair = Pair { campaign, shard, pair: draw(spool)?, fallback };
            // The fallback's first: with the other one alone the fallback would be missed.
            write(&other_path, &pair)?;
            pair
        }
        (None, Some(other)) => other,
        (Some(_), None) => return Err(PairError::Gone { path, fallback: fallback.to_owned() }),
        (Some(known), Some(other)) if known.pair == other.pair => other,
        (Some(_), Some(_)) => {
            let owner = "another spool".to_owned();
            return Err(PairError::Other { path: other_path, owner });
        }
    };
    if (pair.campaign, pair.shard) != (campaign, shard) {
        let owner = format!("campaign {} shard {}", pair.campaign, pair.shard);
        return Err(PairError::Other { path: other_path, owner });
    }
    if !path.exists() {
        write(&path, &pair)?;
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

/// Creates the file: whole, with its name and on disk, or not at all.
fn write(path: &Path, pair: &Pair) -> Result<(), PairError> {
    let draft = path.with_extension("json.draft");
    let text = serde_json::to_vec_pretty(pair).expect("plain data always serialises");
    let create = || -> io::Result<()> {
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(&draft, path)?;
        RealDisk.sync_directory(directory_of(path))
    };
    create().map_err(fail("create", path))
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
        // A crash between the two files, or a spool on a new disk: the fallback is known by its
        // own.
        fs::remove_file(spool.join(NAME)).expect("remove");
        drop(pair(&spool, Some(&first), CAMPAIGN, SHARD).expect("known by its own"));
        assert!(refusal(&spool, Some(&second)).contains("mount its disk"), "and from then on");
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
