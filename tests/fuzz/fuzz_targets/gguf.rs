//! See `fuzz::gguf`.
#![no_main]

libfuzzer_sys::fuzz_target!(init: fuzz::write_seeds("gguf"), |bytes: &[u8]| fuzz::gguf(bytes));
