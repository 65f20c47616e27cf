//! `verify` rounds again and compares bytes: a fault that no limit of a type can see is named with its row and block, in
//! every type, with and without a manifest. And files that were made in another way pass.

use std::fs;
use std::path::Path;

use crate::support::{self, Folder, convert, fixture, recipe, run};
use checkpoint::Checkpoint;
use gguf::GgufSet;
use quant::Simd;
use tensor::{DType, TensorDesc, TensorSource};
use verify::{Compared, Expected, Finding, Provenance, Severity, Tensors};

/// The tensors and findings of the comparison of weights alone.
fn compared(file: &Path, model: &Path) -> (Tensors, Vec<Finding>) {
    let artifact = GgufSet::open(file).unwrap();
    let mut from = Provenance::of(&artifact).unwrap();
    from.find_importance(&artifact, None).unwrap();
    let checkpoint = Checkpoint::open(model).unwrap();
    let model = gemma::ModelSpec::open(&checkpoint).unwrap();
    let expected = Expected::of_checkpoint(&checkpoint, &model, &from, Simd::detect()).unwrap();
    verify::tensor_errors(&artifact, &checkpoint, &expected, Simd::detect(), &|_| {}).unwrap()
}

fn failures(findings: &[Finding]) -> Vec<String> {
    let failures = findings.iter().filter(|finding| finding.severity == Severity::Failure);
    failures.map(|f| format!("{}: {} ({:?}, {:?})", f.place, f.problem, f.expected, f.found)).collect()
}

/// A fault in the bytes of a tensor.
type Fault = fn(&TensorDesc, &mut [u8]);

/// Where the first f16 scale is in a block.
fn scale_at(dtype: DType) -> usize {
    match dtype {
        DType::Q6_K => 208,
        DType::Q3_K => 108,
        DType::Q2_K => 80,
        _ => 0,
    }
}

fn scaled(desc: &TensorDesc, bytes: &mut [u8], by: f32) {
    let mut values = vec![0.0; bytes.len() / desc.dtype.block_bytes() * desc.dtype.block_len()];
    quant::decode(Simd::detect(), desc.dtype, bytes, &mut values);
    values.iter_mut().for_each(|v| *v *= by);
    quant::encode(Simd::detect(), desc.dtype, desc.cols() as usize, &values, None, bytes);
}

fn row(desc: &TensorDesc, number: usize) -> std::ops::Range<usize> {
    let len = desc.row_bytes() as usize;
    let number = number % desc.rows() as usize;
    number * len..(number + 1) * len
}

const FAULTS: &[(&str, Fault)] = &[
    ("a bit", |desc, bytes| bytes[row(desc, 2)][0] ^= 1),
    ("the scale of a block by one step", |desc, bytes| bytes[row(desc, 3)][scale_at(desc.dtype)] ^= 1),
    ("a row times 1.5", |desc, bytes| scaled(desc, &mut bytes[row(desc, 5)], 1.5)),
    ("a row times 1.05", |desc, bytes| scaled(desc, &mut bytes[row(desc, 5)], 1.05)),
    ("a row of zeros", |desc, bytes| bytes[row(desc, 4)].fill(0)),
    ("two rows exchanged", |desc, bytes| {
        let (a, b) = (row(desc, 1), row(desc, 6));
        let copy = bytes[a.clone()].to_vec();
        bytes.copy_within(b.clone(), a.start);
        bytes[b].copy_from_slice(&copy);
    }),
];

/// The first tensor of each type, and what is small.
fn victims(set: &GgufSet) -> Vec<usize> {
    let mut seen = Vec::new();
    let mut chosen = Vec::new();
    for (number, desc) in set.tensors().iter().enumerate() {
        let kind = (desc.dtype, desc.rows() > 8);
        if !seen.contains(&kind) {
            seen.push(kind);
            chosen.push(number);
        }
    }
    chosen
}

fn plant(good: &Path, number: usize, fault: Fault, to: &Path) -> bool {
    let set = GgufSet::open(good).unwrap();
    let part = &set.parts()[0];
    let (desc, at) = (&part.tensors()[number], part.offsets()[number] as usize);
    let mut bytes = fs::read(good).unwrap();
    let before = bytes.clone();
    fault(desc, &mut bytes[at..at + desc.byte_len() as usize]);
    let changed = bytes != before;
    fs::write(to, bytes).unwrap();
    changed
}

