//! Weights of quantisation-aware training: found, said, and repacked as Q4_0 without loss; and weights that are none of them.
//!
//! The checkpoints are made here, of a trained fixture: BF16 of d·q in groups of 32, as Google publishes them, with any code
//! as the extremum.

use std::fs;
use std::path::Path;

use crate::support::{self, Folder, convert, fixture, run};
use gguf::GgufSet;
use quant::Simd;
use serde_json::Value;
use tensor::{DType, TensorSource};
use testkit::SplitMix64;

const RECIPE: [&str; 2] = ["--recipe", "q4_0-qat"];
const BLOCK: usize = 32;

fn bf16(value: f32) -> f32 {
    through(DType::BF16, value)
}

fn through(dtype: DType, value: f32) -> f32 {
    let (mut bytes, mut out) = (vec![0; dtype.block_bytes()], [0.0]);
    quant::encode(Simd::Scalar, dtype, 1, &[value], None, &mut bytes);
    quant::decode(Simd::Scalar, dtype, &bytes, &mut out);
    out[0]
}

/// Rounds a block to a lattice whose scale is stored in a type; the extremum gets any code from 5 to 8, of either sign.
fn to_lattice(values: &mut [f32], scale: DType, random: &mut SplitMix64) {
    let largest = values.iter().fold(0f32, |most, v| most.max(v.abs()));
    let code = 5.0 + random.below(300) as f32 / 100.0;
    let d = through(scale, if random.below(2) == 0 { largest } else { -largest } / code);
    for v in values.iter_mut().filter(|_| d != 0.0) {
        *v = bf16((*v / d).round().clamp(-8.0, 7.0) * d);
    }
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    let mut values = vec![0.0; bytes.len() / 2];
    quant::decode(Simd::Scalar, DType::BF16, bytes, &mut values);
    values
}

/// A copy of the fixture, with the matrices whose name passes on a lattice.
pub(crate) fn qat(scale: DType, of: impl Fn(&str) -> bool) -> Folder {
    let folder = Folder::of("e2b");
    let mut random = SplitMix64(1);
    folder.reweigh(|weights| {
        weights.drop_towers();
        for tensor in weights.tensors.iter_mut().filter(|t| t.shape.len() == 2 && of(&t.name)) {
            let mut values = floats(&tensor.data);
            values.chunks_mut(BLOCK).for_each(|block| to_lattice(block, scale, &mut random));
            tensor.data = values.iter().flat_map(|v| ((v.to_bits() >> 16) as u16).to_le_bytes()).collect();
        }
    });
    folder
}

/// Name, type and decoded values of each tensor of a file.
fn tensors(file: &Path) -> Vec<(String, DType, Vec<f32>)> {
    let set = GgufSet::open(file).unwrap();
    let read = |(index, desc): (usize, &tensor::TensorDesc)| {
        let mut bytes = vec![0; desc.byte_len() as usize];
        set.read_rows(index, 0, &mut bytes).unwrap();
        let mut values = vec![0.0; desc.elements() as usize];
        quant::decode(Simd::detect(), desc.dtype, &bytes, &mut values);
        (desc.name.clone(), desc.dtype, values)
    };
    set.tensors().iter().enumerate().map(read).collect()
}

/// Blocks of the matrices of a file, and those that are in BF16 what they are in the checkpoint.
fn exact_blocks(file: &Path, checkpoint: &Path, only: DType) -> (usize, usize) {
    let whole = checkpoint.join("bf16.gguf");
    convert(checkpoint, &whole, &["--type", "bf16"]).good();
    let (mut all, mut same) = (0, 0);
    for ((name, dtype, ours), (base, _, theirs)) in tensors(file).into_iter().zip(tensors(&whole)) {
        assert_eq!(name, base);
        if dtype != only {
            continue;
        }
        let blocks = ours.chunks(BLOCK).zip(theirs.chunks(BLOCK));
        all += blocks.len();
        same += blocks.filter(|(a, b)| a.iter().zip(*b).all(|(a, b)| bf16(*a) == *b)).count();
    }
    fs::remove_file(&whole).unwrap();
    (all, same)
}

fn manifest(file: &Path) -> Value {
    support::json(format!("{}.manifest.json", file.display()).as_ref())
}

fn sum(repacked: &Value, figure: &str) -> u64 {
    repacked.as_array().unwrap().iter().map(|tensor| tensor[figure].as_u64().unwrap()).sum()
}

#[test]
fn a_qat_checkpoint_is_repacked_without_loss() {
    for scale in [DType::BF16, DType::F16] {
        let folder = qat(scale, |_| true);
        let file = folder.home().join("model.gguf");
        let made = convert(&folder.path(), &file, &RECIPE).good();
        assert!(made.stderr.contains("are on a 4-bit quantization grid (QAT)"), "{}", made.stderr);

        let types: Vec<_> = tensors(&file).into_iter().map(|(name, dtype, _)| (name, dtype)).collect();
        for name in ["token_embd.weight", "per_layer_token_embd.weight", "blk.0.inp_gate.weight"] {
            assert!(types.contains(&(name.to_owned(), DType::Q4_0)), "{name}");
        }
        assert!(types.contains(&("per_layer_model_proj.weight".to_owned(), DType::BF16)));
        let (all, same) = exact_blocks(&file, &folder.path(), DType::Q4_0);
        assert!(same * 1000 >= all * 999, "{scale}: {same} of {all}");
        let repacked = &manifest(&file)["artifacts"][0]["repacked"];
        assert_eq!((sum(repacked, "blocks"), sum(repacked, "exact")), (all as u64, same as u64));

        // stock's rounding loses what this keeps
        let stock = folder.home().join("stock.gguf");
        let made = convert(&folder.path(), &stock, &["--type", "q4_0"]).good();
        assert!(made.stderr.contains("--recipe q4_0-qat"), "{}", made.stderr);
        let (all, same) = exact_blocks(&stock, &folder.path(), DType::Q4_0);
        assert!(same * 5 < all, "{scale}: {same} of {all}");
    }
}

