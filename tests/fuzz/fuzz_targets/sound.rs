//! See `fuzz::sound`.
#![no_main]

libfuzzer_sys::fuzz_target!(init: fuzz::write_seeds("sound"), |bytes: &[u8]| fuzz::sound(bytes));
