//! Every target for two seconds, on the stable compiler; `cargo fuzz` goes on where this ends.
//!
//! `YAO_FUZZ_SECONDS` searches longer, `YAO_FUZZ_SEED` elsewhere.

use std::{env, time::Duration};
use yao_fuzz_harness::{
    CANARY, TARGETS,
    search::{Searched, search},
    target,
};
use yao_protocol::hex;

/// Time of each target, unless the environment says otherwise.
const SECONDS: u64 = 2;
/// Time in which the canary must be found.
const CANARY_SECONDS: u64 = 30;
/// A target that is slower looks at nothing.
const INPUTS_MIN: u64 = 20;
/// Another number is another search. With the commit it is the report of a failure.
const SEED: u64 = 2015;

fn number(name: &str, default: u64) -> u64 {
    let text = env::var(name).ok();
    text.map_or(default, |text| text.parse().expect("the environment gives a number"))
}

fn check(name: &str) {
    let seconds = number("YAO_FUZZ_SECONDS", SECONDS);
    let seed = number("YAO_FUZZ_SEED", SEED);
    let time = Duration::from_secs(seconds);
    let Searched { inputs, finding } = search(target(name), seed, time);
    if let Some(finding) = finding {
        let input = hex::encode(&finding.input);
        panic!("{name}, seed {seed}: {}\ninput {input}", finding.message);
    }
    assert!(inputs >= INPUTS_MIN, "{name}: only {inputs} inputs in {seconds} s");
}

macro_rules! searches {
    ($($name:ident)*) => {
        $(#[test] fn $name() { check(stringify!($name)); })*

        #[test]
        fn no_target_is_forgotten() {
            let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
            assert_eq!(names, [$(stringify!($name)),*]);
            for name in names.into_iter().chain([CANARY.name]) {
                let file = format!("{}/../fuzz_targets/{name}.rs", env!("CARGO_MANIFEST_DIR"));
                assert!(std::path::Path::new(&file).exists(), "{file} is missing");
            }
        }
    };
}

searches! { client_bytes agent_bytes seed_file spool_scan config tokens node_operations }

#[test]
fn the_canary_is_found() {
    let found = search(CANARY, SEED, Duration::from_secs(CANARY_SECONDS)).finding;
    let finding = found.expect("a fault that is there");
    assert!(finding.message.contains("the canary sings"), "{}", finding.message);
}
