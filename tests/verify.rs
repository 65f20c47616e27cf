//! `verify`: its perplexity and KL divergence against those of stock llama-perplexity, on the same files and text, the
//! file of base logits in both directions, and what cannot be verified. Broken files have a test of their own:
//! `broken.rs`.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{self, run};
use serde_json::Value;
use tensor::TensorSource;
use xtask::oracle::Oracle;

fn checkpoint(name: &str) -> PathBuf {
    testkit::fixtures("checkpoints").join(name)
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn convert(name: &str, preset: &str, out: &Path) {
    support::convert(&checkpoint(name), out, &["--type", preset]).good();
}

/// The report of a run that may fail, but not break.
fn verify(artifact: &Path, more: &[&str]) -> Value {
    let run = run([&["verify", path(artifact), "--json"], more].concat());
    assert!(matches!(run.code, Some(0 | 1)), "{}", run.stderr);
    run.json()
}

fn number(report: &Value, pointer: &str) -> f64 {
    report.pointer(pointer).and_then(Value::as_f64).unwrap_or_else(|| panic!("{pointer}: {report:#}"))
}

/// What stock llama-perplexity prints about a model against base logits, or writes them.
fn stock(oracle: &Oracle, model: &Path, logits: &Path, more: &[&str]) -> String {
    // its logger loses the last lines on a busy machine; another try finds them
    for attempt in 0..40 {
        let mut tool: Command = oracle.runner("llama-perplexity");
        tool.args(["-c", "256", "--chunks", "24", "-t", "2", "-f"]).arg(testkit::fixtures("text/eval.txt"));
        let output =
            tool.arg("--kl-divergence-base").arg(logits).args(more).arg("-m").arg(model).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        if more.is_empty() || text.contains("Same top p: ") {
            testkit::retried("llama-perplexity", attempt);
            return text;
        }
    }
    panic!("llama-perplexity never said the last of its lines")
}

/// The first number behind a label.
fn printed(text: &str, label: &str) -> f64 {
    let line = text
        .lines()
        .find(|line| line.trim_start().starts_with(label))
        .unwrap_or_else(|| panic!("{label}: {text}"));
    let (_, rest) = line.split_once(':').unwrap();
    rest.split_whitespace().next().unwrap().trim_end_matches('%').parse().unwrap()
}

/// llama.cpp multiplies with quantised activations, which is a noise of its own: of a BF16 file against F32 it is 3e-6 nats
/// with e2b, and 1.6e-4 with 26b-a4b, whose router then picks other experts now and then. Ours has none. Agreement is
/// asked for within that noise.
#[test]
fn perplexity_and_divergence_are_those_of_llama_perplexity() {
    let Some(oracle) = Oracle::for_tests() else { return };
    let dir = tempfile::tempdir().unwrap();
    let text = testkit::fixtures("text/eval.txt");
    for (name, noise) in [("e2b", 1.5e-4), ("26b-a4b", 8e-4), ("31b", 1.5e-4)] {
        let logits = dir.path().join("f32.logits");
        let files = ["f32", "bf16", "q8_0", "q4_0"].map(|preset| {
            let file = dir.path().join(format!("{name}-{preset}.gguf"));
            convert(name, preset, &file);
            file
        });
        let [base, rest @ ..] = &files;
        stock(&oracle, base, &logits, &[]);
        for file in rest {
            let theirs = stock(&oracle, file, &logits, &["--kl-divergence"]);
            // over the logits that stock has written, and with both models of our own
            let stored = verify(file, &["--against", path(&logits)]);
            let both = verify(
                file,
                &[
                    "--against",
                    path(base),
                    "-c",
                    "256",
                    "--chunks",
                    "24",
                    "--text",
                    path(&text),
                    "--no-tensors",
                ],
            );
            for ours in [&stored, &both] {
                let close = |pointer: &str, label: &str, limit: f64| {
                    let (ours, theirs) = (number(ours, pointer), printed(&theirs, label));
                    assert!(
                        (ours - theirs).abs() <= limit,
                        "{}: {label} {theirs}, ours {ours}",
                        file.display()
                    );
                };
                let perplexity = printed(&theirs, "Mean PPL(Q)");
                close("/perplexity/artifact", "Mean PPL(Q)", 0.002 * perplexity);
                close("/perplexity/base", "Mean PPL(base)", 0.002 * perplexity);
                close("/kld/mean", "Mean    KLD", noise);
                close("/kld/median", "Median  KLD", 1e-4);
                // the printed share is of 100
                let top1 = (number(ours, "/top1") * 100.0 - printed(&theirs, "Same top p")).abs();
                assert!(top1 < 0.8, "{}: {top1} of 100", file.display());
            }
        }
    }
}

#[test]
fn llama_perplexity_reads_our_file_of_logits() {
    let Some(oracle) = Oracle::for_tests() else { return };
    let dir = tempfile::tempdir().unwrap();
    let [base, artifact, ours, theirs] =
        ["f32.gguf", "q4_0.gguf", "ours.logits", "theirs.logits"].map(|name| dir.path().join(name));
    convert("31b", "f32", &base);
    convert("31b", "q4_0", &artifact);
    let text = testkit::fixtures("text/eval.txt");
    verify(&base, &["-c", "256", "--chunks", "24", "--text", path(&text), "--save-logits", path(&ours)]);
    stock(&oracle, &base, &theirs, &[]);
    let [ours, theirs] = [ours, theirs].map(|file| stock(&oracle, &artifact, &file, &["--kl-divergence"]));
    for (label, limit) in
        [("Mean PPL(base)", 1e-3), ("Mean    KLD", 1e-5), ("99.9%   KLD", 3e-3), ("RMS Δp", 5e-3)]
    {
        let (ours, theirs) = (printed(&ours, label), printed(&theirs, label));
        assert!((ours - theirs).abs() <= limit, "{label}: {ours} with our base, {theirs} with theirs");
    }
}

#[test]
fn a_file_does_not_diverge_from_itself_whatever_the_memory() {
    let dir = tempfile::tempdir().unwrap();
    let text = testkit::fixtures("text/eval.txt");
    let args = ["-c", "64", "--chunks", "12", "--text", path(&text)];
    for name in ["e2b", "26b-a4b"] {
        let [bf16, q8_0] = ["bf16", "q8_0"].map(|preset| dir.path().join(format!("{name}-{preset}.gguf")));
        convert(name, "bf16", &bf16);
        convert(name, "q8_0", &q8_0);
        let model = checkpoint(name);
        let same = verify(
            &bf16,
            &[&args[..], &["--against", path(&model), "--max-kld", "1e-8", "--min-top1", "1"]].concat(),
        );
        assert_eq!(same["passed"], true, "{same:#}");
        assert!(number(&same, "/kld/max") < 1e-6 && (number(&same, "/perplexity/ratio") - 1.0).abs() < 1e-6);

        // so little memory that each batch goes through the model by itself
        let [much, little] = ["1GiB", "1KiB"].map(|memory| {
            verify(&q8_0, &[&args[..], &["--against", path(&model), "--memory", memory]].concat())
        });
        assert!(number(&much, "/kld/mean") > 0.0);
        for pointer in ["/kld/mean", "/kld/p99", "/perplexity/base", "/perplexity/artifact"] {
            assert_eq!(number(&much, pointer), number(&little, pointer), "{name} {pointer}");
        }
    }
}

/// Tiles multiply quantised weights with 16 bits of each factor. On a CPU without them there is nothing to compare.
#[test]
fn the_fast_kernel_does_not_diverge_from_the_reference() {
    use runtime::{Compute, Kernel, Model, Weights};
    if testkit::available("kernel", [Kernel::AmxBf16], Kernel::is_available).is_empty() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for name in ["e2b", "31b", "26b-a4b"] {
        let file = dir.path().join(format!("{name}.gguf"));
        convert(name, "q4_0", &file);
        let set = gguf::GgufSet::open(&file).unwrap();
        let config = gemma::Config::from_metadata(set.metadata(), set.tensors()).unwrap();
        let inventory = gemma::gguf_inventory(&config, set.tensors()).unwrap();
        let [plain, tiles] = [Kernel::F32, Kernel::AmxBf16].map(|kernel| {
            let compute = Compute { kernel, ..Compute::detect() };
            Model::new(&config, Weights::new(&set, &inventory, compute).unwrap()).unwrap()
        });
        let tokens = (0..256u32).map(|n| if n == 0 { 2 } else { 300 + n * 7 % 1500 }).collect();
        let sequences = [text::Sequence { tokens, scored: (1..256).collect(), ..Default::default() }];
        let (part, soft_tokens) = (base::Part::default(), eval::SoftTokens::default());
        let options =
            eval::EvalOptions { memory: 1 << 30, part, soft_tokens, logits: None, progress: &|_| {} };
        let base = Some(eval::Base::Model(&plain));
        let tokens = eval::evaluate(&[&tiles], base, &sequences, options).unwrap().remove(0).unwrap();
        let mean = tokens.iter().map(|token| token.against.unwrap().kld).sum::<f64>() / tokens.len() as f64;
        assert!(mean.abs() < 1e-7, "{name}: {mean}");
    }
}

#[test]
fn a_limit_that_falls_is_exit_1_and_the_reports_say_so() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("model.gguf");
    convert("e2b", "q4_0", &file);
    let [model, text] = [checkpoint("e2b"), testkit::fixtures("text/eval.txt")];
    let [html, markdown, json] = ["r.html", "r.md", "r.json"].map(|name| dir.path().join(name));
    std::fs::write(&markdown, "before\n").unwrap();
    let common = [
        "verify",
        path(&file),
        "--against",
        path(&model),
        "-c",
        "128",
        "--chunks",
        "6",
        "--text",
        path(&text),
    ];
    let reports = ["--html", path(&html), "--markdown", path(&markdown), "--report-json", path(&json)];
    let good =
        run([&common[..], &["--max-kld", "0.5", "--max-ppl-ratio", "1.2", "--min-top1", "0.5"]].concat())
            .good();
    assert!(good.stdout.contains("Passed"), "{}", good.stdout);

    let bad = run([&common[..], &reports, &["--min-top1", "0.9999"]].concat());
    assert_eq!(bad.code, Some(1), "{}", bad.stderr);
    let report: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    assert_eq!(report["passed"], false);
    assert_eq!(report["thresholds"][0]["figure"], "top1");
    assert_eq!(report["thresholds"][0]["holds"], false);
    for file in [html, markdown] {
        let text = std::fs::read_to_string(file).unwrap();
        assert!(text.contains("Failed"), "{text}");
        assert!(text.starts_with("before\n") || text.starts_with("<!DOCTYPE html>"));
    }
}

