//! Merged adapters against the merges of PEFT: see fixtures/golden/lora.

use std::fs;
use std::path::{Path, PathBuf};

use checkpoint::{Adapter, Checkpoint, SafetensorsWriter};
use safetensors::SafeTensors;
use serde_json::{Value, json};
use tempfile::TempDir;
use tensor::{DType, Error, TensorDesc, TensorSink, TensorSource};

use crate::fixture;

const M: &str = "base_model.model.model.language_model.";
const TABLE: &str = "model.language_model.embed_tokens.weight";

pub(crate) fn golden(name: &str) -> PathBuf {
    testkit::fixtures("golden/lora").join(name)
}

pub(crate) fn at_scale(folder: impl Into<PathBuf>, scale: f64) -> Adapter {
    Adapter { folder: folder.into(), scale, tie: false }
}

pub(crate) fn merged(base: &str, adapters: &[&Path]) -> Checkpoint {
    let adapters: Vec<_> = adapters.iter().map(|folder| at_scale(*folder, 1.0)).collect();
    Checkpoint::open(fixture(base)).unwrap().with_adapters(&adapters).unwrap()
}

pub(crate) fn index(checkpoint: &Checkpoint, name: &str) -> usize {
    checkpoint.tensors().iter().position(|desc| desc.name == name).unwrap_or_else(|| panic!("{name}"))
}

/// The bytes of a tensor, read `rows` rows at a time.
fn bytes_by(checkpoint: &Checkpoint, name: &str, rows: usize) -> Vec<u8> {
    let index = index(checkpoint, name);
    let desc = &checkpoint.tensors()[index];
    let mut all = vec![0; desc.byte_len() as usize];
    for (number, part) in all.chunks_mut(rows * desc.row_bytes() as usize).enumerate() {
        checkpoint.read_rows(index, (number * rows) as u64, part).unwrap();
    }
    all
}

pub(crate) fn bytes(checkpoint: &Checkpoint, name: &str) -> Vec<u8> {
    bytes_by(checkpoint, name, usize::MAX >> 20)
}

/// A tensor of an adapter: name, shape, values.
pub(crate) type Given<'a> = (&'a str, &'a [u64], Vec<f32>);

/// A folder with an adapter of these tensors in F32.
pub(crate) fn adapter(config: &Value, file: &str, tensors: &[Given<'_>]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("adapter_config.json"), config.to_string()).unwrap();
    let descs = tensors.iter().map(|(name, shape, _)| TensorDesc::new(*name, DType::F32, *shape).unwrap());
    let writer = SafetensorsWriter::create(dir.path().join(file), descs.collect(), &[]).unwrap();
    for (index, (_, _, values)) in tensors.iter().enumerate() {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        writer.write_rows(index, 0, &bytes).unwrap();
    }
    writer.finish().unwrap();
    dir
}

/// The BF16 that is nearest, half to even.
fn nearest_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16
}

fn from_bf16(bits: [u8; 2]) -> f32 {
    f32::from_bits(u32::from(u16::from_le_bytes(bits)) << 16)
}

/// The golden adapter of the embedding, with its table, of which the fixture has the differences from the base's.
fn with_table() -> (TempDir, Vec<u8>) {
    let base = Checkpoint::open(fixture("e2b")).unwrap();
    let mut table: Vec<u8> = bytes(&base, TABLE);
    let steps = testkit::read("golden/lora/embed-e2b/embed_tokens.steps");
    let steps = steps.iter().flat_map(|byte| [byte & 15, byte >> 4]);
    for (value, step) in table.as_chunks_mut::<2>().0.iter_mut().zip(steps) {
        let trained = from_bf16(*value) + (f32::from(step) - 3.0) / 256.0;
        *value = nearest_bf16(trained).to_le_bytes();
    }
    let dir = tempfile::tempdir().unwrap();
    fs::copy(golden("embed-e2b/adapter_config.json"), dir.path().join("adapter_config.json")).unwrap();
    let stored = fs::read(golden("embed-e2b/adapter_model.safetensors")).unwrap();
    let stored = SafeTensors::deserialize(&stored).unwrap();
    let mut all: Vec<_> = stored
        .iter()
        .map(|(name, view)| {
            let shape: Vec<_> = view.shape().iter().map(|&d| d as u64).collect();
            (TensorDesc::new(name, DType::F32, shape).unwrap(), view.data())
        })
        .collect();
    let desc = TensorDesc::new(format!("{M}embed_tokens.weight"), DType::BF16, [2048, 256]).unwrap();
    all.push((desc, &table));
    let path = dir.path().join("adapter_model.safetensors");
    let writer =
        SafetensorsWriter::create(&path, all.iter().map(|(desc, _)| desc.clone()).collect(), &[]).unwrap();
    all.iter().enumerate().for_each(|(index, (_, data))| writer.write_rows(index, 0, data).unwrap());
    writer.finish().unwrap();
    (dir, table)
}

