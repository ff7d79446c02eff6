//! Whether the library that counts the calls sees them all: `strace`, which stands on the other
//! side of the C library, must count the same.

use crate::{
    programs,
    soak::{
        crash::{
            play::{End, Play},
            stage::Stage,
        },
        rehearsal::Rehearsal,
    },
};
use anyhow::{Result, bail};
use std::{collections::BTreeMap, ffi::OsString, fs, path::Path};

/// What the library cannot see, because the node asks the kernel itself: taking room for a segment.
/// It holds no byte, and the header's write stands right behind it.
const PAST_US: &str = "allocate";
/// System calls by what they do to the disk; those of the last row must not occur.
const CALLS: [(&str, &[&str]); 10] = [
    ("create", &["open", "openat", "openat2", "creat"]),
    ("write", &["write", "pwrite64"]),
    ("sync", &["fsync", "fdatasync"]),
    ("resize", &["ftruncate"]),
    ("link", &["link", "linkat"]),
    ("remove", &["unlink", "unlinkat"]),
    ("rename", &["rename", "renameat", "renameat2"]),
    ("folder", &["mkdir", "mkdirat"]),
    (PAST_US, &["fallocate"]),
    (
        "unseen",
        &[
            "writev",
            "pwritev",
            "pwritev2",
            "truncate",
            "msync",
            "syncfs",
            "sync",
            "sync_file_range",
            "copy_file_range",
            "sendfile",
            "splice",
            "rmdir",
        ],
    ),
];

/// Plays a first life under `strace` and compares.
pub(super) fn check(stage: &mut Stage, rehearsal: &mut Rehearsal) -> Result<()> {
    let path = match programs::path_with(programs::STRACE) {
        Ok(path) => path,
        Err(error) => {
            println!("the count is NOT compared with strace's: {error:#}");
            return Ok(());
        }
    };
    let trace = stage.event.path("strace.log");
    let names: Vec<&str> = CALLS.iter().flat_map(|(_, names)| names.iter().copied()).collect();
    let mut starter: Vec<OsString> = vec!["env".into(), joined("PATH=", &path), "strace".into()];
    starter.extend(["-f", "-y", "-qq", "-s", "0", "-e"].map(OsString::from));
    starter.extend([joined("trace=", &names.join(",").into()), "-o".into(), trace.clone().into()]);
    let mut play = Play::begin(stage, 1)?;
    if let Err(said) = play.init(None)? {
        bail!("init: {said}");
    }
    play.stage.event.start_access_by(starter);
    let end = play.live(None, |play| Ok(play.receipts() >= 5))?;
    let counted = play.finish();
    stage.event.start_access_by(Vec::new());
    let counted = counted?;
    if end != End::Reached || !counted.problems.is_empty() {
        bail!("under strace the node came to {end:?}: {}", counted.problems.join("; "));
    }
    let mut ours: BTreeMap<String, u64> = BTreeMap::new();
    for call in stage.faults.log()?.calls {
        *ours.entry(call.operation).or_default() += 1;
    }
    let mut theirs = count(&fs::read_to_string(&trace)?, &stage.disk.state());
    rehearsal.tell("calls_seen_by_strace", theirs.values().sum::<u64>());
    rehearsal.tell("calls_past_the_library", theirs.remove(PAST_US).unwrap_or(0));
    if ours != theirs {
        bail!("we see {ours:?}, strace sees {theirs:?}");
    }
    Ok(())
}

fn joined(before: &str, behind: &OsString) -> OsString {
    let mut text = OsString::from(before);
    text.push(behind);
    text
}

/// The calls of a trace on what lies in `state`, by what they do.
fn count(trace: &str, state: &Path) -> BTreeMap<String, u64> {
    let state = state.display().to_string();
    let mut counts = BTreeMap::new();
    for line in trace.lines().filter(|line| line.contains(&state)) {
        // `4711  pwrite64(9</mnt/state/...>, ""..., 128, 64) = 128`; the second half of a call that
        // was interrupted begins with `<...`.
        let call = line.split_whitespace().nth(1).unwrap_or_default();
        let Some((name, _)) = call.split_once('(') else { continue };
        let kind = CALLS.iter().find(|(_, names)| names.contains(&name)).map(|(kind, _)| *kind);
        let Some(kind) = kind.filter(|kind| *kind != "create" || line.contains("O_CREAT")) else {
            continue;
        };
        *counts.entry(kind.to_owned()).or_default() += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_is_counted() {
        let trace = "1 openat(AT_FDCWD, \"/m/state/lock\", O_RDWR|O_CLOEXEC) = 9</m/state/lock>\n\
             1 openat(AT_FDCWD, \"/m/state/a\", O_WRONLY|O_CREAT, 0600) = 9</m/state/a>\n\
             2 pwrite64(9</m/state/a>, \"\"..., 128, 64 <unfinished ...>\n\
             1 write(2</elsewhere>, \"\"..., 12) = 12\n\
             2 <... pwrite64 resumed>) = 128\n\
             2 fdatasync(9</m/state/a>) = 0\n\
             2 msync(9</m/state/a>) = 0\n";
        let counts = count(trace, Path::new("/m/state"));
        let expected = [("create", 1), ("sync", 1), ("unseen", 1), ("write", 1)];
        assert_eq!(counts, expected.map(|(kind, count)| (kind.to_owned(), count)).into());
    }
}
