//! Files with a mistake that llama.cpp runs without a word: `verify` names the mistake. And files without one pass,
//! whoever made them.

use std::path::{Path, PathBuf};
use std::process::Command;

use checkpoint::Checkpoint;
use gguf::GgufSet;
use quant::Simd;
use tensor::Result;
use verify::{Expected, Finding, Provenance, Severity};
use xtask::broken::{self, MISTAKES};
use xtask::oracle::Oracle;

const PRESETS: [&str; 2] = ["bf16", "q4_0"];

/// What the failures of a mistake say, in this order.
#[rustfmt::skip]
const SAYS: &[(&str, &[&str])] = &[
    ("q-and-k-exchanged",       &["blk.1.attn_k.weight: it is exchanged with the first rows of blk.1.attn_q.weight",
                                  "blk.1.attn_q.weight: its first 128 rows are exchanged with those of blk.1.attn_k.weight"]),
    ("norm-plus-one",           &["blk.2.attn_norm.weight: it holds w + 1"]),
    ("rope-bases-exchanged",    &["gemma4.rope.freq_base: exchanged with key gemma4.rope.freq_base_swa"]),
    ("rope-freqs-missing",      &["rope_freqs.weight: missing"]),
    ("rope-freqs-ones",         &["rope_freqs.weight: all values are 1"]),
    ("experts-exchanged",       &["blk.1.ffn_down_exps.weight: experts 2 and 5 are exchanged"]),
    ("gate-up-exchanged",       &["blk.3.ffn_gate_up_exps.weight: the halves of its experts are exchanged"]),
    ("layer-scalar-one",        &["blk.2.layer_output_scale.weight: it is 1"]),
    ("per-layer-table-shifted", &["per_layer_token_embd.weight: its rows are shifted by one"]),
    ("embedding-shifted",       &["token_embd.weight: its rows are shifted by one"]),
    ("merges-exchanged",        &["tokenizer.ggml.merges: entries 100 and 200 are exchanged"]),
    ("merges-truncated",        &["tokenizer.ggml.merges: truncated: 778 entries missing at the end"]),
    ("template-of-another",     &["tokenizer.chat_template: the template of another model"]),
    ("softcap",                 &["gemma4.final_logit_softcapping: it has another value (expected 30, found 50)"]),
    ("window",                  &["gemma4.attention.sliding_window: it has another value (expected 64, found 32)"]),
    ("norm-eps",                &["gemma4.attention.layer_norm_rms_epsilon: it has another value"]),
    ("experts-used",            &["gemma4.expert_used_count: it has another value (expected 2, found 1)"]),
    ("bos-and-eos-exchanged",   &["tokenizer.ggml.bos_token_id: exchanged with key tokenizer.ggml.eos_token_id"]),
    ("token-types",             &["tokenizer.ggml.token_type: "]),
    ("scores",                  &["tokenizer.ggml.scores: "]),
    ("nan",                     &["per_layer_token_embd.weight: ", "NaN"]),
    ("another-layer",           &["blk.1.ffn_up.weight: it holds the values of blk.2.ffn_up.weight"]),
    ("heads-interleaved",       &["blk.0.attn_q.weight: the rows of each head are permuted for interleaved RoPE"]),
    ("rows-exchanged",          &["blk.0.ffn_up.weight: rows 3 and 9 are exchanged"]),
];

fn convert(checkpoint: &Path, folder: &Path) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gemma-convert"));
    command
        .arg("convert")
        .arg(checkpoint)
        .arg("-o")
        .arg(folder)
        .args(PRESETS.map(|p| ["--type", p]).concat());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The findings of both steps that need no text.
fn verified(artifact: &Path, against: &Path) -> Result<Vec<Finding>> {
    let artifact = GgufSet::open(artifact)?;
    let from = Provenance::of(&artifact)?;
    let (_, mut findings) = from.check_files(&artifact, &|_| {})?;
    let (expected, base): (_, Box<dyn tensor::TensorSource>) = if against.is_dir() {
        let checkpoint = Checkpoint::open(against)?;
        let model = gemma::ModelSpec::open(&checkpoint)?;
        let expected = Expected::of_checkpoint(&checkpoint, &model, &from, Simd::detect())?;
        (expected, Box::new(checkpoint))
    } else {
        let base = GgufSet::open(against)?;
        (Expected::of_gguf(&base)?, Box::new(base))
    };
    findings.extend(verify::structure(&artifact, &expected)?.1);
    findings.extend(verify::tensor_errors(&artifact, &*base, &expected, Simd::detect(), &|_| {})?.1);
    Ok(findings)
}

