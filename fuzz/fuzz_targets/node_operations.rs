//! `cargo fuzz run node_operations`: the harness has what must hold.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    (yao_fuzz_harness::target("node_operations").run)(bytes);
});
