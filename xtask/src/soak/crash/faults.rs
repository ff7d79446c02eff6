//! Orders to `xtask/faults`, the library that is preloaded into the node, and what it wrote down.
//! Decides nothing.

use crate::{event, shell};
use anyhow::{Context, Result, bail, ensure};
use std::{
    ffi::OsString,
    fmt, fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The library, and the files that a program preloaded with it reads and writes.
pub(in crate::soak) struct Faults {
    library: PathBuf,
    root: PathBuf,
    log: PathBuf,
    order: PathBuf,
}

/// A persistence call, as orders name it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::soak) struct Call {
    /// "write", "sync", ...
    pub(in crate::soak) operation: String,
    /// The file, relative to the state directory, with its long numbers as `#`.
    pub(in crate::soak) name: String,
    /// It is the so-manieth of these in its process.
    pub(in crate::soak) number: u64,
}

impl Call {
    /// Whether only a part of it can happen.
    pub(in crate::soak) fn can_be_torn(&self) -> bool {
        self.operation == "write"
    }

    /// Whether it raises H, or is the start's mending of a lost slot.
    pub(in crate::soak) fn raises(&self) -> bool {
        self.name.starts_with("cursor/") && ["write", "sync"].contains(&self.operation.as_str())
    }

    /// Whether it is another try of `self`, or of the write before it.
    pub(in crate::soak) fn is_tried_again_by(&self, later: &Self) -> bool {
        let persists = |call: &Self| ["write", "sync"].contains(&call.operation.as_str());
        self.name == later.name && persists(self) && persists(later)
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.operation, self.name, self.number)
    }
}

/// What a process did, in the order in which its calls returned.
#[derive(Debug, Default)]
pub(in crate::soak) struct Log {
    pub(in crate::soak) calls: Vec<Call>,
    /// Wall time of the first strike, us, and how many calls had returned by then.
    pub(in crate::soak) strike: Option<(u64, usize)>,
}

impl Faults {
    /// Builds the library with the profile of the node and says where it is.
    pub(in crate::soak) fn build(release: bool) -> Result<PathBuf> {
        let mut cargo = shell::cargo();
        cargo.args(["build", "--package", "yao-faults"]);
        if release {
            cargo.arg("--release");
        }
        shell::run(&mut cargo)?;
        let library = event::binaries(release).join("libyao_faults.so");
        // The loader passes over what is not there, and nothing would ever fail.
        ensure!(library.exists(), "{} was not built", library.display());
        Ok(library)
    }

    /// Watches `root`; log and order lie in `folder`.
    pub(in crate::soak) fn new(library: PathBuf, root: PathBuf, folder: &Path) -> Self {
        Self { library, root, log: folder.join("faults.log"), order: folder.join("faults.order") }
    }

    /// What a program is started with.
    pub(in crate::soak) fn environment(&self) -> Vec<(&'static str, OsString)> {
        let variables = [
            ("LD_PRELOAD", &self.library),
            ("YAO_FAULTS_ROOT", &self.root),
            ("YAO_FAULTS_LOG", &self.log),
            ("YAO_FAULTS_ORDER", &self.order),
        ];
        variables.map(|(name, path)| (name, path.clone().into_os_string())).to_vec()
    }

    /// From now on this order is in force, or none, and the log is empty.
    pub(in crate::soak) fn begin(&self, order: Option<&str>) -> Result<()> {
        self.order(order)?;
        Ok(fs::write(&self.log, "")?)
    }

    /// The same while a program runs: it reads the old order or the new one.
    pub(in crate::soak) fn order(&self, order: Option<&str>) -> Result<()> {
        let draft = self.order.with_extension("draft");
        fs::write(&draft, order.unwrap_or_default())?;
        Ok(fs::rename(&draft, &self.order)?)
    }

    /// What was written down since [`Self::begin`].
    pub(in crate::soak) fn log(&self) -> Result<Log> {
        let text = fs::read_to_string(&self.log).context("the log of faults")?;
        // A line that is being written has no end yet.
        read(&text[..text.rfind('\n').map_or(0, |end| end + 1)])
    }

    /// Takes the power from the file system, with whatever runs on it: this is a process that loses
    /// it while it writes a file of its own.
    pub(in crate::soak) fn cut_power(&self) -> Result<()> {
        self.order(Some("cut 0 create cut-here 1"))?;
        // The state directory itself may not be there.
        let root = self.root.parent().context("the root of the file system")?;
        let mut victim = Command::new("dd");
        victim.args(["if=/dev/null", "status=none"]).envs(self.environment());
        victim.env("YAO_FAULTS_ROOT", root);
        victim.arg(format!("of={}", root.join("cut-here").display()));
        let status = victim.stderr(std::process::Stdio::null()).status()?;
        self.order(None)?;
        if status.success() {
            bail!("the power of {} could not be cut", self.root.display());
        }
        self.log().map(|_| ())
    }
}

fn read(text: &str) -> Result<Log> {
    let mut log = Log::default();
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["call", _, _, operation, name, number, _] => log.calls.push(Call {
                operation: operation.to_owned(),
                name: name.to_owned(),
                number: number.parse()?,
            }),
            ["strike", at_us, ..] => {
                log.strike = log.strike.or(Some((at_us.parse()?, log.calls.len())));
            }
            _ => bail!("the faults say: {line}"),
        }
    }
    Ok(log)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_read_and_a_complaint_is_an_error() {
        let text = "call 10 12 write lock 1 9\nstrike 20 eio 0 sync lock 1\ncall 20 20 sync lock 1 \
                    -1\n";
        let log = read(text).expect("a good log");
        let written: Vec<String> = log.calls.iter().map(Call::to_string).collect();
        assert_eq!(
            (written, log.strike),
            (vec!["write lock 1".into(), "sync lock 1".into()], Some((20, 1)))
        );
        assert!(log.calls[0].is_tried_again_by(&log.calls[1]) && log.calls[0].can_be_torn());
        read("no cut: error 25\n").expect_err("a complaint");
    }
}
