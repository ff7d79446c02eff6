//! That the targets of cargo-fuzz are alive: each is linked with libFuzzer, runs its seeds, and the
//! canary dies of the input that was found for it.
#![forbid(unsafe_code)]

use std::{fs, process::Command, time::Duration};
use yao_fuzz_harness::{CANARY, TARGETS, Target, search::search, target};

/// Time in which an input for the canary must be found.
const CANARY_TIME: Duration = Duration::from_secs(30);
/// Another number is another search.
const SEED: u64 = 2015;

macro_rules! programs {
    ($($name:ident)*) => {
        /// Every target of `Cargo.toml`, and where its program is.
        const PROGRAMS: &[(&str, &str)] =
            &[$((stringify!($name), env!(concat!("CARGO_BIN_EXE_", stringify!($name))))),*];
    };
}

programs! { client_bytes agent_bytes seed_file spool_scan config tokens node_operations canary }

/// Runs `target`'s program once on each of `inputs`; whether it lived, and what it printed.
fn run(target: Target, inputs: &[Vec<u8>]) -> (bool, String) {
    let (_, program) = PROGRAMS.iter().find(|(name, _)| *name == target.name).expect("a program");
    let folder = tempfile::tempdir().expect("a folder");
    let files = inputs.iter().enumerate().map(|(number, input)| {
        let file = folder.path().join(number.to_string());
        fs::write(&file, input).expect("written");
        file
    });
    let mut command = Command::new(program);
    // What kills it is kept there, and not where the tests run.
    command.arg(format!("-artifact_prefix={}/", folder.path().display())).args(files);
    let output = command.output().expect("it starts");
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn every_target_runs_its_seeds() {
    let names: Vec<&str> = TARGETS.iter().chain([&CANARY]).map(|target| target.name).collect();
    let programs: Vec<&str> = PROGRAMS.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, programs, "each target of the harness is a program, and the other way round");
    for name in names {
        let target = target(name);
        let seeds = (target.seeds)();
        assert!(!seeds.is_empty(), "{name} has something to begin with");
        let (lived, text) = run(target, &seeds);
        assert!(lived, "{name}: {text}");
        // One line for each file: libFuzzer was there, and had it.
        assert_eq!(text.matches("Executed ").count(), seeds.len(), "{name}: {text}");
    }
}

#[test]
fn the_canary_dies() {
    let finding = search(CANARY, SEED, CANARY_TIME).finding.expect("a fault that is there");
    let (lived, text) = run(CANARY, &[finding.input]);
    assert!(!lived, "the canary lived: {text}");
    assert!(text.contains("the canary sings") && text.contains("libFuzzer"), "{text}");
}
