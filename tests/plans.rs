//! Plans for the real models, from headers alone: names, order, types and sizes against what llama.cpp's tools make of
//! the same shapes (`fixtures/type-maps`, `fixtures/inventories`).

use std::path::PathBuf;

use checkpoint::{ChatTemplates, Location, ModelCard, Piece};
use gemma::{Config, ModelSpec, Vocabulary};
use plan::{InputFile, Recipe, Request, Shards, plan};
use serde_json::Value;
use tensor::{DType, TensorDesc};

const SIZES: [&str; 5] = ["E2B", "E4B", "12B", "26B-A4B", "31B"];

fn lines(path: PathBuf) -> Vec<Vec<String>> {
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    text.lines().map(|line| line.split('\t').map(str::to_owned).collect()).collect()
}

/// The tensors of a real checkpoint, as its headers tell them.
fn tensors(name: &str) -> Vec<TensorDesc> {
    let rows = lines(testkit::fixtures(format!("inventories/{name}.tsv")));
    let desc = |row: &Vec<String>| {
        let shape: Vec<u64> = serde_json::from_str(&row[1]).unwrap();
        TensorDesc::new(&row[0], row[2].parse::<DType>().unwrap(), shape).unwrap()
    };
    rows.iter().filter(|row| !row[0].starts_with('#')).map(desc).collect()
}

fn json(name: &str) -> Value {
    let json = std::fs::read_to_string(testkit::fixtures(format!("configs/{name}.json"))).unwrap();
    serde_json::from_str(&json).unwrap()
}

/// A real model, or draft model, with a vocabulary of one token: the plan does not look into it.
fn model(name: &str, tensors: &[TensorDesc]) -> ModelSpec {
    let json = json(name);
    let config = if gemma::is_assistant(&json) { Config::draft_from_json } else { Config::from_json };
    let config = config(&json).unwrap();
    ModelSpec {
        inventory: gemma::inventory(&config, tensors, &|_| name.to_owned()).unwrap(),
        vocabulary: Vocabulary {
            tokens: vec!["<pad>".to_owned()],
            types: vec![3],
            merges: Vec::new(),
            special_as_text: Vec::new(),
            special: Default::default(),
            add: Default::default(),
            notes: Vec::new(),
        },
        templates: ChatTemplates::default(),
        generation: None,
        processor: Some(serde_json::json!({"image_mean": [0.0, 0.0, 0.0], "image_std": [1.0, 1.0, 1.0]})),
        card: ModelCard::default(),
        json,
        json_is_as_stored: true,
        notes: Vec::new(),
        files: Vec::new(),
        fingerprint: [0; 32],
        config,
        keys: None,
    }
}

fn shards(tensors: &[TensorDesc]) -> Shards<'_> {
    let mut at = 0;
    let pieces = tensors.iter().map(|t| {
        let location = Location { shard: 0, offset: at };
        at += t.byte_len();
        vec![Piece { location, rows: t.rows(), scale: None, packed: None }]
    });
    let pieces = pieces.collect();
    let files = vec![InputFile { name: "model.safetensors".to_owned(), bytes: at }];
    Shards {
        files,
        tensors,
        pieces,
        encodings: Default::default(),
        surveys: Default::default(),
        adapters: Vec::new(),
        adapted: Default::default(),
    }
}

/// Presets by the heading of their column in a type map.
const COLUMNS: [(&str, &str); 10] = [
    ("Q4_0", "q4_0"),
    ("Q8_0", "q8_0"),
    ("Q4_K_S", "q4_k_s"),
    ("Q4_K_M", "q4_k_m"),
    ("Q5_K_M", "q5_k_m"),
    ("Q6_K", "q6_k"),
    ("IQ4_NL", "iq4_nl"),
    ("IQ4_XS", "iq4_xs"),
    ("Q3_K_M", "q3_k_m"),
    ("Q2_K", "q2_k"),
];

