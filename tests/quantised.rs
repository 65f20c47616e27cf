//! Checkpoints that are quantised already: every command sees the decoded weights. The kinds, held against their own libraries,
//! are in `crates/checkpoint/tests`; here a tiny model of each layout is converted as its decoded weights are.

use std::fs;
use std::path::Path;

use crate::support::{self, Folder, Tensor, WEIGHTS, Weights, convert, recipe, run, sha256};
use checkpoint::Checkpoint;
use serde_json::{Value, json};
use tensor::TensorSource;
use testkit::SplitMix64;

const GROUP: u64 = 32;

/// Codes at random, and scales of about 0.01 in a 16-bit float type.
struct Noise(SplitMix64);

impl Noise {
    fn codes(&mut self, bytes: u64) -> Vec<u8> {
        (0..bytes).map(|_| self.0.below(256) as u8).collect()
    }

    fn scales(&mut self, count: u64, dtype: &str) -> Vec<u8> {
        let base: u16 = if dtype == "F16" { 0x2000 } else { 0x3c00 };
        (0..count).flat_map(|_| (base + self.0.below(0x80) as u16).to_le_bytes()).collect()
    }
}

/// The matrices of the text model's layers: their names without `.weight`, rows, columns.
fn matrices(weights: &Weights) -> Vec<(String, u64, u64)> {
    let of = |tensor: &Tensor| {
        let name = tensor.name.strip_suffix("_proj.weight")?;
        let is_layer = name.starts_with("model.language_model.layers.") && tensor.shape.len() == 2;
        is_layer.then(|| (format!("{name}_proj"), tensor.shape[0], tensor.shape[1]))
    };
    weights.tensors.iter().filter_map(of).collect()
}

fn put(weights: &mut Weights, name: String, dtype: &str, shape: &[u64], data: Vec<u8>) {
    weights.tensors.push(Tensor { name, dtype: dtype.to_owned(), shape: shape.to_vec(), data });
}

/// A folder whose matrices are replaced by packed ones.
fn quantised(
    model: &str,
    config: Value,
    pack: impl Fn(&mut Weights, &str, (u64, u64), &mut Noise),
) -> Folder {
    let folder = Folder::of(model);
    folder.reweigh(|weights| {
        weights.drop_towers();
        let mut noise = Noise(SplitMix64(7));
        for (name, rows, cols) in matrices(weights) {
            weights.drop(&format!("{name}.weight"));
            pack(weights, &name, (rows, cols), &mut noise);
        }
    });
    folder.edit("config.json", |all| all["quantization_config"] = config);
    folder
}

/// The layout of GPTQ, with the columns of groups in another order.
fn gptq(weights: &mut Weights, name: &str, (rows, cols): (u64, u64), noise: &mut Noise) {
    let groups = cols / GROUP;
    in_order(weights, name, (rows, cols), noise, "F16");
    let order = (0..cols).flat_map(|col| ((col % groups) as i32).to_le_bytes()).collect();
    put(weights, format!("{name}.g_idx"), "I32", &[cols], order);
}

/// The layout of GPTQ with columns in their order, and scales of a type.
fn in_order(weights: &mut Weights, name: &str, (rows, cols): (u64, u64), noise: &mut Noise, scales: &str) {
    let groups = cols / GROUP;
    put(weights, format!("{name}.qweight"), "I32", &[cols / 8, rows], noise.codes(cols / 2 * rows));
    // zero points of 8, less one
    let zeros = vec![0x77; (groups * rows / 2) as usize];
    put(weights, format!("{name}.qzeros"), "I32", &[groups, rows / 8], zeros);
    put(weights, format!("{name}.scales"), scales, &[groups, rows], noise.scales(groups * rows, scales));
}

/// The layout of MLX, with biases of −8 scales.
fn mlx(weights: &mut Weights, name: &str, (rows, cols): (u64, u64), noise: &mut Noise) {
    let groups = cols / GROUP;
    let scales = noise.scales(rows * groups, "BF16");
    // the product of a BF16 with a power of two is one
    let bias = |scale: &[u8; 2]| {
        let scale = f32::from_bits(u32::from(u16::from_le_bytes(*scale)) << 16);
        (((-8.0 * scale).to_bits() >> 16) as u16).to_le_bytes()
    };
    let biases = scales.as_chunks::<2>().0.iter().flat_map(bias).collect();
    put(weights, format!("{name}.weight"), "U32", &[rows, cols / 8], noise.codes(rows * cols / 2));
    put(weights, format!("{name}.scales"), "BF16", &[rows, groups], scales);
    put(weights, format!("{name}.biases"), "BF16", &[rows, groups], biases);
}

