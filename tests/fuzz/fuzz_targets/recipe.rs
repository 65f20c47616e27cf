//! See `fuzz::recipe`.
#![no_main]

libfuzzer_sys::fuzz_target!(init: fuzz::write_seeds("recipe"), |bytes: &[u8]| fuzz::recipe(bytes));
