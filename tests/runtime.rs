//! A converted file computes what its checkpoint does: the runtime over both.
//!
//! The runtime against transformers is the business of `crates/runtime`; here its other input is, the GGUF.

#![allow(clippy::print_stdout, reason = "shown only when a test fails: how far off the others are")]

use std::fs::read_to_string;
use std::path::Path;

use crate::support::{convert, fixture};
use checkpoint::Checkpoint;
use gemma::{Config, ROPE_FREQS, gguf_inventory};
use gguf::GgufSet;
use runtime::{Compute, Kernel, KvCache, Matrix, Model, Weights};
use tensor::{DType, Fault, TensorDesc, TensorSource};

const FOLDERS: [&str; 3] = ["e2b", "26b-a4b", "31b"];

/// Ids that text might have, more than a window of them.
fn tokens() -> Vec<u32> {
    (0..100).map(|n| if n == 0 { 2 } else { 300 + (n * n * 37 + n * 11) % 1700 }).collect()
}

/// Arithmetic with this kernel.
fn by(kernel: Kernel) -> Compute {
    Compute { kernel, ..Compute::detect() }
}

/// Logits of all tokens.
fn logits(config: &Config, weights: Weights<'_>) -> Matrix {
    let model = Model::new(config, weights).unwrap();
    let hidden = model.forward(&tokens(), &mut KvCache::new(config), |_, _| ()).unwrap();
    model.head(&hidden).unwrap()
}

fn logits_of_checkpoint(name: &str) -> Matrix {
    let checkpoint = Checkpoint::open(fixture(name)).unwrap();
    let config = Config::from_json(checkpoint.config()).unwrap();
    let inventory = gemma::inventory(&config, checkpoint.tensors(), &|_| name.into()).unwrap();
    logits(&config, Weights::new(&checkpoint, &inventory, by(Kernel::F32)).unwrap())
}

fn logits_of_gguf(path: &Path, kernel: Kernel) -> Matrix {
    let file = GgufSet::open(path).unwrap();
    let config = Config::from_metadata(file.metadata(), file.tensors()).unwrap();
    let inventory = gguf_inventory(&config, file.tensors()).unwrap();
    logits(&config, Weights::new(&file, &inventory, by(kernel)).unwrap())
}

/// Root mean square of the differences, and of the values: tokens that mean nothing lead to logits that are easily
/// moved, and to other experts.
fn rms_difference(a: &Matrix, b: &Matrix) -> (f64, f64) {
    let rms = |values: &mut dyn Iterator<Item = f32>| {
        let (sum, count) = values.fold((0.0, 0), |(sum, n), x| (sum + f64::from(x).powi(2), n + 1));
        (sum / f64::from(count)).sqrt()
    };
    let differences = a.iter().zip(b).map(|(a, b)| a - b);
    (rms(&mut differences.into_iter()), rms(&mut a.iter().copied()))
}

#[test]
fn keys_say_what_the_config_said() {
    let home = tempfile::tempdir().unwrap();
    for name in FOLDERS {
        let out = home.path().join(name);
        convert(&fixture(name), &out, &["--type", "q8_0"]).good();
        let checkpoint = Checkpoint::open(fixture(name)).unwrap();
        let mut expected = Config::from_json(checkpoint.config()).unwrap();
        let file = GgufSet::open(out.join("model-q8_0.gguf")).unwrap();
        let found = Config::from_metadata(file.metadata(), file.tensors()).unwrap();
        (expected.architecture, expected.kind) = (found.architecture.clone(), found.kind);
        // no key has it: of the size, as in llama.cpp
        expected.image_blocks = ![1536, 2560].contains(&expected.hidden);
        assert_eq!(format!("{expected:#?}"), format!("{found:#?}"), "{name}");
    }
}

#[test]
fn plain_types_compute_the_same_bit_for_bit() {
    let home = tempfile::tempdir().unwrap();
    for name in FOLDERS {
        let out = home.path().join(name);
        convert(&fixture(name), &out, &["--type", "bf16", "--type", "f32"]).good();
        let expected = logits_of_checkpoint(name);
        for file in ["model-bf16.gguf", "model-f32.gguf"] {
            let found = logits_of_gguf(&out.join(file), Kernel::F32);
            assert!(expected == found, "{name}, {file}: {:?}", rms_difference(&expected, &found));
        }
    }
}

