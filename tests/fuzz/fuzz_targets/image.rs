//! See `fuzz::image`.
#![no_main]

libfuzzer_sys::fuzz_target!(init: fuzz::write_seeds("image"), |bytes: &[u8]| fuzz::image(bytes));
