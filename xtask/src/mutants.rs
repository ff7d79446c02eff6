//! `cargo xtask mutants`: makes one money rule wrong at a time, in a copy, and proves that a test
//! fails. The list is `xtask/mutants.toml`; docs/mutants.md says how to read it. Never changes a
//! file of the repository.

mod list;
mod tree;
mod trial;

use self::{
    list::Mutant,
    tree::Tree,
    trial::{Outcome, Suite},
};
use crate::shell;
use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde_json::{Value, json};
use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

const LIST: &str = "xtask/mutants.toml";
const DOCUMENT: &str = "docs/mutants.md";
/// The tests of one mutant take seconds. A test that waits for what never comes gives up after 20 s
/// (`PATIENCE` in access); this is long enough for a few of them on a busy machine.
const TESTS_MAX: Duration = Duration::from_secs(180);

/// What can be chosen.
#[derive(Args)]
pub(crate) struct MutantsArguments {
    /// Only mutants of this rule, or with this name; may be given more than once
    #[arg(long)]
    only: Vec<String>,
    /// Only check that the list fits the code and docs/mutants.md; build nothing
    #[arg(long)]
    check: bool,
    /// Print the table of docs/mutants.md; build nothing
    #[arg(long, conflicts_with = "check")]
    markdown: bool,
    /// Print the results as one JSON object; what happens is told on standard error
    #[arg(long)]
    json: bool,
}

impl MutantsArguments {
    /// Whether the list fits the code; builds nothing.
    pub(crate) const CHECK: Self =
        Self { only: Vec::new(), check: true, markdown: false, json: false };
}

/// One mutant that was tried.
struct Tried<'a> {
    mutant: &'a Mutant,
    outcome: Outcome,
    time: Duration,
}

impl Tried<'_> {
    /// Whether the test that the list names is among those that failed.
    fn as_expected(&self) -> bool {
        let failed = match &self.outcome {
            Outcome::Failed(names) => names.as_slice(),
            Outcome::Hung(name) | Outcome::Ended(name) => std::slice::from_ref(name),
            Outcome::Passed | Outcome::NotBuilt(_) => &[],
        };
        failed.iter().any(|name| trial::is_called(name, &self.mutant.expected))
    }

    /// The outcome in short, for the table.
    fn word(&self) -> &'static str {
        match &self.outcome {
            Outcome::Passed => "SURVIVED",
            Outcome::NotBuilt(_) => "DOES NOT COMPILE",
            _ if self.as_expected() => "caught",
            _ => "caught by another test",
        }
    }

    fn verdict(&self) -> String {
        let by = match &self.outcome {
            Outcome::Failed(names) if names.len() > 2 => {
                format!("caught by {} and {} more", short(&names[0]), names.len() - 1)
            }
            Outcome::Failed(names) => {
                let names: Vec<&str> = names.iter().map(|name| short(name)).collect();
                format!("caught by {}", names.join(", "))
            }
            Outcome::Hung(name) => format!("caught by time in {}", short(name)),
            Outcome::Ended(name) => format!("caught: the process ended in {}", short(name)),
            Outcome::Passed | Outcome::NotBuilt(_) => return self.word().to_owned(),
        };
        if self.as_expected() { by } else { format!("{by}, not by {}", self.mutant.expected) }
    }

    fn to_json(&self) -> Value {
        let (outcome, failed): (_, Vec<&str>) = match &self.outcome {
            Outcome::Failed(names) => ("caught", names.iter().map(String::as_str).collect()),
            Outcome::Hung(name) => ("caught by time", vec![name]),
            Outcome::Ended(name) => ("caught by the end of the process", vec![name]),
            Outcome::Passed => ("survived", Vec::new()),
            Outcome::NotBuilt(_) => ("does not compile", Vec::new()),
        };
        json!({
            "rule": self.mutant.rule,
            "name": self.mutant.name,
            "outcome": outcome,
            "failed": failed,
            "expected": self.mutant.expected,
            "as_expected": self.as_expected(),
            "seconds": (self.time.as_secs_f64() * 10.0).round() / 10.0,
        })
    }
}