fn check(name: &str, map: &str, settings: &[&str]) {
    let tensors = tensors(name);
    let model = model(name, &tensors);
    let map = lines(testkit::fixtures(format!("type-maps/{map}.tsv")));
    let settings: Vec<_> = settings.iter().map(|s| (*s).to_owned()).collect();
    for (heading, preset) in COLUMNS {
        let recipe =
            Recipe::from_toml_with(&format!("types.preset = {preset:?}"), preset, &settings).unwrap();
        let request = Request::new(preset, recipe, "model");
        let plan = plan(&model, &shards(&tensors), &[request]).unwrap();
        let column = map[0].iter().position(|cell| cell == heading).unwrap();
        let ours: Vec<_> = plan.artifacts[0]
            .tensors()
            .map(|t| {
                let ne: Vec<_> = t.desc.shape.iter().rev().map(u64::to_string).collect();
                (t.desc.name.clone(), format!("[{}]", ne.join(", ")), t.desc.dtype.name().to_uppercase())
            })
            .collect();
        let theirs: Vec<_> =
            map[1..].iter().map(|row| (row[0].clone(), row[1].clone(), row[column].to_uppercase())).collect();
        assert_eq!(ours.len(), theirs.len(), "{name} {preset}");
        for (ours, theirs) in ours.iter().zip(&theirs) {
            assert_eq!(ours, theirs, "{name} {preset}");
        }
    }
}

#[test]
fn types_of_e2b() {
    check("gemma-4-E2B-it", "gemma-4-E2B-it", &[]);
    check("gemma-4-E2B-it", "gemma-4-E2B-it.no-shared-kv", &["unused_kv=drop"]);
}

#[test]
fn types_of_e4b() {
    check("gemma-4-E4B-it", "gemma-4-E4B-it", &[]);
    check("gemma-4-E4B-it", "gemma-4-E4B-it.no-shared-kv", &["unused_kv=drop"]);
}

#[test]
fn types_of_12b() {
    check("gemma-4-12B-it", "gemma-4-12B-it", &[]);
}

#[test]
fn types_of_26b() {
    check("gemma-4-26B-A4B-it", "gemma-4-26B-A4B-it", &[]);
}

#[test]
fn types_of_31b() {
    check("gemma-4-31B-it", "gemma-4-31B-it", &[]);
}

#[test]
fn types_of_the_draft_models() {
    for size in SIZES {
        let name = format!("gemma-4-{size}-it-assistant");
        check(&name, &name, &[]);
    }
}

/// Every published draft model fits the model of its size and no other.
#[test]
fn draft_models_fit_their_targets_alone() {
    for draft in SIZES {
        let config = Config::draft_from_json(&json(&format!("gemma-4-{draft}-it-assistant"))).unwrap();
        for target in SIZES {
            let target_config = Config::from_json(&json(&format!("gemma-4-{target}-it"))).unwrap();
            let fits = config.check_target(&target_config);
            assert_eq!(fits.is_ok(), draft == target, "{draft} for {target}: {fits:?}");
        }
    }
}

/// Bytes of the padded tensors of Google's own Q4_0 files, which leave out unused K/V: the published sizes less the
/// metadata (ggml-org/llama.cpp's tools on the real shapes give the same sums).
#[test]
fn sizes_of_the_published_q4_0_files() {
    const PAYLOADS: [(&str, u64); 5] = [
        ("gemma-4-E2B-it", 3_333_700_704),
        ("gemma-4-E4B-it", 5_139_118_400),
        ("gemma-4-12B-it", 6_960_055_808),
        ("gemma-4-26B-A4B-it", 14_423_539_648),
        ("gemma-4-31B-it", 17_635_168_128),
    ];
    for (name, payload) in PAYLOADS {
        let tensors = tensors(name);
        let model = model(name, &tensors);
        let recipe = Recipe::from_toml("types.preset = 'q4_0'\nunused_kv = 'drop'", "q4_0").unwrap();
        let request = Request::new("q4_0", recipe, "model");
        let plan = plan(&model, &shards(&tensors), &[request]).unwrap();
        let file = &plan.artifacts[0].files[0];
        assert_eq!(file.bytes - file.header.len() as u64, payload, "{name}");
        // every input byte is used or dropped
        let dropped = plan.dropped.iter().chain(&plan.artifacts[0].dropped).map(|d| d.bytes).sum::<u64>();
        let used: u64 =
            model.inventory.text.iter().filter(|f| !f.slot.unused).map(|f| tensors[f.index].byte_len()).sum();
        assert_eq!(dropped + used, plan.inputs[0].bytes, "{name}");
    }
}