/// Every fault in a tensor of each type of these files is named; `manifest` leaves the files under the names it knows.
fn all_are_named(out: &Path, model: &Path, presets: &[&str], manifest: bool) {
    for preset in presets {
        let good = out.join(format!("model-{preset}.gguf"));
        let whole = fs::read(&good).unwrap();
        let (tensors, findings) = compared(&good, model);
        assert_eq!(failures(&findings), [""; 0], "{preset}");
        let by_limits = tensors.tensors.iter().find(|tensor| tensor.compared != Compared::Bytes);
        assert_eq!(by_limits, None, "{preset}");
        let copy = out.join("good.gguf");
        fs::write(&copy, &whole).unwrap();
        let set = GgufSet::open(&copy).unwrap();
        let to = if manifest { good.clone() } else { out.join("broken.gguf") };
        for number in victims(&set) {
            let desc = &set.tensors()[number];
            for (what, fault) in FAULTS {
                if !plant(&copy, number, *fault, &to) {
                    continue;
                }
                let said = failures(&compared(&to, model).1);
                let name = format!("tensor {}: ", desc.name);
                let named = said.len() == 1 && said[0].starts_with(&name);
                assert!(
                    named,
                    "{preset}, manifest {manifest}, {what} in {} {}: {said:#?}",
                    desc.name, desc.dtype
                );
            }
        }
        fs::write(&good, &whole).unwrap();
    }
}

#[test]
fn a_fault_in_a_plain_type_is_named() {
    let out = tempfile::tempdir().unwrap();
    let presets = ["f32", "f16", "bf16", "q8_0", "q4_0", "q5_1", "q4_k_m", "q2_k", "q3_k_m", "iq4_xs"];
    let types: Vec<&str> = presets.iter().flat_map(|preset| ["--type", preset]).collect();
    convert(&fixture("31b"), out.path(), &types).good();
    all_are_named(out.path(), &fixture("31b"), &presets, false);
    all_are_named(out.path(), &fixture("31b"), &["q4_0", "q4_k_m"], true);
}

#[test]
fn one_wrong_expert_is_named() {
    let out = tempfile::tempdir().unwrap();
    let model = fixture("26b-a4b");
    convert(&model, out.path(), &["--type", "q4_0", "--type", "q4_k_m"]).good();
    for preset in ["q4_0", "q4_k_m"] {
        let good = out.path().join(format!("model-{preset}.gguf"));
        let set = GgufSet::open(&good).unwrap();
        let experts = |desc: &TensorDesc| desc.name == "blk.1.ffn_down_exps.weight";
        let number = set.tensors().iter().position(experts).unwrap();
        let to = out.path().join("broken.gguf");
        let fault: Fault = |desc, bytes| {
            let expert = bytes.len() / desc.shape[0] as usize;
            scaled(desc, &mut bytes[3 * expert..4 * expert], 1.3);
        };
        assert!(plant(&good, number, fault, &to));
        let said = failures(&compared(&to, &model).1);
        assert!(said.len() == 1 && said[0].starts_with("tensor blk.1.ffn_down_exps.weight: "), "{said:#?}");
    }
}

/// Values that went through BF16 are not those of a file that is made directly, whatever its name.
#[test]
fn a_step_that_the_plan_does_not_have_is_not_allowed() {
    let folder = Folder::of("e2b");
    folder.reweigh(|weights| {
        weights.drop_towers();
        for tensor in weights.tensors.iter_mut().filter(|tensor| tensor.dtype == "BF16") {
            tensor.retype("F16");
            tensor.data.chunks_exact_mut(2).for_each(|bytes| bytes[0] |= 1);
        }
    });
    let out = folder.out();
    convert(&folder.path(), &out, &["--type", "f32", "--type", "q4_0"]).good();
    let good = out.join("model-f32.gguf");
    for preset in ["f32", "q4_0"] {
        let (_, findings) = compared(&out.join(format!("model-{preset}.gguf")), &folder.path());
        assert_eq!(failures(&findings), [""; 0], "{preset}");
    }
    let set = GgufSet::open(&good).unwrap();
    let number = set.tensors().iter().position(|desc| desc.name == "blk.0.attn_q.weight").unwrap();
    let rounded: Fault = |_, bytes| {
        for value in bytes.as_chunks_mut::<4>().0 {
            let bits = u32::from_le_bytes(*value);
            *value = (bits & 0xffff_0000).to_le_bytes();
        }
    };
    let broken = out.join("broken.gguf");
    for (to, manifest) in [(&broken, false), (&good, true)] {
        assert!(plant(&good, number, rounded, to));
        let said = failures(&compared(to, &folder.path()).1);
        assert!(said.len() == 1 && said[0].contains("blk.0.attn_q.weight"), "manifest {manifest}: {said:#?}");
    }
}

/// Presets of types that importance steers: their files are those of `llama-quantize --imatrix`.
const STEERED: [&str; 8] = ["q4_0", "q4_1", "q5_0", "q4_k_m", "q5_k_m", "q3_k_m", "q2_k", "iq4_xs"];