/// Checks every tensor against `merged.json`: the merged ones by digest, the others against the base. Returns the names of
/// the merged ones that differ.
fn differing(checkpoint: &Checkpoint, base: &str, golden: &str) -> Vec<String> {
    let base = Checkpoint::open(fixture(base)).unwrap();
    let expected = testkit::json(format!("golden/lora/{golden}/merged.json"));
    let expected = expected.as_object().unwrap();
    assert!(expected.keys().all(|name| checkpoint.tensors().iter().any(|desc| desc.name == *name)));
    let mut differing = Vec::new();
    for desc in checkpoint.tensors() {
        let found = bytes(checkpoint, &desc.name);
        match expected.get(&desc.name) {
            Some(entry) => {
                assert_eq!(json!(desc.shape), entry["shape"], "{}", desc.name);
                let (_, sha256) = base::sha256(&found[..], &|_| ()).unwrap();
                if entry["sha256"] != sha256 {
                    differing.push(desc.name.clone());
                }
            }
            None => assert_eq!(found, bytes(&base, &desc.name), "{}", desc.name),
        }
    }
    differing
}

#[test]
fn linears_and_experts_have_the_bits_of_peft() {
    for (golden_name, base) in [("plain-e2b", "e2b"), ("experts-26b-a4b", "26b-a4b")] {
        let checkpoint = merged(base, &[&golden(golden_name)]);
        assert_eq!(differing(&checkpoint, base, golden_name), [""; 0], "{golden_name}");
        let expected = testkit::json(format!("golden/lora/{golden_name}/merged.json"));
        for name in expected.as_object().unwrap().keys() {
            assert!(checkpoint.is_adapted(index(&checkpoint, name)));
            assert_eq!(bytes_by(&checkpoint, name, 7), bytes(&checkpoint, name), "{name} in pieces");
        }
        assert!(!checkpoint.is_adapted(index(&checkpoint, TABLE)));
    }
}

#[test]
fn trained_tables_have_the_bits_of_peft_and_untie_the_head() {
    let (folder, table) = with_table();
    let checkpoint = merged("e2b", &[folder.path()]);
    assert_eq!(differing(&checkpoint, "e2b", "embed-e2b"), [""; 0]);
    assert!(bytes(&checkpoint, TABLE) == table);
    assert_eq!(checkpoint.config()["tie_word_embeddings"], false);
    let note = checkpoint.notes().iter().find(|note| note.text.contains("the head stays the old embedding"));
    assert!(note.is_some(), "{:?}", checkpoint.notes());

    let config = folder.path().join("adapter_config.json");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("\"ensure_weight_tying\": false", "\"ensure_weight_tying\": true"))
        .unwrap();
    let tied = merged("e2b", &[folder.path()]);
    assert!(tied.tensors().iter().all(|desc| desc.name != "lm_head.weight"));
    assert!(bytes(&tied, TABLE) == table);
}

#[test]
fn dora_differs_from_peft_by_one_step_in_few_elements() {
    let checkpoint = merged("e2b", &[&golden("dora-rslora-e2b")]);
    differing(&checkpoint, "e2b", "dora-rslora-e2b");
    let stored = testkit::read("golden/lora/dora-rslora-e2b.safetensors");
    let stored = SafeTensors::deserialize(&stored).unwrap();
    let (mut all, mut different) = (0, 0);
    for (name, view) in stored.iter() {
        let found = bytes(&checkpoint, name);
        for (a, b) in found.as_chunks::<2>().0.iter().zip(view.data().as_chunks::<2>().0) {
            let [a, b] = [a, b].map(|bits| i32::from(i16::from_le_bytes(*bits)));
            assert!((a - b).abs() <= 1, "{name}: {a:#x} against {b:#x}");
            (all, different) = (all + 1, different + i32::from(a != b));
        }
    }
    assert_eq!(all, 212_992);
    assert!(different <= 2, "{different} of {all} elements differ");
}