/// Findings that a user would be told of as wrong.
fn wrong(findings: &[Finding]) -> Vec<String> {
    let line = |f: &Finding| {
        let details = match (&f.expected, &f.found) {
            (Some(expected), Some(found)) => format!(" (expected {expected}, found {found})"),
            _ => String::new(),
        };
        format!("{}: {}{details}", f.place, f.problem)
    };
    findings.iter().filter(|f| f.severity > Severity::Note).map(line).collect()
}

/// A folder with the checkpoint of a name and files of it.
fn prepared(name: &str, home: &Path) -> (PathBuf, PathBuf) {
    let checkpoint = home.join("checkpoint");
    let fixture = testkit::fixtures("checkpoints").join(name);
    broken::checkpoint(&fixture, &checkpoint).unwrap();
    convert(&checkpoint, &home.join("out"));
    (checkpoint, home.join("out"))
}

#[track_caller]
fn runs_in_llama_cpp(oracle: &Oracle, model: &Path, silent: bool, what: &str) {
    let mut command = oracle.runner("llama-completion");
    command
        .args(["-no-cnv", "--temp", "0", "-n", "4", "-t", "2", "-p", "The capital of the", "-m"])
        .arg(model);
    let output = command.output().unwrap();
    assert!(output.status.success() == silent, "{what}: {}", String::from_utf8_lossy(&output.stderr));
}

fn all_are_found(name: &str) {
    let oracle = Oracle::for_tests();
    let home = tempfile::tempdir().unwrap();
    let (checkpoint, out) = prepared(name, home.path());
    for preset in PRESETS {
        let good = out.join(format!("model-{preset}.gguf"));
        assert_eq!(wrong(&verified(&good, &checkpoint).unwrap()), [""; 0], "{name} {preset}");
        // by another name it is a file without a manifest
        let file = home.path().join("other.gguf");
        for mistake in MISTAKES.iter().filter(|mistake| mistake.checkpoint == name) {
            broken::write(mistake.name, &good, &file).unwrap();
            let what = format!("{} in {preset}", mistake.name);
            if let Some(oracle) = &oracle {
                runs_in_llama_cpp(oracle, &file, mistake.silent, &what);
            }
            let says = wrong(&verified(&file, &checkpoint).unwrap());
            let (_, words) = SAYS.iter().find(|(name, _)| *name == mistake.name).unwrap();
            let said = says.join("\n");
            let mut rest = said.as_str();
            for word in *words {
                let at = rest.find(word).unwrap_or_else(|| panic!("{what}: {word:?} is not in\n{said}"));
                rest = &rest[at + word.len()..];
            }
            assert!(says.len() <= words.len(), "{what}: more than one cause:\n{said}");
        }
    }
}

#[test]
fn every_mistake_in_a_model_with_per_layer_embeddings_is_named() {
    all_are_found("e2b");
}

#[test]
fn every_mistake_in_a_mixture_of_experts_is_named() {
    all_are_found("26b-a4b");
}

#[test]
fn every_mistake_in_a_dense_model_is_named() {
    all_are_found("31b");
}

#[test]
fn what_is_changed_after_it_was_written_is_not_the_file_of_the_manifest() {
    let home = tempfile::tempdir().unwrap();
    let (checkpoint, out) = prepared("31b", home.path());
    let file = out.join("model-q4_0.gguf");
    let mut bytes = std::fs::read(&file).unwrap();
    let last = bytes.len() - 40;
    bytes[last] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let says = wrong(&verified(&file, &checkpoint).unwrap());
    assert!(says[0].starts_with("model-q4_0.gguf: not the file that the manifest describes"), "{says:?}");
    assert!(says[0].contains("SHA-256"), "{says:?}");
}

#[test]
fn a_file_is_held_against_another_file_as_against_the_checkpoint() {
    let home = tempfile::tempdir().unwrap();
    let (_, out) = prepared("e2b", home.path());
    let [bf16, q4_0] = PRESETS.map(|preset| out.join(format!("model-{preset}.gguf")));
    assert_eq!(wrong(&verified(&q4_0, &bf16).unwrap()), [""; 0]);
    let file = home.path().join("broken.gguf");
    broken::write("per-layer-table-shifted", &q4_0, &file).unwrap();
    let says = wrong(&verified(&file, &bf16).unwrap());
    assert!(says[0].contains("its rows are shifted by one"), "{says:?}");
}

#[test]
fn an_artifact_of_another_variant_cannot_be_compared() {
    let home = tempfile::tempdir().unwrap();
    let (_, out) = prepared("e2b", home.path());
    let fixtures = testkit::fixtures("checkpoints");
    let error = verified(&out.join("model-q4_0.gguf"), &fixtures.join("26b-a4b")).unwrap_err();
    assert_eq!(error.fault(), tensor::Fault::Malformed);
    let message = error.to_string();
    for part in ["another variant", "8 layers of 256", "6 layers of 256 with 8 experts"] {
        assert!(message.contains(part), "{part:?} is not in {message}");
    }
}
