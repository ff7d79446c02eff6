//! How the cases went: a table for people, one line of JSON for programs.

use anyhow::{Result, bail};
use serde::Serialize;
use std::{
    collections::BTreeSet,
    io::{self, Write},
    time::Duration,
};

use super::case::Case;

/// How a case went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Verdict {
    /// The server keeps to it.
    Green,
    /// It does not.
    Red,
    /// This run was not told how to ask for it.
    Unasked,
    /// It is a rule of another transport.
    Elsewhere,
}

impl Verdict {
    const fn name(self) -> &'static str {
        match self {
            Self::Green => "green",
            Self::Red => "RED",
            Self::Unasked => "unasked",
            Self::Elsewhere => "-",
        }
    }
}

/// A case and how it went.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Outcome {
    pub(super) id: String,
    pub(super) what: String,
    pub(super) verdict: Verdict,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) why: Option<String>,
    /// The rules to which the server was held.
    #[serde(skip)]
    pub(super) rules: BTreeSet<String>,
}

/// The last line.
#[derive(Debug, Serialize)]
struct Report<'a> {
    verdict: Verdict,
    addr: &'a str,
    green: usize,
    red: usize,
    unasked: usize,
    elsewhere: usize,
    left_out: usize,
    seconds: u64,
    /// The rules that green cases have asked for.
    rules: Vec<&'a str>,
    cases: &'a [Outcome],
}

/// Ids in the order of wire.md: numbers by their value.
pub(super) fn order(id: &str) -> Vec<(u64, String)> {
    let mut parts = Vec::new();
    let mut rest = id;
    while !rest.is_empty() {
        let words = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let (word, tail) = rest.split_at(words);
        let digits = tail.find(|c: char| !c.is_ascii_digit()).unwrap_or(tail.len());
        let (number, tail) = tail.split_at(digits);
        parts.push((0, word.to_owned()));
        parts.push((number.parse().unwrap_or(0), String::new()));
        rest = tail;
    }
    parts
}

/// Prints all of it.
///
/// # Errors
/// A case is red, or nothing can be printed.
pub(super) fn print(
    addr: &str,
    outcomes: &[Outcome],
    left_out: &[Case],
    took: Duration,
    json: bool,
) -> Result<()> {
    let count = |verdict| outcomes.iter().filter(|outcome| outcome.verdict == verdict).count();
    let (green, red) = (count(Verdict::Green), count(Verdict::Red));
    let (unasked, elsewhere) = (count(Verdict::Unasked), count(Verdict::Elsewhere));
    let mut out = io::stdout().lock();
    for Outcome { id, what, verdict, why, .. } in outcomes {
        writeln!(out, "{id:<26}  {:<7}  {what}", verdict.name())?;
        if let Some(why) = why {
            let label = if *verdict == Verdict::Elsewhere { "a rule of " } else { "" };
            writeln!(out, "{:>37}{label}{why}", "")?;
        }
    }
    let good = outcomes.iter().filter(|outcome| outcome.verdict == Verdict::Green);
    let rules: BTreeSet<&str> = good.flat_map(|it| it.rules.iter().map(String::as_str)).collect();
    let verdict = if red > 0 { Verdict::Red } else { Verdict::Green };
    let (seconds, left_out) = (took.as_secs(), left_out.len());
    writeln!(
        out,
        "{}: {} cases, {green} green, {red} red, {unasked} unasked, {elsewhere} of other \
         transports, {left_out} left out by --only; {} rules of wire.md, {seconds} s",
        verdict.name(),
        outcomes.len() + left_out,
        rules.len(),
    )?;
    if json {
        let (cases, rules) = (outcomes, rules.into_iter().collect());
        let report = Report {
            verdict,
            addr,
            green,
            red,
            unasked,
            elsewhere,
            left_out,
            seconds,
            rules,
            cases,
        };
        writeln!(out, "{}", serde_json::to_string(&report)?)?;
    }
    if red > 0 {
        bail!("{addr} does not keep wire.md: {red} cases are red");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_sorted_as_wire_md_is() {
        let mut ids = ["W10-01", "W9.4-03.zeros", "W2-03.10", "W9.4-03", "W2-03.9", "W9.10-01"];
        ids.sort_by_cached_key(|id| order(id));
        assert_eq!(ids, ["W2-03.9", "W2-03.10", "W9.4-03", "W9.4-03.zeros", "W9.10-01", "W10-01"]);
    }
}