#[test]
fn importance_at_hand_is_rounded_by_again_and_without_it_limits_are_said() {
    let home = tempfile::tempdir().unwrap();
    let (model, text) = (fixture("31b"), support::text("calib.txt"));
    let [importance, out] = ["importance.gguf", "out"].map(|name| home.path().join(name));
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    run(["calibrate", &path(&model), "--text", &path(&text), "--chunks", "2", "-o", &path(&importance)])
        .good();
    let importance_path = path(&importance);
    let types = STEERED.iter().flat_map(|preset| ["--type", preset]);
    let args: Vec<&str> = types.chain(["--importance", &importance_path]).collect();
    convert(&model, &out, &args).good();
    for preset in STEERED {
        let good = out.join(format!("model-{preset}.gguf"));
        let other = out.join("other.gguf");
        fs::copy(&good, &other).unwrap();
        for file in [&good, &other] {
            let (tensors, findings) = compared(file, &model);
            assert_eq!(failures(&findings), [""; 0], "{preset}");
            assert!(tensors.tensors.iter().all(|tensor| tensor.compared == Compared::Bytes), "{preset}");
        }
    }
    fs::rename(&importance, home.path().join("elsewhere.gguf")).unwrap();
    for preset in STEERED {
        let good = out.join(format!("model-{preset}.gguf"));
        let (tensors, findings) = compared(&good, &model);
        assert_eq!(failures(&findings), [""; 0], "{preset}");
        assert!(tensors.tensors.iter().any(|tensor| tensor.compared == Compared::Limits), "{preset}");
        assert!(findings.iter().any(|f| f.problem.contains("‹importance›")), "{findings:?}");
        // a row that was scaled stands out among the others, and so does a block
        let set = GgufSet::open(&good).unwrap();
        let number = set.tensors().iter().position(|desc| desc.name == "blk.1.ffn_up.weight").unwrap();
        let to = out.join("broken.gguf");
        let faults: [Fault; 3] = [
            |desc, bytes| scaled(desc, &mut bytes[row(desc, 5)], 1.5),
            |desc, bytes| {
                // a block of another row, and so of other weights
                let (to, from) = (row(desc, 5).start, row(desc, 9).start);
                bytes.copy_within(from..from + desc.dtype.block_bytes(), to);
            },
            // rows have a block each, or several
            |desc, bytes| {
                let start = row(desc, 5).start;
                bytes[start..start + 2 * desc.dtype.block_bytes()].rotate_left(desc.dtype.block_bytes());
            },
        ];
        for (at, fault) in faults.into_iter().enumerate() {
            assert!(plant(&good, number, fault, &to));
            let said = failures(&compared(&to, &model).1);
            assert!(said.len() == 1 && said[0].contains("blk.1.ffn_up.weight"), "{preset} {at}: {said:#?}");
        }
    }
}

/// A folder of safetensors: a code, the scale of a row, the scale of a tensor, a copied value.
#[test]
fn a_fault_in_a_folder_is_named() {
    let home = tempfile::tempdir().unwrap();
    let model = fixture("31b");
    for scheme in ["fp8", "sfp8", "bf16-safetensors"] {
        let out = home.path().join(scheme);
        recipe(&model, &out, scheme, &[]).good();
        fs::remove_file(out.join("manifest.json")).unwrap();
        let verify =
            || run(["verify", out.to_str().unwrap(), "--against", model.to_str().unwrap(), "--json"]);
        let report = verify().good().json();
        let tensors = report["tensors"]["tensors"].as_array().unwrap();
        assert!(tensors.iter().all(|tensor| tensor["compared"] == "bytes"), "{scheme}");
        let good = fs::read(out.join(support::WEIGHTS)).unwrap();
        for ending in
            ["layers.0.mlp.up_proj.weight", "layers.0.mlp.up_proj.weight_scale", "input_layernorm.weight"]
        {
            let mut weights = support::weights(&out);
            let Some(tensor) = weights.tensors.iter_mut().find(|tensor| tensor.name.ends_with(ending)) else {
                assert!(scheme != "fp8", "{ending}");
                continue;
            };
            tensor.data[0] ^= 1;
            let metadata = support::metadata(&out);
            fs::write(out.join(support::WEIGHTS), weights.to_bytes_with(Some(&metadata))).unwrap();
            let run = verify();
            let said = &run.json()["findings"];
            assert_eq!(run.code, Some(1), "{scheme} {ending}: {said:#}");
            let of = ending.trim_end_matches("_scale");
            let named = |finding: &serde_json::Value| {
                finding["severity"] == "failure" && finding["place"].as_str().unwrap().ends_with(of)
            };
            assert!(said.as_array().unwrap().iter().any(named), "{scheme} {ending}: {said:#}");
            fs::write(out.join(support::WEIGHTS), &good).unwrap();
        }
    }
}
