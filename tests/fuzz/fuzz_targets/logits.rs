//! See `fuzz::logits`.
#![no_main]

libfuzzer_sys::fuzz_target!(init: fuzz::write_seeds("logits"), |bytes: &[u8]| fuzz::logits(bytes));
