//! Quantised weights, each kind held against what its own library decodes (fixtures/quantised).

use std::fs;

use checkpoint::{Checkpoint, Topic};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tensor::{Fault, TensorSource};

use crate::adapters::{adapter, at_scale, index};

/// All cases: name, config, decoded tensors, necessary parts.
fn cases() -> Vec<(String, Value)> {
    let Value::Object(cases) = testkit::json("quantised/cases.json") else { panic!("not an object") };
    cases.into_iter().collect()
}

/// The folder of a case, with `change` applied to the header of its file.
fn folder(name: &str, case: &Value, change: impl FnOnce(&mut Value)) -> TempDir {
    let file = testkit::read(format!("quantised/{name}.safetensors"));
    let (size, rest) = file.split_at(8);
    let size = u64::from_le_bytes(size.try_into().unwrap()) as usize;
    let mut header: Value = serde_json::from_slice(&rest[..size]).unwrap();
    change(&mut header);
    let mut header = serde_json::to_vec(&header).unwrap();
    header.resize(header.len().next_multiple_of(8), b' ');
    let size = (header.len() as u64).to_le_bytes();
    let file =
        [&size[..], &header, &rest[u64::from_le_bytes(file[..8].try_into().unwrap()) as usize..]].concat();
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("config.json"), case["config"].to_string()).unwrap();
    fs::write(dir.path().join("model.safetensors"), file).unwrap();
    dir
}

fn rows(checkpoint: &Checkpoint, index: usize, first: u64, count: u64) -> Vec<u8> {
    let mut bytes = vec![0; (count * checkpoint.tensors()[index].row_bytes()) as usize];
    checkpoint.read_rows(index, first, &mut bytes).unwrap();
    bytes
}

#[test]
fn every_kind_is_decoded_as_by_its_library() {
    let cases = cases();
    assert!(cases.len() >= 43, "{} cases", cases.len());
    for (name, case) in cases {
        let dir = folder(&name, &case, |_| ());
        let checkpoint = Checkpoint::open(dir.path()).unwrap_or_else(|e| panic!("{name}: {e:?}"));
        let decoded = case["decoded"].as_object().unwrap();
        let mut found: Vec<_> = checkpoint.tensors().iter().map(|desc| desc.name.as_str()).collect();
        let mut expected: Vec<_> = decoded.keys().map(String::as_str).collect();
        found.sort_unstable();
        expected.sort_unstable();
        assert_eq!(found, expected, "{name}");
        for (index, desc) in checkpoint.tensors().iter().enumerate() {
            let said = &decoded[&desc.name];
            let place = format!("{name}: {}", desc.name);
            assert_eq!(
                (desc.dtype.name(), &json!(desc.shape)),
                (said["dtype"].as_str().unwrap(), &said["shape"]),
                "{place}"
            );
            assert!(checkpoint.is_packed(index), "{place}");
            let all = rows(&checkpoint, index, 0, desc.rows());
            assert_eq!(base::hex(&Sha256::digest(&all)), said["sha256"], "{place}");
            for step in [1, 7] {
                let parts = (0..desc.rows()).step_by(step).flat_map(|first| {
                    rows(&checkpoint, index, first, (step as u64).min(desc.rows() - first))
                });
                assert!(parts.eq(all.iter().copied()), "{place}: rows by {step}");
            }
        }
        let notes: Vec<_> = checkpoint.notes().iter().filter(|n| n.topic == Topic::Quantised).collect();
        assert!(notes[0].text.contains("are decoded"), "{name}: {notes:?}");
        assert_eq!(checkpoint.config().get("quantization_config"), None, "{name}");
        assert_eq!(checkpoint.config().get("quantization"), None, "{name}");
    }
}

/// A factor of an adapter: multiples of 1/1024, whose products are exact.
fn factor(count: u64, step: u64) -> Vec<f32> {
    (0..count).map(|at| ((at * step % 255) as f32 - 127.0) / 1024.0).collect()
}

fn transposed(values: &[f32], cols: usize) -> Vec<f32> {
    (0..cols).flat_map(|col| values.iter().skip(col).step_by(cols).copied()).collect()
}

