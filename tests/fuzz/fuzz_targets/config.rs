//! See `fuzz::config`.
#![no_main]

libfuzzer_sys::fuzz_target!(init: fuzz::write_seeds("config"), |bytes: &[u8]| fuzz::config(bytes));
