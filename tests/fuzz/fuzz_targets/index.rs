//! See `fuzz::index`.
#![no_main]

libfuzzer_sys::fuzz_target!(init: fuzz::write_seeds("index"), |bytes: &[u8]| fuzz::index(bytes));
