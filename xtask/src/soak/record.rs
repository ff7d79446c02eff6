//! What a long soak has made so far, in a file: one that is interrupted, or given only so many
//! minutes, is gone on with by its next run. Knows no soak.

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Write,
    path::Path,
    time::{Duration, Instant, UNIX_EPOCH},
};

/// Programs whose every change makes what was proved of them worthless.
const PROGRAMS: [&str; 3] = ["yao-access", "yao-agent", "yao-ledger"];

/// How much of a soak this run makes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Share {
    /// What an earlier run of the same programs has made is not made again.
    pub(super) resume: bool,
    /// Nothing is begun after so many minutes.
    pub(super) minutes: Option<u64>,
}

/// What was made, each thing by a name of its own.
pub(super) struct Record<R> {
    file: File,
    stamp: String,
    made: BTreeMap<String, R>,
    end_at: Option<Instant>,
}

/// A line of the file.
#[derive(Serialize, Deserialize)]
struct Line<R> {
    /// The programs of which it is true.
    programs: String,
    name: String,
    result: R,
}

impl<R: Clone + Serialize + DeserializeOwned> Record<R> {
    /// The record of the soak `name`, played with the programs in `binaries`, where it lies, too.
    pub(super) fn open(name: &str, binaries: &Path, share: Share) -> Result<Self> {
        Self::open_at(&binaries.join(format!("soak-{name}.jsonl")), stamp(binaries)?, share)
    }

    fn open_at(path: &Path, stamp: String, share: Share) -> Result<Self> {
        let text = if share.resume { fs::read_to_string(path) } else { Ok(String::new()) };
        let made = text.map_or_else(|_| BTreeMap::new(), |text| read(&text, &stamp));
        // What was read is written anew: a line that an interruption cut off does not stay.
        let file = File::create(path).with_context(|| path.display().to_string())?;
        let end_at =
            share.minutes.map(|minutes| Instant::now() + Duration::from_secs(minutes * 60));
        let mut record = Self { file, stamp, made: BTreeMap::new(), end_at };
        for (name, result) in made {
            record.add(name, result)?;
        }
        Ok(record)
    }

    /// What came of the thing called so, if it was made.
    pub(super) fn made(&self, name: &str) -> Option<&R> {
        self.made.get(name)
    }

    /// Writes down that it was made now.
    pub(super) fn add(&mut self, name: String, result: R) -> Result<()> {
        let (programs, kept) = (self.stamp.clone(), result.clone());
        let mut line = serde_json::to_string(&Line { programs, name: name.clone(), result })?;
        line.push('\n');
        self.file.write_all(line.as_bytes()).context("the record of the soak")?;
        self.made.insert(name, kept);
        Ok(())
    }

    /// Whether the minutes are over.
    pub(super) fn is_over(&self) -> bool {
        self.end_at.is_some_and(|at| Instant::now() >= at)
    }
}

/// What stands in a record, as far as it was made with these programs.
fn read<R: DeserializeOwned>(text: &str, stamp: &str) -> BTreeMap<String, R> {
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Line<R>>(line).ok());
    lines.filter(|line| line.programs == stamp).map(|line| (line.name, line.result)).collect()
}

/// Tells programs from others that were built later: size and time of each.
fn stamp(binaries: &Path) -> Result<String> {
    let mut stamp = String::new();
    for program in PROGRAMS {
        let path = binaries.join(program);
        let found = fs::metadata(&path).with_context(|| path.display().to_string())?;
        let built = found.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
        stamp.push_str(&format!("{}@{} ", found.len(), built.as_micros()));
    }
    Ok(stamp)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_goes_on_where_the_last_one_with_the_same_programs_was_cut_off() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("record");
        let open = |stamp: &str, resume| {
            let share = Share { resume, minutes: None };
            Record::<u64>::open_at(&path, stamp.to_owned(), share).expect("a record")
        };
        let mut record = open("a", false);
        record.add("one".to_owned(), 1).expect("written");
        record.add("two".to_owned(), 2).expect("written");
        drop(record);
        // The last line is cut off in the middle.
        let text = fs::read_to_string(&path).expect("there");
        fs::write(&path, &text[..text.len() - 3]).expect("written");
        let mut record = open("a", true);
        assert_eq!((record.made("one"), record.made("two")), (Some(&1), None));
        record.add("three".to_owned(), 3).expect("written");
        drop(record);
        let record = open("a", true);
        assert_eq!((record.made("one"), record.made("three")), (Some(&1), Some(&3)));
        drop(record);
        assert_eq!(open("b", true).made("one"), None, "other programs");
        assert_eq!(open("b", false).made("one"), None, "begun anew");
    }

    #[test]
    fn minutes_are_over_some_time() {
        let folder = tempfile::tempdir().expect("a folder");
        let over = |minutes| {
            let share = Share { resume: false, minutes };
            let path = folder.path().join("record");
            Record::<u64>::open_at(&path, String::new(), share).expect("a record").is_over()
        };
        assert_eq!([over(None), over(Some(1)), over(Some(0))], [false, false, true]);
    }
}
