//! Integration tests of the binary and the library: one test binary, one module a subject.
//!
//! Run the tests of one subject with `cargo test --release --test main traps::`.

mod bad_input;
mod bad_weights;
mod broken;
mod browser;
mod budget;
mod bytes;
mod calibration;
mod calibration_table;
mod clients;
mod command_line;
mod company;
mod config;
mod crash;
mod docs;
mod draft;
mod draft_extract;
mod draft_generate;
mod draft_measure;
mod draft_recipe;
mod faults;
mod generate;
#[cfg(feature = "hub")]
mod hub_models;
mod importance;
mod inputs;
mod judge;
mod judge_mmproj;
mod keys;
mod library;
mod limits;
mod memory;
mod memory_media;
mod mmproj;
mod multimodal;
mod noise;
mod offload;
mod outputs;
mod pack;
mod pack_ollama;
mod plans;
mod protocol;
mod qat;
#[cfg(feature = "hub")]
mod release;
mod report_files;
mod report_page;
mod runtime;
mod safetensors;
mod safetensors_bad;
mod safetensors_judge;
mod sets;
mod streams;
mod support;
mod target;
mod tokenizer;
mod traps;
mod untrusted;
mod verify;
mod verify_bytes;
mod verify_media;
mod verify_safetensors;
mod verify_set;
