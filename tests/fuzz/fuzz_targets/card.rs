//! See `fuzz::card`.
#![no_main]

libfuzzer_sys::fuzz_target!(init: fuzz::write_seeds("card"), |bytes: &[u8]| fuzz::card(bytes));
