//! What the runs found, case by case: shown as it comes, and compared at the end.

use crate::event::Way;
use anyhow::{Context, Result, bail};
use serde::Deserialize;
use std::{collections::BTreeMap, process::Output};

/// How a case went, from the worst to the best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Verdict {
    Unasked,
    Elsewhere,
    Green,
    Red,
}

#[derive(Deserialize)]
struct Outcome {
    id: String,
    verdict: Verdict,
    #[serde(default)]
    why: String,
}

/// The last line of a run.
#[derive(Deserialize)]
struct Report {
    rules: Vec<String>,
    cases: Vec<Outcome>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Books {
    /// The best that was seen of each case over each way, and why it was no better.
    seen: BTreeMap<(String, &'static str), (Verdict, String)>,
    rules: std::collections::BTreeSet<String>,
    red: usize,
}

impl Books {
    /// Enters, and shows, what a run over `way` printed.
    pub(super) fn enter(&mut self, way: Way, output: &Output) -> Result<()> {
        let text = str::from_utf8(&output.stdout).context("netbench prints text")?;
        let (table, last) = text.trim_end().rsplit_once('\n').unwrap_or(("", text));
        println!("== {}\n{table}", way.scheme());
        let Ok(report) = serde_json::from_str(last) else {
            bail!("netbench conform over {} ended with {}: {last}", way.scheme(), output.status);
        };
        self.note(way.scheme(), report);
        Ok(())
    }

    fn note(&mut self, way: &'static str, report: Report) {
        for Outcome { id, verdict, why } in report.cases {
            self.red += usize::from(verdict == Verdict::Red);
            let best = self.seen.entry((id, way)).or_insert((verdict, why.clone()));
            if verdict > best.0 {
                *best = (verdict, why);
            }
        }
        self.rules.extend(report.rules);
    }

    /// Whether every case was green over every way that it is a rule of, and over one at least.
    ///
    /// # Errors
    /// It names those that were not.
    pub(super) fn close(&self) -> Result<()> {
        let problems = self.problems();
        if !problems.is_empty() {
            bail!(
                "{} cases are not kept or not asked:\n  {}",
                problems.len(),
                problems.join("\n  ")
            );
        }
        let green = self.seen.values().filter(|(verdict, _)| *verdict == Verdict::Green).count();
        let cases = self.cases().len();
        let rules = self.rules.len();
        println!(
            "conform: {rules} rules of wire.md, {cases} cases, {green} of them and ways green"
        );
        Ok(())
    }

    /// Each case with its ways.
    fn cases(&self) -> BTreeMap<&str, Vec<Verdict>> {
        let mut cases: BTreeMap<&str, Vec<Verdict>> = BTreeMap::new();
        for ((id, _), (verdict, _)) in &self.seen {
            cases.entry(id).or_default().push(*verdict);
        }
        cases
    }

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for ((id, way), (verdict, why)) in &self.seen {
            match verdict {
                Verdict::Green | Verdict::Elsewhere => {}
                Verdict::Red => problems.push(format!("{id} over {way}: {why}")),
                Verdict::Unasked => problems.push(format!("{id} over {way} was not asked: {why}")),
            }
        }
        for (id, verdicts) in self.cases() {
            if verdicts.iter().all(|verdict| *verdict == Verdict::Elsewhere) {
                problems.push(format!("{id} is a rule of no way"));
            }
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_must_be_green_somewhere_and_red_nowhere() {
        let check = |runs: &[(&'static str, &str, &str)], expected: &[&str]| {
            let mut books = Books::default();
            for (way, id, verdict) in runs {
                let report = format!(
                    r#"{{"rules": [], "cases": [{{"id": "{id}", "verdict": "{verdict}"}}]}}"#
                );
                books.note(way, serde_json::from_str(&report).expect("a report"));
            }
            assert_eq!(books.problems(), expected);
            assert_eq!(books.close().is_ok(), expected.is_empty());
        };
        check(&[("tcp", "W1", "green"), ("tls", "W1", "elsewhere")], &[]);
        check(&[("tcp", "W1", "unasked"), ("tcp", "W1", "green")], &[]);
        check(&[("tcp", "W1", "green"), ("tcp", "W1", "red")], &["W1 over tcp: "]);
        check(&[("tcp", "W1", "red"), ("tcp", "W1", "green")], &["W1 over tcp: "]);
        check(
            &[("tcp", "W1", "green"), ("tls", "W1", "unasked")],
            &["W1 over tls was not asked: "],
        );
        check(&[("tcp", "W1", "elsewhere")], &["W1 is a rule of no way"]);
    }
}
