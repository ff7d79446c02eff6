//! `cargo fuzz run spool_scan`: the harness has what must hold.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    (yao_fuzz_harness::target("spool_scan").run)(bytes);
});
