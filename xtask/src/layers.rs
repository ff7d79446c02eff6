//! `cargo xtask layers`: who may import whom, proved from `cargo metadata` (ARCHITECTURE.md).

use crate::shell;
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

/// A package and those of ours that it may depend on.
const ALLOWED: &[(&str, &[&str])] = &[
    ("yao-protocol", &[]),
    ("yao-engine", &["yao-protocol"]),
    ("yao-access", &["yao-protocol", "yao-engine"]),
    ("yao-agent", &["yao-protocol"]),
    ("yao-client", &["yao-protocol"]),
    ("yao-seedgen", &["yao-protocol"]),
    ("yao-ledger", &["yao-protocol"]),
    ("yao-bench", &["yao-protocol", "yao-client"]),
    // Evidence, never shipped: these two may import the access node.
    ("yao-fuzz-harness", &["yao-protocol", "yao-engine", "yao-access"]),
    ("yao-loom", &["yao-protocol", "yao-engine"]),
    // Preloaded into programs, imported by nobody.
    ("yao-faults", &[]),
    ("yao-fuzz", &["yao-fuzz-harness"]),
    (
        "yao-sim",
        &[
            "yao-protocol",
            "yao-engine",
            "yao-access",
            "yao-agent",
            "yao-client",
            "yao-seedgen",
            "yao-ledger",
        ],
    ),
    ("xtask", &["yao-protocol"]),
];

/// What the engine must not reach, however indirectly.
const ENGINE_NEVER: &[&str] =
    &["tokio", "mio", "quinn", "rustls", "metrics", "socket2", "getrandom", "rand"];

/// What no source line of the engine may name.
const ENGINE_WORDS: &[&str] = &[
    "std::net",
    "std::fs",
    "std::thread",
    "std::sync::atomic",
    "Instant::now",
    "SystemTime",
    "Mutex",
];

/// Packages and their ordinary dependencies, by name.
type Graph = BTreeMap<String, BTreeSet<String>>;

/// Proves the table, or names every arrow that is not in it.
pub(crate) fn run() -> Result<()> {
    let text = shell::output(shell::cargo().args(["metadata", "--format-version=1", "--locked"]))?;
    let metadata: Value = serde_json::from_str(&text).context("cargo metadata prints JSON")?;
    let (graph, members) = read_graph(&metadata)?;
    let mut problems = check(&graph, &members);
    problems.extend(check_engine_words()?);
    if !problems.is_empty() {
        bail!("layers are broken:\n  {}", problems.join("\n  "));
    }
    println!("layers hold: {} packages of ours", members.len());
    Ok(())
}

fn read_graph(metadata: &Value) -> Result<(Graph, BTreeSet<String>)> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut names = BTreeMap::new();
    for package in list(&metadata["packages"]) {
        let id = package["id"].as_str().context("a package has an id")?.to_owned();
        names.insert(id, package["name"].as_str().context("a package has a name")?.to_owned());
    }
    let name = |id: &Value| id.as_str().and_then(|id| names.get(id)).cloned();
    let members = list(&metadata["workspace_members"]).iter().filter_map(name).collect();
    let mut graph = Graph::new();
    for node in list(&metadata["resolve"]["nodes"]) {
        let from = name(&node["id"]).context("a node is a package")?;
        let arrows = graph.entry(from).or_default();
        for dependency in list(&node["deps"]) {
            // Tests may use what the shipped code may not.
            let kinds = list(&dependency["dep_kinds"]);
            if kinds.iter().any(|kind| kind["kind"].as_str() != Some("dev")) {
                arrows.extend(name(&dependency["pkg"]));
            }
        }
    }
    Ok((graph, members))
}

fn check(graph: &Graph, members: &BTreeSet<String>) -> Vec<String> {
    let mut problems = Vec::new();
    for member in members {
        let Some((_, allowed)) = ALLOWED.iter().find(|(name, _)| name == member) else {
            problems.push(format!("{member} is not in the table of xtask/src/layers.rs"));
            continue;
        };
        for target in graph.get(member).into_iter().flatten() {
            if members.contains(target) && !allowed.contains(&target.as_str()) {
                problems.push(format!("{member} imports {target}, which it may not"));
            }
        }
    }
    let reached = reach(graph, "yao-engine");
    for never in ENGINE_NEVER {
        // `rand` and `getrandom` come in behind signatures; what counts is that the engine itself
        // does not name them.
        let direct = graph.get("yao-engine").is_some_and(|arrows| arrows.contains(*never));
        let indirect = reached.contains(*never) && !matches!(*never, "getrandom" | "rand");
        if direct || indirect {
            problems.push(format!("yao-engine reaches {never}: the engine does no IO"));
        }
    }
    problems
}

fn reach(graph: &Graph, from: &str) -> BTreeSet<String> {
    let mut reached = BTreeSet::new();
    let mut open = vec![from.to_owned()];
    while let Some(name) = open.pop() {
        for target in graph.get(&name).into_iter().flatten() {
            if reached.insert(target.clone()) {
                open.push(target.clone());
            }
        }
    }
    reached
}

fn check_engine_words() -> Result<Vec<String>> {
    let mut problems = Vec::new();
    for path in crate::tidy::rust_files(&shell::root().join("engine").join("src"))? {
        let text = fs::read_to_string(&path)?;
        for (index, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            for word in ENGINE_WORDS.iter().filter(|word| code.contains(**word)) {
                problems.push(format!("{}:{} names {word}", path.display(), index + 1));
            }
        }
    }
    Ok(problems)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(arrows: &[(&str, &[&str])]) -> (Graph, BTreeSet<String>) {
        let graph: Graph = arrows
            .iter()
            .map(|(from, to)| ((*from).to_owned(), to.iter().map(|t| (*t).to_owned()).collect()))
            .collect();
        let ours = |name: &&String| name.starts_with("yao") || *name == "xtask";
        let members = graph.keys().filter(ours).cloned().collect();
        (graph, members)
    }

    #[test]
    fn a_forbidden_arrow_is_named() {
        let holds = |arrows: &[(&str, &[&str])], expected: &[&str]| {
            let (graph, members) = graph(arrows);
            assert_eq!(check(&graph, &members), expected);
        };
        holds(&[("yao-protocol", &[]), ("yao-engine", &["yao-protocol"])], &[]);
        holds(
            &[("yao-agent", &["yao-access"]), ("yao-access", &[])],
            &["yao-agent imports yao-access, which it may not"],
        );
        holds(
            &[("yao-engine", &["harmless"]), ("harmless", &["tokio"]), ("tokio", &[])],
            &["yao-engine reaches tokio: the engine does no IO"],
        );
        holds(&[("yao-new", &[])], &["yao-new is not in the table of xtask/src/layers.rs"]);
    }
}