/// An adapter of rank 2 for a linear of this shape, as `make.py` merges it.
fn of_linear(name: &str, rows: u64, cols: u64, is_mlx: bool) -> TempDir {
    let path = name.strip_suffix(".weight").unwrap();
    let (a, b) = (factor(2 * cols, 7), factor(rows * 2, 11));
    if is_mlx {
        let (first, second) = (format!("{path}.lora_a"), format!("{path}.lora_b"));
        let (a, b) = (transposed(&a, cols as usize), transposed(&b, 2));
        let config = json!({ "fine_tune_type": "lora", "lora_parameters": { "rank": 2, "scale": 1.5 } });
        return adapter(
            &config,
            "adapters.safetensors",
            &[(&first, &[cols, 2], a), (&second, &[2, rows], b)],
        );
    }
    let [first, second] = ["A", "B"].map(|half| format!("base_model.model.{path}.lora_{half}.weight"));
    let config = json!({ "peft_type": "LORA", "r": 2, "lora_alpha": 3 });
    adapter(&config, "adapter_model.safetensors", &[(&first, &[2, cols], a), (&second, &[rows, 2], b)])
}

#[test]
fn an_adapter_is_added_to_the_decoded_values() {
    let mut count = 0;
    for (name, case) in cases() {
        let dir = folder(&name, &case, |_| ());
        let linears = case["decoded"].as_object().unwrap().iter();
        for (tensor, said) in linears.filter(|(_, said)| said["merged"].is_string()) {
            let [rows, cols] = [0, 1].map(|dim| said["shape"][dim].as_u64().unwrap());
            let adapter = of_linear(tensor, rows, cols, name.starts_with("mlx"));
            let checkpoint = Checkpoint::open(dir.path()).unwrap();
            let merged = checkpoint.with_adapters(&[at_scale(adapter.path(), 1.0)]).unwrap();
            let index = index(&merged, tensor);
            assert!(merged.is_adapted(index) && merged.is_packed(index), "{name}: {tensor}");
            let desc = &merged.tensors()[index];
            assert_eq!(said["dtype"], desc.dtype.name(), "{name}: {tensor}");
            let found = self::rows(&merged, index, 0, rows);
            assert_eq!(base::hex(&Sha256::digest(&found)), said["merged"], "{name}: {tensor}");
            count += 1;
        }
    }
    assert!(count >= 43, "{count} linears");
}

#[test]
fn a_missing_part_is_named() {
    for (name, case) in cases() {
        for part in case["parts"].as_array().unwrap() {
            let part = part.as_str().unwrap();
            let dir = folder(&name, &case, |header| {
                let tensors = header.as_object_mut().unwrap();
                let stored = tensors.remove(part).unwrap();
                tensors.insert("left.over".into(), stored);
            });
            let error = Checkpoint::open(dir.path()).map(|_| ()).expect_err(part);
            let text = error.to_string();
            assert_eq!(error.fault(), Fault::Malformed, "{name} without {part}: {text}");
            let own = part.rsplit('.').next().unwrap();
            assert!(
                text.contains("model.safetensors") && text.contains(own),
                "{name} without {part}: {text}"
            );
        }
    }
}

#[test]
fn a_part_of_another_shape_is_named() {
    let mut count = 0;
    for (name, case) in cases() {
        for part in case["parts"].as_array().unwrap() {
            let part = part.as_str().unwrap();
            let mut turned = false;
            let dir = folder(&name, &case, |header| {
                let shape = header[part]["shape"].as_array_mut().unwrap();
                let before = shape.clone();
                shape.reverse();
                turned = *shape != before;
            });
            if !turned {
                continue;
            }
            count += 1;
            let error = Checkpoint::open(dir.path()).map(|_| ()).expect_err(part);
            let text = error.to_string();
            assert_eq!(error.fault(), Fault::Malformed, "{name}, {part}: {text}");
            assert!(text.contains("model.safetensors: tensor "), "{name}, {part}: {text}");
        }
    }
    assert!(count > 30, "{count} shapes");
}