/// The two config dialects of every size say the same.
#[test]
fn config_dialects_agree() {
    for name in SIZES {
        let published = json(&format!("gemma-4-{name}-it"));
        let mut resaved = published.clone();
        let text = resaved["text_config"].as_object_mut().unwrap();
        let full_head = text.remove("global_head_dim").unwrap();
        let full_kv = text.remove("num_global_key_value_heads").filter(|n| !n.is_null());
        text.remove("expert_intermediate_size");
        let kinds = text["layer_types"].as_array().unwrap().clone();
        let mut layers = serde_json::Map::new();
        for (i, _) in kinds.iter().enumerate().filter(|(_, kind)| *kind == "full_attention") {
            let mut layer = serde_json::json!({ "head_dim": full_head });
            if let Some(heads) = &full_kv {
                layer["num_key_value_heads"] = heads.clone();
            }
            // as transformers numbers them: all with as many digits
            layers.insert(format!("{i:02}"), layer);
        }
        text.insert("per_layer_config".to_owned(), layers.into());
        let facts = |json| format!("{:?}", Config::from_json(json).unwrap());
        assert_eq!(facts(&published), facts(&resaved), "{name}");
        assert_eq!(Config::from_json(&published).unwrap().variant(), Some(name));
    }
}

/// Tensors, order, shapes and types of the mmproj files of the real models, and bytes of their tensors in the converter's four types.
#[test]
fn mmproj_files_of_real_models() {
    const BYTES: [(&str, usize, [u64; 4]); 5] = [
        ("E2B", 1411, [1_902_942_336, 985_569_408, 986_749_056, 557_283_456]),
        ("E4B", 1411, [1_912_379_520, 990_288_000, 991_467_648, 559_790_208]),
        ("12B", 11, [209_519_616, 122_029_056, 175_113_216, 158_985_216]),
        ("26B-A4B", 356, [2_291_177_664, 1_193_035_968, 1_194_805_440, 806_385_600]),
        ("31B", 356, [2_302_974_144, 1_198_934_208, 1_200_703_680, 809_519_040]),
    ];
    for (size, count, bytes) in BYTES {
        let name = format!("gemma-4-{size}-it");
        let tensors = tensors(&name);
        let requests = ["f32", "f16", "bf16", "q8_0"].map(|outtype| {
            let text = format!("output.format = 'mmproj'\ntypes.preset = '{outtype}'");
            let recipe = Recipe::from_toml(&text, outtype).unwrap();
            Request::new(outtype, recipe, outtype)
        });
        let plan = plan(&model(&name, &tensors), &shards(&tensors), &requests).unwrap();
        // with the padding of each tensor
        let payload = |file: &plan::PlannedFile| file.bytes - file.header.len() as u64;
        let payloads: Vec<u64> = plan.artifacts.iter().map(|artifact| payload(&artifact.files[0])).collect();
        assert_eq!(payloads, bytes, "{name}");

        let rows = lines(testkit::fixtures(format!("inventories/{name}.tsv")));
        let mut wanted: Vec<_> = rows.into_iter().filter(|row| row[3] == "mmproj").collect();
        wanted.sort_by(|a, b| a[0].cmp(&b[0]));
        assert_eq!(wanted.len(), count);
        for (row, tensor) in wanted.iter().zip(plan.artifacts[2].tensors()) {
            let mut ne: Vec<u64> = serde_json::from_str(&row[5]).unwrap();
            ne.reverse();
            assert_eq!(
                (&tensor.desc.name, tensor.desc.dtype.to_string().to_uppercase(), &tensor.desc.shape),
                (&row[4], row[6].to_uppercase(), &ne),
                "{name}"
            );
        }
        // every tensor is in the file or has a reason
        let dropped = plan.artifacts[2].dropped.len();
        assert_eq!(count + dropped, tensors.len(), "{name}");
    }
}