#[test]
fn what_is_repacked_verifies() {
    let folder = qat(DType::BF16, |_| true);
    let text = fixture("e2b").join("../../text/eval.txt");
    let kld = |recipe: &[&str], name: &str| {
        let file = folder.home().join(name);
        convert(&folder.path(), &file, recipe).good();
        let paths = [&file, &folder.path(), &text].map(|path| path.to_str().unwrap().to_owned());
        let [file, base, text] = &paths;
        let report =
            run(["--json", "verify", file, "--against", base, "--text", text, "-c", "128", "--chunks", "2"])
                .good();
        report.json()["kld"]["mean"].as_f64().unwrap()
    };
    let (exact, rounded) = (kld(&RECIPE, "model.gguf"), kld(&["--type", "q4_0"], "stock.gguf"));
    // what is left is that the file's weights are not rounded to BF16
    assert!(exact < 1e-5 && rounded > 100.0 * exact, "{exact:e} {rounded:e}");
}

#[test]
fn weights_that_are_not_qat_are_never_mistaken() {
    for name in ["e2b", "26b-a4b", "31b"] {
        let out = tempfile::tempdir().unwrap();
        let file = out.path().join("model.gguf");
        let refused = convert(&fixture(name), &file, &RECIPE);
        let said = refused.refusal(2);
        assert!(said.contains("are not on a 4-bit quantization grid"), "{said}");
        assert!(said.contains("0.0 % of"), "{said}");
        let plain = convert(&fixture(name), &file, &["--type", "q4_0"]).good();
        assert!(!plain.stderr.contains("lattice"), "{}", plain.stderr);
        // nor is anything repacked where it may be
        let auto = out.path().join("auto.gguf");
        convert(&fixture(name), &auto, &["--type", "q4_0", "--set", "types.lattice=auto"]).good();
        assert!(fs::read(&file).unwrap() == fs::read(&auto).unwrap(), "{name}");
    }
}

/// What lies on no lattice gets the preset's type, and a rule has the last word.
#[test]
fn tensors_are_judged_one_by_one() {
    let folder = qat(DType::BF16, |name| name.contains(".layers."));
    let (file, plain) = (folder.home().join("model.gguf"), folder.home().join("plain.gguf"));
    let made =
        convert(&folder.path(), &file, &[&RECIPE[..], &["--tensor-type", "attn_q=q8_0"]].concat()).good();
    assert!(made.stderr.contains("not on the grid: 1 per_layer_token_embd, 1 token_embd"), "{}", made.stderr);
    convert(&folder.path(), &plain, &["--type", "q4_0"]).good();
    for ((name, dtype, _), (_, preset, _)) in tensors(&file).into_iter().zip(tensors(&plain)) {
        assert_eq!(dtype, if name.contains("attn_q.") { DType::Q8_0 } else { preset }, "{name}");
    }
    let (all, same) = exact_blocks(&file, &folder.path(), DType::Q4_0);
    assert_eq!(all, same);
}

#[test]
fn a_block_off_the_lattice_is_rounded_to_the_nearest_and_counted() {
    const POKED: &str = "blk.0.attn_k.weight";
    let folder = qat(DType::BF16, |_| true);
    folder.reweigh(|weights| {
        let tensor = weights.get("language_model.layers.0.self_attn.k_proj.weight");
        (0..BLOCK).for_each(|i| tensor.poke(5 * BLOCK + i, 0.01 + 0.000_7 * i as f32));
    });
    let file = folder.home().join("model.gguf");
    let made = convert(&folder.path(), &file, &RECIPE).good();
    let (all, same) = exact_blocks(&file, &folder.path(), DType::Q4_0);
    assert_eq!(same + 1, all);
    let repacked = &manifest(&file)["artifacts"][0]["repacked"];
    let poked = |tensor: &&Value| tensor["tensor"] == POKED;
    let poked = repacked.as_array().unwrap().iter().find(poked).unwrap();
    assert_eq!(poked["blocks"].as_u64().unwrap(), poked["exact"].as_u64().unwrap() + 1);
    assert!(made.stderr.contains("blk.0.attn_k.weight the fewest"), "{}", made.stderr);
    let of = |file: &Path| tensors(file).into_iter().find(|(name, ..)| name == POKED).unwrap().2;
    let stock = folder.home().join("stock.gguf");
    convert(&folder.path(), &stock, &["--type", "q4_0"]).good();
    let error = |file: &Path| {
        let values = of(file)[5 * BLOCK..6 * BLOCK].to_vec();
        let away = |(i, value): (usize, f32)| (value - bf16(0.01 + 0.000_7 * i as f32)).powi(2);
        values.into_iter().enumerate().map(away).sum::<f32>()
    };
    let (ours, stocks) = (error(&file), error(&stock));
    assert!(ours > 0.0 && ours < stocks, "{ours:e} {stocks:e}");
}

#[test]
fn a_lattice_is_of_a_gguf() {
    let out = tempfile::tempdir().unwrap();
    let refused = convert(
        &fixture("e2b"),
        &out.path().join("out"),
        &["--recipe", "fp8", "--set", "types.lattice=auto"],
    );
    assert!(refused.refusal(2).contains("types.lattice: has no effect"), "{}", refused.stderr);
}
