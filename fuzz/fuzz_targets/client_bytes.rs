//! `cargo fuzz run client_bytes`: the harness has what must hold.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    (yao_fuzz_harness::target("client_bytes").run)(bytes);
});
