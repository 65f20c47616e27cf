//! See `fuzz::template`.
#![no_main]

libfuzzer_sys::fuzz_target!(init: fuzz::write_seeds("template"), |bytes: &[u8]| fuzz::template(bytes));
