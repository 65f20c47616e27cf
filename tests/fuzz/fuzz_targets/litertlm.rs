//! See `fuzz::litertlm`.
#![no_main]

libfuzzer_sys::fuzz_target!(init: fuzz::write_seeds("litertlm"), |bytes: &[u8]| fuzz::litertlm(bytes));
