//! `cargo xtask tidy`: the rules of this repository that no compiler knows (STYLE.md).

use crate::shell;
use anyhow::{Context, Result, bail};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Lines of a file at most.
const FILE_LINES_MAX: usize = 600;
/// Lines of a function at most.
const FUNCTION_LINES_MAX: usize = 70;
/// Columns of a line at most.
const COLUMNS_MAX: usize = 100;
/// Files that may hold `unsafe`, each block with its SAFETY comment.
const UNSAFE_FILES: &[&str] = &[
    "access/src/prefetch.rs",
    "access/src/quic/steering.rs",
    "engine/tests/half_open.rs",
    "engine/tests/losing_shake.rs",
    "protocol/tests/allocations.rs",
    "xtask/faults/src/calls.rs",
    "xtask/faults/src/system.rs",
];
/// Crates whose source is checked.
const CRATES: &[&str] = &[
    "protocol",
    "engine",
    "access",
    "agent",
    "client",
    "seedgen",
    "ledger",
    "bench/src",
    "bench/tests",
    "fuzz/harness",
    "fuzz/fuzz_targets",
    "fuzz/tests",
    "sim",
    "xtask",
];
/// Documents whose paths must exist, besides every page in docs/.
const DOCUMENTS: &[&str] = &["README.md", "ARCHITECTURE.md", "STYLE.md"];

/// Checks every rule and names each place that breaks one.
pub(crate) fn run() -> Result<()> {
    let root = shell::root();
    let mut problems = Vec::new();
    let mut count = 0;
    for directory in CRATES {
        for path in rust_files(&root.join(directory))? {
            count += 1;
            let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            let name = path.strip_prefix(&root).unwrap_or(&path).display().to_string();
            problems.extend(check_source(&name, &text));
        }
    }
    let mut documents: Vec<String> = DOCUMENTS.iter().map(|name| (*name).to_owned()).collect();
    for folder in ["docs", "docs/decisions"] {
        for entry in fs::read_dir(root.join(folder))? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name.ends_with(".md") {
                documents.push(format!("{folder}/{name}"));
            }
        }
    }
    documents.sort();
    for document in &documents {
        let text = fs::read_to_string(root.join(document))
            .with_context(|| format!("{document} is missing"))?;
        problems.extend(check_paths(document, &text, &|path| root.join(path).exists()));
    }
    if !problems.is_empty() {
        bail!("{} places break a rule:\n  {}", problems.len(), problems.join("\n  "));
    }
    println!("tidy: {count} source files");
    Ok(())
}

/// Every `.rs` file below `directory`, in order; none when there is no such directory.
pub(crate) fn rust_files(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut open = vec![directory.to_owned()];
    while let Some(directory) = open.pop() {
        if !directory.is_dir() {
            continue;
        }
        for entry in fs::read_dir(&directory)? {
            let path = entry?.path();
            if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

fn check_source(name: &str, text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if !text.starts_with("//!") {
        problems
            .push(format!("{name}:1 does not open with `//!`: what it owns, what it never does"));
    }
    let lines = text.lines().count();
    if lines > FILE_LINES_MAX {
        problems.push(format!("{name} has {lines} lines, at most {FILE_LINES_MAX}: split it"));
    }
    for (index, line) in text.lines().enumerate() {
        let place = format!("{name}:{}", index + 1);
        if line.chars().count() > COLUMNS_MAX {
            problems.push(format!("{place} is longer than {COLUMNS_MAX} columns"));
        }
        // The words are put together here so that this file does not break its own rule.
        for word in [concat!("todo", "!("), concat!("dbg", "!("), concat!("FIX", "ME")] {
            if line.contains(word) {
                problems.push(format!("{place} holds `{word}`"));
            }
        }
        let code = line.split("//").next().unwrap_or_default();
        if code.contains(concat!("unsafe", " ")) && !UNSAFE_FILES.contains(&name) {
            problems.push(format!("{place} is {} outside the list in xtask/src/tidy.rs", "unsafe"));
        }
    }
    problems.extend(long_functions(name, text));
    problems
}

/// Functions of rustfmt'ed source: from the line with `fn` to the brace at the same indentation.
fn long_functions(name: &str, text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let mut current: Option<(usize, usize, String)> = None;
    for (index, line) in text.lines().enumerate() {
        let indentation = line.len() - line.trim_start().len();
        match &current {
            None => {
                let opens = !line.trim_end().ends_with(['}', ';']);
                if let Some(function) = function_name(line).filter(|_| opens) {
                    current = Some((index, indentation, function));
                }
            }
            Some((start, depth, function)) if indentation == *depth && line.trim() == "}" => {
                let lines = index - start + 1;
                if lines > FUNCTION_LINES_MAX {
                    problems.push(format!(
                        "{name}:{} `{function}` has {lines} lines, at most {FUNCTION_LINES_MAX}",
                        start + 1
                    ));
                }
                current = None;
            }
            Some(_) => {}
        }
    }
    problems
}

fn function_name(line: &str) -> Option<String> {
    let (before, after) = line.split_once("fn ")?;
    let words = ["pub", "pub(crate)", "pub(super)", "const", "async", "unsafe"];
    let plain = before.split_whitespace().all(|word| words.contains(&word));
    let name: String = after.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    (plain && !name.is_empty()).then_some(name)
}

/// Words in backticks that look like paths of this repository must be there.
fn check_paths(document: &str, text: &str, exists: &dyn Fn(&str) -> bool) -> Vec<String> {
    let mut problems = Vec::new();
    for (index, line) in text.lines().enumerate() {
        for word in line.split('`').skip(1).step_by(2) {
            let path = word.trim_end_matches('/');
            let plain = word.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c));
            let like_a_path = plain && (word.contains('/') || word.ends_with(".md"));
            if like_a_path
                && !word.starts_with('/')
                && !word.starts_with("target/")
                && !exists(path)
            {
                problems
                    .push(format!("{document}:{} names `{word}`, which is not there", index + 1));
            }
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rule_can_fail() {
        let check = |text: &str, expected: &str| {
            let problems = check_source("x.rs", text).join("\n");
            assert!(problems.contains(expected), "{problems}");
        };
        check("fn main() {}\n", "does not open with");
        check(&format!("//! x\n{}\n", "x".repeat(101)), "longer than 100");
        check(&format!("//! x\n{}\n", "x\n".repeat(601)), "split it");
        check(&format!("//! x\n    {}{}\n", "dbg", "!(1);"), concat!("holds `dbg", "!(`"));
        check(&format!("//! x\nfn long() {{\n{}}}\n", "    a();\n".repeat(80)), "`long` has 82");
        check(&format!("//! x\n{} {{ }}\n", "unsafe"), "outside the list");
        assert!(check_source("x.rs", "//! x\nfn short() {\n    a();\n}\n").is_empty());
    }

    #[test]
    fn a_path_that_is_not_there_is_named() {
        let text = "see `engine/src/lib.rs`, `a/b.rs`, `cargo xtask demo` and `M1/M2 rules`";
        let problems = check_paths("D.md", text, &|path| path == "engine/src/lib.rs");
        assert_eq!(problems, ["D.md:1 names `a/b.rs`, which is not there"]);
    }
}
