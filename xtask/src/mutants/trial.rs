//! Running tests in the copy, with a time limit, and reading what they say. Decides nothing about
//! what an outcome means.

use super::list::Mutant;
use crate::shell;
use anyhow::{Context, Result, bail, ensure};
use std::{
    fs::{self, File},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

/// A build takes minutes when everything below is new, on two cores that others use, too.
const BUILD_MAX: Duration = Duration::from_secs(3_600);
/// How often a running program is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// Lines of a compiler's words that are shown.
const ERROR_LINES: usize = 12;
/// A failing case need not be made small: that it fails is enough.
const ENVIRONMENT: [(&str, &str); 5] = [
    ("CARGO_PROFILE_DEV_DEBUG", "0"),
    ("CARGO_PROFILE_TEST_DEBUG", "0"),
    ("CARGO_TERM_COLOR", "never"),
    ("PROPTEST_DISABLE_FAILURE_PERSISTENCE", "true"),
    ("PROPTEST_MAX_SHRINK_ITERS", "16"),
];

/// What became of the tests of one program.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// All passed.
    Passed,
    /// These failed.
    Failed(Vec<String>),
    /// This one was running when the time was over.
    Hung(String),
    /// The process ended in this one: an abort, a signal.
    Ended(String),
    /// It does not compile: the end of what the compiler said.
    NotBuilt(String),
}

/// The copy's test programs.
pub(super) struct Suite {
    tree: PathBuf,
    target: PathBuf,
    logs: PathBuf,
    tests_max: Duration,
    /// Test programs that were seen to pass unmutated.
    passed: Vec<Vec<String>>,
}

impl Suite {
    /// Builds in `folder`, and keeps there what the last tests of each mutant said.
    pub(super) fn new(tree: &Path, folder: &Path, tests_max: Duration) -> Result<Self> {
        let logs = folder.join("log");
        fs::create_dir_all(&logs)?;
        let target = folder.join("target");
        Ok(Self { tree: tree.to_owned(), target, logs, tests_max, passed: Vec::new() })
    }

    /// Makes sure, once for each test program, that without a mutant the tests of all these mutants
    /// pass, and that the expected one is among them. How long that took, if it was done now.
    pub(super) fn pass_unmutated(&mut self, mutants: &[&Mutant]) -> Result<Option<Duration>> {
        let first = mutants.first().context("there is one at least")?;
        let key: Vec<String> = first.target().into_iter().map(str::to_owned).collect();
        if self.passed.contains(&key) {
            return Ok(None);
        }
        let start = Instant::now();
        let mut filters: Vec<&str> = Vec::new();
        for mutant in mutants {
            filters.extend(mutant.tests.iter().map(String::as_str));
        }
        filters.sort_unstable();
        filters.dedup();
        let (outcome, ran) = self.test(first, &filters, "unmutated")?;
        ensure!(
            outcome == Outcome::Passed,
            "{}: the tests do not pass as the code is: {outcome:?}; see {}",
            first.package,
            self.logs.display()
        );
        for Mutant { name, tests, expected, .. } in mutants.iter().copied() {
            let chosen = |test: &&String| tests.iter().any(|filter| test.contains(filter.as_str()));
            ensure!(
                ran.iter().filter(chosen).any(|test| is_called(test, expected)),
                "mutant `{name}`: its `tests` do not run `{expected}`"
            );
        }
        self.passed.push(key);
        Ok(Some(start.elapsed()))
    }

    /// The tests of this mutant, which is in the copy now.
    pub(super) fn run(&self, mutant: &Mutant) -> Result<Outcome> {
        let filters: Vec<&str> = mutant.tests.iter().map(String::as_str).collect();
        Ok(self.test(mutant, &filters, &mutant.name)?.0)
    }

    /// Builds and runs; with the outcome the names of all tests that were begun.
    fn test(&self, of: &Mutant, filters: &[&str], log: &str) -> Result<(Outcome, Vec<String>)> {
        let log = self.logs.join(log);
        if of.package == "xtask" {
            // Its tests start the programs of the copy, and build them themselves: that must not
            // take their time. One that does not compile is found below.
            let mut programs = self.cargo_with(&["build", "--workspace", "--bins"]);
            limited(&mut programs, BUILD_MAX, &log)?;
        }
        let mut build = self.cargo(of);
        let (status, _) = limited(build.arg("--no-run"), BUILD_MAX, &log)?;
        match status {
            Some(status) if status.success() => {}
            Some(_) => {
                let said = fs::read_to_string(log.with_extension("err"))?;
                let errors: Vec<&str> =
                    said.lines().skip_while(|line| !line.starts_with("error")).collect();
                let shown = &errors[..errors.len().min(ERROR_LINES)];
                return Ok((Outcome::NotBuilt(shown.join("\n")), Vec::new()));
            }
            None => bail!("a build took longer than {BUILD_MAX:?}; see {}", log.display()),
        }
        let mut tests = self.cargo(of);
        // One at a time, so that the one that never ends is known by name.
        tests.args(["--", "--test-threads", "1"]).args(filters);
        let (status, said) = limited(&mut tests, self.tests_max, &log)?;
        let (ran, open) = begun(&said);
        let outcome = match status {
            Some(status) if status.success() => Outcome::Passed,
            Some(_) => match (failed(&said), open) {
                (names, _) if !names.is_empty() => Outcome::Failed(names),
                (_, Some(name)) => Outcome::Ended(name),
                _ => bail!("`cargo test` failed and named no test; see {}", log.display()),
            },
            None => Outcome::Hung(open.unwrap_or_else(|| "no test".to_owned())),
        };
        Ok((outcome, ran))
    }