/// The layout of compressed-tensors' packed integers.
fn packed(weights: &mut Weights, name: &str, (rows, cols): (u64, u64), noise: &mut Noise) {
    let groups = cols / GROUP;
    put(weights, format!("{name}.weight_packed"), "I32", &[rows, cols / 8], noise.codes(rows * cols / 2));
    put(
        weights,
        format!("{name}.weight_scale"),
        "BF16",
        &[rows, groups],
        noise.scales(rows * groups, "BF16"),
    );
    let shape = [rows, cols].iter().flat_map(|dim| dim.to_le_bytes()).collect();
    put(weights, format!("{name}.weight_shape"), "I64", &[2], shape);
}

fn integers() -> Value {
    json!({ "quant_method": "compressed-tensors", "format": "pack-quantized" })
}

/// The 26B-A4B fixture with its experts one by one.
fn experts() -> Folder {
    let folder = quantised("26b-a4b", integers(), packed);
    folder.reweigh(|weights| {
        let mut noise = Noise(SplitMix64(9));
        let is_expert = |tensor: &&Tensor| tensor.name.contains(".experts.");
        let fused: Vec<_> =
            weights.tensors.iter().filter(is_expert).map(|t| (t.name.clone(), t.shape.clone())).collect();
        assert!(!fused.is_empty());
        for (name, shape) in fused {
            weights.drop(&name);
            let (stem, part) = name.rsplit_once('.').unwrap();
            let parts = if part == "down_proj" { vec!["down_proj"] } else { vec!["gate_proj", "up_proj"] };
            for expert in 0..shape[0] {
                for part in &parts {
                    let name = format!("{stem}.{expert}.{part}");
                    packed(weights, &name, (shape[1] / parts.len() as u64, shape[2]), &mut noise);
                }
            }
        }
    });
    folder
}

/// A folder with the weights of `folder` as they are read.
fn decoded(folder: &Folder, model: &str) -> Folder {
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let tensors = checkpoint.tensors().iter().enumerate().map(|(index, desc)| {
        let mut data = vec![0; desc.byte_len() as usize];
        checkpoint.read_rows(index, 0, &mut data).unwrap();
        let (name, dtype) = (desc.name.clone(), desc.dtype.name().to_uppercase());
        Tensor { name, dtype, shape: desc.shape.clone(), data }
    });
    let plain = Folder::of(model);
    plain.write(WEIGHTS, Weights { tensors: tensors.collect() }.to_bytes());
    plain
}

fn notes(path: &Path) -> String {
    run(["plan", path.to_str().unwrap(), "--type", "q4_0", "--json"]).good().json()["notes"].to_string()
}

#[test]
fn a_quantised_model_is_converted_as_its_decoded_weights() {
    let gptq = || quantised("e2b", json!({ "quant_method": "gptq", "bits": 4, "group_size": 32 }), gptq);
    for (kind, model, folder) in [("GPTQ", "e2b", gptq()), ("packed integers", "26b-a4b", experts())] {
        let plain = decoded(&folder, model);
        let said = notes(&folder.path());
        assert!(said.contains("quantised already") && said.contains(kind), "{said}");
        assert!(!notes(&plain.path()).contains("quantised already"));
        for dtype in ["bf16", "f32", "q4_k_m"] {
            let [made, expected] = [&folder, &plain].map(|folder| {
                let file = folder.home().join(format!("{dtype}.gguf"));
                convert(&folder.path(), &file, &["--type", dtype]).good();
                sha256(&file)
            });
            assert_eq!(made, expected, "{kind}, {dtype}");
        }
        for scheme in ["bf16-safetensors", "sfp8"] {
            let [made, expected] = [&folder, &plain].map(|folder| {
                let out = folder.home().join(scheme);
                recipe(&folder.path(), &out, scheme, &[]).good();
                let config = support::json(&out.join("config.json"));
                (sha256(&out.join(WEIGHTS)), config)
            });
            assert_eq!(made, expected, "{kind}, {scheme}");
        }
        let file = folder.home().join("q4_k_m.gguf");
        run(["verify", file.to_str().unwrap(), "--against", folder.path().to_str().unwrap()]).good();
    }
}

/// The layout of compressed-tensors' FP8, with a scale a row.
fn fp8(weights: &mut Weights, name: &str, (rows, cols): (u64, u64), noise: &mut Noise) {
    // 0x7f and 0xff are no numbers
    let codes = noise.codes(rows * cols).into_iter().map(|code| code & 0xbf).collect();
    put(weights, format!("{name}.weight"), "F8_E4M3", &[rows, cols], codes);
    put(weights, format!("{name}.weight_scale"), "BF16", &[rows, 1], noise.scales(rows, "BF16"));
}