#[test]
fn a_recipe_brings_its_limits() {
    let dir = tempfile::tempdir().unwrap();
    let recipe = dir.path().join("strict.toml");
    std::fs::write(&recipe, "types.preset = \"q4_0\"\n[verify]\nmax_kld = 1e-6\n").unwrap();
    let file = dir.path().join("model.gguf");
    support::convert(&checkpoint("31b"), &file, &["--recipe", path(&recipe)]).good();
    let [model, text] = [checkpoint("31b"), testkit::fixtures("text/eval.txt")];
    let args = ["--against", path(&model), "-c", "128", "--chunks", "6", "--text", path(&text)];
    // the manifest remembers the recipe
    let report = verify(&file, &args);
    assert_eq!(report["thresholds"][0]["limit"], 1e-6, "{report:#}");
    assert_eq!(report["passed"], false);
    // an option goes before it
    let report = verify(&file, &[&args[..], &["--max-kld", "0.5"]].concat());
    assert_eq!(
        (&report["thresholds"][0]["limit"], &report["passed"]),
        (&0.5.into(), &true.into()),
        "{report:#}"
    );
}

#[test]
fn what_cannot_be_verified_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("model.gguf");
    convert("31b", "q4_0", &file);
    let [model, other, text] = [checkpoint("31b"), checkpoint("e2b"), testkit::fixtures("text/eval.txt")];
    let write = |name: &str, bytes: &[u8]| {
        let file = dir.path().join(name);
        std::fs::write(&file, bytes).unwrap();
        file
    };
    let empty = write("empty.txt", b"");
    let short = write("short.txt", b"Too short.");
    let latin1 = write("latin1.txt", b"caf\xe9");
    let logits = write("cut.logits", b"_logits_\x02\0\0\0");
    let refused = |more: &[&str], code: i32, says: &[&str]| {
        let run = run([&["verify", path(&file)], more].concat());
        let message = run.refusal(code);
        says.iter().for_each(|word| assert!(message.contains(word), "{message}"));
        assert!(run.stdout.is_empty(), "{}", run.stdout);
    };
    refused(&["--text", path(&empty)], 3, &["empty.txt", "empty"]);
    refused(&["--text", path(&short)], 3, &["short.txt", "1024 tokens", "found 7"]);
    refused(&["--text", path(&latin1)], 3, &["latin1.txt", "UTF-8"]);
    refused(&["--text", path(&text), "--context", "200000"], 2, &["context", "131072"]);
    refused(&["--text", "no-such.txt"], 3, &["no-such.txt"]);
    refused(&["--against", path(&other), "--text", path(&text)], 3, &["variant"]);
    refused(&["--against", path(&logits)], 3, &["cut.logits", "too short"]);
    refused(&["--against", path(&model), "--max-kld=-1"], 2, &["--max-kld"]);
    refused(&["--against", path(&model), "--memory", "lots"], 2, &["--text-memory", "lots"]);
    let lines = write("talk.jsonl", b"{\"messages\": 5}\n");
    refused(&["--text", path(&lines)], 3, &["talk.jsonl", "line 1"]);
}

#[test]
fn numbers_that_are_none_name_the_first_layer_where_they_appear() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("model.gguf");
    convert("31b", "f32", &file);
    let set = gguf::GgufSet::open(&file).unwrap();
    let part = &set.parts()[0];
    let index = part.tensors().iter().position(|desc| desc.name == "blk.3.ffn_up.weight").unwrap();
    let mut bytes = std::fs::read(&file).unwrap();
    let at = part.offsets()[index] as usize + 400;
    bytes[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    // under a name that no manifest knows, or the manifest would tell before
    let broken = dir.path().join("broken.gguf");
    std::fs::write(&broken, bytes).unwrap();
    let text = testkit::fixtures("text/eval.txt");
    let args = ["verify", path(&broken), "--text", path(&text), "-c", "64", "--chunks", "2"];
    let alone = run(args);
    assert_eq!(alone.code, Some(1), "{}", alone.stderr);
    assert!(
        alone.stdout.contains("blk.3.ffn_up.weight") && alone.stdout.contains("1 NaN"),
        "{}",
        alone.stdout
    );
    let run = run([&args[..], &["--no-tensors"]].concat());
    let message = run.refusal(3);
    assert!(message.contains("layer 3") && message.contains("not finite"), "{message}");
}
