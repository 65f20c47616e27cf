//! See `fuzz::tokenizer`.
#![no_main]

libfuzzer_sys::fuzz_target!(init: fuzz::write_seeds("tokenizer"), |bytes: &[u8]| fuzz::tokenizer(bytes));
