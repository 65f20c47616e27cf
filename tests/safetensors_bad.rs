//! Safetensors that cannot be: scales and codes that are none, weights that are no numbers, targets that would not be one model,
//! keys of the other container. Each is refused by name, and nothing is left behind.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::{self, Folder, WEIGHTS, Weights, convert, fixture, metadata, names, recipe};

/// Breaks a folder of 8 bits; the conversion back must name the place, and leave nothing.
fn broken(scheme: &str, change: impl FnOnce(&mut Weights), says: &[&str]) {
    let folder = Folder::of("31b");
    recipe(&folder.path(), &folder.home().join("coded"), scheme, &[]).good();
    let path: PathBuf = folder.home().join("coded").join(WEIGHTS);
    let format = metadata(&folder.home().join("coded"));
    let mut weights = support::weights(&folder.home().join("coded"));
    change(&mut weights);
    fs::write(&path, weights.to_bytes_with(Some(&format))).unwrap();
    let refused = recipe(&folder.home().join("coded"), &folder.out(), "bf16-safetensors", &[]);
    let said = refused.refusal(3);
    for part in says {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(!folder.out().exists() || names(&folder.out()).is_empty(), "{:?}", names(&folder.out()));
}

const Q: &str = "layers.0.self_attn.q_proj.weight";

#[test]
fn scales_that_are_none_are_refused() {
    let at = "tensor model.language_model.layers.0.self_attn.q_proj.weight";
    broken("sfp8", |w| w.drop(&format!("{Q}.sfp_scale")), &[at, "sfp_scale is missing"]);
    broken(
        "sfp8",
        |w| w.get(&format!("{Q}.sfp_scale")).poke(0, 0.0),
        &["q_proj", "a positive number, found 0"],
    );
    broken("sfp8", |w| w.get(&format!("{Q}.sfp_scale")).poke(0, f32::NAN), &["q_proj", "found NaN"]);
    let two = |weights: &mut Weights| {
        let scale = weights.get(&format!("{Q}.sfp_scale"));
        scale.shape = vec![2];
        scale.data.extend([0; 4]);
    };
    broken("sfp8", two, &["q_proj.weight.sfp_scale", "one scale, or one for each of 256 rows, found [2]"]);
}

#[test]
fn codes_that_are_none_are_refused() {
    let at = "tensor model.language_model.layers.0.self_attn.q_proj.weight";
    broken("sfp8", |w| w.get(Q).data[300] = 0x80, &[at, "encodes no number in sfp8", "0x80"]);
    broken("fp8", |w| w.get(Q).data[300] = 0x7f, &[at, "encodes no number in f8_e4m3", "0x7f"]);
    broken("fp8", |w| w.get(&format!("{Q}_scale")).poke(7, -1.0), &[at, "the scale of row 7", "found -1"]);
    broken("fp8", |w| w.drop(&format!("{Q}_scale")), &[at, "weight_scale is missing"]);
}

#[test]
fn weights_that_are_no_numbers_are_refused() {
    for scheme in ["bf16-safetensors", "sfp8", "fp8"] {
        for bad in [f32::NAN, f32::INFINITY] {
            let folder = Folder::of("31b");
            folder.reweigh(|weights| weights.get(Q).poke(1000, bad));
            let refused = recipe(&folder.path(), &folder.out(), scheme, &[]);
            let said = refused.refusal(3);
            assert!(
                said.contains("q_proj.weight: 1 values are not finite") && said.contains("row 3, column 232"),
                "{said}"
            );
            assert!(names(&folder.out()).is_empty());
        }
    }
    // the limits of a clip may be infinite
    let folder = Folder::of("e2b");
    folder.reweigh(|weights| weights.get("input_max").poke(0, f32::INFINITY));
    recipe(&folder.path(), &folder.out(), "fp8", &[]).good();
}

#[test]
fn targets_that_would_not_be_one_model_are_refused() {
    let folder = Folder::of("31b");
    let here = recipe(&folder.path(), &folder.path(), "sfp8", &["--force"]);
    assert!(here.refusal(3).contains("this is the folder of the checkpoint"));
    recipe(&folder.path(), &folder.out(), "bf16-safetensors", &[]).good();
    let twice = recipe(&folder.path(), &folder.out(), "bf16-safetensors", &[]);
    assert!(twice.refusal(3).contains("exists already"));
    recipe(&folder.path(), &folder.out(), "sfp8", &["--force"]).good();
    let shards = recipe(&folder.path(), &folder.out(), "sfp8", &["--force", "--max-shard-size", "1MB"]);
    assert!(shards.refusal(3).contains("other weights are in this folder"), "{}", shards.stderr);
    let file = recipe(&folder.path(), &folder.home().join("x.gguf"), "sfp8", &[]);
    assert!(file.refusal(2).contains("safetensors go into a folder"));
    let both = convert(&folder.path(), &folder.home().join("both"), &["--recipe", "sfp8", "--recipe", "fp8"]);
    assert!(both.refusal(2).contains("two outputs have this name"));
}

#[test]
fn keys_of_the_other_container_are_refused() {
    for (args, says) in [
        (
            &["--recipe", "sfp8", "--split-max-size", "1GB"][..],
            "output.split_max_size: has no effect on safetensors",
        ),
        (&["--recipe", "sfp8", "--set", "metadata.name=x"], "metadata: has no effect on safetensors"),
        (&["--recipe", "sfp8", "--set", "types.scheme=q4_0"], "types.scheme: no such scheme of safetensors"),
        (&["--recipe", "sfp8", "--max-shard-size", "much"], "--max-shard-size: not a size in bytes"),
        (&["--type", "q4_0", "--max-shard-size", "1GB"], "output.max_shard_size: has no effect on gguf"),
        (&["--type", "q4_0", "--text-only"], "text_only: has no effect on gguf"),
        (&["--type", "q4_0", "--set", "output.format=safetensors"], "types.scheme: missing"),
    ] {
        let refused = convert(&fixture("31b"), Path::new("/nonexistent/out"), args);
        assert!(refused.refusal(2).contains(says), "{says}: {}", refused.stderr);
    }
}
