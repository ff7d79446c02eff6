//! Watches the policy file: a changed one is compiled and published, a bad one is named once in the
//! log and the rules stay as they are. Also moves the cue when its time comes.

use crate::{policy_file::PolicyFile, rules::Rules};
use anyhow::{Context, Result};
use std::{
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::{
    signal::unix::Signal,
    sync::watch,
    time::{MissedTickBehavior, interval},
};
use yao_protocol::WallTime;

/// The file is looked at this often, and cues change within it.
const LOOK: Duration = Duration::from_secs(1);

/// What tells one state of a file from another: modification time, size and inode.
type Stamp = (i64, i64, u64, u64);

/// The policy file, as last read.
#[derive(Debug)]
pub struct PolicyWatch {
    path: PathBuf,
    stamp: Option<Stamp>,
    file: PolicyFile,
}

impl PolicyWatch {
    /// Reads the file; without a good one no agent starts.
    ///
    /// # Errors
    /// When it cannot be read or is no policy.
    pub fn open(path: &Path) -> Result<Self> {
        let stamp = stamp(path);
        let file = read(path)?;
        Ok(Self { path: path.to_owned(), stamp, file })
    }

    /// The rules of the moment.
    #[must_use]
    pub fn now(&self) -> Rules {
        self.file.at(wall_now())
    }

    /// Publishes every change into `sender`, for ever; `hang_up` has the file read at once.
    ///
    /// # Errors
    /// When the thread that reads the file failed.
    pub async fn run(mut self, sender: watch::Sender<Rules>, mut hang_up: Signal) -> Result<()> {
        let mut ticks = interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let forced = tokio::select! {
                _ = ticks.tick() => false,
                _ = hang_up.recv() => true,
            };
            let (path, before) = (self.path.clone(), self.stamp);
            // A slow disk must not delay a verdict.
            let look = tokio::task::spawn_blocking(move || {
                let stamp = stamp(&path);
                (forced || stamp != before).then(|| (stamp, read(&path)))
            });
            if let Some((stamp, content)) = look.await? {
                self.stamp = stamp;
                self.take(content);
            }
            let rules = self.now();
            sender.send_if_modified(|current| {
                let changed = *current != rules;
                *current = rules;
                changed
            });
        }
    }

    fn take(&mut self, content: Result<PolicyFile>) {
        match content {
            Ok(file) => {
                self.file = file;
                let Rules { policy, risk, device_wins_max } = self.now();
                tracing::info!(
                    event = "policy_read",
                    version = policy.version,
                    cue = policy.cue,
                    banned = policy.banned.len(),
                    risk_rules = risk.len(),
                    device_wins_max,
                );
            }
            Err(error) => tracing::error!(
                event = "policy_refused",
                reason = format!("{error:#}"),
                "the policy stays as it was, version {}",
                self.now().policy.version
            ),
        }
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let data = std::fs::metadata(path).ok()?;
    Some((data.mtime(), data.mtime_nsec(), data.size(), data.ino()))
}

fn read(path: &Path) -> Result<PolicyFile> {
    let name = path.display();
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read the policy file {name}; check policy.file"))?;
    PolicyFile::compile(&text).with_context(|| format!("{name}"))
}

fn wall_now() -> WallTime {
    // A clock before 1970 reads as 1970: no cue begins there.
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    WallTime(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::signal::unix::{SignalKind, signal};

    fn policy_path(directory: &tempfile::TempDir, text: &str) -> PathBuf {
        let path = directory.path().join("policy.toml");
        std::fs::write(&path, text).expect("writable");
        path
    }

    #[tokio::test]
    async fn a_changed_file_is_published() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = policy_path(&directory, "version = 1\ncue = 1\n");
        let watch = PolicyWatch::open(&path).expect("good");
        let (sender, mut receiver) = watch::channel(watch.now());
        let hang_up = signal(SignalKind::hangup()).expect("a handler");
        let task = tokio::spawn(watch.run(sender, hang_up));
        policy_path(&directory, "version = 2\ncue = 22\n");
        receiver.changed().await.expect("published");
        let policy = receiver.borrow().policy.clone();
        assert_eq!((policy.version, policy.cue), (2, 22));
        task.abort();
    }

    #[test]
    fn a_bad_file_changes_nothing_and_a_good_one_after_it_does() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = policy_path(&directory, "version = 1\ncue = 1\n");
        let mut watch = PolicyWatch::open(&path).expect("good");
        let before = watch.now();
        policy_path(&directory, "version = 3\ncue = \"oops\"\n");
        watch.take(read(&path));
        assert_eq!(watch.now(), before);
        std::fs::remove_file(&path).expect("there");
        watch.take(read(&path));
        assert_eq!(watch.now(), before);
        watch.take(read(&policy_path(&directory, "version = 4\n")));
        assert_eq!(watch.now().policy.version, 4);
    }
}
