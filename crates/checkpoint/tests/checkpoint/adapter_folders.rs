//! Folders of adapters as trainers leave them, tied heads, and adapters as products of low rank.

use std::fs;
use std::path::Path;

use checkpoint::{Adaptation, AdapterFolder, Checkpoint, SafetensorsWriter};
use serde_json::{Value, json};
use tempfile::TempDir;
use tensor::{DType, Result, TensorDesc, TensorSink, TensorSource};

use crate::adapters::{Given, adapter, at_scale, bytes, golden, index, merged};
use crate::fixture;

const M: &str = "base_model.model.model.language_model.";
const TABLE: &str = "model.language_model.embed_tokens.weight";
const HEAD: &str = "lm_head.weight";

/// The config of an adapter of `q_proj` as a trainer writes it: the fields of its PEFT, and its own.
fn config(more: Value) -> Value {
    let mut config = json!({
        "alpha_pattern": {}, "auto_mapping": null, "base_model_name_or_path": "google/gemma-4-E2B-it",
        "bias": "none", "corda_config": null, "eva_config": null, "exclude_modules": null,
        "fan_in_fan_out": false, "inference_mode": true, "init_lora_weights": true,
        "layer_replication": null, "layers_pattern": null, "layers_to_transform": null,
        "loftq_config": {}, "lora_alpha": 4, "lora_bias": false, "lora_dropout": 0.05,
        "megatron_config": null, "megatron_core": "megatron.core", "modules_to_save": null,
        "peft_type": "LORA", "r": 2, "rank_pattern": {}, "revision": null,
        "target_modules": ["q_proj"], "task_type": "CAUSAL_LM", "use_dora": false, "use_rslora": false,
    });
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    config
}

/// A pair for `q_proj` of layer 0.
fn pair(ends: [&str; 2]) -> [(String, [u64; 2]); 2] {
    let name = |end: &str| format!("{M}layers.0.self_attn.q_proj.{end}");
    [(name(ends[0]), [2, 256]), (name(ends[1]), [256, 2])]
}

fn folder(config: &Value, ends: [&str; 2]) -> TempDir {
    let tensors = pair(ends);
    let given: Vec<Given<'_>> =
        tensors.iter().map(|(name, shape)| (name.as_str(), &shape[..], vec![0.25; 512])).collect();
    adapter(config, "adapter_model.safetensors", &given)
}

#[test]
fn folders_of_trainers_are_merged() {
    let name = "model.language_model.layers.0.self_attn.q_proj.weight";
    let usual = ["lora_A.weight", "lora_B.weight"];
    let plain = bytes(&merged("e2b", &[folder(&config(json!({})), usual).path()]), name);
    let regex = r"(?:.*?(?:language|text).*?(?:self_attn|mlp).*?(?:q_proj|v_proj).*?)|(?:\bmodel\.layers\.[\d]{1,}\..*)";
    for (trainer, more, ends) in [
        (
            "Unsloth",
            json!({
                "auto_mapping": { "base_model_class": "Gemma4ForConditionalGeneration",
                    "parent_library": "transformers.models.gemma4.modeling_gemma4", "unsloth_fixed": true },
                "base_model_name_or_path": "unsloth/gemma-4-e2b-it-unsloth-bnb-4bit", "unsloth_fixed": true,
                "lora_dropout": 0, "target_modules": regex, "peft_version": "0.18.0", "qalora_group_size": 16,
                "target_parameters": null, "trainable_token_indices": null, "use_qalora": false,
                "alora_invocation_tokens": null, "arrow_config": null, "ensure_weight_tying": false,
            }),
            usual,
        ),
        (
            "LLaMA-Factory",
            json!({
                "base_model_name_or_path": "/data/models/gemma-4-E2B-it", "peft_version": "0.17.1",
                "target_modules": "^(?!.*vision).*(?:gate_proj|q_proj).*", "trainable_token_indices": null,
                "use_qalora": false, "qalora_group_size": 16, "target_parameters": null,
            }),
            usual,
        ),
        (
            "axolotl",
            json!({
                "layers_to_transform": [0], "layers_pattern": "layers", "lora_ga_config": null,
                "kasa_config": null, "velora_config": null, "monteclora_config": null, "use_bdlora": null,
                "peft_version": "0.21.2", "target_parameters": [], "exclude_modules": ["vision_tower"],
            }),
            usual,
        ),
        ("TRL", json!({ "init_lora_weights": "eva", "eva_config": { "rho": 1.0 } }), usual),
        ("MiCA", json!({ "init_lora_weights": "MiCA" }), usual),
        ("a state dict", json!({}), ["lora_A.default.weight", "lora_B.default.weight"]),
    ] {
        let folder = folder(&config(more), ends);
        for name in ["README.md", "tokenizer.json", "training_args.bin", "optimizer.pt", "v_head.safetensors"]
        {
            fs::write(folder.path().join(name), "{}").unwrap();
        }
        fs::create_dir(folder.path().join("checkpoint-20")).unwrap();
        assert!(AdapterFolder::is_one(folder.path()), "{trainer}");
        let no_model = Checkpoint::open(folder.path()).map(|_| ()).unwrap_err().to_string();
        assert!(
            no_model.contains("adapter") && no_model.contains("no model by itself"),
            "{trainer}: {no_model}"
        );
        fs::remove_file(folder.path().join("v_head.safetensors")).unwrap();
        fs::write(folder.path().join("config.json"), "{}").unwrap();
        assert!(AdapterFolder::is_one(folder.path()), "{trainer}");
        assert!(bytes(&merged("e2b", &[folder.path()]), name) == plain, "{trainer}");
    }
    assert!(!AdapterFolder::is_one(&fixture("e2b")));
}