#[test]
fn an_adapter_is_merged_into_the_decoded_weights() {
    let gptq = || quantised("e2b", json!({ "quant_method": "gptq", "bits": 4, "group_size": 32 }), gptq);
    let fp8 = || {
        let weights = json!({ "type": "float", "num_bits": 8, "strategy": "channel" });
        let groups = json!({ "group_0": { "weights": weights } });
        let format = "float-quantized";
        let config =
            json!({ "quant_method": "compressed-tensors", "format": format, "config_groups": groups });
        quantised("e2b", config, fp8)
    };
    let sfp8 = || {
        let (plain, folder) = (Folder::of("e2b"), Folder::of("e2b"));
        recipe(&plain.path(), &folder.home().join("sfp8"), "sfp8", &[]).good();
        fs::remove_dir_all(folder.path()).unwrap();
        fs::rename(folder.home().join("sfp8"), folder.path()).unwrap();
        folder
    };
    for (model, folder, adapter) in [
        ("e2b", gptq(), "plain-e2b"),
        ("e2b", fp8(), "dora-rslora-e2b"),
        ("e2b", sfp8(), "plain-e2b"),
        ("26b-a4b", experts(), "experts-26b-a4b"),
    ] {
        let plain = decoded(&folder, model);
        let adapter = testkit::fixtures("golden/lora").join(adapter).display().to_string();
        for dtype in ["f32", "q4_k_m"] {
            let [made, expected, without] = [
                (&folder, "merged", &["--lora", &adapter][..]),
                (&plain, "merged", &["--lora", &adapter][..]),
                (&folder, "plain", &[][..]),
            ]
            .map(|(folder, name, more)| {
                let file = folder.home().join(format!("{name}-{dtype}.gguf"));
                convert(&folder.path(), &file, &[&["--type", dtype], more].concat()).good();
                sha256(&file)
            });
            assert_eq!(made, expected, "{adapter}, {dtype}");
            assert_ne!(made, without, "{adapter}, {dtype}");
        }
        let file = folder.home().join("merged-q4_k_m.gguf");
        let base = folder.path();
        let against = ["verify", file.to_str().unwrap(), "--against", base.to_str().unwrap()];
        run([&against[..], &["--lora", &adapter]].concat()).good();
    }
}

/// Symmetric codes of 4 bits with a BF16 scale for 32 columns, or for a multiple of them, are on the grid of Q4_0. The values of
/// F16 scales have more bits than BF16, and those of MLX are rounded twice: they are not.
#[test]
fn four_bits_on_a_grid_are_repacked_without_loss() {
    let wide = |weights: &mut Weights, name: &str, (rows, cols): (u64, u64), noise: &mut Noise| {
        packed(weights, name, (rows, cols), noise);
        let groups = cols / 128;
        let scales = weights.get(&format!("{name}.weight_scale"));
        (scales.shape, scales.data) = (vec![rows, groups], noise.scales(rows * groups, "BF16"));
    };
    let in_bf16 = |weights: &mut Weights, name: &str, shape: (u64, u64), noise: &mut Noise| {
        in_order(weights, name, shape, noise, "BF16");
    };
    let in_f16 = |weights: &mut Weights, name: &str, shape: (u64, u64), noise: &mut Noise| {
        in_order(weights, name, shape, noise, "F16");
    };
    let of_gptq = || json!({ "quant_method": "gptq", "bits": 4, "group_size": 32, "sym": true });
    let of_mlx = json!({ "group_size": 32, "bits": 4, "mode": "affine" });
    for (what, folder) in [
        ("packed integers, groups of 32", quantised("31b", integers(), packed)),
        ("packed integers, groups of 128", quantised("31b", integers(), wide)),
        ("GPTQ in BF16", quantised("31b", of_gptq(), in_bf16)),
    ] {
        let file = folder.home().join("model.gguf");
        convert(&folder.path(), &file, &["--recipe", "q4_0-qat"]).good();
        let manifest = support::json(format!("{}.manifest.json", file.display()).as_ref());
        let repacked = manifest["artifacts"][0]["repacked"].as_array().unwrap().clone();
        let sum =
            |figure: &str| -> u64 { repacked.iter().map(|tensor| tensor[figure].as_u64().unwrap()).sum() };
        assert!(sum("blocks") > 1000, "{what}");
        assert!(sum("exact") * 1000 >= sum("blocks") * 999, "{what}: {} of {}", sum("exact"), sum("blocks"));
    }
    for (what, folder) in [
        ("GPTQ in F16", quantised("31b", of_gptq(), in_f16)),
        ("GPTQ with columns of groups apart", quantised("31b", of_gptq(), gptq)),
        ("MLX", quantised("31b", of_mlx, mlx)),
    ] {
        let refused = convert(&folder.path(), &folder.home().join("model.gguf"), &["--recipe", "q4_0-qat"]);
        let said = refused.refusal(2);
        assert!(
            said.contains("not on a 4-bit quantization grid") && said.contains("sampled blocks"),
            "{what}: {said}"
        );
    }
}

/// A checkpoint of packed integers without towers.
pub(crate) fn packed_integers() -> Folder {
    quantised("e2b", integers(), packed)
}