    fn cargo(&self, of: &Mutant) -> Command {
        let mut command = self.cargo_with(&["test"]);
        command.args(of.target());
        command
    }

    fn cargo_with(&self, arguments: &[&str]) -> Command {
        let mut command = shell::cargo();
        command.current_dir(&self.tree).args(arguments);
        command.env("CARGO_TARGET_DIR", &self.target).envs(ENVIRONMENT);
        command
    }
}

/// Runs `command` in a process group of its own, what it says in files beside `log`; its status, or
/// none when the time was over and the group was ended, and its standard output.
fn limited(
    command: &mut Command,
    time_max: Duration,
    log: &Path,
) -> Result<(Option<ExitStatus>, String)> {
    let output = log.with_extension("out");
    command
        .stdin(Stdio::null())
        .stdout(File::create(&output)?)
        .stderr(File::create(log.with_extension("err"))?)
        .process_group(0);
    let start = Instant::now();
    let mut child = command.spawn().context("cannot start cargo")?;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break Some(status);
        }
        if start.elapsed() >= time_max {
            let group = format!("-{}", child.id());
            shell::run(Command::new("kill").args(["-KILL", "--", &group]))?;
            child.wait()?;
            break None;
        }
        thread::sleep(LOOK);
    };
    // A test may have let a program of its own write anything there.
    let said = fs::read(&output)?;
    Ok((status, String::from_utf8_lossy(&said).into_owned()))
}

/// Whether the test with this path is the function `function`.
pub(super) fn is_called(test: &str, function: &str) -> bool {
    test.rsplit("::").next() == Some(function)
}

/// The tests that were begun, and the last of them if it did not end.
fn begun(said: &str) -> (Vec<String>, Option<String>) {
    let mut names = Vec::new();
    let mut open = None;
    for line in said.lines() {
        if let Some((name, rest)) =
            line.strip_prefix("test ").and_then(|rest| rest.split_once(" ..."))
        {
            let name = name.strip_suffix(" - should panic").unwrap_or(name);
            names.push(name.to_owned());
            let has_ended = ["ok", "FAILED", "ignored"].iter().any(|word| rest.ends_with(word));
            open = (!has_ended).then(|| name.to_owned());
        } else if ["ok", "FAILED"].contains(&line) || line.starts_with("test result:") {
            // Something else was written between the name and this.
            open = None;
        }
    }
    (names, open)
}

/// The tests that the summary at the end names.
fn failed(said: &str) -> Vec<String> {
    let Some((_, list)) = said.rsplit_once("\nfailures:\n") else { return Vec::new() };
    let names = list.lines().map_while(|line| line.strip_prefix("    "));
    names.map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_libtest_says_is_read() {
        let said = "\nrunning 3 tests\ntest a::one ... ok\ntest b::two - should panic ... FAILED\n\
                    test c::three ... noise\nFAILED\n\nfailures:\n\n---- b::two stdout ----\n\
                    note: test did not panic as expected\n\nfailures:\n    b::two\n    c::three\n\
                    \ntest result: FAILED. 1 passed; 2 failed\n";
        assert_eq!(failed(said), ["b::two", "c::three"]);
        assert_eq!(begun(said).0, ["a::one", "b::two", "c::three"]);
        assert_eq!(begun(said).1, None);
        assert!(failed("running 1 test\ntest a ... ok\n\ntest result: ok.\n").is_empty());
    }

    #[test]
    fn the_test_that_never_ended_is_known() {
        let (names, open) = begun("running 2 tests\ntest a::one ... ok\ntest a::two ... ");
        assert_eq!((names.len(), open.as_deref()), (2, Some("a::two")));
        assert!(is_called("a::two", "two") && !is_called("a::two", "wo"));
    }

    #[test]
    fn what_takes_too_long_is_ended_with_its_children() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut command = Command::new("sh");
        command.args(["-c", "echo begun; sleep 60 & sleep 60"]);
        let start = Instant::now();
        let ended = limited(&mut command, Duration::from_millis(300), &folder.path().join("log"));
        let (status, said) = ended.expect("it was started");
        assert_eq!((status, said.as_str()), (None, "begun\n"));
        assert!(start.elapsed() < Duration::from_secs(30));
    }
}
