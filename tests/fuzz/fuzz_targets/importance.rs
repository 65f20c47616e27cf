//! See `fuzz::importance`.
#![no_main]

libfuzzer_sys::fuzz_target!(init: fuzz::write_seeds("importance"), |bytes: &[u8]| fuzz::importance(bytes));