/// Tries the mutants; an error unless every one of them is caught.
pub(crate) fn run(arguments: &MutantsArguments) -> Result<()> {
    let root = shell::root();
    let text = fs::read_to_string(root.join(LIST)).with_context(|| format!("no {LIST}"))?;
    let mutants = list::parse(&text).with_context(|| format!("{LIST} is wrong"))?;
    if arguments.markdown {
        print!("{}", markdown(&mutants));
        return Ok(());
    }
    let chosen: Vec<&Mutant> =
        mutants.iter().filter(|mutant| mutant.is_one_of(&arguments.only)).collect();
    ensure!(!chosen.is_empty(), "no mutant has the rule or name {:?}", arguments.only);
    let mut problems = list::problems(&root, &chosen)?;
    if arguments.check {
        problems.extend(document_problem(&root, &mutants)?);
    }
    if !problems.is_empty() {
        bail!("{LIST} does not fit:\n  {}", problems.join("\n  "));
    }
    if arguments.check {
        println!("mutants: {} fit the code, and {DOCUMENT} tells them", chosen.len());
        return Ok(());
    }
    let say = |line: &str| {
        if arguments.json { eprintln!("{line}") } else { println!("{line}") }
    };
    let tried = try_all(&root, &chosen, &say)?;
    if arguments.json {
        let mutants: Vec<Value> = tried.iter().map(Tried::to_json).collect();
        println!("{}", json!({ "mutants": mutants }));
    } else {
        let row = |tried: &Tried<'_>| {
            let name = format!("{} {}", tried.mutant.rule, tried.mutant.name);
            (name, format!("{}  {:>5.1} s", tried.word(), tried.time.as_secs_f64()))
        };
        crate::table::print("mutants", &tried.iter().map(row).collect::<Vec<_>>());
    }
    judge(&tried)
}

/// Tries each mutant in a copy, after the same tests have passed on the code as it is.
fn try_all<'a>(root: &Path, chosen: &[&'a Mutant], say: &dyn Fn(&str)) -> Result<Vec<Tried<'a>>> {
    let folder = std::path::absolute(shell::target().join("mutants"))?;
    let tree = Tree::copy(root, &folder.join("tree"))?;
    let mut suite = Suite::new(tree.path(), &folder, TESTS_MAX)?;
    let mut tried = Vec::with_capacity(chosen.len());
    for mutant in chosen {
        let alike: Vec<&Mutant> =
            chosen.iter().copied().filter(|other| other.target() == mutant.target()).collect();
        if let Some(time) = suite.pass_unmutated(&alike)? {
            let program = mutant.target().join(" ");
            say(&format!("{program}: tests pass without a mutant ({:.1} s)", time.as_secs_f64()));
        }
        let start = Instant::now();
        let outcome = tree.with(mutant, || suite.run(mutant))?;
        let one = Tried { mutant, outcome, time: start.elapsed() };
        say(&format!(
            "{:7} {}: {} ({:.1} s)",
            mutant.rule,
            mutant.name,
            one.verdict(),
            one.time.as_secs_f64()
        ));
        tried.push(one);
    }
    Ok(tried)
}

fn judge(tried: &[Tried<'_>]) -> Result<()> {
    let mut problems = Vec::new();
    for one in tried {
        let Mutant { rule, name, why, .. } = one.mutant;
        match &one.outcome {
            Outcome::Passed => problems.push(format!("{rule} {name} survived: {why}")),
            Outcome::NotBuilt(errors) => {
                problems.push(format!("{rule} {name} does not compile; mend {LIST}:\n{errors}"));
            }
            Outcome::Failed(_) | Outcome::Hung(_) | Outcome::Ended(_) => {}
        }
    }
    if !problems.is_empty() {
        let (bad, all) = (problems.len(), tried.len());
        bail!("{bad} of {all} mutants were not caught:\n  {}", problems.join("\n  "));
    }
    Ok(())
}

/// A test's name without the modules it lies in.
fn short(name: &str) -> &str {
    name.rsplit("::").next().unwrap_or(name)
}

/// The table of docs/mutants.md.
fn markdown(mutants: &[Mutant]) -> String {
    let mut lines = vec!["| rule | mutant | why it must fail | test |".to_owned()];
    lines.push("|---|---|---|---|".to_owned());
    lines.extend(mutants.iter().map(|mutant| {
        let Mutant { rule, name, why, expected, .. } = mutant;
        format!("| {rule} | `{name}` | {why} | `{expected}` |")
    }));
    lines.join("\n") + "\n"
}

fn document_problem(root: &Path, mutants: &[Mutant]) -> Result<Option<String>> {
    let text = fs::read_to_string(root.join(DOCUMENT)).with_context(|| format!("no {DOCUMENT}"))?;
    let told = text.contains(&markdown(mutants));
    let problem = "the table in docs/mutants.md is another one: put in what \
                   `cargo xtask mutants --markdown` prints";
    Ok((!told).then(|| problem.to_owned()))
}