/// Other values may be zeros, as where only the headers were downloaded.
#[test]
fn values_that_decide_shapes_are_known_by_name() {
    let mut read = 0;
    for (name, case) in cases() {
        let dir = folder(&name, &case, |_| ());
        let path = dir.path().join("model.safetensors");
        let expected = Checkpoint::open(dir.path()).unwrap();
        let mut bytes = fs::read(&path).unwrap();
        let start = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let header: Value = serde_json::from_slice(&bytes[8..start]).unwrap();
        for (tensor, entry) in
            header.as_object().unwrap().iter().filter(|(tensor, _)| *tensor != "__metadata__")
        {
            if checkpoint::is_read_on_open(tensor) {
                read += 1;
                continue;
            }
            let [from, to] = [0, 1].map(|end| start + entry["data_offsets"][end].as_u64().unwrap() as usize);
            bytes[from..to].fill(0);
        }
        fs::write(&path, bytes).unwrap();
        let found = Checkpoint::open(dir.path()).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(found.tensors(), expected.tensors(), "{name}");
        assert_eq!(found.notes(), expected.notes(), "{name}");
    }
    assert!(read > 20, "{read} tensors");
}

/// Values that only show when rows are read.
#[test]
fn impossible_values_are_named_by_row_and_column() {
    let case = cases().into_iter().find(|(name, _)| name == "gptq-4-g32-order").unwrap().1;
    let dir = folder("gptq-4-g32-order", &case, |_| ());
    let path = dir.path().join("model.safetensors");
    let stem = "model.language_model.layers.0.mlp.down_proj";
    let mut bytes = fs::read(&path).unwrap();
    let size = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + size]).unwrap();
    let at = |part: &str| {
        8 + size + header[format!("{stem}.{part}")]["data_offsets"][0].as_u64().unwrap() as usize
    };
    let index = at("g_idx") + 4 * 5;
    let kept = bytes[index..index + 4].to_vec();
    bytes[index..index + 4].copy_from_slice(&9i32.to_le_bytes());
    fs::write(&path, &bytes).unwrap();
    let read = || {
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        let mut row = vec![0; checkpoint.tensors()[0].row_bytes() as usize];
        checkpoint.read_rows(0, 3, &mut row).unwrap_err()
    };
    let error = read();
    assert_eq!(error.expected_found(), Some(("0 to 3", "9")));
    assert!(error.to_string().contains("column 5"), "{error}");
    bytes[index..index + 4].copy_from_slice(&kept);
    let scale = at("scales") + 2 * 3;
    bytes[scale..scale + 2].copy_from_slice(&0x7c00u16.to_le_bytes());
    fs::write(&path, &bytes).unwrap();
    let error = read();
    assert!(error.to_string().contains("row 3, column"), "{error}");
}

#[test]
fn other_classes_of_torchao_are_refused() {
    for (class, more, says) in [
        ("Int4TilePackedTo4dTensor", None, "Int4TilePackedTo4dTensor"),
        ("Int4Tensor", Some("_weight_act_pre_scale"), "multiplies the activations"),
    ] {
        let case = cases().into_iter().find(|(found, _)| found == "torchao-int4-packed").unwrap().1;
        let dir = folder("torchao-int4-packed", &case, |header| {
            let metadata = &mut header["__metadata__"]["model.language_model.layers.0.mlp.down_proj.weight"];
            *metadata = metadata.as_str().unwrap().replace("Int4Tensor", class).into();
            if let Some(part) = more {
                let name = format!("model.language_model.layers.0.mlp.down_proj.{part}");
                header[name] = json!({ "dtype": "BF16", "shape": [0], "data_offsets": [0, 0] });
            }
        });
        let error = Checkpoint::open(dir.path()).map(|_| ()).expect_err(class);
        assert_eq!(error.fault(), Fault::Unsupported, "{error}");
        assert!(error.to_string().contains(says), "{error}");
    }
}

/// Settings in which the names and shapes of tensors do not differ.
#[test]
fn unknown_layouts_are_refused() {
    for (name, key, value) in [
        ("gptq-4-g64", "checkpoint_format", "marlin"),
        ("awq-g64", "version", "gemv"),
        ("gptq-4-g64", "quant_method", "auto-round"),
    ] {
        let mut case = cases().into_iter().find(|(found, _)| found == name).unwrap().1;
        case["config"]["quantization_config"][key] = value.into();
        let dir = folder(name, &case, |_| ());
        let error = Checkpoint::open(dir.path()).map(|_| ()).expect_err(value);
        assert_eq!(error.fault(), Fault::Unsupported, "{error}");
    }
}
