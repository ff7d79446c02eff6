//! `cargo fuzz run seed_file`: the harness has what must hold.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    (yao_fuzz_harness::target("seed_file").run)(bytes);
});
