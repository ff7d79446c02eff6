//! The list of mutants: reading it, and whether it fits the code. Never builds anything.

use crate::tidy;
use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use std::{collections::BTreeMap, fs, path::Path};

/// An exact text that becomes another one.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Change {
    /// Path from the repository's root.
    pub(super) file: String,
    pub(super) from: String,
    pub(super) to: String,
}

/// One wrong program, and the tests that must notice.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Mutant {
    /// M1 to M9, or what the promise is about.
    pub(super) rule: String,
    pub(super) name: String,
    /// What is at stake, in one sentence.
    pub(super) why: String,
    pub(super) package: String,
    /// An integration test; the library's own tests when there is none.
    target: Option<String>,
    /// Parts of test names, as `cargo test` takes them.
    pub(super) tests: Vec<String>,
    /// The function that is expected to fail, without its modules.
    pub(super) expected: String,
    pub(super) changes: Vec<Change>,
}

impl Mutant {
    /// Whether its rule or name was asked for; everything is when nothing was.
    pub(super) fn is_one_of(&self, only: &[String]) -> bool {
        only.is_empty() || only.iter().any(|word| *word == self.rule || *word == self.name)
    }

    /// The arguments that choose its test program.
    pub(super) fn target(&self) -> Vec<&str> {
        let program = match &self.target {
            Some(name) => vec!["--test", name],
            None => vec!["--lib"],
        };
        [vec!["--package", &self.package], program].concat()
    }

    /// The changed texts of its files, each with its path; an error names what does not fit.
    pub(super) fn mutate(
        &self,
        read: impl Fn(&str) -> Result<String>,
    ) -> Result<BTreeMap<&str, String>> {
        let mut texts = BTreeMap::new();
        for Change { file, from, to } in &self.changes {
            let text = match texts.remove(file.as_str()) {
                Some(text) => text,
                None => read(file)?,
            };
            let count = text.matches(from.as_str()).count();
            ensure!(
                count == 1,
                "mutant `{}`: {file} holds this {count} times, not once: {from}",
                self.name
            );
            texts.insert(file.as_str(), text.replacen(from.as_str(), to, 1));
        }
        Ok(texts)
    }
}

/// What does not fit the code below `root`.
pub(super) fn problems(root: &Path, mutants: &[&Mutant]) -> Result<Vec<String>> {
    let mut problems = Vec::new();
    let mut sources: BTreeMap<&str, String> = BTreeMap::new();
    for (index, mutant) in mutants.iter().enumerate() {
        let read = |file: &str| {
            fs::read_to_string(root.join(file))
                .with_context(|| format!("mutant `{}`: cannot read {file}", mutant.name))
        };
        if let Err(error) = mutant.mutate(read) {
            problems.push(format!("{error:#}"));
        }
        if mutants[..index].iter().any(|other| other.name == mutant.name) {
            problems.push(format!("mutant `{}` stands there twice", mutant.name));
        }
        let package = mutant.package.as_str();
        if !sources.contains_key(package) {
            sources.insert(package, source(root, package)?);
        }
        if !sources[package].contains(&format!("fn {}(", mutant.expected)) {
            let Mutant { name, expected, .. } = mutant;
            problems.push(format!("mutant `{name}`: {package} has no test `{expected}`"));
        }
    }
    Ok(problems)
}

/// Every line of a package, whose folder is called as it is, without `yao-`; or that folder of
/// `fuzz`.
fn source(root: &Path, package: &str) -> Result<String> {
    let name = package.strip_prefix("yao-").unwrap_or(package);
    let folders = [root.join(name), root.join("fuzz").join(name)];
    let folder = folders.iter().find(|folder| folder.is_dir());
    let folder = folder.with_context(|| format!("package {package} has no folder {name}"))?;
    let files = tidy::rust_files(folder)?;
    ensure!(!files.is_empty(), "package {package} has no source in {}", folder.display());
    files.iter().map(|path| Ok(fs::read_to_string(path)?)).collect()
}

/// The file: `[[mutant]]`, each with `[[mutant.also]]` for further changes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    mutant: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    rule: String,
    name: String,
    why: String,
    package: String,
    target: Option<String>,
    tests: Vec<String>,
    expected: String,
    file: String,
    from: String,
    to: String,
    #[serde(default)]
    also: Vec<Change>,
}

/// Reads the list.
pub(super) fn parse(text: &str) -> Result<Vec<Mutant>> {
    let List { mutant } = toml::from_str(text)?;
    mutant.into_iter().map(Entry::into_mutant).collect()
}

impl Entry {
    fn into_mutant(self) -> Result<Mutant> {
        let Self { rule, name, why, package, target, tests, expected, file, from, to, also } = self;
        let mut changes = vec![Change { file, from, to }];
        changes.extend(also);
        for Change { from, to, .. } in &changes {
            ensure!(!from.is_empty() && from != to, "mutant `{name}`: nothing is changed");
        }
        Ok(Mutant { rule, name, why, package, target, tests, expected, changes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = r#"
# A comment.
[[mutant]]
rule = "M1"
name = "one"
why = "It says why."
package = "yao-engine"
tests = ["a", "b::c"]
expected = "m1_one"
file = "a.rs"
from = 'x("1")'
to = '''
x(
    'y')'''

[[mutant.also]]
file = "a.rs"
from = "second"
to = ''
"#;

    #[test]
    fn a_mutant_is_read_with_all_its_changes() {
        let mutants = parse(LIST).expect("a good list");
        let [mutant] = mutants.as_slice() else { panic!("{mutants:?}") };
        assert_eq!((mutant.rule.as_str(), mutant.name.as_str()), ("M1", "one"));
        assert_eq!(mutant.tests, ["a", "b::c"]);
        assert_eq!(mutant.target(), ["--package", "yao-engine", "--lib"]);
        let texts = mutant.mutate(|_| Ok(r#"first x("1"); second"#.to_owned())).expect("it fits");
        assert_eq!(texts["a.rs"], "first x(\n    'y'); ");
        assert!(mutant.is_one_of(&[]) && mutant.is_one_of(&["M1".to_owned()]));
        assert!(!mutant.is_one_of(&["M2".to_owned()]));
    }

    #[test]
    fn what_does_not_fit_is_one_error_with_mutant_and_file() {
        let mutants = parse(LIST).expect("a good list");
        for text in ["second", r#"x("1") x("1") second"#] {
            let error = mutants[0].mutate(|_| Ok(text.to_owned())).expect_err("not once");
            let error = error.to_string();
            assert!(error.contains("`one`") && error.contains("a.rs"), "{error}");
        }
    }

    #[test]
    fn an_entry_that_lacks_or_invents_something_is_refused() {
        let check = |from: &str, to: &str, expected: &str| {
            assert!(LIST.contains(from));
            let error = parse(&LIST.replacen(from, to, 1)).expect_err(expected);
            assert!(format!("{error:#}").contains(expected), "{error:#}");
        };
        check("rule = \"M1\"\n", "", "missing field `rule`");
        check("rule = \"M1\"", "rule = \"M1\"\ncolour = \"red\"", "unknown field `colour`");
        check("from = \"second\"", "from = \"\"", "`one`: nothing is changed");
        check("to = ''\n", "to = \"second\"\n", "`one`: nothing is changed");
    }
}
