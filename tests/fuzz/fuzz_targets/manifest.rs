//! See `fuzz::manifest`.
#![no_main]

libfuzzer_sys::fuzz_target!(init: fuzz::write_seeds("manifest"), |bytes: &[u8]| fuzz::manifest(bytes));
