//! A GGUF in parts.

use std::fs;
use std::path::Path;

use super::edit::Gguf;
use super::gguf_file::of_few_weights;
use super::{Fault, Good, fault};
use crate::support::{self, Folder};

const PARTS: [&str; 2] = ["model-q4_0-00001-of-00004.gguf", "model-q4_0-00002-of-00004.gguf"];
const THIRD: &str = "model-q4_0-00003-of-00004.gguf";

fn part(name: &str, word: &str, number: usize, change: fn(&mut Gguf)) -> Fault {
    fault(name, word, move |folder: &Path| {
        let path = folder.join(PARTS[number]);
        let mut gguf = Gguf::read(&path);
        change(&mut gguf);
        gguf.write(&path);
    })
}

#[test]
fn every_fault_of_a_split_is_named() {
    let args = ["--type", "q4_0", "--split-max-size", "1MB"];
    let good = Good::converted("31b", PARTS[0], &args);
    // of a fine-tune, say
    let other = Folder::of("31b");
    other.reweigh(|weights| weights.get("layers.1.mlp.up_proj.weight").poke(0, 0.25));
    support::convert(&other.path(), &other.out(), &args).good();
    let stale = other.out().join(PARTS[1]);
    #[rustfmt::skip]
    let mut faults = vec![
        fault("two parts exchanged", "part", |folder: &Path| {
            fs::rename(folder.join(PARTS[1]), folder.join("x")).unwrap();
            fs::rename(folder.join(THIRD), folder.join(PARTS[1])).unwrap();
            fs::rename(folder.join("x"), folder.join(THIRD)).unwrap();
        }),
        fault("a part is missing", THIRD, |folder: &Path| fs::remove_file(folder.join(THIRD)).unwrap()),
        fault("a part of another conversion", "another conversion", move |folder: &Path| {
            fs::copy(&stale, folder.join(PARTS[1])).unwrap();
        }),
        part("a key of a later part contradicts", "contradicts the first part", 1, |g| g.set("gemma4.rope.freq_base", 5f32)),
        part("a token id of a later part contradicts", "contradicts the first part", 1, |g| g.set("tokenizer.ggml.eos_token_id", 5u32)),
        part("a later part has a key of the model", "a later part has this key", 1, |g| g.set("gemma4.rope.scaling.factor", 5f32)),
        part("a later part has a name", "a later part has this key", 1, |g| g.set("general.name", "another")).harmless(),
        part("a tensor of a later part is gone", "tensors", 1, |g| drop(g.tensors.pop())),
        part("another number of parts", "part", 1, |g| g.set("split.count", 3u16)),
        part("another number of tensors", "tensors", 1, |g| g.set("split.tensors.count", 3i32)),
        part("another number", "part", 1, |g| g.set("split.no", 2u16)),
        part("a key of the first part", "gemma4.attention.sliding_window", 0, |g| g.set("gemma4.attention.sliding_window", 32u32)),
        part("a later part with an alignment", "general.alignment", 1, |g| g.set("general.alignment", 64u32)).harmless(),
    ];
    for file in PARTS {
        let tensors = Gguf::read(&good.out().join(file)).tensors;
        let matrix = tensors.iter().map(|(desc, _)| desc).find(|desc| desc.rows() > 16);
        faults.extend(of_few_weights(file, &[&matrix.expect("a matrix").name]));
    }
    good.all_are_named(&faults);
}