#[test]
fn every_preset_computes_nearly_the_same() {
    let formats = testkit::root().join("formats/gguf-presets.toml");
    let presets = read_to_string(formats).unwrap();
    let presets: Vec<&str> =
        presets.lines().filter_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"')).collect();
    let tiles = !testkit::available("kernel", [Kernel::AmxBf16], Kernel::is_available).is_empty();
    let args: Vec<&str> = presets.iter().flat_map(|preset| ["--type", *preset]).collect();
    assert!(presets.len() > 15);
    let home = tempfile::tempdir().unwrap();
    for name in FOLDERS {
        let out = home.path().join(name);
        convert(&fixture(name), &out, &args).good();
        let expected = logits_of_checkpoint(name);
        for preset in &presets {
            let file = out.join(format!("model-{preset}.gguf"));
            let found = logits_of_gguf(&file, Kernel::F32);
            let (difference, size) = rms_difference(&expected, &found);
            let limit = match *preset {
                "f32" | "bf16" => 0.0,
                "f16" => 1e-4,
                "q8_0" => 0.05,
                "q6_k" => 0.06,
                "q5_0" | "q5_1" | "q5_k_s" | "q5_k_m" => 0.12,
                _ => 0.25,
            };
            println!("{name} {preset}: {:.5}", difference / size);
            assert!(difference <= limit * size, "{name} {preset}: {difference} of {size}");
            assert!(limit == 0.0 || difference > 0.0, "{name} {preset}: not even rounded");
            if tiles {
                let (difference, size) = rms_difference(&found, &logits_of_gguf(&file, Kernel::AmxBf16));
                println!("    tiles {:.7}", difference / size);
                assert!(difference <= 1e-4 * size, "{name} {preset}, on tiles: {difference} of {size}");
            }
        }
    }
}

#[test]
fn a_file_that_is_not_whole_is_refused() {
    let home = tempfile::tempdir().unwrap();
    convert(&fixture("e2b"), home.path(), &["--type", "q4_0", "--force"]).good();
    let file = GgufSet::open(home.path().join("model-q4_0.gguf")).unwrap();
    let (keys, tensors) = (file.metadata(), file.tensors());
    let config = Config::from_metadata(keys, tensors).unwrap();

    let without = |name: &str| tensors.iter().filter(|t| t.name != name).cloned().collect::<Vec<_>>();
    for name in [&format!("{ROPE_FREQS}.weight"), "blk.3.layer_output_scale.weight", "blk.0.attn_v.weight"] {
        let error = gguf_inventory(&config, &without(name)).unwrap_err();
        assert_eq!((error.fault(), error.place()), (Fault::Malformed, format!("tensor {name}").as_str()));
    }
    let mut more = tensors.to_vec();
    more.push(TensorDesc::new("blk.0.attn_q.bias", DType::F32, [256]).unwrap());
    let error = gguf_inventory(&config, &more).unwrap_err();
    assert_eq!((error.fault(), error.place()), (Fault::Unsupported, "tensor blk.0.attn_q.bias"));

    let with = |key: &str, value: gguf::Value| {
        let mut keys = keys.clone();
        keys.insert(key, value);
        Config::from_metadata(&keys, tensors)
    };
    let refusal = |key: &str, value: gguf::Value| {
        let error = with(key, value).unwrap_err();
        assert_eq!(error.place(), format!("key {key}"));
        error.fault()
    };
    assert_eq!(refusal("general.architecture", "gemma3".into()), Fault::Unsupported);
    assert_eq!(refusal("gemma4.block_count", 0u32.into()), Fault::Malformed);
    assert_eq!(refusal("gemma4.block_count", 8i32.into()), Fault::Malformed);
    assert_eq!(refusal("gemma4.attention.sliding_window_pattern", vec![true].into()), Fault::Malformed);
    assert_eq!(refusal("gemma4.attention.shared_kv_layers", 8u32.into()), Fault::Malformed);
    assert_eq!(refusal("gemma4.feed_forward_length", vec![1i32, 2].into()), Fault::Malformed);
    assert_eq!(refusal("gemma4.rope.dimension_count", 2u32.into()), Fault::Unsupported);
    assert_eq!(refusal("gemma4.attention.value_length_swa", 2u32.into()), Fault::Unsupported);
    let mut widths = vec![512i32; config.layers()];
    widths[0] = 500;
    assert_eq!(refusal("gemma4.feed_forward_length", widths.into()), Fault::Unsupported);

    // other sizes: the tensors no longer fit
    let other = with("gemma4.attention.head_count", 2u32.into()).unwrap();
    let error = gguf_inventory(&other, tensors).unwrap_err();
    assert_eq!((error.fault(), error.place()), (Fault::Malformed, "tensor blk.0.attn_q.weight"));
}