#[test]
fn adapters_are_merged_in_order_and_scaled() {
    let name = "model.language_model.layers.0.self_attn.q_proj.weight";
    let [plain, dora] = ["plain-e2b", "dora-rslora-e2b"].map(golden);
    let both = bytes(&merged("e2b", &[&plain, &dora]), name);
    assert!(both != bytes(&merged("e2b", &[&dora, &plain]), name), "rounding follows each");
    let base = Checkpoint::open(fixture("e2b")).unwrap();
    let zero = Checkpoint::open(fixture("e2b")).unwrap().with_adapters(&[at_scale(&plain, 0.0)]).unwrap();
    assert!(bytes(&zero, name) == bytes(&base, name));
    assert_ne!(zero.fingerprint().unwrap(), base.fingerprint().unwrap());
    let half = Checkpoint::open(fixture("e2b")).unwrap().with_adapters(&[at_scale(&plain, 0.5)]).unwrap();
    // a power of two is exact, so that the same half may be in alpha
    let config = fs::read_to_string(plain.join("adapter_config.json")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    fs::copy(plain.join("adapter_model.safetensors"), dir.path().join("adapter_model.safetensors")).unwrap();
    let config = config.replace("\"lora_alpha\": 16", "\"lora_alpha\": 8");
    fs::write(dir.path().join("adapter_config.json"), config).unwrap();
    assert!(bytes(&half, name) == bytes(&merged("e2b", &[dir.path()]), name));
    assert!(bytes(&half, name) != bytes(&base, name));

    let record = &half.adapters()[0];
    assert_eq!((record.adapter.scale, record.rule), (0.5, "peft 0.21 merge_and_unload"));
    let names: Vec<_> = record.files.iter().map(|file| file.name.as_str()).collect();
    assert_eq!(names, ["adapter_config.json", "adapter_model.safetensors"]);
}

#[test]
fn a_layer_of_mlx_is_the_transposed_product() {
    let prefix = "language_model.model.layers.0.self_attn.q_proj";
    let (a, b) = (format!("{prefix}.lora_a"), format!("{prefix}.lora_b"));
    let ramp =
        |n: usize, by: usize| (0..n).map(|i| ((i * by % 255) as f32 - 127.0) / 1024.0).collect::<Vec<_>>();
    let (lora_a, lora_b) = (ramp(256 * 2, 7), ramp(2 * 256, 11));
    let tensors = [(a.as_str(), &[256, 2][..], lora_a.clone()), (&b, &[2, 256], lora_b.clone())];
    let config =
        json!({ "fine_tune_type": "lora", "num_layers": 1, "lora_parameters": { "rank": 2, "scale": 4.0 } });
    let folder = adapter(&config, "adapters.safetensors", &tensors);
    let checkpoint = merged("e2b", &[folder.path()]);
    assert_eq!(checkpoint.adapters()[0].rule, "mlx-lm fuse");
    // the first form of mlx-vlm
    let (a, b) = (format!("{prefix}.A"), format!("{prefix}.B"));
    let tensors = [(a.as_str(), &[256, 2][..], lora_a.clone()), (&b, &[2, 256], lora_b.clone())];
    let config = json!({ "rank": 2, "alpha": 8, "dropout": 0.1 });
    let first = merged("e2b", &[adapter(&config, "adapters.safetensors", &tensors).path()]);
    let name = "model.language_model.layers.0.self_attn.q_proj.weight";
    let base = bytes(&Checkpoint::open(fixture("e2b")).unwrap(), name);
    let bf16 = |bits: &[u8]| from_bf16([bits[0], bits[1]]);
    let round = |value: f32| from_bf16(nearest_bf16(value).to_le_bytes());
    let found = bytes(&checkpoint, name);
    for (at, (old, new)) in base.chunks(2).zip(found.chunks(2)).enumerate() {
        let (out, inp) = (at / 256, at % 256);
        let delta: f32 = (0..2).map(|k| 4.0 * lora_b[k * 256 + out] * lora_a[inp * 2 + k]).sum();
        assert_eq!(bf16(new), round(bf16(old) + round(delta)), "row {out}, column {inp}");
    }
    assert!(bytes(&first, name) == found);
}

#[test]
fn gate_and_up_of_mlx_are_halves_of_each_expert() {
    let prefix = "language_model.model.layers.0.experts.switch_glu.up_proj";
    let (a, b) = (format!("{prefix}.lora_a"), format!("{prefix}.lora_b"));
    let ones = |n: usize| vec![1.0; n];
    let tensors = [(a.as_str(), &[8, 2, 256][..], ones(8 * 2 * 256)), (&b, &[8, 128, 2], ones(8 * 128 * 2))];
    let config = json!({ "lora_parameters": { "rank": 2, "scale": 1.0 } });
    let folder = adapter(&config, "adapters.safetensors", &tensors);
    let name = "model.language_model.layers.0.experts.gate_up_proj";
    let found = bytes(&merged("26b-a4b", &[folder.path()]), name);
    let base = bytes(&Checkpoint::open(fixture("26b-a4b")).unwrap(), name);
    for (row, (old, new)) in base.chunks(512).zip(found.chunks(512)).enumerate() {
        assert_eq!(old == new, row % 256 < 128, "row {row}");
    }
}

#[test]
fn a_replacement_in_f32_has_the_values_of_the_base_s_type() {
    let name = "model.language_model.norm.weight";
    let given: Vec<f32> = (0..256).map(|i| 1.0 + i as f32 / 1000.0).collect();
    let tensors = [("base_model.model.model.language_model.norm.weight", &[256][..], given.clone())];
    let folder = adapter(&json!({ "peft_type": "LORA" }), "adapter_model.safetensors", &tensors);
    let found = testkit::floats(&bytes(&merged("e2b", &[folder.path()]), name));
    for (found, given) in found.iter().zip(given) {
        assert_eq!(found.to_bits() & 0xffff, 0);
        assert!((found - given).abs() <= 1.0 / 256.0);
    }
}

/// The error of merging an adapter of these tensors into e2b.
fn refused(config: &Value, tensors: &[Given<'_>]) -> Error {
    let folder = adapter(config, "adapter_model.safetensors", tensors);
    let base = Checkpoint::open(fixture("e2b")).unwrap();
    base.with_adapters(&[at_scale(folder.path(), 1.0)]).map(|_| ()).unwrap_err()
}

#[test]
fn contradictory_adapters_are_refused_by_name() {
    let q = |end: &str| format!("{M}layers.0.self_attn.q_proj.{end}");
    let (a, b, m) = (q("lora_A.weight"), q("lora_B.weight"), q("lora_magnitude_vector"));
    let (embedding_a, embedding_b) =
        (format!("{M}embed_tokens.lora_embedding_A"), format!("{M}embed_tokens.lora_embedding_B"));
    let other = format!("{M}layers.99.self_attn.q_proj");
    let (other_a, other_b) = (format!("{other}.lora_A.weight"), format!("{other}.lora_B.weight"));
    let table = format!("{M}embed_tokens.weight");
    let head_a = "base_model.model.lm_head.lora_A.weight";
    let head_b = "base_model.model.lm_head.lora_B.weight";
    let (delta, bias) = (q("token_adapter.trainable_tokens_delta"), q("lora_B.bias"));
    let config = json!({ "peft_type": "LORA", "r": 2, "lora_alpha": 2 });
    let dora = json!({ "peft_type": "LORA", "r": 2, "use_dora": true });
    let ok = |name, rows, cols: u64| -> Given<'_> {
        let shape: &[u64] = Box::leak(Box::new([rows, cols]));
        (name, shape, vec![0.5; (rows * cols) as usize])
    };
    let mut not_finite = ok(&a, 2, 256);
    not_finite.2[300] = f32::NAN;
    let cases: Vec<(&Value, Vec<Given<'_>>, &str)> = vec![
        (&config, vec![ok(&a, 2, 256)], "half a pair"),
        (&config, vec![ok(&a, 2, 128), ok(&b, 256, 2)], "wrong shape for the base (expected [2, 256]"),
        (&config, vec![ok(&a, 4, 256), ok(&b, 256, 4)], "wrong shape for the base (expected [256, 2]"),
        (&config, vec![not_finite, ok(&b, 256, 2)], "element 300 is not finite"),
        (&config, vec![ok(&other_a, 2, 256), ok(&other_b, 256, 2)], "the base has no such tensor"),
        (&config, vec![ok(head_a, 2, 256), ok(head_b, 2048, 2)], "whose head is its embedding"),
        (&config, vec![ok(&table, 2050, 256)], "the vocabulary was resized"),
        (&config, vec![ok(&delta, 2, 256)], "trainable tokens"),
        (&config, vec![ok(&bias, 2, 256)], "a bias"),
        (&config, vec![ok(&a, 2, 256), ok(&b, 256, 2), (&m, &[256], vec![1.0; 256])], "disagree about DoRA"),
        (&dora, vec![ok(&a, 2, 256), ok(&b, 256, 2)], "disagree about DoRA"),
        (&dora, vec![ok(&embedding_a, 2, 2048), ok(&embedding_b, 256, 2)], "DoRA of a table"),
        (&config, vec![], "an adapter without tensors"),
    ];
    for (config, tensors, problem) in cases {
        let error = refused(config, &tensors).to_string();
        assert!(error.contains(problem), "{problem}: {error}");
        assert!(error.contains("adapter_model.safetensors"), "{error}");
    }
}

#[test]
fn pairs_for_unused_keys_and_values_are_named() {
    let k = |end: &str| format!("{M}layers.6.self_attn.k_proj.{end}");
    let (a, b) = (k("lora_A.weight"), k("lora_B.weight"));
    let config = json!({ "peft_type": "LORA", "r": 2 });
    let tensors = [(a.as_str(), &[2, 256][..], vec![0.0; 512]), (&b, &[64, 2], vec![0.0; 128])];
    let folder = adapter(&config, "adapter_model.safetensors", &tensors);
    let checkpoint = merged("e2b", &[folder.path()]);
    let has = |text: &str| checkpoint.notes().iter().any(|note| note.text.contains(text));
    assert!(has("K/V of KV-shared layers") && has("layers.6.self_attn.k_proj"), "{:?}", checkpoint.notes());
}