#[test]
fn folders_without_an_adapter_say_what_they_are() {
    let opened = |dir: &Path| -> Result<AdapterFolder> { AdapterFolder::open(dir) };
    let error = opened(&fixture("e2b")).unwrap_err();
    assert!(error.to_string().contains("config.json: a model"), "{error}");
    let dir = tempfile::tempdir().unwrap();
    assert!(opened(dir.path()).unwrap_err().to_string().contains("not the folder of an adapter"));
    let file = dir.path().join("adapter.gguf");
    fs::write(&file, "GGUF").unwrap();
    assert!(opened(&file).unwrap_err().to_string().contains("A GGUF adapter is for llama.cpp's programs"));
    fs::write(dir.path().join("adapter_config.json"), "{\"peft_type\":\"LORA\"}").unwrap();
    fs::write(dir.path().join("adapter_model.bin"), "").unwrap();
    assert!(opened(dir.path()).unwrap_err().to_string().contains("save_pretrained"));
    // the last step by number
    let parent = tempfile::tempdir().unwrap();
    for step in ["checkpoint-900", "checkpoint-1000"] {
        fs::create_dir(parent.path().join(step)).unwrap();
        fs::write(parent.path().join(step).join("adapter_config.json"), "{}").unwrap();
    }
    let error = opened(parent.path()).unwrap_err().to_string();
    assert!(error.contains("2 folders with one") && error.contains("checkpoint-1000"), "{error}");
}

