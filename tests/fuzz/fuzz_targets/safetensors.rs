//! See `fuzz::safetensors`.
#![no_main]

libfuzzer_sys::fuzz_target!(init: fuzz::write_seeds("safetensors"), |bytes: &[u8]| fuzz::safetensors(bytes));
