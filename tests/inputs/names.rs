//! Names of wrappers and of other programs, and configs that speak of a quantisation that is not there.

use serde_json::json;

use super::{ALL, Clean, all_the_same, form, rename};
use crate::support::{self, Folder, convert, fixture, recipe, sha256};

const TEXT: &str = "model.language_model.";

#[test]
fn names_of_wrappers() {
    const SAYS: &[&str] = &["tensors have names as a wrapper or another program saves them"];
    all_the_same(&[
        form("PEFT's, of the text model", ALL, &["base_model.model.", "as a wrapper"], |f| {
            rename(f, |name| match name.starts_with(TEXT) {
                true => format!("base_model.model.{name}"),
                false => name.to_owned(),
            })
        }),
        form("DataParallel's", ALL, SAYS, |f| rename(f, |name| format!("module.{name}"))),
        form("torch.compile's", &["e2b"], SAYS, |f| rename(f, |name| format!("_orig_mod.{name}"))),
        form("several", ALL, SAYS, |f| rename(f, |name| format!("_orig_mod.module.base_model.model.{name}"))),
        form("doubled", &["e2b", "31b"], SAYS, |f| rename(f, |name| format!("model.{name}"))),
        form("FSDP's, within", &["26b-a4b"], SAYS, |f| {
            rename(f, |name| {
                name.replace(".layers.", "._fsdp_wrapped_module.layers.")
                    .replace(".mlp.", "._checkpoint_wrapped_module.mlp.")
            })
        }),
        form("one layer alone", &["31b"], &["_orig_mod"], |f| {
            rename(f, |name| name.replace("layers.3.", "layers.3._orig_mod."))
        }),
        form("of older vision models", ALL, SAYS, |f| {
            rename(f, |name| match name.strip_prefix(TEXT) {
                Some(rest) => format!("language_model.model.{rest}"),
                None => name.strip_prefix("model.").unwrap().to_owned(),
            })
        }),
        form("without the outer model", ALL, SAYS, |f| {
            rename(f, |name| name.strip_prefix("model.").unwrap().to_owned())
        }),
        form("in shards", &["31b"], SAYS, |f| {
            rename(f, |name| format!("module.{name}"));
            f.shard_in_order(2);
        }),
    ]);
}

#[test]
fn a_quantization_config_left_over_from_training() {
    let rest = [
        (
            "bitsandbytes",
            json!({ "quant_method": "bitsandbytes", "load_in_4bit": true, "bnb_4bit_quant_type": "nf4" }),
        ),
        ("gptq", json!({ "quant_method": "gptq", "bits": 4, "group_size": 128 })),
        ("awq", json!({ "quant_method": "awq", "bits": 4 })),
        ("fp8", json!({ "quant_method": "fp8", "weight_block_size": [128, 128] })),
        (
            "compressed-tensors",
            json!({ "quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {} }),
        ),
        (
            "compressed-tensors",
            json!({ "quant_method": "compressed-tensors", "format": "float-quantized", "config_groups": { "group_0": {
                "weights": { "type": "float", "num_bits": 8, "strategy": "channel", "symmetric": true } } } }),
        ),
        ("torchao", json!({ "quant_method": "torchao", "quant_type": "int4_weight_only" })),
        ("hqq", json!({ "quant_method": "hqq" })),
        ("quanto", json!({ "quant_method": "quanto", "weights": "int8" })),
        ("modelopt", json!({ "quant_method": "modelopt", "quant_algo": "NVFP4" })),
        ("left over", json!({ "format": "sfp8", "rule": "gemma.cpp" })),
    ];
    let mut clean = Clean::default();
    let clean = clean.of("31b");
    for (method, config) in rest {
        let folder = Folder::of("31b");
        folder.edit("config.json", |c| c["quantization_config"] = config);
        let home = folder.home().join("q4_0.gguf");
        let run = convert(&folder.path(), &home, &["--type", "q4_0"]).good();
        assert!(run.stderr.contains("left over") && run.stderr.contains(method), "{method}: {}", run.stderr);
        assert_eq!(sha256(&home), clean.gguf, "{method}");
    }
    all_the_same(&[
        form("of MLX", &["31b"], &["config.json has a quantization", "left over"], |f| {
            f.edit("config.json", |c| c["quantization"] = json!({ "bits": 4, "group_size": 64 }))
        }),
        form("in the text_config", ALL, &["quantization_config (bitsandbytes)", "left over"], |f| {
            f.configure("quantization_config", json!({ "quant_method": "bitsandbytes" }))
        }),
    ]);
}

/// The config that goes with the weights does not speak of quantisation any more.
#[test]
fn what_was_left_over_is_not_handed_on() {
    let folder = Folder::of("31b");
    folder.edit("config.json", |c| c["quantization_config"] = json!({ "quant_method": "bitsandbytes" }));
    recipe(&folder.path(), &folder.out(), "bf16-safetensors", &[]).good();
    let clean = folder.home().join("clean");
    recipe(&fixture("31b"), &clean, "bf16-safetensors", &[]).good();
    let [config, expected] = [folder.out(), clean].map(|out| support::json(&out.join("config.json")));
    assert_eq!(config, expected);
}