/// The e2b with a stored head, which has the bytes of the embedding if `tied`.
fn with_head(tied: bool) -> TempDir {
    let base = Checkpoint::open(fixture("e2b")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    for name in ["config.json", "tokenizer.json"] {
        fs::copy(fixture("e2b").join(name), dir.path().join(name)).unwrap();
    }
    let mut head = bytes(&base, TABLE);
    head[0] ^= u8::from(!tied);
    let mut descs = base.tensors().to_vec();
    descs.push(TensorDesc::new(HEAD, DType::BF16, [2048, 256]).unwrap());
    let path = dir.path().join("model.safetensors");
    let writer = SafetensorsWriter::create(&path, descs.clone(), &[]).unwrap();
    for (number, desc) in descs.iter().enumerate() {
        let data = if desc.name == HEAD { head.clone() } else { bytes(&base, &desc.name) };
        writer.write_rows(number, 0, &data).unwrap();
    }
    writer.finish().unwrap();
    dir
}

/// PEFT 0.21.2 with transformers 5.23: an adapted embedding is the head too, and a trained one leaves the head as it was.
#[test]
fn a_stored_head_that_is_tied_is_the_embedding() {
    let open = |base: &TempDir, adapter: &TempDir| {
        let adapter = at_scale(adapter.path(), 1.0);
        Checkpoint::open(base.path()).unwrap().with_adapters(&[adapter]).unwrap()
    };
    let has_head = |checkpoint: &Checkpoint| checkpoint.tensors().iter().any(|desc| desc.name == HEAD);
    let (a, b) = (format!("{M}embed_tokens.lora_embedding_A"), format!("{M}embed_tokens.lora_embedding_B"));
    let pair: [Given<'_>; 2] = [(&a, &[2, 2048], vec![0.5; 4096]), (&b, &[256, 2], vec![0.5; 512])];
    let adapted = adapter(&config(json!({})), "adapter_model.safetensors", &pair);
    let table = format!("{M}embed_tokens.weight");
    let replacing: [Given<'_>; 1] = [(&table, &[2048, 256], vec![0.5; 2048 * 256])];
    let trained = adapter(&config(json!({})), "adapter_model.safetensors", &replacing);
    let old = bytes(&Checkpoint::open(fixture("e2b")).unwrap(), TABLE);

    let tied = open(&with_head(true), &adapted);
    assert!(!has_head(&tied) && tied.config().get("tie_word_embeddings") != Some(&json!(false)));
    assert!(bytes(&tied, TABLE) != old);
    assert!(tied.notes().iter().any(|note| note.text.contains("it is left out, as in PEFT")));
    let untied = open(&with_head(true), &trained);
    assert_eq!(untied.config()["tie_word_embeddings"], false);
    assert!(bytes(&untied, HEAD) == old && bytes(&untied, TABLE) != old);
    // transformers keeps a head with other bytes
    let own = open(&with_head(false), &adapted);
    assert!(has_head(&own) && bytes(&own, HEAD) != old);
    let elsewhere = open(&with_head(true), &folder(&config(json!({})), ["lora_A.weight", "lora_B.weight"]));
    assert!(has_head(&elsewhere), "an adapter of other tensors changes nothing");
}

#[test]
fn products_of_a_tensor_are_one_product() {
    let prefix = "language_model.model.layers.0.experts.switch_glu";
    let names = ["gate_proj.lora_a", "gate_proj.lora_b", "up_proj.lora_a", "up_proj.lora_b"];
    let names = names.map(|end| format!("{prefix}.{end}"));
    let ramp = |n: usize, by: usize| (0..n).map(|i| (i * by % 251) as f32 / 64.0 - 2.0).collect::<Vec<_>>();
    let shapes: [&[u64]; 4] = [&[8, 2, 256], &[8, 128, 2], &[8, 2, 256], &[8, 128, 2]];
    let tensors: Vec<Given<'_>> = names
        .iter()
        .zip(shapes)
        .zip([3, 5, 7, 11])
        .map(|((name, shape), by)| (name.as_str(), shape, ramp(shape.iter().product::<u64>() as usize, by)))
        .collect();
    let config = json!({ "lora_parameters": { "rank": 2, "scale": 3.0 } });
    let dir = adapter(&config, "adapters.safetensors", &tensors);
    let checkpoint = merged("26b-a4b", &[dir.path()]);
    let at = index(&checkpoint, "model.language_model.layers.0.experts.gate_up_proj");
    let Some(Adaptation::Product(product)) = checkpoint.adaptation(at) else { panic!("no product") };
    assert_eq!((product.stack, product.rows, product.cols), (Some(8), 256, 256));
    assert_eq!((product.rank, product.scale), (4, 3.0));
    let factors = checkpoint.low_rank_factors(at).unwrap().unwrap();
    let [gate_a, gate_b, up_a, up_b] = [0, 1, 2, 3].map(|n| &tensors[n].2);
    for (expert, row, col) in [(0, 0, 0), (1, 127, 255), (3, 128, 7), (7, 255, 100), (6, 200, 0)] {
        let (a, b, r) = if row < 128 { (gate_a, gate_b, row) } else { (up_a, up_b, row - 128) };
        let expected: f32 =
            (0..2).map(|k| b[(expert * 128 + r) * 2 + k] * a[(expert * 2 + k) * 256 + col]).sum();
        let found: f32 = (0..4)
            .map(|k| factors.left[(expert * 256 + row) * 4 + k] * factors.right[(expert * 4 + k) * 256 + col])
            .sum();
        assert_eq!(found, expected, "expert {expert}, row {row}, column {col}");
    }

    let dora = merged("e2b", &[&golden("dora-rslora-e2b")]);
    let q = index(&dora, "model.language_model.layers.0.self_attn.q_proj.weight");
    assert_eq!(dora.adaptation(q), Some(Adaptation::Magnitudes));
    assert_eq!(dora.adaptation(index(&dora, TABLE)), None);
}
